//! Job: runs pods until enough of them have succeeded.
//!
//! Every pod carries a finalizer until its end is counted, so that a pod that is deleted the moment it ends still counts. Counting takes three
//! passes, each of which a crash may interrupt: the uid goes into `status.uncountedTerminatedPods`, the finalizer goes, then the uid turns
//! into a number. Jobs of completion mode `Indexed` are left alone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use api::core::v1::Pod;
use api::labels::Selector;
use api::meta::Time;
use api::{Object, ObjectKey};
use client::{Cache, Client, EventRecorder, EventType, Patch};
use controller::{Action, Error};
use futures_util::future::try_join_all;
use jiff::Timestamp;
use serde_json::json;

use crate::pod_control::{PodControl, settled, wake_owners};
use crate::pods::{self, elapsed};
use crate::semantic;
use crate::setup::{Setup, enqueue};

/// The finalizer of a pod whose end is not counted.
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// The first wait after a failed pod; it doubles with each further one.
const BACK_OFF_BASE: Duration = Duration::from_secs(10);
/// The longest.
const BACK_OFF_LIMIT: Duration = Duration::from_secs(600);

/// What a pass does, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The pods whose finalizer goes: their uid stands in the stored status.
    pub release: Vec<Arc<Pod>>,
    /// The pods that go.
    pub delete: Vec<Arc<Pod>>,
    /// How many pods are created.
    pub create: usize,
    /// The status.
    pub status: JobStatus,
    /// When to look again.
    pub wait: Option<Duration>,
}

/// What the Job needs; `pods` are its pods in any state.
pub fn plan(job: &Job, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let spec = job.spec.clone().unwrap_or_default();
    let before = job.status.clone().unwrap_or_default();
    let mut plan = Plan {
        status: before.clone(),
        ..Default::default()
    };
    let suspended = spec.suspend.unwrap_or(false);
    let over = is_finished(job);
    count(&mut plan, pods, over || job.is_deleting());
    if over || job.is_deleting() {
        return plan;
    }
    let active: Vec<_> = pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
    let terminating = pods
        .iter()
        .filter(|pod| pod.is_deleting() && !pods::is_terminated(pod))
        .count();
    set_suspended(&mut plan.status, suspended, now);
    if plan.status.start_time.is_none() && !suspended {
        plan.status.start_time = Some(Time(now));
    }
    decide_end(&mut plan, &spec, &active, now);
    let decided = has(&plan.status, "FailureTarget") || has(&plan.status, "SuccessCriteriaMet");
    if decided || suspended {
        plan.delete = active.clone();
        if decided && active.is_empty() && terminating == 0 && uncounted(&plan.status) == 0 {
            finish(&mut plan.status, now);
        }
    } else {
        size(&mut plan, &spec, pods, &active, now);
    }
    let left = i32::try_from(active.len() - plan.delete.len()).unwrap_or(0);
    plan.status.active = Some(left + i32::try_from(plan.create).unwrap_or(0));
    plan.status.ready = Some(i32::try_from(active.iter().filter(|pod| pods::is_ready(pod)).count()).unwrap_or(0));
    plan.status.terminating = Some(i32::try_from(terminating).unwrap_or(0));
    plan
}

/// Whether the Job has come to its end.
pub fn is_finished(job: &Job) -> bool {
    job.status
        .as_ref()
        .is_some_and(|status| has(status, "Complete") || has(status, "Failed"))
}

fn has(status: &JobStatus, kind: &str) -> bool {
    status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == kind && condition.status == "True")
}

