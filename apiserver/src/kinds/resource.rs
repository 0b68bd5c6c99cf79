//! Dynamic resource allocation, and trust bundles: their columns.

use serde_json::{Value, json};

use super::field::{list, text};
use super::rules::Rules;
use crate::registry::table::{self, Column};

/// Rules of `resourceclaims.resource.k8s.io`.
pub static CLAIM: Rules = Rules {
    validate_update: |root, old, errors| root.get("spec").immutable(errors, &old["spec"]),
    columns: &[Column::NAME, Column::text("State"), Column::AGE],
    row: |object, now| vec![table::name(object), json!(state(object)), table::age(object, now)],
    ..Rules::NONE
};

/// Rules of `resourceslices.resource.k8s.io`.
pub static SLICE: Rules = Rules {
    generation: true,
    columns: &[
        Column::NAME,
        Column::text("Node"),
        Column::text("Driver"),
        Column::text("Pool"),
        Column::AGE,
    ],
    row: |object, now| {
        let all = object.pointer("/spec/allNodes").and_then(Value::as_bool) == Some(true);
        let node = match text(object, "/spec/nodeName") {
            "" if all => "<all>",
            "" => "<selected>",
            name => name,
        };
        vec![
            table::name(object),
            json!(node),
            json!(text(object, "/spec/driver")),
            json!(text(object, "/spec/pool/name")),
            table::age(object, now),
        ]
    },
    fields: &["spec.nodeName", "spec.driver"],
    ..Rules::NONE
};

/// Rules of `clustertrustbundles.certificates.k8s.io`.
pub static TRUST_BUNDLE: Rules = Rules {
    columns: &[Column::NAME, Column::text("SignerName")],
    row: |object, _| {
        vec![
            table::name(object),
            json!(super::common::or_none(text(object, "/spec/signerName"))),
        ]
    },
    fields: &["spec.signerName"],
    ..Rules::NONE
};

/// `allocated,reserved` and its like.
fn state(object: &Value) -> String {
    let mut states = Vec::new();
    if object
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(Value::is_string)
    {
        states.push("deleted");
    }
    match object.pointer("/status/allocation").is_some_and(Value::is_object) {
        false => states.push("pending"),
        true => {
            states.push("allocated");
            if !list(object, "/status/reservedFor").is_empty() {
                states.push("reserved");
            }
        }
    }
    states.join(",")
}
