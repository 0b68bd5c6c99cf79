//! The protobuf wire format: fields of a message in, fields out.

/// A field's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Payload<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// Reads the fields of one message in their order on the wire.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at `at`, which must be where a field starts.
    pub(super) fn at(bytes: &'a [u8], at: usize) -> Self {
        Reader { bytes, at }
    }

    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader::at(bytes, 0)
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// The next field's number and payload; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Payload<'a>)>, &'static str> {
        if self.at >= self.bytes.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3)
            .ok()
            .filter(|tag| *tag != 0 && *tag < 1 << 29)
            .ok_or("illegal tag")?;
        let payload = match key & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = self.varint()?;
                let length = usize::try_from(length).map_err(|_| "invalid length")?;
                Payload::Bytes(self.take(length)?)
            }
            5 => Payload::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err("illegal wire type"),
        };
        Ok(Some((tag, payload)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], &'static str> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..length).ok_or("unexpected end")?;
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        self.take(N)?.try_into().map_err(|_| "unexpected end")
    }

    fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0u64;
        for (index, byte) in self.bytes[self.at..].iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.at += index + 1;
                return Ok(value);
            }
        }
        Err(if self.bytes.len() - self.at < 10 {
            "unexpected end"
        } else {
            "integer overflow"
        })
    }
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field of wire type 0; negative numbers are sign-extended by the caller.
pub(super) fn put_integer(out: &mut Vec<u8>, tag: u32, value: u64) {
    put_varint(out, u64::from(tag) << 3);
    put_varint(out, value);
}

pub(super) fn put_double(out: &mut Vec<u8>, tag: u32, value: f64) {
    put_varint(out, u64::from(tag) << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_bytes(out: &mut Vec<u8>, tag: u32, value: &[u8]) {
    put_varint(out, u64::from(tag) << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Begins a length-delimited field whose length is not known yet; [`end_nested`] takes what this returns.
pub(super) fn begin_nested(out: &mut Vec<u8>, tag: u32) -> usize {
    put_varint(out, u64::from(tag) << 3 | 2);
    out.push(0);
    out.len()
}

/// Puts in the length of what was written since [`begin_nested`].
pub(super) fn end_nested(out: &mut Vec<u8>, start: usize) {
    let length = out.len() - start;
    if length < 0x80 {
        out[start - 1] = length as u8;
        return;
    }
    let mut prefix = Vec::with_capacity(5);
    put_varint(&mut prefix, length as u64);
    // One byte was kept for the length; the content moves up by what it takes more.
    out.extend_from_slice(&prefix[1..]);
    out.copy_within(start..start + length, start + prefix.len() - 1);
    out[start - 1..start - 1 + prefix.len()].copy_from_slice(&prefix);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn nested_content_of_any_length_reads_back(content in prop::collection::vec(any::<u8>(), 0..20_000), tag in 1u32..2000) {
            let mut out = vec![];
            put_integer(&mut out, 1, u64::MAX);
            let start = begin_nested(&mut out, tag);
            out.extend_from_slice(&content);
            end_nested(&mut out, start);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.next(), Ok(Some((1, Payload::Varint(u64::MAX)))));
            prop_assert_eq!(reader.next(), Ok(Some((tag, Payload::Bytes(&content)))));
            prop_assert_eq!(reader.next(), Ok(None));
        }

        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut reader = Reader::new(&bytes);
            while let Ok(Some(_)) = reader.next() {}
        }
    }
}
