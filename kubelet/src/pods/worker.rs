//! One pod's worker: observe, decide, do, report; then wait for news. What is done is in `sandboxes`, `start` and `stop`.

use super::decide::{self, Plan, Situation};
use super::probes::Probes;
use super::status::{self, StatusInputs, Waiting};
use super::{Context, Update};
use crate::backoff::Backoff;
use crate::cluster::EventKind;
use crate::runtime::model::Observed;
use crate::runtime::sandbox::{log_folder, pod_text};
use crate::volumes::Places;
use api::core::v1::{Pod, PodStatus};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How often files of ConfigMaps, Secrets and tokens of a running pod are looked at again: upstream's sync frequency.
const REFRESH: SignedDuration = SignedDuration::from_secs(60);
/// After a failure to observe or to clean up.
const RETRY: Duration = Duration::from_secs(1);
/// How long the object waits for its last status.
const LAST_STATUS: Duration = Duration::from_secs(5);
/// The conditions that are the kubelet's to write.
const OWN_CONDITIONS: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];

/// Why a pod ends on its own account: reason and message of its status.
pub(super) type Failure = (String, String);

/// What to do after a step.
enum Next {
    Again,
    Wait(Option<Timestamp>),
    Gone,
}

/// One pod.
pub(super) struct Worker {
    pub(super) context: Arc<Context>,
    pub(super) pod: Arc<Pod>,
    updates: watch::Receiver<Update>,
    changed: Arc<Notify>,
    pub(super) observed: Observed,
    pub(super) probes: Probes,
    /// By container name.
    pub(super) backoffs: BTreeMap<String, Backoff>,
    /// By container name; "" is the sandbox.
    pub(super) retry_at: BTreeMap<String, Timestamp>,
    /// How often the sandbox or the volumes failed in a row.
    pub(super) failures: u32,
    pub(super) waiting: BTreeMap<String, Waiting>,
    pub(super) places: Places,
    /// When the volumes were last set up, and for which object.
    pub(super) refreshed: Option<(Timestamp, Arc<Pod>)>,
    /// The status last handed in.
    status: Option<PodStatus>,
    first_seen: Timestamp,
    admitted: bool,
    failed: Option<Failure>,
    /// All containers are done and none will run again.
    finished: bool,
    /// Containers whose preStop hook ran.
    pub(super) pre_stopped: Mutex<BTreeSet<String>>,
    cleaned: bool,
    reported_running: bool,
    deleted: bool,
}

impl Worker {
    pub(super) fn new(context: Arc<Context>, updates: watch::Receiver<Update>, changed: Arc<Notify>) -> Self {
        let pod = updates.borrow().pod.clone();
        let probes = Probes::new(
            context.runtime.clone(),
            context.cluster.clone(),
            context.metrics.clone(),
            changed.clone(),
        );
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let finished = matches!(phase, Some("Succeeded" | "Failed"));
        Self {
            context,
            pod,
            updates,
            changed,
            observed: Observed::default(),
            probes,
            backoffs: BTreeMap::new(),
            retry_at: BTreeMap::new(),
            failures: 0,
            waiting: BTreeMap::new(),
            places: Places::new(),
            refreshed: None,
            status: None,
            first_seen: Timestamp::now(),
            admitted: false,
            failed: None,
            finished,
            pre_stopped: Mutex::default(),
            cleaned: false,
            reported_running: false,
            deleted: false,
        }
    }

    pub(super) fn uid(&self) -> String {
        self.pod.metadata.uid.clone().unwrap_or_default()
    }

    /// Works until nothing of the pod is left.
    pub(super) async fn run(mut self) {
        loop {
            let update = self.updates.borrow_and_update().clone();
            self.pod = update.pod;
            if let Err(error) = self.observe().await {
                tracing::warn!(%error, pod = pod_text(&self.pod), "observe");
                self.wait(Timestamp::now().checked_add(RETRY).ok()).await;
                continue;
            }
            let ending = update.gone || self.is_deleted() || self.failed.is_some() || self.finished;
            let timer = self
                .context
                .metrics
                .pod_worker
                .with_label_values(&["sync"])
                .start_timer();
            let next = if ending {
                self.end(update.gone).await
            } else {
                self.step().await
            };
            timer.observe_duration();
            match next {
                Next::Again => {}
                Next::Wait(until) => self.wait(until).await,
                Next::Gone => return,
            }
        }
    }

