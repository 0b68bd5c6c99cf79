//! Notices what changed in the runtime: one cheap listing of sandboxes and containers, compared with the one before.
//!
//! Runs at once after an event (`events`), otherwise every second. Hands on the uids of pods that changed; never asks for details.

use super::Runtime;
use super::model::State;
use crate::metrics::Metrics;
use proto::cri;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Upstream's relist period; events make it a repair only.
const PERIOD: Duration = Duration::from_secs(1);
/// A relist that is older than this makes the node NotReady, as upstream's PLEG check.
const HEALTHY: i64 = 180;

/// One pod as a listing shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sight(BTreeMap<String, u8>);

/// Everything that the last listing showed, by pod uid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Landscape(HashMap<String, Sight>);

impl Landscape {
    fn of(sandboxes: &[cri::PodSandbox], containers: &[cri::Container]) -> Self {
        let mut pods: HashMap<String, Sight> = HashMap::new();
        let uid = |labels: &HashMap<String, String>| labels.get(super::labels::POD_UID).cloned();
        for sandbox in sandboxes {
            let Some(uid) = uid(&sandbox.labels) else { continue };
            pods.entry(uid)
                .or_default()
                .0
                .insert(sandbox.id.clone(), 10 + sandbox.state as u8);
        }
        for container in containers {
            let Some(uid) = uid(&container.labels) else { continue };
            pods.entry(uid)
                .or_default()
                .0
                .insert(container.id.clone(), container.state as u8);
        }
        Self(pods)
    }

    /// Uids of pods that look different in `next`.
    fn differences(&self, next: &Self) -> BTreeSet<String> {
        let uids = self.0.keys().chain(next.0.keys());
        uids.filter(|uid| self.0.get(*uid) != next.0.get(*uid))
            .cloned()
            .collect()
    }
}

/// The relister's outward side.
pub struct Relist {
    wake: Arc<Notify>,
    last: AtomicI64,
}

impl Default for Relist {
    fn default() -> Self {
        Self {
            wake: Arc::new(Notify::new()),
            last: AtomicI64::new(jiff::Timestamp::now().as_second()),
        }
    }
}

impl Relist {
    /// Asks for a relist at once.
    pub fn wake(&self) -> Arc<Notify> {
        self.wake.clone()
    }

    /// Whether the runtime answered a listing lately.
    pub fn healthy(&self) -> Result<(), String> {
        let age = jiff::Timestamp::now().as_second() - self.last.load(Ordering::Relaxed);
        if age <= HEALTHY {
            return Ok(());
        }
        Err(format!(
            "PLEG is not healthy: pleg was last seen active {age}s ago; threshold is {HEALTHY}s"
        ))
    }

    /// Relists until `stop`, telling `changed` of each pod that is not as it was.
    pub async fn run(&self, runtime: Runtime, metrics: Arc<Metrics>, changed: impl Fn(&str), stop: CancellationToken) {
        let mut seen = Landscape::default();
        loop {
            let timer = metrics.relist.start_timer();
            match tokio::try_join!(runtime.list_sandboxes(None), runtime.list_containers(None)) {
                Ok((sandboxes, containers)) => {
                    let next = Landscape::of(&sandboxes, &containers);
                    seen.differences(&next).iter().for_each(|uid| changed(uid));
                    seen = next;
                    count(&metrics, &sandboxes, &containers);
                    self.last.store(jiff::Timestamp::now().as_second(), Ordering::Relaxed);
                }
                Err(error) => tracing::warn!(%error, "relist"),
            }
            timer.observe_duration();
            metrics.relist_last_seen.set(self.last.load(Ordering::Relaxed) as f64);
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(PERIOD) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

fn count(metrics: &Metrics, sandboxes: &[cri::PodSandbox], containers: &[cri::Container]) {
    let ready = sandboxes
        .iter()
        .filter(|sandbox| sandbox.state == cri::PodSandboxState::SandboxReady as i32);
    metrics.running_pods.set(ready.count() as i64);
    for (state, label) in [
        (State::Created, "created"),
        (State::Running, "running"),
        (State::Exited, "exited"),
        (State::Unknown, "unknown"),
    ] {
        let count = containers
            .iter()
            .filter(|container| State::from_cri(container.state) == state)
            .count();
        metrics.containers.with_label_values(&[label]).set(count as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, uid: &str, state: cri::ContainerState) -> cri::Container {
        cri::Container {
            id: id.into(),
            state: state as i32,
            labels: [(super::super::labels::POD_UID.to_owned(), uid.to_owned())].into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_change_names_its_pod_only() {
        use cri::ContainerState::{ContainerExited, ContainerRunning};
        let before = Landscape::of(
            &[],
            &[
                container("1", "a", ContainerRunning),
                container("2", "b", ContainerRunning),
            ],
        );
        let after = Landscape::of(
            &[],
            &[
                container("1", "a", ContainerExited),
                container("2", "b", ContainerRunning),
            ],
        );
        assert_eq!(before.differences(&after).into_iter().collect::<Vec<_>>(), ["a"]);
        assert!(after.differences(&after).is_empty());
        let gone = Landscape::of(&[], &[container("2", "b", ContainerRunning)]);
        assert_eq!(after.differences(&gone).into_iter().collect::<Vec<_>>(), ["a"]);
    }
}
