//! Services to addresses, from this server's own copy of Services, EndpointSlices and Endpoints: the cluster's DNS and its service addresses
//! need not reach the machine that this server runs on.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::seq::SliceRandom;
use serde_json::Value;

use super::ServiceReference;
use crate::kinds::field::{list, text};
use crate::registry::find;
use crate::store::{ListQuery, ReadAt, Store};

/// The label that ties slices to their Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Why a name or Service leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// There is no such Service.
    #[error("service {0:?} not found")]
    NoService(String),
    /// The Service has no such port.
    #[error("no service port {port} found for service {name:?}")]
    NoPort {
        /// The Service.
        name: String,
        /// The port: a number or a name.
        port: String,
    },
    /// Nothing behind the Service is ready.
    #[error("no endpoints available for service {0:?}")]
    NoEndpoints(String),
    /// The Service's type has no address.
    #[error("unsupported service type {0:?}")]
    Unsupported(String),
    /// The name is unknown to the machine's resolver.
    #[error("dial tcp: lookup {0}: no such host")]
    NoHost(String),
    /// A name without any address.
    #[error("no address")]
    NoAddress,
    /// The store does not answer.
    #[error("{0}")]
    Store(String),
}

/// Finds addresses. Clones share the store.
#[derive(Clone)]
pub struct Resolver {
    store: Arc<dyn Store>,
}

/// `host:port`, with brackets where they belong.
pub fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Which of a Service's ports, as proxies and references name it.
#[derive(Debug, Clone, Copy)]
enum Wanted<'a> {
    Number(u16),
    Name(&'a str),
}

impl Resolver {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// The addresses behind a host name or an IP address.
    pub(super) async fn name(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let found = tokio::net::lookup_host((host, port)).await;
        found
            .map(Iterator::collect)
            .map_err(|_| ResolveError::NoHost(host.to_owned()))
    }

    /// The ready endpoints of a Service in random order, at the port that the Service's port leads to.
    ///
    /// # Errors
    /// When the Service, its port or an endpoint is missing.
    pub async fn service(&self, wanted: &ServiceReference) -> Result<Vec<SocketAddr>, ResolveError> {
        let service = self.get_service(&wanted.namespace, &wanted.name).await?;
        if text(&service, "/spec/type") == "ExternalName" {
            return self.name(text(&service, "/spec/externalName"), wanted.port).await;
        }
        let name = service_port(&service, Wanted::Number(wanted.port)).ok_or_else(|| ResolveError::NoPort {
            name: wanted.name.clone(),
            port: wanted.port.to_string(),
        })?;
        let ready = self.ready(&wanted.namespace, &wanted.name, &name).await?;
        if !ready.is_empty() {
            return Ok(ready);
        }
        Err(ResolveError::NoEndpoints(wanted.name.clone()))
    }

    /// The same for a proxy, whose port may be a name, a number or empty (the port without a name).
    ///
    /// # Errors
    /// As [`Resolver::service`].
    pub async fn service_by_port(
        &self,
        namespace: &str,
        name: &str,
        port: &str,
    ) -> Result<Vec<SocketAddr>, ResolveError> {
        let service = self.get_service(namespace, name).await?;
        let wanted = match port.parse() {
            Ok(number) => Wanted::Number(number),
            Err(_) => Wanted::Name(port),
        };
        let no_port = || match wanted {
            Wanted::Number(_) => ResolveError::NoPort {
                name: name.to_owned(),
                port: port.to_owned(),
            },
            Wanted::Name(_) => ResolveError::NoEndpoints(name.to_owned()),
        };
        let port_name = service_port(&service, wanted).ok_or_else(no_port)?;
        let ready = self.ready(namespace, name, &port_name).await?;
        if ready.is_empty() {
            return Err(ResolveError::NoEndpoints(name.to_owned()));
        }
        Ok(ready)
    }

    /// A Service as this server has it.
    ///
    /// # Errors
    /// When there is none.
    pub async fn get_service(&self, namespace: &str, name: &str) -> Result<Value, ResolveError> {
        let missing = || ResolveError::NoService(name.to_owned());
        let kind = find("", "v1", "services").ok_or_else(missing)?;
        let found = self.store.get(&kind.key(namespace, name), ReadAt::Any).await;
        let entry = found.map_err(|error| ResolveError::Store(error.to_string()))?;
        let service = entry.map(|entry| kind.stored_value(&entry)).ok_or_else(missing)?;
        service.map_err(|error| ResolveError::Store(error.to_string()))
    }

    /// Ready addresses of a Service's port, from its slices, or from Endpoints that nobody has mirrored.
    async fn ready(&self, namespace: &str, name: &str, port: &str) -> Result<Vec<SocketAddr>, ResolveError> {
        let slices = self
            .objects("discovery.k8s.io", "endpointslices", namespace, "")
            .await?;
        let mut ready = in_slices(&slices, name, port);
        if ready.is_none() {
            let endpoints = self.objects("", "endpoints", namespace, name).await?;
            ready = Some(
                endpoints
                    .iter()
                    .flat_map(|endpoints| in_endpoints(endpoints, port))
                    .collect(),
            );
        }
        let mut ready = ready.unwrap_or_default();
        ready.sort_unstable();
        ready.dedup();
        ready.shuffle(&mut rand::rng());
        Ok(ready)
    }

