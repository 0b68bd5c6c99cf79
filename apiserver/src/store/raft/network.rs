//! Calls to the other members, over gRPC.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{RPCOption, RPCTypes, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::storage::Snapshot;
use parking_lot::Mutex;
use proto::raft as pb;
use proto::raft::raft_client::RaftClient;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use super::codec::Malformed;
use super::snapshot::{self, meta_to_pb};
use super::types::{self, Member, TypeConfig, Vote};
use crate::store::vault::Vault;

/// The largest message between members, bytes: a batch and what openraft puts beside it.
pub(super) const MAX_MESSAGE: usize = 32 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Snapshots are sent in pieces of this many bytes.
const CHUNK: usize = 256 << 10;
/// How long a snapshot may take to be sent and installed.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(600);

/// Makes the channel to `host:port`.
pub type Connect = Arc<dyn Fn(&str) -> Result<Channel, tonic::transport::Error> + Send + Sync>;

/// Channels over mutual TLS; `tls` must offer ALPN `h2`.
pub fn tls_channels(tls: Arc<rustls::ClientConfig>) -> Connect {
    Arc::new(move |address| {
        let connector = TlsConnector::from(tls.clone());
        let connect = move |uri: Uri| {
            let connector = connector.clone();
            async move {
                let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
                let name = rustls_pki_types::ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
                let tcp = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(443))).await?;
                tcp.set_nodelay(true)?;
                Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, tcp).await?))
            }
        };
        Ok(endpoint(address)?.connect_with_connector_lazy(tower::service_fn(connect)))
    })
}

/// What every channel between members has in common.
pub fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    // TLS is the connector's matter; with the scheme `https` tonic would want to do it itself.
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true))
}

/// One channel a member, shared by replication, forwarding and reads.
#[derive(Clone)]
pub(super) struct Peers {
    connect: Connect,
    channels: Arc<Mutex<HashMap<String, Channel>>>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").finish_non_exhaustive()
    }
}

impl Peers {
    pub(super) fn new(connect: Connect) -> Self {
        Self {
            connect,
            channels: Arc::default(),
        }
    }

    pub(super) fn client(&self, address: &str) -> Result<RaftClient<Channel>, tonic::Status> {
        let mut channels = self.channels.lock();
        let channel = match channels.get(address) {
            Some(channel) => channel.clone(),
            None => {
                let made = (self.connect)(address);
                let channel = made.map_err(|e| tonic::Status::unavailable(format!("channel to {address}: {e}")))?;
                channels.insert(address.to_owned(), channel.clone());
                channel
            }
        };
        Ok(RaftClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE))
    }
}

/// openraft's way to one member.
#[derive(Debug)]
pub struct Network {
    peers: Peers,
    node_id: u64,
    target: u64,
    address: String,
    vault: Arc<dyn Vault>,
}

/// Makes [`Network`]s.
#[derive(Debug)]
pub struct NetworkFactory {
    pub(super) peers: Peers,
    pub(super) node_id: u64,
    pub(super) vault: Arc<dyn Vault>,
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, node: &Member) -> Network {
        Network {
            peers: self.peers.clone(),
            node_id: self.node_id,
            target,
            vault: self.vault.clone(),
            address: node.address.clone(),
        }
    }
}

type RpcError = RPCError<u64, Member, RaftError<u64>>;

fn malformed(e: Malformed) -> NetworkError {
    NetworkError::new(&e)
}

impl Network {
    async fn call<T>(
        &self,
        action: RPCTypes,
        limit: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, RpcError> {
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            // openraft backs off before it tries again.
            Ok(Err(status)) => Err(RPCError::Unreachable(Unreachable::new(&status))),
            Err(_) => {
                let timeout = Timeout {
                    action,
                    id: self.node_id,
                    target: self.target,
                    timeout: limit,
                };
                Err(RPCError::Timeout(timeout))
            }
        }
    }

    fn client(&self) -> Result<RaftClient<Channel>, Unreachable> {
        self.peers.client(&self.address).map_err(|e| Unreachable::new(&e))
    }
}

