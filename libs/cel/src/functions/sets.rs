//! Lists as sets.

use super::{Cost, Function, f};
use crate::compare::equal;
use crate::error::Error;
use crate::fuel::Fuel;
use crate::value::{List, Value};

type Result<'a> = std::result::Result<Value<'a>, Error>;

pub(super) const FUNCTIONS: &[Function] = &[
    f(
        "sets.contains",
        |a, fuel| pair(a, fuel, covers),
        Cost::Fixed(1),
        "(list(A),list(A))bool",
    ),
    f(
        "sets.equivalent",
        |a, fuel| pair(a, fuel, |x, y, fuel| Ok(covers(x, y, fuel)? && covers(y, x, fuel)?)),
        Cost::Fixed(1),
        "(list(A),list(A))bool",
    ),
    f(
        "sets.intersects",
        |a, fuel| pair(a, fuel, meets),
        Cost::Fixed(1),
        "(list(A),list(A))bool",
    ),
];

type Test = fn(&List<'_>, &List<'_>, &mut Fuel<'_>) -> std::result::Result<bool, Error>;

fn pair<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>, holds: Test) -> Result<'a> {
    match args {
        [Value::List(a), Value::List(b)] => {
            // Upstream's price is the product of both sizes.
            fuel.charge((a.len() as u64).saturating_mul(b.len() as u64))?;
            holds(a, b, fuel).map(Value::Bool)
        }
        _ => Err(Error::no_such_overload()),
    }
}

fn has(list: &List<'_>, item: &Value<'_>, fuel: &mut Fuel<'_>) -> std::result::Result<bool, Error> {
    for other in list.iter() {
        if equal(item, &other?, fuel)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn covers(a: &List<'_>, b: &List<'_>, fuel: &mut Fuel<'_>) -> std::result::Result<bool, Error> {
    for item in b.iter() {
        if !has(a, &item?, fuel)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn meets(a: &List<'_>, b: &List<'_>, fuel: &mut Fuel<'_>) -> std::result::Result<bool, Error> {
    for item in b.iter() {
        if has(a, &item?, fuel)? {
            return Ok(true);
        }
    }
    Ok(false)
}
