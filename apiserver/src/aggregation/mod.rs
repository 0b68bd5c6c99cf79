//! Aggregation: API groups that other servers serve, behind this one. Owns the table of those servers, whether they can be reached, the
//! requests passed on to them, and the APIService objects of what this server serves itself. Never stores an object of theirs.

pub mod available;
pub mod config;
pub mod discovery;
mod keep;
pub mod local;

use std::sync::Arc;
use std::time::Instant;

use api::Error;
use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use parking_lot::Mutex;
use serde_json::Value;

use crate::http::State;
use crate::http::body::{Request, Response, TEXT, answer, full};
use crate::http::router::{info, user};
use crate::kinds::field::text;
use crate::outgoing::tls::{Identity, Roots};
use crate::outgoing::{Caller, Outgoing, Place, ServiceReference, Target, TargetError};
use crate::proxy::{Hop, forward};
use crate::registry::access::UserInfo;
use available::Found;
use config::AggregationConfig;

/// A version of a group that another server serves.
pub struct Remote {
    /// Of the APIService.
    pub name: String,
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Larger comes first.
    pub version_priority: i64,
    /// Behind which the server is.
    pub service: ServiceReference,
    /// Calls it, or why nobody can.
    pub caller: Result<Caller, String>,
    spec: Value,
    health: Mutex<Health>,
}

/// What is known of a server.
struct Health {
    available: bool,
    found: Option<Arc<Found>>,
    /// When to look again; `None` while somebody looks.
    next: Option<Instant>,
}

impl Remote {
    fn new(name: &str, object: &Value, outgoing: &Outgoing, identity: Option<Arc<Identity>>) -> Option<Self> {
        let spec = object.get("spec")?.clone();
        let reference = spec.get("service").filter(|service| service.is_object())?;
        let port = reference.get("port").and_then(Value::as_u64);
        let service = ServiceReference {
            namespace: text(reference, "/namespace").to_owned(),
            name: text(reference, "/name").to_owned(),
            port: port.and_then(|port| port.try_into().ok()).unwrap_or(443),
        };
        let caller = roots(&spec).and_then(|roots| {
            outgoing.caller(&Target {
                place: Place::Service(service.clone(), String::new()),
                roots,
                identity,
            })
        });
        Some(Self {
            name: name.to_owned(),
            group: text(&spec, "/group").to_owned(),
            version: text(&spec, "/version").to_owned(),
            version_priority: spec.get("versionPriority").and_then(Value::as_i64).unwrap_or(0),
            service,
            caller: caller.map_err(|error| error.to_string()),
            spec,
            health: Mutex::new(Health {
                available: false,
                found: None,
                next: Some(Instant::now()),
            }),
        })
    }

    /// Whether requests are passed on.
    pub fn is_available(&self) -> bool {
        self.health.lock().available
    }

    /// What it says of itself, as long as it answers.
    pub fn found(&self) -> Option<Arc<Found>> {
        self.health.lock().found.clone()
    }
}

fn roots(spec: &Value) -> Result<Roots, TargetError> {
    if spec.get("insecureSkipTLSVerify").and_then(Value::as_bool) == Some(true) {
        return Ok(Roots::Unchecked);
    }
    match text(spec, "/caBundle") {
        "" => Ok(Roots::System),
        bundle => STANDARD
            .decode(bundle)
            .map(Roots::Bundle)
            .map_err(|_| TargetError::Bundle),
    }
}

/// The servers of one moment.
#[derive(Default)]
pub struct Table {
    remotes: Vec<Arc<Remote>>,
}

impl Table {
    /// All of them, in the order of their names.
    pub fn remotes(&self) -> impl Iterator<Item = &Remote> {
        self.remotes.iter().map(|remote| &**remote)
    }
}

/// The table and what keeps it.
pub struct Aggregator {
    table: ArcSwap<Table>,
    outgoing: Outgoing,
    identity: Option<Arc<Identity>>,
    config: AggregationConfig,
}

impl Aggregator {
    /// Nobody yet.
    ///
    /// # Errors
    /// When the client certificate cannot be used.
    pub fn new(config: AggregationConfig, outgoing: Outgoing) -> Result<Self, TargetError> {
        let files = config.proxy_client.as_ref();
        let identity = files
            .map(|(certificate, key)| Identity::from_files(certificate, key))
            .transpose()?;
        Ok(Self {
            table: ArcSwap::default(),
            outgoing,
            identity,
            config,
        })
    }

    /// The servers of this moment.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// The server of a version of a group, if it is not this one.
    pub fn remote(&self, group: &str, version: &str) -> Option<Arc<Remote>> {
        let table = self.table.load();
        let mut found = table
            .remotes
            .iter()
            .filter(|remote| remote.group == group && remote.version == version);
        found.next().cloned()
    }

    /// The server that a path leads to, if it is not this one.
    pub fn behind(&self, path: &str) -> Option<Arc<Remote>> {
        let path = path.strip_prefix("/openapi/v3").unwrap_or(path);
        let mut segments = path.strip_prefix("/apis/")?.split('/');
        self.remote(segments.next()?, segments.next()?)
    }
}

/// Passes a request on to the server of its group. Failures are plain text, as upstream's aggregator tells them.
pub async fn serve(state: &Arc<State>, remote: &Remote, request: Request) -> Response {
    let unavailable = |why: &str| answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, full(format!("{why}\n")));
    let caller = match &remote.caller {
        Ok(caller) if remote.is_available() => caller.clone(),
        _ => return unavailable("service unavailable"),
    };
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let Ok(uri) = caller.at(path) else {
        return unavailable("service unavailable");
    };
    let headers = identity_headers(&user(&request));
    let info = info(&request);
    let hop = Hop {
        caller,
        uri,
        headers,
        rewrite: None,
    };
    let passed: Result<Response, Error> = forward(state, &info, request, hop).await;
    passed.unwrap_or_else(|error| unavailable(&error.message))
}

/// Who asks, in the headers of a front proxy.
fn identity_headers(user: &UserInfo) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    for group in &user.groups {
        add("x-remote-group", group);
    }
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", escape(key));
        for value in values {
            add(&name, value);
        }
    }
    headers
}

/// A key as part of a header's name: what may not stand there is percent-encoded.
fn escape(key: &str) -> String {
    let mut out = String::new();
    for byte in key.to_ascii_lowercase().bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_travels_in_headers() {
        let user = UserInfo {
            name: "u".into(),
            uid: "1".into(),
            groups: vec!["a".into(), "b".into()],
            extra: [("example.com/Key".to_owned(), vec!["v".to_owned()])].into(),
        };
        let headers = identity_headers(&user);
        assert_eq!(headers["x-remote-user"], "u");
        assert_eq!(headers["x-remote-uid"], "1");
        assert_eq!(headers.get_all("x-remote-group").iter().count(), 2);
        assert_eq!(headers["x-remote-extra-example.com%2fkey"], "v");
    }
}
