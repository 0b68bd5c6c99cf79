//! PodTolerationRestriction: a namespace gives its pods tolerations, and says which ones they may have at all.

use api::Error;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Context, Plugin, forbidden, is, tolerations, writes};
use crate::kinds::field::{ensure, list, set, text};
use crate::kinds::pod::qos_class;
use crate::registry::access::{AdmissionRequest, Operation};

const DEFAULTS: &str = "/metadata/annotations/scheduler.alpha.kubernetes.io~1defaultTolerations";
const ALLOWED: &str = "/metadata/annotations/scheduler.alpha.kubernetes.io~1tolerationsWhitelist";

pub(super) struct PodTolerationRestriction {
    defaults: Vec<Value>,
    allowed: Vec<Value>,
}

impl PodTolerationRestriction {
    pub(super) fn new(config: &Value) -> Result<Self, String> {
        Ok(Self {
            defaults: list(config, "/default").to_vec(),
            allowed: list(config, "/whitelist").to_vec(),
        })
    }
}

/// The tolerations in an annotation of the namespace, or the cluster's. An empty list in the annotation is a list.
async fn listed(
    cx: &Context,
    request: &AdmissionRequest<'_>,
    annotation: &str,
    cluster: &[Value],
) -> Result<Vec<Value>, Error> {
    let namespace = cx
        .get("", "namespaces", "", &request.attributes.namespace)
        .await?
        .unwrap_or_default();
    match text(&namespace, annotation) {
        "" => Ok(cluster.to_vec()),
        text => serde_json::from_str(text).map_err(Error::internal),
    }
}

#[async_trait]
impl Plugin for PodTolerationRestriction {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        writes(request) && is(request, "", "pods")
    }

    async fn mutate(&self, cx: &Context, request: &AdmissionRequest<'_>, pod: &mut Value) -> Result<(), Error> {
        let mut merged = list(pod, "/spec/tolerations").to_vec();
        if request.operation == Operation::Create {
            let defaults = listed(cx, request, DEFAULTS, &self.defaults).await?;
            merged = tolerations::merge(&defaults, &merged);
        }
        if qos_class(pod) != "BestEffort" {
            let pressure =
                json!({"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"});
            merged = tolerations::merge(&merged, &[pressure]);
        }
        if let (false, Some(spec)) = (merged.is_empty(), ensure(pod, "spec")) {
            set(spec, "tolerations", merged);
        }
        Ok(())
    }

    async fn validate(&self, cx: &Context, request: &AdmissionRequest<'_>, pod: &Value) -> Result<(), Error> {
        let allowed = listed(cx, request, ALLOWED, &self.allowed).await?;
        let fits = |toleration: &Value| allowed.iter().any(|wide| tolerations::covers(wide, toleration));
        if allowed.is_empty() || list(pod, "/spec/tolerations").iter().all(fits) {
            return Ok(());
        }
        Err(forbidden(
            request,
            "pod tolerations (possibly merged with namespace default tolerations) conflict with its namespace whitelist",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Fixture;

    #[tokio::test]
    async fn a_namespace_gives_and_limits() {
        let fixture = Fixture::default();
        let namespace = json!({"metadata": {"name": "dev", "annotations": {
            "scheduler.alpha.kubernetes.io/defaultTolerations": "[{\"key\": \"a\", \"operator\": \"Exists\"}]",
            "scheduler.alpha.kubernetes.io/tolerationsWhitelist": "[{\"key\": \"a\", \"operator\": \"Exists\"}]"}}});
        fixture.put("", "namespaces", namespace).await;
        let plugin = PodTolerationRestriction::new(&Value::Null).unwrap();
        let pod = fixture
            .mutate(&plugin, Operation::Create, "", "pods", json!({"spec": {}}), None)
            .await
            .unwrap();
        assert_eq!(pod["spec"]["tolerations"], json!([{"key": "a", "operator": "Exists"}]));
        assert!(
            fixture
                .validate(&plugin, Operation::Create, "", "pods", &pod, None)
                .await
                .is_ok()
        );
        let other = json!({"spec": {"tolerations": [{"key": "b", "operator": "Exists"}]}});
        assert!(
            fixture
                .validate(&plugin, Operation::Create, "", "pods", &other, None)
                .await
                .is_err()
        );
    }
}
