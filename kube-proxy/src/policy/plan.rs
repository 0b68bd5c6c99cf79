//! From policies, pods and namespaces to what each pod of the node is allowed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use api::Object;
use api::core::v1::{Namespace, Pod};
use api::labels::Selector;
use api::meta::{IntOrString, LabelSelector};
use api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use ipnet::IpNet;

use super::{Allowed, Direction, Peers, PolicySet, Ports};
use crate::rules::Protocol;

/// What `node` must enforce. A selector that cannot be read selects nothing: validation refused it long before.
pub fn plan(
    policies: &[Arc<NetworkPolicy>],
    pods: &[Arc<Pod>],
    namespaces: &[Arc<Namespace>],
    node: &str,
) -> PolicySet {
    let view = View {
        pods: pods
            .iter()
            .map(AsRef::as_ref)
            .filter(|pod| has_own_address(pod))
            .collect(),
        namespaces: namespaces.iter().map(|ns| (ns.name(), ns.as_ref())).collect(),
    };
    let mut set = PolicySet::default();
    let local = view.pods.iter().filter(|pod| node_of(pod) == Some(node));
    for pod in local {
        for direction in [Direction::Ingress, Direction::Egress] {
            let mut speaking: Vec<_> = policies
                .iter()
                .filter(|policy| speaks_for(policy, pod, direction))
                .collect();
            // Chains are named after their content: the same policies must always give the same.
            speaking.sort_by(|a, b| a.name().cmp(b.name()));
            if speaking.is_empty() {
                continue;
            }
            let mut allowed = Vec::new();
            for policy in speaking {
                view.allow(policy, pod, direction, &mut allowed, &mut set.peers);
            }
            let mut hasher = DefaultHasher::new();
            allowed.hash(&mut hasher);
            let prefix = if direction == Direction::Ingress { "to" } else { "from" };
            let chain = format!("{prefix}-{:016x}", hasher.finish());
            set.isolated
                .extend(addresses(pod).map(|ip| ((direction, ip), chain.clone())));
            set.chains.entry(chain).or_insert((direction, allowed));
        }
    }
    set
}

/// The cluster as selectors see it.
struct View<'a> {
    pods: Vec<&'a Pod>,
    namespaces: HashMap<&'a str, &'a Namespace>,
}

impl View<'_> {
    fn allow(
        &self,
        policy: &NetworkPolicy,
        pod: &Pod,
        direction: Direction,
        allowed: &mut Vec<Allowed>,
        sets: &mut BTreeMap<String, BTreeSet<IpAddr>>,
    ) {
        let Some(spec) = &policy.spec else { return };
        let rules: Vec<(&[NetworkPolicyPeer], &[NetworkPolicyPort])> = match direction {
            Direction::Ingress => spec
                .ingress
                .iter()
                .flatten()
                .map(|rule| {
                    (
                        rule.from.as_deref().unwrap_or_default(),
                        rule.ports.as_deref().unwrap_or_default(),
                    )
                })
                .collect(),
            Direction::Egress => spec
                .egress
                .iter()
                .flatten()
                .map(|rule| {
                    (
                        rule.to.as_deref().unwrap_or_default(),
                        rule.ports.as_deref().unwrap_or_default(),
                    )
                })
                .collect(),
        };
        for (peers, ports) in rules {
            let mut add = |peers, ports| {
                let one = Allowed { peers, ports };
                if !allowed.contains(&one) {
                    allowed.push(one);
                }
            };
            for port in Wanted::of(ports) {
                // A named port is a number only on a given pod: on ours for ingress, on each peer for egress.
                match (&port, direction) {
                    (Wanted::Ports(ports), _) => {
                        for peer in self.peers(policy.namespace(), peers, None, sets) {
                            add(peer, ports.clone());
                        }
                    }
                    (Wanted::Named(protocol, name), Direction::Ingress) => {
                        let Some(number) = named_port(pod, *protocol, name) else {
                            continue;
                        };
                        for peer in self.peers(policy.namespace(), peers, None, sets) {
                            add(peer, Ports::one(*protocol, number));
                        }
                    }
                    (Wanted::Named(protocol, name), Direction::Egress) => {
                        let numbers: BTreeSet<u16> = self
                            .pods
                            .iter()
                            .filter_map(|pod| named_port(pod, *protocol, name))
                            .collect();
                        for number in numbers {
                            let only = Some((*protocol, name.as_str(), number));
                            for peer in self.peers(policy.namespace(), peers, only, sets) {
                                add(peer, Ports::one(*protocol, number));
                            }
                        }
                    }
                }
            }
        }
    }

    /// Resolves peers; `only` restricts them to pods on which the port has that name and number.
    fn peers(
        &self,
        namespace: &str,
        peers: &[NetworkPolicyPeer],
        only: Option<(Protocol, &str, u16)>,
        sets: &mut BTreeMap<String, BTreeSet<IpAddr>>,
    ) -> Vec<Peers> {
        let everybody = NetworkPolicyPeer {
            namespace_selector: Some(LabelSelector::default()),
            ..Default::default()
        };
        match (peers, only) {
            ([], None) => vec![Peers::Any],
            // Names are names of pods' ports, so everybody is every pod.
            ([], Some(_)) => vec![self.selected(namespace, &everybody, only, sets)],
            (peers, _) => peers
                .iter()
                .filter_map(|peer| match &peer.ip_block {
                    Some(_) if only.is_some() => None,
                    Some(block) => {
                        let network = block.cidr.parse::<IpNet>().ok()?.trunc();
                        let except = block.except.iter().flatten().filter_map(|e| e.parse().ok()).collect();
                        Some(Peers::Block { network, except })
                    }
                    None => Some(self.selected(namespace, peer, only, sets)),
                })
                .collect(),
        }
    }

    /// The set of the pods that a peer selects. Its name comes from the selector, so it stays while pods come and go.
    fn selected(
        &self,
        namespace: &str,
        peer: &NetworkPolicyPeer,
        only: Option<(Protocol, &str, u16)>,
        sets: &mut BTreeMap<String, BTreeSet<IpAddr>>,
    ) -> Peers {
        let mut hasher = DefaultHasher::new();
        let own = if peer.namespace_selector.is_none() {
            namespace
        } else {
            ""
        };
        (
            own,
            format!("{:?} {:?}", peer.namespace_selector, peer.pod_selector),
            only,
        )
            .hash(&mut hasher);
        let name = format!("pods-{:016x}", hasher.finish());
        sets.entry(name.clone()).or_insert_with(|| {
            let pod_selector = peer.pod_selector.as_ref().map(selector);
            let namespace_selector = peer.namespace_selector.as_ref().map(selector);
            let in_namespace = |pod: &Pod| match &namespace_selector {
                None => pod.namespace() == namespace,
                Some(selector) => self
                    .namespaces
                    .get(pod.namespace())
                    .is_some_and(|ns| selector.as_ref().is_some_and(|s| s.matches(ns.labels()))),
            };
            let has_labels = |pod: &Pod| match &pod_selector {
                None => true,
                Some(selector) => selector.as_ref().is_some_and(|s| s.matches(pod.labels())),
            };
            let has_port = |pod: &Pod| only.is_none_or(|(p, name, number)| named_port(pod, p, name) == Some(number));
            let members = self
                .pods
                .iter()
                .filter(|pod| in_namespace(pod) && has_labels(pod) && has_port(pod));
            members.flat_map(|pod| addresses(pod)).collect()
        });
        Peers::Set(name)
    }
}

