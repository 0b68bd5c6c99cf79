//! Pods: creation and update preparation, quality-of-service class, deletion grace. Defaults, validation and columns are in the files beside.

pub mod annotations;
pub mod containers;
pub mod defaults;
pub mod env;
pub mod handlers;
pub mod mounts;
pub mod os;
pub mod placement;
pub mod resources;
pub mod security;
pub mod status;
pub mod table;
#[cfg(test)]
mod tests;
pub mod update;
pub mod validate;
pub mod volumes;
pub mod warnings;

use std::collections::BTreeMap;

use api::FieldError;
use api::quantity::Quantity;
use serde_json::{Value, json};

use super::field::{Errors, Field, each, ensure, list, same, set, text};
use crate::registry::strategy::{Strategy, WriteContext, keep_all_but_status, restore};
use crate::registry::table::Column;

/// Rules of `pods`.
pub struct Pod;

impl Strategy for Pod {
    fn default(&self, pod: &mut Value) {
        if let Some(spec) = ensure(pod, "spec") {
            defaults::pod_only(spec);
            defaults::pod_spec(spec);
        }
    }

    fn generation(&self) -> bool {
        true
    }

    fn prepare_create(&self, _cx: &WriteContext<'_>, pod: &mut Value) {
        merge_label_keys(pod);
        let mut status = json!({"phase": "Pending", "qosClass": qos_class(pod)});
        if !list(pod, "/spec/schedulingGates").is_empty() {
            status["conditions"] = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates"}]);
        }
        set(pod, "status", status);
    }

    fn prepare_update(&self, cx: &WriteContext<'_>, new: &mut Value, old: &Value) {
        match cx.subresource {
            "status" => {
                let owners = old.pointer("/metadata/ownerReferences").cloned();
                keep_all_but_status(new, old);
                if let (Some(owners), Some(meta)) = (owners, new.get_mut("metadata")) {
                    set(meta, "ownerReferences", owners);
                }
                if text(new, "/status/qosClass").is_empty()
                    && let Some(status) = ensure(new, "status")
                {
                    set(status, "qosClass", text(old, "/status/qosClass"));
                }
            }
            "ephemeralcontainers" => keep_except(new, old, "ephemeralContainers"),
            "resize" => keep_resources(new, old),
            _ => restore(new, old, "status"),
        }
    }

    fn validate(&self, _cx: &WriteContext<'_>, pod: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        validate::pod_create(&Field::root("", pod), &mut errors);
        errors
    }

    fn validate_update(&self, cx: &WriteContext<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let root = Field::root("", new);
        match cx.subresource {
            "" => update::pod(&root, old, &mut errors),
            "resize" => update::resize(&root, old, &mut errors),
            "ephemeralcontainers" => update::ephemeral(&root, old, &mut errors),
            "status" => status::update(&root, old, &mut errors),
            _ => {}
        }
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        // Nobody is warned again of what was there before.
        if old.is_some_and(|old| {
            same(&old["spec"], &new["spec"]) && same(&old["metadata"]["annotations"], &new["metadata"]["annotations"])
        }) {
            return Vec::new();
        }
        warnings::warnings(&Field::root("", new), false)
    }

    fn columns(&self) -> &'static [Column] {
        table::COLUMNS
    }

    fn row(&self, pod: &Value, now: jiff::Timestamp) -> Vec<Value> {
        table::row(pod, now)
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ]
    }

    fn field(&self, pod: &Value, field: &str) -> Option<String> {
        match field {
            "spec.hostNetwork" => Some(
                pod.pointer("/spec/hostNetwork")
                    .and_then(Value::as_bool)
                    .unwrap_or(false)
                    .to_string(),
            ),
            "status.podIPs" => Some(text(pod, "/status/podIP").to_owned()),
            _ => None,
        }
    }

    fn grace_period(&self, pod: &Value, requested: Option<i64>) -> Option<i64> {
        let unscheduled = text(pod, "/spec/nodeName").is_empty();
        let finished = matches!(text(pod, "/status/phase"), "Failed" | "Succeeded");
        let wanted = requested
            .or_else(|| {
                pod.pointer("/spec/terminationGracePeriodSeconds")
                    .and_then(Value::as_i64)
            })
            .unwrap_or(0);
        match wanted {
            _ if unscheduled || finished => None,
            0 => None,
            n if n < 0 => Some(1),
            n => Some(n),
        }
    }
}

