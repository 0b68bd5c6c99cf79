//! openraft's view of the state machine: committed entries go in, snapshots come out.
//!
//! The state itself is the store's [`Machine`], the same as the memory store's. Beside it this keeps the applied log id, the membership and what sled has not got yet.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::codec::{self, Malformed};
use super::snapshot::{self, Snapshots};
use super::state_file::{Pending, Point, StateFile};
use super::types::{
    Batch, Entry, LogId, Reply, SnapshotData, SnapshotMeta, StorageError, StoredMembership, TypeConfig,
};
use crate::store::{Change, Machine, Revision};

/// How often changes are handed to sled. Longer means fewer writes for what changes often.
const STATE_PERIOD: Duration = Duration::from_secs(5);

/// The state and the point in the log that it is of.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) machine: Arc<Machine>,
    progress: Mutex<Progress>,
    /// Index of the last applied entry, for those who wait for one.
    index: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Progress {
    applied: Option<LogId>,
    membership: StoredMembership,
    pending: HashMap<Arc<str>, Pending>,
    /// Whether sled has to be written as a whole.
    rewrite: bool,
}

impl Progress {
    fn note(&mut self, change: &Change) {
        let now = change.current().cloned();
        match self.pending.get_mut(change.key()) {
            Some(pending) => pending.now = now,
            None => {
                let stored = change.previous().cloned();
                self.pending.insert(change.key().clone(), Pending { stored, now });
            }
        }
    }

    fn point(&self, revision: Revision) -> Point {
        Point {
            applied: self.applied,
            membership: self.membership.clone(),
            revision,
        }
    }
}

/// A consistent picture for a snapshot.
pub(super) struct Picture {
    pub(super) point: Point,
    pub(super) entries: Vec<Arc<crate::store::Entry>>,
}

impl Applied {
    /// The state of `machine` is that of `applied`; `stored` says whether sled has it already.
    pub(super) fn new(
        machine: Arc<Machine>,
        applied: Option<LogId>,
        membership: StoredMembership,
        stored: bool,
    ) -> Arc<Self> {
        let index = watch::Sender::new(applied.map_or(0, |l| l.index));
        let progress = Progress {
            applied,
            membership,
            rewrite: !stored,
            ..Progress::default()
        };
        Arc::new(Self {
            machine,
            progress: Mutex::new(progress),
            index,
        })
    }

    pub(super) fn log_id(&self) -> Option<LogId> {
        self.progress.lock().applied
    }

    pub(super) fn picture(&self) -> Picture {
        let progress = self.progress.lock();
        let (revision, entries) = self.machine.picture();
        Picture {
            point: progress.point(revision),
            entries,
        }
    }

    /// Waits until the entry at `index` is applied here.
    pub(super) async fn wait_for(&self, index: u64) {
        let mut applied = self.index.subscribe();
        // The sender lives as long as `self`.
        let _ = applied.wait_for(|i| *i >= index).await;
    }

    fn apply(&self, entry: Entry) -> Result<Reply, Malformed> {
        let mut progress = self.progress.lock();
        let outcomes = match entry.payload {
            EntryPayload::Blank => Vec::new(),
            EntryPayload::Normal(Batch(bytes)) => {
                let txns = codec::decode_batch(bytes)?;
                self.machine.apply(txns, |change| progress.note(change))
            }
            EntryPayload::Membership(membership) => {
                progress.membership = StoredMembership::new(Some(entry.log_id), membership);
                Vec::new()
            }
        };
        progress.applied = Some(entry.log_id);
        drop(progress);
        self.index.send_replace(entry.log_id.index);
        Ok(Reply(outcomes))
    }

    fn install(&self, head: &snapshot::Head, entries: Vec<Arc<crate::store::Entry>>) {
        let mut progress = self.progress.lock();
        self.machine.reset(head.revision, entries);
        progress.applied = head.meta.last_log_id;
        progress.membership = head.meta.last_membership.clone();
        progress.pending.clear();
        progress.rewrite = true;
        drop(progress);
        self.index.send_replace(head.meta.last_log_id.map_or(0, |l| l.index));
    }

    /// Has the file written as a whole the next time.
    pub(super) fn rewrite(&self) {
        self.progress.lock().rewrite = true;
    }

    /// Brings the file up to the state.
    fn flush(&self, file: &mut StateFile) -> Result<(), String> {
        let mut progress = self.progress.lock();
        let pending = std::mem::take(&mut progress.pending);
        let rewrite = std::mem::take(&mut progress.rewrite);
        let (revision, entries) = if rewrite {
            self.machine.picture()
        } else {
            (self.machine.revision(), Vec::new())
        };
        let point = progress.point(revision);
        drop(progress);
        let written = if rewrite {
            file.rewrite(&entries, &point)
        } else {
            file.write(&pending, &point)
        };
        if written.is_err() {
            self.progress.lock().rewrite = true;
        }
        written
    }
}

