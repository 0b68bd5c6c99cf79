//! OpenAPI v3 documents, one a group and version, made from the schema table when first asked for.
//!
//! They carry what kubectl needs to create, apply, edit and explain: types, group-version-kinds, list and merge keys, and the operations with their
//! parameters. They have no descriptions: the schema table has none.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use api::resources::{self, ResourceInfo};
use api::schema::{Field, FieldType, ListType, Message};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

/// `/openapi/v3`: where the documents are.
pub fn root() -> Value {
    let mut paths = Map::new();
    for info in resources::all() {
        let path = prefix(&info.group, &info.version);
        let hash = concat!("keelson-", env!("CARGO_PKG_VERSION"));
        paths.insert(
            path.clone(),
            json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}),
        );
    }
    json!({"paths": paths})
}

fn prefix(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

/// The document of a group and version.
pub fn document(group: &str, version: &str) -> Option<Bytes> {
    static MADE: OnceLock<Mutex<HashMap<(String, String), Bytes>>> = OnceLock::new();
    let served: Vec<&ResourceInfo> = resources::all()
        .iter()
        .filter(|info| info.group == group && info.version == version)
        .collect();
    if served.is_empty() {
        return None;
    }
    let mut made = MADE.get_or_init(Mutex::default).lock();
    let document = made
        .entry((group.to_owned(), version.to_owned()))
        .or_insert_with(|| make(&served).to_string().into());
    Some(document.clone())
}

fn make(served: &[&ResourceInfo]) -> Value {
    let mut document = Document::default();
    for info in served {
        document.resource(info);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.35.0"},
        "paths": document.paths,
        "components": {"schemas": document.schemas},
    })
}

#[derive(Default)]
struct Document {
    paths: BTreeMap<String, Value>,
    schemas: BTreeMap<String, Value>,
}

impl Document {
    fn resource(&mut self, info: &ResourceInfo) {
        let reference = self.reference(info.message);
        self.mark_kind(&reference, info);
        let base = format!("/{}", prefix(&info.group, &info.version));
        let collection = if info.namespaced {
            format!("{base}/namespaces/{{namespace}}/{}", info.resource)
        } else {
            format!("{base}/{}", info.resource)
        };
        let mut own = Map::new();
        let mut one = Map::new();
        for verb in info.verbs {
            match *verb {
                "list" => drop(own.insert(
                    "get".into(),
                    operation(
                        "list",
                        info,
                        &reference,
                        &["limit", "continue", "labelSelector", "fieldSelector", "resourceVersion"],
                    ),
                )),
                "create" => drop(own.insert("post".into(), operation("post", info, &reference, WRITE))),
                "deletecollection" => drop(own.insert(
                    "delete".into(),
                    operation(
                        "deletecollection",
                        info,
                        &reference,
                        &["labelSelector", "fieldSelector"],
                    ),
                )),
                "get" => drop(one.insert("get".into(), operation("get", info, &reference, &[]))),
                "update" => drop(one.insert("put".into(), operation("put", info, &reference, WRITE))),
                "patch" => drop(one.insert("patch".into(), operation("patch", info, &reference, WRITE))),
                "delete" => drop(one.insert(
                    "delete".into(),
                    operation(
                        "delete",
                        info,
                        &reference,
                        &["gracePeriodSeconds", "propagationPolicy", "dryRun"],
                    ),
                )),
                _ => {}
            }
        }
        self.paths.insert(format!("{collection}/{{name}}"), one.into());
        self.paths.insert(collection, own.into());
    }

    fn mark_kind(&mut self, reference: &str, info: &ResourceInfo) {
        let name = reference.rsplit('/').next().unwrap_or_default();
        if let Some(schema) = self.schemas.get_mut(name) {
            schema["x-kubernetes-group-version-kind"] =
                json!([{"group": info.group, "version": info.version, "kind": info.kind}]);
            schema["properties"]["apiVersion"] = json!({"type": "string"});
            schema["properties"]["kind"] = json!({"type": "string"});
        }
    }

    /// Adds a message and everything it refers to; answers its `$ref`.
    fn reference(&mut self, message: &'static Message) -> String {
        let name = definition(message.name);
        let reference = format!("#/components/schemas/{name}");
        if self.schemas.contains_key(&name) {
            return reference;
        }
        // First the name: messages may contain themselves.
        self.schemas.insert(name.clone(), Value::Null);
        let (mut properties, mut required) = (Map::new(), Vec::new());
        self.fields(message, &mut properties, &mut required);
        let mut schema = json!({"type": "object", "properties": properties});
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        self.schemas.insert(name, schema);
        reference
    }

