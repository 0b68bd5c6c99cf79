//! The state machine's data: the current entries, the history window and the expiry index.
//!
//! Pure and synchronous: a transaction and nothing else decides what [`State::apply`] does. No clock, no randomness, no I/O.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::{Change, Condition, Entry, Expect, ListResult, Op, Revision, Stamp, StoreError, Txn, TxnOutcome};

/// How much history is kept for watches and exact reads.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Changes at most.
    pub events: usize,
    /// Bytes of replaced and deleted values at most.
    pub bytes: usize,
}

impl Default for Window {
    /// 40,000 changes and 16 MiB: some minutes of a busy cluster at a bounded price in memory.
    fn default() -> Self {
        Self {
            events: 40_000,
            bytes: 16 << 20,
        }
    }
}

/// What an entry costs beside its value, bytes: the entry, its key and the allocator's rounding.
const ENTRY_OVERHEAD: usize = 256;

/// A change of the past.
#[derive(Debug, Clone)]
pub(super) struct Past {
    pub(super) revision: Revision,
    pub(super) change: Change,
}

#[derive(Debug)]
pub(super) struct State {
    revision: Revision,
    entries: BTreeMap<Arc<str>, Arc<Entry>>,
    /// Changes after `compacted`, oldest first.
    history: VecDeque<Past>,
    /// Bytes held only by the history.
    history_bytes: usize,
    /// Exact reads and watches reach back to this revision.
    compacted: Revision,
    expiring: BTreeSet<(i64, Arc<str>)>,
    window: Window,
    stamp: Stamp,
}

impl State {
    pub(super) fn new(window: Window, stamp: Stamp) -> Self {
        Self {
            revision: 0,
            entries: BTreeMap::new(),
            history: VecDeque::new(),
            history_bytes: 0,
            compacted: 0,
            expiring: BTreeSet::new(),
            window,
            stamp,
        }
    }

    /// Replaces everything; the history begins anew at `revision`.
    pub(super) fn reset(&mut self, revision: Revision, entries: impl IntoIterator<Item = Arc<Entry>>) {
        self.entries = entries.into_iter().map(|e| (e.key.clone(), e)).collect();
        self.expiring = self
            .entries
            .values()
            .filter_map(|e| Some((e.expires_at?, e.key.clone())))
            .collect();
        self.history.clear();
        self.history_bytes = 0;
        self.revision = revision;
        self.compacted = revision;
    }

    /// Replaces everything, with the history that led to it.
    pub(super) fn restore(
        &mut self,
        revision: Revision,
        entries: impl IntoIterator<Item = Arc<Entry>>,
        compacted: Revision,
        history: Vec<Past>,
    ) {
        self.reset(revision, entries);
        self.compacted = compacted;
        history.into_iter().for_each(|past| self.remember(past));
    }

