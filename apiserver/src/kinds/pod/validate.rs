//! Validation of a pod's spec as a whole, shared by pods and every pod template. Containers, volumes, scheduling and security have files of
//! their own. Source: `pkg/apis/core/validation/validation.go`.

use api::names;
use serde_json::{Value, json};

use super::containers::{self, Surroundings};
use super::{annotations, os, placement, resources, security, volumes};
use crate::kinds::common::labels;
use crate::kinds::field::{Errors, Field};
use crate::kinds::ip;

/// Whose spec it is.
#[derive(Clone, Copy)]
pub struct Owner<'a> {
    /// A pod itself, not a template of one.
    pub is_pod: bool,
    /// The pod's name; empty for templates.
    pub name: &'a str,
}

/// A template, whose pods have no name yet.
pub const TEMPLATE: Owner<'_> = Owner {
    is_pod: false,
    name: "",
};

const NAMESERVERS: usize = 3;
const SEARCH_PATHS: usize = 32;
const SEARCH_LIST: usize = 2048;

/// Metadata and spec of a pod, whatever is done to it.
pub fn pod(root: &Field<'_>, errors: &mut Errors) {
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    let owner = Owner {
        is_pod: true,
        name: metadata.get("name").str(),
    };
    annotations::pod(&metadata.get("annotations"), &spec, errors);
    pod_spec(&spec, owner, errors);
    if spec.get("serviceAccountName").is_empty() {
        no_tokens(&spec.get("volumes"), errors);
    }
    for list in ["containers", "initContainers"] {
        for c in spec.get(list).items() {
            containers::no_padding(&c.get("image"), errors);
        }
    }
}

/// Without a service account there is no token to project.
fn no_tokens(volumes: &Field<'_>, errors: &mut Errors) {
    for volume in volumes.items() {
        let projected = volume.get("projected");
        for source in projected.get("sources").items() {
            let token = source.get("serviceAccountToken");
            if token.exists() {
                token.forbidden(errors, "must not be specified when serviceAccountName is not set");
            }
        }
    }
}

/// A new pod.
pub fn pod_create(root: &Field<'_>, errors: &mut Errors) {
    pod(root, errors);
    let spec = root.get("spec");
    let ephemeral = spec.get("ephemeralContainers");
    if !ephemeral.is_empty() {
        ephemeral.forbidden(errors, "cannot be set on create");
    }
    if !spec.get("schedulingGates").is_empty() && !spec.get("nodeName").is_empty() {
        spec.get("nodeName")
            .forbidden(errors, "cannot be set until all schedulingGates have been cleared");
    }
    let metadata = root.get("metadata");
    annotations::match_fields(&metadata.get("annotations"), &spec, errors);
}

/// A pod template of a workload.
pub fn template(template: &Field<'_>, errors: &mut Errors) {
    let (metadata, spec) = (template.get("metadata"), template.get("spec"));
    // Upstream leaves `metadata` out of these paths.
    let (labels_path, path) = (format!("{template}.labels"), format!("{template}.annotations"));
    labels(&Field::root(&labels_path, metadata.get("labels").value), errors);
    let notes = Field::root(&path, metadata.get("annotations").value);
    annotations::keys(&notes, errors);
    annotations::pod(&notes, &spec, errors);
    pod_spec(&spec, TEMPLATE, errors);
    annotations::match_fields(&notes, &spec, errors);
    let ephemeral = spec.get("ephemeralContainers");
    if !ephemeral.is_empty() {
        ephemeral.forbidden(errors, "ephemeral containers not allowed in pod template");
    }
}

