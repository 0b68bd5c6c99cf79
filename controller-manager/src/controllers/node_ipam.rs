//! Node CIDR allocation: a range of pod addresses for every node, out of the cluster's.
//!
//! A node keeps its range for life and the range is free again when the node is gone. Nothing is stored but `spec.podCIDR(s)` of the nodes.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use api::core::v1::Node;
use api::{Object, ObjectKey};
use client::{Cache, Client, EventRecorder, EventType, Patch};
use controller::{Action, Error};
use ipnet::IpNet;
use parking_lot::Mutex;
use serde_json::json;

use crate::setup::{Setup, enqueue};

/// One range of the cluster, divided into equal ranges of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    cluster: IpNet,
    node_bits: u8,
}

/// A cluster range that cannot be divided as asked.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("node mask /{node_bits} does not fit into cluster range {cluster}")]
pub struct PoolError {
    cluster: IpNet,
    node_bits: u8,
}

impl Pool {
    /// Divides `cluster` into ranges with a prefix of `node_bits`.
    pub fn new(cluster: IpNet, node_bits: u8) -> Result<Pool, PoolError> {
        let cluster = cluster.trunc();
        let fits = node_bits >= cluster.prefix_len() && node_bits <= cluster.max_prefix_len();
        // Upstream's bound as well: a bitmap of more than 2^16 ranges is a typing error.
        if fits && node_bits - cluster.prefix_len() <= 16 {
            Ok(Pool { cluster, node_bits })
        } else {
            Err(PoolError { cluster, node_bits })
        }
    }

    /// How many nodes fit.
    fn capacity(&self) -> u32 {
        1 << (self.node_bits - self.cluster.prefix_len())
    }

    fn range(&self, index: u32) -> Option<IpNet> {
        let address = match self.cluster.network() {
            IpAddr::V4(base) => {
                let offset = index.checked_shl(u32::from(32 - self.node_bits)).unwrap_or(0);
                IpAddr::from((u32::from(base) | offset).to_be_bytes())
            }
            IpAddr::V6(base) => {
                let offset = u128::from(index)
                    .checked_shl(u32::from(128 - self.node_bits))
                    .unwrap_or(0);
                IpAddr::from((u128::from(base) | offset).to_be_bytes())
            }
        };
        IpNet::new(address, self.node_bits).ok()
    }

    /// The first range that overlaps none of `taken`, if there is one.
    fn free(&self, taken: &[IpNet]) -> Option<IpNet> {
        let exact: BTreeSet<&IpNet> = taken.iter().collect();
        // Ranges of another size are an operator's or an older configuration's; they are few.
        let odd: Vec<&&IpNet> = exact
            .iter()
            .filter(|range| range.prefix_len() != self.node_bits)
            .collect();
        let overlaps = |left: &IpNet, right: &IpNet| left.contains(right) || right.contains(left);
        let mut ranges = (0..self.capacity()).filter_map(|index| self.range(index));
        ranges.find(|range| !exact.contains(range) && !odd.iter().any(|other| overlaps(range, other)))
    }
}

/// What a node needs: a range of each pool, or the pool that has none left. `taken` has the ranges of every node.
pub fn plan(pools: &[Pool], taken: &HashMap<String, Vec<IpNet>>) -> Result<Vec<IpNet>, Pool> {
    let taken: Vec<IpNet> = taken.values().flatten().copied().collect();
    pools
        .iter()
        .map(|pool| pool.free(&taken).ok_or_else(|| pool.clone()))
        .collect()
}

impl std::fmt::Display for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in ranges of /{}", self.cluster, self.node_bits)
    }
}

/// Adds the controller, if nodes get ranges at all.
pub fn start(setup: &mut Setup) {
    if setup.config.pools.is_empty() {
        return;
    }
    let queue = setup.queue("node_ipam");
    setup.informers.nodes.on_event(enqueue(&queue));
    let (client, events) = (setup.client.clone(), setup.events("cidrAllocator"));
    let pools = setup.config.pools.clone();
    // One worker: two nodes must not see the same range free.
    setup.run("node_ipam", queue, 1, move |caches| {
        let allocator = Arc::new(Allocator {
            client,
            events,
            pools,
            nodes: caches.nodes,
            given: Mutex::default(),
        });
        move |key| {
            let allocator = allocator.clone();
            async move { allocator.reconcile(key).await }
        }
    });
}

