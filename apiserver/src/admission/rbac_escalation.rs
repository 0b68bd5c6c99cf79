//! Roles and bindings may only give what the writer holds.

use api::Error;
use async_trait::async_trait;
use serde_json::Value;

use super::{Context, Plugin, writes};
use crate::authz::escalation;
use crate::registry::access::AdmissionRequest;

pub(super) struct RbacEscalation;

#[async_trait]
impl Plugin for RbacEscalation {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        writes(request) && request.resource.group == "rbac.authorization.k8s.io"
    }

    async fn validate(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
        escalation::check(&cx.authorizers, request.user, request.attributes, object, request.old).await
    }
}
