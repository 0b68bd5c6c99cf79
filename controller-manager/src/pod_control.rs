//! What controllers that make pods themselves do alike: find their pods, adopt, create and delete, with events and a memory of the writes.

use std::sync::Arc;

use api::core::v1::Pod;
use api::labels::Selector;
use api::{Object, ObjectKey};
use client::{Cache, Client, DeleteParams, EventRecorder, EventType};
use controller::{Error, Writes, slow_start};
use futures_util::future::join_all;

use crate::setup::{Late, NAMESPACE, OWNER};
use crate::{ownership, pods};

/// The pods of the objects of one controller.
pub struct PodControl {
    client: Client,
    events: EventRecorder,
    pods: Cache<Pod>,
    writes: Writes<ObjectKey>,
}

impl PodControl {
    /// Over the cache of all pods.
    pub fn new(client: Client, events: EventRecorder, pods: Cache<Pod>) -> PodControl {
        PodControl {
            client,
            events,
            pods,
            writes: Writes::new(),
        }
    }

    /// The pods of an owner, after adopting and releasing. Nothing while the cache does not show the last writes for it: the event that shows
    /// them wakes the owner's key.
    pub async fn owned<K: Object>(&self, owner: &K, selector: &Selector) -> Result<Option<Vec<Arc<Pod>>>, Error> {
        // Read before the pods: what they show is at least this.
        let revision = self.pods.revision();
        let mut candidates = self.pods.by_index(OWNER, owner.uid());
        candidates.extend(self.pods.by_index(OWNER, &ownership::orphans(owner.namespace())));
        let mut claims = ownership::claim(owner, selector, candidates);
        let active = claims.owned.iter().filter(|pod| pods::is_active(pod));
        if !self.writes.visible(&owner.key(), revision, active.map(|pod| pod.uid())) {
            return Ok(None);
        }
        let api = self.client.api::<Pod>();
        for pod in &claims.release {
            ownership::apply_release(&api, owner.uid(), &**pod).await?;
        }
        // The cache may not show yet that the owner is gone or going; what it adopts now would be collected with it.
        if !claims.adopt.is_empty() && ownership::is_current(&self.client.api::<K>(), owner).await? {
            for pod in claims.adopt {
                if ownership::apply_adoption(&api, &owner.owner_reference(true), &*pod).await? {
                    claims.owned.push(pod);
                }
            }
        }
        Ok(Some(claims.owned))
    }

    /// Forgets an owner that is gone.
    pub fn forget(&self, owner: &ObjectKey) {
        self.writes.forget(owner);
    }

    /// Creates pods, carefully at first. Returns the first error; what came after it was not tried.
    pub async fn create<K: Object>(&self, owner: &K, pods: &[Pod]) -> Option<client::Error> {
        let api = self.client.api::<Pod>();
        let (created, error) = slow_start(pods.len(), |index| api.create(&pods[index])).await;
        for pod in &created {
            self.writes.created(owner.key(), pod.resource_version());
            let message = format!("Created pod: {}", pod.name());
            self.events.event(owner, EventType::Normal, "SuccessfulCreate", message);
        }
        if let Some(error) = &error
            && !error.is_namespace_terminating()
        {
            let message = format!("Error creating: {error}");
            self.events.event(owner, EventType::Warning, "FailedCreate", message);
        }
        error
    }

    /// Deletes pods at once. Returns the first error.
    pub async fn delete<K: Object>(&self, owner: &K, pods: &[Arc<Pod>]) -> Option<client::Error> {
        let api = self.client.api::<Pod>();
        let deletions = pods.iter().map(async |pod| {
            let only = DeleteParams::default().uid(pod.uid());
            match api.delete(pod.namespace(), pod.name(), &only).await {
                Err(error) if !error.is_not_found() => {
                    let message = format!("Error deleting: {error}");
                    self.events.event(owner, EventType::Warning, "FailedDelete", message);
                    Some(error)
                }
                _ => {
                    self.writes.removed(owner.key(), pod.uid());
                    let message = format!("Deleted pod: {}", pod.name());
                    self.events.event(owner, EventType::Normal, "SuccessfulDelete", message);
                    None
                }
            }
        });
        join_all(deletions).await.into_iter().flatten().next()
    }
}

/// The outcome of creating or deleting as a reconcile's: nothing can be created in a namespace on its way out, and nothing needs to be.
pub fn settled<K: Object>(owner: &K, failure: Option<client::Error>) -> Result<(), Error> {
    match failure {
        Some(error) if !error.is_namespace_terminating() => {
            Err(Error::client(format!("manage the pods of {} {}", K::KIND, owner.key()))(error))
        }
        _ => Ok(()),
    }
}

/// Calls `wake` with the keys that a change of a pod concerns: its controller before and after, and for an orphan everyone who may adopt it.
pub fn wake_owners<K: Object>(
    event: &client::Event<Pod>,
    owners: &Late<K>,
    selector: impl Fn(&K) -> Option<Selector>,
    wake: impl Fn(ObjectKey),
) {
    let pod = event.object();
    let references = [Some(pod), event.previous()]
        .into_iter()
        .flatten()
        .filter_map(|pod| pod.controller());
    for reference in references.filter(|it| it.kind == K::KIND && it.api_version == K::API_VERSION) {
        wake(ObjectKey::new(pod.namespace(), &*reference.name));
    }
    if pod.controller().is_none() && !pod.is_deleting() && !matches!(event, client::Event::Deleted(_)) {
        let candidates = owners.by_index(NAMESPACE, pod.namespace());
        let adopters = candidates
            .iter()
            .filter(|it| selector(it).is_some_and(|it| it.matches(pod.labels())));
        adopters.for_each(|owner| wake(owner.key()));
    }
}
