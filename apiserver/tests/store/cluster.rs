//! Three members: a leader that dies, one that comes back, joining and leaving.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kube_apiserver::store::raft::{Member, RaftConfig, RaftStore};
use kube_apiserver::store::{ReadAt, Revision, Store, StoreError, Txn, TxnOutcome};
use proto::raft as pb;
use proto::raft::raft_client::RaftClient;

use crate::fixture::{eventually, list, providers, single, text, value, vault};

/// A member with a runtime of its own, so that dropping it cuts its connections as the end of a process does.
struct Running {
    store: Arc<RaftStore>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Cluster {
    dir: tempfile::TempDir,
    addresses: BTreeMap<u64, SocketAddr>,
    running: BTreeMap<u64, Running>,
}

impl Cluster {
    /// Addresses for members 1 to `count`, none of them started.
    fn new(count: u64) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let addresses = (1..=count).map(|id| (id, free())).collect();
        Self {
            dir: tempfile::tempdir().unwrap(),
            addresses,
            running: BTreeMap::new(),
        }
    }

    async fn of_three() -> Self {
        let mut cluster = Self::new(3);
        for id in 1..=3 {
            cluster.start(id, &[1, 2, 3], false).await;
        }
        cluster
    }

    fn path(&self, id: u64) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    fn member(&self, id: u64) -> Member {
        Member {
            name: format!("m{id}"),
            address: self.addresses[&id].to_string(),
        }
    }

    fn config(&self, id: u64, members: &[u64], join: bool) -> RaftConfig {
        RaftConfig {
            node_id: id,
            member: self.member(id),
            members: members.iter().map(|id| (*id, self.member(*id))).collect(),
            join,
            // Short enough to wait for, long enough for a busy machine.
            heartbeat: Duration::from_millis(100),
            election: (Duration::from_millis(600), Duration::from_millis(1200)),
            segment_bytes: 192 << 10,
            keep_entries: 5,
            // Each member encrypts everything with a key of its own.
            vault: vault(&self.path(id).join("keys"), "*.*", &providers("own", id as u8)),
            ..single(&self.path(id))
        }
    }

    async fn start(&mut self, id: u64, members: &[u64], join: bool) {
        let config = self.config(id, members, join);
        let address = self.addresses[&id];
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let started = runtime.spawn(async move {
            let store = Arc::new(RaftStore::start(config).await.unwrap());
            let listener = tokio::net::TcpListener::bind(address).await.unwrap();
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let server = tonic::transport::Server::builder().add_service(store.service());
            tokio::spawn(server.serve_with_incoming(incoming));
            store
        });
        let store = started.await.unwrap();
        self.running.insert(
            id,
            Running {
                store,
                runtime: Some(runtime),
            },
        );
    }

    /// Ends a member without a word, as kill -9 does.
    async fn kill(&mut self, id: u64) {
        let killed = self.running.remove(&id).unwrap();
        tokio::task::spawn_blocking(move || drop(killed)).await.unwrap();
    }

    fn store(&self, id: u64) -> Arc<RaftStore> {
        self.running[&id].store.clone()
    }

    /// The member that leads and knows that it may.
    async fn leader(&self) -> u64 {
        eventually("somebody leads", async || {
            self.running
                .iter()
                .find(|(_, r)| r.store.is_leader())
                .map(|(id, _)| *id)
        })
        .await
    }

    async fn assert_same_everywhere(&self, count: usize) {
        let mut seen = Vec::new();
        for (id, running) in &self.running {
            let found = list(&*running.store, "core/", ReadAt::Latest).await.unwrap();
            assert_eq!(found.entries.len(), count, "member {id}");
            let entries = found
                .entries
                .iter()
                .map(|e| (e.key.clone(), e.create_revision, e.revision, text(e)));
            seen.push((found.revision, entries.collect::<Vec<_>>()));
        }
        seen.dedup();
        assert_eq!(seen.len(), 1, "the members differ");
    }

    async fn client(&self, id: u64) -> RaftClient<tonic::transport::Channel> {
        RaftClient::connect(format!("http://{}", self.addresses[&id]))
            .await
            .unwrap()
    }

    /// Stops the members that are left, so that their threads are gone.
    async fn stop(mut self) {
        for id in self.running.keys().copied().collect::<Vec<_>>() {
            self.kill(id).await;
        }
    }
}

/// Creates a key through any member; while the leader changes that takes a few attempts.
async fn create(store: &dyn Store, key: &str, text: &str) -> Revision {
    eventually("a write", async || {
        match store.transact(Txn::create(key, value(text))).await {
            Ok(TxnOutcome::Committed { revision, .. }) => Some(revision),
            // An attempt without an answer had succeeded.
            Ok(TxnOutcome::Conflict { current, .. }) => Some(current.expect("it was absent").revision),
            Err(StoreError::Unavailable(_)) => None,
            Err(e) => panic!("{e}"),
        }
    })
    .await
}

