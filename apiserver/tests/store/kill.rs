//! kill -9 under write load, again and again: no acknowledged write is lost and every start succeeds.
//!
//! The test starts itself as the process that is killed, so that there is no other binary to be built first.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kube_apiserver::store::raft::{RaftConfig, RaftStore};
use kube_apiserver::store::{ReadAt, Store, Txn, TxnOutcome};

use crate::fixture::{list, single, text, value};

const ROUNDS: u64 = 200;
const WRITERS: usize = 8;
const KEYS: usize = 20;

/// Small figures, so that segments, snapshots and purges are in the middle of things when the signal comes.
fn config(dir: &Path) -> RaftConfig {
    RaftConfig {
        segment_bytes: 192 << 10,
        snapshot_entries: 300,
        keep_entries: 50,
        ..single(dir)
    }
}

/// Counts up keys and says each acknowledged value, until it is killed.
#[test]
#[ignore = "the process that `acknowledged_writes_survive_kill_9` kills"]
fn writer() {
    let Some(dir) = std::env::var_os("KEELSON_STORE_DIR") else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Arc::new(RaftStore::start(config(Path::new(&dir))).await.unwrap());
        let writers: Vec<_> = (0..WRITERS).map(|w| tokio::spawn(count_up(store.clone(), w))).collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

async fn count_up(store: Arc<RaftStore>, writer: usize) {
    for turn in 0.. {
        let key = format!("core/leases/{writer}/{}", turn % KEYS);
        let old = store.get(&key, ReadAt::Latest).await.unwrap();
        let next = old.as_ref().map_or(0, |e| count(&text(e))) + 1;
        let content = value(&format!("{next} {}", "x".repeat(turn * 37 % 900)));
        let txn = match old {
            Some(old) => Txn::update(&key, old.revision, content),
            None => Txn::create(&key, content),
        };
        let outcome = store.transact(txn).await.unwrap();
        assert!(matches!(outcome, TxnOutcome::Committed { .. }));
        // One write a line: the reader sees whole lines or none.
        std::io::stdout()
            .write_all(format!("\nacknowledged {key} {next}\n").as_bytes())
            .unwrap();
    }
}

fn count(text: &str) -> u64 {
    text.split(' ').next().unwrap().parse().unwrap()
}

fn spawn(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["kill::writer", "--exact", "--ignored", "--nocapture"])
        .env("KEELSON_STORE_DIR", dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Lets a process write for a while and kills it; gives what it said.
fn run_and_kill(dir: &Path, after: Duration) -> Vec<(String, u64)> {
    let mut child = spawn(dir);
    let output = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let lines = output.lines().map_while(Result::ok);
        let acknowledged = lines.filter_map(|line| {
            let (key, count) = line.strip_prefix("acknowledged ")?.split_once(' ')?;
            Some((key.to_owned(), count.parse().ok()?))
        });
        acknowledged.collect::<Vec<_>>()
    });
    std::thread::sleep(after);
    assert!(child.try_wait().unwrap().is_none(), "the writer ended by itself");
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

#[tokio::test]
async fn acknowledged_writes_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut known: HashMap<String, u64> = HashMap::new();
    let (mut writes, mut revision) = (0, 0);
    for round in 0..ROUNDS {
        // From the middle of the start to some hundred writes later.
        let acknowledged = run_and_kill(dir.path(), Duration::from_millis(10 + round * 67 % 190));
        writes += acknowledged.len();
        known.extend(acknowledged);
        let store = RaftStore::start(config(dir.path())).await.unwrap();
        let found = list(&store, "core/leases/", ReadAt::Latest).await.unwrap();
        assert!(found.revision >= revision);
        revision = found.revision;
        let found: HashMap<_, _> = found
            .entries
            .iter()
            .map(|e| (e.key.to_string(), count(&text(e))))
            .collect();
        for (key, acknowledged) in &known {
            let stored = found.get(key).copied().unwrap_or(0);
            // A write that was under way may have happened.
            assert!(
                stored == *acknowledged || stored == acknowledged + 1,
                "round {round}: {key} {acknowledged} {stored}"
            );
        }
        known = found;
        if round % 3 == 0 {
            store.shutdown().await;
        }
    }
    assert!(writes > 2_000, "only {writes} writes were made");
    assert_eq!(known.values().sum::<u64>(), revision, "one revision a write");
}
