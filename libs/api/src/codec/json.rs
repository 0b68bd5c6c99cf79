//! JSON text: reading it into a [`Value`] with upstream's limits and messages, and writing it piece by piece.

use super::Error;
use super::proto_read::Sink;
use super::unknown::{content, is_known};
use crate::schema::{FieldType, Message};
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::RefCell;
use std::fmt;

/// More faults than this are not reported one by one.
const MOST_FAULTS: usize = 100;

/// Reads one JSON value. Of duplicate keys the last counts, as in Go. Nesting is limited to 128.
pub fn parse_json(bytes: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(bytes).map_err(|error| syntax(bytes, &error))
}

/// Reads one JSON value and names the fields that appear twice: `duplicate field "spec.replicas"`.
pub fn parse_json_strict(bytes: &[u8]) -> Result<(Value, Vec<String>), Error> {
    strict(bytes, None)
}

/// Reads one JSON value and names, in the order of the text, the fields that appear twice and those that the schema does not know.
pub fn parse_json_checked(message: &'static Message, bytes: &[u8]) -> Result<(Value, Vec<String>), Error> {
    strict(bytes, Some(FieldType::Message(message)))
}

fn strict(bytes: &[u8], ty: Option<FieldType>) -> Result<(Value, Vec<String>), Error> {
    let found = RefCell::new(Faults::default());
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { found: &found, ty }
        .deserialize(&mut deserializer)
        .map_err(|error| syntax(bytes, &error))?;
    deserializer.end().map_err(|error| syntax(bytes, &error))?;
    Ok((value, found.into_inner().texts))
}

/// The messages that Go's decoder gives.
fn syntax(bytes: &[u8], error: &serde_json::Error) -> Error {
    let at = offset(bytes, error.line(), error.column());
    Error::Json(match bytes.get(at).copied() {
        _ if error.is_eof() => "unexpected end of JSON input".to_string(),
        _ if error.to_string().starts_with("recursion limit") => "exceeded max depth".to_string(),
        Some(byte) => {
            let shown = match byte {
                b'\'' => "\\'".to_string(),
                b'"' => "\"".to_string(),
                byte => char::from(byte).escape_debug().to_string(),
            };
            let context = match error.to_string() {
                text if text.starts_with("trailing characters") => "after top-level value",
                text if text.starts_with("expected `:`") => "after object key",
                text if text.starts_with("expected `,` or `}`") => "after object key:value pair",
                text if text.starts_with("expected `,` or `]`") => "after array element",
                text if text.starts_with("key must be a string") => "looking for beginning of object key string",
                text if text.starts_with("trailing comma") => "looking for beginning of value",
                text if text.starts_with("control character") => "in string literal",
                text if text.starts_with("invalid escape") => "in string escape code",
                text if text.starts_with("invalid number") => "in numeric literal",
                _ => "looking for beginning of value",
            };
            format!("invalid character '{shown}' {context}")
        }
        None => format!("invalid JSON: {error}"),
    })
}

/// The byte that serde_json's line and column (both from 1) point at.
fn offset(bytes: &[u8], line: usize, column: usize) -> usize {
    let starts = std::iter::once(0).chain(
        bytes
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'\n')
            .map(|(at, _)| at + 1),
    );
    let start = starts.into_iter().nth(line.saturating_sub(1)).unwrap_or(bytes.len());
    start + column.saturating_sub(1)
}

#[derive(Default)]
struct Faults {
    path: Vec<String>,
    texts: Vec<String>,
}

impl Faults {
    /// Notes a fault of the field that is being read.
    fn note(&mut self, what: &str) {
        let text = format!("{what} field {:?}", dotted(&self.path));
        if self.texts.len() < MOST_FAULTS && !self.texts.contains(&text) {
            self.texts.push(text);
        }
    }
}

/// Reads a value and keeps watch for keys that come twice and, where the type is known, for keys that it does not have.
#[derive(Clone, Copy)]
struct Strict<'a> {
    found: &'a RefCell<Faults>,
    ty: Option<FieldType>,
}

