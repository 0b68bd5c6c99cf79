//! What is special to a kind. Every method has a default that suits a kind with nothing special; a kind overrides what differs, in its own
//! file under `kinds`, and is named in the table there.
//!
//! Objects are `serde_json::Value` in the kind's **storage version**, with `apiVersion` and `kind`, already checked against the schema (types
//! are right, unknown fields and nulls are gone). Still, no method may panic on any value.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value};

use api::FieldError;
use api::resources::ResourceInfo;

use super::access::UserInfo;
use super::table::{self, Column};
use crate::apiextensions::custom::Custom;
use crate::store::{Condition, Op, Store};

/// Where and for whom an object is written.
pub struct WriteContext<'a> {
    /// For allocators and other objects that must change in the same transaction.
    pub store: &'a dyn Store,
    /// The table row of the resource.
    pub resource: &'a ResourceInfo,
    /// The row that the request named, whose group or version may be another.
    pub requested: &'a ResourceInfo,
    /// Who writes.
    pub user: &'a UserInfo,
    /// Empty for the object itself, otherwise `status`, `scale`, `approval`, `ephemeralcontainers`, ...
    pub subresource: &'a str,
    /// Nothing will be persisted: allocate nothing.
    pub dry_run: bool,
}

/// What goes into the same transaction as the object.
#[derive(Debug, Default)]
pub struct Extra {
    /// If one of these fails, the hook runs again on the object as it was before the hook, a bounded number of times.
    pub conditions: Vec<Condition>,
    /// Applied only when the object itself is written.
    pub ops: Vec<Op>,
}

/// The rules of one kind. See the module's documentation for the form of the objects.
#[async_trait]
pub trait Strategy: Send + Sync + 'static {
    /// Fills in what the API documents as defaults. Runs on every write and must be idempotent.
    fn default(&self, _object: &mut Value) {}

    /// The rules of a custom kind are a definition's.
    fn custom(&self) -> Option<&Custom> {
        None
    }

    /// Whether a top-level field is part of what `metadata.generation` counts changes of.
    fn is_desired(&self, field: &str) -> bool {
        field != "metadata" && field != "status"
    }

    /// True when `metadata.generation` counts changes of the desired state (everything but metadata and status).
    fn generation(&self) -> bool {
        false
    }

    /// Drops what a creator may not set. The default removes `status` where it is a subresource.
    fn prepare_create(&self, cx: &WriteContext<'_>, object: &mut Value) {
        if has_status(cx.resource) {
            remove(object, "status");
        }
    }

    /// Restores in `new` what this write may not change. The default keeps the status on a write of the object and, on a write of `status`,
    /// everything but the status and metadata. Generation is counted by the registry afterwards.
    fn prepare_update(&self, cx: &WriteContext<'_>, new: &mut Value, old: &Value) {
        match cx.subresource {
            "" if has_status(cx.resource) => restore(new, old, "status"),
            "status" => keep_all_but_status(new, old),
            _ => {}
        }
    }

    /// Faults of a new object besides its metadata.
    fn validate(&self, _cx: &WriteContext<'_>, _object: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Faults of a change, immutable fields above all. The default validates the new object as if it were created, unless only the status
    /// is written.
    fn validate_update(&self, cx: &WriteContext<'_>, new: &Value, _old: &Value) -> Vec<FieldError> {
        if cx.subresource == "status" {
            Vec::new()
        } else {
            self.validate(cx, new)
        }
    }

    /// Deprecations and doubtful settings worth a `Warning` header.
    fn warnings(&self, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// Upstream messages for what is wrong with a name; `prefix` when it is a `generateName`.
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        if prefix {
            api::names::dns1123_subdomain(&format!("{}a", name.trim_end_matches('-')))
        } else {
            api::names::dns1123_subdomain(name)
        }
    }

    /// What documents say of a custom kind: the `openAPIV3Schema` of its version. Built-in kinds have the schema table.
    fn document(&self) -> Option<Arc<Value>> {
        None
    }

    /// The columns of a server-side table, the first of which is the name.
    fn columns(&self) -> &'static [Column] {
        table::DEFAULT_COLUMNS
    }

    /// One cell a column.
    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![table::name(object), table::age(object, now)]
    }

    /// Fields besides `metadata.name` and `metadata.namespace` that a field selector may name.
    fn selectable_fields(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether a field selector may name the field.
    fn selects(&self, field: &str) -> bool {
        self.selectable_fields().contains(&field)
    }

    /// The value of a selectable field that is not simply the text at that path of the object.
    fn field(&self, _object: &Value, _field: &str) -> Option<String> {
        None
    }

    /// How long the object stays, marked, after a deletion; `None` removes it at once. `requested` is the caller's wish in seconds.
    fn grace_period(&self, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// Changes an object that is being marked for deletion with this grace period (in seconds).
    fn prepare_delete(&self, _object: &mut Value, _grace: i64) {}

    /// Something besides finalizers and grace keeps the object after its deletion was asked for, such as a namespace's content.
    fn held(&self, _object: &Value) -> bool {
        false
    }

    /// A PUT of a name that does not exist creates it; an apply always does.
    fn create_on_update(&self) -> bool {
        false
    }

    /// A PUT without a resourceVersion overwrites whatever is there.
    fn unconditional_update(&self) -> bool {
        true
    }

    /// Whether deletion without a propagation policy leaves dependents alone (`orphan`), as some kinds in old versions did.
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// Seconds after the last write when the object disappears by itself.
    fn ttl(&self) -> Option<i64> {
        None
    }

    /// Where `scale` finds replicas and selector, for kinds with that subresource.
    fn scale(&self) -> Scale<'_> {
        Scale::default()
    }

    /// Runs after validation, before a new object is written: allocates.
    async fn before_create(&self, _cx: &WriteContext<'_>, _object: &mut Value) -> Result<Extra, api::Error> {
        Ok(Extra::default())
    }

    /// Runs after validation, before a change is written.
    async fn before_update(&self, _cx: &WriteContext<'_>, _new: &mut Value, _old: &Value) -> Result<Extra, api::Error> {
        Ok(Extra::default())
    }

    /// Runs when the object really goes away: frees.
    async fn before_remove(&self, _cx: &WriteContext<'_>, _object: &Value) -> Result<Extra, api::Error> {
        Ok(Extra::default())
    }
}

