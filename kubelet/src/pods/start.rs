//! Starts one container: image, environment, mounts, create, start, postStart. A failure becomes the container's waiting state.

use super::credentials;
use super::decide::{Role, Start};
use super::hooks;
use super::status::Waiting;
use super::worker::Worker;
use crate::env;
use crate::env::expand::expand;
use crate::files;
use crate::runtime::container::{self, ContainerInputs};
use crate::runtime::images::Progress;
use crate::runtime::labels;
use crate::runtime::model::State;
use crate::runtime::sandbox::pod_text;
use api::core::v1::{Container, EphemeralContainer};
use jiff::{SignedDuration, Timestamp};
use proto::cri;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// When a container that could not be made is tried again.
const RETRY: SignedDuration = SignedDuration::from_secs(5);

/// A container that was not started: its waiting reason and message.
struct NotStarted(&'static str, String);

impl Worker {
    pub(super) async fn start(&mut self, start: &Start) {
        let Some(container) = self.definition(start) else {
            return;
        };
        let kind = match start.role {
            Role::Init | Role::Sidecar => "init_container",
            Role::Main => "container",
            Role::Ephemeral => "ephemeral_container",
        };
        self.context.metrics.started_containers.with_label_values(&[kind]).inc();
        if self
            .observed
            .container(&start.name)
            .is_some_and(|seen| seen.state == State::Exited)
        {
            self.backoffs
                .entry(start.name.clone())
                .or_default()
                .failed(Timestamp::now());
        }
        match self.try_start(&container, start).await {
            Ok(()) => {
                self.waiting.remove(&start.name);
                self.retry_at.remove(&start.name);
            }
            Err(NotStarted(reason, message)) => {
                self.context
                    .metrics
                    .started_containers_errors
                    .with_label_values(&[kind, reason])
                    .inc();
                tracing::warn!(
                    pod = pod_text(&self.pod),
                    container = start.name,
                    reason,
                    message,
                    "not started"
                );
                self.waiting.insert(
                    start.name.clone(),
                    Waiting {
                        reason: reason.to_owned(),
                        message,
                    },
                );
                if let Ok(at) = Timestamp::now().checked_add(RETRY) {
                    self.retry_at.insert(start.name.clone(), at);
                }
            }
        }
    }

    fn definition(&self, start: &Start) -> Option<Container> {
        let spec = self.pod.spec.as_ref()?;
        let named = |container: &&Container| container.name == start.name;
        match start.role {
            Role::Main => spec.containers.iter().find(named).cloned(),
            Role::Init | Role::Sidecar => spec.init_containers.iter().flatten().find(named).cloned(),
            Role::Ephemeral => spec
                .ephemeral_containers
                .iter()
                .flatten()
                .find(|container| container.name == start.name)
                .map(plain),
        }
    }

    async fn try_start(&mut self, container: &Container, start: &Start) -> Result<(), NotStarted> {
        let Some(sandbox) = self.observed.sandbox().cloned() else {
            return Err(NotStarted("CreateContainerError", "the pod has no sandbox".into()));
        };
        let sandbox_config = self.sandbox_config(sandbox.attempt);
        let image = self.image(container, &sandbox_config).await?;
        let facts = self.context.facts(&self.pod, &sandbox.ips);
        let config_error = |error: &dyn std::fmt::Display| NotStarted("CreateContainerConfigError", error.to_string());
        let env = match env::resolve(self.context.cluster.as_ref(), &self.pod, container, &facts).await {
            Ok(env) => env,
            Err(error) => {
                self.warn("Failed", &format!("Error: {error}"));
                return Err(config_error(&error));
            }
        };
        let mounts = self.mounts(container, &env, &sandbox.ips).await.map_err(|error| {
            self.warn("Failed", &format!("Error: {error}"));
            config_error(&error)
        })?;
        let target_id = self.target_id(start);
        let inputs = ContainerInputs {
            attempt: start.attempt,
            image_ref: image.id.clone(),
            image: &image,
            env,
            mounts,
            node_memory: self.context.node.memory,
            target_id,
        };
        let config = container::config(&self.pod, container, inputs).map_err(|error| {
            self.warn("Failed", &format!("Error: {error}"));
            config_error(&error)
        })?;
        self.create_and_start(container, &sandbox.id, config, sandbox_config)
            .await
    }

    async fn create_and_start(
        &mut self,
        container: &Container,
        sandbox: &str,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Result<(), NotStarted> {
        let name = &container.name;
        let runtime = self.context.runtime.clone();
        let created = runtime.create_container(sandbox, config, sandbox_config).await;
        let id = created.map_err(|error| {
            self.warn("Failed", &format!("Error: {error}"));
            NotStarted("CreateContainerError", error.to_string())
        })?;
        self.tell("Created", &format!("Created container: {name}"));
        runtime.start_container(&id).await.map_err(|error| {
            self.warn("Failed", &format!("Error: {error}"));
            NotStarted("RunContainerError", error.to_string())
        })?;
        self.tell("Started", &format!("Started container {name}"));
        let hook = container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.post_start.as_ref());
        let Some(hook) = hook else { return Ok(()) };
        if let Err(error) = hooks::run(&self.target(&id, container), hook).await {
            self.warn("FailedPostStartHook", &format!("PostStartHook failed: {error}"));
            self.tell("Killing", "FailedPostStartHook");
            if let Err(error) = runtime.stop_container(&id, self.spec_grace()).await {
                tracing::warn!(%error, pod = pod_text(&self.pod), container = name, "stop after a failed postStart");
            }
            return Err(NotStarted("PostStartHookError", error.to_string()));
        }
        Ok(())
    }

    async fn image(&self, container: &Container, sandbox: &cri::PodSandboxConfig) -> Result<cri::Image, NotStarted> {
        let image = container.image.as_deref().unwrap_or_default();
        let policy = match container.image_pull_policy.as_deref() {
            Some(policy) => policy,
            None if crate::runtime::images::with_tag(image).ends_with(":latest") => "Always",
            None => "IfNotPresent",
        };
        let credentials = self.credentials(image).await;
        let report = |progress: Progress| match progress {
            Progress::Present => {
                self.tell(
                    "Pulled",
                    &format!("Container image \"{image}\" already present on machine"),
                );
            }
            Progress::Pulling => self.tell("Pulling", &format!("Pulling image \"{image}\"")),
            Progress::Pulled { took, waited, size } => {
                let (took, waited) = (took.as_millis(), waited.as_millis());
                let text = format!(
                    "Successfully pulled image \"{image}\" in {took}ms ({waited}ms including waiting). Image size: {size} bytes."
                );
                self.tell("Pulled", &text);
            }
        };
        let outcome = self
            .context
            .images
            .ensure(&self.uid(), image, policy, &credentials, sandbox, report)
            .await;
        outcome.map_err(|error| {
            match error.reason {
                "ImagePullBackOff" => self.tell("BackOff", &format!("Back-off pulling image \"{image}\"")),
                "ErrImageNeverPull" => self.warn("ErrImageNeverPull", &error.message),
                "InvalidImageName" => self.warn("InspectFailed", &error.message),
                _ => self.warn(
                    "Failed",
                    &format!("Failed to pull image \"{image}\": {}", error.message),
                ),
            }
            if error.reason != "ImagePullBackOff" {
                self.warn("Failed", &format!("Error: {}", error.reason));
            }
            NotStarted(error.reason, error.message)
        })
    }

    async fn credentials(&self, image: &str) -> Vec<cri::AuthConfig> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut found = Vec::new();
        for reference in self
            .pod
            .spec
            .iter()
            .flat_map(|spec| spec.image_pull_secrets.iter().flatten())
        {
            match self.context.cluster.secret(namespace, &reference.name).await {
                Ok(Some(secret)) => {
                    let data = secret.data.as_ref();
                    let file = data.and_then(|data| data.get(".dockerconfigjson").or_else(|| data.get(".dockercfg")));
                    found.extend(file.into_iter().flat_map(|file| credentials::for_image(image, &file.0)));
                }
                Ok(None) => {
                    let text = format!(
                        "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                        reference.name
                    );
                    self.warn("FailedToRetrieveImagePullSecret", &text);
                }
                Err(error) => tracing::warn!(%error, secret = reference.name, "image pull secret"),
            }
        }
        found
    }

    /// The process namespace that a debugging container wants to see.
    fn target_id(&self, start: &Start) -> Option<String> {
        let spec = self.pod.spec.as_ref().filter(|_| start.role == Role::Ephemeral)?;
        let own = spec
            .ephemeral_containers
            .iter()
            .flatten()
            .find(|container| container.name == start.name)?;
        let target = own.target_container_name.as_deref()?;
        self.observed
            .running()
            .find(|seen| seen.name == target)
            .map(|seen| seen.id.clone())
    }

    async fn mounts(
        &mut self,
        container: &Container,
        env: &[(String, String)],
        ips: &[String],
    ) -> anyhow::Result<Vec<cri::Mount>> {
        let uid = self.uid();
        if self.places.is_empty() {
            self.set_up_volumes().await?;
        }
        self.context.volumes.release_sub_paths(&uid, &container.name).await?;
        let mut mounts = Vec::new();
        for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let lookup = |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
            let sub_path = match &mount.sub_path_expr {
                Some(expression) if !expression.is_empty() => Some(expand(expression, lookup)),
                _ => mount.sub_path.clone(),
            };
            let volumes = &self.context.volumes;
            let source = volumes
                .mount_source(&self.pod, &container.name, index, mount, &self.places, sub_path)
                .await?;
            let propagation = match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => cri::MountPropagation::PropagationHostToContainer,
                Some("Bidirectional") => cri::MountPropagation::PropagationBidirectional,
                _ => cri::MountPropagation::PropagationPrivate,
            };
            mounts.push(cri::Mount {
                container_path: absolute(&mount.mount_path),
                host_path: source.to_string_lossy().into_owned(),
                readonly: mount.read_only == Some(true),
                propagation: propagation as i32,
                ..Default::default()
            });
        }
        let folder = self.context.volumes.pod_folder(&uid);
        if !mounts.iter().any(|mount| mount.container_path == "/etc/hosts") {
            let path = self.write_hosts(&folder, ips).await?;
            mounts.push(bind("/etc/hosts", &path));
        }
        let message_path = labels::termination_path(container);
        if !message_path.is_empty() {
            let path = termination_log(&folder, &container.name).await?;
            mounts.push(bind(message_path, &path));
        }
        Ok(mounts)
    }

    async fn write_hosts(&self, folder: &Path, ips: &[String]) -> anyhow::Result<PathBuf> {
        let spec = self.pod.spec.as_ref();
        let aliases = spec.and_then(|spec| spec.host_aliases.as_deref()).unwrap_or_default();
        let text = if spec.and_then(|spec| spec.host_network) == Some(true) {
            let host = tokio::fs::read_to_string("/etc/hosts").await.unwrap_or_default();
            files::host_etc_hosts(&host, aliases)
        } else {
            let (name, domain) = files::hostname(&self.pod, &self.context.node.dns.domain);
            files::etc_hosts(ips, &name, &domain, aliases)
        };
        tokio::fs::create_dir_all(folder).await?;
        let path = folder.join("etc-hosts");
        tokio::fs::write(&path, text).await?;
        let readable = std::fs::Permissions::from_mode(0o644);
        tokio::fs::set_permissions(&path, readable).await?;
        Ok(path)
    }
}

