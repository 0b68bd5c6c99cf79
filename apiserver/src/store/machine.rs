//! The state machine: [`State`] behind a lock, with the watchers.
//!
//! The memory store is this alone; the Raft store applies its log to the same. Reads take the lock for as long as it takes to clone pointers.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::watch;

use super::state::{Past, State, Window};
use super::watch::{Channel, Hub, Watcher};
use super::{Change, Entry, ListQuery, ListResult, ReadAt, Revision, Stamp, StoreError, Txn, TxnOutcome, WatchEvent};

/// How long a read waits for a revision that has not arrived.
const REVISION_WAIT: Duration = Duration::from_secs(3);

/// State, watchers and the revision that readers wait for.
#[derive(Debug)]
pub struct Machine {
    inner: RwLock<Inner>,
    revision: watch::Sender<Revision>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    hub: Hub,
}

impl Machine {
    /// An empty store.
    pub fn new(window: Window, stamp: Stamp) -> Arc<Self> {
        let inner = Inner {
            state: State::new(window, stamp),
            hub: Hub::default(),
        };
        Arc::new(Self {
            inner: RwLock::new(inner),
            revision: watch::Sender::new(0),
        })
    }

    /// Does transactions in order and wakes the watchers once at the end. `changed` sees each change.
    pub(super) fn apply(
        &self,
        txns: impl IntoIterator<Item = Txn>,
        mut changed: impl FnMut(&Change),
    ) -> Vec<TxnOutcome> {
        let mut touched = Vec::new();
        let mut guard = self.inner.write();
        let Inner { state, hub } = &mut *guard;
        let apply_one = |txn| {
            state.apply(txn, |past| {
                changed(&past.change);
                hub.publish(past.revision, &past.change, &mut touched);
            })
        };
        let outcomes = txns.into_iter().map(apply_one).collect();
        let revision = state.revision();
        drop(guard);
        self.announce(revision);
        touched.iter().for_each(|channel| channel.wake());
        outcomes
    }

    fn announce(&self, revision: Revision) {
        self.revision
            .send_if_modified(|r| std::mem::replace(r, revision) != revision);
    }

    /// Replaces the whole state, as when a snapshot is installed. Watchers are told that they lag.
    pub(super) fn reset(&self, revision: Revision, entries: Vec<Arc<Entry>>) {
        let mut guard = self.inner.write();
        guard.state.reset(revision, entries);
        let hub = std::mem::take(&mut guard.hub);
        drop(guard);
        hub.cut();
        self.announce(revision);
    }

    /// Fills an empty machine with a state that was kept with its history.
    pub(super) fn restore(
        &self,
        revision: Revision,
        entries: Vec<Arc<Entry>>,
        compacted: Revision,
        history: Vec<Past>,
    ) {
        self.inner.write().state.restore(revision, entries, compacted, history);
        self.announce(revision);
    }

    /// Lends the oldest revision of the history and its changes.
    pub(super) fn with_history<T>(&self, f: impl FnOnce(Revision, &mut dyn Iterator<Item = &Past>) -> T) -> T {
        let guard = self.inner.read();
        f(guard.state.compacted(), &mut guard.state.history())
    }

    /// The current revision and all entries in key order: a consistent picture.
    pub(super) fn picture(&self) -> (Revision, Vec<Arc<Entry>>) {
        let guard = self.inner.read();
        (guard.state.revision(), guard.state.entries().cloned().collect())
    }

    /// The revision of the last applied transaction.
    pub fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    /// The oldest revision that exact reads and watches can ask for.
    pub fn compacted(&self) -> Revision {
        self.inner.read().state.compacted()
    }

    /// One key of this replica; [`ReadAt::Latest`] is whatever is here.
    pub(super) async fn get(&self, key: &str, at: ReadAt) -> Result<Option<Arc<Entry>>, StoreError> {
        self.wait_for(at).await?;
        let guard = self.inner.read();
        match at {
            ReadAt::Exact(revision) => guard.state.get_exact(key, revision),
            _ => Ok(guard.state.get(key).cloned()),
        }
    }

    /// A range of this replica; [`ReadAt::Latest`] is whatever is here.
    pub(super) async fn list(&self, query: ListQuery<'_>) -> Result<ListResult, StoreError> {
        self.wait_for(query.at).await?;
        let ListQuery {
            prefix,
            start_after,
            limit,
            at,
        } = query;
        let guard = self.inner.read();
        match at {
            ReadAt::Exact(revision) if revision != guard.state.revision() => {
                guard.state.list_exact(prefix, start_after, limit, revision)
            }
            _ => Ok(guard.state.list(prefix, start_after, limit)),
        }
    }

    async fn wait_for(&self, at: ReadAt) -> Result<(), StoreError> {
        let (ReadAt::AtLeast(requested) | ReadAt::Exact(requested)) = at else {
            return Ok(());
        };
        if self.revision() >= requested {
            return Ok(());
        }
        let mut revision = self.revision.subscribe();
        match tokio::time::timeout(REVISION_WAIT, revision.wait_for(|r| *r >= requested)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(StoreError::FutureRevision {
                requested,
                current: self.revision(),
            }),
        }
    }

    /// The changes under `prefix` after revision `after`.
    pub(super) fn watch(self: &Arc<Self>, prefix: &str, after: Revision) -> Result<Watcher, StoreError> {
        let mut guard = self.inner.write();
        let Inner { state, hub } = &mut *guard;
        let missed = state.after(after)?.filter(|p| p.change.key().starts_with(prefix));
        let backlog = missed
            .map(|p| Arc::new(WatchEvent::new(p.revision, p.change.clone())))
            .collect();
        let place = hub.subscribe(prefix);
        drop(guard);
        Ok(Watcher::new(self.clone(), prefix, after, backlog, place))
    }

    /// The revision, if the cursor has nothing before it: publication and revision move under one lock.
    pub(super) fn revision_if_drained(&self, channel: &Channel, cursor: &AtomicU64) -> Option<Revision> {
        let guard = self.inner.read();
        channel.is_at_end(cursor).then(|| guard.state.revision())
    }

    pub(super) fn with_hub(&self, f: impl FnOnce(&mut Hub)) {
        f(&mut self.inner.write().hub);
    }

    /// Ends every watch.
    pub(super) fn close(&self) {
        self.with_hub(Hub::close);
    }

    /// Transactions that delete up to `limit` keys whose time has come, unless somebody renews them first.
    pub(super) fn expirations(&self, now: i64, limit: usize) -> Vec<Txn> {
        let due = self.inner.read().state.expired(now, limit);
        due.iter().map(|e| Txn::delete(&*e.key, e.revision)).collect()
    }
}
