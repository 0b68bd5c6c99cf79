//! The three patches of the API: JSON patch (RFC 6902), JSON merge patch (RFC 7386) and strategic merge patch.

mod json;
mod strategic;

pub use json::json_patch;
pub use strategic::strategic_merge;

use serde_json::Value;

/// A JSON patch may have so many operations.
pub const MOST_OPERATIONS: usize = 10_000;
/// `copy` operations may add so many bytes of JSON text in all.
pub const MOST_COPIED: usize = 3 << 20;

/// Why a patch cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not a patch: answered with 400.
    #[error("{0}")]
    Malformed(String),
    /// It is too long: answered with 413.
    #[error("The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
    /// It does not fit the object: answered with 422.
    #[error("{0}")]
    Inapplicable(String),
}

/// Applies a JSON merge patch: `null` removes, objects are merged, everything else replaces.
pub fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Default::default());
    }
    let Value::Object(members) = target else { return };
    for (key, change) in changes {
        match change {
            Value::Null => {
                members.remove(key);
            }
            change => merge_patch(members.entry(key.clone()).or_insert(Value::Null), change),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merges() {
        let table = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (mut target, patch, expected) in table {
            merge_patch(&mut target, &patch);
            assert_eq!(target, expected, "{patch}");
        }
    }
}
