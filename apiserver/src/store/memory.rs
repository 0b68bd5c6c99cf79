//! The store without a disk: the state machine alone, for tests and tools.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;

use super::machine::Machine;
use super::state::Window;
use super::{
    Entry, ListQuery, ListResult, MAX_VALUE, Op, ReadAt, Revision, Stamp, Store, StoreError, Txn, TxnOutcome, Watcher,
};

/// How often expired keys are looked for.
const EXPIRY_PERIOD: Duration = Duration::from_secs(1);
/// Keys deleted in one go by the expiry task.
const EXPIRY_BATCH: usize = 500;

/// Objects in memory, nothing on disk.
#[derive(Debug)]
pub struct MemoryStore {
    machine: Arc<Machine>,
}

impl MemoryStore {
    /// An empty store. Inside a Tokio runtime a task deletes expired keys.
    pub fn new(stamp: Stamp) -> Self {
        Self::with_window(Window::default(), stamp)
    }

    /// An empty store with a history window of its own.
    pub fn with_window(window: Window, stamp: Stamp) -> Self {
        let machine = Machine::new(window, stamp);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(expire(Arc::downgrade(&machine)));
        }
        Self { machine }
    }
}

async fn expire(machine: Weak<Machine>) {
    loop {
        tokio::time::sleep(EXPIRY_PERIOD).await;
        let Some(machine) = machine.upgrade() else { return };
        machine.apply(machine.expirations(unix_now(), EXPIRY_BATCH), |_| {});
    }
}

/// Unix seconds.
pub(super) fn unix_now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

/// Refuses a value that is too large before it goes anywhere.
pub(super) fn check_size(txn: &Txn) -> Result<(), StoreError> {
    for op in &txn.ops {
        if let Op::Put { value, .. } = op
            && value.len() > MAX_VALUE
        {
            return Err(StoreError::TooLarge { size: value.len() });
        }
    }
    Ok(())
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.machine.close();
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str, at: ReadAt) -> Result<Option<Arc<Entry>>, StoreError> {
        self.machine.get(key, at).await
    }

    async fn list(&self, query: ListQuery<'_>) -> Result<ListResult, StoreError> {
        self.machine.list(query).await
    }

    fn watch(&self, prefix: &str, after: Revision) -> Result<Watcher, StoreError> {
        self.machine.watch(prefix, after)
    }

    async fn transact(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        check_size(&txn)?;
        let outcome = self.machine.apply([txn], |_| {}).pop();
        outcome.ok_or_else(|| StoreError::Unavailable("the transaction had no outcome".into()))
    }

    fn revision(&self) -> Revision {
        self.machine.revision()
    }
}
