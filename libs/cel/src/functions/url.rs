//! `url()`: absolute URIs and absolute paths, taken apart as Go does.

use super::{Cost, Function, ONE, f};
use crate::error::Error;
use crate::fuel::Fuel;
use crate::json::text;
use crate::value::{Entries, Key, Opaque, Value};

type Result<'a> = std::result::Result<Value<'a>, Error>;

/// The parts of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    /// With port.
    host: String,
    /// As escaped as it came, or escaped as little as possible.
    path: String,
    query: String,
}

pub(super) const FUNCTIONS: &[Function] = &[
    f("url", make, Cost::Scan, "(string)URL"),
    f("isURL", is_url, Cost::Scan, "(string)bool"),
    f(
        "getScheme",
        |a, l| part(a, l, |u| u.scheme.clone()),
        ONE,
        "URL.()string",
    ),
    f("getHost", |a, l| part(a, l, |u| u.host.clone()), ONE, "URL.()string"),
    f(
        "getHostname",
        |a, l| part(a, l, |u| split_port(&u.host).0.to_owned()),
        ONE,
        "URL.()string",
    ),
    f(
        "getPort",
        |a, l| part(a, l, |u| split_port(&u.host).1.to_owned()),
        ONE,
        "URL.()string",
    ),
    f(
        "getEscapedPath",
        |a, l| part(a, l, |u| u.path.clone()),
        ONE,
        "URL.()string",
    ),
    f("getQuery", query, ONE, "URL.()map(string,list(string))"),
];

fn make<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    let [Value::String(text)] = args else {
        return Err(Error::no_such_overload());
    };
    fuel.allocate(text.len() * 2)?;
    match parse(text) {
        Ok(url) => Ok(Value::Opaque(Opaque::Url(url).into())),
        Err(why) => {
            let shown: String = text.chars().take(200).collect();
            Err(Error::value(format!(
                "URL parse error during conversion from string: parse {shown:?}: {why}"
            )))
        }
    }
}

fn is_url<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    let [Value::String(text)] = args else {
        return Err(Error::no_such_overload());
    };
    fuel.allocate(text.len() * 2)?;
    Ok(Value::Bool(parse(text).is_ok()))
}

fn url<'v>(args: &'v [Value<'_>]) -> std::result::Result<&'v Url, Error> {
    if let [Value::Opaque(opaque)] = args
        && let Opaque::Url(url) = &**opaque
    {
        return Ok(url);
    }
    Err(Error::no_such_overload())
}

fn part<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>, get: fn(&Url) -> String) -> Result<'a> {
    text(get(url(args)?), fuel)
}

fn query<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    let url = url(args)?;
    fuel.allocate(url.query.len() * 2)?;
    let mut found: std::collections::BTreeMap<String, Vec<Value<'a>>> = Default::default();
    for pair in url
        .query
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.contains(';'))
    {
        fuel.allocate(128)?;
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(key), Some(value)) = (unescape(key, true), unescape(value, true)) else {
            continue;
        };
        found.entry(key).or_default().push(Value::string(value));
    }
    let mut entries = Entries::new();
    for (key, values) in found {
        entries.insert(Key::String(key.into()), Value::list(values, fuel)?);
    }
    Value::map(entries, fuel)
}

fn parse(text: &str) -> std::result::Result<Url, &'static str> {
    if text.is_empty() {
        return Err("empty url");
    }
    if text.bytes().any(|b| b < b' ' || b == 0x7f) {
        return Err("net/url: invalid control character in URL");
    }
    let (scheme, rest) = scheme(text)?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !rest.starts_with('/') {
        if !scheme.is_empty() {
            return Ok(Url {
                scheme: scheme.to_ascii_lowercase(),
                host: String::new(),
                path: String::new(),
                query: query.into(),
            });
        }
        return Err("invalid URI for request");
    }
    let (authority, path) = match rest.strip_prefix("//") {
        Some(after) if !scheme.is_empty() => {
            let end = after.find('/').unwrap_or(after.len());
            after.split_at(end)
        }
        _ => ("", rest),
    };
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    check_host(host)?;
    let plain = unescape(path, false).ok_or("invalid URL escape")?;
    let path = if path.bytes().all(is_path_byte) {
        path.to_owned()
    } else {
        escape(&plain)
    };
    Ok(Url {
        scheme: scheme.to_ascii_lowercase(),
        host: unescape(host, false).ok_or("invalid URL escape")?,
        path,
        query: query.to_owned(),
    })
}

fn scheme(text: &str) -> std::result::Result<(&str, &str), &'static str> {
    for (at, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme"),
            ':' => return Ok((&text[..at], &text[at + 1..])),
            _ => return Ok(("", text)),
        }
    }
    Ok(("", text))
}

fn check_host(host: &str) -> std::result::Result<(), &'static str> {
    if host.starts_with('[') {
        let (_, after) = host.rsplit_once(']').ok_or("missing ']' in host")?;
        return match after.strip_prefix(':') {
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => Ok(()),
            None if after.is_empty() => Ok(()),
            _ => Err("invalid port after host"),
        };
    }
    if let Some((_, port)) = host.rsplit_once(':')
        && !port.bytes().all(|b| b.is_ascii_digit())
    {
        return Err("invalid port after host");
    }
    if host.contains([' ', '"', '<', '>', '\\', '^', '`', '{', '|', '}']) {
        return Err("invalid character in host name");
    }
    Ok(())
}

fn split_port(host: &str) -> (&str, &str) {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (name, port),
        _ => (host, ""),
    };
    match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(inner) => (inner, port),
        None => (name, port),
    }
}

fn is_path_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*%[]".contains(&b)
}

fn unescape(text: &str, query: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'%' => {
                let (high, low) = (
                    char::from(bytes.next()?).to_digit(16)?,
                    char::from(bytes.next()?).to_digit(16)?,
                );
                out.push(u8::try_from(high * 16 + low).ok()?);
            }
            b'+' if query => out.push(b' '),
            b => out.push(b),
        }
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

fn escape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for b in path.bytes() {
        if b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}
