//! The replicated store: the state machine behind a Raft log.
//!
//! The log is the durability, sled is the state: what is acknowledged is in the synced log ([`log`]) or in a snapshot ([`snapshot`]); sled ([`state_file`]) only
//! makes an orderly restart quick. openraft and everything that waits for the disk run on one thread of their own, so that a slow sync holds no
//! request and no request's work holds an election.
//!
//! On disk: `data_dir/raft` (log, vote), `data_dir/snap` (snapshot), `data_dir/state` (sled), `data_dir/lock`.

mod batcher;
mod codec;
mod files;
mod log;
mod metrics;
mod network;
mod node;
mod reads;
mod segment;
mod service;
mod snapshot;
mod state_file;
mod state_machine;
mod tasks;
mod types;
mod vote;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use openraft::{Config, SnapshotPolicy};
use proto::raft::raft_server::RaftServer;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use self::files::At;
use self::log::LogStore;
use self::network::{NetworkFactory, Peers};
use self::node::{Leader, Node};
use self::snapshot::Snapshots;
use self::state_file::StateFile;
use self::state_machine::{Applied, StateMachine, StateWriter};
use self::types::Raft;
use super::memory::check_size;
use super::vault::{Plain, Vault};
use super::{
    Entry, ListQuery, ListResult, Machine, ReadAt, Revision, Stamp, Store, StoreError, Txn, TxnOutcome, Watcher, Window,
};

pub use self::files::StartError;
pub use self::metrics::Metrics;
pub use self::network::{Connect, endpoint, tls_channels};
pub use self::service::Service;
pub use self::types::Member;

/// Pause before something that needs the leader is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// How a member runs.
#[derive(Clone)]
pub struct RaftConfig {
    /// Folder of everything on disk.
    pub data_dir: PathBuf,
    /// This member; never 0 and never reused for a member whose data was lost.
    pub node_id: u64,
    /// This member's name and address, as the others shall know it.
    pub member: Member,
    /// The first members by id, this one among them. With `join`, members to ask.
    pub members: BTreeMap<u64, Member>,
    /// Whether to join a cluster that runs instead of forming one.
    pub join: bool,
    /// Interval of the leader's heartbeats.
    pub heartbeat: Duration,
    /// Shortest and longest silence after which a member stands for election.
    pub election: (Duration, Duration),
    /// A snapshot is taken after this many log entries,
    pub snapshot_entries: u64,
    /// or after this many bytes of them.
    pub snapshot_bytes: u64,
    /// How many entries before a snapshot stay in the log for members that are a little behind.
    pub keep_entries: u64,
    /// Size of a log file; a transaction has to fit one.
    pub segment_bytes: u32,
    /// History kept for watches and exact reads.
    pub window: Window,
    /// Channels to the other members.
    pub connect: Connect,
    /// Writes the revision into an object.
    pub stamp: Stamp,
    /// Encrypts what goes to disk.
    pub vault: Arc<dyn Vault>,
    /// Where the metrics go.
    pub registry: prometheus::Registry,
}

impl RaftConfig {
    /// One member alone, with the default figures.
    pub fn single(data_dir: impl Into<PathBuf>, member: Member, connect: Connect, stamp: Stamp) -> Self {
        Self {
            data_dir: data_dir.into(),
            node_id: 1,
            members: BTreeMap::from([(1, member.clone())]),
            member,
            join: false,
            heartbeat: Duration::from_millis(250),
            election: (Duration::from_millis(1000), Duration::from_millis(2000)),
            snapshot_entries: 100_000,
            snapshot_bytes: 64 << 20,
            keep_entries: 1000,
            segment_bytes: 8 << 20,
            window: Window::default(),
            connect,
            stamp,
            vault: Arc::new(Plain),
            registry: prometheus::Registry::new(),
        }
    }

    fn openraft(&self) -> Result<Arc<Config>, StartError> {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let config = Config {
            cluster_name: "keelson".into(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election.0),
            election_timeout_max: millis(self.election.1),
            install_snapshot_timeout: 600_000,
            // The maintenance task decides: openraft does not survive a snapshot that finds the disk full.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: self.keep_entries,
            ..Config::default()
        };
        Ok(Arc::new(
            config.validate().map_err(|e| StartError::Raft(e.to_string()))?,
        ))
    }
}

