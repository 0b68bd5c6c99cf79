//! AlwaysAdmit and AlwaysDeny, for tests of other programs.

use api::Error;
use async_trait::async_trait;
use serde_json::Value;

use super::{Context, Plugin, forbidden};
use crate::registry::access::AdmissionRequest;

pub(super) struct AlwaysAdmit;
pub(super) struct AlwaysDeny;

#[async_trait]
impl Plugin for AlwaysAdmit {
    fn applies(&self, _request: &AdmissionRequest<'_>) -> bool {
        false
    }
}

#[async_trait]
impl Plugin for AlwaysDeny {
    fn applies(&self, _request: &AdmissionRequest<'_>) -> bool {
        true
    }

    async fn validate(&self, _cx: &Context, request: &AdmissionRequest<'_>, _object: &Value) -> Result<(), Error> {
        Err(forbidden(request, "admission control is denying all modifications"))
    }
}
