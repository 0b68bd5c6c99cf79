//! The Raft log: acknowledged writes rest on it.
//!
//! Owns `data_dir/raft`: segments ([`super::segment`]), the vote and the mark. An append writes, syncs and only then reports; the mark then notes, without
//! a sync of its own, up to where the log is known to be durable. So a start can tell a torn tail (behind the mark: never acknowledged, cut off) from
//! damage (before it: the start is refused with the file's name).
//!
//! Why not a crate: raft-engine 0.4.2, the one well-kept candidate, is made for many Raft groups in one log, with rewriting, compression and recovery in a
//! thread pool; this is one group with one writer. It brings LZ4 in C, rayon, protobuf 2 and second copies of prometheus and nix.
//!
//! Space is claimed before a proposal is made ([`LogStore::reserve`]): an append that openraft asks for never meets a full disk, which it could not survive.
//! An error while reading aborts the process: openraft 0.9 could otherwise send a malformed append to a follower.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend, RaftLogReader, StorageIOError};
use parking_lot::Mutex;

use super::files::{At, StartError, remove_if_present, sync_dir};
use super::metrics::Metrics;
use super::segment::{self, Opened, RECORD_OVERHEAD, Segment, Spare};
use super::types::{Entry, LogId, StorageError, TypeConfig, Vote, entry_size};
use super::vote::VoteFile;
use crate::store::vault::Vault;

/// Entries kept in memory for applying and replicating, bytes.
const CACHE_BYTES: usize = 4 << 20;
/// How much one read for replication returns, bytes.
const READ_BYTES: usize = 1 << 20;
/// Room that client writes leave for what openraft itself appends (blank entries, memberships).
const SLACK: usize = 64 << 10;

/// The log, shared by openraft's core, its replication tasks and the batcher.
#[derive(Debug, Clone)]
pub struct LogStore {
    inner: Arc<Mutex<Inner>>,
    status: Arc<LogStatus>,
}

/// What others read without the log's lock.
#[derive(Debug, Default)]
pub(super) struct LogStatus {
    /// Whether the newest membership in the log is this member alone.
    sole_voter: AtomicBool,
    caught_up: AtomicBool,
    /// Bytes appended since the start.
    pub(super) appended: AtomicU64,
    node_id: u64,
}

impl LogStatus {
    /// Whether this member may answer reads without asking anybody.
    ///
    /// The only voter acknowledges what it has applied and nobody else can lead: once it has caught up after its start, its state is linearizable.
    pub(super) fn reads_are_local(&self) -> bool {
        self.sole_voter.load(Ordering::Acquire) && self.caught_up.load(Ordering::Acquire)
    }

    pub(super) fn is_sole_voter(&self) -> bool {
        self.sole_voter.load(Ordering::Acquire)
    }

    /// A ReadIndex round has succeeded here.
    pub(super) fn note_caught_up(&self) {
        self.caught_up.store(true, Ordering::Release);
        // In this order a membership that was appended meanwhile is not missed.
        if !self.is_sole_voter() {
            self.caught_up.store(false, Ordering::Release);
        }
    }

    /// A membership takes effect when it is appended, so this comes before anybody else hears of it.
    pub(super) fn set_membership(&self, membership: &super::types::Membership) {
        let mut voters = membership.voter_ids();
        let sole = voters.next() == Some(self.node_id) && voters.next().is_none();
        self.set_sole_voter(sole);
    }

    fn set_sole_voter(&self, sole: bool) {
        self.sole_voter.store(sole, Ordering::Release);
        if !sole {
            self.caught_up.store(false, Ordering::Release);
        }
    }
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    segment_bytes: u32,
    vault: Arc<dyn Vault>,
    /// Oldest first; the last one is written to.
    segments: VecDeque<Segment>,
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    purged: Option<LogId>,
    last: Option<LogId>,
    committed: Option<LogId>,
    vote: VoteFile,
    mark: Mark,
    spare: Spare,
    metrics: Arc<Metrics>,
}

