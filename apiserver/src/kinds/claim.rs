//! PersistentVolumeClaims, and the templates of such in pods and StatefulSets.

use api::names;
use serde_json::{Value, json};

use super::common::{label_selector, labels, parse_quantity};
use super::field::{Errors, Field, IMMUTABLE, default, ensure, same, set, text};
use super::pod::annotations;
use super::resource_names;
use super::rules::{NewStatus, Rules};
use super::volume::{access_modes, phase, short_modes, storage_class, unset};
use crate::registry::strategy::restore;
use crate::registry::table::{self, Column};

/// The older way to name a storage class.
pub const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
/// What a warning says of it.
pub const CLASS_ANNOTATION_WARNING: &str = "deprecated since v1.8; use \"storageClassName\" attribute instead";
const UPDATE: &str =
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
const RESIZE_STATES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

/// Rules of `persistentvolumeclaims`.
pub static CLAIM: Rules = Rules {
    default: |object| {
        if let Some(spec) = ensure(object, "spec") {
            fill_spec(spec);
        }
    },
    validate: |root, errors| spec(&root.get("spec"), errors),
    validate_update: update,
    validate_status: status,
    warnings: |root, _| {
        let mut warnings = Vec::new();
        let (metadata, spec) = (root.get("metadata"), root.get("spec"));
        let annotations = metadata.get("annotations");
        let class = annotations.key(CLASS_ANNOTATION);
        if class.exists() {
            warnings.push(format!("{class}: {CLASS_ANNOTATION_WARNING}"));
        }
        warn_spec(&spec, &mut warnings);
        warnings
    },
    columns: &[
        Column::NAME,
        Column::text("Status"),
        Column::text("Volume"),
        Column::text("Capacity"),
        Column::text("Access Modes"),
        Column::text("StorageClass"),
        Column::text("VolumeAttributesClass"),
        Column::AGE,
        Column::text("VolumeMode").wide(),
    ],
    row: |object, now| {
        let bound = !text(object, "/spec/volumeName").is_empty();
        let (capacity, modes) = if bound {
            (
                text(object, "/status/capacity/storage"),
                short_modes(object.pointer("/status/accessModes")),
            )
        } else {
            ("", String::new())
        };
        vec![
            table::name(object),
            json!(phase(object)),
            json!(text(object, "/spec/volumeName")),
            json!(capacity),
            json!(modes),
            json!(storage_class(object)),
            json!(unset(text(object, "/spec/volumeAttributesClassName"))),
            table::age(object, now),
            json!(unset(text(object, "/spec/volumeMode"))),
        ]
    },
    new_status: NewStatus::Phase("Pending"),
    ..Rules::NONE
};

/// Defaults of a claim's spec. Of `dataSource` and `dataSourceRef` either says what the other does, unless the latter names a namespace.
pub fn fill_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    default(spec, "volumeMode", "Filesystem");
    let resources = ensure(spec, "resources").and_then(|r| r.get_mut("requests"));
    if let Some(requests) = resources {
        super::pod::defaults::round_up(requests);
    }
    match (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned()) {
        (Some(source), None) => set(spec, "dataSourceRef", source),
        (None, Some(source)) if text(&source, "/namespace").is_empty() => set(spec, "dataSource", source),
        _ => {}
    }
}

/// Defaults of a StatefulSet's claim template, which shows the phase that its claims begin with.
pub fn fill_template(claim: &mut Value) {
    if claim.pointer("/status/phase").is_none()
        && let Some(status) = ensure(claim, "status")
    {
        set(status, "phase", "Pending");
    }
    if let Some(spec) = ensure(claim, "spec") {
        default(spec, "volumeMode", "Filesystem");
        ensure(spec, "resources");
    }
}

/// Defaults of a claim that a pod's volume is made of.
pub fn fill_ephemeral(volume: &mut Value) {
    if let Some(spec) = volume.pointer_mut("/ephemeral/volumeClaimTemplate/spec") {
        default(spec, "volumeMode", "Filesystem");
        ensure(spec, "resources");
    }
}

/// The claim that a pod's volume is made of: only labels and annotations are taken from its metadata.
pub fn template(template: &Field<'_>, errors: &mut Errors) {
    let metadata = template.get("metadata");
    annotations::keys(&metadata.get("annotations"), errors);
    labels(&metadata.get("labels"), errors);
    for (name, entry) in metadata.entries() {
        if !matches!(name, "annotations" | "labels") && !entry.is_empty() {
            metadata.get(name).forbidden(errors, "cannot be set");
        }
    }
    spec(&template.get("spec"), errors);
}

/// The spec of a claim.
pub fn spec(spec: &Field<'_>, errors: &mut Errors) {
    if spec.get("accessModes").is_empty() {
        spec.get("accessModes")
            .required(errors, "at least 1 access mode is required");
    }
    label_selector(&spec.get("selector"), errors);
    access_modes(spec, errors);
    storage(spec, errors);
    spec.get("storageClassName")
        .check_if_set(errors, names::dns1123_subdomain);
    spec.get("volumeMode").one_of_if_set(errors, &["Block", "Filesystem"]);
    data_sources(spec, errors);
    spec.get("volumeAttributesClassName")
        .check_if_set(errors, names::dns1123_subdomain);
}

/// Upstream's path leaves `requests` out.
fn storage(spec: &Field<'_>, errors: &mut Errors) {
    let resources = spec.get("resources");
    let requests = resources.get("requests");
    let entry = resources.key("storage").showing(requests.key("storage").value);
    match parse_quantity(entry.value) {
        None => entry.required(errors, ""),
        Some(amount) if amount.is_negative() || amount.is_zero() => {
            entry.invalid_as(errors, amount.to_string(), "must be greater than zero")
        }
        Some(_) => {}
    }
}

