//! How each pod CIDR of another node is reached.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::config::NetworkMode;

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its InternalIP addresses.
    pub addresses: Vec<IpAddr>,
    /// Where its pods are.
    pub pod_cidrs: Vec<IpNet>,
}

/// A network that a device of this node is directly in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index of the device.
    pub device: u32,
    /// The node's own address with the length of the network's prefix.
    pub network: IpNet,
}

/// The next hop of a pod CIDR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// The other node is on the same link.
    Direct {
        /// Its address.
        gateway: IpAddr,
        /// The device that leads there.
        device: u32,
    },
    /// In VXLAN packets to that node.
    Vxlan(Vxlan),
}

/// One end of the VXLAN tunnels. Everything about it follows from the node's address and pod CIDR, so that nodes need not tell each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// The node's address.
    pub node: Ipv4Addr,
    /// Address of the tunnel device: the first of the pod CIDR, which no pod gets.
    pub inner: IpAddr,
}

impl Vxlan {
    /// Hardware address of the tunnel device: locally administered, then the node's address.
    pub fn mac(&self) -> [u8; 6] {
        let [a, b, c, d] = self.node.octets();
        [0x0a, 0x4b, a, b, c, d]
    }
}

/// The route to every pod CIDR of `peers`. A node without a usable address gets none.
pub fn plan(peers: &[Peer], links: &[Link], mode: NetworkMode) -> BTreeMap<IpNet, Hop> {
    let mut routes = BTreeMap::new();
    for peer in peers {
        for cidr in peer.pod_cidrs.iter().map(IpNet::trunc) {
            let hop = match mode {
                NetworkMode::None => None,
                NetworkMode::Vxlan => tunnel(peer, cidr),
                NetworkMode::Auto => direct(peer, cidr, links).or_else(|| tunnel(peer, cidr)),
            };
            // Two nodes with one pod CIDR is the controller's mistake, gone in a moment: the first keeps it.
            if let Some(hop) = hop {
                routes.entry(cidr).or_insert(hop);
            }
        }
    }
    routes
}

fn direct(peer: &Peer, cidr: IpNet, links: &[Link]) -> Option<Hop> {
    let same_family = peer.addresses.iter().filter(|ip| ip.is_ipv6() == cidr.addr().is_ipv6());
    same_family
        .flat_map(|gateway| links.iter().map(move |link| (gateway, link)))
        .find_map(|(gateway, link)| {
            let near = link.network.contains(gateway) && link.network.addr() != *gateway;
            near.then_some(Hop::Direct {
                gateway: *gateway,
                device: link.device,
            })
        })
}

fn tunnel(peer: &Peer, cidr: IpNet) -> Option<Hop> {
    let node = peer.addresses.iter().find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    })?;
    Some(Hop::Vxlan(Vxlan {
        node,
        inner: cidr.network(),
    }))
}
