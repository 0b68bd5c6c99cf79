//! Cluster IPs and node ports. Owns the rule that one belongs to one service: each has a key of its own that is created, on the condition
//! that it is absent, in the transaction that writes the service, and deleted in the one that removes it. So several API servers never
//! give away the same one. Never keeps state in memory.
//!
//! The key of a cluster IP is its `IPAddress` object, as upstream has it since 1.33; the ranges are those of the `ServiceCIDR` objects.

mod repair;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use api::{Error, FieldError, GroupKind};
use bytes::Bytes;
use ipnet::IpNet;
use rand::Rng;
use serde_json::{Value, json};

use crate::kinds::field::{each, list, number, set, text};
use crate::kinds::service::{has_cluster_ip, has_node_ports, is_headless};
use crate::registry::strategy::{Extra, WriteContext};
use crate::store::{Condition, Entry, Expect, ListQuery, Op, ReadAt, Store, StoreError};

pub use repair::{ensure_node_ports, ensure_service_cidr, repair};

const GROUP: &str = "networking.k8s.io";
const IP_PREFIX: &str = "networking.k8s.io/ipaddresses//";
const CIDR_PREFIX: &str = "networking.k8s.io/servicecidrs//";
const PORT_PREFIX: &str = "keelson.dev/nodeports//";
/// Holds the range of node ports, for all API servers alike.
const PORT_RANGE: &str = "keelson.dev/nodeportrange//current";
/// Upstream's default range of node ports.
const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;
/// How many free-looking candidates are drawn before the range is searched in order.
const DRAWS: usize = 8;

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
        if has_node_ports(spec) {
            out.ports = list(spec, "/ports").iter().filter_map(node_port).collect();
        }
        if needs_health_port(spec) {
            out.ports.extend(
                u16::try_from(number(spec, "/healthCheckNodePort"))
                    .ok()
                    .filter(|n| *n != 0),
            );
        }
        out
    }
}

fn node_port(port: &Value) -> Option<u16> {
    port.get("nodePort")
        .and_then(Value::as_u64)
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n != 0)
}

fn needs_health_port(spec: &Value) -> bool {
    text(spec, "/type") == "LoadBalancer" && text(spec, "/externalTrafficPolicy") == "Local"
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
    allocate_ips(cx.store, service, &before, &mut extra).await?;
    allocate_ports(cx.store, service, &before, &mut extra).await?;
    let after = Holdings::of(service);
    let ips = before
        .ips
        .difference(&after.ips)
        .map(|ip| Op::Delete { key: ip_key(*ip) });
    let ports = before
        .ports
        .difference(&after.ports)
        .map(|port| Op::Delete { key: port_key(*port) });
    extra.ops.extend(ips.chain(ports));
    Ok(extra)
}

