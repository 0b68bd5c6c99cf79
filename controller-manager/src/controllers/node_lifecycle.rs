//! Node lifecycle: what becomes of a node whose kubelet falls silent.
//!
//! A node lives by its Lease or its status: one of them must change within the grace period. Otherwise its conditions become Unknown, its pods
//! not ready, and taints keep new pods away and let [`super::taint_eviction`] move the old ones. Heartbeats are timed by this process' clock, so that
//! a node with a wrong clock does not look dead.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use api::coordination::v1::Lease;
use api::core::v1::{Node, NodeCondition, Pod, PodCondition, Taint};
use api::meta::{MicroTime, Time};
use api::{Object, ObjectKey};
use client::{Cache, Client, Event, EventRecorder, EventType, Patch};
use controller::{Action, Error, Queue};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::json;

use crate::pods::{self, elapsed};
use crate::setup::{Late, NODE, Setup};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const NO_SCHEDULE: &str = "NoSchedule";
const NO_EXECUTE: &str = "NoExecute";

/// The conditions that a kubelet reports and that become Unknown with it.
const KUBELET_CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Conditions that are bad when true, and their taint.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// What a pass looks at.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The node.
    pub node: &'a Node,
    /// When this process last saw its Lease or its status change.
    pub heartbeat: Timestamp,
    /// How long a node may be silent.
    pub grace: Duration,
    /// Whether no node of the cluster is ready. Then the fault is more likely ours than theirs, and nothing is evicted.
    pub all_silent: bool,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Write the node's status: its kubelet is silent.
    Status(Box<Node>),
    /// Write `spec.taints`.
    Taints(Vec<Taint>),
    /// Mark the pods of the node as not ready.
    PodsNotReady,
    /// Look again when the grace period ends.
    LookAgain(Duration),
}

/// What the node needs.
pub fn plan(observed: Observed<'_>, now: Timestamp) -> Vec<Change> {
    let mut changes = Vec::new();
    let silence = elapsed(observed.heartbeat, now);
    let shown = (silence >= observed.grace)
        .then(|| silent(observed.node, now))
        .flatten();
    let node = shown.as_ref().unwrap_or(observed.node);
    let taints = taints(node, observed.all_silent, now);
    let current = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.clone())
        .unwrap_or_default();
    if !same_taints(&current, &taints) {
        changes.push(Change::Taints(taints));
    }
    if condition(node, "Ready").is_some_and(|ready| ready.status != "True") {
        changes.push(Change::PodsNotReady);
    }
    if let Some(shown) = shown {
        changes.push(Change::Status(Box::new(shown)));
    }
    if silence < observed.grace {
        changes.push(Change::LookAgain(observed.grace - silence));
    }
    changes
}

/// Condition `Ready` of a node, or another.
pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|condition| condition.type_ == kind)
}

/// Whether the node's kubelet says it is ready.
pub fn is_ready(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|ready| ready.status == "True")
}

/// The pod as not ready, or nothing if it is so already.
pub fn not_ready(pod: &Pod, now: Timestamp) -> Option<Pod> {
    if !pods::is_ready(pod) {
        return None;
    }
    let mut pod = pod.clone();
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    let ready: &mut PodCondition = conditions.iter_mut().find(|condition| condition.type_ == "Ready")?;
    ready.status = "False".into();
    ready.last_transition_time = Some(Time(now));
    Some(pod)
}

/// The node with its kubelet's conditions Unknown, or nothing if they are.
fn silent(node: &Node, now: Timestamp) -> Option<Node> {
    let mut shown = node.clone();
    let conditions = shown.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for kind in KUBELET_CONDITIONS {
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".into();
                condition.reason = Some("NodeStatusUnknown".into());
                condition.message = Some("Kubelet stopped posting node status.".into());
                condition.last_transition_time = Some(Time(now));
                changed = true;
            }
            None => {
                conditions.push(NodeCondition {
                    type_: kind.into(),
                    status: "Unknown".into(),
                    reason: Some("NodeStatusNeverUpdated".into()),
                    message: Some("Kubelet never posted node status.".into()),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                    last_transition_time: Some(Time(now)),
                });
                changed = true;
            }
        }
    }
    changed.then_some(shown)
}

