//! Functions of strings.

use super::{Cost, Function, ONE, f, standard};
use crate::error::Error;
use crate::fuel::Fuel;
use crate::functions::{lists, time};
use crate::json::text;
use crate::value::{List, Map, Value};

type Result<'a> = std::result::Result<Value<'a>, Error>;

/// Digits after the point that `format` writes at most.
const MAX_PRECISION: usize = 1000;

pub(super) const FUNCTIONS: &[Function] = &[
    f(
        "startsWith",
        |a, l| test(a, l, |s, t| s.starts_with(t)),
        Cost::Scan,
        "string.(string)bool",
    ),
    f(
        "endsWith",
        |a, l| test(a, l, |s, t| s.ends_with(t)),
        Cost::Scan,
        "string.(string)bool",
    ),
    f(
        "contains",
        |a, l| test(a, l, |s, t| s.contains(t)),
        Cost::Contains,
        "string.(string)bool",
    ),
    f("charAt", char_at, ONE, "string.(int)string"),
    f(
        "indexOf",
        |a, l| index_of(a, l, false),
        Cost::Items,
        "string.(string)int|string.(string,int)int|list(A).(A)int",
    ),
    f(
        "lastIndexOf",
        |a, l| index_of(a, l, true),
        Cost::Items,
        "string.(string)int|string.(string,int)int|list(A).(A)int",
    ),
    f(
        "lowerAscii",
        |a, l| map(a, l, str::to_ascii_lowercase),
        Cost::Scan,
        "string.()string",
    ),
    f(
        "upperAscii",
        |a, l| map(a, l, str::to_ascii_uppercase),
        Cost::Scan,
        "string.()string",
    ),
    f(
        "trim",
        |a, l| map(a, l, |s| s.trim_matches(is_space).to_owned()),
        Cost::Scan,
        "string.()string",
    ),
    f(
        "reverse",
        |a, l| map(a, l, |s| s.chars().rev().collect()),
        Cost::Rewrite,
        "string.()string",
    ),
    f(
        "replace",
        replace,
        Cost::Rewrite,
        "string.(string,string)string|string.(string,string,int)string",
    ),
    f(
        "split",
        split,
        Cost::Rewrite,
        "string.(string)list(string)|string.(string,int)list(string)",
    ),
    f(
        "substring",
        substring,
        Cost::Scan,
        "string.(int)string|string.(int,int)string",
    ),
    f(
        "join",
        join,
        Cost::Join,
        "list(string).()string|list(string).(string)string",
    ),
    f("format", format, Cost::Scan, "string.(list(dyn))string"),
    f("strings.quote", quote, Cost::Scan, "(string)string"),
];

fn bad<'a>() -> Result<'a> {
    Err(Error::no_such_overload())
}

fn is_space(c: char) -> bool {
    c.is_whitespace()
}

fn test<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>, holds: fn(&str, &str) -> bool) -> Result<'a> {
    match args {
        [Value::String(s), Value::String(t)] => {
            fuel.work((s.len() + t.len()) as u64 / 16)?;
            Ok(Value::Bool(holds(s, t)))
        }
        _ => bad(),
    }
}

fn map<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>, change: fn(&str) -> String) -> Result<'a> {
    match args {
        [Value::String(s)] => {
            fuel.allocate(s.len())?;
            text(change(s), fuel)
        }
        _ => bad(),
    }
}

fn char_at<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    let [Value::String(s), Value::Int(at)] = args else {
        return bad();
    };
    fuel.work(s.len() as u64 / 16)?;
    let out = || Error::value(format!("index out of range: {at}"));
    let index = usize::try_from(*at).map_err(|_| out())?;
    match s.chars().nth(index) {
        Some(c) => Ok(Value::string(c.to_string())),
        None if s.chars().count() == index => Ok(Value::string("")),
        None => Err(out()),
    }
}

