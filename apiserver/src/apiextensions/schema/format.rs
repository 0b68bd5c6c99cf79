//! The formats of strings that custom resources know. Any other format says nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use api::names;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use regex::Regex;

/// Every format that is checked; `password` allows everything.
pub const KNOWN: &[&str] = &[
    "bsonobjectid",
    "byte",
    "cidr",
    "creditcard",
    "date",
    "date-time",
    "datetime",
    "duration",
    "email",
    "hexcolor",
    "hostname",
    "ipv4",
    "ipv6",
    "isbn",
    "isbn10",
    "isbn13",
    "k8s-long-name",
    "k8s-short-name",
    "mac",
    "password",
    "rgbcolor",
    "ssn",
    "uri",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
];

/// Whether the format is checked at all.
pub fn is_known(format: &str) -> bool {
    KNOWN.contains(&format)
}

/// Whether a text is of the format.
pub fn holds(format: &str, text: &str) -> bool {
    match format {
        "bsonobjectid" => text.len() == 24 && is_hex(text),
        "byte" => STANDARD.decode(text).is_ok(),
        "cidr" => text.contains('/') && text.parse::<ipnet::IpNet>().is_ok(),
        "creditcard" => is_credit_card(text),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "date-time" | "datetime" => is_date_time(text),
        "duration" => is_duration(text),
        "email" => is_email(text),
        "hexcolor" => matches(&HEX_COLOR, text),
        "hostname" => is_hostname(text),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "k8s-long-name" => names::dns1123_subdomain(text).is_empty(),
        "k8s-short-name" => names::dns1123_label(text).is_empty(),
        "mac" => matches(&MAC, text),
        "rgbcolor" => matches(&RGB_COLOR, text),
        "ssn" => matches(&SSN, text),
        "uri" => is_uri(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some('3')),
        "uuid4" => is_uuid(text, Some('4')),
        "uuid5" => is_uuid(text, Some('5')),
        _ => true,
    }
}

type Lazy = LazyLock<Option<Regex>>;

static HEX_COLOR: Lazy = LazyLock::new(|| Regex::new("^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$").ok());
static RGB_COLOR: Lazy = LazyLock::new(|| {
    let byte = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    Regex::new(&format!(r"^rgb\(\s*{byte}\s*,\s*{byte}\s*,\s*{byte}\s*\)$")).ok()
});
static MAC: Lazy = LazyLock::new(|| {
    Regex::new("^([0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}|[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){7}|[0-9a-fA-F]{4}([.][0-9a-fA-F]{4}){2})$").ok()
});
static SSN: Lazy = LazyLock::new(|| Regex::new(r"^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$").ok());
static DURATION_WORDS: Lazy = LazyLock::new(|| {
    Regex::new(r"^((ns|nano)s?|(us|µs|micro)s?|(ms|milli)s?|(s|sec|second)s?|(m|min|minute)s?|(h|hr|hour)s?|(d|day)s?|(w|wk|week)s?)$").ok()
});

fn matches(regex: &Lazy, text: &str) -> bool {
    regex.as_ref().is_some_and(|regex| regex.is_match(text))
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// RFC 3339, as every client writes it.
fn is_date_time(text: &str) -> bool {
    let shaped = text.len() >= 20 && matches!(text.as_bytes()[10], b'T' | b't');
    shaped && text.parse::<jiff::Timestamp>().is_ok()
}

/// Go's durations, and `3 days`.
fn is_duration(text: &str) -> bool {
    let text = text.trim_start_matches(['-', '+']);
    if text == "0" {
        return true;
    }
    let mut rest = text;
    let mut any = false;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        let unit = after
            .find(|c: char| c.is_ascii_digit() || c.is_whitespace())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        if number.parse::<f64>().is_err() || !matches(&DURATION_WORDS, &unit.to_lowercase()) {
            return false;
        }
        any = true;
        rest = after.trim_start();
    }
    any
}

fn is_email(text: &str) -> bool {
    let address = match (text.find('<'), text.strip_suffix('>')) {
        (Some(start), Some(inner)) => &inner[start + 1..],
        _ => text,
    };
    let Some((local, domain)) = address.rsplit_once('@') else {
        return false;
    };
    let plain = |c: char| c.is_alphanumeric() || "!#$%&'*+/=?^_`{|}~.-".contains(c);
    let dots = |part: &str| !part.starts_with('.') && !part.ends_with('.') && !part.contains("..");
    let quoted = local.len() > 1 && local.starts_with('"') && local.ends_with('"');
    !local.is_empty()
        && !domain.is_empty()
        && (quoted || (local.chars().all(plain) && dots(local)))
        && domain.chars().all(plain)
        && dots(domain)
}

