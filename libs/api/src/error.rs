//! [`Error`]: the API's answer to a request that failed, `metav1.Status` as a Rust error. Codes, reasons and messages are
//! upstream's, because clients match on them.

use crate::meta::{ListMeta, Status, StatusCause, StatusDetails};
use crate::{FieldError, GroupKind, GroupResource, codec, schema};
use serde_json::Value;
use std::fmt;

/// A failed request: HTTP code, machine-readable reason, message and details.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The HTTP status code.
    pub code: u16,
    /// As `NotFound`; empty when unknown.
    pub reason: String,
    /// For people.
    pub message: String,
    /// What the error is about.
    pub details: Option<Box<StatusDetails>>,
}

fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_string())
}

fn about(resource: &GroupResource, name: &str) -> Option<Box<StatusDetails>> {
    let (group, kind, name) = (text(&resource.group), text(&resource.resource), text(name));
    Some(Box::new(StatusDetails {
        group,
        kind,
        name,
        ..Default::default()
    }))
}

impl Error {
    fn new(code: u16, reason: &str, message: impl Into<String>, details: Option<Box<StatusDetails>>) -> Self {
        Error {
            code,
            reason: reason.to_string(),
            message: message.into(),
            details,
        }
    }

    /// 404: there is no such object.
    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::new(
            404,
            "NotFound",
            format!("{resource} {name:?} not found"),
            about(resource, name),
        )
    }

    /// 404 for a path that names nothing.
    pub fn no_such_path() -> Self {
        Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
            Some(Box::default()),
        )
    }

    /// 409: the object to create exists.
    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::new(
            409,
            "AlreadyExists",
            format!("{resource} {name:?} already exists"),
            about(resource, name),
        )
    }

    /// 409: the object is not as the writer thought.
    pub fn conflict(resource: &GroupResource, name: &str, why: impl fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {why}");
        Self::new(409, "Conflict", message, about(resource, name))
    }

    /// 409 of server-side apply: other managers own the fields in `causes`.
    pub fn apply_conflict(causes: Vec<StatusCause>, message: impl Into<String>) -> Self {
        let details = StatusDetails {
            causes: Some(causes),
            ..Default::default()
        };
        Self::new(409, "Conflict", message, Some(Box::new(details)))
    }

    /// 422: the object's fields do not pass validation.
    pub fn invalid(kind: &GroupKind, name: &str, errors: Vec<FieldError>) -> Self {
        let details = StatusDetails {
            group: text(&kind.group),
            kind: text(&kind.kind),
            name: text(name),
            causes: Some(errors.iter().map(FieldError::cause).collect()),
            ..Default::default()
        };
        let mut message = format!("{kind} {name:?} is invalid");
        if !errors.is_empty() {
            message = format!("{message}: {}", aggregate(&errors));
        }
        Self::new(422, "Invalid", message, Some(Box::new(details)))
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message, None)
    }

    /// 403: understood and refused.
    pub fn forbidden(resource: &GroupResource, name: &str, why: impl fmt::Display) -> Self {
        let message = match (&*resource.resource, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{resource} is forbidden: {why}"),
            _ => format!("{resource} {name:?} is forbidden: {why}"),
        };
        Self::new(403, "Forbidden", message, about(resource, name))
    }

    /// 401: nobody knows who is asking.
    pub fn unauthorized(message: &str) -> Self {
        let message = if message.is_empty() { "not authorized" } else { message };
        Self::new(401, "Unauthorized", message, None)
    }

    /// 410: the revision asked for is compacted; list again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message, None)
    }

    /// 410: what was asked for is gone for good.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Gone", message, None)
    }

    /// 429: come again after so many seconds.
    pub fn too_many_requests(message: impl Into<String>, retry_after_s: i32) -> Self {
        Self::new(429, "TooManyRequests", message, retry_after(retry_after_s))
    }

    /// 500: our fault.
    pub fn internal(why: impl fmt::Display) -> Self {
        let cause = StatusCause {
            message: Some(why.to_string()),
            ..Default::default()
        };
        let details = StatusDetails {
            causes: Some(vec![cause]),
            ..Default::default()
        };
        Self::new(
            500,
            "InternalError",
            format!("Internal error occurred: {why}"),
            Some(Box::new(details)),
        )
    }

    /// 504: the request took longer than it may.
    pub fn timeout(message: impl fmt::Display, retry_after_s: i32) -> Self {
        Self::new(
            504,
            "Timeout",
            format!("Timeout: {message}"),
            retry_after(retry_after_s),
        )
    }

    /// 500 with a request to try again.
    pub fn server_timeout(resource: &GroupResource, operation: &str, retry_after_s: i32) -> Self {
        let message = format!(
            "The {operation} operation against {resource} could not be completed at this time, please try again."
        );
        let mut details = about(resource, "");
        if let Some(details) = &mut details {
            details.retry_after_seconds = (retry_after_s > 0).then_some(retry_after_s);
        }
        Self::new(500, "ServerTimeout", message, details)
    }

    /// 503: not able to serve just now.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message, None)
    }

    /// 405: the resource has no such verb.
    pub fn method_not_allowed(resource: &GroupResource, verb: &str) -> Self {
        let message = format!(
            "{verb} is not supported on resources of kind {:?}",
            resource.to_string()
        );
        Self::new(405, "MethodNotAllowed", message, about(resource, ""))
    }

    /// 406: the client accepts nothing we can produce.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, "NotAcceptable", message, None)
    }

    /// 415: the body is in a format we do not read.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message, None)
    }

    /// 413: the body is longer than we read.
    pub fn too_large(message: impl fmt::Display) -> Self {
        Self::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity is too large: {message}"),
            None,
        )
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.reason == "NotFound"
    }

    /// Whether the object was not as the writer thought.
    pub fn is_conflict(&self) -> bool {
        self.reason == "Conflict"
    }

    /// Whether the object to create existed.
    pub fn is_already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }

    /// Whether the object did not pass validation.
    pub fn is_invalid(&self) -> bool {
        self.reason == "Invalid"
    }

    /// Whether the request was understood and refused.
    pub fn is_forbidden(&self) -> bool {
        self.reason == "Forbidden"
    }

    /// Whether the asker is unknown.
    pub fn is_unauthorized(&self) -> bool {
        self.reason == "Unauthorized"
    }

    /// Whether the revision asked for is compacted.
    pub fn is_expired(&self) -> bool {
        self.reason == "Expired" || self.reason == "Gone"
    }

    /// Whether the server asked to be left alone for a while.
    pub fn is_too_many_requests(&self) -> bool {
        self.code == 429
    }

    /// After how many seconds the server asked to be tried again.
    pub fn retry_after_seconds(&self) -> Option<i32> {
        self.details.as_ref()?.retry_after_seconds
    }

    /// The causes of a validation error or a conflict.
    pub fn causes(&self) -> &[StatusCause] {
        self.details
            .as_ref()
            .and_then(|details| details.causes.as_deref())
            .unwrap_or_default()
    }

    /// As the object that goes over the wire.
    pub fn to_status(&self) -> Status {
        Status {
            code: Some(i32::from(self.code)),
            details: self.details.as_deref().cloned(),
            message: text(&self.message),
            metadata: ListMeta::default(),
            reason: text(&self.reason),
            status: Some("Failure".to_string()),
        }
    }

    /// From the object that came over the wire.
    pub fn from_status(status: Status) -> Self {
        Error {
            code: status
                .code
                .and_then(|code| u16::try_from(code).ok())
                .filter(|code| *code != 0)
                .unwrap_or(500),
            reason: status.reason.unwrap_or_default(),
            message: status.message.unwrap_or_default(),
            details: status.details.map(Box::new),
        }
    }

    /// The protobuf message of the Status, without envelope.
    pub fn encode(&self) -> Vec<u8> {
        let status = codec::value_to_proto(status_schema(), &self.to_value());
        // A Status made of texts and numbers has an encoding.
        debug_assert!(status.is_ok(), "{status:?}");
        status.unwrap_or_default()
    }

    /// Reads the protobuf message of a Status.
    pub fn decode(message: &[u8]) -> Result<Self, codec::Error> {
        codec::typed_de::read(status_schema(), message).map(Self::from_status)
    }

    /// Reads the JSON form of a Status.
    pub fn from_value(value: &Value) -> Result<Self, codec::Error> {
        Self::decode(&codec::value_to_proto(status_schema(), value)?)
    }

    /// As JSON, with `apiVersion` and `kind`.
    pub fn to_value(&self) -> Value {
        let mut status = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message,
            "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.as_str().into();
        }
        if let Some(details) = &self.details {
            status["details"] = details_value(details);
        }
        status
    }
}

