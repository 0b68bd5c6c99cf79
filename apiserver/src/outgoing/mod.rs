//! The one way out of this server over HTTP and HTTPS: webhooks, aggregated API servers, proxies to nodes, pods and services. Owns name
//! resolution of Services, TLS towards each target, pools of connections, time limits and bounds on answers. Knows nothing of what is said;
//! never follows a redirect.
//!
//! An [`Outgoing`] makes a [`Caller`] for each target (a webhook's `clientConfig`, an APIService). Whoever makes a caller keeps it as long as the
//! target stays the same: the connections are its.

mod connect;
mod error;
pub mod kubeconfig;
mod resolve;
#[cfg(test)]
mod tests;
pub mod tls;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::uri::{Authority, Scheme, Uri};
use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use serde_json::Value;

use crate::http::body::{Body, full};
use crate::store::Store;
use connect::{Connector, Route};
pub use error::{CallError, TargetError};
pub use resolve::{ResolveError, Resolver, host_port};
use tls::{Identity, Roots};

/// How many idle connections of a caller are kept for each address.
const IDLE: usize = 64;
/// How long an idle connection is kept, and how often a silent HTTP/2 connection is tried.
const IDLE_TIME: Duration = Duration::from_secs(90);
const PROBE: Duration = Duration::from_secs(30);
/// The default port of a webhook's service.
const SERVICE_PORT: u16 = 443;
/// The largest answer that webhooks and probes may give, bytes.
pub const ANSWER_LIMIT: usize = 4 << 20;

/// A Service of this cluster as a target.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceReference {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// A port of the Service (not of its pods).
    pub port: u16,
}

impl ServiceReference {
    /// The name in URLs and in the server's certificate.
    pub fn host(&self) -> String {
        format!("{}.{}.svc", self.name, self.namespace)
    }
}

/// Where a caller connects to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// The host of an `https://` URL.
    Url(String),
    /// A ready endpoint of a Service, and a path there.
    Service(ServiceReference, String),
}

/// Where, and whom to trust there.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where.
    pub place: Place,
    /// Whose certificates are good.
    pub roots: Roots,
    /// The client certificate to show.
    pub identity: Option<Arc<Identity>>,
}

impl Target {
    /// Reads the `clientConfig` of a webhook: `url` or `service`, and `caBundle`.
    ///
    /// # Errors
    /// When it names no place or the bundle holds no certificate.
    pub fn from_client_config(config: &Value) -> Result<Self, TargetError> {
        let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
        let place = match text("/url") {
            url if !url.is_empty() => Place::Url(url),
            _ if config.get("service").is_some_and(Value::is_object) => {
                let port = config.pointer("/service/port").and_then(Value::as_u64);
                let service = ServiceReference {
                    namespace: text("/service/namespace"),
                    name: text("/service/name"),
                    port: port.and_then(|port| port.try_into().ok()).unwrap_or(SERVICE_PORT),
                };
                Place::Service(service, text("/service/path"))
            }
            _ => return Err(TargetError::NoPlace),
        };
        let roots = match text("/caBundle") {
            empty if empty.is_empty() => Roots::System,
            bundle => Roots::Bundle(STANDARD.decode(bundle).map_err(|_| TargetError::Bundle)?),
        };
        Ok(Self {
            place,
            roots,
            identity: None,
        })
    }
}

/// Makes callers. Clones share what they resolve with.
#[derive(Clone)]
pub struct Outgoing {
    resolver: Resolver,
}

impl Outgoing {
    /// Services are looked up in this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            resolver: Resolver::new(store),
        }
    }

    /// What finds the addresses of Services.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// A caller of one target.
    ///
    /// # Errors
    /// When the URL, the bundle or the certificate cannot be used.
    pub fn caller(&self, target: &Target) -> Result<Caller, TargetError> {
        let config = tls::config(&target.roots, target.identity.clone())?;
        match &target.place {
            Place::Url(url) => {
                let base: Uri = url.parse().map_err(|_| TargetError::Url(url.clone()))?;
                if base.host().is_none() {
                    return Err(TargetError::Url(url.clone()));
                }
                Ok(Caller::new(base, Route::Direct, config, self.resolver.clone()))
            }
            Place::Service(service, path) => {
                let path = path.trim_start_matches('/');
                let url = format!("https://{}:{}/{path}", service.host(), service.port);
                let base = url.parse().map_err(|_| TargetError::Url(url.clone()))?;
                let route = Route::Service(service.clone());
                Ok(Caller::new(base, route, config, self.resolver.clone()))
            }
        }
    }

    /// A caller that connects to whatever host the requests name, with one TLS configuration for all of them.
    pub fn direct(&self, config: Arc<ClientConfig>) -> Caller {
        Caller::new(
            Uri::from_static("https://localhost/"),
            Route::Direct,
            config,
            self.resolver.clone(),
        )
    }
}

/// Time and size of one call.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For everything from the connection to the last byte of the answer.
    pub time: Duration,
    /// Bytes of the answer.
    pub answer: usize,
}

impl Limits {
    /// This time, and the usual size.
    pub fn within(time: Duration) -> Self {
        Self {
            time,
            answer: ANSWER_LIMIT,
        }
    }
}

