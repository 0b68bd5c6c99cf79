//! PodDisruptionBudgets: how many pods of a selection may be evicted now. The eviction subresource spends what this allows.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use api::core::v1::{Pod, ReplicationController};
use api::labels::Selector;
use api::meta::{Condition, Time};
use api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use api::{Object, ObjectKey, Resource};
use client::{Client, Event};
use controller::{Action, Error, Queue};
use jiff::Timestamp;

use crate::intstr::{Round, scaled};
use crate::pods::{self, elapsed};
use crate::semantic;
use crate::setup::{Caches, Late, NAMESPACE, Setup, Shared, enqueue};

/// How long an eviction that was allowed may take to show as a deletion before it counts as failed.
const DELETION_TIMEOUT: Duration = Duration::from_secs(120);
const DISRUPTION_ALLOWED: &str = "DisruptionAllowed";

/// How many pods the controllers of the selected pods want in all, for budgets that are relative to it.
pub type Expected = Result<i32, String>;

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Write the status.
    Status(Box<PodDisruptionBudget>),
    /// Look again: an eviction must show as a deletion by then.
    LookAgain(Duration),
}

/// The status that the budget must have. `wanted` is asked for relative budgets only.
pub fn plan(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    wanted: impl FnOnce() -> Expected,
    now: Timestamp,
) -> Vec<Change> {
    let before = budget.status.clone().unwrap_or_default();
    let generation = budget.metadata.generation;
    let mut conditions = before.conditions.clone().unwrap_or_default();
    let mut wait = None;
    let status = match numbers(budget, pods, wanted) {
        Ok((expected, desired)) => {
            let (disrupted, next) = still_disrupted(&before, pods, now);
            wait = next;
            let healthy = pods
                .iter()
                .filter(|pod| pods::is_ready(pod) && !pod.is_deleting() && !disrupted.contains_key(pod.name()));
            let current = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
            let allowed = if expected > 0 { (current - desired).max(0) } else { 0 };
            let (value, reason) = if allowed > 0 {
                ("True", "SufficientPods")
            } else {
                ("False", "InsufficientPods")
            };
            set_condition(&mut conditions, generation, value, reason, String::new(), now);
            PodDisruptionBudgetStatus {
                current_healthy: current,
                desired_healthy: desired,
                expected_pods: expected,
                disruptions_allowed: allowed,
                disrupted_pods: Some(disrupted).filter(|disrupted| !disrupted.is_empty()),
                observed_generation: generation,
                conditions: None,
            }
        }
        Err(message) => {
            // What cannot be computed must not be spent.
            set_condition(&mut conditions, generation, "False", "SyncFailed", message, now);
            PodDisruptionBudgetStatus {
                disruptions_allowed: 0,
                observed_generation: generation,
                conditions: None,
                ..before
            }
        }
    };
    let after = PodDisruptionBudget {
        status: Some(PodDisruptionBudgetStatus {
            conditions: Some(conditions),
            ..status
        }),
        ..budget.clone()
    };
    let changed = (!semantic::equal(budget, &after)).then(|| Change::Status(Box::new(after)));
    changed.into_iter().chain(wait.map(Change::LookAgain)).collect()
}

/// How many pods there should be, and how many of them must be healthy.
fn numbers(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    wanted: impl FnOnce() -> Expected,
) -> Result<(i32, i32), String> {
    let spec = budget.spec.clone().unwrap_or_default();
    let invalid = || "the budget is neither a number nor a percentage".to_owned();
    if let Some(most) = &spec.max_unavailable {
        let expected = wanted()?;
        let unavailable = scaled(most, expected, Round::Up).ok_or_else(invalid)?;
        return Ok((expected, (expected - unavailable).max(0)));
    }
    match &spec.min_available {
        Some(least @ api::meta::IntOrString::Int(_)) => {
            let count = i32::try_from(pods.len()).unwrap_or(i32::MAX);
            Ok((count, scaled(least, count, Round::Up).ok_or_else(invalid)?))
        }
        Some(least) => {
            let expected = wanted()?;
            Ok((expected, scaled(least, expected, Round::Up).ok_or_else(invalid)?))
        }
        None => Ok((i32::try_from(pods.len()).unwrap_or(i32::MAX), 1)),
    }
}

