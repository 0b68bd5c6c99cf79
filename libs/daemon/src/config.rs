//! Configuration files: YAML documents with an `apiVersion` and a `kind`.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Why a configuration file was refused. Its text is one line that names the file, the key and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not the YAML that was expected.
    #[error("{}: {}", path.display(), printable(what))]
    Content {
        /// The file.
        path: PathBuf,
        /// The key and what was expected there.
        what: String,
    },
    /// A flag, or flags together, make no sense.
    #[error("{}", printable(.0))]
    Usage(String),
}

/// Reads a configuration file into `T`.
///
/// The document must carry `api_version` and `kind`; keys that `T` does not know are errors.
///
/// # Errors
/// [`ConfigError`], which a daemon answers with exit status 2.
pub fn load<T: DeserializeOwned>(path: &Path, api_version: &str, kind: &str) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text, api_version, kind).map_err(|what| ConfigError::Content {
        path: path.to_owned(),
        what,
    })
}

/// The longest complaint about a file, characters.
const LONGEST: usize = 500;

/// An error may quote the file: whatever it holds, the complaint is one line of bounded length.
fn printable(text: &str) -> String {
    let escaped = text.chars().flat_map(|c| {
        let control = c.is_control().then(|| c.escape_default());
        let plain = control.is_none().then_some(c);
        control.into_iter().flatten().chain(plain)
    });
    escaped.take(LONGEST).collect()
}

fn parse<T: DeserializeOwned>(text: &str, api_version: &str, kind: &str) -> Result<T, String> {
    let mut value = yaml(text)?;
    let Value::Object(map) = &mut value else {
        return Err(format!("expected a {kind} document of {api_version}"));
    };
    for (key, expected) in [("apiVersion", api_version), ("kind", kind)] {
        match map.remove(key) {
            Some(Value::String(found)) if found == expected => {}
            Some(found) => return Err(format!("{key}: expected {expected}, found {found}")),
            None => return Err(format!("{key}: expected {expected}, but the key is missing")),
        }
    }
    let mut unknown = None;
    let mut on_unknown = |key: serde_ignored::Path<'_>| {
        unknown.get_or_insert_with(|| key.to_string());
    };
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    let parsed = serde_ignored::deserialize(tracked, &mut on_unknown);
    let parsed: T = parsed.map_err(|error| format!("{}: {error}", track.path()))?;
    match unknown {
        Some(key) => Err(format!("{key}: unknown key")),
        None => Ok(parsed),
    }
}

/// YAML as Kubernetes reads it (YAML 1.1 octal numbers, no duplicate keys) into a JSON value.
fn yaml(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| one_line(&error.to_string()))
}

fn one_line(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("not YAML")
        .to_owned()
}

/// For the tests of those who read configuration files.
pub mod testing {
    use std::fmt::Display;
    use std::path::Path;

    use serde_json::{Value, json};

    /// Hands a reader the sample with each of its values, one at a time, replaced by values that make no sense there, and answers how many of these documents
    /// it refused.
    ///
    /// # Panics
    /// When the reader does, when a refusal is not one line, or when the sample itself is refused.
    pub fn read_wrong_documents<E: Display>(sample: &Value, read: impl Fn(&Path) -> Result<(), E>) -> usize {
        let file = std::env::temp_dir().join(format!("keelson-config-{}-{:p}.yaml", std::process::id(), sample));
        let refusal = |text: &str| {
            std::fs::write(&file, text).expect("write a file");
            let refusal = read(&file).err().map(|error| error.to_string());
            if let Some(line) = &refusal {
                assert!(
                    !line.contains('\n') && (1..2500).contains(&line.len()),
                    "{:.2000}: {line:.2000?}",
                    text
                );
            }
            refusal
        };
        assert_eq!(refusal(&sample.to_string()), None, "the sample is right");
        let mut refused = 0;
        for pointer in pointers(sample, "") {
            for wrong in wrong_values() {
                let mut document = sample.clone();
                if let Some(place) = document.pointer_mut(&pointer) {
                    *place = wrong;
                }
                refused += usize::from(refusal(&document.to_string()).is_some());
            }
        }
        for text in [
            "",
            "\0",
            "[",
            "a: b: c",
            "&a [*a]",
            "{a: 1, a: 2}",
            "--- 1\n--- 2\n",
            "\u{feff}!!binary x",
            "? ",
        ] {
            assert!(refusal(text).is_some(), "{text:?} is no configuration");
        }
        // A file that cannot be removed does no harm.
        let _ = std::fs::remove_file(&file);
        refused
    }

    fn wrong_values() -> [Value; 16] {
        let deep = (0..200).fold(json!(1), |inner, _| json!([inner]));
        [
            json!(null),
            json!(true),
            json!(-1),
            json!(0),
            json!(1.5e300),
            json!(u64::MAX),
            json!(""),
            json!("no such thing"),
            json!("99999999999999999999h"),
            json!("1e999"),
            json!("\n\u{0}\u{1F600}/.."),
            json!("x".repeat(100_000)),
            json!([]),
            json!([null]),
            json!({"": {}}),
            deep,
        ]
    }

    fn pointers(value: &Value, at: &str) -> Vec<String> {
        let children: Vec<(String, &Value)> = match value {
            Value::Object(map) => map
                .iter()
                .map(|(key, value)| (key.replace('~', "~0").replace('/', "~1"), value))
                .collect(),
            Value::Array(items) => items
                .iter()
                .enumerate()
                .map(|(i, value)| (i.to_string(), value))
                .collect(),
            _ => Vec::new(),
        };
        let mut all = vec![at.to_owned()];
        for (key, child) in children {
            all.extend(pointers(child, &format!("{at}/{key}")));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, Debug, PartialEq)]
    #[serde(rename_all = "camelCase", default)]
    struct Sample {
        max_pods: u32,
        nested: Nested,
    }
    impl Default for Sample {
        fn default() -> Self {
            Self {
                max_pods: 110,
                nested: Nested::default(),
            }
        }
    }
    #[derive(serde::Deserialize, Debug, PartialEq, Default)]
    #[serde(default)]
    struct Nested {
        mode: u32,
    }

    fn read(text: &str) -> Result<Sample, String> {
        parse(text, "a/v1", "Sample")
    }

    #[test]
    fn reads_values_and_defaults() {
        let got = read("apiVersion: a/v1\nkind: Sample\nnested: {mode: 0644}\n").unwrap();
        assert_eq!(
            got,
            Sample {
                max_pods: 110,
                nested: Nested { mode: 420 }
            }
        );
    }

    #[test]
    fn an_error_names_the_key_and_what_was_expected() {
        let head = "apiVersion: a/v1\nkind: Sample\n";
        for (text, expected) in [
            (
                "kind: Sample\n".to_owned(),
                "apiVersion: expected a/v1, but the key is missing",
            ),
            (
                "apiVersion: a/v1\nkind: Other\n".to_owned(),
                "kind: expected Sample, found \"Other\"",
            ),
            (
                format!("{head}maxPods: many\n"),
                "maxPods: invalid type: string \"many\", expected u32",
            ),
            (format!("{head}nested: {{mod: 1}}\n"), "nested.mod: unknown key"),
            ("[1]".to_owned(), "expected a Sample document of a/v1"),
        ] {
            assert_eq!(read(&text).unwrap_err(), expected, "{text}");
        }
        assert!(!read(&format!("{head}maxPods: [\n")).unwrap_err().contains('\n'));
    }
}
