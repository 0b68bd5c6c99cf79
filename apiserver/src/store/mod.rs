//! The store: every object of the cluster, in order, with a history window.
//!
//! Owns the contract ([`Store`]) and its two implementations: [`memory::MemoryStore`] (the state machine alone) and
//! `raft::RaftStore` (the same state machine behind a replicated, fsynced log). It knows keys, bytes and revisions; it never decodes an object.
//!
//! Keys are `<group or core>/<resource>/<namespace or empty>/<name>`. Every transaction that changes something takes the next revision of one
//! 64-bit counter; revisions are never reused and are the same on every replica.

mod machine;
pub mod memory;
pub mod raft;
mod state;
pub mod vault;
mod watch;

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;

pub use machine::Machine;
pub use memory::MemoryStore;
pub use state::Window;
pub use watch::Watcher;

/// A point in the store's history. `0` is the empty store.
pub type Revision = u64;

/// Writes the revision into an object's bytes, so that an entry is served as it is stored.
pub type Stamp = fn(&[u8], Revision) -> Vec<u8>;

/// The largest value one put may carry, bytes (upstream's etcd request limit is 1.5 MiB).
pub const MAX_VALUE: usize = 3 << 20;

/// One object at one revision.
#[derive(Debug)]
pub struct Entry {
    /// The key it is stored under.
    pub key: Arc<str>,
    /// Revision at which the key came to exist.
    pub create_revision: Revision,
    /// Revision of this value.
    pub revision: Revision,
    /// The stamped object, a Kubernetes protobuf message.
    pub value: Bytes,
    /// Unix time in seconds after which the key is deleted.
    pub expires_at: Option<i64>,
    json: OnceLock<Bytes>,
}

impl Entry {
    /// An entry without a cached JSON form.
    pub fn new(
        key: Arc<str>,
        create_revision: Revision,
        revision: Revision,
        value: Bytes,
        expires_at: Option<i64>,
    ) -> Self {
        Self {
            key,
            create_revision,
            revision,
            value,
            expires_at,
            json: OnceLock::new(),
        }
    }

    /// The JSON form, made once and shared by every reader of this entry.
    pub fn json(&self, make: impl FnOnce() -> Bytes) -> &Bytes {
        self.json.get_or_init(make)
    }

    /// The JSON form if somebody made it already.
    pub fn cached_json(&self) -> Option<&Bytes> {
        self.json.get()
    }
}

/// How fresh a read has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadAt {
    /// Everything acknowledged before the call is seen (linearizable).
    Latest,
    /// Whatever this replica has.
    Any,
    /// At least this revision; waits for it a short while, then [`StoreError::FutureRevision`].
    AtLeast(Revision),
    /// The state exactly at this revision, if the window still has it.
    Exact(Revision),
}

/// A range of keys to read.
#[derive(Debug, Clone, Copy)]
pub struct ListQuery<'a> {
    /// Keys that start with this.
    pub prefix: &'a str,
    /// Only keys after this one (the key itself is left out).
    pub start_after: Option<&'a str>,
    /// How many entries at most; `0` is all.
    pub limit: usize,
    /// Freshness.
    pub at: ReadAt,
}

/// Answer to a [`ListQuery`].
#[derive(Debug, Clone)]
pub struct ListResult {
    /// In key order.
    pub entries: Vec<Arc<Entry>>,
    /// The revision the list is a picture of.
    pub revision: Revision,
    /// Whether the limit left entries out.
    pub more: bool,
    /// How many entries the limit left out.
    pub remaining: usize,
}

/// What a condition wants of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key exists.
    Exists,
    /// The key's value is of this revision.
    Revision(Revision),
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Key looked at.
    pub key: String,
    /// What it has to be.
    pub expect: Expect,
}

/// A change of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Stores a value; the store stamps the revision into it.
    Put {
        /// Key to store under.
        key: String,
        /// The object's bytes.
        value: Bytes,
        /// Unix time in seconds after which the key is deleted.
        expires_at: Option<i64>,
    },
    /// Removes a key; removing an absent key changes nothing.
    Delete {
        /// Key to remove.
        key: String,
    },
}

/// All conditions hold and all changes happen, or nothing does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// Checked in order before any change.
    pub conditions: Vec<Condition>,
    /// Done in order, all at one revision.
    pub ops: Vec<Op>,
}

impl Txn {
    /// Creates `key`, which must be absent.
    pub fn create(key: impl Into<String>, value: Bytes) -> Self {
        let key = key.into();
        Self {
            conditions: vec![Condition {
                key: key.clone(),
                expect: Expect::Absent,
            }],
            ops: vec![Op::Put {
                key,
                value,
                expires_at: None,
            }],
        }
    }

    /// Replaces the value that `key` has at `revision`.
    pub fn update(key: impl Into<String>, revision: Revision, value: Bytes) -> Self {
        let key = key.into();
        Self {
            conditions: vec![Condition {
                key: key.clone(),
                expect: Expect::Revision(revision),
            }],
            ops: vec![Op::Put {
                key,
                value,
                expires_at: None,
            }],
        }
    }

