//! Requests outside of resources: discovery, documents, version, health, metrics.

use std::sync::Arc;

use api::{Error, schema};
use daemon::metrics::{CONTENT_TYPE, render as render_metrics};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

use super::body::{JSON, Request, Response, TEXT, answer, full, json as json_answer};
use super::negotiate::{Format, PROTOBUF, is_served};
use super::router::info;
use super::{State, openapi, render};
use crate::aggregation::discovery as extensions;
use crate::discovery::{self, Aggregated};

const JWK_SET: HeaderValue = HeaderValue::from_static("application/jwk-set+json");

/// Answers a path.
///
/// # Errors
/// 404 for a path that is not there, 405 for other methods than GET.
pub async fn handle(state: &Arc<State>, request: &Request) -> Result<Response, Error> {
    let info = info(request);
    let path = info.attributes.path.as_str();
    if let Some((code, text)) = state.health.answer(path, request.uri().query().unwrap_or("")) {
        return Ok(health(code, text));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut error = Error::no_such_path();
        (error.code, error.reason) = (405, "MethodNotAllowed".into());
        error.message = "the server does not allow this method on the requested resource".into();
        return Err(error);
    }
    let headers = request.headers();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let found = |value: Value| Ok(json_answer(StatusCode::OK, &value));
    let kinds = || state.registry.kinds();
    match parts.as_slice() {
        [""] => {
            let mut paths = discovery::root_paths(&kinds(), &state.health);
            extensions::add_paths(&state.aggregator.table(), &mut paths);
            found(json!({"paths": paths}))
        }
        ["metrics"] => Ok(answer(
            StatusCode::OK,
            HeaderValue::from_static(CONTENT_TYPE),
            full(render_metrics(&state.metrics.registry)),
        )),
        ["version"] => found(discovery::version()),
        ["api" | "apis"] => groups(state, headers, parts[0] == "api"),
        ["api", version] => listed(headers, discovery::resources(&kinds(), "", version)),
        ["apis", group] => {
            let own = discovery::group(&kinds(), group);
            listed(headers, extensions::group(&state.aggregator.table(), group, own))
        }
        ["apis", group, version] => listed(headers, discovery::resources(&kinds(), group, version)),
        [".well-known", "openid-configuration"] => Ok(document_of(JSON, &state.tokens.discovery_document())),
        ["openid", "v1", "jwks"] => Ok(document_of(JWK_SET, &state.tokens.key_set())),
        ["openapi", "v2"] => openapi::swagger(state, request).await,
        ["openapi", "v3"] => openapi::index(state).await,
        ["openapi", "v3", root @ ..] => openapi::version(state, request, root.join("/")).await,
        _ => Err(Error::no_such_path()),
    }
}

/// A document that verifiers of service-account tokens read; they may keep it for an hour, as upstream says.
fn document_of(content_type: HeaderValue, value: &Value) -> Response {
    let mut response = answer(StatusCode::OK, content_type, full(value.to_string()));
    let caching = HeaderValue::from_static("public, max-age=3600");
    response.headers_mut().insert(header::CACHE_CONTROL, caching);
    response
}

fn health(code: u16, text: String) -> Response {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = answer(status, TEXT, full(text));
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A legacy discovery object in the encoding that was asked for.
fn listed(headers: &HeaderMap, value: Option<Value>) -> Result<Response, Error> {
    let value = value.ok_or_else(Error::no_such_path)?;
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default();
    let message = schema::for_kind("", "v1", kind);
    render::value(&value, message, Format::of(headers)?, StatusCode::OK)
}

/// `/api` and `/apis`: in the form of the first clause of `Accept` that is served.
fn groups(state: &State, headers: &HeaderMap, core: bool) -> Result<Response, Error> {
    let kinds = state.registry.kinds();
    let accept = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    for clause in accept.flat_map(|value| value.split(',')).map(str::trim) {
        if let Some((form, protobuf)) = Aggregated::parse(clause) {
            let mut list = discovery::aggregated(&kinds, core, form);
            if !core {
                extensions::add_aggregated(&state.aggregator.table(), &mut list);
            }
            return aggregated(headers, &list, form, protobuf);
        }
        if is_served(clause) {
            break;
        }
    }
    let mut response = match core {
        true => listed(headers, Some(discovery::core_versions(&state.address))),
        false => {
            let mut groups = discovery::groups(&kinds);
            extensions::add_groups(&state.aggregator.table(), &mut groups);
            listed(headers, Some(groups))
        }
    }?;
    response
        .headers_mut()
        .insert(header::VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

fn aggregated(headers: &HeaderMap, list: &Value, form: Aggregated, protobuf: bool) -> Result<Response, Error> {
    let version = form.version();
    let message = schema::for_kind("apidiscovery.k8s.io", version, "APIGroupDiscoveryList").filter(|_| protobuf);
    let text = list.to_string();
    let hash: String = Sha512::digest(&text).iter().map(|byte| format!("{byte:02X}")).collect();
    let etag = format!("\"{hash}\"");
    let mut response = Response::new(full(""));
    if openapi::is_known(headers, &etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else if let Some(message) = message {
        let raw = api::codec::value_to_proto(message, list).map_err(Error::internal)?;
        let api_version = format!("apidiscovery.k8s.io/{version}");
        *response.body_mut() = full(api::codec::wrap(&api_version, "APIGroupDiscoveryList", &raw));
    } else {
        *response.body_mut() = full(text);
    }
    let media = if message.is_some() {
        PROTOBUF
    } else {
        "application/json"
    };
    let content_type = format!("{media};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    for (name, value) in [
        (header::CONTENT_TYPE, content_type.as_str()),
        (header::ETAG, &etag),
        (header::VARY, "Accept"),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}
