//! HorizontalPodAutoscalers, in the form of autoscaling/v2.

use api::names;
use serde_json::{Value, json};

use super::common::{int_or_string, parse_quantity};
use super::field::{Errors, Field, default, ensure, list, number, set, text};
use super::resource_names;
use super::rules::Rules;
use crate::registry::table::{self, Column};

/// How many metrics a cell shows.
const SHOWN: usize = 2;

/// Rules of `horizontalpodautoscalers.autoscaling`.
pub static AUTOSCALER: Rules = Rules {
    default: |object| {
        let Some(spec) = ensure(object, "spec") else { return };
        default(spec, "minReplicas", 1);
        if list(spec, "/metrics").is_empty() {
            set(
                spec,
                "metrics",
                json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]),
            );
        }
        if let Some(behavior) = spec.get_mut("behavior").filter(|b| b.is_object()) {
            fill_behavior(behavior);
        }
    },
    validate,
    validate_status: |root, _, errors| {
        let status = root.get("status");
        status.get("currentReplicas").non_negative(errors);
        status.get("desiredReplicas").non_negative(errors);
    },
    columns: &[
        Column::NAME,
        Column::text("Reference"),
        Column::text("Targets"),
        Column::text("MinPods"),
        Column::text("MaxPods"),
        Column::text("Replicas"),
        Column::AGE,
    ],
    row: |object, now| {
        let least = object
            .pointer("/spec/minReplicas")
            .and_then(Value::as_i64)
            .map_or_else(|| "<unset>".to_owned(), |n| n.to_string());
        vec![
            table::name(object),
            json!(format!(
                "{}/{}",
                text(object, "/spec/scaleTargetRef/kind"),
                text(object, "/spec/scaleTargetRef/name")
            )),
            json!(targets(object)),
            json!(least),
            json!(number(object, "/spec/maxReplicas")),
            json!(number(object, "/status/currentReplicas")),
            table::age(object, now),
        ]
    },
    ..Rules::NONE
};

const SOURCES: [&str; 5] = ["object", "external", "pods", "resource", "containerResource"];
const KINDS: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
const WINDOW_LIMIT: i64 = 3600;
const PERIOD_LIMIT: i64 = 1800;

