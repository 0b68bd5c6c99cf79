//! CertificateSigningRequests: who asks is what the server knows, not what the request says.

use std::cmp::Ordering;

use api::{FieldError, names};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

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

/// Seconds that a certificate is good for at least.
const SHORTEST: i64 = 600;
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// The conditions that stay, and are never but true.
const LASTING: [&str; 3] = ["Approved", "Denied", "Failed"];

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
        all(&Field::root("", object), &Value::Null, &mut errors);
        errors
    }

    fn validate_update(&self, cx: &WriteContext<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let root = Field::root("", new);
        all(&root, old, &mut errors);
        let status = root.get("status");
        let conditions = status.get("conditions");
        for kind in LASTING {
            if of_type(new, kind).len() < of_type(old, kind).len() {
                let detail = format!("updates may not remove a condition of type {kind:?}");
                conditions.forbidden(&mut errors, &detail);
            }
        }
        for kind in DECISIONS.iter().filter(|_| cx.subresource != "approval") {
            let (before, now) = (of_type(old, kind), of_type(new, kind));
            let verb = match now.len().cmp(&before.len()) {
                Ordering::Greater => "add",
                Ordering::Equal if now != before => "modify",
                _ => continue,
            };
            let detail = format!("updates may not {verb} a condition of type {kind:?}");
            conditions.forbidden(&mut errors, &detail);
        }
        let certificate = status.get("certificate");
        let before = text(old, "/status/certificate");
        if certificate.str() != before {
            if cx.subresource != "status" {
                certificate.forbidden(&mut errors, "updates may not set certificate content");
            } else if !before.is_empty() {
                certificate.forbidden(&mut errors, "updates may not modify existing certificate content");
            }
        }
        errors
    }

    fn validate_name(&self, _name: &str, _prefix: bool) -> Vec<String> {
        Vec::new()
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

fn is_decision(condition: &Value) -> bool {
    DECISIONS.contains(&text(condition, "/type"))
}

fn of_type<'a>(object: &'a Value, kind: &str) -> Vec<&'a Value> {
    let all = list(object, "/status/conditions");
    all.iter()
        .filter(|condition| text(condition, "/type") == kind)
        .collect()
}

/// The whole request. What was wrong with the old one may stay so.
fn all(root: &Field<'_>, old: &Value, errors: &mut Errors) {
    let spec = root.get("spec");
    let (request, usages, signer) = (spec.get("request"), spec.get("usages"), spec.get("signerName"));
    if let Some(fault) = no_request(request.str()) {
        request.invalid(errors, fault);
    }
    if usages.is_empty() {
        usages.required(errors, "");
    }
    if old.is_null() {
        usages.items().for_each(|usage| usage.one_of(errors, &USAGES));
        usages.unique(errors, "");
    }
    if old.is_null() && signer.str() == "kubernetes.io/legacy-unknown" {
        signer.invalid(errors, "the legacy signerName is not allowed via this API version");
    } else {
        signer_name(&signer, errors);
    }
    let seconds = spec.get("expirationSeconds");
    if seconds.int().is_some_and(|n| n < SHORTEST) {
        seconds.invalid(errors, "may not specify a duration less than 600 seconds (10 minutes)");
    }
    let status = root.get("status");
    all_conditions(&status.get("conditions"), old, errors);
    let certificate = status.get("certificate");
    if certificate.str() != text(old, "/status/certificate") {
        certificates(&certificate, errors);
    }
}

/// Why text is no signed request in PEM.
fn no_request(text: &str) -> Option<String> {
    let bytes = BASE64.decode(text).unwrap_or_default();
    let block = x509_parser::pem::parse_x509_pem(&bytes).ok();
    let Some((_, block)) = block.filter(|(_, block)| block.label == "CERTIFICATE REQUEST") else {
        return Some("PEM block type must be CERTIFICATE REQUEST".to_owned());
    };
    let Ok((_, request)) = X509CertificationRequest::from_der(&block.contents) else {
        return Some("asn1: structure error: malformed certificate request".to_owned());
    };
    request
        .verify_signature()
        .err()
        .map(|_| "x509: signature verification failed".to_owned())
}

/// A certificate, or a chain of them, in PEM and nothing else.
fn certificates(field: &Field<'_>, errors: &mut Errors) {
    let bytes = BASE64.decode(field.str()).unwrap_or_default();
    let hidden = "<certificate data>";
    let mut count = 0;
    for block in x509_parser::pem::Pem::iter_from_buffer(&bytes) {
        let Ok(block) = block else { break };
        if block.label != "CERTIFICATE" {
            let detail = format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label);
            return field.invalid_as(errors, hidden, detail);
        }
        if let Err(error) = block.parse_x509() {
            return field.invalid_as(errors, hidden, error.to_string());
        }
        count += 1;
    }
    if count == 0 {
        field.invalid_as(errors, hidden, "must contain at least one CERTIFICATE PEM block");
    }
}

/// Each condition by itself, and which may not be together.
fn all_conditions(conditions: &Field<'_>, old: &Value, errors: &mut Errors) {
    let both = DECISIONS.iter().all(|kind| condition(old, kind).is_some());
    let mut seen = std::collections::HashSet::new();
    for one in conditions.items() {
        let (kind, value) = (one.get("type"), one.get("status"));
        if kind.is_empty() {
            kind.required(errors, "");
        }
        if value.is_empty() {
            value.required(errors, "");
        } else if LASTING.contains(&kind.str()) {
            value.one_of(errors, &["True"]);
        } else {
            value.one_of(errors, &["False", "True", "Unknown"]);
        }
        let contradicts = |other: &&str| **other != *kind.str() && seen.contains(*other);
        if is_decision(one.value) && !both && DECISIONS.iter().any(contradicts) {
            conditions.invalid_as(
                errors,
                kind.str(),
                "Approved and Denied conditions are mutually exclusive",
            );
        }
        if !seen.insert(kind.str().to_owned()) {
            kind.duplicate_of(errors, kind.str(), "");
        }
    }
}

/// The decisions of one object with the other conditions of another.
fn merged(decided: &Value, rest: &Value) -> Vec<Value> {
    let given = |v: &Value| {
        let own = list(v, "/conditions");
        if own.is_empty() {
            list(v, "/status/conditions").to_vec()
        } else {
            own.to_vec()
        }
    };
    let decisions = given(decided).into_iter().filter(is_decision);
    decisions
        .chain(given(rest).into_iter().filter(|c| !is_decision(c)))
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
    fn faults() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        let request = parameters.serialize_request(&key).unwrap().pem().unwrap();
        let check = |object: Value, old: &Value| {
            let mut errors = Errors::new();
            all(&Field::root("", &object), old, &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let spec = json!({"request": BASE64.encode(request), "signerName": "a.b/c", "usages": ["client auth"]});
        let object = json!({"spec": spec, "status": {"conditions": [
            {"type": "Approved", "status": "True"}, {"type": "Denied", "status": "False"}]}});
        assert_eq!(
            check(object, &Value::Null),
            [
                "status.conditions[1].status: Unsupported value: \"False\": supported values: \"True\"",
                "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive"
            ]
        );
        let object =
            json!({"spec": {"request": "eA==", "signerName": "kubernetes.io/legacy-unknown", "expirationSeconds": 1}});
        assert_eq!(
            check(object, &Value::Null),
            [
                "spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST",
                "spec.usages: Required value",
                "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version",
                "spec.expirationSeconds: Invalid value: 1: may not specify a duration less than 600 seconds (10 minutes)"
            ]
        );
    }

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