/// What to delete with a service that goes away.
pub fn release(service: &Value) -> Extra {
    let held = Holdings::of(service);
    let ips = held.ips.into_iter().map(|ip| Op::Delete { key: ip_key(ip) });
    let ports = held.ports.into_iter().map(|port| Op::Delete { key: port_key(port) });
    Extra {
        conditions: Vec::new(),
        ops: ips.chain(ports).collect(),
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

async fn allocate_ips(
    store: &dyn Store,
    service: &mut Value,
    before: &Holdings,
    extra: &mut Extra,
) -> Result<(), Error> {
    let spec = &service["spec"];
    if !has_cluster_ip(spec) || is_headless(spec) {
        return Ok(());
    }
    let wanted = list(spec, "/clusterIPs").to_vec();
    if wanted.is_empty() {
        let cidrs = service_cidrs(store).await?;
        let ip = free_ip(store, &cidrs).await?;
        take(extra, ip_key(ip), ip_address(ip, service)?);
        set(&mut service["spec"], "clusterIP", ip.to_string());
        set(&mut service["spec"], "clusterIPs", json!([ip.to_string()]));
        return Ok(());
    }
    for ip in Holdings::of(service).ips.difference(&before.ips) {
        let cidrs = service_cidrs(store).await?;
        let fault = |why: String| {
            refuse(
                service,
                FieldError::invalid(
                    "spec.clusterIPs",
                    wanted.clone(),
                    format!("failed to allocate IP {ip}: {why}"),
                ),
            )
        };
        if !cidrs.iter().any(|cidr| usable(cidr, *ip)) {
            let ranges: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
            return Err(fault(format!(
                "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}",
                ranges.join(", ")
            )));
        }
        if store
            .get(&ip_key(*ip), ReadAt::Latest)
            .await
            .map_err(unavailable)?
            .is_some()
        {
            return Err(fault("provided IP is already allocated".to_owned()));
        }
        take(extra, ip_key(*ip), ip_address(*ip, service)?);
    }
    Ok(())
}

async fn allocate_ports(
    store: &dyn Store,
    service: &mut Value,
    before: &Holdings,
    extra: &mut Extra,
) -> Result<(), Error> {
    explicit_ports(store, service, before, extra).await?;
    let owner = port_owner(service)?;
    let mut taken: BTreeSet<u16> = Holdings::of(service).ports;
    let missing = |p: &Value| node_port(p).is_none();
    let wants = has_node_ports(&service["spec"]);
    let mut given: Vec<(Value, u16)> = Vec::new();
    for i in 0..list(service, "/spec/ports").len() {
        let port = &service["spec"]["ports"][i];
        if !wants || !missing(port) {
            continue;
        }
        // The same port number with another protocol shares the node port, as upstream does for DNS.
        let shared = given
            .iter()
            .find(|(p, _)| p["port"] == port["port"] && p["protocol"] != port["protocol"])
            .map(|(_, n)| *n);
        let chosen = match shared {
            Some(number) => number,
            None => {
                let number = free_port(store, &taken).await?;
                take(extra, port_key(number), owner.clone());
                taken.insert(number);
                number
            }
        };
        given.push((port.clone(), chosen));
        if let Some(port) = each(&mut service["spec"], "ports").nth(i) {
            set(port, "nodePort", chosen);
        }
    }
    if needs_health_port(&service["spec"]) && number(service, "/spec/healthCheckNodePort") == 0 {
        let number = free_port(store, &taken).await?;
        take(extra, port_key(number), owner);
        set(&mut service["spec"], "healthCheckNodePort", number);
    }
    Ok(())
}

async fn explicit_ports(store: &dyn Store, service: &Value, before: &Holdings, extra: &mut Extra) -> Result<(), Error> {
    let held = Holdings::of(service);
    for port in held.ports.difference(&before.ports) {
        let index = list(service, "/spec/ports")
            .iter()
            .position(|p| node_port(p) == Some(*port));
        let path = index.map_or_else(
            || "spec.healthCheckNodePort".to_owned(),
            |i| format!("spec.ports[{i}].nodePort"),
        );
        let range = node_ports(store).await?;
        if !range.contains(port) {
            let why = format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                range.start(),
                range.end()
            );
            return Err(refuse(service, FieldError::invalid(path, *port, why)));
        }
        if store
            .get(&port_key(*port), ReadAt::Latest)
            .await
            .map_err(unavailable)?
            .is_some()
        {
            return Err(refuse(
                service,
                FieldError::invalid(path, *port, "provided port is already allocated"),
            ));
        }
        take(extra, port_key(*port), port_owner(service)?);
    }
    Ok(())
}

/// The ranges of all ServiceCIDR objects that are not being deleted.
async fn service_cidrs(store: &dyn Store) -> Result<Vec<IpNet>, Error> {
    let found = list_all(store, CIDR_PREFIX).await.map_err(unavailable)?;
    let mut out = Vec::new();
    for entry in found {
        let object = decode(GROUP, "servicecidrs", &entry)?;
        if object.pointer("/metadata/deletionTimestamp").is_none() {
            out.extend(
                list(&object, "/spec/cidrs")
                    .iter()
                    .filter_map(|c| c.as_str()?.parse::<IpNet>().ok()),
            );
        }
    }
    Ok(out)
}

async fn list_all(store: &dyn Store, prefix: &str) -> Result<Vec<std::sync::Arc<Entry>>, StoreError> {
    Ok(store
        .list(ListQuery {
            prefix,
            start_after: None,
            limit: 0,
            at: ReadAt::Any,
        })
        .await?
        .entries)
}

/// Inside of the range, and neither its first nor, for IPv4, its last address.
fn usable(cidr: &IpNet, ip: IpAddr) -> bool {
    cidr.contains(&ip) && ip != cidr.network() && !(ip.is_ipv4() && ip == cidr.broadcast())
}

/// The addresses of an IPv4 range that are given away by themselves: its upper part first, so that the lower (a sixteenth of it, at least
/// 16 and at most 256 addresses) stays free for those who choose their own.
fn bands(cidr: &IpNet) -> [std::ops::Range<u32>; 2] {
    let IpNet::V4(net) = cidr else { return [0..0, 0..0] };
    let (first, last) = (u32::from(net.network()).saturating_add(1), u32::from(net.broadcast()));
    let size = last.saturating_sub(first);
    let reserved = if size <= 16 { 0 } else { (size / 16).clamp(16, 256) };
    [first + reserved..last, first..first + reserved]
}

async fn free_ip(store: &dyn Store, cidrs: &[IpNet]) -> Result<IpAddr, Error> {
    for band in cidrs.iter().flat_map(bands).filter(|b| !b.is_empty()) {
        for _ in 0..DRAWS {
            let ip = IpAddr::from(Ipv4Addr::from(rand::rng().random_range(band.clone())));
            if store
                .get(&ip_key(ip), ReadAt::Any)
                .await
                .map_err(unavailable)?
                .is_none()
            {
                return Ok(ip);
            }
        }
        let used: BTreeSet<String> = list_all(store, IP_PREFIX)
            .await
            .map_err(unavailable)?
            .iter()
            .map(|e| e.key.to_string())
            .collect();
        let start = rand::rng().random_range(band.clone());
        let mut candidates = (start..band.end)
            .chain(band.start..start)
            .map(|n| IpAddr::from(Ipv4Addr::from(n)));
        if let Some(ip) = candidates.find(|ip| !used.contains(&ip_key(*ip))) {
            return Ok(ip);
        }
    }
    Err(Error::internal("failed to allocate a serviceIP: range is full"))
}

/// The range that the servers were started with.
async fn node_ports(store: &dyn Store) -> Result<RangeInclusive<u16>, Error> {
    let Some(entry) = store.get(PORT_RANGE, ReadAt::Any).await.map_err(unavailable)? else {
        return Ok(NODE_PORTS);
    };
    let record = decode("", "configmaps", &entry)?;
    let bound = |name: &str| text(&record["data"], name).parse::<u16>().map_err(Error::internal);
    Ok(bound("/first")?..=bound("/last")?)
}

async fn free_port(store: &dyn Store, taken: &BTreeSet<u16>) -> Result<u16, Error> {
    let range = node_ports(store).await?;
    for _ in 0..DRAWS {
        let port = rand::rng().random_range(range.clone());
        if !taken.contains(&port)
            && store
                .get(&port_key(port), ReadAt::Any)
                .await
                .map_err(unavailable)?
                .is_none()
        {
            return Ok(port);
        }
    }
    let used: BTreeSet<String> = list_all(store, PORT_PREFIX)
        .await
        .map_err(unavailable)?
        .iter()
        .map(|e| e.key.to_string())
        .collect();
    let mut candidates = range.filter(|port| !taken.contains(port) && !used.contains(&port_key(*port)));
    candidates
        .next()
        .ok_or_else(|| Error::internal("failed to allocate a nodePort: range is full"))
}

/// The name of an address's key and object: IPv6 is written in full there, as upstream's IPAddress names are canonical text.
fn ip_key(ip: IpAddr) -> String {
    format!("{IP_PREFIX}{ip}")
}

fn port_key(port: u16) -> String {
    format!("{PORT_PREFIX}{port}")
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

fn ip_address(ip: IpAddr, service: &Value) -> Result<Bytes, Error> {
    let mut metadata = new_metadata(&ip.to_string());
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    metadata["labels"] = json!({"ipaddress.kubernetes.io/ip-family": family, "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"});
    metadata["generation"] = json!(1);
    let parent = json!({"group": "", "resource": "services", "namespace": text(service, "/metadata/namespace"), "name": text(service, "/metadata/name")});
    encode(
        GROUP,
        "ipaddresses",
        &json!({"metadata": metadata, "spec": {"parentRef": parent}}),
    )
}

/// A node port's record: a ConfigMap in form, so that the store can stamp it, which no resource serves.
fn port_owner(service: &Value) -> Result<Bytes, Error> {
    let owner = format!(
        "{}/{}",
        text(service, "/metadata/namespace"),
        text(service, "/metadata/name")
    );
    encode(
        "",
        "configmaps",
        &json!({"metadata": new_metadata("nodeport"), "data": {"service": owner}}),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let cidr: IpNet = "10.96.0.0/16".parse().unwrap_or_else(|_| panic!("cidr"));
        for (ip, want) in [
            ("10.96.0.0", false),
            ("10.96.0.1", true),
            ("10.96.255.255", false),
            ("10.97.0.1", false),
        ] {
            assert_eq!(
                usable(&cidr, ip.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))),
                want,
                "{ip}"
            );
        }
        let [upper, lower] = bands(&cidr);
        assert_eq!(Ipv4Addr::from(lower.start).to_string(), "10.96.0.1");
        assert_eq!(Ipv4Addr::from(upper.start).to_string(), "10.96.1.1");
        assert_eq!(Ipv4Addr::from(upper.end - 1).to_string(), "10.96.255.254");
    }

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
        assert!(
            usable(&cidr, ip.parse().map_err(Error::internal)?)
                && NODE_PORTS.contains(&u16::try_from(port).unwrap_or(0))
        );

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
            refused.ends_with(
                "the provided IP (10.1.1.1) is not in the valid range. The range of valid IPs is 10.96.0.0/29"
            ),
            "{refused}"
        );

        // Changing the type frees the port and keeps the address.
        let mut plain = first.clone();
        plain["spec"]["type"] = json!("ClusterIP");
        plain["spec"]["ports"] = json!([{"port": 80, "protocol": "TCP"}]);
        assert!(write(&store, &mut plain, Some(&first)).await?);
        assert!(write(&store, &mut same_port, None).await?);
        assert_eq!(list_all(&store, IP_PREFIX).await.map_err(unavailable)?.len(), 2);
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
        assert_eq!(list_all(&store, IP_PREFIX).await.map_err(unavailable)?.len(), 0);
        assert_eq!(list_all(&store, PORT_PREFIX).await.map_err(unavailable)?.len(), 0);
        Ok(())
    }
}
