//! Validation of a container's volume mounts and devices.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use super::containers::Surroundings;
use super::volumes::{climbs, descending};
use crate::kinds::field::{Errors, Field};

/// Name to path, the last of a name winning.
fn paths<'a>(list: &Field<'a>, field: &str) -> BTreeMap<&'a str, &'a str> {
    let list = list.value.as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |v: &'a Value, name: &str| v.get(name).and_then(Value::as_str).unwrap_or_default();
    list.iter()
        .map(|item| (text(item, "name"), text(item, field)))
        .collect()
}

/// `volumeMounts`.
pub fn mounts(container: &Field<'_>, around: &Surroundings<'_>, errors: &mut Errors) {
    let list = container.get("volumeMounts");
    let devices = paths(&container.get("volumeDevices"), "devicePath");
    let mut seen = HashSet::new();
    for mount in list.items() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        if name.is_empty() {
            name.required(errors, "");
        }
        let volume = around.volumes.get(name.str());
        if volume.is_none() {
            errors.push(api::FieldError::not_found(name.to_string(), name.str()));
        }
        if path.is_empty() {
            path.required(errors, "");
        }
        if !seen.insert(path.str().to_owned()) {
            path.invalid_as(errors, path.str(), "must be unique");
        }
        if devices.contains_key(name.str()) {
            name.invalid_as(errors, name.str(), "must not already exist in volumeDevices");
        }
        if devices.values().any(|device| *device == path.str()) {
            path.invalid_as(errors, path.str(), "must not already exist as a path in volumeDevices");
        }
        let of_image = volume.is_some_and(|v| v.get("image").is_some());
        sub_paths(&list, &mount, of_image, errors);
        propagation(&list, &mount, container, errors);
        read_only(&list, &mount, errors);
    }
}

/// Upstream's paths of what follows are those of the list.
fn sub_paths(list: &Field<'_>, mount: &Field<'_>, of_image: bool, errors: &mut Errors) {
    let (sub, expression) = (mount.get("subPath"), mount.get("subPathExpr"));
    for field in [sub, expression] {
        if of_image && !field.is_empty() {
            field.invalid(errors, "not allowed in image volume sources");
        }
    }
    descending(&list.get("subPath").showing(sub.value), errors);
    if !expression.is_empty() && !sub.is_empty() {
        expression.invalid(errors, "subPathExpr and subPath are mutually exclusive");
    }
    descending(&list.get("subPathExpr").showing(expression.value), errors);
}

fn propagation(list: &Field<'_>, mount: &Field<'_>, container: &Field<'_>, errors: &mut Errors) {
    let mode = mount.get("mountPropagation");
    if !mode.exists() {
        return;
    }
    let shown = list.get("mountPropagation").showing(mode.value);
    shown.one_of(errors, &["Bidirectional", "HostToContainer", "None"]);
    let context = container.get("securityContext");
    if mode.str() == "Bidirectional" && !context.get("privileged").bool() {
        shown.forbidden(
            errors,
            "Bidirectional mount propagation is available only to privileged containers",
        );
    }
}

fn read_only(list: &Field<'_>, mount: &Field<'_>, errors: &mut Errors) {
    let mode = mount.get("recursiveReadOnly");
    let shown = list.get("recursiveReadOnly").showing(mode.value);
    match mode.value.as_str() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !mount.get("readOnly").bool() {
                shown.forbidden(errors, "may only be specified when readOnly is true");
            }
            if !matches!(mount.get("mountPropagation").str(), "" | "None") {
                shown.forbidden(
                    errors,
                    "may only be specified when mountPropagation is None or not specified",
                );
            }
        }
        Some(_) => shown.not_supported(errors, &["Disabled", "Enabled", "IfPossible"]),
    }
}

/// `volumeDevices`: claims used as block devices.
pub fn devices(container: &Field<'_>, around: &Surroundings<'_>, errors: &mut Errors) {
    let list = container.get("volumeDevices");
    let mounts = paths(&container.get("volumeMounts"), "mountPath");
    let (mut names, mut seen) = (HashSet::new(), HashSet::new());
    for device in list.items() {
        let (name, path) = (device.get("name"), device.get("devicePath"));
        if name.is_empty() {
            name.required(errors, "");
        }
        if names.contains(name.str()) {
            name.invalid_as(errors, name.str(), "must be unique");
        }
        match around.volumes.get(name.str()) {
            None => errors.push(api::FieldError::not_found(name.to_string(), name.str())),
            Some(v) if v.get("persistentVolumeClaim").is_none() && v.get("ephemeral").is_none() => name.invalid(
                errors,
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            ),
            Some(_) => {}
        }
        if path.is_empty() {
            path.required(errors, "");
        }
        if seen.contains(path.str()) {
            path.invalid_as(errors, path.str(), "must be unique");
        }
        if climbs(path.str()) {
            path.invalid(errors, "can not contain backsteps ('..')");
        } else {
            seen.insert(path.str().to_owned());
        }
        if mounts.contains_key(name.str()) {
            name.invalid_as(errors, name.str(), "must not already exist in volumeMounts");
        }
        if mounts.values().any(|mount| *mount == path.str()) {
            path.invalid_as(errors, path.str(), "must not already exist as a path in volumeMounts");
        }
        if !name.is_empty() {
            names.insert(name.str().to_owned());
        }
    }
}
