//! ReplicaSets and ReplicationControllers, which differ in their selector and in their defaults.

use serde_json::{Value, json};

use super::common::{containers_and_images, format_labels, format_selector};
use super::field::{Errors, Field, default, ensure, number};
use super::pod::defaults;
use super::rules::Rules;
use super::workload::{self, MORE_THAN_READY, MORE_THAN_REPLICAS};
use crate::registry::table::{self, Column};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::integer("Desired"),
    Column::integer("Current"),
    Column::integer("Ready"),
    Column::AGE,
    Column::text("Containers").wide(),
    Column::text("Images").wide(),
    Column::text("Selector").wide(),
];

/// Rules of `replicasets.apps`.
pub static REPLICA_SET: Rules = Rules {
    generation: true,
    default: |object| fill(object, false),
    validate: |root, errors| {
        let spec = root.get("spec");
        spec.get("replicas").non_negative(errors);
        spec.get("minReadySeconds").non_negative(errors);
        workload::selector(&spec, "deployment", errors);
        workload::template(&spec.get("template"), spec.get("selector").value, "ReplicaSet", errors);
    },
    validate_update: |root, old, errors| {
        root.get("spec")
            .get("selector")
            .immutable(errors, &old["spec"]["selector"])
    },
    validate_status: status,
    warnings: workload::named_warnings,
    columns: COLUMNS,
    row: |object, now| row(object, now, format_selector(object.pointer("/spec/selector"))),
    fields: &["status.replicas"],
    ..Rules::NONE
};

/// Rules of `replicationcontrollers`.
pub static REPLICATION_CONTROLLER: Rules = Rules {
    generation: true,
    default: |object| fill(object, true),
    validate: validate_controller,
    validate_status: status,
    warnings: workload::named_warnings,
    columns: COLUMNS,
    row: |object, now| row(object, now, format_labels(object.pointer("/spec/selector"))),
    fields: &["status.replicas"],
    orphans: true,
    ..Rules::NONE
};

fn row(object: &Value, now: jiff::Timestamp, selector: String) -> Vec<Value> {
    let [names, images] = containers_and_images(object.pointer("/spec/template/spec"));
    vec![
        table::name(object),
        json!(number(object, "/spec/replicas")),
        json!(number(object, "/status/replicas")),
        json!(number(object, "/status/readyReplicas")),
        table::age(object, now),
        names,
        images,
        json!(selector),
    ]
}

fn fill(object: &mut Value, controller: bool) {
    let labels = object
        .pointer("/spec/template/metadata/labels")
        .filter(|l| l.as_object().is_some_and(|m| !m.is_empty()))
        .cloned();
    if let Some(labels) = labels.filter(|_| controller) {
        if let Some(spec) = ensure(object, "spec") {
            default(spec, "selector", labels.clone());
        }
        if let Some(metadata) = ensure(object, "metadata") {
            default(metadata, "labels", labels);
        }
    }
    let Some(spec) = ensure(object, "spec") else { return };
    default(spec, "replicas", 1);
    if let Some(pod) = spec.pointer_mut("/template/spec") {
        defaults::pod_spec(pod);
    }
}

fn validate_controller(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.get("spec");
    spec.get("minReadySeconds").non_negative(errors);
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    if selector.is_empty() {
        selector.required(errors, "");
    }
    spec.get("replicas").non_negative(errors);
    if !template.exists() {
        return template.required(errors, "");
    }
    let wrapped = json!({"matchLabels": selector.value});
    workload::template(&template, &wrapped, "ReplicationController", errors);
}

fn status(root: &Field<'_>, _old: &Value, errors: &mut Errors) {
    workload::counts(
        &root.get("status"),
        &[
            "replicas",
            "fullyLabeledReplicas",
            "readyReplicas",
            "availableReplicas",
            "observedGeneration",
        ],
        &[
            ("fullyLabeledReplicas", "replicas", MORE_THAN_REPLICAS),
            ("readyReplicas", "replicas", MORE_THAN_REPLICAS),
            ("availableReplicas", "replicas", MORE_THAN_REPLICAS),
            ("availableReplicas", "readyReplicas", MORE_THAN_READY),
        ],
        errors,
    );
}
