//! The one chain that every request passes, REST and gRPC alike.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Method, Version};
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::body::{Request, Response, failure, full};
use super::layer::{Next, layer};
use super::{State, audit, authn, authz, errors, flow, guard, metrics, router, timeout};

/// Builds the chain.
pub fn stack(state: &Arc<State>) -> Next {
    let routes = state.clone();
    let chain = ServiceBuilder::new()
        // Outermost: whatever happens below, the connection gets an answer.
        .layer(layer(state, guard::catch_panics))
        // Parses the request once and names it, before anything wants to talk about it.
        .layer(layer(state, guard::identify))
        // Errors of all layers below become a Status (REST) or a gRPC status.
        .layer(layer(state, errors::to_status))
        // Sees every outcome, refusals too, with its final code.
        .layer(layer(state, metrics::measure))
        // Sees who asked for what, and what came of it.
        .layer(layer(state, audit::record))
        // Everything below has to be done in time.
        .layer(layer(state, timeout::limit))
        // Who asks.
        .layer(layer(state, authn::authenticate))
        // As whom.
        .layer(layer(state, authn::act_as))
        // When it is their turn; gRPC calls take it in their handlers, where the resource is known.
        .layer(layer(state, flow::queue))
        // Whether they may; gRPC calls are authorized in their handlers, where the resource is known.
        .layer(layer(state, authz::authorize))
        .service(service_fn(move |request: Request| {
            router::route(routes.clone(), request)
        }));
    BoxCloneSyncService::new(chain)
}

/// Answers one request.
///
/// # Errors
/// Never.
pub async fn serve(stack: Next, request: Request) -> Result<Response, Infallible> {
    // HTTP/1 leaves the body of an answer to HEAD out by itself; over HTTP/2 a client takes one for a broken protocol.
    let bare = request.method() == Method::HEAD && request.version() == Version::HTTP_2;
    let response = stack.oneshot(request).await.unwrap_or_else(|error| failure(&error));
    Ok(if bare { response.map(|_| full("")) } else { response })
}
