//! A pod's conditions as upstream's kubelet reports them. Conditions of others (scheduler, readiness gates) are kept as they are.

use crate::runtime::resources::is_sidecar;
use api::core::v1::{ContainerStatus, PodCondition, PodSpec, PodStatus};
use api::meta::Time;
use jiff::Timestamp;

/// One condition before its times.
struct Verdict {
    kind: &'static str,
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn yes(kind: &'static str) -> Self {
        Self {
            kind,
            status: true,
            reason: None,
            message: None,
        }
    }

    fn no(kind: &'static str, reason: &'static str, message: Option<String>) -> Self {
        Self {
            kind,
            status: false,
            reason: Some(reason),
            message,
        }
    }
}

/// Conditions for a status whose other fields are final; `status.conditions` is taken from the pod's last known status.
pub fn generate(
    spec: &PodSpec,
    status: &PodStatus,
    sandbox_ready: bool,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<PodCondition> {
    let phase = status.phase.as_deref().unwrap_or_default();
    let containers = containers_ready(spec, status, phase);
    let ready = ready(spec, status, &containers);
    let sandbox = if sandbox_ready {
        Verdict::yes("PodReadyToStartContainers")
    } else {
        Verdict {
            kind: "PodReadyToStartContainers",
            status: false,
            reason: None,
            message: None,
        }
    };
    let verdicts = [sandbox, initialized(spec, status, phase), ready, containers];
    let old = status.conditions.as_deref().unwrap_or_default();
    let mut result: Vec<PodCondition> = verdicts
        .into_iter()
        .map(|verdict| stamp(verdict, old, generation, now))
        .collect();
    let own = |condition: &&PodCondition| !result.iter().any(|new| new.type_ == condition.type_);
    let foreign: Vec<PodCondition> = old.iter().filter(own).cloned().collect();
    result.extend(foreign);
    if !result.iter().any(|condition| condition.type_ == "PodScheduled") {
        result.push(stamp(Verdict::yes("PodScheduled"), old, generation, now));
    }
    result
}

fn stamp(verdict: Verdict, old: &[PodCondition], generation: Option<i64>, now: Timestamp) -> PodCondition {
    let status = if verdict.status { "True" } else { "False" };
    let before = old.iter().find(|condition| condition.type_ == verdict.kind);
    let since = before
        .filter(|before| before.status == status)
        .and_then(|before| before.last_transition_time.clone());
    PodCondition {
        type_: verdict.kind.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.map(str::to_owned),
        message: verdict.message,
        last_transition_time: Some(since.unwrap_or(Time(now))),
        last_probe_time: None,
        observed_generation: generation,
    }
}

fn containers_ready(spec: &PodSpec, status: &PodStatus, phase: &str) -> Verdict {
    const KIND: &str = "ContainersReady";
    match phase {
        "Succeeded" => return Verdict::no(KIND, "PodCompleted", None),
        "Failed" => return Verdict::no(KIND, "PodFailed", None),
        _ => {}
    }
    let find = |list: &Option<Vec<ContainerStatus>>, name: &str| -> Option<ContainerStatus> {
        list.iter().flatten().find(|status| status.name == name).cloned()
    };
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| is_sidecar(container));
    let sidecars = sidecars.map(|container| (container, find(&status.init_container_statuses, &container.name)));
    let main = spec
        .containers
        .iter()
        .map(|container| (container, find(&status.container_statuses, &container.name)));
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    for (container, found) in sidecars.chain(main) {
        match found {
            None => unknown.push(container.name.as_str()),
            Some(found) if !found.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    let mut messages = Vec::new();
    if !unknown.is_empty() {
        messages.push(format!("containers with unknown status: [{}]", unknown.join(" ")));
    }
    if !unready.is_empty() {
        messages.push(format!("containers with unready status: [{}]", unready.join(" ")));
    }
    if messages.is_empty() {
        return Verdict::yes(KIND);
    }
    Verdict::no(KIND, "ContainersNotReady", Some(messages.join(", ")))
}

fn ready(spec: &PodSpec, status: &PodStatus, containers: &Verdict) -> Verdict {
    const KIND: &str = "Ready";
    if !containers.status {
        return Verdict {
            kind: KIND,
            reason: containers.reason,
            message: containers.message.clone(),
            status: false,
        };
    }
    let messages: Vec<String> = spec
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            let found = status
                .conditions
                .iter()
                .flatten()
                .find(|condition| condition.type_ == *kind);
            match found.map(|condition| condition.status.as_str()) {
                Some("True") => None,
                Some(_) => Some(format!(
                    "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                    found.map_or("", |c| c.status.as_str())
                )),
                None => Some(format!(
                    "corresponding condition of pod readiness gate \"{kind}\" does not exist."
                )),
            }
        })
        .collect();
    if messages.is_empty() {
        return Verdict::yes(KIND);
    }
    Verdict::no(KIND, "ReadinessGatesNotReady", Some(messages.join(", ")))
}

fn initialized(spec: &PodSpec, status: &PodStatus, phase: &str) -> Verdict {
    const KIND: &str = "Initialized";
    if phase == "Succeeded" {
        return Verdict {
            reason: Some("PodCompleted"),
            ..Verdict::yes(KIND)
        };
    }
    let begun = status.container_statuses.iter().flatten().any(|status| {
        status
            .state
            .as_ref()
            .is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    });
    let mut incomplete = Vec::new();
    for container in spec.init_containers.iter().flatten() {
        let found = status
            .init_container_statuses
            .iter()
            .flatten()
            .find(|status| status.name == container.name);
        let done = found.is_some_and(|found| {
            if is_sidecar(container) {
                found.started == Some(true) || begun
            } else {
                found.ready || begun
            }
        });
        if !done {
            incomplete.push(container.name.as_str());
        }
    }
    if incomplete.is_empty() {
        return Verdict::yes(KIND);
    }
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    Verdict::no(KIND, "ContainersNotInitialized", Some(message))
}
