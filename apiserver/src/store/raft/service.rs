//! What the other members call. The mounting point admits the group of apiservers and nobody else.

use std::path::Path;
use std::sync::Arc;

use openraft::ChangeMembers;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use openraft::storage::Snapshot;
use proto::raft as pb;
use proto::raft::raft_server::Raft as RaftService;
use tokio::io::AsyncWriteExt;
use tonic::{Request, Response, Status, Streaming};

use super::codec::{self, Malformed};
use super::files::is_full;
use super::node::{Leader, Node, REQUEST_TIMEOUT, not_leader};
use super::segment::RECORD_OVERHEAD;
use super::snapshot::{self, Receiver};
use super::types::{self, Member, entry_size};
use crate::store::StoreError;
use crate::store::vault::Vault;

/// The Raft service of one member.
#[derive(Debug, Clone)]
pub struct Service {
    pub(super) node: Arc<Node>,
}

fn malformed(_: Malformed) -> Status {
    Status::invalid_argument("malformed message")
}

fn unavailable(e: impl std::fmt::Display) -> Status {
    Status::unavailable(e.to_string())
}

fn no_room(e: &std::io::Error) -> Status {
    if is_full(e) {
        Status::resource_exhausted(e.to_string())
    } else {
        unavailable(e)
    }
}

fn status_of(error: &StoreError) -> Status {
    match error {
        StoreError::Full => Status::resource_exhausted(error.to_string()),
        _ => unavailable(error),
    }
}

#[tonic::async_trait]
impl RaftService for Service {
    async fn append_entries(
        &self,
        request: Request<pb::AppendEntriesRequest>,
    ) -> Result<Response<pb::AppendEntriesReply>, Status> {
        let request = request.into_inner();
        let entries: Vec<_> = request
            .entries
            .into_iter()
            .map(types::entry_from_pb)
            .collect::<Result<_, _>>()
            .map_err(malformed)?;
        if !entries.is_empty() {
            // openraft would stop for good where the log has no room; refused here, the leader tries again.
            let bytes = entries.iter().map(|e| entry_size(e) + RECORD_OVERHEAD).sum();
            self.node.log.reserve(bytes).map_err(|e| no_room(&e))?;
        }
        let rpc = AppendEntriesRequest {
            vote: types::vote_from_pb(request.vote).map_err(malformed)?,
            prev_log_id: types::optional_log_id(request.prev_log_id).map_err(malformed)?,
            entries,
            leader_commit: types::optional_log_id(request.leader_commit).map_err(malformed)?,
        };
        use pb::append_entries_reply::Outcome;
        let outcome = match self.node.raft.append_entries(rpc).await.map_err(unavailable)? {
            AppendEntriesResponse::Success => Outcome::Success(true),
            AppendEntriesResponse::PartialSuccess(Some(id)) => Outcome::PartialSuccess(types::log_id_to_pb(&id)),
            AppendEntriesResponse::PartialSuccess(None) => {
                return Err(Status::internal("partial success without an id"));
            }
            AppendEntriesResponse::Conflict => Outcome::Conflict(true),
            AppendEntriesResponse::HigherVote(vote) => Outcome::HigherVote(types::vote_to_pb(&vote)),
        };
        Ok(Response::new(pb::AppendEntriesReply { outcome: Some(outcome) }))
    }

