//! When it is their turn: requests wait for their seat, and take it along until they are answered.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use api::Error;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::task::JoinHandle;
use tower::ServiceExt;

use super::State;
use super::body::{Body, BodyError, Request, Response, TEXT, answer, full};
use super::layer::Next;
use super::metrics::Waited;
use super::router::{info, is_grpc, user};
use super::timeout::LIMIT;
use crate::flowcontrol::{self, TooMany, Uids, call};
use crate::registry::access::Attributes;

/// The service between API servers: it does not wait behind clients.
const RAFT: &str = "/keelson.raft.";
const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// 429 for a request that came to no turn.
pub async fn queue(state: Arc<State>, request: Request, next: Next) -> Result<Response, Error> {
    if request.uri().path().starts_with(RAFT) {
        return next.oneshot(request).await;
    }
    if is_grpc(&request) {
        return call::scope(state.flow.clone(), next.oneshot(request)).await;
    }
    let (info, user) = (info(&request), user(&request));
    let watch = info.attributes.verb == "watch";
    if info.is_long_running() && !watch {
        return next.oneshot(request).await;
    }
    let count = count(&state, &info.attributes);
    let width = |nominal| flowcontrol::width(&info, count, nominal);
    let permit = match state.flow.admit(&user, &info.attributes, width).await {
        Ok(permit) => permit,
        Err(TooMany(uids)) => {
            tell(&request, &uids);
            return Ok(too_many());
        }
    };
    tell(&request, &permit.uids);
    let mut response = next.oneshot(request).await?;
    response.extensions_mut().insert(Waited(permit.waited));
    // A watch has begun; anything else keeps its seat until all of it is sent, if its reader reads.
    if watch || response.body().size_hint().exact().is_some() {
        return Ok(response);
    }
    let seat = tokio::spawn(async move {
        let _permit = permit;
        tokio::time::sleep(LIMIT).await;
    });
    Ok(response.map(|body| Seated { body, seat }.boxed_unsync()))
}

/// Objects of the resource that a list or watch goes over.
fn count(state: &State, a: &Attributes) -> u64 {
    let lists = matches!(a.verb.as_str(), "list" | "watch");
    let kind = lists
        .then(|| state.registry.find(&a.group, &a.version, &a.resource))
        .flatten();
    kind.map_or(0, |kind| state.metrics.count(&kind.group_resource()))
}

/// Under which objects a request fell, for the headers of its answer, be it an error.
#[derive(Clone)]
pub struct FlowUids(pub Arc<OnceLock<Uids>>);

fn tell(request: &Request, uids: &Uids) {
    if let Some(FlowUids(slot)) = request.extensions().get::<FlowUids>() {
        // A request comes here once.
        let _ = slot.set(uids.clone());
    }
}

/// Tells the client under which objects it fell, without their names.
pub fn name(response: &mut Response, uids: &Uids) {
    for (name, uid) in [(SCHEMA_UID, &uids.schema), (LEVEL_UID, &uids.level)] {
        if let Ok(value) = HeaderValue::from_str(uid)
            && !uid.is_empty()
        {
            response.headers_mut().insert(name, value);
        }
    }
}

fn too_many() -> Response {
    let mut response = answer(
        StatusCode::TOO_MANY_REQUESTS,
        TEXT,
        full(format!("{}\n", flowcontrol::TOO_MANY)),
    );
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A body whose request keeps its seat.
struct Seated {
    body: Body,
    /// Holds the seat.
    seat: JoinHandle<()>,
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.seat.abort();
    }
}

impl http_body::Body for Seated {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
