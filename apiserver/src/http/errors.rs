//! Errors into answers.

use std::sync::Arc;

use api::Error;
use tower::ServiceExt;

use super::State;
use super::body::{Request, Response, failure};
use super::layer::Next;
use super::router::is_grpc;
use crate::grpc;

/// A `Status` in JSON for REST, `grpc-status` with details for gRPC.
pub async fn to_status(_: Arc<State>, request: Request, next: Next) -> Result<Response, Error> {
    let grpc = is_grpc(&request);
    match next.oneshot(request).await {
        Ok(response) => Ok(response),
        Err(error) => {
            tracing::debug!(code = error.code, reason = %error.reason, message = %error.message, "request refused");
            Ok(if grpc { grpc::refusal(&error) } else { failure(&error) })
        }
    }
}
