//! OwnerReferencesPermissionEnforcement: who makes an object depend on another could delete it, and who makes an owner wait could change
//! the owner's finalizers.

use api::{Error, meta::OwnerReference};
use async_trait::async_trait;
use serde_json::Value;

use super::{Context, Plugin, forbidden, writes};
use crate::kinds::field::{list, text};
use crate::registry::access::{AdmissionRequest, Attributes, Authorizer, Decision};

const REFERENCES: &str = "/metadata/ownerReferences";

pub(super) struct OwnerReferencesPermissionEnforcement;

#[async_trait]
impl Plugin for OwnerReferencesPermissionEnforcement {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        let status = request.attributes.resource == "pods" && request.attributes.subresource == "status";
        writes(request) && !status
    }

    async fn validate(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
        let before = request.old.map_or(&[][..], |old| list(old, REFERENCES));
        let after = list(object, REFERENCES);
        if before == after {
            return Ok(());
        }
        let mut delete = request.attributes.clone();
        delete.verb = "delete".into();
        allowed(
            cx,
            request,
            &delete,
            "cannot set an ownerRef on a resource you can't delete",
        )
        .await?;
        let blocks = |reference: &&Value| reference.get("blockOwnerDeletion") == Some(&Value::Bool(true));
        let known = |uid: &str| before.iter().filter(blocks).any(|r| text(r, "/uid") == uid);
        for reference in after.iter().filter(blocks).filter(|r| !known(text(r, "/uid"))) {
            let finalize = finalizers(request, reference)?;
            let why =
                "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on";
            allowed(cx, request, &finalize, why).await?;
        }
        Ok(())
    }
}

async fn allowed(cx: &Context, request: &AdmissionRequest<'_>, wanted: &Attributes, why: &str) -> Result<(), Error> {
    match cx.authorizers.authorize(request.user, wanted).await {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => {
            Err(forbidden(request, format!("{why}: {reason}, <nil>")))
        }
    }
}

/// The update of the owner's finalizers.
fn finalizers(request: &AdmissionRequest<'_>, reference: &Value) -> Result<Attributes, Error> {
    let reference: OwnerReference = serde_json::from_value(reference.clone()).map_err(Error::internal)?;
    let (group, version) = reference
        .api_version
        .split_once('/')
        .unwrap_or(("", &reference.api_version));
    let Some(owner) = api::resources::find_kind(group, version, &reference.kind) else {
        let why = format!(
            "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {} Kind {}",
            reference.api_version, reference.kind
        );
        return Err(forbidden(request, why));
    };
    let namespace = request.attributes.namespace.clone();
    Ok(Attributes {
        verb: "update".into(),
        is_resource: true,
        group: group.into(),
        version: version.into(),
        resource: owner.resource.to_string(),
        subresource: "finalizers".into(),
        namespace: if owner.namespaced { namespace } else { String::new() },
        name: reference.name,
        ..Attributes::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::testing::Fixture;
    use crate::registry::access::{Operation, UserInfo};

    #[tokio::test]
    async fn a_stranger_may_not_tie_objects() {
        let mut fixture = Fixture::default();
        let object = json!({"metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "1", "blockOwnerDeletion": true}]}});
        let plugin = &OwnerReferencesPermissionEnforcement;
        assert!(
            fixture
                .validate(plugin, Operation::Create, "", "pods", &object, None)
                .await
                .is_ok()
        );
        fixture.user = UserInfo::anonymous();
        let refused = fixture
            .validate(plugin, Operation::Create, "", "pods", &object, None)
            .await
            .unwrap_err();
        assert!(
            refused
                .message
                .contains("cannot set an ownerRef on a resource you can't delete"),
            "{}",
            refused.message
        );
        assert!(
            fixture
                .validate(plugin, Operation::Update, "", "pods", &object, Some(&object))
                .await
                .is_ok()
        );
    }
}