fn set(status: &mut JobStatus, kind: &str, value: &str, reason: &str, message: String, now: Timestamp) {
    let conditions = status.conditions.get_or_insert_default();
    if conditions
        .iter()
        .any(|condition| condition.type_ == kind && condition.status == value)
    {
        return;
    }
    conditions.retain(|condition| condition.type_ != kind);
    conditions.push(JobCondition {
        type_: kind.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
}

fn is_tracked(pod: &Pod) -> bool {
    pod.metadata
        .finalizers
        .iter()
        .flatten()
        .any(|finalizer| finalizer == TRACKING)
}

fn uncounted(status: &JobStatus) -> usize {
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    uncounted.succeeded.unwrap_or_default().len() + uncounted.failed.unwrap_or_default().len()
}

/// Moves every ended pod one step on: noted, released, counted. Of a Job that is over everything is released.
fn count(plan: &mut Plan, pods: &[Arc<Pod>], over: bool) {
    let stored = plan.status.uncounted_terminated_pods.clone().unwrap_or_default();
    let tracked: HashSet<&str> = pods.iter().filter(|pod| is_tracked(pod)).map(|pod| pod.uid()).collect();
    let split = |uids: &Option<Vec<String>>| -> (Vec<String>, i32) {
        let (waiting, counted): (Vec<_>, Vec<_>) = uids
            .iter()
            .flatten()
            .cloned()
            .partition(|uid| tracked.contains(uid.as_str()));
        (waiting, i32::try_from(counted.len()).unwrap_or(0))
    };
    let (mut succeeded, new_succeeded) = split(&stored.succeeded);
    let (mut failed, new_failed) = split(&stored.failed);
    plan.status.succeeded = Some(plan.status.succeeded.unwrap_or(0) + new_succeeded);
    plan.status.failed = Some(plan.status.failed.unwrap_or(0) + new_failed);
    let noted: HashSet<String> = succeeded.iter().chain(&failed).cloned().collect();
    for pod in pods.iter().filter(|pod| is_tracked(pod)) {
        // A pod that is being deleted counts as failed once it cannot succeed any more.
        let has_failed = pods::phase(pod) == "Failed" || (pod.is_deleting() && pods::node(pod).is_empty());
        if over || noted.contains(pod.uid()) {
            plan.release.push(pod.clone());
        } else if pods::phase(pod) == "Succeeded" {
            succeeded.push(pod.uid().to_owned());
        } else if has_failed {
            failed.push(pod.uid().to_owned());
        }
    }
    let list = |uids: Vec<String>| Some(uids).filter(|uids| !uids.is_empty());
    plan.status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
        succeeded: list(succeeded),
        failed: list(failed),
    });
}

/// What has succeeded and failed, counted or not.
fn totals(status: &JobStatus) -> (i32, i32) {
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let length = |uids: Option<Vec<String>>| i32::try_from(uids.unwrap_or_default().len()).unwrap_or(0);
    (
        status.succeeded.unwrap_or(0) + length(uncounted.succeeded),
        status.failed.unwrap_or(0) + length(uncounted.failed),
    )
}

fn set_suspended(status: &mut JobStatus, suspended: bool, now: Timestamp) {
    if suspended {
        set(status, "Suspended", "True", "JobSuspended", "Job suspended".into(), now);
        status.start_time = None;
    } else if has(status, "Suspended") {
        set(status, "Suspended", "False", "JobResumed", "Job resumed".into(), now);
        status.start_time = Some(Time(now));
    }
}

/// Decides whether the Job has failed or succeeded; its pods have yet to go.
fn decide_end(plan: &mut Plan, spec: &JobSpec, active: &[Arc<Pod>], now: Timestamp) {
    let (succeeded, failed) = totals(&plan.status);
    let in_place = spec
        .template
        .spec
        .as_ref()
        .and_then(|spec| spec.restart_policy.as_deref())
        == Some("OnFailure");
    let restarts: i32 = if in_place {
        active.iter().map(|pod| pods::max_restarts(pod)).sum()
    } else {
        0
    };
    let limit = spec.backoff_limit.unwrap_or(6);
    let deadline = spec
        .active_deadline_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map(Duration::from_secs);
    let ran = plan.status.start_time.as_ref().map(|start| elapsed(start.0, now));
    if has(&plan.status, "FailureTarget") || has(&plan.status, "SuccessCriteriaMet") {
        return;
    }
    if failed > limit || (in_place && restarts > 0 && restarts >= limit) {
        let message = "Job has reached the specified backoff limit".into();
        return set(
            &mut plan.status,
            "FailureTarget",
            "True",
            "BackoffLimitExceeded",
            message,
            now,
        );
    }
    if let (Some(deadline), Some(ran)) = (deadline, ran) {
        if ran >= deadline {
            let message = "Job was active longer than specified deadline".into();
            return set(
                &mut plan.status,
                "FailureTarget",
                "True",
                "DeadlineExceeded",
                message,
                now,
            );
        }
        plan.wait = Some(deadline - ran);
    }
    let enough = match spec.completions {
        Some(completions) => succeeded >= completions,
        // Without a number one success ends the Job when the others have ended as well.
        None => succeeded > 0 && active.is_empty(),
    };
    if enough {
        let message = "Reached expected number of succeeded pods".into();
        set(
            &mut plan.status,
            "SuccessCriteriaMet",
            "True",
            "CompletionsReached",
            message,
            now,
        );
    }
}

