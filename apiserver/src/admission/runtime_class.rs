//! RuntimeClass: a pod carries the overhead of its class and goes only where the class is at home.

use api::{Error, quota};
use async_trait::async_trait;
use serde_json::Value;

use super::{Context, Plugin, creates, forbidden, tolerations};
use crate::kinds::field::{ensure, list, set, text};
use crate::registry::access::AdmissionRequest;

pub(super) struct RuntimeClass;

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

#[async_trait]
impl Plugin for RuntimeClass {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        creates(request, "", "pods")
    }

    async fn mutate(&self, cx: &Context, request: &AdmissionRequest<'_>, pod: &mut Value) -> Result<(), Error> {
        let Some(class) = class_of(cx, request, pod).await? else {
            return Ok(());
        };
        if let Some(overhead) = class.pointer("/overhead/podFixed") {
            match pod.pointer("/spec/overhead") {
                Some(own) if !same(own, overhead) => return Err(forbidden(request, MISMATCH)),
                Some(_) => {}
                None => ensure(pod, "spec")
                    .into_iter()
                    .for_each(|spec| set(spec, "overhead", overhead.clone())),
            }
        }
        let selector = class.pointer("/scheduling/nodeSelector").and_then(Value::as_object);
        for (key, value) in selector.into_iter().flatten() {
            let Some(own) = ensure(pod, "spec").and_then(|spec| ensure(spec, "nodeSelector")) else {
                return Ok(());
            };
            match own.get(key) {
                Some(other) if other != value => {
                    let [value, other] = [value, other].map(|v| v.as_str().unwrap_or_default().to_owned());
                    return Err(forbidden(
                        request,
                        format!(
                            "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {other}"
                        ),
                    ));
                }
                _ => set(own, key, value.clone()),
            }
        }
        tolerations::add(pod, list(&class, "/scheduling/tolerations"));
        Ok(())
    }

    async fn validate(&self, cx: &Context, request: &AdmissionRequest<'_>, pod: &Value) -> Result<(), Error> {
        let class = class_of(cx, request, pod).await?;
        let wanted = class.as_ref().and_then(|class| class.pointer("/overhead/podFixed"));
        match (wanted, pod.pointer("/spec/overhead")) {
            (Some(wanted), own) if !own.is_some_and(|own| same(own, wanted)) => Err(forbidden(request, MISMATCH)),
            (None, Some(_)) => Err(forbidden(
                request,
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            )),
            _ => Ok(()),
        }
    }
}

async fn class_of(cx: &Context, request: &AdmissionRequest<'_>, pod: &Value) -> Result<Option<Value>, Error> {
    let name = text(pod, "/spec/runtimeClassName");
    if name.is_empty() {
        return Ok(None);
    }
    match cx.get("node.k8s.io", "runtimeclasses", "", name).await? {
        None => Err(forbidden(
            request,
            format!("pod rejected: RuntimeClass {name:?} not found"),
        )),
        class => Ok(class),
    }
}

/// The same amounts, however they are written.
fn same(a: &Value, b: &Value) -> bool {
    quota::amounts(Some(a)) == quota::amounts(Some(b))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::testing::Fixture;
    use crate::registry::access::Operation;

    #[tokio::test]
    async fn a_class_brings_overhead_and_place() {
        let fixture = Fixture::default();
        let class = json!({"metadata": {"name": "vm"}, "handler": "vm", "overhead": {"podFixed": {"cpu": "100m"}},
            "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]}});
        fixture.put("node.k8s.io", "runtimeclasses", class).await;
        let run = async |pod: Value| {
            fixture
                .mutate(&RuntimeClass, Operation::Create, "", "pods", pod, None)
                .await
        };
        let pod = run(json!({"spec": {"runtimeClassName": "vm", "nodeSelector": {"a": "b"}}}))
            .await
            .unwrap();
        assert_eq!(pod["spec"]["overhead"], json!({"cpu": "100m"}));
        assert_eq!(pod["spec"]["nodeSelector"], json!({"a": "b", "vm": "yes"}));
        assert_eq!(pod["spec"]["tolerations"], json!([{"key": "vm", "operator": "Exists"}]));
        for (spec, want) in [
            (
                json!({"runtimeClassName": "none"}),
                "pod rejected: RuntimeClass \"none\" not found",
            ),
            (json!({"runtimeClassName": "vm", "overhead": {"cpu": "1"}}), MISMATCH),
            (
                json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}}),
                "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no",
            ),
        ] {
            let message = run(json!({"spec": spec})).await.unwrap_err().message;
            assert_eq!(message, format!("pods \"x\" is forbidden: {want}"));
        }
        let own = json!({"spec": {"overhead": {"cpu": "1"}}});
        let refused = fixture
            .validate(&RuntimeClass, Operation::Create, "", "pods", &own, None)
            .await;
        assert!(
            refused
                .unwrap_err()
                .message
                .contains("without corresponding RuntimeClass")
        );
    }
}
