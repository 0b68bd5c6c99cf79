//! What makes a schema structural: every place of an object has a type outside of `allOf`, `anyOf`, `oneOf` and `not`, and those only say
//! something about values. And whether its defaults are values of it.

use api::FieldError;
use serde_json::{Map, Value};

use super::super::schema::{Additional, Schema, compile, default, prune, validate};
use crate::kinds::field::{Errors, Field};

/// The deepest schema.
const DEEPEST: usize = 64;
/// The longest pattern, bytes.
const LONGEST_PATTERN: usize = 16 << 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Whether a schema is nested so deeply that walking it could exhaust a stack.
pub fn is_too_deep(schema: &Value) -> bool {
    fn depth(value: &Value, left: usize) -> bool {
        let Some(left) = left.checked_sub(1) else { return true };
        match value {
            Value::Object(members) => members.values().any(|value| depth(value, left)),
            Value::Array(items) => items.iter().any(|value| depth(value, left)),
            _ => false,
        }
    }
    depth(schema, DEEPEST * 2)
}

/// Why a schema is not structural; sorted, as upstream.
pub fn faults(schema: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Errors::new();
    invariants(schema, Level::Root, &mut errors);
    complete(schema, schema, &mut errors);
    errors.sort_by_key(ToString::to_string);
    errors
}

fn is_set(schema: &Field<'_>, key: &str) -> bool {
    match schema.value.get(key) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(_) => true,
    }
}

fn is_there(schema: &Field<'_>, key: &str) -> bool {
    schema.value.get(key).is_some_and(|value| !value.is_null())
}

fn invariants(schema: &Field<'_>, level: Level, errors: &mut Errors) {
    let (ty, items, properties) = (schema.get("type"), schema.get("items"), schema.get("properties"));
    if ty.str() == "array" && !items.exists() {
        items.required(errors, "must be specified");
    }
    if items.value.is_object() {
        invariants(&items, Level::Item, errors);
    }
    for (_, property) in properties.entries() {
        invariants(&property, Level::Field, errors);
    }
    let additional = schema.get("additionalProperties");
    if additional.exists() {
        if level == Level::Root {
            additional.forbidden(errors, "must not be used at the root");
        }
        if additional.value.is_object() {
            invariants(&additional, Level::Field, errors);
        }
    }
    extensions(schema, errors);
    let (skip_any_of, skip_all_of) = int_or_string_patterns(schema.value);
    values(schema, skip_any_of, skip_all_of, level, errors);
    types(schema, level, errors);
    meta_fields(schema, level, errors);
}

fn extensions(schema: &Field<'_>, errors: &mut Errors) {
    if !schema.get("x-kubernetes-int-or-string").bool() {
        return;
    }
    for key in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
        let field = schema.get(key);
        if field.bool() {
            field.invalid(errors, "must be false if x-kubernetes-int-or-string is true");
        }
    }
}

fn types(schema: &Field<'_>, level: Level, errors: &mut Errors) {
    let (ty, embedded) = (schema.get("type"), schema.get("x-kubernetes-embedded-resource").bool());
    let free =
        schema.get("x-kubernetes-int-or-string").bool() || schema.get("x-kubernetes-preserve-unknown-fields").bool();
    if embedded && ty.str() != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        if ty.is_empty() {
            ty.required(errors, why);
        } else {
            ty.invalid(errors, why);
        }
    } else if ty.is_empty() && !free {
        ty.required(
            errors,
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        );
    }
    let additional = schema.get("additionalProperties");
    if embedded && additional.exists() {
        additional.forbidden(errors, "must not be used if x-kubernetes-embedded-resource is set");
    }
    if level == Level::Root && !ty.is_empty() && ty.str() != "object" {
        ty.invalid(errors, "must be object at the root");
    }
    let properties = schema.get("properties");
    if embedded && !schema.get("x-kubernetes-preserve-unknown-fields").bool() && properties.is_empty() {
        properties.required(
            errors,
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        );
    }
}

/// The type and metadata of objects are given: a schema may restrict names at most.
fn meta_fields(schema: &Field<'_>, level: Level, errors: &mut Errors) {
    let properties = schema.get("properties");
    let is_object = level == Level::Root || schema.get("x-kubernetes-embedded-resource").bool();
    for name in ["kind", "apiVersion"] {
        let field = properties.key(name);
        let ty = field.get("type");
        if is_object && field.exists() && ty.str() != "string" {
            ty.invalid(errors, "must be string");
        }
    }
    let metadata = properties.key("metadata");
    if !metadata.exists() {
        return;
    }
    let ty = metadata.get("type");
    if is_object && ty.str() != "object" {
        ty.invalid(errors, "must be object");
    }
    if level == Level::Root && !restricts_names_only(metadata.value) {
        metadata.forbidden(
            errors,
            "must not specify anything other than name and generateName, but metadata is implicitly specified",
        );
    }
}

