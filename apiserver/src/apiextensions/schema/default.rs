//! Defaulting: what the schema gives where an object has nothing, and nulls that stand where null is no value.

use serde_json::Value;

use super::Schema;

/// Fills in defaults, then drops the nulls that are left where the schema does not allow null. Idempotent.
pub fn apply(value: &mut Value, schema: &Schema) {
    fill(value, schema);
    drop_nulls(value, schema);
}

/// Null where null is no value.
fn is_misplaced(value: &Value, schema: &Schema) -> bool {
    value.is_null() && !schema.nullable
}

fn fill(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(members) => {
            for (key, property) in &schema.properties {
                let Some(default) = &property.default else { continue };
                if members.get(key).is_none_or(|member| is_misplaced(member, property)) {
                    members.insert(key.clone(), default.clone());
                }
            }
            for (key, member) in members.iter_mut() {
                if let Some(property) = schema.properties.get(key) {
                    fill(member, property);
                } else if let Some(other) = schema.additional.schema() {
                    replace_null(member, other);
                    fill(member, other);
                }
            }
        }
        Value::Array(items) => {
            let Some(item) = &schema.items else { return };
            for value in items {
                replace_null(value, item);
                fill(value, item);
            }
        }
        _ => {}
    }
}

fn replace_null(value: &mut Value, schema: &Schema) {
    if let (true, Some(default)) = (is_misplaced(value, schema), &schema.default) {
        *value = default.clone();
    }
}

fn drop_nulls(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(members) => members.retain(|key, member| match schema.member(key) {
            Some(property) if is_misplaced(member, property) => false,
            Some(property) => {
                drop_nulls(member, property);
                true
            }
            None => true,
        }),
        Value::Array(items) => {
            let Some(item) = &schema.items else { return };
            items.iter_mut().for_each(|value| drop_nulls(value, item));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_fill_what_is_missing() {
        let string = json!({"type": "string", "default": "D"});
        for (schema, mut object, expected) in [
            (json!({"properties": {"a": string}}), json!({}), json!({"a": "D"})),
            (
                json!({"properties": {"a": string}}),
                json!({"a": "x"}),
                json!({"a": "x"}),
            ),
            // Null counts as missing unless null is a value.
            (
                json!({"properties": {"a": string}}),
                json!({"a": null}),
                json!({"a": "D"}),
            ),
            (
                json!({"properties": {"a": {"type": "string", "nullable": true, "default": "D"}}}),
                json!({"a": null}),
                json!({"a": null}),
            ),
            (
                json!({"properties": {"a": {"type": "string"}}}),
                json!({"a": null}),
                json!({}),
            ),
            // A default makes an object, into which more defaults go.
            (
                json!({"properties": {"o": {"type": "object", "default": {}, "properties": {"a": string}}}}),
                json!({}),
                json!({"o": {"a": "D"}}),
            ),
            (
                json!({"properties": {"o": {"type": "object", "properties": {"a": string}}}}),
                json!({}),
                json!({}),
            ),
            (
                json!({"properties": {"l": {"type": "array", "items": {"type": "object", "properties": {"a": string}}}}}),
                json!({"l": [{}, {"a": "x"}]}),
                json!({"l": [{"a": "D"}, {"a": "x"}]}),
            ),
            (
                json!({"additionalProperties": {"type": "string", "default": "D"}}),
                json!({"x": null, "y": "z"}),
                json!({"x": "D", "y": "z"}),
            ),
        ] {
            let schema = Schema::parse(&schema);
            apply(&mut object, &schema);
            assert_eq!(object, expected);
            apply(&mut object, &schema);
            assert_eq!(object, expected, "twice");
        }
    }
}
