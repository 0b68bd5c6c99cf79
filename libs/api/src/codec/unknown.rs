//! Fields of a JSON value that the schema does not know.

use crate::schema::{FieldType, Message};
use serde_json::{Map, Value};

/// More unknown fields than this are not reported one by one.
const MOST: usize = 100;

/// The fields that the schema does not know: `unknown field "spec.foo"`.
pub fn unknown_fields(message: &'static Message, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if let Value::Object(members) = value {
        walk(message, members, "", &mut found);
    }
    found.truncate(MOST);
    found
}

/// Removes the fields that the schema does not know.
pub fn prune_unknown(message: &'static Message, value: &mut Value) {
    let Value::Object(members) = value else { return };
    members.retain(|key, _| is_known(message, key));
    for (key, value) in members {
        let Some(field) = message.field(key) else { continue };
        let (ty, is_map) = match field.ty {
            FieldType::Map(inner) => (*inner, true),
            ty => (ty, false),
        };
        let Some(inner) = content(ty) else { continue };
        match value {
            Value::Object(entries) if is_map => entries.values_mut().for_each(|value| prune_unknown(inner, value)),
            Value::Array(items) => items.iter_mut().for_each(|value| prune_unknown(inner, value)),
            value => prune_unknown(inner, value),
        }
    }
}

/// Every root object has `apiVersion` and `kind`; Go embeds them also where an object stands within another.
pub(crate) fn is_known(message: &Message, key: &str) -> bool {
    let is_object = || message.field("metadata").is_some() || message.short_name().ends_with("Options");
    message.field(key).is_some() || ((key == "apiVersion" || key == "kind") && is_object())
}

fn walk(message: &'static Message, members: &Map<String, Value>, prefix: &str, found: &mut Vec<String>) {
    for (key, value) in members {
        if found.len() >= MOST {
            return;
        }
        let path = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match message.field(key) {
            None if is_known(message, key) => {}
            None => found.push(format!("unknown field {path:?}")),
            Some(field) => match (field.ty, value) {
                (FieldType::Map(inner), Value::Object(entries)) => {
                    let FieldType::Message(inner) = inner else { continue };
                    for (key, value) in entries {
                        descend(inner, value, &format!("{path}.{key}"), found);
                    }
                }
                (ty, Value::Array(items)) => {
                    let Some(inner) = content(ty) else { continue };
                    for (index, item) in items.iter().enumerate() {
                        descend(inner, item, &format!("{path}[{index}]"), found);
                    }
                }
                (ty, value) => {
                    if let Some(inner) = content(ty) {
                        descend(inner, value, &path, found);
                    }
                }
            },
        }
    }
}

fn descend(message: &'static Message, value: &Value, path: &str, found: &mut Vec<String>) {
    if let Value::Object(members) = value {
        walk(message, members, path, found);
    }
}

/// The message whose fields a value of this type has, if it is an object.
pub(super) fn content(ty: FieldType) -> Option<&'static Message> {
    match ty {
        FieldType::Message(message)
        | FieldType::SchemaOrBool(message)
        | FieldType::SchemaOrArray(message)
        | FieldType::SchemaOrStrings(message) => Some(message),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;
    use serde_json::json;

    #[test]
    fn unknown_fields_are_named_and_pruned() {
        let pod = schema::for_kind("", "v1", "Pod").unwrap();
        let mut value = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"x": "y"}, "nope": 1},
            "spec": {"containers": [{"name": "c"}, {"name": "d", "imagee": "x", "env": [{"nam": "x"}]}],
                "volumes": [{"name": "v", "emptyDir": {"mediumm": ""}}], "nodeSelector": {"any": "thing"}},
            "extra": {},
        });
        let mut expected = [
            "extra",
            "metadata.nope",
            "spec.containers[1].env[0].nam",
            "spec.containers[1].imagee",
            "spec.volumes[0].emptyDir.mediumm",
        ]
        .map(|path| format!("unknown field {path:?}"))
        .to_vec();
        let mut found = unknown_fields(pod, &value);
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
        prune_unknown(pod, &mut value);
        assert_eq!(unknown_fields(pod, &value), Vec::<String>::new());
        assert_eq!(value["spec"]["containers"][1], json!({"name": "d", "env": [{}]}));
        assert_eq!(value["kind"], "Pod");
    }
}
