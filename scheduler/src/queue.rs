//! Pods waiting for a node: those to try now, by priority and age, and those that wait for time or for a change of the cluster.
//!
//! It reads no clock: callers say what time it is.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::ObjectKey;
use tokio::time::Instant;

use crate::framework::Change;
use crate::model::PodInfo;
use crate::profile::Profile;

/// A rejected pod is tried again after this long even if nothing seems to have changed (upstream's value).
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// How long failed pods wait.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// After the first failure.
    pub initial: Duration,
    /// At most.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(10),
        }
    }
}

impl Backoff {
    fn after(self, attempts: u32) -> Duration {
        self.initial
            .saturating_mul(1 << attempts.saturating_sub(1).min(16))
            .min(self.max)
    }
}

/// A pod in the queue, or taken out of it to be tried.
#[derive(Clone, Debug)]
pub struct Queued {
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// Tries so far, the present one included.
    pub attempts: u32,
    /// When it first came in.
    pub since: Instant,
}

#[derive(Debug)]
enum State {
    /// In the heap, under this ticket.
    Active(u64),
    /// Until then, whatever changes.
    Backoff(Instant),
    /// Until one of these plugins may think otherwise, but not before `earliest`.
    Rejected {
        by: BTreeSet<&'static str>,
        earliest: Instant,
        latest: Instant,
    },
}

impl State {
    /// When time alone ends it.
    fn due(&self) -> Option<Instant> {
        match self {
            Self::Active(_) => None,
            Self::Backoff(until) => Some(*until),
            Self::Rejected { latest, .. } => Some(*latest),
        }
    }
}

#[derive(Debug)]
struct Waiting {
    queued: Queued,
    state: State,
}

/// See the module.
#[derive(Debug)]
pub struct Queue {
    backoff: Backoff,
    pods: HashMap<ObjectKey, Waiting>,
    /// Priority, then age; a ticket that the pod no longer holds is void.
    active: BinaryHeap<(i32, Reverse<u64>, ObjectKey)>,
    tickets: u64,
    /// No waiting pod is due before; `None` when none waits for time.
    due: Option<Instant>,
}

/// How many pods wait, and for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// To be tried now.
    pub active: usize,
    /// For time.
    pub backoff: usize,
    /// For a change of the cluster.
    pub unschedulable: usize,
}

