//! YAML text, read as the JSON it stands for.

use super::Error;
use serde_json::Value;

/// Reads one YAML document. `yes`, `no`, `on`, `off` are booleans and `0644` is octal, as in upstream's YAML 1.1 reader; a key that comes
/// twice is an error; aliases and depth are bounded.
pub fn parse_yaml(bytes: &[u8]) -> Result<Value, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::Yaml("control characters are not allowed".into()))?;
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| Error::Yaml(first_line(&error.to_string())))
}

/// The library adds a drawing of the place below its message.
fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
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
        for text in [&b"a: [1"[..], b"a: 1\na: 2\n", b"\xff", b"a: b: c"] {
            assert!(matches!(parse_yaml(text), Err(Error::Yaml(_))), "{text:?}");
        }
    }
}