fn index_of<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>, last: bool) -> Result<'a> {
    let (s, t, offset) = match args {
        [Value::List(list), item] => return lists::index_of(list, item, fuel, last),
        [Value::String(s), Value::String(t)] => (s, t, None),
        [Value::String(s), Value::String(t), Value::Int(offset)] => (s, t, Some(*offset)),
        _ => return bad(),
    };
    fuel.work((s.len() + t.len()) as u64 / 8)?;
    let count = s.chars().count();
    let at = match offset {
        None => None,
        Some(n) => match usize::try_from(n) {
            Ok(n) if n <= count => Some(n),
            _ => return Err(Error::value(format!("index out of range: {n}"))),
        },
    };
    let byte = |n: usize| s.char_indices().nth(n).map_or(s.len(), |(byte, _)| byte);
    let found = match (last, at) {
        (false, at) => {
            let from = byte(at.unwrap_or(0));
            s[from..].find(&**t).map(|found| from + found)
        }
        (true, None) => s.rfind(&**t),
        (true, Some(at)) => {
            let end = byte(at).saturating_add(t.len()).min(s.len());
            s.get(..end).or(Some(&**s)).and_then(|head| head.rfind(&**t))
        }
    };
    Ok(Value::Int(match found {
        Some(byte) => i64::try_from(s[..byte].chars().count()).unwrap_or(i64::MAX),
        None => -1,
    }))
}

fn replace<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    let (s, from, to, limit) = match args {
        [Value::String(s), Value::String(from), Value::String(to)] => (s, from, to, -1),
        [Value::String(s), Value::String(from), Value::String(to), Value::Int(n)] => (s, from, to, *n),
        _ => return bad(),
    };
    fuel.work(s.len() as u64 / 8)?;
    let matches = s.matches(&**from).count();
    let limit = usize::try_from(limit).unwrap_or(matches).min(matches);
    fuel.allocate(s.len() + limit.saturating_mul(to.len()))?;
    text(s.replacen(&**from, to, limit), fuel)
}

fn split<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    let (s, by, limit) = match args {
        [Value::String(s), Value::String(by)] => (s, by, -1),
        [Value::String(s), Value::String(by), Value::Int(n)] => (s, by, *n),
        _ => return bad(),
    };
    fuel.allocate(s.len())?;
    let parts: Vec<&str> = match (limit, by.is_empty()) {
        (0, _) => Vec::new(),
        (1, _) => vec![s],
        (n, false) if n > 1 => s.splitn(usize::try_from(n).unwrap_or(usize::MAX), &**by).collect(),
        (_, false) => s.split(&**by).collect(),
        (n, true) => letters(s, usize::try_from(n).unwrap_or(usize::MAX)),
    };
    fuel.allocate(parts.len() * 48)?;
    let parts = parts.into_iter().map(|part| Value::string(part.to_owned())).collect();
    Value::list(parts, fuel)
}

/// Single characters, and what is left over as the last of `limit`.
fn letters(s: &str, limit: usize) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = s;
    while let Some(c) = rest.chars().next() {
        if out.len() + 1 == limit {
            break;
        }
        let (head, tail) = rest.split_at(c.len_utf8());
        out.push(head);
        rest = tail;
    }
    if !rest.is_empty() {
        out.push(rest);
    }
    out
}

fn substring<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    let (s, start, end) = match args {
        [Value::String(s), Value::Int(start)] => (s, *start, None),
        [Value::String(s), Value::Int(start), Value::Int(end)] => (s, *start, Some(*end)),
        _ => return bad(),
    };
    fuel.work(s.len() as u64 / 8)?;
    let count = i64::try_from(s.chars().count()).unwrap_or(i64::MAX);
    let last = end.unwrap_or(count);
    if start > last && end.is_some() {
        return Err(Error::value(format!(
            "invalid substring range. start: {start}, end: {last}"
        )));
    }
    if !(0..=count).contains(&start) {
        return Err(Error::value(format!("index out of range: {start}")));
    }
    if !(0..=count).contains(&last) {
        return Err(Error::value(format!("index out of range: {last}")));
    }
    let byte = |n: i64| {
        let n = usize::try_from(n).unwrap_or(0);
        s.char_indices().nth(n).map_or(s.len(), |(byte, _)| byte)
    };
    text(s[byte(start)..byte(last)].to_owned(), fuel)
}

