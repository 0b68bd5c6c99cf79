//! Who asks: hands the connection's certificates and the headers to the authenticator.

use std::sync::Arc;

use api::Error;
use daemon::http::Peer;
use tower::ServiceExt;

use super::State;
use super::body::{Request, Response};
use super::layer::Next;
use crate::authn::impersonate::impersonate;
use crate::registry::access::{Credentials, UserInfo};

/// Adds an `Arc<UserInfo>` to the request; 401 for bad credentials.
pub async fn authenticate(state: Arc<State>, mut request: Request, next: Next) -> Result<Response, Error> {
    let peer = request.extensions().get::<Peer>();
    let credentials = Credentials {
        certificates: peer.map_or(&[], |peer| &peer.certificates),
        headers: request.headers(),
    };
    let user = match state.authenticator.authenticate(credentials).await {
        Ok(user) => user.unwrap_or_else(UserInfo::anonymous),
        Err(error) => {
            tracing::info!(peer = ?peer.map(|p| p.address), %error, "credentials refused");
            return Err(if error.is_unauthorized() {
                Error::unauthorized("Unauthorized")
            } else {
                error
            });
        }
    };
    let user = impersonate(request.headers(), user, state.registry.authorizer()).await?;
    request.extensions_mut().insert(Arc::new(user));
    next.oneshot(request).await
}