/// The thread that writes sled. Dropped, it ends without the mark of an orderly stop.
#[derive(Debug)]
pub(super) struct StateWriter {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl StateWriter {
    pub(super) fn start(applied: Arc<Applied>, file: StateFile) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let run = move || write_state(&applied, file, &stopped);
        let thread = std::thread::Builder::new().name("store-state".into()).spawn(run)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Writes the rest and the mark of an orderly stop.
    pub(super) fn close(self) {
        if let Some(stop) = &self.stop {
            // A writer that is gone has said why.
            let _ = stop.send(());
        }
    }
}

impl Drop for StateWriter {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::warn!("the state writer panicked, the next start rebuilds the state");
        }
    }
}

/// Failures cost the next start some time, never data, so they are reported and the state is written as a whole the next time.
fn write_state(applied: &Applied, mut file: StateFile, stopped: &mpsc::Receiver<()>) {
    loop {
        let orderly = match stopped.recv_timeout(STATE_PERIOD) {
            Ok(()) => true,
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let flushed = applied.flush(&mut file);
        if let Err(why) = &flushed {
            tracing::warn!(why, "cannot write the state");
        }
        if orderly {
            if flushed.is_ok() {
                let closed = applied
                    .machine
                    .with_history(|compacted, history| file.close(compacted, history));
                if let Err(why) = closed {
                    tracing::warn!(why, "cannot close the state, the next start rebuilds it");
                }
            }
            return;
        }
    }
}

/// What openraft drives.
#[derive(Debug, Clone)]
pub struct StateMachine {
    pub(super) applied: Arc<Applied>,
    pub(super) snapshots: Arc<Snapshots>,
    /// Whether a snapshot was written that openraft does not know of yet.
    announced: Arc<AtomicBool>,
}

impl StateMachine {
    pub(super) fn new(applied: Arc<Applied>, snapshots: Arc<Snapshots>) -> Self {
        Self {
            applied,
            snapshots,
            announced: Arc::default(),
        }
    }

    /// The next snapshot that openraft asks for is the one that was just written.
    pub(super) fn announce_snapshot(&self) {
        self.announced.store(true, Ordering::Release);
    }

    /// Writes a snapshot of the state as it is now.
    pub(super) fn write_snapshot(&self) -> std::io::Result<SnapshotMeta> {
        let Picture { point, entries } = self.applied.picture();
        self.snapshots
            .write(point.applied, &point.membership, point.revision, &entries)
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    /// The maintenance task writes the file and then has openraft ask for it: openraft does not survive a failure here, such as a full disk.
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        if self.announced.swap(false, Ordering::AcqRel)
            && let Some(current) = self.get_current_snapshot().await?
        {
            return Ok(current);
        }
        let failed = |e: std::io::Error| StorageIOError::write_snapshot(None, &e);
        self.write_snapshot().map_err(failed)?;
        let written = self.get_current_snapshot().await?;
        written.ok_or_else(|| failed(std::io::Error::other("the snapshot is gone")).into())
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let progress = self.applied.progress.lock();
        Ok((progress.applied, progress.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Reply>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut replies = Vec::new();
        for entry in entries {
            let log_id = entry.log_id;
            replies.push(
                self.applied
                    .apply(entry)
                    .map_err(|e| StorageIOError::apply(log_id, &e))?,
            );
        }
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotData>, StorageError> {
        Ok(Box::new(SnapshotData {
            path: self.snapshots.temporary(),
            temporary: true,
        }))
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: Box<SnapshotData>) -> Result<(), StorageError> {
        let mut entries = Vec::new();
        let read = snapshot::read(&data.path, &**self.snapshots.vault(), |entry| {
            entries.push(Arc::new(entry))
        });
        let mut head = read.map_err(|e| StorageIOError::read_snapshot(Some(meta.signature()), &e))?;
        head.meta = meta.clone();
        let failed = |e: std::io::Error| StorageIOError::write_snapshot(Some(meta.signature()), &e);
        let mut temporary = data.path.clone();
        if !data.temporary {
            temporary = self.snapshots.temporary();
            std::fs::copy(&data.path, &temporary).map_err(failed)?;
            std::fs::File::open(&temporary)
                .and_then(|f| f.sync_all())
                .map_err(failed)?;
        }
        self.snapshots.adopt(&temporary, meta).map_err(failed)?;
        self.applied.install(&head, entries);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let current = self.snapshots.current();
        Ok(current.map(|(meta, path)| {
            let snapshot = Box::new(SnapshotData { path, temporary: false });
            Snapshot { meta, snapshot }
        }))
    }
}
