//! The kubelet's port: HTTPS for `/healthz /livez /readyz`, the figures (`/metrics`, `/metrics/resource`, `/metrics/cadvisor`), `/stats/summary` and `/pods`,
//! and the gRPC Node service for kube-apiserver on the same one.
//!
//! Any trusted client certificate may read figures. Only those of administrators and API servers may read pods, and only the latter are let into
//! the Node service.

mod container_logs;
mod pages;
mod service;
mod stats;

use crate::pods::{Context, Pods};
use bytes::Bytes;
use daemon::Shutdown;
use daemon::http::{Admin, Limits, Peer};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use proto::node::node_server::NodeServer;
pub use service::NodeService;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tonic::body::Body;
use tower::ServiceExt as _;

/// The group of API servers' certificates.
const API_SERVERS: &str = "keelson:apiservers";
/// The group of administrators' certificates.
const ADMINISTRATORS: &str = "system:masters";

/// Serves until shutdown.
pub async fn serve(
    listener: std::net::TcpListener,
    admin: Admin,
    pods: Arc<Pods>,
    context: Arc<Context>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let config = admin.tls.config(&["h2", "http/1.1"])?;
    admin.tls.reload_on_change(shutdown.clone());
    let node = Arc::new(NodeService {
        pods,
        context,
        admin: admin.clone(),
    });
    let limits = Limits {
        connections: 1024,
        drain: Duration::from_secs(2),
        ..Limits::default()
    };
    let service = move |request: Request<Incoming>| {
        let (admin, node) = (admin.clone(), node.clone());
        async move { Ok::<_, Infallible>(answer(request, &admin, node).await) }
    };
    daemon::http::serve(listener, config, limits, shutdown, service).await?;
    Ok(())
}

async fn answer(request: Request<Incoming>, admin: &Admin, node: Arc<NodeService>) -> Response<Body> {
    if !request.uri().path().starts_with("/keelson.node.v1.Node/") {
        let answer = match admin.answer(&request) {
            Some(answer) => answer,
            None => page(&request, admin, &node).await,
        };
        return answer.map(|body| Body::new(body.map_err(|never| match never {})));
    }
    let node = NodeServer::from_arc(node);
    let identity = request
        .extensions()
        .get::<Peer>()
        .map(|peer| admin.tls.authenticate(&peer.certificates));
    match identity {
        Some(Ok(identity)) if identity.is_in(API_SERVERS) => {
            // The service cannot fail: errors are gRPC statuses.
            node.oneshot(request).await.unwrap_or_else(|never| match never {})
        }
        Some(Ok(identity)) => {
            tonic::Status::permission_denied(format!("{} is not in the group {API_SERVERS}", identity.user)).into_http()
        }
        _ => tonic::Status::unauthenticated("a client certificate is required").into_http(),
    }
}

/// One of the pages for those whose certificate allows it.
async fn page(request: &Request<Incoming>, admin: &Admin, node: &NodeService) -> Response<Full<Bytes>> {
    let refuse = |status: StatusCode, text: &'static str| {
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response
    };
    let path = request.uri().path();
    let figures = matches!(path, "/metrics/resource" | "/metrics/cadvisor");
    if !figures && !matches!(path, "/pods" | "/pods/" | "/stats/summary") {
        return refuse(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    let peer = request.extensions().get::<Peer>();
    match peer.map(|peer| admin.tls.authenticate(&peer.certificates)) {
        Some(Ok(identity)) if figures || identity.is_in(API_SERVERS) || identity.is_in(ADMINISTRATORS) => {}
        Some(Ok(_)) => return refuse(StatusCode::FORBIDDEN, "Forbidden\n"),
        _ => return refuse(StatusCode::UNAUTHORIZED, "Unauthorized\n"),
    }
    if request.method() != http::Method::GET {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
    }
    let path_and_query = request.uri().path_and_query().map_or(path, |path| path.as_str());
    match node.page(path_and_query).await {
        Ok((status, content_type, body)) => {
            let mut response = Response::new(Full::from(body));
            let status = u16::try_from(status)
                .ok()
                .and_then(|code| StatusCode::from_u16(code).ok());
            *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let kind = http::HeaderValue::from_str(&content_type);
            response
                .headers_mut()
                .extend(kind.ok().map(|kind| (http::header::CONTENT_TYPE, kind)));
            response
        }
        Err(status) => {
            tracing::warn!(%status, path, "page not made");
            refuse(StatusCode::SERVICE_UNAVAILABLE, "the figures cannot be read\n")
        }
    }
}
