//! Pruning: what the schema does not know goes, and is named.

use serde_json::Value;

use super::{META_FIELDS, Schema};

/// Removes the fields that the schema does not specify from an object and returns their paths, as `spec.foo[0].bar`.
pub fn prune(object: &mut Value, schema: &Schema) -> Vec<String> {
    let mut walk = Walk::default();
    walk.object(object, Some(schema), true);
    walk.found
}

#[derive(Default)]
struct Walk {
    path: String,
    found: Vec<String>,
}

impl Walk {
    /// A value under its schema; `resource` marks the root, whose type and metadata are not the schema's.
    fn object(&mut self, value: &mut Value, schema: Option<&Schema>, resource: bool) {
        let keep = schema.is_some_and(|schema| schema.preserve_unknown);
        match value {
            Value::Object(members) => {
                let resource = resource || schema.is_some_and(|schema| schema.embedded);
                members.retain(|key, member| {
                    if resource && META_FIELDS.contains(&key.as_str()) {
                        return true;
                    }
                    let length = self.path.len();
                    if length > 0 {
                        self.path.push('.');
                    }
                    self.path.push_str(key);
                    let known = self.member(member, key, schema, keep);
                    self.path.truncate(length);
                    known
                });
            }
            Value::Array(items) => {
                let item = schema.and_then(|schema| schema.items.as_deref());
                if keep && item.is_none() {
                    return;
                }
                for (index, value) in items.iter_mut().enumerate() {
                    let length = self.path.len();
                    self.path.push_str(&format!("[{index}]"));
                    self.object(value, item, false);
                    self.path.truncate(length);
                }
            }
            _ => {}
        }
    }

    /// True if the member stays.
    fn member(&mut self, value: &mut Value, key: &str, schema: Option<&Schema>, keep: bool) -> bool {
        let Some(schema) = schema else {
            self.found.push(self.path.clone());
            return false;
        };
        match (schema.properties.get(key), &schema.additional) {
            (Some(property), _) => self.object(value, Some(property), false),
            (None, super::Additional::Schema(other)) => self.object(value, Some(other), false),
            (None, _) if keep => {}
            (None, super::Additional::Any(true)) => self.object(value, None, false),
            (None, _) => {
                self.found.push(self.path.clone());
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_specified_goes() {
        // schema, object, pruned object, paths
        for (schema, mut object, expected, paths) in [
            (
                json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}}),
                json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "x"}, "spec": {"a": "1", "b": 2}, "c": 3}),
                json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "x"}, "spec": {"a": "1"}}),
                vec!["c", "spec.b"],
            ),
            (
                json!({"type": "object", "properties": {"list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}}}}),
                json!({"list": [{"a": "1"}, {"b": 1}]}),
                json!({"list": [{"a": "1"}, {}]}),
                vec!["list[1].b"],
            ),
            (
                json!({"type": "object", "properties": {"map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {"type": "string"}}}}}}),
                json!({"map": {"x": {"a": "1", "b": 1}}}),
                json!({"map": {"x": {"a": "1"}}}),
                vec!["map.x.b"],
            ),
            (
                json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}}),
                json!({"other": {"x": 1}, "spec": {"a": "1", "b": 2}}),
                json!({"other": {"x": 1}, "spec": {"a": "1"}}),
                vec!["spec.b"],
            ),
            (
                json!({"type": "object", "properties": {"pod": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}}}}),
                json!({"pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"a": 1}, "b": 1}}),
                json!({"pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {}}}),
                vec!["pod.b", "pod.spec.a"],
            ),
            (
                json!({"type": "object", "properties": {"any": {"type": "object", "additionalProperties": true}}}),
                json!({"any": {"x": 1, "y": {"z": 1}}}),
                json!({"any": {"x": 1, "y": {}}}),
                vec!["any.y.z"],
            ),
        ] {
            let found = prune(&mut object, &Schema::parse(&schema));
            assert_eq!(
                (object, found),
                (expected, paths.iter().map(|p| (*p).to_owned()).collect()),
                "{schema}"
            );
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i32>().prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[abc]", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn pruning_twice_is_pruning_once(mut object in value(), schema in value()) {
            let schema = json!({"type": "object", "properties": {"a": {"items": schema, "properties": schema}, "b": {"x-kubernetes-preserve-unknown-fields": true}}});
            let schema = Schema::parse(&schema);
            prune(&mut object, &schema);
            let once = object.clone();
            prop_assert!(prune(&mut object, &schema).is_empty());
            prop_assert_eq!(object, once);
        }
    }
}
