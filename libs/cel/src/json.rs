//! JSON to values by the declared type, and values to JSON.

use std::rc::Rc;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Number, Value as Json};

use crate::error::Error;
use crate::fuel::Fuel;
use crate::functions::time;
use crate::types::{ListKind, Type};
use crate::value::{Key, List, Map, Shape, Text, Value};

static DYN: Type = Type::Dyn;
static ATOMIC: ListKind = ListKind::Atomic;
/// Values deeper than this are not written as JSON, nor compared.
pub(crate) const MAX_DEPTH: usize = 300;

/// A piece of the data as its type has it.
pub(crate) fn value<'a>(json: &'a Json, ty: &'a Type) -> Result<Value<'a>, Error> {
    Ok(match (json, ty) {
        (Json::Null, _) => Value::Null,
        (Json::Bool(b), _) => Value::Bool(*b),
        (Json::Number(n), Type::Double) => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
        (Json::Number(n), _) => number(n),
        (Json::String(text), Type::Timestamp) => Value::Timestamp(timestamp(text)?),
        (Json::String(text), Type::Duration) => Value::Duration(time::parse_duration(text)?),
        (Json::String(text), Type::Bytes(_)) => {
            let bytes = STANDARD
                .decode(text)
                .map_err(|_| Error::value("Invalid byte format: illegal base64 data"))?;
            Value::Bytes(bytes.into())
        }
        (Json::String(text), _) => Value::String(Text::Borrowed(text)),
        (Json::Array(items), Type::List(item, _, kind)) => Value::List(List::Json { items, item, kind }),
        (Json::Array(items), _) => Value::List(List::Json {
            items,
            item: &DYN,
            kind: &ATOMIC,
        }),
        (Json::Object(entries), ty) => Value::Map(Map::Json {
            entries,
            shape: match ty {
                Type::Object(object) => Shape::Object(object),
                Type::Map(_, value, _) => Shape::Values(value),
                _ => Shape::Values(&DYN),
            },
        }),
    })
}

fn number<'a>(n: &Number) -> Value<'a> {
    match n.as_i64() {
        Some(int) => Value::Int(int),
        None => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
    }
}

/// A date (at midnight) or a date and time.
fn timestamp(text: &str) -> Result<Timestamp, Error> {
    let whole = if text.len() == "2006-01-02".len() {
        Timestamp::from_str(&format!("{text}T00:00:00Z"))
    } else {
        Timestamp::from_str(text)
    };
    whole.map_err(|_| Error::value("Invalid date-time format"))
}

/// A value as JSON.
///
/// # Errors
/// For values that JSON does not have, such as types, and beyond the fuel.
pub fn to_json(value: &Value<'_>, fuel: &mut Fuel<'_>) -> Result<Json, Error> {
    write(value, fuel, 0)
}

fn write(value: &Value<'_>, fuel: &mut Fuel<'_>, depth: usize) -> Result<Json, Error> {
    fuel.allocate(std::mem::size_of::<Json>())?;
    if depth > MAX_DEPTH {
        return Err(Error::Resources);
    }
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(b) => Json::Bool(*b),
        Value::Int(n) => Json::from(*n),
        Value::Uint(n) => Json::from(*n),
        Value::Double(d) => Number::from_f64(*d)
            .map(Json::Number)
            .ok_or_else(|| unsupported(value))?,
        Value::String(text) => {
            fuel.allocate(text.len())?;
            Json::from(&**text)
        }
        Value::Bytes(bytes) => {
            fuel.allocate(bytes.len() * 2)?;
            Json::from(STANDARD.encode(bytes))
        }
        Value::Timestamp(t) => Json::from(time::format_timestamp(t)),
        Value::Duration(d) => Json::from(time::format_seconds(*d)),
        Value::List(List::Json { items, .. }) => {
            weigh(fuel, items.iter())?;
            Json::from(items.to_vec())
        }
        Value::List(List::Owned(items)) => {
            let mut out = Vec::with_capacity(items.len());
            for item in items.iter() {
                out.push(write(item, fuel, depth + 1)?);
            }
            Json::Array(out)
        }
        Value::Map(Map::Json { entries, .. }) => {
            weigh(fuel, entries.values())?;
            Json::Object((*entries).clone())
        }
        Value::Map(Map::Owned(entries) | Map::Message(_, entries)) => {
            let mut out = serde_json::Map::new();
            for (key, item) in entries.iter() {
                let name = match key {
                    Key::String(text) => text.to_string(),
                    other => other.to_string(),
                };
                fuel.allocate(name.len())?;
                out.insert(name, write(item, fuel, depth + 1)?);
            }
            Json::Object(out)
        }
        Value::Optional(Some(inner)) => write(inner, fuel, depth + 1)?,
        Value::Optional(None) => Json::Null,
        Value::Opaque(opaque) => match &**opaque {
            crate::value::Opaque::Quantity(q) => Json::from(q.to_string()),
            crate::value::Opaque::Ip(ip) => Json::from(ip.to_string()),
            crate::value::Opaque::Cidr(ip, prefix) => Json::from(format!("{ip}/{prefix}")),
            _ => return Err(unsupported(value)),
        },
        Value::Type(_) | Value::Lazy(_) => return Err(unsupported(value)),
    })
}

/// Counts data that is about to be copied.
fn weigh<'j>(fuel: &mut Fuel<'_>, items: impl Iterator<Item = &'j Json>) -> Result<(), Error> {
    let mut open: Vec<&Json> = items.collect();
    while let Some(json) = open.pop() {
        fuel.allocate(std::mem::size_of::<Json>())?;
        match json {
            Json::String(text) => fuel.allocate(text.len())?,
            Json::Array(items) => open.extend(items),
            Json::Object(entries) => {
                for (name, item) in entries {
                    fuel.allocate(name.len() + 24)?;
                    open.push(item);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn unsupported(value: &Value<'_>) -> Error {
    Error::value(format!("type conversion error from '{}' to JSON", &*value.type_name()))
}

/// Computed text, counted.
pub(crate) fn text<'a>(text: String, fuel: &mut Fuel<'_>) -> Result<Value<'a>, Error> {
    fuel.allocate(text.len())?;
    Ok(Value::String(Text::Shared(Rc::from(text))))
}
