//! PersistentVolumes. Claims and the objects of CSI have files of their own.

use api::names;
use serde_json::{Value, json};

use super::claim::{CLASS_ANNOTATION, CLASS_ANNOTATION_WARNING};
use super::common::parse_quantity;
use super::field::{Errors, Field, IMMUTABLE, default, default_zero, ensure, same, text};
use super::pod::placement::node_selector;
use super::pod::warnings::node_selector_term;
use super::rules::{NewStatus, Rules};
use super::volume_source::{self, Holder, present};
use crate::registry::strategy::remove;
use crate::registry::table::{self, Column};

const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
/// In the order in which upstream looks for them.
const SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];
const MORE_THAN_ONE: &str = "may not specify more than 1 volume type";
const MOUNT_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";

/// Rules of `persistentvolumes`.
pub static VOLUME: Rules = Rules {
    default: |object| {
        let Some(spec) = ensure(object, "spec") else { return };
        default_zero(spec, "persistentVolumeReclaimPolicy", "Retain");
        default(spec, "volumeMode", "Filesystem");
        super::pod::defaults::plugins(spec);
        if let Some(capacity) = spec.get_mut("capacity") {
            super::pod::defaults::round_up(capacity);
        }
    },
    validate,
    validate_update: update,
    warnings: |root, _| warnings(root),
    columns: &[
        Column::NAME,
        Column::text("Capacity"),
        Column::text("Access Modes"),
        Column::text("Reclaim Policy"),
        Column::text("Status"),
        Column::text("Claim"),
        Column::text("StorageClass"),
        Column::text("VolumeAttributesClass"),
        Column::text("Reason"),
        Column::AGE,
        Column::text("VolumeMode").wide(),
    ],
    row: |object, now| {
        let claim = match object.pointer("/spec/claimRef").filter(|c| c.is_object()) {
            Some(claim) => format!("{}/{}", text(claim, "/namespace"), text(claim, "/name")),
            None => String::new(),
        };
        vec![
            table::name(object),
            json!(text(object, "/spec/capacity/storage")),
            json!(short_modes(object.pointer("/spec/accessModes"))),
            json!(text(object, "/spec/persistentVolumeReclaimPolicy")),
            json!(phase(object)),
            json!(claim),
            json!(storage_class(object)),
            json!(unset(text(object, "/spec/volumeAttributesClassName"))),
            json!(text(object, "/status/reason")),
            table::age(object, now),
            json!(unset(text(object, "/spec/volumeMode"))),
        ]
    },
    new_status: NewStatus::Phase("Pending"),
    ..Rules::NONE
};

/// Modes of access to a volume, each known, and no others beside the exclusive one.
pub fn access_modes(spec: &Field<'_>, errors: &mut Errors) {
    let modes = spec.get("accessModes");
    for mode in modes.items().filter(|m| !MODES.contains(&m.str())) {
        modes.showing(mode.value).not_supported(errors, MODES);
    }
    let exclusive = |m: &Field<'_>| m.str() == "ReadWriteOncePod";
    let others = modes.items().any(|m| !exclusive(&m) && MODES.contains(&m.str()));
    if others && modes.items().any(|m| exclusive(&m)) {
        modes.forbidden(errors, "may not use ReadWriteOncePod with other access modes");
    }
}

fn validate(root: &Field<'_>, errors: &mut Errors) {
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    spec_of(&spec, metadata.get("name").str(), errors);
}

fn spec_of(spec: &Field<'_>, name: &str, errors: &mut Errors) {
    spec.require(errors, &["accessModes"]);
    access_modes(spec, errors);
    capacity(&spec.get("capacity"), errors);
    let (policy, affinity) = (spec.get("persistentVolumeReclaimPolicy"), spec.get("nodeAffinity"));
    if !policy.is_empty() {
        policy.one_of(errors, &["Delete", "Recycle", "Retain"]);
    }
    if affinity.exists() {
        let required = affinity.get("required");
        if required.exists() {
            node_selector(&required, errors);
        } else {
            required.required(errors, "must specify required node constraints");
        }
    }
    source(spec, name, errors);
    let path = spec.value.pointer("/hostPath/path").and_then(Value::as_str);
    if policy.str() == "Recycle" && path.is_some_and(|p| p.split('/').all(|part| part.is_empty() || part == ".")) {
        policy.forbidden(errors, "may not be 'recycle' for a hostPath mount of '/'");
    }
    spec.get("storageClassName")
        .check_if_set(errors, names::dns1123_subdomain);
    spec.get("volumeMode").one_of_if_set(errors, &["Block", "Filesystem"]);
    let class = spec.get("volumeAttributesClassName");
    if class.exists() {
        if class.is_empty() {
            class.required(errors, "an empty string is disallowed");
        }
        class.check_if_set(errors, names::dns1123_subdomain);
        if !spec.get("csi").exists() {
            spec.get("csi")
                .required(errors, "has to be specified when using volumeAttributesClassName");
        }
    }
}

fn capacity(capacity: &Field<'_>, errors: &mut Errors) {
    if capacity.is_empty() {
        capacity.required(errors, "");
    }
    if !capacity.key("storage").exists() || capacity.len() > 1 {
        capacity.not_supported(errors, &["storage"]);
    }
    for (_, amount) in capacity.entries() {
        let Some(read) = parse_quantity(amount.value) else {
            continue;
        };
        if read.as_i64() < 0 {
            amount.invalid_as(errors, read.as_i64(), "must be a valid resource quantity");
        }
        if read.is_negative() || read.is_zero() {
            amount.invalid_as(errors, read.to_string(), "must be greater than zero");
        }
    }
}

