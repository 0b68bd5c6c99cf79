//! A pod's status from what the runtime shows: pure. Phase, container states and the fields around them; conditions are in `conditions`.

use super::conditions;
use super::decide::time_of;
use crate::runtime::model::{Container as Seen, Observed, State};
use crate::runtime::resources::{is_sidecar, qos};
use api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, HostIP, LinuxContainerUser, Pod, PodIP, PodSpec, PodStatus, ResourceRequirements, VolumeMountStatus,
};
use api::meta::Time;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// Why a container is not there yet: reason and message of its waiting state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// `ErrImagePull`, `CrashLoopBackOff`, ...
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Which running containers are ready and started, by the runtime's id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// The readiness probe (or its absence) says ready.
    pub ready: BTreeSet<String>,
    /// The startup probe (or its absence) says started.
    pub started: BTreeSet<String>,
}

/// Everything that a status is made from.
pub struct StatusInputs<'a> {
    /// The pod with the status that was last written.
    pub pod: &'a Pod,
    /// What the runtime shows.
    pub observed: &'a Observed,
    /// What probes say.
    pub readiness: &'a Readiness,
    /// Containers that could not be started or are held back.
    pub waiting: &'a BTreeMap<String, Waiting>,
    /// The node's addresses, the primary one first.
    pub host_ips: &'a [String],
    /// When the kubelet first saw the pod.
    pub started: Timestamp,
    /// Set once the pod is being ended for a reason of its own (deadline, eviction): its phase is then Failed.
    pub failed: Option<(&'a str, &'a str)>,
    /// Whether the pod will not be started again and everything of it has ended.
    pub over: bool,
    /// Now.
    pub now: Timestamp,
}

/// Makes the status.
pub fn generate(inputs: &StatusInputs<'_>) -> PodStatus {
    let pod = inputs.pod;
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let old = pod.status.clone().unwrap_or_default();
    let has_init = spec.init_containers.as_ref().is_some_and(|list| !list.is_empty());
    let maker = Maker { inputs, spec };
    let init: Vec<_> = spec
        .init_containers
        .iter()
        .flatten()
        .map(|container| maker.container(container, old.init_container_statuses.as_ref(), "PodInitializing", true))
        .collect();
    let waiting_reason = if has_init {
        "PodInitializing"
    } else {
        "ContainerCreating"
    };
    let main: Vec<_> = spec
        .containers
        .iter()
        .map(|container| maker.container(container, old.container_statuses.as_ref(), waiting_reason, false))
        .collect();
    let ephemeral: Vec<_> = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .map(|container| {
            let plain = Container {
                name: container.name.clone(),
                image: container.image.clone(),
                ..Default::default()
            };
            maker.container(&plain, old.ephemeral_container_statuses.as_ref(), waiting_reason, false)
        })
        .collect();
    let phase = phase(
        spec,
        &init,
        &main,
        inputs.over,
        inputs.failed.is_some() || is_failed(&old),
    );
    let ips = pod_ips(spec, inputs, &old);
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        observed_generation: pod.metadata.generation,
        conditions: old.conditions.clone(),
        reason: inputs
            .failed
            .map(|(reason, _)| reason.to_owned())
            .or(old.reason.clone()),
        message: inputs
            .failed
            .map(|(_, message)| message.to_owned())
            .or(old.message.clone()),
        host_ip: inputs.host_ips.first().cloned(),
        host_ips: Some(inputs.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
        qos_class: Some(qos(pod).as_str().to_owned()),
        start_time: old.start_time.clone().or(Some(Time(inputs.started))),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: (!main.is_empty()).then_some(main),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        ..old
    };
    let sandbox_ready = inputs
        .observed
        .sandbox()
        .is_some_and(|sandbox| spec.host_network == Some(true) || !sandbox.ips.is_empty());
    status.conditions = Some(conditions::generate(
        spec,
        &status,
        sandbox_ready,
        pod.metadata.generation,
        inputs.now,
    ));
    status
}

fn is_failed(old: &PodStatus) -> bool {
    old.phase.as_deref() == Some("Failed")
}

