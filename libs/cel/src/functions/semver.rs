//! `semver()`: versions as semver.org defines them.

use std::cmp::Ordering;

use super::{Cost, Function, ONE, f};
use crate::error::Error;
use crate::fuel::Fuel;
use crate::value::{Opaque, Value};

type Result<'a> = std::result::Result<Value<'a>, Error>;

/// A version; the build is ignored by its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Semver {
    numbers: [u64; 3],
    pre: Vec<String>,
}

pub(super) const FUNCTIONS: &[Function] = &[
    f("semver", make, Cost::Scan, "(string)Semver|(string,bool)Semver"),
    f("isSemver", is_semver, Cost::Scan, "(string)bool|(string,bool)bool"),
    f("major", |a, _| number(a, 0), ONE, "Semver.()int"),
    f("minor", |a, _| number(a, 1), ONE, "Semver.()int"),
    f("patch", |a, _| number(a, 2), ONE, "Semver.()int"),
];

fn read(args: &[Value<'_>]) -> std::result::Result<std::result::Result<Semver, &'static str>, Error> {
    let (text, normalize) = match args {
        [Value::String(text)] => (text, false),
        [Value::String(text), Value::Bool(normalize)] => (text, *normalize),
        _ => return Err(Error::no_such_overload()),
    };
    if text.len() > 1024 {
        return Ok(Err("No Major.Minor.Patch elements found"));
    }
    Ok(if normalize {
        parse(&normalized(text))
    } else {
        parse(text)
    })
}

fn make<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    match read(args)? {
        Ok(version) => Ok(Value::Opaque(Opaque::Semver(version).into())),
        Err(why) => Err(Error::value(why)),
    }
}

fn is_semver<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    Ok(Value::Bool(read(args)?.is_ok()))
}

fn number<'a>(args: &[Value<'a>], at: usize) -> Result<'a> {
    if let [Value::Opaque(opaque)] = args
        && let Opaque::Semver(version) = &**opaque
    {
        return Ok(Value::Int(i64::try_from(version.numbers[at]).unwrap_or(i64::MAX)));
    }
    Err(Error::no_such_overload())
}

/// The order of two versions, if that is what the arguments are.
pub(super) fn order(args: &[Value<'_>]) -> Option<Ordering> {
    let [Value::Opaque(a), Value::Opaque(b)] = args else {
        return None;
    };
    let (Opaque::Semver(a), Opaque::Semver(b)) = (&**a, &**b) else {
        return None;
    };
    Some(
        a.numbers
            .cmp(&b.numbers)
            .then_with(|| match (a.pre.is_empty(), b.pre.is_empty()) {
                (true, true) => Ordering::Equal,
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                _ => pre(&a.pre, &b.pre),
            }),
    )
}

fn pre(a: &[String], b: &[String]) -> Ordering {
    for (x, y) in a.iter().zip(b) {
        let found = match (x.parse::<u64>(), y.parse::<u64>()) {
            (Ok(x), Ok(y)) => x.cmp(&y),
            (Ok(_), Err(_)) => Ordering::Less,
            (Err(_), Ok(_)) => Ordering::Greater,
            _ => x.cmp(y),
        };
        if found.is_ne() {
            return found;
        }
    }
    a.len().cmp(&b.len())
}

fn parse(text: &str) -> std::result::Result<Semver, &'static str> {
    let (core, build) = text.split_once('+').map_or((text, None), |(c, b)| (c, Some(b)));
    let (core, pre) = core.split_once('-').map_or((core, None), |(c, p)| (c, Some(p)));
    let parts: Vec<&str> = core.split('.').collect();
    let [major, minor, patch] = parts[..] else {
        return Err("No Major.Minor.Patch elements found");
    };
    let mut numbers = [0; 3];
    for (slot, part) in numbers.iter_mut().zip([major, minor, patch]) {
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return Err("Invalid character(s) found in version number");
        }
        if part.len() > 1 && part.starts_with('0') {
            return Err("Version number must not contain leading zeroes");
        }
        *slot = part.parse().map_err(|_| "Version number out of range")?;
    }
    let identifiers = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
    let valid = |id: &String| !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let pre = pre.map(identifiers).unwrap_or_default();
    if !pre.iter().all(valid) || !build.map(identifiers).unwrap_or_default().iter().all(valid) {
        return Err("Invalid character(s) found in prerelease or build");
    }
    if pre
        .iter()
        .any(|id| id.len() > 1 && id.starts_with('0') && id.bytes().all(|b| b.is_ascii_digit()))
    {
        return Err("Numeric PreRelease version must not contain leading zeroes");
    }
    Ok(Semver { numbers, pre })
}

/// Without a `v`, without leading zeroes, and with all three numbers.
fn normalized(text: &str) -> String {
    let text = text.trim().strip_prefix('v').unwrap_or(text.trim());
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (core, rest) = text.split_at(end);
    let mut parts: Vec<String> = core
        .split('.')
        .map(|part| {
            let short = part.trim_start_matches('0');
            if short.is_empty() && !part.is_empty() {
                "0".to_owned()
            } else {
                short.to_owned()
            }
        })
        .collect();
    if rest.is_empty() {
        while parts.len() < 3 {
            parts.push("0".into());
        }
    }
    format!("{}{rest}", parts.join("."))
}
