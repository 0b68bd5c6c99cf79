//! PersistentVolumes, claims, StorageClasses and the objects of CSI.

use serde_json::{Value, json};

use super::common::quantity;
use super::field::{Errors, Field, default, default_zero, ensure, list, set, text};
use super::rules::{NewStatus, Rules};
use crate::registry::strategy::restore;
use crate::registry::table::{self, Column};

const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// Rules of `persistentvolumes`.
pub static VOLUME: Rules = Rules {
    default: |object| {
        let Some(spec) = ensure(object, "spec") else { return };
        default_zero(spec, "persistentVolumeReclaimPolicy", "Retain");
        default(spec, "volumeMode", "Filesystem");
        if let Some(path) = spec.get_mut("hostPath") {
            default(path, "type", "");
        }
    },
    validate: |root, errors| {
        let spec = root.get("spec");
        access_modes(&spec, errors);
        let capacity = spec.get("capacity");
        if capacity.is_empty() {
            capacity.required(errors, "");
        } else if capacity.value.get("storage").is_none() || capacity.len() > 1 {
            capacity.not_supported(errors, &["storage"]);
        }
        for (_, amount) in capacity.entries() {
            quantity(&amount, errors);
        }
        spec.get("persistentVolumeReclaimPolicy")
            .one_of(errors, &["Delete", "Recycle", "Retain"]);
    },
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

/// Rules of `persistentvolumeclaims`.
pub static CLAIM: Rules = Rules {
    default: |object| {
        if let Some(spec) = ensure(object, "spec") {
            default(spec, "volumeMode", "Filesystem");
        }
    },
    validate: |root, errors| validate_claim(&root.get("spec"), errors),
    validate_update: claim_update,
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

/// Rules of `storageclasses.storage.k8s.io`.
pub static STORAGE_CLASS: Rules = Rules {
    default: |object| {
        default(object, "reclaimPolicy", "Delete");
        default(object, "volumeBindingMode", "Immediate");
    },
    validate: |root, errors| {
        let provisioner = root.get("provisioner");
        if provisioner.is_empty() {
            provisioner.required(errors, "");
        }
        root.get("reclaimPolicy").one_of(errors, &["Delete", "Retain"]);
        root.get("volumeBindingMode")
            .one_of(errors, &["Immediate", "WaitForFirstConsumer"]);
    },
    validate_update: |root, old, errors| {
        for name in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            if root.get(name).value != &old[name] {
                root.get(name)
                    .forbidden(errors, &format!("updates to {name} are forbidden."));
            }
        }
    },
    columns: &[
        Column::NAME,
        Column::text("Provisioner"),
        Column::text("ReclaimPolicy"),
        Column::text("VolumeBindingMode"),
        Column {
            kind: "boolean",
            ..Column::text("AllowVolumeExpansion")
        },
        Column::AGE,
    ],
    row: |object, now| {
        let default = text(
            object,
            "/metadata/annotations/storageclass.kubernetes.io~1is-default-class",
        ) == "true";
        let name = text(object, "/metadata/name");
        let expansion = object
            .get("allowVolumeExpansion")
            .and_then(Value::as_bool)
            .unwrap_or(false);
        vec![
            json!(if default {
                format!("{name} (default)")
            } else {
                name.to_owned()
            }),
            json!(text(object, "/provisioner")),
            json!(text(object, "/reclaimPolicy")),
            json!(text(object, "/volumeBindingMode")),
            json!(expansion),
            table::age(object, now),
        ]
    },
    ..Rules::NONE
};

/// Rules of `volumeattachments.storage.k8s.io`.
pub static ATTACHMENT: Rules = Rules {
    columns: &[
        Column::NAME,
        Column::text("Attacher"),
        Column::text("PV"),
        Column::text("Node"),
        Column {
            kind: "boolean",
            ..Column::text("Attached")
        },
        Column::AGE,
    ],
    row: |object, now| {
        vec![
            table::name(object),
            json!(text(object, "/spec/attacher")),
            json!(text(object, "/spec/source/persistentVolumeName")),
            json!(text(object, "/spec/nodeName")),
            json!(
                object
                    .pointer("/status/attached")
                    .and_then(Value::as_bool)
                    .unwrap_or(false)
            ),
            table::age(object, now),
        ]
    },
    ..Rules::NONE
};

/// Rules of `csinodes.storage.k8s.io`.
pub static CSI_NODE: Rules = Rules {
    columns: &[Column::NAME, Column::integer("Drivers"), Column::AGE],
    row: |object, now| {
        vec![
            table::name(object),
            json!(list(object, "/spec/drivers").len()),
            table::age(object, now),
        ]
    },
    ..Rules::NONE
};

/// Rules of `csidrivers.storage.k8s.io`.
pub static CSI_DRIVER: Rules = Rules {
    default: |object| {
        let Some(spec) = ensure(object, "spec") else { return };
        for (field, value) in [
            ("attachRequired", true),
            ("podInfoOnMount", false),
            ("storageCapacity", false),
            ("requiresRepublish", false),
            ("seLinuxMount", false),
        ] {
            default(spec, field, value);
        }
        default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        default(spec, "volumeLifecycleModes", json!(["Persistent"]));
    },
    columns: &[
        Column::NAME,
        Column {
            kind: "boolean",
            ..Column::text("AttachRequired")
        },
        Column {
            kind: "boolean",
            ..Column::text("PodInfoOnMount")
        },
        Column {
            kind: "boolean",
            ..Column::text("StorageCapacity")
        },
        Column::text("TokenRequests"),
        Column {
            kind: "boolean",
            ..Column::text("RequiresRepublish")
        },
        Column::text("Modes"),
        Column::AGE,
    ],
    row: |object, now| {
        let flag =
            |name: &str, otherwise: bool| json!(object["spec"].get(name).and_then(Value::as_bool).unwrap_or(otherwise));
        let join = |items: Vec<&str>| {
            if items.is_empty() {
                "<unset>".to_owned()
            } else {
                items.join(",")
            }
        };
        vec![
            table::name(object),
            flag("attachRequired", true),
            flag("podInfoOnMount", false),
            flag("storageCapacity", false),
            json!(join(
                list(object, "/spec/tokenRequests")
                    .iter()
                    .map(|t| text(t, "/audience"))
                    .collect()
            )),
            flag("requiresRepublish", false),
            json!(join(
                list(object, "/spec/volumeLifecycleModes")
                    .iter()
                    .filter_map(Value::as_str)
                    .collect()
            )),
            table::age(object, now),
        ]
    },
    ..Rules::NONE
};

/// Rules of `volumeattributesclasses.storage.k8s.io`.
pub static ATTRIBUTES_CLASS: Rules = Rules {
    columns: &[Column::NAME, Column::text("DriverName"), Column::AGE],
    row: |object, now| {
        vec![
            table::name(object),
            json!(text(object, "/driverName")),
            table::age(object, now),
        ]
    },
    ..Rules::NONE
};

/// Defaults of a StatefulSet's claim template, which shows the phase that its claims begin with.
pub fn fill_claim(claim: &mut Value) {
    if claim.pointer("/status/phase").is_none()
        && let Some(status) = ensure(claim, "status")
    {
        set(status, "phase", "Pending");
    }
    if let Some(spec) = ensure(claim, "spec") {
        default(spec, "volumeMode", "Filesystem");
    }
}

fn access_modes(spec: &Field<'_>, errors: &mut Errors) {
    let modes = spec.get("accessModes");
    if modes.is_empty() {
        modes.required(errors, "at least 1 access mode is required");
    }
    for mode in modes.items() {
        if !MODES.contains(&mode.str()) {
            modes.showing(mode.value).not_supported(errors, MODES);
        }
    }
    if modes.len() > 1 && modes.items().any(|m| m.str() == "ReadWriteOncePod") {
        modes.forbidden(errors, "may not use ReadWriteOncePod with other access modes");
    }
}

fn validate_claim(spec: &Field<'_>, errors: &mut Errors) {
    access_modes(spec, errors);
    super::common::label_selector(&spec.get("selector"), errors);
    let resources = spec.get("resources");
    let requests = resources.get("requests");
    let storage = requests.key("storage");
    if !storage.exists() {
        storage.required(errors, "");
    } else if quantity(&storage, errors).is_some_and(|q| q == api::quantity::Quantity::milli(0)) {
        storage.invalid(errors, "must be greater than zero");
    }
    let class = spec.get("storageClassName");
    if !class.is_empty() {
        class.invalid_all(errors, api::names::dns1123_subdomain(class.str()));
    }
    let mode = spec.get("volumeMode");
    if mode.exists() {
        mode.one_of(errors, &["Block", "Filesystem"]);
    }
}

const CLAIM_UPDATE: &str =
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

fn claim_update(root: &Field<'_>, old: &Value, errors: &mut Errors) {
    let spec = root.get("spec");
    let before = &old["spec"];
    let mut kept = spec.value.clone();
    if text(before, "/volumeName").is_empty() {
        restore(&mut kept, before, "volumeName");
    }
    if text(old, "/status/phase") == "Bound" {
        restore(&mut kept, before, "volumeAttributesClassName");
        let storage = before
            .pointer("/resources/requests/storage")
            .cloned()
            .unwrap_or_default();
        let grown = super::common::parse_quantity(&spec.value["resources"]["requests"]["storage"])
            >= super::common::parse_quantity(&storage);
        if let Some(requests) = kept.pointer_mut("/resources/requests") {
            set(requests, "storage", storage);
        }
        if !grown {
            spec.get("resources")
                .get("requests")
                .key("storage")
                .forbidden(errors, "field can not be less than status.capacity");
        }
    }
    if kept != *before {
        spec.forbidden(errors, CLAIM_UPDATE);
    }
}

fn unset(text: &str) -> &str {
    if text.is_empty() { "<unset>" } else { text }
}

fn phase(object: &Value) -> &str {
    if object
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(Value::is_string)
    {
        "Terminating"
    } else {
        text(object, "/status/phase")
    }
}

fn storage_class(object: &Value) -> &str {
    match text(object, "/metadata/annotations/volume.beta.kubernetes.io~1storage-class") {
        "" => text(object, "/spec/storageClassName"),
        class => class,
    }
}

/// `RWO,ROX`, each once.
fn short_modes(modes: Option<&Value>) -> String {
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
