//! The rules that ReplicaSet and ReplicationController share: how many pods, which go first, what the status says.
//!
//! It knows neither kind: each gives a [`View`] of itself. It never reads a cache and writes nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::Object;
use api::core::v1::Pod;
use jiff::Timestamp;

use crate::pods::{self, Availability};

/// The most pods created or deleted in one pass.
pub const BURST: usize = 500;

/// What the two kinds have in common.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// `spec.replicas`.
    pub desired: i32,
    /// `spec.minReadySeconds`.
    pub min_ready_seconds: i32,
    /// The labels of the pod template.
    pub template_labels: BTreeMap<String, String>,
    /// `metadata.generation`.
    pub generation: i64,
    /// Whether it is being deleted: then it keeps its count and only reports.
    pub deleting: bool,
    /// `status` as stored.
    pub status: Status,
}

/// The status of either kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Active pods.
    pub replicas: i32,
    /// Those that carry every label of the template.
    pub fully_labeled: i32,
    /// Those that are ready.
    pub ready: i32,
    /// Those that have been ready for the minimum.
    pub available: i32,
    /// Pods being deleted that have not ended.
    pub terminating: i32,
    /// The generation this status describes.
    pub observed_generation: i64,
    /// Why pods could not be created or deleted: condition `ReplicaFailure`, if it is true.
    pub failure: Option<Failure>,
}

/// The content of condition `ReplicaFailure`.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub reason: String,
    /// The API server's answer.
    pub message: String,
    /// When it began.
    pub since: Timestamp,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Create this many pods from the template.
    Create(usize),
    /// Delete these pods.
    Delete(Vec<Arc<Pod>>),
    /// Write this status, with the outcome of the changes before it as its failure.
    Status(Status),
    /// Look again: a ready pod becomes available then.
    LookAgain(Duration),
}

/// Brings the pods owned by one object to its count. `owned` are its pods in any state; `related` are those of its siblings and itself
/// (the old and new ReplicaSets of one Deployment): a node with many of them gives one up first.
pub fn plan(view: &View, owned: &[Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) -> Vec<Change> {
    let active: Vec<_> = owned.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
    let mut changes = Vec::new();
    if !view.deleting {
        let desired = usize::try_from(view.desired).unwrap_or(0);
        match active.len() {
            have if have < desired => changes.push(Change::Create((desired - have).min(BURST))),
            have if have > desired => {
                let surplus = (have - desired).min(BURST);
                changes.push(Change::Delete(first_to_go(&active, related, surplus, now)));
            }
            _ => {}
        }
    }
    let (status, wait) = status(view, owned, &active, now);
    changes.push(Change::Status(status));
    changes.extend(wait.map(Change::LookAgain));
    changes
}

fn status(view: &View, owned: &[Arc<Pod>], active: &[Arc<Pod>], now: Timestamp) -> (Status, Option<Duration>) {
    let mut wait: Option<Duration> = None;
    let mut status = Status {
        replicas: count(active.len()),
        terminating: count(
            owned
                .iter()
                .filter(|pod| pod.is_deleting() && !pods::is_terminated(pod))
                .count(),
        ),
        observed_generation: view.generation,
        failure: view.status.failure.clone(),
        ..Default::default()
    };
    for pod in active {
        let labels = pod.labels();
        let labeled = view
            .template_labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value));
        status.fully_labeled += i32::from(labeled);
        match pods::availability(pod, view.min_ready_seconds, now) {
            Availability::Unready => continue,
            Availability::Available => status.available += 1,
            Availability::After(left) => wait = Some(wait.map_or(left, |shortest| shortest.min(left))),
        }
        status.ready += 1;
    }
    (status, wait)
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// The order in which pods go; the first field that differs decides, the smaller goes first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Worth {
    assigned: bool,
    phase: u8,
    ready: bool,
    deletion_cost: i32,
    /// More siblings on the node: goes earlier.
    crowd: Reverse<usize>,
    /// Ready for a shorter time: goes earlier. Times of the same magnitude are equal.
    ready_for: u32,
    restarts: Reverse<i32>,
    /// Younger: goes earlier.
    age: u32,
    /// Only so that the order is total.
    uid: String,
}

impl Worth {
    fn of(pod: &Pod, crowd: &HashMap<&str, usize>, now: Timestamp) -> Worth {
        let ready = pods::condition(pod, "Ready").filter(|ready| ready.status == "True");
        let since = ready
            .and_then(|ready| ready.last_transition_time.as_ref())
            .map(|time| time.0);
        Worth {
            assigned: !pods::node(pod).is_empty(),
            phase: match pods::phase(pod) {
                "Running" => 2,
                "Unknown" => 1,
                _ => 0,
            },
            ready: ready.is_some(),
            deletion_cost: deletion_cost(pod),
            crowd: Reverse(crowd.get(pods::node(pod)).copied().unwrap_or(0)),
            ready_for: since.map_or(0, |since| magnitude(since, now)),
            restarts: Reverse(pods::max_restarts(pod)),
            age: pod
                .metadata
                .creation_timestamp
                .as_ref()
                .map_or(0, |created| magnitude(created.0, now)),
            uid: pod.uid().to_owned(),
        }
    }
}