    /// Deletes the value that `key` has at `revision`.
    pub fn delete(key: impl Into<String>, revision: Revision) -> Self {
        let key = key.into();
        Self {
            conditions: vec![Condition {
                key: key.clone(),
                expect: Expect::Revision(revision),
            }],
            ops: vec![Op::Delete { key }],
        }
    }
}

/// What became of a transaction.
#[derive(Debug, Clone)]
pub enum TxnOutcome {
    /// It happened.
    Committed {
        /// The transaction's revision; the store's current one if nothing changed.
        revision: Revision,
        /// For each op the new entry, or the deleted one (`None` if the key was absent).
        entries: Vec<Option<Arc<Entry>>>,
    },
    /// A condition did not hold and nothing changed.
    Conflict {
        /// Index of the first condition that failed.
        condition: usize,
        /// What its key holds.
        current: Option<Arc<Entry>>,
    },
}

/// A change of one key.
#[derive(Debug, Clone)]
pub enum Change {
    /// A value was stored.
    Put {
        /// The new value.
        entry: Arc<Entry>,
        /// The value it replaced; `None` if the key is new.
        previous: Option<Arc<Entry>>,
    },
    /// The key was removed.
    Delete {
        /// Its last value, stamped with the revision at which that value was written.
        previous: Arc<Entry>,
    },
}

impl Change {
    /// The key that changed.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::Put { entry, .. } => &entry.key,
            Self::Delete { previous } => &previous.key,
        }
    }

    /// The value before the change.
    pub fn previous(&self) -> Option<&Arc<Entry>> {
        match self {
            Self::Put { previous, .. } => previous.as_ref(),
            Self::Delete { previous } => Some(previous),
        }
    }

    /// The value after the change.
    pub fn current(&self) -> Option<&Arc<Entry>> {
        match self {
            Self::Put { entry, .. } => Some(entry),
            Self::Delete { .. } => None,
        }
    }
}

/// The encodings in which an event is sent to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// A line of JSON.
    Json,
    /// A length-prefixed Kubernetes protobuf event.
    Protobuf,
    /// A message of the suite's gRPC watch.
    Grpc,
}

/// A change as watchers get it; one value is shared by all of them.
#[derive(Debug)]
pub struct WatchEvent {
    /// Revision of the change.
    pub revision: Revision,
    /// What changed.
    pub change: Change,
    frames: [OnceLock<Bytes>; 3],
}

impl WatchEvent {
    /// An event without encoded frames.
    pub fn new(revision: Revision, change: Change) -> Self {
        Self {
            revision,
            change,
            frames: Default::default(),
        }
    }

    /// The event as sent to a watcher without a selector, encoded once for all of them.
    pub fn frame(&self, frame: Frame, make: impl FnOnce() -> Bytes) -> &Bytes {
        self.frames[frame as usize].get_or_init(make)
    }
}

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The revision is older than the history window.
    #[error("revision has been compacted, the oldest one kept is {oldest}")]
    Compacted {
        /// The oldest revision that can still be read.
        oldest: Revision,
    },
    /// The revision does not exist (yet).
    #[error("revision {requested} is in the future, the current one is {current}")]
    FutureRevision {
        /// What was asked for.
        requested: Revision,
        /// What there is.
        current: Revision,
    },
    /// The watcher read too slowly and was dropped; it has to list again.
    #[error("the watcher fell too far behind")]
    WatchLagged,
    /// A value is larger than [`MAX_VALUE`] or a transaction larger than a log entry may be.
    #[error("request is too large: {size} bytes")]
    TooLarge {
        /// Bytes of the request.
        size: usize,
    },
    /// No leader, no majority, or the store is stopping. The outcome of a write that got this answer is unknown.
    #[error("store is unavailable: {0}")]
    Unavailable(String),
    /// The disk is full. The write did not happen.
    #[error("no space left for the store")]
    Full,
    /// A file is damaged; the text names it.
    #[error("store is damaged: {0}")]
    Corrupt(String),
}

/// The objects of the cluster.
///
/// To ensure correctness an implementation keeps these promises, which the conformance suite checks on both: a transaction is atomic and takes one
/// revision; revisions only grow; a [`ReadAt::Latest`] read sees every transaction acknowledged before it began; a watcher sees every change of its
/// prefix after its start revision exactly once and in order, or [`StoreError::WatchLagged`]; no watcher delays a writer.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// One key.
    async fn get(&self, key: &str, at: ReadAt) -> Result<Option<Arc<Entry>>, StoreError>;

    /// A range of keys, all of one revision.
    async fn list(&self, query: ListQuery<'_>) -> Result<ListResult, StoreError>;

    /// The changes of keys that start with `prefix`, from the first one after revision `after` on.
    ///
    /// Errors: [`StoreError::Compacted`] when `after` is older than the window, [`StoreError::FutureRevision`] when it does not exist here yet.
    fn watch(&self, prefix: &str, after: Revision) -> Result<Watcher, StoreError>;

    /// Does a transaction; when it returns `Committed` the change is durable.
    async fn transact(&self, txn: Txn) -> Result<TxnOutcome, StoreError>;

    /// The revision of this replica.
    fn revision(&self) -> Revision;
}