/// Writes the last condition, with the reason of the decision before it.
fn finish(status: &mut JobStatus, now: Timestamp) {
    let failed = has(status, "FailureTarget");
    let (decision, end) = if failed {
        ("FailureTarget", "Failed")
    } else {
        ("SuccessCriteriaMet", "Complete")
    };
    let found = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == decision)
        .cloned();
    let Some(found) = found else { return };
    set(
        status,
        end,
        "True",
        &found.reason.unwrap_or_default(),
        found.message.unwrap_or_default(),
        now,
    );
    if !failed {
        status.completion_time = Some(Time(now));
    }
}

/// Creates what is missing, deletes what is too much, and waits after a failure.
fn size(plan: &mut Plan, spec: &JobSpec, pods: &[Arc<Pod>], active: &[Arc<Pod>], now: Timestamp) {
    let (succeeded, failed) = totals(&plan.status);
    let parallelism = spec.parallelism.unwrap_or(1);
    let wanted = match spec.completions {
        Some(completions) => parallelism.min((completions - succeeded).max(0)),
        None if succeeded > 0 => i32::try_from(active.len()).unwrap_or(parallelism).min(parallelism),
        None => parallelism,
    };
    let wanted = usize::try_from(wanted).unwrap_or(0);
    if active.len() > wanted {
        let mut order = active.to_vec();
        order.sort_by_key(|pod| (pods::is_ready(pod), pods::phase(pod) == "Running", pod.uid().to_owned()));
        plan.delete = order.into_iter().take(active.len() - wanted).collect();
        return;
    }
    let missing = wanted - active.len();
    if missing == 0 {
        return;
    }
    let ends = pods
        .iter()
        .filter(|pod| pods::phase(pod) == "Failed")
        .filter_map(|pod| {
            let ready = pods::condition(pod, "Ready").and_then(|ready| ready.last_transition_time.as_ref());
            ready.or(pod.metadata.creation_timestamp.as_ref()).map(|time| time.0)
        });
    let since = ends.max().map_or(BACK_OFF_LIMIT, |end| elapsed(end, now));
    let exponent = u32::try_from(failed.saturating_sub(1)).unwrap_or(0).min(16);
    let delay = if failed > 0 {
        (BACK_OFF_BASE * 2u32.pow(exponent)).min(BACK_OFF_LIMIT)
    } else {
        Duration::ZERO
    };
    match delay.checked_sub(since).filter(|left| !left.is_zero()) {
        Some(left) => plan.wait = Some(plan.wait.map_or(left, |wait| wait.min(left))),
        None => plan.create = missing.min(500),
    }
}

fn selector(job: &Job) -> Option<Selector> {
    let selector = job.spec.as_ref()?.selector.as_ref()?;
    Selector::from_label_selector(selector)
        .ok()
        .filter(|selector| !selector.is_empty())
}

