//! `nodes/proxy`, `pods/proxy` and `services/proxy`: where such a request goes. `[scheme:]name[:port]` is read as upstream reads it.

use std::net::IpAddr;
use std::sync::Arc;

use api::{Error, GroupResource};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use proto::node::HttpGetRequest;
use serde_json::{Value, json};

use super::{Hop, Rewrite, forward, wants_upgrade};
use crate::http::State;
use crate::http::body::{Request, Response, TEXT, answer, full};
use crate::http::logs::{node_address, node_error};
use crate::http::request_info::RequestInfo;
use crate::kinds::field::{list, text};
use crate::outgoing::{ResolveError, host_port};
use crate::registry::access::{Operation, Options};
use crate::registry::{Access, store_error};
use crate::store::ReadAt;

/// A name in a proxy's path.
#[derive(Debug, PartialEq, Eq)]
struct Id<'a> {
    scheme: &'a str,
    name: &'a str,
    /// A number, a name or empty.
    port: &'a str,
}

impl<'a> Id<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        let valid = !name.is_empty() && matches!(scheme, "" | "http" | "https");
        valid.then_some(Self { scheme, name, port })
    }
}

/// Answers a request for a proxy that the authorizer allowed.
///
/// # Errors
/// 404 for what is not there, 400 for names and addresses that cannot be proxied to, 503 for a service without endpoints or a target that
/// does not answer.
pub async fn handle(
    state: Arc<State>,
    access: Access,
    info: Arc<RequestInfo>,
    request: Request,
) -> Result<Response, Error> {
    let attributes = &access.attributes;
    let (prefix, rest) = split(request.uri().path(), !attributes.namespace.is_empty());
    let (prefix, rest) = (prefix.to_owned(), rest.to_owned());
    let kind = access.kind.info.subresource("proxy").map_or("", |sub| &sub.kind);
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    if !rest.is_empty() {
        options["path"] = json!(rest);
    }
    state
        .registry
        .admit(&access, Operation::Connect, Options::None, &mut options)
        .await?;
    let name = &attributes.name;
    let what = attributes.resource.trim_end_matches('s');
    let id = Id::parse(name).ok_or_else(|| Error::bad_request(format!("invalid {what} request {name:?}")))?;
    let authority = match attributes.resource.as_str() {
        "pods" => pod(&state, &access, &id).await?,
        "services" => service(&state, &access, &id).await?,
        _ => {
            let kubelet = node_address(&state.registry, id.name).await?;
            let (host, port) = kubelet.rsplit_once(':').unwrap_or((&kubelet, ""));
            if id.port.is_empty() || id.port == port {
                return page(&state, id.name, &kubelet, &rest, &request).await;
            }
            proxyable(host.trim_matches(['[', ']']))?;
            format!("{host}:{}", id.port)
        }
    };
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if rest.is_empty() && reads && !wants_upgrade(request.headers()) {
        return Ok(with_slash(request.uri()));
    }
    let hop = Hop {
        caller: state.proxied.clone(),
        uri: target(&id, &authority, &rest, request.uri().query())?,
        headers: HeaderMap::new(),
        rewrite: Some(Rewrite { prefix }),
    };
    forward(&state, &info, request, hop).await
}

/// The path up to `proxy`, and what follows with its slash; neither decoded.
fn split(path: &str, namespaced: bool) -> (&str, &str) {
    // /api/v1/nodes/<name>/proxy, /api/v1/namespaces/<namespace>/pods/<name>/proxy
    let segments = if namespaced { 7 } else { 5 };
    match path.match_indices('/').nth(segments) {
        Some((at, _)) => path.split_at(at),
        None => (path, ""),
    }
}

/// Relative links of a target's first page need the slash.
fn with_slash(uri: &Uri) -> Response {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let location = HeaderValue::from_str(&format!("{}/{query}", uri.path()));
    response
        .headers_mut()
        .extend(location.ok().map(|location| (header::LOCATION, location)));
    response
}

fn target(id: &Id<'_>, authority: &str, rest: &str, query: Option<&str>) -> Result<Uri, Error> {
    let unusable = || {
        let port = id.port;
        Error::service_unavailable(format!(
            "error trying to reach service: dial tcp: lookup tcp/{port}: unknown port"
        ))
    };
    let path = if rest.is_empty() { "/" } else { rest };
    let path = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    Uri::builder()
        .scheme(if id.scheme == "https" {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        })
        .authority(authority.parse::<Authority>().map_err(|_| unusable())?)
        .path_and_query(
            path.parse::<PathAndQuery>()
                .map_err(|error| Error::bad_request(error.to_string()))?,
        )
        .build()
        .map_err(|error| Error::bad_request(error.to_string()))
}