/// The evictions that are not deletions yet, and when the first of them is given up.
fn still_disrupted(
    before: &PodDisruptionBudgetStatus,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Duration>) {
    let mut wait: Option<Duration> = None;
    let mut disrupted = BTreeMap::new();
    for (name, since) in before.disrupted_pods.iter().flatten() {
        let there = pods.iter().any(|pod| pod.name() == name && !pod.is_deleting());
        let left = DELETION_TIMEOUT.saturating_sub(elapsed(since.0, now));
        if there && !left.is_zero() {
            disrupted.insert(name.clone(), since.clone());
            wait = Some(wait.map_or(left, |shortest| shortest.min(left)));
        }
    }
    (disrupted, wait)
}

fn set_condition(
    conditions: &mut Vec<Condition>,
    generation: Option<i64>,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let place = conditions
        .iter()
        .position(|condition| condition.type_ == DISRUPTION_ALLOWED);
    let since = place
        .filter(|place| conditions[*place].status == status)
        .map(|place| conditions[place].last_transition_time.clone());
    let condition = Condition {
        type_: DISRUPTION_ALLOWED.into(),
        status: status.into(),
        reason: reason.into(),
        message,
        observed_generation: generation,
        last_transition_time: since.unwrap_or(Time(now)),
    };
    match place {
        Some(place) => conditions[place] = condition,
        None => conditions.push(condition),
    }
}

/// Adds the controller.
pub fn start(setup: &mut Setup) {
    let queue = setup.queue("disruption");
    let informers = &mut setup.informers;
    informers.budgets.on_event(enqueue(&queue));
    let budgets = informers.budgets.late();
    let (waking, known) = (queue.clone(), budgets.clone());
    informers.pods.on_event(move |event| wake(event, &known, &waking));
    wake_on_scale(&mut informers.deployments, &budgets, &queue);
    wake_on_scale(&mut informers.replica_sets, &budgets, &queue);
    wake_on_scale(&mut informers.replication_controllers, &budgets, &queue);
    wake_on_scale(&mut informers.stateful_sets, &budgets, &queue);
    let client = setup.client.clone();
    setup.run("disruption", queue, 2, move |caches| {
        let budgets = Arc::new(Budgets { client, caches });
        move |key| {
            let budgets = budgets.clone();
            async move { budgets.reconcile(key).await }
        }
    });
}

/// The selector of a budget: none selects no pod, an empty one all of the namespace.
fn selector(budget: &PodDisruptionBudget) -> Option<Selector> {
    Selector::from_label_selector(budget.spec.as_ref()?.selector.as_ref()?).ok()
}

fn wake(event: &Event<Pod>, budgets: &Late<PodDisruptionBudget>, queue: &Queue<ObjectKey>) {
    let pod = event.object();
    for budget in budgets.by_index(NAMESPACE, pod.namespace()) {
        let Some(selector) = selector(&budget) else { continue };
        if selector.matches(pod.labels()) || event.previous().is_some_and(|pod| selector.matches(pod.labels())) {
            queue.add(budget.key());
        }
    }
}

fn wake_on_scale<K: Object>(informer: &mut Shared<K>, budgets: &Late<PodDisruptionBudget>, queue: &Queue<ObjectKey>) {
    let (budgets, queue) = (budgets.clone(), queue.clone());
    informer.on_event(move |event| {
        // The generation counts changes of what is wanted; a status says nothing new here.
        if !matches!(event, Event::Updated { old, new } if old.metadata().generation == new.metadata().generation) {
            budgets
                .by_index(NAMESPACE, event.object().namespace())
                .iter()
                .for_each(|budget| queue.add(budget.key()));
        }
    });
}

