//! Damage on disk: a start gives back everything that was acknowledged or is refused with the file's name.

use std::fs;
use std::path::{Path, PathBuf};

use kube_apiserver::store::raft::{RaftConfig, RaftStore, StartError};
use kube_apiserver::store::{Op, ReadAt, Store, Txn};

use crate::fixture::{committed, create, eventually, list, single, text, value};

fn config(dir: &Path) -> RaftConfig {
    RaftConfig {
        segment_bytes: 192 << 10,
        keep_entries: 5,
        ..single(dir)
    }
}

async fn start(dir: &Path) -> Result<RaftStore, StartError> {
    RaftStore::start(config(dir)).await
}

const OBJECTS: usize = 120;

/// Writes objects of 4 KiB, so that they take several segments, and changes and deletes some.
async fn fill(store: &RaftStore) {
    for i in 0..OBJECTS {
        create(
            store,
            &format!("core/pods/a/{i:03}"),
            &format!("{i}-{}", "x".repeat(4096)),
        )
        .await;
    }
    let put = Op::Put {
        key: "core/pods/a/001".into(),
        value: value("changed"),
        expires_at: Some(i64::MAX),
    };
    let delete = Op::Delete {
        key: "core/pods/a/000".into(),
    };
    committed(
        store
            .transact(Txn {
                conditions: vec![],
                ops: vec![put, delete],
            })
            .await
            .unwrap(),
    );
}

