//! Proxies: passes a request on to a node, pod, service or extension API server and the answer back, upgrades included. Owns what happens to
//! headers and links on the way; who may is decided before, where to in [`targets`] and in [`crate::aggregation`].

mod rewrite;
pub mod targets;

use std::sync::Arc;

use api::Error;
use daemon::http::Peer;
use futures_util::{StreamExt, TryStreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use http_body_util::{BodyExt, BodyStream, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use crate::http::State;
use crate::http::body::{Body, BodyError, Request, Response, full};
use crate::http::request_info::RequestInfo;
use crate::outgoing::{CallError, Caller};
pub use rewrite::Rewrite;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
/// Headers that concern one connection only.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "proxy-connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// What a backend may not say in this server's name.
const CORS: &[&str] = &[
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
];

/// Where a request goes on.
pub struct Hop {
    /// Connects there.
    pub caller: Caller,
    /// The absolute URI.
    pub uri: Uri,
    /// Set in place of the client's own headers of these names.
    pub headers: HeaderMap,
    /// How links in answers are changed, for targets that do not know under which path clients see them.
    pub rewrite: Option<Rewrite>,
}

/// Passes a request on and answers with what comes back.
///
/// # Errors
/// 503 when the target cannot be reached.
pub async fn forward(
    state: &Arc<State>,
    info: &Arc<RequestInfo>,
    mut request: Request,
    hop: Hop,
) -> Result<Response, Error> {
    let upgrades = wants_upgrade(request.headers());
    let client = upgrades.then(|| hyper::upgrade::on(&mut request));
    let peer = request
        .extensions()
        .get::<Peer>()
        .map(|peer| peer.address.ip().to_string());
    let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok());
    let host = host.or(request.uri().host()).unwrap_or("").to_owned();
    let (parts, body) = request.into_parts();
    let headers = outgoing_headers(parts.headers, &hop, peer.as_deref(), upgrades);
    let mut onward = http::Request::new(body.map_err(BodyError::from).boxed_unsync());
    *onward.method_mut() = parts.method;
    *onward.uri_mut() = hop.uri.clone();
    *onward.headers_mut() = headers;
    let Some(client) = client else {
        let answer = hop.caller.send(onward).await.map_err(|error| unreachable(&error))?;
        return Ok(pass_back(state, info, answer, &hop, &host));
    };
    let sent = hop.caller.send_upgrade(onward).await;
    let mut answer = sent.map_err(|error| Error::internal(format!("error dialing backend: {}", error.cause())))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(pass_back(state, info, answer, &hop, &host));
    }
    let backend = hyper::upgrade::on(&mut answer);
    let (state, info) = (state.clone(), info.clone());
    tokio::spawn(async move {
        let _counted = state.metrics.long_running(&state.registry, &info);
        let splice = async {
            let (client, backend) = tokio::try_join!(client, backend)?;
            let copied = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(backend)).await;
            copied.map(drop).map_err(BodyError::from)
        };
        if let Some(Err(error)) = state.shutdown.run_until(splice).await {
            tracing::debug!(%error, "proxied connection ended");
        }
    });
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answer.headers().clone();
    Ok(response)
}

fn unreachable(error: &CallError) -> Error {
    Error::service_unavailable(format!("error trying to reach service: {}", error.cause()))
}

/// Whether a request asks for another protocol on its connection.
pub fn wants_upgrade(headers: &HeaderMap) -> bool {
    let connection = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok());
    let mut tokens = connection.flat_map(|value| value.split(','));
    headers.contains_key(header::UPGRADE) && tokens.any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

/// The client's headers as the target may see them: without credentials and without what concerns the connection.
fn outgoing_headers(mut headers: HeaderMap, hop: &Hop, peer: Option<&str>, upgrades: bool) -> HeaderMap {
    let upgrade = headers.get(header::UPGRADE).cloned().filter(|_| upgrades);
    remove_hop_by_hop(&mut headers);
    if let Some(protocol) = upgrade {
        headers.insert(header::UPGRADE, protocol);
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    headers.remove(header::HOST);
    headers.remove(header::AUTHORIZATION);
    let private: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            name.starts_with("impersonate-") || name.starts_with("x-remote-") || hop.headers.contains_key(name)
        })
        .cloned()
        .collect();
    for name in private {
        headers.remove(name);
    }
    headers.extend(hop.headers.clone());
    if let Some(peer) = peer {
        let before = headers.get(&FORWARDED_FOR).and_then(|value| value.to_str().ok());
        let chain = before.map_or_else(|| peer.to_owned(), |before| format!("{before}, {peer}"));
        if let Ok(chain) = HeaderValue::from_str(&chain) {
            headers.insert(FORWARDED_FOR, chain);
        }
    }
    if let Some(rewrite) = &hop.rewrite {
        // Links in compressed answers could not be changed.
        headers.remove(header::ACCEPT_ENCODING);
        if let Ok(forwarded) = HeaderValue::from_str(&rewrite.forwarded(hop.uri.path())) {
            headers.insert(FORWARDED_URI, forwarded);
        }
    }
    headers
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    for name in HOP_BY_HOP.iter().copied().chain(named.iter().map(String::as_str)) {
        headers.remove(name);
    }
}

/// The target's answer as the client's.
fn pass_back(
    state: &Arc<State>,
    info: &Arc<RequestInfo>,
    answer: http::Response<Incoming>,
    hop: &Hop,
    host: &str,
) -> Response {
    let (mut parts, body) = answer.into_parts();
    remove_hop_by_hop(&mut parts.headers);
    let mut response = http::Response::new(());
    *response.status_mut() = parts.status;
    let guard = info
        .is_long_running()
        .then(|| state.metrics.long_running(&state.registry, info));
    let until = state.shutdown.token().cancelled_owned();
    let frames = TryStreamExt::map_err(BodyStream::new(body), BodyError::from).map(move |frame| {
        let _counted = &guard;
        frame
    });
    let mut body: Body = StreamBody::new(frames.take_until(until)).boxed_unsync();
    if let Some(rewrite) = &hop.rewrite {
        for name in CORS {
            parts.headers.remove(*name);
        }
        let target = hop.uri.authority().map_or("", |authority| authority.as_str());
        let location = parts.headers.get(header::LOCATION).and_then(|l| l.to_str().ok());
        if let Some(location) = location {
            let moved = rewrite.link(location, target, host);
            if let Ok(moved) = HeaderValue::from_str(&moved) {
                parts.headers.insert(header::LOCATION, moved);
            }
        } else if is_html(&parts.headers) {
            // Its length changes with its links.
            parts.headers.remove(header::CONTENT_LENGTH);
            body = rewrite.html(body, target, host);
        }
    }
    *response.headers_mut() = parts.headers;
    response.map(|()| body)
}

fn is_html(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    kind.split(';').next().is_some_and(|kind| kind.trim() == "text/html")
        && !headers.contains_key(header::CONTENT_ENCODING)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn headers_of_the_connection_stay_with_it() {
        let mut all = headers(&[
            ("connection", "close, X-Own"),
            ("x-own", "1"),
            ("te", "trailers"),
            ("accept", "a"),
        ]);
        remove_hop_by_hop(&mut all);
        assert_eq!(all, headers(&[("accept", "a")]));
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        assert!(wants_upgrade(&headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket")
        ])));
        assert!(!wants_upgrade(&headers(&[
            ("connection", "keep-alive"),
            ("upgrade", "websocket")
        ])));
        assert!(!wants_upgrade(&headers(&[("connection", "upgrade")])));
    }
}