struct Budgets {
    client: Client,
    caches: Caches,
}

impl Budgets {
    async fn reconcile(&self, key: ObjectKey) -> Result<Action, Error> {
        let Some(budget) = self.caches.budgets.get(&key) else {
            return Ok(Action::Done);
        };
        let mut pods = match selector(&budget) {
            Some(selector) => {
                let mut pods = self.caches.pods.by_index(NAMESPACE, &key.namespace);
                pods.retain(|pod| selector.matches(pod.labels()));
                pods
            }
            None => Vec::new(),
        };
        pods.retain(|pod| !pods::is_terminated(pod));
        let mut action = Action::Done;
        for change in plan(&budget, &pods, || self.wanted(&pods), Timestamp::now()) {
            match change {
                Change::Status(written) => {
                    let doing = format!("write the status of PodDisruptionBudget {key}");
                    let api = self.client.api::<PodDisruptionBudget>();
                    api.update_status(&written).await.map_err(Error::client(doing))?;
                }
                Change::LookAgain(after) => action = Action::RequeueAfter(after),
            }
        }
        Ok(action)
    }

    /// What the controllers of the pods want, each counted once. Pods without a controller count for nothing.
    fn wanted(&self, pods: &[Arc<Pod>]) -> Expected {
        let (mut seen, mut total) = (HashSet::new(), 0i32);
        for pod in pods {
            let Some(owner) = pod.controller() else { continue };
            let key = ObjectKey::new(pod.namespace(), &*owner.name);
            let (uid, replicas) = match owner.kind.as_str() {
                ReplicaSet::KIND => match self.caches.replica_sets.get(&key) {
                    Some(set) => self.scale_of(&set),
                    None => continue,
                },
                ReplicationController::KIND => match self.caches.replication_controllers.get(&key) {
                    Some(rc) => (
                        rc.uid().to_owned(),
                        rc.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
                    ),
                    None => continue,
                },
                StatefulSet::KIND => match self.caches.stateful_sets.get(&key) {
                    Some(set) => (
                        set.uid().to_owned(),
                        set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
                    ),
                    None => continue,
                },
                kind => {
                    return Err(format!(
                        "pod {} is controlled by a {kind}, which has no scale",
                        pod.key()
                    ));
                }
            };
            if seen.insert(uid) {
                total = total.saturating_add(replicas);
            }
        }
        Ok(total)
    }

    /// The Deployment of a ReplicaSet knows what is wanted; without one the set does.
    fn scale_of(&self, set: &ReplicaSet) -> (String, i32) {
        let owner = set.controller().filter(|owner| owner.kind == Deployment::KIND);
        let deployment = owner.and_then(|owner| {
            self.caches
                .deployments
                .get(&ObjectKey::new(set.namespace(), &*owner.name))
        });
        match deployment {
            Some(deployment) => (
                deployment.uid().to_owned(),
                super::deployment::plan::desired(&deployment),
            ),
            None => (set.uid().to_owned(), super::deployment::plan::size(set)),
        }
    }
}

#[cfg(test)]
mod tests {
    use api::meta::IntOrString;
    use api::policy::v1::PodDisruptionBudgetSpec;

    use super::*;
    use crate::pods::testing::{ago, deleting, now, pod, with_ready};

