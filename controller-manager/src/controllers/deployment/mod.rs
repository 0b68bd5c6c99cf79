//! Deployment: rolls pod templates out through ReplicaSets.
//!
//! [`plan`] decides one step; this reads the caches, applies it and says what it did. The names of ReplicaSets follow from the template, so a create
//! that a lagging cache repeats is a conflict that [`Deployments::create`] recognizes as its own.

pub mod plan;
mod revision;
mod status;
#[cfg(test)]
mod testing;

pub use revision::template_hash;

use std::sync::Arc;

use api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use api::core::v1::Pod;
use api::labels::Selector;
use api::{Object, ObjectKey, Resource};
use client::{Cache, Client, DeleteParams, Event, EventRecorder, EventType, Patch};
use controller::{Action, Error, Queue};
use jiff::Timestamp;
use serde_json::json;

use self::plan::{Change, Observed, plan, size};
use crate::setup::{Late, NAMESPACE, OWNER, Setup, enqueue};
use crate::{ownership, pods, semantic};

/// Adds the controller.
pub fn start(setup: &mut Setup) {
    let queue = setup.queue("deployment");
    setup.informers.deployments.on_event(enqueue(&queue));
    let (waking, deployments) = (queue.clone(), setup.informers.deployments.late());
    setup
        .informers
        .replica_sets
        .on_event(move |event| wake_owners(event, &deployments, &waking));
    let (waking, sets) = (queue.clone(), setup.informers.replica_sets.late());
    setup
        .informers
        .pods
        .on_event(move |event| wake_at_last_pod(event, &sets, &waking));
    let (client, events) = (setup.client.clone(), setup.events("deployment-controller"));
    let workers = setup.config.concurrent_deployment_syncs;
    setup.run("deployment", queue, workers, move |caches| {
        let deployments = Arc::new(Deployments {
            client,
            events,
            deployments: caches.deployments,
            replica_sets: caches.replica_sets,
            pods: caches.pods,
        });
        move |key| {
            let deployments = deployments.clone();
            async move { deployments.reconcile(key).await }
        }
    });
}

fn selector(deployment: &Deployment) -> Option<Selector> {
    Selector::from_label_selector(&deployment.spec.as_ref()?.selector)
        .ok()
        .filter(|selector| !selector.is_empty())
}

fn wake_owners(event: &Event<ReplicaSet>, deployments: &Late<Deployment>, queue: &Queue<ObjectKey>) {
    let set = event.object();
    let references = [Some(set), event.previous()]
        .into_iter()
        .flatten()
        .filter_map(|set| set.controller());
    for reference in references.filter(|reference| reference.kind == Deployment::KIND) {
        queue.add(ObjectKey::new(set.namespace(), &*reference.name));
    }
    if set.controller().is_none() {
        for deployment in deployments.by_index(NAMESPACE, set.namespace()) {
            if selector(&deployment).is_some_and(|selector| selector.matches(set.labels())) {
                queue.add(deployment.key());
            }
        }
    }
}

/// Recreation goes on when an old pod has ended; nothing but the pod tells.
fn wake_at_last_pod(event: &Event<Pod>, sets: &Late<ReplicaSet>, queue: &Queue<ObjectKey>) {
    let pod = event.object();
    if !matches!(event, Event::Deleted(_)) && !pods::is_terminated(pod) {
        return;
    }
    let Some(reference) = pod.controller().filter(|reference| reference.kind == ReplicaSet::KIND) else {
        return;
    };
    let Some(set) = sets.get(&ObjectKey::new(pod.namespace(), &*reference.name)) else {
        return;
    };
    if let Some(owner) = set.controller().filter(|owner| owner.kind == Deployment::KIND) {
        queue.add(ObjectKey::new(set.namespace(), &*owner.name));
    }
}

struct Deployments {
    client: Client,
    events: EventRecorder,
    deployments: Cache<Deployment>,
    replica_sets: Cache<ReplicaSet>,
    pods: Cache<Pod>,
}

impl Deployments {
    async fn reconcile(&self, key: ObjectKey) -> Result<Action, Error> {
        let Some(deployment) = self.deployments.get(&key) else {
            return Ok(Action::Done);
        };
        let Some(selector) = selector(&deployment) else {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.events
                .event(&*deployment, EventType::Warning, "SelectingAll", message);
            return Ok(Action::Done);
        };
        let observed = self.observe(deployment, &selector).await?;
        let changes = plan(&observed, Timestamp::now());
        self.apply(&observed.deployment, changes).await
    }

    async fn observe(&self, deployment: Arc<Deployment>, selector: &Selector) -> Result<Observed, Error> {
        let mut candidates = self.replica_sets.by_index(OWNER, deployment.uid());
        candidates.extend(
            self.replica_sets
                .by_index(OWNER, &ownership::orphans(deployment.namespace())),
        );
        let mut claims = ownership::claim(&*deployment, selector, candidates);
        let api = self.client.api::<ReplicaSet>();
        for set in &claims.release {
            ownership::apply_release(&api, deployment.uid(), &**set).await?;
        }
        if !claims.adopt.is_empty() && ownership::is_current(&self.client.api(), &*deployment).await? {
            for set in std::mem::take(&mut claims.adopt) {
                ownership::apply_adoption(&api, &deployment.owner_reference(true), &*set).await?;
            }
        }
        let new = revision::find_new(&deployment, &claims.owned);
        let old = claims
            .owned
            .iter()
            .filter(|set| new.as_ref().is_none_or(|new| new.uid() != set.uid()));
        let mut pods = old.flat_map(|set| self.pods.by_index(OWNER, set.uid()));
        let old_pods_running = pods.any(|pod| !pods::is_terminated(&pod));
        Ok(Observed {
            deployment,
            replica_sets: claims.owned,
            old_pods_running,
        })
    }

