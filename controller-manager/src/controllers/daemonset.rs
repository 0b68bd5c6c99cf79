//! DaemonSet: one pod on every node that fits.
//!
//! The pods are bound by the scheduler; an affinity to the name of their node leaves it no choice. Updates go node by node within
//! `maxUnavailable`, or only when a pod is deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use api::core::v1::{
    Affinity, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration,
};
use api::labels::Selector;
use api::meta::IntOrString;
use api::{Object, ObjectKey};
use client::{Cache, Client, Event, EventRecorder, EventType};
use controller::{Action, Error};
use jiff::Timestamp;

use crate::history::{self, REVISION_HASH};
use crate::intstr::{Round, scaled};
use crate::node_fit::{selects, tolerates};
use crate::pod_control::{PodControl, settled, wake_owners};
use crate::pods::{self, Availability};
use crate::semantic;
use crate::setup::{OWNER, Setup, enqueue};

/// The taints of a node in trouble that a daemon outlives, and their effect.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// What a pass looks at.
pub struct Observed<'a> {
    /// The DaemonSet.
    pub set: &'a DaemonSet,
    /// The nodes.
    pub nodes: &'a [Arc<Node>],
    /// Its pods, in any state.
    pub pods: &'a [Arc<Pod>],
    /// The hash of the present template's revision.
    pub hash: &'a str,
}

/// What a pass does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The nodes that get a pod.
    pub create: Vec<String>,
    /// The pods that go.
    pub delete: Vec<Arc<Pod>>,
    /// Those of them that failed by themselves.
    pub failed: Vec<Arc<Pod>>,
    /// The status that follows from what is seen.
    pub status: DaemonSetStatus,
    /// When a ready pod becomes available.
    pub wait: Option<std::time::Duration>,
}

/// Whether a daemon belongs on a node, and whether one that is there may stay.
fn wants(spec: &PodSpec, node: &Node) -> (bool, bool) {
    if !selects(spec, node) {
        return (false, false);
    }
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let bad = |taint: &&Taint| !tolerations(spec).iter().any(|toleration| tolerates(toleration, taint));
    let untolerated: Vec<_> = taints.filter(bad).map(|taint| taint.effect.as_str()).collect();
    let evicted = untolerated.contains(&"NoExecute");
    (!evicted && !untolerated.contains(&"NoSchedule"), !evicted)
}

/// The template's tolerations and those of every daemon.
fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut tolerations = spec.tolerations.clone().unwrap_or_default();
    let network = ("node.kubernetes.io/network-unavailable", "NoSchedule");
    let extra = spec.host_network.unwrap_or(false).then_some(network);
    for (key, effect) in TOLERATED.into_iter().chain(extra) {
        let toleration = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Default::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    tolerations
}

/// The node a daemon pod is for: the one it is bound to, or the one its affinity names.
fn target(pod: &Pod) -> Option<&str> {
    if !pods::node(pod).is_empty() {
        return Some(pods::node(pod));
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?
        .node_selector_terms;
    let fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let named = fields.filter(|it| it.key == "metadata.name" && it.operator == "In");
    named
        .flat_map(|it| it.values.iter().flatten())
        .map(String::as_str)
        .next()
}

/// The pod for a node.
fn daemon(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut pod = pods::from_template(&template, set.namespace(), set.name(), set.owner_reference(true));
    pod.metadata
        .labels
        .get_or_insert_default()
        .insert(REVISION_HASH.into(), hash.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    let name = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm {
        match_fields: Some(vec![name]),
        ..Default::default()
    };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    // The template's own requirements were met when the node was chosen; what it prefers does not matter with one node.
    affinity
        .node_affinity
        .get_or_insert_default()
        .required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![term],
    });
    pod
}