/// Adds the controller.
pub fn start(setup: &mut Setup) {
    let queue = setup.queue("job");
    setup.informers.jobs.on_event(enqueue(&queue));
    let (waking, jobs) = (queue.clone(), setup.informers.jobs.late());
    setup
        .informers
        .pods
        .on_event(move |event| wake_owners(event, &jobs, selector, |key| waking.add(key)));
    let (client, events) = (setup.client.clone(), setup.events("job-controller"));
    let workers = setup.config.concurrent_job_syncs;
    setup.run("job", queue, workers, move |caches| {
        let control = PodControl::new(client.clone(), events.clone(), caches.pods);
        let jobs = Arc::new(Jobs {
            client,
            events,
            control,
            jobs: caches.jobs,
        });
        move |key| {
            let jobs = jobs.clone();
            async move { jobs.reconcile(key).await }
        }
    });
}

struct Jobs {
    client: Client,
    events: EventRecorder,
    control: PodControl,
    jobs: Cache<Job>,
}

impl Jobs {
    async fn reconcile(&self, key: ObjectKey) -> Result<Action, Error> {
        let Some(job) = self.jobs.get(&key) else {
            self.control.forget(&key);
            return Ok(Action::Done);
        };
        let (Some(selector), Some(spec)) = (selector(&job), &job.spec) else {
            return Ok(Action::Done);
        };
        if spec.completion_mode.as_deref() == Some("Indexed") || spec.managed_by.is_some() {
            return Ok(Action::Done);
        }
        let Some(pods) = self.control.owned(&*job, &selector).await? else {
            return Ok(Action::Done);
        };
        let plan = plan(&job, &pods, Timestamp::now());
        try_join_all(plan.release.iter().map(|pod| self.release(pod))).await?;
        let deleted = self.control.delete(&*job, &plan.delete).await;
        let mut pod = pods::from_template(&spec.template, &key.namespace, &key.name, job.owner_reference(true));
        pod.metadata.finalizers.get_or_insert_default().push(TRACKING.into());
        let failure = self.control.create(&*job, &vec![pod; plan.create]).await.or(deleted);
        let written = Job {
            status: Some(plan.status),
            ..(*job).clone()
        };
        if !semantic::equal(&*job, &written) {
            let doing = format!("write the status of Job {key}");
            self.client
                .api::<Job>()
                .update_status(&written)
                .await
                .map_err(Error::client(doing))?;
            if is_finished(&written) && !is_finished(&job) {
                self.tell_end(&written);
            }
        }
        settled(&*job, failure)?;
        Ok(plan.wait.map_or(Action::Done, Action::RequeueAfter))
    }

    async fn release(&self, pod: &Pod) -> Result<(), Error> {
        let patch = json!({"metadata": {"uid": pod.uid(), "$deleteFromPrimitiveList/finalizers": [TRACKING]}});
        let patched = self
            .client
            .api::<Pod>()
            .patch(pod.namespace(), pod.name(), "", &Patch::Strategic(patch))
            .await;
        match patched {
            Err(error) if error.is_not_found() => Ok(()),
            patched => patched
                .map(drop)
                .map_err(Error::client(format!("release pod {} of its Job", pod.key()))),
        }
    }

