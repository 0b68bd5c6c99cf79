//! PodDisruptionBudgets, PriorityClasses, RuntimeClasses, Leases, PodTemplates.

use serde_json::{Value, json};

use super::common::{conditions, int_or_string, label_selector, labels};
use super::field::{Field, default, int_or_percent, number, percent, text};
use super::rules::Rules;
use crate::registry::table::{self, Column};

/// Rules of `poddisruptionbudgets.policy`.
pub static DISRUPTION_BUDGET: Rules = Rules {
    generation: true,
    validate: |root, errors| {
        let spec = root.get("spec");
        let (least, most) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
        if least.exists() && most.exists() {
            spec.invalid(errors, "minAvailable and maxUnavailable cannot be both set");
        }
        for bound in [least, most] {
            int_or_percent(&bound, errors);
            if percent(bound.value).is_some_and(|n| n > 100) {
                bound.invalid(errors, "must not be greater than 100%");
            }
        }
        label_selector(&spec.get("selector"), errors);
        spec.get("unhealthyPodEvictionPolicy")
            .one_of_if_set(errors, &["AlwaysAllow", "IfHealthyBudget"]);
    },
    validate_status: |root, _, errors| {
        let status = root.get("status");
        conditions(&status.get("conditions"), errors);
        for count in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            status.get(count).non_negative(errors);
        }
    },
    columns: &[
        Column::NAME,
        Column::text("Min Available"),
        Column::text("Max Unavailable"),
        Column::integer("Allowed Disruptions"),
        Column::AGE,
    ],
    row: |object, now| {
        let bound = |pointer: &str| {
            json!(
                object
                    .pointer(pointer)
                    .filter(|v| !v.is_null())
                    .map_or_else(|| "N/A".to_owned(), int_or_string)
            )
        };
        vec![
            table::name(object),
            bound("/spec/minAvailable"),
            bound("/spec/maxUnavailable"),
            json!(number(object, "/status/disruptionsAllowed")),
            table::age(object, now),
        ]
    },
    unconditional_update: false,
    ..Rules::NONE
};

/// Values from here on are for the system's own classes.
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;
const SYSTEM_CLASSES: [(&str, i64); 2] = [
    ("system-cluster-critical", 2_000_000_000),
    ("system-node-critical", 2_000_001_000),
];

/// Rules of `priorityclasses.scheduling.k8s.io`.
pub static PRIORITY_CLASS: Rules = Rules {
    generation: true,
    default: |object| default(object, "preemptionPolicy", "PreemptLowerPriority"),
    validate: |root, errors| {
        let metadata = root.get("metadata");
        let (name, value) = (metadata.get("name"), root.get("value"));
        if name.str().starts_with("system-") {
            if let Some(fault) = no_system_class(root) {
                name.forbidden(
                    errors,
                    &format!(
                        "priority class names with 'system-' prefix are reserved for system use only. error: {fault}"
                    ),
                );
            }
        } else if value.number() > HIGHEST_USER_PRIORITY {
            value.forbidden(
                errors,
                &format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"),
            );
        }
        root.get("preemptionPolicy")
            .one_of(errors, &["PreemptLowerPriority", "Never"]);
    },
    validate_update: |root, old, errors| {
        // A change is only compared with what was; this is all of it.
        errors.clear();
        if root.get("value").number() != number(old, "/value") {
            root.get("value").forbidden(errors, "may not be changed in an update.");
        }
        root.get("preemptionPolicy").immutable(errors, &old["preemptionPolicy"]);
    },
    columns: &[
        Column::NAME,
        Column::integer("Value"),
        Column {
            kind: "boolean",
            ..Column::text("Global-Default")
        },
        Column::AGE,
        Column::text("PreemptionPolicy"),
    ],
    row: |object, now| {
        vec![
            table::name(object),
            json!(number(object, "/value")),
            json!(object.get("globalDefault").and_then(Value::as_bool).unwrap_or(false)),
            table::age(object, now),
            json!(text(object, "/preemptionPolicy")),
        ]
    },
    ..Rules::NONE
};

