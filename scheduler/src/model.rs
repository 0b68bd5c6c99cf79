//! Pods and nodes as scheduling sees them: what plugins ask for again and again is computed once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::core::v1::{Container, Node, Pod, PodSpec, Taint};
use api::meta;
use api::quantity::Quantity;
use api::{Object, ObjectKey};

use crate::affinity::PodAffinity;

/// What least-allocated scoring assumes of a container that requests no CPU, in thousandths of a core (upstream's value).
const DEFAULT_MILLI_CPU: i64 = 100;
/// What least-allocated scoring assumes of a container that requests no memory, in bytes (upstream's value).
const DEFAULT_MEMORY: i64 = 200 << 20;

/// Amounts of resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of local ephemeral storage.
    pub ephemeral_storage: i64,
    /// Everything else (devices, huge pages), in whole units.
    pub extended: BTreeMap<String, i64>,
}

impl Resources {
    /// Reads a resource list; a quantity that cannot be read, which validation does not let in, counts as nothing.
    pub fn from_list<'a>(list: impl IntoIterator<Item = (&'a String, &'a meta::Quantity)>) -> Self {
        let mut resources = Self::default();
        for (name, text) in list {
            let Ok(quantity) = Quantity::parse(&text.0) else {
                continue;
            };
            match name.as_str() {
                "cpu" => resources.milli_cpu = quantity.as_milli(),
                "memory" => resources.memory = quantity.as_i64(),
                "ephemeral-storage" => resources.ephemeral_storage = quantity.as_i64(),
                "pods" => {}
                _ => {
                    resources.extended.insert(name.clone(), quantity.as_i64());
                }
            }
        }
        resources
    }

    fn zip(&mut self, other: &Self, combine: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = combine(self.milli_cpu, other.milli_cpu);
        self.memory = combine(self.memory, other.memory);
        self.ephemeral_storage = combine(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.extended {
            match self.extended.get_mut(name) {
                Some(mine) => *mine = combine(*mine, *amount),
                None => {
                    self.extended.insert(name.clone(), combine(0, *amount));
                }
            }
        }
    }

    /// Adds amounts.
    pub fn add(&mut self, other: &Self) {
        self.zip(other, i64::saturating_add);
    }

    /// Takes amounts away.
    pub fn subtract(&mut self, other: &Self) {
        self.zip(other, i64::saturating_sub);
    }

    /// Raises each amount to at least the other's.
    fn raise_to(&mut self, other: &Self) {
        self.zip(other, i64::max);
    }
}

/// A port that a pod takes of its node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// "TCP", "UDP" or "SCTP".
    pub protocol: String,
    /// The address, "0.0.0.0" for all.
    pub ip: String,
    /// The port.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be had on one node.
    pub fn collides_with(&self, other: &Self) -> bool {
        let any = |port: &Self| port.ip == "0.0.0.0";
        self.protocol == other.protocol && self.port == other.port && (self.ip == other.ip || any(self) || any(other))
    }
}

/// A pod with what scheduling derives from it.
#[derive(Debug)]
pub struct PodInfo {
    /// The object.
    pub pod: Arc<Pod>,
    /// Namespace and name.
    pub key: ObjectKey,
    /// What it asks for.
    pub requests: Resources,
    /// CPU for scoring, where a container without a request counts too; thousandths of a core.
    pub scored_milli_cpu: i64,
    /// Memory for scoring; bytes.
    pub scored_memory: i64,
    /// The host ports it takes.
    pub ports: Vec<HostPort>,
    /// Its affinity to other pods, if any.
    pub affinity: Option<PodAffinity>,
}

impl PodInfo {
    /// Derives it.
    pub fn new(pod: Arc<Pod>) -> Self {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let requests = pod_requests(spec, &container_requests);
        let scored = pod_requests(spec, &|container| {
            let mut requests = container_requests(container);
            let names = |name: &str| {
                container
                    .resources
                    .iter()
                    .filter_map(|r| r.requests.as_ref())
                    .any(|list| list.contains_key(name))
            };
            if !names("cpu") {
                requests.milli_cpu = DEFAULT_MILLI_CPU;
            }
            if !names("memory") {
                requests.memory = DEFAULT_MEMORY;
            }
            requests
        });
        let ports = host_ports(spec);
        let affinity = PodAffinity::of(&pod, spec);
        Self {
            key: pod.key(),
            requests,
            scored_milli_cpu: scored.milli_cpu,
            scored_memory: scored.memory,
            ports,
            affinity,
            pod,
        }
    }

    /// The pod's spec.
    pub fn spec(&self) -> &PodSpec {
        static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
        self.pod.spec.as_ref().unwrap_or(&EMPTY)
    }

    /// The pod's uid.
    pub fn uid(&self) -> &str {
        self.pod.uid()
    }

    /// The pod's priority; higher goes first.
    pub fn priority(&self) -> i32 {
        self.spec().priority.unwrap_or(0)
    }
}

