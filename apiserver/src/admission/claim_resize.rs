//! PersistentVolumeClaimResize: a claim grows only if its class says so.

use api::Error;
use async_trait::async_trait;
use serde_json::Value;

use super::{Context, Plugin, forbidden, is};
use crate::kinds::common::parse_quantity;
use crate::kinds::field::text;
use crate::registry::access::{AdmissionRequest, Operation};

pub(super) struct PersistentVolumeClaimResize;

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        request.operation == Operation::Update && is(request, "", "persistentvolumeclaims")
    }

    async fn validate(&self, cx: &Context, request: &AdmissionRequest<'_>, claim: &Value) -> Result<(), Error> {
        let old = request.old.unwrap_or(&Value::Null);
        let size = |claim: &Value| {
            claim
                .pointer("/spec/resources/requests/storage")
                .and_then(parse_quantity)
        };
        match (size(old), size(claim)) {
            (before, Some(after)) if before.is_none_or(|before| after > before) => {}
            _ => return Ok(()),
        }
        if text(old, "/status/phase") != "Bound" {
            return Err(forbidden(
                request,
                "Only bound persistent volume claims can be expanded",
            ));
        }
        let (class, before) = (class(claim), class(old));
        let class = match class == before && !class.is_empty() {
            true => cx.get("storage.k8s.io", "storageclasses", "", class).await?,
            false => None,
        };
        if class.is_some_and(|class| class.get("allowVolumeExpansion") == Some(&Value::Bool(true))) {
            return Ok(());
        }
        Err(forbidden(
            request,
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        ))
    }
}

fn class(claim: &Value) -> &str {
    match text(claim, "/metadata/annotations/volume.beta.kubernetes.io~1storage-class") {
        "" => text(claim, "/spec/storageClassName"),
        class => class,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::testing::Fixture;

    #[tokio::test]
    async fn a_claim_grows_if_its_class_allows() {
        let fixture = Fixture::default();
        for (name, allowed) in [("fixed", false), ("growing", true)] {
            let class = json!({"metadata": {"name": name}, "provisioner": "p", "allowVolumeExpansion": allowed});
            fixture.put("storage.k8s.io", "storageclasses", class).await;
        }
        let claim = |class: &str, size: &str, phase: &str| json!({"spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}, "status": {"phase": phase}});
        for (class, size, phase, want) in [
            ("growing", "2Gi", "Bound", ""),
            (
                "growing",
                "2Gi",
                "Pending",
                "Only bound persistent volume claims can be expanded",
            ),
            (
                "fixed",
                "2Gi",
                "Bound",
                "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
            ),
            ("fixed", "1Gi", "Bound", ""),
        ] {
            let (old, new) = (claim(class, "1Gi", phase), claim(class, size, phase));
            let plugin = &PersistentVolumeClaimResize;
            let outcome = fixture
                .validate(
                    plugin,
                    Operation::Update,
                    "",
                    "persistentvolumeclaims",
                    &new,
                    Some(&old),
                )
                .await;
            let said = outcome.err().map(|e| e.message).unwrap_or_default();
            assert!(said.ends_with(want) && said.is_empty() == want.is_empty(), "{said}");
        }
    }
}
