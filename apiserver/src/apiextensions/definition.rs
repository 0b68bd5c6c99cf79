//! A CustomResourceDefinition as the server uses it: read once, with the schemas of all its versions, and replaced as a whole when it changes.

use std::sync::Arc;

use api::apply::Shape;
use api::resources::{ALL_VERBS, CHANGE, ResourceInfo, Subresource, Text};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::custom::Custom;
use super::expressions;
use super::jsonpath::JsonPath;
use super::schema::Schema;
use super::value::fingerprint;
use crate::registry::{Kind, Rules};

/// What objects of other versions go through.
#[derive(Clone, Debug, PartialEq)]
pub enum Conversion {
    /// Only `apiVersion` changes.
    None,
    /// The object's owner converts it.
    Webhook {
        /// `clientConfig` as it stands: a URL or a service, and who signs for it.
        client: Value,
        /// Of `ConversionReview`, the preferred one first.
        review_versions: Vec<String>,
    },
}

/// A printer column.
pub struct Column {
    /// Name, type, format, description and priority as a table tells them.
    pub definition: Value,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub ty: String,
    /// Where the cell comes from; nothing for a path that cannot be read.
    pub path: Option<JsonPath>,
}

/// JSON pointers of the `scale` subresource.
#[derive(Clone, Debug, PartialEq)]
pub struct ScalePaths {
    /// Desired number.
    pub spec_replicas: String,
    /// Observed number.
    pub status_replicas: String,
    /// A selector as text.
    pub selector: Option<String>,
}

/// One version.
pub struct Version {
    /// As `v1`.
    pub name: String,
    /// It is served.
    pub served: bool,
    /// What its objects are like.
    pub schema: Schema,
    /// The same for server-side apply.
    pub shape: Shape,
    /// The same as it stands in the definition.
    pub document: Arc<Value>,
    /// The rules in it, compiled.
    pub rules: expressions::Rules,
    /// Of the schema.
    pub fingerprint: u64,
    /// Told to everybody who uses it.
    pub warning: Option<String>,
    /// Status is a subresource.
    pub status: bool,
    /// Scale is a subresource.
    pub scale: Option<ScalePaths>,
    /// Besides the name.
    pub columns: Vec<Column>,
    /// As `spec.color`.
    pub selectable: Vec<String>,
}

/// A definition.
pub struct Definition {
    /// `<plural>.<group>`.
    pub name: String,
    /// Without the dot: as `example.com`.
    pub group: String,
    /// As accepted.
    pub kind: String,
    /// All of them.
    pub versions: Vec<Version>,
    /// The place of the one that is stored.
    pub storage: usize,
    /// Between them.
    pub conversion: Conversion,
    /// Its objects are being removed: there are no new ones.
    pub terminating: bool,
    /// Requested once another definition has taken its place: watches end then, and their clients come back to the new one.
    pub retired: CancellationToken,
    names: Names,
    namespaced: bool,
}

struct Names {
    plural: String,
    singular: String,
    list_kind: String,
    short: Vec<String>,
    categories: Vec<String>,
}

impl Definition {
    /// Reads a definition; names are those that were accepted. `None` without a storage version.
    pub fn read(crd: &Value) -> Option<Self> {
        let spec = crd.get("spec")?;
        let text =
            |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
        let names = crd
            .pointer("/status/acceptedNames")
            .filter(|names| !text(names, "/plural").is_empty());
        let names = names.or_else(|| spec.get("names"))?;
        let group = text(spec, "/group");
        let kind = text(names, "/kind");
        let list = list(spec, "/versions");
        let storage = list.iter().position(|version| flag(version, "/storage"))?;
        let versions = list
            .iter()
            .map(|version| Version::read(version, &group, &kind))
            .collect();
        Some(Self {
            name: text(crd, "/metadata/name"),
            versions,
            storage,
            conversion: conversion(spec),
            terminating: condition(crd, "Terminating") == Some("True"),
            retired: CancellationToken::new(),
            names: Names {
                plural: text(names, "/plural"),
                singular: text(names, "/singular"),
                list_kind: text(names, "/listKind"),
                short: texts(names, "/shortNames"),
                categories: texts(names, "/categories"),
            },
            namespaced: text(spec, "/scope") == "Namespaced",
            group,
            kind,
        })
    }

    /// The version that is stored.
    pub fn storage(&self) -> &Version {
        &self.versions[self.storage]
    }

