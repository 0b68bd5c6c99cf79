//! What a definition's schema may say of OpenAPI, and its `x-kubernetes-*` extensions.

use serde_json::Value;

use crate::kinds::field::{Errors, Field};

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
const META_FIELDS: &[&str] = &["metadata", "kind", "apiVersion"];
/// What the root of a schema may have beside a status subresource, and how upstream calls it.
const AT_ROOT: &[(&str, &str)] = &[
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
    ("x-kubernetes-validations", "XValidations"),
];

/// Where a schema stands in another.
#[derive(Clone, Copy)]
pub struct Place {
    root: bool,
    /// Within the type or metadata of an object.
    meta: bool,
    /// Why there may be no default.
    no_defaults: Option<&'static str>,
}

impl Place {
    /// The schema of a whole object.
    pub const ROOT: Self = Self {
        root: true,
        meta: false,
        no_defaults: None,
    };

    fn inner(self) -> Self {
        Self { root: false, ..self }
    }
}

/// With a status subresource the root says nothing that would be lost when the status is validated alone.
pub fn check_root(schema: &Field<'_>, errors: &mut Errors) {
    let ty = schema.get("type");
    if !ty.is_empty() && ty.str() != "object" {
        return ty.invalid(
            errors,
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled",
        );
    }
    let members = schema.value.as_object().into_iter().flatten();
    let zero = |value: &Value| matches!(value, Value::Null | Value::Bool(false));
    let mut others = members.filter(|(key, value)| !zero(value) && !AT_ROOT.iter().any(|(known, _)| known == key));
    if others.next().is_some() {
        let names: Vec<&str> = AT_ROOT.iter().map(|(_, name)| *name).collect();
        let why = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            names.join(" ")
        );
        schema.invalid(errors, why);
    }
}

/// The faults of a schema and everything in it.
pub fn check(schema: &Field<'_>, place: &Place, errors: &mut Errors) {
    supported(schema, place, errors);
    if schema.get("uniqueItems").bool() {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        schema.get("uniqueItems").forbidden(errors, why);
    }
    let (additional, properties) = (schema.get("additionalProperties"), schema.get("properties"));
    if additional.exists() {
        if !properties.is_empty() && additional.value != &Value::Bool(true) {
            additional.forbidden(errors, "additionalProperties and properties are mutual exclusive");
        }
        let mut inner = place.inner();
        if inner.meta {
            inner.no_defaults = Some("inside additionalProperties applying to object metadata");
        }
        if additional.value.is_object() {
            check(&additional, &inner, errors);
        }
    }
    let is_object = place.root || schema.get("x-kubernetes-embedded-resource").bool();
    for (name, property) in properties.entries() {
        let mut inner = place.inner();
        if is_object && META_FIELDS.contains(&name) {
            inner.meta = true;
            if place.root {
                inner.no_defaults = match name {
                    "metadata" => Some("in top-level metadata"),
                    "kind" => Some("in top-level kind"),
                    _ => Some("in top-level apiVersion"),
                };
            }
        }
        check(&property, &inner, errors);
    }
    let not = schema.get("not");
    if not.exists() {
        check(&not, &place.inner(), errors);
    }
    for key in ["allOf", "oneOf", "anyOf"] {
        for part in schema.get(key).items() {
            check(&part, &place.inner(), errors);
        }
    }
    let items = schema.get("items");
    if items.value.is_object() {
        check(&items, &place.inner(), errors);
    }
    extensions(schema, errors);
    list_type(schema, errors);
}

fn supported(schema: &Field<'_>, place: &Place, errors: &mut Errors) {
    let ty = schema.get("type");
    if !ty.is_empty() && !TYPES.contains(&ty.str()) {
        ty.one_of(errors, TYPES);
    }
    let default = schema.get("default");
    if let (true, Some(why)) = (default.exists(), place.no_defaults) {
        default.forbidden(errors, &format!("must not be set {why}"));
    }
    for key in [
        "id",
        "additionalItems",
        "patternProperties",
        "definitions",
        "dependencies",
        "$ref",
    ] {
        let field = schema.get(key);
        if field.exists() && !field.value.as_object().is_some_and(serde_json::Map::is_empty) {
            field.forbidden(errors, &format!("{key} is not supported"));
        }
    }
    if ty.str() == "null" {
        ty.forbidden(errors, "type cannot be set to null, use nullable as an alternative");
    }
    let items = schema.get("items");
    if items.value.as_array().is_some_and(|items| !items.is_empty()) {
        items.forbidden(errors, "items must be a schema object and not an array");
    }
    let embedded = schema.get("x-kubernetes-embedded-resource");
    if place.meta && embedded.bool() {
        embedded.forbidden(errors, "must not be used inside of resource meta");
    }
}

fn extensions(schema: &Field<'_>, errors: &mut Errors) {
    let preserve = schema.get("x-kubernetes-preserve-unknown-fields");
    if preserve.exists() && !preserve.bool() {
        preserve.invalid(errors, "must be true or undefined");
    }
    let ty = schema.get("type");
    let typed = |wanted: &str, key: &str, errors: &mut Errors| {
        if !schema.get(key).exists() || ty.str() == wanted {
            return;
        }
        let why = format!("must be {wanted} if {key} is specified");
        if ty.is_empty() {
            ty.required(errors, &why);
        } else {
            ty.invalid(errors, why);
        }
    };
    typed("object", "x-kubernetes-map-type", errors);
    typed("array", "x-kubernetes-list-type", errors);
    let map_type = schema.get("x-kubernetes-map-type");
    if map_type.exists() {
        map_type.one_of(errors, &["atomic", "granular"]);
    }
}

