//! One suite for every implementation of the store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use kube_apiserver::store::{
    Change, Condition, Expect, ListQuery, MemoryStore, Op, ReadAt, Store, StoreError, Txn, TxnOutcome, Watcher, Window,
};
use proptest::prelude::*;

use crate::fixture::{committed, create, eventually, list, single, stamp, text, value};

/// Runs a case on the memory store and on the replicated one.
macro_rules! on_both {
    ($($(#[$meta:meta])* $case:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $case() {
                super::$case(super::memory_store(super::Window::default())).await;
            })*
        }
        mod raft {
            $(#[tokio::test] async fn $case() {
                let (store, _dir) = super::raft_store(super::Window::default()).await;
                super::$case(store.clone()).await;
                store.shutdown().await;
            })*
        }
    };
}

on_both!(
    a_transaction_is_atomic_and_takes_one_revision,
    a_failed_condition_changes_nothing,
    a_transaction_without_effect_takes_no_revision,
    lists_are_pages_of_one_revision,
    exact_reads_see_the_past,
    reads_wait_for_a_revision,
    a_watch_sees_every_change_in_order,
    a_watch_goes_on_from_a_past_revision,
    a_watch_of_one_key_sees_only_it,
    a_slow_watcher_lags_and_nobody_waits,
    bookmarks_follow_other_prefixes,
    concurrent_writers_of_one_key_take_turns,
    expired_keys_go,
    large_values_are_refused,
);

fn memory_store(window: Window) -> Arc<MemoryStore> {
    Arc::new(MemoryStore::with_window(window, stamp))
}

async fn raft_store(window: Window) -> (Arc<kube_apiserver::store::raft::RaftStore>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = single(dir.path());
    config.window = window;
    (
        Arc::new(kube_apiserver::store::raft::RaftStore::start(config).await.unwrap()),
        dir,
    )
}

fn put(key: &str, text: &str) -> Op {
    Op::Put {
        key: key.into(),
        value: value(text),
        expires_at: None,
    }
}

fn delete(key: &str) -> Op {
    Op::Delete { key: key.into() }
}

async fn do_ops(store: &dyn Store, ops: Vec<Op>) -> u64 {
    committed(
        store
            .transact(Txn {
                conditions: vec![],
                ops,
            })
            .await
            .unwrap(),
    )
    .0
}

async fn a_transaction_is_atomic_and_takes_one_revision(store: Arc<dyn Store>) {
    let first = do_ops(&*store, vec![put("core/pods/a/1", "x"), put("core/pods/a/2", "y")]).await;
    let txn = Txn {
        conditions: vec![],
        ops: vec![put("core/pods/a/1", "z"), delete("core/pods/a/2")],
    };
    let (second, entries) = committed(store.transact(txn).await.unwrap());
    assert_eq!(second, first + 1);
    assert_eq!(store.revision(), second);
    let changed = entries[0].as_ref().unwrap();
    assert_eq!(
        (changed.create_revision, changed.revision, text(changed)),
        (first, second, "z".into())
    );
    assert_eq!(text(entries[1].as_ref().unwrap()), "y", "the deleted entry is returned");
    assert!(store.get("core/pods/a/2", ReadAt::Latest).await.unwrap().is_none());
    let found = store.get("core/pods/a/1", ReadAt::Latest).await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&found, changed) || found.revision == changed.revision);
}

async fn a_failed_condition_changes_nothing(store: Arc<dyn Store>) {
    let revision = create(&*store, "core/pods/a/1", "x").await;
    for (expect, key) in [
        (Expect::Absent, "core/pods/a/1"),
        (Expect::Exists, "core/pods/a/2"),
        (Expect::Revision(revision + 1), "core/pods/a/1"),
        (Expect::Revision(revision), "core/pods/a/2"),
    ] {
        let holds = Condition {
            key: "core/pods/a/1".into(),
            expect: Expect::Exists,
        };
        let fails = Condition {
            key: key.into(),
            expect,
        };
        let txn = Txn {
            conditions: vec![holds, fails],
            ops: vec![put("core/pods/a/3", "z")],
        };
        let TxnOutcome::Conflict { condition, current } = store.transact(txn).await.unwrap() else {
            panic!("{expect:?} of {key} did not fail");
        };
        assert_eq!(condition, 1);
        assert_eq!(
            current.map(|e| e.key.to_string()),
            (key == "core/pods/a/1").then(|| key.to_owned())
        );
    }
    assert_eq!(store.revision(), revision);
    assert!(store.get("core/pods/a/3", ReadAt::Latest).await.unwrap().is_none());
}

