//! A full disk, on a small file system of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use kube_apiserver::store::raft::{RaftConfig, RaftStore};
use kube_apiserver::store::{ReadAt, Store, StoreError, Txn};

use crate::fixture::{committed, create, eventually, list, single};

/// A tmpfs that is unmounted at the end.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    fn mount(megabytes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "store-test"])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(mounted.success(), "mounting needs root");
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Takes what is left, but for some bytes.
    fn fill(&self) -> PathBuf {
        let ballast = self.path().join("ballast");
        let mut file = std::fs::File::create(&ballast).unwrap();
        let full = std::io::copy(&mut std::io::repeat(1), &mut file).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: what is still open goes when it is closed.
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}

fn config(dir: &Path) -> RaftConfig {
    RaftConfig {
        segment_bytes: 1 << 20,
        keep_entries: 5,
        ..single(&dir.join("data"))
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_room() {
    let disk = SmallDisk::mount(24);
    let store = RaftStore::start(config(disk.path())).await.unwrap();
    let kilobytes = "x".repeat(8 << 10);
    create(&store, "core/configmaps/a/first", "x").await;
    let ballast = disk.fill();
    let mut written = 1;
    let refused = loop {
        let txn = Txn::create(format!("core/configmaps/a/{written:04}"), kilobytes.clone().into());
        match store.transact(txn).await {
            Ok(outcome) => committed(outcome),
            Err(refused) => break refused,
        };
        written += 1;
        assert!(written < 5_000, "the disk never filled up");
    };
    assert!(matches!(refused, StoreError::Full), "{refused}");
    assert!(written > 50, "the room that was claimed is used: {written}");
    // What is there can be read, and a snapshot that fails stops nothing.
    assert_eq!(
        list(&store, "core/configmaps/", ReadAt::Latest)
            .await
            .unwrap()
            .entries
            .len(),
        written
    );
    assert!(store.snapshot().await.is_err());
    assert!(matches!(
        store
            .transact(Txn::create("core/configmaps/a/no", kilobytes.clone().into()))
            .await,
        Err(StoreError::Full)
    ));
    assert_eq!(store.health(), Ok(()));

    std::fs::remove_file(&ballast).unwrap();
    create(&store, "core/configmaps/a/again", &kilobytes).await;
    store.snapshot().await.unwrap();
    eventually("old segments go", async || {
        let left = std::fs::read_dir(disk.path().join("data/raft")).unwrap().count();
        (left <= 5).then_some(())
    })
    .await;
    drop(store);

    // The same after a crash on a full disk.
    let ballast = disk.fill();
    let store = RaftStore::start(config(disk.path())).await.unwrap();
    assert_eq!(
        list(&store, "core/configmaps/", ReadAt::Latest)
            .await
            .unwrap()
            .entries
            .len(),
        written + 1
    );
    store.shutdown().await;
    drop(store);
    std::fs::remove_file(ballast).unwrap();
    let store = RaftStore::start(config(disk.path())).await.unwrap();
    assert_eq!(
        list(&store, "core/configmaps/", ReadAt::Latest)
            .await
            .unwrap()
            .entries
            .len(),
        written + 1
    );
    create(&store, "core/configmaps/a/last", &kilobytes).await;
    store.shutdown().await;
}
