//! What a member does in the background: expiry, snapshots, gauges, joining.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::raft as pb;

use super::codec;
use super::node::{Leader, Node};
use super::types::{Member, member_to_pb};
use crate::store::memory::unix_now;

/// How often expired keys, the log's growth and the gauges are looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// Keys deleted by one proposal.
const EXPIRY_BATCH: usize = 500;
/// Pause after a snapshot that failed.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(10);

/// The leader proposes to delete what has expired; the condition on the revision spares what was renewed meanwhile.
pub(super) async fn expire(node: Arc<Node>) {
    let mut more = false;
    loop {
        if !more {
            tokio::time::sleep(PERIOD).await;
        }
        more = false;
        if node.is_stopping() || node.leader() != Leader::Here {
            continue;
        }
        let due = node.state_machine.applied.machine.expirations(unix_now(), EXPIRY_BATCH);
        if due.is_empty() {
            continue;
        }
        let batch: Vec<u8> = due.iter().flat_map(codec::encode_txn).collect();
        match node.propose(batch.into(), due.len()).await {
            Ok(_) => more = due.len() == EXPIRY_BATCH,
            Err(error) => tracing::warn!(%error, keys = due.len(), "cannot delete expired keys, trying again"),
        }
    }
}

/// Keeps the log short and the gauges current.
pub(super) async fn maintain(node: Arc<Node>, max_entries: u64, max_bytes: u64) {
    let mut bytes_at_last = 0;
    loop {
        tokio::time::sleep(PERIOD).await;
        update_gauges(&node);
        let appended = node.log.status().appended.load(Ordering::Relaxed);
        let applied = node.state_machine.applied.log_id().map_or(0, |l| l.index);
        let covered = node.state_machine.snapshots.last_log_id().map_or(0, |l| l.index);
        if applied - covered.min(applied) < max_entries && appended - bytes_at_last < max_bytes {
            continue;
        }
        match take_snapshot(&node).await {
            Ok(()) => bytes_at_last = appended,
            Err(error) => {
                tracing::warn!(%error, "cannot take a snapshot, trying again");
                tokio::time::sleep(SNAPSHOT_RETRY).await;
            }
        }
    }
}

/// Writes a snapshot, then tells openraft, which lets the log before it go.
pub(super) async fn take_snapshot(node: &Arc<Node>) -> io::Result<()> {
    let state_machine = node.state_machine.clone();
    let written = tokio::task::spawn_blocking(move || state_machine.write_snapshot());
    written.await.map_err(io::Error::other)??;
    node.state_machine.announce_snapshot();
    node.raft.trigger().snapshot().await.map_err(io::Error::other)
}

fn update_gauges(node: &Node) {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let server = node.server.borrow();
    let metrics = &node.metrics;
    metrics.term.set(number(server.vote.leader_id.term));
    metrics.has_leader.set(i64::from(server.current_leader.is_some()));
    metrics.is_leader.set(i64::from(server.current_leader == Some(node.id)));
    metrics.last_index.set(number(node.log.last().map_or(0, |l| l.index)));
    metrics
        .applied_index
        .set(number(node.state_machine.applied.log_id().map_or(0, |l| l.index)));
    metrics.snapshot_index.set(number(
        node.state_machine.snapshots.last_log_id().map_or(0, |l| l.index),
    ));
}

/// Asks the members, one after another and again, to take this one in.
pub(super) async fn join(node: Arc<Node>, member: Member, members: BTreeMap<u64, Member>) {
    let request = pb::AddMemberRequest {
        member: Some(member_to_pb(node.id, &member)),
    };
    let others: Vec<_> = members
        .into_iter()
        .filter(|(id, _)| *id != node.id)
        .map(|(_, m)| m)
        .collect();
    while !node.is_stopping() {
        for other in &others {
            let Ok(mut client) = node.peers.client(&other.address) else {
                continue;
            };
            match client.add_member(request.clone()).await {
                Ok(_) => {
                    tracing::info!(through = other.address, "joined the cluster");
                    return;
                }
                Err(status) => tracing::info!(through = other.address, why = status.message(), "not joined yet"),
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}
