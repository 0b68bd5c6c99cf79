//! The scheduler's state: what it hears goes in, what is to be done comes out. Synchronous; it owns the cluster, so there are no locks.

use std::collections::HashMap;
use std::sync::Arc;

use api::core::v1::{Namespace, Node, Pod};
use api::{Object, ObjectKey};
use client::Event;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::cycle::{Placer, Unplaceable};
use crate::framework::Change;
use crate::model::PodInfo;
use crate::queue::{Depth, Queue, Queued};

/// What the scheduler hears.
#[derive(Debug)]
pub enum Input {
    /// A pod came, changed or went.
    Pod(Event<Pod>),
    /// A node came, changed or went.
    Node(Event<Node>),
    /// A namespace came, changed or went.
    Namespace(Event<Namespace>),
    /// A binding was written, or not.
    Bound {
        /// The pod.
        key: ObjectKey,
        /// Why not.
        outcome: Result<(), BindError>,
    },
}

/// Why a binding was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindError {
    /// The pod is gone, or bound already: nothing is left to do.
    Moot,
    /// Worth another try.
    Failed,
}

/// What is to be done for a pod.
#[derive(Debug)]
pub enum Decision {
    /// Bind it.
    Bind {
        /// The pod.
        queued: Queued,
        /// The node's name.
        node: String,
    },
    /// Tell people why it waits.
    Explain {
        /// The pod.
        queued: Queued,
        /// Why.
        why: Unplaceable,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Scheduler {
    names: Vec<String>,
    cluster: Cluster,
    queue: Queue,
    placer: Placer,
    /// Pods whose binding is being written: the cluster shows them where they will be.
    binding: HashMap<ObjectKey, Queued>,
}

impl Scheduler {
    /// A scheduler for the pods that ask for one of these schedulers.
    pub fn new(names: Vec<String>, placer: Placer, queue: Queue) -> Self {
        Self {
            names,
            cluster: Cluster::default(),
            queue,
            placer,
            binding: HashMap::new(),
        }
    }

    /// Takes in what happened.
    pub fn hear(&mut self, input: Input, now: Instant) {
        match input {
            Input::Pod(event) => self.hear_pod(&event, now),
            Input::Node(event) => self.hear_node(&event, now),
            Input::Namespace(event) => {
                let labels = match &event {
                    Event::Deleted(_) => None,
                    Event::Added(namespace) | Event::Updated { new: namespace, .. } => Some(namespace.labels().clone()),
                };
                self.cluster.set_namespace(event.object().name(), labels);
            }
            Input::Bound { key, outcome } => self.hear_bound(&key, outcome, now),
        }
    }

    fn hear_pod(&mut self, event: &Event<Pod>, now: Instant) {
        let pod = event.object();
        let key = pod.key();
        let gone = matches!(event, Event::Deleted(_)) || is_finished(pod);
        let node = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.as_deref())
            .filter(|node| !node.is_empty());
        if gone {
            self.queue.remove(&key);
            self.binding.remove(&key);
            if self.cluster.remove_pod(&key) {
                self.queue.on_change(Change::PodRemoved, self.placer.profile(), now);
            }
            return;
        }
        if let Some(node) = node {
            self.queue.remove(&key);
            self.binding.remove(&key);
            let known = self.cluster.node_of(&key) == Some(node);
            let relevant = event
                .previous()
                .is_none_or(|old| old.spec != pod.spec || old.metadata.labels != pod.metadata.labels);
            if known && !relevant {
                return;
            }
            self.cluster.place(Arc::new(PodInfo::new(pod.clone())), node);
            let change = if known { Change::PodRemoved } else { Change::PodPlaced };
            self.queue.on_change(change, self.placer.profile(), now);
            return;
        }
        // The cluster shows it where it will be: the outcome of the binding comes first.
        if self.binding.contains_key(&key) {
            return;
        }
        match self.is_ours(pod) {
            true => self.queue.put(Arc::new(PodInfo::new(pod.clone())), now),
            false => self.queue.remove(&key),
        }
    }

    /// Whether the pod is waiting for this scheduler, with no gate in its way (KEP-3521).
    fn is_ours(&self, pod: &Pod) -> bool {
        let Some(spec) = &pod.spec else { return false };
        let name = spec.scheduler_name.as_deref().unwrap_or("default-scheduler");
        let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
        !gated && !pod.is_deleting() && self.names.iter().any(|ours| ours == name)
    }

    fn hear_node(&mut self, event: &Event<Node>, now: Instant) {
        match event {
            Event::Deleted(node) => self.cluster.remove_node(node.name()),
            Event::Added(node) | Event::Updated { new: node, .. } => {
                let relevant = event.previous().is_none_or(|old| matters(old, node));
                self.cluster.put_node(node.clone());
                if relevant {
                    self.queue.on_change(Change::Node, self.placer.profile(), now);
                }
            }
        }
    }

    fn hear_bound(&mut self, key: &ObjectKey, outcome: Result<(), BindError>, now: Instant) {
        // Absent: the pod's own event has already told how it ended.
        let Some(queued) = self.binding.remove(key) else { return };
        match outcome {
            Ok(()) => {}
            Err(error) => {
                self.cluster.remove_pod(key);
                self.queue.on_change(Change::PodRemoved, self.placer.profile(), now);
                if error == BindError::Failed {
                    self.queue.retry_later(queued, now);
                }
            }
        }
    }

    /// Runs one cycle for the pod that is next, if one waits to be tried.
    pub fn decide(&mut self, now: Instant) -> Option<Decision> {
        let queued = self.queue.pop(now)?;
        Some(match self.placer.place(&queued.pod, &self.cluster) {
            Ok(placement) => {
                self.cluster.place(queued.pod.clone(), &placement.node);
                self.binding.insert(queued.pod.key.clone(), queued.clone());
                Decision::Bind {
                    queued,
                    node: placement.node,
                }
            }
            Err(why) => {
                self.queue.reject(queued.clone(), why.rejected_by.clone(), now);
                Decision::Explain { queued, why }
            }
        })
    }

    /// When to look again even if nothing is heard.
    pub fn next_due(&self) -> Option<Instant> {
        self.queue.next_due()
    }

    /// How many pods wait.
    pub fn depth(&self) -> Depth {
        self.queue.depth()
    }
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether a node changed in what filters look at; heartbeats do not.
fn matters(old: &Node, new: &Node) -> bool {
    let amounts = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    old.spec != new.spec || old.metadata.labels != new.metadata.labels || amounts(old) != amounts(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;
    use crate::queue::Backoff;
    use crate::testing::{node, pod};

    fn scheduler() -> (Scheduler, Instant) {
        let placer = Placer::new(Profile::default(), 0);
        (
            Scheduler::new(vec!["default-scheduler".into()], placer, Queue::new(Backoff::default())),
            Instant::now(),
        )
    }

    fn add(name: &str, cpu: &str) -> Input {
        Input::Pod(Event::Added(pod(name).cpu(cpu).build()))
    }

    #[test]
    fn pods_go_where_there_is_room_and_wait_otherwise() {
        let (mut scheduler, now) = scheduler();
        scheduler.hear(add("a", "1"), now);
        assert!(
            matches!(scheduler.decide(now), Some(Decision::Explain { .. })),
            "no node yet"
        );
        scheduler.hear(Input::Node(Event::Added(node("n").cpu("1").build())), now);
        let later = now + std::time::Duration::from_secs(1);
        assert!(matches!(scheduler.decide(later), Some(Decision::Bind { node, .. }) if node == "n"));
        scheduler.hear(add("b", "1"), later);
        assert!(
            matches!(scheduler.decide(later), Some(Decision::Explain { .. })),
            "an assumed pod takes its room"
        );
        scheduler.hear(
            Input::Bound {
                key: pod("a").info().key.clone(),
                outcome: Ok(()),
            },
            later,
        );
        scheduler.hear(Input::Pod(Event::Deleted(pod("a").cpu("1").build())), later);
        let much_later = later + std::time::Duration::from_secs(2);
        assert!(
            matches!(scheduler.decide(much_later), Some(Decision::Bind { queued, .. }) if queued.pod.key.name == "b")
        );
    }

    #[test]
    fn a_failed_binding_frees_the_room_and_is_tried_again() {
        let (mut scheduler, now) = scheduler();
        scheduler.hear(Input::Node(Event::Added(node("n").cpu("1").build())), now);
        scheduler.hear(add("a", "1"), now);
        assert!(matches!(scheduler.decide(now), Some(Decision::Bind { .. })));
        let key = pod("a").info().key.clone();
        scheduler.hear(
            Input::Bound {
                key: key.clone(),
                outcome: Err(BindError::Failed),
            },
            now,
        );
        assert_eq!(scheduler.depth().backoff, 1);
        assert_eq!(scheduler.cluster.node("n").unwrap().pods.len(), 0);
        let later = now + std::time::Duration::from_secs(1);
        assert!(matches!(scheduler.decide(later), Some(Decision::Bind { queued, .. }) if queued.attempts == 2));
        scheduler.hear(
            Input::Bound {
                key,
                outcome: Err(BindError::Moot),
            },
            later,
        );
        assert_eq!(scheduler.depth(), Depth::default());
    }

    #[test]
    fn pods_of_others_gated_and_finished_pods_are_left_alone() {
        let (mut scheduler, now) = scheduler();
        scheduler.hear(Input::Node(Event::Added(node("n").cpu("1").build())), now);
        let other = pod("other")
            .spec(|spec| spec.scheduler_name = Some("mine".into()))
            .build();
        let gate = api::core::v1::PodSchedulingGate { name: "wait".into() };
        let gated = pod("gated")
            .spec(|spec| spec.scheduling_gates = Some(vec![gate]))
            .build();
        for pod in [other, gated.clone()] {
            scheduler.hear(Input::Pod(Event::Added(pod)), now);
        }
        assert!(scheduler.decide(now).is_none());
        scheduler.hear(
            Input::Pod(Event::Updated {
                old: gated,
                new: pod("gated").build(),
            }),
            now,
        );
        assert!(
            matches!(scheduler.decide(now), Some(Decision::Bind { .. })),
            "the gate is gone"
        );
    }
}
