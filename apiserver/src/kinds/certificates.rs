//! CertificateSigningRequests: who asks is what the server knows, not what the request says.

use api::{FieldError, names};
use serde_json::{Value, json};

use super::common::{condition, or_none};
use super::field::{Errors, Field, ensure, list, set, text};
use crate::registry::strategy::{Strategy, WriteContext, remove, restore};
use crate::registry::table::{self, Column};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::AGE,
    Column::text("SignerName"),
    Column::text("Requestor"),
    Column::text("RequestedDuration"),
    Column::text("Condition"),
];
/// The conditions that the `approval` subresource owns.
const DECISIONS: [&str; 2] = ["Approved", "Denied"];

/// Rules of `certificatesigningrequests.certificates.k8s.io`.
pub struct SigningRequest;

impl Strategy for SigningRequest {
    fn create_on_update(&self) -> bool {
        true
    }

    fn prepare_create(&self, cx: &WriteContext<'_>, object: &mut Value) {
        remove(object, "status");
        let Some(spec) = ensure(object, "spec") else { return };
        for field in ["uid", "extra"] {
            remove(spec, field);
        }
        set(spec, "username", cx.user.name.clone());
        set(spec, "groups", json!(cx.user.groups));
        if !cx.user.uid.is_empty() {
            set(spec, "uid", cx.user.uid.clone());
        }
        if !cx.user.extra.is_empty() {
            set(spec, "extra", json!(cx.user.extra));
        }
    }

    fn prepare_update(&self, cx: &WriteContext<'_>, new: &mut Value, old: &Value) {
        restore(new, old, "spec");
        let wanted = new.get("status").cloned().unwrap_or_default();
        restore(new, old, "status");
        let (mut status, conditions) = match cx.subresource {
            "approval" => (old.get("status").cloned().unwrap_or_default(), merged(&wanted, old)),
            "status" => (wanted.clone(), merged(old, &wanted)),
            _ => return,
        };
        if status.is_null() {
            status = json!({});
        }
        if conditions.is_empty() {
            remove(&mut status, "conditions")
        } else {
            set(&mut status, "conditions", conditions)
        }
        set(new, "status", status);
    }

    fn validate(&self, _cx: &WriteContext<'_>, object: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let root = Field::root("", object);
        let spec = root.get("spec");
        for name in ["request", "signerName", "usages"] {
            let field = spec.get(name);
            if field.is_empty() {
                field.required(&mut errors, "");
            }
        }
        let seconds = spec.get("expirationSeconds");
        if seconds.int().is_some_and(|n| n < 600) {
            seconds.invalid(
                &mut errors,
                "may not specify a duration less than 600 seconds (10 minutes)",
            );
        }
        errors
    }

    fn validate_update(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let root = Field::root("", new);
        let status = root.get("status");
        let conditions = status.get("conditions");
        if condition(new, "Approved").is_some() && condition(new, "Denied").is_some() {
            conditions.invalid(&mut errors, "Approved and Denied conditions are mutually exclusive");
        }
        for kind in DECISIONS {
            if condition(old, kind).is_some() && condition(new, kind).is_none() {
                conditions.forbidden(
                    &mut errors,
                    &format!("updates may not remove a condition of type {kind:?}"),
                );
            }
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let seconds = object.pointer("/spec/expirationSeconds").and_then(Value::as_i64);
        vec![
            table::name(object),
            table::age(object, now),
            json!(or_none(text(object, "/spec/signerName"))),
            json!(text(object, "/spec/username")),
            json!(seconds.map_or_else(|| "<none>".to_owned(), table::human_duration)),
            json!(state(object)),
        ]
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["spec.signerName"]
    }
}

/// The decisions of one object with the other conditions of another.
fn merged(decided: &Value, rest: &Value) -> Vec<Value> {
    let all = |v: &Value| {
        let own = list(v, "/conditions");
        if own.is_empty() {
            list(v, "/status/conditions").to_vec()
        } else {
            own.to_vec()
        }
    };
    let is_decision = |c: &Value| DECISIONS.contains(&text(c, "/type"));
    let decisions = all(decided).into_iter().filter(|c| is_decision(c));
    decisions
        .chain(all(rest).into_iter().filter(|c| !is_decision(c)))
        .collect()
}

/// `Approved,Issued` and its like.
fn state(object: &Value) -> String {
    let is = |kind: &str| condition(object, kind).is_some();
    let mut shown = match (is("Denied"), is("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }
    .to_owned();
    if is("Failed") {
        shown.push_str(",Failed");
    }
    if !text(object, "/status/certificate").is_empty() {
        shown.push_str(",Issued");
    }
    shown
}

/// The name of a signer: `example.com/path`. Source: `ValidateSignerName`.
pub fn signer_name(field: &Field<'_>, errors: &mut Errors) {
    const DOMAIN_LIMIT: usize = 253;
    const PATH_LIMIT: usize = 317;
    let name = field.str();
    if name.is_empty() {
        return field.required(errors, "");
    }
    let segments: Vec<&str> = name.split('/').collect();
    let (domain, path) = match segments.as_slice() {
        [domain, path] => (*domain, *path),
        _ => {
            return field.invalid_as(
                errors,
                name,
                "must be a fully qualified domain and path of the form 'example.com/signer-name'",
            );
        }
    };
    for detail in names::dns1123_subdomain(domain) {
        field.invalid_as(errors, domain, format!("validating label {domain:?}: {detail}"));
    }
    if domain.split('.').count() < 2 {
        field.invalid_as(
            errors,
            name,
            "should be a domain with at least two segments separated by dots",
        );
    }
    for detail in names::dns1123_subdomain(path) {
        field.invalid_as(errors, path, format!("validating label {path:?}: {detail}"));
    }
    if name.len() > DOMAIN_LIMIT + 1 + PATH_LIMIT {
        field.too_long(errors, DOMAIN_LIMIT + 1 + PATH_LIMIT);
    }
}

/// What is wrong with the name of a trust bundle. One for a signer begins with the signer's name, `/` written `:`.
pub fn trust_bundle_name(name: &str, signer: Option<&str>) -> Vec<String> {
    match signer.filter(|s| !s.is_empty()) {
        Some(signer) => {
            let prefix = format!("{}:", signer.replace('/', ":"));
            match name.strip_prefix(&prefix) {
                None => vec![format!(
                    "ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}"
                )],
                Some(rest) => names::dns1123_subdomain(rest),
            }
        }
        None if name.matches(':').count() == 2 => {
            let rest = name.rsplit(':').next().unwrap_or_default();
            names::dns1123_subdomain(rest)
        }
        None if name.contains(':') => {
            vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()]
        }
        None => names::dns1123_subdomain(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn approval_and_status_own_their_conditions() {
        let approved = json!({"conditions": [{"type": "Approved"}, {"type": "Failed"}]});
        let old = json!({"status": {"conditions": [{"type": "Other"}]}});
        let kinds = |list: Vec<Value>| list.iter().map(|c| text(c, "/type").to_owned()).collect::<Vec<_>>();
        assert_eq!(kinds(merged(&approved, &old)), ["Approved", "Other"]);
        assert_eq!(
            state(&json!({"status": {"conditions": [{"type": "Approved"}], "certificate": "x"}})),
            "Approved,Issued"
        );
    }
}
