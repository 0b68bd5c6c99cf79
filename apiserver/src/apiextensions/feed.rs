//! Keeps the catalog of custom kinds equal to the definitions in the store, on every server; settles the definitions' status and removes the
//! objects of those that go. All servers do it: each write is conditional on what it was decided from, so the first one wins.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::Error;
use daemon::Shutdown;
use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::catalog::Table;
use super::definition::{Definition, condition};
use super::status;
use crate::registry::{Kind, Registry, meta, store_error};
use crate::store::{
    Change, Condition, Entry, Expect, ListQuery, Op, ReadAt, Revision, StoreError, Txn, TxnOutcome, Watcher,
};

/// Pause before something that failed is tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// How often what keeps an object of a definition that goes is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A definition as the store has it, and what was made of it.
struct Known {
    entry: Arc<Entry>,
    value: Value,
    made: Option<Made>,
}

/// A definition that was read, with the parts of it that mattered.
struct Made {
    definition: Arc<Definition>,
    kinds: Vec<Arc<Kind>>,
}

/// The feed of one server.
pub struct Feed {
    registry: Arc<Registry>,
    kind: Arc<Kind>,
    known: BTreeMap<String, Known>,
    /// Definitions whose objects are being removed by a task.
    cleaning: HashMap<String, tokio::task::JoinHandle<()>>,
}

/// Fills the catalog, then keeps it up to date in the background until shutdown.
///
/// # Errors
/// When the store does not answer the first list.
pub async fn start(registry: Arc<Registry>, shutdown: Shutdown) -> Result<(), Error> {
    let Some(kind) = crate::registry::find("apiextensions.k8s.io", "v1", "customresourcedefinitions") else {
        return Ok(());
    };
    let mut feed = Feed {
        registry,
        kind: kind.clone(),
        known: BTreeMap::new(),
        cleaning: HashMap::new(),
    };
    let mut after = feed.fill().await.map_err(store_error)?;
    tokio::spawn(async move {
        while !shutdown.token().is_cancelled() {
            match feed.registry.store().watch(&feed.kind.prefix, after) {
                Ok(watcher) => {
                    let _ = shutdown.run_until(feed.follow(watcher)).await;
                }
                Err(error) => tracing::warn!(%error, "cannot watch definitions"),
            }
            after = loop {
                match shutdown.run_until(feed.fill()).await {
                    None => return,
                    Some(Ok(revision)) => break revision,
                    Some(Err(error)) => tracing::warn!(%error, "cannot list definitions"),
                }
                tokio::time::sleep(PAUSE).await;
            };
        }
    });
    Ok(())
}

impl Feed {
    /// Everything anew.
    async fn fill(&mut self) -> Result<Revision, StoreError> {
        let query = ListQuery {
            prefix: &self.kind.prefix,
            start_after: None,
            limit: 0,
            at: ReadAt::Any,
        };
        let listed = self.registry.store().list(query).await?;
        let mut gone = std::mem::take(&mut self.known);
        for entry in listed.entries {
            let before = gone.remove(&*entry.key);
            self.take_in(entry, before);
        }
        self.refresh(gone.into_values().collect());
        self.settle().await;
        Ok(listed.revision)
    }

    async fn follow(&mut self, mut watcher: Watcher) {
        while let Some(Ok(events)) = watcher.next().await {
            let mut gone = Vec::new();
            for event in events {
                let key = event.change.key().to_string();
                let before = self.known.remove(&key);
                match &event.change {
                    // What our own write brought back is newer than the event that tells of it.
                    Change::Put { entry, .. }
                        if before
                            .as_ref()
                            .is_some_and(|known| known.entry.revision >= entry.revision) =>
                    {
                        self.known.extend(before.map(|before| (key, before)));
                    }
                    Change::Put { entry, .. } => self.take_in(entry.clone(), before),
                    Change::Delete { .. } => gone.extend(before),
                }
            }
            self.refresh(gone);
            self.settle().await;
        }
    }

    /// Notes a definition as it is now.
    fn take_in(&mut self, entry: Arc<Entry>, before: Option<Known>) {
        let value = match self.kind.stored_value(&entry) {
            Ok(value) => value,
            Err(error) => {
                tracing::error!(key = %entry.key, %error, "cannot read a definition");
                return;
            }
        };
        let before = before.and_then(|before| Some((before.value, before.made?)));
        let (made, retired) = match before {
            Some((old, made)) if is_same(&old, &value) => {
                if condition(&old, "Terminating") == condition(&value, "Terminating") {
                    (Some(made), None)
                } else {
                    // Watches go on, to the end of the last object.
                    (make(&value, made.definition.retired.clone()), None)
                }
            }
            before => (
                make(&value, CancellationToken::new()),
                before.map(|(_, made)| made.definition.retired.clone()),
            ),
        };
        let key = entry.key.to_string();
        self.known.insert(key, Known { entry, value, made });
        if let Some(retired) = retired {
            // Not before the new one is found in its place.
            self.refresh(Vec::new());
            retired.cancel();
        }
    }

    /// Puts the kinds in force, and ends the watches of those that went.
    fn refresh(&self, gone: Vec<Known>) {
        let kinds = self.known.values().filter_map(|known| known.made.as_ref());
        let kinds = kinds.flat_map(|made| made.kinds.iter().cloned()).collect();
        self.registry.catalog().replace(Table::new(kinds));
        for made in gone.into_iter().filter_map(|known| known.made) {
            made.definition.retired.cancel();
        }
    }

