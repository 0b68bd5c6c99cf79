//! Nodes.

use api::names;
use serde_json::{Value, json};

use super::common::or_none;
use super::field::{Errors, Field, ensure, list, set, text};
use super::resource_names as resources;
use super::rules::{NewStatus, Rules};
use crate::registry::table::{self, Column};

/// Rules of `nodes`.
pub static NODE: Rules = Rules {
    default: |object| {
        let _ = ensure(object, "spec");
        if let Some(spec) = object.get_mut("spec") {
            first_cidr(spec);
        }
        let capacity = object["status"]["capacity"].clone();
        if let Some(status) = object.get_mut("status")
            && capacity.is_object()
            && status["allocatable"].as_object().is_none_or(serde_json::Map::is_empty)
        {
            set(status, "allocatable", capacity);
        }
    },
    validate: |root, errors| {
        let (spec, metadata) = (root.get("spec"), root.get("metadata"));
        // Upstream looks for them under the metadata.
        let taint_list = metadata.get("taints").showing(&root.value["spec"]["taints"]);
        taints(&taint_list, errors);
        quantities(root, errors);
        let cidrs = spec.get("podCIDRs");
        for cidr in cidrs.items() {
            super::ip::cidr(&cidr, errors);
        }
        let families: Vec<bool> = cidrs.items().map(|cidr| cidr.str().contains(':')).collect();
        if families.len() > 2 || matches!(families[..], [one, other] if one == other) {
            cidrs.invalid(errors, "may specify no more than one CIDR for each IP family");
        }
    },
    validate_update: |root, old, errors| {
        let spec = root.get("spec");
        change(root, old, errors);
        if spec.get("configSource").exists() {
            config_source(&spec.get("configSource"), errors);
        }
        if text(spec.value, "/externalID") != text(old, "/spec/externalID") {
            spec.get("externalID").forbidden(errors, "may not be updated");
        }
    },
    validate_status: |root, old, errors| {
        quantities(root, errors);
        change(root, old, errors);
    },
    warnings: |root, _| {
        let spec = root.get("spec");
        let mut warnings = Vec::new();
        if spec.get("configSource").exists() {
            warnings.push("spec.configSource: the feature is removed".to_owned());
        }
        if !spec.get("externalID").is_empty() {
            warnings.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        for cidr in spec.get("podCIDRs").items() {
            super::ip::warn_cidr(&cidr, &mut warnings);
        }
        warnings
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

/// The one network of old and the first of the list are the same.
fn first_cidr(spec: &mut Value) {
    let first = text(spec, "/podCIDRs/0").to_owned();
    match (text(spec, "/podCIDR").to_owned(), first) {
        (one, first) if one == first => {}
        (one, first) if one.is_empty() => set(spec, "podCIDR", first),
        (one, _) => set(spec, "podCIDRs", json!([one])),
    }
}

fn taints(taints: &Field<'_>, errors: &mut Errors) {
    let mut seen = std::collections::HashSet::new();
    for taint in taints.items() {
        let (key, value, effect) = (taint.get("key"), taint.get("value"), taint.get("effect"));
        key.check(errors, names::qualified_name);
        let faults = names::label_value(value.str());
        if !faults.is_empty() {
            value.invalid_as(errors, value.str(), faults.join(";"));
        }
        effect.required_one_of(errors, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        if !seen.insert((key.str().to_owned(), effect.str().to_owned())) {
            return taint.duplicate_of(
                errors,
                taint.value.clone(),
                "taints must be unique by key and effect pair",
            );
        }
    }
}

fn quantities(root: &Field<'_>, errors: &mut Errors) {
    let status = root.get("status");
    for map in ["capacity", "allocatable"] {
        let map = status.get(map);
        if let Some(entries) = map.value.as_object() {
            for name in entries.keys() {
                resources::amount(&map.get(name), name, errors);
            }
        }
    }
}

/// What neither a write of the node nor one of its status may change.
fn change(root: &Field<'_>, old: &Value, errors: &mut Errors) {
    const CIDR: &str = "node updates may not change podCIDR except from \"\" to valid";
    let (spec, status) = (root.get("spec"), root.get("status"));
    let addresses = status.get("addresses");
    addresses.unique(errors, "");
    let (before, now) = (list(old, "/spec/podCIDRs"), list(spec.value, "/podCIDRs"));
    if !before.is_empty() {
        let changed = if before.len() == now.len() {
            before.iter().zip(now).filter(|(a, b)| a != b).count()
        } else {
            1
        };
        for _ in 0..changed {
            spec.get("podCIDRs").forbidden(errors, CIDR);
        }
    }
    let provider = text(old, "/spec/providerID");
    if !provider.is_empty() && spec.get("providerID").str() != provider {
        spec.get("providerID").forbidden(
            errors,
            "node updates may not change providerID except from \"\" to valid",
        );
    }
}

fn config_source(source: &Field<'_>, errors: &mut Errors) {
    let map = source.get("configMap");
    if !map.exists() {
        return source.invalid(errors, "exactly one reference subfield must be non-nil");
    }
    if !map.get("uid").is_empty() {
        map.get("uid").forbidden(errors, "uid must not be set in spec");
    }
    if !map.get("resourceVersion").is_empty() {
        map.get("resourceVersion")
            .forbidden(errors, "resourceVersion must not be set in spec");
    }
    map.get("kubeletConfigKey")
        .required_check(errors, names::config_map_key);
    map.get("name").required_check(errors, names::dns1123_subdomain);
    map.get("namespace").required_check(errors, names::dns1123_label);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults() {
        let mut node = json!({"spec": {"podCIDR": "10.0.0.0/24", "taints": [
                {"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}]},
            "status": {"capacity": {"cpu": "-1"}}});
        (NODE.default)(&mut node);
        assert_eq!(
            (&node["spec"]["podCIDRs"], &node["status"]["allocatable"]),
            (&json!(["10.0.0.0/24"]), &json!({"cpu": "-1"}))
        );
        let mut errors = Errors::new();
        (NODE.validate)(&Field::root("", &node), &mut errors);
        let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "metadata.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"a\"}: taints must be unique by key and effect pair",
                "status.capacity.cpu: Invalid value: \"-1\": must be greater than or equal to 0",
                "status.allocatable.cpu: Invalid value: \"-1\": must be greater than or equal to 0"
            ]
        );
        let mut errors = Errors::new();
        (NODE.validate_update)(&Field::root("", &json!({})), &node, &mut errors);
        assert_eq!(
            errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"]
        );
    }

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
