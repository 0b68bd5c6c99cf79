//! Liveness, readiness and startup probes: one task a probe and running container; results go to a board that the pod's worker reads.

use super::decide::Health;
use super::handler::{HandlerError, Target};
use super::status::Readiness;
use crate::cluster::{Cluster, EventKind};
use crate::metrics::Metrics;
use crate::runtime::Runtime;
use crate::runtime::model::{Container as Seen, Observed};
use crate::runtime::resources::is_sidecar;
use api::core::v1::{Container, Pod, Probe};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// The three probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Fails: the container is restarted.
    Liveness,
    /// Fails: no traffic.
    Readiness,
    /// Holds the other two back until it succeeds once.
    Startup,
}

const YOUNG_NANOSECONDS: i128 = 1_000_000_000;
const YOUNG_RETRY: Duration = Duration::from_millis(50);

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
            Self::Startup => "Startup",
        }
    }
}

/// Counts runs of equal results against the thresholds: pure.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    good: Option<bool>,
    last: Option<bool>,
    run: i32,
}

impl Verdict {
    /// `good` is what holds before the first result.
    pub fn new(good: Option<bool>) -> Self {
        Self {
            good,
            last: None,
            run: 0,
        }
    }

    /// What holds after one more result.
    pub fn after(&mut self, result: bool, success_threshold: i32, failure_threshold: i32) -> Option<bool> {
        self.run = if self.last == Some(result) {
            self.run.saturating_add(1)
        } else {
            1
        };
        self.last = Some(result);
        let threshold = if result { success_threshold } else { failure_threshold };
        if self.run >= threshold.max(1) {
            self.good = Some(result);
        }
        self.good
    }
}

/// Results by the runtime's container id and probe.
#[derive(Default)]
struct Board(Mutex<BTreeMap<(String, Kind), Option<bool>>>);

/// The probes of one pod.
pub struct Probes {
    board: Arc<Board>,
    tasks: BTreeMap<(String, Kind), AbortHandle>,
    runtime: Runtime,
    cluster: Arc<dyn Cluster>,
    metrics: Arc<Metrics>,
    changed: Arc<Notify>,
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.tasks.values().for_each(AbortHandle::abort);
    }
}

impl Probes {
    /// `changed` is woken at each change of a verdict.
    pub fn new(runtime: Runtime, cluster: Arc<dyn Cluster>, metrics: Arc<Metrics>, changed: Arc<Notify>) -> Self {
        Self {
            board: Arc::default(),
            tasks: BTreeMap::new(),
            runtime,
            cluster,
            metrics,
            changed,
        }
    }

    /// Starts what is missing and ends what has no running container any more.
    pub fn follow(&mut self, pod: &Arc<Pod>, observed: &Observed, ending: bool) {
        let spec = pod.spec.as_ref();
        let probed = spec.into_iter().flat_map(|spec| {
            spec.init_containers
                .iter()
                .flatten()
                .filter(|container| is_sidecar(container))
                .chain(&spec.containers)
        });
        let mut wanted = BTreeMap::new();
        for container in probed {
            let running = observed.running().find(|seen| seen.name == container.name);
            let Some(seen) = running else { continue };
            for (kind, probe) in probes_of(container) {
                // A pod that is ending keeps its readiness probe, so that its endpoints can tell; nothing may restart it.
                if !ending || kind == Kind::Readiness {
                    wanted.insert((seen.id.clone(), kind), (container, probe, seen));
                }
            }
        }
        self.tasks.retain(|key, task| {
            let keep = wanted.contains_key(key);
            if !keep {
                task.abort();
                self.board.0.lock().remove(key);
            }
            keep
        });
        for (key, (container, probe, seen)) in wanted {
            if !self.tasks.contains_key(&key) {
                let task = self.start(pod, observed, container, probe, seen, key.1);
                self.tasks.insert(key, task);
            }
        }
    }

    fn start(
        &self,
        pod: &Arc<Pod>,
        observed: &Observed,
        container: &Container,
        probe: &Probe,
        seen: &Seen,
        kind: Kind,
    ) -> AbortHandle {
        let first = initial(pod, seen, kind);
        self.board.0.lock().insert((seen.id.clone(), kind), first);
        let ip = observed
            .sandbox()
            .and_then(|sandbox| sandbox.ips.first())
            .and_then(|ip| ip.parse().ok());
        let host_ip = pod
            .status
            .as_ref()
            .and_then(|status| status.pod_ip.as_deref())
            .and_then(|ip| ip.parse().ok());
        let run = Run {
            board: self.board.clone(),
            changed: self.changed.clone(),
            cluster: self.cluster.clone(),
            metrics: self.metrics.clone(),
            pod: pod.clone(),
            target: Target {
                runtime: self.runtime.clone(),
                id: seen.id.clone(),
                ip: ip.or(host_ip),
                container: Arc::new(container.clone()),
            },
            probe: probe.clone(),
            kind,
            gated: container.startup_probe.is_some() && kind != Kind::Startup,
            started_at: seen.started_at,
        };
        tokio::spawn(run.run(Verdict::new(first))).abort_handle()
    }

    /// What the probes say to `decide`.
    pub fn health(&self) -> Health {
        let mut health = Health::default();
        for ((id, kind), good) in self.board.0.lock().iter() {
            match (kind, good) {
                (Kind::Liveness, Some(false)) => health.dead.insert(id.clone()),
                (Kind::Startup, Some(false)) => {
                    health.unstartable.insert(id.clone()) | health.starting.insert(id.clone())
                }
                (Kind::Startup, None) => health.starting.insert(id.clone()),
                _ => false,
            };
        }
        health
    }

