//! Node ports: the range, and which ports a service gets. One port number serves every protocol of a service, and no two services.

use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};

use api::{Error, FieldError};
use bytes::Bytes;
use rand::Rng;
use serde_json::{Value, json};

use super::{
    Holdings, decode, encode, exists, health_port, list_all, new_metadata, node_port, refuse, take, unavailable,
};
use crate::kinds::field::{each, list, set, text};
use crate::kinds::service::{has_node_ports, needs_health_port};
use crate::registry::strategy::Extra;
use crate::store::{Op, ReadAt, Store, Txn};

/// Start of the keys of all node ports in use.
pub(super) const PREFIX: &str = "keelson.dev/nodeports//";
/// Holds the range of node ports, for all API servers alike.
const RANGE: &str = "keelson.dev/nodeportrange//current";
/// Upstream's default range of node ports.
const DEFAULT: RangeInclusive<u16> = 30000..=32767;
/// How many free-looking candidates are drawn before the range is searched in order.
const DRAWS: usize = 8;

/// The store key of a port.
pub(super) fn key(port: u16) -> String {
    format!("{PREFIX}{port}")
}

/// What is asked of one service.
struct Claim<'a> {
    store: &'a dyn Store,
    range: RangeInclusive<u16>,
    before: &'a Holdings,
    /// Numbers that the service has or will have.
    taken: BTreeSet<u16>,
    record: Bytes,
}

impl Claim<'_> {
    /// Takes the number that the service names, if it does not hold it already; the error is upstream's text.
    async fn explicit(&mut self, port: u16, extra: &mut Extra) -> Result<Result<(), String>, Error> {
        if self.before.ports.contains(&port) || !self.taken.insert(port) {
            return Ok(Ok(()));
        }
        if !self.range.contains(&port) {
            return Ok(Err(format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                self.range.start(),
                self.range.end()
            )));
        }
        if exists(self.store, &key(port), ReadAt::Latest).await? {
            return Ok(Err("provided port is already allocated".to_owned()));
        }
        take(extra, key(port), self.record.clone());
        Ok(Ok(()))
    }

    /// Takes a number that is free.
    async fn any(&mut self, extra: &mut Extra) -> Result<u16, Error> {
        for band in bands(&self.range) {
            if band.is_empty() {
                continue;
            }
            for _ in 0..DRAWS {
                let port = u16::try_from(rand::rng().random_range(band.clone())).unwrap_or(0);
                if !self.taken.contains(&port) && !exists(self.store, &key(port), ReadAt::Any).await? {
                    return Ok(self.give(port, extra));
                }
            }
            let used = list_all(self.store, PREFIX, ReadAt::Latest).await?;
            let used: BTreeSet<u16> = used
                .iter()
                .filter_map(|entry| entry.key.strip_prefix(PREFIX)?.parse().ok())
                .collect();
            let start = rand::rng().random_range(band.clone());
            let mut candidates = (start..band.end)
                .chain(band.start..start)
                .filter_map(|n| u16::try_from(n).ok());
            if let Some(port) = candidates.find(|port| !self.taken.contains(port) && !used.contains(port)) {
                return Ok(self.give(port, extra));
            }
        }
        Err(Error::internal("failed to allocate a nodePort: range is full"))
    }

    fn give(&mut self, port: u16, extra: &mut Extra) -> u16 {
        self.taken.insert(port);
        take(extra, key(port), self.record.clone());
        port
    }
}

/// Ports that are given away by themselves: the upper part of the range first, so that the lower (a thirty-second of it, at least 16 and at
/// most 128 ports) stays free for those who choose their own.
fn bands(range: &RangeInclusive<u16>) -> [Range<u32>; 2] {
    let (first, end) = (u32::from(*range.start()), u32::from(*range.end()) + 1);
    let size = end - first;
    let reserved = if size <= 16 {
        0
    } else {
        (size / 32).clamp(16, 128).min(size)
    };
    [first + reserved..end, first..first + reserved]
}

