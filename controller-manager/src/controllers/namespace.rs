//! Namespaces: empties those that are being deleted, then lets them go.
//!
//! Everything in the namespace is deleted, of every resource the API has; when nothing is left, finalizer `kubernetes` is removed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::apiextensions::v1::CustomResourceDefinition;
use api::core::v1::{Namespace, NamespaceCondition, Pod};
use api::meta::Time;
use api::resources::ResourceInfo;
use api::{GroupVersionResource, Object, ObjectKey};
use client::{Cache, Client, DeleteParams, ListParams};
use controller::{Action, Error};
use futures_util::future::join_all;
use jiff::Timestamp;

use crate::custom_resources::resource;
use crate::setup::{NAMESPACE, Setup, enqueue};

/// The finalizer in `spec.finalizers` that this controller removes.
pub const FINALIZER: &str = "kubernetes";

/// What a round of deletions met in a namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// How many objects of each resource (`deployments.apps`) are still there.
    pub remaining: Vec<(String, usize)>,
    /// How many of those each finalizer holds.
    pub finalizers: Vec<(String, usize)>,
    /// The resources whose objects could not be listed or deleted, each with the reason.
    pub failures: Vec<String>,
    /// The longest grace period left of a pod.
    pub grace: Option<Duration>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Write the namespace's status.
    Status(Box<Namespace>),
    /// Write this to subresource `finalize`.
    Finalize(Box<Namespace>),
    /// Look again after this time.
    LookAgain(Duration),
}

/// Whether a namespace waits for this controller.
pub fn is_ours(namespace: &Namespace) -> bool {
    namespace.is_deleting() && finalizers(namespace).any(|finalizer| finalizer == FINALIZER)
}

/// What follows from a round of deletions.
pub fn plan(namespace: &Namespace, contents: &Contents, now: Timestamp) -> Vec<Change> {
    let mut shown = namespace.clone();
    let status = shown.status.get_or_insert_default();
    status.phase = Some("Terminating".into());
    let before = status.conditions.take().unwrap_or_default();
    status.conditions = Some(conditions(&before, contents, now));
    let mut changes = Vec::new();
    if shown != *namespace {
        changes.push(Change::Status(Box::new(shown.clone())));
    }
    if contents.remaining.is_empty() && contents.failures.is_empty() {
        let rest: Vec<_> = finalizers(namespace)
            .filter(|finalizer| *finalizer != FINALIZER)
            .map(str::to_owned)
            .collect();
        shown.spec.get_or_insert_default().finalizers = Some(rest);
        changes.push(Change::Finalize(Box::new(shown)));
    } else {
        // What finalizers hold tells nobody when it goes, save by its own watch; this repairs a missed end.
        changes.push(Change::LookAgain(
            contents
                .grace
                .unwrap_or_default()
                .clamp(Duration::from_secs(1), Duration::from_secs(15)),
        ));
    }
    changes
}

fn finalizers(namespace: &Namespace) -> impl Iterator<Item = &str> {
    namespace
        .spec
        .iter()
        .flat_map(|spec| spec.finalizers.iter().flatten())
        .map(String::as_str)
}

fn conditions(before: &[NamespaceCondition], contents: &Contents, now: Timestamp) -> Vec<NamespaceCondition> {
    let list = |counts: &[(String, usize)], what: &str| -> String {
        let parts: Vec<_> = counts
            .iter()
            .map(|(name, count)| format!("{name}{what}{count} resource instances"))
            .collect();
        parts.join(", ")
    };
    let rows = [
        (
            "NamespaceDeletionDiscoveryFailure",
            false,
            "ResourcesDiscovered",
            "All resources successfully discovered".to_owned(),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".to_owned(),
        ),
        if contents.failures.is_empty() {
            let message = "All content successfully deleted, may be waiting on finalization".to_owned();
            ("NamespaceDeletionContentFailure", false, "ContentDeleted", message)
        } else {
            let message = format!(
                "Failed to delete all resource types, {} remaining: {}",
                contents.failures.len(),
                contents.failures.join(", ")
            );
            (
                "NamespaceDeletionContentFailure",
                true,
                "ContentDeletionFailed",
                message,
            )
        },
        if contents.remaining.is_empty() {
            (
                "NamespaceContentRemaining",
                false,
                "ContentRemoved",
                "All content successfully removed".to_owned(),
            )
        } else {
            let message = format!("Some resources are remaining: {}", list(&contents.remaining, " has "));
            ("NamespaceContentRemaining", true, "SomeResourcesRemain", message)
        },
        if contents.finalizers.is_empty() {
            (
                "NamespaceFinalizersRemaining",
                false,
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished".to_owned(),
            )
        } else {
            let message = format!(
                "Some content in the namespace has finalizers remaining: {}",
                list(&contents.finalizers, " in ")
            );
            ("NamespaceFinalizersRemaining", true, "SomeFinalizersRemain", message)
        },
    ];
    rows.into_iter()
        .map(|(kind, value, reason, message)| condition(before, kind, value, reason, message, now))
        .collect()
}