impl Strict<'_> {
    /// The same for what stands under a key.
    fn below(self, key: &str) -> Self {
        let ty = match self.ty {
            Some(FieldType::Map(inner)) => Some(*inner),
            Some(ty) => content(ty).and_then(|message| match message.field(key) {
                Some(field) => Some(field.ty),
                None => {
                    if !is_known(message, key) {
                        self.found.borrow_mut().note("unknown");
                    }
                    None
                }
            }),
            None => None,
        };
        Self { ty, ..self }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            self.found.borrow_mut().path.push(format!("[{}]", items.len()));
            let item = seq.next_element_seed(self)?;
            self.found.borrow_mut().path.pop();
            match item {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            self.found.borrow_mut().path.push(key.clone());
            if members.contains_key(&key) {
                self.found.borrow_mut().note("duplicate");
            }
            let value = map.next_value_seed(self.below(&key))?;
            self.found.borrow_mut().path.pop();
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }
}

/// `spec.containers[0].image`.
pub(super) fn dotted(path: &[String]) -> String {
    let mut out = String::new();
    for part in path {
        if !out.is_empty() && !part.starts_with('[') {
            out.push('.');
        }
        out.push_str(part);
    }
    out
}

/// Writes JSON text.
pub(super) struct JsonSink<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> JsonSink<'a> {
    /// Appends one value to what is there.
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        JsonSink { out, start }
    }

    /// A comma, unless the next piece is the first of its object or array, or the value of a key.
    fn separate(&mut self) {
        if self.out.len() > self.start && !matches!(self.out.last(), Some(b'{' | b'[' | b':')) {
            self.out.push(b',');
        }
    }

    fn quoted(&mut self, text: &str) {
        self.out.push(b'"');
        let bytes = text.as_bytes();
        let mut clean = 0;
        for (at, byte) in bytes.iter().enumerate() {
            if !matches!(byte, b'"' | b'\\' | 0..=0x1f) {
                continue;
            }
            self.out.extend_from_slice(&bytes[clean..at]);
            clean = at + 1;
            match byte {
                b'"' => self.out.extend_from_slice(b"\\\""),
                b'\\' => self.out.extend_from_slice(b"\\\\"),
                b'\n' => self.out.extend_from_slice(b"\\n"),
                b'\r' => self.out.extend_from_slice(b"\\r"),
                b'\t' => self.out.extend_from_slice(b"\\t"),
                _ => {
                    let hex = |digit: u8| b"0123456789abcdef"[usize::from(digit)];
                    self.out
                        .extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 15)]);
                }
            }
        }
        self.out.extend_from_slice(&bytes[clean..]);
        self.out.push(b'"');
    }

    fn display(&mut self, value: impl fmt::Display) {
        use std::io::Write as _;
        self.separate();
        // Writing into a Vec cannot fail.
        let _ = write!(self.out, "{value}");
    }
}

impl Sink for JsonSink<'_> {
    fn begin_object(&mut self) {
        self.separate();
        self.out.push(b'{');
    }

    fn key(&mut self, key: &str) {
        self.separate();
        self.quoted(key);
        self.out.push(b':');
    }

    fn end_object(&mut self) {
        self.out.push(b'}');
    }

    fn begin_array(&mut self) {
        self.separate();
        self.out.push(b'[');
    }

    fn end_array(&mut self) {
        self.out.push(b']');
    }

    fn null(&mut self) {
        self.display("null");
    }

    fn boolean(&mut self, value: bool) {
        self.display(value);
    }

    fn integer(&mut self, value: i64) {
        self.display(value);
    }

    fn double(&mut self, value: f64) {
        match Number::from_f64(value) {
            Some(number) => self.display(number),
            None => self.null(),
        }
    }

    fn string(&mut self, value: &str) {
        self.separate();
        self.quoted(value);
    }

    fn raw(&mut self, json: &[u8]) -> Result<(), Error> {
        // What is ignored is not checked for UTF-8.
        let text = std::str::from_utf8(json).map_err(|_| Error::Json("invalid UTF-8 in JSON".into()))?;
        serde_json::from_str::<IgnoredAny>(text).map_err(|error| syntax(json, &error))?;
        self.separate();
        self.out.extend_from_slice(json.trim_ascii());
        Ok(())
    }
}

