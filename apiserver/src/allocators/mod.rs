//! Cluster IPs and node ports. Owns the rule that one belongs to one service: each has a key of its own that is created, on the condition
//! that it is absent, in the transaction that writes the service, and deleted in the one that removes it. So several API servers never
//! give away the same one. Never keeps state in memory.
//!
//! The key of a cluster IP is its `IPAddress` object, as upstream has it since 1.33; the ranges are those of the `ServiceCIDR` objects.

mod addresses;
mod ports;
mod repair;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use api::{Error, FieldError, GroupKind};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::kinds::field::{list, number, text};
use crate::kinds::service::{has_cluster_ip, is_headless, needs_health_port};
use crate::registry::strategy::{Extra, WriteContext};
use crate::store::{Condition, Entry, Expect, ListQuery, Op, ReadAt, Store, StoreError};

pub use addresses::ensure_service_cidr;
pub use ports::ensure_node_ports;
pub use repair::{AddressWatch, Finding, repair};

/// What a service holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Holdings {
    ips: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

impl Holdings {
    fn of(service: &Value) -> Holdings {
        let spec = &service["spec"];
        let mut out = Holdings::default();
        if has_cluster_ip(spec) && !is_headless(spec) {
            out.ips = list(spec, "/clusterIPs")
                .iter()
                .filter_map(|ip| ip.as_str()?.parse().ok())
                .collect();
        }
        if matches!(text(spec, "/type"), "NodePort" | "LoadBalancer") {
            out.ports = list(spec, "/ports").iter().filter_map(node_port).collect();
        }
        if needs_health_port(spec) {
            out.ports.extend(health_port(spec));
        }
        out
    }

    fn keys(&self) -> impl Iterator<Item = String> {
        let ips = self.ips.iter().map(|ip| addresses::key(*ip));
        ips.chain(self.ports.iter().map(|port| ports::key(*port)))
    }
}

fn port_number(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|n| *n != 0)
}

fn node_port(port: &Value) -> Option<u16> {
    port_number(number(port, "/nodePort"))
}

fn health_port(spec: &Value) -> Option<u16> {
    port_number(number(spec, "/healthCheckNodePort"))
}

fn unavailable(error: StoreError) -> Error {
    Error::internal(error)
}

fn refuse(service: &Value, fault: FieldError) -> Error {
    Error::invalid(
        &GroupKind::new("", "Service"),
        text(service, "/metadata/name"),
        vec![fault],
    )
}

/// Fills in the addresses and ports that the service lacks and answers what must be written with it: conditions and changes for what it
/// gains, changes for what it loses against `old`.
///
/// # Errors
/// 422 with upstream's words for an address or port out of range or taken, 500 for a range that is full.
pub async fn service(cx: &WriteContext<'_>, service: &mut Value, old: Option<&Value>) -> Result<Extra, Error> {
    let before = old.map(Holdings::of).unwrap_or_default();
    let mut extra = Extra::default();
    addresses::allocate(cx.store, service, &before, &mut extra).await?;
    ports::allocate(cx.store, service, old, &before, &mut extra).await?;
    let after = Holdings::of(service);
    let kept: BTreeSet<String> = after.keys().collect();
    let lost = before.keys().filter(|key| !kept.contains(key));
    extra.ops.extend(lost.map(|key| Op::Delete { key }));
    Ok(extra)
}

/// What to delete with a service that goes away.
pub fn release(service: &Value) -> Extra {
    Extra {
        conditions: Vec::new(),
        ops: Holdings::of(service).keys().map(|key| Op::Delete { key }).collect(),
    }
}

fn take(extra: &mut Extra, key: String, value: Bytes) {
    extra.conditions.push(Condition {
        key: key.clone(),
        expect: Expect::Absent,
    });
    extra.ops.push(Op::Put {
        key,
        value,
        expires_at: None,
    });
}

async fn list_all(store: &dyn Store, prefix: &str, at: ReadAt) -> Result<Vec<Arc<Entry>>, Error> {
    let query = ListQuery {
        prefix,
        start_after: None,
        limit: 0,
        at,
    };
    Ok(store.list(query).await.map_err(unavailable)?.entries)
}

async fn exists(store: &dyn Store, key: &str, at: ReadAt) -> Result<bool, Error> {
    Ok(store.get(key, at).await.map_err(unavailable)?.is_some())
}

fn encode(group: &str, resource: &str, object: &Value) -> Result<Bytes, Error> {
    let info = api::resources::find(group, "v1", resource)
        .ok_or_else(|| Error::internal(format!("no resource {resource}.{group}")))?;
    api::codec::value_to_proto(info.message, object)
        .map(Bytes::from)
        .map_err(Error::internal)
}

fn decode(group: &str, resource: &str, entry: &Entry) -> Result<Value, Error> {
    let info = api::resources::find(group, "v1", resource)
        .ok_or_else(|| Error::internal(format!("no resource {resource}.{group}")))?;
    api::codec::proto_to_value(info.message, &entry.value).map_err(Error::internal)
}

