//! Who asks: hands the connection's certificates and the headers to the authenticator.

use std::sync::Arc;
use std::time::Instant;

use api::Error;
use daemon::http::Peer;
use tower::ServiceExt;

use super::State;
use super::body::{Request, Response};
use super::layer::Next;
use super::router::user;
use crate::audit;
use crate::authn::impersonate::impersonate;
use crate::registry::access::{Credentials, UserInfo};

/// Adds an `Arc<UserInfo>` to the request; 401 for bad credentials.
pub async fn authenticate(state: Arc<State>, mut request: Request, next: Next) -> Result<Response, Error> {
    let peer = request.extensions().get::<Peer>();
    let credentials = Credentials {
        certificates: peer.map_or(&[], |peer| &peer.certificates),
        headers: request.headers(),
        path: request.uri().path(),
    };
    let start = Instant::now();
    let user = match state.authenticator.authenticate(credentials).await {
        Ok(user) => {
            let known = user.as_ref().map(|user| user.name.as_str());
            state.metrics.authenticated(Ok(known), start);
            user.unwrap_or_else(UserInfo::anonymous)
        }
        Err(error) => {
            state.metrics.authenticated(Err(()), start);
            tracing::info!(peer = ?peer.map(|p| p.address), %error, "credentials refused");
            audit::unauthenticated(&methods(&credentials));
            return Err(if error.is_unauthorized() {
                Error::unauthorized("Unauthorized")
            } else {
                error
            });
        }
    };
    audit::received(&user);
    request.extensions_mut().insert(Arc::new(user));
    next.oneshot(request).await
}

/// Puts the user that the impersonation headers ask for in place of the one who asks; 403 where that is not allowed.
pub async fn act_as(state: Arc<State>, mut request: Request, next: Next) -> Result<Response, Error> {
    let asking = user(&request);
    if let Some(other) = impersonate(request.headers(), &asking, state.registry.authorizer()).await? {
        audit::impersonated(&other);
        request.extensions_mut().insert(Arc::new(other));
    }
    next.oneshot(request).await
}

/// The kinds of credentials that a request brought.
fn methods(credentials: &Credentials<'_>) -> String {
    let header = credentials.headers.get(http::header::AUTHORIZATION);
    let header = header.map(|v| v.as_bytes().to_ascii_lowercase()).unwrap_or_default();
    let tried = [
        (header.starts_with(b"basic "), "basic"),
        (header.starts_with(b"bearer "), "bearer"),
        (!credentials.certificates.is_empty(), "x509"),
    ];
    let tried: Vec<&str> = tried.iter().filter(|(yes, _)| *yes).map(|(_, name)| *name).collect();
    tried.join(", ")
}