impl LogStore {
    /// Opens or creates the log. `covered` is the last entry that a snapshot or the state has: entries before it may be gone. `snapshot` is the
    /// last entry of the snapshot: entries up to there that cannot be decrypted any more are let go.
    pub(super) fn open(
        dir: &Path,
        node_id: u64,
        segment_bytes: u32,
        covered: Option<LogId>,
        snapshot: Option<LogId>,
        metrics: Arc<Metrics>,
        vault: Arc<dyn Vault>,
    ) -> Result<Self, StartError> {
        std::fs::create_dir_all(dir).at("create", dir)?;
        remove_if_present(&dir.join(SPARE)).at("remove", dir)?;
        let found = find_segments(dir)?;
        let mut vote = VoteFile::open(dir, !found.is_empty())?;
        vote.step_down(node_id);
        let mark = Mark::open(dir)?;
        let mut inner = Inner {
            dir: dir.to_owned(),
            segment_bytes,
            vault,
            segments: VecDeque::new(),
            cache: VecDeque::new(),
            cache_bytes: 0,
            purged: None,
            last: None,
            committed: None,
            vote,
            mark,
            spare: Spare::new(dir.join(SPARE), segment_bytes),
            metrics,
        };
        if found.is_empty() {
            inner.start_empty(covered)?;
        } else {
            inner.recover(&found, covered, snapshot)?;
        }
        let status = Arc::new(LogStatus {
            node_id,
            ..LogStatus::default()
        });
        Ok(Self {
            inner: Arc::new(Mutex::new(inner)),
            status,
        })
    }

    /// The last entry that is no longer in the log.
    pub(super) fn purged(&self) -> Option<LogId> {
        self.inner.lock().purged
    }

    pub(super) fn status(&self) -> &Arc<LogStatus> {
        &self.status
    }

    pub(super) fn last(&self) -> Option<LogId> {
        self.inner.lock().last
    }

    /// Claims disk space for an append of `bytes`.
    pub(super) fn reserve(&self, bytes: usize) -> io::Result<()> {
        self.inner.lock().reserve(bytes + SLACK)
    }

    /// Claims room for a segment of its own, as the log needs after a snapshot that is ahead of it.
    pub(super) fn reserve_segment(&self) -> io::Result<()> {
        self.inner.lock().spare.get_ready()
    }

    /// The largest batch that fits a segment.
    pub(super) fn max_batch(&self) -> usize {
        self.inner.lock().segment_bytes as usize - SLACK - segment::HEADER as usize - RECORD_OVERHEAD
    }
}

const SPARE: &str = "spare.new";

