//! CustomResourceDefinition. What a schema must be is in `apiextensions::validation`, what the status says in `apiextensions::status`.

use api::FieldError;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::field::{default, default_zero, ensure, text};
use super::rbac::created_row;
use crate::apiextensions::definition::{list, texts};
use crate::apiextensions::{status, validation};
use crate::registry::meta;
use crate::registry::strategy::{Strategy, WriteContext, keep_all_but_status, remove, restore};
use crate::registry::table::Column;

/// The rules of `customresourcedefinitions.apiextensions.k8s.io`.
pub struct CustomResourceDefinition;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column {
        kind: "date",
        ..Column::text("Created At")
    },
];

impl Strategy for CustomResourceDefinition {
    fn default(&self, object: &mut Value) {
        let Some(spec) = ensure(object, "spec") else { return };
        if let Some(conversion) = ensure(spec, "conversion") {
            default_zero(conversion, "strategy", "None");
            if let Some(service) = conversion.pointer_mut("/webhook/clientConfig/service") {
                default(service, "port", 443);
            }
        }
        if let Some(names) = ensure(spec, "names") {
            let kind = text(names, "/kind").to_owned();
            default_zero(names, "singular", kind.to_lowercase());
            if !kind.is_empty() {
                default_zero(names, "listKind", format!("{kind}List"));
            }
        }
    }

    fn generation(&self) -> bool {
        true
    }

    fn prepare_create(&self, _cx: &WriteContext<'_>, object: &mut Value) {
        remove(object, "status");
        store_version(object);
    }

    fn prepare_update(&self, cx: &WriteContext<'_>, new: &mut Value, old: &Value) {
        if cx.subresource == "status" {
            keep_all_but_status(new, old);
        } else {
            restore(new, old, "status");
            store_version(new);
        }
    }

    fn validate(&self, _cx: &WriteContext<'_>, object: &Value) -> Vec<FieldError> {
        validation::validate(object, None)
    }

    fn validate_update(&self, cx: &WriteContext<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        match cx.subresource {
            "status" => validation::validate_status(new),
            _ => validation::validate(new, Some(old)),
        }
    }

    fn prepare_delete(&self, object: &mut Value, _grace: i64) {
        status::begin_deletion(object, Timestamp::now());
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        created_row(object, now)
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn create_on_update(&self) -> bool {
        false
    }
}

/// Objects may be stored in the storage version from now on.
fn store_version(crd: &mut Value) {
    let Some(storage) = list(crd, "/spec/versions")
        .iter()
        .find(|version| version.get("storage") == Some(&Value::Bool(true)))
        .and_then(|version| version.get("name")?.as_str())
        .map(str::to_owned)
    else {
        return;
    };
    let mut stored = texts(crd, "/status/storedVersions");
    if !stored.contains(&storage) {
        stored.push(storage);
        meta::child(meta::map(crd), "status").insert("storedVersions".into(), json!(stored));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_the_kind() {
        let mut crd = json!({"spec": {"names": {"plural": "foos", "kind": "Foo"}}});
        CustomResourceDefinition.default(&mut crd);
        assert_eq!(
            crd["spec"]["names"],
            json!({"plural": "foos", "kind": "Foo", "singular": "foo", "listKind": "FooList"})
        );
        assert_eq!(crd["spec"]["conversion"]["strategy"], "None");
    }

    #[test]
    fn every_storage_version_is_remembered() {
        let mut crd = json!({"spec": {"versions": [{"name": "v1", "storage": false}, {"name": "v2", "storage": true}]}, "status": {"storedVersions": ["v1"]}});
        store_version(&mut crd);
        assert_eq!(crd["status"]["storedVersions"], json!(["v1", "v2"]));
    }
}