/// The taints the node must have: those of others as they are, and ours by its conditions.
fn taints(node: &Node, all_silent: bool, now: Timestamp) -> Vec<Taint> {
    let spec = node.spec.clone().unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    let unready = match condition(node, "Ready").map(|ready| ready.status.as_str()) {
        Some("False") => Some(NOT_READY),
        Some("Unknown") => Some(UNREACHABLE),
        // A node that never reported carries the taint it registered with.
        None => Some(NOT_READY),
        Some(_) => None,
    };
    wanted.extend(unready.map(|key| (key, NO_SCHEDULE)));
    if condition(node, "Ready").is_some() && !all_silent {
        wanted.extend(unready.map(|key| (key, NO_EXECUTE)));
    }
    for (kind, key) in PRESSURES {
        if condition(node, kind).is_some_and(|condition| condition.status == "True") {
            wanted.push((key, NO_SCHEDULE));
        }
    }
    if spec.unschedulable.unwrap_or(false) {
        wanted.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    let current = spec.taints.unwrap_or_default();
    let kept = current
        .into_iter()
        .filter(|taint| !is_ours(taint) || wanted.contains(&(&*taint.key, &*taint.effect)));
    let mut taints: Vec<_> = kept.collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            taints.push(Taint {
                key: key.into(),
                effect: effect.into(),
                value: None,
                time_added: Some(Time(now)),
            });
        }
    }
    taints
}

fn is_ours(taint: &Taint) -> bool {
    match taint.effect.as_str() {
        NO_EXECUTE => [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()),
        NO_SCHEDULE => {
            [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&taint.key.as_str())
                || PRESSURES.iter().any(|(_, key)| *key == taint.key)
        }
        _ => false,
    }
}

fn same_taints(left: &[Taint], right: &[Taint]) -> bool {
    let names = |taints: &[Taint]| -> Vec<(String, String)> {
        let mut names: Vec<_> = taints
            .iter()
            .map(|taint| (taint.key.clone(), taint.effect.clone()))
            .collect();
        names.sort();
        names
    };
    names(left) == names(right)
}

/// When each node last gave a sign of life, by this process' clock.
#[derive(Default)]
struct Heartbeats(Mutex<HashMap<String, Beat>>);

#[derive(Default)]
struct Beat {
    lease: Option<Timestamp>,
    status: Option<Timestamp>,
    seen: Timestamp,
}

impl Heartbeats {
    /// Notes what a Lease says.
    fn lease(&self, lease: &Lease, now: Timestamp) {
        let renewed = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.renew_time.as_ref())
            .map(|MicroTime(time)| *time);
        self.beat(lease.name(), now, |beat| {
            std::mem::replace(&mut beat.lease, renewed) != renewed
        });
    }

    /// Notes what a node's status says. Conditions that this process wrote leave the heartbeat times as they were.
    fn status(&self, node: &Node, now: Timestamp) {
        let reported = condition(node, "Ready")
            .and_then(|ready| ready.last_heartbeat_time.as_ref())
            .map(|time| time.0);
        self.beat(node.name(), now, |beat| {
            std::mem::replace(&mut beat.status, reported) != reported
        });
    }

    fn beat(&self, node: &str, now: Timestamp, changes: impl FnOnce(&mut Beat) -> bool) {
        let mut beats = self.0.lock();
        let beat = beats.entry(node.to_owned()).or_insert_with(|| Beat {
            seen: now,
            ..Default::default()
        });
        if changes(beat) {
            beat.seen = now;
        }
    }

    fn last(&self, node: &str, now: Timestamp) -> Timestamp {
        self.0.lock().get(node).map_or(now, |beat| beat.seen)
    }

    fn forget(&self, node: &str) {
        self.0.lock().remove(node);
    }
}

