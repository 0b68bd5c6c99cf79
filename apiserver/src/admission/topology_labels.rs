//! PodTopologyLabels: a pod carries the zone and region of its node as labels, so that the pod itself can read them.

use api::Error;
use async_trait::async_trait;
use serde_json::Value;

use super::{Context, Plugin};
use crate::kinds::field::{default, ensure, text};
use crate::registry::access::{AdmissionRequest, Operation};

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

pub(super) struct PodTopologyLabels;

#[async_trait]
impl Plugin for PodTopologyLabels {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        let pods = request.resource.resource == "pods" && request.resource.group.is_empty();
        request.operation == Operation::Create && pods && matches!(&*request.attributes.subresource, "" | "binding")
    }

    /// The labels of a binding go to the pod that is bound.
    async fn mutate(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Error> {
        let node = match request.attributes.subresource.as_str() {
            "binding" => text(object, "/target/name"),
            _ => text(object, "/spec/nodeName"),
        };
        if node.is_empty() {
            return Ok(());
        }
        let Some(entry) = cx
            .read(&super::key("", "nodes", "", node), crate::store::ReadAt::Any)
            .await?
        else {
            return Ok(());
        };
        let metadata = api::codec::object_meta(&entry.value).map_err(Error::internal)?;
        for (name, value) in metadata.labels.unwrap_or_default() {
            if LABELS.contains(&name.as_str())
                && let Some(labels) = ensure(object, "metadata").and_then(|m| ensure(m, "labels"))
            {
                default(labels, &name, value);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::testing::Fixture;

    #[tokio::test]
    async fn the_zone_goes_to_the_pod() {
        let mut fixture = Fixture::default();
        let node = json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "a", "other": "b"}}});
        fixture.put("", "nodes", node).await;
        let pod = json!({"spec": {"nodeName": "n"}});
        let pod = fixture
            .mutate(&PodTopologyLabels, Operation::Create, "", "pods", pod, None)
            .await
            .unwrap();
        assert_eq!(pod["metadata"]["labels"], json!({"topology.kubernetes.io/zone": "a"}));
        fixture.subresource = "binding";
        let binding = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "mine"}}, "target": {"name": "n"}});
        let binding = fixture
            .mutate(&PodTopologyLabels, Operation::Create, "", "pods", binding, None)
            .await
            .unwrap();
        assert_eq!(
            binding["metadata"]["labels"],
            json!({"topology.kubernetes.io/zone": "mine"})
        );
    }
}
