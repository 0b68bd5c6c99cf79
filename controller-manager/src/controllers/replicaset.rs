//! ReplicaSet and ReplicationController: keep a number of pods. The rules are [`super::replicas`]'s; this is their cache, their writes and what
//! differs between the two kinds.

use std::sync::Arc;

use api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use api::core::v1::{
    Pod, PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use api::labels::Selector;
use api::meta::Time;
use api::{Object, ObjectKey};
use client::{Cache, Client};
use controller::{Action, Error};
use jiff::Timestamp;

use super::replicas::{Change, Failure, Status, View, plan};
use crate::pod_control::{PodControl, settled, wake_owners};
use crate::setup::{Caches, Informers, OWNER, Setup, Shared, enqueue};
use crate::{pods, semantic};

/// A kind that keeps a number of pods.
pub trait Replicated: Object {
    /// The name of its queue.
    const QUEUE: &'static str;
    /// Who its events are from.
    const COMPONENT: &'static str;

    /// Its informer.
    fn shared(informers: &mut Informers) -> &mut Shared<Self>;
    /// Its cache.
    fn cache(caches: &Caches) -> Cache<Self>;
    /// What the shared rules look at.
    fn view(&self) -> View;
    /// The selector of its pods, unless it is invalid.
    fn selector(&self) -> Option<Selector>;
    /// What its pods are made from.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// The object with another status.
    fn with_status(&self, status: Status) -> Self;
}

const REPLICA_FAILURE: &str = "ReplicaFailure";

/// The two kinds differ in the names of their types and in one count that the older has not.
macro_rules! replicated {
    ($kind:ident, $status:ident, $condition:ident, $field:ident, $queue:literal, $component:literal, $selector:expr $(, $terminating:ident)?) => {
        impl Replicated for $kind {
            const QUEUE: &'static str = $queue;
            const COMPONENT: &'static str = $component;

            fn shared(informers: &mut Informers) -> &mut Shared<Self> {
                &mut informers.$field
            }

            fn cache(caches: &Caches) -> Cache<Self> {
                caches.$field.clone()
            }

            fn view(&self) -> View {
                let spec = self.spec.clone().unwrap_or_default();
                let status = self.status.clone().unwrap_or_default();
                let failure = status
                    .conditions
                    .iter()
                    .flatten()
                    .find(|condition| condition.type_ == REPLICA_FAILURE);
                let template = spec.template.and_then(|template| template.metadata);
                View {
                    desired: spec.replicas.unwrap_or(1),
                    min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
                    template_labels: template.and_then(|meta| meta.labels).unwrap_or_default(),
                    generation: self.metadata.generation.unwrap_or(0),
                    deleting: self.is_deleting(),
                    status: Status {
                        replicas: status.replicas,
                        fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
                        ready: status.ready_replicas.unwrap_or(0),
                        available: status.available_replicas.unwrap_or(0),
                        terminating: 0 $(+ status.$terminating.unwrap_or(0))?,
                        observed_generation: status.observed_generation.unwrap_or(0),
                        failure: failure.map(|condition| Failure {
                            reason: condition.reason.clone().unwrap_or_default(),
                            message: condition.message.clone().unwrap_or_default(),
                            since: condition
                                .last_transition_time
                                .as_ref()
                                .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
                        }),
                    },
                }
            }

            fn selector(&self) -> Option<Selector> {
                $selector(self)
            }

            fn template(&self) -> Option<&PodTemplateSpec> {
                self.spec.as_ref()?.template.as_ref()
            }

            fn with_status(&self, status: Status) -> Self {
                let old = self.status.clone().unwrap_or_default();
                let mut conditions = old.conditions.unwrap_or_default();
                conditions.retain(|condition| condition.type_ != REPLICA_FAILURE);
                conditions.extend(status.failure.map(|failure| $condition {
                    type_: REPLICA_FAILURE.into(),
                    status: "True".into(),
                    reason: Some(failure.reason),
                    message: Some(failure.message),
                    last_transition_time: Some(Time(failure.since)),
                }));
                let written = $status {
                    replicas: status.replicas,
                    fully_labeled_replicas: Some(status.fully_labeled),
                    ready_replicas: Some(status.ready),
                    available_replicas: Some(status.available),
                    observed_generation: Some(status.observed_generation),
                    conditions: Some(conditions).filter(|conditions| !conditions.is_empty()),
                    $($terminating: Some(status.terminating),)?
                };
                Self {
                    status: Some(written),
                    ..self.clone()
                }
            }
        }
    };
}

replicated!(
    ReplicaSet,
    ReplicaSetStatus,
    ReplicaSetCondition,
    replica_sets,
    "replicaset",
    "replicaset-controller",
    |set: &ReplicaSet| Selector::from_label_selector(&set.spec.as_ref()?.selector).ok(),
    terminating_replicas
);
replicated!(
    ReplicationController,
    ReplicationControllerStatus,
    ReplicationControllerCondition,
    replication_controllers,
    "replicationmanager",
    "replication-controller",
    |rc: &ReplicationController| {
        let labels = rc
            .spec
            .as_ref()?
            .selector
            .as_ref()
            .filter(|labels| !labels.is_empty())?;
        Some(Selector::from_map(labels))
    }
);

/// Adds the controller of one of the kinds.
pub fn start<K: Replicated>(setup: &mut Setup, workers: usize) {
    let queue = setup.queue(K::QUEUE);
    K::shared(&mut setup.informers).on_event(enqueue(&queue));
    let (waking, owners) = (queue.clone(), K::shared(&mut setup.informers).late());
    setup
        .informers
        .pods
        .on_event(move |event| wake_owners(event, &owners, K::selector, |key| waking.add(key)));
    let (client, events) = (setup.client.clone(), setup.events(K::COMPONENT));
    setup.run(K::QUEUE, queue, workers, move |caches| {
        let control = PodControl::new(client.clone(), events, caches.pods.clone());
        let objects = K::cache(&caches);
        let replicas = Arc::new(Replicas::<K> {
            client,
            control,
            objects,
            pods: caches.pods,
        });
        move |key| {
            let replicas = replicas.clone();
            async move { replicas.reconcile(key).await }
        }
    });
}

struct Replicas<K> {
    client: Client,
    control: PodControl,
    objects: Cache<K>,
    pods: Cache<Pod>,
}

impl<K: Replicated> Replicas<K> {
    async fn reconcile(&self, key: ObjectKey) -> Result<Action, Error> {
        let Some(object) = self.objects.get(&key) else {
            self.control.forget(&key);
            return Ok(Action::Done);
        };
        let Some(selector) = object.selector() else {
            return Ok(Action::Done);
        };
        let Some(owned) = self.control.owned(&*object, &selector).await? else {
            return Ok(Action::Done);
        };
        let siblings = self.siblings(&object);
        let related: Vec<_> = siblings
            .iter()
            .flat_map(|set| self.pods.by_index(OWNER, set.uid()))
            .collect();
        let changes = plan(&object.view(), &owned, &related, Timestamp::now());
        self.apply(&object, changes).await
    }

    /// The object and those under the same controller.
    fn siblings(&self, object: &Arc<K>) -> Vec<Arc<K>> {
        match object.controller() {
            Some(reference) => self.objects.by_index(OWNER, &reference.uid),
            None => vec![object.clone()],
        }
    }

    async fn apply(&self, object: &K, changes: Vec<Change>) -> Result<Action, Error> {
        let (mut action, mut failed) = (Action::Done, None);
        for change in changes {
            match change {
                Change::Create(count) => {
                    failed = self.create(object, count).await.map(|error| ("FailedCreate", error));
                }
                Change::Delete(pods) => {
                    failed = self
                        .control
                        .delete(object, &pods)
                        .await
                        .map(|error| ("FailedDelete", error));
                }
                Change::Status(status) => {
                    let status = with_failure(status, failed.as_ref(), Timestamp::now());
                    let written = object.with_status(status);
                    if !semantic::equal(object, &written) {
                        let doing = format!("write the status of {} {}", K::KIND, object.key());
                        self.client
                            .api::<K>()
                            .update_status(&written)
                            .await
                            .map_err(Error::client(doing))?;
                    }
                }
                Change::LookAgain(after) => action = Action::RequeueAfter(after),
            }
        }
        settled(object, failed.map(|(_, error)| error))?;
        Ok(action)
    }

    async fn create(&self, object: &K, count: usize) -> Option<client::Error> {
        let reference = object.owner_reference(true);
        let pod = pods::from_template(object.template()?, object.namespace(), object.name(), reference);
        self.control.create(object, &vec![pod; count]).await
    }
}

/// The status with this pass' failure, or without any. A failure that goes on keeps its time.
fn with_failure(status: Status, failed: Option<&(&str, client::Error)>, now: Timestamp) -> Status {
    let failure = failed.map(|(reason, error)| Failure {
        reason: (*reason).to_owned(),
        message: error.to_string(),
        since: status.failure.as_ref().map_or(now, |before| before.since),
    });
    Status { failure, ..status }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::testing::now;

    #[test]
    fn status_survives_the_way_into_either_kind_and_back() {
        let failure = Failure {
            reason: "FailedCreate".into(),
            message: "quota".into(),
            since: now(),
        };
        let status = Status {
            replicas: 3,
            fully_labeled: 2,
            ready: 2,
            available: 1,
            terminating: 1,
            observed_generation: 4,
            failure: Some(failure),
        };
        let set = ReplicaSet::default().with_status(status.clone());
        assert_eq!(set.view().status, status);
        let rc = ReplicationController::default().with_status(status.clone());
        assert_eq!(
            rc.view().status,
            Status {
                terminating: 0,
                ..status
            }
        );
        assert_eq!(set.with_status(Status::default()).status.unwrap().conditions, None);
    }

    #[test]
    fn a_failure_that_goes_on_keeps_its_time() {
        let error = || client::Error::Transport("refused".into());
        let first = with_failure(Status::default(), Some(&("FailedCreate", error())), now());
        let second = with_failure(first.clone(), Some(&("FailedCreate", error())), Timestamp::now());
        assert_eq!(second.failure, first.failure);
        assert_eq!(with_failure(second, None, now()).failure, None);
    }
}
