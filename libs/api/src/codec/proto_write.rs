//! JSON values to protobuf, driven by the schema. Values are checked as Go's decoder checks them, and brought into the form in
//! which Go would write them again.

use super::Error;
use super::scalar::{self, IntOrStr};
use super::time;
use super::wire;
use crate::quantity::Quantity;
use crate::schema::{Field, FieldType, Message};
use base64::Engine as _;
use serde_json::{Map, Value};

/// The deepest nesting written; what is deeper could not be read.
const DEEPEST: usize = super::slots::DEEPEST;

/// The protobuf form of an object; `apiVersion`, `kind` and unknown fields are left out.
pub fn value_to_proto(message: &'static Message, value: &Value) -> Result<Vec<u8>, Error> {
    let mut writer = Writer {
        path: Vec::new(),
        owner: message,
    };
    let members = match value {
        Value::Object(members) => members,
        Value::Null => return Ok(Vec::new()),
        other => return Err(writer.root_mismatch(message, other)),
    };
    let mut out = Vec::with_capacity(256);
    writer.members(message, members, &mut out)?;
    Ok(out)
}

/// Remembers where it is, for the errors.
struct Writer {
    path: Vec<&'static str>,
    /// The message whose JSON object is being read.
    owner: &'static Message,
}

/// What Go calls the JSON type of a value.
fn json_type(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "bool".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "string".into(),
        Value::Array(_) => "array".into(),
        Value::Object(_) => "object".into(),
    }
}

impl Writer {
    fn root_mismatch(&self, message: &'static Message, value: &Value) -> Error {
        let (found, expected) = (json_type(value), message.go_name());
        Error::Json(format!(
            "json: cannot unmarshal {found} into Go value of type {expected}"
        ))
    }

    fn mismatch(&self, found: String, expected: String) -> Error {
        let field = format!("{}.{}", self.owner.short_name(), self.path.join("."));
        Error::Type { found, field, expected }
    }

    fn members(
        &mut self,
        message: &'static Message,
        members: &Map<String, Value>,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        for field in message.fields {
            match field.ty {
                FieldType::Message(inner) if field.inlined => {
                    let before = out.len();
                    let start = wire::begin_nested(out, field.tag);
                    self.members(inner, members, out)?;
                    if out.len() > start {
                        wire::end_nested(out, start);
                    } else {
                        out.truncate(before);
                    }
                }
                _ => {
                    if let Some(value) = members.get(field.json).filter(|value| !value.is_null()) {
                        self.path.push(field.json);
                        self.field(field, value, out)?;
                        self.path.pop();
                    }
                }
            }
        }
        Ok(())
    }

    fn field(&mut self, field: &'static Field, value: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
        match (value, field.ty) {
            (Value::Object(entries), FieldType::Map(ty)) => {
                for (key, value) in entries {
                    let start = wire::begin_nested(out, field.tag);
                    wire::put_bytes(out, 1, key.as_bytes());
                    self.item(*ty, 2, value, out)?;
                    wire::end_nested(out, start);
                }
                Ok(())
            }
            (Value::Array(items), _) if field.repeated => items
                .iter()
                .try_for_each(|item| self.item(field.ty, field.tag, item, out)),
            (_, FieldType::Map(_)) => Err(self.mismatch(json_type(value), field.go_type())),
            _ if field.repeated => Err(self.mismatch(json_type(value), field.go_type())),
            _ => self.value(field.ty, field.tag, value, out),
        }
    }

    /// An item of a list or map; `null` stands for the zero value there.
    fn item(&mut self, ty: FieldType, tag: u32, value: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
        match (value, ty) {
            (Value::Null, FieldType::Bool | FieldType::Int32 | FieldType::Int64) => wire::put_integer(out, tag, 0),
            (Value::Null, FieldType::Double) => wire::put_double(out, tag, 0.0),
            (Value::Null, _) => wire::put_bytes(out, tag, b""),
            _ => self.value(ty, tag, value, out)?,
        }
        Ok(())
    }

