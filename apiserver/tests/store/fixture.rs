//! What the store's tests share.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kube_apiserver::encryption::Keys;
use kube_apiserver::encryption::config::Source;
use kube_apiserver::store::raft::{Connect, Member, RaftConfig, endpoint};
use kube_apiserver::store::{Entry, ListQuery, ListResult, ReadAt, Revision, Store, StoreError, Txn, TxnOutcome};

/// Puts the revision before the value, so that a test sees that the store stamped it.
pub fn stamp(value: &[u8], revision: Revision) -> Vec<u8> {
    let mut stamped = format!("{revision}:").into_bytes();
    stamped.extend_from_slice(value);
    stamped
}

pub fn plain_channels() -> Connect {
    Arc::new(|address| Ok(endpoint(address)?.connect_lazy()))
}

pub fn single(dir: &Path) -> RaftConfig {
    let member = Member {
        name: "a".into(),
        address: "127.0.0.1:1".into(),
    };
    RaftConfig::single(dir, member, plain_channels(), stamp)
}

pub fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// The value without its stamp.
pub fn text(entry: &Entry) -> String {
    let stamped = String::from_utf8(entry.value.to_vec()).unwrap();
    let (revision, text) = stamped.split_once(':').unwrap();
    assert_eq!(revision, entry.revision.to_string(), "the stamp of {}", entry.key);
    text.to_owned()
}

pub fn committed(outcome: TxnOutcome) -> (Revision, Vec<Option<Arc<Entry>>>) {
    match outcome {
        TxnOutcome::Committed { revision, entries } => (revision, entries),
        conflict => panic!("not committed: {conflict:?}"),
    }
}

pub async fn create(store: &dyn Store, key: &str, text: &str) -> Revision {
    committed(store.transact(Txn::create(key, value(text))).await.unwrap()).0
}

pub async fn list(store: &dyn Store, prefix: &str, at: ReadAt) -> Result<ListResult, StoreError> {
    store
        .list(ListQuery {
            prefix,
            start_after: None,
            limit: 0,
            at,
        })
        .await
}

/// Polls until `check` answers, for half a minute at most.
pub async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "did not happen in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An aesgcm provider with a key of this byte.
pub fn providers(name: &str, byte: u8) -> String {
    use base64::Engine;
    let secret = base64::engine::general_purpose::STANDARD.encode([byte; 32]);
    format!("{{aesgcm: {{keys: [{{name: {name}, secret: \"{secret}\"}}]}}}}")
}

/// Keys from an EncryptionConfiguration, whose file goes to `dir`.
pub fn vault(dir: &Path, resources: &str, providers: &str) -> Arc<Keys> {
    std::fs::create_dir_all(dir).unwrap();
    let path = dir.join("encryption.yaml");
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n";
    std::fs::write(
        &path,
        format!("{head}- resources: [\"{resources}\"]\n  providers: [{providers}]\n"),
    )
    .unwrap();
    let source = Source::read(Some(path), false, dir.join("none")).unwrap();
    Keys::new(&source.config, &prometheus::Registry::new()).unwrap()
}
