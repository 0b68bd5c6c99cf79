//! Deletes Jobs that have been over for `spec.ttlSecondsAfterFinished`.

use std::sync::Arc;
use std::time::Duration;

use api::batch::v1::Job;
use api::{Object, ObjectKey};
use client::{Cache, Client, DeleteParams, Propagation};
use controller::{Action, Error};
use jiff::Timestamp;

use crate::pods::elapsed;
use crate::setup::{Setup, enqueue};

/// How long the Job may still stay; nothing if it stays.
pub fn plan(job: &Job, now: Timestamp) -> Option<Duration> {
    let ttl = job
        .spec
        .as_ref()?
        .ttl_seconds_after_finished
        .and_then(|seconds| u64::try_from(seconds).ok())?;
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ends = conditions.filter(|it| it.status == "True" && (it.type_ == "Complete" || it.type_ == "Failed"));
    let end = ends
        .filter_map(|it| it.last_transition_time.as_ref())
        .map(|time| time.0)
        .min()?;
    (!job.is_deleting()).then(|| Duration::from_secs(ttl).saturating_sub(elapsed(end, now)))
}

/// Adds the controller.
pub fn start(setup: &mut Setup) {
    let queue = setup.queue("ttl_jobs_to_delete");
    setup.informers.jobs.on_event(enqueue(&queue));
    let client = setup.client.clone();
    setup.run("ttl_jobs_to_delete", queue, 2, move |caches| {
        let controller = Arc::new(Controller {
            client,
            jobs: caches.jobs,
        });
        move |key| {
            let controller = controller.clone();
            async move { controller.reconcile(key).await }
        }
    });
}

struct Controller {
    client: Client,
    jobs: Cache<Job>,
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Action, Error> {
        let Some(job) = self.jobs.get(&key) else {
            return Ok(Action::Done);
        };
        match plan(&job, Timestamp::now()) {
            None => Ok(Action::Done),
            Some(left) if !left.is_zero() => Ok(Action::RequeueAfter(left)),
            Some(_) => {
                // The revision guards against a longer life given in this moment.
                let how = DeleteParams {
                    propagation: Some(Propagation::Foreground),
                    uid: job.uid().to_owned(),
                    resource_version: job.resource_version().to_owned(),
                    grace_period_seconds: None,
                };
                match self.client.api::<Job>().delete(&key.namespace, &key.name, &how).await {
                    Err(error) if !error.is_not_found() => Err(Error::client(format!("delete Job {key}"))(error)),
                    _ => Ok(Action::Done),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use api::batch::v1::{JobCondition, JobSpec, JobStatus};

    use super::*;
    use crate::pods::testing::{ago, now};

    #[test]
    fn a_job_stays_for_its_time_after_its_end() {
        let job = |ttl, end: Option<(&str, i64)>| {
            let condition = |(kind, seconds): (&str, i64)| JobCondition {
                type_: kind.into(),
                status: "True".into(),
                last_transition_time: Some(ago(seconds)),
                ..Default::default()
            };
            Job {
                spec: Some(JobSpec {
                    ttl_seconds_after_finished: ttl,
                    ..Default::default()
                }),
                status: Some(JobStatus {
                    conditions: end.map(|end| vec![condition(end)]),
                    ..Default::default()
                }),
                ..Default::default()
            }
        };
        let cases = [
            (job(None, Some(("Complete", 100))), None),
            (job(Some(60), None), None),
            (job(Some(60), Some(("Suspended", 100))), None),
            (job(Some(60), Some(("Complete", 20))), Some(40)),
            (job(Some(60), Some(("Failed", 60))), Some(0)),
            (job(Some(0), Some(("Complete", 0))), Some(0)),
        ];
        for (job, expected) in cases {
            assert_eq!(plan(&job, now()), expected.map(Duration::from_secs), "{job:?}");
        }
    }
}
