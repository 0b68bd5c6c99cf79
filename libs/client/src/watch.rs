//! List and watch on bytes: what typed lists, dynamic lists and informers share.

use std::time::Duration;

use bytes::Bytes;
use proto::cluster as pb;

use crate::typed::ListParams;
use crate::{Client, Error, Result};

/// What to list and watch, and where.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    client: Client,
    resource: pb::Resource,
    namespace: String,
    label_selector: String,
    field_selector: String,
}

/// A complete list.
pub(crate) struct Listed {
    pub(crate) objects: Vec<Bytes>,
    pub(crate) resource_version: String,
}

impl Source {
    pub(crate) fn new(client: &Client, resource: pb::Resource, params: &ListParams) -> Self {
        Self {
            client: client.clone(),
            resource,
            namespace: params.namespace.clone(),
            label_selector: params.label_selector.clone(),
            field_selector: params.field_selector.clone(),
        }
    }

    /// For logs: `pods` or `deployments.apps`.
    pub(crate) fn name(&self) -> String {
        match self.resource.group.as_str() {
            "" => self.resource.resource.clone(),
            group => format!("{}.{group}", self.resource.resource),
        }
    }

    /// Opens a watch for what comes after a revision.
    pub(crate) async fn watch(&self, resource_version: &str) -> Result<tonic::Streaming<pb::WatchReply>> {
        let request = pb::WatchRequest {
            resource: Some(self.resource.clone()),
            namespace: self.namespace.clone(),
            label_selector: self.label_selector.clone(),
            field_selector: self.field_selector.clone(),
            resource_version: resource_version.to_owned(),
            allow_bookmarks: true,
            ..pb::WatchRequest::default()
        };
        Ok(self.client.grpc().watch(request).await?.into_inner())
    }
}

/// Lists everything the source selects. A broken connection is tried again a few times: a read is repeated without harm.
pub(crate) async fn list(source: &Source, resource_version: &str) -> Result<Listed> {
    let mut backoff = Backoff::default();
    for _ in 0..3 {
        match list_once(source, resource_version).await {
            Err(error) if error.is_transport() => tokio::time::sleep(backoff.next()).await,
            outcome => return outcome,
        }
    }
    list_once(source, resource_version).await
}

pub(crate) async fn list_once(source: &Source, resource_version: &str) -> Result<Listed> {
    let request = pb::ListRequest {
        resource: Some(source.resource.clone()),
        namespace: source.namespace.clone(),
        label_selector: source.label_selector.clone(),
        field_selector: source.field_selector.clone(),
        resource_version: resource_version.to_owned(),
        ..pb::ListRequest::default()
    };
    let mut chunks = source.client.grpc().list(request).await?.into_inner();
    let mut listed = Listed {
        objects: Vec::new(),
        resource_version: String::new(),
    };
    while let Some(chunk) = chunks.message().await? {
        listed.objects.extend(chunk.objects);
        listed.resource_version = chunk.resource_version;
    }
    match listed.resource_version.is_empty() {
        // Only the last chunk has it.
        true => Err(Error::Transport("the list ended early".into())),
        false => Ok(listed),
    }
}

/// Waits between tries: doubling, with jitter so that a thousand clients do not come back at once.
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(25);
    const LAST: Duration = Duration::from_secs(5);

    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(Self::LAST);
        wait.mul_f64(rand::random_range(0.5..1.0))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: Self::FIRST }
    }
}