/// Builds a [`Value`].
#[derive(Default)]
pub(super) struct ValueSink {
    open: Vec<(Option<String>, Value)>,
    key: Option<String>,
    root: Value,
}

impl ValueSink {
    pub(super) fn finish(self) -> Value {
        self.root
    }

    fn put(&mut self, value: Value) {
        match self.open.last_mut() {
            None => self.root = value,
            Some((_, Value::Object(members))) => {
                members.insert(self.key.take().unwrap_or_default(), value);
            }
            Some((_, Value::Array(items))) => items.push(value),
            Some(_) => {}
        }
    }

    fn open(&mut self, value: Value) {
        let key = self.key.take();
        self.open.push((key, value));
    }

    fn close(&mut self) {
        if let Some((key, value)) = self.open.pop() {
            self.key = key;
            self.put(value);
        }
    }
}

impl Sink for ValueSink {
    fn begin_object(&mut self) {
        self.open(Value::Object(Map::new()));
    }

    fn key(&mut self, key: &str) {
        self.key = Some(key.to_string());
    }

    fn end_object(&mut self) {
        self.close();
    }

    fn begin_array(&mut self) {
        self.open(Value::Array(Vec::new()));
    }

    fn end_array(&mut self) {
        self.close();
    }

    fn null(&mut self) {
        self.put(Value::Null);
    }

    fn boolean(&mut self, value: bool) {
        self.put(value.into());
    }

    fn integer(&mut self, value: i64) {
        self.put(value.into());
    }

    fn double(&mut self, value: f64) {
        self.put(Number::from_f64(value).map_or(Value::Null, Value::Number));
    }

    fn string(&mut self, value: &str) {
        self.put(value.into());
    }

    fn raw(&mut self, json: &[u8]) -> Result<(), Error> {
        let value = parse_json(json)?;
        self.put(value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_worded_as_go_words_them() {
        let table = [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            (
                "{a:1}",
                "invalid character 'a' looking for beginning of object key string",
            ),
            ("{} x", "invalid character 'x' after top-level value"),
            ("<html>", "invalid character '<' looking for beginning of value"),
        ];
        for (text, message) in table {
            assert_eq!(parse_json(text.as_bytes()), Err(Error::Json(message.into())), "{text}");
        }
        assert_eq!(
            parse_json("[".repeat(200).as_bytes()),
            Err(Error::Json("exceeded max depth".into()))
        );
    }

    #[test]
    fn duplicates_are_named_by_path() {
        let text = br#"{"spec":{"replicas":1,"replicas":2,"list":[{"a":1},{"a":1,"a":2}]},"spec":null}"#;
        let (value, duplicates) = parse_json_strict(text).unwrap();
        assert_eq!(value, serde_json::json!({"spec": null}));
        let expected = ["spec.replicas", "spec.list[1].a", "spec"].map(|path| format!("duplicate field {path:?}"));
        assert_eq!(duplicates, expected);
    }

    #[test]
    fn faults_come_in_the_order_of_the_text() {
        let deployment = crate::schema::for_kind("apps", "v1", "Deployment").unwrap();
        let text = br#"{"apiVersion":"apps/v1","kind":"Deployment","zz":{"deep":1},"metadata":{"labels":{"any":"x"}},"spec":{"unknown1":"v","paused":true,"paused":true,
            "selector":{"matchLabels":{"a":"b"}},"template":{"spec":{"containers":[{"name":"c","nested":1,"image":"i","image":"i"}]}}}}"#;
        let expected = [
            "unknown field \"zz\"",
            "unknown field \"spec.unknown1\"",
            "duplicate field \"spec.paused\"",
            "unknown field \"spec.template.spec.containers[0].nested\"",
            "duplicate field \"spec.template.spec.containers[0].image\"",
        ];
        assert_eq!(parse_json_checked(deployment, text).unwrap().1, expected);
    }

    #[test]
    fn strings_are_escaped() {
        let mut out = b"kept,".to_vec();
        JsonSink::new(&mut out).string("a\"\\\n\u{1}é\u{7f}");
        assert_eq!(String::from_utf8(out).unwrap(), "kept,\"a\\\"\\\\\\n\\u0001é\u{7f}\"");
    }
}
