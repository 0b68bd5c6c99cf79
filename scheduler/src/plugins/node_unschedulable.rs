//! A cordoned node takes no new pods, save those that tolerate it.

use crate::cluster::Cluster;
use crate::framework::{Change, Filter, NodeCheck, Verdict};
use crate::model::{NodeInfo, PodInfo};
use crate::plugins::taint_toleration::tolerates;

/// See the module.
#[derive(Debug)]
pub struct NodeUnschedulable;

struct Check;

impl Filter for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn prepare<'a>(&'a self, pod: &'a PodInfo, _: &'a Cluster) -> Option<Box<dyn NodeCheck + 'a>> {
        let cordon = api::core::v1::Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Default::default()
        };
        let tolerated = pod
            .spec()
            .tolerations
            .iter()
            .flatten()
            .any(|toleration| tolerates(toleration, &cordon));
        (!tolerated).then(|| Box::new(Check) as Box<dyn NodeCheck>)
    }

    fn retry_after(&self) -> &'static [Change] {
        &[Change::Node]
    }
}

impl NodeCheck for Check {
    fn check(&self, node: &NodeInfo) -> Verdict {
        match node.is_unschedulable() {
            true => Verdict::Unresolvable("node(s) were unschedulable".into()),
            false => Verdict::Fits,
        }
    }
}