fn source(spec: &Field<'_>, name: &str, errors: &mut Errors) {
    let mut found = false;
    for kind in present(spec.value, SOURCES) {
        if found && kind != "flexVolume" {
            let shown = if kind == "cephfs" { "cephFS" } else { kind };
            spec.get(shown).forbidden(errors, MORE_THAN_ONE);
            continue;
        }
        found = true;
        let shown = if kind == "gcePersistentDisk" {
            "persistentDisk"
        } else {
            kind
        };
        let source = spec.get(shown).showing(spec.get(kind).value);
        volume_source::validate(kind, &source, Holder::Volume(name), errors);
        if kind == "local" && !spec.get("nodeAffinity").exists() {
            spec.get("nodeAffinity")
                .required(errors, "Local volume requires node affinity");
        }
    }
    if !found {
        spec.required(errors, "must specify a volume type");
    }
}

fn update(root: &Field<'_>, old: &Value, errors: &mut Errors) {
    let (spec, before) = (root.get("spec"), &old["spec"]);
    let mut new = spec.value.clone();
    if before["csi"].is_object()
        && before["csi"]["controllerExpandSecretRef"].is_null()
        && let Some(csi) = new.get_mut("csi")
    {
        remove(csi, "controllerExpandSecretRef");
    }
    if SOURCES.iter().any(|kind| !same(&new[*kind], &before[*kind])) {
        errors.push(api::FieldError::forbidden(
            "spec.persistentvolumesource",
            "spec.persistentvolumesource is immutable after creation",
        ));
    }
    Field::root("volumeMode", spec.get("volumeMode").value).immutable(errors, &before["volumeMode"]);
    let affinity = spec.get("nodeAffinity");
    if !before["nodeAffinity"].is_null()
        && !same(&stable_labels(affinity.value), &stable_labels(&before["nodeAffinity"]))
    {
        errors.push(api::FieldError::invalid(
            "nodeAffinity",
            affinity.value.clone(),
            format!("{IMMUTABLE}, except for updating from beta label to GA"),
        ));
    }
    let class = spec.get("volumeAttributesClassName");
    if !class.exists() && !before["volumeAttributesClassName"].is_null() {
        class.forbidden(errors, "update from non-nil value to nil is forbidden");
    }
}

/// With the labels of nodes under their newer names.
fn stable_labels(affinity: &Value) -> Value {
    let mut text = affinity.to_string();
    for (beta, stable) in [
        ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
        (
            "failure-domain.beta.kubernetes.io/region",
            "topology.kubernetes.io/region",
        ),
        ("beta.kubernetes.io/os", "kubernetes.io/os"),
        ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
        ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
    ] {
        text = text.replace(&format!("\"key\":\"{beta}\""), &format!("\"key\":\"{stable}\""));
    }
    serde_json::from_str(&text).unwrap_or_default()
}

fn warnings(root: &Field<'_>) -> Vec<String> {
    const PLUGINS: [(&str, &str, &str); 7] = [
        (
            "photonPersistentDisk",
            "photonPersistentDisk",
            "deprecated in v1.11, non-functional in v1.16+",
        ),
        ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        (
            "storageos",
            "storageOS",
            "deprecated in v1.22, non-functional in v1.25+",
        ),
        (
            "glusterfs",
            "glusterfs",
            "deprecated in v1.25, non-functional in v1.26+",
        ),
        ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
        ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ];
    let mut warnings = Vec::new();
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    let annotations = metadata.get("annotations");
    for (key, message) in [
        (CLASS_ANNOTATION, CLASS_ANNOTATION_WARNING),
        (
            MOUNT_OPTIONS,
            "deprecated since v1.31; use \"mountOptions\" attribute instead",
        ),
    ] {
        if annotations.key(key).exists() {
            warnings.push(format!("{}: {message}", annotations.key(key)));
        }
    }
    if spec.get("persistentVolumeReclaimPolicy").str() == "Recycle" {
        warnings.push(
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning."
                .to_owned(),
        );
    }
    let affinity = spec.get("nodeAffinity");
    let required = affinity.get("required");
    for term in required.get("nodeSelectorTerms").items() {
        node_selector_term(&term, false, &mut warnings);
    }
    for (name, shown, message) in PLUGINS {
        if spec.get(name).exists() {
            warnings.push(format!("{}: {message}", spec.get(shown)));
        }
    }
    warnings
}

/// Text, or `<unset>`.
pub fn unset(text: &str) -> &str {
    if text.is_empty() { "<unset>" } else { text }
}

/// The phase, or that it is going away.
pub fn phase(object: &Value) -> &str {
    if object
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(Value::is_string)
    {
        "Terminating"
    } else {
        text(object, "/status/phase")
    }
}

/// The class's name, wherever it is said.
pub fn storage_class(object: &Value) -> &str {
    match text(object, "/metadata/annotations/volume.beta.kubernetes.io~1storage-class") {
        "" => text(object, "/spec/storageClassName"),
        class => class,
    }
}

/// `RWO,ROX`, each once.
pub fn short_modes(modes: Option<&Value>) -> String {
    let has = |mode: &str| {
        modes
            .and_then(Value::as_array)
            .is_some_and(|m| m.iter().any(|x| x == mode))
    };
    let all = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    all.iter()
        .filter(|(long, _)| has(long))
        .map(|(_, short)| *short)
        .collect::<Vec<_>>()
        .join(",")
}