    /// A version by name.
    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.name == name)
    }

    /// `<group>/<version>`.
    pub fn api_version(&self, version: &str) -> String {
        api::join_api_version(&self.group, version)
    }

    /// The kinds that it serves, in the order of its versions.
    pub fn kinds(self: &Arc<Self>) -> Vec<Arc<Kind>> {
        let served = self.versions.iter().enumerate().filter(|(_, version)| version.served);
        served.filter_map(|(index, _)| self.kind_of(index)).collect()
    }

    /// The kind of its storage version, served or not.
    pub fn storage_kind(self: &Arc<Self>) -> Option<Arc<Kind>> {
        self.kind_of(self.storage)
    }

    /// The kind of the version at that place, served or not.
    pub fn kind_of(self: &Arc<Self>, index: usize) -> Option<Arc<Kind>> {
        let info = Arc::new(self.info(self.versions.get(index)?)?);
        let custom = Arc::new(Custom::new(self.clone(), index));
        Some(Arc::new(Kind {
            prefix: format!("{}/{}/", self.group, self.names.plural),
            storage: info.clone(),
            info,
            strategy: Rules::Custom(custom),
        }))
    }

    fn info(&self, version: &Version) -> Option<ResourceInfo> {
        let owned = |text: &str| Text::Owned(text.to_owned());
        let all = |texts: &[String]| texts.iter().map(|text| owned(text)).collect();
        let subresource = |name, group: &str, version: &str, kind: &str| Subresource {
            name,
            group: owned(group),
            version: owned(version),
            kind: owned(kind),
            verbs: CHANGE,
        };
        let mut subresources = Vec::new();
        if version.scale.is_some() {
            subresources.push(subresource("scale", "autoscaling", "v1", "Scale"));
        }
        if version.status {
            subresources.push(subresource("status", &self.group, &version.name, &self.kind));
        }
        Some(ResourceInfo {
            group: owned(&self.group),
            version: owned(&version.name),
            resource: owned(&self.names.plural),
            singular: owned(&self.names.singular),
            kind: owned(&self.kind),
            list_kind: owned(&self.names.list_kind),
            namespaced: self.namespaced,
            short_names: all(&self.names.short),
            categories: all(&self.names.categories),
            verbs: ALL_VERBS,
            subresources,
            storage_group: owned(&self.group),
            storage_version: owned(&self.storage().name),
            message: api::resources::custom_message()?,
        })
    }
}

impl Version {
    fn read(version: &Value, group: &str, kind: &str) -> Self {
        let text = |pointer: &str| version.pointer(pointer).and_then(Value::as_str).unwrap_or("");
        let name = text("/name").to_owned();
        let document = version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_default();
        let warning = flag(version, "/deprecated").then(|| match text("/deprecationWarning") {
            "" => format!("{group}/{name} {kind} is deprecated"),
            warning => warning.to_owned(),
        });
        let schema = Schema::parse(&document);
        let scale = version.pointer("/subresources/scale").map(|_| ScalePaths {
            spec_replicas: pointer(text("/subresources/scale/specReplicasPath")),
            status_replicas: pointer(text("/subresources/scale/statusReplicasPath")),
            selector: Some(text("/subresources/scale/labelSelectorPath"))
                .filter(|path| !path.is_empty())
                .map(pointer),
        });
        let selectable = list(version, "/selectableFields").iter();
        Self {
            served: flag(version, "/served"),
            fingerprint: fingerprint(&document),
            shape: super::shape::of_object(&schema),
            schema,
            rules: expressions::Rules::new(&document),
            document: Arc::new(document),
            warning,
            status: version.pointer("/subresources/status").is_some(),
            scale,
            columns: columns(version),
            selectable: selectable
                .filter_map(|field| field.get("jsonPath")?.as_str())
                .map(|path| path.trim_start_matches('.').to_owned())
                .collect(),
            name,
        }
    }
}

/// The printer columns of a version; its age if it names none.
fn columns(version: &Value) -> Vec<Column> {
    let age = [
        serde_json::json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
        "description": "CreationTimestamp is the server's time when the object was created."}),
    ];
    let named = match list(version, "/additionalPrinterColumns") {
        [] => &age[..],
        named => named,
    };
    named.iter().map(Column::read).collect()
}

impl Column {
    fn read(column: &Value) -> Self {
        let text = |key: &str| column.get(key).and_then(Value::as_str).unwrap_or("");
        let path = text("jsonPath");
        let description = match text("description") {
            "" => format!("Custom resource definition column (in JSONPath format): {path}"),
            description => description.to_owned(),
        };
        Self {
            definition: serde_json::json!({
                "name": text("name"), "type": text("type"), "format": text("format"), "description": description,
                "priority": column.get("priority").and_then(Value::as_i64).unwrap_or(0),
            }),
            ty: text("type").to_owned(),
            path: JsonPath::parse(path).ok(),
        }
    }
}

/// `/spec/replicas` of `.spec.replicas`.
fn pointer(path: &str) -> String {
    path.trim_start_matches('.')
        .split('.')
        .map(|step| format!("/{}", step.replace('~', "~0").replace('/', "~1")))
        .collect()
}

fn conversion(spec: &Value) -> Conversion {
    match spec.pointer("/conversion/strategy").and_then(Value::as_str) {
        Some("Webhook") => Conversion::Webhook {
            client: spec
                .pointer("/conversion/webhook/clientConfig")
                .cloned()
                .unwrap_or_default(),
            review_versions: texts(spec, "/conversion/webhook/conversionReviewVersions"),
        },
        _ => Conversion::None,
    }
}

/// The status of a condition of a definition.
pub fn condition<'a>(crd: &'a Value, ty: &str) -> Option<&'a str> {
    let conditions = list(crd, "/status/conditions");
    let found = conditions
        .iter()
        .find(|condition| condition.get("type").and_then(Value::as_str) == Some(ty))?;
    found.get("status").and_then(Value::as_str)
}

/// The list at a place; empty if there is none.
pub fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// The texts of the list at a place.
pub fn texts(value: &Value, pointer: &str) -> Vec<String> {
    list(value, pointer)
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn flag(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}
