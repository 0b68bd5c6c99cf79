//! Fan-out of changes to watchers.
//!
//! Watchers of one prefix share a bounded buffer of events and each keeps a cursor into it: a writer appends once and wakes, whatever their number.
//! A watcher whose cursor falls out of the buffer is lagging and gets an error; it can never hold a writer or memory. A write looks up the prefixes
//! of its key that end in `/` and so touches no other watcher.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::machine::Machine;
use super::{Change, Revision, StoreError, WatchEvent};

/// How far a watcher may fall behind, events.
const MAX_EVENTS: usize = 8192;
/// How far a watcher may fall behind, bytes of values.
const MAX_BYTES: usize = 32 << 20;
/// Buffers are trimmed to the slowest watcher when they hold this many events.
const TRIM: usize = 64;

/// The part of a prefix up to its last `/`: the name of the channel its watchers share.
fn group(prefix: &str) -> &str {
    &prefix[..prefix.rfind('/').map_or(0, |at| at + 1)]
}

/// All channels, by group. Lives inside the state's lock so that registration and publication are in one order.
#[derive(Debug, Default)]
pub(super) struct Hub {
    channels: HashMap<Box<str>, Arc<Channel>>,
    closed: bool,
}

impl Hub {
    /// Appends an event to the channels of its key and notes them in `touched` for waking. Without a watcher there is no event.
    pub(super) fn publish(&self, revision: Revision, change: &Change, touched: &mut Vec<Arc<Channel>>) {
        if self.channels.is_empty() {
            return;
        }
        let mut event = None;
        for channel in groups_of(change.key()).filter_map(|name| self.channels.get(name)) {
            channel.push(
                event
                    .get_or_insert_with(|| Arc::new(WatchEvent::new(revision, change.clone())))
                    .clone(),
            );
            if !touched.iter().any(|c| Arc::ptr_eq(c, channel)) {
                touched.push(channel.clone());
            }
        }
    }

    /// A cursor at the end of the prefix's channel.
    pub(super) fn subscribe(&mut self, prefix: &str) -> (Arc<Channel>, Arc<AtomicU64>) {
        let channel = self.channels.entry(group(prefix).into()).or_default().clone();
        channel.closed.fetch_or(self.closed, Ordering::Release);
        let mut buffer = channel.buffer.lock();
        let cursor = Arc::new(AtomicU64::new(buffer.end()));
        buffer.cursors.push(cursor.clone());
        drop(buffer);
        (channel, cursor)
    }

    fn unsubscribe(&mut self, prefix: &str, cursor: &Arc<AtomicU64>) {
        let Some(channel) = self.channels.get(group(prefix)) else {
            return;
        };
        let mut buffer = channel.buffer.lock();
        buffer.cursors.retain(|c| !Arc::ptr_eq(c, cursor));
        let idle = buffer.cursors.is_empty();
        drop(buffer);
        if idle {
            self.channels.remove(group(prefix));
        }
    }

    /// Ends every watch as lagging: the state was replaced, and what lies between is not known one by one.
    pub(super) fn cut(self) {
        for channel in self.channels.into_values() {
            channel.buffer.lock().cut();
            channel.wake();
        }
    }

    /// Ends every watch, also those to come: watchers read what is left and then get `None`.
    pub(super) fn close(&mut self) {
        self.closed = true;
        for channel in self.channels.values() {
            channel.closed.store(true, Ordering::Release);
            channel.wake();
        }
    }
}

/// The prefixes of `key` that are groups: the empty one and each that ends in `/`.
fn groups_of(key: &str) -> impl Iterator<Item = &str> {
    std::iter::once("").chain(key.match_indices('/').map(|(at, _)| &key[..=at]))
}

/// The shared buffer of one group.
#[derive(Debug, Default)]
pub(super) struct Channel {
    buffer: Mutex<Buffer>,
    notify: Notify,
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Buffer {
    events: VecDeque<Arc<WatchEvent>>,
    bytes: usize,
    /// Sequence number of the first event in `events`.
    first: u64,
    cursors: Vec<Arc<AtomicU64>>,
}

impl Buffer {
    fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    fn pop(&mut self) {
        if let Some(event) = self.events.pop_front() {
            self.bytes -= size(&event);
            self.first += 1;
        }
    }

    /// Moves past every cursor.
    fn cut(&mut self) {
        self.first = self.end() + 1;
        self.events.clear();
        self.bytes = 0;
    }

    /// Drops what every watcher has read.
    fn trim(&mut self) {
        let slowest = self
            .cursors
            .iter()
            .map(|c| c.load(Ordering::Relaxed))
            .min()
            .unwrap_or(u64::MAX);
        while self.first < slowest && !self.events.is_empty() {
            self.pop();
        }
    }
}

fn size(event: &WatchEvent) -> usize {
    event.change.current().map_or(0, |e| e.value.len())
}

impl Channel {
    fn push(&self, event: Arc<WatchEvent>) {
        let mut buffer = self.buffer.lock();
        buffer.bytes += size(&event);
        buffer.events.push_back(event);
        if buffer.end().is_multiple_of(TRIM as u64) {
            buffer.trim();
        }
        // The newest event always stays: one large object is not a lagging watcher.
        while buffer.events.len() > 1 && (buffer.events.len() > MAX_EVENTS || buffer.bytes > MAX_BYTES) {
            buffer.pop();
        }
    }

