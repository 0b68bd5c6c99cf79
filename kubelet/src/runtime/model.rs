//! What the runtime says about one pod, without CRI's types: the observed half of `pods::decide`.

use super::labels;
use super::{Runtime, RuntimeError};
use proto::cri;

/// Sandboxes and containers of one pod, newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Newest first.
    pub sandboxes: Vec<Sandbox>,
    /// Newest first.
    pub containers: Vec<Container>,
}

/// One sandbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sandbox {
    /// The runtime's id.
    pub id: String,
    /// How many sandboxes the pod had before this.
    pub attempt: u32,
    /// Whether it runs.
    pub ready: bool,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// The pod's addresses, the primary one first; empty on the host's network.
    pub ips: Vec<String>,
}

/// A container's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Made, never started.
    Created,
    /// Its process runs.
    Running,
    /// Its process ended.
    Exited,
    /// The runtime lost it.
    #[default]
    Unknown,
}

/// One container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Container {
    /// The runtime's id.
    pub id: String,
    /// The container's name in the pod.
    pub name: String,
    /// Which sandbox it is in; "" when only a status was asked for.
    pub sandbox_id: String,
    /// How many containers of this name the pod had before.
    pub attempt: u32,
    /// Its state.
    pub state: State,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Nanoseconds since 1970, 0 before.
    pub started_at: i64,
    /// Nanoseconds since 1970, 0 before.
    pub finished_at: i64,
    /// Once exited.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`.
    pub reason: String,
    /// The runtime's explanation, then the termination message.
    pub message: String,
    /// The image by the name that the pod uses.
    pub image: String,
    /// The image by digest or id.
    pub image_ref: String,
    /// The image by id.
    pub image_id: String,
    /// Hash of the definition that it was made from.
    pub hash: Option<u64>,
    /// Its log file.
    pub log_path: String,
    /// The termination message's file on the host, if there is one.
    pub termination_file: Option<String>,
    /// Whether an empty termination message is replaced by the end of the log.
    pub fallback_to_logs: bool,
    /// The user that its first process runs as, where the runtime tells.
    pub user: Option<(i64, i64, Vec<i64>)>,
}

impl Observed {
    /// The newest container of that name.
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The sandbox in use: the newest, if it runs.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|sandbox| sandbox.ready)
    }

    /// Containers whose process runs.
    pub fn running(&self) -> impl Iterator<Item = &Container> {
        self.containers
            .iter()
            .filter(|container| container.state == State::Running)
    }

    /// Whether nothing of the pod runs any more.
    pub fn is_stopped(&self) -> bool {
        self.running().next().is_none() && self.sandboxes.iter().all(|sandbox| !sandbox.ready)
    }
}

impl Runtime {
    /// Asks the runtime for everything about one pod. `known` saves calls: an exited container and its sandbox never change.
    pub async fn observe(&self, pod_uid: &str, known: &Observed) -> Result<Observed, RuntimeError> {
        let (sandboxes, containers) =
            tokio::try_join!(self.list_sandboxes(Some(pod_uid)), self.list_containers(Some(pod_uid)))?;
        let mut observed = Observed::default();
        for listed in sandboxes {
            match self.observe_sandbox(&listed, known).await {
                Ok(sandbox) => observed.sandboxes.push(sandbox),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        for listed in containers {
            match self.observe_container(&listed, known).await {
                Ok(container) => observed.containers.push(container),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        observed
            .sandboxes
            .sort_by_key(|sandbox| std::cmp::Reverse((sandbox.attempt, sandbox.created_at)));
        observed
            .containers
            .sort_by_key(|container| std::cmp::Reverse((container.created_at, container.attempt)));
        Ok(observed)
    }

    async fn observe_sandbox(&self, listed: &cri::PodSandbox, known: &Observed) -> Result<Sandbox, RuntimeError> {
        let ready = listed.state == cri::PodSandboxState::SandboxReady as i32;
        let before = known.sandboxes.iter().find(|sandbox| sandbox.id == listed.id);
        if let Some(before) = before.filter(|before| before.ready == ready && (!ready || !before.ips.is_empty())) {
            return Ok(before.clone());
        }
        let mut ips = Vec::new();
        if ready {
            let status = self.sandbox_status(&listed.id).await?;
            let network = status.network.unwrap_or_default();
            ips.extend(Some(network.ip).filter(|ip| !ip.is_empty()));
            ips.extend(network.additional_ips.into_iter().map(|ip| ip.ip));
        }
        let attempt = listed.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
        Ok(Sandbox {
            id: listed.id.clone(),
            attempt,
            ready,
            created_at: listed.created_at,
            ips,
        })
    }

    async fn observe_container(&self, listed: &cri::Container, known: &Observed) -> Result<Container, RuntimeError> {
        let state = State::from_cri(listed.state);
        let before = known.containers.iter().find(|container| container.id == listed.id);
        if let Some(before) = before.filter(|before| before.state == state && state != State::Unknown) {
            return Ok(before.clone());
        }
        let mut container = Container::from_status(self.container_status(&listed.id).await?);
        container.sandbox_id = listed.pod_sandbox_id.clone();
        if container.state == State::Exited {
            crate::pods::termination::read_message(&mut container).await;
        }
        Ok(container)
    }
}

impl State {
    /// From CRI's number.
    pub fn from_cri(state: i32) -> Self {
        match cri::ContainerState::try_from(state) {
            Ok(cri::ContainerState::ContainerCreated) => Self::Created,
            Ok(cri::ContainerState::ContainerRunning) => Self::Running,
            Ok(cri::ContainerState::ContainerExited) => Self::Exited,
            _ => Self::Unknown,
        }
    }
}

impl Container {
    /// From CRI's status; `sandbox_id` is not part of one.
    pub fn from_status(status: cri::ContainerStatus) -> Self {
        let annotation = |key: &str| status.annotations.get(key).map(String::as_str);
        let metadata = status.metadata.clone().unwrap_or_default();
        let termination_path = annotation(labels::TERMINATION_PATH).filter(|path| !path.is_empty());
        let termination_file = termination_path.and_then(|path| {
            status
                .mounts
                .iter()
                .find(|mount| mount.container_path == path)
                .map(|mount| mount.host_path.clone())
        });
        let user = status.user.as_ref().and_then(|user| user.linux.as_ref());
        Self {
            name: status
                .labels
                .get(labels::CONTAINER_NAME)
                .cloned()
                .unwrap_or(metadata.name),
            sandbox_id: String::new(),
            attempt: annotation(labels::RESTART_COUNT)
                .and_then(|text| text.parse().ok())
                .unwrap_or(metadata.attempt),
            state: State::from_cri(status.state),
            created_at: status.created_at,
            started_at: status.started_at,
            finished_at: status.finished_at,
            exit_code: status.exit_code,
            hash: annotation(labels::HASH).and_then(|text| u64::from_str_radix(text, 16).ok()),
            fallback_to_logs: annotation(labels::TERMINATION_POLICY) == Some("FallbackToLogsOnError"),
            termination_file,
            user: user.map(|user| (user.uid, user.gid, user.supplemental_groups.clone())),
            image: status.image.map(|image| image.image).unwrap_or_default(),
            image_ref: status.image_ref,
            image_id: status.image_id,
            reason: status.reason,
            message: status.message,
            log_path: status.log_path,
            id: status.id,
        }
    }
}