async fn a_transaction_without_effect_takes_no_revision(store: Arc<dyn Store>) {
    let revision = create(&*store, "core/pods/a/1", "x").await;
    let txn = Txn {
        conditions: vec![],
        ops: vec![delete("core/pods/a/absent")],
    };
    let (same, entries) = committed(store.transact(txn).await.unwrap());
    assert_eq!((same, entries.len(), entries[0].is_none()), (revision, 1, true));
}

async fn lists_are_pages_of_one_revision(store: Arc<dyn Store>) {
    for i in 0..10 {
        create(&*store, &format!("core/pods/ns/{i}"), "x").await;
    }
    create(&*store, "core/podtemplates/ns/1", "x").await;
    let page = |start_after, at| ListQuery {
        prefix: "core/pods/",
        start_after,
        limit: 4,
        at,
    };
    let first = store.list(page(None, ReadAt::Latest)).await.unwrap();
    assert_eq!((first.entries.len(), first.more, first.remaining), (4, true, 6));
    let last = first.entries[3].key.clone();
    // What happens between two pages is not seen by the second one.
    do_ops(
        &*store,
        vec![
            delete("core/pods/ns/5"),
            put("core/pods/ns/6", "new"),
            put("core/pods/ns/55", "new"),
        ],
    )
    .await;
    let at = ReadAt::Exact(first.revision);
    let second = store.list(page(Some(&last), at)).await.unwrap();
    let keys: Vec<_> = second.entries.iter().map(|e| e.key.to_string()).collect();
    assert_eq!(
        keys,
        ["core/pods/ns/4", "core/pods/ns/5", "core/pods/ns/6", "core/pods/ns/7"]
    );
    assert_eq!(
        (text(&second.entries[2]), second.revision, second.remaining),
        ("x".into(), first.revision, 2)
    );
    let rest = store.list(page(Some("core/pods/ns/7"), at)).await.unwrap();
    assert_eq!((rest.entries.len(), rest.more, rest.remaining), (2, false, 0));
    assert_eq!(list(&*store, "", ReadAt::Latest).await.unwrap().entries.len(), 11);
}

async fn exact_reads_see_the_past(store: Arc<dyn Store>) {
    let created = create(&*store, "core/pods/a/1", "one").await;
    let updated = do_ops(&*store, vec![put("core/pods/a/1", "two")]).await;
    let deleted = do_ops(&*store, vec![delete("core/pods/a/1")]).await;
    for (at, expected) in [(created, Some("one")), (updated, Some("two")), (deleted, None)] {
        let found = store.get("core/pods/a/1", ReadAt::Exact(at)).await.unwrap();
        assert_eq!(found.map(|e| text(&e)).as_deref(), expected, "at {at}");
        let listed = list(&*store, "core/", ReadAt::Exact(at)).await.unwrap();
        assert_eq!(listed.entries.len(), usize::from(expected.is_some()));
    }
}

async fn reads_wait_for_a_revision(store: Arc<dyn Store>) {
    let next = store.revision() + 1;
    let waiting = tokio::spawn({
        let store = store.clone();
        async move {
            list(&*store, "core/", ReadAt::AtLeast(next))
                .await
                .unwrap()
                .entries
                .len()
        }
    });
    create(&*store, "core/pods/a/1", "x").await;
    assert_eq!(waiting.await.unwrap(), 1);
    let never = store.get("core/pods/a/1", ReadAt::AtLeast(next + 1000)).await;
    assert!(matches!(never, Err(StoreError::FutureRevision { requested, .. }) if requested == next + 1000));
    assert!(matches!(
        store.watch("core/", next + 1000),
        Err(StoreError::FutureRevision { .. })
    ));
}

