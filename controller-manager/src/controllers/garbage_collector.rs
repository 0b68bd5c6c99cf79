//! Garbage collection by owner references, over every resource of the API.
//!
//! There is no graph of its own: each resource's metadata is cached with an index by owner uid, so an object's owners are a lookup by name and its
//! dependants a lookup by uid. That an owner is gone is believed of the API server only, never of a cache. Uids are not used twice, so
//! what was gone once stays gone.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, OnceLock};

use api::meta::{ObjectMeta, OwnerReference};
use api::resources::ResourceInfo;
use api::{GroupVersionResource, ObjectKey};
use client::{Cache, Client, DeleteParams, Dynamic, Event, Informer, ListParams, PartialObject, Patch, Propagation};
use controller::{Action, Error, Queue};
use futures_util::future::join_all;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::garbage_collector_plan::{
    Change, Dependent, FOREGROUND, ORPHAN, OwnerState, Policy, has_finalizer, is_waiting, plan,
};
use crate::setup::{OWNER, Setup};

/// How many absent owners are remembered.
const ABSENT: usize = 500;

/// Where an object is: its resource and its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    group: &'static str,
    resource: &'static str,
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
    info: &'static ResourceInfo,
    dynamic: Dynamic,
    cache: Cache<PartialObject>,
}

type Kinds = HashMap<(&'static str, &'static str), Kind>;

/// Adds the controller.
pub fn start(setup: &mut Setup) {
    let queue: Queue<Place> = setup.queue("garbage_collector");
    let (client, shutdown) = (setup.client.clone(), setup.shutdown.clone());
    let workers = setup.config.concurrent_gc_syncs;
    setup.task(move |_| async move {
        let kinds: Arc<OnceLock<Kinds>> = Arc::default();
        let watched = watch_all(&client, &queue, &kinds, &shutdown);
        let synced = join_all(watched.values().map(|kind| kind.cache.synced()));
        if shutdown.run_until(synced).await.is_none() {
            return;
        }
        // What handlers could not look up before all caches were there is looked up now.
        for kind in watched.values() {
            kind.cache
                .list()
                .iter()
                .filter(|object| concerns_us(&object.metadata))
                .for_each(|object| queue.add(place(kind.info, &object.metadata)));
        }
        let collector = Arc::new(Collector {
            queue: queue.clone(),
            kinds: kinds.clone(),
            absent: Mutex::default(),
        });
        let _ = kinds.set(watched);
        let reconcile = move |place| {
            let collector = collector.clone();
            async move { collector.reconcile(place).await }
        };
        controller::run("garbage_collector", queue, workers, reconcile, shutdown.token()).await;
    });
}

fn watch_all(
    client: &Client,
    queue: &Queue<Place>,
    kinds: &Arc<OnceLock<Kinds>>,
    shutdown: &daemon::Shutdown,
) -> Kinds {
    let collectable = |info: &&&'static ResourceInfo| {
        let verbs = ["list", "watch", "delete"].iter().all(|verb| info.verbs.contains(verb));
        // Events own nothing and are owned by nothing.
        verbs && info.version == info.storage_version && info.resource != "events"
    };
    let resources: Vec<&'static ResourceInfo> =
        api::resources::all().iter().filter(|info| collectable(&info)).collect();
    let watch = |info: &'static ResourceInfo| {
        let resource = GroupVersionResource::new(&*info.group, &*info.version, &*info.resource);
        let dynamic = client.dynamic(&resource);
        let (queue, kinds) = (queue.clone(), kinds.clone());
        let informer = Informer::partial(&dynamic, &ListParams::default())
            .index(OWNER, |object: &PartialObject| {
                owners(&object.metadata).map(|owner| owner.uid.clone()).collect()
            })
            .on_event(move |event| wake(info, event, &kinds, &queue));
        let cache = informer.start(shutdown);
        ((&*info.group, &*info.resource), Kind { info, dynamic, cache })
    };
    resources.into_iter().map(watch).collect()
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

