//! Definitions of custom kinds, from their `openAPIV3Schema`.

use api::resources::ResourceInfo;
use serde_json::{Map, Value, json};

use super::schemas::{Dialect, LIST_META, OBJECT_META};
use super::text::{Descriptions, MODEL};
use crate::registry::Kind;

/// How deep a schema is followed; definitions are bounded when they are accepted.
const DEPTH: usize = 100;
/// JSON Schema words that Swagger 2.0, as its clients read it, does not have.
const NOT_IN_V2: &[&str] = &[
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "nullable",
    "default",
    "x-kubernetes-validations",
];

/// `com.example.stable.v1.CronTab` for `CronTab` of `stable.example.com/v1`.
pub fn name(served: &ResourceInfo, kind: &str) -> String {
    let reversed: Vec<&str> = served.group.rsplit('.').collect();
    format!("{}.{}.{kind}", reversed.join("."), served.version)
}

/// The definitions of the kind and of its list; nothing for built-in kinds.
pub fn definitions(dialect: Dialect, kind: &Kind, texts: &Descriptions) -> Vec<(String, Value)> {
    let served = &*kind.info;
    if !served.is_custom() {
        return Vec::new();
    }
    let schema = kind.strategy.document().unwrap_or_default();
    let made_of = |kind: &str| json!([{"group": served.group, "version": served.version, "kind": kind}]);
    let (own, list) = (name(served, &served.kind), name(served, &served.list_kind));
    let mut object = convert(dialect, &schema, DEPTH);
    if object.is_empty() {
        object.insert("type".into(), "object".into());
    }
    if keeps_unknown(dialect, &schema) {
        // Nothing is known of its fields, so nothing is said of metadata either.
        object.remove("properties");
    } else {
        let properties = object.entry("properties").or_insert_with(|| json!({}));
        add_meta(dialect, properties, OBJECT_META, texts);
    }
    object.insert("x-kubernetes-group-version-kind".into(), made_of(&served.kind));
    let items = json!({"type": "array", "description": format!("List of {}.", served.resource), "items": dialect.reference(&own)});
    let mut properties = json!({"items": items});
    add_meta(dialect, &mut properties, LIST_META, texts);
    let of_list = json!({
        "description": format!("{} is a list of {}", served.list_kind, served.kind), "type": "object", "required": ["items"],
        "properties": properties, "x-kubernetes-group-version-kind": made_of(&served.list_kind),
    });
    vec![(own, object.into()), (list, of_list)]
}

/// `apiVersion`, `kind` and `metadata`.
fn add_meta(dialect: Dialect, properties: &mut Value, metadata: &str, texts: &Descriptions) {
    for name in ["apiVersion", "kind"] {
        properties[name] = json!({"type": "string", "description": texts.of_property(MODEL, name).unwrap_or_default()});
    }
    let reference = dialect.reference(metadata);
    let text = "Standard metadata: see the API conventions.";
    properties["metadata"] = match dialect {
        Dialect::V2 => {
            let mut schema = reference;
            schema["description"] = text.into();
            schema
        }
        Dialect::V3 => json!({"allOf": [reference], "description": text}),
    };
}

fn keeps_unknown(dialect: Dialect, schema: &Value) -> bool {
    dialect == Dialect::V2 && schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true))
}

/// A schema in the words of the dialect: `OpenAPI` 3.0 takes it as it is, Swagger 2.0 says less.
fn convert(dialect: Dialect, schema: &Value, depth: usize) -> Map<String, Value> {
    let Some(source) = schema.as_object() else {
        return Map::new();
    };
    if dialect == Dialect::V3 {
        return source.clone();
    }
    if depth == 0 {
        return Map::new();
    }
    let flag = |name: &str| source.get(name) == Some(&Value::Bool(true));
    // kubectl validates with this document: what it would refuse wrongly is left open.
    let open = flag("nullable") || flag("x-kubernetes-preserve-unknown-fields");
    let mut out = Map::new();
    for (word, value) in source {
        match word.as_str() {
            word if NOT_IN_V2.contains(&word) => {}
            "type" | "properties" | "items" | "additionalProperties" if open => {}
            "type" if flag("x-kubernetes-int-or-string") => {}
            "properties" => {
                let children = value.as_object().into_iter().flatten();
                let children = children.map(|(name, child)| (name.clone(), convert(dialect, child, depth - 1).into()));
                out.insert(word.clone(), Value::Object(children.collect()));
            }
            "items" | "additionalProperties" if value.is_object() => {
                out.insert(word.clone(), convert(dialect, value, depth - 1).into());
            }
            _ => {
                out.insert(word.clone(), value.clone());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swagger_leaves_open_what_it_cannot_say() {
        for (schema, expected) in [
            (
                json!({"type": "object", "properties": {"a": {"type": "string", "default": "x"}}}),
                json!({"type": "object", "properties": {"a": {"type": "string"}}}),
            ),
            (
                json!({"type": "string", "nullable": true, "description": "d"}),
                json!({"description": "d"}),
            ),
            (
                json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "string"}}}),
                json!({"x-kubernetes-preserve-unknown-fields": true}),
            ),
            (
                json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
                json!({"x-kubernetes-int-or-string": true}),
            ),
            (
                json!({"type": "array", "items": {"type": "integer", "minimum": 1}}),
                json!({"type": "array", "items": {"type": "integer", "minimum": 1}}),
            ),
        ] {
            assert_eq!(Value::Object(convert(Dialect::V2, &schema, DEPTH)), expected);
            assert_eq!(Value::Object(convert(Dialect::V3, &schema, DEPTH)), schema);
        }
    }
}