/// A `PodSpec`.
pub fn pod_spec(spec: &Field<'_>, owner: Owner<'_>, errors: &mut Errors) {
    let grace = spec.get("terminationGracePeriodSeconds");
    if !grace.exists() {
        grace.required(errors, "");
    }
    let restart = spec.get("restartPolicy");
    let volumes = volumes::volumes(&spec.get("volumes"), owner, errors);
    let claims = resources::pod_claims(&spec.get("resourceClaims"), errors);
    let around = Surroundings {
        volumes: &volumes,
        claims: &claims,
        grace: grace.int(),
        restart_policy: restart.str(),
        host_users: spec.get("hostUsers").value != &Value::Bool(false),
    };
    containers::all(spec, &around, errors);
    resources::pod_level(spec, errors);
    host_network_ports(spec, owner, errors);
    restart.required_one_of(errors, &["Always", "OnFailure", "Never"]);
    spec.get("dnsPolicy")
        .required_one_of(errors, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    labels(&spec.get("nodeSelector"), errors);
    security::pod(spec, errors);
    placement::affinity(&spec.get("affinity"), errors);
    dns_config(spec, errors);
    gates(spec, errors);
    placement::spread(&spec.get("topologySpreadConstraints"), owner.is_pod, errors);
    os::host_process(spec, errors);
    security::host_users(spec, errors);
    simple_fields(spec, errors);
    resources::overhead(&spec.get("overhead"), errors);
    os::validate(spec, errors);
}

fn simple_fields(spec: &Field<'_>, errors: &mut Errors) {
    spec.get("serviceAccountName")
        .check_if_set(errors, names::dns1123_subdomain);
    spec.get("nodeName").check_if_set(errors, names::dns1123_subdomain);
    spec.get("activeDeadlineSeconds")
        .in_range_if_set(errors, 1, i64::from(i32::MAX));
    spec.get("hostname").check_if_set(errors, names::dns1123_label);
    host_name_override(spec, errors);
    spec.get("subdomain").check_if_set(errors, names::dns1123_label);
    for toleration in spec.get("tolerations").items() {
        placement::toleration(&toleration, errors);
    }
    for alias in spec.get("hostAliases").items() {
        ip::ip(&alias.get("ip"), errors);
        for host in alias.get("hostnames").items() {
            host.check(errors, names::dns1123_subdomain);
        }
    }
    spec.get("priorityClassName")
        .check_if_set(errors, names::dns1123_subdomain);
    let runtime = spec.get("runtimeClassName");
    if runtime.exists() {
        runtime.check(errors, names::dns1123_subdomain);
    }
    let preemption = spec.get("preemptionPolicy");
    if preemption.exists() {
        preemption.required_one_of(errors, &["PreemptLowerPriority", "Never"]);
    }
}

/// A host name of the pod's own choice: one that Linux takes, and not for pods that have the node's.
fn host_name_override(spec: &Field<'_>, errors: &mut Errors) {
    const LONGEST: usize = 64;
    let name = spec.get("hostnameOverride");
    if !name.exists() {
        return;
    }
    if spec.get("hostNetwork").bool() {
        name.forbidden(errors, "may not be specified when hostNetwork is true");
    }
    if spec.get("setHostnameAsFQDN").bool() {
        name.forbidden(errors, "may not be specified when setHostnameAsFQDN is true");
    }
    if name.str().len() > LONGEST {
        name.too_long(errors, LONGEST);
    }
    name.check(errors, names::dns1123_subdomain);
}

/// With the node's network a container's ports are the node's.
fn host_network_ports(spec: &Field<'_>, owner: Owner<'_>, errors: &mut Errors) {
    if !spec.get("hostNetwork").bool() {
        return;
    }
    let containers = spec.get("containers");
    for c in containers.items() {
        let ports = c.get("ports");
        for port in ports.items() {
            let host = port.get("hostPort");
            if (owner.is_pod || host.number() != 0) && host.number() != port.get("containerPort").number() {
                host.invalid_as(
                    errors,
                    host.number(),
                    "must match `containerPort` when `hostNetwork` is true",
                );
            }
        }
    }
}

fn dns_config(spec: &Field<'_>, errors: &mut Errors) {
    let config = spec.get("dnsConfig");
    let (servers, searches, options) = (config.get("nameservers"), config.get("searches"), config.get("options"));
    if spec.get("dnsPolicy").str() == "None" {
        if !config.exists() {
            return config.required(errors, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if servers.is_empty() {
            return servers.required(
                errors,
                "must provide at least one DNS nameserver when `dnsPolicy` is None",
            );
        }
    }
    if servers.len() > NAMESERVERS {
        servers.invalid(errors, format!("must not have more than {NAMESERVERS} nameservers"));
    }
    servers.items().for_each(|server| ip::ip(&server, errors));
    if searches.len() > SEARCH_PATHS {
        searches.invalid(errors, format!("must not have more than {SEARCH_PATHS} search paths"));
    }
    let length: usize = searches.items().map(|s| s.str().len() + 1).sum();
    if length > SEARCH_LIST + 1 {
        searches.invalid(
            errors,
            format!("must not have more than {SEARCH_LIST} characters (including spaces) in the search list"),
        );
    }
    for search in searches.items().filter(|s| s.str() != ".") {
        let bare = json!(search.str().strip_suffix('.').unwrap_or(search.str()));
        search
            .showing(&bare)
            .check(errors, names::dns1123_subdomain_with_underscore);
    }
    for option in options.items().filter(|o| o.get("name").is_empty()) {
        option.required(errors, "must not be empty");
    }
}

fn gates(spec: &Field<'_>, errors: &mut Errors) {
    let (readiness, scheduling) = (spec.get("readinessGates"), spec.get("schedulingGates"));
    for gate in readiness.items() {
        gate.get("conditionType").check(errors, names::qualified_name);
    }
    let mut seen = std::collections::HashSet::new();
    for gate in scheduling.items() {
        let name = json!(gate.get("name").str());
        gate.showing(&name).check(errors, names::qualified_name);
        if !seen.insert(name.to_string()) {
            gate.duplicate_of(errors, name, "");
        }
    }
}