    fn is_deleted(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    async fn observe(&mut self) -> Result<(), crate::runtime::RuntimeError> {
        self.observed = self.context.runtime.observe(&self.uid(), &self.observed).await?;
        Ok(())
    }

    async fn wait(&mut self, until: Option<Timestamp>) {
        let pause = until.map_or(Duration::from_secs(3600), |until| {
            Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO)
        });
        let changed = self.changed.clone();
        let mut network = self.context.network_ready.clone();
        network.mark_unchanged();
        tokio::select! {
            () = changed.notified() => {}
            _ = self.updates.changed() => {}
            _ = network.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    /// One step of a pod that should run.
    async fn step(&mut self) -> Next {
        if !self.admitted {
            if let Err(refusal) = self.admit() {
                self.context
                    .cluster
                    .event(&self.pod, EventKind::Warning, &refusal.0, &refusal.1);
                self.failed = Some((refusal.0, format!("Pod was rejected: {}", refusal.1)));
                return Next::Again;
            }
            self.admitted = true;
        }
        let now = Timestamp::now();
        let deadline = self.deadline();
        if deadline.is_some_and(|deadline| deadline <= now) {
            let message = "Pod was active on the node longer than the specified deadline";
            self.context
                .cluster
                .event(&self.pod, EventKind::Normal, "DeadlineExceeded", message);
            self.failed = Some(("DeadlineExceeded".into(), message.into()));
            return Next::Again;
        }
        self.refresh_volumes(now).await;
        self.probes.follow(&self.pod, &self.observed, false);
        let plan = self.decide(now);
        self.note_held(&plan);
        let phase = self.publish(now, false);
        if phase == "Succeeded" || phase == "Failed" {
            self.finished = true;
            return Next::Again;
        }
        self.note_running();
        let wake = [
            plan.wake_at,
            deadline,
            self.refresh_at(),
            self.retry_at.get("").copied(),
        ];
        let wake = wake.into_iter().flatten().filter(|at| *at > now).min();
        if plan.is_idle() {
            return Next::Wait(wake);
        }
        if !self.may_create_sandbox(&plan, now) {
            // The network's coming up wakes this, too; the time is for when it came between the two looks.
            let again = now.checked_add(RETRY).ok();
            return Next::Wait(wake.into_iter().chain(again).min());
        }
        self.apply_unless_ended(plan).await;
        Next::Again
    }

    fn admit(&mut self) -> Result<(), Failure> {
        if self.observed.containers.is_empty() && self.observed.sandboxes.is_empty() {
            return self
                .context
                .admit(&self.pod)
                .map_err(|refusal| (refusal.reason, refusal.message));
        }
        // It ran before the kubelet was restarted, so it was let in then.
        self.reported_running = true;
        self.context.admitted.lock().insert(self.uid(), self.pod.clone());
        Ok(())
    }

    fn deadline(&self) -> Option<Timestamp> {
        let seconds = self.pod.spec.as_ref()?.active_deadline_seconds?;
        let started = self
            .pod
            .status
            .as_ref()?
            .start_time
            .as_ref()
            .map_or(self.first_seen, |time| time.0);
        started.checked_add(SignedDuration::from_secs(seconds)).ok()
    }

    fn decide(&self, now: Timestamp) -> Plan {
        let health = self.probes.health();
        decide::decide(&Situation {
            pod: &self.pod,
            observed: &self.observed,
            health: &health,
            backoffs: &self.backoffs,
            retry_at: &self.retry_at,
            now,
        })
    }

    /// A sandbox waits for the network and for its own back-off.
    fn may_create_sandbox(&self, plan: &Plan, now: Timestamp) -> bool {
        if plan.create_sandbox.is_none() {
            return true;
        }
        let host_network = self.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
        let network = host_network || *self.context.network_ready.borrow();
        network && self.retry_at.get("").is_none_or(|at| *at <= now)
    }

    fn note_held(&mut self, plan: &Plan) {
        self.waiting.retain(|name, waiting| {
            waiting.reason != "CrashLoopBackOff" || plan.held.iter().any(|(held, _)| held == name)
        });
        for (name, message) in &plan.held {
            let waiting = Waiting {
                reason: "CrashLoopBackOff".into(),
                message: message.clone(),
            };
            if self.waiting.insert(name.clone(), waiting.clone()).as_ref() != Some(&waiting) {
                let text = format!(
                    "Back-off restarting failed container {name} in pod {}",
                    pod_text(&self.pod)
                );
                self.context
                    .cluster
                    .event(&self.pod, EventKind::Warning, "BackOff", &text);
            }
        }
    }

    fn note_running(&mut self) {
        let all = self.pod.spec.iter().flat_map(|spec| &spec.containers);
        let running = |name: &str| self.observed.running().any(|seen| seen.name == name);
        if !self.reported_running && all.clone().count() > 0 && all.clone().all(|container| running(&container.name)) {
            self.reported_running = true;
            let took = Timestamp::now().duration_since(self.first_seen);
            self.context.metrics.pod_start.observe(took.as_secs_f64());
        }
    }

    /// Carries a plan out, but stops in the middle when the pod is to end.
    async fn apply_unless_ended(&mut self, plan: Plan) {
        let mut updates = self.updates.clone();
        let ended = async move {
            // The worker itself holds the sender's other end alive.
            let _ = updates
                .wait_for(|update| update.gone || update.pod.metadata.deletion_timestamp.is_some())
                .await;
        };
        tokio::select! {
            () = self.apply(plan) => {}
            () = ended => {}
        }
    }

    async fn apply(&mut self, plan: Plan) {
        if plan.stop_all {
            self.stop_everything(self.spec_grace()).await;
        }
        if let Some(attempt) = plan.create_sandbox {
            self.create_sandbox(attempt).await;
        }
        self.stop_some(&plan.kill).await;
        for start in &plan.start {
            self.start(start).await;
        }
    }

    pub(super) fn spec_grace(&self) -> i64 {
        self.pod
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds)
            .unwrap_or(30)
    }

    /// One step of a pod that is to end: stop, clean up, report, delete.
    async fn end(&mut self, gone: bool) -> Next {
        self.probes.follow(&self.pod, &self.observed, true);
        if !self.observed.is_stopped() {
            self.publish(Timestamp::now(), false);
            let grace = match self.pod.metadata.deletion_grace_period_seconds {
                Some(grace) => grace.max(1),
                None => self.spec_grace(),
            };
            self.stop_unless_hurried(grace).await;
            return Next::Again;
        }
        self.publish(Timestamp::now(), true);
        if !self.cleaned {
            if let Err(error) = self.clean_up().await {
                tracing::warn!(%error, pod = pod_text(&self.pod), "clean up");
                return Next::Wait(Timestamp::now().checked_add(RETRY).ok());
            }
            self.cleaned = true;
        }
        if gone {
            return self.forget().await;
        }
        if self.is_deleted() && !self.deleted {
            if let Err(error) = self.delete_object().await {
                tracing::warn!(%error, pod = pod_text(&self.pod), "delete the pod's object");
                return Next::Wait(Timestamp::now().checked_add(RETRY).ok());
            }
            self.deleted = true;
            return Next::Again;
        }
        Next::Wait(None)
    }

    /// Stops everything; begins anew when deletion is asked for with less time.
    async fn stop_unless_hurried(&mut self, grace: i64) {
        let mut updates = self.updates.clone();
        let hurried = async move {
            let shorter = |update: &Update| {
                update.gone
                    || update
                        .pod
                        .metadata
                        .deletion_grace_period_seconds
                        .is_some_and(|less| less < grace)
            };
            if updates.borrow().gone {
                return std::future::pending().await;
            }
            let _ = updates.wait_for(shorter).await;
        };
        tokio::select! {
            () = self.stop_everything(grace) => {}
            () = hurried => {}
        }
    }

    async fn clean_up(&mut self) -> anyhow::Result<()> {
        let uid = self.uid();
        self.context.volumes.release(&uid).await?;
        let (cgroups, path) = (self.context.cgroups.clone(), self.context.cgroups.pod_path(&self.pod));
        tokio::task::spawn_blocking(move || cgroups.remove(&path)).await??;
        self.context.release(&uid);
        Ok(())
    }

    /// The object goes only after its last status was written.
    async fn delete_object(&self) -> Result<(), crate::cluster::ClusterError> {
        if let Some(status) = &self.status {
            // An API server that does not take the status must not keep the object for ever.
            let written = self.context.statuses.set_and_wait(self.with_status(status.clone()));
            if tokio::time::timeout(LAST_STATUS, written).await.is_err() {
                tracing::warn!(pod = pod_text(&self.pod), "the last status was not written");
            }
        }
        let meta = &self.pod.metadata;
        let (name, namespace) = (
            meta.name.as_deref().unwrap_or_default(),
            meta.namespace.as_deref().unwrap_or_default(),
        );
        match self.context.cluster.delete_pod(namespace, name, &self.uid()).await {
            Err(crate::cluster::ClusterError::NotFound(_) | crate::cluster::ClusterError::Conflict(_)) => Ok(()),
            other => other,
        }
    }

    /// The object is gone: so are the containers' remains, the logs and the folder.
    async fn forget(&mut self) -> Next {
        for sandbox in &self.observed.sandboxes {
            if let Err(error) = self.context.runtime.remove_sandbox(&sandbox.id).await {
                tracing::warn!(%error, pod = pod_text(&self.pod), "remove sandbox");
                return Next::Wait(Timestamp::now().checked_add(RETRY).ok());
            }
        }
        let meta = &self.pod.metadata;
        let (name, namespace) = (
            meta.name.as_deref().unwrap_or_default(),
            meta.namespace.as_deref().unwrap_or_default(),
        );
        let uid = self.uid();
        let logs = log_folder(&self.context.node.log_root, namespace, name, &uid);
        if let Err(error) = tokio::fs::remove_dir_all(&logs).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, folder = %logs.display(), "remove logs");
        }
        if let Err(error) = self.context.volumes.tear_down(&uid).await {
            tracing::warn!(%error, pod = pod_text(&self.pod), "remove the pod's folder");
            return Next::Wait(Timestamp::now().checked_add(RETRY).ok());
        }
        Next::Gone
    }

    /// Generates the status and hands it in when it changed; the phase.
    fn publish(&mut self, now: Timestamp, over: bool) -> String {
        let known = self
            .pod
            .status
            .as_ref()
            .and_then(|status| status.phase.clone())
            .unwrap_or_default();
        if self.status.is_none() && matches!(known.as_str(), "Succeeded" | "Failed") {
            // Finished before this kubelet started: its status says more than the runtime still knows.
            return known;
        }
        let base = self.base_status();
        let pod = self.with_status(base.clone());
        let readiness = self.probes.readiness(&self.observed);
        let next = status::generate(&StatusInputs {
            pod: &pod,
            observed: &self.observed,
            readiness: &readiness,
            waiting: &self.waiting,
            host_ips: &self.context.node.ips,
            started: self.first_seen,
            failed: self
                .failed
                .as_ref()
                .map(|(reason, message)| (reason.as_str(), message.as_str())),
            over,
            now,
        });
        let phase = next.phase.clone().unwrap_or_default();
        if self.pod.status.as_ref() != Some(&next) && self.status.as_ref() != Some(&next) {
            self.context.statuses.set(self.with_status(next.clone()));
        }
        self.status = Some(next);
        phase
    }

    /// Our last word, with what others have written since.
    fn base_status(&self) -> PodStatus {
        let theirs = self.pod.status.clone().unwrap_or_default();
        let Some(ours) = &self.status else { return theirs };
        let own = ours
            .conditions
            .iter()
            .flatten()
            .filter(|c| OWN_CONDITIONS.contains(&c.type_.as_str()));
        let foreign = theirs
            .conditions
            .iter()
            .flatten()
            .filter(|c| !OWN_CONDITIONS.contains(&c.type_.as_str()));
        let conditions = own.chain(foreign).cloned().collect();
        PodStatus {
            conditions: Some(conditions),
            nominated_node_name: theirs.nominated_node_name,
            resize: theirs.resize,
            resource_claim_statuses: theirs.resource_claim_statuses,
            ..ours.clone()
        }
    }

    fn with_status(&self, status: PodStatus) -> Pod {
        Pod {
            metadata: self.pod.metadata.clone(),
            spec: self.pod.spec.clone(),
            status: Some(status),
        }
    }

    async fn refresh_volumes(&mut self, now: Timestamp) {
        let due = match &self.refreshed {
            None => self.observed.sandbox().is_some(),
            Some((_, pod)) => {
                self.refresh_at().is_some_and(|at| at <= now)
                    || pod.metadata.labels != self.pod.metadata.labels
                    || pod.metadata.annotations != self.pod.metadata.annotations
            }
        };
        if due
            && self.has_volumes()
            && let Err(error) = self.set_up_volumes().await
        {
            tracing::warn!(%error, pod = pod_text(&self.pod), "refresh volumes");
            self.refreshed = Some((now, self.pod.clone()));
        }
    }

    fn has_volumes(&self) -> bool {
        self.pod
            .spec
            .as_ref()
            .and_then(|spec| spec.volumes.as_ref())
            .is_some_and(|volumes| !volumes.is_empty())
    }

    fn refresh_at(&self) -> Option<Timestamp> {
        let (at, _) = self.refreshed.as_ref()?;
        if !self.has_volumes() {
            return None;
        }
        let regular = at.checked_add(REFRESH).ok()?;
        Some(
            self.context
                .volumes
                .tokens()
                .next_renewal(&self.uid())
                .map_or(regular, |renewal| renewal.min(regular).max(*at)),
        )
    }

    pub(super) async fn set_up_volumes(&mut self) -> Result<(), crate::volumes::SetUpError> {
        let ips = self
            .observed
            .sandbox()
            .map(|sandbox| sandbox.ips.clone())
            .unwrap_or_default();
        let facts = self.context.facts(&self.pod, &ips);
        self.places = self.context.volumes.set_up(&self.pod, &facts).await?;
        self.refreshed = Some((Timestamp::now(), self.pod.clone()));
        Ok(())
    }

    pub(super) fn warn(&self, reason: &str, message: &str) {
        self.context
            .cluster
            .event(&self.pod, EventKind::Warning, reason, message);
    }

    pub(super) fn tell(&self, reason: &str, message: &str) {
        self.context
            .cluster
            .event(&self.pod, EventKind::Normal, reason, message);
    }
}
