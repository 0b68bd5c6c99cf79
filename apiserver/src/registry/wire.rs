//! Looks into a stored protobuf message without decoding it: for selectors, which are asked of every object of a list and of every event of a
//! watch.

use api::schema::{FieldType, Message};

/// One field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raw<'a> {
    /// A varint.
    Number(u64),
    /// A length-delimited field.
    Bytes(&'a [u8]),
}

/// The fields of a message in order; ends at the first byte that is not protobuf.
pub struct Fields<'a>(&'a [u8]);

/// Iterates over the fields of a message.
pub fn fields(message: &[u8]) -> Fields<'_> {
    Fields(message)
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u32, Raw<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let key = varint(&mut self.0)?;
            let tag = u32::try_from(key >> 3).ok()?;
            match key & 7 {
                0 => return Some((tag, Raw::Number(varint(&mut self.0)?))),
                1 => self.0 = self.0.get(8..)?,
                2 => {
                    let length = usize::try_from(varint(&mut self.0)?).ok()?;
                    let bytes = self.0.get(..length)?;
                    self.0 = &self.0[length..];
                    return Some((tag, Raw::Bytes(bytes)));
                }
                5 => self.0 = self.0.get(4..)?,
                _ => return None,
            }
        }
    }
}

fn varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Appends a varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length-delimited field.
pub fn put_bytes(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    put_varint(out, u64::from(tag << 3 | 2));
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The bytes of a field; of the last one if it is repeated, as protobuf has it.
pub fn bytes(message: &[u8], tag: u32) -> Option<&[u8]> {
    let mut found = None;
    for (t, raw) in fields(message) {
        if let (true, Raw::Bytes(b)) = (t == tag, raw) {
            found = Some(b);
        }
    }
    found
}

/// The text of a field, empty if it is not there.
pub fn text(message: &[u8], tag: u32) -> &str {
    bytes(message, tag)
        .and_then(|b| std::str::from_utf8(b).ok())
        .unwrap_or("")
}

/// `metadata` of any root kind.
pub const METADATA: u32 = 1;
/// `metadata.name`.
pub const NAME: u32 = 1;
/// `metadata.namespace`.
pub const NAMESPACE: u32 = 3;
/// `metadata.uid`.
pub const UID: u32 = 5;
/// `metadata.labels`.
pub const LABELS: u32 = 11;

/// The labels in an object's message.
pub fn labels(object: &[u8]) -> std::collections::BTreeMap<String, String> {
    let metadata = bytes(object, METADATA).unwrap_or_default();
    fields(metadata)
        .filter_map(|(tag, raw)| match raw {
            Raw::Bytes(entry) if tag == LABELS => Some((text(entry, 1).to_owned(), text(entry, 2).to_owned())),
            _ => None,
        })
        .collect()
}

/// A dotted JSON path (`spec.nodeName`) resolved to tags once, to be read from many messages.
#[derive(Debug, Clone)]
pub struct Path {
    tags: Vec<u32>,
    boolean: bool,
}

impl Path {
    /// `None` if the schema has no such field of type text, number or boolean.
    pub fn resolve(message: &'static Message, path: &str) -> Option<Self> {
        let mut tags = Vec::new();
        let mut current = Some(message);
        let mut boolean = false;
        for part in path.split('.') {
            let field = current?.field(part)?;
            if field.repeated || field.inlined {
                return None;
            }
            tags.push(field.tag);
            current = match field.ty {
                FieldType::Message(inner) => Some(inner),
                FieldType::String | FieldType::Int32 | FieldType::Int64 => None,
                FieldType::Bool => {
                    boolean = true;
                    None
                }
                _ => return None,
            };
        }
        current.is_none().then_some(Self { tags, boolean })
    }

    /// The value as a field selector compares it; absent fields are the zero value.
    pub fn read(&self, object: &[u8]) -> String {
        let zero = || {
            if self.boolean {
                "false".to_owned()
            } else {
                String::new()
            }
        };
        let (mut current, last) = match self.tags.split_last() {
            Some((last, parents)) => (parents.iter().try_fold(object, |m, tag| bytes(m, *tag)), *last),
            None => return zero(),
        };
        let Some(message) = current.take() else { return zero() };
        match fields(message).filter(|(tag, _)| *tag == last).last() {
            Some((_, Raw::Bytes(text))) => String::from_utf8_lossy(text).into_owned(),
            Some((_, Raw::Number(n))) if self.boolean => (n != 0).to_string(),
            Some((_, Raw::Number(n))) => (n as i64).to_string(),
            None => zero(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_back_what_is_written() {
        let mut metadata = Vec::new();
        put_bytes(&mut metadata, NAME, b"web");
        let mut label = Vec::new();
        put_bytes(&mut label, 1, b"app");
        put_bytes(&mut label, 2, b"web");
        put_bytes(&mut metadata, LABELS, &label);
        let mut object = Vec::new();
        put_bytes(&mut object, METADATA, &metadata);
        assert_eq!(text(bytes(&object, METADATA).unwrap(), NAME), "web");
        assert_eq!(labels(&object).get("app").map(String::as_str), Some("web"));
    }

    proptest! {
        #[test]
        fn any_bytes_end(input in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = labels(&input);
            prop_assert!(fields(&input).count() <= input.len());
        }
    }
}