    fn budget(min: Option<IntOrString>, max: Option<IntOrString>) -> PodDisruptionBudget {
        PodDisruptionBudget {
            spec: Some(PodDisruptionBudgetSpec {
                min_available: min,
                max_unavailable: max,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn pods(ready: usize, unready: usize) -> Vec<Arc<Pod>> {
        let ready = (0..ready).map(|n| with_ready(pod(&format!("ready-{n}"), "Running"), true, 9));
        let unready = (0..unready).map(|n| with_ready(pod(&format!("unready-{n}"), "Running"), false, 9));
        ready.chain(unready).map(Arc::new).collect()
    }

    fn status(changes: &[Change]) -> &PodDisruptionBudgetStatus {
        match changes {
            [Change::Status(budget), ..] => budget.status.as_ref().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn allows_what_is_healthy_beyond_what_must_be() {
        let (int, text) = (IntOrString::Int, |text: &str| IntOrString::String(text.into()));
        // budget, ready, unready, wanted by controllers; desired, allowed
        let cases = [
            (budget(Some(int(2)), None), (3, 0, 3), (2, 1)),
            (budget(Some(int(2)), None), (2, 1, 3), (2, 0)),
            (budget(Some(int(5)), None), (3, 0, 3), (5, 0)),
            (budget(Some(text("50%")), None), (3, 0, 3), (2, 1)),
            (budget(None, Some(int(1))), (3, 0, 3), (2, 1)),
            (budget(None, Some(int(1))), (2, 1, 3), (2, 0)),
            (budget(None, Some(int(9))), (3, 0, 3), (0, 3)),
            (budget(None, Some(text("30%"))), (10, 0, 10), (7, 3)),
            (budget(None, Some(int(1))), (0, 0, 0), (0, 0)),
        ];
        for (budget, (ready, unready, wanted), (desired, allowed)) in cases {
            let changes = plan(&budget, &pods(ready, unready), || Ok(wanted), now());
            let status = status(&changes);
            assert_eq!(
                (status.desired_healthy, status.disruptions_allowed),
                (desired, allowed),
                "{:?}",
                budget.spec
            );
            let condition = &status.conditions.as_ref().unwrap()[0];
            assert_eq!(
                condition.reason,
                if allowed > 0 {
                    "SufficientPods"
                } else {
                    "InsufficientPods"
                }
            );
        }
    }

    #[test]
    fn pods_on_their_way_out_and_evicted_ones_are_not_healthy() {
        let mut budget = budget(Some(IntOrString::Int(1)), None);
        let disrupted = [
            ("ready-0".to_owned(), ago(60)),
            ("ready-1".to_owned(), ago(120)),
            ("gone".to_owned(), ago(1)),
        ];
        budget.status = Some(PodDisruptionBudgetStatus {
            disrupted_pods: Some(disrupted.into()),
            ..Default::default()
        });
        let mut pods = pods(3, 0);
        pods.push(Arc::new(deleting(with_ready(pod("leaving", "Running"), true, 9))));
        let changes = plan(&budget, &pods, || Ok(0), now());
        assert_eq!(
            status(&changes).current_healthy,
            2,
            "ready-0 was evicted, leaving leaves"
        );
        assert_eq!(status(&changes).disrupted_pods.as_ref().unwrap().len(), 1);
        assert_eq!(changes[1], Change::LookAgain(Duration::from_secs(60)));
    }

    #[test]
    fn what_cannot_be_computed_allows_nothing() {
        let mut budget = budget(None, Some(IntOrString::Int(1)));
        budget.status = Some(PodDisruptionBudgetStatus {
            disruptions_allowed: 4,
            ..Default::default()
        });
        let changes = plan(&budget, &pods(3, 0), || Err("no controller".into()), now());
        assert_eq!(status(&changes).disruptions_allowed, 0);
        assert_eq!(status(&changes).conditions.as_ref().unwrap()[0].reason, "SyncFailed");
    }

    #[test]
    fn an_unchanged_budget_is_not_written() {
        let budget = budget(Some(IntOrString::Int(2)), None);
        let changes = plan(&budget, &pods(3, 0), || Ok(3), now());
        let [Change::Status(written)] = &changes[..] else {
            panic!("{changes:?}")
        };
        assert_eq!(plan(written, &pods(3, 0), || Ok(3), Timestamp::now()), []);
    }
}
