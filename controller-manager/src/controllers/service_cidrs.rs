//! ServiceCIDRs: a range is ready as soon as it is known here, and stays as long as addresses in it belong to services and to no other range.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::meta::{Condition, Time};
use api::networking::v1::{IPAddress, ServiceCIDR};
use api::{Object, ObjectKey};
use client::{Cache, Client};
use controller::{Action, Error};
use ipnet::IpNet;
use jiff::Timestamp;

use crate::setup::{Setup, enqueue};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const READY: &str = "Ready";
/// An address that a server allocates in the moment of the deletion must show up before the range goes; upstream's grace.
const GRACE: Duration = Duration::from_secs(10);

/// What is to be done with a range.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Write the object.
    Update(Box<ServiceCIDR>),
    /// Write the status.
    Status(Box<ServiceCIDR>),
    /// Look again then.
    Later(Duration),
}

fn ranges(cidr: &ServiceCIDR) -> Vec<IpNet> {
    let cidrs = cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    cidrs.filter_map(|text| text.parse().ok()).collect()
}

/// Whether an address is in this range and in no other one that stays.
fn holds(cidr: &ServiceCIDR, others: &[Arc<ServiceCIDR>], ip: IpAddr) -> bool {
    let contains = |cidr: &ServiceCIDR| ranges(cidr).iter().any(|range| range.contains(&ip));
    let stays = |other: &&Arc<ServiceCIDR>| other.name() != cidr.name() && !other.is_deleting();
    contains(cidr) && !others.iter().filter(stays).any(|other| contains(other))
}

fn condition(cidr: &ServiceCIDR, status: &str, reason: &str, message: &str, now: Timestamp) -> Option<ServiceCIDR> {
    let conditions = cidr.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let old = conditions.clone().find(|condition| condition.type_ == READY);
    if old.is_some_and(|old| old.status == status && old.reason == reason) {
        return None;
    }
    let new = Condition {
        type_: READY.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: match old {
            Some(old) if old.status == status => old.last_transition_time.clone(),
            _ => Time(now),
        },
        observed_generation: None,
    };
    let rest = conditions.filter(|condition| condition.type_ != READY).cloned();
    let all: Vec<Condition> = rest.chain([new]).collect();
    let mut written = cidr.clone();
    written.status.get_or_insert_default().conditions = Some(all);
    Some(written)
}

/// The next thing to do; the result of it is planned on again.
pub fn plan(
    cidr: &ServiceCIDR,
    others: &[Arc<ServiceCIDR>],
    addresses: &[Arc<IPAddress>],
    now: Timestamp,
) -> Option<Change> {
    let kept = cidr
        .metadata
        .finalizers
        .iter()
        .flatten()
        .any(|finalizer| finalizer == FINALIZER);
    let Some(deleted) = &cidr.metadata.deletion_timestamp else {
        if !kept {
            let mut written = cidr.clone();
            written
                .metadata
                .finalizers
                .get_or_insert_default()
                .push(FINALIZER.into());
            return Some(Change::Update(Box::new(written)));
        }
        let ready = condition(cidr, "True", "", "Kubernetes Service CIDR is ready", now);
        return ready.map(|written| Change::Status(Box::new(written)));
    };
    if !kept {
        return None;
    }
    let in_use = addresses
        .iter()
        .filter_map(|address| address.name().parse().ok())
        .any(|ip| holds(cidr, others, ip));
    if in_use {
        let message =
            "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
        let waiting = condition(cidr, "False", "Terminating", message, now);
        return waiting.map(|written| Change::Status(Box::new(written)));
    }
    let elapsed = crate::pods::elapsed(deleted.0, now);
    if elapsed < GRACE {
        return Some(Change::Later(GRACE - elapsed));
    }
    let mut written = cidr.clone();
    written
        .metadata
        .finalizers
        .iter_mut()
        .for_each(|finalizers| finalizers.retain(|finalizer| finalizer != FINALIZER));
    Some(Change::Update(Box::new(written)))
}

