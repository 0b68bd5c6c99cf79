//! Optional values.

use super::{Cost, Function, ONE, f};
use crate::error::Error;
use crate::fuel::Fuel;
use crate::value::{List, Map, Value};

type Result<'a> = std::result::Result<Value<'a>, Error>;

pub(super) const FUNCTIONS: &[Function] = &[
    f("optional.of", |a, _| some(a), ONE, "(A)optional(A)"),
    f("optional.ofNonZeroValue", non_zero, ONE, "(A)optional(A)"),
    f("optional.none", |_, _| Ok(Value::Optional(None)), ONE, "()optional(A)"),
    f("hasValue", has_value, ONE, "optional(A).()bool"),
    f("value", value, ONE, "optional(A).()A"),
    f("or", or, ONE, "optional(A).(optional(A))optional(A)"),
    f("orValue", or_value, ONE, "optional(A).(A)A"),
    f("optional.unwrap", unwrap, Cost::Items, "(list(optional(A)))list(A)"),
    f("unwrapOpt", unwrap, Cost::Items, "list(optional(A)).()list(A)"),
    f("first", |a, _| end(a, false), ONE, "list(A).()optional(A)"),
    f("last", |a, _| end(a, true), ONE, "list(A).()optional(A)"),
];

fn bad<'a>() -> Result<'a> {
    Err(Error::no_such_overload())
}

fn some<'a>(args: &[Value<'a>]) -> Result<'a> {
    match args {
        [value] => Value::some(value.clone()),
        _ => bad(),
    }
}

fn non_zero<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    let zero = match args {
        [
            Value::Null
            | Value::Bool(false)
            | Value::Int(0)
            | Value::Uint(0)
            | Value::Duration(0)
            | Value::Optional(None),
        ] => true,
        [Value::Double(d)] => *d == 0.0,
        [Value::String(text)] => text.is_empty(),
        [Value::Bytes(bytes)] => bytes.is_empty(),
        [Value::List(list)] => list.is_empty(),
        [Value::Map(Map::Message(..))] => false,
        [Value::Map(map)] => map.is_empty(),
        _ => false,
    };
    if zero { Ok(Value::Optional(None)) } else { some(args) }
}

fn has_value<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    match args {
        [Value::Optional(inner)] => Ok(Value::Bool(inner.is_some())),
        _ => bad(),
    }
}

fn value<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    match args {
        [Value::Optional(Some(inner))] => Ok((***inner).clone()),
        [Value::Optional(None)] => Err(Error::value("optional.none() dereference")),
        _ => bad(),
    }
}

fn or<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    match args {
        [Value::Optional(None), other @ Value::Optional(_)] => Ok(other.clone()),
        [this @ Value::Optional(Some(_)), _] => Ok(this.clone()),
        _ => bad(),
    }
}

fn or_value<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    match args {
        [Value::Optional(None), other] => Ok(other.clone()),
        [Value::Optional(Some(inner)), _] => Ok((***inner).clone()),
        _ => bad(),
    }
}

fn unwrap<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    let [Value::List(list)] = args else { return bad() };
    let mut out = Vec::new();
    for item in list.iter() {
        match item? {
            Value::Optional(Some(inner)) => out.push((**inner).clone()),
            Value::Optional(None) => {}
            _ => return bad(),
        }
    }
    Value::list(out, fuel)
}

fn end<'a>(args: &[Value<'a>], last: bool) -> Result<'a> {
    let [Value::List(list)] = args else { return bad() };
    let index = if last { list.len().wrapping_sub(1) } else { 0 };
    match List::get(list, index) {
        Some(item) => Value::some(item?),
        None => Ok(Value::Optional(None)),
    }
}