fn place(info: &'static ResourceInfo, meta: &ObjectMeta) -> Place {
    let key = ObjectKey::new(
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    );
    Place {
        group: &info.group,
        resource: &info.resource,
        key,
    }
}

/// The resource and place of an owner; nothing for a kind that is not built in.
fn owner_place(owner: &OwnerReference, namespace: &str) -> Option<(&'static ResourceInfo, Place)> {
    let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
    let info = api::resources::find_kind(group, version, &owner.kind)?;
    let namespace = if info.namespaced { namespace } else { "" };
    Some((
        info,
        Place {
            group: &info.group,
            resource: &info.resource,
            key: ObjectKey::new(namespace, &*owner.name),
        },
    ))
}

fn wake(info: &'static ResourceInfo, event: &Event<PartialObject>, kinds: &OnceLock<Kinds>, queue: &Queue<Place>) {
    let meta = &event.object().metadata;
    let uid = meta.uid.as_deref().unwrap_or("");
    let gone = matches!(event, Event::Deleted(_));
    if !gone && concerns_us(meta) {
        queue.add(place(info, meta));
    }
    if gone {
        dependents(kinds.get(), uid)
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
            .filter_map(|owner| owner_place(owner, namespace));
        waited.for_each(|(_, place)| queue.add(place));
    }
}

fn dependents(kinds: Option<&Kinds>, uid: &str) -> Vec<Dependent<Place>> {
    let mut found = Vec::new();
    for kind in kinds.into_iter().flat_map(HashMap::values) {
        for object in kind.cache.by_index(OWNER, uid) {
            let blocks =
                owners(&object.metadata).any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true));
            found.push(Dependent {
                id: place(kind.info, &object.metadata),
                blocks,
                waiting: is_waiting(&object.metadata),
            });
        }
    }
    found
}

struct Collector {
    queue: Queue<Place>,
    kinds: Arc<OnceLock<Kinds>>,
    absent: Mutex<VecDeque<String>>,
}

impl Collector {
    fn kind(&self, place: &Place) -> Option<&Kind> {
        self.kinds.get()?.get(&(place.group, place.resource))
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
        let dependents = dependents(self.kinds.get(), meta.uid.as_deref().unwrap_or(""));
        for change in plan(meta, &states, &dependents) {
            self.apply(kind, &place, meta, change).await?;
        }
        Ok(Action::Done)
    }

    async fn state(&self, owner: &OwnerReference, namespace: &str) -> Result<OwnerState, Error> {
        if self.absent.lock().contains(&owner.uid) {
            return Ok(OwnerState::Absent);
        }
        // A kind that is not built in cannot be asked about, and what cannot be known to be gone is there.
        let Some((info, place)) = owner_place(owner, namespace) else {
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
        if info.namespaced && namespace.is_empty() {
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
                let dropped: Vec<Value> = uids.iter().map(|uid| json!({"$patch": "delete", "uid": uid})).collect();
                self.patch(
                    kind,
                    place,
                    json!({"metadata": {"uid": uid, "ownerReferences": dropped}}),
                )
                .await
            }
            Change::Unblock => {
                let freed: Vec<Value> = owners(meta)
                    .map(|owner| json!({"uid": owner.uid, "blockOwnerDeletion": false}))
                    .collect();
                self.patch(kind, place, json!({"metadata": {"uid": uid, "ownerReferences": freed}}))
                    .await
            }
            Change::Release(dependent) => match self.kind(&dependent) {
                Some(its) => {
                    let dropped = json!([{"$patch": "delete", "uid": uid}]);
                    self.patch(its, &dependent, json!({"metadata": {"ownerReferences": dropped}}))
                        .await
                }
                None => Ok(()),
            },
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

    async fn patch(&self, kind: &Kind, place: &Place, patch: Value) -> Result<(), Error> {
        let patched = kind
            .dynamic
            .patch(&place.key.namespace, &place.key.name, &Patch::Strategic(patch))
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
