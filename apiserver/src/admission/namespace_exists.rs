//! NamespaceExists refuses what is asked of a namespace that does not exist; NamespaceAutoProvision makes the namespace instead.

use api::{Error, GroupResource};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Context, Plugin, key};
use crate::registry::access::{AdmissionRequest, Operation};
use crate::registry::meta;
use crate::store::Txn;

pub(super) struct NamespaceExists;
pub(super) struct NamespaceAutoProvision;

fn is_namespaced(request: &AdmissionRequest<'_>) -> bool {
    request.resource.namespaced && !request.attributes.namespace.is_empty()
}

#[async_trait]
impl Plugin for NamespaceExists {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        is_namespaced(request) && request.operation != Operation::Connect
    }

    async fn validate(&self, cx: &Context, request: &AdmissionRequest<'_>, _object: &Value) -> Result<(), Error> {
        let name = &request.attributes.namespace;
        match cx.get("", "namespaces", "", name).await? {
            Some(_) => Ok(()),
            None => Err(Error::not_found(&GroupResource::new("", "namespaces"), name)),
        }
    }
}

#[async_trait]
impl Plugin for NamespaceAutoProvision {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        is_namespaced(request) && request.operation == Operation::Create && !request.dry_run()
    }

    async fn mutate(&self, cx: &Context, request: &AdmissionRequest<'_>, _object: &mut Value) -> Result<(), Error> {
        let name = &request.attributes.namespace;
        if cx.get("", "namespaces", "", name).await?.is_some() {
            return Ok(());
        }
        let namespace = json!({
            "metadata": {
                "name": name, "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": meta::time(jiff::Timestamp::now()),
                "labels": {"kubernetes.io/metadata.name": name},
            },
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
        });
        let info = api::resources::find("", "v1", "namespaces").ok_or_else(|| Error::internal("no namespaces"))?;
        let value = api::codec::value_to_proto(info.message, &namespace).map_err(Error::internal)?;
        // If another request was faster, there is a namespace as well.
        let creation = Txn::create(key("", "namespaces", "", name), value.into());
        cx.store.transact(creation).await.map(drop).map_err(Error::internal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Fixture;

    #[tokio::test]
    async fn missing_namespaces_are_refused_or_made() {
        let (fixture, object) = (Fixture::default(), json!({}));
        let check = async || {
            fixture
                .validate(&NamespaceExists, Operation::Create, "", "pods", &object, None)
                .await
        };
        assert_eq!(check().await.unwrap_err().message, "namespaces \"dev\" not found");
        let made = fixture
            .mutate(&NamespaceAutoProvision, Operation::Create, "", "pods", json!({}), None)
            .await;
        assert!(made.is_ok() && check().await.is_ok());
    }
}
