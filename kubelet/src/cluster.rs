//! The kubelet's view of the API server: everything a pod worker may ask of it, and nothing else. `ClientCluster` is the real one; tests bring one in memory.

use api::authentication::v1::TokenRequest;
use api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service};
use async_trait::async_trait;
use std::sync::Arc;

/// The API server refused or did not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClusterError {
    /// The object is not there.
    #[error("{0}")]
    NotFound(String),
    /// Somebody else changed the object.
    #[error("{0}")]
    Conflict(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// How an event is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// As expected.
    Normal,
    /// Somebody should look.
    Warning,
}

/// What pods need from the API server.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// A ConfigMap, or nothing when it is not there. May be some seconds old.
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, ClusterError>;

    /// A Secret, or nothing when it is not there. May be some seconds old.
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, ClusterError>;

    /// A bound token of a service account.
    async fn token(&self, namespace: &str, account: &str, request: &TokenRequest)
    -> Result<TokenRequest, ClusterError>;

    /// A claim and the volume it is bound to.
    async fn claim(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<(PersistentVolumeClaim, Option<PersistentVolume>)>, ClusterError>;

    /// The runtime's handler that a RuntimeClass stands for, or nothing when there is no such class.
    async fn runtime_handler(&self, class: &str) -> Result<Option<String>, ClusterError>;

    /// Writes the statuses of many pods; an answer each.
    async fn update_statuses(&self, pods: Vec<Pod>) -> Vec<Result<(), ClusterError>>;

    /// Deletes a pod for good, if it is still the one with that uid.
    async fn delete_pod(&self, namespace: &str, name: &str, uid: &str) -> Result<(), ClusterError>;

    /// Every service.
    fn services(&self) -> Vec<Arc<Service>>;

    /// Tells of something that happened to a pod. Never waits.
    fn event(&self, pod: &Pod, kind: EventKind, reason: &str, message: &str);
}
