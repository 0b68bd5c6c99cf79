//! Operators, conversions and the other functions of the language itself.

use std::cmp::Ordering;

use super::{Cost, Function, ONE, f};
use crate::compare::{are_numbers, equal, order};
use crate::error::Error;
use crate::fuel::Fuel;
use crate::functions::time;
use crate::json::text;
use crate::value::{Key, List, Opaque, Value};

type Result<'a> = std::result::Result<Value<'a>, Error>;

const ORDERED: &str = "(bool,bool)bool|(int,int)bool|(int,uint)bool|(int,double)bool|(uint,uint)bool|(uint,int)bool|\
    (uint,double)bool|(double,double)bool|(double,int)bool|(double,uint)bool|(string,string)bool|(bytes,bytes)bool|\
    (timestamp,timestamp)bool|(duration,duration)bool";

pub(super) const FUNCTIONS: &[Function] = &[
    f(
        "_==_",
        |a, fuel| eq(a, fuel).map(Value::Bool),
        Cost::Compare,
        "(A,A)bool",
    ),
    f(
        "_!=_",
        |a, fuel| eq(a, fuel).map(|same| Value::Bool(!same)),
        Cost::Compare,
        "(A,A)bool",
    ),
    f(
        "_<_",
        |a, fuel| compare(a, fuel, Ordering::is_lt),
        Cost::Compare,
        ORDERED,
    ),
    f(
        "_<=_",
        |a, fuel| compare(a, fuel, Ordering::is_le),
        Cost::Compare,
        ORDERED,
    ),
    f(
        "_>_",
        |a, fuel| compare(a, fuel, Ordering::is_gt),
        Cost::Compare,
        ORDERED,
    ),
    f(
        "_>=_",
        |a, fuel| compare(a, fuel, Ordering::is_ge),
        Cost::Compare,
        ORDERED,
    ),
    f(
        "_+_",
        add,
        Cost::Concat,
        "(int,int)int|(uint,uint)uint|(double,double)double|(string,string)string|(bytes,bytes)bytes|(list(A),list(A))list(A)|\
         (duration,duration)duration|(duration,timestamp)timestamp|(timestamp,duration)timestamp",
    ),
    f(
        "_-_",
        subtract,
        ONE,
        "(int,int)int|(uint,uint)uint|(double,double)double|(duration,duration)duration|(timestamp,duration)timestamp|\
         (timestamp,timestamp)duration",
    ),
    f(
        "_*_",
        multiply,
        ONE,
        "(int,int)int|(uint,uint)uint|(double,double)double",
    ),
    f("_/_", divide, ONE, "(int,int)int|(uint,uint)uint|(double,double)double"),
    f("_%_", modulo, ONE, "(int,int)int|(uint,uint)uint"),
    f("-_", negate, ONE, "(int)int|(double)double"),
    f("!_", not, ONE, "(bool)bool"),
    f("@in", contained, Cost::Member, "(A,list(A))bool|(A,map(A,B))bool"),
    f(
        "_[_]",
        index,
        ONE,
        "(list(A),int)A|(map(A,B),A)B|(optional(list(A)),int)optional(A)|(optional(map(A,B)),A)optional(B)",
    ),
    f(
        "_[?_]",
        index_optional,
        ONE,
        "(list(A),int)optional(A)|(map(A,B),A)optional(B)|(optional(list(A)),int)optional(A)|(optional(map(A,B)),A)optional(B)",
    ),
    f(
        "size",
        size,
        ONE,
        "(string)int|(bytes)int|(list(A))int|(map(A,B))int|string.()int|bytes.()int|list(A).()int|map(A,B).()int",
    ),
    f("type", |a, _| Ok(Value::Type(one(a)?.type_name())), ONE, "(A)type(A)"),
    f("dyn", |a, _| Ok(one(a)?.clone()), ONE, "(A)dyn"),
    f(
        "int",
        to_int,
        ONE,
        "(int)int|(uint)int|(double)int|(string)int|(timestamp)int|(duration)int",
    ),
    f("uint", to_uint, ONE, "(uint)uint|(int)uint|(double)uint|(string)uint"),
    f(
        "double",
        to_double,
        ONE,
        "(double)double|(int)double|(uint)double|(string)double",
    ),
    f("bool", to_bool, ONE, "(bool)bool|(string)bool"),
    f(
        "string",
        to_string,
        ONE,
        "(string)string|(int)string|(uint)string|(double)string|(bool)string|(bytes)string|(timestamp)string|(duration)string|\
         (IP)string|(CIDR)string",
    ),
    f("bytes", to_bytes, Cost::Scan, "(bytes)bytes|(string)bytes"),
];

fn bad<'a>() -> Result<'a> {
    Err(Error::no_such_overload())
}

fn one<'v, 'a>(args: &'v [Value<'a>]) -> std::result::Result<&'v Value<'a>, Error> {
    args.first().ok_or_else(Error::no_such_overload)
}

