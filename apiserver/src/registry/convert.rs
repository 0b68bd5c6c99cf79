//! Between the served versions of a kind. Where versions differ in shape the rules are here; otherwise only `apiVersion` changes.

use serde_json::{Map, Value, json};

use super::Kind;

/// Turns an object of the kind's requested version into its storage version.
pub fn to_storage(kind: &Kind, mut object: Value) -> Value {
    if kind.is_storage_version() {
        return object;
    }
    match (&*kind.info.group, &*kind.info.version) {
        ("events.k8s.io", _) => rename(&mut object, EVENT_FIELDS, false),
        ("autoscaling", "v1") => autoscaling_v1_to_v2(&mut object),
        _ => {}
    }
    stamp(&mut object, kind.storage_api_version(), &kind.storage.kind);
    object
}

/// Turns a stored object into the kind's requested version.
pub fn from_storage(kind: &Kind, mut object: Value) -> Value {
    if kind.is_storage_version() {
        return object;
    }
    match (&*kind.info.group, &*kind.info.version) {
        ("events.k8s.io", _) => rename(&mut object, EVENT_FIELDS, true),
        ("autoscaling", "v1") => autoscaling_v2_to_v1(&mut object),
        _ => {}
    }
    stamp(&mut object, kind.api_version(), &kind.info.kind);
    object
}

fn stamp(object: &mut Value, api_version: String, kind: &str) {
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".into(), api_version.into());
        map.insert("kind".into(), kind.into());
    }
}

/// core/v1 Event and events.k8s.io/v1 Event are one message under different names.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn rename(object: &mut Value, names: &[(&str, &str)], forward: bool) {
    let Some(map) = object.as_object_mut() else { return };
    for (stored, served) in names {
        let (from, to) = if forward { (stored, served) } else { (served, stored) };
        if let Some(value) = map.remove(*from) {
            map.insert((*to).to_owned(), value);
        }
    }
}

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// v1 knows only the CPU target; the rest of v2 travels in annotations.
fn autoscaling_v1_to_v2(object: &mut Value) {
    let mut annotation = |key: &str| {
        let annotations = object.pointer_mut("/metadata/annotations")?.as_object_mut()?;
        serde_json::from_str::<Value>(annotations.remove(key)?.as_str()?).ok()
    };
    let (metrics, behavior, current, conditions) = (
        annotation(METRICS),
        annotation(BEHAVIOR),
        annotation(CURRENT_METRICS),
        annotation(CONDITIONS),
    );
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        let mut all = list(metrics);
        if let Some(target) = spec.remove("targetCPUUtilizationPercentage") {
            let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": target}}});
            all.insert(0, cpu);
        }
        insert_list(spec, "metrics", all);
        spec.extend(behavior.map(|b| ("behavior".to_owned(), b)));
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        let mut all = list(current);
        if let Some(value) = status.remove("currentCPUUtilizationPercentage") {
            all.insert(
                0,
                json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": value}}}),
            );
        }
        insert_list(status, "currentMetrics", all);
        insert_list(status, "conditions", list(conditions));
    }
}

fn autoscaling_v2_to_v1(object: &mut Value) {
    let mut annotations = Map::new();
    let mut keep = |key: &str, value: Option<Value>| {
        if let Some(value) = value.filter(|v| !v.as_array().is_some_and(Vec::is_empty)) {
            annotations.insert(key.to_owned(), value.to_string().into());
        }
    };
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        let mut rest = list(spec.remove("metrics"));
        if let Some(target) = take_cpu(&mut rest, "/resource/target/averageUtilization") {
            spec.insert("targetCPUUtilizationPercentage".into(), target);
        }
        keep(METRICS, Some(Value::Array(rest)));
        keep(BEHAVIOR, spec.remove("behavior"));
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        let mut rest = list(status.remove("currentMetrics"));
        if let Some(value) = take_cpu(&mut rest, "/resource/current/averageUtilization") {
            status.insert("currentCPUUtilizationPercentage".into(), value);
        }
        keep(CURRENT_METRICS, Some(Value::Array(rest)));
        keep(CONDITIONS, status.remove("conditions"));
    }
    if !annotations.is_empty()
        && let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
        && let Some(existing) = metadata
            .entry("annotations")
            .or_insert_with(|| json!({}))
            .as_object_mut()
    {
        existing.extend(annotations);
    }
}

fn take_cpu(metrics: &mut Vec<Value>, value: &str) -> Option<Value> {
    let is_cpu = |m: &Value| {
        m.pointer("/resource/name").and_then(Value::as_str) == Some("cpu")
            && m.pointer(value).is_some_and(Value::is_number)
    };
    let index = metrics.iter().position(is_cpu)?;
    metrics.remove(index).pointer(value).cloned()
}

fn list(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

fn insert_list(map: &mut Map<String, Value>, field: &str, items: Vec<Value>) {
    if !items.is_empty() {
        map.insert(field.to_owned(), Value::Array(items));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn autoscaling_survives_the_trip_through_v1() {
        let v2 = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "metrics": [
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}},
            {"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 70}}}]}});
        let mut v1 = v2.clone();
        autoscaling_v2_to_v1(&mut v1);
        assert_eq!(v1["spec"]["targetCPUUtilizationPercentage"], 80);
        assert!(v1["spec"].get("metrics").is_none());
        autoscaling_v1_to_v2(&mut v1);
        assert_eq!(v1["spec"], v2["spec"]);
    }

    #[test]
    fn an_event_has_two_vocabularies() {
        let mut event = json!({"involvedObject": {"name": "p"}, "message": "m", "count": 2});
        let stored = event.clone();
        rename(&mut event, EVENT_FIELDS, true);
        assert_eq!(
            event,
            json!({"regarding": {"name": "p"}, "note": "m", "deprecatedCount": 2})
        );
        rename(&mut event, EVENT_FIELDS, false);
        assert_eq!(event, stored);
    }
}
