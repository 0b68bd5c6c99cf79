//! What a scheduling plugin is. Each extension point has a trait of its own, and each an outcome that can say only what makes sense there.
//!
//! `prepare` looks at the pod and the cluster once and answers a checker that borrows what it computed, or nothing when the plugin has no
//! say in this pod; the checker then looks at one node after the other, in parallel. Plugins do no I/O and keep no state between cycles.

use crate::cluster::Cluster;
use crate::model::{NodeInfo, PodInfo};

/// Whether a pod may run on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Fits,
    /// Not now; it could if other pods went away.
    Unschedulable(String),
    /// Not now, whatever other pods do.
    Unresolvable(String),
}

/// A kind of change in the cluster that may let a rejected pod fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A node is new, or its labels, taints, allocatable amounts or cordon changed.
    Node,
    /// A placed pod is new or changed its labels.
    PodPlaced,
    /// A placed pod went away, or now asks for less.
    PodRemoved,
}

/// Rejects nodes.
pub trait Filter: Send + Sync {
    /// The plugin's name, as in a scheduler configuration.
    fn name(&self) -> &'static str;

    /// Looks at the pod; `None` when every node passes.
    fn prepare<'a>(&'a self, pod: &'a PodInfo, cluster: &'a Cluster) -> Option<Box<dyn NodeCheck + 'a>>;

    /// After which changes a pod that this plugin rejected deserves another try.
    fn retry_after(&self) -> &'static [Change];
}

/// A filter that has looked at a pod.
pub trait NodeCheck: Sync {
    /// Judges one node.
    fn check(&self, node: &NodeInfo) -> Verdict;
}

/// The best score.
pub const MAX_SCORE: i64 = 100;

/// Prefers nodes.
pub trait Scorer: Send + Sync {
    /// The plugin's name, as in a scheduler configuration.
    fn name(&self) -> &'static str;

    /// Looks at the pod and the nodes that passed the filters; `None` when it has no preference.
    fn prepare<'a>(
        &'a self,
        pod: &'a PodInfo,
        cluster: &'a Cluster,
        feasible: &[&'a NodeInfo],
    ) -> Option<Box<dyn NodeScore + 'a>>;
}

/// A scorer that has looked at a pod.
pub trait NodeScore: Sync {
    /// Rates one node, on the plugin's own scale.
    fn score(&self, node: &NodeInfo) -> i64;

    /// Brings the ratings of all nodes to 0..=[`MAX_SCORE`].
    fn normalize(&self, scores: &mut [i64]) {
        for score in scores {
            *score = (*score).clamp(0, MAX_SCORE);
        }
    }
}

/// Scales ratings so that the highest becomes [`MAX_SCORE`]; with `reverse`, so that the highest becomes 0.
pub fn normalize_to_highest(scores: &mut [i64], reverse: bool) {
    let highest = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if highest == 0 { 0 } else { MAX_SCORE * *score / highest };
        *score = if reverse { MAX_SCORE - scaled } else { scaled };
    }
}