    fn fields(
        &mut self,
        message: &'static Message,
        properties: &mut Map<String, Value>,
        required: &mut Vec<&'static str>,
    ) {
        for field in message.fields {
            match field.ty {
                FieldType::Message(inner) if field.inlined => self.fields(inner, properties, required),
                _ => {
                    if field.required {
                        required.push(field.json);
                    }
                    let schema = self.field(field);
                    properties.insert(field.json.to_owned(), schema);
                }
            }
        }
    }

    fn field(&mut self, field: &Field) -> Value {
        let mut schema = self.value(&field.ty);
        if field.repeated {
            schema = json!({"type": "array", "items": schema});
            match field.merge.list_type {
                ListType::Atomic => schema["x-kubernetes-list-type"] = "atomic".into(),
                ListType::Set => schema["x-kubernetes-list-type"] = "set".into(),
                ListType::Map { keys } => {
                    schema["x-kubernetes-list-type"] = "map".into();
                    schema["x-kubernetes-list-map-keys"] = json!(keys);
                }
            }
        } else if schema.get("$ref").is_some() {
            // A reference stands alone; what is said of the field stands beside it.
            schema = json!({"allOf": [schema]});
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

    fn value(&mut self, ty: &FieldType) -> Value {
        match ty {
            FieldType::Bool => json!({"type": "boolean"}),
            FieldType::Int32 => json!({"type": "integer", "format": "int32"}),
            FieldType::Int64 => json!({"type": "integer", "format": "int64"}),
            FieldType::Double => json!({"type": "number", "format": "double"}),
            FieldType::String => json!({"type": "string"}),
            FieldType::Bytes => json!({"type": "string", "format": "byte"}),
            FieldType::Quantity => json!({"type": "string"}),
            FieldType::IntOrString => {
                json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"})
            }
            FieldType::Time | FieldType::MicroTime => json!({"type": "string", "format": "date-time"}),
            FieldType::RawJson => json!({"type": "object"}),
            FieldType::StringList => json!({"type": "array", "items": {"type": "string"}}),
            FieldType::SchemaOrBool(_) | FieldType::SchemaOrArray(_) | FieldType::SchemaOrStrings(_) => json!({}),
            FieldType::Message(inner) => json!({"$ref": self.reference(inner)}),
            FieldType::Map(value) => json!({"type": "object", "additionalProperties": self.value(value)}),
        }
    }
}

/// Query parameters of writes.
const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];

fn operation(action: &str, info: &ResourceInfo, reference: &str, parameters: &[&str]) -> Value {
    let parameters: Vec<Value> = parameters
        .iter()
        .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
        .collect();
    let content = json!({"application/json": {"schema": {"$ref": reference}}});
    let mut operation = json!({
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": content}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": info.group, "version": info.version, "kind": info.kind},
    });
    match action {
        "post" | "put" => {
            operation["requestBody"] = json!({"content": {"*/*": {"schema": {"$ref": reference}}}, "required": true})
        }
        "patch" => {
            let any = json!({"schema": {"type": "object"}});
            operation["requestBody"] = json!({"required": true, "content": {
                "application/json-patch+json": any, "application/merge-patch+json": any, "application/strategic-merge-patch+json": any, "application/apply-patch+yaml": any}});
        }
        _ => {}
    }
    operation
}

/// `io.k8s.api.core.v1.Pod` of `k8s.io.api.core.v1.Pod`.
fn definition(message: &str) -> String {
    message
        .strip_prefix("k8s.io.")
        .map_or_else(|| message.to_owned(), |rest| format!("io.k8s.{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_of_pods_takes_field_validation() {
        let document: Value = serde_json::from_slice(&document("", "v1").unwrap()).unwrap();
        let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Pod");
        assert!(
            patch["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .any(|p| p["name"] == "fieldValidation")
        );
        let containers = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        for info in resources::all() {
            let text = document(&info.group, &info.version).unwrap();
            let document: Value = serde_json::from_slice(&text).unwrap();
            let schemas = document["components"]["schemas"].as_object().unwrap();
            for part in std::str::from_utf8(&text)
                .unwrap()
                .split("\"$ref\":\"#/components/schemas/")
                .skip(1)
            {
                let name = part.split('"').next().unwrap();
                assert!(schemas.get(name).is_some_and(Value::is_object), "{name}");
            }
        }
    }
}
