//! StatefulSet: pods with a name, a place in an order and storage of their own.
//!
//! The names of pods and claims follow from the ordinal, so a create that a lagging cache repeats is a harmless conflict. Pods are made in
//! order and removed from the end, each step waiting for the pods before it, unless the set manages them in parallel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus};
use api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume};
use api::labels::Selector;
use api::{Object, ObjectKey};
use client::{Cache, Client, EventRecorder, EventType};
use controller::{Action, Error};
use jiff::Timestamp;

use crate::history::{self, REVISION_HASH};
use crate::pod_control::{PodControl, settled, wake_owners};
use crate::pods::{self, Availability};
use crate::semantic;
use crate::setup::{OWNER, Setup, enqueue, enqueue_owner};

/// The label with the name of the pod, for services of a single pod.
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// The label with the ordinal.
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// What a pass looks at.
pub struct Observed<'a> {
    /// The set.
    pub set: &'a StatefulSet,
    /// Its pods, in any state.
    pub pods: &'a [Arc<Pod>],
    /// The name of the revision of the present template.
    pub update: &'a str,
    /// The name of the revision that pods below the partition have.
    pub current: &'a str,
}

/// What a pass does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The ordinals to create a pod for, and whether it is of the present template.
    pub create: Vec<(i32, bool)>,
    /// The pods that go.
    pub delete: Vec<Arc<Pod>>,
    /// The status.
    pub status: StatefulSetStatus,
    /// When a ready pod becomes available.
    pub wait: Option<Duration>,
}

/// The ordinal in a pod's name.
fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    pod.name().strip_prefix(set.name())?.strip_prefix('-')?.parse().ok()
}

fn revision_of(pod: &Pod) -> &str {
    pod.labels().get(REVISION_HASH).map_or("", String::as_str)
}

/// What the set needs.
pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let spec = observed.set.spec.clone().unwrap_or_default();
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    let wanted = start..start.saturating_add(spec.replicas.unwrap_or(1));
    let minimum = spec.min_ready_seconds.unwrap_or(0);
    let mut by_ordinal: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
    for pod in observed.pods {
        if let Some(ordinal) = ordinal(observed.set, pod) {
            by_ordinal.insert(ordinal, pod);
        }
    }
    let mut plan = Plan {
        status: status(observed, &by_ordinal, &spec, now),
        ..Default::default()
    };
    if observed.set.is_deleting() {
        return plan;
    }
    for pod in by_ordinal.values() {
        if let Availability::After(left) = pods::availability(pod, minimum, now) {
            plan.wait = Some(plan.wait.map_or(left, |wait| wait.min(left)));
        }
    }
    let healthy = |pod: &Pod| !pod.is_deleting() && pods::availability(pod, minimum, now) == Availability::Available;
    let in_order = spec.pod_management_policy.as_deref() != Some("Parallel");
    for ordinal in wanted.clone() {
        match by_ordinal.get(&ordinal) {
            None => plan
                .create
                .push((ordinal, is_updated_ordinal(&spec, observed, ordinal))),
            // It is replaced under its own name, so it must be gone first.
            Some(pod) if pods::is_terminated(pod) && !pod.is_deleting() => plan.delete.push((*pod).clone()),
            Some(pod) if healthy(pod) => continue,
            Some(_) => {}
        }
        if in_order {
            return plan;
        }
    }
    let surplus: Vec<_> = by_ordinal
        .iter()
        .rev()
        .filter(|(ordinal, _)| !wanted.contains(ordinal))
        .collect();
    for (_, pod) in &surplus {
        if !pod.is_deleting() {
            plan.delete.push((**pod).clone());
        }
        if in_order {
            return plan;
        }
    }
    if plan.create.is_empty() && plan.delete.is_empty() {
        plan.delete
            .extend(outdated(observed, &spec, &by_ordinal, start, healthy));
    }
    plan
}

/// Whether the pod of an ordinal is made from the present template: from the partition on, and everywhere once nothing is left to roll out.
fn is_updated_ordinal(spec: &StatefulSetSpec, observed: &Observed<'_>, ordinal: i32) -> bool {
    let strategy = spec.update_strategy.as_ref();
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete")
        || observed.current == observed.update
    {
        return true;
    }
    ordinal >= partition(spec)
}

fn partition(spec: &StatefulSetSpec) -> i32 {
    let rolling = spec
        .update_strategy
        .as_ref()
        .and_then(|strategy| strategy.rolling_update.as_ref());
    rolling.and_then(|rolling| rolling.partition).unwrap_or(0)
}

