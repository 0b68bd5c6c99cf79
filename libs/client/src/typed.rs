//! Typed calls on the objects of one built-in kind.

use std::marker::PhantomData;

use api::{Object, Resource};
use proto::cluster as pb;
use serde_json::Value;

use crate::watch::{self, Source};
use crate::{Client, Result};

/// What to list or watch.
#[derive(Clone, Debug, Default)]
pub struct ListParams {
    /// Namespace, or "" for all.
    pub namespace: String,
    /// Label selector in kubectl's syntax, or "".
    pub label_selector: String,
    /// Field selector, or "".
    pub field_selector: String,
    /// "" for a linearizable read, "0" for what the server has at hand.
    pub resource_version: String,
}

impl ListParams {
    /// Everything in a namespace, or everywhere with "".
    pub fn namespace(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            ..Self::default()
        }
    }

    /// Only objects with these labels.
    pub fn labels(mut self, selector: &str) -> Self {
        self.label_selector = selector.to_owned();
        self
    }

    /// Only objects with these field values.
    pub fn fields(mut self, selector: &str) -> Self {
        self.field_selector = selector.to_owned();
        self
    }
}

/// The answer to a list call.
#[derive(Clone, Debug)]
pub struct List<K> {
    /// The objects, by namespace and name.
    pub items: Vec<K>,
    /// The revision the list is of; watch from here.
    pub resource_version: String,
}

/// A change to a part of an object.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7396.
    Merge(Value),
    /// Kubernetes' own: lists merge by key.
    Strategic(Value),
    /// Server-side apply.
    Apply {
        /// The fields that the manager wants.
        value: Value,
        /// Name of the manager.
        manager: String,
        /// Take over fields of other managers.
        force: bool,
    },
}

/// What becomes of an object's dependants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They lose their owner.
    Orphan,
    /// They are collected after the owner is gone.
    Background,
    /// The owner goes after them.
    Foreground,
}

impl Propagation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Orphan => "Orphan",
            Self::Background => "Background",
            Self::Foreground => "Foreground",
        }
    }
}

/// How to delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteParams {
    /// Seconds an object may take to stop; `None` is the object's own.
    pub grace_period_seconds: Option<i64>,
    /// `None` is the kind's default.
    pub propagation: Option<Propagation>,
    /// Delete only this incarnation; "" is any.
    pub uid: String,
    /// Delete only this revision; "" is any.
    pub resource_version: String,
}

impl DeleteParams {
    /// At once, without grace.
    pub fn now() -> Self {
        Self {
            grace_period_seconds: Some(0),
            ..Self::default()
        }
    }

    /// Only the incarnation with this uid.
    pub fn uid(mut self, uid: &str) -> Self {
        self.uid = uid.to_owned();
        self
    }

    pub(crate) fn request(&self, resource: pb::Resource, namespace: &str, name: &str) -> pb::DeleteRequest {
        pb::DeleteRequest {
            resource: Some(resource),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            preconditions: Some(pb::Preconditions {
                uid: self.uid.clone(),
                resource_version: self.resource_version.clone(),
            }),
            propagation_policy: self.propagation.map_or("", Propagation::as_str).to_owned(),
            grace_period_seconds: self.grace_period_seconds,
            dry_run: false,
        }
    }
}

/// A pod and the node to run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Bind only this incarnation; "" is any.
    pub uid: String,
    /// The node's name.
    pub node: String,
}

/// Calls on the objects of kind `K`.
#[derive(Debug)]
pub struct Api<K> {
    client: Client,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Api<K> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            kind: PhantomData,
        }
    }
}

pub(crate) fn resource_of<K: Resource>() -> pb::Resource {
    pb::Resource {
        group: K::GROUP.to_owned(),
        version: K::VERSION.to_owned(),
        resource: K::URL_PATH_SEGMENT.to_owned(),
    }
}

