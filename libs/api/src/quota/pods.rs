//! What pods use, and the scopes they are in.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{Amounts, Scope, add, amounts, list, text};
use crate::quantity::Quantity;

const NAMES: [&str; 11] = [
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
/// Where these are limited, every container must say what it asks for. Upstream calls that a mistake and keeps it.
const DEMANDED: [&str; 6] = [
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
];

pub(super) fn matches_name(name: &str) -> bool {
    let request = name.strip_prefix("requests.");
    NAMES.contains(&name)
        || name.starts_with("hugepages-")
        || request.is_some_and(|name| name.starts_with("hugepages-") || is_extended(name))
}

/// A resource of somebody else's, such as `example.com/gpu`.
fn is_extended(name: &str) -> bool {
    name.split_once('/')
        .is_some_and(|(domain, _)| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io"))
}

pub(super) fn usage(pod: &Value, now: Timestamp) -> Amounts {
    if !is_alive(pod, now) {
        return Amounts::new();
    }
    let mut out = named(&of_pod(pod, "requests"), &of_pod(pod, "limits"));
    out.insert("pods".to_owned(), Quantity::units(1));
    out
}

/// A pod that has ended, or whose time to end is over, uses nothing any more.
fn is_alive(pod: &Value, now: Timestamp) -> bool {
    if matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
        return false;
    }
    let grace = pod
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64);
    let end = text(pod, "/metadata/deletionTimestamp").parse::<Timestamp>().ok();
    match (end, grace) {
        (Some(end), Some(grace)) => end
            .checked_add(SignedDuration::from_secs(grace))
            .is_ok_and(|end| now <= end),
        _ => true,
    }
}

/// Requests and limits under the names that quotas have for them.
fn named(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut out = Amounts::new();
    for (name, amount) in requests {
        let standard =
            matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        if standard {
            out.insert(name.clone(), *amount);
        }
        if standard || is_extended(name) {
            out.insert(format!("requests.{name}"), *amount);
        }
    }
    for (name, amount) in limits {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            out.insert(format!("limits.{name}"), *amount);
        }
    }
    out
}

/// The pod's `requests` or `limits` as a whole: the containers that run together, or the initialization that asks for more; then what the pod
/// itself says, then its overhead.
pub fn of_pod(pod: &Value, field: &str) -> Amounts {
    let mut running = Amounts::new();
    for container in list(pod, "/spec/containers") {
        add(
            &mut running,
            &of_container(pod, container, "/status/containerStatuses", field),
        );
    }
    let (mut sidecars, mut initial) = (Amounts::new(), Amounts::new());
    for container in list(pod, "/spec/initContainers") {
        let own = of_container(pod, container, "/status/initContainerStatuses", field);
        let mut at_its_time = own.clone();
        if text(container, "/restartPolicy") == "Always" {
            add(&mut running, &own);
            add(&mut sidecars, &own);
            at_its_time = sidecars.clone();
        } else {
            add(&mut at_its_time, &sidecars);
        }
        most(&mut initial, &at_its_time);
    }
    most(&mut running, &initial);
    for (name, amount) in amounts(pod.pointer("/spec/resources").and_then(|r| r.get(field))) {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            running.insert(name, amount);
        }
    }
    let overhead = amounts(pod.pointer("/spec/overhead"));
    let counts = |name: &String| field == "requests" || running.contains_key(name);
    let overhead: Amounts = overhead.into_iter().filter(|(name, _)| counts(name)).collect();
    add(&mut running, &overhead);
    running
}

/// A container's requests or limits; while it is being resized, the larger of what it asks for and what it still has.
fn of_container(pod: &Value, container: &Value, statuses: &str, field: &str) -> Amounts {
    let mut out = amounts(container.pointer("/resources").and_then(|r| r.get(field)));
    let name = text(container, "/name");
    let status = list(pod, statuses).iter().find(|status| text(status, "/name") == name);
    if let Some(status) = status {
        let actual = amounts(status.pointer("/resources").and_then(|r| r.get(field)));
        let allocated = match field {
            "requests" => amounts(status.get("allocatedResources")),
            _ => Amounts::new(),
        };
        for held in [actual, allocated] {
            let same: Amounts = held.into_iter().filter(|(name, _)| out.contains_key(name)).collect();
            most(&mut out, &same);
        }
    }
    out
}

/// The larger amount of each name.
fn most(into: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        match into.get(name) {
            Some(have) if *have >= *amount => {}
            _ => {
                into.insert(name.clone(), *amount);
            }
        }
    }
}

pub(super) fn constraints(pod: &Value, hard: &Amounts) -> Result<(), String> {
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in list(pod, "/spec/containers")
        .iter()
        .chain(list(pod, "/spec/initContainers"))
    {
        let of = |field: &str| amounts(container.pointer("/resources").and_then(|r| r.get(field)));
        let has = named(&of("requests"), &of("limits"));
        for name in DEMANDED {
            if hard.contains_key(name) && !has.contains_key(name) {
                missing.entry(name).or_default().insert(text(container, "/name"));
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let parts = missing.into_iter().map(|(name, containers)| {
        let containers: Vec<&str> = containers.into_iter().collect();
        format!("{name} for: {}", containers.join(","))
    });
    Err(format!("must specify {}", parts.collect::<Vec<_>>().join("; ")))
}

pub(super) fn in_scope(pod: &Value, scope: &Scope) -> bool {
    let terminating = || {
        let seconds = pod.pointer("/spec/activeDeadlineSeconds").and_then(Value::as_i64);
        seconds.is_some_and(|seconds| seconds >= 0)
    };
    match scope.name.as_str() {
        "Terminating" => terminating(),
        "NotTerminating" => !terminating(),
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => {
            let class = text(pod, "/spec/priorityClassName");
            scope.selects(if class.is_empty() {
                &[]
            } else {
                std::slice::from_ref(&class)
            })
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

/// No container asks for, or is limited in, CPU or memory.
fn is_best_effort(pod: &Value) -> bool {
    let says = |resources: Option<&Value>| {
        let amount = |field: &str, name: &str| {
            let amounts = amounts(resources.and_then(|r| r.get(field)));
            amounts.get(name).is_some_and(|amount| !amount.is_zero())
        };
        ["requests", "limits"]
            .iter()
            .any(|field| amount(field, "cpu") || amount(field, "memory"))
    };
    let mut containers = list(pod, "/spec/containers")
        .iter()
        .chain(list(pod, "/spec/initContainers"));
    !says(pod.pointer("/spec/resources")) && !containers.any(|container| says(container.get("resources")))
}

fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| !list(term, "/namespaces").is_empty() || term.get("namespaceSelector").is_some();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let terms = |field: &str| list(pod, &format!("/spec/affinity/{kind}/{field}"));
        terms("requiredDuringSchedulingIgnoredDuringExecution")
            .iter()
            .any(crosses)
            || terms("preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .any(|weighted| weighted.get("podAffinityTerm").is_some_and(crosses))
    })
}
