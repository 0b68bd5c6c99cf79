//! YAML text: read as the JSON it stands for, and written as upstream's YAML writer lays it out.

use super::Error;
use serde_json::{Map, Value};
use serde_saphyr::DuplicateKeyPolicy;

/// Reads one YAML document. `yes`, `no`, `on`, `off` are booleans and `0644` is octal, as in upstream's YAML 1.1 reader; of a key that comes
/// twice the last one counts; aliases and depth are bounded.
pub fn parse_yaml(bytes: &[u8]) -> Result<Value, Error> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true, duplicate_keys: DuplicateKeyPolicy::LastWins };
    serde_saphyr::from_str_with_options(utf8(bytes)?, options).map_err(|error| malformed(&error))
}

/// The first key of a document that comes twice, as upstream's strict reader words it: `line 3: key "a" already set in map`.
pub fn yaml_duplicate(bytes: &[u8]) -> Option<String> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true, duplicate_keys: DuplicateKeyPolicy::Error };
    let outcome: Result<Value, _> = serde_saphyr::from_str_with_options(utf8(bytes).ok()?, options);
    let error = outcome.err()?;
    let serde_saphyr::Error::DuplicateMappingKey { key, location } = error.without_snippet() else {
        return None;
    };
    let key = key.clone().unwrap_or_default();
    Some(format!("line {}: key {key:?} already set in map", location.line()))
}

fn utf8(bytes: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(bytes).map_err(|_| Error::Yaml("control characters are not allowed".into()))
}

/// The library adds a drawing of the place below its message.
fn malformed(error: &serde_saphyr::Error) -> Error {
    Error::Yaml(error.to_string().lines().next().unwrap_or_default().to_string())
}

/// Writes a value as a YAML document: block style, keys sorted, lists not indented within their key.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(members) if !members.is_empty() => write_members(members, 0, &mut out),
        Value::Array(items) if !items.is_empty() => write_items(items, 0, &mut out),
        scalar => {
            write_scalar(scalar, 0, &mut out);
            out.push('\n');
        }
    }
    out
}

fn indent(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n("  ", depth));
}

fn write_members(members: &Map<String, Value>, depth: usize, out: &mut String) {
    for (index, (key, value)) in members.iter().enumerate() {
        // The first key of a list's item stands behind its dash.
        if index > 0 || out.is_empty() || out.ends_with('\n') {
            indent(depth, out);
        }
        write_text(key, depth, true, out);
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                write_members(inner, depth + 1, out);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                write_items(items, depth, out);
            }
            scalar => {
                out.push(' ');
                write_scalar(scalar, depth + 1, out);
                out.push('\n');
            }
        }
    }
}

fn write_items(items: &[Value], depth: usize, out: &mut String) {
    for item in items {
        if out.is_empty() || out.ends_with('\n') {
            indent(depth, out);
        }
        out.push_str("- ");
        match item {
            Value::Object(inner) if !inner.is_empty() => write_members(inner, depth + 1, out),
            Value::Array(inner) if !inner.is_empty() => write_items(inner, depth + 1, out),
            scalar => {
                write_scalar(scalar, depth + 1, out);
                out.push('\n');
            }
        }
    }
}

fn write_scalar(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::String(text) => write_text(text, depth, false, out),
        // What is left is written as in JSON: null, booleans, numbers, {} and [].
        other => out.push_str(&other.to_string()),
    }
}

/// Plain where that reads back as the same text, a block where it has several lines, otherwise in quotes.
fn write_text(text: &str, depth: usize, key: bool, out: &mut String) {
    let is_printable =
        |c: char| c == '\n' || !(c.is_control() || c == '\u{feff}' || ('\u{2028}'..='\u{2029}').contains(&c));
    let block = !key && text.contains('\n') && !text.starts_with([' ', '\n']) && !text.contains('\t');
    if !text.chars().all(is_printable) || (text.contains('\n') && !block) {
        // JSON's escapes are YAML's.
        out.push_str(&Value::from(text).to_string());
    } else if block {
        write_block(text, depth, out);
    } else if is_plain(text) {
        out.push_str(text);
    } else if resolves(text) {
        out.push_str(&Value::from(text).to_string());
    } else {
        out.push('\'');
        out.push_str(&text.replace('\'', "''"));
        out.push('\'');
    }
}

