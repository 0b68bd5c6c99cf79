//! Group commit: while one log entry is on its way, everything that arrives is collected into the next one.
//!
//! openraft 0.9 syncs once for each proposal and does not overlap them, so one entry with many transactions is what makes one sync serve many writers.
//! On a follower the same batches go to the leader.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::codec;
use super::files::is_full;
use super::node::{Leader, Node, refused};
use super::types::{Batch, Member};
use crate::store::{StoreError, TxnOutcome};

/// A batch is closed when it has this many bytes; a larger transaction travels alone.
const BATCH_BYTES: usize = 1 << 20;
/// Proposals that wait at most; more wait in their callers.
pub(super) const QUEUE: usize = 4096;

/// Encoded transactions of one caller.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) batch: Bytes,
    /// How many transactions `batch` has.
    pub(super) count: usize,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Result<Vec<TxnOutcome>, StoreError>>,
}

/// Runs until the last sender is gone.
pub(super) async fn run(node: Arc<Node>, mut proposals: mpsc::Receiver<Proposal>) {
    let mut carried = None;
    loop {
        let first = match carried.take() {
            Some(proposal) => proposal,
            None => match proposals.recv().await {
                Some(proposal) => proposal,
                None => return,
            },
        };
        let mut bytes = first.batch.len();
        let mut batch = vec![first];
        while let Ok(next) = proposals.try_recv() {
            if bytes + next.batch.len() > BATCH_BYTES {
                carried = Some(next);
                break;
            }
            bytes += next.batch.len();
            batch.push(next);
        }
        commit(&node, batch).await;
    }
}

async fn commit(node: &Node, batch: Vec<Proposal>) {
    let now = Instant::now();
    // Whoever gave up is told so, its transaction is not done behind its back.
    let (batch, late): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .partition(|p| p.deadline > now && !p.reply.is_closed());
    for proposal in late {
        let _ = proposal
            .reply
            .send(Err(StoreError::Unavailable("the write waited too long".into())));
    }
    let Some(deadline) = batch.iter().map(|p| p.deadline).min() else {
        return;
    };
    let count: usize = batch.iter().map(|p| p.count).sum();
    node.metrics.proposals.inc_by(count as u64);
    node.metrics.entries.inc();
    let outcomes = decide(node, join(&batch), deadline).await.and_then(|outcomes| {
        let fits = outcomes.len() == count;
        fits.then_some(outcomes)
            .ok_or_else(|| StoreError::Corrupt("outcomes do not match the transactions".into()))
    });
    match outcomes {
        Ok(outcomes) => {
            let mut outcomes = outcomes.into_iter();
            for proposal in batch {
                let mine = outcomes.by_ref().take(proposal.count).collect();
                let _ = proposal.reply.send(Ok(mine));
            }
        }
        Err(error) => {
            node.metrics.proposals_failed.inc_by(count as u64);
            for proposal in batch {
                let _ = proposal.reply.send(Err(error.clone()));
            }
        }
    }
}

fn join(batch: &[Proposal]) -> Bytes {
    if let [only] = batch {
        return only.batch.clone();
    }
    let mut joined = BytesMut::with_capacity(batch.iter().map(|p| p.batch.len()).sum());
    batch.iter().for_each(|p| joined.extend_from_slice(&p.batch));
    joined.freeze()
}

/// Has the leader decide. Tries again only while nothing can have been proposed.
async fn decide(node: &Node, batch: Bytes, deadline: Instant) -> Result<Vec<TxnOutcome>, StoreError> {
    loop {
        let done = match node.wait_for_leader(deadline).await? {
            Leader::Here => write(node, batch.clone(), deadline).await,
            Leader::At(leader) => forward(node, &leader, batch.clone(), deadline).await,
            Leader::Unknown => Ok(None),
        };
        match done {
            Ok(Some(outcomes)) => return Ok(outcomes),
            Ok(None) => {
                // The leader is changing; what is known of it follows within a heartbeat.
                tokio::time::sleep_until(deadline.min(Instant::now() + super::RETRY)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// `Ok(None)` if nothing was proposed because another member leads.
async fn write(node: &Node, batch: Bytes, deadline: Instant) -> Result<Option<Vec<TxnOutcome>>, StoreError> {
    if let Err(e) = node.log.reserve(batch.len() + super::segment::RECORD_OVERHEAD) {
        tracing::warn!(error = %e, "no room for the log");
        return Err(if is_full(&e) {
            StoreError::Full
        } else {
            StoreError::Unavailable(e.to_string())
        });
    }
    let unknown = |why: &str| StoreError::Unavailable(format!("{why}, the outcome of the write is unknown"));
    let term = node.server.borrow().vote.leader_id;
    match tokio::time::timeout_at(deadline, node.raft.client_write(Batch(batch))).await {
        Err(_) => Err(unknown("no majority answered in time")),
        Ok(Ok(response)) => Ok(Some(response.data.0)),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
            // The same answer comes for an entry that was appended and then replaced by another leader's.
            let changed = node.server.borrow().vote.leader_id != term;
            if changed {
                Err(unknown("the leader changed"))
            } else {
                Ok(None)
            }
        }
        Ok(Err(e)) => Err(unknown(&e.to_string())),
    }
}

/// `Ok(None)` if the member asked is not the leader.
async fn forward(
    node: &Node,
    leader: &Member,
    batch: Bytes,
    deadline: Instant,
) -> Result<Option<Vec<TxnOutcome>>, StoreError> {
    let mut client = node.peers.client(&leader.address).map_err(|e| refused(&e))?;
    let request = proto::raft::ProposeRequest { transactions: batch };
    match tokio::time::timeout_at(deadline, client.propose(request)).await {
        Err(_) => Err(StoreError::Unavailable(
            "the leader did not answer in time, the outcome is unknown".into(),
        )),
        Ok(Err(status)) if status.code() == tonic::Code::FailedPrecondition => Ok(None),
        Ok(Err(status)) => Err(refused(&status)),
        Ok(Ok(reply)) => {
            let outcomes = codec::decode_outcomes(reply.into_inner().results);
            outcomes
                .map(Some)
                .map_err(|e| StoreError::Corrupt(format!("the leader's answer: {e}")))
        }
    }
}