    fn tell_end(&self, job: &Job) {
        let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
        for condition in conditions {
            let reason = condition.reason.as_deref().unwrap_or("");
            match condition.type_.as_str() {
                "Complete" => self.events.event(job, EventType::Normal, "Completed", "Job completed"),
                "Failed" => {
                    let message = condition.message.as_deref().unwrap_or("");
                    self.events.event(job, EventType::Warning, reason, message);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::testing::{ago, now, pod};

    fn job(completions: Option<i32>, parallelism: i32) -> Job {
        Job {
            spec: Some(JobSpec {
                completions,
                parallelism: Some(parallelism),
                backoff_limit: Some(1),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn tracked(name: &str, phase: &str) -> Pod {
        let mut pod = pod(name, phase);
        pod.metadata.finalizers = Some(vec![TRACKING.into()]);
        pod
    }

    fn planned(job: &Job, pods: &[Pod]) -> Plan {
        plan(job, &pods.iter().cloned().map(Arc::new).collect::<Vec<_>>(), now())
    }

    fn conditions(status: &JobStatus) -> Vec<&str> {
        status
            .conditions
            .iter()
            .flatten()
            .map(|condition| condition.type_.as_str())
            .collect()
    }

    #[test]
    fn runs_as_many_at_once_as_it_may_and_needs() {
        let cases = [
            (Some(5), 2, 0, 2),
            (Some(1), 2, 0, 1),
            (None, 3, 0, 3),
            (Some(5), 2, 1, 1),
            (Some(5), 0, 0, 0),
        ];
        for (completions, parallelism, running, created) in cases {
            let pods: Vec<_> = (0..running).map(|n| tracked(&format!("p{n}"), "Running")).collect();
            assert_eq!(
                planned(&job(completions, parallelism), &pods).create,
                created,
                "{completions:?} {parallelism}"
            );
        }
    }

    #[test]
    fn an_end_is_noted_released_and_counted_once() {
        let mut job = job(Some(1), 1);
        let mut pod = tracked("p", "Succeeded");
        let noted = planned(&job, std::slice::from_ref(&pod));
        assert_eq!(
            (noted.release.len(), noted.status.succeeded, uncounted(&noted.status)),
            (0, Some(0), 1)
        );
        assert_eq!(conditions(&noted.status), ["SuccessCriteriaMet"]);
        assert_eq!(noted.create, 0, "what is noted counts already");
        job.status = Some(noted.status);

        let released = planned(&job, std::slice::from_ref(&pod));
        assert_eq!((released.release.len(), released.status.succeeded), (1, Some(0)));
        job.status = Some(released.status);
        pod.metadata.finalizers = None;

        let counted = planned(&job, &[pod]);
        assert_eq!((counted.status.succeeded, uncounted(&counted.status)), (Some(1), 0));
        assert_eq!(conditions(&counted.status), ["SuccessCriteriaMet", "Complete"]);
        assert!(counted.status.completion_time.is_some());
        job.status = Some(counted.status);
        let after = planned(&job, &[]);
        assert_eq!(
            (after.create, after.status.succeeded),
            (0, Some(1)),
            "a Job that is over stays over"
        );
    }

    #[test]
    fn failures_wait_longer_and_end_the_job_beyond_the_limit() {
        let mut job = job(Some(1), 1);
        let mut failed = tracked("p", "Failed");
        failed.metadata.creation_timestamp = Some(ago(4));
        let first = planned(&job, std::slice::from_ref(&failed));
        assert_eq!((first.create, first.wait), (0, Some(Duration::from_secs(6))));
        job.status = Some(JobStatus {
            failed: Some(2),
            ..Default::default()
        });
        let second = planned(&job, &[tracked("q", "Running")]);
        assert_eq!(conditions(&second.status), ["FailureTarget"]);
        assert_eq!(second.delete.len(), 1);
        job.status = Some(second.status);
        assert_eq!(conditions(&planned(&job, &[]).status), ["FailureTarget", "Failed"]);
    }

    #[test]
    fn the_deadline_ends_a_job_and_a_suspended_one_has_no_pods() {
        let mut late = job(Some(1), 1);
        late.spec.as_mut().unwrap().active_deadline_seconds = Some(60);
        late.status = Some(JobStatus {
            start_time: Some(ago(20)),
            ..Default::default()
        });
        assert_eq!(
            planned(&late, &[tracked("p", "Running")]).wait,
            Some(Duration::from_secs(40))
        );
        late.status = Some(JobStatus {
            start_time: Some(ago(60)),
            ..Default::default()
        });
        assert_eq!(
            conditions(&planned(&late, &[tracked("p", "Running")]).status),
            ["FailureTarget"]
        );

        let mut suspended = job(Some(1), 1);
        suspended.spec.as_mut().unwrap().suspend = Some(true);
        let plan = planned(&suspended, &[tracked("p", "Running")]);
        assert_eq!(
            (plan.delete.len(), plan.create, plan.status.start_time.is_none()),
            (1, 0, true)
        );
    }
}
