//! The Node object: registered at start, its status reported when it changes and every so often.

use super::facts::{Disk, Machine, architecture, meminfo_bytes, system_info, threshold};
use crate::config::Settings;
use crate::runtime::Runtime;
use crate::runtime::relist::Relist;
use api::Object as _;
use api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus,
};
use api::meta::{ObjectMeta, Time};
use client::Client;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Images shown in a status, as upstream.
const MAX_IMAGES: usize = 50;
/// How often the runtime is asked whether its network is up while it is not.
const NETWORK_POLL: Duration = Duration::from_millis(100);
const RETRY: Duration = Duration::from_millis(250);

/// Registers and reports one node.
pub struct Reporter {
    /// The API.
    pub client: Client,
    /// The runtime, for its conditions, version and images.
    pub runtime: Runtime,
    /// Tells when the runtime last answered.
    pub relist: Arc<Relist>,
    /// What was configured.
    pub settings: Settings,
    /// What the machine has.
    pub machine: Machine,
    /// Where workers learn that the network is up.
    pub network_ready: watch::Sender<bool>,
}

/// What the runtime says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct RuntimeState {
    name: String,
    version: String,
    /// Empty when it is ready.
    problem: String,
    /// Empty when it is ready.
    network_problem: String,
}

impl Reporter {
    /// Makes the Node object, or takes the one that is there; tries until the API server lets it.
    pub async fn register(&self, stop: &CancellationToken) -> Option<Node> {
        let api = self.client.api::<Node>();
        while !stop.is_cancelled() {
            let wanted = self.object(&self.runtime_state().await).await;
            let outcome = match api.create(&wanted).await {
                Err(error) if error.is_already_exists() => self.adopt(wanted).await,
                other => other,
            };
            match outcome {
                Ok(node) => {
                    tracing::info!(node = node.name(), "registered");
                    return Some(node);
                }
                Err(error) => tracing::warn!(%error, "register the node"),
            }
            tokio::time::sleep(RETRY).await;
        }
        None
    }

    /// Puts our labels on a node that is registered already, and reports at once.
    async fn adopt(&self, wanted: Node) -> client::Result<Node> {
        let api = self.client.api::<Node>();
        let mut node = api.get("", &self.settings.node_name).await?;
        let labels = node.metadata.labels.get_or_insert_default();
        let before = labels.clone();
        labels.extend(wanted.metadata.labels.unwrap_or_default());
        if *labels != before {
            node = api.update(&node).await?;
        }
        let status = self.merged(&node, wanted.status.unwrap_or_default());
        node.status = Some(status);
        api.update_status(&node).await
    }

    /// Reports until `stop`: at once when the network comes up, then as configured.
    pub async fn run(self, stop: CancellationToken) {
        let file = &self.settings.file;
        let (look, report) = (file.node_status_update_frequency, file.node_status_report_frequency);
        let mut reported: Option<(Instant, NodeStatus)> = None;
        loop {
            let state = self.runtime_state().await;
            let ready = state.problem.is_empty() && state.network_problem.is_empty();
            self.network_ready
                .send_if_modified(|known| std::mem::replace(known, ready) != ready);
            let status = self.status(&state).await;
            let due = reported
                .as_ref()
                .is_none_or(|(at, last)| at.elapsed() >= report || differs(last, &status));
            if due {
                match self.write(status.clone()).await {
                    Ok(()) => reported = Some((Instant::now(), status)),
                    Err(error) => {
                        tracing::warn!(%error, "report the node's status");
                        reported = None;
                    }
                }
            }
            let pause = if ready && reported.is_some() {
                look
            } else {
                NETWORK_POLL
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn write(&self, status: NodeStatus) -> client::Result<()> {
        let api = self.client.api::<Node>();
        let mut node = match api.get("", &self.settings.node_name).await {
            Err(error) if error.is_not_found() && self.settings.file.register_node => {
                // Somebody deleted the node; it is here all the same.
                api.create(&self.object(&self.runtime_state().await).await).await?
            }
            other => other?,
        };
        node.status = Some(self.merged(&node, status));
        api.update_status(&node).await.map(|_| ())
    }

    /// Keeps what others write into the status, and the times of conditions that did not change.
    fn merged(&self, node: &Node, status: NodeStatus) -> NodeStatus {
        let old = node.status.clone().unwrap_or_default();
        let mut conditions = status.conditions.unwrap_or_default();
        for condition in &mut conditions {
            let before = old.conditions.iter().flatten().find(|old| old.type_ == condition.type_);
            if let Some(before) = before.filter(|before| before.status == condition.status) {
                condition.last_transition_time = before.last_transition_time.clone();
            }
        }
        let ours = |old: &&NodeCondition| !conditions.iter().any(|new| new.type_ == old.type_);
        let foreign: Vec<NodeCondition> = old.conditions.iter().flatten().filter(ours).cloned().collect();
        conditions.extend(foreign);
        let mut capacity = old.capacity.unwrap_or_default();
        capacity.extend(status.capacity.unwrap_or_default());
        let mut allocatable = old.allocatable.unwrap_or_default();
        allocatable.extend(status.allocatable.unwrap_or_default());
        NodeStatus {
            conditions: Some(conditions),
            capacity: Some(capacity),
            allocatable: Some(allocatable),
            volumes_attached: old.volumes_attached,
            volumes_in_use: old.volumes_in_use,
            ..status
        }
    }

    async fn runtime_state(&self) -> RuntimeState {
        let mut state = RuntimeState::default();
        match self.runtime.version().await {
            Ok(version) => (state.name, state.version) = (version.runtime_name, version.runtime_version),
            Err(error) => state.problem = format!("container runtime is down: {error}"),
        }
        let status = match self.runtime.status().await {
            Ok(answer) => answer.status.unwrap_or_default(),
            Err(error) => {
                state.problem = format!("container runtime status check may not have completed yet: {error}");
                state.network_problem = state.problem.clone();
                return state;
            }
        };
        for condition in status.conditions.iter().filter(|condition| !condition.status) {
            let text = format!("reason:{} message:{}", condition.reason, condition.message);
            match condition.r#type.as_str() {
                "RuntimeReady" => state.problem = format!("container runtime not ready: RuntimeReady=false {text}"),
                "NetworkReady" => {
                    state.network_problem = format!("container runtime network not ready: NetworkReady=false {text}")
                }
                _ => {}
            }
        }
        state
    }

    async fn object(&self, state: &RuntimeState) -> Node {
        let name = &self.settings.node_name;
        let own = [
            ("kubernetes.io/hostname", name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", architecture()),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", architecture()),
        ];
        let mut labels: BTreeMap<String, String> = own
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        labels.extend(self.settings.labels.clone());
        let taints = &self.settings.file.register_with_taints;
        let spec = api::core::v1::NodeSpec {
            taints: (!taints.is_empty()).then(|| taints.clone()),
            ..Default::default()
        };
        let metadata = ObjectMeta {
            name: Some(name.clone()),
            labels: Some(labels),
            ..Default::default()
        };
        Node {
            metadata,
            spec: Some(spec),
            status: Some(self.status(state).await),
        }
    }

    async fn status(&self, state: &RuntimeState) -> NodeStatus {
        let settings = &self.settings;
        let address = |kind: &str, address: String| NodeAddress {
            type_: kind.to_owned(),
            address,
        };
        let endpoint = DaemonEndpoint {
            port: i32::from(settings.file.port),
        };
        let images = self.images().await;
        NodeStatus {
            addresses: Some(vec![
                address("InternalIP", settings.node_ip.to_string()),
                address("Hostname", settings.node_name.clone()),
            ]),
            capacity: Some(self.machine.capacity(settings.file.max_pods)),
            allocatable: Some(self.machine.allocatable(&settings.file)),
            conditions: Some(self.conditions(state, Timestamp::now())),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(endpoint),
            }),
            images: (!images.is_empty()).then_some(images),
            node_info: Some(system_info(&state.name, &state.version)),
            ..Default::default()
        }
    }

