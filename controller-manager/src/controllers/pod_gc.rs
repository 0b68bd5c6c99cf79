//! Pod garbage collection: removes pods that nobody else will.
//!
//! Pods that ended beyond a number, pods bound to nodes that do not exist, pods that were deleted before they got a node, and pods on nodes
//! that an operator declared out of service.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use api::core::v1::{Node, Pod};
use api::{Object, ObjectKey};
use client::{Cache, Client, DeleteParams};
use controller::Error;
use jiff::Timestamp;

use super::node_lifecycle;
use crate::disrupt::{self, Disruption};
use crate::pods::{self, elapsed};
use crate::setup::Setup;

/// How often to look.
const PERIOD: Duration = Duration::from_secs(20);
/// How long a node must be missing before its pods are: it may be registering anew.
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Why a pod goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// More pods have ended than the threshold allows.
    Terminated,
    /// Its node does not exist.
    Orphaned,
    /// It was deleted before it had a node.
    Unscheduled,
    /// It is being deleted on a node that is out of service.
    OutOfService,
}

/// Deletes a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Which.
    pub pod: Arc<Pod>,
    /// Why.
    pub reason: Reason,
}

/// The pods to remove. `missing` are the names of nodes known not to exist; at most `threshold` ended pods stay, all if it is 0.
pub fn plan(
    pods: &[Arc<Pod>],
    nodes: &HashMap<String, Arc<Node>>,
    missing: &HashSet<String>,
    threshold: usize,
) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut ended = Vec::new();
    for pod in pods {
        let node = pods::node(pod);
        let reason = match () {
            () if pod.is_deleting() && node.is_empty() => Some(Reason::Unscheduled),
            () if missing.contains(node) => Some(Reason::Orphaned),
            () if pod.is_deleting() && nodes.get(node).is_some_and(|node| is_out_of_service(node)) => {
                Some(Reason::OutOfService)
            }
            () => None,
        };
        match reason {
            Some(reason) => changes.push(Change {
                pod: pod.clone(),
                reason,
            }),
            None if pods::is_terminated(pod) && !pod.is_deleting() => ended.push(pod),
            None => {}
        }
    }
    if threshold > 0 && ended.len() > threshold {
        ended.sort_by_key(|pod| (pod.metadata.creation_timestamp.as_ref().map(|time| time.0), pod.key()));
        let surplus = ended.len() - threshold;
        changes.extend(ended.into_iter().take(surplus).map(|pod| Change {
            pod: pod.clone(),
            reason: Reason::Terminated,
        }));
    }
    changes
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    !node_lifecycle::is_ready(node) && taints.into_iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

/// Adds the controller.
pub fn start(setup: &mut Setup) {
    let (client, shutdown) = (setup.client.clone(), setup.shutdown.clone());
    let threshold = setup.config.terminated_pod_gc_threshold;
    setup.task(move |caches| async move {
        let mut collector = Collector {
            client,
            pods: caches.pods,
            nodes: caches.nodes,
            threshold,
            missing: HashMap::new(),
        };
        while shutdown.run_until(tokio::time::sleep(PERIOD)).await.is_some() {
            collector.collect(Timestamp::now()).await;
        }
    });
}

struct Collector {
    client: Client,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    threshold: usize,
    /// Nodes that pods name and the cache lacks, each since when.
    missing: HashMap<String, Timestamp>,
}

