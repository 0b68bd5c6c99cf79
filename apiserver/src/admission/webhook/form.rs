//! The form in which a hook sees a request: the resource and kind that its rule names, and objects in that version. A hook may ask for another
//! version of the same resource than the request came in (`matchPolicy: Equivalent`).

use std::sync::Arc;

use api::apply::{self, Schema};
use api::{Error, schema};
use serde_json::Value;

use super::rules::Asked;
use crate::apiextensions::definition::Conversion;
use crate::kinds::field::text;
use crate::registry::access::AdmissionRequest;
use crate::registry::decode::{self, Expected};
use crate::registry::{Kind, convert, meta, scale};

/// A resource in one version, and which part of it is asked for.
#[derive(Clone)]
pub(in crate::admission) struct Form {
    kind: Arc<Kind>,
    subresource: String,
}

/// What the object of a request is.
enum Shape {
    /// The resource's own object.
    Whole,
    /// The view that `scale` offers.
    Scale,
    /// An object of another kind: a Binding, an Eviction, the options of a connection.
    Other,
}

impl Form {
    /// The form in which the request came.
    pub(in crate::admission) fn requested(request: &AdmissionRequest<'_>) -> Option<Self> {
        Some(Self {
            kind: request.kind.clone()?,
            subresource: request.attributes.subresource.clone(),
        })
    }

    /// The other versions (and groups) under which the same objects are served. Those of a definition count where nothing but their name
    /// has to change.
    pub(in crate::admission) fn equivalents(&self) -> impl Iterator<Item = Self> {
        let same = |kind: &&Arc<Kind>| kind.prefix == self.kind.prefix && !Arc::ptr_eq(kind, &self.kind);
        let has = |kind: &Arc<Kind>| self.subresource.is_empty() || kind.info.subresource(&self.subresource).is_some();
        let built_in = crate::registry::kinds().iter().filter(same).cloned();
        let kinds = built_in.chain(self.other_versions()).filter(has);
        kinds.map(|kind| Self {
            kind,
            subresource: self.subresource.clone(),
        })
    }

    fn other_versions(&self) -> Vec<Arc<Kind>> {
        let Some(custom) = self.kind.strategy.custom() else {
            return Vec::new();
        };
        let definition = &custom.definition;
        if definition.conversion != Conversion::None {
            return Vec::new();
        }
        let versions = definition.versions.iter().enumerate();
        let others = versions.filter(|(_, version)| version.served && version.name != custom.version().name);
        others.filter_map(|(index, _)| definition.kind_of(index)).collect()
    }

    /// The request in this form as rules see it.
    pub(in crate::admission) fn asked<'a>(&'a self, operation: &'a str, namespace: &'a str) -> Asked<'a> {
        Asked {
            operation,
            group: &self.kind.info.group,
            version: &self.kind.info.version,
            resource: &self.kind.info.resource,
            subresource: &self.subresource,
            namespace,
        }
    }

    /// Group, version and plural.
    pub(in crate::admission) fn resource(&self) -> [&str; 3] {
        let info = &self.kind.info;
        [&info.group, &info.version, &info.resource]
    }

    /// Group, version and kind of the object.
    pub(in crate::admission) fn kind(&self) -> [&str; 3] {
        let info = &self.kind.info;
        match info.subresource(&self.subresource) {
            Some(sub) => [&sub.group, &sub.version, &sub.kind],
            None => [&info.group, &info.version, &info.kind],
        }
    }

    /// Empty, `status`, ...
    pub(in crate::admission) fn subresource(&self) -> &str {
        &self.subresource
    }

    /// A custom object under the name of another version; `None` when it has that name, or no definition.
    fn renamed(&self, object: &Value, api_version: String) -> Option<Value> {
        let custom = self.kind.strategy.custom()?;
        let other = text(object, "/apiVersion") != api_version;
        other.then(|| custom.renamed(object, &api_version)).flatten()
    }

    fn shape(&self) -> Shape {
        match self.kind()[2] {
            "Scale" if self.subresource == "scale" => Shape::Scale,
            kind if kind == self.kind.info.kind => Shape::Whole,
            _ => Shape::Other,
        }
    }

    /// An object of the pipeline in this form; null stays null.
    pub(in crate::admission) fn show(&self, object: &Value) -> Value {
        if object.is_null() {
            return Value::Null;
        }
        match self.shape() {
            Shape::Whole => match self.renamed(object, self.kind.api_version()) {
                Some(renamed) => renamed,
                None => convert::from_storage(&self.kind, object.clone()),
            },
            Shape::Scale => scale::view(&self.kind, object),
            Shape::Other => object.clone(),
        }
    }

    /// An object of this form with an apply configuration laid over it.
    ///
    /// # Errors
    /// What in the configuration does not fit the kind.
    pub(in crate::admission) fn merge(&self, object: &Value, config: &Value) -> Result<Value, String> {
        let [group, version, kind] = self.kind();
        let schema = match (self.kind.strategy.custom(), schema::for_kind(group, version, kind)) {
            (Some(custom), _) if matches!(self.shape(), Shape::Whole) => Schema::Shape(&custom.version().shape),
            (_, Some(message)) => Schema::Message(message),
            _ => Schema::Shape(&apply::Shape::Deduced),
        };
        apply::merge(schema, object, config)
            .map_err(|error| format!("error applying ApplyConfiguration patch: {error}"))
    }

    /// An object in this form, changed by a hook, as the pipeline's again: types checked, defaults filled in.
    ///
    /// # Errors
    /// What does not fit the kind, naming the field.
    pub(in crate::admission) fn take(&self, changed: &Value, object: &Value) -> Result<Value, Error> {
        let [group, version, kind] = self.kind();
        let api_version = api::join_api_version(group, version);
        let normalize = |message| {
            let expected = Expected {
                api_version: &api_version,
                kind,
                message,
                custom: None,
            };
            decode::normalize(expected, changed)
        };
        let schema = || {
            let message = schema::for_kind(group, version, kind);
            message.ok_or_else(|| Error::internal(format!("no schema for {api_version} {kind}")))
        };
        match self.shape() {
            Shape::Whole => {
                let normal = decode::normalize(self.kind.expected(&api_version), changed)?;
                let asked = text(object, "/apiVersion").to_owned();
                let mut new = match self.renamed(&normal, asked) {
                    Some(renamed) => renamed,
                    None => convert::to_storage(&self.kind, normal),
                };
                keep_system_fields(&mut new, object);
                self.kind.strategy.default(&mut new);
                Ok(new)
            }
            Shape::Scale => {
                let view = normalize(schema()?)?;
                let replicas = view.pointer("/spec/replicas").cloned().unwrap_or_else(|| 0.into());
                let mut new = object.clone();
                scale::set(&mut new, self.kind.strategy.scale().spec_replicas, replicas);
                Ok(new)
            }
            Shape::Other => normalize(schema()?),
        }
    }
}

/// What the server alone decides about an object.
fn keep_system_fields(new: &mut Value, old: &Value) {
    for field in [
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        match old.pointer(&format!("/metadata/{field}")) {
            Some(value) => meta::of(new).insert(field.to_owned(), value.clone()),
            None => meta::of(new).remove(field),
        };
    }
}
