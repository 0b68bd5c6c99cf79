//! Which endpoints a service port may use on this node: readiness, termination, traffic policies, topology hints.

use std::net::{IpAddr, SocketAddr};

use api::core::v1::{Service, ServicePort};
use api::discovery::v1::{Endpoint, EndpointSlice};

use super::{Node, Protocol};

/// The endpoints of one service port in one address family that this node may send connections to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    /// Under policy Cluster. Sorted.
    pub(super) cluster: Vec<SocketAddr>,
    /// Under policy Local. Sorted.
    pub(super) local: Vec<SocketAddr>,
    /// Whether there is any usable endpoint in the cluster, on whatever node.
    pub(super) any: bool,
    /// Every usable endpoint on this node, for hairpin traffic.
    pub(super) on_node: Vec<IpAddr>,
}

struct Candidate<'a> {
    address: SocketAddr,
    local: bool,
    ready: bool,
    /// Terminating, but still answering: used only when nothing is ready.
    draining: bool,
    endpoint: &'a Endpoint,
}

/// Policies of a service that decide which endpoints count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policies {
    pub(super) internal_local: bool,
    pub(super) external_local: bool,
}

impl Policies {
    pub(super) fn of(service: &Service) -> Self {
        let spec = service.spec.as_ref();
        let is_local = |policy: Option<&String>| policy.is_some_and(|p| p == "Local");
        Self {
            internal_local: is_local(spec.and_then(|s| s.internal_traffic_policy.as_ref())),
            external_local: externally_accessible(service)
                && is_local(spec.and_then(|s| s.external_traffic_policy.as_ref())),
        }
    }
}

/// Whether the policy for external traffic means anything for this service.
fn externally_accessible(service: &Service) -> bool {
    let Some(spec) = service.spec.as_ref() else {
        return false;
    };
    matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"))
        || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty())
}

/// Chooses the endpoints of `port` among `slices`, which must all belong to the service.
pub(super) fn select(
    slices: &[&EndpointSlice],
    port: &ServicePort,
    protocol: Protocol,
    ipv6: bool,
    policies: Policies,
    node: &Node,
) -> Selection {
    let candidates = candidates(slices, port, protocol, ipv6, node);
    let hints = Hints::usable(&candidates, node);
    let cluster = pick(&candidates, |c| hints.admits(c.endpoint, node));
    let local = pick(&candidates, |c| c.local);
    Selection {
        any: !cluster.is_empty() || candidates.iter().any(|c| c.ready || c.draining),
        local: if policies.internal_local || policies.external_local {
            local
        } else {
            Vec::new()
        },
        cluster,
        on_node: candidates
            .iter()
            .filter(|c| c.local && (c.ready || c.draining))
            .map(|c| c.address.ip())
            .collect(),
    }
}

/// The admitted endpoints that are ready; failing that, every one on the same footing that is draining (KEP-1669).
fn pick(candidates: &[Candidate<'_>], admit: impl Fn(&Candidate<'_>) -> bool) -> Vec<SocketAddr> {
    let ready: Vec<_> = candidates
        .iter()
        .filter(|c| c.ready && admit(c))
        .map(|c| c.address)
        .collect();
    if !ready.is_empty() {
        return ready;
    }
    candidates
        .iter()
        .filter(|c| c.draining && admit(c))
        .map(|c| c.address)
        .collect()
}

fn candidates<'a>(
    slices: &[&'a EndpointSlice],
    port: &ServicePort,
    protocol: Protocol,
    ipv6: bool,
    node: &Node,
) -> Vec<Candidate<'a>> {
    let family = if ipv6 { "IPv6" } else { "IPv4" };
    let name = port.name.as_deref().unwrap_or_default();
    let mut found = Vec::new();
    for slice in slices.iter().filter(|s| s.address_type == family) {
        for slice_port in slice.ports.iter().flatten() {
            if slice_port.name.as_deref().unwrap_or_default() != name
                || Protocol::parse(slice_port.protocol.as_deref()) != Some(protocol)
            {
                continue;
            }
            let Some(number) = slice_port.port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0) else {
                continue;
            };
            for endpoint in &slice.endpoints {
                found.extend(candidate(endpoint, number, ipv6, node));
            }
        }
    }
    // An endpoint may be in two slices for a moment, while the controller moves it; the better state counts.
    found.sort_by_key(|c| (c.address, !c.ready, !c.draining));
    found.dedup_by_key(|c| c.address);
    found
}

fn candidate<'a>(endpoint: &'a Endpoint, port: u16, ipv6: bool, node: &Node) -> Option<Candidate<'a>> {
    // All addresses of an endpoint are interchangeable; upstream uses the first.
    let ip: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    if ip.is_ipv6() != ipv6 || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
        return None;
    }
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
    Some(Candidate {
        address: SocketAddr::new(ip, port),
        local: endpoint.node_name.as_deref() == Some(node.name.as_str()),
        ready,
        draining: serving && terminating,
        endpoint,
    })
}

/// Topology hints count only if every ready endpoint has one and some hint names this node or zone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hints {
    None,
    Zone,
    Node,
}

impl Hints {
    fn usable(candidates: &[Candidate<'_>], node: &Node) -> Self {
        let ready = || candidates.iter().filter(|c| c.ready).map(|c| c.endpoint);
        let usable = |mode: Self| {
            ready().next().is_some()
                && ready().all(|e| mode.names(e).next().is_some())
                && ready().any(|e| mode.admits(e, node))
        };
        if usable(Self::Node) {
            Self::Node
        } else if !node.zone.is_empty() && usable(Self::Zone) {
            Self::Zone
        } else {
            Self::None
        }
    }

    fn names(self, endpoint: &Endpoint) -> Box<dyn Iterator<Item = &str> + '_> {
        let hints = endpoint.hints.as_ref();
        match self {
            Self::None => Box::new(std::iter::empty()),
            Self::Zone => Box::new(
                hints
                    .and_then(|h| h.for_zones.as_ref())
                    .into_iter()
                    .flatten()
                    .map(|z| z.name.as_str()),
            ),
            Self::Node => Box::new(
                hints
                    .and_then(|h| h.for_nodes.as_ref())
                    .into_iter()
                    .flatten()
                    .map(|n| n.name.as_str()),
            ),
        }
    }

    fn admits(self, endpoint: &Endpoint, node: &Node) -> bool {
        match self {
            Self::None => true,
            Self::Zone => self.names(endpoint).any(|n| n == node.zone),
            Self::Node => self.names(endpoint).any(|n| n == node.name),
        }
    }
}