/// Adds the controller.
pub fn start(setup: &mut Setup) {
    let queue = setup.queue("node_lifecycle_controller");
    let heartbeats: Arc<Heartbeats> = Arc::default();
    let beats = heartbeats.clone();
    setup.informers.leases.on_event(move |event| {
        // A Lease wakes nobody: each node's timer asks when its time is up. 5000 nodes renew 500 times a second.
        if !matches!(event, Event::Deleted(_)) {
            beats.lease(event.object(), Timestamp::now());
        }
    });
    let (waking, beats, nodes) = (queue.clone(), heartbeats.clone(), setup.informers.nodes.late());
    setup
        .informers
        .nodes
        .on_event(move |event| wake(event, &beats, &nodes, &waking));
    let (client, events) = (setup.client.clone(), setup.events("node-controller"));
    let grace = setup.config.node_monitor_grace_period;
    setup.run("node_lifecycle_controller", queue, 8, move |caches| {
        let (nodes, pods) = (caches.nodes, caches.pods);
        let lifecycle = Arc::new(Lifecycle {
            client,
            events,
            nodes,
            pods,
            heartbeats,
            grace,
            unready: Mutex::default(),
        });
        move |key| {
            let lifecycle = lifecycle.clone();
            async move { lifecycle.reconcile(key).await }
        }
    });
}

fn wake(event: &Event<Node>, heartbeats: &Heartbeats, nodes: &Late<Node>, queue: &Queue<ObjectKey>) {
    let node = event.object();
    match event {
        Event::Deleted(_) => heartbeats.forget(node.name()),
        _ => heartbeats.status(node, Timestamp::now()),
    }
    queue.add(node.key());
    let before = event.previous().filter(|_| !matches!(event, Event::Deleted(_)));
    if before.is_none_or(|before| is_ready(before) != is_ready(node)) {
        // Whether any node is ready matters to all of them.
        nodes.list().iter().for_each(|other| queue.add(other.key()));
    }
}

struct Lifecycle {
    client: Client,
    events: EventRecorder,
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    heartbeats: Arc<Heartbeats>,
    grace: Duration,
    /// Nodes whose pods were marked since they stopped being ready.
    unready: Mutex<HashSet<String>>,
}

impl Lifecycle {
    async fn reconcile(&self, key: ObjectKey) -> Result<Action, Error> {
        let Some(node) = self.nodes.get(&key) else {
            self.unready.lock().remove(&key.name);
            return Ok(Action::Done);
        };
        let now = Timestamp::now();
        let heartbeat = self.heartbeats.last(&key.name, now);
        let alive = elapsed(heartbeat, now) < self.grace;
        let others_ready = self
            .nodes
            .list()
            .iter()
            .any(|other| other.name() != key.name && is_ready(other));
        let all_silent = !(others_ready || alive && is_ready(&node));
        let observed = Observed {
            node: &node,
            heartbeat,
            grace: self.grace,
            all_silent,
        };
        if is_ready(&node) && alive {
            self.unready.lock().remove(&key.name);
        }
        let (mut action, mut version) = (Action::Done, None);
        for change in plan(observed, now) {
            match change {
                Change::Taints(taints) => version = Some(self.taint(&node, taints).await?),
                Change::PodsNotReady => self.mark_pods(&node, alive, now).await?,
                Change::Status(mut shown) => {
                    shown.metadata.resource_version = version.take().or(shown.metadata.resource_version);
                    let doing = format!("mark node {key} as silent");
                    self.client
                        .api::<Node>()
                        .update_status(&shown)
                        .await
                        .map_err(Error::client(doing))?;
                    let message = format!("Node {key} status is now: NodeNotReady");
                    self.events.event(&*node, EventType::Normal, "NodeNotReady", message);
                    tracing::warn!(node = %key, "node is silent, its conditions are unknown from now on");
                }
                Change::LookAgain(after) => action = Action::RequeueAfter(after),
            }
        }
        Ok(action)
    }

