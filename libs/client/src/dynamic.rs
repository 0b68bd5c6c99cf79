//! Calls on objects of any resource that read only their metadata: what garbage collection and namespace deletion need.

use api::meta::ObjectMeta;
use proto::cluster as pb;

use crate::typed::{DeleteParams, ListParams, Patch, patch_request};
use crate::watch::{self, Source};
use crate::{Client, List, Result};

/// An object of which only the metadata was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PartialObject {
    /// Its metadata.
    pub metadata: ObjectMeta,
}

impl PartialObject {
    pub(crate) fn decode(bytes: &[u8]) -> std::result::Result<Self, api::codec::Error> {
        Ok(Self {
            metadata: api::codec::object_meta(bytes)?,
        })
    }

    /// Namespace and name.
    pub fn key(&self) -> api::ObjectKey {
        api::ObjectKey::new(
            self.metadata.namespace.clone().unwrap_or_default(),
            self.metadata.name.clone().unwrap_or_default(),
        )
    }
}

/// Calls on the objects of one resource.
#[derive(Clone, Debug)]
pub struct Dynamic {
    client: Client,
    resource: pb::Resource,
}

impl Client {
    pub(crate) fn dynamic_of(&self, resource: pb::Resource) -> Dynamic {
        Dynamic {
            client: self.clone(),
            resource,
        }
    }
}

impl Dynamic {
    pub(crate) fn new(client: Client, resource: &api::GroupVersionResource) -> Self {
        let resource = pb::Resource {
            group: resource.group.to_string(),
            version: resource.version.to_string(),
            resource: resource.resource.to_string(),
        };
        Self { client, resource }
    }

    pub(crate) fn source(&self, params: &ListParams) -> Source {
        Source::new(&self.client, self.resource.clone(), params)
    }

    /// Reads one object's metadata, linearizably.
    pub async fn get(&self, namespace: &str, name: &str) -> Result<PartialObject> {
        let request = pb::GetRequest {
            resource: Some(self.resource.clone()),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..pb::GetRequest::default()
        };
        Ok(PartialObject::decode(
            &self.client.grpc().get(request).await?.into_inner().object,
        )?)
    }

    /// Lists objects' metadata.
    pub async fn list(&self, params: &ListParams) -> Result<List<PartialObject>> {
        let listed = watch::list(&self.source(params), &params.resource_version).await?;
        let items = listed
            .objects
            .iter()
            .map(|b| PartialObject::decode(b))
            .collect::<std::result::Result<_, _>>()?;
        Ok(List {
            items,
            resource_version: listed.resource_version,
        })
    }

    /// Changes a part of an object.
    pub async fn patch(&self, namespace: &str, name: &str, patch: &Patch) -> Result<PartialObject> {
        let request = patch_request(self.resource.clone(), namespace, name, "", patch);
        Ok(PartialObject::decode(
            &self.client.grpc().patch(request).await?.into_inner().object,
        )?)
    }

    /// Deletes an object, or marks it for deletion.
    pub async fn delete(&self, namespace: &str, name: &str, params: &DeleteParams) -> Result<()> {
        self.client
            .grpc()
            .delete(params.request(self.resource.clone(), namespace, name))
            .await?;
        Ok(())
    }

    /// Deletes what `params` selects.
    pub async fn delete_collection(&self, params: &ListParams, how: &DeleteParams) -> Result<()> {
        let single = how.request(self.resource.clone(), "", "");
        let request = pb::DeleteCollectionRequest {
            resource: single.resource,
            namespace: params.namespace.clone(),
            label_selector: params.label_selector.clone(),
            field_selector: params.field_selector.clone(),
            propagation_policy: single.propagation_policy,
            grace_period_seconds: single.grace_period_seconds,
        };
        self.client.grpc().delete_collection(request).await?;
        Ok(())
    }
}