/// Calls one target over pooled connections. Clones share the pool.
#[derive(Clone)]
pub struct Caller {
    base: Uri,
    connector: Connector,
    client: Client<Connector, Body>,
}

impl Caller {
    fn new(base: Uri, route: Route, config: Arc<ClientConfig>, resolver: Resolver) -> Self {
        let connector = Connector::new(route, config, resolver);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME)
            .pool_max_idle_per_host(IDLE)
            .http2_keep_alive_interval(PROBE)
            .build(connector.clone());
        Self {
            base,
            connector,
            client,
        }
    }

    /// The URL that calls go to, with a query if it is not empty.
    pub fn url(&self, query: &str) -> String {
        let base = self.base.to_string();
        match (query, base.contains('?')) {
            ("", _) => base,
            (query, true) => format!("{base}&{query}"),
            (query, false) => format!("{base}?{query}"),
        }
    }

    /// The target with another path and query.
    ///
    /// # Errors
    /// When they are no path and query.
    pub fn at(&self, path_and_query: &str) -> Result<Uri, http::Error> {
        Uri::builder()
            .scheme(self.base.scheme().cloned().unwrap_or(Scheme::HTTPS))
            .authority(
                self.base
                    .authority()
                    .cloned()
                    .unwrap_or(Authority::from_static("localhost")),
            )
            .path_and_query(path_and_query)
            .build()
    }

    /// Posts JSON to the target's own URL and reads a JSON answer. A connection that broke before an answer began is tried once more.
    ///
    /// # Errors
    /// What went wrong on the way, and any status but 2xx.
    pub async fn post(&self, query: &str, headers: HeaderMap, body: Bytes, limits: Limits) -> Result<Bytes, CallError> {
        let url = self.url(query);
        let again = (headers.clone(), body.clone());
        let call = async {
            match self.exchange(Method::POST, &url, headers, body, limits.answer).await {
                Err(CallError::Broken { .. }) => {
                    self.exchange(Method::POST, &url, again.0, again.1, limits.answer).await
                }
                outcome => outcome,
            }
        };
        self.in_time(Method::POST, &url, limits.time, call).await
    }

    /// Reads a path of the target.
    ///
    /// # Errors
    /// As [`Caller::post`].
    pub async fn get(&self, path_and_query: &str, headers: HeaderMap, limits: Limits) -> Result<Bytes, CallError> {
        let url = self.at(path_and_query).map_err(CallError::request)?.to_string();
        let call = self.exchange(Method::GET, &url, headers, Bytes::new(), limits.answer);
        self.in_time(Method::GET, &url, limits.time, call).await
    }

    async fn in_time<T>(
        &self,
        method: Method,
        url: &str,
        time: Duration,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(time, call).await {
            Ok(outcome) => outcome,
            Err(_) => Err(CallError::timeout(method, url)),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
        limit: usize,
    ) -> Result<Bytes, CallError> {
        let mut request = http::Request::builder().method(method.clone()).uri(url);
        if let Some(map) = request.headers_mut() {
            *map = headers;
            if !body.is_empty() {
                map.entry(header::CONTENT_TYPE)
                    .or_insert(HeaderValue::from_static("application/json"));
            }
            map.entry(header::ACCEPT)
                .or_insert(HeaderValue::from_static("application/json, */*"));
        }
        let request = request.body(full(body)).map_err(CallError::request)?;
        let response = self.send(request).await?;
        let status = response.status();
        let body = match Limited::new(response.into_body(), limit).collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return Err(CallError::TooLarge { limit }),
            Err(error) => return Err(CallError::broken(method, url, &*error)),
        };
        if status.is_success() {
            Ok(body)
        } else {
            Err(CallError::status(status.as_u16(), &body))
        }
    }

    /// Sends any request over a pooled connection; the URI is absolute. Sets no time limit.
    ///
    /// # Errors
    /// What went wrong before an answer began.
    pub async fn send(&self, request: http::Request<Body>) -> Result<http::Response<Incoming>, CallError> {
        let (method, url) = (request.method().clone(), request.uri().to_string());
        let outcome = self.client.request(request).await;
        outcome.map_err(|error| CallError::sent(method, &url, &error))
    }

    /// Sends a request that wants to upgrade, over an HTTP/1.1 connection of its own.
    ///
    /// # Errors
    /// As [`Caller::send`].
    pub async fn send_upgrade(&self, mut request: http::Request<Body>) -> Result<http::Response<Incoming>, CallError> {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let url = uri.to_string();
        let failed = |error: &(dyn std::error::Error + 'static)| CallError::sent(method.clone(), &url, error);
        let link = self
            .connector
            .connect(&uri, false)
            .await
            .map_err(|error| failed(&error))?;
        let handshake = hyper::client::conn::http1::Builder::new()
            .handshake(TokioIo::new(link))
            .await;
        let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection for an upgrade ended");
            }
        });
        // Over a connection of HTTP/1.1 a request names its path, and the host in a header.
        if !request.headers().contains_key(header::HOST)
            && let Some(host) = uri.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok())
        {
            request.headers_mut().insert(header::HOST, host);
        }
        *request.uri_mut() = match uri.path_and_query() {
            Some(path) => Uri::from(path.clone()),
            None => Uri::from_static("/"),
        };
        sender.send_request(request).await.map_err(|error| failed(&error))
    }
}
