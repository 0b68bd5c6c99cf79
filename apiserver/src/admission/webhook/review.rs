//! `AdmissionReview`, v1 and v1beta1: the question, and what an answer may be. Pure.

use std::collections::BTreeMap;

use api::Error;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::form::Form;
use super::hooks::Phase;
use crate::admission::scope::namespace;
use crate::kinds::field::{list, text};
use crate::registry::access::AdmissionRequest;

/// The versions that we speak.
const SPOKEN: &[&str] = &["v1", "v1beta1"];
/// The largest message of a denial, bytes; so that no hook makes an answer of any size.
const MESSAGE: usize = 64 << 10;

/// A hook's answer.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Answer {
    pub(super) allowed: bool,
    /// A `Status`, for denials.
    pub(super) result: Option<Value>,
    /// RFC 6902.
    pub(super) patch: Vec<u8>,
    pub(super) warnings: Vec<String>,
    pub(super) audit: BTreeMap<String, String>,
}

/// The first version of the hook's list that we speak.
pub(super) fn version(offered: &[String]) -> Result<&'static str, String> {
    let found = offered
        .iter()
        .find_map(|offer| SPOKEN.iter().find(|spoken| *spoken == offer));
    found
        .copied()
        .ok_or_else(|| "webhook does not accept known AdmissionReview versions (v1, v1beta1)".to_owned())
}

