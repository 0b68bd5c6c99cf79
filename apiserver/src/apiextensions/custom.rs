//! The rules of custom objects: [`Custom`] is the [`Strategy`] that a definition gives to the kind of one of its versions, and the way
//! between their stored form and the version that is asked for.

use std::sync::Arc;

use api::{Error, FieldError, FieldErrorKind, codec};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::definition::{Column, Conversion, Definition, Version};
use super::schema::{default, lists, metadata, prune, validate};
use super::value::{self, Stored};
use crate::registry::meta;
use crate::registry::strategy::{Scale, Strategy, WriteContext, remove, restore};
use crate::registry::table;

/// The kind of one version of a definition.
pub struct Custom {
    /// The definition.
    pub definition: Arc<Definition>,
    index: usize,
    api_version: String,
}

impl Custom {
    /// The kind of the version at that place, which exists.
    pub fn new(definition: Arc<Definition>, index: usize) -> Self {
        let api_version = definition.api_version(&definition.versions[index].name);
        Self {
            definition,
            index,
            api_version,
        }
    }

    /// The version.
    pub fn version(&self) -> &Version {
        &self.definition.versions[self.index]
    }

    /// The version of `<group>/<version>`, if it is one of the definition's.
    pub fn version_of(&self, api_version: &str) -> Option<&Version> {
        let (group, version) = api_version.split_once('/')?;
        self.definition
            .version(version)
            .filter(|_| group == self.definition.group)
    }

    /// An object under the name of another version, where nothing else has to change.
    pub fn renamed(&self, object: &Value, api_version: &str) -> Option<Value> {
        let version = self.version_of(api_version)?;
        if self.definition.conversion != Conversion::None {
            return None;
        }
        let mut renamed = object.clone();
        prune::prune(&mut renamed, &version.schema);
        renamed["apiVersion"] = api_version.into();
        Some(renamed)
    }

    /// `<group>/<version>`.
    pub fn api_version(&self) -> &str {
        &self.api_version
    }

    /// Whether somebody else has to convert a stored object before it can be read here.
    pub fn needs_webhook(&self, message: &[u8]) -> bool {
        self.definition.conversion != Conversion::None && Stored::read(message).version != self.version().name
    }