fn find_segments(dir: &Path) -> Result<Vec<PathBuf>, StartError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).at("list", dir)? {
        let path = entry.at("list", dir)?.path();
        if path.extension().is_some_and(|e| e == "log") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Up to where the log is durable, as far as is known. Written without a sync: it may be old, it is never ahead.
#[derive(Debug)]
struct Mark {
    file: File,
    path: PathBuf,
    /// First index of the segment and the end of its durable records.
    at: Option<(u64, u32)>,
}

impl Mark {
    fn open(dir: &Path) -> Result<Self, StartError> {
        let path = dir.join("mark");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .at("open", &path)?;
        let mut record = [0; 16];
        // A short or torn mark is as good as none.
        let at = file.read_exact_at(&mut record, 0).ok().and_then(|()| {
            let at = (
                u64::from_le_bytes(record[..8].try_into().ok()?),
                u32::from_le_bytes(record[8..12].try_into().ok()?),
            );
            (Self::encode(at) == record).then_some(at)
        });
        Ok(Self { file, path, at })
    }

    fn encode((first, end): (u64, u32)) -> [u8; 16] {
        let mut record = [0; 16];
        record[..8].copy_from_slice(&first.to_le_bytes());
        record[8..12].copy_from_slice(&end.to_le_bytes());
        let crc = crc32c::crc32c(&record[..12]);
        record[12..].copy_from_slice(&crc.to_le_bytes());
        record
    }

    fn set(&mut self, first: u64, end: u32) -> io::Result<()> {
        self.at = Some((first, end));
        self.file.write_all_at(&Self::encode((first, end)), 0)
    }
}

/// Opening.
impl Inner {
    fn start_empty(&mut self, covered: Option<LogId>) -> Result<(), StartError> {
        if self.mark.at.is_some() || covered.is_some() {
            return Err(StartError::damaged(&self.dir, "the log's segments are missing"));
        }
        self.add_segment(0, None).at("create a log segment in", &self.dir)?;
        self.note_mark().at("write", &self.mark.path)
    }

    fn recover(
        &mut self,
        found: &[PathBuf],
        covered: Option<LogId>,
        snapshot: Option<LogId>,
    ) -> Result<(), StartError> {
        let (mut committed, mut unreadable) = (None, None);
        for (i, path) in found.iter().enumerate() {
            let opened = Segment::open(path, self.vault.clone())?;
            committed = committed.max(opened.committed);
            if let Some((id, why)) = opened.unreadable.clone() {
                if Some(id) > snapshot {
                    return Err(StartError::Sealed {
                        path: path.clone(),
                        why,
                    });
                }
                unreadable = Some(id);
            }
            self.adopt(opened, i + 1 == found.len(), covered)?;
        }
        if let Some((first, _)) = self.mark.at {
            let begins = self.segments.front().map_or(0, |s| s.first);
            if first > begins && !self.segments.iter().any(|s| s.first == first) {
                return Err(StartError::damaged(
                    &self.dir.join(segment::file_name(first)),
                    "the file is missing",
                ));
            }
        }
        if let Some(id) = unreadable {
            self.purge(id).at("purge the log in", &self.dir.clone())?;
        }
        if let Some(index) = committed {
            self.committed = self.log_id_at(index).at("read the log in", &self.dir)?;
        }
        Ok(())
    }

    fn adopt(&mut self, opened: Opened, is_last: bool, covered: Option<LogId>) -> Result<(), StartError> {
        let Opened {
            mut segment,
            entries,
            last,
            unreadable,
            garbage,
            ..
        } = opened;
        if unreadable.is_some() {
            self.cache.clear();
            self.cache_bytes = 0;
        }
        if self.segments.is_empty() || segment.prev != self.last {
            if !self.segments.is_empty() {
                self.drop_purged_remains(&segment, covered)?;
            }
            self.purged = segment.prev;
            self.last = segment.prev;
        }
        let durable = self
            .mark
            .at
            .filter(|(first, _)| *first == segment.first)
            .map_or(0, |(_, end)| end);
        if segment.end() < durable {
            let what = format!(
                "its records end at byte {}, {durable} bytes were durable",
                segment.end()
            );
            return Err(StartError::damaged(&segment.path, what));
        }
        if garbage && !is_last {
            let what = format!("entry {} has a bad checksum", segment.next());
            return Err(StartError::damaged(&segment.path, what));
        }
        if is_last && (garbage || segment.capacity() < self.segment_bytes) {
            segment
                .clear_tail(self.segment_bytes)
                .at("clear the tail of", &segment.path)?;
        }
        self.last = last.or(self.last);
        entries.into_iter().for_each(|e| self.remember(e));
        self.segments.push_back(segment);
        Ok(())
    }

    /// A gap is legal where a purge up to an installed snapshot was interrupted: what is before it goes.
    fn drop_purged_remains(&mut self, next: &Segment, covered: Option<LogId>) -> Result<(), StartError> {
        let follows = next.prev > self.last && next.prev <= covered;
        if !follows {
            let missing = self.last.map_or(0, |l| l.index + 1);
            let what = format!("entry {missing} and others before its first one are missing");
            return Err(StartError::damaged(&next.path, what));
        }
        for old in self.segments.drain(..) {
            remove_if_present(&old.path).at("remove", &old.path)?;
        }
        self.cache.clear();
        self.cache_bytes = 0;
        Ok(())
    }
}

/// Writing.
impl Inner {
    fn append(&mut self, entries: impl IntoIterator<Item = Entry>) -> io::Result<()> {
        let committed = self.committed.map_or(0, |c| c.index);
        let mut records = Vec::new();
        let mut lengths = Vec::new();
        for entry in entries {
            if self.last.is_none() && entry.log_id.index != self.active()?.first {
                self.begin_at(entry.log_id.index)?;
            }
            if records.len() + entry_size(&entry) + RECORD_OVERHEAD > self.active()?.room() {
                self.write(&mut records, &mut lengths)?;
                self.add_segment(entry.log_id.index, self.last)?;
            }
            let start = records.len();
            self.active()?.encode(&entry, committed, &mut records);
            lengths.push((records.len() - start) as u32);
            self.last = Some(entry.log_id);
            self.remember(entry);
        }
        self.write(&mut records, &mut lengths)
    }

    /// An empty log may begin anywhere.
    fn begin_at(&mut self, first: u64) -> io::Result<()> {
        let empty = std::mem::take(&mut self.segments);
        self.add_segment(first, None)?;
        empty.iter().try_for_each(|segment| remove_if_present(&segment.path))?;
        self.note_mark()
    }

    /// Writes and syncs; when it returns the records are durable.
    fn write(&mut self, records: &mut Vec<u8>, lengths: &mut Vec<u32>) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let segment = self.active()?;
        segment.write(records, lengths)?;
        let begun = Instant::now();
        segment.sync()?;
        let half_full = segment.room() < segment.capacity() as usize / 2;
        self.metrics.fsync.observe(begun.elapsed().as_secs_f64());
        if half_full {
            self.spare.begin();
        }
        records.clear();
        lengths.clear();
        self.note_mark()
    }

    fn active(&mut self) -> io::Result<&mut Segment> {
        self.segments
            .back_mut()
            .ok_or_else(|| io::Error::other("the log has no segment"))
    }

    fn note_mark(&mut self) -> io::Result<()> {
        let segment = self.active()?;
        let (first, end) = (segment.first, segment.end());
        self.mark.set(first, end)
    }

    /// Makes sure that `bytes` can be appended without asking the file system for more room.
    fn reserve(&mut self, bytes: usize) -> io::Result<()> {
        if self.active()?.room() >= bytes {
            Ok(())
        } else {
            self.spare.get_ready()
        }
    }

    fn add_segment(&mut self, first: u64, prev: Option<LogId>) -> io::Result<()> {
        self.spare.get_ready()?;
        let segment = Segment::create(&self.dir, self.spare.path(), first, prev, self.vault.clone())?;
        self.spare.take();
        sync_dir(&self.dir)?;
        self.segments.push_back(segment);
        Ok(())
    }

    fn remember(&mut self, entry: Entry) {
        self.cache_bytes += entry_size(&entry);
        self.cache.push_back(entry);
        while self.cache_bytes > CACHE_BYTES && self.cache.len() > 1 {
            if let Some(old) = self.cache.pop_front() {
                self.cache_bytes -= entry_size(&old);
            }
        }
    }

    /// Removes the entries from `index` on. The mark goes back first, durably: it must never be ahead of the log.
    fn truncate(&mut self, index: u64) -> io::Result<()> {
        while self.segments.len() > 1 && self.segments.back().is_some_and(|s| s.first >= index) {
            let Some(segment) = self.segments.pop_back() else { break };
            self.note_mark()?;
            self.mark.file.sync_data()?;
            remove_if_present(&segment.path)?;
            sync_dir(&self.dir)?;
        }
        let kept = index.checked_sub(1).map(|i| self.log_id_at(i)).transpose()?.flatten();
        let segment = self.active()?;
        let (first, end) = (segment.first, segment.position(index));
        self.mark.set(first, end)?;
        self.mark.file.sync_data()?;
        self.active()?.truncate(index)?;
        while self.cache.back().is_some_and(|e| e.log_id.index >= index) {
            if let Some(gone) = self.cache.pop_back() {
                self.cache_bytes -= entry_size(&gone);
            }
        }
        self.last = kept;
        Ok(())
    }

    /// Forgets the entries up to `upto`; files go when all of theirs are forgotten.
    fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.purged = self.purged.max(Some(upto));
        if self.last < Some(upto) {
            self.cache.clear();
            self.cache_bytes = 0;
            self.last = Some(upto);
            self.add_segment(upto.index + 1, Some(upto))?;
            self.note_mark()?;
        }
        while self.segments.len() > 1 && self.segments[0].next() <= upto.index + 1 {
            if let Some(segment) = self.segments.pop_front() {
                remove_if_present(&segment.path)?;
            }
        }
        sync_dir(&self.dir)
    }
}