struct Allocator {
    client: Client,
    events: EventRecorder,
    pools: Vec<Pool>,
    nodes: Cache<Node>,
    /// What was given and the cache may not show yet, by node.
    given: Mutex<HashMap<String, Vec<IpNet>>>,
}

impl Allocator {
    async fn reconcile(&self, key: ObjectKey) -> Result<Action, Error> {
        let Some(node) = self.nodes.get(&key) else {
            self.given.lock().remove(&key.name);
            return Ok(Action::Done);
        };
        if !ranges(&node).is_empty() {
            self.given.lock().remove(&key.name);
            return Ok(Action::Done);
        }
        let mut taken = self.given.lock().clone();
        taken.extend(
            self.nodes
                .list()
                .iter()
                .map(|node| (node.name().to_owned(), ranges(node)))
                .filter(|(_, ranges)| !ranges.is_empty()),
        );
        if taken.contains_key(&key.name) {
            return Ok(Action::Done);
        }
        let given = plan(&self.pools, &taken).map_err(|pool| {
            let message = format!("Node {key} status is now: CIDRNotAvailable");
            self.events
                .event(&*node, EventType::Normal, "CIDRNotAvailable", message);
            Error::Object(format!("no range is left for node {key} in {pool}"))
        })?;
        let text: Vec<String> = given.iter().map(ToString::to_string).collect();
        let patch = Patch::Strategic(
            json!({"metadata": {"uid": node.uid()}, "spec": {"podCIDR": text.first(), "podCIDRs": text}}),
        );
        let doing = format!("give node {key} range {}", text.join(", "));
        self.client
            .api::<Node>()
            .patch("", &key.name, "", &patch)
            .await
            .map_err(Error::client(doing))?;
        tracing::info!(node = %key, ranges = text.join(","), "node got its range of pod addresses");
        self.given.lock().insert(key.name, given);
        Ok(Action::Done)
    }
}

/// The ranges a node has.
fn ranges(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let all = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    all.filter_map(|range| range.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(cluster: &str, bits: u8) -> Pool {
        Pool::new(cluster.parse().unwrap(), bits).unwrap()
    }

    fn taken(ranges: &[&str]) -> HashMap<String, Vec<IpNet>> {
        ranges
            .iter()
            .map(|range| ((*range).to_owned(), vec![range.parse().unwrap()]))
            .collect()
    }

    fn text(ranges: Vec<IpNet>) -> Vec<String> {
        ranges.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nodes_get_the_first_free_range() {
        let pools = [pool("10.244.0.0/16", 24)];
        let cases: [(&[&str], &str); 4] = [
            (&[], "10.244.0.0/24"),
            (&["10.244.0.0/24", "10.244.1.0/24"], "10.244.2.0/24"),
            (&["10.244.1.0/24"], "10.244.0.0/24"),
            (&["10.244.0.0/23", "10.244.2.128/25"], "10.244.3.0/24"),
        ];
        for (used, expected) in cases {
            assert_eq!(text(plan(&pools, &taken(used)).unwrap()), [expected], "{used:?}");
        }
    }

    #[test]
    fn two_families_give_two_ranges() {
        let pools = [pool("10.244.0.0/16", 24), pool("fd00:10::/48", 64)];
        assert_eq!(
            text(plan(&pools, &taken(&["fd00:10::/64"])).unwrap()),
            ["10.244.0.0/24", "fd00:10:0:1::/64"]
        );
    }

    #[test]
    fn a_full_pool_says_so() {
        let pools = [pool("10.244.0.0/23", 24)];
        assert_eq!(
            plan(&pools, &taken(&["10.244.0.0/24", "10.244.1.0/24"])),
            Err(pools[0].clone())
        );
    }

    #[test]
    fn masks_that_do_not_fit_are_refused() {
        for (cluster, bits) in [("10.244.0.0/16", 8), ("10.244.0.0/16", 33), ("fd00::/16", 64)] {
            assert!(Pool::new(cluster.parse().unwrap(), bits).is_err(), "{cluster} /{bits}");
        }
    }
}