/// What the set needs.
pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let spec = observed.set.spec.clone().unwrap_or_default();
    let pod_spec = spec.template.spec.clone().unwrap_or_default();
    let minimum = spec.min_ready_seconds.unwrap_or(0);
    let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in observed.pods {
        by_node.entry(target(pod).unwrap_or("")).or_default().push(pod);
    }
    let mut plan = Plan::default();
    let status = &mut plan.status;
    status.observed_generation = observed.set.metadata.generation;
    status.collision_count = observed.set.status.as_ref().and_then(|status| status.collision_count);
    let (mut ready, mut updated, mut available) = (0, 0, 0);
    let mut current: Vec<(&Arc<Pod>, bool)> = Vec::new();
    for node in observed.nodes {
        let here = by_node.remove(node.name()).unwrap_or_default();
        let (should_run, may_stay) = wants(&pod_spec, node);
        let mut live: Vec<_> = here.iter().filter(|pod| pods::is_active(pod)).copied().collect();
        // Of several the oldest stays.
        live.sort_by_key(|pod| {
            (
                pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
                pod.name().to_owned(),
            )
        });
        if !may_stay {
            plan.delete.extend(live.iter().map(|pod| (*pod).clone()));
            status.number_misscheduled += i32::from(!here.is_empty());
            continue;
        }
        let failed = here
            .iter()
            .filter(|pod| pods::phase(pod) == "Failed" && !pod.is_deleting());
        plan.failed.extend(failed.map(|pod| (*pod).clone()));
        plan.delete.extend(live.iter().skip(1).map(|pod| (*pod).clone()));
        if !should_run {
            status.number_misscheduled += i32::from(!live.is_empty());
            continue;
        }
        status.desired_number_scheduled += 1;
        if here.is_empty() {
            plan.create.push(node.name().to_owned());
        }
        let Some(pod) = live.first() else { continue };
        status.current_number_scheduled += 1;
        let availability = pods::availability(pod, minimum, now);
        ready += i32::from(availability != Availability::Unready);
        available += i32::from(availability == Availability::Available);
        updated += i32::from(is_updated(pod, observed.hash));
        if let Availability::After(left) = availability {
            plan.wait = Some(plan.wait.map_or(left, |wait| wait.min(left)));
        }
        current.push((pod, availability == Availability::Available));
    }
    // What waits for a node that is gone waits for ever.
    let stranded = by_node
        .into_values()
        .flatten()
        .filter(|pod| pods::node(pod).is_empty() && pods::is_active(pod));
    plan.delete.extend(stranded.cloned());
    status.number_ready = ready;
    status.updated_number_scheduled = Some(updated);
    status.number_available = Some(available);
    status.number_unavailable = Some(status.desired_number_scheduled - available);
    let desired = status.desired_number_scheduled;
    plan.delete.extend(outdated(observed, desired, &current));
    plan.delete.extend(plan.failed.iter().cloned());
    if observed.set.is_deleting() {
        return Plan {
            status: plan.status,
            ..Default::default()
        };
    }
    plan
}

fn is_updated(pod: &Pod, hash: &str) -> bool {
    pod.labels().get(REVISION_HASH).is_some_and(|label| label == hash)
}

/// The pods of earlier templates that may go now: those that serve nobody, and as many others as may be unavailable.
fn outdated(observed: &Observed<'_>, desired: i32, current: &[(&Arc<Pod>, bool)]) -> Vec<Arc<Pod>> {
    let strategy = observed
        .set
        .spec
        .as_ref()
        .and_then(|spec| spec.update_strategy.as_ref());
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
        return Vec::new();
    }
    let most = strategy
        .and_then(|it| it.rolling_update.as_ref())
        .and_then(|it| it.max_unavailable.as_ref());
    let most = scaled(most.unwrap_or(&IntOrString::Int(1)), desired, Round::Up)
        .unwrap_or(1)
        .max(1);
    let available = current.iter().filter(|(_, available)| *available).count();
    let mut room = most - (desired - i32::try_from(available).unwrap_or(desired));
    let mut going = Vec::new();
    for (pod, available) in current.iter().filter(|(pod, _)| !is_updated(pod, observed.hash)) {
        if !available {
            going.push((*pod).clone());
        } else if room > 0 {
            room -= 1;
            going.push((*pod).clone());
        }
    }
    going
}

fn selector(set: &DaemonSet) -> Option<Selector> {
    Selector::from_label_selector(&set.spec.as_ref()?.selector)
        .ok()
        .filter(|selector| !selector.is_empty())
}

