//! Nodes.

use api::names;
use serde_json::{Value, json};

use super::common::or_none;
use super::field::{Errors, Field, ensure, list, text};
use super::rules::{NewStatus, Rules};
use crate::registry::table::{self, Column};

/// Rules of `nodes`.
pub static NODE: Rules = Rules {
    default: |object| {
        let _ = ensure(object, "spec");
    },
    validate: |root, errors| {
        let spec = root.get("spec");
        taints(&spec.get("taints"), errors);
        for cidr in spec.get("podCIDRs").items() {
            cidr.invalid_all(errors, names::cidr(cidr.str()));
        }
    },
    validate_update: |root, old, errors| {
        let spec = root.get("spec");
        for name in ["podCIDR", "podCIDRs"] {
            let before = &old["spec"][name];
            if !before.is_null() && before != "" && spec.get(name).value != before {
                spec.get(name)
                    .forbidden(errors, "node updates may not change podCIDR except from \"\" to valid");
            }
        }
        let provider = spec.get("providerID");
        let before = text(old, "/spec/providerID");
        if !before.is_empty() && provider.str() != before {
            provider.forbidden(
                errors,
                "node updates may not change providerID except from \"\" to valid",
            );
        }
    },
    columns: &[
        Column::NAME,
        Column::text("Status"),
        Column::text("Roles"),
        Column::AGE,
        Column::text("Version"),
        Column::text("Internal-IP").wide(),
        Column::text("External-IP").wide(),
        Column::text("OS-Image").wide(),
        Column::text("Kernel-Version").wide(),
        Column::text("Container-Runtime").wide(),
    ],
    row: |node, now| {
        let unknown = |pointer: &str| {
            let shown = text(node, pointer);
            json!(if shown.is_empty() { "<unknown>" } else { shown })
        };
        vec![
            table::name(node),
            json!(status(node)),
            json!(roles(node)),
            table::age(node, now),
            json!(text(node, "/status/nodeInfo/kubeletVersion")),
            json!(address(node, "InternalIP")),
            json!(address(node, "ExternalIP")),
            unknown("/status/nodeInfo/osImage"),
            unknown("/status/nodeInfo/kernelVersion"),
            unknown("/status/nodeInfo/containerRuntimeVersion"),
        ]
    },
    fields: &["spec.unschedulable"],
    new_status: NewStatus::Kept,
    ..Rules::NONE
};

fn status(node: &Value) -> String {
    let ready = super::common::condition(node, "Ready");
    let mut shown = match ready.map(|c| text(c, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.pointer("/spec/unschedulable").and_then(Value::as_bool) == Some(true) {
        shown.push_str(",SchedulingDisabled");
    }
    shown
}

fn roles(node: &Value) -> String {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let role = |(key, value): (&String, &Value)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) if !role.is_empty() => Some(role.to_owned()),
        _ if key == "kubernetes.io/role" => value.as_str().filter(|v| !v.is_empty()).map(str::to_owned),
        _ => None,
    };
    let mut roles: Vec<String> = labels.into_iter().flatten().filter_map(role).collect();
    roles.sort();
    roles.dedup();
    or_none(&roles.join(",")).to_owned()
}

fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    list(node, "/status/addresses")
        .iter()
        .find(|a| text(a, "/type") == kind)
        .map_or("<none>", |a| text(a, "/address"))
}

fn taints(taints: &Field<'_>, errors: &mut Errors) {
    let mut seen = std::collections::HashSet::new();
    for taint in taints.items() {
        let (key, value, effect) = (taint.get("key"), taint.get("value"), taint.get("effect"));
        if key.is_empty() {
            key.required(errors, "")
        } else {
            key.invalid_all(errors, names::qualified_name(key.str()))
        }
        let messages = names::label_value(value.str());
        if !messages.is_empty() {
            value.invalid(errors, messages.join(";"));
        }
        effect.required_one_of(errors, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        if !seen.insert((key.str().to_owned(), effect.str().to_owned())) {
            let mut shown = taint;
            let text = json!(format!("{}={}:{}", key.str(), value.str(), effect.str()));
            shown.value = &text;
            shown.duplicate(errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells() {
        let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "worker"}},
            "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "nodeInfo": {"kubeletVersion": "v1.35.0"}}});
        let row = (NODE.row)(&node, jiff::Timestamp::UNIX_EPOCH);
        let cells: Vec<&str> = row.iter().filter_map(Value::as_str).collect();
        assert_eq!(
            cells,
            [
                "n",
                "Ready,SchedulingDisabled",
                "control-plane,worker",
                "<unknown>",
                "v1.35.0",
                "10.0.0.1",
                "<none>",
                "<unknown>",
                "<unknown>",
                "<unknown>"
            ]
        );
    }
}