    /// All objects of a namespace, or the one of that name.
    async fn objects(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Vec<Value>, ResolveError> {
        let Some(kind) = find(group, "v1", resource) else {
            return Ok(Vec::new());
        };
        let failed = |error: &dyn std::fmt::Display| ResolveError::Store(error.to_string());
        let entries = if name.is_empty() {
            let query = ListQuery {
                prefix: &kind.key(namespace, ""),
                start_after: None,
                limit: 0,
                at: ReadAt::Any,
            };
            self.store.list(query).await.map_err(|error| failed(&error))?.entries
        } else {
            let found = self.store.get(&kind.key(namespace, name), ReadAt::Any).await;
            found.map_err(|error| failed(&error))?.into_iter().collect()
        };
        let objects = entries.iter().map(|entry| kind.stored_value(entry));
        objects.collect::<Result<_, _>>().map_err(|error| failed(&error))
    }
}

/// The name of the port that is meant, which its endpoints share.
fn service_port(service: &Value, wanted: Wanted<'_>) -> Option<String> {
    let matches = |port: &&Value| match wanted {
        Wanted::Number(number) => port.get("port").and_then(Value::as_u64) == Some(number.into()),
        Wanted::Name(name) => text(port, "/name") == name,
    };
    let found = list(service, "/spec/ports").iter().find(matches)?;
    Some(text(found, "/name").to_owned())
}

fn port_number(ports: &[Value], name: &str) -> Option<u16> {
    let found = ports.iter().find(|port| text(port, "/name") == name)?;
    found.get("port")?.as_u64()?.try_into().ok()
}

/// The ready addresses in a Service's slices; `None` when it has no slice.
fn in_slices(slices: &[Value], service: &str, port: &str) -> Option<Vec<SocketAddr>> {
    let labels = |slice: &Value| {
        slice
            .pointer("/metadata/labels")?
            .get(SERVICE_NAME)?
            .as_str()
            .map(str::to_owned)
    };
    let own: Vec<&Value> = slices
        .iter()
        .filter(|slice| labels(slice).as_deref() == Some(service))
        .collect();
    (!own.is_empty()).then(|| own.into_iter().flat_map(|slice| in_slice(slice, port)).collect())
}

fn in_slice(slice: &Value, port: &str) -> Vec<SocketAddr> {
    let Some(number) = port_number(list(slice, "/ports"), port) else {
        return Vec::new();
    };
    let ready = |endpoint: &&Value| endpoint.pointer("/conditions/ready").and_then(Value::as_bool) != Some(false);
    let first = |endpoint: &Value| list(endpoint, "/addresses").first()?.as_str()?.parse::<IpAddr>().ok();
    let addresses = list(slice, "/endpoints").iter().filter(ready).filter_map(first);
    addresses.map(|ip| SocketAddr::new(ip, number)).collect()
}

fn in_endpoints(endpoints: &Value, port: &str) -> Vec<SocketAddr> {
    let subsets = list(endpoints, "/subsets").iter();
    let of_subset = |subset: &Value| {
        let number = port_number(list(subset, "/ports"), port);
        let addresses = list(subset, "/addresses")
            .iter()
            .filter_map(|a| text(a, "/ip").parse::<IpAddr>().ok());
        number.map_or(Vec::new(), |number| {
            addresses.map(|ip| SocketAddr::new(ip, number)).collect()
        })
    };
    subsets.flat_map(of_subset).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_ready_endpoints_of_the_port_are_taken() {
        let slice = json!({"ports": [{"name": "web", "port": 8443}], "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
            {"addresses": ["10.0.0.3"]}]});
        assert_eq!(
            in_slice(&slice, "web"),
            ["10.0.0.1:8443".parse().unwrap(), "10.0.0.3:8443".parse().unwrap()]
        );
        assert!(in_slice(&slice, "").is_empty());
        let endpoints = json!({"subsets": [{"addresses": [{"ip": "10.0.0.4"}], "notReadyAddresses": [{"ip": "10.0.0.5"}], "ports": [{"port": 1}]}]});
        assert_eq!(in_endpoints(&endpoints, ""), ["10.0.0.4:1".parse().unwrap()]);
    }

    #[test]
    fn a_service_port_is_found_by_number_or_name() {
        let service = json!({"spec": {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 443}]}});
        assert_eq!(service_port(&service, Wanted::Number(443)).as_deref(), Some("b"));
        assert_eq!(service_port(&service, Wanted::Name("a")).as_deref(), Some("a"));
        assert_eq!(service_port(&service, Wanted::Number(81)), None);
    }
}
