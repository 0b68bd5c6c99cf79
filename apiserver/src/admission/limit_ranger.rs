//! LimitRanges: defaults for containers that ask for nothing, and bounds for containers, pods and claims.

use api::Error;
use api::quantity::Quantity;
use async_trait::async_trait;
use serde_json::{Map, Value};

use super::{Context, Plugin, forbidden, is, writes};
use crate::kinds::common::parse_quantity;
use crate::kinds::field::{default, each, ensure, list, text};
use crate::registry::access::{AdmissionRequest, Operation};

pub(super) struct LimitRanger;

#[async_trait]
impl Plugin for LimitRanger {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        writes(request) && (is(request, "", "pods") || is(request, "", "persistentvolumeclaims"))
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
        let pods = is(request, "", "pods") && request.operation == Operation::Create;
        let claims = is(request, "", "persistentvolumeclaims")
            && matches!(request.operation, Operation::Create | Operation::Update);
        if !pods && !claims {
            return Ok(());
        }
        let mut faults = Vec::new();
        for range in cx.list("", "limitranges", &request.attributes.namespace).await? {
            for limit in list(&range, "/spec/limits") {
                if pods {
                    check_pod(limit, object, &mut faults)
                } else {
                    check_claim(limit, object, &mut faults)
                }
            }
        }
        match faults.as_slice() {
            [] => Ok(()),
            [one] => Err(forbidden(request, one)),
            many => Err(forbidden(request, format!("[{}]", many.join(", ")))),
        }
    }
}

/// `default` and `defaultRequest` of the Container limits; a limit without a request is the request too.
fn fill(range: &Value, pod: &mut Value) {
    for limit in list(range, "/spec/limits")
        .iter()
        .filter(|l| text(l, "/type") == "Container")
    {
        let pairs = |field: &str| limit.get(field).and_then(Value::as_object).cloned().unwrap_or_default();
        let (limits, requests) = (pairs("default"), pairs("defaultRequest"));
        let Some(spec) = pod.get_mut("spec") else { return };
        for kind in ["initContainers", "containers"] {
            for container in each(spec, kind) {
                fill_container(container, &limits, &requests);
            }
        }
    }
}

fn fill_container(container: &mut Value, limits: &Map<String, Value>, requests: &Map<String, Value>) {
    let Some(resources) = ensure(container, "resources") else {
        return;
    };
    for (field, defaults) in [("limits", limits), ("requests", requests)] {
        if defaults.is_empty() {
            continue;
        }
        let Some(amounts) = ensure(resources, field) else {
            continue;
        };
        for (name, value) in defaults {
            default(amounts, name, value.clone());
        }
    }
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

fn check_pod(limit: &Value, pod: &Value, faults: &mut Vec<String>) {
    match text(limit, "/type") {
        "Container" => {
            for container in list(pod, "/spec/initContainers")
                .iter()
                .chain(list(pod, "/spec/containers"))
            {
                check(
                    limit,
                    "Container",
                    &|field, name| amount(container, field, name),
                    faults,
                );
            }
        }
        "Pod" => check(limit, "Pod", &|field, name| pod_sum(pod, field, name), faults),
        _ => {}
    }
}

fn pod_sum(pod: &Value, field: &str, name: &str) -> Option<Quantity> {
    let sum = list(pod, "/spec/containers")
        .iter()
        .filter_map(|c| amount(c, field, name))
        .reduce(|a, b| a + b);
    let largest = list(pod, "/spec/initContainers")
        .iter()
        .filter_map(|c| amount(c, field, name))
        .max();
    sum.max(largest)
}

fn check_claim(limit: &Value, claim: &Value, faults: &mut Vec<String>) {
    if text(limit, "/type") != "PersistentVolumeClaim" {
        return;
    }
    let Some(asked) = claim
        .pointer("/spec/resources/requests/storage")
        .and_then(parse_quantity)
    else {
        return;
    };
    let bound = |field: &str| limit.get(field).and_then(|b| b.get("storage")).and_then(parse_quantity);
    if let Some(least) = bound("min").filter(|least| asked < *least) {
        faults.push(format!(
            "minimum storage usage per PersistentVolumeClaim is {least}, but request is {asked}"
        ));
    }
    if let Some(most) = bound("max").filter(|most| asked > *most) {
        faults.push(format!(
            "maximum storage usage per PersistentVolumeClaim is {most}, but request is {asked}"
        ));
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
}