fn container_requests(container: &Container) -> Resources {
    Resources::from_list(container.resources.iter().flat_map(|r| r.requests.iter().flatten()))
}

/// Requests of a pod: what its containers and sidecars need together, or what an init container needs with the sidecars started before
/// it, whichever is more; requests of the pod as a whole overrule; plus overhead. (KEP-753, KEP-2837)
fn pod_requests(spec: &PodSpec, of: &dyn Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&of(container));
    }
    let mut sidecars = Resources::default();
    let mut initializing = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut needs = of(container);
        needs.add(&sidecars);
        initializing.raise_to(&needs);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = needs;
        }
    }
    running.add(&sidecars);
    running.raise_to(&initializing);
    if let Some(whole) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        let whole_amounts = Resources::from_list(whole);
        if whole.contains_key("cpu") {
            running.milli_cpu = whole_amounts.milli_cpu;
        }
        if whole.contains_key("memory") {
            running.memory = whole_amounts.memory;
        }
    }
    running.add(&Resources::from_list(spec.overhead.iter().flatten()));
    running
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(HostPort {
                port: port.host_port.filter(|port| *port > 0)?,
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                ip: port
                    .host_ip
                    .clone()
                    .filter(|ip| !ip.is_empty())
                    .unwrap_or_else(|| "0.0.0.0".to_owned()),
            })
        })
        .collect()
}

/// A node, the pods on it and what they take together.
#[derive(Debug)]
pub struct NodeInfo {
    /// The object.
    pub node: Arc<Node>,
    /// What pods may take.
    pub allocatable: Resources,
    /// How many pods may run.
    pub allowed_pods: usize,
    /// What the pods take.
    pub requested: Resources,
    /// The sums for scoring.
    pub scored_milli_cpu: i64,
    /// The sums for scoring.
    pub scored_memory: i64,
    /// The pods, assumed ones included.
    pub pods: Vec<Arc<PodInfo>>,
    /// Images on the node with their size in bytes.
    pub images: HashMap<String, i64>,
    /// How many of the pods have an affinity to others.
    affine: usize,
}

impl NodeInfo {
    /// A node without pods.
    pub fn new(node: Arc<Node>) -> Self {
        let mut info = Self {
            node: node.clone(),
            allocatable: Resources::default(),
            allowed_pods: 0,
            requested: Resources::default(),
            scored_milli_cpu: 0,
            scored_memory: 0,
            pods: Vec::new(),
            images: HashMap::new(),
            affine: 0,
        };
        info.set_node(node);
        info
    }

    /// Takes the node's new state; its pods stay.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        let list = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        self.allocatable = Resources::from_list(list.into_iter().flatten());
        let pods = list
            .and_then(|list| list.get("pods"))
            .and_then(|text| Quantity::parse(&text.0).ok());
        self.allowed_pods = pods
            .and_then(|quantity| usize::try_from(quantity.as_i64()).ok())
            .unwrap_or(0);
        let images = status.into_iter().flat_map(|s| s.images.iter().flatten());
        self.images = images
            .flat_map(|image| {
                let size = image.size_bytes.unwrap_or(0);
                image.names.iter().flatten().map(move |name| (name.clone(), size))
            })
            .collect();
        self.node = node;
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        self.node.name()
    }

    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.node.labels().get(key).map(String::as_str)
    }

    /// The node's taints.
    pub fn taints(&self) -> &[Taint] {
        self.node
            .spec
            .as_ref()
            .and_then(|spec| spec.taints.as_deref())
            .unwrap_or_default()
    }

    /// Whether the node is cordoned.
    pub fn is_unschedulable(&self) -> bool {
        self.node
            .spec
            .as_ref()
            .and_then(|spec| spec.unschedulable)
            .unwrap_or(false)
    }

    /// The pods on it that have an affinity to others.
    pub fn affine_pods(&self) -> impl Iterator<Item = (&Arc<PodInfo>, &PodAffinity)> {
        // Most nodes have none, and then nothing is looked through.
        let pods = if self.affine == 0 { &[][..] } else { &self.pods };
        pods.iter().filter_map(|pod| Some((pod, pod.affinity.as_ref()?)))
    }

    /// Puts a pod on the node.
    pub fn add_pod(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.scored_milli_cpu += pod.scored_milli_cpu;
        self.scored_memory += pod.scored_memory;
        self.affine += usize::from(pod.affinity.is_some());
        self.pods.push(pod);
    }

    /// Takes a pod off the node; answers whether it was there.
    pub fn remove_pod(&mut self, key: &ObjectKey) -> bool {
        let Some(at) = self.pods.iter().position(|pod| pod.key == *key) else {
            return false;
        };
        let pod = self.pods.swap_remove(at);
        self.requested.subtract(&pod.requests);
        self.scored_milli_cpu -= pod.scored_milli_cpu;
        self.scored_memory -= pod.scored_memory;
        self.affine -= usize::from(pod.affinity.is_some());
        true
    }
}
