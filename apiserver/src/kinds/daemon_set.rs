//! DaemonSets.

use serde_json::{Value, json};

use super::common::{containers_and_images, format_labels, format_selector};
use super::deployment::rolling_update;
use super::field::{Errors, Field, default, default_zero, ensure, number, text};
use super::pod::{defaults, workload};
use super::rules::Rules;
use crate::registry::table::{self, Column};

/// Rules of `daemonsets.apps`.
pub static DAEMON_SET: Rules = Rules {
    generation: true,
    default: fill,
    validate,
    validate_update: |root, old, errors| {
        root.get("spec")
            .get("selector")
            .immutable(errors, &old["spec"]["selector"])
    },
    columns: &[
        Column::NAME,
        Column::integer("Desired"),
        Column::integer("Current"),
        Column::integer("Ready"),
        Column::integer("Up-to-date"),
        Column::integer("Available"),
        Column::text("Node Selector"),
        Column::AGE,
        Column::text("Containers").wide(),
        Column::text("Images").wide(),
        Column::text("Selector").wide(),
    ],
    row: |object, now| {
        let [names, images] = containers_and_images(object.pointer("/spec/template/spec"));
        let status = |field: &str| json!(number(object, &format!("/status/{field}")));
        vec![
            table::name(object),
            status("desiredNumberScheduled"),
            status("currentNumberScheduled"),
            status("numberReady"),
            status("updatedNumberScheduled"),
            status("numberAvailable"),
            json!(format_labels(object.pointer("/spec/template/spec/nodeSelector"))),
            table::age(object, now),
            names,
            images,
            json!(format_selector(object.pointer("/spec/selector"))),
        ]
    },
    ..Rules::NONE
};

fn fill(object: &mut Value) {
    let Some(spec) = ensure(object, "spec") else { return };
    default(spec, "revisionHistoryLimit", 10);
    if let Some(strategy) = ensure(spec, "updateStrategy") {
        default_zero(strategy, "type", "RollingUpdate");
        if text(strategy, "/type") == "RollingUpdate"
            && let Some(rolling) = ensure(strategy, "rollingUpdate")
        {
            default(rolling, "maxUnavailable", 1);
            default(rolling, "maxSurge", 0);
        }
    }
    if let Some(pod) = spec.pointer_mut("/template/spec") {
        defaults::pod_spec(pod);
    }
}

fn validate(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.get("spec");
    workload(&spec, "daemonset", errors);
    spec.get("minReadySeconds").non_negative(errors);
    spec.get("revisionHistoryLimit").non_negative(errors);
    let strategy = spec.get("updateStrategy");
    match strategy.get("type").str() {
        "OnDelete" => {}
        "RollingUpdate" => rolling_update(&strategy.get("rollingUpdate"), errors),
        _ => strategy
            .get("type")
            .not_supported(errors, &["RollingUpdate", "OnDelete"]),
    }
}