/// Rules of `runtimeclasses.node.k8s.io`.
pub static RUNTIME_CLASS: Rules = Rules {
    validate: |root, errors| {
        root.get("handler").check(errors, api::names::dns1123_label);
        let overhead = Field::root("overhead", &root.value["overhead"]["podFixed"]);
        super::pod::resources::overhead(&overhead, errors);
        let scheduling = root.get("scheduling");
        labels(&scheduling.get("nodeSelector"), errors);
        for toleration in scheduling.get("tolerations").items() {
            super::pod::placement::toleration(&toleration, errors);
        }
        scheduling.get("tolerations").unique(errors, "");
    },
    validate_update: |root, old, errors| {
        // A change is only compared with what was; this is all of it.
        errors.clear();
        root.get("handler").immutable(errors, &old["handler"]);
    },
    columns: &[Column::NAME, Column::text("Handler"), Column::AGE],
    row: |object, now| {
        vec![
            table::name(object),
            json!(text(object, "/handler")),
            table::age(object, now),
        ]
    },
    unconditional_update: false,
    ..Rules::NONE
};

/// Rules of `leases.coordination.k8s.io`.
pub static LEASE: Rules = Rules {
    create_on_update: true,
    validate: |root, errors| {
        let spec = root.get("spec");
        let (seconds, strategy, preferred) = (
            spec.get("leaseDurationSeconds"),
            spec.get("strategy"),
            spec.get("preferredHolder"),
        );
        if seconds.exists() && seconds.number() <= 0 {
            seconds.invalid(errors, "must be greater than 0");
        }
        spec.get("leaseTransitions").non_negative(errors);
        if strategy.str().contains('/') {
            strategy.check(errors, api::names::qualified_name);
        } else {
            strategy.one_of_if_set(errors, &["OldestEmulationVersion"]);
        }
        if !preferred.is_empty() && strategy.is_empty() {
            preferred.forbidden(errors, "may only be specified if `strategy` is defined");
        }
    },
    columns: &[Column::NAME, Column::text("Holder"), Column::AGE],
    row: |object, now| {
        vec![
            table::name(object),
            json!(text(object, "/spec/holderIdentity")),
            table::age(object, now),
        ]
    },
    unconditional_update: false,
    ..Rules::NONE
};

/// Rules of `podtemplates`.
pub static POD_TEMPLATE: Rules = Rules {
    generation: true,
    default: |object| {
        if let Some(spec) = object.pointer_mut("/template/spec") {
            super::pod::defaults::pod_spec(spec);
        }
    },
    validate: |root, errors| super::pod::validate::template(&root.get("template"), errors),
    warnings: |root, old| super::workload::warn(&root.get("template"), old),
    columns: &[
        Column::NAME,
        Column::text("Containers"),
        Column::text("Images"),
        Column::text("Pod Labels"),
    ],
    row: |object, _| {
        let [names, images] = super::common::containers_and_images(object.pointer("/template/spec"));
        vec![
            table::name(object),
            names,
            images,
            json!(super::common::format_labels(
                object.pointer("/template/metadata/labels")
            )),
        ]
    },
    ..Rules::NONE
};

/// Why a class with a name of the system's is none of them.
fn no_system_class(class: &Field<'_>) -> Option<String> {
    let name = text(class.value, "/metadata/name");
    let Some((_, value)) = SYSTEM_CLASSES.iter().find(|(known, _)| *known == name) else {
        return Some(format!("{name} is not a known system priority class"));
    };
    if class.get("value").number() != *value {
        return Some(format!("value of {name} PriorityClass must be {value}"));
    }
    class
        .get("globalDefault")
        .bool()
        .then(|| format!("globalDefault of {name} PriorityClass must be false"))
}

#[cfg(test)]
mod tests {
    use super::super::field::Errors;
    use super::*;

    fn check(rules: &Rules, mut object: Value) -> Vec<String> {
        (rules.default)(&mut object);
        let mut errors = Errors::new();
        (rules.validate)(&Field::root("", &object), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn faults() {
        for (rules, object, expected) in [
            (
                &DISRUPTION_BUDGET,
                json!({"spec": {"minAvailable": "101%", "unhealthyPodEvictionPolicy": "x"}}),
                vec![
                    "spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%",
                    "spec.unhealthyPodEvictionPolicy: Unsupported value: \"x\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\"",
                ],
            ),
            (
                &PRIORITY_CLASS,
                json!({"metadata": {"name": "system-mine"}}),
                vec![
                    "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class",
                ],
            ),
            (
                &PRIORITY_CLASS,
                json!({"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000}),
                vec![],
            ),
            (
                &RUNTIME_CLASS,
                json!({"handler": "runc", "overhead": {"podFixed": {"cpu": "-1"}}}),
                vec!["overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"],
            ),
            (
                &LEASE,
                json!({"spec": {"leaseDurationSeconds": 0, "preferredHolder": "a"}}),
                vec![
                    "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                    "spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined",
                ],
            ),
        ] {
            assert_eq!(check(rules, object), expected);
        }
    }
}
