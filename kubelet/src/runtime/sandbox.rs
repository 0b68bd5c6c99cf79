//! The sandbox's configuration from a pod.

use super::labels;
use super::resources::{cpu_period, cpu_quota, cpu_shares, pod_totals};
use super::security;
use api::core::v1::Pod;
use proto::cri;
use std::path::{Path, PathBuf};

/// What a sandbox needs besides the pod.
pub struct SandboxInputs<'a> {
    /// How many sandboxes the pod had.
    pub attempt: u32,
    /// The pod's host name inside.
    pub hostname: &'a str,
    /// Contents of its resolv.conf; none leaves the runtime's.
    pub dns: Option<cri::DnsConfig>,
    /// Where logs of all pods go.
    pub log_root: &'a Path,
    /// The pod's cgroup in the form that the runtime takes.
    pub cgroup_parent: String,
}

/// Upstream's way to name a pod in messages: `name_namespace(uid)`.
pub fn pod_text(pod: &Pod) -> String {
    let meta = &pod.metadata;
    format!(
        "{}_{}({})",
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default()
    )
}

/// Folder of a pod's logs: `<root>/<namespace>_<name>_<uid>`.
pub fn log_folder(root: &Path, namespace: &str, name: &str, uid: &str) -> PathBuf {
    root.join(format!("{namespace}_{name}_{uid}"))
}

/// The sandbox's CRI configuration.
pub fn config(pod: &Pod, inputs: &SandboxInputs<'_>) -> cri::PodSandboxConfig {
    let meta = &pod.metadata;
    let (name, namespace, uid) = (
        meta.name.clone().unwrap_or_default(),
        meta.namespace.clone().unwrap_or_default(),
        meta.uid.clone().unwrap_or_default(),
    );
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|spec| spec.host_network) == Some(true);
    let sysctls = spec
        .and_then(|spec| spec.security_context.as_ref()?.sysctls.as_ref())
        .into_iter()
        .flatten()
        .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
        .collect();
    let totals = pod_totals(pod);
    let resources = cri::LinuxContainerResources {
        cpu_period: cpu_period(),
        cpu_shares: cpu_shares(totals.cpu_milli),
        cpu_quota: totals.cpu_limit_milli.and_then(cpu_quota).unwrap_or(0),
        memory_limit_in_bytes: totals.memory_limit.unwrap_or(0),
        ..Default::default()
    };
    cri::PodSandboxConfig {
        log_directory: log_folder(inputs.log_root, &namespace, &name, &uid)
            .to_string_lossy()
            .into_owned(),
        metadata: Some(cri::PodSandboxMetadata {
            name,
            uid,
            namespace,
            attempt: inputs.attempt,
        }),
        hostname: if host_network {
            String::new()
        } else {
            inputs.hostname.to_owned()
        },
        dns_config: inputs.dns.clone(),
        port_mappings: if host_network { Vec::new() } else { port_mappings(pod) },
        labels: labels::sandbox_labels(pod),
        annotations: labels::sandbox_annotations(pod),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: inputs.cgroup_parent.clone(),
            security_context: Some(security::sandbox(pod)),
            sysctls,
            resources: Some(resources),
            ..Default::default()
        }),
        windows: None,
    }
}

fn port_mappings(pod: &Pod) -> Vec<cri::PortMapping> {
    let containers = super::resources::all_containers(pod);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let host_port = port.host_port.filter(|port| *port > 0)?;
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => cri::Protocol::Udp,
                Some("SCTP") => cri::Protocol::Sctp,
                _ => cri::Protocol::Tcp,
            };
            Some(cri::PortMapping {
                protocol: protocol as i32,
                container_port: port.container_port,
                host_port,
                host_ip: port.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}