/// Addresses outlive their sandbox in the status, so that a finished pod still shows them.
fn pod_ips(spec: &PodSpec, inputs: &StatusInputs<'_>, old: &PodStatus) -> Vec<String> {
    if spec.host_network == Some(true) {
        return match inputs.observed.sandboxes.is_empty() && old.pod_ip.is_none() {
            true => Vec::new(),
            false => inputs.host_ips.to_vec(),
        };
    }
    match inputs.observed.sandbox() {
        Some(sandbox) if !sandbox.ips.is_empty() => sandbox.ips.clone(),
        _ => old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect(),
    }
}

struct Maker<'a> {
    inputs: &'a StatusInputs<'a>,
    spec: &'a PodSpec,
}

impl Maker<'_> {
    fn container(
        &self,
        container: &Container,
        old: Option<&Vec<ContainerStatus>>,
        waiting_reason: &str,
        init: bool,
    ) -> ContainerStatus {
        let name = container.name.as_str();
        let old = old.into_iter().flatten().find(|status| status.name == name);
        let mut all = self.inputs.observed.containers.iter().filter(|seen| seen.name == name);
        let mut status = match all.next() {
            Some(seen) => self.of_seen(container, seen, all.next(), old),
            None => self.of_unseen(container, old, waiting_reason),
        };
        self.apply_waiting(container, &mut status, init);
        let id = self
            .inputs
            .observed
            .container(name)
            .map(|seen| seen.id.as_str())
            .unwrap_or_default();
        let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
        let succeeded = terminated(&status).is_some_and(|ended| ended.exit_code == 0);
        let once = init && !is_sidecar(container);
        status.ready = if once {
            succeeded
        } else {
            running && self.inputs.readiness.ready.contains(id)
        };
        status.started = Some(running && (once || self.inputs.readiness.started.contains(id)));
        status
    }

    fn of_seen(
        &self,
        container: &Container,
        seen: &Seen,
        before: Option<&Seen>,
        old: Option<&ContainerStatus>,
    ) -> ContainerStatus {
        let running = seen.state == State::Running;
        let resources = container.resources.as_ref();
        ContainerStatus {
            name: container.name.clone(),
            state: Some(state(seen)),
            last_state: match before {
                Some(before) => Some(state(before)),
                None if seen.attempt > 0 => old.and_then(|old| old.last_state.clone()),
                None => None,
            },
            restart_count: seen.attempt as i32,
            image: if seen.image.is_empty() {
                container.image.clone().unwrap_or_default()
            } else {
                seen.image.clone()
            },
            image_id: seen.image_ref.clone(),
            container_id: Some(format!("containerd://{}", seen.id)),
            allocated_resources: resources
                .filter(|_| running)
                .and_then(|resources| resources.requests.clone()),
            resources: resources.filter(|_| running).map(|resources| ResourceRequirements {
                limits: resources.limits.clone(),
                requests: resources.requests.clone(),
                ..Default::default()
            }),
            user: seen.user.as_ref().map(|(uid, gid, groups)| ContainerUser {
                linux: Some(LinuxContainerUser {
                    uid: *uid,
                    gid: *gid,
                    supplemental_groups: Some(groups.clone()),
                }),
            }),
            volume_mounts: mount_statuses(container),
            ..Default::default()
        }
    }

    /// A container that the runtime does not have: not made yet, or lost.
    fn of_unseen(&self, container: &Container, old: Option<&ContainerStatus>, waiting_reason: &str) -> ContainerStatus {
        let waiting = ContainerStateWaiting {
            reason: Some(waiting_reason.to_owned()),
            message: None,
        };
        let mut status = ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            state: Some(ContainerState {
                waiting: Some(waiting),
                ..Default::default()
            }),
            ..Default::default()
        };
        let Some(old) = old else { return status };
        if terminated(old).is_some() {
            return old.clone();
        }
        status.restart_count = old.restart_count;
        status.last_state = old.last_state.clone();
        if old.state.as_ref().is_some_and(|state| state.running.is_some()) {
            let lost = ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".into()),
                message: Some(
                    "The container could not be located when the pod was deleted.  The container used to be Running"
                        .into(),
                ),
                ..Default::default()
            };
            let lost = ContainerState {
                terminated: Some(lost),
                ..Default::default()
            };
            if self.inputs.over {
                status.state = Some(lost);
            } else {
                status.restart_count += 1;
                status.last_state = Some(lost);
            }
        }
        status
    }

    /// A container that will be started again but cannot now is waiting, whatever it was.
    fn apply_waiting(&self, container: &Container, status: &mut ContainerStatus, init: bool) {
        let Some(waiting) = self.inputs.waiting.get(&container.name) else {
            return;
        };
        let state = status.state.get_or_insert_default();
        if state.running.is_some() || self.inputs.over {
            return;
        }
        let policy = self.spec.restart_policy.as_deref();
        let done = |ended: &ContainerStateTerminated| match policy {
            _ if is_sidecar(container) => false,
            Some("Never") => true,
            Some("OnFailure") => ended.exit_code == 0,
            _ => init && ended.exit_code == 0,
        };
        if state.terminated.as_ref().is_some_and(done) {
            return;
        }
        if state.terminated.is_some() {
            status.last_state = status.state.take();
        }
        let waiting = ContainerStateWaiting {
            reason: Some(waiting.reason.clone()),
            message: Some(waiting.message.clone()),
        };
        status.state = Some(ContainerState {
            waiting: Some(waiting),
            ..Default::default()
        });
    }
}

