//! Two pods cannot have one host port.

use crate::cluster::Cluster;
use crate::framework::{Change, Filter, NodeCheck, Verdict};
use crate::model::{HostPort, NodeInfo, PodInfo};

/// See the module.
#[derive(Debug)]
pub struct NodePorts;

struct Check<'a>(&'a [HostPort]);

impl Filter for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn prepare<'a>(&'a self, pod: &'a PodInfo, _: &'a Cluster) -> Option<Box<dyn NodeCheck + 'a>> {
        (!pod.ports.is_empty()).then(|| Box::new(Check(&pod.ports)) as Box<dyn NodeCheck>)
    }

    fn retry_after(&self) -> &'static [Change] {
        &[Change::PodRemoved, Change::Node]
    }
}

impl NodeCheck for Check<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        let mut taken = node.pods.iter().flat_map(|pod| &pod.ports);
        match taken.any(|taken| self.0.iter().any(|wanted| wanted.collides_with(taken))) {
            true => Verdict::Unschedulable("node(s) didn't have free ports for the requested pod ports".into()),
            false => Verdict::Fits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_collide_on_the_same_address_or_on_all() {
        let port = |ip: &str, protocol: &str, port| HostPort {
            ip: ip.into(),
            protocol: protocol.into(),
            port,
        };
        let wanted = port("0.0.0.0", "TCP", 80);
        assert!(wanted.collides_with(&port("10.0.0.1", "TCP", 80)));
        assert!(!wanted.collides_with(&port("0.0.0.0", "UDP", 80)));
        assert!(!wanted.collides_with(&port("0.0.0.0", "TCP", 81)));
        assert!(!port("10.0.0.1", "TCP", 80).collides_with(&port("10.0.0.2", "TCP", 80)));
    }
}