fn condition(
    before: &[NamespaceCondition],
    kind: &str,
    value: bool,
    reason: &str,
    message: String,
    now: Timestamp,
) -> NamespaceCondition {
    let status = if value { "True" } else { "False" };
    let same = before.iter().find(|old| old.type_ == kind && old.status == status);
    let since = same.and_then(|old| old.last_transition_time.clone());
    NamespaceCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: Some(since.unwrap_or(Time(now))),
    }
}

/// Adds the controller.
pub fn start(setup: &mut Setup) {
    let queue = setup.queue("namespace");
    setup.informers.namespaces.on_event(enqueue(&queue));
    let (waking, namespaces) = (queue.clone(), setup.informers.namespaces.late());
    setup.informers.pods.on_event(move |event| {
        // Pods are what a namespace waits for longest.
        let key = ObjectKey::new("", event.object().namespace());
        if matches!(event, client::Event::Deleted(_))
            && namespaces.get(&key).is_some_and(|namespace| is_ours(&namespace))
        {
            waking.add(key);
        }
    });
    let client = setup.client.clone();
    let workers = setup.config.concurrent_namespace_syncs;
    setup.run("namespace", queue, workers, move |caches| {
        let controller = Arc::new(Controller {
            client,
            namespaces: caches.namespaces,
            pods: caches.pods,
            definitions: caches.definitions,
        });
        move |key| {
            let controller = controller.clone();
            async move { controller.reconcile(key).await }
        }
    });
}

struct Controller {
    client: Client,
    namespaces: Cache<Namespace>,
    pods: Cache<Pod>,
    definitions: Cache<CustomResourceDefinition>,
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Action, Error> {
        let Some(namespace) = self.namespaces.get(&key).filter(|namespace| is_ours(namespace)) else {
            return Ok(Action::Done);
        };
        let contents = self.empty(&key.name).await;
        let api = self.client.api::<Namespace>();
        let (mut action, mut version) = (Action::Done, None);
        for change in plan(&namespace, &contents, Timestamp::now()) {
            match change {
                Change::Status(written) => {
                    let doing = format!("write the status of namespace {key}");
                    let written = api.update_status(&written).await.map_err(Error::client(doing))?;
                    version = written.metadata.resource_version;
                }
                Change::Finalize(mut written) => {
                    written.metadata.resource_version = version.take().or(written.metadata.resource_version);
                    match api.update_under(&written, "finalize").await {
                        Err(error) if !error.is_not_found() => {
                            return Err(Error::client(format!("finalize namespace {key}"))(error));
                        }
                        _ => {}
                    }
                }
                Change::LookAgain(after) => action = Action::RequeueAfter(after),
            }
        }
        Ok(action)
    }

    /// Deletes what is in the namespace and says what is left.
    async fn empty(&self, namespace: &str) -> Contents {
        let deletable = |info: &&ResourceInfo| {
            info.namespaced
                && ["list", "delete"].iter().all(|verb| info.verbs.contains(verb))
                && info.version == info.storage_version
        };
        let definitions = self.definitions.list();
        let custom: Vec<ResourceInfo> = definitions
            .iter()
            .filter_map(|definition| resource(definition))
            .collect();
        let rounds = api::resources::all()
            .iter()
            .chain(&custom)
            .filter(deletable)
            .map(|info| self.empty_of(namespace, info));
        let mut contents = Contents {
            grace: self.grace(namespace),
            ..Default::default()
        };
        let mut finalizers: BTreeMap<String, usize> = BTreeMap::new();
        for (name, outcome) in join_all(rounds).await {
            match outcome {
                Ok(left) if left.is_empty() => {}
                Ok(left) => {
                    contents.remaining.push((name, left.len()));
                    left.into_iter()
                        .flatten()
                        .for_each(|finalizer| *finalizers.entry(finalizer).or_default() += 1);
                }
                Err(error) => contents.failures.push(format!("{name}: {error}")),
            }
        }
        contents.finalizers = finalizers.into_iter().collect();
        contents
    }

