//! APIService.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::common::condition;
use super::field::{Errors, Field, default, text};
use crate::aggregation::available::{Verdict, with_condition};
use crate::registry::meta;
use crate::registry::strategy::{Strategy, WriteContext, remove};
use crate::registry::table::{self, Column};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Service"),
    Column::text("Available"),
    Column::AGE,
];

/// Rules of `apiservices.apiregistration.k8s.io`.
pub struct ApiService;

#[async_trait]
impl Strategy for ApiService {
    fn default(&self, object: &mut Value) {
        if let Some(service) = object
            .pointer_mut("/spec/service")
            .filter(|service| service.is_object())
        {
            default(service, "port", 443);
        }
    }

    /// What this server serves itself is available from the first moment.
    fn prepare_create(&self, _cx: &WriteContext<'_>, object: &mut Value) {
        remove(object, "status");
        if !object.pointer("/spec/service").is_some_and(Value::is_object) {
            let now = meta::time(jiff::Timestamp::now());
            if let Some(new) = with_condition(object, &Verdict::local(), &now) {
                *object = new;
            }
        }
    }

    fn validate(&self, _cx: &WriteContext<'_>, object: &Value) -> Vec<api::FieldError> {
        let mut errors = Errors::new();
        validate(&Field::root("", object), &mut errors);
        errors
    }

    fn validate_name(&self, _name: &str, _prefix: bool) -> Vec<String> {
        // It depends on the spec; see `validate`.
        Vec::new()
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let service = object.pointer("/spec/service").filter(|s| s.is_object());
        let shown = service.map_or_else(
            || "Local".to_owned(),
            |s| format!("{}/{}", text(s, "/namespace"), text(s, "/name")),
        );
        let available = condition(object, "Available").map_or("Unknown".to_owned(), |c| {
            match (text(c, "/status"), text(c, "/reason")) {
                ("True", _) => "True".to_owned(),
                (status, reason) => format!("{status} ({reason})"),
            }
        });
        vec![
            table::name(object),
            json!(shown),
            json!(available),
            table::age(object, now),
        ]
    }
}

fn validate(root: &Field<'_>, errors: &mut Errors) {
    let (spec, metadata) = (root.get("spec"), root.get("metadata"));
    let (group, version) = (spec.get("group"), spec.get("version"));
    let (name, wanted) = (metadata.get("name"), format!("{}.{}", version.str(), group.str()));
    if name.str() != wanted {
        name.invalid(errors, format!("must be `spec.version+\".\"+spec.group`: {wanted:?}"));
    }
    if group.is_empty() && version.str() != "v1" {
        group.required(errors, "only v1 may have an empty group and it better be legacy kube");
    }
    if !group.is_empty() {
        group.invalid_all(errors, api::names::dns1123_subdomain(group.str()));
    }
    version.invalid_all(errors, api::names::dns1035_label(version.str()));
    for (field, max) in [("groupPriorityMinimum", 20000), ("versionPriority", 1000)] {
        let (field, zero) = (spec.get(field), Value::from(0));
        if !(1..=max).contains(&field.int().unwrap_or(0)) {
            let shown = if field.exists() { field } else { field.showing(&zero) };
            shown.invalid(errors, format!("must be positive and less than {max}"));
        }
    }
    let (service, bundle, insecure) = (
        spec.get("service"),
        spec.get("caBundle"),
        spec.get("insecureSkipTLSVerify"),
    );
    if !service.exists() {
        if !bundle.is_empty() {
            bundle.invalid(errors, "local APIServices may not have a caBundle");
        }
        if insecure.bool() {
            insecure.invalid(errors, "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    }
    for field in ["namespace", "name"] {
        let field = service.get(field);
        if field.is_empty() {
            field.required(errors, "");
        }
    }
    let port = service.get("port");
    if port.int().is_some_and(|n| !(1..=65535).contains(&n)) {
        port.invalid(errors, "port is not valid: must be between 1 and 65535, inclusive");
    }
    if insecure.bool() && !bundle.is_empty() {
        insecure.invalid(errors, "may not be true if caBundle is present");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named() {
        let of = |object: Value| -> Vec<String> {
            let mut errors = Errors::new();
            validate(&Field::root("", &object), &mut errors);
            errors.iter().map(ToString::to_string).collect()
        };
        let good = json!({"metadata": {"name": "v1.x.io"}, "spec": {"group": "x.io", "version": "v1", "groupPriorityMinimum": 100,
            "versionPriority": 10, "service": {"name": "s", "namespace": "n"}}});
        assert!(of(good.clone()).is_empty());
        let mut bad = good.clone();
        bad["metadata"]["name"] = json!("v2.x.io");
        assert_eq!(
            of(bad),
            ["metadata.name: Invalid value: \"v2.x.io\": must be `spec.version+\".\"+spec.group`: \"v1.x.io\""]
        );
        let mut bad = good;
        bad["spec"]["groupPriorityMinimum"] = json!(0);
        assert_eq!(
            of(bad),
            ["spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000"]
        );
    }
}