/// Adds the controller.
pub fn start(setup: &mut Setup) {
    let queue = setup.queue("daemonset");
    setup.informers.daemon_sets.on_event(enqueue(&queue));
    let sets = setup.informers.daemon_sets.late();
    let (waking, owners) = (queue.clone(), sets.clone());
    setup
        .informers
        .pods
        .on_event(move |event| wake_owners(event, &owners, selector, |key| waking.add(key)));
    let waking = queue.clone();
    setup.informers.nodes.on_event(move |event| {
        let facts = |node: &Node| {
            let spec = node.spec.clone().unwrap_or_default();
            (node.labels().clone(), spec.taints, spec.unschedulable)
        };
        if !matches!(event, Event::Updated { old, new } if facts(old) == facts(new)) {
            sets.list().iter().for_each(|set| waking.add(set.key()));
        }
    });
    setup
        .informers
        .revisions
        .on_event(crate::setup::enqueue_owner::<ControllerRevision, DaemonSet>(&queue));
    let (client, events) = (setup.client.clone(), setup.events("daemonset-controller"));
    let workers = setup.config.concurrent_daemonset_syncs;
    setup.run("daemonset", queue, workers, move |caches| {
        let daemons = Arc::new(Daemons {
            control: PodControl::new(client.clone(), events.clone(), caches.pods),
            client,
            events,
            sets: caches.daemon_sets,
            nodes: caches.nodes,
            revisions: caches.revisions,
        });
        move |key| {
            let daemons = daemons.clone();
            async move { daemons.reconcile(key).await }
        }
    });
}

struct Daemons {
    client: Client,
    events: EventRecorder,
    control: PodControl,
    sets: Cache<DaemonSet>,
    nodes: Cache<Node>,
    revisions: Cache<ControllerRevision>,
}

impl Daemons {
    async fn reconcile(&self, key: ObjectKey) -> Result<Action, Error> {
        let Some(set) = self.sets.get(&key) else {
            self.control.forget(&key);
            return Ok(Action::Done);
        };
        let (Some(selector), Some(spec)) = (selector(&set), &set.spec) else {
            return Ok(Action::Done);
        };
        let Some(pods) = self.control.owned(&*set, &selector).await? else {
            return Ok(Action::Done);
        };
        let revisions = self.revisions.by_index(OWNER, set.uid());
        let in_use = |revision: &ControllerRevision| pods.iter().any(|pod| is_updated(pod, history::hash(revision)));
        let limit = spec.revision_history_limit.unwrap_or(10);
        let history = history::plan(&*set, &spec.template, &revisions, in_use, limit);
        let hash = history::hash(&history.current).to_owned();
        if !set.is_deleting() {
            history::apply(&self.client, history.changes).await?;
        }
        let mut nodes = self.nodes.list();
        nodes.sort_by(|left, right| left.name().cmp(right.name()));
        let observed = Observed {
            set: &set,
            nodes: &nodes,
            pods: &pods,
            hash: &hash,
        };
        let plan = plan(&observed, Timestamp::now());
        for pod in &plan.failed {
            let message = format!(
                "Found failed daemon pod {} on node {}, will try to kill it",
                pod.key(),
                pods::node(pod)
            );
            self.events.event(&*set, EventType::Warning, "FailedDaemonPod", message);
        }
        let new: Vec<_> = plan.create.iter().map(|node| daemon(&set, node, &hash)).collect();
        let deleted = self.control.delete(&*set, &plan.delete).await;
        let failure = self.control.create(&*set, &new).await.or(deleted);
        let written = DaemonSet {
            status: Some(plan.status),
            ..(*set).clone()
        };
        if !semantic::equal(&*set, &written) {
            let doing = format!("write the status of DaemonSet {key}");
            self.client
                .api::<DaemonSet>()
                .update_status(&written)
                .await
                .map_err(Error::client(doing))?;
        }
        settled(&*set, failure)?;
        Ok(plan.wait.map_or(Action::Done, Action::RequeueAfter))
    }
}

#[cfg(test)]
mod tests {
    use api::apps::v1::DaemonSetSpec;
    use api::core::v1::{NodeSpec, PodTemplateSpec};

    use super::*;
    use crate::pods::testing::{ago, deleting, now, on_node, pod, with_ready};