fn eq(args: &[Value<'_>], fuel: &mut Fuel<'_>) -> std::result::Result<bool, Error> {
    match args {
        [a, b] => equal(a, b, fuel),
        _ => Err(Error::no_such_overload()),
    }
}

fn compare<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>, holds: fn(Ordering) -> bool) -> Result<'a> {
    let [a, b] = args else { return bad() };
    match order(a, b, fuel)? {
        Some(found) => Ok(Value::Bool(holds(found))),
        None if are_numbers(a, b) => Err(Error::value("NaN values cannot be ordered")),
        None => bad(),
    }
}

fn overflow() -> Error {
    Error::value("integer overflow")
}

fn unsigned_overflow() -> Error {
    Error::value("unsigned integer overflow")
}

fn add<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    Ok(match args {
        [Value::Int(a), Value::Int(b)] => Value::Int(a.checked_add(*b).ok_or_else(overflow)?),
        [Value::Uint(a), Value::Uint(b)] => Value::Uint(a.checked_add(*b).ok_or_else(unsigned_overflow)?),
        [Value::Double(a), Value::Double(b)] => Value::Double(a + b),
        [Value::String(a), Value::String(b)] => {
            fuel.allocate(a.len() + b.len())?;
            Value::string([&**a, &**b].concat())
        }
        [Value::Bytes(a), Value::Bytes(b)] => {
            fuel.allocate(a.len() + b.len())?;
            Value::Bytes([&**a, &**b].concat().into())
        }
        [Value::List(a), Value::List(b)] => {
            fuel.allocate((a.len() + b.len()) * size_of::<Value<'a>>())?;
            let items: std::result::Result<Vec<_>, _> = a.iter().chain(b.iter()).collect();
            Value::list(items?, fuel)?
        }
        [a, b] => return time::add(a, b),
        _ => return bad(),
    })
}

fn subtract<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    Ok(match args {
        [Value::Int(a), Value::Int(b)] => Value::Int(a.checked_sub(*b).ok_or_else(overflow)?),
        [Value::Uint(a), Value::Uint(b)] => Value::Uint(a.checked_sub(*b).ok_or_else(unsigned_overflow)?),
        [Value::Double(a), Value::Double(b)] => Value::Double(a - b),
        [a, b] => return time::subtract(a, b),
        _ => return bad(),
    })
}

fn multiply<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    Ok(match args {
        [Value::Int(a), Value::Int(b)] => Value::Int(a.checked_mul(*b).ok_or_else(overflow)?),
        [Value::Uint(a), Value::Uint(b)] => Value::Uint(a.checked_mul(*b).ok_or_else(unsigned_overflow)?),
        [Value::Double(a), Value::Double(b)] => Value::Double(a * b),
        _ => return bad(),
    })
}

fn divide<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    Ok(match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
            return Err(Error::value("division by zero"));
        }
        [Value::Int(a), Value::Int(b)] => Value::Int(a.checked_div(*b).ok_or_else(overflow)?),
        [Value::Uint(a), Value::Uint(b)] => Value::Uint(a / b),
        [Value::Double(a), Value::Double(b)] => Value::Double(a / b),
        _ => return bad(),
    })
}

fn modulo<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    Ok(match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
            return Err(Error::value("modulus by zero"));
        }
        [Value::Int(a), Value::Int(b)] => Value::Int(a.checked_rem(*b).ok_or_else(overflow)?),
        [Value::Uint(a), Value::Uint(b)] => Value::Uint(a % b),
        _ => return bad(),
    })
}

fn negate<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    Ok(match args {
        [Value::Int(a)] => Value::Int(a.checked_neg().ok_or_else(overflow)?),
        [Value::Double(a)] => Value::Double(-a),
        _ => return bad(),
    })
}

fn not<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    match args {
        [Value::Bool(a)] => Ok(Value::Bool(!a)),
        _ => bad(),
    }
}

fn contained<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    match args {
        [item, Value::List(list)] => {
            for other in list.iter() {
                if equal(item, &other?, fuel)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        [key, Value::Map(map)] => Ok(Value::Bool(Key::of(key).is_some_and(|key| map.get(&key).is_some()))),
        _ => bad(),
    }
}

/// The element, or the error that there is none.
fn element<'a>(container: &Value<'a>, index: &Value<'a>) -> Result<'a> {
    match container {
        Value::List(list) => {
            let position = match index {
                Value::Int(n) => usize::try_from(*n).ok(),
                Value::Uint(n) => usize::try_from(*n).ok(),
                Value::Double(d) if d.fract() == 0.0 && *d >= 0.0 => Some(*d as usize),
                other => {
                    let name = other.type_name();
                    return Err(Error::value(format!("unsupported index type '{}' in list", &*name)));
                }
            };
            match position.and_then(|at| list.get(at)) {
                Some(item) => item,
                None => Err(Error::value(format!("index out of bounds: {index:?}"))),
            }
        }
        Value::Map(map) => {
            let key = Key::of(index).ok_or_else(|| {
                let name = index.type_name();
                Error::value(format!("unsupported key type: {}", &*name))
            })?;
            map.get(&key).unwrap_or_else(|| Err(Error::no_such_key(&key)))
        }
        _ => bad(),
    }
}

fn index<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    match args {
        [Value::Optional(_), _] => index_optional(args, fuel),
        [container, index] => element(container, index),
        _ => bad(),
    }
}

