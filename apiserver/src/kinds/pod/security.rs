//! Security contexts of pods and containers, seccomp and AppArmor profiles.

use std::collections::HashSet;

use serde_json::Value;

use super::os;
use super::volumes::descending;
use crate::kinds::field::{Errors, Field};

const SYSCTL_MAX: usize = 253;
const PATH_MAX: usize = 4095;
const HIGHEST_ID: i64 = i32::MAX as i64;
const SYSCTL: &str = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// The security context of a pod.
pub fn pod(spec: &Field<'_>, errors: &mut Errors) {
    let context = spec.get("securityContext");
    for name in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&context.get(name), errors);
    }
    context
        .get("supplementalGroups")
        .items()
        .for_each(|group| id(&group, errors));
    // Upstream keeps the field in the security context.
    if spec.get("shareProcessNamespace").bool() && spec.get("hostPID").bool() {
        context.get("shareProcessNamespace").invalid_as(
            errors,
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    sysctls(spec, &context.get("sysctls"), errors);
    context
        .get("fsGroupChangePolicy")
        .one_of_if_set(errors, &["Always", "OnRootMismatch"]);
    seccomp(&context.get("seccompProfile"), errors);
    os::windows_options(&context.get("windowsOptions"), errors);
    app_armor(&context.get("appArmorProfile"), errors);
    context
        .get("supplementalGroupsPolicy")
        .one_of_if_set(errors, &["Merge", "Strict"]);
    context
        .get("seLinuxChangePolicy")
        .one_of_if_set(errors, &["MountOption", "Recursive"]);
}

/// The security context of a container.
pub fn container(context: &Field<'_>, host_users: bool, errors: &mut Errors) {
    if !context.exists() {
        return;
    }
    id(&context.get("runAsUser"), errors);
    id(&context.get("runAsGroup"), errors);
    let mount = context.get("procMount");
    mount.one_of_if_set(errors, &["Default", "Unmasked"]);
    if host_users && mount.str() == "Unmasked" {
        mount.invalid(errors, "`hostUsers` must be false to use `Unmasked`");
    }
    seccomp(&context.get("seccompProfile"), errors);
    if context.get("allowPrivilegeEscalation").value == &Value::Bool(false) {
        if context.get("privileged").bool() {
            context.invalid(
                errors,
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        let capabilities = context.get("capabilities");
        for _ in capabilities.get("add").items().filter(|c| c.str() == "CAP_SYS_ADMIN") {
            context.invalid(
                errors,
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
    os::windows_options(&context.get("windowsOptions"), errors);
    app_armor(&context.get("appArmorProfile"), errors);
}

/// A user namespace of the pod's own goes with no other namespace of the node.
pub fn host_users(spec: &Field<'_>, errors: &mut Errors) {
    if spec.get("hostUsers").value != &Value::Bool(false) {
        return;
    }
    for (set, shown) in [
        ("hostNetwork", "hostNetwork"),
        ("hostPID", "HostPID"),
        ("hostIPC", "HostIPC"),
    ] {
        if spec.get(set).bool() {
            spec.get(shown).forbidden(errors, "when `pod.Spec.HostUsers` is false");
        }
    }
}

/// A user or group id.
pub fn id(field: &Field<'_>, errors: &mut Errors) {
    field.in_range_if_set(errors, 0, HIGHEST_ID);
}

fn sysctls(spec: &Field<'_>, sysctls: &Field<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for sysctl in sysctls.items() {
        let name = sysctl.get("name");
        if name.is_empty() {
            name.required(errors, "");
        } else if !is_sysctl(name.str()) {
            name.invalid(errors, SYSCTL);
        } else if !seen.insert(name.str().to_owned()) {
            name.duplicate(errors);
        }
        for (field, namespace) in [("hostNetwork", "net"), ("hostIPC", "ipc")] {
            if spec.get(field).bool() && sysctl_namespace(name.str()) == namespace {
                name.invalid(errors, format!("may not be specified when '{field}' is true"));
            }
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let segment = |part: &str| {
        let bytes = part.as_bytes();
        bytes.iter().all(|b| alphanumeric(b) || b"-_".contains(b))
            && bytes.first().is_some_and(alphanumeric)
            && bytes.last().is_some_and(alphanumeric)
    };
    name.len() <= SYSCTL_MAX && name.split(['.', '/']).all(segment)
}

/// The kernel namespace that a parameter belongs to, if it has one of its own.
fn sysctl_namespace(name: &str) -> &'static str {
    let name = name.replace('/', ".");
    match name.as_str() {
        "kernel.sem" => "ipc",
        n if n.starts_with("net.") => "net",
        n if n.starts_with("kernel.shm") || n.starts_with("kernel.msg") || n.starts_with("fs.mqueue.") => "ipc",
        _ => "",
    }
}

fn seccomp(profile: &Field<'_>, errors: &mut Errors) {
    if !profile.exists() {
        return;
    }
    let (kind, local) = (profile.get("type"), profile.get("localhostProfile"));
    if kind.is_empty() {
        kind.required(errors, "type is required when seccompProfile is set");
    } else {
        kind.one_of(errors, &["Localhost", "RuntimeDefault", "Unconfined"]);
    }
    match (kind.str(), local.exists()) {
        ("Localhost", false) => local.required(errors, "must be set when seccomp type is Localhost"),
        ("Localhost", true) => descending(&local, errors),
        (_, true) => local.invalid_as(
            errors,
            profile.value.clone(),
            "can only be set when seccomp type is Localhost",
        ),
        (_, false) => {}
    }
}

fn app_armor(profile: &Field<'_>, errors: &mut Errors) {
    if !profile.exists() {
        return;
    }
    let (kind, local) = (profile.get("type"), profile.get("localhostProfile"));
    match kind.str() {
        "Localhost" => {
            if !local.exists() || local.is_empty() {
                local.required(errors, "must be set when AppArmor type is Localhost");
            } else if local.str().trim() != local.str() {
                local.invalid(errors, "must not be padded with whitespace");
            }
            if local.str().len() > PATH_MAX {
                local.too_long(errors, PATH_MAX);
            }
        }
        "RuntimeDefault" | "Unconfined" if local.exists() => {
            local.invalid(errors, "can only be set when AppArmor type is Localhost")
        }
        "RuntimeDefault" | "Unconfined" => {}
        "" => kind.required(errors, "type is required when appArmorProfile is set"),
        _ => kind.not_supported(errors, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_parameters() {
        for (name, namespace) in [
            ("net.core.somaxconn", "net"),
            ("net/core/somaxconn", "net"),
            ("kernel.shmmax", "ipc"),
            ("kernel.sem", "ipc"),
            ("vm.swappiness", ""),
        ] {
            assert!(is_sysctl(name));
            assert_eq!(sysctl_namespace(name), namespace, "{name}");
        }
        for name in ["", ".a", "a..b", "A", "a-", "i@j"] {
            assert!(!is_sysctl(name), "{name}");
        }
    }
}
