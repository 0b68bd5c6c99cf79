//! Informers: a cache that follows a resource by list and watch, and tells handlers what changed.
//!
//! After a broken watch it goes on from the last revision seen; only when that revision is no longer kept does it list again.

use std::sync::Arc;

use api::codec;
use api::meta::ObjectMeta;
use api::{Object, ObjectKey};
use daemon::Shutdown;
use parking_lot::RwLock;
use proto::cluster as pb;
use tokio::sync::watch;

use crate::dynamic::{Dynamic, PartialObject};
use crate::store::{Cache, Event, IndexFn, State};
use crate::typed::{ListParams, resource_of};
use crate::watch::{Backoff, Source, list_once};
use crate::{Client, Error, Result};

type Handler<T> = Box<dyn Fn(&Event<T>) + Send + Sync>;

/// How to read what an informer keeps.
struct Reading<T> {
    decode: fn(&[u8]) -> std::result::Result<T, codec::Error>,
    meta: fn(&T) -> &ObjectMeta,
}

/// Builds a cache of `T`: a kind, or [`PartialObject`].
pub struct Informer<T> {
    source: Source,
    reading: Reading<T>,
    indexes: Vec<(&'static str, IndexFn<T>)>,
    handlers: Vec<Handler<T>>,
}

impl<K: Object> Informer<K> {
    /// Follows the objects of a kind that `params` selects, without their `managedFields`: as maps they are most of an object's memory, and an update
    /// that lacks them keeps those that are there.
    pub fn new(client: &Client, params: &ListParams) -> Self {
        let reading = Reading {
            decode: |bytes| {
                let mut object = K::decode(bytes)?;
                object.metadata_mut().managed_fields = None;
                Ok(object)
            },
            meta: |object| object.metadata(),
        };
        Self::over(Source::new(client, resource_of::<K>(), params), reading)
    }
}

impl Informer<PartialObject> {
    /// Follows the metadata of any resource's objects.
    pub fn partial(dynamic: &Dynamic, params: &ListParams) -> Self {
        let reading = Reading {
            decode: |bytes| {
                let mut object = PartialObject::decode(bytes)?;
                object.metadata.managed_fields = None;
                Ok(object)
            },
            meta: |object: &PartialObject| &object.metadata,
        };
        Self::over(dynamic.source(params), reading)
    }
}

impl<T: Send + Sync + 'static> Informer<T> {
    fn over(source: Source, reading: Reading<T>) -> Self {
        Self {
            source,
            reading,
            indexes: Vec::new(),
            handlers: Vec::new(),
        }
    }

    /// Files objects under computed values, for [`Cache::by_index`].
    pub fn index(mut self, name: &'static str, values: impl Fn(&T) -> Vec<String> + Send + Sync + 'static) -> Self {
        self.indexes.push((name, Box::new(values)));
        self
    }

    /// Has a handler called for each change, in order. It must not block: it runs between one event and the next.
    pub fn on_event(mut self, handler: impl Fn(&Event<T>) + Send + Sync + 'static) -> Self {
        self.handlers.push(Box::new(handler));
        self
    }

    /// Starts to follow, until shutdown.
    pub fn start(self, shutdown: &Shutdown) -> Cache<T> {
        let state = Arc::new(RwLock::new(State::new(self.indexes)));
        let (synced, receiver) = watch::channel(false);
        let follower = Follower {
            source: self.source,
            reading: self.reading,
            handlers: self.handlers,
            state: state.clone(),
            synced,
            revision: String::new(),
        };
        let shutdown = shutdown.clone();
        tokio::spawn(async move { shutdown.run_until(follower.follow()).await });
        Cache::new(state, receiver)
    }
}

struct Follower<T> {
    source: Source,
    reading: Reading<T>,
    handlers: Vec<Handler<T>>,
    state: Arc<RwLock<State<T>>>,
    synced: watch::Sender<bool>,
    /// The revision that the state shows; empty before the first list and after it expired.
    revision: String,
}

impl<T: Send + Sync + 'static> Follower<T> {
    async fn follow(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let outcome = if self.revision.is_empty() {
                self.list().await
            } else {
                self.watch(&mut backoff).await
            };
            match outcome {
                Ok(()) => {}
                Err(error) if error.is_expired() => {
                    tracing::debug!(resource = %self.source.name(), "watch expired, listing again");
                    self.revision.clear();
                }
                Err(error) => {
                    // Common while an API server starts or moves: the first tries are not worth a warning.
                    tracing::debug!(resource = %self.source.name(), %error, "list and watch interrupted");
                    if matches!(error, Error::Decode(_)) {
                        tracing::error!(resource = %self.source.name(), %error, "object not understood, listing again");
                        self.revision.clear();
                    }
                    tokio::time::sleep(backoff.next()).await;
                }
            }
        }
    }

    async fn list(&mut self) -> Result<()> {
        let listed = list_once(&self.source, "").await?;
        let mut objects = Vec::with_capacity(listed.objects.len());
        for bytes in &listed.objects {
            let object = (self.reading.decode)(bytes)?;
            objects.push((self.key(&object), object));
        }
        let meta = self.reading.meta;
        let same = |a: &T, b: &T| {
            let (a, b) = (meta(a), meta(b));
            a.uid == b.uid && a.resource_version == b.resource_version
        };
        self.revision = listed.resource_version;
        let events = {
            let mut state = self.state.write();
            state.revision = number(&self.revision);
            state.replace(objects, same)
        };
        self.tell(&events);
        self.synced.send_replace(true);
        Ok(())
    }

    /// Applies events until the watch ends.
    async fn watch(&mut self, backoff: &mut Backoff) -> Result<()> {
        let mut stream = self.source.watch(&self.revision).await?;
        while let Some(reply) = stream.message().await? {
            backoff.reset();
            for event in reply.events {
                self.apply(&event)?;
            }
        }
        Ok(())
    }

    fn apply(&mut self, event: &pb::WatchEvent) -> Result<()> {
        let change = match event.r#type() {
            pb::EventType::Added | pb::EventType::Modified => {
                let object = (self.reading.decode)(&event.object)?;
                self.revision = self.revision_of(&object);
                let key = self.key(&object);
                let mut state = self.state.write();
                state.revision = number(&self.revision);
                Some(state.put(key, object))
            }
            pb::EventType::Deleted => {
                let object = (self.reading.decode)(&event.object)?;
                self.revision = self.revision_of(&object);
                let mut state = self.state.write();
                state.revision = number(&self.revision);
                state.remove(&self.key(&object))
            }
            pb::EventType::Bookmark => {
                let meta = codec::object_meta(&event.object)?;
                self.revision = meta.resource_version.unwrap_or_default();
                self.state.write().revision = number(&self.revision);
                None
            }
            pb::EventType::Error => return Err(Error::Api(api::Error::decode(&event.object)?)),
            pb::EventType::Unspecified => None,
        };
        if let Some(change) = change {
            self.tell(std::slice::from_ref(&change));
        }
        Ok(())
    }

    fn tell(&self, events: &[Event<T>]) {
        for event in events {
            for handler in &self.handlers {
                handler(event);
            }
        }
    }

    fn key(&self, object: &T) -> ObjectKey {
        let meta = (self.reading.meta)(object);
        ObjectKey::new(
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        )
    }

    fn revision_of(&self, object: &T) -> String {
        (self.reading.meta)(object).resource_version.clone().unwrap_or_default()
    }
}

/// A resourceVersion as the revision it is; 0 for none.
fn number(resource_version: &str) -> u64 {
    resource_version.parse().unwrap_or(0)
}
