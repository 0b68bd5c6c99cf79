//! Keeps the authorizers' indexes equal to the store: one list, then one watch, for each prefix; from the start again when a watch is lost.

use std::sync::Arc;
use std::time::Duration;

use daemon::Shutdown;
use serde_json::Value;

use super::node::{Graph, Node};
use super::rbac::{Index, Rbac};
use crate::registry::wire;
use crate::store::{Change, Entry, ListQuery, ReadAt, Revision, Store, StoreError, Watcher};

/// Pause before a list that failed is tried again.
const PAUSE: Duration = Duration::from_millis(200);

const RBAC: &str = "rbac.authorization.k8s.io/";
const PODS: &str = "core/pods/";
/// What the graph of nodes is made of.
const GRAPH: [&str; 4] = [
    PODS,
    "core/persistentvolumeclaims/",
    "core/persistentvolumes/",
    "storage.k8s.io/volumeattachments/",
];

/// `spec` of pods and claims.
const SPEC: u32 = 2;
/// `status` of pods, and `status.resourceClaimStatuses` in it.
const STATUS: u32 = 3;
const CLAIM_STATUSES: u32 = 15;
/// `spec.nodeName` of pods.
const NODE_NAME: u32 = 10;

/// One change of one object: group, resource, namespace, name and what is there now.
struct Update<'a> {
    resource: &'a str,
    namespace: &'a str,
    name: &'a str,
    object: Option<Value>,
}

/// True for a change of a pod or claim that leaves alone what the graph is made of, as most do.
fn is_irrelevant(change: &Change) -> bool {
    let (Some(previous), Some(current)) = (change.previous(), change.current()) else {
        return false;
    };
    let claims = |entry: &Entry| {
        wire::bytes(&entry.value, STATUS).and_then(|s| wire::bytes(s, CLAIM_STATUSES).map(<[u8]>::to_vec))
    };
    !change.key().starts_with(RBAC)
        && wire::bytes(&previous.value, SPEC) == wire::bytes(&current.value, SPEC)
        && (!change.key().starts_with(PODS) || claims(previous) == claims(current))
}

fn has_node(pod: &[u8]) -> bool {
    wire::bytes(pod, SPEC).is_some_and(|spec| !wire::text(spec, NODE_NAME).is_empty())
}

impl<'a> Update<'a> {
    fn read(key: &'a str, entry: Option<&Entry>) -> Option<Update<'a>> {
        let mut parts = key.splitn(4, '/');
        let (group, resource, namespace, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let info = api::resources::find(if group == "core" { "" } else { group }, "v1", resource)?;
        // The graph has no pod that is not on a node.
        let entry = entry.filter(|entry| resource != "pods" || has_node(&entry.value));
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
            let watchers: Result<Vec<_>, _> = GRAPH.iter().map(|prefix| store.watch(prefix, after)).collect();
            if let Ok(watchers) = watchers {
                let apply = |u: Update<'_>| node.update(|graph| take_in(graph, &u));
                let all = watchers
                    .into_iter()
                    .map(|watcher| Box::pin(follow(watcher, &shutdown, apply)));
                // When one is lost, all begin again.
                futures_util::future::select_all(all).await;
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
            if is_irrelevant(&event.change) {
                continue;
            }
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
    for prefix in GRAPH {
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
        "persistentvolumes" => graph.volume(update.name, update.object.as_ref()),
        "volumeattachments" => graph.attachment(update.name, update.object.as_ref()),
        _ => graph.claim(update.namespace, update.name, update.object.as_ref()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_pods_on_nodes_are_read() {
        let info = api::resources::find("", "v1", "pods").expect("pods");
        let read = |pod: Value| {
            let message = api::codec::value_to_proto(info.message, &pod).expect("a pod");
            let entry = Entry::new("core/pods/a/p".into(), 1, 1, message.into(), None);
            Update::read("core/pods/a/p", Some(&entry))
                .expect("an update")
                .object
                .is_some()
        };
        assert!(!read(
            json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "default"}})
        ));
        assert!(read(json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n"}})));
    }

    #[test]
    fn a_status_changes_nothing_for_the_graph() {
        let info = api::resources::find("", "v1", "pods").expect("pods");
        let entry = |pod: Value| {
            let message = api::codec::value_to_proto(info.message, &pod).expect("a pod");
            Arc::new(Entry::new("core/pods/a/p".into(), 1, 1, message.into(), None))
        };
        let change = |old: Value, new: Value| Change::Put {
            entry: entry(new),
            previous: Some(entry(old)),
        };
        let pod = |node: &str, phase: &str| json!({"spec": {"nodeName": node}, "status": {"phase": phase}});
        assert!(is_irrelevant(&change(pod("n", "Pending"), pod("n", "Running"))));
        assert!(!is_irrelevant(&change(pod("", "Pending"), pod("n", "Pending"))));
    }
}
