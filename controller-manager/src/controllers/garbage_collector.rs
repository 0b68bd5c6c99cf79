//! Garbage collection by owner references, over every resource of the API.
//!
//! There is no graph of its own: each resource's metadata is cached with an index by owner uid, so an object's owners are a lookup by name and its
//! dependants a lookup by uid. That an owner is gone is believed of the API server only, never of a cache. Uids are not used twice, so
//! what was gone once stays gone.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api::apiextensions::v1::CustomResourceDefinition;
use api::meta::{ObjectMeta, OwnerReference};
use api::resources::{ResourceInfo, Text};
use api::{GroupVersionResource, ObjectKey};
use client::{Cache, Client, DeleteParams, Dynamic, Event, Informer, ListParams, PartialObject, Patch, Propagation};
use controller::{Action, Error, Queue};
use daemon::Shutdown;
use futures_util::future::join_all;
use parking_lot::{Mutex, RwLock};
use serde_json::json;

use super::garbage_collector_plan::{
    Change, Dependent, FOREGROUND, ORPHAN, OwnerState, Policy, has_finalizer, is_waiting, plan,
};
use crate::custom_resources::resource;
use crate::setup::{OWNER, Setup};

/// How many absent owners are remembered.
const ABSENT: usize = 500;

/// Where an object is: its resource and its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    group: Text,
    resource: Text,
    key: ObjectKey,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = if self.group.is_empty() { "" } else { "." };
        write!(f, "{}{dot}{} {}", self.resource, self.group, self.key)
    }
}

/// A resource that is watched.
struct Kind {
    info: ResourceInfo,
    dynamic: Dynamic,
    cache: Cache<PartialObject>,
    /// Ends the watch.
    stop: Shutdown,
}

/// What is watched: the built-in resources from the start, custom ones as long as their definitions are there.
#[derive(Default)]
struct Kinds {
    by_resource: RwLock<HashMap<(Text, Text), Arc<Kind>>>,
    /// All caches of built-in kinds are filled: what is not found is not there.
    complete: AtomicBool,
}

impl Kinds {
    fn get(&self, group: &str, resource: &str) -> Option<Arc<Kind>> {
        let key = (Text::Owned(group.to_owned()), Text::Owned(resource.to_owned()));
        self.by_resource.read().get(&key).cloned()
    }

    fn all(&self) -> Vec<Arc<Kind>> {
        self.by_resource.read().values().cloned().collect()
    }

    /// The kind in any version: an owner is named in the version in which somebody knew it.
    fn find_custom(&self, group: &str, kind: &str) -> Option<Arc<Kind>> {
        let kinds = self.by_resource.read();
        kinds
            .values()
            .find(|k| k.info.is_custom() && k.info.group == group && k.info.kind == kind)
            .cloned()
    }
}

/// Adds the controller.
pub fn start(setup: &mut Setup) {
    let queue: Queue<Place> = setup.queue("garbage_collector");
    let (client, shutdown) = (setup.client.clone(), setup.shutdown.clone());
    let workers = setup.config.concurrent_gc_syncs;
    let watched = Watched {
        client,
        queue: queue.clone(),
        kinds: Arc::default(),
        shutdown: shutdown.clone(),
    };
    let follower = watched.clone();
    setup
        .informers
        .definitions
        .on_event(move |event| follower.follow(event));
    setup.task(move |_| async move {
        let kinds = watched.kinds.clone();
        watched.watch_built_in();
        let all = kinds.all();
        let synced = join_all(all.iter().map(|kind| kind.cache.synced()));
        if shutdown.run_until(synced).await.is_none() {
            return;
        }
        kinds.complete.store(true, Ordering::Release);
        // What handlers could not look up before all caches were there is looked up now.
        for kind in all {
            kind.cache
                .list()
                .iter()
                .filter(|object| concerns_us(&object.metadata))
                .for_each(|object| queue.add(place(&kind.info, &object.metadata)));
        }
        let collector = Arc::new(Collector {
            queue: queue.clone(),
            kinds,
            absent: Mutex::default(),
        });
        let reconcile = move |place| {
            let collector = collector.clone();
            async move { collector.reconcile(place).await }
        };
        controller::run("garbage_collector", queue, workers, reconcile, shutdown.token()).await;
    });
}