/// The store of one apiserver.
#[derive(Debug)]
pub struct RaftStore {
    machine: Arc<Machine>,
    node: Arc<Node>,
    election_max: Duration,
    // Both threads have ended before the lock goes.
    writer: parking_lot::Mutex<Option<StateWriter>>,
    thread: parking_lot::Mutex<Option<RaftThread>>,
    _lock: File,
}

impl RaftStore {
    /// Opens the data folder and starts. A single member leads when this returns; several need their [`RaftStore::service`] to be served first.
    ///
    /// Errors name the file. A damaged file is an error unless the data is whole without it.
    pub async fn start(config: RaftConfig) -> Result<Self, StartError> {
        let opened = tokio::task::spawn_blocking({
            let config = config.clone();
            move || open(&config)
        });
        let Opened {
            machine,
            state_machine,
            log,
            writer,
            lock,
            metrics,
        } = opened.await.map_err(|e| StartError::Raft(e.to_string()))??;
        let settings = config.openraft()?;
        let thread = RaftThread::start()?;
        let runtime = thread.runtime.clone();
        let factory = NetworkFactory {
            peers: Peers::new(config.connect.clone()),
            node_id: config.node_id,
            vault: config.vault.clone(),
        };
        let peers = factory.peers.clone();
        let (id, raft_log, raft_machine) = (config.node_id, log.clone(), state_machine.clone());
        let started = runtime.spawn(async move { Raft::new(id, settings, factory, raft_log, raft_machine).await });
        let raft = started.await.map_err(|e| StartError::Raft(e.to_string()))?;
        let raft = raft.map_err(|e| StartError::Raft(e.to_string()))?;
        let (proposals, proposed) = mpsc::channel(batcher::QUEUE);
        let (reads, reading) = mpsc::channel(reads::QUEUE);
        let node = Arc::new(Node {
            id,
            server: raft.server_metrics(),
            raft,
            log,
            state_machine,
            peers,
            metrics,
            proposals,
            reads,
            changing: tokio::sync::Mutex::default(),
            stopping: AtomicBool::new(false),
        });
        // The metrics are empty until openraft's first turn.
        let membership = node
            .raft
            .with_raft_state(|state| state.membership_state.effective().membership().clone());
        node.log
            .status()
            .set_membership(&membership.await.map_err(|e| StartError::Raft(e.to_string()))?);
        runtime.spawn(batcher::run(node.clone(), proposed));
        runtime.spawn(reads::run(node.clone(), reading));
        runtime.spawn(tasks::expire(node.clone()));
        runtime.spawn(tasks::maintain(
            node.clone(),
            config.snapshot_entries,
            config.snapshot_bytes,
        ));
        let store = Self {
            machine,
            node,
            writer: parking_lot::Mutex::new(Some(writer)),
            election_max: config.election.1,
            thread: parking_lot::Mutex::new(Some(thread)),
            _lock: lock,
        };
        store.form(config, &runtime).await?;
        Ok(store)
    }

    /// Forms or joins the cluster, unless this member is in one already.
    async fn form(&self, config: RaftConfig, runtime: &tokio::runtime::Handle) -> Result<(), StartError> {
        let raft_error = |e: &dyn std::fmt::Display| StartError::Raft(e.to_string());
        let raft = &self.node.raft;
        if !raft.is_initialized().await.map_err(|e| raft_error(&e))? {
            if config.join {
                runtime.spawn(tasks::join(self.node.clone(), config.member, config.members));
                return Ok(());
            }
            raft.initialize(config.members).await.map_err(|e| raft_error(&e))?;
        } else if self.node.log.status().is_sole_voter() {
            // Nobody else can lead: there is nothing to wait for.
            raft.trigger().elect().await.map_err(|e| raft_error(&e))?;
        }
        if self.node.log.status().is_sole_voter() {
            self.node.linearize().await.map_err(|e| raft_error(&e))?;
        }
        Ok(())
    }

    /// The service that the other members call, to be mounted where only apiservers of this cluster are admitted.
    pub fn service(&self) -> RaftServer<Service> {
        RaftServer::new(Service {
            node: self.node.clone(),
        })
        .max_decoding_message_size(network::MAX_MESSAGE)
        .max_encoding_message_size(network::MAX_MESSAGE)
    }

    /// Waits until this member can serve linearizable reads.
    pub async fn ready(&self) -> Result<(), StoreError> {
        self.node.linearize().await
    }