/// Reading.
impl Inner {
    fn first_index(&self) -> u64 {
        self.purged.map_or(0, |p| p.index + 1)
    }

    fn log_id_at(&self, index: u64) -> io::Result<Option<LogId>> {
        if let Some(purged) = self.purged.filter(|p| index <= p.index) {
            return Ok(Some(purged));
        }
        let index = index.min(self.last.map_or(0, |l| l.index));
        if let Some(cached) = self.cache.iter().find(|e| e.log_id.index == index) {
            return Ok(Some(cached.log_id));
        }
        let segment = self.segments.iter().find(|s| s.first <= index && index < s.next());
        segment.map_or(Ok(None), |segment| segment.log_id(index))
    }

    fn read(&self, from: u64, to: u64) -> io::Result<Vec<Entry>> {
        let (from, to) = (
            from.max(self.first_index()),
            to.min(self.last.map_or(0, |l| l.index + 1)),
        );
        if from >= to {
            return Ok(Vec::new());
        }
        let cached_from = self.cache.front().map_or(to, |e| e.log_id.index);
        let mut entries = Vec::with_capacity((to - from) as usize);
        for segment in self.segments.iter().filter(|s| s.first < to && s.next() > from) {
            let (start, end) = (from.max(segment.first), to.min(segment.next()).min(cached_from));
            if start < end {
                entries.extend(segment.read(start, end)?);
            }
        }
        if to > cached_from {
            let skip = from.saturating_sub(cached_from) as usize;
            entries.extend(self.cache.range(skip..(to - cached_from) as usize).cloned());
        }
        Ok(entries)
    }
}

