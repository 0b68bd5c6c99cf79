//! Makes a pod's sandbox: volumes, cgroup, log folder, then the sandbox itself.

use super::worker::Worker;
use crate::files;
use crate::runtime::sandbox::{SandboxInputs, config, pod_text};
use jiff::{SignedDuration, Timestamp};
use proto::cri;

/// Longest wait between two attempts.
const MAX_RETRY: i64 = 30;

impl Worker {
    pub(super) async fn create_sandbox(&mut self, attempt: u32) {
        match self.try_create_sandbox(attempt).await {
            Ok(()) => {
                self.failures = 0;
                self.retry_at.remove("");
            }
            Err((reason, message)) => {
                self.warn(reason, &message);
                tracing::warn!(pod = pod_text(&self.pod), message, "the pod cannot start");
                self.failures = self.failures.saturating_add(1);
                let wait = (1_i64 << self.failures.min(6).saturating_sub(1)).min(MAX_RETRY);
                if let Ok(at) = Timestamp::now().checked_add(SignedDuration::from_secs(wait)) {
                    self.retry_at.insert(String::new(), at);
                }
            }
        }
    }

    async fn try_create_sandbox(&mut self, attempt: u32) -> Result<(), (&'static str, String)> {
        self.set_up_volumes()
            .await
            .map_err(|error| ("FailedMount", error.to_string()))?;
        let config = self.sandbox_config(attempt);
        let failed = |error: &dyn std::fmt::Display| {
            (
                "FailedCreatePodSandBox",
                format!("Failed to create pod sandbox: {error}"),
            )
        };
        let (cgroups, pod, limit) = (
            self.context.cgroups.clone(),
            self.pod.clone(),
            self.context.node.pod_pids_limit,
        );
        let made = tokio::task::spawn_blocking(move || cgroups.prepare_pod(&pod, limit)).await;
        made.map_err(|error| failed(&error))?.map_err(|error| {
            let cause = std::error::Error::source(&error)
                .map(ToString::to_string)
                .unwrap_or_default();
            (
                "FailedCreatePodContainer",
                format!("unable to ensure pod container exists: {error}: {cause}"),
            )
        })?;
        tokio::fs::create_dir_all(&config.log_directory)
            .await
            .map_err(|error| failed(&error))?;
        let handler = self.runtime_handler().await.map_err(|error| failed(&error))?;
        match self.context.runtime.run_sandbox(config, &handler).await {
            Ok(id) => {
                self.context.metrics.started_pods.inc();
                tracing::debug!(pod = pod_text(&self.pod), id, "sandbox started");
                Ok(())
            }
            Err(error) => {
                self.context.metrics.started_pods_errors.inc();
                Err(failed(&error))
            }
        }
    }

    /// "" is the runtime's default.
    async fn runtime_handler(&self) -> Result<String, String> {
        let class = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.runtime_class_name.as_deref())
            .unwrap_or_default();
        if class.is_empty() {
            return Ok(String::new());
        }
        match self.context.cluster.runtime_handler(class).await {
            Ok(Some(handler)) => Ok(handler),
            Ok(None) => Err(format!(
                "failed to get sandbox runtime: RuntimeClass \"{class}\" not found"
            )),
            Err(error) => Err(format!("failed to get sandbox runtime: {error}")),
        }
    }

    /// The sandbox's configuration, which containers in it are made with, too.
    pub(super) fn sandbox_config(&self, attempt: u32) -> cri::PodSandboxConfig {
        let node = &self.context.node;
        let hostname = files::sandbox_hostname(&self.pod, &node.dns.domain);
        config(
            &self.pod,
            &SandboxInputs {
                attempt,
                hostname: &hostname,
                dns: Some(files::dns(&self.pod, &node.dns)),
                log_root: &node.log_root,
                cgroup_parent: self.context.cgroups.pod_path(&self.pod).to_string_lossy().into_owned(),
            },
        )
    }
}
