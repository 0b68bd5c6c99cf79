//! Nothing is made in a namespace that does not exist or is going away, and the first namespaces stay.
//!
//! What this replica has of the namespace may be old. So the write itself is conditional on the namespace as it was read: a deletion that
//! was faster makes the write start over, and then it is refused.

use api::{Error, GroupResource, meta::StatusCause};
use async_trait::async_trait;
use serde_json::Value;

use super::{Context, Plugin, decode, forbidden, is, key};
use crate::kinds::field::text;
use crate::registry::access::{AdmissionRequest, Operation, Reservation};
use crate::store::{Condition, Expect, ReadAt};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) struct NamespaceLifecycle;

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        if request.resource.group.is_empty() && request.resource.resource == "namespaces" {
            return request.operation == Operation::Delete && is(request, "", "namespaces");
        }
        let writes = matches!(request.operation, Operation::Create | Operation::Connect);
        request.resource.namespaced && writes && !is_review(request)
    }

    async fn mutate(&self, cx: &Context, request: &AdmissionRequest<'_>, _object: &mut Value) -> Result<(), Error> {
        if request.operation == Operation::Delete {
            return match IMMORTAL.contains(&request.attributes.name.as_str()) {
                true => Err(forbidden(request, "this namespace may not be deleted")),
                false => Ok(()),
            };
        }
        check(cx, request, ReadAt::Any).await.map(drop)
    }

    async fn reserve(
        &self,
        cx: &Context,
        request: &AdmissionRequest<'_>,
        _object: &Value,
        again: bool,
        reservation: &mut Reservation,
    ) -> Result<(), Error> {
        let at = if again { ReadAt::Latest } else { ReadAt::Any };
        let condition = check(cx, request, at).await?;
        reservation.extra.conditions.push(condition);
        Ok(())
    }
}

/// Asking about access in a namespace would otherwise tell whether it exists.
fn is_review(request: &AdmissionRequest<'_>) -> bool {
    request.attributes.resource == "localsubjectaccessreviews"
}

/// The condition that the namespace stays as it is now.
async fn check(cx: &Context, request: &AdmissionRequest<'_>, at: ReadAt) -> Result<Condition, Error> {
    let name = &request.attributes.namespace;
    let key = key("", "namespaces", "", name);
    let mut entry = cx.read(&key, at).await?;
    if entry.is_none() {
        entry = cx.read(&key, ReadAt::Latest).await?;
    }
    let Some(entry) = entry else {
        return Err(Error::not_found(&GroupResource::new("", "namespaces"), name));
    };
    if request.operation == Operation::Create {
        let namespace = decode("", "namespaces", &entry.value)?;
        if text(&namespace, "/status/phase") == "Terminating" {
            return Err(terminating(request));
        }
    }
    Ok(Condition {
        key,
        expect: Expect::Revision(entry.revision),
    })
}

fn terminating(request: &AdmissionRequest<'_>) -> Error {
    let name = &request.attributes.namespace;
    let mut error = forbidden(
        request,
        format!("unable to create new content in namespace {name} because it is being terminated"),
    );
    if let Some(details) = &mut error.details {
        let cause = StatusCause {
            reason: Some("NamespaceTerminating".into()),
            message: Some(format!("namespace {name} is being terminated")),
            field: Some("metadata.namespace".into()),
        };
        details.causes.get_or_insert_default().push(cause);
    }
    error
}
