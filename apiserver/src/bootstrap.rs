//! What a cluster needs before anybody has made anything: default roles, namespaces, priority classes, the service range, and the `kubernetes`
//! Service with the live API servers behind it.
//!
//! Everything goes through the registry as the user `system:apiserver`; objects that are there are brought up to date, never replaced.

use std::sync::Arc;
use std::time::Duration;

use api::Error;
use daemon::Shutdown;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::allocators;
use crate::authz::bootstrap as roles;
use crate::config::Config;
use crate::flowcontrol::{controller, defaults};
use crate::registry::access::{Attributes, UserInfo};
use crate::registry::options::{DeleteOptions, ListOptions, WriteOptions};
use crate::registry::{Access, Registry, meta};
use crate::store::Store;

/// Namespaces of every cluster.
const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
/// Name, value and description of the classes of the system's own pods.
const PRIORITIES: &[(&str, i64, &str)] = &[
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];
/// How often a server says that it lives, and how long that holds.
const RENEW: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i64 = 30;
/// Marks the Leases of API servers; upstream's.
const IDENTITY: &str = "apiserver.kubernetes.io/identity";
/// Where a server listens, in its Lease.
const ADDRESS: &str = "keelson.dev/address";
/// How often the allocations of services are looked through; upstream's period.
const REPAIR: Duration = Duration::from_secs(180);
/// Pause before a step that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// A resource by group, version and plural.
type Gvr = (&'static str, &'static str, &'static str);
const LEASES: Gvr = ("coordination.k8s.io", "v1", "leases");

/// Makes what is missing, again and again until it is done or the server stops.
pub async fn run(registry: &Arc<Registry>, config: &Config, shutdown: &Shutdown) -> bool {
    let boot = Bootstrap { registry, config };
    loop {
        match boot.once().await {
            Ok(()) => return true,
            Err(error) => tracing::warn!(%error, "cluster is not set up yet"),
        }
        if shutdown.run_until(tokio::time::sleep(RETRY)).await.is_none() {
            return false;
        }
    }
}

/// Says that this server lives and keeps the endpoints of the `kubernetes` Service, until shutdown.
pub async fn keep_endpoints(registry: Arc<Registry>, config: Config, shutdown: Shutdown) {
    let boot = Bootstrap {
        registry: &registry,
        config: &config,
    };
    let mut ticks = tokio::time::interval(RENEW);
    while shutdown.run_until(ticks.tick()).await.is_some() {
        if let Err(error) = boot.endpoints().await {
            tracing::warn!(%error, "endpoints of the kubernetes service are not up to date");
        }
    }
}

/// Keeps the records of addresses and ports in order, until shutdown.
pub async fn keep_allocations(registry: Arc<Registry>, config: Config, shutdown: Shutdown) {
    let boot = Bootstrap {
        registry: &registry,
        config: &config,
    };
    let store = &**registry.store();
    let watch = async {
        loop {
            if let Err(error) = boot.guard_addresses(store).await {
                tracing::debug!(%error, "watch of service addresses ended");
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    let now_and_then = async {
        loop {
            tokio::time::sleep(REPAIR).await;
            match allocators::repair(store).await {
                Ok(findings) => boot.report(findings).await,
                Err(error) => tracing::warn!(%error, "service allocations are not repaired"),
            }
        }
    };
    shutdown.run_until(async { tokio::join!(watch, now_and_then) }).await;
}

/// Puts the default FlowSchemas and PriorityLevelConfigurations in place.
///
/// # Errors
/// What the registry says.
pub async fn flow_control(registry: &Arc<Registry>, config: &Config) -> Result<(), Error> {
    let boot = Bootstrap { registry, config };
    let group = "flowcontrol.apiserver.k8s.io";
    for level in defaults::levels() {
        boot.reconcile(
            (group, "v1", "prioritylevelconfigurations"),
            level,
            controller::restored,
        )
        .await?;
    }
    for schema in defaults::flow_schemas() {
        boot.reconcile((group, "v1", "flowschemas"), schema, controller::restored)
            .await?;
    }
    Ok(())
}

/// Takes this server out of the endpoints, on its way out.
///
/// # Errors
/// What the store says.
pub async fn leave(registry: &Arc<Registry>, config: &Config) -> Result<(), Error> {
    let boot = Bootstrap { registry, config };
    let access = boot.access("delete", LEASES, "kube-system", &boot.lease_name()).await?;
    registry.delete(&access, &DeleteOptions::default()).await?;
    boot.write_endpoints().await
}

struct Bootstrap<'a> {
    registry: &'a Arc<Registry>,
    config: &'a Config,
}

impl Bootstrap<'_> {
    async fn once(&self) -> Result<(), Error> {
        for default in roles::defaults().into_iter().filter(|d| d.namespace.is_empty()) {
            self.reconcile_role(default).await?;
        }
        for name in NAMESPACES {
            self.ensure(("", "v1", "namespaces"), json!({"metadata": {"name": name}}))
                .await?;
        }
        for default in roles::defaults().into_iter().filter(|d| !d.namespace.is_empty()) {
            self.reconcile_role(default).await?;
        }
        for (name, value, description) in PRIORITIES {
            let class = json!({"metadata": {"name": name}, "value": value, "description": description});
            self.ensure(("scheduling.k8s.io", "v1", "priorityclasses"), class)
                .await?;
        }
        allocators::ensure_service_cidr(&**self.registry.store(), self.config.service_cidr.into()).await?;
        allocators::ensure_node_ports(&**self.registry.store(), self.config.node_ports).await?;
        self.report(allocators::repair(&**self.registry.store()).await?).await;
        self.ensure(("", "v1", "services"), self.service()).await?;
        self.ensure(("", "v1", "services"), self.dns_service()).await?;
        self.endpoints().await
    }

    async fn access(
        &self,
        verb: &str,
        (group, version, resource): Gvr,
        namespace: &str,
        name: &str,
    ) -> Result<Access, Error> {
        let attributes = Attributes {
            verb: verb.into(),
            is_resource: true,
            group: group.into(),
            version: version.into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Attributes::default()
        };
        self.registry
            .authorize(Arc::new(UserInfo::apiserver()), attributes)
            .await
    }

    /// Creates the object if its name is free.
    async fn ensure(&self, resource: Gvr, object: Value) -> Result<(), Error> {
        self.reconcile(resource, object, |_, _| None).await
    }

    /// Creates the object, or updates the existing one to what `update(existing, wanted)` says.
    async fn reconcile(
        &self,
        resource: Gvr,
        wanted: Value,
        update: impl Fn(&Value, &Value) -> Option<Value>,
    ) -> Result<(), Error> {
        let (namespace, name) = (meta::text(&wanted, "namespace"), meta::text(&wanted, "name"));
        let options = WriteOptions {
            field_manager: "kube-apiserver".into(),
            ..WriteOptions::default()
        };
        let read = self.access("get", resource, namespace, name).await?;
        match self.registry.get(&read, "").await {
            Ok(entry) => {
                let Some(new) = update(&read.kind.value(&entry)?, &wanted) else {
                    return Ok(());
                };
                let write = self.access("update", resource, namespace, name).await?;
                self.registry.update(&write, new, &options).await.map(drop)
            }
            Err(error) if error.is_not_found() => {
                let write = self.access("create", resource, namespace, "").await?;
                match self.registry.create(&write, wanted, &options).await {
                    // Another server was faster with the same object, or with what the object wants for itself (its address).
                    Err(error) => match self.registry.get(&read, "").await {
                        Ok(_) => Ok(()),
                        Err(_) => Err(error),
                    },
                    outcome => outcome.map(drop),
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn guard_addresses(&self, store: &dyn Store) -> Result<(), Error> {
        let mut watch = allocators::AddressWatch::new(store)?;
        while let Some(findings) = watch.next(store).await? {
            self.report(findings).await;
        }
        Ok(())
    }

    /// Writes an event for each finding on its service.
    async fn report(&self, findings: Vec<allocators::Finding>) {
        for finding in findings {
            let (namespace, name) = &finding.service;
            let now = meta::time(Timestamp::now());
            let event = json!({
                "metadata": {"generateName": format!("{name}."), "namespace": namespace},
                "involvedObject": {"apiVersion": "v1", "kind": "Service", "namespace": namespace, "name": name},
                "reason": finding.reason, "message": finding.message, "type": "Warning", "count": 1,
                "source": {"component": "service-allocations"}, "firstTimestamp": now, "lastTimestamp": now,
            });
            let written = async {
                let access = self.access("create", ("", "v1", "events"), namespace, "").await?;
                self.registry.create(&access, event, &WriteOptions::default()).await
            };
            if let Err(error) = written.await {
                tracing::warn!(%error, namespace, name, "event not written");
            }
        }
    }

    async fn reconcile_role(&self, default: roles::BootstrapObject) -> Result<(), Error> {
        let resource = ("rbac.authorization.k8s.io", "v1", default.resource);
        self.reconcile(resource, default.object, roles::reconciled).await
    }

    /// The address in the service range at this place; upstream's installers agree on the places.
    fn service_address(&self, place: usize) -> String {
        let address = self.config.service_cidr.hosts().nth(place - 1);
        address.map(|ip| ip.to_string()).unwrap_or_default()
    }

    /// The address at which every node's kube-proxy answers names. Without endpoints: no rules lead away from the node.
    fn dns_service(&self) -> Value {
        let address = self.service_address(10);
        json!({
            "metadata": {
                "name": "kube-dns",
                "namespace": "kube-system",
                "labels": {"k8s-app": "kube-dns"},
            },
            "spec": {
                "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
                ],
            },
        })
    }

    fn service(&self) -> Value {
        let port = self.config.advertise.port();
        let first = self.service_address(1);
        json!({
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {
                "type": "ClusterIP", "clusterIP": first, "clusterIPs": [first], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
            },
        })
    }

    fn lease_name(&self) -> String {
        format!(
            "apiserver-{}",
            self.config.advertise.to_string().replace([':', '[', ']'], "-")
        )
    }

    /// Renews this server's Lease, then writes the endpoints.
    async fn endpoints(&self) -> Result<(), Error> {
        let now = Timestamp::now();
        let renew = now.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
        let lease = json!({
            "metadata": {"name": self.lease_name(), "namespace": "kube-system", "labels": {IDENTITY: "kube-apiserver"},
                "annotations": {ADDRESS: self.config.advertise.to_string()}},
            "spec": {"holderIdentity": self.lease_name(), "leaseDurationSeconds": LEASE_SECONDS, "renewTime": renew},
        });
        self.reconcile(LEASES, lease, |existing, wanted| {
            let mut new = existing.clone();
            new["spec"] = wanted["spec"].clone();
            Some(new)
        })
        .await?;
        self.write_endpoints().await
    }

    async fn write_endpoints(&self) -> Result<(), Error> {
        let list = self.access("list", LEASES, "kube-system", "").await?;
        let options = ListOptions {
            label_selector: format!("{IDENTITY}=kube-apiserver"),
            ..ListOptions::default()
        };
        let now = Timestamp::now();
        let mut live = Vec::new();
        for entry in self.registry.list(&list, &options).await?.entries {
            live.extend(live_address(&list.kind.value(&entry)?, now));
        }
        live.sort();
        let ports = json!([{"name": "https", "port": self.config.advertise.port(), "protocol": "TCP"}]);
        let metadata = |labels: Value| json!({"name": "kubernetes", "namespace": "default", "labels": labels});
        let addresses: Vec<Value> = live.iter().map(|ip| json!({"ip": ip})).collect();
        let endpoints = json!({
            "metadata": metadata(json!({"endpointslice.kubernetes.io/skip-mirror": "true"})),
            "subsets": if addresses.is_empty() { json!([]) } else { json!([{"addresses": addresses, "ports": ports}]) },
        });
        let replace = |fields: &'static [&'static str]| {
            move |existing: &Value, wanted: &Value| {
                let mut new = existing.clone();
                for field in fields {
                    new[*field] = wanted[*field].clone();
                }
                Some(new)
            }
        };
        self.reconcile(("", "v1", "endpoints"), endpoints, replace(&["subsets"]))
            .await?;
        let each: Vec<Value> = live
            .iter()
            .map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}}))
            .collect();
        let slice = json!({
            "metadata": metadata(json!({"kubernetes.io/service-name": "kubernetes"})),
            "addressType": "IPv4", "endpoints": each, "ports": ports,
        });
        self.reconcile(
            ("discovery.k8s.io", "v1", "endpointslices"),
            slice,
            replace(&["endpoints", "ports"]),
        )
        .await
    }
}

/// The IP of a server whose Lease holds. A loopback address is no endpoint: a server that advertises one is alone and for its own machine.
fn live_address(lease: &Value, now: Timestamp) -> Option<String> {
    let renewed: Timestamp = lease.pointer("/spec/renewTime")?.as_str()?.parse().ok()?;
    let life = lease.pointer("/spec/leaseDurationSeconds")?.as_i64()?;
    let address: std::net::SocketAddr = lease
        .pointer("/metadata/annotations")?
        .get(ADDRESS)?
        .as_str()?
        .parse()
        .ok()?;
    (now.duration_since(renewed) < SignedDuration::from_secs(life) && !address.ip().is_loopback())
        .then(|| address.ip().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_server_is_no_endpoint() {
        let lease = json!({"metadata": {"annotations": {ADDRESS: "10.0.0.1:6443"}},
            "spec": {"renewTime": "2026-01-01T00:00:00.000000Z", "leaseDurationSeconds": 30}});
        let at = |time: &str| live_address(&lease, time.parse().unwrap());
        assert_eq!(at("2026-01-01T00:00:29Z").as_deref(), Some("10.0.0.1"));
        assert_eq!(at("2026-01-01T00:00:31Z"), None);
    }
}