/// Watches resources.
#[derive(Clone)]
struct Watched {
    client: Client,
    queue: Queue<Place>,
    kinds: Arc<Kinds>,
    shutdown: Shutdown,
}

impl Watched {
    fn watch_built_in(&self) {
        let collectable = |info: &&ResourceInfo| {
            let verbs = ["list", "watch", "delete"].iter().all(|verb| info.verbs.contains(verb));
            // Events own nothing and are owned by nothing.
            verbs && info.version == info.storage_version && info.resource != "events"
        };
        for info in api::resources::all().iter().filter(collectable) {
            self.watch(info.clone());
        }
    }

    /// A definition came, changed or went.
    fn follow(&self, event: &Event<CustomResourceDefinition>) {
        let definition = event.object();
        let now = resource(definition).filter(|_| !matches!(event, Event::Deleted(_)));
        let (group, plural) = (&definition.spec.group, &definition.spec.names.plural);
        let before = self.kinds.get(group, plural);
        match (&before, &now) {
            (Some(before), Some(now)) if before.info.version == now.version && before.info.kind == now.kind => return,
            (Some(before), _) => {
                before.stop.request();
                let key = (before.info.group.clone(), before.info.resource.clone());
                self.kinds.by_resource.write().remove(&key);
            }
            (None, _) => {}
        }
        if let Some(now) = now {
            self.watch(now);
        }
    }

    fn watch(&self, info: ResourceInfo) {
        let resource = GroupVersionResource::new(&*info.group, &*info.version, &*info.resource);
        let dynamic = self.client.dynamic(&resource);
        let (queue, kinds, of) = (self.queue.clone(), self.kinds.clone(), info.clone());
        let informer = Informer::partial(&dynamic, &ListParams::default())
            .index(OWNER, |object: &PartialObject| {
                owners(&object.metadata).map(|owner| owner.uid.clone()).collect()
            })
            .on_event(move |event| wake(&of, event, &kinds, &queue));
        let stop = self.shutdown.child();
        let cache = informer.start(&stop);
        let kind = Kind {
            info,
            dynamic,
            cache,
            stop,
        };
        let key = (kind.info.group.clone(), kind.info.resource.clone());
        self.kinds.by_resource.write().insert(key, Arc::new(kind));
    }
}

fn owners(meta: &ObjectMeta) -> impl Iterator<Item = &OwnerReference> {
    meta.owner_references.iter().flatten()
}

fn concerns_us(meta: &ObjectMeta) -> bool {
    match meta.deletion_timestamp {
        Some(_) => has_finalizer(meta, FOREGROUND) || has_finalizer(meta, ORPHAN),
        None => owners(meta).next().is_some(),
    }
}

fn place(info: &ResourceInfo, meta: &ObjectMeta) -> Place {
    let key = ObjectKey::new(
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    );
    Place {
        group: info.group.clone(),
        resource: info.resource.clone(),
        key,
    }
}

/// The place of an owner and whether its kind is namespaced; nothing for a kind that is not known.
fn owner_place(kinds: &Kinds, owner: &OwnerReference, namespace: &str) -> Option<(bool, Place)> {
    let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
    let (namespaced, group, resource) = match api::resources::find_kind(group, version, &owner.kind) {
        Some(info) => (info.namespaced, info.group.clone(), info.resource.clone()),
        None => {
            let kind = kinds.find_custom(group, &owner.kind)?;
            (
                kind.info.namespaced,
                kind.info.group.clone(),
                kind.info.resource.clone(),
            )
        }
    };
    let namespace = if namespaced { namespace } else { "" };
    let key = ObjectKey::new(namespace, &*owner.name);
    Some((namespaced, Place { group, resource, key }))
}