/// The next `count` changes as text.
async fn changes(watcher: &mut Watcher, count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < count {
        for event in watcher.next().await.unwrap().unwrap() {
            let name = event.change.key().rsplit('/').next().unwrap().to_owned();
            seen.push(match &event.change {
                Change::Put { entry, previous: None } => format!("+{name}={}", text(entry)),
                Change::Put {
                    entry,
                    previous: Some(old),
                } => format!("{name}:{}>{}", text(old), text(entry)),
                Change::Delete { previous } => format!("-{name}={}", text(previous)),
            });
        }
    }
    seen
}

async fn a_watch_sees_every_change_in_order(store: Arc<dyn Store>) {
    let start = store.revision();
    let mut all = store.watch("core/pods/", start).unwrap();
    let mut one_namespace = store.watch("core/pods/b/", start).unwrap();
    let mut everything = store.watch("", start).unwrap();
    create(&*store, "core/pods/a/1", "x").await;
    create(&*store, "core/pods/b/2", "y").await;
    create(&*store, "core/nodes//n", "z").await;
    do_ops(&*store, vec![put("core/pods/a/1", "X"), delete("core/pods/b/2")]).await;
    assert_eq!(changes(&mut all, 4).await, ["+1=x", "+2=y", "1:x>X", "-2=y"]);
    assert_eq!(changes(&mut one_namespace, 2).await, ["+2=y", "-2=y"]);
    assert_eq!(
        changes(&mut everything, 5).await,
        ["+1=x", "+2=y", "+n=z", "1:x>X", "-2=y"]
    );
    assert!(all.try_next().is_none());
}

async fn a_watch_goes_on_from_a_past_revision(store: Arc<dyn Store>) {
    let first = create(&*store, "core/pods/a/1", "x").await;
    create(&*store, "core/pods/a/2", "y").await;
    create(&*store, "core/nodes//n", "z").await;
    let mut watcher = store.watch("core/pods/", first).unwrap();
    create(&*store, "core/pods/a/3", "z").await;
    assert_eq!(changes(&mut watcher, 2).await, ["+2=y", "+3=z"]);
}

async fn a_watch_of_one_key_sees_only_it(store: Arc<dyn Store>) {
    let mut watcher = store.watch("core/pods/a/web", store.revision()).unwrap();
    create(&*store, "core/pods/a/we", "x").await;
    create(&*store, "core/pods/a/web", "y").await;
    create(&*store, "core/pods/a/x", "x").await;
    assert_eq!(changes(&mut watcher, 1).await, ["+web=y"]);
    assert!(watcher.try_next().is_none());
}

async fn a_slow_watcher_lags_and_nobody_waits(store: Arc<dyn Store>) {
    let start = store.revision();
    let mut slow = store.watch("core/events/", start).unwrap();
    let mut quick = store.watch("core/events/", start).unwrap();
    let mut seen = 0;
    // One transaction is one revision but many changes.
    for batch in 0..20 {
        do_ops(
            &*store,
            (0..500)
                .map(|i| put(&format!("core/events/a/{batch}-{i}"), "x"))
                .collect(),
        )
        .await;
        seen += changes(&mut quick, 500).await.len();
    }
    assert_eq!(seen, 10_000);
    assert!(matches!(slow.next().await, Some(Err(StoreError::WatchLagged))));
    assert!(slow.next().await.is_none());
}

async fn bookmarks_follow_other_prefixes(store: Arc<dyn Store>) {
    let mut watcher = store.watch("core/pods/", store.revision()).unwrap();
    let elsewhere = create(&*store, "core/nodes//n", "x").await;
    assert_eq!(watcher.progress(), elsewhere);
    let here = create(&*store, "core/pods/a/1", "x").await;
    assert_eq!(
        watcher.progress(),
        elsewhere,
        "a change that was not handed out is not passed over"
    );
    assert_eq!(changes(&mut watcher, 1).await, ["+1=x"]);
    assert_eq!(watcher.progress(), here);
}

