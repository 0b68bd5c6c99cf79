//! LimitRanges: defaults for containers that ask for nothing, and bounds for containers, pods and claims.

use api::quantity::Quantity;
use api::{Error, quota};
use async_trait::async_trait;
use serde_json::{Map, Value};

use super::{Context, Plugin, forbidden, is, writes};
use crate::kinds::common::parse_quantity;
use crate::kinds::field::{each, ensure, list, set, text};
use crate::registry::access::{AdmissionRequest, Operation};
use crate::registry::meta;

/// Says on the pod what it was given.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub(super) struct LimitRanger;

#[async_trait]
impl Plugin for LimitRanger {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        let resize = request.attributes.subresource == "resize" && request.operation == Operation::Update;
        let pods = request.resource.resource == "pods" && request.resource.group.is_empty();
        pods && (resize || is(request, "", "pods") && request.operation == Operation::Create)
            || writes(request) && is(request, "", "persistentvolumeclaims")
    }

    async fn mutate(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Error> {
        if request.operation == Operation::Create && is(request, "", "pods") {
            for range in cx.list("", "limitranges", &request.attributes.namespace).await? {
                fill(&range, object);
            }
        }
        Ok(())
    }

    async fn validate(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
        if request.operation == Operation::Update && meta::is_deleting(object) {
            return Ok(());
        }
        for range in cx.list("", "limitranges", &request.attributes.namespace).await? {
            let mut faults: Vec<String> = Vec::new();
            for limit in list(&range, "/spec/limits") {
                match &*request.resource.resource {
                    "pods" => check_pod(limit, object, &mut faults),
                    _ => check_claim(limit, object, &mut faults),
                }
            }
            let mut seen = std::collections::HashSet::new();
            faults.retain(|fault| seen.insert(fault.clone()));
            match faults.as_slice() {
                [] => {}
                [one] => return Err(forbidden(request, one)),
                many => return Err(forbidden(request, format!("[{}]", many.join(", ")))),
            }
        }
        Ok(())
    }
}

/// `default` and `defaultRequest` of the Container limits, and a note about them on the pod.
fn fill(range: &Value, pod: &mut Value) {
    let (mut limits, mut requests) = (Map::new(), Map::new());
    for limit in list(range, "/spec/limits")
        .iter()
        .filter(|l| text(l, "/type") == "Container")
    {
        let pairs = |field: &str| limit.get(field).and_then(Value::as_object).cloned().unwrap_or_default();
        limits.extend(pairs("default"));
        requests.extend(pairs("defaultRequest"));
    }
    let mut notes = Vec::new();
    let Some(spec) = pod.get_mut("spec") else { return };
    for (kind, what) in [("containers", "container"), ("initContainers", "init container")] {
        for container in each(spec, kind) {
            let name = format!("{what} {}", text(container, "/name"));
            for (field, defaults) in [("requests", &requests), ("limits", &limits)] {
                let given = give(container, field, defaults);
                if !given.is_empty() {
                    notes.push(format!(
                        "{} {} for {name}",
                        given.join(", "),
                        field.trim_end_matches('s')
                    ));
                }
            }
        }
    }
    if let (false, Some(annotations)) = (
        notes.is_empty(),
        ensure(pod, "metadata").and_then(|metadata| ensure(metadata, "annotations")),
    ) {
        set(
            annotations,
            ANNOTATION,
            format!("LimitRanger plugin set: {}", notes.join("; ")),
        );
    }
}

/// Gives a container what it lacks; answers the names.
fn give(container: &mut Value, field: &str, defaults: &Map<String, Value>) -> Vec<String> {
    if defaults.is_empty() {
        return Vec::new();
    }
    let Some(amounts) = ensure(container, "resources").and_then(|resources| ensure(resources, field)) else {
        return Vec::new();
    };
    let mut given: Vec<String> = defaults
        .keys()
        .filter(|name| amounts.get(*name).is_none())
        .cloned()
        .collect();
    for name in &given {
        set(amounts, name, defaults[name].clone());
    }
    given.sort();
    given
}

fn amount(container: &Value, field: &str, name: &str) -> Option<Quantity> {
    parse_quantity(container.get("resources")?.get(field)?.get(name)?)
}

/// Compares one observed request and limit with `min`, `max` and `maxLimitRequestRatio`.
fn check(limit: &Value, kind: &str, observe: &dyn Fn(&str, &str) -> Option<Quantity>, faults: &mut Vec<String>) {
    let bounds = |field: &str| limit.get(field).and_then(Value::as_object).cloned().unwrap_or_default();
    for (name, bound) in bounds("min") {
        let Some(least) = parse_quantity(&bound) else { continue };
        match (observe("requests", &name), observe("limits", &name)) {
            (None, _) => faults.push(format!(
                "minimum {name} usage per {kind} is {least}.  No request is specified"
            )),
            (Some(request), _) if request < least => faults.push(format!(
                "minimum {name} usage per {kind} is {least}, but request is {request}"
            )),
            (_, Some(limit)) if limit < least => faults.push(format!(
                "minimum {name} usage per {kind} is {least}, but limit is {limit}"
            )),
            _ => {}
        }
    }
    for (name, bound) in bounds("max") {
        let Some(most) = parse_quantity(&bound) else { continue };
        match (observe("requests", &name), observe("limits", &name)) {
            (_, None) => faults.push(format!(
                "maximum {name} usage per {kind} is {most}.  No limit is specified"
            )),
            (_, Some(limit)) if limit > most => faults.push(format!(
                "maximum {name} usage per {kind} is {most}, but limit is {limit}"
            )),
            (Some(request), _) if request > most => faults.push(format!(
                "maximum {name} usage per {kind} is {most}, but request is {request}"
            )),
            _ => {}
        }
    }
}

