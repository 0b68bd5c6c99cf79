//! Tables of `decide`.

use super::*;
use crate::runtime::model::Sandbox;
use api::meta::ObjectMeta;

const NOW: i64 = 1_000_000;

fn container(name: &str) -> Container {
    Container {
        name: name.into(),
        image: Some("i".into()),
        ..Default::default()
    }
}

fn sidecar(name: &str) -> Container {
    Container {
        restart_policy: Some("Always".into()),
        ..container(name)
    }
}

fn pod(policy: &str, init: Vec<Container>, main: &[&str]) -> Pod {
    let metadata = ObjectMeta {
        name: Some("p".into()),
        namespace: Some("ns".into()),
        uid: Some("u".into()),
        ..Default::default()
    };
    let spec = PodSpec {
        restart_policy: Some(policy.into()),
        init_containers: (!init.is_empty()).then_some(init),
        containers: main.iter().map(|name| container(name)).collect(),
        ..Default::default()
    };
    Pod {
        metadata,
        spec: Some(spec),
        ..Default::default()
    }
}

fn seen(name: &str, state: State, exit_code: i32) -> Seen {
    Seen {
        id: format!("{name}-0"),
        name: name.into(),
        sandbox_id: "s0".into(),
        state,
        exit_code,
        finished_at: if state == State::Exited { NOW * 1_000_000_000 } else { 0 },
        hash: Some(labels::hash(&container(name))),
        ..Default::default()
    }
}

fn with_sandbox(containers: Vec<Seen>) -> Observed {
    let sandbox = Sandbox {
        id: "s0".into(),
        ready: true,
        ips: vec!["10.0.0.1".into()],
        ..Default::default()
    };
    Observed {
        sandboxes: vec![sandbox],
        containers,
    }
}

fn plan_with(pod: &Pod, observed: &Observed, health: &Health, backoffs: &BTreeMap<String, Backoff>) -> Plan {
    let now = Timestamp::from_second(NOW + 1).unwrap_or_default();
    decide(&Situation {
        pod,
        observed,
        health,
        backoffs,
        retry_at: &BTreeMap::new(),
        now,
    })
}

fn plan(pod: &Pod, observed: &Observed) -> Plan {
    plan_with(pod, observed, &Health::default(), &BTreeMap::new())
}

fn starts(plan: &Plan) -> Vec<(&str, u32)> {
    plan.start
        .iter()
        .map(|start| (start.name.as_str(), start.attempt))
        .collect()
}

#[test]
fn a_new_pod_gets_a_sandbox_then_all_its_containers() {
    let pod = pod("Always", vec![], &["a", "b"]);
    let first = plan(&pod, &Observed::default());
    assert_eq!(
        (first.create_sandbox, first.stop_all, first.start.len()),
        (Some(0), false, 0)
    );
    assert_eq!(starts(&plan(&pod, &with_sandbox(vec![]))), [("a", 0), ("b", 0)]);
}

#[test]
fn a_running_pod_needs_nothing() {
    let pod = pod("Always", vec![], &["a"]);
    assert_eq!(
        plan(&pod, &with_sandbox(vec![seen("a", State::Running, 0)])),
        Plan::default()
    );
}

#[test]
fn init_containers_run_one_after_another() {
    let pod = pod("Always", vec![container("i1"), container("i2")], &["a"]);
    assert_eq!(starts(&plan(&pod, &with_sandbox(vec![]))), [("i1", 0)]);
    assert!(plan(&pod, &with_sandbox(vec![seen("i1", State::Running, 0)])).is_idle());
    let done = seen("i1", State::Exited, 0);
    assert_eq!(starts(&plan(&pod, &with_sandbox(vec![done.clone()]))), [("i2", 0)]);
    assert_eq!(
        starts(&plan(&pod, &with_sandbox(vec![done, seen("i2", State::Exited, 0)]))),
        [("a", 0)]
    );
}

#[test]
fn a_failed_init_container_is_repeated_unless_never() {
    let failed = with_sandbox(vec![seen("i1", State::Exited, 1)]);
    assert_eq!(
        starts(&plan(&pod("OnFailure", vec![container("i1")], &["a"]), &failed)),
        [("i1", 1)]
    );
    assert!(plan(&pod("Never", vec![container("i1")], &["a"]), &failed).is_idle());
}

#[test]
fn finished_init_containers_may_vanish_while_containers_run() {
    let pod = pod("Always", vec![container("i1")], &["a"]);
    assert!(plan(&pod, &with_sandbox(vec![seen("a", State::Running, 0)])).is_idle());
}

