//! From Services and EndpointSlices to the rule set of one node.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use api::core::v1::{Service, ServicePort, ServiceSpec};
use api::discovery::v1::EndpointSlice;
use ipnet::IpNet;

use super::endpoints::{Policies, Selection, select};
use super::{Balance, Frontend, LOCAL_SLOTS, Node, Protocol, Refusal, RuleSet, Slot, StickyKey};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS: &str = "service.kubernetes.io/headless";
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;

/// Everything that `node`'s tables must contain. Where two services claim one frontend, the first in the order of
/// `services` has it.
pub fn plan<S: AsRef<Service>, E: AsRef<EndpointSlice>>(services: &[S], slices: &[E], node: &Node) -> RuleSet {
    let mut by_service: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
    for slice in slices.iter().map(AsRef::as_ref) {
        let labels = slice.metadata.labels.as_ref();
        if labels.is_some_and(|l| l.contains_key(OTHER_PROXY) || l.contains_key(HEADLESS)) {
            continue;
        }
        if let Some(service) = labels.and_then(|l| l.get(SERVICE_NAME)) {
            by_service
                .entry((slice.metadata.namespace.as_deref().unwrap_or_default(), service))
                .or_default()
                .push(slice);
        }
    }
    let mut rules = RuleSet {
        pod_network: node.cluster_cidrs.iter().map(|c| (c.trunc(), ())).collect(),
        local_pods: node.pod_cidrs.iter().map(|c| (c.trunc(), ())).collect(),
        ..RuleSet::default()
    };
    for service in services.iter().map(AsRef::as_ref) {
        let key = (
            service.metadata.namespace.as_deref().unwrap_or_default(),
            service.metadata.name.as_deref().unwrap_or_default(),
        );
        let slices = by_service.get(&key).map(Vec::as_slice).unwrap_or_default();
        ServicePlan::new(service, node)
            .into_iter()
            .for_each(|p| p.add(slices, &mut rules));
    }
    rules
}

/// One service that is ours to serve.
struct ServicePlan<'a> {
    service: &'a Service,
    spec: &'a ServiceSpec,
    node: &'a Node,
    policies: Policies,
    affinity: Option<u32>,
}

/// How a frontend is reached, which decides policy and masquerading.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Cluster,
    External,
}

