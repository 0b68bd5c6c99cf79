//! Compares the records of addresses and ports with the services and writes the difference: at start, from time to time, and for an address
//! as soon as somebody deletes it under a service.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::Error;
use serde_json::Value;

use super::{Holdings, addresses, decode, list_all, ports, unavailable};
use crate::kinds::field::text;
use crate::store::{Change, Entry, ListQuery, ReadAt, Store, Txn, Watcher};

const SERVICES: &str = "core/services/";

/// Something that was not in order, worth an event on a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// Namespace and name of the service.
    pub service: (String, String),
    /// As upstream names it.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

fn finding(service: &Value, reason: &'static str, message: String) -> Finding {
    tracing::warn!(reason, message, "service allocations are repaired");
    Finding {
        service: (
            text(service, "/metadata/namespace").to_owned(),
            text(service, "/metadata/name").to_owned(),
        ),
        reason,
        message,
    }
}

/// What a key stands for, in messages.
enum What {
    Address(IpAddr),
    Port(u16),
}

impl What {
    fn of(key: &str) -> Option<What> {
        if let Some(ip) = key.strip_prefix(addresses::PREFIX) {
            return ip.parse().ok().map(What::Address);
        }
        key.strip_prefix(ports::PREFIX)?.parse().ok().map(What::Port)
    }

    fn taken(&self, service: &Value) -> Finding {
        match self {
            What::Address(ip) => finding(
                service,
                "ClusterIPAlreadyAllocated",
                format!("Cluster IP {ip} was assigned to multiple services; please recreate service"),
            ),
            What::Port(port) => finding(
                service,
                "PortAlreadyAllocated",
                format!("Port {port} was assigned to multiple services; please recreate service"),
            ),
        }
    }

    fn missing(&self, service: &Value) -> Finding {
        match self {
            What::Address(ip) => finding(
                service,
                "ClusterIPNotAllocated",
                format!("Cluster IP {ip} is not allocated; repairing"),
            ),
            What::Port(port) => finding(
                service,
                "PortNotAllocated",
                format!("Port {port} is not allocated; repairing"),
            ),
        }
    }

    fn record(&self, service: &Value) -> Result<bytes::Bytes, Error> {
        match self {
            What::Address(ip) => addresses::object(*ip, service),
            What::Port(_) => ports::record(service),
        }
    }
}

/// Writes what is missing, removes what nobody holds, and reports both, and what it cannot mend.
///
/// # Errors
/// When the store does not answer.
pub async fn repair(store: &dyn Store) -> Result<Vec<Finding>, Error> {
    let query = ListQuery {
        prefix: SERVICES,
        start_after: None,
        limit: 0,
        at: ReadAt::Latest,
    };
    // One picture of services and records: nothing that is being written looks like a leak.
    let services = store.list(query).await.map_err(unavailable)?;
    let at = ReadAt::Exact(services.revision);
    let records = [
        list_all(store, addresses::PREFIX, at).await?,
        list_all(store, ports::PREFIX, at).await?,
    ]
    .concat();
    let (ranges, node_ports) = (addresses::ranges(store, ReadAt::Any).await?, ports::range(store).await?);
    let mut findings = Vec::new();
    let mut wanted: BTreeMap<String, Value> = BTreeMap::new();
    for entry in &services.entries {
        let service = decode("", "services", entry)?;
        let held = Holdings::of(&service);
        for ip in held
            .ips
            .iter()
            .filter(|ip| !ranges.iter().any(|range| addresses::usable(range, **ip)))
        {
            let message = format!("Cluster IP {ip} is not within any configured Service CIDR; please recreate service");
            findings.push(finding(&service, "ClusterIPOutOfRange", message));
        }
        for port in held.ports.iter().filter(|port| !node_ports.contains(port)) {
            let message = format!(
                "Port {port} is not within the port range {}-{}; please recreate service",
                node_ports.start(),
                node_ports.end()
            );
            findings.push(finding(&service, "PortOutOfRange", message));
        }
        for key in held.keys() {
            match (wanted.contains_key(&key), What::of(&key)) {
                (true, Some(what)) => findings.push(what.taken(&service)),
                _ => drop(wanted.insert(key, service.clone())),
            }
        }
    }
    for entry in records {
        let owner = owner(&entry.key, &entry)?;
        match (wanted.remove(&*entry.key), owner) {
            // An address that somebody else made stays as it is.
            (_, None) => {}
            (Some(service), Some(owner)) => {
                if owner != place(&service) {
                    findings.extend(replace(store, &entry, &service).await?);
                }
            }
            (None, Some(_)) => {
                tracing::warn!(key = %entry.key, "freeing what no service holds");
                let delete = Txn::delete(entry.key.to_string(), entry.revision);
                store.transact(delete).await.map_err(unavailable)?;
            }
        }
    }
    for (key, service) in wanted {
        if let Some(what) = What::of(&key) {
            findings.push(what.missing(&service));
            let creation = Txn::create(key, what.record(&service)?);
            store.transact(creation).await.map_err(unavailable)?;
        }
    }
    Ok(findings)
}