fn wake(info: &ResourceInfo, event: &Event<PartialObject>, kinds: &Kinds, queue: &Queue<Place>) {
    let meta = &event.object().metadata;
    let uid = meta.uid.as_deref().unwrap_or("");
    let gone = matches!(event, Event::Deleted(_));
    if !gone && concerns_us(meta) {
        queue.add(place(info, meta));
    }
    if gone {
        dependents(kinds, uid)
            .into_iter()
            .for_each(|dependent| queue.add(dependent.id));
    }
    // An owner may wait for this object no longer.
    let before = event.previous().map(|object| &object.metadata);
    if gone || before.is_some_and(|before| before.owner_references != meta.owner_references) {
        let namespace = meta.namespace.as_deref().unwrap_or("");
        let waited = before
            .into_iter()
            .flat_map(owners)
            .filter_map(|owner| owner_place(kinds, owner, namespace));
        waited.for_each(|(_, place)| queue.add(place));
    }
}

/// Nobody is known to depend on an object before all caches are there.
fn dependents(kinds: &Kinds, uid: &str) -> Vec<Dependent<Place>> {
    let mut found = Vec::new();
    if !kinds.complete.load(Ordering::Acquire) {
        return found;
    }
    for kind in kinds.all() {
        for object in kind.cache.by_index(OWNER, uid) {
            let blocks =
                owners(&object.metadata).any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true));
            found.push(Dependent {
                id: place(&kind.info, &object.metadata),
                blocks,
                waiting: is_waiting(&object.metadata),
            });
        }
    }
    found
}

struct Collector {
    queue: Queue<Place>,
    kinds: Arc<Kinds>,
    absent: Mutex<VecDeque<String>>,
}

impl Collector {
    fn kind(&self, place: &Place) -> Option<Arc<Kind>> {
        self.kinds.get(&place.group, &place.resource)
    }

    async fn reconcile(&self, place: Place) -> Result<Action, Error> {
        let Some(kind) = self.kind(&place) else {
            return Ok(Action::Done);
        };
        let Some(object) = kind
            .cache
            .get(&place.key)
            .filter(|object| concerns_us(&object.metadata))
        else {
            return Ok(Action::Done);
        };
        let meta = &object.metadata;
        let mut states = Vec::new();
        if meta.deletion_timestamp.is_none() {
            for owner in owners(meta) {
                states.push((owner.clone(), self.state(owner, &place.key.namespace).await?));
            }
        }
        let dependents = dependents(&self.kinds, meta.uid.as_deref().unwrap_or(""));
        for change in plan(meta, &states, &dependents) {
            self.apply(&kind, &place, meta, change).await?;
        }
        Ok(Action::Done)
    }

    async fn state(&self, owner: &OwnerReference, namespace: &str) -> Result<OwnerState, Error> {
        if self.absent.lock().contains(&owner.uid) {
            return Ok(OwnerState::Absent);
        }
        // A kind that nobody knows cannot be asked about, and what cannot be known to be gone is there.
        let Some((namespaced, place)) = owner_place(&self.kinds, owner, namespace) else {
            return Ok(OwnerState::Solid);
        };
        let Some(kind) = self.kind(&place) else {
            return Ok(OwnerState::Solid);
        };
        let is_it = |object: &PartialObject| object.metadata.uid.as_deref() == Some(&*owner.uid);
        let of = |object: &PartialObject| {
            if is_waiting(&object.metadata) {
                OwnerState::Waiting
            } else {
                OwnerState::Solid
            }
        };
        if let Some(cached) = kind.cache.get(&place.key).filter(|object| is_it(object)) {
            return Ok(of(&cached));
        }
        if namespaced && namespace.is_empty() {
            // An object of the whole cluster cannot be owned from within a namespace; there is nothing to look up.
            return Ok(OwnerState::Absent);
        }
        match kind.dynamic.get(&place.key.namespace, &place.key.name).await {
            Ok(found) if is_it(&found) => Ok(of(&found)),
            Ok(_) => Ok(self.note_absent(owner)),
            Err(error) if error.is_not_found() => Ok(self.note_absent(owner)),
            Err(error) => Err(Error::client(format!("look for owner {place}"))(error)),
        }
    }