fn write_block(text: &str, depth: usize, out: &mut String) {
    let body = text.trim_end_matches('\n');
    out.push_str(match text.len() - body.len() {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(depth, out);
            out.push_str(line);
        }
    }
}

/// True if the text needs no quotes: nothing in it means anything to YAML, and it does not read as another type.
fn is_plain(text: &str) -> bool {
    let Some(first) = text.chars().next() else { return false };
    let starts = match first {
        '-' | '?' | ':' => text.chars().nth(1).is_some_and(|c| !c.is_whitespace()),
        c => !"!&*,#[]{}|>@`\"'% ".contains(c),
    };
    let ends = !text.ends_with([' ', ':']);
    starts
        && ends
        && !text.contains(": ")
        && !text.contains(" #")
        && !resolves(text)
        && !text.starts_with("---")
        && !text.starts_with("...")
}

/// True if YAML 1.1 reads the plain text as something else than a string.
fn resolves(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n", ".nan", ".inf", "-.inf", "+.inf", "<<",
        "=",
    ];
    let lower = text.to_ascii_lowercase();
    if WORDS.contains(&&*lower) {
        return true;
    }
    let Some(first) = text.chars().next() else { return true };
    if !(first.is_ascii_digit() || "+-.".contains(first)) {
        return false;
    }
    let digits = text.replace('_', "");
    let unsigned = digits.trim_start_matches(['+', '-']).to_ascii_lowercase();
    let based = |prefix: &str, radix| {
        unsigned
            .strip_prefix(prefix)
            .is_some_and(|rest| u128::from_str_radix(rest, radix).is_ok())
    };
    let sexagesimal = unsigned.contains(':') && unsigned.chars().all(|c| c.is_ascii_digit() || ":.".contains(c));
    let date = text
        .get(..5)
        .is_some_and(|year| year.ends_with('-') && year[..4].bytes().all(|b| b.is_ascii_digit()));
    unsigned.parse::<f64>().is_ok() || based("0x", 16) || based("0b", 2) || based("0o", 8) || sexagesimal || date
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn reads_manifests() {
        let text = b"a: 0644\nb: yes\nc: [x, 'y']\nd:\n  e: null\n  f: 1.5\n";
        assert_eq!(
            parse_yaml(text).unwrap(),
            json!({"a": 420, "b": true, "c": ["x", "y"], "d": {"e": null, "f": 1.5}})
        );
    }

    #[test]
    fn refuses_bad_text() {
        for text in [&b"a: [1"[..], b"\xff", b"a: b: c"] {
            assert!(matches!(parse_yaml(text), Err(Error::Yaml(_))), "{text:?}");
        }
    }

    #[test]
    fn a_key_that_comes_twice_is_named() {
        assert_eq!(parse_yaml(b"a: 1\nb: 2\na: 3\n").unwrap(), json!({"a": 3, "b": 2}));
        assert_eq!(
            yaml_duplicate(b"a: 1\nb: 2\na: 3\n").unwrap(),
            "line 3: key \"a\" already set in map"
        );
        assert_eq!(yaml_duplicate(b"a: 1\n"), None);
    }

    #[test]
    fn writes_as_upstream() {
        let value = json!({"kind": "Pod", "metadata": {"name": "a", "labels": {"n": "1", "on": "true", "x": "a: b"}, "empty": {}},
            "spec": {"list": [{"name": "c", "args": ["-c", "*"]}, {"name": "d"}], "none": [], "text": "one\ntwo\n", "cut": "a\nb"}, "z": null});
        let expected = "kind: Pod\nmetadata:\n  empty: {}\n  labels:\n    \"n\": \"1\"\n    \"on\": \"true\"\n    x: 'a: b'\n  name: a\nspec:\n  cut: |-\n    a\n    b\n  list:\n  - args:\n    - -c\n    - '*'\n    name: c\n  - name: d\n  none: []\n  text: |\n    one\n    two\nz: null\n";
        assert_eq!(to_yaml(&value), expected);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(texts in prop::collection::vec("[ -~\n\té]{0,12}", 1..6), number in any::<i64>()) {
            let list: Vec<Value> = texts.iter().map(|t| json!({"k": t, "n": [[t], number]})).collect();
            let value = json!({"list": list, "number": number, "texts": texts, texts[0].clone(): "x"});
            let text = to_yaml(&value);
            prop_assert_eq!(parse_yaml(text.as_bytes()), Ok(value), "{}", text);
        }
    }
}
