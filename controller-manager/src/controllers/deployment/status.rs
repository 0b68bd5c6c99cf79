//! The status of a Deployment: counts, and the conditions Available, Progressing and ReplicaFailure.

use std::sync::Arc;
use std::time::Duration;

use api::Object;
use api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use api::meta::Time;
use jiff::Timestamp;

use super::plan::{Fences, desired};
use crate::pods::elapsed;

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";

const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// What a pass knows of the new ReplicaSet.
#[derive(Clone, Copy, Debug)]
pub enum NewSet<'a> {
    /// There is none, and none is made in this pass.
    None,
    /// It is made in this pass, under this name.
    Created(&'a str),
    /// It was there before.
    Found(&'a ReplicaSet),
}

impl NewSet<'_> {
    fn set(&self) -> Option<&ReplicaSet> {
        match self {
            NewSet::Found(set) => Some(set),
            _ => None,
        }
    }
}

/// The status that follows from the ReplicaSets as they are seen now.
pub fn status(deployment: &Deployment, sets: &[Arc<ReplicaSet>], new: NewSet<'_>, now: Timestamp) -> DeploymentStatus {
    let mut status = counts(deployment, sets, new.set());
    set_available(deployment, &mut status, now);
    if deadline(deployment).is_some() {
        set_progressing(deployment, &mut status, new, now);
    } else {
        remove(&mut status, PROGRESSING);
    }
    set_failure(&mut status, sets);
    if status.conditions.as_ref().is_some_and(Vec::is_empty) {
        status.conditions = None;
    }
    status
}

/// The status of a paused or resumed Deployment: the deadline does not run while it is paused.
pub fn note_pause(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    if deadline(deployment).is_none() {
        return;
    }
    let paused = is_paused(deployment);
    let current = find(status, PROGRESSING);
    if current.is_some_and(|current| reason(current) == TIMED_OUT) {
        return;
    }
    let noted = current.is_some_and(|current| reason(current) == "DeploymentPaused");
    if paused && !noted {
        set(
            status,
            PROGRESSING,
            "Unknown",
            "DeploymentPaused",
            "Deployment is paused".into(),
            now,
        );
    } else if !paused && noted {
        set(
            status,
            PROGRESSING,
            "Unknown",
            "DeploymentResumed",
            "Deployment is resumed".into(),
            now,
        );
    }
}

/// Why the new ReplicaSet could not be created.
pub fn note_create_failure(
    deployment: &Deployment,
    status: &mut DeploymentStatus,
    name: &str,
    error: &str,
    now: Timestamp,
) {
    if deadline(deployment).is_some() {
        let message = format!("Failed to create new replica set \"{name}\": {error}");
        set(status, PROGRESSING, "False", "ReplicaSetCreateError", message, now);
    }
}

/// Whether every replica is updated and available and no other is left.
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = desired(deployment);
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0)
}

/// How long until the progress deadline must be looked at, if it is running.
pub fn until_deadline(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let limit = deadline(deployment)?;
    let condition = find(status, PROGRESSING)?;
    if is_paused(deployment)
        || is_complete(deployment, status)
        || [NEW_SET_AVAILABLE, TIMED_OUT].contains(&reason(condition))
    {
        return None;
    }
    let since = condition.last_update_time.as_ref()?;
    Some(limit.saturating_sub(elapsed(since.0, now)) + Duration::from_secs(1))
}

fn is_paused(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false)
}

/// `spec.progressDeadlineSeconds`, where the largest number means none.
fn deadline(deployment: &Deployment) -> Option<Duration> {
    let seconds = deployment
        .spec
        .as_ref()?
        .progress_deadline_seconds
        .filter(|seconds| *seconds != i32::MAX)?;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

fn counts(deployment: &Deployment, sets: &[Arc<ReplicaSet>], new: Option<&ReplicaSet>) -> DeploymentStatus {
    let sum = |of: fn(&api::apps::v1::ReplicaSetStatus) -> i32| -> i32 {
        sets.iter().filter_map(|set| set.status.as_ref()).map(of).sum()
    };
    let old = deployment.status.clone().unwrap_or_default();
    let available = sum(|status| status.available_replicas.unwrap_or(0));
    let sized: i32 = sets.iter().map(|set| super::plan::size(set)).sum();
    let number = |count: i32| (count != 0).then_some(count);
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: number(sum(|status| status.replicas)),
        updated_replicas: number(
            new.and_then(|set| set.status.as_ref())
                .map_or(0, |status| status.replicas),
        ),
        ready_replicas: number(sum(|status| status.ready_replicas.unwrap_or(0))),
        available_replicas: number(available),
        unavailable_replicas: number((sized - available).max(0)),
        terminating_replicas: Some(sum(|status| status.terminating_replicas.unwrap_or(0))),
        collision_count: old.collision_count,
        conditions: old.conditions,
    }
}