/// Upstream's defaults of a direction's rules; either direction gets them as soon as there is a behavior at all.
fn fill_behavior(behavior: &mut Value) {
    let up = json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
        {"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]});
    let down = json!({"selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]});
    for (direction, defaults) in [("scaleUp", up), ("scaleDown", down)] {
        let Some(rules) = ensure(behavior, direction) else {
            continue;
        };
        for (name, value) in defaults.as_object().into_iter().flatten() {
            default(rules, name, value.clone());
        }
    }
}

fn validate(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.get("spec");
    let (least, most) = (spec.get("minReplicas"), spec.get("maxReplicas"));
    if least.int().is_some_and(|n| n < 1) {
        least.invalid(errors, "must be greater than or equal to 1");
    }
    if most.number() < 1 {
        most.invalid_as(errors, most.number(), "must be greater than 0");
    }
    if least.int().is_some_and(|n| most.number() < n) {
        most.invalid_as(errors, most.number(), "must be greater than or equal to `minReplicas`");
    }
    target_object(&spec.get("scaleTargetRef"), errors);
    spec.get("metrics")
        .items()
        .for_each(|metric| self::metric(&metric, errors));
    let behavior = spec.get("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        scaling_rules(&behavior.get(direction), errors);
    }
}

fn target_object(target: &Field<'_>, errors: &mut Errors) {
    target.get("kind").required_check(errors, names::path_segment);
    target.get("name").required_check(errors, names::path_segment);
}

fn metric(metric: &Field<'_>, errors: &mut Errors) {
    let kind = metric.get("type");
    if kind.is_empty() {
        kind.required(errors, "must specify a metric source type");
    }
    let known = KINDS.contains(&kind.str());
    if !known {
        kind.not_supported(errors, KINDS);
    }
    let present: Vec<&str> = SOURCES.into_iter().filter(|name| metric.get(name).exists()).collect();
    if let Some(name) = present.first() {
        source(name, &metric.get(name), errors);
    }
    let mut expected = kind.str().to_owned();
    if let Some(first) = expected.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    if !known {
        kind.not_supported(errors, KINDS);
    } else if !present.contains(&expected.as_str()) {
        metric
            .get(&expected)
            .required(errors, "must populate information for the given metric source");
    }
    if present.len() != 1 {
        for name in present.into_iter().filter(|name| *name != expected) {
            metric
                .get(name)
                .forbidden(errors, "must populate the given metric source only");
        }
    }
}

fn source(name: &str, source: &Field<'_>, errors: &mut Errors) {
    let target = source.get("target");
    match name {
        "object" | "external" | "pods" => {
            if name == "object" {
                target_object(&source.get("describedObject"), errors);
            }
            let metric = source.get("metric");
            let id = metric.get("name");
            if id.is_empty() {
                id.required(errors, "must specify a metric name");
            } else {
                id.check(errors, names::path_segment);
            }
        }
        _ => {
            let (resource, container) = (source.get("name"), source.get("container"));
            if resource.is_empty() {
                resource.required(errors, "must specify a resource name");
            } else if name == "containerResource" {
                resource_names::container(&resource, resource.str(), errors);
            }
            if name == "containerResource" {
                if container.is_empty() {
                    container.required(errors, "must specify a container");
                } else {
                    container.check(errors, names::dns1123_label);
                }
            }
        }
    }
    metric_target(&target, errors);
    let (value, average, share) = (
        target.get("value"),
        target.get("averageValue"),
        target.get("averageUtilization"),
    );
    match name {
        "object" if !value.exists() && !average.exists() => {
            average.required(errors, "must set either a target value or averageValue")
        }
        "external" if !value.exists() && !average.exists() => {
            average.required(errors, "must set either a target value for metric or a per-pod target")
        }
        "external" if value.exists() && average.exists() => value.forbidden(
            errors,
            "may not set both a target value for metric and a per-pod target",
        ),
        "pods" if !average.exists() => average.required(errors, "must specify a positive target averageValue"),
        "resource" | "containerResource" if !share.exists() && !average.exists() => {
            share.required(errors, "must set either a target raw value or a target utilization")
        }
        "resource" | "containerResource" if share.exists() && average.exists() => {
            average.forbidden(errors, "may not set both a target raw value and a target utilization")
        }
        _ => {}
    }
}

fn metric_target(target: &Field<'_>, errors: &mut Errors) {
    let (kind, share) = (target.get("type"), target.get("averageUtilization"));
    if kind.is_empty() {
        kind.required(errors, "must specify a metric target type");
    }
    if !matches!(kind.str(), "Utilization" | "Value" | "AverageValue") {
        kind.invalid_as(errors, kind.str(), "must be either Utilization, Value, or AverageValue");
    }
    for name in ["value", "averageValue"] {
        let amount = target.get(name);
        if parse_quantity(amount.value).is_some_and(|q| q.is_negative() || q.is_zero()) {
            amount.invalid(errors, "must be positive");
        }
    }
    if share.int().is_some_and(|n| n < 1) {
        share.invalid(errors, "must be greater than 0");
    }
}

fn scaling_rules(rules: &Field<'_>, errors: &mut Errors) {
    const NOT_POSITIVE: &str = "must be greater than zero";
    if !rules.exists() {
        return;
    }
    let (window, policies, tolerance) = (
        rules.get("stabilizationWindowSeconds"),
        rules.get("policies"),
        rules.get("tolerance"),
    );
    if window.number() < 0 {
        window.invalid(errors, "must be greater than or equal to zero");
    }
    if window.number() > WINDOW_LIMIT {
        window.invalid(errors, format!("must be less than or equal to {WINDOW_LIMIT}"));
    }
    rules
        .get("selectPolicy")
        .one_of_if_set(errors, &["Disabled", "Max", "Min"]);
    if policies.is_empty() {
        policies.required(errors, "must specify at least one Policy");
    }
    for policy in policies.items() {
        let (value, period) = (policy.get("value"), policy.get("periodSeconds"));
        policy.get("type").one_of(errors, &["Percent", "Pods"]);
        for field in [value, period].into_iter().filter(|f| f.number() <= 0) {
            field.invalid_as(errors, field.number(), NOT_POSITIVE);
        }
        if period.number() > PERIOD_LIMIT {
            period.invalid(errors, format!("must be less than or equal to {PERIOD_LIMIT}"));
        }
    }
    if parse_quantity(tolerance.value).is_some_and(|q| q.is_negative()) {
        tolerance.invalid(errors, "must be greater than or equal to 0");
    }
}

fn targets(object: &Value) -> String {
    let current = list(object, "/status/currentMetrics");
    let shown: Vec<String> = list(object, "/spec/metrics")
        .iter()
        .enumerate()
        .map(|(i, metric)| target(metric, current.get(i)))
        .collect();
    match shown.len() {
        0 => "<none>".to_owned(),
        n if n > SHOWN => format!("{} + {} more...", shown[..SHOWN].join(", "), n - SHOWN),
        _ => shown.join(", "),
    }
}

/// `cpu: 10%/80%`, `5/10 (avg)`.
fn target(metric: &Value, current: Option<&Value>) -> String {
    let (source, named) = match text(metric, "/type") {
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "External" => ("external", false),
        _ => return "<unknown type>".to_owned(),
    };
    let wanted = &metric[source]["target"];
    let now = current.map(|c| &c[source]["current"]).cloned().unwrap_or_default();
    let amount = |value: &Value, field: &str| value.get(field).filter(|v| !v.is_null()).map(int_or_string);
    let unknown = || "<unknown>".to_owned();
    let text_of = if let Some(percent) = amount(wanted, "averageUtilization") {
        let is = amount(&now, "averageUtilization").map_or_else(unknown, |p| format!("{p}%"));
        format!("{is}/{percent}%")
    } else if let Some(average) = amount(wanted, "averageValue") {
        let suffix = if named || source == "pods" { "" } else { " (avg)" };
        format!(
            "{}/{average}{suffix}",
            amount(&now, "averageValue").unwrap_or_else(unknown)
        )
    } else {
        format!(
            "{}/{}",
            amount(&now, "value").unwrap_or_else(unknown),
            amount(wanted, "value").unwrap_or_default()
        )
    };
    if named {
        format!("{}: {text_of}", text(&metric[source], "/name"))
    } else {
        text_of
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_cells() {
        let mut object = json!({"spec": {"maxReplicas": 3}});
        (AUTOSCALER.default)(&mut object);
        assert_eq!(targets(&object), "cpu: <unknown>/80%");
        object["status"] = json!({"currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 12}}}]});
        assert_eq!(targets(&object), "cpu: 12%/80%");
    }

    #[test]
    fn faults() {
        let created = |spec: Value| {
            let mut object =
                json!({"spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "web"}}});
            for (name, value) in spec.as_object().cloned().unwrap_or_default() {
                object["spec"][name] = value;
            }
            (AUTOSCALER.default)(&mut object);
            let mut errors = Errors::new();
            validate(&Field::root("", &object), &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let cases: [(Value, &[&str]); 6] = [
            (json!({"behavior": {"scaleUp": {}}}), &[]),
            (
                json!({"minReplicas": 5}),
                &["spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`"],
            ),
            (
                json!({"minReplicas": 0}),
                &["spec.minReplicas: Invalid value: 0: must be greater than or equal to 1"],
            ),
            (
                json!({"scaleTargetRef": {"name": "web"}}),
                &["spec.scaleTargetRef.kind: Required value"],
            ),
            (
                json!({"metrics": [{"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue"}}}]}),
                &[
                    "spec.metrics[0].pods.target.averageValue: Required value: must specify a positive target averageValue",
                ],
            ),
            (
                json!({"metrics": [{"type": "Resource"}], "behavior": {"scaleDown": {"stabilizationWindowSeconds": 3601}}}),
                &[
                    "spec.metrics[0].resource: Required value: must populate information for the given metric source",
                    "spec.behavior.scaleDown.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
                ],
            ),
        ];
        for (spec, want) in cases {
            assert_eq!(created(spec.clone()), want, "{spec}");
        }
    }
}