/// Compares limit and request with `maxLimitRequestRatio`.
fn check_ratio(limit: &Value, kind: &str, observe: &dyn Fn(&str, &str) -> Option<Quantity>, faults: &mut Vec<String>) {
    let ratios = limit.get("maxLimitRequestRatio").and_then(Value::as_object);
    for (name, most) in ratios.into_iter().flatten() {
        let Some(most) = parse_quantity(most) else { continue };
        let fault = match (observe("requests", name), observe("limits", name)) {
            (request, _) if request.is_none_or(|amount| amount.is_zero()) => {
                "no request is specified or request is 0".to_owned()
            }
            (Some(request), Some(limit)) if !limit.is_zero() => {
                let ratio = limit.as_f64() / request.as_f64();
                if ratio <= most.as_f64() {
                    continue;
                }
                format!("provided ratio is {ratio:.6}")
            }
            _ => "no limit is specified or limit is 0".to_owned(),
        };
        faults.push(format!(
            "{name} max limit to request ratio per {kind} is {most}, but {fault}"
        ));
    }
}

fn check_pod(limit: &Value, pod: &Value, faults: &mut Vec<String>) {
    match text(limit, "/type") {
        "Container" => {
            for container in list(pod, "/spec/containers")
                .iter()
                .chain(list(pod, "/spec/initContainers"))
            {
                let observe = |field: &str, name: &str| amount(container, field, name);
                check(limit, "Container", &observe, faults);
                check_ratio(limit, "Container", &observe, faults);
            }
        }
        "Pod" => {
            let [requests, limits] = ["requests", "limits"].map(|field| quota::of_pod(pod, field));
            let observe = |field: &str, name: &str| match field {
                "requests" => requests.get(name).copied(),
                _ => limits.get(name).copied(),
            };
            check(limit, "Pod", &observe, faults);
            check_ratio(limit, "Pod", &observe, faults);
        }
        _ => {}
    }
}

fn check_claim(limit: &Value, claim: &Value, faults: &mut Vec<String>) {
    if text(limit, "/type") != "PersistentVolumeClaim" {
        return;
    }
    let asked = |name: &str| {
        let requests = claim.pointer("/spec/resources/requests");
        requests.and_then(|r| r.get(name)).and_then(parse_quantity)
    };
    let bounds = |field: &str| limit.get(field).and_then(Value::as_object).cloned().unwrap_or_default();
    for (field, word) in [("min", "minimum"), ("max", "maximum")] {
        for (name, bound) in bounds(field) {
            let Some(bound) = parse_quantity(&bound) else { continue };
            let fault = match asked(&name) {
                None => ".  No request is specified".to_owned(),
                Some(asked) if field == "min" && asked < bound => format!(", but request is {asked}"),
                Some(asked) if field == "max" && asked > bound => format!(", but request is {asked}"),
                Some(_) => continue,
            };
            faults.push(format!(
                "{word} {name} usage per PersistentVolumeClaim is {bound}{fault}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_and_bounds() {
        let range = json!({"spec": {"limits": [{"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}, "min": {"memory": "1Mi"}}]}});
        let mut pod = json!({"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "200m"}}}]}});
        fill(&range, &mut pod);
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"requests": {"cpu": "200m"}, "limits": {"cpu": "500m"}})
        );
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu limit for container a"
        );
        pod["spec"]["containers"][0]["resources"]["limits"]["cpu"] = json!("2");
        let mut faults = Vec::new();
        check_pod(&range["spec"]["limits"][0], &pod, &mut faults);
        assert_eq!(
            faults,
            [
                "minimum memory usage per Container is 1Mi.  No request is specified",
                "maximum cpu usage per Container is 1, but limit is 2"
            ]
        );
    }

    #[test]
    fn ratios_sums_and_claims() {
        let container = |request: &str, limit: &str| json!({"name": "c", "resources": {"requests": {"cpu": request}, "limits": {"cpu": limit}}});
        let pod = json!({"spec": {"containers": [container("100m", "400m"), container("100m", "400m")]}});
        let claim = json!({"spec": {"resources": {"requests": {"storage": "10Gi"}}}});
        type Check = fn(&Value, &Value, &mut Vec<String>);
        for (limit, object, check, want) in [
            (
                json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}),
                &pod,
                check_pod as Check,
                "cpu max limit to request ratio per Container is 2, but provided ratio is 4.000000",
            ),
            (
                json!({"type": "Container", "maxLimitRequestRatio": {"memory": "2"}}),
                &pod,
                check_pod as Check,
                "memory max limit to request ratio per Container is 2, but no request is specified or request is 0",
            ),
            (
                json!({"type": "Pod", "max": {"cpu": "500m"}}),
                &pod,
                check_pod as Check,
                "maximum cpu usage per Pod is 500m, but limit is 800m",
            ),
            (
                json!({"type": "Pod", "min": {"cpu": "1"}}),
                &pod,
                check_pod as Check,
                "minimum cpu usage per Pod is 1, but request is 200m",
            ),
            (
                json!({"type": "PersistentVolumeClaim", "max": {"storage": "5Gi"}}),
                &claim,
                check_claim as Check,
                "maximum storage usage per PersistentVolumeClaim is 5Gi, but request is 10Gi",
            ),
            (
                json!({"type": "PersistentVolumeClaim", "min": {"storage": "20Gi"}}),
                &claim,
                check_claim as Check,
                "minimum storage usage per PersistentVolumeClaim is 20Gi, but request is 10Gi",
            ),
        ] {
            let mut faults = Vec::new();
            check(&limit, object, &mut faults);
            assert_eq!(faults.first().map(String::as_str), Some(want));
        }
    }
}
