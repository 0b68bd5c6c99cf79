//! DaemonSets.

use serde_json::{Value, json};

use super::common::{containers_and_images, format_labels, format_selector, label_selector};
use super::field::{Errors, Field, default, default_zero, ensure, int_or_percent, number, text};
use super::pod::{self, defaults};
use super::rules::Rules;
use super::workload;
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
    validate_status: status,
    warnings: workload::template_warnings,
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
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    label_selector(&selector, errors);
    workload::selected(&template, selector.value, errors);
    workload::not_empty(&selector, "daemonset", errors);
    pod::validate::template(&template, errors);
    workload::runs_forever(&template, "DaemonSet", errors);
    spec.get("minReadySeconds").non_negative(errors);
    strategy(&spec.get("updateStrategy"), errors);
    spec.get("revisionHistoryLimit").non_negative(errors);
}

fn strategy(strategy: &Field<'_>, errors: &mut Errors) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").str() {
        "OnDelete" => {}
        "RollingUpdate" if !rolling.exists() => rolling.required(errors, ""),
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            int_or_percent(&unavailable, errors);
            int_or_percent(&surge, errors);
            match (workload::is_some(&unavailable), workload::is_some(&surge)) {
                (true, true) => surge.invalid(errors, "may not be set when maxUnavailable is non-zero"),
                (false, false) => unavailable.required(errors, "cannot be 0 when maxSurge is 0"),
                _ => {}
            }
            workload::at_most_all(&unavailable, errors);
            workload::at_most_all(&surge, errors);
        }
        _ => strategy
            .get("type")
            .not_supported(errors, &["RollingUpdate", "OnDelete"]),
    }
}

fn status(root: &Field<'_>, old: &Value, errors: &mut Errors) {
    let status = root.get("status");
    let counts = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    workload::counts(&status, &counts, &[], errors);
    workload::collisions(&status, old, errors);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_surge_or_unavailability() {
        for (rolling, want) in [
            (json!({"maxUnavailable": 1, "maxSurge": 0}), None),
            (
                json!({"maxUnavailable": 1, "maxSurge": "10%"}),
                Some(
                    "s.rollingUpdate.maxSurge: Invalid value: \"10%\": may not be set when maxUnavailable is non-zero",
                ),
            ),
            (
                json!({"maxUnavailable": 0, "maxSurge": 0}),
                Some("s.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"),
            ),
            (
                json!({"maxUnavailable": "101%"}),
                Some("s.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%"),
            ),
        ] {
            let value = json!({"type": "RollingUpdate", "rollingUpdate": rolling});
            let mut errors = Errors::new();
            strategy(&Field::root("s", &value), &mut errors);
            assert_eq!(errors.first().map(ToString::to_string).as_deref(), want);
        }
    }
}
