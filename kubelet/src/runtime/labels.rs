//! Labels and annotations that upstream's kubelet puts on sandboxes and containers. They are how a restarted kubelet finds its own.

use api::core::v1::{Container, Pod};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};

/// Pod's name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Pod's uid.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Container's name.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Hash of the container's definition.
pub const HASH: &str = "io.kubernetes.container.hash";
/// How often the container was started anew.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Path of the termination message inside the container.
pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// `File` or `FallbackToLogsOnError`.
pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
const PORTS: &str = "io.kubernetes.container.ports";
const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
/// The pod's `terminationGracePeriodSeconds`.
pub const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
const CONFIG_SOURCE: &str = "kubernetes.io/config.source";

/// Labels that name the pod.
pub fn pod_identity(pod: &Pod) -> HashMap<String, String> {
    let meta = &pod.metadata;
    [
        (POD_NAME, meta.name.as_deref()),
        (POD_NAMESPACE, meta.namespace.as_deref()),
        (POD_UID, meta.uid.as_deref()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.unwrap_or_default().to_owned()))
    .collect()
}

/// Labels of a sandbox: the pod's own and those that name it.
pub fn sandbox_labels(pod: &Pod) -> HashMap<String, String> {
    let mut labels = own(pod.metadata.labels.as_ref());
    labels.extend(pod_identity(pod));
    labels
}

/// Annotations of a sandbox: the pod's own and where it came from.
pub fn sandbox_annotations(pod: &Pod) -> HashMap<String, String> {
    let mut annotations = own(pod.metadata.annotations.as_ref());
    annotations.insert(CONFIG_SOURCE.into(), "api".into());
    annotations
}

/// Labels of a container.
pub fn container_labels(pod: &Pod, container: &str) -> HashMap<String, String> {
    let mut labels = pod_identity(pod);
    labels.insert(CONTAINER_NAME.into(), container.to_owned());
    labels
}

/// Annotations of a container.
pub fn container_annotations(pod: &Pod, container: &Container, attempt: u32) -> HashMap<String, String> {
    let mut annotations = HashMap::new();
    annotations.insert(HASH.to_owned(), format!("{:x}", hash(container)));
    annotations.insert(RESTART_COUNT.to_owned(), attempt.to_string());
    annotations.insert(TERMINATION_PATH.to_owned(), termination_path(container).to_owned());
    let policy = container.termination_message_policy.as_deref().unwrap_or("File");
    annotations.insert(TERMINATION_POLICY.to_owned(), policy.to_owned());
    if let Some(grace) = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds) {
        annotations.insert(GRACE.to_owned(), grace.to_string());
    }
    let hook = container
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    if let Some(text) = hook.and_then(|hook| serde_json::to_string(hook).ok()) {
        annotations.insert(PRE_STOP.to_owned(), text);
    }
    if let Some(text) = container
        .ports
        .as_ref()
        .and_then(|ports| serde_json::to_string(ports).ok())
    {
        annotations.insert(PORTS.to_owned(), text);
    }
    annotations
}

/// Where the container leaves its termination message.
pub fn termination_path(container: &Container) -> &str {
    container
        .termination_message_path
        .as_deref()
        .unwrap_or("/dev/termination-log")
}

/// Hash of what cannot change without a new container: its name and image, as upstream counts it since 1.31 (resources may be
/// changed in place, and everything else is immutable in a pod).
pub fn hash(container: &Container) -> u64 {
    let mut digest = Sha256::new();
    digest.update(container.name.as_bytes());
    digest.update([0]);
    digest.update(container.image.as_deref().unwrap_or_default().as_bytes());
    let bytes = digest.finalize();
    bytes.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn own(map: Option<&BTreeMap<String, String>>) -> HashMap<String, String> {
    map.into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
