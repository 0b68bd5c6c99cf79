//! The promise of `x-kubernetes-list-type`: no two items of a set or map list are the same.

use std::collections::HashSet;

use api::FieldError;
use serde_json::{Map, Value};

use super::{ListType, Schema};

/// Every duplicate in a value, by its path.
pub fn duplicates(value: &Value, schema: &Schema) -> Vec<FieldError> {
    let mut found = Vec::new();
    walk("", value, schema, &mut found);
    found
}

fn walk(path: &str, value: &Value, schema: &Schema, found: &mut Vec<FieldError>) {
    match value {
        Value::Array(items) => {
            match &schema.list_type {
                ListType::Unset | ListType::Atomic => {}
                ListType::Set => report(path, items, |item| item.clone(), found),
                ListType::Map(keys) => report(path, items, |item| key(item, keys), found),
            }
            if let Some(item) = &schema.items {
                for (index, value) in items.iter().enumerate() {
                    walk(&format!("{path}[{index}]"), value, item, found);
                }
            }
        }
        Value::Object(members) => {
            for (key, value) in members {
                let dot = if path.is_empty() { "" } else { "." };
                if let Some(property) = schema.properties.get(key) {
                    walk(&format!("{path}{dot}{key}"), value, property, found);
                } else if let Some(other) = schema.additional.schema() {
                    walk(&format!("{path}[{key}]"), value, other, found);
                }
            }
        }
        _ => {}
    }
}

fn report(path: &str, items: &[Value], identity: impl Fn(&Value) -> Value, found: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let identity = identity(item);
        if !seen.insert(identity.to_string()) {
            found.push(FieldError::duplicate(format!("{path}[{index}]"), identity));
        }
    }
}

/// The key fields of an item that are there.
fn key(item: &Value, keys: &[String]) -> Value {
    let fields = keys
        .iter()
        .filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
    Value::Object(fields.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn duplicates_are_named() {
        let schema = Schema::parse(&json!({"type": "object", "properties": {
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"], "items": {"type": "object"}},
            "plain": {"type": "array", "items": {"type": "string"}}}}));
        let object = json!({"set": ["x", "y", "x"], "map": [{"a": 1, "b": 1}, {"a": 1, "b": 2}], "plain": ["x", "x"]});
        let found: Vec<String> = duplicates(&object, &schema).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [r#"map[1]: Duplicate value: {"a":1}"#, r#"set[2]: Duplicate value: "x""#]
        );
    }
}
