//! Annotations that are rules for a pod: mirror pods, deletion cost, and the older forms of seccomp and AppArmor profiles.

use api::FieldError;
use serde_json::Value;

use super::containers::each;
use crate::kinds::field::{Errors, Field, text};

const ALL_MAX: usize = 256 << 10;
/// Marks the API's picture of a pod that a kubelet runs from a file.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
/// The pod's seccomp profile.
pub const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
/// Before a container's name: its seccomp profile.
pub const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
/// Before a container's name: its AppArmor profile.
pub const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Keys and size of any annotations.
pub fn keys(annotations: &Field<'_>, errors: &mut Errors) {
    let mut size = 0;
    for (key, entry) in annotations.entries() {
        for detail in api::names::qualified_name(&key.to_lowercase()) {
            annotations.invalid_as(errors, key, detail);
        }
        size += key.len() + entry.str().len();
    }
    if size > ALL_MAX {
        annotations.too_long(errors, ALL_MAX);
    }
}

/// The annotations of a pod or a template.
pub fn pod(annotations: &Field<'_>, spec: &Field<'_>, errors: &mut Errors) {
    let mirror = annotations.key(MIRROR);
    if mirror.exists() && spec.get("nodeName").is_empty() {
        mirror.invalid(errors, "must set spec.nodeName if mirror pod annotation is set");
    }
    let tolerations = annotations.key(TOLERATIONS);
    if !tolerations.is_empty() && serde_json::from_str::<Vec<Value>>(tolerations.str()).is_err() {
        annotations.invalid_as(errors, TOLERATIONS, "must be a list of tolerations in JSON");
    }
    let cost = annotations.key(DELETION_COST);
    if cost.exists() && !is_cost(cost.str()) {
        cost.invalid(errors, "must be a 32bit integer");
    }
    for (key, profile) in annotations.entries() {
        if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) {
            seccomp(&format!("{annotations}.{key}"), profile.str(), errors);
        }
        if let Some(container) = key.strip_prefix(APP_ARMOR) {
            app_armor(&profile, container, spec, errors);
        }
    }
}

/// A sign and no leading zeros.
fn is_cost(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = digits == "0" || !digits.starts_with(['0', '+']);
    plain && text != "-0" && text.parse::<i32>().is_ok()
}

fn seccomp(path: &str, profile: &str, errors: &mut Errors) {
    match profile {
        "runtime/default" | "docker/default" | "unconfined" => {}
        _ => match profile.strip_prefix("localhost/") {
            Some(file) => {
                let file = Value::from(file);
                super::volumes::descending(&Field::root(path, &file), errors);
            }
            None => errors.push(FieldError::invalid(path, profile, "must be a valid seccomp profile")),
        },
    }
}

fn app_armor(profile: &Field<'_>, container: &str, spec: &Field<'_>, errors: &mut Errors) {
    let mut found = false;
    each(spec, &mut |c| found |= c.get("name").str() == container);
    if !found {
        profile.invalid_as(errors, container, "container not found");
    }
    let known = matches!(profile.str(), "" | "runtime/default" | "unconfined");
    if !known && !profile.str().starts_with("localhost/") {
        profile.invalid(errors, format!("invalid AppArmor profile name: {:?}", profile.str()));
    }
}

/// Where a profile is given in both forms, they agree.
pub fn match_fields(annotations: &Field<'_>, spec: &Field<'_>, errors: &mut Errors) {
    let context = spec.get("securityContext");
    let said = |key: &str| annotations.value.get(key).and_then(Value::as_str);
    if let Some(said) = said(SECCOMP_POD) {
        agree(&context.get("seccompProfile"), said, "seccomp", errors);
    }
    each(spec, &mut |c| {
        if let Some(said) = said(&format!("{SECCOMP_CONTAINER}{}", c.get("name").str())) {
            let own = c.get("securityContext");
            agree(&own.get("seccompProfile"), said, "seccomp", errors);
        }
    });
    if spec.value.pointer("/os/name").is_some_and(|os| os == "windows") {
        return;
    }
    let of_pod = context.get("appArmorProfile");
    each(spec, &mut |c| {
        if let Some(said) = said(&format!("{APP_ARMOR}{}", c.get("name").str())) {
            let own = c.get("securityContext");
            let profile = own.get("appArmorProfile");
            let value = if profile.exists() { profile.value } else { of_pod.value };
            agree(&profile.showing(value), said, "apparmor", errors);
        }
    });
}

fn agree(profile: &Field<'_>, said: &str, what: &str, errors: &mut Errors) {
    let local = text(profile.value, "/localhostProfile");
    let kind = match text(profile.value, "/type") {
        "" => return,
        "Unconfined" => said == "unconfined",
        "RuntimeDefault" => said == "runtime/default" || (what == "seccomp" && said == "docker/default"),
        "Localhost" => said.starts_with("localhost/"),
        _ => true,
    };
    if !kind {
        profile
            .get("type")
            .forbidden(errors, &format!("{what} type in annotation and field must match"));
    } else if said.strip_prefix("localhost/").is_some_and(|file| file != local) {
        profile
            .get("localhostProfile")
            .forbidden(errors, &format!("{what} profile in annotation and field must match"));
    }
}

/// What may not change once a pod is there.
pub fn update(annotations: &Field<'_>, old: &Value, errors: &mut Errors) {
    let empty = serde_json::Map::new();
    let before = old.as_object().unwrap_or(&empty);
    let fixed = |key: &str| match key {
        MIRROR => Some("mirror pod annotation"),
        _ if key.starts_with(APP_ARMOR) => Some("AppArmor annotations"),
        _ => None,
    };
    for (key, was) in before {
        if let Some(what) = fixed(key).filter(|_| annotations.value.get(key) != Some(was)) {
            annotations
                .key(key)
                .forbidden(errors, &format!("may not remove or update {what}"));
        }
    }
    for (key, entry) in annotations.entries() {
        if let Some(what) = fixed(key).filter(|_| !before.contains_key(key)) {
            entry.forbidden(errors, &format!("may not add {what}"));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn costs() {
        for (text, fine) in [
            ("0", true),
            ("-5", true),
            ("10", true),
            ("", false),
            ("+1", false),
            ("007", false),
            ("1e3", false),
        ] {
            assert_eq!(super::is_cost(text), fine, "{text}");
        }
    }
}
