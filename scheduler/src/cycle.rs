//! One scheduling cycle: from a pod and the cluster to a node, or to the reasons why there is none. Pure and synchronous.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use crate::cluster::Cluster;
use crate::framework::{NodeCheck, Verdict};
use crate::model::{NodeInfo, PodInfo};
use crate::profile::Profile;

/// Below this many nodes it finds all that fit (upstream's value).
const MIN_FEASIBLE: usize = 100;
/// Nodes looked at between two checks whether enough fit.
const WINDOW: usize = 256;

/// Where a pod goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Placement {
    /// The node's name.
    pub node: String,
    /// Nodes looked at.
    pub evaluated: usize,
}

/// Why a pod fits nowhere.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unplaceable {
    /// Nodes there are.
    pub nodes: usize,
    /// Reasons, and how many nodes gave each.
    pub reasons: BTreeMap<String, usize>,
    /// The plugins that rejected nodes.
    pub rejected_by: BTreeSet<&'static str>,
}

impl std::fmt::Display for Unplaceable {
    /// As upstream words it: reasons sorted as text, number first.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        write!(f, "0/{} nodes are available", self.nodes)?;
        let mut reasons: Vec<String> = self
            .reasons
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        reasons.sort_unstable();
        match reasons.is_empty() {
            true => f.write_str("."),
            false => write!(f, ": {}.", reasons.join(", ")),
        }
    }
}

/// How many fitting nodes are enough to choose from (upstream's adaptive percentage).
fn enough(nodes: usize, percentage: usize) -> usize {
    if nodes < MIN_FEASIBLE || percentage >= 100 {
        return nodes;
    }
    let percentage = if percentage > 0 {
        percentage
    } else {
        50_usize.saturating_sub(nodes / 125).max(5)
    };
    (nodes * percentage / 100).max(MIN_FEASIBLE)
}

/// Decides cycles; remembers only where the last one began, so that all nodes get their turn.
#[derive(Debug)]
pub struct Placer {
    profile: Profile,
    percentage: usize,
    next_start: usize,
}

impl Placer {
    /// `percentage` of nodes to score; 0 chooses by the size of the cluster.
    pub fn new(profile: Profile, percentage: usize) -> Self {
        Self {
            profile,
            percentage,
            next_start: 0,
        }
    }

    /// The plugins it asks.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Finds the best node for a pod.
    ///
    /// # Errors
    /// The reasons, when no node fits.
    pub fn place(&mut self, pod: &PodInfo, cluster: &Cluster) -> Result<Placement, Unplaceable> {
        let nodes = cluster.nodes();
        let checks: Vec<_> = self
            .profile
            .filters
            .iter()
            .filter_map(|filter| Some((filter.name(), filter.prepare(pod, cluster)?)))
            .collect();
        let start = if nodes.is_empty() {
            0
        } else {
            self.next_start % nodes.len()
        };
        let order: Vec<&NodeInfo> = nodes[start..].iter().chain(&nodes[..start]).collect();
        let wanted = enough(nodes.len(), self.percentage);
        let mut feasible: Vec<&NodeInfo> = Vec::with_capacity(wanted.min(nodes.len()));
        let mut failure = Unplaceable {
            nodes: nodes.len(),
            ..Unplaceable::default()
        };
        let mut evaluated = 0;
        for window in order.chunks(WINDOW) {
            for (node, rejection) in window.iter().zip(judge(&checks, window)) {
                evaluated += 1;
                match rejection {
                    None => feasible.push(node),
                    Some((plugin, reason)) => {
                        failure.rejected_by.insert(plugin);
                        *failure.reasons.entry(reason).or_default() += 1;
                    }
                }
                if feasible.len() >= wanted {
                    break;
                }
            }
            if feasible.len() >= wanted {
                break;
            }
        }
        self.next_start = start + evaluated;
        let best = match feasible.as_slice() {
            [] => return Err(failure),
            [only] => only,
            several => self.best(pod, cluster, several),
        };
        Ok(Placement {
            node: best.name().to_owned(),
            evaluated,
        })
    }

