//! Figures, not a test: `cargo test --release -p kube-apiserver --test store figures -- --ignored --nocapture`.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube_apiserver::store::{MemoryStore, ReadAt, Store, Txn, TxnOutcome, Window};

use crate::fixture::{single, stamp};

/// User and system time of this process.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// Resident bytes of this process.
fn resident() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<i64>().unwrap() * 4096
}

fn say(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stderr();
    writeln!(out, "{line}").unwrap();
}

async fn creates(name: &str, store: Arc<dyn Store>, in_flight: usize, count: usize, size: usize) {
    let (begun, used) = (Instant::now(), cpu());
    let tasks: Vec<_> = (0..in_flight)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut slowest = Vec::new();
                for i in 0..count / in_flight {
                    let key = format!("core/pods/ns-{in_flight}-{size}/{task:03}-{i:06}");
                    let begun = Instant::now();
                    let outcome = store.transact(Txn::create(key, vec![b'x'; size].into())).await.unwrap();
                    assert!(matches!(outcome, TxnOutcome::Committed { .. }));
                    slowest.push(begun.elapsed());
                }
                slowest
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.unwrap());
    }
    latencies.sort();
    let (elapsed, used) = (begun.elapsed(), cpu() - used);
    say(format_args!(
        "{name}: {in_flight:2} in flight, {size} B: {:.0} writes/s, p50 {:?}, p99 {:?}, {:.1} us of CPU a write",
        count as f64 / elapsed.as_secs_f64(),
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100],
        used.as_secs_f64() * 1e6 / count as f64,
    ));
}

async fn deliveries(store: Arc<dyn Store>, watchers: usize, writes: usize) {
    let start = store.revision();
    let readers: Vec<_> = (0..watchers)
        .map(|_| {
            let mut watcher = store.watch("core/leases/", start).unwrap();
            tokio::spawn(async move {
                let mut seen = 0;
                while seen < writes {
                    seen += watcher.next().await.unwrap().unwrap().len();
                }
            })
        })
        .collect();
    let (begun, used) = (Instant::now(), cpu());
    for i in 0..writes {
        store
            .transact(Txn::create(format!("core/leases/a/{i}"), vec![b'x'; 300].into()))
            .await
            .unwrap();
    }
    for reader in readers {
        reader.await.unwrap();
    }
    let (elapsed, used) = (begun.elapsed(), cpu() - used);
    let count = (watchers * writes) as f64;
    say(format_args!(
        "{watchers} watchers: {:.0} deliveries/s, {:.2} us of CPU a delivery",
        count / elapsed.as_secs_f64(),
        used.as_secs_f64() * 1e6 / count
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn figures() {
    let before = resident();
    let memory = Arc::new(MemoryStore::with_window(Window::default(), stamp));
    creates("memory", memory.clone(), 1, 10_000, 1024).await;
    say(format_args!(
        "memory: {} B an object of 1024 B",
        (resident() - before) / 10_000
    ));
    creates("memory", memory.clone(), 64, 64_000, 1024).await;
    deliveries(memory.clone(), 1000, 500).await;
    drop(memory);

    let root = std::env::var_os("FIGURES_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(root).unwrap();
    let begun = Instant::now();
    let before = resident();
    let raft = Arc::new(
        kube_apiserver::store::raft::RaftStore::start(single(dir.path()))
            .await
            .unwrap(),
    );
    say(format_args!(
        "raft: first start {:?}, {} kB",
        begun.elapsed(),
        (resident() - before) / 1024
    ));
    creates("raft", raft.clone(), 1, 5_000, 1024).await;
    creates("raft", raft.clone(), 1, 5_000, 300).await;
    creates("raft", raft.clone(), 64, 64_000, 1024).await;
    let begun = Instant::now();
    let listed = crate::fixture::list(&*raft, "core/pods/ns-64-1024/", ReadAt::Latest)
        .await
        .unwrap()
        .entries
        .len();
    say(format_args!(
        "raft: list of {listed} {:?}, {} MB resident",
        begun.elapsed(),
        resident() >> 20
    ));
    deliveries(raft.clone(), 1000, 500).await;
    let begun = Instant::now();
    raft.shutdown().await;
    say(format_args!("raft: orderly stop {:?}", begun.elapsed()));
    drop(raft);
    for (how, orderly) in [("after an orderly stop", true), ("after a crash", false)] {
        if !orderly {
            std::fs::remove_dir_all(dir.path().join("state")).unwrap();
        }
        let begun = Instant::now();
        let raft = kube_apiserver::store::raft::RaftStore::start(single(dir.path()))
            .await
            .unwrap();
        say(format_args!(
            "raft: start {how} {:?}, revision {}",
            begun.elapsed(),
            raft.revision()
        ));
        raft.shutdown().await;
    }
}
