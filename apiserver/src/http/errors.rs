//! Errors into answers.

use std::sync::Arc;

use api::Error;
use tower::ServiceExt;

use super::State;
use super::body::{Request, Response, failure_as};
use super::layer::Next;
use super::negotiate::Format;
use super::rest::with_warnings;
use super::router::{info, is_grpc};
use crate::grpc;
use crate::registry::access::collecting_warnings;

/// A `Status` for REST, `grpc-status` with details for gRPC.
pub async fn to_status(_: Arc<State>, request: Request, next: Next) -> Result<Response, Error> {
    let grpc = is_grpc(&request);
    // What cannot be negotiated is told in JSON.
    let format = Format::asked(request.headers(), info(&request).query.get("pretty")).unwrap_or(Format::JSON);
    let (outcome, warnings) = collecting_warnings(next.oneshot(request)).await;
    match outcome {
        Ok(response) => Ok(response),
        Err(error) => {
            tracing::debug!(code = error.code, reason = %error.reason, message = %error.message, "request refused");
            Ok(if grpc {
                grpc::refusal(&error)
            } else {
                with_warnings(failure_as(&error, format), &warnings)
            })
        }
    }
}
