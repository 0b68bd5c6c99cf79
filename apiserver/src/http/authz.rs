//! Whether they may: asks the authorizer about every REST request.

use std::sync::Arc;

use api::Error;
use tower::ServiceExt;

use super::State;
use super::body::{Request, Response};
use super::layer::Next;
use super::router::{info, is_grpc, user};

/// Adds an `Access` to a request on a resource; 403 for what is not allowed.
pub async fn authorize(state: Arc<State>, mut request: Request, next: Next) -> Result<Response, Error> {
    if is_grpc(&request) {
        return next.oneshot(request).await;
    }
    let (info, user) = (info(&request), user(&request));
    if info.attributes.is_resource {
        let access = state.registry.authorize(user, info.attributes.clone()).await?;
        request.extensions_mut().insert(access);
    } else {
        state.registry.permit(&user, &info.attributes).await?;
    }
    next.oneshot(request).await
}
