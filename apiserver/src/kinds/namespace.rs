//! Namespaces.

use api::FieldError;
use serde_json::{Value, json};

use super::field::{Errors, Field, ensure, list, set, text};
use crate::registry::strategy::{Strategy, WriteContext, keep_all_but_status, restore};
use crate::registry::table::{self, Column};

const COLUMNS: &[Column] = &[Column::NAME, Column::text("Status"), Column::AGE];

/// Rules of `namespaces`: a new one is active and holds the finalizer that the namespace controller takes away once it is empty.
pub struct Namespace;

impl Strategy for Namespace {
    fn default(&self, object: &mut Value) {
        let name = text(object, "/metadata/name").to_owned();
        let labels = ensure(object, "metadata").and_then(|m| ensure(m, "labels"));
        if let Some(labels) = labels.filter(|_| !name.is_empty()) {
            set(labels, "kubernetes.io/metadata.name", name);
        }
    }

    fn prepare_create(&self, _cx: &WriteContext<'_>, object: &mut Value) {
        set(object, "status", json!({"phase": "Active"}));
        if let Some(spec) = ensure(object, "spec")
            && let Some(list) = spec.as_object_mut().map(|s| s.entry("finalizers").or_insert(json!([])))
            && let Some(list) = list.as_array_mut()
            && !list.iter().any(|f| f == "kubernetes")
        {
            list.push(json!("kubernetes"));
        }
    }

    fn prepare_update(&self, cx: &WriteContext<'_>, new: &mut Value, old: &Value) {
        match cx.subresource {
            "status" => keep_all_but_status(new, old),
            "finalize" => restore(new, old, "status"),
            _ => {
                restore(new, old, "status");
                restore(new, old, "spec");
            }
        }
    }

    fn validate(&self, _cx: &WriteContext<'_>, object: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let root = Field::root("spec.finalizers", &object["spec"]["finalizers"]);
        for name in list(object, "/spec/finalizers") {
            finalizer(&root.showing(name), &mut errors);
        }
        errors
    }

    fn validate_update(&self, cx: &WriteContext<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        match cx.subresource {
            "finalize" => {
                let root = Field::root("spec.finalizers", &new["spec"]["finalizers"]);
                root.items().for_each(|name| finalizer(&name, &mut errors));
            }
            "status" => phase(new, old, &mut errors),
            _ => {}
        }
        errors
    }

    fn prepare_delete(&self, object: &mut Value, _grace: i64) {
        if let Some(status) = ensure(object, "status") {
            set(status, "phase", "Terminating");
        }
    }

    fn held(&self, object: &Value) -> bool {
        object
            .pointer("/spec/finalizers")
            .and_then(Value::as_array)
            .is_some_and(|list| !list.is_empty())
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        if prefix {
            api::names::dns1123_label(&format!("{}a", name.trim_end_matches('-')))
        } else {
            api::names::dns1123_label(name)
        }
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![
            table::name(object),
            json!(text(object, "/status/phase")),
            table::age(object, now),
        ]
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["status.phase"]
    }
}

fn finalizer(name: &Field<'_>, errors: &mut Errors) {
    const STANDARD: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
    name.check(errors, api::names::qualified_name);
    if !name.str().contains('/') && !STANDARD.contains(&name.str()) {
        name.invalid(
            errors,
            "name is neither a standard finalizer name nor is it fully qualified",
        );
    }
}

/// The phase tells whether the namespace is being deleted.
fn phase(new: &Value, old: &Value, errors: &mut Errors) {
    let phase = Field::root("status.Phase", &new["status"]["phase"]);
    let deleting = old.pointer("/metadata/deletionTimestamp").is_some_and(Value::is_string);
    if deleting && phase.str() != "Terminating" {
        phase.invalid(errors, "may only be 'Terminating' if `deletionTimestamp` is not empty");
    } else if !deleting && phase.str() != "Active" {
        phase.invalid(errors, "may only be 'Active' if `deletionTimestamp` is empty");
    }
}
