//! The container runtime: a CRI v1 client and the translation between pods and what CRI says.
//!
//! Owns the connection, its time limits and its metrics. Never decides what should run: that is `pods`.

pub mod cgroups;
pub mod container;
pub mod events;
pub mod images;
pub mod labels;
pub mod model;
pub mod relist;
pub mod resources;
pub mod sandbox;
pub mod security;

use crate::metrics::Metrics;
use proto::cri;
use proto::cri::image_service_client::ImageServiceClient;
use proto::cri::runtime_service_client::RuntimeServiceClient;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// ListContainers of a big node is larger than tonic's 4 MiB; upstream's limit is this.
const MAX_MESSAGE: usize = 16 << 20;
/// Upstream's `runtimeRequestTimeout`.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// A pull has no progress in CRI v1, so it is bounded only against hanging for ever.
const PULL_TIMEOUT: Duration = Duration::from_secs(3600);

/// A call of the runtime that failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The endpoint is not a usable URL.
    #[error("container runtime endpoint {endpoint:?} is not usable")]
    Endpoint {
        /// As configured.
        endpoint: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// The runtime answered an error: its own message, as users see it in statuses and events.
    #[error("{}", .status.message())]
    Call {
        /// The operation's name, as in the metrics.
        operation: &'static str,
        /// The answer.
        status: Box<tonic::Status>,
    },
    /// No answer in time.
    #[error("{operation} did not answer within {}s", .limit.as_secs())]
    Timeout {
        /// The operation's name.
        operation: &'static str,
        /// The time limit.
        limit: Duration,
    },
    /// An answer without a field that CRI requires.
    #[error("the runtime's answer to {operation} lacks {field}")]
    Incomplete {
        /// The operation's name.
        operation: &'static str,
        /// What is missing.
        field: &'static str,
    },
}

impl RuntimeError {
    /// Whether the runtime does not serve the call.
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, Self::Call { status, .. } if status.code() == tonic::Code::Unimplemented)
    }

    /// Whether the container, sandbox or image is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Call { status, .. } if status.code() == tonic::Code::NotFound)
    }

    /// Whether the command of an `ExecSync` ran out of time.
    pub fn is_deadline(&self) -> bool {
        match self {
            Self::Call { status, .. } => status.code() == tonic::Code::DeadlineExceeded,
            Self::Timeout { .. } => true,
            _ => false,
        }
    }
}

/// A connection to the container runtime; cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    channel: Channel,
    metrics: Arc<Metrics>,
    socket: Arc<str>,
}

type Result<T> = std::result::Result<T, RuntimeError>;