impl<'a> ServicePlan<'a> {
    /// None for headless and ExternalName services and for those that another proxy serves.
    fn new(service: &'a Service, node: &'a Node) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let foreign = service
            .metadata
            .labels
            .as_ref()
            .is_some_and(|l| l.contains_key(OTHER_PROXY));
        let headless = matches!(spec.cluster_ip.as_deref(), None | Some("" | "None"));
        if foreign || headless || spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
            let configured = spec
                .session_affinity_config
                .as_ref()
                .and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
            u32::try_from(configured.unwrap_or(DEFAULT_AFFINITY_SECONDS))
                .unwrap_or(1)
                .max(1)
        });
        Some(Self {
            service,
            spec,
            node,
            policies: Policies::of(service),
            affinity,
        })
    }

    fn add(&self, slices: &[&EndpointSlice], rules: &mut RuleSet) {
        let cluster_ips = self.cluster_ips();
        rules.cluster_ips.extend(cluster_ips.iter().map(|ip| (*ip, ())));
        for port in self.spec.ports.iter().flatten() {
            let (Some(protocol), Some(number)) = (Protocol::parse(port.protocol.as_deref()), port_number(port.port))
            else {
                continue;
            };
            for ipv6 in [false, true] {
                let of_family = |ip: &&IpAddr| ip.is_ipv6() == ipv6;
                if !cluster_ips.iter().any(|ip| ip.is_ipv6() == ipv6) {
                    continue;
                }
                let selection = select(slices, port, protocol, ipv6, self.policies, self.node);
                rules.hairpin.extend(selection.on_node.iter().map(|ip| (*ip, ())));
                let frontend = |ip: &IpAddr| Frontend {
                    ip: *ip,
                    protocol,
                    port: number,
                };
                for ip in cluster_ips.iter().filter(of_family) {
                    self.add_frontend(frontend(ip), Reach::Cluster, &selection, rules);
                }
                for ip in self.external_ips().iter().filter(of_family) {
                    self.add_frontend(frontend(ip), Reach::External, &selection, rules);
                }
                for ip in self.load_balancer_ips().iter().filter(of_family) {
                    if self.add_frontend(frontend(ip), Reach::External, &selection, rules) {
                        self.restrict(frontend(ip), rules);
                    }
                }
                self.add_node_port(port, protocol, ipv6, &selection, rules);
            }
        }
    }

    fn add_node_port(
        &self,
        port: &ServicePort,
        protocol: Protocol,
        ipv6: bool,
        selection: &Selection,
        rules: &mut RuleSet,
    ) {
        let Some(number) = port.node_port.and_then(port_number) else {
            return;
        };
        for ip in self.node.addresses.iter().filter(|ip| ip.is_ipv6() == ipv6) {
            self.add_frontend(
                Frontend {
                    ip: *ip,
                    protocol,
                    port: number,
                },
                Reach::External,
                selection,
                rules,
            );
        }
    }

    /// False if another service has the frontend already.
    fn add_frontend(&self, frontend: Frontend, reach: Reach, selection: &Selection, rules: &mut RuleSet) -> bool {
        if rules.services.contains_key(&frontend) || rules.refused.contains_key(&frontend) {
            return false;
        }
        let local = match reach {
            Reach::Cluster => self.policies.internal_local,
            Reach::External => self.policies.external_local,
        };
        let mark = match reach {
            Reach::Cluster => self.node.masquerade_all,
            Reach::External => !local,
        };
        if mark {
            rules.masquerade.insert(frontend, ());
        }
        let chosen = if local { &selection.local } else { &selection.cluster };
        match self.balance(frontend, local, mark, chosen, rules) {
            Some(balance) => _ = rules.services.insert(frontend, balance),
            None => {
                let refusal = if selection.any { Refusal::Drop } else { Refusal::Reject };
                rules.refused.insert(frontend, refusal);
            }
        }
        if reach == Reach::External
            && local
            && let Some(balance) = self.balance(frontend, false, mark, &selection.cluster, rules)
        {
            rules.internal.insert(frontend, balance);
        }
        true
    }

    /// Writes the endpoints of one list of a frontend; None if there are none.
    fn balance(
        &self,
        frontend: Frontend,
        local: bool,
        mark: bool,
        chosen: &[SocketAddr],
        rules: &mut RuleSet,
    ) -> Option<Balance> {
        // Beyond that many endpoints the two lists would run into each other.
        let chosen = &chosen[..chosen.len().min(LOCAL_SLOTS as usize - 1)];
        if chosen.is_empty() {
            return None;
        }
        let first = if local { LOCAL_SLOTS } else { 0 };
        let ids = if self.affinity.is_some() {
            sticky_ids(chosen)
        } else {
            Vec::new()
        };
        for (index, endpoint) in (first..).zip(chosen) {
            let slot = Slot { frontend, index };
            match ids.get((index - first) as usize) {
                None => _ = rules.endpoints.insert(slot, *endpoint),
                Some(id) => {
                    let id = (first | id) << 16 | if mark { self.node.masquerade_mark } else { 0 };
                    rules.sticky_slots.insert(slot, id);
                    rules.sticky_endpoints.insert(StickyKey { frontend, id }, *endpoint);
                }
            }
        }
        Some(Balance {
            endpoints: u32::try_from(chosen.len()).ok()?,
            local,
            affinity: self.affinity,
        })
    }

    fn restrict(&self, frontend: Frontend, rules: &mut RuleSet) {
        let ranges = self.spec.load_balancer_source_ranges.iter().flatten();
        let ranges: Vec<IpNet> = ranges.filter_map(|r| r.trim().parse().ok()).collect();
        if ranges.is_empty()
            || ranges
                .iter()
                .any(|r| r.prefix_len() == 0 && is_ipv6(r) == frontend.ip.is_ipv6())
        {
            return;
        }
        rules.restricted.insert(frontend, ());
        let ranges = IpNet::aggregate(&ranges.iter().map(IpNet::trunc).collect());
        rules.allowed.extend(
            ranges
                .into_iter()
                .filter(|r| is_ipv6(r) == frontend.ip.is_ipv6())
                .map(|r| ((frontend, r), ())),
        );
    }

    fn cluster_ips(&self) -> Vec<IpAddr> {
        let first = self.spec.cluster_ip.iter();
        let mut ips = parse_ips(first.chain(self.spec.cluster_ips.iter().flatten()));
        ips.retain(|ip| !self.node.own_vips.contains(ip));
        ips
    }

    fn external_ips(&self) -> Vec<IpAddr> {
        parse_ips(self.spec.external_ips.iter().flatten())
    }

    /// Addresses that the load balancer leaves on the packets (`ipMode` VIP, the default).
    fn load_balancer_ips(&self) -> Vec<IpAddr> {
        if self.spec.type_.as_deref() != Some("LoadBalancer") {
            return Vec::new();
        }
        let status = self.service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
        let ingress = status.and_then(|l| l.ingress.as_ref()).into_iter().flatten();
        parse_ips(
            ingress
                .filter(|i| i.ip_mode.as_deref() != Some("Proxy"))
                .filter_map(|i| i.ip.as_ref()),
        )
    }
}

fn is_ipv6(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(_))
}

fn port_number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|p| *p != 0)
}

/// Sorted and without duplicates; what is no address is left out, validation having refused it long before.
fn parse_ips<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = texts.filter_map(|t| t.parse().ok()).collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}

/// A number from 1 to 32767 for each endpoint, distinct within the list, which depends on the endpoint alone unless two
/// endpoints hash alike; so an endpoint keeps its clients while others come and go.
fn sticky_ids(endpoints: &[SocketAddr]) -> Vec<u32> {
    let mut taken = std::collections::HashSet::new();
    let number = |endpoint: &SocketAddr| {
        let mut id = fnv1a(endpoint.to_string().as_bytes()) % (LOCAL_SLOTS - 1) + 1;
        while !taken.insert(id) {
            id = id % (LOCAL_SLOTS - 1) + 1;
        }
        id
    };
    endpoints.iter().map(number).collect()
}

fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}
