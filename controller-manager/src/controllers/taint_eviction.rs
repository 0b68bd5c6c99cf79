//! Taint-based eviction: deletes pods from nodes with `NoExecute` taints that they do not, or no longer, tolerate.

use std::sync::Arc;
use std::time::Duration;

use api::core::v1::{Node, Pod, Taint};
use api::{Object, ObjectKey};
use client::{Cache, Client, DeleteParams, Event, EventRecorder, EventType};
use controller::{Action, Error};
use jiff::Timestamp;

use crate::disrupt::{self, Disruption};
use crate::node_fit::tolerates;
use crate::pods::{self, elapsed};
use crate::setup::{NODE, Setup};

/// What becomes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Stay,
    /// It stays this long.
    After(Duration),
    /// It goes.
    Evict,
}

/// The verdict on a pod under the taints of its node.
///
/// A tolerated time runs from when the taint was put on, so that a restart of this process does not begin it anew.
pub fn plan(pod: &Pod, taints: &[Taint], now: Timestamp) -> Verdict {
    let tolerations: Vec<_> = pod
        .spec
        .iter()
        .flat_map(|spec| spec.tolerations.iter().flatten())
        .collect();
    let mut left: Option<Duration> = None;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let tolerating: Vec<_> = tolerations
            .iter()
            .filter(|toleration| tolerates(toleration, taint))
            .collect();
        if tolerating.is_empty() {
            return Verdict::Evict;
        }
        // Of several tolerations the shortest time counts; one without a time has no limit.
        let seconds = tolerating
            .iter()
            .filter_map(|toleration| toleration.toleration_seconds)
            .min();
        let Some(seconds) = seconds else { continue };
        let allowed = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        let rest = allowed.saturating_sub(elapsed(since, now));
        left = Some(left.map_or(rest, |shortest| shortest.min(rest)));
    }
    match left {
        None => Verdict::Stay,
        Some(rest) if rest.is_zero() => Verdict::Evict,
        Some(rest) => Verdict::After(rest),
    }
}

/// Adds the controller.
pub fn start(setup: &mut Setup) {
    let queue = setup.queue("taint_eviction_controller");
    let (waking, nodes) = (queue.clone(), setup.informers.nodes.late());
    setup.informers.pods.on_event(move |event| {
        let pod = event.object();
        let node = || nodes.get(&ObjectKey::new("", pods::node(pod)));
        if !pods::node(pod).is_empty() && pods::is_active(pod) && node().is_some_and(|node| !evicting(&node).is_empty())
        {
            waking.add(pod.key());
        }
    });
    let (waking, pods) = (queue.clone(), setup.informers.pods.late());
    setup.informers.nodes.on_event(move |event| {
        let node = event.object();
        let before = event.previous().map(|node| evicting(node)).unwrap_or_default();
        if !matches!(event, Event::Deleted(_)) && before != evicting(node) {
            pods.by_index(NODE, node.name())
                .iter()
                .for_each(|pod| waking.add(pod.key()));
        }
    });
    let (client, events) = (setup.client.clone(), setup.events("taint-eviction-controller"));
    setup.run("taint_eviction_controller", queue, 8, move |caches| {
        let evictor = Arc::new(Evictor {
            client,
            events,
            pods: caches.pods,
            nodes: caches.nodes,
        });
        move |key| {
            let evictor = evictor.clone();
            async move { evictor.reconcile(key).await }
        }
    });
}

/// The taints that evict.
fn evicting(node: &Node) -> Vec<Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

struct Evictor {
    client: Client,
    events: EventRecorder,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
}

impl Evictor {
    async fn reconcile(&self, key: ObjectKey) -> Result<Action, Error> {
        let Some(pod) = self.pods.get(&key).filter(|pod| pods::is_active(pod)) else {
            return Ok(Action::Done);
        };
        let Some(node) = self.nodes.get(&ObjectKey::new("", pods::node(&pod))) else {
            return Ok(Action::Done);
        };
        match plan(&pod, &evicting(&node), Timestamp::now()) {
            Verdict::Stay => Ok(Action::Done),
            Verdict::After(left) => Ok(Action::RequeueAfter(left)),
            Verdict::Evict => {
                self.events.event(
                    &*pod,
                    EventType::Normal,
                    "TaintManagerEviction",
                    format!("Marking for deletion Pod {key}"),
                );
                let disruption = Disruption {
                    reason: "DeletionByTaintManager",
                    message: "Taint manager: deleting due to NoExecute taint",
                    ended: false,
                };
                disrupt::delete(&self.client, &pod, Some(disruption), &DeleteParams::default()).await?;
                Ok(Action::Done)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use api::core::v1::Toleration;

    use super::*;
    use crate::pods::testing::{ago, now, pod};

    fn taint(effect: &str, seconds: i64) -> Taint {
        Taint {
            key: "node.kubernetes.io/unreachable".into(),
            effect: effect.into(),
            time_added: Some(ago(seconds)),
            ..Default::default()
        }
    }

    fn toleration(key: &str, seconds: Option<i64>) -> Toleration {
        Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            toleration_seconds: seconds,
            ..Default::default()
        }
    }

    #[test]
    fn tolerations_and_their_time_decide() {
        let key = "node.kubernetes.io/unreachable";
        let after = |seconds| Verdict::After(Duration::from_secs(seconds));
        let cases = [
            ("no taint", vec![], vec![], Verdict::Stay),
            ("another effect", vec![], vec![taint("NoSchedule", 0)], Verdict::Stay),
            ("no toleration", vec![], vec![taint("NoExecute", 0)], Verdict::Evict),
            (
                "another key",
                vec![toleration("x", None)],
                vec![taint("NoExecute", 0)],
                Verdict::Evict,
            ),
            (
                "without end",
                vec![toleration(key, None)],
                vec![taint("NoExecute", 999)],
                Verdict::Stay,
            ),
            (
                "everything",
                vec![toleration("", None)],
                vec![taint("NoExecute", 999)],
                Verdict::Stay,
            ),
            (
                "for a time",
                vec![toleration(key, Some(300))],
                vec![taint("NoExecute", 100)],
                after(200),
            ),
            (
                "time is up",
                vec![toleration(key, Some(300))],
                vec![taint("NoExecute", 300)],
                Verdict::Evict,
            ),
            (
                "the shortest",
                vec![toleration(key, Some(300)), toleration("", Some(120))],
                vec![taint("NoExecute", 100)],
                after(20),
            ),
            (
                "not at all",
                vec![toleration(key, Some(0))],
                vec![taint("NoExecute", 0)],
                Verdict::Evict,
            ),
        ];
        for (case, tolerations, taints, expected) in cases {
            let mut pod = pod("a", "Running");
            pod.spec.as_mut().unwrap().tolerations = Some(tolerations);
            assert_eq!(plan(&pod, &taints, now()), expected, "{case}");
        }
    }
}
