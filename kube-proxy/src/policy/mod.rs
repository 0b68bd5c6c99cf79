//! NetworkPolicy: which pods of this node may talk to whom.
//!
//! [`plan`] resolves policies, pods and namespaces into a [`PolicySet`] (pure), [`render`] writes the difference of two sets as one nft
//! transaction in a table of its own, [`run`] keeps the kernel so.
//!
//! Every packet of a pod is routed by its node, so all is decided on the forward path, after service addresses became endpoints and before
//! any masquerading. The node itself reaches its pods always (probes), pods reach the node's DNS always, and packets of connections that
//! were allowed once pass.

mod plan;
mod render;
mod run;

pub use plan::plan;
pub use render::{reload, remove, update};
pub use run::run;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::rules::Protocol;

/// Which way a policy looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Towards the pod.
    Ingress,
    /// From the pod.
    Egress,
}

/// The other side of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peers {
    /// Everybody.
    Any,
    /// The members of a set in [`PolicySet::peers`].
    Set(String),
    /// A network without some parts of it.
    Block {
        /// The network.
        network: IpNet,
        /// Parts that do not count.
        except: Vec<IpNet>,
    },
}

/// Ports of the receiving side.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ports {
    /// Every protocol, every port.
    Any,
    /// Some ports of one protocol.
    Range {
        /// The protocol.
        protocol: Protocol,
        /// The first port.
        first: u16,
        /// The last port.
        last: u16,
    },
}

/// One kind of connection that is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Allowed {
    /// With whom.
    pub peers: Peers,
    /// To which ports.
    pub ports: Ports,
}

/// What the tables contain. Chains are named after their content, so a chain never changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySet {
    /// Pods of this node for which a policy speaks, and the chain that lists what it allows.
    pub isolated: BTreeMap<(Direction, IpAddr), String>,
    /// What each chain allows; everything else is dropped.
    pub chains: BTreeMap<String, (Direction, Vec<Allowed>)>,
    /// Addresses of selected pods.
    pub peers: BTreeMap<String, BTreeSet<IpAddr>>,
}

#[cfg(test)]
mod tests;
