//! `nodes/proxy`: reads a kubelet's own pages (metrics, pods, stats, health) through gRPC. Pods and services have no proxy yet.

use std::sync::Arc;

use api::Error;
use http::{HeaderValue, StatusCode};
use proto::node::HttpGetRequest;

use super::State;
use super::body::{Request, Response, TEXT, answer, full};
use super::logs::{node_address, node_error};
use super::request_info::RequestInfo;
use crate::registry::Access;

/// Answers a request for a proxy.
///
/// # Errors
/// 404 for a node that is not there, 405 for anything but a read, 501 for pods and services, and what the kubelet says.
pub async fn handle(
    state: &State,
    access: &Access,
    info: &Arc<RequestInfo>,
    request: &Request,
) -> Result<Response, Error> {
    let attributes = &access.attributes;
    if attributes.resource != "nodes" {
        return Err(Error {
            code: 501,
            reason: String::new(),
            message: format!("the proxy subresource of {} is not served", attributes.resource),
            details: None,
        });
    }
    if request.method() != http::Method::GET {
        return Err(Error::method_not_allowed(
            &access.kind.group_resource(),
            &attributes.verb,
        ));
    }
    let path = if info.rest.is_empty() { "/" } else { &info.rest };
    let path_and_query = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let node = &attributes.name;
    let mut client = state.nodes.client(&node_address(&state.registry, node).await?)?;
    let reply = client.http_get(HttpGetRequest { path_and_query }).await;
    let reply = reply.map_err(|status| node_error(node, &status))?.into_inner();
    let status = u16::try_from(reply.status)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok());
    let content_type = HeaderValue::from_str(&reply.content_type).unwrap_or(TEXT);
    Ok(answer(
        status.unwrap_or(StatusCode::BAD_GATEWAY),
        content_type,
        full(reply.body),
    ))
}