fn join<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    let (list, by) = match args {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(by)] => (list, &**by),
        _ => return bad(),
    };
    let mut out = String::new();
    for (index, item) in list.iter().enumerate() {
        let Value::String(item) = item? else { return bad() };
        fuel.allocate(item.len() + by.len())?;
        if index > 0 {
            out.push_str(by);
        }
        out.push_str(&item);
    }
    text(out, fuel)
}

fn quote<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    let [Value::String(s)] = args else { return bad() };
    fuel.allocate(s.len() * 2 + 2)?;
    text(quoted(s), fuel)
}

fn quoted(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn format<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    let [Value::String(pattern), Value::List(list)] = args else {
        return bad();
    };
    let mut out = String::new();
    let mut items = list.iter();
    let mut rest: &str = pattern;
    while let Some(percent) = rest.find('%') {
        out.push_str(&rest[..percent]);
        fuel.allocate(percent + 16)?;
        rest = &rest[percent + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let mut precision = None;
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            let digits: usize = after[..end]
                .parse()
                .map_err(|_| Error::value("error while formatting: unable to find end of precision specifier"))?;
            if digits > MAX_PRECISION {
                return Err(Error::value(format!(
                    "precision {digits} exceeds maximum allowed precision {MAX_PRECISION}"
                )));
            }
            precision = Some(digits);
            rest = &after[end..];
        }
        let Some(clause) = rest.chars().next() else {
            return Err(Error::value("unexpected end of string"));
        };
        rest = &rest[clause.len_utf8()..];
        let Some(item) = items.next() else {
            return Err(Error::value(format!("index {} out of range", list.len())));
        };
        let start = out.len();
        clause_text(&mut out, clause, precision, &item?, fuel, 0)?;
        fuel.allocate(out.len() - start)?;
    }
    out.push_str(rest);
    text(out, fuel)
}

fn clause_text(
    out: &mut String,
    clause: char,
    precision: Option<usize>,
    item: &Value<'_>,
    fuel: &mut Fuel<'_>,
    depth: usize,
) -> std::result::Result<(), Error> {
    use std::fmt::Write;
    let refuse = |kinds: &str| {
        let found = item.type_name();
        Err(Error::value(format!(
            "error during formatting: {kinds}, was given {}",
            &*found
        )))
    };
    // Writing to a string cannot fail.
    let _ = match (clause, item) {
        ('s', item) => return plain(out, item, fuel, depth),
        ('d', Value::Int(n)) => write!(out, "{n}"),
        ('d', Value::Uint(n)) => write!(out, "{n}"),
        ('d', Value::Double(d)) if !d.is_finite() => write!(out, "{}", standard::double(*d)),
        ('d', _) => return refuse("decimal clause can only be used on integers"),
        ('f' | 'e', Value::Double(d)) if !d.is_finite() => write!(out, "{}", standard::double(*d)),
        ('f', Value::Double(d)) => write!(out, "{d:.*}", precision.unwrap_or(6)),
        ('f', Value::Int(n)) => write!(out, "{:.*}", precision.unwrap_or(6), *n as f64),
        ('f', Value::Uint(n)) => write!(out, "{:.*}", precision.unwrap_or(6), *n as f64),
        ('f', _) => return refuse("fixed-point clause can only be used on doubles"),
        ('e', Value::Double(d)) => {
            let text = format!("{d:.*e}", precision.unwrap_or(6));
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let exponent: i32 = exponent.parse().unwrap_or(0);
            let sign = if exponent < 0 { '-' } else { '+' };
            write!(out, "{digits}e{sign}{:02}", exponent.abs())
        }
        ('e', _) => return refuse("scientific clause can only be used on doubles"),
        ('b', Value::Int(n)) => signed(out, *n, |n| format!("{n:b}")),
        ('b', Value::Uint(n)) => write!(out, "{n:b}"),
        ('b', Value::Bool(b)) => write!(out, "{}", u8::from(*b)),
        ('b', _) => return refuse("only integers and bools can be formatted as binary"),
        ('o', Value::Int(n)) => signed(out, *n, |n| format!("{n:o}")),
        ('o', Value::Uint(n)) => write!(out, "{n:o}"),
        ('o', _) => return refuse("octal clause can only be used on integers"),
        ('x', Value::Int(n)) => signed(out, *n, |n| format!("{n:x}")),
        ('X', Value::Int(n)) => signed(out, *n, |n| format!("{n:X}")),
        ('x', Value::Uint(n)) => write!(out, "{n:x}"),
        ('X', Value::Uint(n)) => write!(out, "{n:X}"),
        ('x' | 'X', Value::String(_) | Value::Bytes(_)) => {
            let bytes: &[u8] = match item {
                Value::String(text) => text.as_bytes(),
                Value::Bytes(bytes) => bytes,
                _ => &[],
            };
            fuel.allocate(bytes.len() * 2)?;
            bytes.iter().try_for_each(|b| match clause {
                'x' => write!(out, "{b:02x}"),
                _ => write!(out, "{b:02X}"),
            })
        }
        ('x' | 'X', _) => return refuse("only integers, byte buffers, and strings can be formatted as hex"),
        _ => {
            return Err(Error::value(format!(
                "could not parse formatting clause: unrecognized formatting clause \"{clause}\""
            )));
        }
    };
    Ok(())
}

