//! A node must have room for what a pod requests; among those that have, the emptier ones are preferred (least allocated).

use crate::cluster::Cluster;
use crate::framework::{Change, Filter, MAX_SCORE, NodeCheck, NodeScore, Scorer, Verdict};
use crate::model::{NodeInfo, PodInfo};

/// See the module.
#[derive(Debug)]
pub struct ResourcesFit;

struct Check<'a>(&'a PodInfo);

impl Filter for ResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn prepare<'a>(&'a self, pod: &'a PodInfo, _: &'a Cluster) -> Option<Box<dyn NodeCheck + 'a>> {
        Some(Box::new(Check(pod)))
    }

    fn retry_after(&self) -> &'static [Change] {
        &[Change::PodRemoved, Change::Node]
    }
}

impl NodeCheck for Check<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        if node.pods.len() + 1 > node.allowed_pods {
            return Verdict::Unschedulable("Too many pods".into());
        }
        let (wanted, used, total) = (&self.0.requests, &node.requested, &node.allocatable);
        let fixed = [
            ("cpu", wanted.milli_cpu, used.milli_cpu, total.milli_cpu),
            ("memory", wanted.memory, used.memory, total.memory),
            (
                "ephemeral-storage",
                wanted.ephemeral_storage,
                used.ephemeral_storage,
                total.ephemeral_storage,
            ),
        ];
        let extended = wanted.extended.iter().map(|(name, wanted)| {
            let amount = |list: &std::collections::BTreeMap<String, i64>| list.get(name).copied().unwrap_or(0);
            (name.as_str(), *wanted, amount(&used.extended), amount(&total.extended))
        });
        let lacking = fixed
            .into_iter()
            .chain(extended)
            .find(|(_, wanted, used, total)| *wanted > 0 && *wanted > total - used);
        match lacking {
            None => Verdict::Fits,
            // Even an empty node would be too small.
            Some((name, wanted, _, total)) if wanted > total => Verdict::Unresolvable(format!("Insufficient {name}")),
            Some((name, ..)) => Verdict::Unschedulable(format!("Insufficient {name}")),
        }
    }
}

struct LeastAllocated<'a>(&'a PodInfo);

impl Scorer for ResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn prepare<'a>(&'a self, pod: &'a PodInfo, _: &'a Cluster, _: &[&'a NodeInfo]) -> Option<Box<dyn NodeScore + 'a>> {
        Some(Box::new(LeastAllocated(pod)))
    }
}

impl NodeScore for LeastAllocated<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let free = |used: i64, total: i64| {
            if total <= 0 || used > total {
                0
            } else {
                (total - used) * MAX_SCORE / total
            }
        };
        let cpu = free(
            node.scored_milli_cpu + self.0.scored_milli_cpu,
            node.allocatable.milli_cpu,
        );
        let memory = free(node.scored_memory + self.0.scored_memory, node.allocatable.memory);
        (cpu + memory) / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};

    fn verdict(pod: &PodInfo, node: &NodeInfo) -> Verdict {
        Filter::prepare(&ResourcesFit, pod, &Cluster::default())
            .unwrap()
            .check(node)
    }

    #[test]
    fn tells_what_is_lacking_and_whether_removing_pods_would_help() {
        let mut node = NodeInfo::new(node("a").cpu("2").memory("1Gi").pods("2").build());
        node.add_pod(pod("old").cpu("1500m").info());
        for (wanted, expected) in [
            (pod("p").cpu("500m").memory("1Gi").info(), Verdict::Fits),
            (
                pod("p").cpu("501m").info(),
                Verdict::Unschedulable("Insufficient cpu".into()),
            ),
            (
                pod("p").cpu("3").info(),
                Verdict::Unresolvable("Insufficient cpu".into()),
            ),
            (
                pod("p").memory("2Gi").info(),
                Verdict::Unresolvable("Insufficient memory".into()),
            ),
            (
                pod("p").request("example.com/gpu", "1").info(),
                Verdict::Unresolvable("Insufficient example.com/gpu".into()),
            ),
        ] {
            assert_eq!(verdict(&wanted, &node), expected);
        }
        node.add_pod(pod("other").info());
        assert_eq!(
            verdict(&pod("p").info(), &node),
            Verdict::Unschedulable("Too many pods".into())
        );
    }

    #[test]
    fn prefers_the_emptier_node() {
        let pod = pod("p").cpu("1").memory("1Gi").info();
        let score = |cpu, memory| LeastAllocated(&pod).score(&NodeInfo::new(node("n").cpu(cpu).memory(memory).build()));
        assert_eq!(score("2", "2Gi"), 50);
        assert_eq!(score("4", "4Gi"), 75);
        assert_eq!(score("1", "512Mi"), 0);
    }
}
