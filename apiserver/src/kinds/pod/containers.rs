//! Validation of containers: names, images, ports, environment, mounts, probes, hooks, resources, security.

use std::collections::HashSet;

use api::names;
use serde_json::Value;

use super::validate::{id_range, seccomp};
use crate::kinds::common::{parse_quantity, quantity};
use crate::kinds::field::{Errors, Field, port_number};

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
/// Upstream's order is that of a Go set listed: alphabetical.
const DOWNWARD_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// All three lists of a pod's spec. `volumes` are the names of its volumes.
pub fn all(spec: &Field<'_>, volumes: &HashSet<&str>, errors: &mut Errors) {
    let containers = spec.get("containers");
    if containers.is_empty() {
        containers.required(errors, "");
    }
    let host_network = spec.get("hostNetwork").bool();
    let mut seen = HashSet::new();
    for c in containers.items() {
        container(&c, volumes, host_network, errors);
        unique_name(&c, &mut seen, errors);
        let restart = c.get("restartPolicy");
        if restart.exists() {
            restart.forbidden(errors, "may not be set for non-init containers");
        }
    }
    host_port_conflicts(&containers, errors);
    for c in spec.get("initContainers").items() {
        container(&c, volumes, host_network, errors);
        unique_name(&c, &mut seen, errors);
        init_container(&c, errors);
    }
    for c in spec.get("ephemeralContainers").items() {
        container(&c, volumes, false, errors);
        unique_name(&c, &mut seen, errors);
    }
}

fn unique_name(c: &Field<'_>, seen: &mut HashSet<String>, errors: &mut Errors) {
    let name = c.get("name");
    if !name.is_empty() && !seen.insert(name.str().to_owned()) {
        name.duplicate(errors);
    }
}

fn init_container(c: &Field<'_>, errors: &mut Errors) {
    let restart = c.get("restartPolicy");
    if restart.exists() {
        restart.one_of(errors, &["Always"]);
    }
    if restart.str() == "Always" {
        return;
    }
    for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        let field = c.get(name);
        if field.exists() {
            field.forbidden(
                errors,
                "may not be set for init containers without restartPolicy=Always",
            );
        }
    }
}

fn container(c: &Field<'_>, volumes: &HashSet<&str>, host_network: bool, errors: &mut Errors) {
    let name = c.get("name");
    if name.is_empty() {
        name.required(errors, "")
    } else {
        name.invalid_all(errors, names::dns1123_label(name.str()))
    }
    let image = c.get("image");
    if image.is_empty() {
        image.required(errors, "");
    } else if image.str().trim() != image.str() {
        image.invalid(errors, "must not have leading or trailing whitespace");
    }
    c.get("imagePullPolicy").required_one_of(errors, PULL_POLICIES);
    c.get("terminationMessagePolicy")
        .required_one_of(errors, &["File", "FallbackToLogsOnError"]);
    ports(&c.get("ports"), host_network, errors);
    env(&c.get("env"), errors);
    env_from(&c.get("envFrom"), errors);
    mounts(&c.get("volumeMounts"), volumes, errors);
    for device in c.get("volumeDevices").items() {
        mount_volume(&device, volumes, errors);
    }
    for p in ["livenessProbe", "readinessProbe", "startupProbe"] {
        probe(&c.get(p), p != "readinessProbe", errors);
    }
    let lifecycle = c.get("lifecycle");
    for hook in ["postStart", "preStop"] {
        let hook = lifecycle.get(hook);
        if hook.exists() {
            handler(&hook, &["exec", "httpGet", "tcpSocket", "sleep"], errors);
        }
    }
    resources(&c.get("resources"), errors);
    let security = c.get("securityContext");
    id_range(&security.get("runAsUser"), errors);
    id_range(&security.get("runAsGroup"), errors);
    seccomp(&security.get("seccompProfile"), errors);
    let escalation = security.get("allowPrivilegeEscalation");
    if escalation.value == &Value::Bool(false) && security.get("privileged").bool() {
        security.invalid(
            errors,
            "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        );
    }
}

fn ports(ports: &Field<'_>, host_network: bool, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for port in ports.items() {
        let name = port.get("name");
        if !name.is_empty() {
            let messages = names::port_name(name.str());
            if messages.is_empty() && !seen.insert(name.str().to_owned()) {
                name.duplicate(errors);
            }
            name.invalid_all(errors, messages);
        }
        let number = port.get("containerPort");
        if number.int().unwrap_or(0) == 0 {
            number.required(errors, "")
        } else {
            port_number(&number, errors)
        }
        let host = port.get("hostPort");
        if host.int().is_some_and(|n| n != 0) {
            port_number(&host, errors);
            if host_network && host.value != number.value {
                number.invalid(errors, "must match `hostPort` when `hostNetwork` is true");
            }
        }
        port.get("protocol").required_one_of(errors, &["SCTP", "TCP", "UDP"]);
    }
}