/// What is asked about, without the objects.
pub(in crate::admission) fn about(request: &AdmissionRequest<'_>, asked: &Form, form: &Form) -> Value {
    let resource = |form: &Form| {
        let [group, version, resource] = form.resource();
        json!({"group": group, "version": version, "resource": resource})
    };
    let kind = |form: &Form| {
        let [group, version, kind] = form.kind();
        json!({"group": group, "version": version, "kind": kind})
    };
    let user = request.user;
    let mut user_info = json!({"username": user.name});
    if !user.uid.is_empty() {
        user_info["uid"] = json!(user.uid);
    }
    if !user.groups.is_empty() {
        user_info["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        user_info["extra"] = json!(user.extra);
    }
    let mut about = json!({
        "kind": kind(form), "resource": resource(form), "requestKind": kind(asked), "requestResource": resource(asked),
        "operation": request.operation.name(), "userInfo": user_info, "dryRun": request.dry_run(), "options": request.options_value(),
    });
    for (field, value) in [
        ("subResource", form.subresource()),
        ("requestSubResource", asked.subresource()),
        ("name", &request.attributes.name),
        ("namespace", namespace(request)),
    ] {
        if !value.is_empty() {
            about[field] = value.into();
        }
    }
    about
}

/// The question.
pub(super) fn question(
    request: &AdmissionRequest<'_>,
    (version, uid): (&str, &str),
    (asked, form): (&Form, &Form),
    (object, old): (&Value, &Value),
) -> Value {
    let mut question = about(request, asked, form);
    question["uid"] = uid.into();
    question["object"] = object.clone();
    question["oldObject"] = old.clone();
    json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": question})
}

/// Reads an answer to the question with that version and uid.
///
/// # Errors
/// What is wrong with it, in upstream's words.
pub(super) fn answer(body: &[u8], (version, uid): (&str, &str), phase: Phase) -> Result<Answer, String> {
    let review: Value = serde_json::from_slice(body).map_err(|error| {
        let start: String = String::from_utf8_lossy(body).chars().take(64).collect();
        format!("couldn't get version/kind; json parse error: {error} ({start:?})")
    })?;
    let Some(response) = review.get("response").filter(|response| response.is_object()) else {
        return Err("webhook response was absent".into());
    };
    if version == "v1" {
        let got = text(response, "/uid");
        if got != uid {
            return Err(format!("expected response.uid={uid:?}, got {got:?}"));
        }
        let (api_version, kind) = (text(&review, "/apiVersion"), text(&review, "/kind"));
        if (api_version, kind) != ("admission.k8s.io/v1", "AdmissionReview") {
            let got = match api_version.contains('/') {
                true => api_version.to_owned(),
                false => format!("/{api_version}"),
            };
            return Err(format!(
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {got}, Kind={kind}"
            ));
        }
    }
    let patch = patch(response, version, phase)?;
    let audit = response.get("auditAnnotations").and_then(Value::as_object);
    let warnings = list(response, "/warnings").iter().filter_map(Value::as_str);
    Ok(Answer {
        allowed: response.get("allowed").and_then(Value::as_bool).unwrap_or(false),
        result: response.get("status").filter(|status| status.is_object()).cloned(),
        patch,
        warnings: warnings.map(str::to_owned).collect(),
        audit: audit
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect(),
    })
}

/// A patch and its type come together, and only from mutating hooks.
fn patch(response: &Value, version: &str, phase: Phase) -> Result<Vec<u8>, String> {
    let encoded = text(response, "/patch");
    let kind = response.get("patchType").and_then(Value::as_str);
    let fault = match (phase, encoded.is_empty(), kind) {
        _ if version != "v1" => None,
        (Phase::Validating, false, _) => Some("validating webhook may not return response.patch".into()),
        (Phase::Validating, _, Some(_)) => Some("validating webhook may not return response.patchType".into()),
        (Phase::Mutating, false, None) => Some("webhook returned response.patch but not response.patchType".into()),
        (Phase::Mutating, true, Some(_)) => Some("webhook returned response.patchType but not response.patch".into()),
        (Phase::Mutating, false, Some("")) => Some("webhook returned invalid response.patchType of \"\"".into()),
        (Phase::Mutating, false, Some(kind)) if kind != "JSONPatch" => Some(format!("unsupported patch type {kind:?}")),
        _ => None,
    };
    match fault {
        Some(fault) => Err(fault),
        None => STANDARD
            .decode(encoded)
            .map_err(|error| format!("response.patch: {error}")),
    }
}

/// A denial as the client sees it.
pub(super) fn denial(hook: &str, result: Option<&Value>) -> Error {
    let denied = format!("admission webhook {hook:?} denied the request");
    let status = result.and_then(|status| Error::from_value(status).ok());
    let mut error = status.unwrap_or_else(|| Error {
        code: 0,
        reason: String::new(),
        message: String::new(),
        details: None,
    });
    error.code = error.code.max(400);
    error.message.truncate(error.message.floor_char_boundary(MESSAGE));
    error.message = match (error.message.is_empty(), error.reason.is_empty()) {
        (false, _) => format!("{denied}: {}", error.message),
        (true, false) => format!("{denied}: {}", error.reason),
        (true, true) => format!("{denied} without explanation"),
    };
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(response: Value) -> Vec<u8> {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
            .to_string()
            .into_bytes()
    }

    #[test]
    fn answers_are_checked() {
        let patch = STANDARD.encode("[]");
        for (response, phase, expected) in [
            (json!({"uid": "u", "allowed": true}), Phase::Validating, Ok(true)),
            (json!({"uid": "u"}), Phase::Validating, Ok(false)),
            (
                json!({"uid": "x", "allowed": true}),
                Phase::Validating,
                Err("expected response.uid=\"u\", got \"x\""),
            ),
            (Value::Null, Phase::Validating, Err("webhook response was absent")),
            (
                json!({"uid": "u", "allowed": true, "patch": patch}),
                Phase::Mutating,
                Err("webhook returned response.patch but not response.patchType"),
            ),
            (
                json!({"uid": "u", "allowed": true, "patchType": "JSONPatch"}),
                Phase::Mutating,
                Err("webhook returned response.patchType but not response.patch"),
            ),
            (
                json!({"uid": "u", "allowed": true, "patch": patch, "patchType": "JSONPatch"}),
                Phase::Mutating,
                Ok(true),
            ),
            (
                json!({"uid": "u", "allowed": true, "patch": patch, "patchType": "Merge"}),
                Phase::Mutating,
                Err("unsupported patch type \"Merge\""),
            ),
            (
                json!({"uid": "u", "allowed": true, "patch": patch, "patchType": "JSONPatch"}),
                Phase::Validating,
                Err("validating webhook may not return response.patch"),
            ),
        ] {
            let outcome = answer(&review(response.clone()), ("v1", "u"), phase).map(|answer| answer.allowed);
            assert_eq!(
                outcome.as_ref().copied().map_err(String::as_str),
                expected,
                "{response}"
            );
        }
        let old = json!({"response": {"allowed": true}}).to_string();
        assert!(
            answer(old.as_bytes(), ("v1beta1", "u"), Phase::Validating)
                .unwrap()
                .allowed
        );
        let bare = json!({"response": {"allowed": true, "uid": "u"}}).to_string();
        assert_eq!(
            answer(bare.as_bytes(), ("v1", "u"), Phase::Validating).unwrap_err(),
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /, Kind="
        );
    }

    #[test]
    fn a_denial_has_what_the_hook_says() {
        for (result, code, message) in [
            (
                None,
                400,
                "admission webhook \"h\" denied the request without explanation",
            ),
            (
                Some(json!({"message": "no", "code": 418})),
                418,
                "admission webhook \"h\" denied the request: no",
            ),
            (
                Some(json!({"reason": "Why", "code": 200})),
                400,
                "admission webhook \"h\" denied the request: Why",
            ),
        ] {
            let error = denial("h", result.as_ref());
            assert_eq!((error.code, error.message.as_str()), (code, message));
        }
    }

    #[test]
    fn the_first_version_that_we_speak_is_taken() {
        let of = |all: &[&str]| version(&all.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["v2", "v1beta1", "v1"]), Ok("v1beta1"));
        assert!(of(&["v2"]).is_err());
    }
}
