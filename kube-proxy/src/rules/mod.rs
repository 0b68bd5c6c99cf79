//! Service load balancing: which packets go to which endpoint, and why.
//!
//! [`plan`] turns Services and EndpointSlices into a [`RuleSet`] (pure), [`render`] turns the difference of two
//! rule sets into one nft transaction (pure), [`Applier`] feeds it to `nft`. Nothing here reads the kernel's tables
//! back: the desired state is kept in memory, and after an error everything is loaded anew.
//!
//! The layout is maps only (a chain a service costs the kernel seconds per 10,000 services): a frontend (address,
//! protocol, port) looks up a verdict that jumps to a chain shared by all services with the same number of
//! endpoints; that chain draws a number and looks up (frontend, number) in one map of endpoints.

mod apply;
mod endpoints;
mod plan;
mod render;

pub use apply::{Applier, ApplyError, nft};
pub use plan::plan;
pub use render::{Family, TABLE, reload, update};

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// Transport protocol of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// nft's name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// The protocol of a Service or EndpointSlice port; unset means TCP, an unknown one is none of ours.
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

/// What a client connects to: a cluster IP, an external address or a node address, with protocol and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// Destination address before translation.
    pub ip: IpAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Destination port before translation.
    pub port: u16,
}

/// How a frontend chooses among its endpoints; also the name of the shared chain that does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Balance {
    /// How many endpoints there are to draw from; never 0.
    pub endpoints: u32,
    /// Whether the draw is among the endpoints on this node.
    pub local: bool,
    /// Session affinity by client address: seconds since the last connection after which it lapses.
    pub affinity: Option<u32>,
}

/// What happens to connections of a frontend without usable endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No endpoint anywhere: the client learns at once.
    Reject,
    /// Endpoints exist, but none on this node and the policy is Local: another node may serve the client.
    Drop,
}

/// One place in a frontend's list of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// The frontend.
    pub frontend: Frontend,
    /// Position; [`LOCAL_SLOTS`] is added for the list of this node's endpoints.
    pub index: u32,
}

/// Where the positions of the list of this node's own endpoints start.
pub const LOCAL_SLOTS: u32 = 1 << 15;

/// An endpoint as session affinity remembers it: stays the same while the endpoint exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StickyKey {
    /// The frontend.
    pub frontend: Frontend,
    /// A packet mark: a number of the endpoint in the upper 16 bits, the masquerade bit below.
    pub id: u32,
}

/// Everything that the tables contain, for both address families. Equal rule sets mean equal tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// Frontends that have endpoints.
    pub services: BTreeMap<Frontend, Balance>,
    /// Frontends with external policy Local as seen by clients in the pod network and on the node itself, for whom the
    /// policy does not count.
    pub internal: BTreeMap<Frontend, Balance>,
    /// The endpoints of the frontends without session affinity.
    pub endpoints: BTreeMap<Slot, SocketAddr>,
    /// With session affinity: position to the endpoint's number.
    pub sticky_slots: BTreeMap<Slot, u32>,
    /// With session affinity: the endpoint's number to the endpoint.
    pub sticky_endpoints: BTreeMap<StickyKey, SocketAddr>,
    /// Frontends without endpoints.
    pub refused: BTreeMap<Frontend, Refusal>,
    /// Frontends whose connections always leave with this node's address, so that replies come back through it.
    pub masquerade: BTreeMap<Frontend, ()>,
    /// Cluster IPs: masqueraded for clients outside the pod network, refused on ports that no service has.
    pub cluster_ips: BTreeMap<IpAddr, ()>,
    /// Endpoints on this node: masqueraded when they reach themselves through a service.
    pub hairpin: BTreeMap<IpAddr, ()>,
    /// Frontends that admit only the sources in `allowed`.
    pub restricted: BTreeMap<Frontend, ()>,
    /// Admitted sources of the restricted frontends.
    pub allowed: BTreeMap<(Frontend, IpNet), ()>,
    /// Addresses of the pods of all nodes; never masqueraded on the way there.
    pub pod_network: BTreeMap<IpNet, ()>,
    /// Addresses of this node's pods: masqueraded when they leave the pod network.
    pub local_pods: BTreeMap<IpNet, ()>,
}

/// What the plan must know about the node it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Name, as in `nodeName` of endpoints.
    pub name: String,
    /// Label `topology.kubernetes.io/zone`; empty if none.
    pub zone: String,
    /// Addresses on which node ports are answered.
    pub addresses: Vec<IpAddr>,
    /// The node's own pod CIDRs.
    pub pod_cidrs: Vec<IpNet>,
    /// CIDRs of all pods of the cluster.
    pub cluster_cidrs: Vec<IpNet>,
    /// Addresses that the node answers itself (DNS) and that must never be translated.
    pub own_vips: Vec<IpAddr>,
    /// Packet mark bit that asks for masquerading (upstream's `iptables.masqueradeBit`, 14 by default).
    pub masquerade_mark: u32,
    /// Masquerade everything that is sent to a cluster IP.
    pub masquerade_all: bool,
}

#[cfg(test)]
mod tests;
