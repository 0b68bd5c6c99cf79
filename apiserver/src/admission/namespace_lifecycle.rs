//! Nothing is made in a namespace that does not exist or is going away, and the first namespaces stay.

use api::{Error, GroupResource, meta::StatusCause};
use async_trait::async_trait;
use serde_json::Value;

use super::{Context, Plugin, forbidden, is};
use crate::kinds::field::text;
use crate::registry::access::{AdmissionRequest, Operation};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) struct NamespaceLifecycle;

#[async_trait]
impl Plugin for NamespaceLifecycle {
    async fn mutate(&self, cx: &Context, request: &AdmissionRequest<'_>, _object: &mut Value) -> Result<(), Error> {
        check(cx, request).await
    }

    async fn validate(&self, _cx: &Context, request: &AdmissionRequest<'_>, _object: &Value) -> Result<(), Error> {
        let name = request.attributes.name.as_str();
        if request.operation == Operation::Delete && is(request, "", "namespaces") && IMMORTAL.contains(&name) {
            return Err(forbidden(request, "this namespace may not be deleted"));
        }
        Ok(())
    }
}

/// Only creations are looked at: what is to be changed exists, and so does its namespace.
async fn check(cx: &Context, request: &AdmissionRequest<'_>) -> Result<(), Error> {
    let a = request.attributes;
    let review = a.resource == "localsubjectaccessreviews";
    if !request.resource.namespaced || a.namespace.is_empty() || review || request.operation != Operation::Create {
        return Ok(());
    }
    let Some(namespace) = cx.get("", "namespaces", "", &a.namespace).await? else {
        return Err(Error::not_found(&GroupResource::new("", "namespaces"), &a.namespace));
    };
    if text(&namespace, "/status/phase") != "Terminating" {
        return Ok(());
    }
    let why = format!(
        "unable to create new content in namespace {} because it is being terminated",
        a.namespace
    );
    let mut error = forbidden(request, why);
    if let Some(details) = &mut error.details {
        let cause = StatusCause {
            reason: Some("NamespaceTerminating".into()),
            message: Some(format!("namespace {} is being terminated", a.namespace)),
            field: Some("metadata.namespace".into()),
        };
        details.causes.get_or_insert_default().push(cause);
    }
    Err(error)
}
