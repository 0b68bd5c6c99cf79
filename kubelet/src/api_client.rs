//! `Cluster` over the real API server: typed gRPC calls, a cache of services, and ConfigMaps and Secrets that are asked for again after some seconds.

use crate::cluster::{Cluster, ClusterError, EventKind};
use api::authentication::v1::TokenRequest;
use api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use api::node::v1::RuntimeClass;
use api::{Object, ObjectKey};
use async_trait::async_trait;
use client::{Cache, Client, DeleteParams, EventRecorder, EventType};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pods of one Deployment start together and ask for the same objects; longer would make updates late.
const FRESH: Duration = Duration::from_secs(2);

type Kept<K> = Mutex<HashMap<ObjectKey, (Instant, Option<Arc<K>>)>>;

/// The API server, as pods need it.
pub struct ApiCluster {
    client: Client,
    services: Cache<Service>,
    recorder: EventRecorder,
    config_maps: Kept<ConfigMap>,
    secrets: Kept<Secret>,
}

impl ApiCluster {
    /// `services` is a cache of all namespaces.
    pub fn new(client: Client, services: Cache<Service>, recorder: EventRecorder) -> Arc<Self> {
        Arc::new(Self {
            client,
            services,
            recorder,
            config_maps: Kept::default(),
            secrets: Kept::default(),
        })
    }

    async fn kept<K: Object>(
        &self,
        kept: &Kept<K>,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<K>>, ClusterError> {
        let key = ObjectKey::new(namespace, name);
        if let Some((at, object)) = kept.lock().get(&key)
            && at.elapsed() < FRESH
        {
            return Ok(object.clone());
        }
        let object = match self.client.api::<K>().get(namespace, name).await {
            Ok(object) => Some(Arc::new(object)),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(told(&error)),
        };
        let mut all = kept.lock();
        all.retain(|_, (at, _)| at.elapsed() < FRESH);
        all.insert(key, (Instant::now(), object.clone()));
        Ok(object)
    }
}

fn told(error: &client::Error) -> ClusterError {
    let text = error.to_string();
    if error.is_not_found() {
        ClusterError::NotFound(text)
    } else if error.is_conflict() {
        ClusterError::Conflict(text)
    } else {
        ClusterError::Failed(text)
    }
}

#[async_trait]
impl Cluster for ApiCluster {
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, ClusterError> {
        self.kept(&self.config_maps, namespace, name).await
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, ClusterError> {
        self.kept(&self.secrets, namespace, name).await
    }

    async fn token(
        &self,
        namespace: &str,
        account: &str,
        request: &TokenRequest,
    ) -> Result<TokenRequest, ClusterError> {
        let accounts = self.client.api::<ServiceAccount>();
        accounts
            .create_subresource(namespace, account, "token", request)
            .await
            .map_err(|error| told(&error))
    }

    async fn claim(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<(PersistentVolumeClaim, Option<PersistentVolume>)>, ClusterError> {
        let claim = match self.client.api::<PersistentVolumeClaim>().get(namespace, name).await {
            Ok(claim) => claim,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(told(&error)),
        };
        let volume = match claim
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_name.as_deref())
            .filter(|name| !name.is_empty())
        {
            Some(volume) => Some(
                self.client
                    .api::<PersistentVolume>()
                    .get("", volume)
                    .await
                    .map_err(|error| told(&error))?,
            ),
            None => None,
        };
        Ok(Some((claim, volume)))
    }

    async fn runtime_handler(&self, class: &str) -> Result<Option<String>, ClusterError> {
        match self.client.api::<RuntimeClass>().get("", class).await {
            Ok(class) => Ok(Some(class.handler)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(told(&error)),
        }
    }

    async fn update_statuses(&self, pods: Vec<Pod>) -> Vec<Result<(), ClusterError>> {
        let count = pods.len();
        let pods: Vec<Pod> = pods
            .into_iter()
            .map(|mut pod| {
                // Our view may be older than the object: the uid is the precondition that matters.
                pod.metadata.resource_version = None;
                pod.metadata.managed_fields = None;
                pod
            })
            .collect();
        match self.client.api::<Pod>().update_statuses(&pods).await {
            Ok(answers) => answers
                .into_iter()
                .map(|answer| answer.map_err(|error| told(&error.into())))
                .collect(),
            Err(error) => (0..count).map(|_| Err(told(&error))).collect(),
        }
    }

    async fn delete_pod(&self, namespace: &str, name: &str, uid: &str) -> Result<(), ClusterError> {
        let how = DeleteParams::now().uid(uid);
        self.client
            .api::<Pod>()
            .delete(namespace, name, &how)
            .await
            .map_err(|error| told(&error))
    }

    fn services(&self) -> Vec<Arc<Service>> {
        self.services.list()
    }

    fn event(&self, pod: &Pod, kind: EventKind, reason: &str, message: &str) {
        let kind = match kind {
            EventKind::Normal => EventType::Normal,
            EventKind::Warning => EventType::Warning,
        };
        self.recorder.event(pod, kind, reason, message);
    }
}
