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
use serde_json::{Value, json};
use streaming::upgrade::{self, Accepted, Refused};

use crate::http::State;
use crate::http::body::{Request, Response, full};
use crate::http::query::Query;
use crate::http::request_info::RequestInfo;
use crate::registry::Access;
use crate::registry::access::{Operation, Options};

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
    if request.method() == http::Method::GET {
        // A WebSocket begins with a GET; what it leads to is no reading.
        let mut creation = access.attributes.clone();
        creation.verb = "create".into();
        state.registry.permit(&access.user, &creation).await?;
    }
    let mut options = connect_options(&access, &info.query);
    state
        .registry
        .admit(&access, Operation::Connect, Options::None, &mut options)
        .await?;
    match access.attributes.subresource.as_str() {
        "portforward" => ports::handle(state, access, info, request).await,
        _ => command::handle(state, access, info, request).await,
    }
}

/// The options of the connection as admission sees them.
fn connect_options(access: &Access, query: &Query) -> Value {
    let sub = access.kind.info.subresource(&access.attributes.subresource);
    let mut options = json!({"kind": sub.map_or("", |sub| &sub.kind), "apiVersion": "v1"});
    if access.attributes.subresource == "portforward" {
        let ports = query.all("ports").flat_map(|ports| ports.split(','));
        let ports: Vec<u16> = ports.filter_map(|port| port.parse().ok()).collect();
        if !ports.is_empty() {
            options["ports"] = json!(ports);
        }
        return options;
    }
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if query.flag(flag) == Some(true) {
            options[flag] = json!(true);
        }
    }
    if !query.get("container").is_empty() {
        options["container"] = json!(query.get("container"));
    }
    let command: Vec<&str> = query.all("command").collect();
    if !command.is_empty() {
        options["command"] = json!(command);
    }
    options
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
        let _counted = state.metrics.long_running(&state.registry, &info);
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