    fn value(&mut self, ty: FieldType, tag: u32, value: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
        match (ty, value) {
            (FieldType::Bool, Value::Bool(value)) => wire::put_integer(out, tag, u64::from(*value)),
            (FieldType::Int32, Value::Number(number)) => {
                let int = number.as_i64().and_then(|int| i32::try_from(int).ok());
                let int = int.ok_or_else(|| self.mismatch(format!("number {number}"), "int32".into()))?;
                wire::put_integer(out, tag, i64::from(int) as u64);
            }
            (FieldType::Int64, Value::Number(number)) => {
                let int = number
                    .as_i64()
                    .ok_or_else(|| self.mismatch(format!("number {number}"), "int64".into()))?;
                wire::put_integer(out, tag, int as u64);
            }
            (FieldType::Double, Value::Number(number)) => {
                wire::put_double(out, tag, number.as_f64().unwrap_or_default());
            }
            (FieldType::String, Value::String(text)) => wire::put_bytes(out, tag, text.as_bytes()),
            (FieldType::Bytes, Value::String(text)) => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(without_line_ends(text).as_bytes());
                wire::put_bytes(out, tag, &bytes.map_err(|error| Error::Value(base64_message(&error)))?);
            }
            (FieldType::Quantity, Value::String(_) | Value::Number(_)) => {
                scalar::put_text(out, tag, &self.quantity(value)?);
            }
            (FieldType::IntOrString, Value::String(text)) => {
                scalar::put_int_or_string(out, tag, IntOrStr::Str(text));
            }
            (FieldType::IntOrString, Value::Number(number)) => {
                let int = number.as_i64().and_then(|int| i32::try_from(int).ok());
                let int = int.ok_or_else(|| self.mismatch(format!("number {number}"), "int32".into()))?;
                scalar::put_int_or_string(out, tag, IntOrStr::Int(int));
            }
            (FieldType::Time | FieldType::MicroTime, Value::String(text)) => {
                put_time(ty, tag, text, out)?;
            }
            (FieldType::RawJson, value) => scalar::put_raw(out, tag, value.to_string().as_bytes()),
            (FieldType::StringList, Value::Array(items)) => {
                let start = wire::begin_nested(out, tag);
                items
                    .iter()
                    .try_for_each(|item| self.item(FieldType::String, 1, item, out))?;
                wire::end_nested(out, start);
            }
            (FieldType::Message(message), Value::Object(members)) => self.nested(message, tag, members, out)?,
            (FieldType::SchemaOrBool(_), Value::Bool(allows)) => {
                scalar::put_wrapped(out, tag, |out| wire::put_integer(out, 1, u64::from(*allows)));
            }
            (FieldType::SchemaOrBool(schema), Value::Object(members)) => {
                let start = wire::begin_nested(out, tag);
                wire::put_integer(out, 1, 1);
                self.nested(schema, 2, members, out)?;
                wire::end_nested(out, start);
            }
            (FieldType::SchemaOrArray(schema) | FieldType::SchemaOrStrings(schema), Value::Object(members)) => {
                let start = wire::begin_nested(out, tag);
                self.nested(schema, 1, members, out)?;
                wire::end_nested(out, start);
            }
            (FieldType::SchemaOrArray(schema), Value::Array(items)) => {
                let start = wire::begin_nested(out, tag);
                items
                    .iter()
                    .try_for_each(|item| self.item(FieldType::Message(schema), 2, item, out))?;
                wire::end_nested(out, start);
            }
            (FieldType::SchemaOrStrings(_), Value::Array(items)) => {
                let start = wire::begin_nested(out, tag);
                items
                    .iter()
                    .try_for_each(|item| self.item(FieldType::String, 2, item, out))?;
                wire::end_nested(out, start);
            }
            _ => return Err(self.mismatch(json_type(value), ty.go_name())),
        }
        Ok(())
    }

    fn nested(
        &mut self,
        message: &'static Message,
        tag: u32,
        members: &Map<String, Value>,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        if self.path.len() >= DEEPEST - 1 {
            return Err(Error::Json("exceeded max depth".into()));
        }
        let owner = std::mem::replace(&mut self.owner, message);
        let start = wire::begin_nested(out, tag);
        self.members(message, members, out)?;
        wire::end_nested(out, start);
        self.owner = owner;
        Ok(())
    }

    /// The canonical text of a quantity.
    fn quantity(&self, value: &Value) -> Result<String, Error> {
        let text = match value {
            Value::String(text) => text.trim().to_string(),
            number => number.to_string(),
        };
        let quantity = Quantity::parse(&text).map_err(|error| Error::Value(error.to_string()))?;
        Ok(quantity.to_string())
    }
}

fn put_time(ty: FieldType, tag: u32, text: &str, out: &mut Vec<u8>) -> Result<(), Error> {
    let layout = match ty {
        FieldType::MicroTime => "2006-01-02T15:04:05.000000Z07:00",
        _ => "2006-01-02T15:04:05Z07:00",
    };
    let fault = || {
        Error::Value(format!(
            "parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\""
        ))
    };
    let mut instant = time::parse(text).ok_or_else(fault)?;
    instant.nanos = match ty {
        FieldType::MicroTime => instant.nanos / 1000 * 1000,
        _ => 0,
    };
    scalar::put_instant(out, tag, instant);
    Ok(())
}

/// Go's base64 reader passes over line ends.
fn without_line_ends(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains(['\n', '\r']) {
        text.replace(['\n', '\r'], "").into()
    } else {
        text.into()
    }
}

fn base64_message(error: &base64::DecodeError) -> String {
    use base64::DecodeError::{InvalidByte, InvalidLastSymbol};
    match error {
        InvalidByte(at, _) | InvalidLastSymbol(at, _) => format!("illegal base64 data at input byte {at}"),
        other => format!("illegal base64 data: {other}"),
    }
}