    /// The changes that are kept, oldest first.
    pub(super) fn history(&self) -> impl Iterator<Item = &Past> {
        self.history.iter()
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(super) fn entries(&self) -> impl ExactSizeIterator<Item = &Arc<Entry>> {
        self.entries.values()
    }

    /// Does a transaction; `changed` sees each change in order.
    pub(super) fn apply(&mut self, txn: Txn, mut changed: impl FnMut(&Past)) -> TxnOutcome {
        if let Some((condition, current)) = self.first_failure(&txn.conditions) {
            return TxnOutcome::Conflict { condition, current };
        }
        let revision = self.revision + 1;
        let mut entries = Vec::with_capacity(txn.ops.len());
        for op in txn.ops {
            let change = match op {
                Op::Put { key, value, expires_at } => Some(self.put(key, &value, expires_at, revision)),
                Op::Delete { key } => self.delete(&key),
            };
            entries.push(change.as_ref().and_then(|c| c.current().or(c.previous())).cloned());
            if let Some(change) = change {
                self.revision = revision;
                let past = Past { revision, change };
                changed(&past);
                self.remember(past);
            }
        }
        TxnOutcome::Committed {
            revision: self.revision,
            entries,
        }
    }

    fn first_failure(&self, conditions: &[Condition]) -> Option<(usize, Option<Arc<Entry>>)> {
        conditions.iter().enumerate().find_map(|(i, condition)| {
            let current = self.entries.get(condition.key.as_str());
            let holds = match condition.expect {
                Expect::Absent => current.is_none(),
                Expect::Exists => current.is_some(),
                Expect::Revision(revision) => current.is_some_and(|e| e.revision == revision),
            };
            (!holds).then(|| (i, current.cloned()))
        })
    }

    fn put(&mut self, key: String, value: &[u8], expires_at: Option<i64>, revision: Revision) -> Change {
        let previous = self.entries.get(key.as_str()).cloned();
        let (key, create_revision) = match &previous {
            Some(previous) => (previous.key.clone(), previous.create_revision),
            None => (Arc::from(key), revision),
        };
        // A boxed slice has no spare capacity: it lives as long as the object.
        let value = Bytes::from((self.stamp)(value, revision).into_boxed_slice());
        let entry = Arc::new(Entry::new(key.clone(), create_revision, revision, value, expires_at));
        self.forget_expiry(previous.as_deref());
        if let Some(at) = expires_at {
            self.expiring.insert((at, key.clone()));
        }
        self.entries.insert(key, entry.clone());
        Change::Put { entry, previous }
    }

    fn delete(&mut self, key: &str) -> Option<Change> {
        let previous = self.entries.remove(key)?;
        self.forget_expiry(Some(&previous));
        Some(Change::Delete { previous })
    }

    fn forget_expiry(&mut self, entry: Option<&Entry>) {
        if let Some((at, key)) = entry.and_then(|e| Some((e.expires_at?, e.key.clone()))) {
            self.expiring.remove(&(at, key));
        }
    }

    fn remember(&mut self, past: Past) {
        self.history_bytes += cost(&past);
        self.history.push_back(past);
        // A revision is forgotten as a whole, or a watch could begin in the middle of a transaction.
        while self.history.len() > self.window.events || self.history_bytes > self.window.bytes {
            let Some(oldest) = self.history.front().map(|p| p.revision) else {
                break;
            };
            while let Some(past) = self.history.pop_front_if(|p| p.revision == oldest) {
                self.history_bytes -= cost(&past);
            }
            self.compacted = oldest;
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        self.entries.get(key)
    }

    /// The value of `key` at a past revision.
    pub(super) fn get_exact(&self, key: &str, revision: Revision) -> Result<Option<Arc<Entry>>, StoreError> {
        let changed_after = self.after(revision)?.find(|p| &**p.change.key() == key);
        Ok(match changed_after {
            Some(past) => past.change.previous().cloned(),
            None => self.entries.get(key).cloned(),
        })
    }

    /// The changes after `revision`, oldest first.
    pub(super) fn after(&self, revision: Revision) -> Result<impl DoubleEndedIterator<Item = &Past>, StoreError> {
        if revision < self.compacted {
            return Err(StoreError::Compacted { oldest: self.compacted });
        }
        if revision > self.revision {
            return Err(StoreError::FutureRevision {
                requested: revision,
                current: self.revision,
            });
        }
        let from = self.history.partition_point(|p| p.revision <= revision);
        Ok(self.history.range(from..))
    }

    pub(super) fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> ListResult {
        let range = self.range(prefix, start_after);
        page(range.map(|(_, e)| e), limit, self.revision)
    }

    /// The list as it was at a past revision: today's range with everything changed since put back.
    pub(super) fn list_exact(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        revision: Revision,
    ) -> Result<ListResult, StoreError> {
        let mut then: BTreeMap<&str, Option<&Arc<Entry>>> = BTreeMap::new();
        for past in self.after(revision)?.rev() {
            let key: &str = past.change.key();
            if key.starts_with(prefix) && start_after.is_none_or(|s| key > s) {
                then.insert(key, past.change.previous());
            }
        }
        let range = self.range(prefix, start_after);
        if then.is_empty() {
            return Ok(page(range.map(|(_, e)| e), limit, revision));
        }
        for (key, entry) in range {
            then.entry(key).or_insert(Some(entry));
        }
        Ok(page(then.into_values().flatten(), limit, revision))
    }

    fn range<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<Entry>)> {
        let from = match start_after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.entries
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Up to `limit` entries whose time has come.
    pub(super) fn expired(&self, now: i64, limit: usize) -> Vec<Arc<Entry>> {
        let due = self.expiring.iter().take_while(|(at, _)| *at <= now).take(limit);
        due.filter_map(|(_, key)| self.entries.get(key).cloned()).collect()
    }
}

/// What the history alone holds of a change: the value before it.
fn cost(past: &Past) -> usize {
    past.change.previous().map_or(0, |e| e.value.len() + ENTRY_OVERHEAD)
}

fn page<'a>(mut entries: impl Iterator<Item = &'a Arc<Entry>>, limit: usize, revision: Revision) -> ListResult {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let page: Vec<_> = entries.by_ref().take(limit).cloned().collect();
    let remaining = entries.count();
    ListResult {
        entries: page,
        revision,
        more: remaining > 0,
        remaining,
    }
}
