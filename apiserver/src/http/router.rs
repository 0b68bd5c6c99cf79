//! Where a request goes once it is allowed.

use std::sync::Arc;

use api::Error;
use http::header;
use http_body_util::BodyExt;
use tower::Service;

use super::body::{BodyError, Request, Response};
use super::request_info::RequestInfo;
use super::{State, paths, rest};
use crate::aggregation;
use crate::registry::Access;
use crate::registry::access::UserInfo;

/// The parsed form of a request.
pub fn info(request: &Request) -> Arc<RequestInfo> {
    request
        .extensions()
        .get::<Arc<RequestInfo>>()
        .cloned()
        .unwrap_or_default()
}

/// Who asks; anonymous if authentication has not run.
pub fn user(request: &Request) -> Arc<UserInfo> {
    request
        .extensions()
        .get::<Arc<UserInfo>>()
        .cloned()
        .unwrap_or_else(|| Arc::new(UserInfo::anonymous()))
}

/// True for a gRPC call.
pub fn is_grpc(request: &Request) -> bool {
    request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Hands the request to gRPC, the resource handlers or the path handlers.
pub async fn route(state: Arc<State>, mut request: Request) -> Result<Response, Error> {
    if is_grpc(&request) {
        let mut routes = state.grpc.clone();
        let response = routes.call(request).await.map_err(Error::internal)?;
        return Ok(response.map(|body| body.map_err(BodyError::from).boxed_unsync()));
    }
    match request.extensions_mut().remove::<Access>() {
        Some(access) => rest::handle(state, access, request).await,
        None => match state.aggregator.behind(request.uri().path()) {
            Some(remote) => Ok(aggregation::serve(&state, &remote, request).await),
            None => paths::handle(&state, &request).await,
        },
    }
}