/// The next pod of an earlier template, from the last ordinal down; none while a later pod is not healthy.
fn outdated(
    observed: &Observed<'_>,
    spec: &StatefulSetSpec,
    by_ordinal: &BTreeMap<i32, &Arc<Pod>>,
    start: i32,
    healthy: impl Fn(&Pod) -> bool,
) -> Option<Arc<Pod>> {
    if spec
        .update_strategy
        .as_ref()
        .and_then(|strategy| strategy.type_.as_deref())
        == Some("OnDelete")
    {
        return None;
    }
    let first = start.saturating_add(partition(spec));
    for (_, pod) in by_ordinal.range(first..).rev() {
        if revision_of(pod) != observed.update && !pod.is_deleting() {
            return Some((*pod).clone());
        }
        if !healthy(pod) {
            return None;
        }
    }
    None
}

fn status(
    observed: &Observed<'_>,
    by_ordinal: &BTreeMap<i32, &Arc<Pod>>,
    spec: &StatefulSetSpec,
    now: Timestamp,
) -> StatefulSetStatus {
    let before = observed.set.status.clone().unwrap_or_default();
    let count = |of: &dyn Fn(&Pod) -> bool| {
        i32::try_from(by_ordinal.values().filter(|pod| of(pod)).count()).unwrap_or(i32::MAX)
    };
    let minimum = spec.min_ready_seconds.unwrap_or(0);
    let live = |pod: &Pod| !pod.is_deleting() && !pods::is_terminated(pod);
    let replicas = count(&|_| true);
    let ready = count(&|pod| pods::is_ready(pod));
    let updated = count(&|pod| live(pod) && revision_of(pod) == observed.update);
    let done =
        updated == replicas && ready == replicas && replicas == spec.replicas.unwrap_or(1) && partition(spec) == 0;
    // When the last pod is of the present template, that is the current one.
    let current = if done { observed.update } else { observed.current };
    StatefulSetStatus {
        replicas,
        ready_replicas: Some(ready),
        available_replicas: Some(count(&|pod| {
            pods::availability(pod, minimum, now) == Availability::Available
        })),
        updated_replicas: Some(updated),
        current_replicas: Some(count(&|pod| live(pod) && revision_of(pod) == current)),
        current_revision: Some(current.to_owned()),
        update_revision: Some(observed.update.to_owned()),
        observed_generation: observed.set.metadata.generation,
        collision_count: before.collision_count,
        conditions: before.conditions,
    }
}

/// The claims of a pod, and the pod with them as its volumes.
fn pod_and_claims(
    set: &StatefulSet,
    template: &PodTemplateSpec,
    ordinal: i32,
    revision: &str,
) -> (Pod, Vec<PersistentVolumeClaim>) {
    let spec = set.spec.clone().unwrap_or_default();
    let mut pod = pods::from_template(template, set.namespace(), set.name(), set.owner_reference(true));
    let name = format!("{}-{ordinal}", set.name());
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.into(), name.clone());
    labels.insert(POD_INDEX.into(), ordinal.to_string());
    labels.insert(REVISION_HASH.into(), revision.to_owned());
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.hostname = Some(name.clone());
    pod_spec.subdomain = spec.service_name.clone().filter(|service| !service.is_empty());
    let mut claims = Vec::new();
    for template in spec.volume_claim_templates.into_iter().flatten() {
        let volume = template.name().to_owned();
        let mut claim = template;
        claim.metadata.name = Some(format!("{volume}-{name}"));
        claim.metadata.namespace = Some(set.namespace().to_owned());
        let selected = spec.selector.match_labels.clone().unwrap_or_default();
        claim.metadata.labels.get_or_insert_default().extend(selected);
        claim.status = None;
        let volumes = pod_spec.volumes.get_or_insert_default();
        volumes.retain(|other| other.name != volume);
        volumes.push(Volume {
            name: volume,
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.name().to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        });
        claims.push(claim);
    }
    (pod, claims)
}

fn selector(set: &StatefulSet) -> Option<Selector> {
    Selector::from_label_selector(&set.spec.as_ref()?.selector)
        .ok()
        .filter(|selector| !selector.is_empty())
}

