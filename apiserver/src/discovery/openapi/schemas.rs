//! Definitions: the schema of each built-in message in both dialects, from the schema table and the descriptions.

use std::collections::BTreeMap;

use api::schema::{self, Absent, Field, FieldType, ListType, Message};
use serde_json::{Map, Value, json};

use super::text::Descriptions;

/// The two forms of OpenAPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Swagger 2.0.
    V2,
    /// OpenAPI 3.0.
    V3,
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const APIEXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";
/// What writes of `metadata` look like.
pub const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
/// Metadata of lists.
pub const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
/// The body of a patch: no message of the table.
pub const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
/// The body of a deletion.
pub const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
/// The answer to a deletion.
pub const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
/// What a watch sends.
pub const WATCH_EVENT: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent";

/// A definition by its source.
#[derive(Clone, Copy)]
pub enum Definition {
    /// A message of the table.
    Message(&'static Message),
    /// A type that JSON shows as one value.
    Leaf,
}

impl Dialect {
    /// A reference to a definition.
    pub fn reference(self, name: &str) -> Value {
        json!({"$ref": format!("{}{name}", self.prefix())})
    }

    /// What stands before a name in `$ref`.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        }
    }
}

/// `io.k8s.api.core.v1.Pod` of `k8s.io.api.core.v1.Pod`.
pub fn name(message: &Message) -> String {
    let rest = message.name.strip_prefix("k8s.io.").unwrap_or(message.name);
    let rest = rest.replacen("apiextensions_apiserver", "apiextensions-apiserver", 1);
    format!("io.k8s.{}", rest.replacen("kube_aggregator", "kube-aggregator", 1))
}

/// Adds a message and everything that it refers to.
pub fn collect(message: &'static Message, all: &mut BTreeMap<String, Definition>) {
    let own = name(message);
    if all.insert(own, Definition::Message(message)).is_some() {
        return;
    }
    for field in message.json_fields() {
        let mut ty = field.ty;
        while let FieldType::Map(value) = ty {
            ty = *value;
        }
        match ty {
            FieldType::Message(inner) => collect(inner, all),
            FieldType::SchemaOrBool(inner) | FieldType::SchemaOrArray(inner) | FieldType::SchemaOrStrings(inner) => {
                collect(inner, all);
            }
            _ => {}
        }
        if let Some(leaf) = leaf(message, field, ty) {
            all.insert(leaf, Definition::Leaf);
        }
    }
}

/// The name of the definition of a type that is no message, if it has one.
fn leaf(message: &Message, field: &Field, ty: FieldType) -> Option<String> {
    Some(match ty {
        FieldType::Quantity => "io.k8s.apimachinery.pkg.api.resource.Quantity".into(),
        FieldType::IntOrString => "io.k8s.apimachinery.pkg.util.intstr.IntOrString".into(),
        FieldType::Time => format!("{META}Time"),
        FieldType::MicroTime => format!("{META}MicroTime"),
        FieldType::RawJson if field.json == "fieldsV1" => format!("{META}FieldsV1"),
        FieldType::RawJson if message.name.contains("apiextensions") => format!("{APIEXTENSIONS}JSON"),
        FieldType::RawJson => "io.k8s.apimachinery.pkg.runtime.RawExtension".into(),
        FieldType::SchemaOrBool(_) => format!("{APIEXTENSIONS}JSONSchemaPropsOrBool"),
        FieldType::SchemaOrArray(_) => format!("{APIEXTENSIONS}JSONSchemaPropsOrArray"),
        FieldType::SchemaOrStrings(_) => format!("{APIEXTENSIONS}JSONSchemaPropsOrStringArray"),
        _ => return None,
    })
}

/// The schema under a name.
pub fn schema(dialect: Dialect, name: &str, definition: Definition, texts: &Descriptions) -> Value {
    let mut schema = match definition {
        Definition::Message(message) => object(dialect, name, message, texts),
        Definition::Leaf => leaf_schema(dialect, name),
    };
    if let Some(text) = texts.of(name) {
        schema["description"] = text.into_owned().into();
    }
    schema
}

