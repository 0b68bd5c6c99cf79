//! The metadata of custom objects and of the objects embedded in them: brought into the form of `ObjectMeta`, and checked.

use api::schema::Message;
use api::{FieldError, codec};
use serde_json::{Value, json};

use super::Schema;
use crate::registry::meta;
use crate::registry::strategy::Generic;

/// `metadata` as `ObjectMeta` has it: types are enforced, unknown fields and nulls are gone. Unknown fields come back as `metadata.x`.
///
/// # Errors
/// A field of the wrong type, named.
pub fn normalize(metadata: &mut Value) -> Result<Vec<String>, codec::Error> {
    let Some(message) = api::resources::custom_message() else {
        return Ok(Vec::new());
    };
    let whole = json!({"metadata": metadata.take()});
    let unknown = codec::unknown_fields(message, &whole)
        .into_iter()
        .map(|fault| match fault.strip_prefix("unknown field \"") {
            Some(rest) => rest.trim_end_matches('"').to_owned(),
            None => fault,
        })
        .collect();
    *metadata = round_trip(message, &whole)?;
    Ok(unknown)
}

fn round_trip(message: &'static Message, whole: &Value) -> Result<Value, codec::Error> {
    let bytes = codec::value_to_proto(message, whole)?;
    let mut value = codec::proto_to_value(message, &bytes)?;
    Ok(value.get_mut("metadata").map(Value::take).unwrap_or_else(|| json!({})))
}

/// Brings the metadata of every embedded object into form.
///
/// # Errors
/// The place, and what is wrong there.
pub fn normalize_embedded(value: &mut Value, schema: &Schema, path: &str) -> Result<(), codec::Error> {
    walk(value, schema, path, &mut |object, path| {
        let Some(metadata) = object.get_mut("metadata") else {
            return Ok(());
        };
        let unreadable = |error: codec::Error| codec::Error::Value(format!("{path}.metadata: {error}"));
        normalize(metadata).map(drop).map_err(unreadable)
    })
}

/// Faults of the type and metadata of embedded objects.
pub fn validate_embedded(value: &Value, schema: &Schema) -> Vec<FieldError> {
    if !schema.any(&|schema| schema.embedded) {
        return Vec::new();
    }
    let mut faults = Vec::new();
    let mut copy = value.clone();
    let outcome = walk(&mut copy, schema, "", &mut |object, path| {
        for field in ["apiVersion", "kind"] {
            if object.get(field).and_then(Value::as_str).unwrap_or("").is_empty() {
                faults.push(FieldError::required(format!("{path}.{field}"), "must not be empty"));
            }
        }
        if meta::text(object, "name").is_empty() {
            meta::of(object).insert("name".into(), "fakename".into());
        }
        let namespaced = !meta::text(object, "namespace").is_empty();
        let rules = Generic { generation: false };
        faults.extend(meta::validate(object, namespaced, &rules).into_iter().map(|mut fault| {
            fault.field = format!("{path}.{}", fault.field);
            fault
        }));
        Ok(())
    });
    debug_assert!(outcome.is_ok());
    faults
}

/// Visits every embedded object with its path.
fn walk(
    value: &mut Value,
    schema: &Schema,
    path: &str,
    visit: &mut dyn FnMut(&mut Value, &str) -> Result<(), codec::Error>,
) -> Result<(), codec::Error> {
    if schema.embedded && value.is_object() {
        visit(value, path)?;
    }
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                let dot = if path.is_empty() { "" } else { "." };
                if let Some(property) = schema.properties.get(key) {
                    walk(member, property, &format!("{path}{dot}{key}"), visit)?;
                } else if let Some(other) = schema.additional.schema() {
                    walk(member, other, &format!("{path}[{key}]"), visit)?;
                }
            }
        }
        Value::Array(items) => {
            let Some(item) = &schema.items else { return Ok(()) };
            for (index, value) in items.iter_mut().enumerate() {
                walk(value, item, &format!("{path}[{index}]"), visit)?;
            }
        }
        _ => {}
    }
    Ok(())
}
