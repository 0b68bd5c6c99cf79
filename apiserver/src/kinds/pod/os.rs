//! What a pod's operating system allows, and the options of Windows containers.

use api::names;
use serde_json::Value;

use super::containers::each;
use crate::kinds::field::{Errors, Field};

const CREDENTIALS_MAX: usize = 64 << 10;
const DOMAIN_MAX: usize = 256;
const USER_MAX: usize = 104;
const WINDOWS: &str = "cannot be set for a windows pod";

/// `spec.os` and what follows from it.
pub fn validate(spec: &Field<'_>, errors: &mut Errors) {
    let os = spec.get("os");
    if !os.exists() {
        return;
    }
    match os.get("name").str() {
        "" => os.get("name").required(errors, "cannot be empty"),
        "linux" => linux(spec, errors),
        "windows" => windows(spec, errors),
        other => {
            let name = Value::from(other);
            os.showing(&name).not_supported(errors, &["linux", "windows"]);
        }
    }
}

fn linux(spec: &Field<'_>, errors: &mut Errors) {
    let mut check = |context: &Field<'_>| {
        let options = context.get("windowsOptions");
        if options.exists() {
            options.forbidden(errors, "windows options cannot be set for a linux pod");
        }
    };
    check(&spec.get("securityContext"));
    each(spec, &mut |c| check(&c.get("securityContext")));
}

fn windows(spec: &Field<'_>, errors: &mut Errors) {
    const POD: [(bool, &str); 15] = [
        (true, "appArmorProfile"),
        (true, "seLinuxOptions"),
        (false, "hostUsers"),
        (false, "hostPID"),
        (false, "hostIPC"),
        (true, "seccompProfile"),
        (true, "fsGroup"),
        (true, "fsGroupChangePolicy"),
        (true, "sysctls"),
        (false, "shareProcessNamespace"),
        (true, "runAsUser"),
        (true, "runAsGroup"),
        (true, "supplementalGroups"),
        (true, "supplementalGroupsPolicy"),
        (true, "seLinuxChangePolicy"),
    ];
    const CONTAINER: [&str; 10] = [
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "capabilities",
        "readOnlyRootFilesystem",
        "privileged",
        "allowPrivilegeEscalation",
        "procMount",
        "runAsUser",
        "runAsGroup",
    ];
    let context = spec.get("securityContext");
    for (in_context, name) in POD {
        let field = if in_context { context.get(name) } else { spec.get(name) };
        // The namespaces of the node are plain truth values, where false is the same as nothing.
        let set = field.bool() || (!matches!(name, "hostPID" | "hostIPC") && field.exists());
        if set {
            field.forbidden(errors, WINDOWS);
        }
    }
    each(spec, &mut |c| {
        let context = c.get("securityContext");
        for name in CONTAINER {
            if context.get(name).exists() {
                context.get(name).forbidden(errors, WINDOWS);
            }
        }
    });
}

/// Containers in the host's own namespaces: all of a pod's or none.
pub fn host_process(spec: &Field<'_>, errors: &mut Errors) {
    let own = |holder: &Field<'_>| holder.value["securityContext"]["windowsOptions"]["hostProcess"].as_bool();
    let of_pod = own(spec);
    let (mut all, mut in_host) = (0, 0);
    each(spec, &mut |c| {
        all += 1;
        let of_container = own(c);
        if let (Some(pod), Some(container)) = (of_pod, of_container)
            && pod != container
        {
            errors.push(api::FieldError::invalid(
                format!("{c}.securityContext.windowsOptions.hostProcess"),
                container,
                format!("pod hostProcess value must be identical if both are specified, was {pod}"),
            ));
        }
        in_host += i32::from(of_container.or(of_pod) == Some(true));
    });
    if in_host == 0 {
        return;
    }
    if in_host != all {
        spec.invalid_as(
            errors,
            "",
            "If pod contains any hostProcess containers then all containers must be HostProcess containers",
        );
    }
    if !spec.get("hostNetwork").bool() {
        spec.get("hostNetwork").invalid_as(
            errors,
            false,
            "hostNetwork must be true if pod contains any hostProcess containers",
        );
    }
}

/// `windowsOptions` of a pod or a container.
pub fn windows_options(options: &Field<'_>, errors: &mut Errors) {
    let (name, credentials, user) = (
        options.get("gmsaCredentialSpecName"),
        options.get("gmsaCredentialSpec"),
        options.get("runAsUserName"),
    );
    if name.exists() {
        name.check(errors, names::dns1123_subdomain);
    }
    if credentials.exists() && credentials.is_empty() {
        credentials.invalid(errors, "gmsaCredentialSpec cannot be an empty string");
    } else if credentials.str().len() > CREDENTIALS_MAX {
        credentials.invalid(errors, "gmsaCredentialSpec size must be under 64 KiB");
    }
    if user.exists() {
        user_name(&user, errors);
    }
}

fn user_name(field: &Field<'_>, errors: &mut Errors) {
    let text = field.str();
    let mut fault = |detail: &str| field.invalid(errors, format!("runAsUserName{detail}"));
    if text.is_empty() {
        return fault(" cannot be an empty string");
    }
    if text.chars().any(|c| c.is_ascii_control()) {
        return fault(" cannot contain control characters");
    }
    let parts: Vec<&str> = text.split('\\').collect();
    let (domain, user) = match parts.as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return fault(" cannot contain more than one backslash"),
    };
    if domain.is_some_and(|d| d.len() >= DOMAIN_MAX) {
        fault("'s Domain length must be under 256 characters");
    }
    if domain.is_some_and(|d| !is_net_bios(d) && !is_dns(d)) {
        fault("'s Domain doesn't match the NetBios nor the DNS format");
    }
    if user.is_empty() {
        fault("'s User cannot be empty");
    } else if user.len() > USER_MAX {
        fault("'s User length must not be longer than 104 characters");
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        fault("'s User cannot contain only periods or spaces");
    }
    if user.contains([
        '"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']',
    ]) {
        fault("'s User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
    }
}

fn is_net_bios(domain: &str) -> bool {
    let length = domain.chars().count();
    (1..=15).contains(&length)
        && !domain.starts_with('.')
        && !domain.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|'])
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let bytes = label.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
    })
}