fn set_available(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    let minimum = desired(deployment) - Fences::of(deployment).unavailable;
    let (value, reason, message) = if status.available_replicas.unwrap_or(0) >= minimum {
        (
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        )
    } else {
        (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    };
    set(status, AVAILABLE, value, reason, message.into(), now);
}

fn set_progressing(deployment: &Deployment, status: &mut DeploymentStatus, new: NewSet<'_>, now: Timestamp) {
    match new {
        NewSet::Created(name) => {
            let message = format!("Created new replica set \"{name}\"");
            return set(status, PROGRESSING, "True", "NewReplicaSetCreated", message, now);
        }
        NewSet::Found(found) if find(status, PROGRESSING).is_none() => {
            let message = format!("Found new replica set \"{}\"", found.name());
            set(status, PROGRESSING, "True", "FoundNewReplicaSet", message, now);
        }
        _ => {}
    }
    let settled = status.replicas == status.updated_replicas
        && find(status, PROGRESSING).is_some_and(|current| reason(current) == NEW_SET_AVAILABLE);
    if settled {
        return;
    }
    let subject = match new.set() {
        Some(set) => format!("ReplicaSet \"{}\"", set.name()),
        None => format!("Deployment \"{}\"", deployment.name()),
    };
    if is_complete(deployment, status) {
        set(
            status,
            PROGRESSING,
            "True",
            NEW_SET_AVAILABLE,
            format!("{subject} has successfully progressed."),
            now,
        );
    } else if has_progressed(deployment, status) {
        // A step forward restarts the deadline, so this is written anew even where nothing else changes.
        let since = find(status, PROGRESSING)
            .filter(|current| current.status == "True")
            .and_then(|current| current.last_transition_time.clone());
        remove(status, PROGRESSING);
        set(
            status,
            PROGRESSING,
            "True",
            "ReplicaSetUpdated",
            format!("{subject} is progressing."),
            now,
        );
        let written = status
            .conditions
            .iter_mut()
            .flatten()
            .find(|condition| condition.type_ == PROGRESSING);
        if let (Some(written), Some(since)) = (written, since) {
            written.last_transition_time = Some(since);
        }
    } else if has_timed_out(deployment, status, now) {
        set(
            status,
            PROGRESSING,
            "False",
            TIMED_OUT,
            format!("{subject} has timed out progressing."),
            now,
        );
    }
}

/// Whether more replicas are updated, ready or available than last time, or fewer old ones are left.
fn has_progressed(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let before = deployment.status.clone().unwrap_or_default();
    let old = |status: &DeploymentStatus| status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0);
    status.updated_replicas > before.updated_replicas
        || old(status) < old(&before)
        || status.ready_replicas > before.ready_replicas
        || status.available_replicas > before.available_replicas
}

fn has_timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let (Some(limit), Some(condition)) = (deadline(deployment), find(status, PROGRESSING)) else {
        return false;
    };
    match reason(condition) {
        NEW_SET_AVAILABLE => false,
        TIMED_OUT => true,
        _ => {
            !is_paused(deployment)
                && condition
                    .last_update_time
                    .as_ref()
                    .is_some_and(|since| elapsed(since.0, now) > limit)
        }
    }
}

fn set_failure(status: &mut DeploymentStatus, sets: &[Arc<ReplicaSet>]) {
    remove(status, REPLICA_FAILURE);
    let mut conditions = sets
        .iter()
        .filter_map(|set| set.status.as_ref()?.conditions.as_ref())
        .flatten();
    if let Some(failure) = conditions.find(|condition| condition.type_ == REPLICA_FAILURE) {
        status.conditions.get_or_insert_default().push(DeploymentCondition {
            type_: failure.type_.clone(),
            status: failure.status.clone(),
            reason: failure.reason.clone(),
            message: failure.message.clone(),
            last_update_time: failure.last_transition_time.clone(),
            last_transition_time: failure.last_transition_time.clone(),
        });
    }
}

fn reason(condition: &DeploymentCondition) -> &str {
    condition.reason.as_deref().unwrap_or("")
}

fn find<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == kind)
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    status
        .conditions
        .iter_mut()
        .for_each(|conditions| conditions.retain(|condition| condition.type_ != kind));
}

