//! Equality and order of values: numbers of all kinds compare as numbers, lists of sets and maps without order.

use std::cmp::Ordering;

use crate::error::Error;
use crate::fuel::Fuel;
use crate::json::MAX_DEPTH;
use crate::types::ListKind;
use crate::value::{List, Map, Value};

/// Whether two values are equal. Values of different types are not.
pub(crate) fn equal(a: &Value<'_>, b: &Value<'_>, fuel: &mut Fuel<'_>) -> Result<bool, Error> {
    equal_at(a, b, fuel, 0)
}

fn equal_at(a: &Value<'_>, b: &Value<'_>, fuel: &mut Fuel<'_>, depth: usize) -> Result<bool, Error> {
    fuel.work(1)?;
    if depth > MAX_DEPTH {
        return Err(Error::Resources);
    }
    Ok(match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::String(a), Value::String(b)) => {
            fuel.work(a.len().min(b.len()) as u64 / 64)?;
            **a == **b
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            fuel.work(a.len().min(b.len()) as u64 / 64)?;
            a == b
        }
        (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::Type(a), Value::Type(b)) => **a == **b,
        (Value::Opaque(a), Value::Opaque(b)) => a == b,
        (Value::Optional(a), Value::Optional(b)) => match (a, b) {
            (Some(a), Some(b)) => equal_at(a, b, fuel, depth + 1)?,
            (a, b) => a.is_none() && b.is_none(),
        },
        (Value::List(a), Value::List(b)) => lists(a, b, fuel, depth)?,
        (Value::Map(a), Value::Map(b)) => maps(a, b, fuel, depth)?,
        _ => numbers(a, b) == Some(Ordering::Equal),
    })
}

fn maps<'a>(a: &Map<'a>, b: &Map<'_>, fuel: &mut Fuel<'_>, depth: usize) -> Result<bool, Error> {
    if a.len() != b.len() {
        return Ok(false);
    }
    let mut others = b.iter();
    for (key, left) in a.iter() {
        fuel.work(1)?;
        // Both are ordered by key.
        let Some((other, right)) = others.next() else {
            return Ok(false);
        };
        let same = match (&key, &other) {
            (crate::value::Key::String(a), crate::value::Key::String(b)) => **a == **b,
            _ => {
                numbers(&key.value(), &other.value()) == Some(Ordering::Equal)
                    || equal_at(&key.value(), &other.value(), fuel, depth + 1)?
            }
        };
        if !same || !equal_at(&left?, &right?, fuel, depth + 1)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn lists(a: &List<'_>, b: &List<'_>, fuel: &mut Fuel<'_>, depth: usize) -> Result<bool, Error> {
    if a.len() != b.len() {
        return Ok(false);
    }
    if !is_unordered(a) && !is_unordered(b) {
        for (left, right) in a.iter().zip(b.iter()) {
            if !equal_at(&left?, &right?, fuel, depth + 1)? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    for left in a.iter() {
        let left = left?;
        let mut found = false;
        for right in b.iter() {
            if equal_at(&left, &right?, fuel, depth + 1)? {
                found = true;
                break;
            }
        }
        if !found {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_unordered(list: &List<'_>) -> bool {
    matches!(
        list,
        List::Json {
            kind: ListKind::Set | ListKind::Map(_),
            ..
        }
    )
}

/// The order of two values that have one.
pub(crate) fn order(a: &Value<'_>, b: &Value<'_>, fuel: &mut Fuel<'_>) -> Result<Option<Ordering>, Error> {
    Ok(match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::String(a), Value::String(b)) => {
            fuel.work(a.len().min(b.len()) as u64 / 64)?;
            Some(a.as_bytes().cmp(b.as_bytes()))
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            fuel.work(a.len().min(b.len()) as u64 / 64)?;
            Some(a.cmp(b))
        }
        (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
        _ => numbers(a, b),
    })
}

/// Whether both are numbers; then NaN is why they have no order.
pub(crate) fn are_numbers(a: &Value<'_>, b: &Value<'_>) -> bool {
    let number = |v: &Value<'_>| matches!(v, Value::Int(_) | Value::Uint(_) | Value::Double(_));
    number(a) && number(b)
}

fn numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    use Value::{Double, Int, Uint};
    match (a, b) {
        (Int(a), Int(b)) => Some(a.cmp(b)),
        (Uint(a), Uint(b)) => Some(a.cmp(b)),
        (Double(a), Double(b)) => a.partial_cmp(b),
        (Int(a), Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Uint(a), Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Int(a), Double(b)) => integer_and_double(i128::from(*a), *b),
        (Uint(a), Double(b)) => integer_and_double(i128::from(*a), *b),
        (Double(a), Int(b)) => integer_and_double(i128::from(*b), *a).map(Ordering::reverse),
        (Double(a), Uint(b)) => integer_and_double(i128::from(*b), *a).map(Ordering::reverse),
        _ => None,
    }
}

fn integer_and_double(integer: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    if double >= 2e19 {
        return Some(Ordering::Less);
    }
    if double <= -2e19 {
        return Some(Ordering::Greater);
    }
    let whole = double.trunc();
    Some(
        integer
            .cmp(&(whole as i128))
            .then_with(|| 0.0.partial_cmp(&double.fract()).unwrap_or(Ordering::Equal)),
    )
}
