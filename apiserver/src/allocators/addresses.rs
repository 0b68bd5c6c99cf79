//! Cluster IPs: the ranges, and which address a service gets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use api::{Error, FieldError};
use bytes::Bytes;
use ipnet::IpNet;
use rand::Rng;
use serde_json::{Value, json};

use super::{Holdings, decode, encode, exists, list_all, new_metadata, refuse, take, unavailable};
use crate::kinds::common::condition;
use crate::kinds::field::{list, set, text};
use crate::kinds::service::{has_cluster_ip, is_headless};
use crate::registry::meta;
use crate::registry::strategy::Extra;
use crate::store::{ReadAt, Store, Txn};

pub(super) const GROUP: &str = "networking.k8s.io";
/// Start of the keys of all `IPAddress` objects.
pub(super) const PREFIX: &str = "networking.k8s.io/ipaddresses//";
const CIDRS: &str = "networking.k8s.io/servicecidrs//";
/// Name of the range that the server is started with, as upstream's.
const DEFAULT: &str = "kubernetes";
/// Marks the addresses that this allocator made.
const MANAGER: &str = "ipallocator.k8s.io";
/// How many free-looking candidates are drawn before the range is searched in order.
const DRAWS: usize = 8;

/// The store key of an address, which is the text that its object has as its name.
pub(super) fn key(ip: IpAddr) -> String {
    format!("{PREFIX}{ip}")
}

pub(super) async fn allocate(
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
        let ip = free(store, &ranges(store, ReadAt::Any).await?).await?;
        take(extra, key(ip), object(ip, service)?);
        set(&mut service["spec"], "clusterIP", ip.to_string());
        set(&mut service["spec"], "clusterIPs", json!([ip.to_string()]));
        return Ok(());
    }
    for ip in Holdings::of(service).ips.difference(&before.ips) {
        let fault = |why: &str| {
            let detail = format!("failed to allocate IP {ip}: {why}");
            refuse(service, FieldError::invalid("spec.clusterIPs", wanted.clone(), detail))
        };
        if !in_ranges(store, *ip).await? {
            return Err(fault("the provided network does not match the current range"));
        }
        if exists(store, &key(*ip), ReadAt::Latest).await? {
            return Err(fault("provided IP is already allocated"));
        }
        take(extra, key(*ip), object(*ip, service)?);
    }
    Ok(())
}

/// Whether a range has the address; a range that is new here is looked for at the leader.
async fn in_ranges(store: &dyn Store, ip: IpAddr) -> Result<bool, Error> {
    for at in [ReadAt::Any, ReadAt::Latest] {
        if ranges(store, at).await?.iter().any(|range| usable(range, ip)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The ranges of all ServiceCIDR objects that are ready and stay.
pub(super) async fn ranges(store: &dyn Store, at: ReadAt) -> Result<Vec<IpNet>, Error> {
    let mut out = Vec::new();
    for entry in list_all(store, CIDRS, at).await? {
        let object = decode(GROUP, "servicecidrs", &entry)?;
        let ready = condition(&object, "Ready").is_some_and(|ready| text(ready, "/status") == "True");
        if ready && !meta::is_deleting(&object) {
            let cidrs = list(&object, "/spec/cidrs").iter();
            out.extend(cidrs.filter_map(|c| c.as_str()?.parse::<IpNet>().ok()));
        }
    }
    Ok(out)
}

/// Inside of the range, and neither its first nor, for IPv4, its last address.
pub(super) fn usable(range: &IpNet, ip: IpAddr) -> bool {
    range.contains(&ip) && ip != range.network() && !(ip.is_ipv4() && ip == range.broadcast())
}

/// The addresses of an IPv4 range that are given away by themselves: its upper part first, so that the lower (a sixteenth of it, at least
/// 16 and at most 256 addresses) stays free for those who choose their own.
pub(super) fn bands(range: &IpNet) -> [Range<u32>; 2] {
    let IpNet::V4(net) = range else { return [0..0, 0..0] };
    let (first, last) = (u32::from(net.network()).saturating_add(1), u32::from(net.broadcast()));
    let size = last.saturating_sub(first);
    let reserved = if size <= 16 { 0 } else { (size / 16).clamp(16, 256) };
    [first + reserved..last, first..first + reserved]
}

async fn free(store: &dyn Store, ranges: &[IpNet]) -> Result<IpAddr, Error> {
    let address = |n: u32| IpAddr::from(Ipv4Addr::from(n));
    for band in ranges.iter().flat_map(bands).filter(|band| !band.is_empty()) {
        for _ in 0..DRAWS {
            let ip = address(rand::rng().random_range(band.clone()));
            if !exists(store, &key(ip), ReadAt::Any).await? {
                return Ok(ip);
            }
        }
        // That a band is full is believed of the latest state only.
        let used = list_all(store, PREFIX, ReadAt::Latest).await?;
        let used: BTreeSet<&str> = used.iter().filter_map(|entry| entry.key.strip_prefix(PREFIX)).collect();
        let start = rand::rng().random_range(band.clone());
        let mut candidates = (start..band.end).chain(band.start..start).map(address);
        if let Some(ip) = candidates.find(|ip| !used.contains(ip.to_string().as_str())) {
            return Ok(ip);
        }
    }
    Err(Error::internal("failed to allocate a serviceIP: range is full"))
}

/// The `IPAddress` of a service.
pub(super) fn object(ip: IpAddr, service: &Value) -> Result<Bytes, Error> {
    let mut metadata = new_metadata(&ip.to_string());
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    metadata["labels"] =
        json!({"ipaddress.kubernetes.io/ip-family": family, "ipaddress.kubernetes.io/managed-by": MANAGER});
    metadata["generation"] = json!(1);
    let parent = json!({"group": "", "resource": "services", "namespace": text(service, "/metadata/namespace"), "name": text(service, "/metadata/name")});
    encode(
        GROUP,
        "ipaddresses",
        &json!({"metadata": metadata, "spec": {"parentRef": parent}}),
    )
}

/// Only addresses that this allocator made are its to free.
pub(super) fn is_ours(address: &Value) -> bool {
    text(address, "/metadata/labels/ipaddress.kubernetes.io~1managed-by") == MANAGER
}

/// Creates the ServiceCIDR of the configured range if there is none yet. An existing one is left as it is: a range in use cannot change.
///
/// # Errors
/// When the store does not answer.
pub async fn ensure_service_cidr(store: &dyn Store, cidr: IpNet) -> Result<(), Error> {
    let mut metadata = new_metadata(DEFAULT);
    metadata["finalizers"] = json!(["networking.k8s.io/service-cidr-finalizer"]);
    metadata["generation"] = json!(1);
    let now = metadata["creationTimestamp"].clone();
    let object = json!({"metadata": metadata, "spec": {"cidrs": [cidr.trunc().to_string()]}, "status": {"conditions": [
        {"type": "Ready", "status": "True", "reason": "", "message": "Kubernetes default Service CIDR is ready", "lastTransitionTime": now}]}});
    let creation = Txn::create(format!("{CIDRS}{DEFAULT}"), encode(GROUP, "servicecidrs", &object)?);
    store.transact(creation).await.map(drop).map_err(unavailable)
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
}
