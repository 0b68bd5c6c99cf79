//! JSON patch.

use super::{Error, MOST_COPIED, MOST_OPERATIONS};
use crate::codec;
use serde_json::{Map, Value};

/// The document after all operations of the patch, which apply together or not at all.
pub fn json_patch(document: &Value, patch: &[u8]) -> Result<Value, Error> {
    let patch = codec::parse_json(patch).map_err(|error| Error::Malformed(error.to_string()))?;
    let Value::Array(operations) = patch else {
        return Err(Error::Malformed("a JSON patch must be an array of operations".into()));
    };
    if operations.len() > MOST_OPERATIONS {
        return Err(Error::TooManyOperations(operations.len()));
    }
    let operations = operations.iter().map(Operation::read).collect::<Result<Vec<_>, _>>()?;
    let mut result = document.clone();
    let mut copied = 0;
    for operation in operations {
        operation.apply(&mut result, &mut copied).map_err(Error::Inapplicable)?;
    }
    Ok(result)
}

enum Operation<'a> {
    Add { path: Pointer<'a>, value: &'a Value },
    Remove { path: Pointer<'a> },
    Replace { path: Pointer<'a>, value: &'a Value },
    Move { from: Pointer<'a>, path: Pointer<'a> },
    Copy { from: Pointer<'a>, path: Pointer<'a> },
    Test { path: Pointer<'a>, value: &'a Value },
}

/// A JSON pointer: its text and its parts.
struct Pointer<'a> {
    text: &'a str,
    parts: Vec<String>,
}

impl<'a> Pointer<'a> {
    fn read(text: &'a str) -> Result<Self, Error> {
        if !text.is_empty() && !text.starts_with('/') {
            return Err(Error::Malformed(format!(
                "JSON pointer {text:?} must be empty or start with \"/\""
            )));
        }
        let parts = text
            .split('/')
            .skip(1)
            .map(|part| part.replace("~1", "/").replace("~0", "~"))
            .collect();
        Ok(Pointer { text, parts })
    }
}

impl<'a> Operation<'a> {
    fn read(operation: &'a Value) -> Result<Self, Error> {
        let text = |name: &str| operation.get(name).and_then(Value::as_str);
        let kind = text("op").unwrap_or_default();
        let missing = |name: &str| Error::Malformed(format!("JSON patch operation {kind:?} has no {name}"));
        let path = Pointer::read(text("path").ok_or_else(|| missing("path"))?)?;
        let value = || operation.get("value").ok_or_else(|| missing("value"));
        let from = || Pointer::read(text("from").ok_or_else(|| missing("from"))?);
        Ok(match kind {
            "add" => Operation::Add { path, value: value()? },
            "remove" => Operation::Remove { path },
            "replace" => Operation::Replace { path, value: value()? },
            "move" => Operation::Move { from: from()?, path },
            "copy" => Operation::Copy { from: from()?, path },
            // A test without value tests for null, as upstream's does.
            "test" => Operation::Test {
                path,
                value: operation.get("value").unwrap_or(&Value::Null),
            },
            other => return Err(Error::Malformed(format!("Unexpected kind: {other}"))),
        })
    }

    fn apply(self, document: &mut Value, copied: &mut usize) -> Result<(), String> {
        match self {
            Operation::Add { path, value } => add(document, &path, value.clone(), "add"),
            Operation::Remove { path } => remove(document, &path, "remove").map(drop),
            Operation::Replace { path, value } => {
                let found = find_mut(document, &path).ok_or_else(|| missing("replace", &path))?;
                *found = value.clone();
                Ok(())
            }
            Operation::Move { from, path } => {
                let is_inside = path.parts.len() > from.parts.len() && path.parts.starts_with(&from.parts);
                if is_inside {
                    return Err(format!(
                        "move operation does not apply: {} is inside of {}",
                        path.text, from.text
                    ));
                }
                let value = remove(document, &from, "move")?;
                add(document, &path, value, "move")
            }
            Operation::Copy { from, path } => {
                let value = find(document, &from).ok_or_else(|| missing("copy", &from))?.clone();
                *copied += value.to_string().len();
                if *copied > MOST_COPIED {
                    return Err(format!(
                        "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the \
                         limit {MOST_COPIED}"
                    ));
                }
                add(document, &path, value, "copy")
            }
            Operation::Test { path, value } => match find(document, &path) {
                Some(found) if found == value => Ok(()),
                None if value.is_null() => Ok(()),
                _ => Err(format!("testing value {} failed: test failed", path.text)),
            },
        }
    }
}