fn place(service: &Value) -> (String, String) {
    (
        text(service, "/metadata/namespace").to_owned(),
        text(service, "/metadata/name").to_owned(),
    )
}

/// The service whose record this is; nothing for an address that somebody else made.
fn owner(key: &str, entry: &Entry) -> Result<Option<(String, String)>, Error> {
    if key.starts_with(ports::PREFIX) {
        let record = decode("", "configmaps", entry)?;
        let owner = text(&record, "/data/service").split_once('/');
        return Ok(Some(
            owner.map_or_else(Default::default, |(n, s)| (n.to_owned(), s.to_owned())),
        ));
    }
    let address = decode(addresses::GROUP, "ipaddresses", entry)?;
    let parent = |field: &str| text(&address, &format!("/spec/parentRef/{field}")).to_owned();
    Ok(addresses::is_ours(&address).then(|| (parent("namespace"), parent("name"))))
}

/// Writes a record anew that names another service than the one that holds it, if it is still that one.
async fn replace(store: &dyn Store, entry: &Entry, service: &Value) -> Result<Option<Finding>, Error> {
    let Some(what) = What::of(&entry.key) else {
        return Ok(None);
    };
    let update = Txn::update(entry.key.to_string(), entry.revision, what.record(service)?);
    store.transact(update).await.map_err(unavailable)?;
    Ok(Some(what.missing(service)))
}

/// Hears of addresses that are deleted while their services still have them.
pub struct AddressWatch(Watcher);

impl AddressWatch {
    /// From now on.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn new(store: &dyn Store) -> Result<Self, Error> {
        let watcher = store.watch(addresses::PREFIX, store.revision()).map_err(unavailable)?;
        Ok(Self(watcher))
    }

    /// Waits for the next such deletions, and repairs. Nothing when the store stops telling.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn next(&mut self, store: &dyn Store) -> Result<Option<Vec<Finding>>, Error> {
        while let Some(batch) = self.0.next().await {
            for event in batch.map_err(unavailable)? {
                if let Change::Delete { previous } = &event.change
                    && is_held(store, previous).await?
                {
                    return repair(store).await.map(Some);
                }
            }
        }
        Ok(None)
    }
}

/// Whether the service of a deleted address still has it. One that goes away takes its address with it in one transaction.
async fn is_held(store: &dyn Store, address: &Entry) -> Result<bool, Error> {
    let Some((namespace, name)) = owner(&address.key, address)? else {
        return Ok(false);
    };
    let key = format!("{SERVICES}{namespace}/{name}");
    let Some(service) = store.get(&key, ReadAt::Any).await.map_err(unavailable)? else {
        return Ok(false);
    };
    let held = Holdings::of(&decode("", "services", &service)?);
    Ok(held.keys().any(|key| *key == *address.key))
}
