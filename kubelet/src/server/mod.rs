//! The kubelet's port: HTTPS for `/healthz /livez /readyz /metrics`, and the gRPC Node service for kube-apiserver on the same one.
//!
//! Only a client certificate of the group `keelson:apiservers` is let into the Node service.

mod container_logs;
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
    let node = NodeServer::new(NodeService {
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

async fn answer(request: Request<Incoming>, admin: &Admin, node: NodeServer<NodeService>) -> Response<Body> {
    if !request.uri().path().starts_with("/keelson.node.v1.Node/") {
        let answer = admin.answer(&request).unwrap_or_else(not_found);
        return answer.map(|body| Body::new(body.map_err(|never| match never {})));
    }
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

fn not_found() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from("404 page not found\n"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
