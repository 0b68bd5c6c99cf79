//! HorizontalPodAutoscalers, in the form of autoscaling/v2.

use serde_json::{Value, json};

use super::common::int_or_string;
use super::field::{Errors, Field, default, ensure, list, number, set, text};
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
    },
    validate,
    columns: &[
        Column::NAME,
        Column::text("Reference"),
        Column::text("Targets"),
        Column::text("MinPods"),
        Column::text("MaxPods"),
        Column::integer("Replicas"),
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

fn validate(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.get("spec");
    let (least, most) = (spec.get("minReplicas"), spec.get("maxReplicas"));
    if least.int().is_some_and(|n| n < 1) {
        least.invalid(errors, "must be greater than or equal to 1");
    }
    if most.int().unwrap_or(0) < 1 {
        most.invalid(errors, "must be greater than 0");
    }
    if least.int().is_some_and(|n| most.int().unwrap_or(0) < n) {
        most.invalid(errors, "must be greater than or equal to `minReplicas`");
    }
    let target = spec.get("scaleTargetRef");
    for name in ["kind", "name"] {
        let field = target.get(name);
        if field.is_empty() {
            field.required(errors, "");
        }
    }
    for metric in spec.get("metrics").items() {
        metric
            .get("type")
            .required_one_of(errors, &["ContainerResource", "External", "Object", "Pods", "Resource"]);
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
}