fn restricts_names_only(metadata: &Value) -> bool {
    let known = |key: &str| matches!(key, "name" | "generateName");
    metadata
        .as_object()
        .into_iter()
        .flatten()
        .all(|(key, value)| match key.as_str() {
            "type" | "default" => true,
            "properties" => value
                .as_object()
                .is_some_and(|names| names.keys().all(|name| known(name))),
            _ => false,
        })
}

/// Whether `anyOf`, or the first of `allOf`, says just that the value is an integer or a string.
fn int_or_string_patterns(schema: &Value) -> (bool, bool) {
    let is_pattern = |value: Option<&Value>| {
        let both = serde_json::json!([{"type": "integer"}, {"type": "string"}]);
        value.is_some_and(|value| *value == both)
    };
    let first = schema.pointer("/allOf/0/anyOf");
    (is_pattern(schema.get("anyOf")), is_pattern(first))
}

/// What is said about values at a place.
fn values(schema: &Field<'_>, skip_any_of: bool, skip_first_all_of: bool, level: Level, errors: &mut Errors) {
    if !skip_any_of {
        for alternative in schema.get("anyOf").items() {
            nested(&alternative, false, level, errors);
        }
    }
    for (index, part) in schema.get("allOf").items().enumerate() {
        nested(&part, skip_first_all_of && index == 0, level, errors);
    }
    for alternative in schema.get("oneOf").items() {
        nested(&alternative, false, level, errors);
    }
    let not = schema.get("not");
    if not.exists() {
        nested(&not, false, level, errors);
    }
    let pattern = schema.get("pattern");
    if pattern.str().len() > LONGEST_PATTERN {
        errors.push(FieldError::too_long(pattern.to_string(), LONGEST_PATTERN));
    } else if let Err(error) = compile(pattern.str()) {
        pattern.invalid(
            errors,
            format!("must be a valid regular expression, but isn't: {error}"),
        );
    }
}