    /// What the probes say to the pod's status. A container without a probe passes it.
    pub fn readiness(&self, observed: &Observed) -> Readiness {
        let board = self.board.0.lock();
        let passes = |id: &str, kind| board.get(&(id.to_owned(), kind)).is_none_or(|good| *good == Some(true));
        let mut readiness = Readiness::default();
        for seen in observed.running() {
            if passes(&seen.id, Kind::Startup) {
                readiness.started.insert(seen.id.clone());
                if passes(&seen.id, Kind::Readiness) {
                    readiness.ready.insert(seen.id.clone());
                }
            }
        }
        readiness
    }
}

fn probes_of(container: &Container) -> impl Iterator<Item = (Kind, &Probe)> {
    let all = [
        (Kind::Liveness, &container.liveness_probe),
        (Kind::Readiness, &container.readiness_probe),
        (Kind::Startup, &container.startup_probe),
    ];
    all.into_iter()
        .filter_map(|(kind, probe)| Some((kind, probe.as_ref()?)))
}

/// What holds before the first result. A container that the API already knows as ready or started stays so: the kubelet was restarted, not it.
fn initial(pod: &Pod, seen: &Seen, kind: Kind) -> Option<bool> {
    let status = pod.status.as_ref();
    let known = status.and_then(|status| {
        let mut all = status
            .container_statuses
            .iter()
            .chain(&status.init_container_statuses)
            .flatten();
        all.find(|known| known.container_id.as_deref().is_some_and(|id| id.ends_with(&seen.id)))
    });
    match kind {
        Kind::Liveness => Some(true),
        Kind::Readiness => Some(known.is_some_and(|known| known.ready)),
        Kind::Startup => known.and_then(|known| known.started).filter(|started| *started),
    }
}

struct Run {
    board: Arc<Board>,
    changed: Arc<Notify>,
    cluster: Arc<dyn Cluster>,
    metrics: Arc<Metrics>,
    pod: Arc<Pod>,
    target: Target,
    probe: Probe,
    kind: Kind,
    gated: bool,
    started_at: i64,
}

impl Run {
    async fn run(self, mut verdict: Verdict) {
        let seconds =
            |value: Option<i32>, default: u64| Duration::from_secs(value.map_or(default, |v| v.max(0) as u64));
        let period = seconds(self.probe.period_seconds, 10).max(Duration::from_secs(1));
        let delay = seconds(self.probe.initial_delay_seconds, 0);
        let age = jiff::Timestamp::now()
            .as_nanosecond()
            .saturating_sub(i128::from(self.started_at));
        let age = Duration::from_nanos(u64::try_from(age).unwrap_or(0));
        tokio::time::sleep(delay.saturating_sub(age)).await;
        let key = (self.target.id.clone(), self.kind);
        loop {
            if self.kind == Kind::Startup && verdict.good == Some(true) {
                return;
            }
            if self.gated && !self.startup_passed() {
                // The startup probe's success is noticed at once by the others.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            let result = self.attempt().await;
            if result.is_err() && verdict.good == Some(false) && self.is_young() {
                // A server that is just about to listen: looked at again at once, so that a period is not lost.
                tokio::time::sleep(YOUNG_RETRY).await;
                continue;
            }
            let label = if result.is_ok() { "successful" } else { "failed" };
            self.metrics.probes.with_label_values(&[self.kind.name(), label]).inc();
            if let Err(error) = &result {
                let message = format!("{} probe failed: {error}", self.kind.name());
                self.cluster.event(&self.pod, EventKind::Warning, "Unhealthy", &message);
            }
            let (good, bad) = (
                self.probe.success_threshold.unwrap_or(1),
                self.probe.failure_threshold.unwrap_or(3),
            );
            let now = verdict.after(result.is_ok(), good, bad);
            let before = self.board.0.lock().insert(key.clone(), now);
            if before != Some(now) {
                self.changed.notify_one();
            }
            let given_up = now == Some(false) && self.kind != Kind::Readiness;
            if given_up {
                // The container is being restarted: its successor has probes of its own.
                return;
            }
            tokio::time::sleep(period).await;
        }
    }

    /// Whether this is the readiness of a container in its first second, for which a failure says nothing yet.
    fn is_young(&self) -> bool {
        let age = jiff::Timestamp::now()
            .as_nanosecond()
            .saturating_sub(i128::from(self.started_at));
        self.kind == Kind::Readiness && (0..YOUNG_NANOSECONDS).contains(&age)
    }

    fn startup_passed(&self) -> bool {
        let board = self.board.0.lock();
        board
            .get(&(self.target.id.clone(), Kind::Startup))
            .is_none_or(|good| *good == Some(true))
    }

    async fn attempt(&self) -> Result<(), HandlerError> {
        let timeout = Duration::from_secs(self.probe.timeout_seconds.map_or(1, |seconds| seconds.max(1) as u64));
        let probe = &self.probe;
        if let Some(action) = &probe.exec {
            self.target.exec(action, timeout).await.map(|_| ())
        } else if let Some(action) = &probe.http_get {
            self.target.http(action, timeout).await
        } else if let Some(action) = &probe.tcp_socket {
            self.target.tcp(action, timeout).await
        } else if let Some(action) = &probe.grpc {
            self.target.grpc(action, timeout).await
        } else {
            Err(HandlerError("missing probe handler".into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_runs() {
        let mut verdict = Verdict::new(Some(true));
        let results = [false, false, true, false, false, false, true, true];
        let seen: Vec<_> = results.map(|result| verdict.after(result, 2, 3)).into();
        let expected = [true, true, true, true, true, false, false, true].map(Some);
        assert_eq!(seen, expected);
        let mut startup = Verdict::new(None);
        assert_eq!(startup.after(false, 1, 3), None);
        assert_eq!(startup.after(true, 1, 3), Some(true));
    }
}
