//! Regular expressions. The engine takes linear time; patterns are bounded in size when they are compiled.

use regex::{Regex, RegexBuilder};

use super::{Cost, Function, f};
use crate::error::Error;
use crate::fuel::Fuel;
use crate::value::Value;

type Result<'a> = std::result::Result<Value<'a>, Error>;

/// Bytes of a compiled pattern.
const PATTERN_SIZE: usize = 1 << 20;
/// Steps for compiling a pattern that is not a constant.
const COMPILE_WORK: u64 = 2_000;

pub(super) const FUNCTIONS: &[Function] = &[
    f(
        "matches",
        matches,
        Cost::Match,
        "string.(string)bool|(string,string)bool",
    ),
    f("find", find, Cost::Match, "string.(string)string"),
    f(
        "findAll",
        find_all,
        Cost::Match,
        "string.(string)list(string)|string.(string,int)list(string)",
    ),
];

/// A pattern, or why it is none.
pub(crate) fn compile(pattern: &str) -> std::result::Result<Regex, String> {
    RegexBuilder::new(pattern)
        .size_limit(PATTERN_SIZE)
        .dfa_size_limit(PATTERN_SIZE)
        .nest_limit(100)
        .build()
        .map_err(|_| {
            format!(
                "error parsing regexp: `{}`",
                pattern.chars().take(200).collect::<String>()
            )
        })
}

fn prepare(text: &str, pattern: &str, fuel: &mut Fuel<'_>) -> std::result::Result<Regex, Error> {
    // A pattern's size bounds what one byte of text may cost; most patterns are far below it.
    fuel.work(text.len() as u64 / 4 + pattern.len() as u64 * 64 + COMPILE_WORK)?;
    compile(pattern).map_err(Error::value)
}

fn matches<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    match args {
        [Value::String(text), Value::String(pattern)] => Ok(Value::Bool(prepare(text, pattern, fuel)?.is_match(text))),
        _ => Err(Error::no_such_overload()),
    }
}

fn find<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    match args {
        [Value::String(text), Value::String(pattern)] => {
            let found = prepare(text, pattern, fuel)?
                .find(text)
                .map_or("", |m| m.as_str())
                .to_owned();
            crate::json::text(found, fuel)
        }
        _ => Err(Error::no_such_overload()),
    }
}

fn find_all<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    let (text, pattern, limit) = match args {
        [Value::String(text), Value::String(pattern)] => (text, pattern, -1),
        [Value::String(text), Value::String(pattern), Value::Int(limit)] => (text, pattern, *limit),
        _ => return Err(Error::no_such_overload()),
    };
    let regex = prepare(text, pattern, fuel)?;
    let mut out = Vec::new();
    for found in regex.find_iter(text).take(usize::try_from(limit).unwrap_or(usize::MAX)) {
        fuel.allocate(found.len() + size_of::<Value<'a>>())?;
        out.push(Value::string(found.as_str().to_owned()));
    }
    Value::list(out, fuel)
}
