//! Tables of `generate`.

use super::*;
use crate::runtime::model::Sandbox;
use api::core::v1::PodCondition;
use api::meta::ObjectMeta;

fn pod(policy: &str, init: &[&str], main: &[&str]) -> Pod {
    let container = |name: &&str| Container {
        name: (*name).into(),
        image: Some("i".into()),
        ..Default::default()
    };
    let spec = PodSpec {
        restart_policy: Some(policy.into()),
        init_containers: (!init.is_empty()).then(|| init.iter().map(container).collect()),
        containers: main.iter().map(container).collect(),
        ..Default::default()
    };
    let metadata = ObjectMeta {
        generation: Some(3),
        ..Default::default()
    };
    Pod {
        metadata,
        spec: Some(spec),
        ..Default::default()
    }
}

fn seen(name: &str, state: State, exit_code: i32, attempt: u32) -> Seen {
    let id = format!("{name}{attempt}");
    let reason = if state == State::Exited { "Error" } else { "" };
    Seen {
        id,
        name: name.into(),
        state,
        exit_code,
        attempt,
        reason: reason.into(),
        started_at: 5,
        finished_at: 9,
        ..Default::default()
    }
}

fn status_of(pod: &Pod, containers: Vec<Seen>, waiting: &[(&str, &str)], over: bool) -> PodStatus {
    let sandbox = Sandbox {
        id: "s".into(),
        ready: !over,
        ips: vec!["10.1.0.2".into()],
        ..Default::default()
    };
    let ids: BTreeSet<String> = containers.iter().map(|seen| seen.id.clone()).collect();
    let observed = Observed {
        sandboxes: vec![sandbox],
        containers,
    };
    let waiting = waiting
        .iter()
        .map(|(name, reason)| {
            (
                (*name).to_owned(),
                Waiting {
                    reason: (*reason).into(),
                    message: "m".into(),
                },
            )
        })
        .collect();
    generate(&StatusInputs {
        pod,
        observed: &observed,
        readiness: &Readiness {
            ready: ids.clone(),
            started: ids,
        },
        waiting: &waiting,
        host_ips: &["192.0.2.1".to_owned()],
        started: Timestamp::UNIX_EPOCH,
        failed: None,
        over,
        now: Timestamp::UNIX_EPOCH,
    })
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> (&'a str, Option<&'a str>) {
    let found = status
        .conditions
        .iter()
        .flatten()
        .find(|condition: &&PodCondition| condition.type_ == kind);
    found.map_or(("", None), |found| (found.status.as_str(), found.reason.as_deref()))
}

#[test]
fn phase_follows_policy_and_states() {
    use State::{Exited, Running};
    for (policy, containers, over, phase) in [
        ("Always", vec![], false, "Pending"),
        ("Always", vec![seen("a", Running, 0, 0)], false, "Pending"),
        (
            "Always",
            vec![seen("a", Running, 0, 0), seen("b", Running, 0, 0)],
            false,
            "Running",
        ),
        (
            "Always",
            vec![seen("a", Exited, 1, 0), seen("b", Running, 0, 0)],
            false,
            "Running",
        ),
        (
            "Always",
            vec![seen("a", Exited, 0, 0), seen("b", Exited, 0, 0)],
            false,
            "Running",
        ),
        (
            "Always",
            vec![seen("a", Exited, 0, 0), seen("b", Exited, 0, 0)],
            true,
            "Succeeded",
        ),
        (
            "Always",
            vec![seen("a", Exited, 137, 0), seen("b", Exited, 0, 0)],
            true,
            "Failed",
        ),
        (
            "OnFailure",
            vec![seen("a", Exited, 0, 0), seen("b", Exited, 0, 0)],
            false,
            "Succeeded",
        ),
        (
            "OnFailure",
            vec![seen("a", Exited, 1, 0), seen("b", Exited, 0, 0)],
            false,
            "Running",
        ),
        (
            "Never",
            vec![seen("a", Exited, 1, 0), seen("b", Exited, 0, 0)],
            false,
            "Failed",
        ),
        (
            "Never",
            vec![seen("a", Exited, 1, 0), seen("b", Running, 0, 0)],
            false,
            "Running",
        ),
    ] {
        let status = status_of(&pod(policy, &[], &["a", "b"]), containers.clone(), &[], over);
        assert_eq!(status.phase.as_deref(), Some(phase), "{policy} {containers:?} {over}");
    }
}

#[test]
fn a_running_pod_is_ready_with_all_its_facts() {
    let status = status_of(
        &pod("Always", &["i"], &["a"]),
        vec![seen("a", State::Running, 0, 2), seen("i", State::Exited, 0, 0)],
        &[],
        false,
    );
    for kind in [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ] {
        assert_eq!(condition(&status, kind), ("True", None), "{kind}");
    }
    assert_eq!(status.pod_ip.as_deref(), Some("10.1.0.2"));
    assert_eq!(status.observed_generation, Some(3));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    let container = status
        .container_statuses
        .as_ref()
        .and_then(|all| all.first())
        .cloned()
        .unwrap_or_default();
    assert!(container.ready);
    assert_eq!(
        (container.restart_count, container.container_id.as_deref()),
        (2, Some("containerd://a2"))
    );
}

#[test]
fn init_containers_hold_the_pod_pending() {
    let status = status_of(
        &pod("Always", &["i"], &["a"]),
        vec![seen("i", State::Running, 0, 0)],
        &[],
        false,
    );
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(
        condition(&status, "Initialized"),
        ("False", Some("ContainersNotInitialized"))
    );
    assert_eq!(condition(&status, "Ready"), ("False", Some("ContainersNotReady")));
    let reason = |status: &PodStatus| {
        status
            .container_statuses
            .as_ref()?
            .first()?
            .state
            .as_ref()?
            .waiting
            .as_ref()?
            .reason
            .clone()
    };
    assert_eq!(reason(&status).as_deref(), Some("PodInitializing"));
    let failed = status_of(
        &pod("Never", &["i"], &["a"]),
        vec![seen("i", State::Exited, 1, 0)],
        &[],
        false,
    );
    assert_eq!(failed.phase.as_deref(), Some("Failed"));
}

#[test]
fn a_crash_loop_shows_waiting_and_the_last_end() {
    let containers = vec![seen("a", State::Exited, 1, 1), seen("a", State::Exited, 2, 0)];
    let status = status_of(
        &pod("Always", &[], &["a"]),
        containers,
        &[("a", "CrashLoopBackOff")],
        false,
    );
    let container = status
        .container_statuses
        .as_ref()
        .and_then(|all| all.first())
        .cloned()
        .unwrap_or_default();
    let state = container.state.unwrap_or_default();
    assert_eq!(
        state.waiting.and_then(|waiting| waiting.reason).as_deref(),
        Some("CrashLoopBackOff")
    );
    assert_eq!(
        container
            .last_state
            .and_then(|last| last.terminated)
            .map(|ended| ended.exit_code),
        Some(1)
    );
    assert_eq!(status.phase.as_deref(), Some("Running"));
}

#[test]
fn a_finished_pod_keeps_its_address_and_says_completed() {
    let mut pod = pod("Never", &[], &["a"]);
    pod.status = Some(status_of(&pod, vec![seen("a", State::Running, 0, 0)], &[], false));
    let status = status_of(&pod, vec![seen("a", State::Exited, 0, 0)], &[], true);
    assert_eq!(status.phase.as_deref(), Some("Succeeded"));
    assert_eq!(status.pod_ip.as_deref(), Some("10.1.0.2"));
    assert_eq!(condition(&status, "Ready"), ("False", Some("PodCompleted")));
    assert_eq!(condition(&status, "Initialized"), ("True", Some("PodCompleted")));
}

#[test]
fn a_lost_container_counts_as_a_restart() {
    let mut pod = pod("Always", &[], &["a"]);
    pod.status = Some(status_of(&pod, vec![seen("a", State::Running, 0, 0)], &[], false));
    let status = status_of(&pod, vec![], &[], false);
    let container = status
        .container_statuses
        .as_ref()
        .and_then(|all| all.first())
        .cloned()
        .unwrap_or_default();
    assert_eq!(container.restart_count, 1);
    let last = container
        .last_state
        .and_then(|last| last.terminated)
        .and_then(|ended| ended.reason);
    assert_eq!(last.as_deref(), Some("ContainerStatusUnknown"));
}

#[test]
fn conditions_of_others_stay_and_gates_count() {
    let mut pod = pod("Always", &[], &["a"]);
    if let Some(spec) = pod.spec.as_mut() {
        spec.readiness_gates = Some(vec![api::core::v1::PodReadinessGate {
            condition_type: "x/y".into(),
        }]);
    }
    let status = status_of(&pod, vec![seen("a", State::Running, 0, 0)], &[], false);
    assert_eq!(condition(&status, "Ready"), ("False", Some("ReadinessGatesNotReady")));
    let gate = PodCondition {
        type_: "x/y".into(),
        status: "True".into(),
        ..Default::default()
    };
    pod.status = Some(PodStatus {
        conditions: Some(vec![gate]),
        ..Default::default()
    });
    let status = status_of(&pod, vec![seen("a", State::Running, 0, 0)], &[], false);
    assert_eq!(condition(&status, "Ready"), ("True", None));
    assert_eq!(condition(&status, "x/y"), ("True", None));
}