fn snapshots(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("snap")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_writes_and_reads_its_own_writes() {
    let cluster = Cluster::of_three().await;
    for id in 1..=3 {
        let store = cluster.store(id);
        for i in 0..10 {
            let key = format!("core/pods/a/{id}-{i}");
            let revision = create(&*store, &key, "x").await;
            for other in 1..=3 {
                let seen = cluster.store(other).get(&key, ReadAt::Latest).await.unwrap();
                assert_eq!(seen.expect("a linearizable read sees it").revision, revision);
            }
        }
    }
    let conflict = cluster
        .store(1)
        .transact(Txn::create("core/pods/a/2-0", value("y")))
        .await
        .unwrap();
    assert!(matches!(
        conflict,
        TxnOutcome::Conflict {
            condition: 0,
            current: Some(_)
        }
    ));
    cluster.assert_same_everywhere(30).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_and_catches_up() {
    let mut cluster = Cluster::of_three().await;
    let first = cluster.leader().await;
    for i in 0..20 {
        create(&*cluster.store(first), &format!("core/pods/a/before-{i:02}"), "x").await;
    }
    cluster.kill(first).await;
    let survivor = *cluster.running.keys().next().unwrap();
    for i in 0..20 {
        create(&*cluster.store(survivor), &format!("core/pods/a/without-{i:02}"), "x").await;
    }
    cluster.assert_same_everywhere(40).await;

    tracing::info!("it comes back and catches up by the log");
    cluster.start(first, &[1, 2, 3], false).await;
    cluster.assert_same_everywhere(40).await;
    assert_eq!(snapshots(&cluster.path(first)), 0);

    tracing::info!("the next leader is killed, and the log goes on past what is kept for it");
    let second = cluster.leader().await;
    cluster.kill(second).await;
    let survivor = *cluster.running.keys().next().unwrap();
    let large = "x".repeat(8 << 10);
    create(&*cluster.store(survivor), "core/pods/a/again", "x").await;
    for i in 0..100 {
        create(&*cluster.store(survivor), &format!("core/pods/b/{i:02}"), &large).await;
    }
    for running in cluster.running.values() {
        running.store.snapshot().await.unwrap();
    }
    let leader = cluster.leader().await;
    eventually("the log is purged", async || {
        let log = cluster.path(leader).join("raft");
        (!log.join(format!("{:020}.log", 0)).exists()).then_some(())
    })
    .await;

    tracing::info!("it comes back and catches up by the snapshot");
    cluster.start(second, &[1, 2, 3], false).await;
    cluster.assert_same_everywhere(141).await;
    assert_eq!(snapshots(&cluster.path(second)), 1);
    create(&*cluster.store(second), "core/pods/c/last", "x").await;
    cluster.assert_same_everywhere(142).await;

    tracing::info!("what it has now survives a crash of its own");
    cluster.kill(second).await;
    cluster.start(second, &[1, 2, 3], false).await;
    cluster.assert_same_everywhere(142).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_neither_writes_nor_reads_the_latest() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    create(&*cluster.store(leader), "core/pods/a/1", "x").await;
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.kill(id).await;
    }
    let store = cluster.store(leader);
    let (write, read) = tokio::join!(
        store.transact(Txn::create("core/pods/a/2", value("x"))),
        store.get("core/pods/a/1", ReadAt::Latest)
    );
    assert!(matches!(write, Err(StoreError::Unavailable(_))), "{write:?}");
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    assert!(store.get("core/pods/a/1", ReadAt::Any).await.unwrap().is_some());
    drop(store);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_join_and_leave() {
    let mut cluster = Cluster::new(3);
    cluster.start(1, &[1], false).await;
    for i in 0..30 {
        create(&*cluster.store(1), &format!("core/pods/a/{i:02}"), &"x".repeat(8 << 10)).await;
    }
    cluster.store(1).snapshot().await.unwrap();
    cluster.start(2, &[1], true).await;
    cluster.start(3, &[1, 2], true).await;
    let mut client = cluster.client(3).await;
    eventually("all three vote", async || {
        let members = client.members(pb::MembersRequest {}).await.unwrap().into_inner();
        (members.voters == [1, 2, 3]).then_some(())
    })
    .await;
    cluster.assert_same_everywhere(30).await;

    let reply = client
        .remove_member(pb::RemoveMemberRequest { node_id: 2 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.voters, [1, 3]);
    cluster.kill(2).await;
    create(&*cluster.store(3), "core/pods/a/more", "x").await;
    cluster.assert_same_everywhere(31).await;

    let reply = client
        .remove_member(pb::RemoveMemberRequest { node_id: 3 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.voters, [1]);
    cluster.kill(3).await;
    create(&*cluster.store(1), "core/pods/a/alone", "x").await;
    cluster.assert_same_everywhere(32).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_in_order_hands_over() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    create(&*cluster.store(leader), "core/pods/a/1", "x").await;
    cluster.store(leader).shutdown().await;
    let others: Vec<_> = (1..=3).filter(|id| *id != leader).collect();
    // At once, not after an election timeout: one of them leads, the other may still have to hear of it.
    let leads = |id: &u64| cluster.store(*id).is_leader();
    let other = *others
        .iter()
        .find(|id| leads(id))
        .expect("it left before another one led");
    cluster.kill(leader).await;
    create(&*cluster.store(other), "core/pods/a/2", "x").await;
    cluster.start(leader, &[1, 2, 3], false).await;
    cluster.assert_same_everywhere(2).await;
    cluster.stop().await;
}