fn signed(out: &mut String, n: i64, write: fn(u64) -> String) -> std::fmt::Result {
    if n < 0 {
        out.push('-');
    }
    out.push_str(&write(n.unsigned_abs()));
    Ok(())
}

/// What `%s` writes.
fn plain(out: &mut String, item: &Value<'_>, fuel: &mut Fuel<'_>, depth: usize) -> std::result::Result<(), Error> {
    fuel.allocate(16)?;
    if depth > 100 {
        return Err(Error::Resources);
    }
    match item {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(&b.to_string()),
        Value::Int(n) => out.push_str(&n.to_string()),
        Value::Uint(n) => out.push_str(&n.to_string()),
        Value::Double(d) => out.push_str(&standard::double(*d)),
        Value::String(text) => {
            fuel.allocate(text.len())?;
            out.push_str(text);
        }
        Value::Bytes(bytes) => {
            fuel.allocate(bytes.len())?;
            out.push_str(&String::from_utf8_lossy(bytes));
        }
        Value::Timestamp(t) => out.push_str(&time::format_timestamp(t)),
        Value::Duration(d) => out.push_str(&time::format_seconds(*d)),
        Value::Type(name) => out.push_str(name),
        Value::List(list) => return plain_list(out, list, fuel, depth),
        Value::Map(map) => return plain_map(out, map, fuel, depth),
        Value::Opaque(opaque) => match &**opaque {
            crate::value::Opaque::Quantity(q) => out.push_str(&q.to_string()),
            crate::value::Opaque::Ip(ip) => out.push_str(&ip.to_string()),
            crate::value::Opaque::Cidr(ip, prefix) => out.push_str(&format!("{ip}/{prefix}")),
            other => {
                return Err(Error::value(format!(
                    "error during formatting: string clause cannot be used on {}",
                    other.type_name()
                )));
            }
        },
        Value::Optional(_) | Value::Lazy(_) => {
            let found = item.type_name();
            return Err(Error::value(format!(
                "error during formatting: string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, \
                 types, durations, and timestamps, was given {}",
                &*found
            )));
        }
    }
    Ok(())
}

fn plain_list(out: &mut String, list: &List<'_>, fuel: &mut Fuel<'_>, depth: usize) -> std::result::Result<(), Error> {
    out.push('[');
    for (index, item) in list.iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        plain(out, &item?, fuel, depth + 1)?;
    }
    out.push(']');
    Ok(())
}

fn plain_map(out: &mut String, map: &Map<'_>, fuel: &mut Fuel<'_>, depth: usize) -> std::result::Result<(), Error> {
    out.push('{');
    for (index, (key, item)) in map.iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        let key = key.to_string();
        fuel.allocate(key.len())?;
        out.push_str(&key);
        out.push_str(": ");
        plain(out, &item?, fuel, depth + 1)?;
    }
    out.push('}');
    Ok(())
}