    /// Why the store cannot serve, if so.
    pub fn health(&self) -> Result<(), String> {
        self.running()?;
        match self.node.leader() {
            Leader::Unknown => Err("no leader".into()),
            _ => Ok(()),
        }
    }

    /// Fails once Raft has stopped.
    ///
    /// # Errors
    /// Why it has.
    pub fn running(&self) -> Result<(), String> {
        match &self.node.raft.metrics().borrow().running_state {
            Ok(()) => Ok(()),
            Err(stopped) => Err(stopped.to_string()),
        }
    }

    /// Waits until Raft has stopped by itself, as it does when the disk fails, and says why. Nothing but a new start helps then.
    pub async fn failed(&self) -> String {
        let mut metrics = self.node.raft.metrics();
        // A sender that is gone has stopped too.
        let stopped = metrics.wait_for(|m| m.running_state.is_err()).await;
        match stopped.as_deref().map(|m| &m.running_state) {
            Ok(Err(fatal)) => fatal.to_string(),
            _ => "raft is gone".into(),
        }
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.node.leader() == Leader::Here
    }

    /// Writes everything anew, with the keys that encrypt now: the snapshot, and with the next turn the state. What is encrypted with older
    /// keys is then only in the part of the log before the snapshot, which is not read any more and goes file by file.
    pub async fn rewrite(&self) -> Result<(), StoreError> {
        self.node.state_machine.applied.rewrite();
        self.snapshot().await
    }

    /// Takes a snapshot now and lets the log before it go.
    pub async fn snapshot(&self) -> Result<(), StoreError> {
        tasks::take_snapshot(&self.node)
            .await
            .map_err(|e| StoreError::Unavailable(e.to_string()))
    }

    /// Stops in order: hands leadership on, ends the watches, writes the state and its mark.
    pub async fn shutdown(&self) {
        self.node.stopping.store(true, Ordering::Release);
        if self.is_leader() && !self.node.log.status().is_sole_voter() {
            self.hand_over().await;
        }
        if let Err(error) = self.node.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop in order");
        }
        self.machine.close();
        let writer = self.writer.lock().take();
        if let Some(writer) = writer {
            // Joining a thread that may panic is the writer's to report.
            let _ = tokio::task::spawn_blocking(move || writer.close()).await;
        }
        let thread = self.thread.lock().take();
        let _ = tokio::task::spawn_blocking(move || drop(thread)).await;
    }

    /// openraft 0.9 has no transfer of leadership, and members do not vote while they hear a leader. So: fall silent, then have a member stand.
    async fn hand_over(&self) {
        self.node.raft.runtime_config().heartbeat(false);
        let membership = self.node.server.borrow().membership_config.membership().clone();
        let silent = Instant::now() + self.election_max + RETRY;
        tokio::time::sleep_until(silent).await;
        let others = membership.voter_ids().filter(|id| *id != self.node.id);
        for member in others.filter_map(|id| membership.get_node(&id)) {
            let Ok(mut client) = self.node.peers.client(&member.address) else {
                continue;
            };
            let request = client.transfer_leadership(proto::raft::TransferLeadershipRequest {});
            if matches!(tokio::time::timeout(self.election_max, request).await, Ok(Ok(_))) {
                let mut server = self.node.server.clone();
                let moved = server.wait_for(|m| m.current_leader.is_some_and(|l| l != self.node.id));
                if matches!(tokio::time::timeout(self.election_max, moved).await, Ok(Ok(_))) {
                    return;
                }
            }
        }
        tracing::warn!("nobody took over leadership, the others will elect");
    }

    async fn prepare_read(&self, at: ReadAt) -> Result<(), StoreError> {
        if at == ReadAt::Latest && !self.node.log.status().reads_are_local() {
            self.node.linearize().await?;
        }
        Ok(())
    }
}

struct Opened {
    machine: Arc<Machine>,
    state_machine: StateMachine,
    log: LogStore,
    writer: StateWriter,
    lock: File,
    metrics: Arc<Metrics>,
}