/// What is there equals what [`fill`] wrote.
async fn assert_whole(store: &RaftStore) {
    let found = list(store, "core/pods/", ReadAt::Latest).await.unwrap();
    assert_eq!((found.entries.len(), found.revision), (OBJECTS - 1, OBJECTS as u64 + 1));
    for (i, entry) in (1..).zip(&found.entries) {
        assert_eq!(&*entry.key, format!("core/pods/a/{i:03}"));
        assert_eq!(entry.create_revision, i + 1);
        if i == 1 {
            assert_eq!(
                (text(entry), entry.revision, entry.expires_at),
                ("changed".into(), found.revision, Some(i64::MAX))
            );
        } else {
            assert_eq!(
                (text(entry), entry.revision),
                (format!("{i}-{}", "x".repeat(4096)), i + 1)
            );
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Stop {
    Orderly,
    Crash,
}

/// A data folder that a filled store left behind.
async fn left_behind(stop: Stop, with_snapshot: bool) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path()).await.unwrap();
    fill(&store).await;
    if with_snapshot {
        store.snapshot().await.unwrap();
        eventually("the log is purged", async || {
            (segments(dir.path()).len() <= 2).then_some(())
        })
        .await;
    }
    if stop == Stop::Orderly {
        store.shutdown().await;
    }
    dir
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    files(&dir.join("raft"), "log")
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let mut found: Vec<_> = paths
        .filter(|p| p.extension().is_some_and(|e| e == extension))
        .collect();
    found.sort();
    found
}

fn copy(from: &Path) -> tempfile::TempDir {
    fn copy_into(from: &Path, to: &Path) {
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                fs::create_dir(&target).unwrap();
                copy_into(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let to = tempfile::tempdir().unwrap();
    copy_into(from, to.path());
    to
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut content = fs::read(path).unwrap();
    change(&mut content);
    fs::write(path, content).unwrap();
}

/// Where the zeros at the end of a segment begin.
fn end_of_records(path: &Path) -> usize {
    let content = fs::read(path).unwrap();
    content.len() - content.iter().rev().take_while(|b| **b == 0).count()
}

/// Starts on a damaged copy; a refusal has to name `file`.
async fn starts_whole_or_names(dir: &Path, file: &Path) -> bool {
    match start(dir).await {
        Ok(store) => {
            assert_whole(&store).await;
            store.shutdown().await;
            true
        }
        Err(refusal) => {
            let name = file.file_name().unwrap().to_str().unwrap();
            assert!(refusal.to_string().contains(name), "`{refusal}` does not name {name}");
            false
        }
    }
}

#[tokio::test]
async fn an_orderly_restart_keeps_objects_history_and_watches() {
    let dir = left_behind(Stop::Orderly, false).await;
    for _ in 0..2 {
        let store = start(dir.path()).await.unwrap();
        assert_whole(&store).await;
        let mut watcher = store.watch("core/pods/", OBJECTS as u64).unwrap();
        assert_eq!(watcher.next().await.unwrap().unwrap().len(), 2);
        let before = list(&store, "core/", ReadAt::Exact(1)).await.unwrap();
        assert_eq!(before.entries.len(), 1);
        store.shutdown().await;
        assert!(watcher.next().await.is_none());
    }
}

#[tokio::test]
async fn a_crash_loses_nothing() {
    for with_snapshot in [false, true] {
        let dir = left_behind(Stop::Crash, with_snapshot).await;
        for _ in 0..5 {
            let store = start(dir.path()).await.unwrap();
            // Before anything is awaited: a single member has caught up when it has started.
            assert_eq!(store.revision(), OBJECTS as u64 + 1);
            assert_whole(&store).await;
        }
    }
}

#[tokio::test]
async fn a_log_cut_in_its_tail_is_whole_or_refused() {
    for stop in [Stop::Crash, Stop::Orderly] {
        let dir = left_behind(stop, false).await;
        let tail = segments(dir.path()).pop().unwrap();
        let end = end_of_records(&tail);
        let (mut whole, mut refused) = (0, 0);
        // The last records, byte for byte at their ends, and the zeros behind them.
        let cuts = (0..40)
            .map(|i| end + 20 - i)
            .chain((0..20).map(|i| end.saturating_sub(150 * i)))
            .chain([64, 63, 0]);
        for cut in cuts {
            let damaged = copy(dir.path());
            change(&damaged.path().join("raft").join(tail.file_name().unwrap()), |c| {
                c.truncate(cut)
            });
            match starts_whole_or_names(damaged.path(), &tail).await {
                true => whole += 1,
                false => refused += 1,
            }
        }
        assert!(whole > 15 && refused > 30, "{whole} whole, {refused} refused");
    }
}

#[tokio::test]
async fn an_unacknowledged_torn_record_is_cut_off() {
    let dir = left_behind(Stop::Crash, false).await;
    let tail = segments(dir.path()).pop().unwrap();
    let end = end_of_records(&tail);
    for torn in [1, 7, 8, 9, 100] {
        let damaged = copy(dir.path());
        let path = damaged.path().join("raft").join(tail.file_name().unwrap());
        change(&path, |c| c[end + 16..end + 16 + torn].fill(0xa5));
        change(&path, |c| c[end..end + 4].copy_from_slice(&500u32.to_le_bytes()));
        assert!(starts_whole_or_names(damaged.path(), &tail).await, "{torn} bytes");
        assert!(
            starts_whole_or_names(damaged.path(), &tail).await,
            "again after {torn} bytes"
        );
    }
}

#[tokio::test]
async fn a_flipped_byte_in_a_segment_is_refused_by_name() {
    let dir = left_behind(Stop::Crash, false).await;
    let found = segments(dir.path());
    assert!(found.len() > 2, "{found:?}");
    for segment in &found {
        let end = end_of_records(segment);
        for i in 0..25 {
            let at = if i < 5 {
                [0, 9, 60, 66, 70][i]
            } else {
                64 + (end - 64) * i / 25
            };
            let damaged = copy(dir.path());
            change(&damaged.path().join("raft").join(segment.file_name().unwrap()), |c| {
                c[at] ^= 0x10
            });
            assert!(
                !starts_whole_or_names(damaged.path(), segment).await,
                "byte {at} of {}",
                segment.display()
            );
        }
    }
}

#[tokio::test]
async fn a_missing_segment_is_refused_by_name() {
    for with_snapshot in [false, true] {
        let dir = left_behind(Stop::Crash, with_snapshot).await;
        let found = segments(dir.path());
        for (i, segment) in found.iter().enumerate() {
            let damaged = copy(dir.path());
            fs::remove_file(damaged.path().join("raft").join(segment.file_name().unwrap())).unwrap();
            // The gap shows at the file after it, the loss of the first one at the snapshot that it needed.
            let refusal = match start(damaged.path()).await {
                Ok(store) => {
                    // The snapshot has it all.
                    assert_whole(&store).await;
                    continue;
                }
                Err(refusal) => refusal.to_string(),
            };
            assert!(
                refusal.contains(".log") || refusal.contains("snap") || refusal.contains("raft"),
                "{i}: {refusal}"
            );
        }
    }
}

#[tokio::test]
async fn a_damaged_vote_is_refused_by_name() {
    let dir = left_behind(Stop::Crash, false).await;
    let vote = dir.path().join("raft/vote");
    for slot in [0, 4096] {
        let damaged = copy(dir.path());
        change(&damaged.path().join("raft/vote"), |c| c[slot + 9] ^= 1);
        assert!(
            starts_whole_or_names(damaged.path(), &vote).await,
            "the other record makes up for one"
        );
    }
    let damaged = copy(dir.path());
    change(&damaged.path().join("raft/vote"), |c| {
        [9, 4105].iter().for_each(|i| c[*i] ^= 1)
    });
    assert!(!starts_whole_or_names(damaged.path(), &vote).await);
    let damaged = copy(dir.path());
    fs::remove_file(damaged.path().join("raft/vote")).unwrap();
    assert!(!starts_whole_or_names(damaged.path(), &vote).await);
}

#[tokio::test]
async fn a_damaged_state_is_rebuilt() {
    for with_snapshot in [false, true] {
        let dir = left_behind(Stop::Orderly, with_snapshot).await;
        let log = segments(dir.path()).pop().unwrap();
        let whole = async |what: &str, damage: &dyn Fn(&Path)| {
            let damaged = copy(dir.path());
            damage(&damaged.path().join("state"));
            assert!(starts_whole_or_names(damaged.path(), &log).await, "{what}");
            assert!(starts_whole_or_names(damaged.path(), &log).await, "{what}, again");
        };
        whole("no folder", &|state| fs::remove_dir_all(state).unwrap()).await;
        whole("no sled", &|state| fs::remove_dir_all(state.join("sled")).unwrap()).await;
        whole("no mark", &|state| fs::remove_file(state.join("clean")).unwrap()).await;
        whole("a bad mark", &|state| change(&state.join("clean"), |c| c[0] ^= 1)).await;
        whole("an empty database", &|state| change(&state.join("sled/db"), Vec::clear)).await;
        whole("no database", &|state| fs::remove_file(state.join("sled/db")).unwrap()).await;
        let length = fs::metadata(dir.path().join("state/sled/db")).unwrap().len() as usize;
        for part in 1..4 {
            let at = length * part / 4;
            whole("a cut database", &|state| {
                change(&state.join("sled/db"), |c| c.truncate(at))
            })
            .await;
            whole("a zeroed page", &|state| {
                change(&state.join("sled/db"), |c| c[at..length.min(at + 4096)].fill(0));
            })
            .await;
            whole("a flipped byte", &|state| {
                change(&state.join("sled/db"), |c| c[at] ^= 0x40)
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_lost_snapshot_is_made_up_for_by_the_state_or_refused() {
    let dir = left_behind(Stop::Orderly, true).await;
    let snapshot = files(&dir.path().join("snap"), "snap").pop().unwrap();
    type Damage = fn(&Path);
    let damages: [Damage; 4] = [
        |path| fs::remove_file(path).unwrap(),
        |path| change(path, |c| c.truncate(c.len() / 2)),
        |path| change(path, |c| c[100] ^= 1),
        |path| {
            change(path, |c| {
                let last = c.len() - 2000;
                c[last] ^= 1;
            })
        },
    ];
    for (i, damage) in damages.into_iter().enumerate() {
        let damaged = copy(dir.path());
        let path = damaged.path().join("snap").join(snapshot.file_name().unwrap());
        damage(&path);
        assert!(
            starts_whole_or_names(damaged.path(), &path).await,
            "damage {i} with the state"
        );
        fs::remove_dir_all(damaged.path().join("state")).unwrap();
        assert!(
            starts_whole_or_names(damaged.path(), &path).await,
            "damage {i} was repaired"
        );

        let damaged = copy(dir.path());
        let path = damaged.path().join("snap").join(snapshot.file_name().unwrap());
        fs::remove_dir_all(damaged.path().join("state")).unwrap();
        damage(&path);
        let named = if i == 0 { damaged.path().join("snap") } else { path };
        assert!(
            !starts_whole_or_names(damaged.path(), &named).await,
            "damage {i} without the state"
        );
    }
}

#[tokio::test]
async fn a_folder_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path()).await.unwrap();
    assert!(matches!(start(dir.path()).await, Err(StartError::Locked { .. })));
    store.shutdown().await;
    drop(store);
    start(dir.path()).await.unwrap().shutdown().await;
}
