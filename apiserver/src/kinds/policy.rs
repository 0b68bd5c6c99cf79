//! PodDisruptionBudgets, PriorityClasses, RuntimeClasses, Leases, LimitRanges, ResourceQuotas.

use serde_json::{Value, json};

use super::common::{int_or_string, label_selector, parse_quantity, quantity};
use super::field::{Errors, Field, default, each, ensure, int_or_percent, number, percent, text};
use super::rbac::created_row;
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
        let policy = spec.get("unhealthyPodEvictionPolicy");
        if policy.exists() {
            policy.one_of(errors, &["AlwaysAllow", "IfHealthyBudget"]);
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
            if !SYSTEM_CLASSES
                .iter()
                .any(|(n, v)| *n == name.str() && value.int() == Some(*v))
            {
                name.forbidden(errors, "priority class names with 'system-' prefix are reserved for system use only. error: not a known system priority class");
            }
        } else if value.int().is_some_and(|n| n > HIGHEST_USER_PRIORITY) {
            value.forbidden(
                errors,
                &format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"),
            );
        }
        root.get("preemptionPolicy")
            .one_of(errors, &["Never", "PreemptLowerPriority"]);
    },
    validate_update: |root, old, errors| {
        if root.get("value").int().unwrap_or(0) != number(old, "/value") {
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
        let handler = root.get("handler");
        handler.invalid_all(errors, api::names::dns1123_label(handler.str()));
    },
    validate_update: |root, old, errors| root.get("handler").immutable(errors, &old["handler"]),
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
        let seconds = spec.get("leaseDurationSeconds");
        if seconds.int().is_some_and(|n| n <= 0) {
            seconds.invalid(errors, "must be greater than 0");
        }
        spec.get("leaseTransitions").non_negative(errors);
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

/// Rules of `limitranges`.
pub static LIMIT_RANGE: Rules = Rules {
    create_on_update: true,
    default: fill_limits,
    validate: validate_limits,
    columns: &[
        Column::NAME,
        Column {
            kind: "date",
            ..Column::text("Created At")
        },
    ],
    row: created_row,
    ..Rules::NONE
};

/// Rules of `resourcequotas`.
pub static RESOURCE_QUOTA: Rules = Rules {
    validate: |root, errors| {
        let spec = root.get("spec");
        for (_, amount) in spec.get("hard").entries() {
            quantity(&amount, errors);
        }
        let scopes = [
            "BestEffort",
            "CrossNamespacePodAffinity",
            "NotBestEffort",
            "NotTerminating",
            "PriorityClass",
            "Terminating",
            "VolumeAttributesClass",
        ];
        for scope in spec.get("scopes").items() {
            if !scopes.contains(&scope.str()) {
                scope.invalid(errors, "unsupported scope");
            }
        }
    },
    validate_update: |root, old, errors| {
        let spec = root.get("spec");
        let sorted = |v: &Value| {
            let mut names: Vec<String> = v.as_array().into_iter().flatten().map(ToString::to_string).collect();
            names.sort();
            names
        };
        if sorted(spec.get("scopes").value) != sorted(&old["spec"]["scopes"]) {
            spec.get("scopes").invalid(errors, "field is immutable");
        }
    },
    columns: &[
        Column::NAME,
        Column::text("Request"),
        Column::text("Limit"),
        Column::AGE,
    ],
    row: |object, now| {
        let hard = object.pointer("/status/hard").and_then(Value::as_object);
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, most) in hard.into_iter().flatten() {
            let used = object["status"]["used"]
                .get(name)
                .map(int_or_string)
                .unwrap_or_default();
            let shown = format!("{name}: {used}/{}", int_or_string(most));
            if name.starts_with("limits") {
                limits.push(shown)
            } else {
                requests.push(shown)
            }
        }
        vec![
            table::name(object),
            json!(requests.join(", ")),
            json!(limits.join(", ")),
            table::age(object, now),
        ]
    },
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

/// A Container limit's `max` is its `default`, which is its `defaultRequest`, unless they are given.
fn fill_limits(object: &mut Value) {
    for limit in object.get_mut("spec").into_iter().flat_map(|s| each(s, "limits")) {
        if text(limit, "/type") != "Container" {
            continue;
        }
        for (from, to) in [
            ("max", "default"),
            ("default", "defaultRequest"),
            ("min", "defaultRequest"),
        ] {
            let values = limit.get(from).and_then(Value::as_object).cloned().unwrap_or_default();
            if values.is_empty() {
                continue;
            }
            if let Some(target) = ensure(limit, to) {
                values
                    .into_iter()
                    .for_each(|(name, value)| default(target, &name, value));
            }
        }
    }
}

fn validate_limits(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.get("spec");
    let limits = spec.get("limits");
    limits.unique(errors, "type");
    for limit in limits.items() {
        let kind = limit.get("type");
        if kind.is_empty() {
            kind.required(errors, "");
        }
        let (least, most) = (limit.get("min"), limit.get("max"));
        for (name, amount) in least.entries() {
            let upper = most.key(name);
            if let (Some(a), Some(b)) = (parse_quantity(amount.value), parse_quantity(upper.value))
                && a > b
            {
                amount.invalid(errors, format!("min value {a} is greater than max value {b}"));
            }
        }
    }
}