    /// Gives every definition the status it ought to have and starts the removal of the objects of those that go.
    async fn settle(&mut self) {
        let keys: Vec<String> = self.known.keys().cloned().collect();
        for key in keys {
            let Some(known) = self.known.get(&key) else { continue };
            if meta::is_deleting(&known.value) {
                self.clean(&key);
                continue;
            }
            if status::is_settled(&known.value) {
                continue;
            }
            let group = known.value.pointer("/spec/group");
            let others: Vec<&Known> = self
                .known
                .iter()
                .filter(|(other, known)| **other != key && known.value.pointer("/spec/group") == group)
                .map(|(_, known)| known)
                .collect();
            let values: Vec<&Value> = others.iter().map(|known| &known.value).collect();
            let Some(settled) = status::settle(&known.value, &values, Timestamp::now()) else {
                continue;
            };
            // Names are given against names: nobody else of the group may get any at the same time.
            let conditions = std::iter::once(known).chain(others).map(|known| Condition {
                key: known.entry.key.to_string(),
                expect: Expect::Revision(known.entry.revision),
            });
            self.write(&key, settled, conditions.collect()).await;
        }
    }

    /// Serves what is settled, then says so: whoever reads that a kind is established finds it.
    async fn write(&mut self, key: &str, settled: Value, conditions: Vec<Condition>) {
        let value = match self.kind.encode(&settled) {
            Ok(value) => value,
            Err(error) => {
                tracing::error!(key, %error, "cannot write the status of a definition");
                return;
            }
        };
        if let Some(known) = self.known.get_mut(key) {
            let same = is_same(&known.value, &settled);
            let before = match same {
                true => None,
                false => std::mem::replace(&mut known.made, make(&settled, CancellationToken::new())),
            };
            self.refresh(Vec::new());
            if let Some(before) = before {
                before.definition.retired.cancel();
            }
        }
        let txn = Txn {
            conditions,
            ops: vec![Op::Put {
                key: key.to_owned(),
                value,
                expires_at: None,
            }],
        };
        match self.registry.store().transact(txn).await {
            Ok(TxnOutcome::Committed { entries, .. }) => {
                let (Some(Some(entry)), Some(known)) = (entries.into_iter().next(), self.known.get_mut(key)) else {
                    return;
                };
                known.value = settled;
                meta::of(&mut known.value).insert("resourceVersion".into(), entry.revision.to_string().into());
                known.entry = entry;
            }
            // Another server was faster, or the definition changed: its event is on the way.
            Ok(TxnOutcome::Conflict { .. }) => {}
            Err(error) => tracing::warn!(key, %error, "cannot write the status of a definition"),
        }
    }

    /// Removes the objects of a definition in a task of its own.
    fn clean(&mut self, key: &str) {
        self.cleaning.retain(|_, task| !task.is_finished());
        let Some(known) = self.known.get(key) else { return };
        let ours = meta::finalizers(&known.value).contains(&status::CLEANUP);
        if !ours || self.cleaning.contains_key(key) {
            return;
        }
        let cleaner = Cleaner {
            registry: self.registry.clone(),
            kind: self.kind.clone(),
            key: key.to_owned(),
        };
        self.cleaning.insert(key.to_owned(), tokio::spawn(cleaner.run()));
    }
}

/// Whether a definition makes the same kinds as another.
fn is_same(old: &Value, new: &Value) -> bool {
    old.get("spec") == new.get("spec")
        && old.pointer("/status/acceptedNames") == new.pointer("/status/acceptedNames")
        && condition(old, "Established") == condition(new, "Established")
}

/// The kinds of a definition that is established.
fn make(crd: &Value, retired: CancellationToken) -> Option<Made> {
    if condition(crd, "Established") != Some("True") {
        return None;
    }
    let mut definition = Definition::read(crd)?;
    definition.retired = retired;
    let definition = Arc::new(definition);
    let kinds = definition.kinds();
    Some(Made { definition, kinds })
}

/// Removes the objects of one definition, then lets it go.
struct Cleaner {
    registry: Arc<Registry>,
    kind: Arc<Kind>,
    key: String,
}

impl Cleaner {
    async fn run(self) {
        loop {
            match self.step().await {
                Ok(true) => return,
                Ok(false) => tokio::time::sleep(LOOK_AGAIN).await,
                Err(error) => {
                    tracing::warn!(key = self.key, %error, "cannot remove the objects of a definition");
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
        }
    }

    /// One round; true when there is nothing left to do.
    async fn step(&self) -> Result<bool, Error> {
        let store = self.registry.store();
        let Some(entry) = store.get(&self.key, ReadAt::Latest).await.map_err(store_error)? else {
            return Ok(true);
        };
        let crd = self.kind.stored_value(&entry)?;
        if !meta::is_deleting(&crd) || !meta::finalizers(&crd).contains(&status::CLEANUP) {
            return Ok(true);
        }
        if let Some(kind) = Definition::read(&crd)
            .map(Arc::new)
            .and_then(|definition| definition.storage_kind())
            && self.registry.purge(&kind).await? > 0
        {
            return Ok(false);
        }
        let now = Timestamp::now();
        let done = status::end_deletion(&crd, now);
        let expect = Condition {
            key: self.key.clone(),
            expect: Expect::Revision(entry.revision),
        };
        let op = if meta::finalizers(&done).is_empty() {
            Op::Delete { key: self.key.clone() }
        } else {
            Op::Put {
                key: self.key.clone(),
                value: self.kind.encode(&done)?,
                expires_at: None,
            }
        };
        let txn = Txn {
            conditions: vec![expect],
            ops: vec![op],
        };
        let outcome = store.transact(txn).await.map_err(store_error)?;
        Ok(matches!(outcome, TxnOutcome::Committed { .. }))
    }
}