    fn note_absent(&self, owner: &OwnerReference) -> OwnerState {
        let mut absent = self.absent.lock();
        if !absent.contains(&owner.uid) {
            if absent.len() == ABSENT {
                absent.pop_front();
            }
            absent.push_back(owner.uid.clone());
        }
        OwnerState::Absent
    }

    async fn apply(&self, kind: &Kind, place: &Place, meta: &ObjectMeta, change: Change<Place>) -> Result<(), Error> {
        let uid = meta.uid.as_deref().unwrap_or("");
        match change {
            Change::Delete(policy) => {
                let how = DeleteParams {
                    propagation: Some(match policy {
                        Policy::Background => Propagation::Background,
                        Policy::Foreground => Propagation::Foreground,
                        Policy::Orphan => Propagation::Orphan,
                    }),
                    uid: uid.to_owned(),
                    // Someone may be giving it a new owner at this moment.
                    resource_version: meta.resource_version.clone().unwrap_or_default(),
                    grace_period_seconds: None,
                };
                tracing::debug!(object = %place, ?policy, "collecting");
                done(
                    kind.dynamic.delete(&place.key.namespace, &place.key.name, &how).await,
                    "collect",
                    place,
                )
            }
            Change::DropOwners(uids) => {
                let kept = |owner: &&OwnerReference| !uids.contains(&owner.uid);
                let rest = owners(meta).filter(kept).cloned().collect();
                self.own(kind, place, meta, rest).await
            }
            Change::Unblock => {
                let freed = owners(meta).cloned().map(|owner| OwnerReference {
                    block_owner_deletion: Some(false),
                    ..owner
                });
                self.own(kind, place, meta, freed.collect()).await
            }
            Change::Release(dependent) => {
                let Some(its) = self.kind(&dependent) else {
                    return Ok(());
                };
                let Some(object) = its.cache.get(&dependent.key) else {
                    return Ok(());
                };
                let rest = owners(&object.metadata)
                    .filter(|owner| owner.uid != uid)
                    .cloned()
                    .collect();
                self.own(&its, &dependent, &object.metadata, rest).await
            }
            Change::RemoveFinalizer(name) => {
                let rest: Vec<&String> = meta
                    .finalizers
                    .iter()
                    .flatten()
                    .filter(|finalizer| *finalizer != name)
                    .collect();
                let patch =
                    Patch::Merge(json!({"metadata": {"resourceVersion": meta.resource_version, "finalizers": rest}}));
                let patched = kind.dynamic.patch(&place.key.namespace, &place.key.name, &patch).await;
                done(patched.map(drop), "remove a finalizer of", place)
            }
            Change::Visit(dependent) => {
                self.queue.add(dependent);
                Ok(())
            }
        }
    }

    /// Gives an object these owners, unless it has changed: then its event has it looked at again.
    async fn own(
        &self,
        kind: &Kind,
        place: &Place,
        meta: &ObjectMeta,
        owners: Vec<OwnerReference>,
    ) -> Result<(), Error> {
        let owners = serde_json::to_value(owners).unwrap_or_default();
        let patch =
            json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": owners}});
        let patched = kind
            .dynamic
            .patch(&place.key.namespace, &place.key.name, &Patch::Merge(patch))
            .await;
        done(patched.map(drop), "change the owners of", place)
    }
}

/// That an object is gone already is what was wanted.
fn done(outcome: client::Result<()>, verb: &str, place: &Place) -> Result<(), Error> {
    match outcome {
        Err(error) if error.is_not_found() => Ok(()),
        outcome => outcome.map_err(Error::client(format!("{verb} {place}"))),
    }
}