impl Runtime {
    /// Prepares the connection to `endpoint` (`unix:///run/containerd/containerd.sock` or a path); connects on first use.
    pub fn new(endpoint: &str, metrics: Arc<Metrics>) -> Result<Self> {
        let socket = endpoint.strip_prefix("unix://").unwrap_or(endpoint).to_owned();
        let url = format!("unix://{socket}");
        let endpoint = Endpoint::from_shared(url).map_err(|source| RuntimeError::Endpoint {
            endpoint: endpoint.to_owned(),
            source,
        })?;
        let channel = endpoint.connect_lazy();
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            channel,
            metrics,
            socket: socket.into(),
        })
    }

    /// The path of the runtime's socket.
    pub fn socket(&self) -> &str {
        &self.socket
    }

    /// The connection itself, for services beside CRI.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    async fn call<T>(
        &self,
        operation: &'static str,
        limit: Duration,
        call: impl Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T> {
        self.metrics.runtime_operations.with_label_values(&[operation]).inc();
        let timer = self
            .metrics
            .runtime_duration
            .with_label_values(&[operation])
            .start_timer();
        let answer = tokio::time::timeout(limit, call).await;
        timer.observe_duration();
        let failed = match answer {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => RuntimeError::Call {
                operation,
                status: Box::new(status),
            },
            Err(_) => RuntimeError::Timeout { operation, limit },
        };
        self.metrics.runtime_errors.with_label_values(&[operation]).inc();
        Err(failed)
    }

    /// Name and version of the runtime.
    pub async fn version(&self) -> Result<cri::VersionResponse> {
        let request = cri::VersionRequest {
            version: "0.1.0".into(),
        };
        self.call("version", REQUEST_TIMEOUT, self.runtime.clone().version(request))
            .await
    }

    /// The runtime's own conditions (`RuntimeReady`, `NetworkReady`).
    pub async fn status(&self) -> Result<cri::StatusResponse> {
        let request = cri::StatusRequest { verbose: false };
        self.call("status", REQUEST_TIMEOUT, self.runtime.clone().status(request))
            .await
    }

    /// Tells the runtime the node's pod CIDR; containerd uses it only with a CNI template.
    pub async fn set_pod_cidr(&self, pod_cidr: &str) -> Result<()> {
        let config = cri::RuntimeConfig {
            network_config: Some(cri::NetworkConfig {
                pod_cidr: pod_cidr.to_owned(),
            }),
        };
        let request = cri::UpdateRuntimeConfigRequest {
            runtime_config: Some(config),
        };
        self.call(
            "update_runtime_config",
            REQUEST_TIMEOUT,
            self.runtime.clone().update_runtime_config(request),
        )
        .await?;
        Ok(())
    }

    /// Starts a sandbox; its id.
    pub async fn run_sandbox(&self, config: cri::PodSandboxConfig, handler: &str) -> Result<String> {
        let request = cri::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: handler.to_owned(),
        };
        let limit = REQUEST_TIMEOUT * 2;
        Ok(self
            .call("run_podsandbox", limit, self.runtime.clone().run_pod_sandbox(request))
            .await?
            .pod_sandbox_id)
    }

    /// Stops a sandbox: its network goes, containers still in it are killed.
    pub async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.call(
            "stop_podsandbox",
            REQUEST_TIMEOUT,
            self.runtime.clone().stop_pod_sandbox(request),
        )
        .await?;
        Ok(())
    }

    /// Removes a sandbox with its containers.
    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.call(
            "remove_podsandbox",
            REQUEST_TIMEOUT,
            self.runtime.clone().remove_pod_sandbox(request),
        )
        .await?;
        Ok(())
    }

    /// The status of one sandbox.
    pub async fn sandbox_status(&self, id: &str) -> Result<cri::PodSandboxStatus> {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        };
        let answer = self
            .call(
                "podsandbox_status",
                REQUEST_TIMEOUT,
                self.runtime.clone().pod_sandbox_status(request),
            )
            .await?;
        answer.status.ok_or(RuntimeError::Incomplete {
            operation: "podsandbox_status",
            field: "status",
        })
    }

    /// Every sandbox, or those of one pod.
    pub async fn list_sandboxes(&self, pod_uid: Option<&str>) -> Result<Vec<cri::PodSandbox>> {
        let filter = pod_uid.map(|uid| cri::PodSandboxFilter {
            label_selector: uid_selector(uid),
            ..Default::default()
        });
        let request = cri::ListPodSandboxRequest { filter };
        Ok(self
            .call(
                "list_podsandbox",
                REQUEST_TIMEOUT,
                self.runtime.clone().list_pod_sandbox(request),
            )
            .await?
            .items)
    }

    /// Where to run a command in a container with streams.
    pub async fn exec_url(&self, request: cri::ExecRequest) -> Result<String> {
        Ok(self
            .call("exec", REQUEST_TIMEOUT, self.runtime.clone().exec(request))
            .await?
            .url)
    }

    /// Where to join a container's first process.
    pub async fn attach_url(&self, request: cri::AttachRequest) -> Result<String> {
        Ok(self
            .call("attach", REQUEST_TIMEOUT, self.runtime.clone().attach(request))
            .await?
            .url)
    }

    /// Where to reach ports of a sandbox.
    pub async fn port_forward_url(&self, request: cri::PortForwardRequest) -> Result<String> {
        Ok(self
            .call(
                "portforward",
                REQUEST_TIMEOUT,
                self.runtime.clone().port_forward(request),
            )
            .await?
            .url)
    }

    /// Every container, or those of one pod, dead ones included.
    pub async fn list_containers(&self, pod_uid: Option<&str>) -> Result<Vec<cri::Container>> {
        let filter = pod_uid.map(|uid| cri::ContainerFilter {
            label_selector: uid_selector(uid),
            ..Default::default()
        });
        let request = cri::ListContainersRequest { filter };
        Ok(self
            .call(
                "list_containers",
                REQUEST_TIMEOUT,
                self.runtime.clone().list_containers(request),
            )
            .await?
            .containers)
    }

    /// The status of one container.
    pub async fn container_status(&self, id: &str) -> Result<cri::ContainerStatus> {
        let request = cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let answer = self
            .call(
                "container_status",
                REQUEST_TIMEOUT,
                self.runtime.clone().container_status(request),
            )
            .await?;
        answer.status.ok_or(RuntimeError::Incomplete {
            operation: "container_status",
            field: "status",
        })
    }

    /// Creates a container; its id.
    pub async fn create_container(
        &self,
        sandbox: &str,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Result<String> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        Ok(self
            .call(
                "create_container",
                REQUEST_TIMEOUT,
                self.runtime.clone().create_container(request),
            )
            .await?
            .container_id)
    }

    /// Starts a created container.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        let request = cri::StartContainerRequest {
            container_id: id.to_owned(),
        };
        self.call(
            "start_container",
            REQUEST_TIMEOUT,
            self.runtime.clone().start_container(request),
        )
        .await?;
        Ok(())
    }

    /// Stops a container: its stop signal, then after `grace` seconds SIGKILL. A container that is gone is no error.
    pub async fn stop_container(&self, id: &str, grace: i64) -> Result<()> {
        let request = cri::StopContainerRequest {
            container_id: id.to_owned(),
            timeout: grace.max(0),
        };
        let limit = REQUEST_TIMEOUT + Duration::from_secs(grace.max(0) as u64);
        match self
            .call("stop_container", limit, self.runtime.clone().stop_container(request))
            .await
        {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Removes a container and its writable layer.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let request = cri::RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        self.call(
            "remove_container",
            REQUEST_TIMEOUT,
            self.runtime.clone().remove_container(request),
        )
        .await?;
        Ok(())
    }

    /// Makes the runtime open a container's log file anew after it was renamed.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let request = cri::ReopenContainerLogRequest {
            container_id: id.to_owned(),
        };
        self.call(
            "reopen_container_log",
            REQUEST_TIMEOUT,
            self.runtime.clone().reopen_container_log(request),
        )
        .await?;
        Ok(())
    }

    /// Runs a command in a container and waits; whole seconds, 0 is no limit but ours.
    pub async fn exec(&self, id: &str, command: &[String], timeout: Duration) -> Result<cri::ExecSyncResponse> {
        let seconds = timeout.as_secs() as i64;
        let request = cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            timeout: seconds,
        };
        let limit = if timeout.is_zero() {
            PULL_TIMEOUT
        } else {
            timeout + Duration::from_secs(5)
        };
        self.call("exec_sync", limit, self.runtime.clone().exec_sync(request))
            .await
    }

    /// CPU, memory and writable layer of every container, or of one pod's.
    pub async fn container_stats(&self) -> Result<Vec<cri::ContainerStats>> {
        let request = cri::ListContainerStatsRequest { filter: None };
        Ok(self
            .call(
                "list_container_stats",
                REQUEST_TIMEOUT,
                self.runtime.clone().list_container_stats(request),
            )
            .await?
            .stats)
    }

    /// Network, CPU and memory of every sandbox, where the runtime serves it.
    pub async fn sandbox_stats(&self) -> Result<Vec<cri::PodSandboxStats>> {
        let request = cri::ListPodSandboxStatsRequest { filter: None };
        Ok(self
            .call(
                "list_pod_sandbox_stats",
                REQUEST_TIMEOUT,
                self.runtime.clone().list_pod_sandbox_stats(request),
            )
            .await?
            .stats)
    }

    /// The stream of container events; `Unimplemented` before containerd 1.7.
    pub async fn container_events(&self) -> Result<tonic::Streaming<cri::ContainerEventResponse>> {
        let request = cri::GetEventsRequest {};
        self.call(
            "get_container_events",
            REQUEST_TIMEOUT,
            self.runtime.clone().get_container_events(request),
        )
        .await
    }

    /// Changes the limits of a running container.
    pub async fn update_container_resources(&self, id: &str, linux: cri::LinuxContainerResources) -> Result<()> {
        let request = cri::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        self.call(
            "update_container",
            REQUEST_TIMEOUT,
            self.runtime.clone().update_container_resources(request),
        )
        .await?;
        Ok(())
    }

    /// An image that is here, or nothing.
    pub async fn image(&self, name: &str) -> Result<Option<cri::Image>> {
        let request = cri::ImageStatusRequest {
            image: Some(image_spec(name)),
            verbose: false,
        };
        Ok(self
            .call(
                "image_status",
                REQUEST_TIMEOUT,
                self.images.clone().image_status(request),
            )
            .await?
            .image)
    }

    /// Every image.
    pub async fn list_images(&self) -> Result<Vec<cri::Image>> {
        let request = cri::ListImagesRequest { filter: None };
        Ok(self
            .call("list_images", REQUEST_TIMEOUT, self.images.clone().list_images(request))
            .await?
            .images)
    }

    /// Pulls an image; its reference.
    pub async fn pull_image(
        &self,
        name: &str,
        auth: Option<cri::AuthConfig>,
        sandbox: cri::PodSandboxConfig,
    ) -> Result<String> {
        let request = cri::PullImageRequest {
            image: Some(image_spec(name)),
            auth,
            sandbox_config: Some(sandbox),
        };
        Ok(self
            .call("pull_image", PULL_TIMEOUT, self.images.clone().pull_image(request))
            .await?
            .image_ref)
    }

    /// Removes an image with all its names.
    pub async fn remove_image(&self, id: &str) -> Result<()> {
        let request = cri::RemoveImageRequest {
            image: Some(image_spec(id)),
        };
        self.call(
            "remove_image",
            REQUEST_TIMEOUT,
            self.images.clone().remove_image(request),
        )
        .await?;
        Ok(())
    }

    /// Use of the file system that holds the images.
    pub async fn image_fs(&self) -> Result<cri::ImageFsInfoResponse> {
        let request = cri::ImageFsInfoRequest {};
        self.call(
            "image_fs_info",
            REQUEST_TIMEOUT,
            self.images.clone().image_fs_info(request),
        )
        .await
    }
}

fn image_spec(name: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: name.to_owned(),
        ..Default::default()
    }
}

fn uid_selector(uid: &str) -> std::collections::HashMap<String, String> {
    [(labels::POD_UID.to_owned(), uid.to_owned())].into()
}