/// Two containers of a pod cannot take the same port of the node.
fn host_port_conflicts(containers: &Field<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for c in containers.items() {
        for port in c.get("ports").items() {
            let host = port.get("hostPort");
            let Some(number) = host.int().filter(|n| *n != 0) else {
                continue;
            };
            let key = (
                number,
                port.get("protocol").str().to_owned(),
                port.get("hostIP").str().to_owned(),
            );
            if !seen.insert(key) {
                host.duplicate(errors);
            }
        }
    }
}

fn env(env: &Field<'_>, errors: &mut Errors) {
    for variable in env.items() {
        let name = variable.get("name");
        if name.is_empty() {
            name.required(errors, "")
        } else {
            name.invalid_all(errors, names::env_var(name.str()))
        }
        let from = variable.get("valueFrom");
        if !from.exists() {
            continue;
        }
        let sources = from
            .value
            .as_object()
            .map_or(0, |map| map.values().filter(|v| !v.is_null()).count());
        if sources == 0 {
            from.invalid(errors, "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`");
        } else if !variable.get("value").is_empty() {
            from.invalid(errors, "may not be specified when `value` is not empty");
        } else if sources > 1 {
            from.invalid(errors, "may not have more than one field specified at a time");
        }
        field_ref(&from.get("fieldRef"), DOWNWARD_FIELDS, errors);
        for source in ["configMapKeyRef", "secretKeyRef"] {
            key_ref(&from.get(source), errors);
        }
        resource_field_ref(&from.get("resourceFieldRef"), errors);
    }
}

/// A reference to a field of the pod; missing is fine.
pub fn field_ref(reference: &Field<'_>, supported: &[&str], errors: &mut Errors) {
    if !reference.exists() {
        return;
    }
    let version = reference.get("apiVersion");
    if version.is_empty() {
        version.required(errors, "");
    }
    let path = reference.get("fieldPath");
    if path.is_empty() {
        return path.required(errors, "");
    }
    let base = path.str().split_once('[').map_or(path.str(), |(base, _)| base);
    let subscript = path.str().ends_with("']");
    if subscript && !matches!(base, "metadata.labels" | "metadata.annotations") {
        path.invalid(
            errors,
            "error converting fieldPath: field label does not support subscript",
        );
    } else if !supported.contains(&base) {
        path.not_supported(errors, supported);
    }
}

/// A reference to a container's resource; missing is fine.
pub fn resource_field_ref(reference: &Field<'_>, errors: &mut Errors) {
    let resource = reference.get("resource");
    if reference.exists() && resource.is_empty() {
        resource.required(errors, "");
    }
}

fn key_ref(reference: &Field<'_>, errors: &mut Errors) {
    if !reference.exists() {
        return;
    }
    for name in ["name", "key"] {
        let field = reference.get(name);
        if field.is_empty() {
            field.required(errors, "");
        } else if name == "key" {
            field.invalid_all(errors, names::config_map_key(field.str()));
        }
    }
}

fn env_from(sources: &Field<'_>, errors: &mut Errors) {
    for source in sources.items() {
        let prefix = source.get("prefix");
        if !prefix.is_empty() {
            prefix.invalid_all(errors, names::env_var(prefix.str()));
        }
        let given = ["configMapRef", "secretRef"]
            .into_iter()
            .filter(|name| source.get(name).exists())
            .count();
        match given {
            0 => source.invalid(errors, "must specify one of: `configMapRef` or `secretRef`"),
            2 => source.invalid(errors, "may not have more than one field specified at a time"),
            _ => {}
        }
        for name in ["configMapRef", "secretRef"] {
            let reference = source.get(name);
            let name = reference.get("name");
            if reference.exists() && name.is_empty() {
                name.required(errors, "");
            }
        }
    }
}

fn mount_volume(mount: &Field<'_>, volumes: &HashSet<&str>, errors: &mut Errors) {
    let name = mount.get("name");
    if name.is_empty() {
        name.required(errors, "");
    } else if !volumes.contains(name.str()) {
        name.not_found(errors);
    }
}

