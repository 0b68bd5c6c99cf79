//! A container's configuration from the pod, its resolved environment and its mounts.

use super::{labels, resources, security};
use crate::env::expand;
use api::core::v1::{Container, Pod};
use proto::cri;
use std::collections::BTreeMap;

/// What a container needs besides the pod.
pub struct ContainerInputs<'a> {
    /// How many containers of this name the pod had.
    pub attempt: u32,
    /// The image's reference as the runtime knows it.
    pub image_ref: String,
    /// The image as the runtime describes it.
    pub image: &'a cri::Image,
    /// Resolved environment, in order.
    pub env: Vec<(String, String)>,
    /// Mounts, in order.
    pub mounts: Vec<cri::Mount>,
    /// Bytes of memory of the node.
    pub node_memory: i64,
    /// The sandbox that `targetContainerName` of an ephemeral container points into: the target's id.
    pub target_id: Option<String>,
}

/// The container's CRI configuration.
pub fn config(
    pod: &Pod,
    container: &Container,
    inputs: ContainerInputs<'_>,
) -> Result<cri::ContainerConfig, security::SecurityError> {
    let mut context = security::container(pod, container, inputs.image)?;
    if let (Some(options), Some(target)) = (context.namespace_options.as_mut(), inputs.target_id) {
        options.pid = cri::NamespaceMode::Target as i32;
        options.target_id = target;
    }
    let variables: BTreeMap<&str, &str> = inputs
        .env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let expanded = |words: &Option<Vec<String>>| -> Vec<String> {
        let lookup = |name: &str| variables.get(name).map(|value| (*value).to_owned());
        words
            .iter()
            .flatten()
            .map(|word| expand::expand(word, lookup))
            .collect()
    };
    let name = &container.name;
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: name.clone(),
            attempt: inputs.attempt,
        }),
        image: Some(cri::ImageSpec {
            image: inputs.image_ref,
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: inputs
            .env
            .iter()
            .map(|(key, value)| cri::KeyValue {
                key: key.clone(),
                value: value.clone(),
            })
            .collect(),
        mounts: inputs.mounts,
        devices: Vec::new(),
        labels: labels::container_labels(pod, name),
        annotations: labels::container_annotations(pod, container, inputs.attempt),
        log_path: format!("{name}/{}.log", inputs.attempt),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources::container_resources(pod, container, inputs.node_memory)),
            security_context: Some(context),
        }),
        windows: None,
        cdi_devices: Vec::new(),
    })
}
