//! `pods/exec`, `pods/attach` and `pods/portforward`: SPDY or WebSocket towards the client, gRPC towards the kubelet.
//!
//! The kubelet is asked first, so that a pod that is not there or a container that does not run is an ordinary error; only then is the
//! connection upgraded. Nothing is kept: a stream ends with either side, or with the server.

mod command;
mod ports;

use std::future::Future;
use std::sync::Arc;

use api::Error;
use http::HeaderMap;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use streaming::upgrade::{self, Accepted, Refused};

use crate::http::State;
use crate::http::body::{Request, Response, full};
use crate::http::request_info::RequestInfo;
use crate::registry::Access;

/// Whether a subresource is one of these.
pub fn serves(subresource: &str) -> bool {
    matches!(subresource, "exec" | "attach" | "portforward")
}

/// Answers a request for one of these subresources that the authorizer allowed.
///
/// # Errors
/// 400 for a request that is no upgrade or names no container or command, 403 for one that offers only protocols that we do not speak,
/// and what the kubelet says.
pub async fn handle(
    state: Arc<State>,
    access: Access,
    info: Arc<RequestInfo>,
    request: Request,
) -> Result<Response, Error> {
    match access.attributes.subresource.as_str() {
        "portforward" => ports::handle(state, access, info, request).await,
        _ => command::handle(state, access, info, request).await,
    }
}

fn accept(headers: &HeaderMap, spdy: &[&'static str], websocket: &[&'static str]) -> Result<Accepted, Error> {
    upgrade::accept(headers, spdy, websocket).map_err(|refused| match refused {
        Refused::NotAnUpgrade => Error::bad_request("Upgrade request required"),
        Refused::Protocol(_) => Error {
            code: 403,
            reason: "Forbidden".into(),
            message: refused.to_string(),
            details: None,
        },
    })
}

/// Answers 101 and runs `serve` on the connection once it is upgraded, until it or the server ends.
fn switch<F>(
    state: Arc<State>,
    info: Arc<RequestInfo>,
    accepted: &Accepted,
    upgrade: OnUpgrade,
    serve: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        let _counted = state.metrics.long_running(&info);
        let run = async {
            match upgrade.await {
                Ok(connection) => serve(TokioIo::new(connection)).await,
                Err(error) => tracing::debug!(%error, "connection not upgraded"),
            }
        };
        state.shutdown.run_until(run).await;
    });
    accepted.response::<()>().map(|()| full(""))
}