#[test]
fn sidecars_start_in_order_and_are_kept_running() {
    let pod = pod("Always", vec![sidecar("s"), container("i")], &["a"]);
    assert_eq!(starts(&plan(&pod, &with_sandbox(vec![]))), [("s", 0)]);
    let running = seen("s", State::Running, 0);
    let starting = Health {
        starting: ["s-0".to_owned()].into(),
        ..Default::default()
    };
    let observed = with_sandbox(vec![running.clone()]);
    assert!(plan_with(&pod, &observed, &starting, &BTreeMap::new()).is_idle());
    assert_eq!(starts(&plan(&pod, &observed)), [("i", 0)]);
    let dead = with_sandbox(vec![seen("s", State::Exited, 0), seen("a", State::Running, 0)]);
    assert_eq!(starts(&plan(&pod, &dead)), [("s", 1)]);
}

#[test]
fn restart_policy_rules_what_ended() {
    for (policy, code, restarted) in [
        ("Always", 0, true),
        ("Always", 1, true),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Never", 0, false),
        ("Never", 1, false),
    ] {
        let observed = with_sandbox(vec![seen("a", State::Exited, code)]);
        let plan = plan(&pod(policy, vec![], &["a"]), &observed);
        assert_eq!(!plan.start.is_empty(), restarted, "{policy} {code}");
    }
}

#[test]
fn a_crashing_container_is_held_back() {
    let pod = pod("Always", vec![], &["a"]);
    let mut backoff = Backoff::default();
    backoff.failed(Timestamp::from_second(NOW).unwrap_or_default());
    let plan = plan_with(
        &pod,
        &with_sandbox(vec![seen("a", State::Exited, 1)]),
        &Health::default(),
        &[("a".into(), backoff)].into(),
    );
    assert!(plan.is_idle());
    assert_eq!(
        plan.held,
        [(
            "a".to_owned(),
            "back-off 10s restarting failed container=a pod=p_ns(u)".to_owned()
        )]
    );
    assert_eq!(plan.wake_at, Timestamp::from_second(NOW + 10).ok());
}

#[test]
fn failed_probes_kill_with_their_own_grace() {
    let mut pod = pod("Always", vec![], &["a"]);
    if let Some(first) = pod.spec.as_mut().and_then(|spec| spec.containers.first_mut()) {
        first.liveness_probe = Some(api::core::v1::Probe {
            termination_grace_period_seconds: Some(3),
            ..Default::default()
        });
    }
    let observed = with_sandbox(vec![seen("a", State::Running, 0)]);
    let dead = Health {
        dead: ["a-0".to_owned()].into(),
        ..Default::default()
    };
    let kill = plan_with(&pod, &observed, &dead, &BTreeMap::new()).kill;
    let expected = Kill {
        id: "a-0".into(),
        name: "a".into(),
        message: "Container a failed liveness probe, will be restarted".into(),
        grace: Some(3),
    };
    assert_eq!(kill, [expected]);
}

#[test]
fn a_new_image_replaces_the_container() {
    let mut pod = pod("Always", vec![], &["a"]);
    if let Some(first) = pod.spec.as_mut().and_then(|spec| spec.containers.first_mut()) {
        first.image = Some("other".into());
    }
    let plan = plan(&pod, &with_sandbox(vec![seen("a", State::Running, 0)]));
    assert_eq!(
        plan.kill.first().map(|kill| kill.message.as_str()),
        Some("Container a definition changed, will be restarted")
    );
}

#[test]
fn a_lost_sandbox_is_replaced_unless_the_pod_is_done() {
    let mut observed = with_sandbox(vec![seen("a", State::Exited, 0)]);
    for sandbox in &mut observed.sandboxes {
        sandbox.ready = false;
    }
    for (policy, attempt) in [("Always", Some(1)), ("OnFailure", None), ("Never", None)] {
        assert_eq!(
            plan(&pod(policy, vec![], &["a"]), &observed).create_sandbox,
            attempt,
            "{policy}"
        );
    }
}

#[test]
fn containers_of_an_old_sandbox_are_started_anew_with_the_next_attempt() {
    let pod = pod("Always", vec![container("i")], &["a"]);
    let mut observed = with_sandbox(vec![seen("a", State::Exited, 0), seen("i", State::Exited, 0)]);
    for container in &mut observed.containers {
        container.sandbox_id = "older".into();
    }
    assert_eq!(starts(&plan(&pod, &observed)), [("i", 1)]);
}

#[test]
fn durations_look_like_gos() {
    for (seconds, text) in [(10, "10s"), (80, "1m20s"), (300, "5m0s")] {
        assert_eq!(go_duration(SignedDuration::from_secs(seconds)), text);
    }
}
