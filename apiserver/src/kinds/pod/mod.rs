//! Pods: creation and update preparation, quality-of-service class, deletion grace. Defaults, validation and columns are in the files beside.

pub mod containers;
pub mod defaults;
pub mod table;
pub mod validate;
pub mod volumes;

use std::collections::BTreeMap;

use api::FieldError;
use api::quantity::Quantity;
use serde_json::{Value, json};

use super::common::{label_selector, parse_quantity};
use super::field::{Errors, Field, each, ensure, list, number, set, text};
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
        let root = Field::root("", pod);
        let spec = root.get("spec");
        validate::pod_spec(&spec, &mut errors);
        let ephemeral = spec.get("ephemeralContainers");
        if !ephemeral.is_empty() {
            ephemeral.forbidden(&mut errors, "cannot be set on create");
        }
        if !spec.get("schedulingGates").is_empty() && !spec.get("nodeName").is_empty() {
            spec.get("nodeName")
                .forbidden(&mut errors, "cannot be set until all schedulingGates have been cleared");
        }
        errors
    }

    fn validate_update(&self, cx: &WriteContext<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let root = Field::root("", new);
        let spec = root.get("spec");
        match cx.subresource {
            "" => validate::spec_update(&spec, &old["spec"], &mut errors),
            "resize" | "ephemeralcontainers" => validate::pod_spec(&spec, &mut errors),
            "status" => status_update(&root, old, &mut errors),
            _ => {}
        }
        if cx.subresource == "ephemeralcontainers" {
            ephemeral_update(&spec, &old["spec"], &mut errors);
        }
        if cx.subresource == "resize" && qos_class(new) != qos_class(old) {
            spec.invalid(&mut errors, "Pod QOS Class may not change as a result of resizing");
        }
        errors
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

fn ephemeral_update(spec: &Field<'_>, old: &Value, errors: &mut Errors) {
    let new = spec.get("ephemeralContainers");
    for was in list(old, "/ephemeralContainers") {
        let name = text(was, "/name");
        match new.items().find(|c| c.get("name").str() == name) {
            None => new.forbidden(
                errors,
                &format!("existing ephemeral containers {name:?} may not be removed\n"),
            ),
            Some(c) if c.value != was => new.forbidden(
                errors,
                &format!("existing ephemeral containers {name:?} may not be changed\n"),
            ),
            Some(_) => {}
        }
    }
}

/// A container that ended for good does not start again.
fn status_update(root: &Field<'_>, old: &Value, errors: &mut Errors) {
    let status = root.get("status");
    if text(old, "/spec/restartPolicy") == "Always" {
        return;
    }
    let new = status.get("containerStatuses");
    for was in list(old, "/status/containerStatuses") {
        let Some(ended) = was.pointer("/state/terminated").filter(|t| t.is_object()) else {
            continue;
        };
        if text(old, "/spec/restartPolicy") == "OnFailure" && number(ended, "/exitCode") != 0 {
            continue;
        }
        for (i, now) in new.items().enumerate() {
            if text(now.value, "/name") == text(was, "/name")
                && !now.value.pointer("/state/terminated").is_some_and(Value::is_object)
            {
                let path = format!("{new}[{i}].state");
                errors.push(FieldError::forbidden(
                    path,
                    "may not be transitioned to non-terminated state",
                ));
            }
        }
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from the requests and limits of all containers.
pub fn qos_class(pod: &Value) -> &'static str {
    let containers = || {
        list(pod, "/spec/initContainers")
            .iter()
            .chain(list(pod, "/spec/containers"))
    };
    let amounts = |c: &Value, kind: &str| -> BTreeMap<String, Quantity> {
        let map = c.pointer(&format!("/resources/{kind}")).and_then(Value::as_object);
        let compute = |(k, v): (&String, &Value)| {
            Some((k.clone(), parse_quantity(v)?)).filter(|(k, _)| k == "cpu" || k == "memory")
        };
        map.into_iter()
            .flatten()
            .filter_map(compute)
            .filter(|(_, q)| *q > Quantity::milli(0))
            .collect()
    };
    let mut any = false;
    let mut guaranteed = true;
    for c in containers() {
        let (requests, limits) = (amounts(c, "requests"), amounts(c, "limits"));
        any |= !requests.is_empty() || !limits.is_empty();
        guaranteed &= limits.len() == 2 && requests.iter().all(|(k, q)| limits.get(k) == Some(q));
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Checks what a workload holds: the template and, where it has one, a selector that selects it. `kind` names it in a message.
pub fn workload(spec: &Field<'_>, kind: &str, errors: &mut Errors) {
    let selector = spec.get("selector");
    if !selector.exists() {
        selector.required(errors, "");
    } else {
        label_selector(&selector, errors);
        if selector.get("matchLabels").is_empty() && selector.get("matchExpressions").is_empty() {
            selector.invalid(errors, format!("empty selector is invalid for {kind}"));
        }
    }
    template_of(spec, &selector, errors);
}

/// The template of a workload that restarts its pods always, and its agreement with the selector.
pub fn template_of(spec: &Field<'_>, selector: &Field<'_>, errors: &mut Errors) {
    let template = spec.get("template");
    if !template.exists() {
        return template.required(errors, "");
    }
    let metadata = template.get("metadata");
    let labels = metadata.get("labels");
    let selects = super::common::selector_matches(selector.value, labels.value);
    if selector.exists() && !selector.is_empty() && !selects {
        let shown = if labels.exists() {
            labels.value.clone()
        } else {
            json!({})
        };
        errors.push(FieldError::invalid(
            labels.to_string(),
            shown,
            "`selector` does not match template `labels`",
        ));
    }
    validate::template(&template, errors);
    let pod = template.get("spec");
    let restart = pod.get("restartPolicy");
    if !restart.is_empty() && restart.str() != "Always" {
        restart.not_supported(errors, &["Always"]);
    }
    let deadline = pod.get("activeDeadlineSeconds");
    if deadline.exists() {
        deadline.forbidden(errors, "activeDeadlineSeconds in ReplicaSet is not Supported");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(pod: &Value) -> Vec<String> {
        let mut pod = pod.clone();
        Pod.default(&mut pod);
        let mut errors = Errors::new();
        validate::pod_spec(&Field::root("spec", &pod["spec"]), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn faults_have_upstreams_words() {
        let cases = [
            (json!({"spec": {}}), vec!["spec.containers: Required value"]),
            (
                json!({"spec": {"containers": [{"name": "A", "image": ""}]}}),
                vec![
                    "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                    "spec.containers[0].image: Required value",
                ],
            ),
            (
                json!({"spec": {"restartPolicy": "Sometimes", "containers": [{"name": "a", "image": "b"}, {"name": "a", "image": "b"}]}}),
                vec![
                    "spec.containers[1].name: Duplicate value: \"a\"",
                    "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
                ],
            ),
            (
                json!({"spec": {"containers": [{"name": "a", "image": "b", "volumeMounts": [{"name": "v", "mountPath": "/x"}]}]}}),
                vec!["spec.containers[0].volumeMounts[0].name: Not found: \"v\""],
            ),
            (
                json!({"spec": {"containers": [{"name": "a", "image": "b", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}, "ports": [{"containerPort": 99999}]}]}}),
                vec![
                    "spec.containers[0].ports[0].containerPort: Invalid value: 99999: must be between 1 and 65535, inclusive",
                    "spec.containers[0].resources.requests[cpu]: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
                ],
            ),
            (
                json!({"spec": {"containers": [{"name": "a", "image": "b", "livenessProbe": {}}]}}),
                vec!["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
            ),
            (
                json!({"spec": {"containers": [{"name": "a", "image": "b"}], "tolerations": [{"value": "x"}]}}),
                vec![
                    "spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
                ],
            ),
        ];
        for (pod, want) in cases {
            assert_eq!(messages(&pod), want, "{pod}");
        }
    }

    #[test]
    fn quality_of_service() {
        let pod = |requests: Value, limits: Value| json!({"spec": {"containers": [{"resources": {"requests": requests, "limits": limits}}]}});
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&pod(json!({}), json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod(both.clone(), both.clone())), "Guaranteed");
        assert_eq!(
            qos_class(&pod(json!({"cpu": "500m", "memory": "1Gi"}), both)),
            "Burstable"
        );
        assert_eq!(qos_class(&pod(json!({"cpu": "1"}), json!({}))), "Burstable");
    }

    #[test]
    fn only_a_few_fields_of_a_running_pod_change() {
        let mut old = json!({"spec": {"containers": [{"name": "a", "image": "b:1"}]}});
        Pod.default(&mut old);
        let check = |edit: &dyn Fn(&mut Value)| {
            let mut new = old.clone();
            edit(&mut new);
            let mut errors = Errors::new();
            validate::spec_update(&Field::root("spec", &new["spec"]), &old["spec"], &mut errors);
            errors.iter().map(|e| e.to_string()).collect::<Vec<_>>()
        };
        assert!(check(&|p| p["spec"]["containers"][0]["image"] = json!("b:2")).is_empty());
        assert!(check(&|p| p["spec"]["tolerations"] = json!([{"operator": "Exists"}])).is_empty());
        assert!(check(&|p| p["spec"]["activeDeadlineSeconds"] = json!(5)).is_empty());
        assert!(
            check(&|p| p["spec"]["nodeName"] = json!("n"))[0]
                .starts_with("spec: Forbidden: pod updates may not change fields other than")
        );
        assert_eq!(
            check(&|p| p["spec"]["containers"] = json!([])),
            ["spec.containers: Forbidden: pod updates may not add or remove containers"]
        );
    }
}