/// An empty file that anybody in the container may write to.
async fn termination_log(folder: &Path, container: &str) -> anyhow::Result<PathBuf> {
    let folder = folder.join("containers").join(container);
    tokio::fs::create_dir_all(&folder).await?;
    let path = folder.join(format!("{:08x}", rand::random::<u32>()));
    tokio::fs::write(&path, b"").await?;
    tokio::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).await?;
    Ok(path)
}

fn bind(container_path: &str, host_path: &Path) -> cri::Mount {
    cri::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        ..Default::default()
    }
}

/// A relative mount path is below the root, as upstream takes it.
fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

/// An ephemeral container as one proper: it has the same fields where they matter here.
fn plain(own: &EphemeralContainer) -> Container {
    Container {
        name: own.name.clone(),
        image: own.image.clone(),
        image_pull_policy: own.image_pull_policy.clone(),
        command: own.command.clone(),
        args: own.args.clone(),
        working_dir: own.working_dir.clone(),
        env: own.env.clone(),
        env_from: own.env_from.clone(),
        security_context: own.security_context.clone(),
        stdin: own.stdin,
        stdin_once: own.stdin_once,
        tty: own.tty,
        termination_message_path: own.termination_message_path.clone(),
        termination_message_policy: own.termination_message_policy.clone(),
        volume_mounts: own.volume_mounts.clone(),
        ..Default::default()
    }
}
