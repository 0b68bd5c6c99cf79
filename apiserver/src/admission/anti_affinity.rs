//! LimitPodHardAntiAffinityTopology: a pod may keep others off its node, but not off a whole zone.

use api::Error;
use async_trait::async_trait;
use serde_json::Value;

use super::{Context, Plugin, forbidden, is, writes};
use crate::kinds::field::{list, text};
use crate::registry::access::AdmissionRequest;

const HOST: &str = "kubernetes.io/hostname";
const TERMS: &str = "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution";

pub(super) struct LimitPodHardAntiAffinityTopology;

#[async_trait]
impl Plugin for LimitPodHardAntiAffinityTopology {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        writes(request) && is(request, "", "pods")
    }

    async fn validate(&self, _cx: &Context, request: &AdmissionRequest<'_>, pod: &Value) -> Result<(), Error> {
        match list(pod, TERMS)
            .iter()
            .map(|term| text(term, "/topologyKey"))
            .find(|key| *key != HOST)
        {
            None => Ok(()),
            Some(key) => Err(forbidden(
                request,
                format!(
                    "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {HOST} is allowed"
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::testing::Fixture;
    use crate::registry::access::Operation;

    #[tokio::test]
    async fn only_the_host() {
        let pod = |key: &str| json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": key}]}}}});
        let fixture = Fixture::default();
        for (key, allowed) in [(HOST, true), ("zone", false)] {
            let plugin = &LimitPodHardAntiAffinityTopology;
            let outcome = fixture
                .validate(plugin, Operation::Create, "", "pods", &pod(key), None)
                .await;
            assert_eq!(outcome.is_ok(), allowed, "{key}");
        }
    }
}
