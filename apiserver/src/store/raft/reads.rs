//! Linearizable reads: one ReadIndex round serves every reader that was waiting when it began.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::node::{Leader, Node, REQUEST_TIMEOUT};
use crate::store::StoreError;

/// Readers that wait at most; more wait in their callers.
pub(super) const QUEUE: usize = 4096;

/// Runs until the last sender is gone.
pub(super) async fn run(node: Arc<Node>, mut waiting: mpsc::Receiver<oneshot::Sender<Result<(), StoreError>>>) {
    let mut readers = Vec::new();
    while waiting.recv_many(&mut readers, QUEUE).await > 0 {
        let answer = round(&node).await;
        for reader in readers.drain(..) {
            // A reader that left needs no answer.
            let _ = reader.send(answer.clone());
        }
    }
}

async fn round(node: &Node) -> Result<(), StoreError> {
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    loop {
        let attempt = async {
            match node.wait_for_leader(deadline).await? {
                Leader::Here => lead(node).await,
                Leader::At(leader) => follow(node, &leader.address).await,
                Leader::Unknown => Err(StoreError::Unavailable("no leader".into())),
            }
        };
        let failed = match tokio::time::timeout_at(deadline, attempt).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(e)) => e,
            Err(_) => StoreError::Unavailable("no majority confirmed the read in time".into()),
        };
        if Instant::now() + super::RETRY >= deadline {
            return Err(failed);
        }
        tokio::time::sleep(super::RETRY).await;
    }
}

async fn lead(node: &Node) -> Result<(), StoreError> {
    node.raft
        .ensure_linearizable()
        .await
        .map_err(|e| StoreError::Unavailable(e.to_string()))?;
    node.log.status().note_caught_up();
    Ok(())
}

async fn follow(node: &Node, leader: &str) -> Result<(), StoreError> {
    let unavailable = |e: tonic::Status| StoreError::Unavailable(format!("read index: {}", e.message()));
    let mut client = node.peers.client(leader).map_err(unavailable)?;
    let reply = client
        .read_index(proto::raft::ReadIndexRequest {})
        .await
        .map_err(unavailable)?
        .into_inner();
    node.state_machine
        .applied
        .wait_for(reply.read_log_id.map_or(0, |l| l.index))
        .await;
    Ok(())
}