fn data_sources(spec: &Field<'_>, errors: &mut Errors) {
    let (source, reference) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    for field in [source, reference].into_iter().filter(Field::exists) {
        field.require(errors, &["name", "kind"]);
        let (group, kind) = (field.get("apiGroup"), field.get("kind"));
        if group.is_empty() && kind.str() != "PersistentVolumeClaim" {
            field.invalid_as(
                errors,
                kind.str(),
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            );
        }
        group.check_if_set(errors, names::dns1123_subdomain);
        field.get("namespace").check_if_set(errors, names::dns1123_label);
    }
    if !source.exists() || !reference.exists() {
        return;
    }
    let shown = json!({});
    if !reference.get("namespace").is_empty() {
        spec.invalid_as(
            errors,
            shown,
            "may not be specified when dataSourceRef.namespace is specified",
        );
    } else if ["apiGroup", "kind", "name"]
        .iter()
        .any(|name| source.get(name).value != reference.get(name).value)
    {
        spec.invalid_as(errors, shown, "must match dataSourceRef");
    }
}

fn update(root: &Field<'_>, old: &Value, errors: &mut Errors) {
    let (spec, before) = (root.get("spec"), &old["spec"]);
    let (mut kept, mut was) = (spec.value.clone(), before.clone());
    if text(before, "/volumeName").is_empty() {
        restore(&mut was, &kept, "volumeName");
    }
    class_name(root, old, &mut kept, errors);
    let bound = text(root.value, "/status/phase") == "Bound";
    if bound {
        if let Some(requests) = kept.pointer_mut("/resources/requests") {
            restore(requests, &before["resources"]["requests"], "storage");
        }
        if !kept["volumeAttributesClassName"].is_null() {
            restore(&mut kept, before, "volumeAttributesClassName");
        }
    }
    if !same(&kept, &was) {
        spec.forbidden(errors, UPDATE);
    }
    let size = |claim: &Value| parse_quantity(&claim["spec"]["resources"]["requests"]["storage"]);
    let shrinks = size(root.value) < size(old);
    if shrinks && size(root.value) <= parse_quantity(&old["status"]["capacity"]["storage"]) {
        errors.push(api::FieldError::forbidden(
            "spec.resources.requests.storage",
            "field can not be less than status.capacity",
        ));
    }
    Field::root("volumeMode", spec.get("volumeMode").value).immutable(errors, &before["volumeMode"]);
    let (class, was) = (
        spec.get("volumeAttributesClassName"),
        &before["volumeAttributesClassName"],
    );
    if !was.is_null() && class.value != was {
        if !class.exists() {
            class.forbidden(errors, "update from non-nil value to nil is forbidden");
        } else if class.is_empty() {
            class.forbidden(errors, "update from non-nil value to an empty string is forbidden");
        }
    }
}

/// A class may be named where there was none, as the annotation does if there is one.
fn class_name(root: &Field<'_>, old: &Value, kept: &mut Value, errors: &mut Errors) {
    let annotation = |claim: &Value| claim["metadata"]["annotations"].get(CLASS_ANNOTATION).cloned();
    let (was, is) = (annotation(old), annotation(root.value));
    let (before, now) = (
        &old["spec"]["storageClassName"],
        &root.value["spec"]["storageClassName"],
    );
    let upgraded = before.is_null() && was.as_ref() == Some(now) && (is.is_none() || is == was);
    if !upgraded && was != is {
        let path = format!("metadata.annotations.{CLASS_ANNOTATION}");
        errors.push(api::FieldError::invalid(path, is.unwrap_or_default(), IMMUTABLE));
    }
    if before.is_null() && !now.is_null() && was.is_none_or(|was| was == *now) {
        restore(kept, &old["spec"], "storageClassName");
    }
}

fn status(root: &Field<'_>, _old: &Value, errors: &mut Errors) {
    let status = root.get("status");
    for (_, amount) in status.get("capacity").entries() {
        if let Some(amount_read) = parse_quantity(amount.value).filter(|q| q.as_i64() < 0) {
            amount.invalid_as(errors, amount_read.as_i64(), "must be a valid resource quantity");
        }
    }
    let (states, shown) = (
        status.get("allocatedResourceStatuses"),
        status.get("allocatedResourceStatus"),
    );
    for (name, state) in states.entries() {
        resource_key(&shown, name, errors);
        if !RESIZE_STATES.contains(&state.str()) {
            let name = json!(name);
            shown.showing(&name).not_supported(errors, RESIZE_STATES);
        }
    }
    let allocated = status.get("allocatedResources");
    for (name, amount) in allocated.entries() {
        if resource_key(&allocated, name, errors) {
            resource_names::amount(&amount, "storage", errors);
        }
    }
}

/// Storage, or somebody else's resource.
fn resource_key(place: &Field<'_>, name: &str, errors: &mut Errors) -> bool {
    let shown = json!(name);
    let (place, before) = (place.showing(&shown), errors.len());
    place.check(errors, names::qualified_name);
    if errors.len() == before && resource_names::is_native(name) && name != "storage" {
        place.not_supported(errors, &["storage"]);
    }
    errors.len() == before
}

/// What is doubtful in a claim's spec.
pub fn warn_spec(spec: &Field<'_>, warnings: &mut Vec<String>) {
    let resources = spec.get("resources");
    for which in ["requests", "limits"] {
        let amounts = resources.get(which);
        let entry = amounts.key("storage");
        if let Some(amount) = parse_quantity(entry.value).filter(|q| q.as_milli() % 1000 != 0) {
            warnings.push(format!(
                "{entry}: fractional byte value \"{amount}\" is invalid, must be an integer"
            ));
        }
    }
}