/// `host:port` of a pod; without a port, that of the first container which has one.
async fn pod(state: &State, access: &Access, id: &Id<'_>) -> Result<String, Error> {
    let kind = &access.kind;
    let missing = || Error::not_found(&GroupResource::new("", "pods"), id.name);
    let found = state
        .registry
        .store()
        .get(&kind.key(access.namespace(), id.name), ReadAt::Latest)
        .await;
    let pod = kind.stored_value(&*found.map_err(store_error)?.ok_or_else(missing)?)?;
    let ip = text(&pod, "/status/podIP");
    let address = proxyable(ip)?.ok_or_else(not_allowed)?.to_string();
    Ok(match pod_port(&pod, id.port) {
        port if port.is_empty() => address,
        port => format!("{}:{port}", host_port(&address, 0).trim_end_matches(":0")),
    })
}

fn pod_port(pod: &Value, wanted: &str) -> String {
    if !wanted.is_empty() {
        return wanted.to_owned();
    }
    let containers = list(pod, "/spec/containers").iter();
    let first = containers.flat_map(|container| list(container, "/ports").first());
    let mut numbers = first.filter_map(|port| port.get("containerPort")?.as_u64());
    numbers.next().map(|port| port.to_string()).unwrap_or_default()
}

/// `host:port` of a ready endpoint of a service.
async fn service(state: &State, access: &Access, id: &Id<'_>) -> Result<String, Error> {
    let namespace = access.namespace();
    let resolver = state.outgoing.resolver();
    let found = resolver.service_by_port(namespace, id.name, id.port).await;
    let addresses = found.map_err(|error| match error {
        ResolveError::NoService(name) => Error::not_found(&GroupResource::new("", "services"), &name),
        ResolveError::NoEndpoints(_) => Error::service_unavailable(format!(
            "no endpoints available for service {:?}",
            access.attributes.name
        )),
        error => Error::service_unavailable(error.to_string()),
    })?;
    let address = addresses.first().ok_or_else(not_allowed)?;
    Ok(address.to_string())
}

fn not_allowed() -> Error {
    Error::bad_request("address not allowed")
}

/// Refuses addresses that only this machine would understand; a name is `None`.
fn proxyable(host: &str) -> Result<Option<IpAddr>, Error> {
    let Ok(address) = host.parse::<IpAddr>() else {
        return Ok(None);
    };
    let refused = match address {
        IpAddr::V4(ip) => {
            ip.is_loopback() || ip.is_link_local() || ip.is_multicast() || ip.is_unspecified() || ip.is_broadcast()
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_multicast() || ip.is_unspecified(),
    };
    if refused { Err(not_allowed()) } else { Ok(Some(address)) }
}

/// A kubelet's own page, read through its gRPC service.
async fn page(state: &State, node: &str, kubelet: &str, rest: &str, request: &Request) -> Result<Response, Error> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(answer(
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            full("405: Method Not Allowed"),
        ));
    }
    let path = if rest.is_empty() { "/" } else { rest };
    let path_and_query = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut client = state.nodes.client(kubelet)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_scheme_and_a_port() {
        let id = |scheme, name, port| Some(Id { scheme, name, port });
        for (text, expected) in [
            ("a", id("", "a", "")),
            ("a:80", id("", "a", "80")),
            ("https:a:web", id("https", "a", "web")),
            ("http:a:", id("http", "a", "")),
            ("ftp:a:1", None),
            (":80", None),
            ("a:b:c:d", None),
        ] {
            assert_eq!(Id::parse(text), expected, "{text}");
        }
        assert!(crate::registry::find("", "v1", "pods").is_some_and(|kind| kind.info.subresource("proxy").is_some()));
    }

    #[test]
    fn paths_are_split_undecoded() {
        let prefix = "/api/v1/namespaces/a/pods/b:80/proxy";
        assert_eq!(split(&format!("{prefix}/x%2Fy/"), true), (prefix, "/x%2Fy/"));
        assert_eq!(split(prefix, true), (prefix, ""));
        assert_eq!(
            split("/api/v1/nodes/n/proxy/metrics", false),
            ("/api/v1/nodes/n/proxy", "/metrics")
        );
    }

    #[test]
    fn addresses_of_this_machine_are_not_for_proxies() {
        for bad in ["127.0.0.1", "169.254.169.254", "::1", "fe80::1", "0.0.0.0", "224.0.0.1"] {
            assert!(proxyable(bad).is_err(), "{bad}");
        }
        assert!(proxyable("10.244.0.3").is_ok());
    }

    #[test]
    fn a_pods_first_port_is_taken() {
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": 8080}]}]}});
        assert_eq!(
            (pod_port(&pod, "").as_str(), pod_port(&pod, "9").as_str()),
            ("8080", "9")
        );
    }
}
