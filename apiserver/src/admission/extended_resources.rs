//! ExtendedResourceToleration: a pod that asks for a device tolerates the taint that keeps others off the device's nodes.

use std::collections::BTreeSet;

use api::Error;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Context, Plugin, is, tolerations, writes};
use crate::kinds::field::list;
use crate::registry::access::AdmissionRequest;

pub(super) struct ExtendedResourceToleration;

#[async_trait]
impl Plugin for ExtendedResourceToleration {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        writes(request) && is(request, "", "pods")
    }

    async fn mutate(&self, _cx: &Context, _request: &AdmissionRequest<'_>, pod: &mut Value) -> Result<(), Error> {
        let containers = list(pod, "/spec/containers")
            .iter()
            .chain(list(pod, "/spec/initContainers"));
        let asked = containers.filter_map(|c| c.pointer("/resources/requests")?.as_object());
        let names: BTreeSet<&String> = asked
            .flat_map(|map| map.keys())
            .filter(|name| is_extended(name))
            .collect();
        let more: Vec<Value> = names
            .into_iter()
            .map(|name| json!({"key": name, "operator": "Exists", "effect": "NoSchedule"}))
            .collect();
        if !more.is_empty() {
            tolerations::add(pod, &more);
        }
        Ok(())
    }
}

fn is_extended(name: &str) -> bool {
    name.split_once('/')
        .is_some_and(|(domain, _)| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Fixture;
    use crate::registry::access::Operation;

    #[tokio::test]
    async fn a_device_is_tolerated() {
        let pod = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1", "example.com/gpu": "1"}}}]}});
        let plugin = &ExtendedResourceToleration;
        let pod = Fixture::default()
            .mutate(plugin, Operation::Create, "", "pods", pod, None)
            .await
            .unwrap();
        let want = json!([{"key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]);
        assert_eq!(pod["spec"]["tolerations"], want);
    }
}
