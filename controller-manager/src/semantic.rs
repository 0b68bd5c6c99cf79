//! Equality as the API means it: an absent field, a zero and an empty list are the same.
//!
//! Objects come back from the API server with defaults and empty fields that we did not write, or without zeros that we did. A plain
//! comparison would see a change where there is none, and write for ever.

use api::Object;
use api::core::v1::{PodTemplate, PodTemplateSpec};
use serde_json::Value;

/// Whether two objects mean the same.
pub fn equal<K: Object>(left: &K, right: &K) -> bool {
    left == right || pruned(left.to_value()) == pruned(right.to_value())
}

/// Whether two pod templates mean the same.
pub fn equal_templates(left: &PodTemplateSpec, right: &PodTemplateSpec) -> bool {
    let hold = |template: &PodTemplateSpec| PodTemplate {
        template: Some(template.clone()),
        ..Default::default()
    };
    left == right || equal(&hold(left), &hold(right))
}

/// The value without what means nothing; `Null` if nothing is left.
fn pruned(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(key, value)| (key, pruned(value)));
            let fields: serde_json::Map<_, _> = fields.filter(|(_, value)| !value.is_null()).collect();
            if fields.is_empty() {
                Value::Null
            } else {
                Value::Object(fields)
            }
        }
        // The place in a list means something, so an item stays even if it is empty.
        Value::Array(items) if !items.is_empty() => Value::Array(items.into_iter().map(pruned).collect()),
        Value::Array(_) | Value::Bool(false) => Value::Null,
        Value::String(text) if text.is_empty() => Value::Null,
        Value::Number(number) if number.as_f64() == Some(0.0) => Value::Null,
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_zero_and_empty_are_one() {
        let full = json!({"a": 0, "b": "", "c": [], "d": {"e": false, "f": null}, "g": [{"h": 0}, 2], "i": 1});
        assert_eq!(pruned(full), json!({"g": [null, 2], "i": 1}));
        assert_eq!(pruned(json!({"a": {}})), Value::Null);
        assert_ne!(pruned(json!([0, 1])), pruned(json!([1])));
    }
}
