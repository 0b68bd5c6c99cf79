//! Requests outside of resources: discovery, documents, version, health, metrics.

use api::Error;
use daemon::metrics::{CONTENT_TYPE, render};
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use super::State;
use super::body::{JSON, Request, Response, TEXT, answer, full, json as json_answer};
use super::router::info;
use crate::discovery::{self, Aggregated, openapi};

/// Answers a path.
///
/// # Errors
/// 404 for a path that is not there, 405 for other methods than GET.
pub fn handle(state: &State, request: &Request) -> Result<Response, Error> {
    let info = info(request);
    let path = info.attributes.path.as_str();
    if let Some((code, text)) = state.health.answer(path, request.uri().query().unwrap_or("")) {
        let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        return Ok(answer(status, TEXT, full(text)));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut error = Error::no_such_path();
        (error.code, error.reason) = (405, "MethodNotAllowed".into());
        error.message = "the server does not allow this method on the requested resource".into();
        return Err(error);
    }
    let accept = request
        .headers()
        .get(header::ACCEPT)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let found = |value: Option<Value>| {
        value
            .map(|value| json_answer(StatusCode::OK, &value))
            .ok_or_else(Error::no_such_path)
    };
    let kinds = || state.registry.kinds();
    match parts.as_slice() {
        [""] => found(Some(json!({"paths": discovery::root_paths(&kinds())}))),
        ["metrics"] => Ok(answer(
            StatusCode::OK,
            HeaderValue::from_static(CONTENT_TYPE),
            full(render(&state.metrics.registry)),
        )),
        ["version"] => found(Some(discovery::version())),
        ["api" | "apis"] => match Aggregated::accepted(accept) {
            Some(version) => {
                let list = discovery::aggregated(&kinds(), parts[0] == "api", version);
                Ok(answer(
                    StatusCode::OK,
                    HeaderValue::from_static(version.content_type()),
                    full(list.to_string()),
                ))
            }
            None if parts[0] == "api" => found(Some(discovery::core_versions(&state.address))),
            None => found(Some(discovery::groups(&kinds()))),
        },
        ["api", "v1"] => found(discovery::resources(&kinds(), "", "v1")),
        ["apis", group] => found(discovery::group(&kinds(), group)),
        ["apis", group, version] => found(discovery::resources(&kinds(), group, version)),
        [".well-known", "openid-configuration"] => found(Some(state.tokens.discovery_document())),
        ["openid", "v1", "jwks"] => found(Some(state.tokens.key_set())),
        ["openapi", "v3"] => found(Some(openapi::root())),
        ["openapi", "v3", "api", version] => document("", version),
        ["openapi", "v3", "apis", group, version] => document(group, version),
        _ => Err(Error::no_such_path()),
    }
}

fn document(group: &str, version: &str) -> Result<Response, Error> {
    let text = openapi::document(group, version).ok_or_else(Error::no_such_path)?;
    Ok(answer(StatusCode::OK, JSON, full(text)))
}