    /// Deletes the objects of one resource; what is left then, as the finalizers of each.
    async fn empty_of(&self, namespace: &str, info: &ResourceInfo) -> (String, client::Result<Vec<Vec<String>>>) {
        let name = if info.group.is_empty() {
            info.resource.to_string()
        } else {
            format!("{}.{}", info.resource, info.group)
        };
        let resource = GroupVersionResource::new(&*info.group, &*info.version, &*info.resource);
        let (dynamic, all) = (self.client.dynamic(&resource), ListParams::namespace(namespace));
        let round = async {
            if dynamic.list(&all).await?.items.is_empty() {
                return Ok(Vec::new());
            }
            let background = DeleteParams {
                propagation: Some(client::Propagation::Background),
                ..Default::default()
            };
            dynamic.delete_collection(&all, &background).await?;
            let left = dynamic.list(&all).await?.items;
            Ok(left
                .into_iter()
                .map(|object| object.metadata.finalizers.unwrap_or_default())
                .collect())
        };
        (name, round.await)
    }

    /// The longest grace period among the namespace's pods.
    fn grace(&self, namespace: &str) -> Option<Duration> {
        let pods = self.pods.by_index(NAMESPACE, namespace);
        let seconds = pods.iter().filter_map(|pod| {
            pod.metadata
                .deletion_grace_period_seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
        });
        seconds.max().map(Duration::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use api::core::v1::NamespaceSpec;

    use super::*;
    use crate::pods::testing::{ago, now};

    fn namespace(finalizers: &[&str]) -> Namespace {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some("team".into());
        namespace.metadata.deletion_timestamp = Some(ago(5));
        let finalizers = finalizers.iter().map(|finalizer| (*finalizer).to_owned()).collect();
        namespace.spec = Some(NamespaceSpec {
            finalizers: Some(finalizers),
        });
        namespace
    }

    fn of_kind<'a>(namespace: &'a Namespace, kind: &str) -> &'a NamespaceCondition {
        let conditions = namespace.status.as_ref().unwrap().conditions.as_ref().unwrap();
        conditions.iter().find(|condition| condition.type_ == kind).unwrap()
    }

    #[test]
    fn an_empty_namespace_loses_our_finalizer_only() {
        let changes = plan(
            &namespace(&["example.com/hold", FINALIZER]),
            &Contents::default(),
            now(),
        );
        let [Change::Status(_), Change::Finalize(finalized)] = &changes[..] else {
            panic!("{changes:?}")
        };
        assert_eq!(
            finalized.spec.as_ref().unwrap().finalizers,
            Some(vec!["example.com/hold".into()])
        );
    }

    #[test]
    fn what_is_left_is_reported_and_looked_at_again() {
        let contents = Contents {
            remaining: vec![("pods".into(), 2)],
            finalizers: vec![("example.com/hold".into(), 1)],
            grace: Some(Duration::from_secs(9)),
            ..Default::default()
        };
        let changes = plan(&namespace(&[FINALIZER]), &contents, now());
        let [Change::Status(shown), Change::LookAgain(wait)] = &changes[..] else {
            panic!("{changes:?}")
        };
        assert_eq!(*wait, Duration::from_secs(9));
        assert_eq!(shown.status.as_ref().unwrap().phase.as_deref(), Some("Terminating"));
        let remaining = of_kind(shown, "NamespaceContentRemaining");
        assert_eq!(
            (remaining.status.as_str(), remaining.reason.as_deref()),
            ("True", Some("SomeResourcesRemain"))
        );
        let message = "Some resources are remaining: pods has 2 resource instances";
        assert_eq!(remaining.message.as_deref(), Some(message));
        let message =
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances";
        assert_eq!(
            of_kind(shown, "NamespaceFinalizersRemaining").message.as_deref(),
            Some(message)
        );

        let again = plan(shown, &contents, Timestamp::now());
        assert_eq!(again, [Change::LookAgain(*wait)], "an unchanged state is written once");
    }

    #[test]
    fn a_failure_keeps_the_namespace() {
        let contents = Contents {
            failures: vec!["secrets: forbidden".into()],
            ..Default::default()
        };
        let changes = plan(&namespace(&[FINALIZER]), &contents, now());
        assert!(!changes.iter().any(|change| matches!(change, Change::Finalize(_))));
    }

    #[test]
    fn only_namespaces_with_our_finalizer_on_their_way_out_are_ours() {
        assert!(is_ours(&namespace(&[FINALIZER])));
        assert!(!is_ours(&namespace(&["example.com/hold"])));
        let mut alive = namespace(&[FINALIZER]);
        alive.metadata.deletion_timestamp = None;
        assert!(!is_ours(&alive));
    }
}