impl<K: Object> Api<K> {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            kind: PhantomData,
        }
    }

    /// Reads one object, linearizably.
    pub async fn get(&self, namespace: &str, name: &str) -> Result<K> {
        let request = pb::GetRequest {
            resource: Some(resource_of::<K>()),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..pb::GetRequest::default()
        };
        decode(self.client.grpc().get(request).await?)
    }

    /// Lists objects.
    pub async fn list(&self, params: &ListParams) -> Result<List<K>> {
        let listed = watch::list(
            &Source::new(&self.client, resource_of::<K>(), params),
            &params.resource_version,
        )
        .await?;
        let items = listed
            .objects
            .iter()
            .map(|bytes| K::decode(bytes))
            .collect::<std::result::Result<_, _>>()?;
        Ok(List {
            items,
            resource_version: listed.resource_version,
        })
    }

    /// Creates an object in the namespace that it names.
    pub async fn create(&self, object: &K) -> Result<K> {
        self.create_under::<K, K>(object, object.namespace(), "", "").await
    }

    /// Posts to a subresource: `token` of a service account, `eviction` or `binding` of a pod.
    pub async fn create_subresource<I: Object, O: Object>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        object: &I,
    ) -> Result<O> {
        self.create_under::<I, O>(object, namespace, name, subresource).await
    }

    async fn create_under<I: Object, O: Object>(
        &self,
        object: &I,
        namespace: &str,
        name: &str,
        subresource: &str,
    ) -> Result<O> {
        let request = pb::CreateRequest {
            resource: Some(resource_of::<K>()),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            object: object.encode().into(),
            ..pb::CreateRequest::default()
        };
        decode(self.client.grpc().create(request).await?)
    }

    /// Replaces an object, if its resourceVersion is still the one that it carries.
    pub async fn update(&self, object: &K) -> Result<K> {
        self.update_under(object, "").await
    }

    /// Replaces an object's status, if its resourceVersion is still the one that it carries.
    pub async fn update_status(&self, object: &K) -> Result<K> {
        self.update_under(object, "status").await
    }

    /// Replaces through another subresource, such as a namespace's `finalize`.
    pub async fn update_under(&self, object: &K, subresource: &str) -> Result<K> {
        let request = pb::UpdateRequest {
            resource: Some(resource_of::<K>()),
            namespace: object.namespace().to_owned(),
            name: object.name().to_owned(),
            subresource: subresource.to_owned(),
            object: object.encode().into(),
            ..pb::UpdateRequest::default()
        };
        decode(self.client.grpc().update(request).await?)
    }

    /// Writes the status of many objects in one call; each succeeds or fails alone, in order.
    pub async fn update_statuses(&self, objects: &[K]) -> Result<Vec<std::result::Result<(), api::Error>>> {
        let request = pb::UpdateStatusesRequest {
            resource: Some(resource_of::<K>()),
            objects: objects.iter().map(|object| object.encode().into()).collect(),
            field_manager: String::new(),
        };
        outcomes(self.client.grpc().update_statuses(request).await?.into_inner().outcomes)
    }

    /// Changes a part of an object; `subresource` is "" for the object itself.
    pub async fn patch(&self, namespace: &str, name: &str, subresource: &str, patch: &Patch) -> Result<K> {
        decode(
            self.client
                .grpc()
                .patch(patch_request(resource_of::<K>(), namespace, name, subresource, patch))
                .await?,
        )
    }

    /// Deletes an object, or marks it for deletion while finalizers or a grace period keep it.
    pub async fn delete(&self, namespace: &str, name: &str, params: &DeleteParams) -> Result<()> {
        self.client
            .grpc()
            .delete(params.request(resource_of::<K>(), namespace, name))
            .await?;
        Ok(())
    }

    /// Deletes what `params` selects.
    pub async fn delete_collection(&self, params: &ListParams, how: &DeleteParams) -> Result<()> {
        self.client
            .dynamic_of(resource_of::<K>())
            .delete_collection(params, how)
            .await
    }
}

pub(crate) fn patch_request(
    resource: pb::Resource,
    namespace: &str,
    name: &str,
    subresource: &str,
    patch: &Patch,
) -> pb::PatchRequest {
    let (kind, value, manager, force) = match patch {
        Patch::Json(value) => (pb::PatchType::Json, value, "", false),
        Patch::Merge(value) => (pb::PatchType::Merge, value, "", false),
        Patch::Strategic(value) => (pb::PatchType::StrategicMerge, value, "", false),
        Patch::Apply { value, manager, force } => (pb::PatchType::Apply, value, manager.as_str(), *force),
    };
    pb::PatchRequest {
        resource: Some(resource),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
        r#type: kind.into(),
        patch: value.to_string().into(),
        field_manager: manager.to_owned(),
        force,
        dry_run: false,
    }
}

fn decode<K: Object>(reply: tonic::Response<pb::ObjectReply>) -> Result<K> {
    let reply = reply.into_inner();
    for warning in &reply.warnings {
        tracing::debug!(kind = K::KIND, %warning, "the API server warns");
    }
    Ok(K::decode(&reply.object)?)
}

fn outcomes(outcomes: Vec<pb::Outcome>) -> Result<Vec<std::result::Result<(), api::Error>>> {
    let one = |outcome: pb::Outcome| match outcome.status.is_empty() {
        true => Ok(Ok(())),
        false => Ok(Err(api::Error::decode(&outcome.status)?)),
    };
    outcomes.into_iter().map(one).collect()
}

impl Client {
    /// Binds pods to nodes in one call; each binding succeeds or fails alone, in order.
    pub async fn bind(&self, bindings: Vec<Binding>) -> Result<Vec<std::result::Result<(), api::Error>>> {
        let bindings = bindings
            .into_iter()
            .map(
                |Binding {
                     namespace,
                     name,
                     uid,
                     node,
                 }| pb::Binding {
                    namespace,
                    name,
                    uid,
                    node,
                },
            )
            .collect();
        outcomes(
            self.grpc()
                .bind(pb::BindRequest { bindings })
                .await?
                .into_inner()
                .outcomes,
        )
    }
}