/// Adds the controller.
pub fn start(setup: &mut Setup) {
    let queue = setup.queue("statefulset");
    setup.informers.stateful_sets.on_event(enqueue(&queue));
    setup
        .informers
        .revisions
        .on_event(enqueue_owner::<ControllerRevision, StatefulSet>(&queue));
    let (waking, sets) = (queue.clone(), setup.informers.stateful_sets.late());
    setup
        .informers
        .pods
        .on_event(move |event| wake_owners(event, &sets, selector, |key| waking.add(key)));
    let (client, events) = (setup.client.clone(), setup.events("statefulset-controller"));
    let workers = setup.config.concurrent_statefulset_syncs;
    setup.run("statefulset", queue, workers, move |caches| {
        let sets = Arc::new(Sets {
            control: PodControl::new(client.clone(), events.clone(), caches.pods),
            client,
            events,
            sets: caches.stateful_sets,
            revisions: caches.revisions,
        });
        move |key| {
            let sets = sets.clone();
            async move { sets.reconcile(key).await }
        }
    });
}

struct Sets {
    client: Client,
    events: EventRecorder,
    control: PodControl,
    sets: Cache<StatefulSet>,
    revisions: Cache<ControllerRevision>,
}

impl Sets {
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
        let known = set
            .status
            .as_ref()
            .and_then(|status| status.current_revision.as_deref());
        let in_use =
            |it: &ControllerRevision| known == Some(it.name()) || pods.iter().any(|pod| revision_of(pod) == it.name());
        let limit = spec.revision_history_limit.unwrap_or(10);
        let history = history::plan(&*set, &spec.template, &revisions, in_use, limit);
        let update = history.current.name().to_owned();
        if !set.is_deleting() {
            history::apply(&self.client, history.changes).await?;
        }
        let old = revisions.iter().find(|it| known == Some(it.name()));
        let current = old.map_or(update.as_str(), |it| it.name());
        let observed = Observed {
            set: &set,
            pods: &pods,
            update: &update,
            current,
        };
        let plan = plan(&observed, Timestamp::now());
        let mut failure = self.control.delete(&*set, &plan.delete).await;
        for (ordinal, updated) in &plan.create {
            let former = old.filter(|_| !updated).and_then(|old| history::template(old));
            let (template, revision) = match &former {
                Some(template) => (template, current),
                None => (&spec.template, update.as_str()),
            };
            failure = self.create(&set, template, *ordinal, revision).await?.or(failure);
        }
        let written = StatefulSet {
            status: Some(plan.status),
            ..(*set).clone()
        };
        if !semantic::equal(&*set, &written) {
            let doing = format!("write the status of StatefulSet {key}");
            self.client
                .api::<StatefulSet>()
                .update_status(&written)
                .await
                .map_err(Error::client(doing))?;
        }
        settled(&*set, failure)?;
        Ok(plan.wait.map_or(Action::Done, Action::RequeueAfter))
    }

    /// Creates a pod after its claims. That either is there already is fine: the names are theirs for life.
    async fn create(
        &self,
        set: &StatefulSet,
        template: &PodTemplateSpec,
        ordinal: i32,
        revision: &str,
    ) -> Result<Option<client::Error>, Error> {
        let (pod, claims) = pod_and_claims(set, template, ordinal, revision);
        for claim in &claims {
            match self.client.api::<PersistentVolumeClaim>().create(claim).await {
                Ok(_) => {
                    let message = format!(
                        "create Claim {} Pod {} in StatefulSet {} success",
                        claim.name(),
                        pod.name(),
                        set.name()
                    );
                    self.events.event(set, EventType::Normal, "SuccessfulCreate", message);
                }
                Err(error) if error.is_already_exists() || error.is_namespace_terminating() => {}
                Err(error) => {
                    return Err(Error::client(format!("create PersistentVolumeClaim {}", claim.key()))(
                        error,
                    ));
                }
            }
        }
        Ok(self
            .control
            .create(set, &[pod])
            .await
            .filter(|error| !error.is_already_exists()))
    }
}

#[cfg(test)]
mod tests {
    use api::apps::v1::{RollingUpdateStatefulSetStrategy, StatefulSetUpdateStrategy};

    use super::*;
    use crate::pods::testing::{deleting, now, pod, with_ready};

    fn set(replicas: i32) -> StatefulSet {
        let mut set = StatefulSet::default();
        set.metadata.name = Some("db".into());
        set.metadata.namespace = Some("default".into());
        set.spec = Some(StatefulSetSpec {
            replicas: Some(replicas),
            ..Default::default()
        });
        set
    }

    fn member(ordinal: i32, ready: bool, revision: &str) -> Pod {
        let mut pod = with_ready(pod(&format!("db-{ordinal}"), "Running"), ready, 60);
        pod.metadata
            .labels
            .as_mut()
            .unwrap()
            .insert(REVISION_HASH.into(), revision.into());
        pod
    }