impl RaftNetwork<TypeConfig> for Network {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RpcError> {
        let request = pb::AppendEntriesRequest {
            vote: Some(types::vote_to_pb(&rpc.vote)),
            prev_log_id: rpc.prev_log_id.as_ref().map(types::log_id_to_pb),
            entries: rpc.entries.iter().map(types::entry_to_pb).collect(),
            leader_commit: rpc.leader_commit.as_ref().map(types::log_id_to_pb),
        };
        let mut client = self.client()?;
        let reply = self
            .call(
                RPCTypes::AppendEntries,
                option.hard_ttl(),
                client.append_entries(request),
            )
            .await?;
        append_reply(reply).map_err(|e| malformed(e).into())
    }

    async fn vote(&mut self, rpc: VoteRequest<u64>, option: RPCOption) -> Result<VoteResponse<u64>, RpcError> {
        let request = pb::VoteRequest {
            vote: Some(types::vote_to_pb(&rpc.vote)),
            last_log_id: rpc.last_log_id.as_ref().map(types::log_id_to_pb),
        };
        let mut client = self.client()?;
        let reply = self
            .call(RPCTypes::Vote, option.hard_ttl(), client.vote(request))
            .await?;
        vote_reply(reply).map_err(|e| malformed(e).into())
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        // A snapshot that was replaced meanwhile is like one that got lost on the way: openraft asks for the current one.
        let path = snapshot.snapshot.path.clone();
        let mut open = meta_to_pb(&snapshot.meta);
        open.vote = Some(types::vote_to_pb(&vote));
        // Decrypted it is not longer.
        open.length = std::fs::metadata(&path).map_err(|e| NetworkError::new(&e))?.len();
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let vault = self.vault.clone();
        tokio::task::spawn_blocking(move || send_file(&path, &*vault, open, &sender));
        let mut client = self.client()?;
        let parts = tokio_stream::wrappers::ReceiverStream::new(receiver);
        tokio::select! {
            closed = cancel => Err(closed.into()),
            reply = self.call(RPCTypes::InstallSnapshot, SNAPSHOT_TIMEOUT, client.install_snapshot(parts)) => match reply {
                Ok(reply) => Ok(SnapshotResponse::new(types::vote_from_pb(reply.vote).map_err(malformed)?)),
                Err(RPCError::Timeout(timeout)) => Err(timeout.into()),
                Err(other) => Err(Unreachable::new(&other).into()),
            },
        }
    }
}

/// Feeds a snapshot into a stream; ends early when the stream is dropped.
fn send_file(
    path: &Path,
    vault: &dyn Vault,
    open: pb::SnapshotOpen,
    parts: &tokio::sync::mpsc::Sender<pb::InstallSnapshotRequest>,
) {
    let send = |part| {
        parts
            .blocking_send(pb::InstallSnapshotRequest { part: Some(part) })
            .is_ok()
    };
    if !send(pb::install_snapshot_request::Part::Open(open)) {
        return;
    }
    let sent = snapshot::send(path, vault, |piece| {
        let piece = Bytes::from(piece);
        let mut chunks = (0..piece.len()).step_by(CHUNK);
        chunks.all(|at| {
            let chunk = piece.slice(at..piece.len().min(at + CHUNK));
            send(pb::install_snapshot_request::Part::Chunk(chunk))
        })
    });
    if let Err(error) = sent {
        // The receiver misses bytes and refuses.
        tracing::warn!(%error, "cannot read the snapshot to send");
    }
}

fn append_reply(reply: pb::AppendEntriesReply) -> Result<AppendEntriesResponse<u64>, Malformed> {
    use pb::append_entries_reply::Outcome;
    Ok(match reply.outcome.ok_or(Malformed)? {
        Outcome::Success(_) => AppendEntriesResponse::Success,
        Outcome::PartialSuccess(id) => AppendEntriesResponse::PartialSuccess(Some(types::log_id_from_pb(id)?)),
        Outcome::Conflict(_) => AppendEntriesResponse::Conflict,
        Outcome::HigherVote(vote) => AppendEntriesResponse::HigherVote(types::vote_from_pb(Some(vote))?),
    })
}

fn vote_reply(reply: pb::VoteReply) -> Result<VoteResponse<u64>, Malformed> {
    Ok(VoteResponse {
        vote: types::vote_from_pb(reply.vote)?,
        vote_granted: reply.vote_granted,
        last_log_id: types::optional_log_id(reply.last_log_id)?,
    })
}