/// Takes the whole spec from `old` but for one field.
fn keep_except(new: &mut Value, old: &Value, field: &str) {
    let mut spec = old.get("spec").cloned().unwrap_or_default();
    if let Some(value) = new.pointer(&format!("/spec/{field}")) {
        set(&mut spec, field, value.clone());
    }
    set(new, "spec", spec);
    restore(new, old, "status");
}

/// A resize changes the resources and the resize policy of containers that exist, nothing else.
fn keep_resources(new: &mut Value, old: &Value) {
    let mut spec = old.get("spec").cloned().unwrap_or_default();
    for kind in ["containers", "initContainers"] {
        for container in each(&mut spec, kind) {
            let name = text(container, "/name").to_owned();
            let wanted = list(new, &format!("/spec/{kind}"))
                .iter()
                .find(|c| text(c, "/name") == name);
            for field in ["resources", "resizePolicy"] {
                if let Some(value) = wanted.and_then(|c| c.get(field)) {
                    set(container, field, value.clone());
                }
            }
        }
    }
    set(new, "spec", spec);
    restore(new, old, "status");
}

/// Puts the pod's own values of `matchLabelKeys` and `mismatchLabelKeys` into the selectors beside them.
fn merge_label_keys(pod: &mut Value) {
    let labels = pod["metadata"]["labels"].clone();
    let Some(spec) = pod.get_mut("spec") else { return };
    for constraint in each(spec, "topologySpreadConstraints") {
        merge_keys(constraint, &labels);
    }
    for kind in ["/affinity/podAffinity", "/affinity/podAntiAffinity"] {
        let Some(affinity) = spec.pointer_mut(kind) else {
            continue;
        };
        for term in each(affinity, "requiredDuringSchedulingIgnoredDuringExecution") {
            merge_keys(term, &labels);
        }
        for weighted in each(affinity, "preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = weighted.get_mut("podAffinityTerm") {
                merge_keys(term, &labels);
            }
        }
    }
}

fn merge_keys(term: &mut Value, labels: &Value) {
    let mut added = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        let keys = list(term, &format!("/{field}")).iter().filter_map(Value::as_str);
        let own = keys.filter_map(|key| Some((key, labels.get(key)?)));
        added.extend(own.map(|(key, value)| json!({"key": key, "operator": operator, "values": [value]})));
    }
    let Some(selector) = term.get_mut("labelSelector").filter(|s| s.is_object()) else {
        return;
    };
    let mut all = list(selector, "/matchExpressions").to_vec();
    all.extend(added);
    if !all.is_empty() {
        set(selector, "matchExpressions", all);
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from the requests and limits of the pod itself or else of all containers.
pub fn qos_class(pod: &Value) -> &'static str {
    let spec = &pod["spec"];
    let holders: Vec<&Value> = if spec["resources"].is_object() {
        vec![spec]
    } else {
        list(spec, "/containers")
            .iter()
            .chain(list(spec, "/initContainers"))
            .collect()
    };
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    let mut guaranteed = true;
    for holder in holders {
        let compute = |which: &str| {
            let mut all = resources::amounts(holder, which);
            all.retain(|name, amount| matches!(name.as_str(), "cpu" | "memory") && *amount > Quantity::ZERO);
            all
        };
        let (least, most) = (compute("requests"), compute("limits"));
        guaranteed &= most.len() == 2;
        for (sums, amounts) in [(&mut requests, least), (&mut limits, most)] {
            for (name, amount) in amounts {
                *sums.entry(name).or_insert(Quantity::ZERO) += amount;
            }
        }
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    let covered =
        requests.len() == limits.len() && requests.iter().all(|(name, amount)| limits.get(name) == Some(amount));
    if guaranteed && covered {
        "Guaranteed"
    } else {
        "Burstable"
    }
}