/// A part of `allOf` and its like may only say something about values.
fn nested(schema: &Field<'_>, skip_any_of: bool, level: Level, errors: &mut Errors) {
    values(schema, skip_any_of, false, level, errors);
    let items = schema.get("items");
    if items.value.is_object() {
        nested(&items, false, level, errors);
    }
    let properties = schema.get("properties");
    for (_, property) in properties.entries() {
        nested(&property, false, Level::Field, errors);
    }
    for (key, why) in [
        ("type", "must be empty to be structural"),
        ("additionalProperties", "must be undefined to be structural"),
        ("default", "must be undefined to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("nullable", "must be false to be structural"),
        ("externalDocs", "must be undefined to be structural"),
        ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
        ("x-kubernetes-embedded-resource", "must be false to be structural"),
        ("x-kubernetes-int-or-string", "must be false to be structural"),
        ("x-kubernetes-list-map-keys", "must be empty to be structural"),
        ("x-kubernetes-list-type", "must be undefined to be structural"),
        ("x-kubernetes-map-type", "must be undefined to be structural"),
        ("x-kubernetes-validations", "must be empty to be structural"),
    ] {
        let counts = match key {
            "additionalProperties" | "default" => is_there(schema, key),
            _ => is_set(schema, key),
        };
        if counts {
            schema.get(key).forbidden(errors, why);
        }
    }
    let metadata = properties.key("metadata");
    if metadata.exists() {
        metadata.forbidden(errors, "must not be specified in a nested context");
    }
}

/// Every field that something is said about exists in the schema proper.
fn complete(schema: &Field<'_>, said: &Field<'_>, errors: &mut Errors) {
    alternatives(schema, said, errors);
    let items = schema.get("items");
    if items.value.is_object() {
        complete(&items, &items, errors);
    }
    for (_, property) in schema.get("properties").entries() {
        complete(&property, &property, errors);
    }
    let additional = schema.get("additionalProperties");
    if additional.value.is_object() {
        complete(&additional, &additional, errors);
    }
}

fn alternatives(schema: &Field<'_>, said: &Field<'_>, errors: &mut Errors) {
    for key in ["allOf", "anyOf", "oneOf"] {
        for part in said.get(key).items() {
            mentioned(schema, &part, errors);
        }
    }
    let not = said.get("not");
    if not.exists() {
        mentioned(schema, &not, errors);
    }
}

fn mentioned(schema: &Field<'_>, said: &Field<'_>, errors: &mut Errors) {
    let missing = |place: &Field<'_>, said: &Field<'_>, errors: &mut Errors| {
        place.required(errors, &format!("because it is defined in {said}"));
    };
    alternatives(schema, said, errors);
    let (items, said_items) = (schema.get("items"), said.get("items"));
    match (items.exists(), said_items.value.is_object()) {
        (true, true) => mentioned(&items, &said_items, errors),
        (false, true) => missing(&items, &said_items, errors),
        _ => {}
    }
    let (properties, said_properties) = (schema.get("properties"), said.get("properties"));
    for (name, said) in said_properties.entries() {
        let property = properties.key(name);
        if property.exists() {
            mentioned(&property, &said, errors);
        } else {
            missing(&property, &said, errors);
        }
    }
}

/// Defaults that are no values of the schema they stand in. The schema is structural.
pub fn default_faults(schema: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Errors::new();
    walk_defaults(schema, &Schema::parse(schema.value), &mut errors);
    errors
}

fn walk_defaults(field: &Field<'_>, schema: &Schema, errors: &mut Errors) {
    let given = field.get("default");
    if let Some(value) = &schema.default {
        let mut pruned = value.clone();
        prune_inner(&mut pruned, schema);
        if pruned != *value {
            given.invalid(errors, "must not have unknown fields");
        }
        let mut filled = value.clone();
        default::apply(&mut filled, schema);
        for mut fault in validate::validate("", &filled, None, schema) {
            fault.field = match fault.field.as_str() {
                validate::NOWHERE => given.to_string(),
                path => format!("{given}.{path}"),
            };
            errors.push(fault);
        }
    }
    let (items, properties, additional) = (
        field.get("items"),
        field.get("properties"),
        field.get("additionalProperties"),
    );
    if let Some(schema) = &schema.items {
        walk_defaults(&items, schema, errors);
    }
    for (name, property) in properties.entries() {
        if let Some(schema) = schema.properties.get(name) {
            walk_defaults(&property, schema, errors);
        }
    }
    if let Additional::Schema(schema) = &schema.additional {
        walk_defaults(&additional, schema, errors);
    }
}

/// Pruning as it happens inside of an object: type and metadata are nothing special there.
fn prune_inner(value: &mut Value, schema: &Schema) {
    let parent = Schema {
        properties: [("value".to_owned(), schema.clone())].into(),
        ..Schema::default()
    };
    let mut wrapped = Value::Object(Map::from_iter([("value".to_owned(), value.take())]));
    prune::prune(&mut wrapped, &parent);
    *value = wrapped["value"].take();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(schema: Value) -> Vec<String> {
        let root = Field::root("s", &schema);
        let mut found = faults(&root);
        if found.is_empty() {
            found = default_faults(&root);
        }
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn structure_is_required() {
        let of = |property: Value| json!({"type": "object", "properties": {"a": property}});
        for (schema, expected) in [
            (
                of(json!({})),
                "s.properties[a].type: Required value: must not be empty for specified object fields",
            ),
            (
                of(json!({"type": "array"})),
                "s.properties[a].items: Required value: must be specified",
            ),
            (
                json!({"type": "object", "additionalProperties": true}),
                "s.additionalProperties: Forbidden: must not be used at the root",
            ),
            (
                json!({"type": "string"}),
                r#"s.type: Invalid value: "string": must be object at the root"#,
            ),
            (
                of(json!({"type": "object", "anyOf": [{"type": "string"}]})),
                "s.properties[a].anyOf[0].type: Forbidden: must be empty to be structural",
            ),
            (
                of(json!({"type": "object", "not": {"properties": {"b": {}}}})),
                "s.properties[a].properties[b]: Required value: because it is defined in s.properties[a].not.properties[b]",
            ),
            (
                of(json!({"type": "string", "pattern": "("})),
                "s.properties[a].pattern: Invalid value: \"(\": must be a valid regular expression",
            ),
            (
                of(
                    json!({"type": "string", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}),
                ),
                r#"s.properties[a].type: Invalid value: "string": must be object if x-kubernetes-embedded-resource is true"#,
            ),
            (
                json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
                "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
            ),
            (
                of(json!({"type": "integer", "default": "x"})),
                r#"s.properties[a].default: Invalid value: "string":  in body must be of type integer: "string""#,
            ),
            (
                of(json!({"type": "object", "default": {"b": 1}})),
                r#"s.properties[a].default: Invalid value: {"b":1}: must not have unknown fields"#,
            ),
        ] {
            let found = texts(schema);
            assert!(
                found.iter().any(|text| text.starts_with(expected)),
                "{expected}\n{found:#?}"
            );
        }
    }

    #[test]
    fn an_integer_or_a_string_may_be_said_so() {
        let both = json!([{"type": "integer"}, {"type": "string"}]);
        for schema in [
            json!({"x-kubernetes-int-or-string": true, "anyOf": both}),
            json!({"x-kubernetes-int-or-string": true, "allOf": [{"anyOf": both}, {"minimum": 1}]}),
            json!({"x-kubernetes-int-or-string": true}),
        ] {
            assert_eq!(texts(json!({"type": "object", "properties": {"a": schema}})), [""; 0]);
        }
    }
}