fn details_value(details: &StatusDetails) -> Value {
    let mut value = serde_json::Map::new();
    let texts = [
        ("name", &details.name),
        ("group", &details.group),
        ("kind", &details.kind),
        ("uid", &details.uid),
    ];
    for (key, text) in texts {
        value.extend(text.as_ref().map(|text| (key.to_string(), text.as_str().into())));
    }
    if let Some(causes) = &details.causes {
        let cause = |cause: &StatusCause| {
            let parts = [
                ("reason", &cause.reason),
                ("message", &cause.message),
                ("field", &cause.field),
            ];
            let parts = parts
                .into_iter()
                .filter_map(|(key, text)| Some((key.to_string(), text.as_deref()?.into())));
            parts.collect::<serde_json::Map<_, _>>()
        };
        value.insert("causes".into(), causes.iter().map(cause).collect());
    }
    value.extend(
        details
            .retry_after_seconds
            .map(|seconds| ("retryAfterSeconds".to_string(), seconds.into())),
    );
    value.into()
}

fn status_schema() -> &'static schema::Message {
    static NONE: schema::Message = schema::Message {
        name: "",
        fields: &[],
        atomic: false,
    };
    schema::for_kind("", "v1", "Status").unwrap_or(&NONE)
}

fn retry_after(seconds: i32) -> Option<Box<StatusDetails>> {
    Some(Box::new(StatusDetails {
        retry_after_seconds: (seconds > 0).then_some(seconds),
        ..Default::default()
    }))
}

