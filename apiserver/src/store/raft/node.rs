//! One running member: what the batcher, the readers, the service and the background tasks share.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::metrics::RaftServerMetrics;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::batcher::Proposal;
use super::log::LogStore;
use super::metrics::Metrics;
use super::network::Peers;
use super::state_machine::StateMachine;
use super::types::{Member, Raft};
use crate::store::{StoreError, TxnOutcome};

/// How long a request waits for a leader and for its answer.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything of a member that lives as long as it runs.
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) raft: Raft,
    pub(super) server: watch::Receiver<RaftServerMetrics<u64, Member>>,
    pub(super) log: LogStore,
    pub(super) state_machine: StateMachine,
    pub(super) peers: Peers,
    pub(super) metrics: Arc<Metrics>,
    pub(super) proposals: mpsc::Sender<Proposal>,
    pub(super) reads: mpsc::Sender<oneshot::Sender<Result<(), StoreError>>>,
    /// One change of the membership at a time; openraft 0.9 does not survive more.
    pub(super) changing: tokio::sync::Mutex<()>,
    pub(super) stopping: AtomicBool,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Who decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Leader {
    /// This member.
    Here,
    /// Another one.
    At(Member),
    /// Nobody that is known.
    Unknown,
}

impl Node {
    /// Who leads, as far as this member knows.
    pub(super) fn leader(&self) -> Leader {
        leader_in(&self.server.borrow(), self.id)
    }

    /// Waits for somebody to lead.
    pub(super) async fn wait_for_leader(&self, deadline: Instant) -> Result<Leader, StoreError> {
        let mut server = self.server.clone();
        let known = server.wait_for(|m| leader_in(m, self.id) != Leader::Unknown);
        match tokio::time::timeout_at(deadline, known).await {
            Ok(Ok(metrics)) => Ok(leader_in(&metrics, self.id)),
            Ok(Err(_)) => Err(StoreError::Unavailable("raft has stopped".into())),
            Err(_) => Err(StoreError::Unavailable("no leader".into())),
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Hands encoded transactions to the batcher and waits for their outcomes.
    pub(super) async fn propose(&self, batch: bytes::Bytes, count: usize) -> Result<Vec<TxnOutcome>, StoreError> {
        if self.is_stopping() {
            return Err(StoreError::Unavailable("the store is stopping".into()));
        }
        let (reply, answer) = oneshot::channel();
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let stopped = || StoreError::Unavailable("the store has stopped".into());
        let sent = tokio::time::timeout_at(
            deadline,
            self.proposals.send(Proposal {
                batch,
                count,
                deadline,
                reply,
            }),
        );
        sent.await
            .map_err(|_| StoreError::Unavailable("too many writes are waiting".into()))?
            .map_err(|_| stopped())?;
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(answer) => answer.map_err(|_| stopped())?,
            Err(_) => Err(StoreError::Unavailable(
                "the write timed out, its outcome is unknown".into(),
            )),
        }
    }

    /// Waits until this member's state has everything that was acknowledged anywhere before the call.
    pub(super) async fn linearize(&self) -> Result<(), StoreError> {
        let stopped = || StoreError::Unavailable("the store has stopped".into());
        let (reply, answer) = oneshot::channel();
        self.reads.send(reply).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

fn leader_in(metrics: &RaftServerMetrics<u64, Member>, id: u64) -> Leader {
    match metrics.current_leader {
        Some(leader) if leader == id => Leader::Here,
        Some(leader) => match metrics.membership_config.membership().get_node(&leader) {
            Some(member) => Leader::At(member.clone()),
            None => Leader::Unknown,
        },
        None => Leader::Unknown,
    }
}

/// The error of a member that was asked something only the leader answers.
pub(super) fn not_leader() -> tonic::Status {
    tonic::Status::failed_precondition("this member is not the leader")
}

/// A peer's refusal as this store's error.
pub(super) fn refused(status: &tonic::Status) -> StoreError {
    match status.code() {
        tonic::Code::ResourceExhausted => StoreError::Full,
        _ => StoreError::Unavailable(format!("the leader answered: {}", status.message())),
    }
}
