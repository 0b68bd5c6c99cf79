//! OpenAPI documents over HTTP: which encoding, ETag, caching, compression.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use api::Error;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;

use super::State;
use super::body::{Request, Response, answer, full, json};
use super::negotiate::accepts_gzip;
use super::router::info;
use crate::aggregation::discovery as extensions;
use crate::discovery::openapi::{Document, Encoding};

const V2_JSON: &str = "application/json";
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// As older clients write it; `@` is not allowed there, so it is never answered.
const V2_PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const V3_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";
const V3_PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";
/// How long a document under its hash may be kept.
const A_YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// `/openapi/v2`.
///
/// # Errors
/// 500 when the document cannot be made.
pub async fn swagger(state: &Arc<State>, request: &Request) -> Result<Response, Error> {
    let Some((encoding, content_type)) = negotiate(request.headers(), &[V2_PROTOBUF, V2_PROTOBUF_OLD]) else {
        return Ok(not_acceptable());
    };
    let document = make(state, move |state| {
        state.documents.swagger(&state.registry.kinds(), encoding)
    })
    .await?;
    deliver(request.headers(), document, content_type)
}

/// `/openapi/v3`.
///
/// # Errors
/// 500 when the documents cannot be made.
pub async fn index(state: &Arc<State>) -> Result<Response, Error> {
    let mut index = make(state, |state| state.documents.index(&state.registry.kinds())).await?;
    extensions::add_openapi(&state.aggregator.table(), &mut index);
    Ok(json(StatusCode::OK, &index))
}

/// `/openapi/v3/<root>`.
///
/// # Errors
/// 404 for what is not served, 500 when the document cannot be made.
pub async fn version(state: &Arc<State>, request: &Request, root: String) -> Result<Response, Error> {
    let Some((encoding, content_type)) = negotiate(request.headers(), &[V3_PROTOBUF, V3_PROTOBUF_OLD]) else {
        return Ok(not_acceptable());
    };
    let path = root.clone();
    let found = make(state, move |state| {
        state.documents.version(&state.registry.kinds(), &path, encoding)
    })
    .await?;
    let document = found.ok_or_else(Error::no_such_path)?;
    let info = info(request);
    let hash = info.query.get("hash");
    if !hash.is_empty() && hash != document.etag {
        let mut moved = answer(
            StatusCode::MOVED_PERMANENTLY,
            HeaderValue::from_static("text/html; charset=utf-8"),
            full(""),
        );
        set(
            &mut moved,
            header::LOCATION,
            &format!("/openapi/v3/{root}?hash={}", document.etag),
        );
        return Ok(moved);
    }
    let mut response = deliver(request.headers(), document, content_type)?;
    if !hash.is_empty() {
        // What has this hash never changes.
        set(&mut response, header::CACHE_CONTROL, "public, immutable");
        let expires = Timestamp::now().saturating_add(A_YEAR).map_err(Error::internal)?;
        set(
            &mut response,
            header::EXPIRES,
            &expires.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string(),
        );
    }
    Ok(response)
}

/// Runs what takes long beside the threads that serve.
async fn make<T: Send + 'static>(
    state: &Arc<State>,
    make: impl FnOnce(&State) -> std::io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let state = state.clone();
    let made = tokio::task::spawn_blocking(move || make(&state)).await;
    made.map_err(Error::internal)?.map_err(Error::internal)
}

/// The first clause of `Accept` that is served, with the type to answer; `None` if there is none. `protobuf` has the type to answer first.
fn negotiate(headers: &HeaderMap, protobuf: &[&'static str; 2]) -> Option<(Encoding, &'static str)> {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("*/*");
    accept
        .split(',')
        .find_map(|clause| match clause.split(';').next()?.trim() {
            "" | "*/*" | "application/*" | V2_JSON => Some((Encoding::Json, V2_JSON)),
            ty if protobuf.contains(&ty) => Some((Encoding::Protobuf, protobuf[0])),
            _ => None,
        })
}

fn not_acceptable() -> Response {
    answer(StatusCode::NOT_ACCEPTABLE, super::body::TEXT, full(""))
}

fn set(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// True if the client has it already.
pub fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    known
        .split(',')
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == "*" || tag == etag)
}

fn deliver(headers: &HeaderMap, document: Document, content_type: &'static str) -> Result<Response, Error> {
    let etag = format!("\"{}\"", document.etag);
    let zipped = accepts_gzip(headers);
    let mut response = if is_known(headers, &etag) {
        let mut response = Response::new(full(""));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else if zipped {
        let mut response = answer(
            StatusCode::OK,
            HeaderValue::from_static(content_type),
            full(document.packed),
        );
        set(&mut response, header::CONTENT_ENCODING, "gzip");
        response
    } else {
        let mut plain = Vec::new();
        let mut unpacked = flate2::read::GzDecoder::new(&document.packed[..]);
        unpacked.read_to_end(&mut plain).map_err(Error::internal)?;
        answer(StatusCode::OK, HeaderValue::from_static(content_type), full(plain))
    };
    set(&mut response, header::ETAG, &etag);
    set(&mut response, header::VARY, "Accept, Accept-Encoding");
    Ok(response)
}