async fn concurrent_writers_of_one_key_take_turns(store: Arc<dyn Store>) {
    create(&*store, "core/configmaps/a/counter", "0").await;
    let increment = |store: Arc<dyn Store>| async move {
        loop {
            let old = store
                .get("core/configmaps/a/counter", ReadAt::Latest)
                .await
                .unwrap()
                .unwrap();
            let next = text(&old).parse::<u32>().unwrap() + 1;
            let txn = Txn::update("core/configmaps/a/counter", old.revision, value(&next.to_string()));
            if let TxnOutcome::Committed { .. } = store.transact(txn).await.unwrap() {
                return;
            }
        }
    };
    let writers: Vec<_> = (0..16).map(|_| tokio::spawn(increment(store.clone()))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let counter = store
        .get("core/configmaps/a/counter", ReadAt::Latest)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(text(&counter), "16");
}

async fn expired_keys_go(store: Arc<dyn Store>) {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let expiring = |key: &str, at| Op::Put {
        key: key.into(),
        value: value("x"),
        expires_at: Some(at),
    };
    let mut watcher = store.watch("core/events/", store.revision()).unwrap();
    do_ops(
        &*store,
        vec![
            expiring("core/events/a/gone", now - 1),
            expiring("core/events/a/kept", now + 1000),
        ],
    )
    .await;
    // Renewed before anybody looks: stays.
    do_ops(
        &*store,
        vec![
            expiring("core/events/a/renewed", now - 1),
            expiring("core/events/a/renewed", now + 1000),
        ],
    )
    .await;
    let left = eventually("the key expires", async || {
        let left = list(&*store, "core/events/", ReadAt::Latest).await.unwrap().entries;
        (left.len() == 2).then_some(left)
    });
    assert_eq!(
        left.await.iter().map(|e| e.expires_at).collect::<Vec<_>>(),
        [Some(now + 1000); 2]
    );
    assert_eq!(changes(&mut watcher, 5).await.last().unwrap(), "-gone=x");
}

async fn large_values_are_refused(store: Arc<dyn Store>) {
    let revision = store.revision();
    let large = bytes::Bytes::from(vec![b'x'; kube_apiserver::store::MAX_VALUE + 1]);
    let refused = store.transact(Txn::create("core/configmaps/a/large", large)).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })));
    assert_eq!(store.revision(), revision);
    let largest = bytes::Bytes::from(vec![b'x'; kube_apiserver::store::MAX_VALUE]);
    committed(
        store
            .transact(Txn::create("core/configmaps/a/large", largest))
            .await
            .unwrap(),
    );
}

#[tokio::test]
async fn the_history_is_bounded_by_count_and_bytes() {
    for window in [
        Window {
            events: 10,
            bytes: usize::MAX,
        },
        Window {
            events: usize::MAX,
            bytes: 10 * 300,
        },
    ] {
        let store = memory_store(window);
        let first = create(&*store, "core/pods/a/1", "x").await;
        for _ in 0..50 {
            do_ops(&*store, vec![put("core/pods/a/1", "y")]).await;
        }
        let Err(StoreError::Compacted { oldest }) = list(&*store, "core/", ReadAt::Exact(first)).await else {
            panic!("revision {first} is still there");
        };
        assert!(oldest > 30, "{oldest}");
        assert!(matches!(
            store.watch("core/", oldest - 1),
            Err(StoreError::Compacted { .. })
        ));
        assert_eq!(
            list(&*store, "core/", ReadAt::Exact(oldest)).await.unwrap().entries[0].revision,
            oldest
        );
        let mut watcher = store.watch("core/", oldest).unwrap();
        assert_eq!(changes(&mut watcher, 1).await.len() as u64, store.revision() - oldest);
    }
}

type Model = BTreeMap<String, (u64, u64, String)>;

/// What the store must have after a transaction.
fn model_apply(model: &Model, revision: u64, txn: &Txn) -> Option<Model> {
    for Condition { key, expect } in &txn.conditions {
        let current = model.get(key).map(|(_, revision, _)| *revision);
        let holds = match expect {
            Expect::Absent => current.is_none(),
            Expect::Exists => current.is_some(),
            Expect::Revision(r) => current == Some(*r),
        };
        if !holds {
            return None;
        }
    }
    let mut next = model.clone();
    for op in &txn.ops {
        match op {
            Op::Put { key, value, .. } => {
                let created = next.get(key).map_or(revision, |(created, ..)| *created);
                next.insert(
                    key.clone(),
                    (created, revision, String::from_utf8(value.to_vec()).unwrap()),
                );
            }
            Op::Delete { key } => {
                next.remove(key);
            }
        }
    }
    Some(next)
}