/// Adds the controller.
pub fn start(setup: &mut Setup) {
    let queue = setup.queue("servicecidrs");
    setup.informers.service_cidrs.on_event(enqueue(&queue));
    let (waking, late, cidrs) = (queue.clone(), setup.informers.service_cidrs.late(), queue.clone());
    let all = late.clone();
    // A range that goes or comes may free, or hold, another one that overlaps.
    setup.informers.service_cidrs.on_event(move |event| {
        let overlaps = |other: &ServiceCIDR| {
            ranges(other)
                .iter()
                .any(|a| ranges(event.object()).iter().any(|b| a.contains(b) || b.contains(a)))
        };
        let others = all
            .list()
            .into_iter()
            .filter(|other| other.is_deleting() && overlaps(other));
        others.for_each(|other| cidrs.add(other.key()));
    });
    setup.informers.ip_addresses.on_event(move |event| {
        let Ok(ip) = event.object().name().parse::<IpAddr>() else {
            return;
        };
        let containing = late
            .list()
            .into_iter()
            .filter(|cidr| ranges(cidr).iter().any(|range| range.contains(&ip)));
        containing.for_each(|cidr| waking.add(cidr.key()));
    });
    let client = setup.client.clone();
    setup.run("servicecidrs", queue, 1, move |caches| {
        let keeper = Arc::new(Keeper {
            client,
            cidrs: caches.service_cidrs,
            addresses: caches.ip_addresses,
        });
        move |key| {
            let keeper = keeper.clone();
            async move { keeper.reconcile(key).await }
        }
    });
}

struct Keeper {
    client: Client,
    cidrs: Cache<ServiceCIDR>,
    addresses: Cache<IPAddress>,
}

impl Keeper {
    async fn reconcile(&self, key: ObjectKey) -> Result<Action, Error> {
        let Some(cidr) = self.cidrs.get(&key) else {
            return Ok(Action::Done);
        };
        let doing = format!("update ServiceCIDR {key}");
        let api = self.client.api::<ServiceCIDR>();
        match plan(&cidr, &self.cidrs.list(), &self.addresses.list(), Timestamp::now()) {
            None => {}
            Some(Change::Later(wait)) => return Ok(Action::RequeueAfter(wait)),
            Some(Change::Update(written)) => api.update(&written).await.map(drop).map_err(Error::client(doing))?,
            Some(Change::Status(written)) => {
                api.update_status(&written)
                    .await
                    .map(drop)
                    .map_err(Error::client(doing))?;
            }
        }
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pods::testing::now;

    fn cidr(name: &str, range: &str, patch: serde_json::Value) -> ServiceCIDR {
        let mut value = json!({"metadata": {"name": name, "finalizers": [FINALIZER]}, "spec": {"cidrs": [range]}});
        for (field, extra) in patch.as_object().into_iter().flatten() {
            for (key, v) in extra.as_object().into_iter().flatten() {
                value[field][key] = v.clone();
            }
        }
        ServiceCIDR::from_value(value).unwrap()
    }

    fn address(ip: &str) -> Arc<IPAddress> {
        Arc::new(IPAddress::from_value(json!({"metadata": {"name": ip}})).unwrap())
    }

    #[test]
    fn a_new_range_is_kept_and_ready() {
        let new = cidr("a", "10.0.0.0/24", json!({"metadata": {"finalizers": []}}));
        let Some(Change::Update(kept)) = plan(&new, &[], &[], now()) else {
            panic!("no finalizer")
        };
        let Some(Change::Status(ready)) = plan(&kept, &[], &[], now()) else {
            panic!("not ready")
        };
        let condition = &ready.to_value()["status"]["conditions"][0];
        assert_eq!(
            (&condition["type"], &condition["status"]),
            (&json!("Ready"), &json!("True"))
        );
        assert_eq!(plan(&ready, &[], &[], now()), None);
    }

    #[test]
    fn a_range_in_use_stays() {
        let long_ago = json!({"metadata": {"deletionTimestamp": "2020-01-01T00:00:00Z"}});
        let going = cidr("a", "10.0.0.0/24", long_ago);
        let Some(Change::Status(waiting)) = plan(&going, &[], &[address("10.0.0.5")], now()) else {
            panic!("let go")
        };
        let condition = &waiting.to_value()["status"]["conditions"][0];
        assert_eq!(
            (&condition["status"], &condition["reason"]),
            (&json!("False"), &json!("Terminating"))
        );
        assert_eq!(plan(&waiting, &[], &[address("10.0.0.5")], now()), None);
        // Another range holds the address as well, or there is none any more.
        let other = Arc::new(cidr("b", "10.0.0.0/16", json!({})));
        for (others, addresses) in [
            (vec![other], vec![address("10.0.0.5")]),
            (vec![], vec![address("10.1.0.5")]),
        ] {
            let Some(Change::Update(free)) = plan(&going, &others, &addresses, now()) else {
                panic!("kept")
            };
            assert_eq!(free.metadata.finalizers, Some(vec![]));
        }
        let just_now = json!({"metadata": {"deletionTimestamp": now().to_string()}});
        let going = cidr("a", "10.0.0.0/24", just_now);
        assert_eq!(plan(&going, &[], &[], now()), Some(Change::Later(GRACE)));
    }
}