fn list_type(schema: &Field<'_>, errors: &mut Errors) {
    let (list_type, keys, items) = (
        schema.get("x-kubernetes-list-type"),
        schema.get("x-kubernetes-list-map-keys"),
        schema.get("items"),
    );
    if list_type.exists() {
        list_type.one_of(errors, &["atomic", "set", "map"]);
    }
    if !keys.is_empty() && list_type.str() != "map" {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        if list_type.exists() {
            list_type.invalid(errors, why);
        } else {
            list_type.required(errors, why);
        }
    }
    match list_type.str() {
        "set" => set_items(&items, errors),
        "map" => {
            if keys.is_empty() {
                keys.required(errors, "must not be empty if x-kubernetes-list-type is map");
            }
            if items.exists() {
                map_items(&items, &keys, errors);
            } else {
                items.required(errors, "must have a schema if x-kubernetes-list-type is map");
            }
        }
        _ => return,
    }
    let nullable = items.get("nullable");
    if nullable.bool() {
        nullable.forbidden(
            errors,
            &format!("cannot be nullable when x-kubernetes-list-type is {}", list_type.str()),
        );
    }
}

fn set_items(items: &Field<'_>, errors: &mut Errors) {
    const WHY: &str = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let (list_type, map_type) = (items.get("x-kubernetes-list-type"), items.get("x-kubernetes-map-type"));
    match items.get("type").str() {
        "array" if list_type.exists() && list_type.str() != "atomic" => list_type.invalid(errors, WHY),
        "object" if map_type.str() != "atomic" => map_type.showing(list_type.value).invalid(errors, WHY),
        _ => {}
    }
}

fn map_items(items: &Field<'_>, keys: &Field<'_>, errors: &mut Errors) {
    let ty = items.get("type");
    if ty.str() != "object" {
        return ty.invalid(errors, "must be object if parent array's x-kubernetes-list-type is map");
    }
    let (properties, required) = (items.get("properties"), items.get("required"));
    let mut seen = Vec::new();
    for key in keys.items() {
        let name = key.str();
        let property = properties.key(name);
        if !property.exists() {
            keys.invalid(errors, "entries must all be names of item properties");
        } else if matches!(property.get("type").str(), "array" | "object") {
            let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            property.get("type").showing(ty.value).invalid(errors, why);
        }
        if seen.contains(&name) {
            keys.invalid(errors, "must not contain duplicate entries");
        }
        seen.push(name);
        if !property.exists() {
            continue;
        }
        let is_required = required.items().any(|required| required.str() == name);
        if !is_required && !property.get("default").exists() {
            property.get("default").required(
                errors,
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            );
        }
        if property.get("nullable").bool() {
            property.get("nullable").forbidden(
                errors,
                "this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn extensions_are_checked() {
        let list = |extra: Value| {
            let mut list =
                json!({"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}}}});
            list.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            list
        };
        for (schema, expected) in [
            (
                list(json!({"x-kubernetes-list-type": "map"})),
                "s.x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
            ),
            (
                list(json!({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]})),
                "s.items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            ),
            (
                list(json!({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["z"]})),
                r#"s.x-kubernetes-list-map-keys: Invalid value: ["z"]: entries must all be names of item properties"#,
            ),
            (
                list(json!({"x-kubernetes-list-map-keys": ["k"]})),
                "s.x-kubernetes-list-type: Required value: must be map if x-kubernetes-list-map-keys is non-empty",
            ),
            (
                list(json!({"x-kubernetes-list-type": "bag"})),
                r#"s.x-kubernetes-list-type: Unsupported value: "bag": supported values: "atomic", "set", "map""#,
            ),
            (
                json!({"type": "string", "x-kubernetes-list-type": "set"}),
                r#"s.type: Invalid value: "string": must be array if x-kubernetes-list-type is specified"#,
            ),
            (
                json!({"type": "object", "x-kubernetes-preserve-unknown-fields": false}),
                "s.x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined",
            ),
            (
                json!({"type": "thing"}),
                r#"s.type: Unsupported value: "thing": supported values: "array", "boolean", "integer", "number", "object", "string""#,
            ),
            (
                json!({"type": "object", "properties": {"metadata": {"type": "object", "default": {}}}}),
                "s.properties[metadata].default: Forbidden: must not be set in top-level metadata",
            ),
            (
                json!({"type": "array", "uniqueItems": true, "items": {"type": "string"}}),
                "s.uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
                "s.additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
            ),
            (json!({"$ref": "x"}), "s.$ref: Forbidden: $ref is not supported"),
        ] {
            let mut errors = Errors::new();
            check(&Field::root("s", &schema), &Place::ROOT, &mut errors);
            let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert!(found.contains(&expected.to_owned()), "{expected}\n{found:#?}");
        }
    }
}
