//! What may be said of a pod's status.

use std::collections::HashSet;

use api::names;
use serde_json::Value;

use super::annotations;
use super::containers::is_sidecar;
use super::security::id;
use crate::kinds::field::{Errors, Field, list, same, text};
use crate::kinds::ip;

const ALLOCATED: &str = "allocatedResourcesStatus";
/// The lists of containers' statuses, each with the list of the containers.
const STATUSES: [(&str, &str); 3] = [
    ("containerStatuses", "containers"),
    ("initContainerStatuses", "initContainers"),
    ("ephemeralContainerStatuses", "ephemeralContainers"),
];

/// A write of `status`.
pub fn update(root: &Field<'_>, old: &Value, errors: &mut Errors) {
    let (metadata, status) = (root.get("metadata"), root.get("status"));
    annotations::update(&metadata.get("annotations"), &old["metadata"]["annotations"], errors);
    let conditions = status.get("conditions");
    for (index, condition) in conditions.items().enumerate() {
        let kind = condition.get("type").str();
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            // Upstream's path.
            let path = format!("metadata.conditions[{index}].Type");
            let faults = names::qualified_name(kind);
            errors.extend(
                faults
                    .into_iter()
                    .map(|why| api::FieldError::invalid(path.as_str(), kind, why)),
            );
        }
    }
    let nominated = status.get("nominatedNodeName");
    if nominated.str() != text(old, "/status/nominatedNodeName") {
        nominated.check_if_set(errors, names::dns1123_subdomain);
    }
    let (class, was) = (status.get("qosClass"), &old["status"]["qosClass"]);
    if !was.is_null() {
        class.immutable(errors, was);
    }
    for (name, kind) in STATUSES {
        transitions(
            &status.get(name),
            list(old, &format!("/status/{name}")),
            &old["spec"],
            kind,
            errors,
        );
    }
    claims(
        &status.get("resourceClaimStatuses"),
        list(root.value, "/spec/resourceClaims"),
        errors,
    );
    pod_ips(&status.get("podIPs"), errors);
    let hosts = status.get("hostIPs");
    if let Some(first) = hosts.items().next().map(|host| host.get("ip").str().to_owned())
        && status.get("hostIP").str() != first
    {
        errors.push(api::FieldError::invalid(
            format!("{hosts}[0].ip"),
            first,
            "must be equal to `hostIP`",
        ));
    }
    pod_ips(&hosts, errors);
    for (name, kind) in STATUSES {
        let containers = list(root.value, &format!("/spec/{kind}"));
        container_statuses(&status.get(name), containers, kind, errors);
    }
}

/// A container that ended for good does not start again.
fn transitions(new: &Field<'_>, old: &[Value], spec: &Value, kind: &str, errors: &mut Errors) {
    let policy = if kind == "ephemeralContainers" {
        "Never"
    } else {
        text(spec, "/restartPolicy")
    };
    let pointer = format!("/{kind}");
    for (index, was) in old.iter().enumerate() {
        let name = text(was, "/name");
        let container = list(spec, &pointer).iter().find(|c| text(c, "/name") == name);
        let own = container.map_or("", |c| text(c, "/restartPolicy"));
        let rules = container.is_some_and(|c| !list(c, "/restartPolicyRules").is_empty());
        let policy = if own.is_empty() { policy } else { own };
        let ended = &was["state"]["terminated"];
        let restarts = policy == "Always"
            || rules
            || (policy == "OnFailure" && ended["exitCode"] != 0)
            || (kind == "initContainers" && container.is_some_and(is_sidecar));
        if !ended.is_object() || restarts {
            continue;
        }
        let starts = |c: &Field<'_>| c.get("name").str() == name && !c.value["state"]["terminated"].is_object();
        if new.items().any(|c| starts(&c)) {
            errors.push(api::FieldError::forbidden(
                format!("{new}[{index}].state"),
                "may not be transitioned to non-terminated state",
            ));
        }
    }
}

fn claims(statuses: &Field<'_>, claims: &[Value], errors: &mut Errors) {
    let mut seen = HashSet::new();
    for status in statuses.items() {
        let name = status.get("name");
        if !claims.iter().any(|claim| text(claim, "/name") == name.str()) {
            name.invalid(errors, "must match the name of an entry in `spec.resourceClaims`");
        }
        if !seen.insert(name.str().to_owned()) {
            name.duplicate(errors);
        }
        let claim = status.get("resourceClaimName");
        if claim.exists() {
            name.showing(claim.value).check(errors, names::dns1123_subdomain);
        }
    }
}

/// Addresses, at most one of each family.
fn pod_ips(list: &Field<'_>, errors: &mut Errors) {
    for entry in list.items() {
        let address = entry.get("ip");
        ip::ip(&entry.showing(address.value), errors);
    }
    if list.len() < 2 {
        return;
    }
    let all: Vec<&str> = list
        .value
        .as_array()
        .into_iter()
        .flatten()
        .map(|v| text(v, "/ip"))
        .collect();
    let families: HashSet<bool> = all
        .iter()
        .filter_map(|ip| ip::parse(ip))
        .map(|ip| ip.is_ipv4())
        .collect();
    if families.len() < 2 || all.len() > 2 {
        list.invalid(errors, "may specify no more than one IP for each IP family");
    }
    let mut seen = HashSet::new();
    for entry in list.items() {
        if !seen.insert(entry.get("ip").str().to_owned()) {
            entry.duplicate(errors);
        }
    }
}

fn container_statuses(statuses: &Field<'_>, containers: &[Value], kind: &str, errors: &mut Errors) {
    for status in statuses.items() {
        let user = status.get("user");
        let linux = status.get("linux").showing(user.get("linux").value);
        id(&linux.get("uid"), errors);
        id(&linux.get("gid"), errors);
        linux
            .get("supplementalGroups")
            .items()
            .for_each(|group| id(&group, errors));
        let allocated = status.get(ALLOCATED);
        if kind == "ephemeralContainers" {
            if !allocated.is_empty() {
                allocated.forbidden(errors, "must not be specified in container status");
            }
            continue;
        }
        let container = containers.iter().find(|c| same(&c["name"], status.get("name").value));
        for resource in allocated.items() {
            allocated_resource(&resource, container, errors);
        }
    }
}

fn allocated_resource(resource: &Field<'_>, container: Option<&Value>, errors: &mut Errors) {
    let name = resource.get("name");
    if let Some(container) = container {
        let claimed = |claim: &Value| {
            let request = text(claim, "/request");
            let slash = if request.is_empty() { "" } else { "/" };
            format!("claim:{}{slash}{request}", text(claim, "/name")) == name.str()
        };
        let (found, detail) = if name.str().starts_with("claim:") {
            let found = list(container, "/resources/claims").iter().any(claimed);
            (
                found,
                "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty",
            )
        } else {
            let found = container["resources"]["requests"].get(name.str()).is_some();
            (found, "must match one of the container's resource requests")
        };
        if !found {
            name.invalid(errors, detail);
        }
    }
    let mut seen = HashSet::new();
    for one in resource.get("resources").items() {
        one.get("health").one_of(errors, &["Healthy", "Unhealthy", "Unknown"]);
        if !seen.insert(one.get("resourceID").str().to_owned()) {
            one.get("resourceID").duplicate(errors);
        }
    }
}