/// One error alone, several in brackets; the same text twice is said once.
fn aggregate(errors: &[FieldError]) -> String {
    let mut texts: Vec<String> = Vec::new();
    for error in errors.iter().map(ToString::to_string) {
        if !texts.contains(&error) {
            texts.push(error);
        }
    }
    match &*texts {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_upstreams() {
        let pods = GroupResource::new("", "pods");
        let deployments = GroupResource::new("apps", "deployments");
        let kind = GroupKind::new("apps", "Deployment");
        let table = [
            (Error::not_found(&pods, "web"), 404, r#"pods "web" not found"#),
            (
                Error::already_exists(&deployments, "web"),
                409,
                r#"deployments.apps "web" already exists"#,
            ),
            (
                Error::conflict(&deployments, "web", "stale"),
                409,
                r#"Operation cannot be fulfilled on deployments.apps "web": stale"#,
            ),
            (
                Error::invalid(
                    &kind,
                    "web",
                    vec![FieldError::required("a", ""), FieldError::required("b", "")],
                ),
                422,
                r#"Deployment.apps "web" is invalid: [a: Required value, b: Required value]"#,
            ),
            (Error::forbidden(&pods, "", "no"), 403, "pods is forbidden: no"),
            (Error::internal("x"), 500, "Internal error occurred: x"),
        ];
        for (error, code, message) in table {
            assert_eq!((error.code, &*error.message), (code, message));
            assert_eq!(Error::from_status(error.to_status()), error);
            assert_eq!(Error::decode(&error.encode()), Ok(error.clone()));
            assert_eq!(Error::from_value(&error.to_value()), Ok(error));
        }
    }
}