fn leaf_schema(dialect: Dialect, name: &str) -> Value {
    match (name.rsplit('.').next().unwrap_or(name), dialect) {
        ("Quantity", Dialect::V2) => json!({"type": "string"}),
        ("Quantity", Dialect::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        ("IntOrString", Dialect::V2) => json!({"type": "string", "format": "int-or-string"}),
        ("IntOrString", Dialect::V3) => {
            json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"})
        }
        ("Time" | "MicroTime", _) => json!({"type": "string", "format": "date-time"}),
        ("FieldsV1" | "RawExtension" | "Patch", _) => json!({"type": "object"}),
        // Any JSON, or one of two types: upstream says nothing more.
        _ => json!({}),
    }
}

fn object(dialect: Dialect, name: &str, message: &'static Message, texts: &Descriptions) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    let kinds = kinds_of(message);
    // A watch event is a kind without saying so.
    if !kinds.is_empty() && message.short_name() != "WatchEvent" {
        for property in ["apiVersion", "kind"] {
            properties.insert(
                property.into(),
                described(json!({"type": "string"}), texts, name, property),
            );
        }
    }
    for field in message.json_fields() {
        // k8s-openapi, not upstream, wants metadata of every object.
        if field.required && field.json != "metadata" {
            required.push(field.json);
        }
        let property = described(property(dialect, message, field), texts, name, field.json);
        properties.insert(field.json.to_owned(), property);
    }
    let mut schema = json!({"type": "object"});
    if !properties.is_empty() {
        schema["properties"] = properties.into();
    }
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if !kinds.is_empty() {
        schema["x-kubernetes-group-version-kind"] = kinds.into();
    }
    if message.atomic {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    schema
}

fn described(mut schema: Value, texts: &Descriptions, definition: &str, property: &str) -> Value {
    if let Some(text) = texts.of_property(definition, property) {
        schema["description"] = text.into();
    }
    schema
}

/// The kinds that are made of a message. Options and watch events are of every group and version.
fn kinds_of(message: &'static Message) -> Vec<Value> {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    if matches!(message.short_name(), "DeleteOptions" | "WatchEvent") {
        let mut versions: Vec<(&str, &str)> = api::resources::all()
            .iter()
            .map(|info| (&*info.group, &*info.version))
            .collect();
        versions.sort_unstable();
        versions.dedup();
        return versions
            .into_iter()
            .map(|(group, version)| kind(group, version, message.short_name()))
            .collect();
    }
    schema::kinds()
        .iter()
        .filter(|(.., made_of)| *made_of == message)
        .map(|(group, version, name, _)| kind(group, version, name))
        .collect()
}

fn property(dialect: Dialect, message: &Message, field: &Field) -> Value {
    let of_value = value(dialect, message, field, field.ty);
    let mut schema = if field.repeated {
        json!({"type": "array", "items": in_collection(dialect, of_value, field.ty)})
    } else if of_value.get("$ref").is_some() && dialect == Dialect::V3 {
        // A reference stands alone in OpenAPI 3.0; what is said of the field stands beside it.
        json!({"allOf": [of_value]})
    } else {
        of_value
    };
    if dialect == Dialect::V3
        && let Some(default) = default(field)
    {
        schema["default"] = default;
    }
    if field.repeated && field.absent != Absent::Empty {
        match field.merge.list_type {
            ListType::Atomic => schema["x-kubernetes-list-type"] = "atomic".into(),
            ListType::Set => schema["x-kubernetes-list-type"] = "set".into(),
            ListType::Map { keys } => {
                schema["x-kubernetes-list-type"] = "map".into();
                schema["x-kubernetes-list-map-keys"] = json!(keys);
            }
        }
    }
    if field.merge.atomic && !field.repeated {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    if let Some(key) = field.merge.patch_merge_key {
        schema["x-kubernetes-patch-merge-key"] = key.into();
    }
    let strategy = match (field.merge.patch_merge, field.merge.patch_retain_keys) {
        (true, true) => "merge,retainKeys",
        (true, false) => "merge",
        (false, true) => "retainKeys",
        (false, false) => return schema,
    };
    schema["x-kubernetes-patch-strategy"] = strategy.into();
    schema
}

/// What a reader may assume when the field is not there: the documented default of a list's key, or the zero of what is never null.
fn default(field: &Field) -> Option<Value> {
    if let Some(text) = field.merge.default {
        return serde_json::from_str(text).ok();
    }
    let always = field.absent == Absent::Zero && !field.repeated;
    always.then(|| zero(field.ty)).flatten()
}

fn zero(ty: FieldType) -> Option<Value> {
    Some(match ty {
        FieldType::Bool => false.into(),
        FieldType::Int32 | FieldType::Int64 | FieldType::Double => 0.into(),
        FieldType::String => "".into(),
        FieldType::Message(_) => json!({}),
        _ => return None,
    })
}

/// The schema of an item or of a map's value.
fn in_collection(dialect: Dialect, mut schema: Value, ty: FieldType) -> Value {
    if dialect == Dialect::V2 {
        return schema;
    }
    if schema.get("$ref").is_some() {
        schema = json!({"allOf": [schema]});
    }
    if let Some(zero) = zero(ty) {
        schema["default"] = zero;
    }
    schema
}

fn value(dialect: Dialect, message: &Message, field: &Field, ty: FieldType) -> Value {
    if let Some(leaf) = leaf(message, field, ty) {
        return dialect.reference(&leaf);
    }
    match ty {
        FieldType::Bool => json!({"type": "boolean"}),
        FieldType::Int32 => json!({"type": "integer", "format": "int32"}),
        FieldType::Int64 => json!({"type": "integer", "format": "int64"}),
        FieldType::Double => json!({"type": "number", "format": "double"}),
        FieldType::Bytes => json!({"type": "string", "format": "byte"}),
        FieldType::StringList => {
            json!({"type": "array", "items": in_collection(dialect, json!({"type": "string"}), FieldType::String)})
        }
        FieldType::Message(inner) => dialect.reference(&name(inner)),
        FieldType::Map(inner) => {
            let of_value = value(dialect, message, field, *inner);
            json!({"type": "object", "additionalProperties": in_collection(dialect, of_value, *inner)})
        }
        _ => json!({"type": "string"}),
    }
}
