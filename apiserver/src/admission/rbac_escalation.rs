//! Roles and bindings may only give what the writer holds.

use api::Error;
use async_trait::async_trait;
use serde_json::Value;

use super::{Context, Plugin};
use crate::authz::escalation;
use crate::registry::access::{AdmissionRequest, Operation};

pub(super) struct RbacEscalation;

#[async_trait]
impl Plugin for RbacEscalation {
    async fn validate(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
        match request.operation {
            Operation::Create | Operation::Update => {
                escalation::check(&cx.authorizers, request.user, request.attributes, object, request.old).await
            }
            Operation::Delete | Operation::Connect => Ok(()),
        }
    }
}