    async fn vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteReply>, Status> {
        let request = request.into_inner();
        let rpc = VoteRequest {
            vote: types::vote_from_pb(request.vote).map_err(malformed)?,
            last_log_id: types::optional_log_id(request.last_log_id).map_err(malformed)?,
        };
        let reply = self.node.raft.vote(rpc).await.map_err(unavailable)?;
        Ok(Response::new(pb::VoteReply {
            vote: Some(types::vote_to_pb(&reply.vote)),
            vote_granted: reply.vote_granted,
            last_log_id: reply.last_log_id.as_ref().map(types::log_id_to_pb),
        }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::InstallSnapshotRequest>>,
    ) -> Result<Response<pb::InstallSnapshotReply>, Status> {
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|m| m.part);
        let Some(pb::install_snapshot_request::Part::Open(open)) = first else {
            return Err(Status::invalid_argument("the first message does not open a snapshot"));
        };
        let vote = types::vote_from_pb(open.vote).map_err(malformed)?;
        let length = open.length;
        let meta = snapshot::meta_from_pb(open).map_err(malformed)?;
        let data = self.node.raft.begin_receiving_snapshot().await.map_err(unavailable)?;
        // What openraft is given must be whole and must have room: it does not survive a failure to install.
        let vault = self.node.state_machine.snapshots.vault();
        let received = receive(&mut parts, &data.path, length, vault).await;
        let received = match received {
            Ok(()) => self.node.log.reserve_segment().map_err(|e| no_room(&e)),
            refused => refused,
        };
        if let Err(refused) = received {
            let _ = tokio::fs::remove_file(&data.path).await;
            return Err(refused);
        }
        let installed = self
            .node
            .raft
            .install_full_snapshot(vote, Snapshot { meta, snapshot: data })
            .await;
        let reply = installed.map_err(unavailable)?;
        Ok(Response::new(pb::InstallSnapshotReply {
            vote: Some(types::vote_to_pb(&reply.vote)),
        }))
    }

    async fn propose(&self, request: Request<pb::ProposeRequest>) -> Result<Response<pb::ProposeReply>, Status> {
        let batch = request.into_inner().transactions;
        // Once in the log it could not be refused any more.
        let count = codec::decode_batch(batch.clone()).map_err(malformed)?.len();
        if count == 0 || batch.len() > self.node.log.max_batch() {
            return Err(Status::invalid_argument("no transaction, or too large"));
        }
        if self.node.leader() != Leader::Here || self.node.is_stopping() {
            return Err(not_leader());
        }
        let outcomes = self.node.propose(batch, count).await.map_err(|e| status_of(&e))?;
        Ok(Response::new(pb::ProposeReply {
            results: codec::encode_outcomes(&outcomes).into(),
        }))
    }

    async fn read_index(&self, _: Request<pb::ReadIndexRequest>) -> Result<Response<pb::ReadIndexReply>, Status> {
        if self.node.leader() != Leader::Here {
            return Err(not_leader());
        }
        self.node.linearize().await.map_err(|e| status_of(&e))?;
        let applied = self.node.state_machine.applied.log_id();
        Ok(Response::new(pb::ReadIndexReply {
            read_log_id: applied.as_ref().map(types::log_id_to_pb),
        }))
    }

    async fn add_member(&self, request: Request<pb::AddMemberRequest>) -> Result<Response<pb::MembersReply>, Status> {
        let request = request.into_inner();
        if let Some(mut leader) = self.other_leader().await? {
            return leader.add_member(request).await;
        }
        let member = request.member.ok_or_else(|| Status::invalid_argument("no member"))?;
        if member.node_id == 0 || member.address.is_empty() {
            return Err(Status::invalid_argument("a member needs an id and an address"));
        }
        let _one_at_a_time = self.node.changing.lock().await;
        let known = self.members();
        if known.voters.contains(&member.node_id) {
            return Ok(Response::new(known));
        }
        let node = Member {
            name: member.name,
            address: member.address,
        };
        self.node
            .raft
            .add_learner(member.node_id, node, true)
            .await
            .map_err(unavailable)?;
        let voter = ChangeMembers::AddVoterIds([member.node_id].into());
        self.node
            .raft
            .change_membership(voter, true)
            .await
            .map_err(unavailable)?;
        Ok(Response::new(self.members()))
    }

    async fn remove_member(
        &self,
        request: Request<pb::RemoveMemberRequest>,
    ) -> Result<Response<pb::MembersReply>, Status> {
        let request = request.into_inner();
        if let Some(mut leader) = self.other_leader().await? {
            return leader.remove_member(request).await;
        }
        let id = request.node_id;
        let _one_at_a_time = self.node.changing.lock().await;
        let known = self.members();
        if known.voters.contains(&id) {
            let voter = ChangeMembers::RemoveVoters([id].into());
            self.node
                .raft
                .change_membership(voter, false)
                .await
                .map_err(unavailable)?;
        } else if known.members.iter().any(|m| m.node_id == id) {
            let learner = ChangeMembers::RemoveNodes([id].into());
            self.node
                .raft
                .change_membership(learner, false)
                .await
                .map_err(unavailable)?;
        }
        Ok(Response::new(self.members()))
    }

    async fn members(&self, _: Request<pb::MembersRequest>) -> Result<Response<pb::MembersReply>, Status> {
        Ok(Response::new(self.members()))
    }

    /// The leader is leaving and has been silent long enough for the others to vote.
    async fn transfer_leadership(
        &self,
        _: Request<pb::TransferLeadershipRequest>,
    ) -> Result<Response<pb::TransferLeadershipReply>, Status> {
        self.node.raft.trigger().elect().await.map_err(unavailable)?;
        Ok(Response::new(pb::TransferLeadershipReply {}))
    }
}

impl Service {
    /// A client of the leader unless this member leads.
    async fn other_leader(
        &self,
    ) -> Result<Option<proto::raft::raft_client::RaftClient<tonic::transport::Channel>>, Status> {
        let deadline = tokio::time::Instant::now() + REQUEST_TIMEOUT;
        match self.node.wait_for_leader(deadline).await.map_err(|e| status_of(&e))? {
            Leader::Here => Ok(None),
            Leader::At(leader) => self.node.peers.client(&leader.address).map(Some),
            Leader::Unknown => Err(unavailable("no leader")),
        }
    }

    fn members(&self) -> pb::MembersReply {
        let metrics = self.node.server.borrow();
        let membership = metrics.membership_config.membership();
        pb::MembersReply {
            members: membership
                .nodes()
                .map(|(id, member)| types::member_to_pb(*id, member))
                .collect(),
            voters: membership.voter_ids().collect(),
            leader: metrics.current_leader.unwrap_or(0),
        }
    }
}

/// Writes a snapshot that comes in pieces, syncs it and checks it.
async fn receive(
    parts: &mut Streaming<pb::InstallSnapshotRequest>,
    path: &Path,
    length: u64,
    vault: &Arc<dyn Vault>,
) -> Result<(), Status> {
    let mut receiver = Receiver::new(vault.clone());
    let mut file = tokio::fs::File::create(path).await.map_err(|e| no_room(&e))?;
    let mut received = 0;
    while let Some(message) = parts.message().await? {
        let Some(pb::install_snapshot_request::Part::Chunk(chunk)) = message.part else {
            return Err(Status::invalid_argument("a snapshot is opened once"));
        };
        received += chunk.len() as u64;
        if received > length {
            return Err(Status::invalid_argument("more bytes than announced"));
        }
        let bytes = receiver
            .feed(&chunk)
            .map_err(|_| Status::data_loss("a block is malformed"))?;
        file.write_all(&bytes).await.map_err(|e| no_room(&e))?;
    }
    if !receiver.is_complete() {
        return Err(Status::data_loss("the snapshot is cut off"));
    }
    file.sync_all().await.map_err(|e| no_room(&e))?;
    let (path, vault) = (path.to_owned(), vault.clone());
    let checked = tokio::task::spawn_blocking(move || snapshot::read(&path, &*vault, |_| {}).map(drop)).await;
    checked
        .map_err(unavailable)?
        .map_err(|e| Status::data_loss(e.to_string()))
}