/// A port as a policy writes it.
enum Wanted {
    Ports(Ports),
    Named(Protocol, String),
}

impl Wanted {
    /// No ports at all mean every port; a port that cannot be read means none.
    fn of(ports: &[NetworkPolicyPort]) -> Vec<Self> {
        if ports.is_empty() {
            return vec![Self::Ports(Ports::Any)];
        }
        ports.iter().filter_map(Self::one).collect()
    }

    fn one(port: &NetworkPolicyPort) -> Option<Self> {
        let protocol = Protocol::parse(port.protocol.as_deref())?;
        Some(match &port.port {
            None => Self::Ports(Ports::Range {
                protocol,
                first: 0,
                last: u16::MAX,
            }),
            Some(IntOrString::String(name)) => Self::Named(protocol, name.clone()),
            Some(IntOrString::Int(number)) => {
                let first = u16::try_from(*number).ok()?;
                let last = port.end_port.map_or(Some(first), |end| u16::try_from(end).ok())?;
                Self::Ports(Ports::Range { protocol, first, last })
            }
        })
    }
}

impl Ports {
    fn one(protocol: Protocol, number: u16) -> Self {
        Self::Range {
            protocol,
            first: number,
            last: number,
        }
    }
}

fn selector(selector: &LabelSelector) -> Option<Selector> {
    Selector::from_label_selector(selector).ok()
}

fn speaks_for(policy: &NetworkPolicy, pod: &Pod, direction: Direction) -> bool {
    let Some(spec) = &policy.spec else { return false };
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let of_direction = match direction {
        Direction::Ingress => types.is_empty() || types.iter().any(|t| t == "Ingress"),
        Direction::Egress => types.iter().any(|t| t == "Egress") || (types.is_empty() && spec.egress.is_some()),
    };
    let empty = LabelSelector::default();
    of_direction
        && policy.namespace() == pod.namespace()
        && selector(spec.pod_selector.as_ref().unwrap_or(&empty)).is_some_and(|s| s.matches(pod.labels()))
}

/// Pods that use the node's address, and those that ended and whose address is another's soon, do not count.
fn has_own_address(pod: &Pod) -> bool {
    let host = pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false);
    let ended = pod
        .status
        .as_ref()
        .and_then(|s| s.phase.as_deref())
        .is_some_and(|p| matches!(p, "Succeeded" | "Failed"));
    !host && !ended && addresses(pod).next().is_some()
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> + '_ {
    let status = pod.status.iter();
    let ips = status.flat_map(|s| {
        let more = s.pod_ips.iter().flatten().map(|ip| &ip.ip);
        s.pod_ip.iter().chain(more)
    });
    ips.filter_map(|ip| ip.parse().ok())
}

fn named_port(pod: &Pod, protocol: Protocol, name: &str) -> Option<u16> {
    let spec = pod.spec.as_ref()?;
    let ports = spec.containers.iter().flat_map(|c| c.ports.iter().flatten());
    let mut named = ports.filter(|p| p.name.as_deref() == Some(name));
    let port = named.find(|p| Protocol::parse(p.protocol.as_deref()) == Some(protocol))?;
    u16::try_from(port.container_port).ok()
}