    /// The node with the highest weighted score; the first of equals, which the moving start makes another one each time.
    fn best<'a>(&self, pod: &PodInfo, cluster: &Cluster, feasible: &[&'a NodeInfo]) -> &'a NodeInfo {
        let mut totals = vec![0_i64; feasible.len()];
        for (scorer, weight) in &self.profile.scorers {
            let Some(rating) = scorer.prepare(pod, cluster, feasible) else {
                continue;
            };
            let mut scores: Vec<i64> = feasible.iter().map(|node| rating.score(node)).collect();
            rating.normalize(&mut scores);
            for (total, score) in totals.iter_mut().zip(scores) {
                *total += score * weight;
            }
        }
        let mut best = 0;
        for (at, total) in totals.iter().enumerate() {
            if *total > totals[best] {
                best = at;
            }
        }
        feasible[best]
    }
}

type Rejection = Option<(&'static str, String)>;

/// Asks the filters about each node, in parallel when there are many.
fn judge(checks: &[(&'static str, Box<dyn NodeCheck + '_>)], nodes: &[&NodeInfo]) -> Vec<Rejection> {
    let one = |node: &&NodeInfo| {
        checks.iter().find_map(|(plugin, check)| match check.check(node) {
            Verdict::Fits => None,
            Verdict::Unschedulable(reason) | Verdict::Unresolvable(reason) => Some((*plugin, reason)),
        })
    };
    if nodes.len() < WINDOW {
        return nodes.iter().map(one).collect();
    }
    nodes.par_iter().with_min_len(32).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};

    #[test]
    fn enough_is_upstreams_adaptive_share() {
        for (nodes, percentage, expected) in [
            (10, 0, 10),
            (100, 0, 100),
            (1000, 0, 420),
            (6000, 0, 300),
            (6000, 70, 4200),
            (6000, 100, 6000),
            (100, 30, 100),
        ] {
            assert_eq!(enough(nodes, percentage), expected, "{nodes} nodes, {percentage} %");
        }
    }

    #[test]
    fn tells_why_no_node_fits() {
        let mut cluster = Cluster::default();
        let mut placer = Placer::new(Profile::default(), 0);
        let wanted = pod("p").cpu("2").info();
        assert_eq!(
            placer.place(&wanted, &cluster).unwrap_err().to_string(),
            "no nodes available to schedule pods"
        );
        cluster.put_node(node("small").cpu("1").build());
        cluster.put_node(node("tainted").cpu("4").taint("k", "v", "NoSchedule").build());
        let failure = placer.place(&wanted, &cluster).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {k: v}."
        );
        assert_eq!(
            failure.rejected_by,
            BTreeSet::from(["NodeResourcesFit", "TaintToleration"])
        );
    }

    #[test]
    fn equal_nodes_take_turns_and_pods_spread() {
        let mut cluster = Cluster::default();
        for name in ["a", "b", "c", "d"] {
            cluster.put_node(node(name).cpu("8").memory("8Gi").build());
        }
        let mut placer = Placer::new(Profile::default(), 0);
        for i in 0..8 {
            let pod = pod(&format!("p{i}")).cpu("1").memory("1Gi").info();
            let placement = placer.place(&pod, &cluster).unwrap();
            cluster.place(pod, &placement.node);
        }
        assert!(
            cluster.nodes().iter().all(|node| node.pods.len() == 2),
            "least allocated evens them out"
        );
    }

    #[test]
    fn large_clusters_are_judged_in_parallel_with_the_same_result() {
        let mut cluster = Cluster::default();
        for i in 0..600 {
            cluster.put_node(node(&format!("n{i}")).cpu(if i == 599 { "8" } else { "1" }).build());
        }
        let mut placer = Placer::new(Profile::default(), 0);
        assert_eq!(placer.place(&pod("p").cpu("4").info(), &cluster).unwrap().node, "n599");
    }
}