/// An error while reading must not reach openraft, which could send what is left to a follower.
fn or_abort<T>(read: io::Result<T>) -> T {
    match read {
        Ok(value) => value,
        Err(error) => {
            tracing::error!(%error, "cannot read the raft log, aborting");
            std::process::abort()
        }
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let from = match range.start_bound() {
            Bound::Included(i) => *i,
            Bound::Excluded(i) => i.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(i) => i.saturating_add(1),
            Bound::Excluded(i) => *i,
            Bound::Unbounded => u64::MAX,
        };
        Ok(or_abort(self.inner.lock().read(from, to)))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        let inner = self.inner.lock();
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for index in start..end {
            let entry = or_abort(inner.read(index, index + 1));
            bytes += entry.iter().map(entry_size).sum::<usize>();
            if entry.is_empty() || (bytes > READ_BYTES && !entries.is_empty()) {
                break;
            }
            entries.extend(entry);
        }
        Ok(entries)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let inner = self.inner.lock();
        Ok(LogState {
            last_purged_log_id: inner.purged,
            last_log_id: inner.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let mut inner = self.inner.lock();
        let saved = inner.vote.save(*vote);
        saved.map_err(|e| StorageIOError::write_vote(&describe("write", inner.vote.path(), &e)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.inner.lock().vote.vote())
    }

    /// Kept in memory and written with the next entry: a restart then shows a state a little older, never a wrong one.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.inner.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.inner.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let status = &self.status;
        let entries = entries.into_iter().inspect(|entry| {
            status.appended.fetch_add(entry_size(entry) as u64, Ordering::Relaxed);
            if let EntryPayload::Membership(membership) = &entry.payload {
                status.set_membership(membership);
            }
        });
        let mut inner = self.inner.lock();
        let written = inner.append(entries);
        let described = written.map_err(|e| describe("append to the log in", &inner.dir, &e));
        drop(inner);
        callback.log_io_completed(described);
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        // A membership may be among what goes: until the next one a read asks the others.
        self.status.set_sole_voter(false);
        let mut inner = self.inner.lock();
        let done = inner.truncate(log_id.index);
        done.map_err(|e| StorageIOError::write_logs(&describe("truncate the log in", &inner.dir, &e)).into())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let mut inner = self.inner.lock();
        let done = inner.purge(log_id);
        done.map_err(|e| StorageIOError::write_logs(&describe("purge the log in", &inner.dir, &e)).into())
    }
}

fn describe(action: &str, path: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{action} {}: {e}", path.display()))
}
