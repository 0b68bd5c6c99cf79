//! Requests end in time, save those that last by nature.

use std::sync::Arc;
use std::time::Duration;

use api::Error;
use tower::ServiceExt;

use super::State;
use super::body::{Request, Response};
use super::layer::Next;
use super::router::info;

/// Upstream's `--request-timeout`.
pub const LIMIT: Duration = Duration::from_secs(60);

/// 504 after [`LIMIT`].
pub async fn limit(_: Arc<State>, request: Request, next: Next) -> Result<Response, Error> {
    if info(&request).is_long_running() {
        return next.oneshot(request).await;
    }
    match tokio::time::timeout(LIMIT, next.oneshot(request)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::timeout(
            "request did not complete within the allotted timeout",
            1,
        )),
    }
}
