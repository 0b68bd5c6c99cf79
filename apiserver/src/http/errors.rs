//! Errors into answers.

use std::sync::{Arc, OnceLock};

use api::Error;
use tower::ServiceExt;

use super::State;
use super::body::{Request, Response, failure_as};
use super::flow::{self, FlowUids};
use super::layer::Next;
use super::negotiate::Format;
use super::rest::with_warnings;
use super::router::{info, is_grpc};
use crate::grpc;
use crate::registry::access::collecting_warnings;

/// A `Status` for REST, `grpc-status` with details for gRPC.
pub async fn to_status(_: Arc<State>, mut request: Request, next: Next) -> Result<Response, Error> {
    let grpc = is_grpc(&request);
    let flow = Arc::new(OnceLock::new());
    request.extensions_mut().insert(FlowUids(flow.clone()));
    // What cannot be negotiated is told in JSON.
    let format = Format::asked(request.headers(), info(&request).query.get("pretty")).unwrap_or(Format::JSON);
    let (outcome, warnings) = collecting_warnings(next.oneshot(request)).await;
    let mut response = match outcome {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(code = error.code, reason = %error.reason, message = %error.message, "request refused");
            if grpc {
                grpc::refusal(&error)
            } else {
                with_warnings(failure_as(&error, format), &warnings)
            }
        }
    };
    if let Some(uids) = flow.get() {
        flow::name(&mut response, uids);
    }
    Ok(response)
}