fn mount_statuses(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref()?;
    let status = |mount: &api::core::v1::VolumeMount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only.filter(|read_only| *read_only),
        recursive_read_only: (mount.read_only == Some(true)).then(|| "Disabled".to_owned()),
    };
    Some(mounts.iter().map(status).collect())
}

fn state(seen: &Seen) -> ContainerState {
    let time = |nanoseconds: i64| time_of(nanoseconds).map(Time);
    match seen.state {
        State::Running => {
            let running = ContainerStateRunning {
                started_at: time(seen.started_at),
            };
            ContainerState {
                running: Some(running),
                ..Default::default()
            }
        }
        State::Exited => {
            let terminated = ContainerStateTerminated {
                exit_code: seen.exit_code,
                reason: Some(seen.reason.clone()).filter(|reason| !reason.is_empty()),
                message: Some(seen.message.clone()).filter(|message| !message.is_empty()),
                started_at: time(seen.started_at.max(1)).filter(|_| seen.started_at > 0),
                finished_at: time(seen.finished_at),
                container_id: Some(format!("containerd://{}", seen.id)),
                ..Default::default()
            };
            ContainerState {
                terminated: Some(terminated),
                ..Default::default()
            }
        }
        State::Created | State::Unknown => {
            let waiting = ContainerStateWaiting {
                reason: Some("ContainerCreating".into()),
                message: None,
            };
            ContainerState {
                waiting: Some(waiting),
                ..Default::default()
            }
        }
    }
}

fn terminated(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.state.as_ref()?.terminated.as_ref()
}

/// The pod's phase from its containers' states.
fn phase(spec: &PodSpec, init: &[ContainerStatus], main: &[ContainerStatus], over: bool, failed: bool) -> &'static str {
    if failed {
        return "Failed";
    }
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let mut pending_init = false;
    for (container, status) in spec.init_containers.iter().flatten().zip(init) {
        let state = status.state.clone().unwrap_or_default();
        if is_sidecar(container) {
            pending_init |= status.started != Some(true) && !over;
            continue;
        }
        match state.terminated {
            Some(ended) if ended.exit_code != 0 && (policy == "Never" || over) => return "Failed",
            Some(ended) if ended.exit_code == 0 => {}
            _ => pending_init = true,
        }
    }
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for status in main {
        let state = status.state.clone().unwrap_or_default();
        if state.running.is_some() {
            running += 1;
        } else if let Some(ended) = state.terminated {
            stopped += 1;
            succeeded += usize::from(ended.exit_code == 0);
        } else if status.last_state.as_ref().is_some_and(|last| last.terminated.is_some()) {
            stopped += 1;
        } else {
            waiting += 1;
        }
    }
    let begun = running + stopped > 0;
    match () {
        () if over && waiting == 0 && stopped > 0 && stopped == succeeded => "Succeeded",
        () if over => "Failed",
        () if pending_init && !begun => "Pending",
        () if waiting > 0 => "Pending",
        () if running > 0 => "Running",
        () if stopped == 0 => "Pending",
        () if policy == "Always" => "Running",
        () if stopped == succeeded => "Succeeded",
        () if policy == "Never" => "Failed",
        () => "Running",
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