    fn conditions(&self, state: &RuntimeState, now: Timestamp) -> Vec<NodeCondition> {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let available = meminfo_bytes(&meminfo, "MemAvailable").unwrap_or(u64::MAX);
        let disk = Disk::read(&self.settings.root).unwrap_or_default();
        let hard = &self.settings.file.eviction_hard;
        let floor = |signal: &str, total: u64| hard.get(signal).map_or(0, |text| threshold(text, total));
        let memory = available < floor("memory.available", self.machine.memory);
        let storage = disk.available < floor("nodefs.available", disk.total)
            || disk.inodes_free < floor("nodefs.inodesFree", disk.inodes);
        let problems: Vec<String> = [state.problem.clone(), state.network_problem.clone()]
            .into_iter()
            .chain(self.relist.healthy().err())
            .filter(|text| !text.is_empty())
            .collect();
        let make = |kind: &str, status: bool, reason: &str, message: &str| NodeCondition {
            type_: kind.to_owned(),
            status: if status { "True" } else { "False" }.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: Some(Time(now)),
        };
        let pressure = |kind: &str, on: bool, yes: (&str, &str), no: (&str, &str)| {
            let (reason, message) = if on { yes } else { no };
            make(kind, on, reason, message)
        };
        let ready = match problems.is_empty() {
            true => make("Ready", true, "KubeletReady", "kubelet is posting ready status"),
            false => make("Ready", false, "KubeletNotReady", &format!("[{}]", problems.join(", "))),
        };
        vec![
            pressure(
                "MemoryPressure",
                memory,
                (
                    "KubeletHasInsufficientMemory",
                    "kubelet has insufficient memory available",
                ),
                ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ),
            pressure(
                "DiskPressure",
                storage,
                ("KubeletHasDiskPressure", "kubelet has disk pressure"),
                ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ),
            pressure(
                "PIDPressure",
                few_pids_left(),
                ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
                ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ),
            ready,
        ]
    }

    async fn images(&self) -> Vec<ContainerImage> {
        let mut images = match self.runtime.list_images().await {
            Ok(images) => images,
            Err(error) => {
                tracing::debug!(%error, "list images");
                return Vec::new();
            }
        };
        images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
        images.truncate(MAX_IMAGES);
        let shown = |image: proto::cri::Image| {
            let mut names = image.repo_digests;
            names.extend(image.repo_tags);
            ContainerImage {
                names: Some(names),
                size_bytes: i64::try_from(image.size).ok(),
            }
        };
        images.into_iter().map(shown).collect()
    }
}

/// Whether less than a twentieth of the kernel's process numbers is free.
fn few_pids_left() -> bool {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let max = read("/proc/sys/kernel/pid_max").and_then(|text| text.trim().parse::<u64>().ok());
    let used = read("/proc/loadavg").and_then(|text| text.split(['/', ' ']).nth(4)?.parse::<u64>().ok());
    matches!((max, used), (Some(max), Some(used)) if used + max / 20 > max)
}

/// Whether a status says anything new, heartbeats aside.
fn differs(last: &NodeStatus, next: &NodeStatus) -> bool {
    let plain = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
            condition.last_transition_time = None;
        }
        status
    };
    plain(last) != plain(next)
}
