//! Whether they may: asks the authorizer about every REST request.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use api::{Error, GroupResource};
use tower::ServiceExt;

use super::State;
use super::body::{Request, Response};
use super::layer::Next;
use super::router::{info, is_grpc, user};

/// The service between API servers.
const RAFT: &str = "/keelson.raft.v1.Raft/";
/// The only group that may call it.
const APISERVERS: &str = "keelson:apiservers";
/// Answered while the server starts.
const HEALTH: &[&str] = &["/livez", "/readyz", "/healthz"];

/// Adds an `Access` to a request on a resource; 403 for what is not allowed.
pub async fn authorize(state: Arc<State>, mut request: Request, next: Next) -> Result<Response, Error> {
    let raft = request.uri().path().starts_with(RAFT);
    if raft && !user(&request).in_group(APISERVERS) {
        return Err(Error::forbidden(
            &GroupResource::new("", ""),
            "",
            format!("only members of {APISERVERS} may call {RAFT}"),
        ));
    }
    let health = HEALTH.iter().any(|path| request.uri().path().starts_with(path));
    if !raft && !health && !state.started.load(Ordering::Relaxed) {
        return Err(Error::service_unavailable("the server is starting"));
    }
    if is_grpc(&request) {
        return next.oneshot(request).await;
    }
    let (info, user) = (info(&request), user(&request));
    let start = Instant::now();
    let a = &info.attributes;
    let elsewhere = state.aggregator.remote(&a.group, &a.version).is_some();
    let judged = if a.is_resource && !elsewhere {
        let access = state.registry.authorize(user, info.attributes.clone()).await;
        access.map(|access| drop(request.extensions_mut().insert(access)))
    } else {
        state.registry.permit(&user, &info.attributes).await
    };
    state.metrics.authorized(judged.is_ok(), start);
    judged?;
    next.oneshot(request).await
}
