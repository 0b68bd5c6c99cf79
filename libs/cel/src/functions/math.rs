//! Functions of numbers.

use std::cmp::Ordering;

use super::{Cost, Function, ONE, f};
use crate::compare::{are_numbers, order};
use crate::error::Error;
use crate::fuel::Fuel;
use crate::value::Value;

type Result<'a> = std::result::Result<Value<'a>, Error>;

const EXTREME: &str = "(int)int|(uint)uint|(double)double|(int,int)int|(uint,uint)uint|(double,double)double|(dyn,dyn)dyn|\
    (list(int))int|(list(uint))uint|(list(double))double|(list(dyn))dyn|(dyn,dyn,dyn)dyn|(dyn,dyn,dyn,dyn)dyn";

pub(super) const FUNCTIONS: &[Function] = &[
    f(
        "math.greatest",
        |a, l| extreme(a, l, Ordering::Greater),
        Cost::Items,
        EXTREME,
    ),
    f("math.least", |a, l| extreme(a, l, Ordering::Less), Cost::Items, EXTREME),
    f("math.abs", abs, ONE, "(int)int|(uint)uint|(double)double"),
    f("math.sign", sign, ONE, "(int)int|(uint)uint|(double)double"),
    f("math.ceil", |a, _| double(a, f64::ceil), ONE, "(double)double"),
    f("math.floor", |a, _| double(a, f64::floor), ONE, "(double)double"),
    f("math.round", |a, _| double(a, f64::round), ONE, "(double)double"),
    f("math.trunc", |a, _| double(a, f64::trunc), ONE, "(double)double"),
    f("math.isNaN", |a, _| test(a, f64::is_nan), ONE, "(double)bool"),
    f("math.isInf", |a, _| test(a, f64::is_infinite), ONE, "(double)bool"),
    f("math.isFinite", |a, _| test(a, f64::is_finite), ONE, "(double)bool"),
];

fn extreme<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>, wanted: Ordering) -> Result<'a> {
    let listed = match args {
        [Value::List(list)] => super::standard::items(list, fuel)?,
        args => args.to_vec(),
    };
    let mut items = listed.into_iter();
    let mut best = items
        .next()
        .ok_or_else(|| Error::value("math functions need at least one number"))?;
    if !are_numbers(&best, &best) {
        return Err(Error::no_such_overload());
    }
    for item in items {
        if !are_numbers(&best, &item) {
            return Err(Error::no_such_overload());
        }
        if order(&item, &best, fuel)? == Some(wanted) {
            best = item;
        }
    }
    Ok(best)
}

fn abs<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    match args {
        [Value::Int(n)] => n
            .checked_abs()
            .map(Value::Int)
            .ok_or_else(|| Error::value("integer overflow")),
        [Value::Uint(n)] => Ok(Value::Uint(*n)),
        [Value::Double(d)] => Ok(Value::Double(d.abs())),
        _ => Err(Error::no_such_overload()),
    }
}

fn sign<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    match args {
        [Value::Int(n)] => Ok(Value::Int(n.signum())),
        [Value::Uint(n)] => Ok(Value::Uint((*n).min(1))),
        [Value::Double(d)] if *d == 0.0 => Ok(Value::Double(0.0)),
        [Value::Double(d)] => Ok(Value::Double(if d.is_nan() { *d } else { d.signum() })),
        _ => Err(Error::no_such_overload()),
    }
}

fn double<'a>(args: &[Value<'a>], change: fn(f64) -> f64) -> Result<'a> {
    match args {
        [Value::Double(d)] => Ok(Value::Double(change(*d))),
        _ => Err(Error::no_such_overload()),
    }
}

fn test<'a>(args: &[Value<'a>], holds: fn(f64) -> bool) -> Result<'a> {
    match args {
        [Value::Double(d)] => Ok(Value::Bool(holds(*d))),
        _ => Err(Error::no_such_overload()),
    }
}
