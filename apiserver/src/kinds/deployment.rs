//! Deployments.

use serde_json::{Value, json};

use super::common::{containers_and_images, format_selector};
use super::field::{Errors, Field, default, default_zero, ensure, int_or_percent, number, text};
use super::pod::defaults;
use super::rules::Rules;
use super::workload::{self, MORE_THAN_READY, MORE_THAN_REPLICAS};
use crate::registry::table::{self, Column};

/// Rules of `deployments.apps`.
pub static DEPLOYMENT: Rules = Rules {
    generation: true,
    default: fill,
    validate,
    validate_update: |root, old, errors| {
        root.get("spec")
            .get("selector")
            .immutable(errors, &old["spec"]["selector"])
    },
    validate_status: status,
    warnings: workload::named_warnings,
    columns: &[
        Column::NAME,
        Column::text("Ready"),
        Column::text("Up-to-date"),
        Column::text("Available"),
        Column::AGE,
        Column::text("Containers").wide(),
        Column::text("Images").wide(),
        Column::text("Selector").wide(),
    ],
    row: |object, now| {
        let [names, images] = containers_and_images(object.pointer("/spec/template/spec"));
        vec![
            table::name(object),
            json!(format!(
                "{}/{}",
                number(object, "/status/readyReplicas"),
                number(object, "/spec/replicas")
            )),
            json!(number(object, "/status/updatedReplicas")),
            json!(number(object, "/status/availableReplicas")),
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
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    if let Some(strategy) = ensure(spec, "strategy") {
        default_zero(strategy, "type", "RollingUpdate");
        if text(strategy, "/type") == "RollingUpdate"
            && let Some(rolling) = ensure(strategy, "rollingUpdate")
        {
            default(rolling, "maxUnavailable", "25%");
            default(rolling, "maxSurge", "25%");
        }
    }
    if let Some(pod) = spec.pointer_mut("/template/spec") {
        defaults::pod_spec(pod);
    }
}

fn validate(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.get("spec");
    spec.get("replicas").non_negative(errors);
    workload::selector(&spec, "deployment", errors);
    workload::template(&spec.get("template"), spec.get("selector").value, "ReplicaSet", errors);
    strategy(&spec.get("strategy"), errors);
    for name in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        spec.get(name).non_negative(errors);
    }
    let deadline = spec.get("progressDeadlineSeconds");
    if deadline
        .int()
        .is_some_and(|n| n <= spec.get("minReadySeconds").number())
    {
        deadline.invalid(errors, "must be greater than minReadySeconds");
    }
}

fn strategy(strategy: &Field<'_>, errors: &mut Errors) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").str() {
        "Recreate" if rolling.exists() => {
            rolling.forbidden(errors, "may not be specified when strategy `type` is 'Recreate'")
        }
        "Recreate" => {}
        "RollingUpdate" if !rolling.exists() => {
            rolling.required(errors, "this should be defaulted and never be nil");
        }
        "RollingUpdate" => rolling_update(&rolling, errors),
        other => {
            let shown = json!({"Type": other, "RollingUpdate": null});
            strategy
                .showing(&shown)
                .not_supported(errors, &["Recreate", "RollingUpdate"]);
        }
    }
}

/// `maxUnavailable` and `maxSurge`, not both nothing.
fn rolling_update(rolling: &Field<'_>, errors: &mut Errors) {
    let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
    int_or_percent(&unavailable, errors);
    int_or_percent(&surge, errors);
    if !workload::is_some(&unavailable) && !workload::is_some(&surge) {
        unavailable.invalid(errors, "may not be 0 when `maxSurge` is 0");
    }
    workload::at_most_all(&unavailable, errors);
}

fn status(root: &Field<'_>, old: &Value, errors: &mut Errors) {
    let status = root.get("status");
    workload::counts(
        &status,
        &[
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "collisionCount",
        ],
        &[
            ("updatedReplicas", "replicas", MORE_THAN_REPLICAS),
            ("readyReplicas", "replicas", MORE_THAN_REPLICAS),
            ("availableReplicas", "replicas", MORE_THAN_REPLICAS),
            ("availableReplicas", "readyReplicas", MORE_THAN_READY),
        ],
        errors,
    );
    workload::collisions(&status, old, errors);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> Value {
        json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "b"}]}}}})
    }

    fn messages(object: &Value) -> Vec<String> {
        let mut errors = Errors::new();
        validate(&Field::root("", object), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults_and_faults() {
        let mut object = web();
        fill(&mut object);
        assert_eq!(
            object["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        assert_eq!(object["spec"]["replicas"], 1);
        assert_eq!(messages(&object), Vec::<String>::new());
        let cases: [(&str, Value, &str); 6] = [
            (
                "/spec/replicas",
                json!(-1),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                "/spec/template/metadata/labels/app",
                json!("x"),
                "spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`",
            ),
            (
                "/spec/strategy/type",
                json!("Recreate"),
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
            ),
            (
                "/spec/template/spec/restartPolicy",
                json!("Never"),
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            ),
            (
                "/spec/progressDeadlineSeconds",
                json!(0),
                "spec.progressDeadlineSeconds: Invalid value: 0: must be greater than minReadySeconds",
            ),
            (
                "/spec/selector",
                json!({}),
                "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
            ),
        ];
        for (pointer, value, want) in cases {
            let mut broken = object.clone();
            if let Some(place) = broken.pointer_mut(pointer) {
                *place = value;
            }
            assert_eq!(messages(&broken), [want]);
        }
    }
}
