//! REST: connections come from `daemon::http`, pass the [`stack`], and end in a handler that speaks the registry's language.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use daemon::Shutdown;
use daemon::health::Health;
use tonic::service::Routes;

mod audit;
pub mod authn;
pub mod authz;
pub mod body;
pub mod errors;
mod flow;
pub mod guard;
#[cfg(test)]
mod guarded;
pub mod layer;
mod list;
pub mod logs;
pub mod metrics;
pub mod negotiate;
mod openapi;
pub mod paths;
pub mod query;
pub mod render;
pub mod request_info;
mod rest;
pub mod router;
pub mod stack;
mod timeout;
mod watch;

use crate::aggregation::Aggregator;
use crate::audit::Auditor;
use crate::authn::service_account::Tokens;
use crate::discovery::openapi::Documents;
use crate::flowcontrol::FlowControl;
use crate::outgoing::{Caller, Outgoing};
use crate::registry::Registry;
use crate::registry::access::Authenticator;

/// What the handlers share.
pub struct State {
    /// The pipeline.
    pub registry: Arc<Registry>,
    /// Who asks.
    pub authenticator: Arc<dyn Authenticator>,
    /// False until roles and namespaces are there: requests are turned away, save those for health and between the API servers.
    pub started: Arc<AtomicBool>,
    /// Records requests, where an operator wants that.
    pub auditor: Option<Arc<Auditor>>,
    /// `/livez`, `/readyz`, `/healthz`.
    pub health: Health,
    /// `/metrics`.
    pub metrics: metrics::Metrics,
    /// Whose turn it is.
    pub flow: Arc<FlowControl>,
    /// OpenAPI, made when asked for.
    pub documents: Documents,
    /// gRPC services on the same port.
    pub grpc: Routes,
    /// Watches end when it is requested.
    pub shutdown: Shutdown,
    /// `address:port` under which clients find this server.
    pub address: String,
    /// The way out to services.
    pub outgoing: Outgoing,
    /// Calls what proxies lead to: pods, endpoints of services, other ports of nodes.
    pub proxied: Caller,
    /// Extension API servers.
    pub aggregator: Arc<Aggregator>,
    /// Connections to kubelets.
    pub nodes: logs::Nodes,
    /// For the documents that verifiers of service-account tokens read.
    pub tokens: Arc<Tokens>,
}
