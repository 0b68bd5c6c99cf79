//! StorageClasses, and the objects of CSI.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use api::names;
use serde_json::{Value, json};

use super::common::{label_selector, quantity};
use super::field::{Errors, Field, default, ensure, list, same, text};
use super::rules::Rules;
use super::volume_source::driver_name;
use crate::registry::table::{self, Column};

const ONE_SOURCE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
/// The least a token for a volume may live.
const TOKEN_SECONDS: i64 = 600;

/// Rules of `storageclasses.storage.k8s.io`.
pub static STORAGE_CLASS: Rules = Rules {
    default: |object| {
        default(object, "reclaimPolicy", "Delete");
        default(object, "volumeBindingMode", "Immediate");
    },
    validate: |root, errors| {
        provisioner(&root.get("provisioner"), errors);
        parameters(&root.get("parameters"), errors);
        root.get("reclaimPolicy").one_of(errors, &["Delete", "Retain"]);
        root.get("volumeBindingMode")
            .one_of(errors, &["Immediate", "WaitForFirstConsumer"]);
        topologies(&root.get("allowedTopologies"), errors);
    },
    validate_update: |root, old, errors| {
        no_updates(root, old, &["parameters", "provisioner", "reclaimPolicy"], errors);
        root.get("volumeBindingMode")
            .immutable(errors, &old["volumeBindingMode"]);
    },
    warnings: |root, _| {
        let mut warnings = Vec::new();
        for term in root.get("allowedTopologies").items() {
            for expression in term.get("matchLabelExpressions").items() {
                let key = expression.get("key");
                if let Some(message) = super::pod::warnings::node_label(key.str()) {
                    warnings.push(format!("{key}: {message}"));
                }
            }
        }
        warnings
    },
    columns: &[
        Column::NAME,
        Column::text("Provisioner"),
        Column::text("ReclaimPolicy"),
        Column::text("VolumeBindingMode"),
        Column::text("AllowVolumeExpansion"),
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
    validate: |root, errors| {
        let spec = root.get("spec");
        let (attacher, source, node) = (spec.get("attacher"), spec.get("source"), spec.get("nodeName"));
        driver_name(&attacher, errors);
        let (inline, volume) = (source.get("inlineVolumeSpec"), source.get("persistentVolumeName"));
        match (inline.exists(), volume.exists()) {
            (false, false) => source.required(errors, ONE_SOURCE),
            (true, true) => source.forbidden(errors, ONE_SOURCE),
            (false, true) if volume.is_empty() => {
                volume.required(errors, "must specify non empty persistentVolumeName")
            }
            (false, true) => volume.check(errors, names::dns1123_subdomain),
            (true, false) => {}
        }
        node.check(errors, names::dns1123_subdomain);
    },
    validate_update: |root, old, errors| root.get("spec").immutable(errors, &old["spec"]),
    columns: &[
        Column::NAME,
        Column {
            format: "name",
            ..Column::text("Attacher")
        },
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
    validate: |root, errors| {
        const ID_LIMIT: usize = 192;
        let spec = root.get("spec");
        let drivers = spec.get("drivers");
        let mut seen = HashSet::new();
        for driver in drivers.items() {
            let (name, id, keys) = (driver.get("name"), driver.get("nodeID"), driver.get("topologyKeys"));
            driver_name(&name, errors);
            if !seen.insert(name.str().to_owned()) {
                name.duplicate(errors);
            }
            if id.is_empty() {
                id.required(errors, "");
            } else if id.str().len() > ID_LIMIT {
                id.invalid(errors, format!("must be {ID_LIMIT} characters or less"));
            }
            driver.get("allocatable").get("count").non_negative(errors);
            keys.unique(errors, "");
            keys.items().for_each(|key| key.check(errors, names::qualified_name));
        }
    },
    validate_update: |root, old, errors| {
        let spec = root.get("spec");
        let drivers = spec.get("drivers");
        for was in list(old, "/spec/drivers") {
            for driver in drivers.items().filter(|d| d.get("name").str() == text(was, "/name")) {
                driver.get("nodeID").immutable(errors, &was["nodeID"]);
                driver.get("topologyKeys").immutable(errors, &was["topologyKeys"]);
            }
        }
    },
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
    validate: |root, errors| {
        let (metadata, spec) = (root.get("metadata"), root.get("spec"));
        let path = Field::root("name", metadata.get("name").value);
        driver_name(&path, errors);
        spec.get("fsGroupPolicy")
            .one_of(errors, &["File", "None", "ReadWriteOnceWithFSType"]);
        for mode in spec.get("volumeLifecycleModes").items() {
            mode.one_of(errors, &["Ephemeral", "Persistent"]);
        }
        let tokens = spec.get("tokenRequests");
        tokens.unique(errors, "audience");
        for token in tokens.items() {
            let seconds = token.get("expirationSeconds");
            if seconds.int().is_some_and(|n| n < TOKEN_SECONDS) {
                seconds.invalid(errors, "may not specify a duration less than 10 minutes");
            } else if seconds.int().is_some_and(|n| n > 1 << 32) {
                seconds.invalid(errors, "may not specify a duration larger than 2^32 seconds");
            }
        }
        let period = spec.get("nodeAllocatableUpdatePeriodSeconds");
        if period.int().is_some_and(|n| n < 10) {
            period.invalid(errors, "must be greater than or equal to 10 seconds");
        }
    },
    validate_update: |root, old, errors| {
        let spec = root.get("spec");
        for name in ["attachRequired", "volumeLifecycleModes"] {
            spec.get(name).immutable(errors, &old["spec"][name]);
        }
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
    validate: |root, errors| {
        provisioner(&root.get("driverName"), errors);
        let parameters = root.get("parameters");
        if parameters.is_empty() {
            parameters.required(errors, "must contain at least one key/value pair");
        }
        self::parameters(&parameters, errors);
    },
    validate_update: |root, old, errors| no_updates(root, old, &["driverName", "parameters"], errors),
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

/// Rules of `csistoragecapacities.storage.k8s.io`.
pub static CAPACITY: Rules = Rules {
    validate: |root, errors| {
        label_selector(&root.get("nodeTopology"), errors);
        root.get("storageClassName").check(errors, names::dns1123_subdomain);
        quantity(&root.get("capacity"), errors);
        quantity(&root.get("maximumVolumeSize"), errors);
    },
    validate_update: |root, old, errors| {
        for name in ["nodeTopology", "storageClassName"] {
            root.get(name).immutable(errors, &old[name]);
        }
    },
    columns: &[Column::NAME, Column::text("StorageClassName"), Column::text("Capacity")],
    row: |object, _| {
        vec![
            table::name(object),
            json!(text(object, "/storageClassName")),
            json!(text(object, "/capacity")),
        ]
    },
    ..Rules::NONE
};

fn no_updates(root: &Field<'_>, old: &Value, names: &[&str], errors: &mut Errors) {
    for name in names {
        if !same(root.get(name).value, &old[*name]) {
            root.get(name)
                .forbidden(errors, &format!("updates to {name} are forbidden."));
        }
    }
}

fn provisioner(name: &Field<'_>, errors: &mut Errors) {
    if name.is_empty() {
        return name.required(errors, "");
    }
    for detail in names::qualified_name(&name.str().to_lowercase()) {
        name.invalid(errors, detail);
    }
}

fn parameters(parameters: &Field<'_>, errors: &mut Errors) {
    const MOST: usize = 512;
    const SIZE: usize = 256 << 10;
    if parameters.len() > MOST {
        parameters.too_long(errors, MOST);
    }
    let mut size = 0;
    for (key, value) in parameters.entries() {
        if key.is_empty() {
            parameters.invalid_as(errors, key, "field can not be empty.");
        }
        size += key.len() + value.str().len();
    }
    if size > SIZE {
        parameters.too_long(errors, SIZE);
    }
}

fn topologies(terms: &Field<'_>, errors: &mut Errors) {
    let mut all: Vec<BTreeMap<String, BTreeSet<String>>> = Vec::new();
    for term in terms.items() {
        let expressions = term.get("matchLabelExpressions");
        let mut shape = BTreeMap::new();
        for expression in expressions.items() {
            let (key, values) = (expression.get("key"), expression.get("values"));
            if values.is_empty() {
                values.required(errors, "");
            }
            values.unique(errors, "");
            key.check(errors, names::qualified_name);
            let set = values.items().map(|v| v.str().to_owned()).collect();
            if shape.insert(key.str().to_owned(), set).is_some() {
                key.duplicate(errors);
            }
        }
        if all.contains(&shape) {
            expressions.duplicate_of(errors, "", "");
        }
        all.push(shape);
    }
}
