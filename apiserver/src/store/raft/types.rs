//! openraft's types, filled in, and their protobuf forms.
//!
//! The protobuf forms travel between members and also stand in the log, in snapshots and in sled wherever a log id or a membership is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bytes::Bytes;
use openraft::{CommittedLeaderId, EntryPayload, LeaderId};
use proto::raft as pb;

use super::codec::Malformed;
use crate::store::TxnOutcome;

openraft::declare_raft_types!(
    /// The types of the store's Raft.
    pub TypeConfig:
        D = Batch,
        R = Reply,
        NodeId = u64,
        Node = Member,
        SnapshotData = SnapshotData,
);

pub(super) type Raft = openraft::Raft<TypeConfig>;
pub(super) type LogId = openraft::LogId<u64>;
pub(super) type Vote = openraft::Vote<u64>;
pub(super) type Entry = openraft::Entry<TypeConfig>;
pub(super) type Membership = openraft::Membership<u64, Member>;
pub(super) type StoredMembership = openraft::StoredMembership<u64, Member>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<u64, Member>;
pub(super) type StorageError = openraft::StorageError<u64>;

/// Transactions of many clients in one log entry, encoded one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch(pub Bytes);

/// An outcome for each transaction of a batch.
#[derive(Debug)]
pub struct Reply(pub Vec<TxnOutcome>);

/// A member of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// The apiserver's name.
    pub name: String,
    /// `host:port` of the apiserver.
    pub address: String,
}

/// A snapshot file.
#[derive(Debug)]
pub struct SnapshotData {
    pub(super) path: PathBuf,
    /// Whether the file is being received and becomes the snapshot by a rename.
    pub(super) temporary: bool,
}

pub(super) fn log_id_to_pb(id: &LogId) -> pb::LogId {
    let leader_id = pb::LeaderId {
        term: id.leader_id.term,
        node_id: id.leader_id.node_id,
    };
    pb::LogId {
        leader_id: Some(leader_id),
        index: id.index,
    }
}

pub(super) fn log_id_from_pb(id: pb::LogId) -> Result<LogId, Malformed> {
    let leader = id.leader_id.ok_or(Malformed)?;
    Ok(LogId::new(
        CommittedLeaderId::new(leader.term, leader.node_id),
        id.index,
    ))
}

pub(super) fn optional_log_id(id: Option<pb::LogId>) -> Result<Option<LogId>, Malformed> {
    id.map(log_id_from_pb).transpose()
}

pub(super) fn vote_to_pb(vote: &Vote) -> pb::Vote {
    let leader_id = pb::LeaderId {
        term: vote.leader_id.term,
        node_id: vote.leader_id.node_id,
    };
    pb::Vote {
        leader_id: Some(leader_id),
        committed: vote.committed,
    }
}

pub(super) fn vote_from_pb(vote: Option<pb::Vote>) -> Result<Vote, Malformed> {
    let vote = vote.ok_or(Malformed)?;
    let leader = vote.leader_id.ok_or(Malformed)?;
    Ok(Vote {
        leader_id: LeaderId::new(leader.term, leader.node_id),
        committed: vote.committed,
    })
}

pub(super) fn membership_to_pb(membership: &Membership) -> pb::Membership {
    let config = |ids: &BTreeSet<u64>| pb::NodeIds {
        node_ids: ids.iter().copied().collect(),
    };
    pb::Membership {
        configs: membership.get_joint_config().iter().map(config).collect(),
        members: membership
            .nodes()
            .map(|(id, member)| member_to_pb(*id, member))
            .collect(),
    }
}

pub(super) fn member_to_pb(node_id: u64, member: &Member) -> pb::Member {
    pb::Member {
        node_id,
        address: member.address.clone(),
        name: member.name.clone(),
    }
}

pub(super) fn membership_from_pb(membership: pb::Membership) -> Membership {
    let configs = membership
        .configs
        .into_iter()
        .map(|c| c.node_ids.into_iter().collect())
        .collect();
    let member = |m: pb::Member| {
        (
            m.node_id,
            Member {
                name: m.name,
                address: m.address,
            },
        )
    };
    let members: BTreeMap<_, _> = membership.members.into_iter().map(member).collect();
    Membership::new(configs, members)
}

pub(super) fn stored_membership_to_pb(stored: &StoredMembership) -> pb::StoredMembership {
    pb::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_pb),
        membership: Some(membership_to_pb(stored.membership())),
    }
}

pub(super) fn stored_membership_from_pb(stored: Option<pb::StoredMembership>) -> Result<StoredMembership, Malformed> {
    let stored = stored.ok_or(Malformed)?;
    let membership = membership_from_pb(stored.membership.ok_or(Malformed)?);
    Ok(StoredMembership::new(optional_log_id(stored.log_id)?, membership))
}

pub(super) fn entry_to_pb(entry: &Entry) -> pb::Entry {
    let payload = match &entry.payload {
        EntryPayload::Blank => pb::entry::Payload::Blank(true),
        EntryPayload::Normal(batch) => pb::entry::Payload::Transactions(batch.0.clone()),
        EntryPayload::Membership(membership) => pb::entry::Payload::Membership(membership_to_pb(membership)),
    };
    pb::Entry {
        log_id: Some(log_id_to_pb(&entry.log_id)),
        payload: Some(payload),
    }
}

pub(super) fn entry_from_pb(entry: pb::Entry) -> Result<Entry, Malformed> {
    let payload = match entry.payload.ok_or(Malformed)? {
        pb::entry::Payload::Blank(_) => EntryPayload::Blank,
        pb::entry::Payload::Transactions(bytes) => EntryPayload::Normal(Batch(bytes)),
        pb::entry::Payload::Membership(membership) => EntryPayload::Membership(membership_from_pb(membership)),
    };
    Ok(Entry {
        log_id: log_id_from_pb(entry.log_id.ok_or(Malformed)?)?,
        payload,
    })
}

/// How many bytes an entry adds to a message, about.
pub(super) fn entry_size(entry: &Entry) -> usize {
    32 + match &entry.payload {
        EntryPayload::Normal(batch) => batch.0.len(),
        EntryPayload::Membership(_) => 1024,
        EntryPayload::Blank => 0,
    }
}