    /// `+0` a creation from the present template, `+0 old` from the former, `-db-1` a deletion.
    fn planned(set: &StatefulSet, pods: &[Pod], current: &str) -> Vec<String> {
        let pods: Vec<_> = pods.iter().cloned().map(Arc::new).collect();
        let plan = plan(
            &Observed {
                set,
                pods: &pods,
                update: "new",
                current,
            },
            now(),
        );
        let created = plan
            .create
            .iter()
            .map(|(n, updated)| format!("+{n}{}", if *updated { "" } else { " old" }));
        created
            .chain(plan.delete.iter().map(|pod| format!("-{}", pod.name())))
            .collect()
    }

    fn parallel(mut set: StatefulSet) -> StatefulSet {
        set.spec.as_mut().unwrap().pod_management_policy = Some("Parallel".into());
        set
    }

    fn with_partition(mut set: StatefulSet, partition: i32) -> StatefulSet {
        let rolling = RollingUpdateStatefulSetStrategy {
            partition: Some(partition),
            ..Default::default()
        };
        set.spec.as_mut().unwrap().update_strategy = Some(StatefulSetUpdateStrategy {
            type_: Some("RollingUpdate".into()),
            rolling_update: Some(rolling),
        });
        set
    }

    #[test]
    fn members_come_and_go_one_by_one() {
        let new = |ordinal, ready| member(ordinal, ready, "new");
        let cases = [
            (2, vec![], vec!["+0"]),
            (2, vec![new(0, false)], vec![]),
            (2, vec![new(0, true)], vec!["+1"]),
            (2, vec![new(0, true), deleting(new(1, true))], vec![]),
            (1, vec![new(0, true), new(1, true), new(2, true)], vec!["-db-2"]),
            (1, vec![new(0, true), new(1, true), deleting(new(2, true))], vec![]),
            (1, vec![new(0, false), new(1, true)], vec![]),
        ];
        for (replicas, pods, expected) in cases {
            assert_eq!(planned(&set(replicas), &pods, "new"), expected, "{replicas}");
        }
    }

    #[test]
    fn in_parallel_all_move_at_once() {
        assert_eq!(
            planned(&parallel(set(3)), &[member(1, false, "new")], "new"),
            ["+0", "+2"]
        );
        let pods = [0, 1, 2].map(|ordinal| member(ordinal, false, "new"));
        assert_eq!(planned(&parallel(set(1)), &pods, "new"), ["-db-2", "-db-1"]);
    }

    #[test]
    fn a_member_that_ended_is_replaced_under_its_name() {
        let mut ended = member(0, false, "new");
        ended.status.as_mut().unwrap().phase = Some("Failed".into());
        assert_eq!(planned(&set(1), &[ended.clone()], "new"), ["-db-0"]);
        assert_eq!(planned(&set(1), &[deleting(ended)], "new"), [""; 0]);
    }

    #[test]
    fn updates_go_from_the_last_down_to_the_partition() {
        let pods = |revisions: [&str; 3]| [0, 1, 2].map(|n| member(n, true, revisions[usize::try_from(n).unwrap()]));
        assert_eq!(planned(&set(3), &pods(["old", "old", "old"]), "old"), ["-db-2"]);
        assert_eq!(planned(&set(3), &pods(["old", "old", "new"]), "old"), ["-db-1"]);
        let mut waiting = pods(["old", "old", "new"]);
        waiting[2] = member(2, false, "new");
        assert_eq!(planned(&set(3), &waiting, "old"), [""; 0]);
        let partitioned = with_partition(set(3), 2);
        assert_eq!(planned(&partitioned, &pods(["old", "old", "new"]), "old"), [""; 0]);
        assert_eq!(
            planned(&partitioned, &[member(1, true, "old"), member(2, true, "new")], "old"),
            ["+0 old"]
        );
    }

    #[test]
    fn a_member_has_its_name_its_claims_and_its_place() {
        let mut set = set(1);
        let mut claim = PersistentVolumeClaim::default();
        claim.metadata.name = Some("data".into());
        let spec = set.spec.as_mut().unwrap();
        (spec.volume_claim_templates, spec.service_name) = (Some(vec![claim]), Some("db".into()));
        let (pod, claims) = pod_and_claims(&set, &PodTemplateSpec::default(), 3, "db-1");
        assert_eq!((pod.name(), claims[0].name()), ("db-3", "data-db-3"));
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(
            (spec.hostname.as_deref(), spec.subdomain.as_deref()),
            (Some("db-3"), Some("db"))
        );
        let volume = &spec.volumes.as_ref().unwrap()[0];
        assert_eq!(volume.persistent_volume_claim.as_ref().unwrap().claim_name, "data-db-3");
        assert_eq!(pod.labels()[POD_INDEX], "3");
    }
}
