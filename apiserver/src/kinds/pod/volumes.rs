//! Validation of a pod's volumes.

use std::collections::HashSet;

use api::names;
use serde_json::Value;

use super::containers::{field_ref, local_path, resource_field_ref};
use crate::kinds::common::quantity;
use crate::kinds::field::{Errors, Field};

const DOWNWARD_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
const HOST_PATH_TYPES: &[&str] = &[
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];
const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Checks the volumes and answers their names, for the mounts.
pub fn volumes<'a>(list: &Field<'a>, errors: &mut Errors) -> HashSet<&'a str> {
    let mut seen = HashSet::new();
    for volume in list.items() {
        let name = volume.get("name");
        let messages = names::dns1123_label(name.str());
        if name.is_empty() {
            name.required(errors, "");
        } else if messages.is_empty() && seen.contains(name.str()) {
            name.duplicate(errors);
        }
        if !name.is_empty() {
            name.invalid_all(errors, messages);
        }
        seen.insert(volume.value.get("name").and_then(Value::as_str).unwrap_or_default());
        source(&volume, errors);
    }
    list.value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|v| v.get("name")?.as_str())
        .collect()
}

fn source(volume: &Field<'_>, errors: &mut Errors) {
    let sources: Vec<&String> = volume
        .value
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(k, v)| *k != "name" && !v.is_null())
        .map(|(k, _)| k)
        .collect();
    let Some((first, others)) = sources.split_first() else {
        return volume.required(errors, "must specify a volume type");
    };
    for other in others {
        volume
            .get(other)
            .forbidden(errors, "may not specify more than 1 volume type");
    }
    let field = volume.get(first);
    match first.as_str() {
        "emptyDir" => {
            quantity(&field.get("sizeLimit"), errors);
        }
        "hostPath" => host_path(&field, errors),
        "secret" => keyed(&field, "secretName", errors),
        "configMap" => keyed(&field, "name", errors),
        "downwardAPI" => downward(&field, errors),
        "projected" => projected(&field, errors),
        "persistentVolumeClaim" => required(&field, "claimName", errors),
        "nfs" => {
            required(&field, "server", errors);
            required(&field, "path", errors);
            if !field.get("path").str().starts_with('/') {
                field.get("path").invalid(errors, "must be an absolute path");
            }
        }
        "csi" => required(&field, "driver", errors),
        "ephemeral" => {
            let template = field.get("volumeClaimTemplate");
            if !template.exists() {
                template.required(errors, "");
            }
        }
        _ => {}
    }
}

fn required(field: &Field<'_>, name: &str, errors: &mut Errors) {
    let value = field.get(name);
    if value.is_empty() {
        value.required(errors, "");
    }
}

fn host_path(field: &Field<'_>, errors: &mut Errors) {
    let path = field.get("path");
    if path.is_empty() {
        path.required(errors, "");
    }
    if path.str().split('/').any(|part| part == "..") {
        path.invalid(errors, "must not contain '..'");
    }
    field.get("type").one_of(errors, HOST_PATH_TYPES);
}

fn mode(field: &Field<'_>, errors: &mut Errors) {
    if field.int().is_some_and(|n| !(0..=0o777).contains(&n)) {
        field.invalid(errors, MODE);
    }
}

fn items(source: &Field<'_>, errors: &mut Errors) {
    for item in source.get("items").items() {
        required(&item, "key", errors);
        required(&item, "path", errors);
        relative(&item.get("path"), errors);
        mode(&item.get("mode"), errors);
    }
}

fn relative(path: &Field<'_>, errors: &mut Errors) {
    local_path(path, errors);
    if path.str().starts_with("..") && !path.str().starts_with("../") && path.str() != ".." {
        path.invalid(errors, "must not start with '..'");
    }
}

fn keyed(field: &Field<'_>, name: &str, errors: &mut Errors) {
    required(field, name, errors);
    mode(&field.get("defaultMode"), errors);
    items(field, errors);
}

fn downward(field: &Field<'_>, errors: &mut Errors) {
    mode(&field.get("defaultMode"), errors);
    for item in field.get("items").items() {
        required(&item, "path", errors);
        relative(&item.get("path"), errors);
        mode(&item.get("mode"), errors);
        let (by_field, by_resource) = (item.get("fieldRef"), item.get("resourceFieldRef"));
        if by_field.exists() && by_resource.exists() {
            item.invalid(
                errors,
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            );
        } else if !by_field.exists() && !by_resource.exists() {
            item.required(errors, "one of fieldRef and resourceFieldRef is required");
        }
        field_ref(&by_field, DOWNWARD_FIELDS, errors);
        resource_field_ref(&by_resource, errors);
    }
}

fn projected(field: &Field<'_>, errors: &mut Errors) {
    mode(&field.get("defaultMode"), errors);
    for source in field.get("sources").items() {
        for kind in ["secret", "configMap"] {
            let part = source.get(kind);
            if part.exists() {
                required(&part, "name", errors);
                items(&part, errors);
            }
        }
        let part = source.get("downwardAPI");
        downward(&part, errors);
        let token = source.get("serviceAccountToken");
        if token.exists() {
            token_source(&token, errors);
        }
    }
}

fn token_source(token: &Field<'_>, errors: &mut Errors) {
    let seconds = token.get("expirationSeconds");
    if seconds.int().is_some_and(|n| n < 600) {
        seconds.invalid(errors, "may not specify a duration less than 10 minutes");
    } else if seconds.int().is_some_and(|n| n > 1 << 32) {
        seconds.invalid(errors, "may not specify a duration larger than 2^32 seconds");
    }
    required(token, "path", errors);
    relative(&token.get("path"), errors);
}