fn index_optional<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    let [container, at] = args else { return bad() };
    let container = match container {
        Value::Optional(None) => return Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => &***inner,
        other => other,
    };
    fuel.work(1)?;
    let present = match container {
        Value::List(list) => matches!(at, Value::Int(n) if usize::try_from(*n).is_ok_and(|n| n < list.len())),
        Value::Map(map) => Key::of(at).is_some_and(|key| map.get(&key).is_some()),
        _ => return bad(),
    };
    match present {
        true => Value::some(element(container, at)?),
        false => Ok(Value::Optional(None)),
    }
}

fn size<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    match one(args)?.size(fuel)? {
        Some(size) => Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX))),
        None => bad(),
    }
}

fn to_int<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    Ok(Value::Int(match one(args)? {
        Value::Int(n) => *n,
        Value::Uint(n) => i64::try_from(*n).map_err(|_| overflow())?,
        Value::Double(d) if d.is_finite() && *d > -9_223_372_036_854_775_808.0 && *d < 9_223_372_036_854_775_807.0 => {
            *d as i64
        }
        Value::Double(_) => return Err(overflow()),
        Value::Timestamp(t) => t.as_second(),
        Value::Duration(d) => *d,
        Value::String(text) => {
            fuel.work(text.len() as u64)?;
            text.parse()
                .map_err(|e: std::num::ParseIntError| not_a_number("ParseInt", text, &e))?
        }
        _ => return bad(),
    }))
}

fn to_uint<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    Ok(Value::Uint(match one(args)? {
        Value::Uint(n) => *n,
        Value::Int(n) => u64::try_from(*n).map_err(|_| unsigned_overflow())?,
        Value::Double(d) if *d >= 0.0 && *d < 18_446_744_073_709_551_615.0 => *d as u64,
        Value::Double(_) => return Err(unsigned_overflow()),
        Value::String(text) => {
            fuel.work(text.len() as u64)?;
            text.parse()
                .map_err(|e: std::num::ParseIntError| not_a_number("ParseUint", text, &e))?
        }
        _ => return bad(),
    }))
}

/// In the words of Go's parser.
fn not_a_number(function: &str, text: &str, error: &std::num::ParseIntError) -> Error {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let why = match error.kind() {
        PosOverflow | NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    let shown: String = text.chars().take(100).collect();
    Error::value(format!("strconv.{function}: parsing {shown:?}: {why}"))
}

fn to_double<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    Ok(Value::Double(match one(args)? {
        Value::Double(d) => *d,
        Value::Int(n) => *n as f64,
        Value::Uint(n) => *n as f64,
        Value::String(text) => {
            fuel.work(text.len() as u64)?;
            text.parse().map_err(|_| {
                let shown: String = text.chars().take(100).collect();
                Error::value(format!("strconv.ParseFloat: parsing {shown:?}: invalid syntax"))
            })?
        }
        _ => return bad(),
    }))
}

fn to_bool<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    Ok(Value::Bool(match one(args)? {
        Value::Bool(b) => *b,
        Value::String(text) => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            other => {
                let shown: String = other.chars().take(100).collect();
                return Err(Error::value(format!(
                    "strconv.ParseBool: parsing {shown:?}: invalid syntax"
                )));
            }
        },
        _ => return bad(),
    }))
}

fn to_string<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    let out = match one(args)? {
        same @ Value::String(_) => return Ok(same.clone()),
        Value::Int(n) => n.to_string(),
        Value::Uint(n) => n.to_string(),
        Value::Double(d) => double(*d),
        Value::Bool(b) => b.to_string(),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => {
                fuel.allocate(text.len())?;
                text.to_owned()
            }
            Err(_) => return Err(Error::value("invalid UTF-8 in bytes, cannot convert to string")),
        },
        Value::Timestamp(t) => time::format_timestamp(t),
        Value::Duration(d) => time::format_seconds(*d),
        Value::Opaque(opaque) => match &**opaque {
            Opaque::Ip(ip) => ip.to_string(),
            Opaque::Cidr(ip, prefix) => format!("{ip}/{prefix}"),
            _ => return bad(),
        },
        _ => return bad(),
    };
    text(out, fuel)
}

fn to_bytes<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    match one(args)? {
        same @ Value::Bytes(_) => Ok(same.clone()),
        Value::String(text) => {
            fuel.allocate(text.len())?;
            Ok(Value::Bytes(text.as_bytes().into()))
        }
        _ => bad(),
    }
}

/// A float as Go's `%g` writes it.
pub(super) fn double(d: f64) -> String {
    if d.is_nan() {
        return "NaN".into();
    }
    if d.is_infinite() {
        return if d > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let scientific = format!("{d:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    format!("{d}")
}

/// An item of a list; used by the libraries.
pub(super) fn items<'a>(list: &List<'a>, fuel: &mut Fuel<'_>) -> std::result::Result<Vec<Value<'a>>, Error> {
    fuel.allocate(list.len() * size_of::<Value<'a>>())?;
    list.iter().collect()
}
