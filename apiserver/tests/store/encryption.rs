//! What is on disk when objects are encrypted: no plain text, and nothing that a lost key does not explain.

use std::path::Path;

use kube_apiserver::store::raft::RaftStore;
use kube_apiserver::store::vault::Plain;
use kube_apiserver::store::{ReadAt, Store};

use crate::fixture::{create, list, providers, single, text, vault};

const SECRET: &str = "core/secrets/default/password";
const MARK: &str = "this-is-plain-text";

/// Every file below a folder that holds the text.
fn holding(dir: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holding(&path, text));
        } else if std::fs::read(&path)
            .unwrap()
            .windows(text.len())
            .any(|w| w == text.as_bytes())
        {
            found.push(path.display().to_string());
        }
    }
    found
}

/// Starts with these providers for Secrets, does something and stops in order.
async fn with<T>(dir: &Path, writers: &str, work: impl AsyncFnOnce(&RaftStore) -> T) -> T {
    let mut config = single(&dir.join("data"));
    config.vault = vault(dir, "secrets", writers);
    let store = RaftStore::start(config).await.unwrap();
    let done = work(&store).await;
    store.shutdown().await;
    done
}

async fn read(store: &RaftStore) -> String {
    text(&store.get(SECRET, ReadAt::Latest).await.unwrap().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_holds_plain_text_and_keys_rotate() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, data) = (dir.path(), dir.path().join("data"));
    let (one, two) = (providers("one", 1), providers("two", 2));

    // In the log, in a snapshot, in the state file and in its history.
    with(dir, &one, async |store| {
        create(store, SECRET, MARK).await;
        create(store, "core/configmaps/default/m", "readable").await;
        assert_eq!(holding(&data, MARK), Vec::<String>::new(), "the log");
        store.snapshot().await.unwrap();
        create(store, "core/secrets/default/other", MARK).await;
    })
    .await;
    assert_eq!(holding(&data, MARK), Vec::<String>::new());
    assert!(
        !holding(&data, "readable").is_empty(),
        "what is not to be encrypted is not"
    );

    // Read back from the state file; and, that being gone, from snapshot and log.
    with(dir, &one, async |store| assert_eq!(read(store).await, MARK)).await;
    std::fs::remove_dir_all(data.join("state")).unwrap();
    with(dir, &one, async |store| {
        assert_eq!(read(store).await, MARK);
        assert_eq!(list(store, "core/", ReadAt::Latest).await.unwrap().entries.len(), 3);
    })
    .await;

    // A new key in front: what is old is readable, and after a rewrite the old key is not needed.
    let keys = vault(dir, "secrets", &format!("{two}, {one}"));
    let mut config = single(&data);
    config.vault = keys.clone();
    let store = RaftStore::start(config).await.unwrap();
    assert!(keys.take_stale());
    store.rewrite().await.unwrap();
    assert_eq!(read(&store).await, MARK);
    store.shutdown().await;
    drop(store);
    with(dir, &two, async |store| assert_eq!(read(store).await, MARK)).await;
    std::fs::remove_dir_all(data.join("state")).unwrap();
    with(dir, &two, async |store| assert_eq!(read(store).await, MARK)).await;
    assert_eq!(holding(&data, MARK), Vec::<String>::new());

    // Without its key the store says which one is missing, and loses nothing.
    for vault in [vault(dir, "secrets", &one), vault(dir, "secrets", "{identity: {}}")] {
        let mut config = single(&data);
        config.vault = vault;
        let why = RaftStore::start(config).await.unwrap_err().to_string();
        assert!(
            why.ends_with("cannot decrypt stored data: it was encrypted by aesgcm \"two\", which is not among the configured providers"),
            "{why}"
        );
    }
    let mut config = single(&data);
    config.vault = std::sync::Arc::new(Plain);
    let why = RaftStore::start(config).await.unwrap_err().to_string();
    assert!(
        why.ends_with("the data is encrypted and no keys are configured"),
        "{why}"
    );
    with(dir, &two, async |store| assert_eq!(read(store).await, MARK)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_in_plain_is_encrypted_by_a_rewrite() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, data) = (dir.path(), dir.path().join("data"));
    let store = RaftStore::start(single(&data)).await.unwrap();
    create(&store, SECRET, MARK).await;
    store.shutdown().await;
    drop(store);
    let keys = vault(dir, "secrets", &providers("one", 1));
    let mut config = single(&data);
    config.vault = keys.clone();
    let store = RaftStore::start(config).await.unwrap();
    assert!(keys.take_stale());
    store.rewrite().await.unwrap();
    assert_eq!(read(&store).await, MARK);
    store.shutdown().await;
    // The log is not rewritten: it goes as it is purged.
    let left = holding(&data, MARK);
    assert!(
        left.iter()
            .all(|path| path.contains("/raft/") || path.contains("/state/")),
        "{left:?}"
    );
}
