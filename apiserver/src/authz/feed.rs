//! Keeps the authorizers' indexes equal to the store: one list, then one watch, for each prefix; from the start again when a watch is lost.

use std::sync::Arc;
use std::time::Duration;

use daemon::Shutdown;
use serde_json::Value;

use super::node::{Graph, Node};
use super::rbac::{Index, Rbac};
use crate::store::{Change, Entry, ListQuery, ReadAt, Revision, Store, StoreError, Watcher};

/// Pause before a list that failed is tried again.
const PAUSE: Duration = Duration::from_millis(200);

const RBAC: &str = "rbac.authorization.k8s.io/";
const PODS: &str = "core/pods/";
const CLAIMS: &str = "core/persistentvolumeclaims/";

/// One change of one object: group, resource, namespace, name and what is there now.
struct Update<'a> {
    resource: &'a str,
    namespace: &'a str,
    name: &'a str,
    object: Option<Value>,
}

impl<'a> Update<'a> {
    fn read(key: &'a str, entry: Option<&Entry>) -> Option<Update<'a>> {
        let mut parts = key.splitn(4, '/');
        let (group, resource, namespace, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let info = api::resources::find(if group == "core" { "" } else { group }, "v1", resource)?;
        let object = match entry {
            Some(entry) => Some(
                api::codec::proto_to_value(info.message, &entry.value)
                    .map_err(|error| tracing::error!(key, %error, "cannot read an object"))
                    .ok()?,
            ),
            None => None,
        };
        Some(Update {
            resource,
            namespace,
            name,
            object,
        })
    }
}

/// Fills the indexes, then keeps them up to date in the background until shutdown.
///
/// # Errors
/// When the store does not answer the first list.
pub async fn start(
    store: Arc<dyn Store>,
    rbac: Arc<Rbac>,
    node: Arc<Node>,
    shutdown: Shutdown,
) -> Result<(), StoreError> {
    let revision = fill_rbac(&*store, &rbac).await?;
    let pods = fill_nodes(&*store, &node).await?;
    let (nodes_store, nodes_shutdown) = (store.clone(), shutdown.clone());
    tokio::spawn(async move {
        let mut after = revision;
        while !shutdown.token().is_cancelled() {
            if let Ok(watcher) = store.watch(RBAC, after) {
                follow(watcher, &shutdown, |u| {
                    rbac.apply(u.resource, u.namespace, u.name, u.object.as_ref())
                })
                .await;
            }
            after = again(&shutdown, || fill_rbac(&*store, &rbac)).await;
        }
    });
    tokio::spawn(async move {
        let (store, shutdown) = (nodes_store, nodes_shutdown);
        let mut after = pods;
        while !shutdown.token().is_cancelled() {
            if let (Ok(pods), Ok(claims)) = (store.watch(PODS, after), store.watch(CLAIMS, after)) {
                let apply = |u: Update<'_>| node.update(|graph| take_in(graph, &u));
                tokio::select! {
                    () = follow(pods, &shutdown, apply) => {}
                    () = follow(claims, &shutdown, apply) => {}
                }
            }
            after = again(&shutdown, || fill_nodes(&*store, &node)).await;
        }
    });
    Ok(())
}

/// Lists until it works.
async fn again<F: Future<Output = Result<Revision, StoreError>>>(
    shutdown: &Shutdown,
    mut fill: impl FnMut() -> F,
) -> Revision {
    loop {
        if shutdown.token().is_cancelled() {
            return 0;
        }
        match fill().await {
            Ok(revision) => return revision,
            Err(error) => tracing::warn!(%error, "cannot list for the authorizers"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Applies the watcher's events until it is lost or the server stops.
async fn follow(mut watcher: Watcher, shutdown: &Shutdown, apply: impl Fn(Update<'_>)) {
    loop {
        let batch = tokio::select! {
            batch = watcher.next() => batch,
            () = shutdown.cancelled() => return,
        };
        let Some(Ok(events)) = batch else { return };
        for event in events {
            let current = match &event.change {
                Change::Put { entry, .. } => Some(&**entry),
                Change::Delete { .. } => None,
            };
            if let Some(update) = Update::read(event.change.key(), current) {
                apply(update);
            }
        }
    }
}

async fn fill_rbac(store: &dyn Store, rbac: &Rbac) -> Result<Revision, StoreError> {
    let listed = store
        .list(ListQuery {
            prefix: RBAC,
            start_after: None,
            limit: 0,
            at: ReadAt::Any,
        })
        .await?;
    let mut index = Index::default();
    for entry in &listed.entries {
        if let Some(u) = Update::read(&entry.key, Some(entry)) {
            index.apply(u.resource, u.namespace, u.name, u.object.as_ref());
        }
    }
    rbac.replace(index);
    Ok(listed.revision)
}

async fn fill_nodes(store: &dyn Store, node: &Node) -> Result<Revision, StoreError> {
    let mut graph = Graph::default();
    let mut revision = Revision::MAX;
    for prefix in [PODS, CLAIMS] {
        let listed = store
            .list(ListQuery {
                prefix,
                start_after: None,
                limit: 0,
                at: ReadAt::Any,
            })
            .await?;
        for entry in &listed.entries {
            if let Some(update) = Update::read(&entry.key, Some(entry)) {
                take_in(&mut graph, &update);
            }
        }
        revision = revision.min(listed.revision);
    }
    node.update(|current| *current = graph);
    Ok(revision)
}

fn take_in(graph: &mut Graph, update: &Update<'_>) {
    match update.resource {
        "pods" => graph.pod(update.namespace, update.name, update.object.as_ref()),
        _ => graph.claim(update.namespace, update.name, update.object.as_ref()),
    }
}