fn is_hostname(text: &str) -> bool {
    if text.is_empty() || text.len() > 255 || text.parse::<IpAddr>().is_ok() {
        return false;
    }
    text.trim_end_matches('.').split('.').all(|label| {
        let inner = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    })
}

/// A URI with a scheme, or an absolute path.
fn is_uri(text: &str) -> bool {
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return false;
    }
    if text.starts_with('/') {
        return true;
    }
    text.split_once(':').is_some_and(|(scheme, rest)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
            && !rest.is_empty()
    })
}

fn is_uuid(text: &str, version: Option<char>) -> bool {
    let compact: String = text.chars().filter(|c| *c != '-').collect();
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    let shaped = groups == [8, 4, 4, 4, 12] || (version.is_none() && groups == [32]);
    let nth = |n: usize| compact.chars().nth(n).unwrap_or('?');
    shaped
        && is_hex(&compact)
        && version.is_none_or(|version| nth(12) == version && (version == '3' || "89abAB".contains(nth(16))))
}

fn is_isbn10(text: &str) -> bool {
    let digits: Vec<char> = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    let value = |index: usize, c: char| match c {
        'X' | 'x' if index == 9 => Some(10),
        c => c.to_digit(10),
    };
    let sum: Option<u32> = digits
        .iter()
        .enumerate()
        .map(|(index, c)| Some((10 - index.min(10) as u32) * value(index, *c)?))
        .sum();
    digits.len() == 10 && sum.is_some_and(|sum| sum % 11 == 0)
}

fn is_isbn13(text: &str) -> bool {
    let digits: Vec<char> = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    let weight = |index: usize| if index.is_multiple_of(2) { 1 } else { 3 };
    let sum: Option<u32> = digits
        .iter()
        .enumerate()
        .map(|(index, c)| Some(weight(index) * c.to_digit(10)?))
        .sum();
    digits.len() == 13 && sum.is_some_and(|sum| sum % 10 == 0)
}

/// Thirteen to sixteen digits whose Luhn sum is right.
fn is_credit_card(text: &str) -> bool {
    let digits: Option<Vec<u32>> = text
        .chars()
        .filter(|c| !matches!(c, '-' | ' '))
        .map(|c| c.to_digit(10))
        .collect();
    let Some(digits) = digits.filter(|digits| (13..=16).contains(&digits.len())) else {
        return false;
    };
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(index, digit)| match (index % 2, digit * 2) {
            (0, _) => *digit,
            (_, double) if double > 9 => double - 9,
            (_, double) => double,
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_hold_what_they_name() {
        for (format, good, bad) in [
            ("bsonobjectid", "507f1f77bcf86cd799439011", "507f"),
            ("byte", "aGk=", "a?"),
            ("cidr", "10.0.0.0/8", "10.0.0.0"),
            ("creditcard", "4111 1111 1111 1111", "4111 1111 1111 1112"),
            ("date", "2026-01-31", "2026-02-31"),
            ("date-time", "2026-01-31T01:02:03Z", "2026-01-31"),
            ("date-time", "2026-01-31T01:02:03.5+02:00", "yesterday"),
            ("duration", "1h30m", "soon"),
            ("duration", "3 days", "1x"),
            ("email", "a@b.example", "a.example"),
            ("hexcolor", "#FFF", "#GGG"),
            ("hostname", "a.b-c.example", "a..b"),
            ("ipv4", "10.0.0.1", "::1"),
            ("ipv6", "::1", "10.0.0.1"),
            ("isbn10", "0-306-40615-2", "0-306-40615-3"),
            ("isbn13", "978-0-306-40615-7", "978-0-306-40615-8"),
            ("mac", "01:23:45:67:89:ab", "01:23"),
            ("rgbcolor", "rgb(0, 1, 255)", "rgb(0, 1, 256)"),
            ("ssn", "111-22-3333", "1-2-3"),
            ("uri", "https://a.example/x", "a b"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
            (
                "uuid4",
                "123e4567-e89b-42d3-a456-426614174000",
                "123e4567-e89b-12d3-a456-426614174000",
            ),
            ("k8s-short-name", "a-b", "a.b"),
            ("k8s-long-name", "a.b", "A.b"),
        ] {
            assert!(holds(format, good), "{format} {good}");
            assert!(!holds(format, bad), "{format} {bad}");
            assert!(is_known(format));
        }
        assert!(holds("something else", "anything") && !is_known("something else"));
    }
}