    fn set() -> DaemonSet {
        let template = PodTemplateSpec {
            metadata: None,
            spec: Some(PodSpec::default()),
        };
        DaemonSet {
            spec: Some(DaemonSetSpec {
                template,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn node(name: &str, taints: &[(&str, &str)]) -> Arc<Node> {
        let taint = |(key, effect): &(&str, &str)| Taint {
            key: (*key).into(),
            effect: (*effect).into(),
            ..Default::default()
        };
        let mut node = Node::default();
        node.metadata.name = Some(name.into());
        node.spec = Some(NodeSpec {
            taints: Some(taints.iter().map(taint).collect()),
            ..Default::default()
        });
        Arc::new(node)
    }

    fn running(name: &str, node: &str, hash: &str, ready: bool) -> Pod {
        let mut pod = on_node(with_ready(pod(name, "Running"), ready, 60), node);
        pod.metadata
            .labels
            .as_mut()
            .unwrap()
            .insert(REVISION_HASH.into(), hash.into());
        pod
    }

    fn planned(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Pod]) -> Plan {
        let pods: Vec<_> = pods.iter().cloned().map(Arc::new).collect();
        plan(
            &Observed {
                set,
                nodes,
                pods: &pods,
                hash: "new",
            },
            now(),
        )
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter().map(|pod| pod.name()).collect()
    }

    #[test]
    fn every_node_that_fits_gets_one() {
        let nodes = [
            node("n1", &[]),
            node("n2", &[("node.kubernetes.io/unschedulable", "NoSchedule")]),
            node("n3", &[("team", "NoSchedule")]),
            node("n4", &[]),
        ];
        let plan = planned(&set(), &nodes, &[running("a", "n4", "new", true)]);
        assert_eq!(plan.create, ["n1", "n2"]);
        assert_eq!(
            (
                plan.status.desired_number_scheduled,
                plan.status.current_number_scheduled
            ),
            (3, 1)
        );
        assert_eq!((plan.status.number_ready, plan.status.number_unavailable), (1, Some(2)));
    }

    #[test]
    fn a_pod_stays_with_no_schedule_and_leaves_with_no_execute() {
        let nodes = [
            node("n1", &[("team", "NoSchedule")]),
            node("n2", &[("team", "NoExecute")]),
        ];
        let pods = [
            running("stays", "n1", "new", true),
            running("leaves", "n2", "new", true),
        ];
        let plan = planned(&set(), &nodes, &pods);
        assert_eq!(names(&plan.delete), ["leaves"]);
        assert_eq!(
            (plan.status.number_misscheduled, plan.status.desired_number_scheduled),
            (2, 0)
        );
    }

    #[test]
    fn failed_doubled_and_stranded_pods_go() {
        let mut failed = on_node(pod("failed", "Failed"), "n1");
        failed.metadata.creation_timestamp = Some(ago(5));
        let mut second = running("second", "n2", "new", true);
        second.metadata.creation_timestamp = Some(ago(5));
        let stranded = daemon_for("gone");
        let pods = [failed, running("first", "n2", "new", true), second, stranded];
        let plan = planned(&set(), &[node("n1", &[]), node("n2", &[])], &pods);
        assert_eq!(names(&plan.delete), ["second", "stranded", "failed"]);
        assert_eq!(plan.create, [""; 0], "a failed pod is replaced when it is gone");
    }

    fn daemon_for(node: &str) -> Pod {
        let mut made = daemon(&set(), node, "new");
        made.metadata.name = Some("stranded".into());
        made
    }

    #[test]
    fn a_pod_names_its_node_before_it_is_bound() {
        assert_eq!(target(&daemon_for("n7")), Some("n7"));
        let plan = planned(&set(), &[node("n7", &[])], &[daemon_for("n7")]);
        assert_eq!(plan.create, [""; 0]);
        let leaving = planned(&set(), &[node("n7", &[])], &[deleting(running("a", "n7", "new", true))]);
        assert_eq!(leaving.create, [""; 0], "the next comes when the last is gone");
    }

    #[test]
    fn an_update_takes_the_unavailable_and_one_more() {
        let nodes = ["n1", "n2", "n3"].map(|name| node(name, &[]));
        let old = |ready: [bool; 3]| {
            let pods = ["n1", "n2", "n3"].into_iter().zip(ready);
            pods.map(|(node, ready)| running(node, node, "old", ready))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&planned(&set(), &nodes, &old([true, true, true])).delete), ["n1"]);
        assert_eq!(
            names(&planned(&set(), &nodes, &old([true, false, true])).delete),
            ["n2"]
        );
        let mut by_hand = set();
        by_hand.spec.as_mut().unwrap().update_strategy = Some(api::apps::v1::DaemonSetUpdateStrategy {
            type_: Some("OnDelete".into()),
            rolling_update: None,
        });
        assert_eq!(
            names(&planned(&by_hand, &nodes, &old([true, true, true])).delete),
            [""; 0]
        );
    }
}
