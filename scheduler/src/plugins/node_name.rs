//! A pod that names its node runs there or nowhere.

use crate::cluster::Cluster;
use crate::framework::{Change, Filter, NodeCheck, Verdict};
use crate::model::{NodeInfo, PodInfo};

/// See the module.
#[derive(Debug)]
pub struct NodeName;

struct Check<'a>(&'a str);

impl Filter for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn prepare<'a>(&'a self, pod: &'a PodInfo, _: &'a Cluster) -> Option<Box<dyn NodeCheck + 'a>> {
        let name = pod.spec().node_name.as_deref().filter(|name| !name.is_empty())?;
        Some(Box::new(Check(name)))
    }

    fn retry_after(&self) -> &'static [Change] {
        &[Change::Node]
    }
}

impl NodeCheck for Check<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        match node.name() == self.0 {
            true => Verdict::Fits,
            false => Verdict::Unresolvable("node(s) didn't match the requested node name".into()),
        }
    }
}
