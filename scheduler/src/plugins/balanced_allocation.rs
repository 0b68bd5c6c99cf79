//! Prefers nodes on which CPU and memory would be used to the same degree, so that neither is left stranded.

use crate::cluster::Cluster;
use crate::framework::{MAX_SCORE, NodeScore, Scorer};
use crate::model::{NodeInfo, PodInfo};

/// See the module.
#[derive(Debug)]
pub struct BalancedAllocation;

struct Balance<'a>(&'a PodInfo);

impl Scorer for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn prepare<'a>(&'a self, pod: &'a PodInfo, _: &'a Cluster, _: &[&'a NodeInfo]) -> Option<Box<dyn NodeScore + 'a>> {
        // A pod that requests nothing changes no balance.
        let requests = pod.requests.milli_cpu > 0 || pod.requests.memory > 0;
        requests.then(|| Box::new(Balance(pod)) as Box<dyn NodeScore>)
    }
}

impl NodeScore for Balance<'_> {
    /// The standard deviation of two fractions is half their distance.
    fn score(&self, node: &NodeInfo) -> i64 {
        let fraction = |used: i64, total: i64| {
            if total <= 0 {
                1.0
            } else {
                (used as f64 / total as f64).min(1.0)
            }
        };
        let cpu = fraction(
            node.requested.milli_cpu + self.0.requests.milli_cpu,
            node.allocatable.milli_cpu,
        );
        let memory = fraction(node.requested.memory + self.0.requests.memory, node.allocatable.memory);
        ((1.0 - (cpu - memory).abs() / 2.0) * MAX_SCORE as f64) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};

    #[test]
    fn prefers_even_use() {
        let pod = pod("p").cpu("1").memory("1Gi").info();
        let score = |cpu, memory| Balance(&pod).score(&NodeInfo::new(node("n").cpu(cpu).memory(memory).build()));
        assert_eq!(score("2", "2Gi"), 100);
        assert_eq!(score("1", "2Gi"), 75);
    }
}