    /// Wakes the waiting watchers; called outside the state's lock.
    pub(super) fn wake(&self) {
        self.notify.notify_waiters();
    }

    /// Events from the cursor on, which moves to the end.
    fn take(&self, cursor: &AtomicU64) -> Result<Vec<Arc<WatchEvent>>, StoreError> {
        let mut buffer = self.buffer.lock();
        let from = cursor.load(Ordering::Relaxed);
        let Some(skip) = from.checked_sub(buffer.first) else {
            return Err(StoreError::WatchLagged);
        };
        let events: Vec<_> = buffer.events.range(skip as usize..).cloned().collect();
        cursor.store(buffer.end(), Ordering::Relaxed);
        if buffer.events.len() >= TRIM {
            buffer.trim();
        }
        Ok(events)
    }

    pub(super) fn is_at_end(&self, cursor: &AtomicU64) -> bool {
        self.buffer.lock().end() == cursor.load(Ordering::Relaxed)
    }
}

/// The changes of one prefix, in order.
#[derive(Debug)]
pub struct Watcher {
    machine: Arc<Machine>,
    prefix: Box<str>,
    /// What happened between the start revision and the registration.
    backlog: Vec<Arc<WatchEvent>>,
    channel: Arc<Channel>,
    cursor: Arc<AtomicU64>,
    /// Revision up to which everything was handed out.
    progress: Revision,
    lagged: bool,
}

impl Watcher {
    pub(super) fn new(
        machine: Arc<Machine>,
        prefix: &str,
        after: Revision,
        backlog: Vec<Arc<WatchEvent>>,
        (channel, cursor): (Arc<Channel>, Arc<AtomicU64>),
    ) -> Self {
        Self {
            machine,
            prefix: prefix.into(),
            backlog,
            channel,
            cursor,
            progress: after,
            lagged: false,
        }
    }

    /// The next events, never an empty batch. `None` when the store stops. After [`StoreError::WatchLagged`], which a state replaced by the leader's
    /// snapshot causes too, nothing more comes.
    /// Dropping the future loses no event.
    pub async fn next(&mut self) -> Option<Result<Vec<Arc<WatchEvent>>, StoreError>> {
        loop {
            let channel = self.channel.clone();
            let mut notified = std::pin::pin!(channel.notify.notified());
            if let Some(answer) = self.try_next() {
                return Some(answer);
            }
            if self.lagged {
                return None;
            }
            // Registered before the second look: a wake-up between the two is not lost.
            notified.as_mut().enable();
            if let Some(answer) = self.try_next() {
                return Some(answer);
            }
            if self.channel.closed.load(Ordering::Acquire) {
                return None;
            }
            notified.await;
        }
    }

    /// What is there now, without waiting.
    pub fn try_next(&mut self) -> Option<Result<Vec<Arc<WatchEvent>>, StoreError>> {
        if self.lagged {
            return None;
        }
        if !self.backlog.is_empty() {
            let backlog = std::mem::take(&mut self.backlog);
            self.advance(&backlog);
            return Some(Ok(backlog));
        }
        let mut events = match self.channel.take(&self.cursor) {
            Ok(events) => events,
            Err(lagged) => {
                self.lagged = true;
                return Some(Err(lagged));
            }
        };
        self.advance(&events);
        if !self.prefix.ends_with('/') {
            events.retain(|e| e.change.key().starts_with(&*self.prefix));
        }
        (!events.is_empty()).then_some(Ok(events))
    }

    fn advance(&mut self, events: &[Arc<WatchEvent>]) {
        if let Some(last) = events.last() {
            self.progress = self.progress.max(last.revision);
        }
    }

    /// The revision up to which this watcher has handed out everything: the number of a bookmark.
    pub fn progress(&mut self) -> Revision {
        if self.backlog.is_empty()
            && !self.lagged
            && let Some(revision) = self.machine.revision_if_drained(&self.channel, &self.cursor)
        {
            self.progress = self.progress.max(revision);
        }
        self.progress
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let (prefix, cursor) = (&self.prefix, &self.cursor);
        self.machine.with_hub(|hub| hub.unsubscribe(prefix, cursor));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Window;

    #[tokio::test]
    async fn a_replaced_state_ends_watches_as_lagging() {
        let machine = Machine::new(Window::default(), |value, _| value.to_vec());
        let mut before = machine.watch("core/pods/", 0).unwrap();
        machine.reset(7, Vec::new());
        assert!(matches!(before.next().await, Some(Err(StoreError::WatchLagged))));
        assert!(before.next().await.is_none());
        let mut after = machine.watch("core/pods/", 7).unwrap();
        assert!(after.try_next().is_none());
        assert_eq!(after.progress(), 7);
    }
}
