//! What the allocator sets right at start: the default ServiceCIDR, records that are missing, and records of services that are gone.

use std::collections::BTreeMap;

use api::Error;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::{
    CIDR_PREFIX, GROUP, Holdings, IP_PREFIX, PORT_PREFIX, PORT_RANGE, decode, encode, ip_address, ip_key, list_all,
    new_metadata, port_key, port_owner, unavailable,
};
use crate::kinds::field::text;
use crate::store::{Op, Store, Txn, TxnOutcome};

/// Name of the range that the server is started with, as upstream's.
const DEFAULT: &str = "kubernetes";

/// Creates the ServiceCIDR of the configured range if there is none yet. An existing one is left as it is: a range in use cannot change.
///
/// # Errors
/// When the store does not answer.
pub async fn ensure_service_cidr(store: &dyn Store, cidr: IpNet) -> Result<(), Error> {
    let mut metadata = new_metadata(DEFAULT);
    metadata["finalizers"] = json!(["networking.k8s.io/service-cidr-finalizer"]);
    let now = metadata["creationTimestamp"].clone();
    let object = json!({"metadata": metadata, "spec": {"cidrs": [cidr.trunc().to_string()]}, "status": {"conditions": [
        {"type": "Ready", "status": "True", "reason": "", "message": "Kubernetes default Service CIDR is ready", "lastTransitionTime": now}]}});
    let value = encode(GROUP, "servicecidrs", &object)?;
    match store
        .transact(Txn::create(format!("{CIDR_PREFIX}{DEFAULT}"), value))
        .await
        .map_err(unavailable)?
    {
        TxnOutcome::Committed { .. } | TxnOutcome::Conflict { .. } => Ok(()),
    }
}

/// Writes down the range of node ports. Ports outside of it that are in use stay with their services.
///
/// # Errors
/// When the store does not answer.
pub async fn ensure_node_ports(store: &dyn Store, (first, last): (u16, u16)) -> Result<(), Error> {
    let record =
        json!({"metadata": new_metadata("nodeports"), "data": {"first": first.to_string(), "last": last.to_string()}});
    let put = Op::Put {
        key: PORT_RANGE.to_owned(),
        value: encode("", "configmaps", &record)?,
        expires_at: None,
    };
    let txn = Txn {
        conditions: Vec::new(),
        ops: vec![put],
    };
    store.transact(txn).await.map_err(unavailable).map(drop)
}

/// Compares the records with the services and writes the difference.
///
/// # Errors
/// When the store does not answer.
pub async fn repair(store: &dyn Store) -> Result<(), Error> {
    // The records are read before the services: a record without a service in the later picture has really lost it, or is being deleted.
    let records = [
        list_all(store, IP_PREFIX).await.map_err(unavailable)?,
        list_all(store, PORT_PREFIX).await.map_err(unavailable)?,
    ]
    .concat();
    let mut wanted: BTreeMap<String, Value> = BTreeMap::new();
    let info = api::resources::find("", "v1", "services").ok_or_else(|| Error::internal("no resource services"))?;
    for entry in list_all(store, "core/services/").await.map_err(unavailable)? {
        let service = api::codec::proto_to_value(info.message, &entry.value).map_err(Error::internal)?;
        let held = Holdings::of(&service);
        wanted.extend(held.ips.into_iter().map(|ip| (ip_key(ip), service.clone())));
        wanted.extend(held.ports.into_iter().map(|port| (port_key(port), service.clone())));
    }
    for entry in records {
        if wanted.remove(&*entry.key).is_none()
            && (entry.key.starts_with(PORT_PREFIX) || is_ours(&decode(GROUP, "ipaddresses", &entry)?))
        {
            tracing::warn!(key = %entry.key, "freeing what no service holds");
            store
                .transact(Txn::delete(entry.key.to_string(), entry.revision))
                .await
                .map_err(unavailable)?;
        }
    }
    for (key, service) in wanted {
        tracing::warn!(key, "recording what a service holds");
        let value = match key.strip_prefix(IP_PREFIX).and_then(|ip| ip.parse().ok()) {
            Some(ip) => ip_address(ip, &service)?,
            None => port_owner(&service)?,
        };
        store.transact(Txn::create(key, value)).await.map_err(unavailable)?;
    }
    Ok(())
}

/// Only addresses that this allocator made are its to free.
fn is_ours(address: &Value) -> bool {
    text(address, "/metadata/labels/ipaddress.kubernetes.io~1managed-by") == "ipallocator.k8s.io"
}