/// Reads what is on disk and decides whether it is whole.
fn open(config: &RaftConfig) -> Result<Opened, StartError> {
    let dir = &config.data_dir;
    std::fs::create_dir_all(dir).at("create", dir)?;
    let lock = take_lock(&dir.join("lock"))?;
    let metrics = Metrics::new(&config.registry).map_err(|e| StartError::Raft(e.to_string()))?;
    let metrics = Arc::new(metrics);
    let (snapshots, damage) = Snapshots::open(&dir.join("snap"), config.vault.clone())?;
    let (state_file, restored) = StateFile::open(&dir.join("state"), config.vault.clone())?;
    let covered = snapshots
        .last_log_id()
        .max(restored.as_ref().and_then(|r| r.point.applied));
    let log = LogStore::open(
        &dir.join("raft"),
        config.node_id,
        config.segment_bytes,
        covered,
        snapshots.last_log_id(),
        metrics.clone(),
        config.vault.clone(),
    )?;
    if log.purged() > covered {
        let missing = || StartError::damaged(snapshots.dir(), "the snapshot that the log builds on is missing");
        return Err(damage.unwrap_or_else(missing));
    }
    let machine = Machine::new(config.window, config.stamp);
    let stored = restored.is_some();
    let (applied, membership) = match restored {
        Some(restored) => {
            let point = restored.point;
            if point.applied > log.last() {
                return Err(StartError::damaged(&dir.join("raft"), "the log ends before the state"));
            }
            machine.restore(point.revision, restored.entries, restored.compacted, restored.history);
            (point.applied, point.membership)
        }
        None => load_snapshot(&snapshots, &machine)?,
    };
    let applied = Applied::new(machine.clone(), applied, membership, stored);
    let state_machine = StateMachine::new(applied.clone(), Arc::new(snapshots));
    if damage.is_some() {
        // The state has everything; the damaged file must not be what the next start needs.
        let rewritten = state_machine.write_snapshot();
        rewritten.at("replace the damaged snapshot in", state_machine.snapshots.dir())?;
    }
    let writer = StateWriter::start(applied, state_file).at("start the writer of", &dir.join("state"))?;
    Ok(Opened {
        machine,
        state_machine,
        log,
        writer,
        lock,
        metrics,
    })
}

fn load_snapshot(
    snapshots: &Snapshots,
    machine: &Machine,
) -> Result<(Option<types::LogId>, types::StoredMembership), StartError> {
    let Some((_, path)) = snapshots.current() else {
        return Ok(Default::default());
    };
    let mut entries = Vec::new();
    let head = snapshot::read(&path, &**snapshots.vault(), |entry| entries.push(Arc::new(entry)))?;
    machine.restore(head.revision, entries, head.revision, Vec::new());
    Ok((head.meta.last_log_id, head.meta.last_membership))
}

fn take_lock(path: &Path) -> Result<File, StartError> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .at("open", path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::Locked { path: path.to_owned() }),
        Err(std::fs::TryLockError::Error(e)) => Err(e).at("lock", path),
    }
}

/// The thread of openraft and of everything that waits for the disk. Ends when dropped.
#[derive(Debug)]
struct RaftThread {
    runtime: tokio::runtime::Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl RaftThread {
    fn start() -> Result<Self, StartError> {
        let raft_error = |e: std::io::Error| StartError::Raft(e.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(raft_error)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || {
            // Ends by the sender's drop, which is an error to the receiver.
            let _ = runtime.block_on(stopped);
        };
        let thread = std::thread::Builder::new()
            .name("store-raft".into())
            .spawn(run)
            .map_err(raft_error)?;
        Ok(Self {
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for RaftThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of raft panicked");
        }
    }
}

#[async_trait]
impl Store for RaftStore {
    async fn get(&self, key: &str, at: ReadAt) -> Result<Option<Arc<Entry>>, StoreError> {
        let _timer = self.node.metrics.get.start_timer();
        self.prepare_read(at).await?;
        self.machine.get(key, at).await
    }

    async fn list(&self, query: ListQuery<'_>) -> Result<ListResult, StoreError> {
        let _timer = self.node.metrics.list.start_timer();
        self.prepare_read(query.at).await?;
        self.machine.list(query).await
    }

    fn watch(&self, prefix: &str, after: Revision) -> Result<Watcher, StoreError> {
        self.machine.watch(prefix, after)
    }

    async fn transact(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        let _timer = self.node.metrics.transact.start_timer();
        check_size(&txn)?;
        let encoded = codec::encode_txn(&txn);
        if encoded.len() > self.node.log.max_batch() {
            return Err(StoreError::TooLarge { size: encoded.len() });
        }
        let outcome = self.node.propose(encoded.into(), 1).await?.pop();
        outcome.ok_or_else(|| StoreError::Corrupt("the transaction has no outcome".into()))
    }

    fn revision(&self) -> Revision {
        self.machine.revision()
    }
}