impl Collector {
    async fn collect(&mut self, now: Timestamp) {
        let pods = self.pods.list();
        let nodes: HashMap<_, _> = self
            .nodes
            .list()
            .into_iter()
            .map(|node| (node.name().to_owned(), node))
            .collect();
        let missing = self.missing(&pods, now).await;
        for change in plan(&pods, &nodes, &missing, self.threshold) {
            if let Err(error) = self.remove(&change).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "pod stays until the next round"
                );
            }
        }
    }

    /// The nodes that have been missing for long enough and are not there when the API server is asked.
    async fn missing(&mut self, pods: &[Arc<Pod>], now: Timestamp) -> HashSet<String> {
        let named = pods.iter().map(|pod| pods::node(pod)).filter(|node| !node.is_empty());
        let absent: HashSet<&str> = named
            .filter(|node| self.nodes.get(&ObjectKey::new("", *node)).is_none())
            .collect();
        self.missing.retain(|node, _| absent.contains(node.as_str()));
        for node in absent {
            self.missing.entry(node.to_owned()).or_insert(now);
        }
        let mut confirmed = HashSet::new();
        for (node, since) in &self.missing {
            let asked = elapsed(*since, now) >= QUARANTINE;
            if asked
                && self
                    .client
                    .api::<Node>()
                    .get("", node)
                    .await
                    .is_err_and(|error| error.is_not_found())
            {
                confirmed.insert(node.clone());
            }
        }
        confirmed
    }

    async fn remove(&self, change: &Change) -> Result<(), Error> {
        let message = match change.reason {
            Reason::Terminated | Reason::Unscheduled => None,
            Reason::Orphaned => Some("PodGC: node no longer exists"),
            Reason::OutOfService => Some("PodGC: node was declared out of service"),
        };
        let ended = !pods::is_terminated(&change.pod);
        let disruption = message.map(|message| Disruption {
            reason: "DeletionByPodGC",
            message,
            ended,
        });
        tracing::info!(pod = %change.pod.key(), reason = ?change.reason, "removing pod");
        disrupt::delete(&self.client, &change.pod, disruption, &DeleteParams::now()).await
    }
}

#[cfg(test)]
mod tests {
    use api::core::v1::{NodeSpec, Taint};

    use super::*;
    use crate::pods::testing::{ago, deleting, on_node, pod};

    fn removed(pods: Vec<Pod>, threshold: usize) -> Vec<(String, Reason)> {
        let mut broken = Node::default();
        broken.metadata.name = Some("broken".into());
        broken.spec = Some(NodeSpec {
            taints: Some(vec![Taint {
                key: OUT_OF_SERVICE.into(),
                effect: "NoExecute".into(),
                ..Default::default()
            }]),
            ..Default::default()
        });
        let nodes = HashMap::from([
            ("broken".to_owned(), Arc::new(broken)),
            ("n1".to_owned(), Arc::default()),
        ]);
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        let changes = plan(&pods, &nodes, &HashSet::from(["gone".to_owned()]), threshold);
        changes
            .into_iter()
            .map(|change| (change.pod.name().to_owned(), change.reason))
            .collect()
    }

    #[test]
    fn each_reason_and_nothing_else() {
        let pods = vec![
            on_node(pod("fine", "Running"), "n1"),
            on_node(deleting(pod("leaving", "Running")), "n1"),
            pod("waiting", "Pending"),
            on_node(pod("ended", "Succeeded"), "n1"),
            on_node(pod("orphan", "Running"), "gone"),
            deleting(pod("unscheduled", "Pending")),
            on_node(deleting(pod("stuck", "Running")), "broken"),
            on_node(pod("not-deleted", "Running"), "broken"),
        ];
        let expected = [
            ("orphan".to_owned(), Reason::Orphaned),
            ("unscheduled".to_owned(), Reason::Unscheduled),
            ("stuck".to_owned(), Reason::OutOfService),
        ];
        assert_eq!(removed(pods, 12500), expected);
    }

    #[test]
    fn the_oldest_of_too_many_ended_pods_go() {
        let ended = |name: &str, age| {
            let mut pod = on_node(pod(name, "Failed"), "n1");
            pod.metadata.creation_timestamp = Some(ago(age));
            pod
        };
        let pods = vec![ended("b", 20), ended("c", 10), ended("a", 30)];
        assert_eq!(
            removed(pods.clone(), 1),
            [
                ("a".to_owned(), Reason::Terminated),
                ("b".to_owned(), Reason::Terminated)
            ]
        );
        assert_eq!(removed(pods.clone(), 3), []);
        assert_eq!(removed(pods, 0), [], "0 keeps all");
    }
}
