//! What the daemon knows of the cluster: informers, and the questions that the parts ask them.

use std::net::IpAddr;
use std::sync::Arc;

use api::core::v1::{Node, Service};
use api::discovery::v1::EndpointSlice;
use api::{Object, ObjectKey};
use client::{Cache, Client, Event, Informer, ListParams};
use daemon::Shutdown;
use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::dns::Directory;
use crate::metrics::Metrics;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Tells the parts that there is something to do.
#[derive(Debug, Default)]
pub struct Wakes {
    /// The service rules may differ.
    pub rules: Notify,
    /// Nodes came, went, or changed their addresses or pod CIDRs.
    pub nodes: Notify,
    /// When the endpoint changes happened that the next sync brings into the kernel.
    pub triggers: Mutex<Vec<jiff::Timestamp>>,
}

/// Views of the cluster. Clones share them.
#[derive(Clone, Debug)]
pub struct Caches {
    /// Services
    pub services: Cache<Service>,
    /// EndpointSlices
    pub slices: Cache<EndpointSlice>,
    /// Nodes
    pub nodes: Cache<Node>,
}

impl Caches {
    /// Starts to follow the objects; `wakes` hears of what matters.
    pub fn start(client: &Client, wakes: &Arc<Wakes>, metrics: &Metrics, shutdown: &Shutdown) -> Self {
        let everything = ListParams::default();
        let (woken, counted) = (Arc::clone(wakes), metrics.clone());
        let services = Informer::<Service>::new(client, &everything)
            .index("namespace", |service| vec![service.namespace().to_string()])
            .index("ip", |service| cluster_ips(service).map(String::clone).collect())
            .on_event(move |_| {
                counted.service_changes.inc();
                counted.queued();
                woken.rules.notify_one();
            })
            .start(shutdown);
        let (woken, counted, started) = (Arc::clone(wakes), metrics.clone(), jiff::Timestamp::now());
        let slices = Informer::<EndpointSlice>::new(client, &everything)
            .index("service", |slice| {
                service_of(slice).map(|key| key.to_string()).into_iter().collect()
            })
            .index("ip", |slice| {
                slice
                    .endpoints
                    .iter()
                    .flat_map(|e| e.addresses.iter().cloned())
                    .collect()
            })
            .on_event(move |event| {
                counted.endpoint_changes.inc();
                counted.queued();
                // What happened before this process started is not its delay.
                woken
                    .triggers
                    .lock()
                    .extend(trigger_time(event).filter(|at| *at > started));
                woken.rules.notify_one();
            })
            .start(shutdown);
        let woken = Arc::clone(wakes);
        let nodes = Informer::<Node>::new(client, &everything)
            .on_event(move |event| {
                // Nodes report their condition all the time; that is nothing to us.
                let before = event.previous().map(|node| about(node));
                if before.as_ref() != Some(&about(event.object())) || matches!(event, Event::Deleted(_)) {
                    woken.nodes.notify_one();
                    woken.rules.notify_one();
                }
            })
            .start(shutdown);
        Self {
            services,
            slices,
            nodes,
        }
    }

    /// Completes when the first list of everything is in.
    pub async fn synced(&self) {
        self.services.synced().await;
        self.slices.synced().await;
        self.nodes.synced().await;
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.nodes.get(&ObjectKey {
            namespace: String::new(),
            name: name.to_string(),
        })
    }
}

/// What matters of a node.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Its InternalIP addresses.
    pub addresses: Vec<IpAddr>,
    /// Networks of its pods.
    pub pod_cidrs: Vec<IpNet>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: String,
}

/// Reads a Node; what is no address is left out.
pub fn about(node: &Node) -> About {
    let internal = node
        .status
        .iter()
        .flat_map(|s| s.addresses.iter().flatten())
        .filter(|a| a.type_ == "InternalIP");
    let mut addresses: Vec<IpAddr> = internal.filter_map(|a| a.address.parse().ok()).collect();
    addresses.dedup();
    let spec = node.spec.as_ref();
    let cidrs = spec.and_then(|s| s.pod_cidrs.as_deref()).unwrap_or_default();
    let first = spec
        .and_then(|s| s.pod_cidr.as_ref())
        .filter(|first| !cidrs.contains(first));
    About {
        addresses,
        pod_cidrs: first.into_iter().chain(cidrs).filter_map(|c| c.parse().ok()).collect(),
        zone: node
            .labels()
            .get("topology.kubernetes.io/zone")
            .cloned()
            .unwrap_or_default(),
    }
}

fn cluster_ips(service: &Service) -> impl Iterator<Item = &String> {
    let spec = service.spec.iter();
    spec.flat_map(|s| s.cluster_ips.iter().flatten().chain(&s.cluster_ip))
        .filter(|ip| *ip != "None")
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.labels().get(SERVICE_NAME)?.clone();
    Some(ObjectKey {
        namespace: slice.namespace().to_string(),
        name,
    })
}

fn trigger_time(event: &Event<EndpointSlice>) -> Option<jiff::Timestamp> {
    event.object().annotations().get(TRIGGER_TIME)?.parse().ok()
}

impl Directory for Caches {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(&ObjectKey {
            namespace: namespace.to_string(),
            name: name.to_string(),
        })
    }

    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
        let key = ObjectKey {
            namespace: namespace.to_string(),
            name: service.to_string(),
        };
        self.slices.by_index("service", &key.to_string())
    }

    fn has_namespace(&self, namespace: &str) -> bool {
        !self.services.by_index("namespace", namespace).is_empty()
    }

    fn service_with_ip(&self, ip: IpAddr) -> Option<Arc<Service>> {
        self.services.by_index("ip", &ip.to_string()).into_iter().next()
    }

    fn slices_with_ip(&self, ip: IpAddr) -> Vec<Arc<EndpointSlice>> {
        self.slices.by_index("ip", &ip.to_string())
    }
}