fn mounts(mounts: &Field<'_>, volumes: &HashSet<&str>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for mount in mounts.items() {
        mount_volume(&mount, volumes, errors);
        let path = mount.get("mountPath");
        if path.is_empty() {
            path.required(errors, "");
        } else if !seen.insert(path.str().to_owned()) {
            path.invalid(errors, "must be unique");
        }
        let sub = mount.get("subPath");
        local_path(&sub, errors);
        let expression = mount.get("subPathExpr");
        if !expression.is_empty() && !sub.is_empty() {
            expression.invalid(errors, "subPathExpr and subPath are mutually exclusive");
        }
        local_path(&expression, errors);
        let propagation = mount.get("mountPropagation");
        if propagation.exists() {
            propagation.one_of(errors, &["Bidirectional", "HostToContainer", "None"]);
        }
    }
}

/// A path inside of a volume: relative, and never upwards.
pub fn local_path(path: &Field<'_>, errors: &mut Errors) {
    if path.str().starts_with('/') {
        path.invalid(errors, "must be a relative path");
    }
    if path.str().split('/').any(|part| part == "..") {
        path.invalid(errors, "must not contain '..'");
    }
}

fn probe(probe: &Field<'_>, one_success: bool, errors: &mut Errors) {
    if !probe.exists() {
        return;
    }
    handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], errors);
    for name in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        probe.get(name).non_negative(errors);
    }
    let success = probe.get("successThreshold");
    if one_success && success.int().is_some_and(|n| n != 1) {
        success.invalid(errors, "must be 1");
    }
    let grace = probe.get("terminationGracePeriodSeconds");
    if grace.int().is_some_and(|n| n <= 0) {
        grace.invalid(errors, "must be greater than 0");
    }
}

fn handler(handler: &Field<'_>, kinds: &[&str], errors: &mut Errors) {
    let mut found = 0;
    for kind in kinds {
        let action = handler.get(kind);
        if !action.exists() {
            continue;
        }
        found += 1;
        if found > 1 {
            action.forbidden(errors, "may not specify more than 1 handler type");
            continue;
        }
        let one = |name: &str, errors: &mut Errors| {
            let field = action.get(name);
            if field.is_empty() {
                field.required(errors, "");
            }
        };
        match *kind {
            "exec" => one("command", errors),
            "httpGet" => {
                one("path", errors);
                handler_port(&action.get("port"), errors);
                action.get("scheme").one_of(errors, &["HTTP", "HTTPS"]);
            }
            "tcpSocket" => handler_port(&action.get("port"), errors),
            "grpc" => port_number(&action.get("port"), errors),
            _ => {}
        }
    }
    if found == 0 {
        handler.required(errors, "must specify a handler type");
    }
}

fn handler_port(port: &Field<'_>, errors: &mut Errors) {
    match port.value {
        Value::String(name) => port.invalid_all(errors, names::port_name(name)),
        _ => port_number(port, errors),
    }
}

fn resources(resources: &Field<'_>, errors: &mut Errors) {
    let (limits, requests) = (resources.get("limits"), resources.get("requests"));
    for (name, amount) in limits.entries() {
        resource_name(&limits, name, errors);
        quantity(&amount, errors);
    }
    for (name, amount) in requests.entries() {
        resource_name(&requests, name, errors);
        let Some(requested) = quantity(&amount, errors) else {
            continue;
        };
        let limit = limits.key(name);
        let extended = name.contains('/') || name.starts_with("hugepages-");
        match parse_quantity(limit.value) {
            Some(limit) if extended && limit != requested => {
                amount.invalid(errors, format!("must be equal to {name} limit of {limit}"))
            }
            Some(limit) if requested > limit => {
                amount.invalid(errors, format!("must be less than or equal to {name} limit of {limit}"))
            }
            None if extended => limits.required(errors, "Limit must be set for non overcommitable resources"),
            _ => {}
        }
    }
}

fn resource_name(list: &Field<'_>, name: &str, errors: &mut Errors) {
    let field = list.key(name);
    let shown = Value::from(name);
    let shown = field.showing(&shown);
    let known = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !names::qualified_name(name).is_empty() {
        shown.invalid_all(errors, names::qualified_name(name));
    } else if !name.contains('/') && !known {
        shown.invalid(errors, "must be a standard resource type or fully qualified");
    }
}