impl Queue {
    /// An empty queue.
    pub fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            pods: HashMap::new(),
            active: BinaryHeap::new(),
            tickets: 0,
            due: None,
        }
    }

    /// Takes a new pod, or a pod's new state. A rejected pod whose spec or labels changed is tried again.
    pub fn put(&mut self, pod: Arc<PodInfo>, now: Instant) {
        match self.pods.get_mut(&pod.key) {
            None => self.insert_active(Queued {
                pod,
                attempts: 0,
                since: now,
            }),
            Some(waiting) => {
                let old = std::mem::replace(&mut waiting.queued.pod, pod);
                let new = &waiting.queued.pod;
                let changed = old.pod.spec != new.pod.spec || old.pod.metadata.labels != new.pod.metadata.labels;
                let reranked = old.priority() != new.priority();
                let wakes = match &waiting.state {
                    State::Active(_) => reranked,
                    State::Rejected { .. } => changed,
                    State::Backoff(_) => false,
                };
                if wakes {
                    let queued = waiting.queued.clone();
                    self.insert_active(queued);
                }
            }
        }
    }

    fn insert_active(&mut self, queued: Queued) {
        self.tickets += 1;
        let key = queued.pod.key.clone();
        self.active
            .push((queued.pod.priority(), Reverse(self.tickets), key.clone()));
        self.pods.insert(
            key,
            Waiting {
                queued,
                state: State::Active(self.tickets),
            },
        );
    }

    /// Forgets a pod.
    pub fn remove(&mut self, key: &ObjectKey) {
        self.pods.remove(key);
    }

    /// Takes out the pod to try next.
    pub fn pop(&mut self, now: Instant) -> Option<Queued> {
        self.wake_due(now);
        while let Some((_, Reverse(ticket), key)) = self.active.pop() {
            let holds = self
                .pods
                .get(&key)
                .is_some_and(|waiting| matches!(waiting.state, State::Active(t) if t == ticket));
            if let Some(waiting) = holds.then(|| self.pods.remove(&key)).flatten() {
                let mut queued = waiting.queued;
                queued.attempts += 1;
                return Some(queued);
            }
        }
        None
    }

    fn wake_due(&mut self, now: Instant) {
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        let due = |waiting: &&Waiting| waiting.state.due().is_some_and(|due| due <= now);
        let woken = self
            .pods
            .values()
            .filter(due)
            .map(|waiting| waiting.queued.clone())
            .collect();
        self.activate(woken);
        self.due = self.pods.values().filter_map(|waiting| waiting.state.due()).min();
    }

    fn activate(&mut self, mut woken: Vec<Queued>) {
        woken.sort_by_key(|queued| queued.since);
        for queued in woken {
            self.insert_active(queued);
        }
    }

    fn wait(&mut self, queued: Queued, state: State) {
        self.due = self.due.into_iter().chain(state.due()).min();
        self.pods.insert(queued.pod.key.clone(), Waiting { queued, state });
    }

    /// Puts back a pod that fits nowhere.
    pub fn reject(&mut self, queued: Queued, by: BTreeSet<&'static str>, now: Instant) {
        let earliest = now + self.backoff.after(queued.attempts);
        let state = State::Rejected {
            by,
            earliest,
            latest: now + LONGEST_WAIT,
        };
        self.wait(queued, state);
    }

    /// Puts back a pod whose try failed for a reason that is not its own.
    pub fn retry_later(&mut self, queued: Queued, now: Instant) {
        let state = State::Backoff(now + self.backoff.after(queued.attempts));
        self.wait(queued, state);
    }

    /// The cluster changed: pods that were rejected by a plugin to which this matters get another try, once their back-off is over.
    pub fn on_change(&mut self, change: Change, profile: &Profile, now: Instant) {
        let matters: BTreeSet<&str> = profile
            .filters
            .iter()
            .filter(|filter| filter.retry_after().contains(&change))
            .map(|filter| filter.name())
            .collect();
        let mut ready = Vec::new();
        for waiting in self.pods.values_mut() {
            let State::Rejected { by, earliest, .. } = &waiting.state else {
                continue;
            };
            // Without nodes nobody rejected it, and the first node is what it waits for.
            let concerned = by.is_empty() || by.iter().any(|plugin| matters.contains(plugin));
            match (concerned, *earliest) {
                (true, earliest) if earliest <= now => ready.push(waiting.queued.clone()),
                (true, earliest) => {
                    waiting.state = State::Backoff(earliest);
                    self.due = self.due.into_iter().chain([earliest]).min();
                }
                (false, _) => {}
            }
        }
        self.activate(ready);
    }

    /// No waiting pod is due before this moment.
    pub fn next_due(&self) -> Option<Instant> {
        self.due
    }

    /// How many pods wait.
    pub fn depth(&self) -> Depth {
        let mut depth = Depth::default();
        for waiting in self.pods.values() {
            match waiting.state {
                State::Active(_) => depth.active += 1,
                State::Backoff(_) => depth.backoff += 1,
                State::Rejected { .. } => depth.unschedulable += 1,
            }
        }
        depth
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    fn queue() -> (Queue, Instant) {
        (Queue::new(Backoff::default()), Instant::now())
    }

    fn popped(queue: &mut Queue, now: Instant) -> Option<String> {
        queue.pop(now).map(|queued| queued.pod.key.name.clone())
    }

    #[test]
    fn priority_then_age() {
        let (mut queue, now) = queue();
        for (name, priority) in [("old", 0), ("urgent", 10), ("young", 0)] {
            queue.put(pod(name).priority(priority).info(), now);
        }
        queue.put(pod("young").priority(20).info(), now);
        assert_eq!(
            popped(&mut queue, now).as_deref(),
            Some("young"),
            "a new priority re-ranks"
        );
        assert_eq!(popped(&mut queue, now).as_deref(), Some("urgent"));
        queue.remove(&pod("old").info().key);
        assert_eq!(popped(&mut queue, now), None);
    }

    #[test]
    fn a_rejected_pod_waits_for_a_change_that_matters_and_for_its_backoff() {
        let (mut queue, now) = queue();
        let profile = Profile::default();
        queue.put(pod("p").info(), now);
        let queued = queue.pop(now).unwrap();
        queue.reject(queued, BTreeSet::from(["NodeResourcesFit"]), now);
        assert_eq!(
            queue.depth(),
            Depth {
                unschedulable: 1,
                ..Depth::default()
            }
        );
        queue.on_change(Change::PodPlaced, &profile, now);
        assert_eq!(queue.depth().unschedulable, 1, "a placed pod makes no room");
        queue.on_change(Change::PodRemoved, &profile, now);
        assert_eq!(queue.depth().backoff, 1);
        assert_eq!(popped(&mut queue, now), None);
        assert_eq!(queue.next_due(), Some(now + Duration::from_secs(1)));
        let queued = queue.pop(now + Duration::from_secs(1)).unwrap();
        assert_eq!(queued.attempts, 2);
        queue.reject(queued, BTreeSet::from(["NodeName"]), now);
        assert_eq!(
            popped(&mut queue, now + LONGEST_WAIT).as_deref(),
            Some("p"),
            "nobody waits for ever"
        );
    }

    #[test]
    fn backoff_doubles_up_to_its_limit() {
        let backoff = Backoff::default();
        let seconds: Vec<u64> = [1, 2, 3, 4, 5, 90]
            .map(|attempts| backoff.after(attempts).as_secs())
            .into();
        assert_eq!(seconds, [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn a_changed_pod_is_tried_again() {
        let (mut queue, now) = queue();
        queue.put(pod("p").info(), now);
        let queued = queue.pop(now).unwrap();
        queue.reject(queued, BTreeSet::from(["NodeAffinity"]), now);
        queue.put(pod("p").info(), now);
        assert_eq!(
            popped(&mut queue, now),
            None,
            "an update of its status is none of the pod's own"
        );
        queue.put(pod("p").label("a", "b").info(), now);
        assert_eq!(popped(&mut queue, now).as_deref(), Some("p"));
    }
}
