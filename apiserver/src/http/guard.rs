//! The outermost layers: panics become a 500, and every request gets an id, a span and its parsed form.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use api::Error;
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue};
use tower::ServiceExt;
use tracing::Instrument;

use super::State;
use super::body::{Request, Response};
use super::layer::Next;
use super::request_info::RequestInfo;

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// A caller's own id may have this many characters; the rest is cut off, as upstream does.
const MAX_ID: usize = 64;

/// The id of a request, as an extension: the caller's if it sent one.
#[derive(Clone, Debug)]
pub struct AuditId(pub String);

impl AuditId {
    fn of(request: &Request) -> AuditId {
        let sent = request
            .headers()
            .get(AUDIT_ID)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("");
        AuditId(match sent {
            "" => uuid::Uuid::new_v4().to_string(),
            sent => sent.chars().take(MAX_ID).collect(),
        })
    }
}

/// Turns a panic below into an error and a log line.
pub async fn catch_panics(_: Arc<State>, request: Request, next: Next) -> Result<Response, Error> {
    let path = request.uri().path().to_owned();
    AssertUnwindSafe(next.oneshot(request))
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| {
            let why = panic
                .downcast_ref::<&str>()
                .map(|s| (*s).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned());
            tracing::error!(%path, panic = why.unwrap_or_default(), "request handler panicked");
            Err(Error::internal("the request handler failed"))
        })
}

/// Parses the request and gives it an id and a span.
pub async fn identify(_: Arc<State>, mut request: Request, next: Next) -> Result<Response, Error> {
    let uri = request.uri();
    let info = Arc::new(RequestInfo::parse(
        request.method(),
        uri.path(),
        uri.query().unwrap_or(""),
    ));
    let AuditId(id) = AuditId::of(&request);
    let span = tracing::debug_span!("request", %id, verb = %info.attributes.verb, path = %info.attributes.path);
    request.extensions_mut().insert(info);
    request.extensions_mut().insert(AuditId(id.clone()));
    let mut response = next.oneshot(request).instrument(span).await?;
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(AUDIT_ID, id);
    }
    Ok(response)
}