/// Annotation `controller.kubernetes.io/pod-deletion-cost`, 0 when absent or no number.
fn deletion_cost(pod: &Pod) -> i32 {
    let cost = pod.annotations().get("controller.kubernetes.io/pod-deletion-cost");
    cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// The binary logarithm of an age: small differences do not single out a pod.
fn magnitude(since: Timestamp, now: Timestamp) -> u32 {
    pods::elapsed(since, now)
        .as_nanos()
        .checked_ilog2()
        .map_or(0, |log| log + 1)
}

fn first_to_go(active: &[Arc<Pod>], related: &[Arc<Pod>], surplus: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    let mut crowd: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| pods::is_active(pod)) {
        *crowd.entry(pods::node(pod)).or_default() += 1;
    }
    let mut order = active.to_vec();
    order.sort_by_cached_key(|pod| Worth::of(pod, &crowd, now));
    order.truncate(surplus);
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::testing::{ago, deleting, now, on_node, pod, with_ready};

    fn view(desired: i32) -> View {
        View {
            desired,
            template_labels: [("app".to_owned(), "web".to_owned())].into(),
            generation: 3,
            ..Default::default()
        }
    }

    fn planned(view: &View, pods: Vec<Pod>) -> Vec<Change> {
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        plan(view, &pods, &pods, now())
    }

    fn names(changes: &[Change]) -> Vec<&str> {
        let deleted = changes.iter().flat_map(|change| match change {
            Change::Delete(pods) => pods.as_slice(),
            _ => &[],
        });
        deleted.map(|pod| pod.name()).collect()
    }

    #[test]
    fn creates_what_is_missing_and_counts_only_active_pods() {
        let pods = vec![pod("a", "Running"), pod("b", "Failed"), deleting(pod("c", "Running"))];
        let changes = planned(&view(3), pods);
        assert_eq!(changes[0], Change::Create(2));
        let expected = Status {
            replicas: 1,
            fully_labeled: 1,
            terminating: 1,
            observed_generation: 3,
            ..Default::default()
        };
        assert_eq!(changes[1], Change::Status(expected));
    }

    #[test]
    fn one_pass_is_bounded() {
        assert_eq!(planned(&view(10_000), vec![])[0], Change::Create(BURST));
    }

    #[test]
    fn a_count_that_fits_changes_the_status_only() {
        let changes = planned(&view(1), vec![with_ready(pod("a", "Running"), true, 5)]);
        assert!(matches!(
            &changes[..],
            [Change::Status(Status {
                ready: 1,
                available: 1,
                replicas: 1,
                ..
            })]
        ));
    }

    #[test]
    fn an_object_on_its_way_out_creates_nothing() {
        let changes = planned(
            &View {
                deleting: true,
                ..view(3)
            },
            vec![],
        );
        assert!(matches!(changes[..], [Change::Status(_)]));
    }

    #[test]
    fn a_pod_becomes_available_after_its_minimum() {
        let view = View {
            min_ready_seconds: 10,
            ..view(2)
        };
        let changes = planned(
            &view,
            vec![
                with_ready(pod("a", "Running"), true, 4),
                with_ready(pod("b", "Running"), true, 3),
            ],
        );
        assert!(matches!(
            changes[0],
            Change::Status(Status {
                ready: 2,
                available: 0,
                ..
            })
        ));
        assert_eq!(changes[1], Change::LookAgain(Duration::from_secs(6)));
    }

    #[test]
    fn the_least_worth_goes_first() {
        let ready = |name: &str, node: &str| on_node(with_ready(pod(name, "Running"), true, 500), node);
        let cost = |mut pod: Pod, cost: &str| {
            pod.metadata.annotations =
                Some([("controller.kubernetes.io/pod-deletion-cost".into(), cost.into())].into());
            pod
        };
        let young = |mut pod: Pod| {
            pod.metadata.creation_timestamp = Some(ago(1));
            pod
        };
        // In each case the second pod must go.
        let cases = [
            ("unassigned", [ready("keep", "n1"), pod("go", "Running")]),
            ("pending", [ready("keep", "n1"), on_node(pod("go", "Pending"), "n2")]),
            (
                "unready",
                [
                    ready("keep", "n1"),
                    on_node(with_ready(pod("go", "Running"), false, 9), "n2"),
                ],
            ),
            (
                "cheap",
                [cost(ready("keep", "n1"), "10"), cost(ready("go", "n2"), "-1")],
            ),
            (
                "ready for a short time",
                [
                    ready("keep", "n1"),
                    on_node(with_ready(pod("go", "Running"), true, 1), "n2"),
                ],
            ),
            ("young", [ready("keep", "n1"), young(ready("go", "n2"))]),
        ];
        for (case, pods) in cases {
            for order in [[0, 1], [1, 0]] {
                let changes = planned(&view(1), order.map(|index: usize| pods[index].clone()).to_vec());
                assert_eq!(names(&changes), ["go"], "{case}");
            }
        }
    }

    #[test]
    fn a_crowded_node_gives_up_a_pod() {
        let ready = |name: &str, node: &str| Arc::new(on_node(with_ready(pod(name, "Running"), true, 500), node));
        let owned = [ready("a", "n1"), ready("b", "n2")];
        let related = [owned[0].clone(), owned[1].clone(), ready("sibling", "n2")];
        assert_eq!(names(&plan(&view(1), &owned, &related, now())), ["b"]);
    }
}
