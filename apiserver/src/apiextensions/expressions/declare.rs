//! The types of rules' values, from the schema as it stands in the definition. Sizes that the schema does not bound are bounded by the
//! largest request; upstream's estimates of cost rest on the same numbers.

use std::sync::Arc;

use cel::{ListKind, ObjectType, Type};
use serde_json::Value;

use super::tree::{flag, list_kind, number, text};

/// Bytes of the largest request.
pub const MAX_REQUEST: u64 = 3 << 20;
/// Bytes that a character may take.
const BYTES: u64 = 4;

/// A type, and the fewest bytes of JSON that a value of it takes.
#[derive(Debug, Clone)]
pub struct Declared {
    /// The type.
    pub ty: Type,
    /// Bytes.
    pub least: u64,
}

fn declared(ty: Type, least: u64) -> Option<Declared> {
    Some(Declared { ty, least })
}

/// The type of values of a schema; `None` where expressions cannot see them. A resource has its metadata's names besides what it declares.
pub fn declare(schema: &Value, resource: bool) -> Option<Declared> {
    if flag(schema, "x-kubernetes-int-or-string") {
        return declared(Type::Dyn, 1);
    }
    match text(schema, "type") {
        "object" => object(schema, resource || flag(schema, "x-kubernetes-embedded-resource")),
        "array" => {
            let item = declare(schema.get("items")?, false)?;
            let most = number(schema, "maxItems").unwrap_or((MAX_REQUEST - 2) / (item.least + 1));
            declared(Type::List(Arc::new(item.ty), most, list_kind(schema)), 2)
        }
        "string" => string(schema),
        "boolean" => declared(Type::Bool, 4),
        "number" => declared(Type::Double, 1),
        "integer" => declared(Type::Int, 1),
        _ => None,
    }
}

fn string(schema: &Value) -> Option<Declared> {
    let most = number(schema, "maxLength");
    match text(schema, "format") {
        "byte" => declared(Type::Bytes(most.unwrap_or(MAX_REQUEST - 2)), 2),
        "duration" => declared(Type::Duration, 2),
        "date" | "date-time" => declared(Type::Timestamp, 12),
        _ => {
            let values = schema.get("enum").and_then(Value::as_array);
            let longest = values.and_then(|values| values.iter().filter_map(Value::as_str).map(str::len).max());
            let most = match (most, longest) {
                (Some(most), _) => most.saturating_mul(BYTES),
                (None, Some(longest)) => longest as u64,
                (None, None) => MAX_REQUEST - 2,
            };
            declared(Type::String(most), 2)
        }
    }
}

fn object(schema: &Value, resource: bool) -> Option<Declared> {
    if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
        let value = declare(values, false)?;
        let most = number(schema, "maxProperties").unwrap_or((MAX_REQUEST - 2) / (value.least + 6));
        return declared(Type::Map(Arc::new(Type::STRING), Arc::new(value.ty), most), 2);
    }
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let mut least = 2;
    let mut fields = Vec::new();
    for (name, property) in schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let Some(field) = declare(property, false) else {
            continue;
        };
        if required.contains(&name.as_str()) && property.get("default").is_none() {
            least += name.len() as u64 + field.least + 4;
        }
        fields.push((name.clone(), field.ty));
    }
    if resource {
        let names = ["name", "generateName"].map(|name| (name.to_owned(), Type::STRING));
        let metadata = Type::object(ObjectType::new("object", names));
        for (name, ty) in [
            ("apiVersion", Type::STRING),
            ("kind", Type::STRING),
            ("metadata", metadata),
        ] {
            fields.retain(|(known, _)| known != name);
            fields.push((name.to_owned(), ty));
        }
    }
    declared(Type::object(ObjectType::new("object", fields)), least)
}

/// How lists of the schema compare; the keys of a list that is a map.
pub fn keys(kind: &ListKind) -> Option<&[String]> {
    match kind {
        ListKind::Map(keys) => Some(keys),
        _ => None,
    }
}