    /// Writes the taints; the answer's version is what a status written next must carry.
    async fn taint(&self, node: &Node, taints: Vec<Taint>) -> Result<String, Error> {
        let taints: Vec<_> = taints
            .iter()
            .map(|taint| json!({"key": taint.key, "value": taint.value, "effect": taint.effect, "timeAdded": taint.time_added.as_ref().map(|time| format!("{:.0}", time.0))}))
            .collect();
        let patch =
            Patch::Merge(json!({"metadata": {"resourceVersion": node.resource_version()}, "spec": {"taints": taints}}));
        let doing = format!("taint node {}", node.name());
        let patched = self
            .client
            .api::<Node>()
            .patch("", node.name(), "", &patch)
            .await
            .map_err(Error::client(doing))?;
        Ok(patched.resource_version().to_owned())
    }

    /// Marks the pods of a node that stopped being ready. While its kubelet lives it may say otherwise of a pod afterwards, and is believed.
    async fn mark_pods(&self, node: &Node, alive: bool, now: Timestamp) -> Result<(), Error> {
        if !self.unready.lock().insert(node.name().to_owned()) && alive {
            return Ok(());
        }
        let pods = self.pods.by_index(NODE, node.name());
        let marked: Vec<Pod> = pods.iter().filter_map(|pod| not_ready(pod, now)).collect();
        if marked.is_empty() {
            return Ok(());
        }
        let outcomes = self.client.api::<Pod>().update_statuses(&marked).await;
        let outcomes = outcomes.map_err(Error::client(format!(
            "mark the pods of node {} as not ready",
            node.name()
        )))?;
        for (pod, outcome) in marked.iter().zip(outcomes) {
            self.events
                .event(pod, EventType::Warning, "NodeNotReady", "Node is not ready");
            if let Err(error) = outcome
                && !error.is_not_found()
            {
                return Err(Error::client(format!("mark pod {} as not ready", pod.key()))(
                    error.into(),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use api::core::v1::{NodeSpec, NodeStatus};

    use super::*;
    use crate::pods::testing::{ago, now, pod, with_ready};

    fn node(ready: &str) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some("n1".into());
        let conditions = vec![NodeCondition {
            type_: "Ready".into(),
            status: ready.into(),
            ..Default::default()
        }];
        node.status = Some(NodeStatus {
            conditions: Some(conditions),
            ..Default::default()
        });
        node
    }

    fn tainted(mut node: Node, taints: &[(&str, &str)]) -> Node {
        let taint = |(key, effect): &(&str, &str)| Taint {
            key: (*key).into(),
            effect: (*effect).into(),
            ..Default::default()
        };
        node.spec = Some(NodeSpec {
            taints: Some(taints.iter().map(taint).collect()),
            ..Default::default()
        });
        node
    }

    fn planned(node: &Node, silence: i64, all_silent: bool) -> Vec<Change> {
        let observed = Observed {
            node,
            heartbeat: ago(silence).0,
            grace: Duration::from_secs(40),
            all_silent,
        };
        plan(observed, now())
    }

    /// `key:effect` of the taints that a change writes.
    fn written(changes: &[Change]) -> Option<Vec<String>> {
        changes.iter().find_map(|change| match change {
            Change::Taints(taints) => Some(
                taints
                    .iter()
                    .map(|taint| {
                        format!(
                            "{}:{}",
                            taint.key.trim_start_matches("node.kubernetes.io/"),
                            taint.effect
                        )
                    })
                    .collect(),
            ),
            _ => None,
        })
    }

    #[test]
    fn a_node_that_reports_is_looked_at_when_its_grace_ends() {
        assert_eq!(
            planned(&node("True"), 15, false),
            [Change::LookAgain(Duration::from_secs(25))]
        );
    }

    #[test]
    fn a_silent_node_becomes_unknown_and_unreachable() {
        let changes = planned(&node("True"), 40, false);
        let [Change::Taints(_), Change::PodsNotReady, Change::Status(shown)] = &changes[..] else {
            panic!("{changes:?}")
        };
        assert_eq!(
            written(&changes).unwrap(),
            ["unreachable:NoSchedule", "unreachable:NoExecute"]
        );
        let ready = condition(shown, "Ready").unwrap();
        assert_eq!(
            (ready.status.as_str(), ready.reason.as_deref()),
            ("Unknown", Some("NodeStatusUnknown"))
        );
        let memory = condition(shown, "MemoryPressure").unwrap();
        assert_eq!(memory.reason.as_deref(), Some("NodeStatusNeverUpdated"));

        let mut after = (**shown).clone();
        after.spec = tainted(node("True"), &[(UNREACHABLE, NO_SCHEDULE), (UNREACHABLE, NO_EXECUTE)]).spec;
        assert_eq!(
            planned(&after, 41, false),
            [Change::PodsNotReady],
            "what is said is said once"
        );
    }

    #[test]
    fn taints_follow_conditions_and_leave_those_of_others() {
        let other = ("example.com/gpu", NO_SCHEDULE);
        let pressed = |mut node: Node| {
            let conditions = node.status.as_mut().unwrap().conditions.as_mut().unwrap();
            conditions.push(NodeCondition {
                type_: "DiskPressure".into(),
                status: "True".into(),
                ..Default::default()
            });
            node
        };
        let cordoned = |mut node: Node| {
            node.spec.get_or_insert_default().unschedulable = Some(true);
            node
        };
        let cases = [
            (
                tainted(
                    node("True"),
                    &[other, (NOT_READY, NO_SCHEDULE), (NOT_READY, NO_EXECUTE)],
                ),
                Some(vec!["example.com/gpu:NoSchedule"]),
            ),
            (
                tainted(node("False"), &[other]),
                Some(vec![
                    "example.com/gpu:NoSchedule",
                    "not-ready:NoSchedule",
                    "not-ready:NoExecute",
                ]),
            ),
            (pressed(node("True")), Some(vec!["disk-pressure:NoSchedule"])),
            (cordoned(node("True")), Some(vec!["unschedulable:NoSchedule"])),
            (tainted(node("True"), &[other]), None),
            (tainted(Node::default(), &[(NOT_READY, NO_SCHEDULE)]), None),
        ];
        for (node, expected) in cases {
            let changes = planned(&node, 0, false);
            let expected = expected.map(|taints| taints.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(written(&changes), expected, "{node:?}");
        }
    }

    #[test]
    fn when_every_node_is_silent_none_is_emptied() {
        assert_eq!(
            written(&planned(&node("True"), 50, true)).unwrap(),
            ["unreachable:NoSchedule"]
        );
        let emptied = tainted(
            node("Unknown"),
            &[(UNREACHABLE, NO_SCHEDULE), (UNREACHABLE, NO_EXECUTE)],
        );
        assert_eq!(
            written(&planned(&emptied, 50, true)).unwrap(),
            ["unreachable:NoSchedule"]
        );
    }

    #[test]
    fn only_a_change_of_lease_or_status_is_a_sign_of_life() {
        let beats = Heartbeats::default();
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let mut lease = Lease::default();
        lease.metadata.name = Some("n1".into());
        beats.lease(&lease, at(10));
        beats.lease(&lease, at(20));
        assert_eq!(beats.last("n1", at(99)), at(10), "a relist shows the same lease again");
        lease.spec.get_or_insert_default().renew_time = Some(MicroTime(at(1)));
        beats.lease(&lease, at(30));
        assert_eq!(beats.last("n1", at(99)), at(30), "its own clock does not matter");
        beats.status(&silent(&node("True"), at(40)).unwrap(), at(40));
        assert_eq!(beats.last("n1", at(99)), at(30), "our own mark is no sign of life");
        assert_eq!(beats.last("n2", at(99)), at(99), "a node nobody saw yet has its time");
    }

    #[test]
    fn a_ready_pod_becomes_unready_once() {
        let pod = not_ready(&with_ready(pod("a", "Running"), true, 50), now()).unwrap();
        assert!(!pods::is_ready(&pod));
        assert_eq!(not_ready(&pod, now()), None);
    }
}