/// Which fields `autoscaling/v1 Scale` shows of a kind; JSON pointers.
#[derive(Debug, Clone, Copy)]
pub struct Scale<'a> {
    /// Desired number.
    pub spec_replicas: &'a str,
    /// Observed number.
    pub status_replicas: &'a str,
    /// A label selector (an object), a map of labels, or a selector as text.
    pub selector: Option<&'a str>,
}

impl Default for Scale<'_> {
    fn default() -> Self {
        Self {
            spec_replicas: "/spec/replicas",
            status_replicas: "/status/replicas",
            selector: Some("/spec/selector"),
        }
    }
}

/// The rules of kinds with nothing special.
pub struct Generic {
    /// See [`Strategy::generation`].
    pub generation: bool,
}

impl Strategy for Generic {
    fn generation(&self) -> bool {
        self.generation
    }
}

/// True when status is written through its own subresource.
pub fn has_status(resource: &ResourceInfo) -> bool {
    resource.subresources.iter().any(|s| s.name == "status")
}

/// Removes a top-level field.
pub fn remove(object: &mut Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(field);
    }
}

/// Sets a top-level field of `new` to what `old` has, or removes it.
pub fn restore(new: &mut Value, old: &Value, field: &str) {
    match old.get(field) {
        Some(value) => {
            if let Some(map) = new.as_object_mut() {
                map.insert(field.to_owned(), value.clone());
            }
        }
        None => remove(new, field),
    }
}

/// Takes everything but metadata and status from `old`.
pub fn keep_all_but_status(new: &mut Value, old: &Value) {
    let (Some(map), Some(old)) = (new.as_object_mut(), old.as_object()) else {
        return;
    };
    let mut kept = Map::new();
    for field in ["metadata", "status"] {
        if let Some(value) = map.remove(field) {
            kept.insert(field.to_owned(), value);
        }
    }
    for (field, value) in old {
        if field != "metadata" && field != "status" {
            kept.insert(field.clone(), value.clone());
        }
    }
    *map = kept;
}