/// Writes a condition unless it has this status and reason already. Its transition time moves with its status only.
fn set(status: &mut DeploymentStatus, kind: &str, value: &str, why: &str, message: String, now: Timestamp) {
    let current = find(status, kind);
    if current.is_some_and(|current| current.status == value && reason(current) == why) {
        return;
    }
    let since = current
        .filter(|current| current.status == value)
        .and_then(|current| current.last_transition_time.clone());
    let condition = DeploymentCondition {
        type_: kind.into(),
        status: value.into(),
        reason: Some(why.into()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(since.unwrap_or(Time(now))),
    };
    remove(status, kind);
    status.conditions.get_or_insert_default().push(condition);
}

#[cfg(test)]
mod tests {
    use super::super::testing::{deployment, replica_set};
    use super::*;
    use crate::pods::testing::{ago, now};

    fn reasons(status: &DeploymentStatus) -> Vec<(&str, &str, &str)> {
        let conditions = status.conditions.iter().flatten();
        conditions
            .map(|condition| (condition.type_.as_str(), condition.status.as_str(), reason(condition)))
            .collect()
    }

    fn at(deployment: &Deployment, set: &ReplicaSet) -> DeploymentStatus {
        status(deployment, &[Arc::new(set.clone())], NewSet::Found(set), now())
    }

    #[test]
    fn a_roll_out_is_created_progresses_and_completes() {
        let mut deployment = deployment(2);
        deployment.status = Some(status(&deployment, &[], NewSet::Created("web-1"), now()));
        let expected = [
            ("Available", "False", "MinimumReplicasUnavailable"),
            ("Progressing", "True", "NewReplicaSetCreated"),
        ];
        assert_eq!(reasons(deployment.status.as_ref().unwrap()), expected);

        deployment.status = Some(at(&deployment, &replica_set(&deployment, 2, 0, 1)));
        assert_eq!(deployment.status.as_ref().unwrap().updated_replicas, Some(2));
        assert_eq!(
            reasons(deployment.status.as_ref().unwrap())[1],
            ("Progressing", "True", "ReplicaSetUpdated")
        );

        deployment.status = Some(at(&deployment, &replica_set(&deployment, 2, 2, 1)));
        let done = deployment.status.as_ref().unwrap();
        let expected = [
            ("Available", "True", "MinimumReplicasAvailable"),
            ("Progressing", "True", "NewReplicaSetAvailable"),
        ];
        assert_eq!(reasons(done), expected);
        assert!(is_complete(&deployment, done));
        assert_eq!(until_deadline(&deployment, done, now()), None);
        let again = at(&deployment, &replica_set(&deployment, 2, 2, 1));
        assert_eq!(Some(again), deployment.status, "a settled status does not change");
    }

    #[test]
    fn the_deadline_is_announced_and_then_exceeded() {
        let mut deployment = deployment(2);
        deployment.spec.as_mut().unwrap().progress_deadline_seconds = Some(60);
        let set = replica_set(&deployment, 2, 0, 1);
        let mut first = at(&deployment, &set);
        assert_eq!(
            until_deadline(&deployment, &first, now()),
            Some(Duration::from_secs(61))
        );
        for condition in first.conditions.iter_mut().flatten() {
            condition.last_update_time = Some(ago(61));
        }
        deployment.status = Some(first);
        let late = at(&deployment, &set);
        assert!(reasons(&late).contains(&("Progressing", "False", TIMED_OUT)));
        assert_eq!(until_deadline(&deployment, &late, now()), None);
    }

    #[test]
    fn a_failure_of_a_replica_set_shows() {
        let deployment = deployment(2);
        let mut set = replica_set(&deployment, 2, 0, 1);
        set.status.as_mut().unwrap().conditions = Some(vec![api::apps::v1::ReplicaSetCondition {
            type_: REPLICA_FAILURE.into(),
            status: "True".into(),
            reason: Some("FailedCreate".into()),
            ..Default::default()
        }]);
        assert!(reasons(&at(&deployment, &set)).contains(&(REPLICA_FAILURE, "True", "FailedCreate")));
    }

    #[test]
    fn pause_and_resume_are_noted_once() {
        let mut deployment = deployment(2);
        let mut status = at(&deployment, &replica_set(&deployment, 2, 0, 1));
        deployment.spec.as_mut().unwrap().paused = Some(true);
        note_pause(&deployment, &mut status, now());
        assert!(reasons(&status).contains(&(PROGRESSING, "Unknown", "DeploymentPaused")));
        let before = status.clone();
        note_pause(&deployment, &mut status, now());
        assert_eq!(status, before);
        deployment.spec.as_mut().unwrap().paused = None;
        note_pause(&deployment, &mut status, now());
        assert!(reasons(&status).contains(&(PROGRESSING, "Unknown", "DeploymentResumed")));
    }
}
