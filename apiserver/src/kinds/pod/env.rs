//! Validation of a container's environment.

use api::names;

use super::containers::Surroundings;
use crate::kinds::common::parse_quantity;
use crate::kinds::field::{Errors, Field};

const FIELDS: &[&str] = &[
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
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const SIZES: [&str; 13] = [
    "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
];
const SOURCES: [&str; 5] = [
    "fieldRef",
    "resourceFieldRef",
    "configMapKeyRef",
    "secretKeyRef",
    "fileKeyRef",
];

/// `env`.
pub fn variables(env: &Field<'_>, around: &Surroundings<'_>, errors: &mut Errors) {
    for variable in env.items() {
        variable.get("name").required_check(errors, names::env_var);
        let from = variable.get("valueFrom");
        if from.exists() {
            value_from(&from, variable.get("value").is_empty(), around, errors);
        }
    }
}

fn value_from(from: &Field<'_>, no_value: bool, around: &Surroundings<'_>, errors: &mut Errors) {
    let found = SOURCES.iter().filter(|name| from.get(name).exists()).count();
    field_ref(&from.get("fieldRef"), FIELDS, errors);
    resource_ref(&from.get("resourceFieldRef"), false, errors);
    for name in ["configMapKeyRef", "secretKeyRef"] {
        let reference = from.get(name);
        if reference.exists() {
            reference.get("name").check(errors, names::dns1123_subdomain);
            reference.get("key").required_check(errors, names::config_map_key);
        }
    }
    file_ref(&from.get("fileKeyRef"), around, errors);
    match found {
        0 => from.invalid_as(
            errors,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ),
        _ if !no_value => from.invalid_as(errors, "", "may not be specified when `value` is not empty"),
        1 => {}
        _ => from.invalid_as(errors, "", "may not have more than one field specified at a time"),
    }
}

fn file_ref(reference: &Field<'_>, around: &Surroundings<'_>, errors: &mut Errors) {
    if !reference.exists() {
        return;
    }
    reference.get("key").required_check(errors, names::env_var);
    let volume = reference.get("volumeName");
    volume.required_check(errors, names::dns1123_label);
    let path = reference.get("path");
    path.required_check(errors, |_| Vec::new());
    if !path.is_empty() {
        super::volumes::local(&path, errors);
    }
    match around.volumes.get(volume.str()) {
        _ if volume.is_empty() => {}
        None => volume.not_found(errors),
        Some(source) if source.get("emptyDir").is_none() => {
            volume.invalid(errors, "referenced volume must be of type emptyDir");
        }
        Some(_) => {}
    }
}

/// A reference to a field of the pod; missing is fine.
pub fn field_ref(reference: &Field<'_>, supported: &[&str], errors: &mut Errors) {
    if !reference.exists() {
        return;
    }
    let (version, path) = (reference.get("apiVersion"), reference.get("fieldPath"));
    if version.is_empty() {
        return version.required(errors, "");
    }
    if path.is_empty() {
        return path.required(errors, "");
    }
    if version.str() != "v1" {
        let detail = format!("error converting fieldPath: unsupported pod version: {}", version.str());
        return path.invalid(errors, detail);
    }
    let subscript = path.str().strip_suffix("']").and_then(|p| p.split_once("['"));
    match subscript {
        Some((map @ ("metadata.annotations" | "metadata.labels"), key)) => {
            let key = match map {
                "metadata.annotations" => key.to_lowercase(),
                _ => key.to_owned(),
            };
            for detail in names::qualified_name(&key) {
                reference.invalid_as(errors, key.as_str(), detail);
            }
        }
        Some((other, _)) if is_field(other) => reference.invalid_as(errors, other, "does not support subscript"),
        None if is_field(path.str()) => path.one_of(errors, supported),
        _ => path.invalid(
            errors,
            format!("error converting fieldPath: field label not supported: {}", path.str()),
        ),
    }
}

/// The fields of a pod that have a label at all.
fn is_field(path: &str) -> bool {
    const OTHERS: [&str; 6] = [
        "metadata.annotations",
        "metadata.labels",
        "spec.restartPolicy",
        "spec.schedulerName",
        "status.phase",
        "spec.hostNetwork",
    ];
    FIELDS.contains(&path) || OTHERS.contains(&path)
}

/// A reference to a container's resources; missing is fine. In a volume it must say whose.
pub fn resource_ref(reference: &Field<'_>, in_volume: bool, errors: &mut Errors) {
    if !reference.exists() {
        return;
    }
    let (container, resource) = (reference.get("containerName"), reference.get("resource"));
    let huge = ["requests.hugepages-", "limits.hugepages-"]
        .iter()
        .any(|prefix| resource.str().starts_with(prefix));
    if in_volume && container.is_empty() {
        container.required(errors, "");
    } else if resource.is_empty() {
        resource.required(errors, "");
    } else if !huge {
        resource.one_of(errors, RESOURCES);
    }
    divisor(&reference.get("divisor"), resource.str(), huge, errors);
}

fn divisor(divisor: &Field<'_>, resource: &str, huge: bool, errors: &mut Errors) {
    let Some(amount) = parse_quantity(divisor.value).filter(|q| !q.is_zero()) else {
        return;
    };
    let amount = amount.to_string();
    let sizes = |of: &str| {
        format!(
            "only divisor's values {} are supported with the {of} resource",
            SIZES.join(", ")
        )
    };
    let is_size = SIZES.contains(&amount.as_str());
    let detail = match resource {
        "limits.cpu" | "requests.cpu" if amount != "1" && amount != "1m" => {
            "only divisor's values 1m and 1 are supported with the cpu resource".to_owned()
        }
        "limits.memory" | "requests.memory" if !is_size => sizes("memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" if !is_size => sizes("local ephemeral storage"),
        _ if huge && !is_size => sizes("hugepages"),
        _ => return,
    };
    divisor.invalid_as(errors, resource, detail);
}

/// `envFrom`.
pub fn sources(list: &Field<'_>, errors: &mut Errors) {
    for source in list.items() {
        source.get("prefix").check_if_set(errors, names::env_var);
        let mut found = 0;
        for name in ["configMapRef", "secretRef"] {
            let reference = source.get(name);
            if reference.exists() {
                found += 1;
                reference.get("name").required_check(errors, prefix_or_name);
            }
        }
        match found {
            0 => list.invalid_as(errors, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => list.invalid_as(errors, "", "may not have more than one field specified at a time"),
        }
    }
}

/// Upstream lets these names end with a dash, as a prefix may.
fn prefix_or_name(name: &str) -> Vec<String> {
    let masked = match name.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => name.to_owned(),
    };
    names::dns1123_subdomain(&masked)
}