fn any_txn() -> impl Strategy<Value = Txn> {
    let key = || (0..3, 0..4).prop_map(|(ns, name)| format!("core/pods/ns{ns}/p{name}"));
    let expect = prop_oneof![
        2 => Just(Expect::Absent),
        2 => Just(Expect::Exists),
        3 => (0..40u64).prop_map(Expect::Revision)
    ];
    let condition = (key(), expect).prop_map(|(key, expect)| Condition { key, expect });
    let op = prop_oneof![
        3 => (key(), "[a-z]{0,5}").prop_map(|(key, text)| put(&key, &text)),
        1 => key().prop_map(|key| delete(&key)),
    ];
    (
        proptest::collection::vec(condition, 0..2),
        proptest::collection::vec(op, 0..4),
    )
        .prop_map(|(conditions, ops)| Txn { conditions, ops })
}

/// Random transactions, compared with the model at every revision, by reading and by watching.
async fn agrees_with_the_model(store: Arc<dyn Store>, txns: Vec<Txn>) {
    let mut watcher = store.watch("core/pods/", 0).unwrap();
    let mut past = vec![Model::new()];
    for txn in txns {
        let now = past.last().unwrap();
        let revision = past.len() as u64;
        let expected = model_apply(now, revision, &txn);
        let touched = expected.as_ref().is_some_and(|_| {
            txn.ops
                .iter()
                .scan(now.clone(), |keys, op| {
                    Some(match op {
                        Op::Put { key, .. } => {
                            keys.insert(key.clone(), (0, 0, String::new()));
                            true
                        }
                        Op::Delete { key } => keys.remove(key).is_some(),
                    })
                })
                .any(|changed| changed)
        });
        match (store.transact(txn).await.unwrap(), expected) {
            (TxnOutcome::Committed { revision: got, .. }, Some(next)) if touched => {
                assert_eq!(got, revision);
                past.push(next);
            }
            (TxnOutcome::Committed { revision: got, .. }, Some(_)) => assert_eq!(got, revision - 1),
            (TxnOutcome::Conflict { .. }, None) => {}
            (outcome, expected) => panic!("{outcome:?} instead of {expected:?}"),
        }
    }
    let as_model = |entries: &[Arc<kube_apiserver::store::Entry>]| -> Model {
        entries
            .iter()
            .map(|e| (e.key.to_string(), (e.create_revision, e.revision, text(e))))
            .collect()
    };
    for (revision, model) in past.iter().enumerate() {
        let found = list(&*store, "core/pods/", ReadAt::Exact(revision as u64))
            .await
            .unwrap();
        assert_eq!(&as_model(&found.entries), model, "at {revision}");
    }
    let mut watched = Model::new();
    while let Some(batch) = watcher.try_next() {
        for event in batch.unwrap() {
            match &event.change {
                Change::Put { entry, previous } => {
                    let new = (entry.create_revision, entry.revision, text(entry));
                    let old = watched.insert(entry.key.to_string(), new);
                    assert_eq!(old.map(|o| o.1), previous.as_ref().map(|p| p.revision));
                }
                Change::Delete { previous } => {
                    let old = watched.remove(&*previous.key);
                    assert_eq!(old.map(|o| o.1), Some(previous.revision));
                }
            }
        }
    }
    assert_eq!(Some(&watched), past.last());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn random_transactions_agree_with_a_model_in_memory(txns in proptest::collection::vec(any_txn(), 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(agrees_with_the_model(memory_store(Window::default()), txns));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn random_transactions_agree_with_a_model_in_raft(txns in proptest::collection::vec(any_txn(), 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (store, _dir) = raft_store(Window::default()).await;
            agrees_with_the_model(store.clone(), txns).await;
            store.shutdown().await;
        });
    }
}