    /// A stored object as JSON text; most are served as they are stored.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn text(&self, message: &[u8]) -> Result<Bytes, Error> {
        let stored = Stored::read(message);
        if stored.fingerprint == self.version().fingerprint {
            return stored.text(&self.api_version, &self.definition.kind);
        }
        let value = self.value(message)?;
        serde_json::to_vec(&value).map(Bytes::from).map_err(Error::internal)
    }

    /// A stored object as a value, as the schemas have it now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn value(&self, message: &[u8]) -> Result<Value, Error> {
        let stored = Stored::read(message);
        let mut object = stored.value(&self.api_version, &self.definition.kind)?;
        if stored.fingerprint == self.version().fingerprint {
            return Ok(object);
        }
        // It was written under another schema: of this version in earlier days, or of another version.
        let written_in = self.definition.version(stored.version);
        if let Some(version) = written_in.filter(|version| version.fingerprint != stored.fingerprint) {
            prune::prune(&mut object, &version.schema);
            default::apply(&mut object, &version.schema);
        }
        prune::prune(&mut object, &self.version().schema);
        Ok(object)
    }

    /// A stored object in the version it was written in, for conversion.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn as_written(&self, message: &[u8]) -> Result<Value, Error> {
        let stored = Stored::read(message);
        let api_version = self.definition.api_version(stored.version);
        let mut object = stored.value(&api_version, &self.definition.kind)?;
        let written_in = self.definition.version(stored.version);
        if let Some(version) = written_in.filter(|version| version.fingerprint != stored.fingerprint) {
            prune::prune(&mut object, &version.schema);
            default::apply(&mut object, &version.schema);
        }
        Ok(object)
    }

    /// Whether objects of this version have to be converted by a webhook to become objects of that version.
    pub fn converts_to(&self, version: &str) -> bool {
        self.definition.conversion != Conversion::None && self.version().name != version
    }

    /// An object of this version in the form of a stored one.
    ///
    /// # Errors
    /// 400 for metadata that is none.
    pub fn encode(&self, object: &Value) -> Result<Bytes, Error> {
        value::encode(object, &self.version().name, self.version().fingerprint)
    }

    /// What is stored of an object that is in the shape of the storage version.
    ///
    /// # Errors
    /// 400 for metadata that is none.
    pub fn encode_for_storage(&self, object: &mut Value) -> Result<Bytes, Error> {
        let storage = self.definition.storage();
        if storage.fingerprint != self.version().fingerprint {
            prune::prune(object, &storage.schema);
        }
        value::encode(object, &storage.name, storage.fingerprint)
    }

    /// Brings a body into form: metadata as `ObjectMeta` has it, what the schema does not know gone. Returns the paths of what went.
    ///
    /// # Errors
    /// What is wrong with the metadata.
    pub fn normalize(&self, object: &mut Value) -> Result<Vec<String>, codec::Error> {
        let schema = &self.version().schema;
        if !object.is_object() {
            let found = validate::type_name(object);
            let expected = "map[string]interface {}";
            return Err(codec::Error::Value(format!(
                "json: cannot unmarshal {found} into Go value of type {expected}"
            )));
        }
        let mut unknown = prune::prune(object, schema);
        if let Some(own) = object.get_mut("metadata") {
            unknown.extend(metadata::normalize(own)?);
        }
        metadata::normalize_embedded(object, schema, "")?;
        Ok(unknown)
    }

    /// The columns of a table, that of the name first.
    pub fn columns(&self) -> Value {
        let name = json!({"name": "Name", "type": "string", "format": "name", "priority": 0,
            "description": "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names"});
        let own = self.version().columns.iter().map(|column| column.definition.clone());
        std::iter::once(name).chain(own).collect()
    }

    fn faults(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let schema = &self.version().schema;
        let mut faults = validate::validate("", object, old, schema);
        faults.extend(self.scale_faults(object));
        self.structure_faults(object, old, &mut faults);
        faults
    }

    /// Faults of the status alone; paths in the messages begin there, as upstream's do.
    fn status_faults(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let schema = &self.version().schema;
        let mut faults = Vec::new();
        if let (Some(status), Some(schema)) = (object.get("status"), schema.properties.get("status")) {
            faults = validate::validate("", status, old.get("status"), schema);
            for fault in &mut faults {
                fault.field = match fault.field.as_str() {
                    validate::NOWHERE => "status".to_owned(),
                    field => format!("status.{field}"),
                };
            }
        }
        self.structure_faults(object, Some(old), &mut faults);
        faults
    }

    /// Embedded objects, sets and keyed lists, then rules where nothing stands in their way.
    fn structure_faults(&self, object: &Value, old: Option<&Value>, faults: &mut Vec<FieldError>) {
        let schema = &self.version().schema;
        faults.extend(metadata::validate_embedded(object, schema));
        if old.is_none_or(|old| lists::duplicates(old, schema).is_empty()) {
            faults.extend(lists::duplicates(object, schema));
        }
        self.rule_faults(object, old, faults);
    }

    /// Faults that the rules find. They are not asked about an object that does not have the shape they were checked against.
    fn rule_faults(&self, object: &Value, old: Option<&Value>, faults: &mut Vec<FieldError>) {
        let rules = &self.version().rules;
        if rules.is_empty() {
            return;
        }
        if !is_blocking(faults) {
            return faults.extend(rules.validate(object, old));
        }
        let why = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
        faults.push(FieldError::invalid(validate::NOWHERE, "null", why));
    }

    fn scale_faults(&self, object: &Value) -> Vec<FieldError> {
        let Some(scale) = &self.version().scale else {
            return Vec::new();
        };
        let mut faults = Vec::new();
        for pointer in [&scale.spec_replicas, &scale.status_replicas] {
            let path = || pointer.replace('/', ".");
            match object.pointer(pointer) {
                None | Some(Value::Null) => {}
                Some(value) => match value.as_i64() {
                    None => faults.push(FieldError::invalid(
                        path(),
                        value.clone(),
                        format!(
                            "{} accessor error: {value} is of the wrong type, expected int64",
                            path()
                        ),
                    )),
                    Some(number) if number < 0 => {
                        faults.push(FieldError::invalid(path(), number, "should be a non-negative integer"));
                    }
                    Some(number) if number > i64::from(i32::MAX) => {
                        let why = format!("should be less than or equal to {}", i32::MAX);
                        faults.push(FieldError::invalid(path(), number, why));
                    }
                    Some(_) => {}
                },
            }
        }
        faults
    }
}