fn new_metadata(name: &str) -> Value {
    json!({"name": name, "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()})
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;

    use super::*;

    #[test]
    fn what_a_service_holds() {
        let service = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": [{"nodePort": 30001}, {"port": 2}]}});
        let held = Holdings::of(&service);
        assert_eq!((held.ips.len(), held.ports.len()), (1, 1));
        let headless = json!({"spec": {"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]}});
        assert_eq!(Holdings::of(&headless), Holdings::default());
        assert_eq!(release(&service).ops.len(), 2);
    }

    fn store() -> crate::store::MemoryStore {
        crate::store::MemoryStore::new(api::codec::set_resource_version)
    }

    async fn write(store: &dyn Store, object: &mut Value, old: Option<&Value>) -> Result<bool, Error> {
        let user = crate::registry::access::UserInfo::apiserver();
        let resource = api::resources::find("", "v1", "services").ok_or_else(|| Error::internal("services"))?;
        let cx = WriteContext {
            store,
            resource,
            requested: resource,
            user: &user,
            subresource: "",
            dry_run: false,
        };
        let extra = service(&cx, object, old).await?;
        let txn = crate::store::Txn {
            conditions: extra.conditions,
            ops: extra.ops,
        };
        let outcome = store.transact(txn).await.map_err(unavailable)?;
        Ok(matches!(outcome, crate::store::TxnOutcome::Committed { .. }))
    }

    fn node_port_service(name: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "dev"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}})
    }

    #[tokio::test]
    async fn one_address_and_port_for_one_service() -> Result<(), Error> {
        let store = store();
        let cidr: IpNet = "10.96.0.0/29".parse().map_err(Error::internal)?;
        ensure_service_cidr(&store, cidr).await?;
        let mut first = node_port_service("a");
        assert!(write(&store, &mut first, None).await?);
        let (ip, port) = (
            text(&first, "/spec/clusterIP").to_owned(),
            number(&first, "/spec/ports/0/nodePort"),
        );
        assert!(addresses::usable(&cidr, ip.parse().map_err(Error::internal)?) && (30086..=32767).contains(&port));

        let mut same_ip =
            json!({"metadata": {"name": "b"}, "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip]}});
        let refused = write(&store, &mut same_ip, None).await.err().map(|e| e.message);
        let want = format!(
            "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"{ip}\"]: failed to allocate IP {ip}: provided IP is already allocated"
        );
        assert_eq!(refused, Some(want));
        let mut same_port =
            json!({"metadata": {"name": "b"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}});
        let refused = write(&store, &mut same_port, None).await.err().map(|e| e.message);
        assert_eq!(
            refused,
            Some(format!(
                "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: {port}: provided port is already allocated"
            ))
        );
        let mut foreign = json!({"metadata": {"name": "b"}, "spec": {"type": "ClusterIP", "clusterIP": "10.1.1.1", "clusterIPs": ["10.1.1.1"]}});
        let refused = write(&store, &mut foreign, None)
            .await
            .err()
            .map(|e| e.message)
            .unwrap_or_default();
        assert!(
            refused.ends_with("failed to allocate IP 10.1.1.1: the provided network does not match the current range"),
            "{refused}"
        );

        // Changing the type frees the port and keeps the address.
        let mut plain = first.clone();
        plain["spec"]["type"] = json!("ClusterIP");
        plain["spec"]["ports"] = json!([{"port": 80, "protocol": "TCP"}]);
        assert!(write(&store, &mut plain, Some(&first)).await?);
        assert!(write(&store, &mut same_port, None).await?);
        assert_eq!(list_all(&store, addresses::PREFIX, ReadAt::Any).await?.len(), 2);
        Ok(())
    }

    #[tokio::test]
    async fn a_small_range_is_used_up_and_repaired() -> Result<(), Error> {
        let store = store();
        ensure_service_cidr(&store, "10.96.0.0/29".parse().map_err(Error::internal)?).await?;
        for i in 0..6 {
            assert!(write(&store, &mut node_port_service(&format!("s{i}")), None).await?);
        }
        let full = write(&store, &mut node_port_service("more"), None)
            .await
            .err()
            .map(|e| e.message)
            .unwrap_or_default();
        assert!(full.contains("range is full"), "{full}");
        // None of the services was written, so all of this is free again.
        repair(&store).await?;
        assert_eq!(list_all(&store, addresses::PREFIX, ReadAt::Any).await?.len(), 0);
        assert_eq!(list_all(&store, ports::PREFIX, ReadAt::Any).await?.len(), 0);
        Ok(())
    }

    /// Stores a service without allocating for it.
    async fn put(store: &dyn Store, service: &Value) -> Result<(), Error> {
        let name = text(service, "/metadata/name");
        let creation = crate::store::Txn::create(format!("core/services/dev/{name}"), encode("", "services", service)?);
        store.transact(creation).await.map(drop).map_err(unavailable)
    }

    #[tokio::test]
    async fn what_is_wrong_is_mended_and_reported() -> Result<(), Error> {
        let store = store();
        ensure_service_cidr(&store, "10.96.0.0/24".parse().map_err(Error::internal)?).await?;
        let service = |name: &str, ip: &str| json!({"metadata": {"name": name, "namespace": "dev"}, "spec": {"type": "NodePort", "clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80, "nodePort": 30000}]}});
        put(&store, &service("a", "10.96.0.5")).await?;
        put(&store, &service("b", "10.96.0.5")).await?;
        put(&store, &service("c", "10.1.0.5")).await?;
        let reasons = |findings: Vec<Finding>| {
            let mut out: Vec<String> = findings
                .iter()
                .map(|f| format!("{} {}", f.service.1, f.reason))
                .collect();
            out.sort();
            out
        };
        assert_eq!(
            reasons(repair(&store).await?),
            [
                "a ClusterIPNotAllocated",
                "a PortNotAllocated",
                "b ClusterIPAlreadyAllocated",
                "b PortAlreadyAllocated",
                "c ClusterIPNotAllocated",
                "c ClusterIPOutOfRange",
                "c PortAlreadyAllocated",
            ]
        );
        // Mended; what cannot be mended is reported again.
        let again = reasons(repair(&store).await?);
        assert_eq!(
            again,
            [
                "b ClusterIPAlreadyAllocated",
                "b PortAlreadyAllocated",
                "c ClusterIPOutOfRange",
                "c PortAlreadyAllocated"
            ]
        );
        assert_eq!(list_all(&store, addresses::PREFIX, ReadAt::Any).await?.len(), 2);
        Ok(())
    }

    #[tokio::test]
    async fn a_deleted_address_comes_back() -> Result<(), Error> {
        let store = store();
        ensure_service_cidr(&store, "10.96.0.0/24".parse().map_err(Error::internal)?).await?;
        let mut service = node_port_service("a");
        assert!(write(&store, &mut service, None).await?);
        put(&store, &service).await?;
        let mut watch = AddressWatch::new(&store)?;
        let key = Holdings::of(&service).keys().next().unwrap_or_default();
        let entry = store.get(&key, ReadAt::Any).await.map_err(unavailable)?;
        let revision = entry.map_or(0, |entry| entry.revision);
        store
            .transact(crate::store::Txn::delete(key.clone(), revision))
            .await
            .map_err(unavailable)?;
        let found = watch.next(&store).await?.unwrap_or_default();
        assert_eq!(found.first().map(|f| f.reason), Some("ClusterIPNotAllocated"));
        assert!(exists(&store, &key, ReadAt::Any).await?);
        Ok(())
    }

    #[tokio::test]
    async fn ports_are_shared_by_protocols_and_not_by_services() -> Result<(), Error> {
        let store = store();
        ensure_service_cidr(&store, "10.96.0.0/24".parse().map_err(Error::internal)?).await?;
        let mut dns = json!({"metadata": {"name": "dns", "namespace": "dev"}, "spec": {"type": "NodePort", "ports": [
            {"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP", "nodePort": 30053}, {"port": 9153, "protocol": "TCP"}]}});
        assert!(write(&store, &mut dns, None).await?);
        assert_eq!(number(&dns, "/spec/ports/0/nodePort"), 30053);
        assert_ne!(number(&dns, "/spec/ports/2/nodePort"), 30053);
        let quiet = |name: &str| {
            json!({"metadata": {"name": name}, "spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
            "externalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 30053}, {"port": 81}]}})
        };
        // A port that is named is taken even if none is given away.
        let refused = write(&store, &mut quiet("lb"), None)
            .await
            .err()
            .map(|e| e.message)
            .unwrap_or_default();
        assert!(
            refused.contains("spec.ports[0].nodePort: Invalid value: 30053: provided port is already allocated"),
            "{refused}"
        );
        let mut free = quiet("lb");
        free["spec"]["ports"][0]["nodePort"] = json!(30080);
        assert!(write(&store, &mut free, None).await?);
        assert!(number(&free, "/spec/healthCheckNodePort") >= 30086);
        assert_eq!(number(&free, "/spec/ports/1/nodePort"), 0);
        assert_eq!(list_all(&store, ports::PREFIX, ReadAt::Any).await?.len(), 4);
        let mut outside = node_port_service("out");
        outside["spec"]["ports"][0]["nodePort"] = json!(80);
        let refused = write(&store, &mut outside, None)
            .await
            .err()
            .map(|e| e.message)
            .unwrap_or_default();
        assert!(
            refused.ends_with("provided port is not in the valid range. The range of valid ports is 30000-32767"),
            "{refused}"
        );
        Ok(())
    }
}
