//! Kubernetes' functions of lists.

use std::cmp::Ordering;

use super::{Cost, Function, f, standard};
use crate::compare::{equal, order};
use crate::error::Error;
use crate::fuel::Fuel;
use crate::value::{List, Value};

type Result<'a> = std::result::Result<Value<'a>, Error>;

const COMPARABLE: &str = "list(int).()int|list(uint).()uint|list(double).()double|list(bool).()bool|list(duration).()duration|\
    list(timestamp).()timestamp|list(string).()string|list(bytes).()bytes";

pub(super) const FUNCTIONS: &[Function] = &[
    f(
        "isSorted",
        is_sorted,
        Cost::Items,
        "list(int).()bool|list(uint).()bool|list(double).()bool|list(bool).()bool|list(duration).()bool|\
         list(timestamp).()bool|list(string).()bool|list(bytes).()bool",
    ),
    f(
        "sum",
        sum,
        Cost::Items,
        "list(int).()int|list(uint).()uint|list(double).()double|list(duration).()duration",
    ),
    f(
        "min",
        |a, fuel| extreme(a, fuel, "min", Ordering::Less),
        Cost::Items,
        COMPARABLE,
    ),
    f(
        "max",
        |a, fuel| extreme(a, fuel, "max", Ordering::Greater),
        Cost::Items,
        COMPARABLE,
    ),
];

fn list<'v, 'a>(args: &'v [Value<'a>]) -> std::result::Result<&'v List<'a>, Error> {
    match args {
        [Value::List(list)] => Ok(list),
        _ => Err(Error::no_such_overload()),
    }
}

fn is_sorted<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    let mut last: Option<Value<'_>> = None;
    for item in list(args)?.iter() {
        let item = item?;
        fuel.work(1)?;
        if let Some(last) = &last {
            match order(last, &item, fuel)? {
                Some(Ordering::Greater) => return Ok(Value::Bool(false)),
                Some(_) => {}
                None => return Err(Error::no_such_overload()),
            }
        }
        last = Some(item);
    }
    Ok(Value::Bool(true))
}

fn sum<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    let add = super::find("_+_").map(|at| super::get(at).function.run);
    let mut total: Option<Value<'a>> = None;
    for item in list(args)?.iter() {
        let item = item?;
        fuel.work(1)?;
        total = Some(match (total, add) {
            (Some(total), Some(add)) => add(&[total, item], fuel)?,
            _ => item,
        });
    }
    Ok(total.unwrap_or(Value::Int(0)))
}

fn extreme<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>, name: &str, wanted: Ordering) -> Result<'a> {
    let mut best: Option<Value<'a>> = None;
    for item in list(args)?.iter() {
        let item = item?;
        fuel.work(1)?;
        let better = match &best {
            None => true,
            Some(best) => match order(&item, best, fuel)? {
                Some(found) => found == wanted,
                None => return Err(Error::no_such_overload()),
            },
        };
        if better {
            best = Some(item);
        }
    }
    best.ok_or_else(|| Error::value(format!("{name} called on empty list")))
}

pub(super) fn index_of<'a>(list: &List<'a>, wanted: &Value<'a>, fuel: &mut Fuel<'_>, last: bool) -> Result<'a> {
    let items = standard::items(list, fuel)?;
    let mut found = None;
    for (index, item) in items.iter().enumerate() {
        if equal(item, wanted, fuel)? {
            found = Some(index);
            if !last {
                break;
            }
        }
    }
    Ok(Value::Int(
        found.map_or(-1, |index| i64::try_from(index).unwrap_or(i64::MAX)),
    ))
}
