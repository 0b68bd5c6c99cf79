//! `quantity()`.

use std::cmp::Ordering;

use api::quantity::Quantity;

use super::{Cost, Function, ONE, f, no_overload};
use crate::error::Error;
use crate::fuel::Fuel;
use crate::functions::semver;
use crate::value::{Opaque, Value};

type Result<'a> = std::result::Result<Value<'a>, Error>;

pub(super) const FUNCTIONS: &[Function] = &[
    f("quantity", make, Cost::Scan, "(string)Quantity"),
    f("isQuantity", is_quantity, Cost::Scan, "(string)bool"),
    f(
        "sign",
        |a, _| one(a).map(|q| Value::Int(sign(q))),
        ONE,
        "Quantity.()int",
    ),
    f(
        "isInteger",
        |a, _| one(a).map(|q| Value::Bool(whole(q).is_some())),
        ONE,
        "Quantity.()bool",
    ),
    f("asInteger", as_integer, ONE, "Quantity.()int"),
    f(
        "asApproximateFloat",
        |a, _| one(a).map(|q| Value::Double(q.as_f64())),
        ONE,
        "Quantity.()double",
    ),
    f(
        "add",
        |a, _| combine(a, |x, y| x + y),
        ONE,
        "Quantity.(Quantity)Quantity|Quantity.(int)Quantity",
    ),
    f(
        "sub",
        |a, _| combine(a, |x, y| x - y),
        ONE,
        "Quantity.(Quantity)Quantity|Quantity.(int)Quantity",
    ),
    f(
        "isLessThan",
        |a, _| order(a).map(|o| Value::Bool(o.is_lt())),
        ONE,
        "Quantity.(Quantity)bool|Semver.(Semver)bool",
    ),
    f(
        "isGreaterThan",
        |a, _| order(a).map(|o| Value::Bool(o.is_gt())),
        ONE,
        "Quantity.(Quantity)bool|Semver.(Semver)bool",
    ),
    f(
        "compareTo",
        |a, _| order(a).map(|o| Value::Int(o as i64)),
        ONE,
        "Quantity.(Quantity)int|Semver.(Semver)int",
    ),
];

fn make<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    match args {
        [Value::String(text)] => match Quantity::parse(text) {
            Ok(quantity) => Ok(Value::Opaque(Opaque::Quantity(quantity).into())),
            Err(error) => Err(Error::value(error.to_string())),
        },
        _ => Err(no_overload("quantity", args)),
    }
}

fn is_quantity<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    match args {
        [Value::String(text)] => Ok(Value::Bool(Quantity::parse(text).is_ok())),
        _ => Err(no_overload("isQuantity", args)),
    }
}

fn quantity(value: Option<&Value<'_>>) -> std::result::Result<Quantity, Error> {
    match value {
        Some(Value::Int(n)) => Ok(Quantity::units(*n)),
        Some(Value::Opaque(opaque)) => match &**opaque {
            Opaque::Quantity(quantity) => Ok(*quantity),
            _ => Err(Error::no_such_overload()),
        },
        _ => Err(Error::no_such_overload()),
    }
}

fn one(args: &[Value<'_>]) -> std::result::Result<Quantity, Error> {
    quantity(args.first())
}

fn sign(q: Quantity) -> i64 {
    match (q.is_zero(), q.is_negative()) {
        (true, _) => 0,
        (_, true) => -1,
        _ => 1,
    }
}

fn whole(q: Quantity) -> Option<i64> {
    let n = q.as_i64();
    (Quantity::units(n) == q).then_some(n)
}

fn as_integer<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    match whole(one(args)?) {
        Some(n) => Ok(Value::Int(n)),
        None => Err(Error::value("cannot convert value to integer")),
    }
}

fn combine<'a>(args: &[Value<'a>], with: fn(Quantity, Quantity) -> Quantity) -> Result<'a> {
    let out = with(one(args)?, quantity(args.get(1))?);
    Ok(Value::Opaque(Opaque::Quantity(out).into()))
}

fn order(args: &[Value<'_>]) -> std::result::Result<Ordering, Error> {
    if let Some(order) = semver::order(args) {
        return Ok(order);
    }
    Ok(one(args)?.cmp(&quantity(args.get(1))?))
}
