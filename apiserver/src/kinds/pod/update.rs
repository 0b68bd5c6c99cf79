//! What may change of a pod that exists: by a write of the pod, of its ephemeral containers, of its resources.

use api::FieldError;
use serde_json::{Value, json};

use super::annotations::{self, MIRROR};
use super::containers::{is_sidecar, no_padding};
use super::resources::amounts;
use super::{placement, qos_class, validate};
use crate::kinds::field::{Errors, Field, each, list, same, set};
use crate::registry::strategy::restore;

const UPDATE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` \
(allow it to be set to 1 if it was previously negative)";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// A write of the pod itself.
pub fn pod(root: &Field<'_>, old: &Value, errors: &mut Errors) {
    validate::pod(root, errors);
    notes(root, old, errors);
    spec(&root.get("spec"), &old["spec"], errors);
}

fn notes(root: &Field<'_>, old: &Value, errors: &mut Errors) {
    let metadata = root.get("metadata");
    annotations::update(&metadata.get("annotations"), &old["metadata"]["annotations"], errors);
}

fn spec(new: &Field<'_>, old: &Value, errors: &mut Errors) {
    for name in ["containers", "initContainers"] {
        if new.get(name).len() != list(old, &format!("/{name}")).len() {
            return new
                .get(name)
                .forbidden(errors, "pod updates may not add or remove containers");
        }
        for container in new.get(name).items() {
            container.require(errors, &["image"]);
            no_padding(&container.get("image"), errors);
        }
    }
    if !deadline(&new.get("activeDeadlineSeconds"), &old["activeDeadlineSeconds"], errors) {
        return;
    }
    tolerations(&new.get("tolerations"), list(old, "/tolerations"), errors);
    gates(&new.get("schedulingGates"), list(old, "/schedulingGates"), errors);
    if same(new.value, old) {
        return;
    }
    let mut munged = munged(new.value, old);
    if !list(old, "/schedulingGates").is_empty() {
        node_choice(new, &mut munged, old, errors);
    }
    if !same(&munged, old) {
        new.forbidden(errors, UPDATE);
    }
}

/// From nothing to something, or to less. False if the rest need not be looked at.
fn deadline(new: &Field<'_>, old: &Value, errors: &mut Errors) -> bool {
    let highest = i64::from(i32::MAX);
    match (new.int(), old.as_i64()) {
        (Some(n), _) if !(0..=highest).contains(&n) => new.in_range(errors, 0, highest),
        (Some(n), Some(o)) if n > o => new.invalid(errors, "must be less than or equal to previous value"),
        (None, Some(_)) => {
            new.invalid_as(errors, "null", "must not update from a positive integer to nil value");
            return true;
        }
        _ => return true,
    }
    false
}

fn tolerations(new: &Field<'_>, old: &[Value], errors: &mut Errors) {
    let bare = |toleration: &Value| {
        let mut bare = toleration.clone();
        if let Some(map) = bare.as_object_mut() {
            map.remove("tolerationSeconds");
        }
        bare
    };
    let now: Vec<Value> = list(new.value, "").iter().map(bare).collect();
    if !old.iter().all(|t| now.contains(&bare(t))) {
        return new.forbidden(
            errors,
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
    for toleration in new.items() {
        placement::toleration(&toleration, errors);
    }
}

fn gates(new: &Field<'_>, old: &[Value], errors: &mut Errors) {
    for gate in new.items() {
        let name = gate.get("name");
        if !old.iter().any(|was| was.get("name") == Some(name.value)) {
            let detail = format!(
                "only deletion is allowed, but found new scheduling gate '{}'",
                name.str()
            );
            name.forbidden(errors, &detail);
        }
    }
}

/// The new spec with everything that may change put back to what it was.
fn munged(new: &Value, old: &Value) -> Value {
    let mut out = new.clone();
    for name in ["containers", "initContainers"] {
        let before = list(old, &format!("/{name}"));
        for (container, was) in each(&mut out, name).zip(before) {
            restore(container, was, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        restore(&mut out, old, field);
    }
    let grace = "terminationGracePeriodSeconds";
    if old[grace].as_i64().is_some_and(|n| n < 0) && new[grace] == 1 {
        restore(&mut out, old, grace);
    }
    out
}

/// While gates hold a pod back, its choice of nodes may become narrower.
fn node_choice(new: &Field<'_>, munged: &mut Value, old: &Value, errors: &mut Errors) {
    let selector = new.get("nodeSelector");
    let before = old["nodeSelector"].as_object();
    if before.is_some_and(|b| b.iter().any(|(key, value)| selector.value.get(key) != Some(value))) {
        selector.invalid(
            errors,
            "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
        );
    }
    restore(munged, old, "nodeSelector");
    let affinity = new.get("affinity");
    let node = affinity.get("nodeAffinity");
    let was = &old["affinity"]["nodeAffinity"];
    if same(node.value, was) {
        return;
    }
    node_terms(&node, was, errors);
    if let Some(kept) = munged.get_mut("affinity") {
        restore(kept, &old["affinity"], "nodeAffinity");
    } else {
        set(munged, "affinity", json!({"nodeAffinity": was}));
    }
}

fn node_terms(node: &Field<'_>, was: &Value, errors: &mut Errors) {
    let required = node.get(REQUIRED);
    let terms = required.get("nodeSelectorTerms");
    let before = list(was, &format!("/{REQUIRED}/nodeSelectorTerms"));
    if !before.is_empty() && before.len() != terms.len() {
        return terms.invalid(
            errors,
            "no additions/deletions to non-empty NodeSelectorTerms list are allowed",
        );
    }
    for (term, was) in terms.items().zip(before) {
        let both = ["matchExpressions", "matchFields"];
        let size = |v: &Value| both.iter().map(|f| list(v, &format!("/{f}")).len()).sum::<usize>();
        let kept = |field: &&str| {
            let pointer = format!("/{field}");
            list(term.value, &pointer).starts_with(list(was, &pointer))
        };
        let from_nothing = size(was) == 0 && size(term.value) > 0;
        if from_nothing || !both.iter().all(kept) {
            term.invalid(errors, "only additions are allowed (no mutations or deletions)");
        }
    }
}

/// A write of `ephemeralcontainers`: existing ones stay as they are.
pub fn ephemeral(root: &Field<'_>, old: &Value, errors: &mut Errors) {
    if is_mirror(old) {
        return errors.push(FieldError::forbidden(
            "",
            "static pods do not support ephemeral containers",
        ));
    }
    validate::pod(root, errors);
    notes(root, old, errors);
    let spec = root.get("spec");
    let new = spec.get("ephemeralContainers");
    for was in list(old, "/spec/ephemeralContainers") {
        let name = was["name"].as_str().unwrap_or_default();
        let fault = match new.items().find(|c| c.get("name").str() == name) {
            None => "removed",
            Some(c) if !same(c.value, was) => "changed",
            Some(_) => continue,
        };
        new.forbidden(
            errors,
            &format!("existing ephemeral containers {name:?} may not be {fault}\n"),
        );
    }
}

fn has_own_resources(pod: &Value) -> bool {
    ["requests", "limits"]
        .iter()
        .any(|which| !amounts(&pod["spec"], which).is_empty())
}

fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"].get(MIRROR).is_some()
}

/// A write of `resize`: CPU and memory of containers that run.
pub fn resize(root: &Field<'_>, old: &Value, errors: &mut Errors) {
    let refused = if is_mirror(old) {
        Some("static pods cannot be resized")
    } else if old["spec"]["os"]["name"] == "windows" {
        Some("windows pods cannot be resized")
    } else if has_own_resources(old) || has_own_resources(root.value) {
        Some("pods with pod-level resources cannot be resized")
    } else {
        None
    };
    if let Some(why) = refused {
        return errors.push(FieldError::forbidden("", why));
    }
    validate::pod(root, errors);
    let spec = root.get("spec");
    if qos_class(root.value) != qos_class(old) {
        spec.invalid_as(
            errors,
            root.value["status"]["qosClass"].clone(),
            "Pod QOS Class may not change as a result of resizing",
        );
    }
    if !can_resize(old) {
        spec.forbidden(errors, "Pod running on node without support for resize");
    }
    for kind in ["initContainers", "containers"] {
        let before = list(old, &format!("/spec/{kind}"));
        for (container, was) in spec.get(kind).items().zip(before) {
            if kind == "containers" || is_sidecar(was) {
                not_removed(&container, was, errors);
            }
        }
    }
    for kind in ["containers", "initContainers"] {
        let before = list(old, &format!("/spec/{kind}"));
        for (container, was) in list(spec.value, &format!("/{kind}")).iter().zip(before) {
            if let Some(why) = frozen(kind, container, was) {
                spec.forbidden(errors, why);
            }
        }
    }
}

/// A running container whose kubelet does not report its resources cannot be resized.
fn can_resize(old: &Value) -> bool {
    let running = list(old, "/status/containerStatuses")
        .iter()
        .find(|c| c["state"]["running"].is_object());
    running.is_none_or(|c| c.get("resources").is_some())
}

fn not_removed(container: &Field<'_>, was: &Value, errors: &mut Errors) {
    let requirements = container.get("resources");
    for which in ["requests", "limits"] {
        let now = amounts(container.value, which);
        if amounts(was, which).keys().any(|name| !now.contains_key(name)) {
            requirements
                .get(which)
                .forbidden(errors, &format!("resource {which} cannot be removed"));
        }
    }
}

/// Why a container may not become this one, whose CPU and memory may differ.
fn frozen(kind: &str, container: &Value, was: &Value) -> Option<&'static str> {
    if kind == "initContainers" && !is_sidecar(container) {
        let why = "resources for non-sidecar init containers are immutable";
        return (!same(container, was)).then_some(why);
    }
    let others = |c: &Value, which: &str| {
        let mut all = amounts(c, which);
        all.retain(|name, _| name != "cpu" && name != "memory");
        all
    };
    let differ = ["requests", "limits"]
        .iter()
        .any(|which| others(container, which) != others(was, which));
    let claims = !same(&container["resources"]["claims"], &was["resources"]["claims"]);
    match kind {
        _ if !differ && !claims => None,
        "containers" => Some("only cpu and memory resources are mutable"),
        _ => Some("only cpu and memory resources for sidecar containers are mutable"),
    }
}