pub(super) async fn allocate(
    store: &dyn Store,
    service: &mut Value,
    old: Option<&Value>,
    before: &Holdings,
    extra: &mut Extra,
) -> Result<(), Error> {
    let spec = &service["spec"];
    let has_ports = matches!(text(spec, "/type"), "NodePort" | "LoadBalancer");
    if !has_ports {
        return Ok(());
    }
    let complete = !has_node_ports(spec) || list(spec, "/ports").iter().all(|port| node_port(port).is_some());
    let healthy = !needs_health_port(spec) || health_port(spec).is_some();
    if complete && healthy && Holdings::of(service).ports.is_subset(&before.ports) {
        return Ok(());
    }
    let mut claim = Claim {
        store,
        range: range(store).await?,
        before,
        taken: BTreeSet::new(),
        record: record(service)?,
    };
    // Those that are named first, so that none of them is given to another port of the service.
    for i in 0..list(service, "/spec/ports").len() {
        let Some(port) = node_port(&service["spec"]["ports"][i]) else {
            continue;
        };
        if let Err(why) = claim.explicit(port, extra).await? {
            let fault = FieldError::invalid(format!("spec.ports[{i}].nodePort"), port, why);
            return Err(refuse(service, fault));
        }
    }
    let health = health_port(&service["spec"]).filter(|_| needs_health_port(&service["spec"]));
    if let Some(port) = health
        && let Err(why) = claim.explicit(port, extra).await?
    {
        return Err(Error::internal(format!(
            "failed to allocate requested HealthCheck NodePort {port}: {why}"
        )));
    }
    claim.taken.extend(&before.ports);
    fill(&mut claim, service, old.is_none(), extra).await?;
    if needs_health_port(&service["spec"]) && health.is_none() {
        let port = claim.any(extra).await?;
        set(&mut service["spec"], "healthCheckNodePort", port);
    }
    Ok(())
}

/// Gives a number to each port that lacks one. In a new service the same port with another protocol shares it, as DNS does.
async fn fill(claim: &mut Claim<'_>, service: &mut Value, is_new: bool, extra: &mut Extra) -> Result<(), Error> {
    if !has_node_ports(&service["spec"]) {
        return Ok(());
    }
    for i in 0..list(service, "/spec/ports").len() {
        let ports = list(service, "/spec/ports");
        let Some(port) = ports.get(i).filter(|port| node_port(port).is_none()) else {
            continue;
        };
        let twin = |other: &&Value| other["port"] == port["port"] && other["protocol"] != port["protocol"];
        let shared = ports.iter().filter(|_| is_new).filter(twin).find_map(node_port);
        let number = match shared {
            Some(number) => number,
            None => claim.any(extra).await?,
        };
        if let Some(port) = each(&mut service["spec"], "ports").nth(i) {
            set(port, "nodePort", number);
        }
    }
    Ok(())
}

/// The range that the servers were started with.
pub(super) async fn range(store: &dyn Store) -> Result<RangeInclusive<u16>, Error> {
    let Some(entry) = store.get(RANGE, ReadAt::Any).await.map_err(unavailable)? else {
        return Ok(DEFAULT);
    };
    let record = decode("", "configmaps", &entry)?;
    let bound = |name: &str| text(&record["data"], name).parse::<u16>().map_err(Error::internal);
    Ok(bound("/first")?..=bound("/last")?)
}

/// A node port's record: a ConfigMap in form, so that the store can stamp it, which no resource serves.
pub(super) fn record(service: &Value) -> Result<Bytes, Error> {
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

/// Writes down the range of node ports. Ports outside of it that are in use stay with their services.
///
/// # Errors
/// When the store does not answer.
pub async fn ensure_node_ports(store: &dyn Store, (first, last): (u16, u16)) -> Result<(), Error> {
    if range(store).await? == (first..=last) && exists(store, RANGE, ReadAt::Any).await? {
        return Ok(());
    }
    let record =
        json!({"metadata": new_metadata("nodeports"), "data": {"first": first.to_string(), "last": last.to_string()}});
    let put = Op::Put {
        key: RANGE.to_owned(),
        value: encode("", "configmaps", &record)?,
        expires_at: None,
    };
    let txn = Txn {
        conditions: Vec::new(),
        ops: vec![put],
    };
    store.transact(txn).await.map_err(unavailable).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_band_is_for_those_who_choose() {
        let [upper, lower] = bands(&(30000..=32767));
        assert_eq!((lower.clone().count(), lower.start, upper.end), (86, 30000, 32768));
        let [upper, lower] = bands(&(30000..=30009));
        assert_eq!((upper.count(), lower.count()), (10, 0));
    }
}