    async fn apply(&self, deployment: &Arc<Deployment>, changes: Vec<Change>) -> Result<Action, Error> {
        let (mut deployment, mut action) = (deployment.clone(), Action::Done);
        let sets = self.client.api::<ReplicaSet>();
        for change in changes {
            match change {
                Change::Number(revision) => deployment = Arc::new(self.number(&deployment, revision).await?),
                Change::Create(set) => self.create(&deployment, &set).await?,
                Change::Update(set) => {
                    let doing = format!("write ReplicaSet {}", set.key());
                    sets.update(&set).await.map_err(Error::client(doing))?;
                }
                Change::Scale { from, set } => {
                    let doing = format!("scale ReplicaSet {}", set.key());
                    sets.update(&set).await.map_err(Error::client(doing))?;
                    self.tell_scaled(&deployment, &set, from);
                }
                Change::Delete(set) => {
                    let only = DeleteParams::default().uid(set.uid());
                    match sets.delete(set.namespace(), set.name(), &only).await {
                        Err(error) if !error.is_not_found() => {
                            return Err(Error::client(format!("delete ReplicaSet {}", set.key()))(error));
                        }
                        _ => {}
                    }
                }
                Change::Status(status) => self.write_status(&deployment, *status).await?,
                Change::LookAgain(after) => action = Action::RequeueAfter(after),
            }
        }
        Ok(action)
    }

    async fn number(&self, deployment: &Deployment, revision: i64) -> Result<Deployment, Error> {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {revision::REVISION: revision.to_string()}}}));
        let patched = self
            .client
            .api::<Deployment>()
            .patch(deployment.namespace(), deployment.name(), "", &patch)
            .await;
        patched.map_err(Error::client(format!("number Deployment {}", deployment.key())))
    }

    async fn create(&self, deployment: &Deployment, set: &ReplicaSet) -> Result<(), Error> {
        let sets = self.client.api::<ReplicaSet>();
        match sets.create(set).await {
            Ok(_) => {
                if size(set) > 0 {
                    self.tell_scaled(deployment, set, 0);
                }
                Ok(())
            }
            Err(error) if error.is_already_exists() => self.resolve_collision(deployment, set).await,
            // Nothing can be created in a namespace on its way out.
            Err(error) if error.is_namespace_terminating() => Ok(()),
            Err(error) => {
                let message = format!("Failed to create new replica set \"{}\": {error}", set.name());
                self.events
                    .event(deployment, EventType::Warning, "ReplicaSetCreateError", message);
                let mut status = deployment.status.clone().unwrap_or_default();
                status::note_create_failure(
                    deployment,
                    &mut status,
                    set.name(),
                    &error.to_string(),
                    Timestamp::now(),
                );
                self.write_status(deployment, status).await?;
                Err(Error::client(format!("create ReplicaSet {}", set.key()))(error))
            }
        }
    }

    /// A name that is taken is either our own earlier create, which the cache will show, or another template with the same hash: then the
    /// collision count changes the hash.
    async fn resolve_collision(&self, deployment: &Deployment, set: &ReplicaSet) -> Result<(), Error> {
        let doing = || format!("read ReplicaSet {}", set.key());
        let there = self
            .client
            .api::<ReplicaSet>()
            .get(set.namespace(), set.name())
            .await
            .map_err(Error::client(doing()))?;
        let owned = there.controller().is_some_and(|owner| owner.uid == deployment.uid());
        if owned && revision::find_new(deployment, &[Arc::new(there)]).is_some() {
            return Ok(());
        }
        let mut status = deployment.status.clone().unwrap_or_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        self.write_status(deployment, status).await?;
        Err(Error::Object(format!(
            "name {} is taken by another ReplicaSet, trying the next hash",
            set.key()
        )))
    }

    async fn write_status(&self, deployment: &Deployment, status: DeploymentStatus) -> Result<(), Error> {
        let written = Deployment {
            status: Some(status),
            ..deployment.clone()
        };
        if semantic::equal(deployment, &written) {
            return Ok(());
        }
        let doing = format!("write the status of Deployment {}", deployment.key());
        self.client
            .api::<Deployment>()
            .update_status(&written)
            .await
            .map_err(Error::client(doing))?;
        Ok(())
    }

    fn tell_scaled(&self, deployment: &Deployment, set: &ReplicaSet, from: i32) {
        let direction = match size(set) {
            to if to == from => return,
            to if to > from => "up",
            _ => "down",
        };
        let message = format!(
            "Scaled {direction} replica set {} from {from} to {}",
            set.name(),
            size(set)
        );
        self.events
            .event(deployment, EventType::Normal, "ScalingReplicaSet", message);
    }
}