fn missing(operation: &str, path: &Pointer<'_>) -> String {
    format!(
        "{operation} operation does not apply: doc is missing path: {:?}: missing value",
        path.text
    )
}

fn find<'v>(document: &'v Value, path: &Pointer<'_>) -> Option<&'v Value> {
    path.parts.iter().try_fold(document, |value, part| match value {
        Value::Object(members) => members.get(part),
        Value::Array(items) => items.get(index(part)?),
        _ => None,
    })
}

fn find_mut<'v>(document: &'v mut Value, path: &Pointer<'_>) -> Option<&'v mut Value> {
    path.parts.iter().try_fold(document, |value, part| match value {
        Value::Object(members) => members.get_mut(part),
        Value::Array(items) => items.get_mut(index(part)?),
        _ => None,
    })
}

/// An array index without sign or leading zeros.
fn index(part: &str) -> Option<usize> {
    let plain = part == "0" || (!part.starts_with('0') && part.bytes().all(|b| b.is_ascii_digit()));
    if plain { part.parse().ok() } else { None }
}

/// The object or array that holds the last part of a path.
enum Parent<'v> {
    Object(&'v mut Map<String, Value>),
    Array(&'v mut Vec<Value>),
}

fn parent<'v, 'p>(document: &'v mut Value, path: &'p Pointer<'_>) -> Option<(Parent<'v>, &'p str)> {
    let (last, before) = path.parts.split_last()?;
    let before = Pointer {
        text: path.text,
        parts: before.to_vec(),
    };
    match find_mut(document, &before)? {
        Value::Object(members) => Some((Parent::Object(members), last)),
        Value::Array(items) => Some((Parent::Array(items), last)),
        _ => None,
    }
}

fn add(document: &mut Value, path: &Pointer<'_>, value: Value, operation: &str) -> Result<(), String> {
    if path.parts.is_empty() {
        *document = value;
        return Ok(());
    }
    match parent(document, path).ok_or_else(|| missing(operation, path))? {
        (Parent::Object(members), key) => {
            members.insert(key.to_string(), value);
        }
        (Parent::Array(items), "-") => items.push(value),
        (Parent::Array(items), part) => {
            let at = index(part).filter(|at| *at <= items.len());
            let at = at.ok_or_else(|| {
                format!(
                    "{operation} operation does not apply: doc is missing path: {:?}: invalid index referenced",
                    path.text
                )
            })?;
            items.insert(at, value);
        }
    }
    Ok(())
}

fn remove(document: &mut Value, path: &Pointer<'_>, operation: &str) -> Result<Value, String> {
    if path.parts.is_empty() {
        return Ok(std::mem::take(document));
    }
    let removed = match parent(document, path) {
        Some((Parent::Object(members), key)) => members.remove(key),
        Some((Parent::Array(items), part)) => index(part).filter(|at| *at < items.len()).map(|at| items.remove(at)),
        None => None,
    };
    removed.ok_or_else(|| missing(operation, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn applies() {
        let table = [
            (
                json!({"a": 1}),
                json!([{"op": "add", "path": "/b", "value": 2}]),
                json!({"a": 1, "b": 2}),
            ),
            (
                json!({"a": [1, 3]}),
                json!([{"op": "add", "path": "/a/1", "value": 2}]),
                json!({"a": [1, 2, 3]}),
            ),
            (
                json!({"a": [1]}),
                json!([{"op": "add", "path": "/a/-", "value": 2}]),
                json!({"a": [1, 2]}),
            ),
            (
                json!({"a": 1, "b": 2}),
                json!([{"op": "remove", "path": "/a"}]),
                json!({"b": 2}),
            ),
            (
                json!({"a/b": 1, "m~n": 2}),
                json!([{"op": "remove", "path": "/a~1b"}, {"op": "replace", "path": "/m~0n", "value": 3}]),
                json!({"m~n": 3}),
            ),
            (
                json!({"a": {"x": 1}, "b": {}}),
                json!([{"op": "move", "from": "/a/x", "path": "/b/y"}]),
                json!({"a": {}, "b": {"y": 1}}),
            ),
            (
                json!({"a": [1]}),
                json!([{"op": "copy", "from": "/a", "path": "/b"}]),
                json!({"a": [1], "b": [1]}),
            ),
            (
                json!({"a": 1}),
                json!([{"op": "test", "path": "/a", "value": 1}, {"op": "replace", "path": "", "value": []}]),
                json!([]),
            ),
            (
                json!({}),
                json!([{"op": "test", "path": "/a", "value": null}]),
                json!({}),
            ),
            (json!({}), json!([]), json!({})),
        ];
        for (document, patch, expected) in table {
            assert_eq!(
                json_patch(&document, patch.to_string().as_bytes()),
                Ok(expected),
                "{patch}"
            );
        }
    }

    #[test]
    fn refuses() {
        let document = json!({"a": [1], "o": {}});
        let missing = |text: &str| Error::Inapplicable(text.into());
        let table = [
            (
                json!([{"op": "replace", "path": "/x", "value": 1}]),
                missing("replace operation does not apply: doc is missing path: \"/x\": missing value"),
            ),
            (
                json!([{"op": "remove", "path": "/a/1"}]),
                missing("remove operation does not apply: doc is missing path: \"/a/1\": missing value"),
            ),
            (
                json!([{"op": "test", "path": "/a/0", "value": 2}]),
                missing("testing value /a/0 failed: test failed"),
            ),
            (
                json!([{"op": "frob", "path": "/a"}]),
                Error::Malformed("Unexpected kind: frob".into()),
            ),
        ];
        for (patch, error) in table {
            assert_eq!(
                json_patch(&document, patch.to_string().as_bytes()),
                Err(error),
                "{patch}"
            );
        }
        for patch in [
            "{}",
            "[",
            "[{\"op\":\"add\",\"path\":\"a\",\"value\":1}]",
            "[{\"op\":\"add\",\"path\":\"/a\"}]",
            "[1]",
        ] {
            assert!(
                matches!(json_patch(&document, patch.as_bytes()), Err(Error::Malformed(_))),
                "{patch}"
            );
        }
        for patch in [
            json!([{"op": "add", "path": "/a/5", "value": 1}]),
            json!([{"op": "add", "path": "/a/01", "value": 1}]),
            json!([{"op": "move", "from": "/o", "path": "/o/x"}]),
        ] {
            assert!(
                matches!(
                    json_patch(&document, patch.to_string().as_bytes()),
                    Err(Error::Inapplicable(_))
                ),
                "{patch}"
            );
        }
    }

    #[test]
    fn bounds_hold() {
        let operation = json!({"op": "test", "path": "/a", "value": null});
        let patch = Value::Array(vec![operation; MOST_OPERATIONS + 1]);
        assert_eq!(
            json_patch(&json!({}), patch.to_string().as_bytes()),
            Err(Error::TooManyOperations(MOST_OPERATIONS + 1))
        );
        let doubling = Value::Array(vec![json!({"op": "copy", "from": "", "path": "/a"}); 40]);
        let result = json_patch(&json!({ "x": "x".repeat(100_000) }), doubling.to_string().as_bytes());
        assert!(matches!(result, Err(Error::Inapplicable(text)) if text.contains("exceeding the limit")));
    }

    proptest! {
        #[test]
        fn any_operation_is_answered(op in "add|remove|replace|move|copy|test", from in "(/[ab0-]){0,3}", path in "(/[ab01~-]){0,3}") {
            let patch = json!([{"op": op, "from": from, "path": path, "value": {"a": [0]}}]);
            let _ = json_patch(&json!({"a": {"b": [1, {"a": 2}]}, "b": [[]]}), patch.to_string().as_bytes());
        }
    }
}