/// Whether faults make it pointless to ask the rules: the object does not have the shape that they were checked against.
fn is_blocking(faults: &[FieldError]) -> bool {
    use FieldErrorKind::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
    let blocks = |fault: &FieldError| matches!(fault.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid);
    faults.iter().any(blocks)
}

impl Strategy for Custom {
    fn custom(&self) -> Option<&Custom> {
        Some(self)
    }

    fn document(&self) -> Option<Arc<Value>> {
        Some(self.version().document.clone())
    }

    fn default(&self, object: &mut Value) {
        default::apply(object, &self.version().schema);
    }

    fn generation(&self) -> bool {
        true
    }

    fn is_desired(&self, field: &str) -> bool {
        field != "metadata" && (field != "status" || !self.version().status)
    }

    fn prepare_create(&self, _cx: &WriteContext<'_>, object: &mut Value) {
        if self.version().status {
            remove(object, "status");
        }
    }

    fn prepare_update(&self, cx: &WriteContext<'_>, new: &mut Value, old: &Value) {
        if cx.subresource == "status" {
            // Of the metadata only the record of managers may change with it.
            let managers = new.pointer("/metadata/managedFields").cloned();
            let (status, version) = (
                new.get("status").cloned(),
                meta::text(new, "resourceVersion").to_owned(),
            );
            *new = old.clone();
            match status {
                Some(status) => new["status"] = status,
                None => remove(new, "status"),
            }
            if let Some(managers) = managers {
                meta::of(new).insert("managedFields".into(), managers);
            }
            meta::of(new).insert("resourceVersion".into(), version.into());
        } else if self.version().status {
            restore(new, old, "status");
        }
    }

    fn validate(&self, _cx: &WriteContext<'_>, object: &Value) -> Vec<FieldError> {
        self.faults(object, None)
    }

    fn validate_update(&self, cx: &WriteContext<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        match cx.subresource {
            "status" => self.status_faults(new, old),
            _ => self.faults(new, Some(old)),
        }
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let before = old.map(meta::finalizers).unwrap_or_default();
        let added = meta::finalizers(new)
            .into_iter()
            .filter(|name| !before.contains(name) && !name.contains('/'));
        added
            .filter(|name| !matches!(*name, "orphan" | "foregroundDeletion" | "kubernetes"))
            .map(|name| format!("metadata.finalizers: {name:?}: prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers"))
            .collect()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let cells = self.version().columns.iter().map(|column| cell(column, object, now));
        std::iter::once(table::name(object)).chain(cells).collect()
    }

    fn selects(&self, field: &str) -> bool {
        self.version().selectable.iter().any(|selectable| selectable == field)
    }

    fn field(&self, object: &Value, field: &str) -> Option<String> {
        let found = field.split('.').try_fold(object, |value, step| value.get(step))?;
        match found {
            Value::String(text) => Some(text.clone()),
            Value::Bool(_) | Value::Number(_) => Some(found.to_string()),
            _ => None,
        }
    }

    fn create_on_update(&self) -> bool {
        false
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn scale(&self) -> Scale<'_> {
        self.version()
            .scale
            .as_ref()
            .map_or_else(Scale::default, |paths| Scale {
                spec_replicas: &paths.spec_replicas,
                status_replicas: &paths.status_replicas,
                selector: paths.selector.as_deref(),
            })
    }
}

/// What a column shows of an object.
fn cell(column: &Column, object: &Value, now: Timestamp) -> Value {
    let found = column.path.as_ref().and_then(|path| path.find(object).first().copied());
    let Some(value) = found.filter(|value| !value.is_null()) else {
        return Value::Null;
    };
    match (column.ty.as_str(), value) {
        ("string", Value::String(text)) => json!(text),
        ("string", other) => json!(other.to_string()),
        ("integer", Value::Number(number)) => number
            .as_i64()
            .or_else(|| number.as_f64().map(|float| float as i64))
            .map_or(Value::Null, Value::from),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) if text.parse::<Timestamp>().is_err() => json!("<invalid>"),
        ("date", Value::String(_)) => table::since(Some(value), now),
        _ => Value::Null,
    }
}
