//! What every cluster of this tool has in common: its networks, and the configuration files of the node's daemons.

use std::path::Path;

use serde_json::{Value, json};

use crate::host::RuntimeSupport;

/// The network that service addresses come from.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The network that pod addresses come from.
pub const POD_CIDR: &str = "10.244.0.0/16";
/// Where kube-proxy answers DNS.
pub const DNS_ADDRESS: &str = "10.96.0.10";
/// The domain of service names.
pub const DOMAIN: &str = "cluster.local";
/// The issuer of service-account tokens.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// The image of every pod's first container. It comes out of the kubelet: nothing is pulled.
pub const PAUSE_IMAGE: &str = "keelson.dev/pause:1";
/// containerd's socket, as the kubelet sees it.
pub const RUNTIME_ENDPOINT: &str = "unix:///run/containerd/containerd.sock";

/// A KubeletConfiguration for a machine whose credentials lie in `pki`.
pub fn kubelet(pki: &Path) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": { "x509": { "clientCAFile": pki.join("ca.crt") } },
        "tlsCertFile": pki.join("kubelet.crt"),
        "tlsPrivateKeyFile": pki.join("kubelet.key"),
        "containerRuntimeEndpoint": RUNTIME_ENDPOINT,
        "cgroupDriver": "cgroupfs",
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": DOMAIN,
    })
}

/// A KubeProxyConfiguration for a machine whose containerd reads its networks from `networks`.
pub fn proxy(networks: &Path) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clusterCIDR": POD_CIDR,
        "mode": "nftables",
        "nodeNetwork": { "cniConfDir": networks, "dnsAddresses": [DNS_ADDRESS], "clusterDomain": DOMAIN },
    })
}

/// The settings of a containerd.
pub struct Runtime<'a> {
    /// The folder of images and containers.
    pub root: &'a Path,
    /// The folder in which it looks for the pods' network.
    pub networks: &'a Path,
    /// What the machine can do.
    pub host: &'a RuntimeSupport,
}

/// Plugins that a node has no use for, and that take time to find that out.
const DISABLED_PLUGINS: [&str; 5] = [
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.internal.v1.opt",
];

/// containerd's configuration, in the version that 1.6 to 2.x read.
pub fn containerd(runtime: &Runtime<'_>) -> String {
    let path = |path: &Path| quote(&path.display().to_string());
    let disabled: Vec<String> = DISABLED_PLUGINS.iter().map(|plugin| quote(plugin)).collect();
    format!(
        r#"version = 2
root = {root}
state = "/run/containerd"
disabled_plugins = [{disabled}]

[grpc]
  address = "/run/containerd/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = {pause}
  restrict_oom_score_adj = {restrict}

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = {plugins}
    conf_dir = {networks}

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = {snapshotter}

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#,
        root = path(runtime.root),
        disabled = disabled.join(", "),
        pause = quote(PAUSE_IMAGE),
        restrict = runtime.host.restrict_oom_score,
        plugins = path(&runtime.host.plugins),
        networks = path(runtime.networks),
        snapshotter = quote(runtime.host.snapshotter),
    )
}

/// A TOML string.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerd_keeps_to_its_folders() {
        let text = containerd(&Runtime {
            root: Path::new("/with \"quote/containerd"),
            networks: Path::new("/n/cni"),
            host: &RuntimeSupport {
                plugins: "/opt/cni/bin".into(),
                snapshotter: "native",
                restrict_oom_score: true,
            },
        });
        for line in [
            r#"root = "/with \"quote/containerd""#,
            r#"conf_dir = "/n/cni""#,
            r#"bin_dir = "/opt/cni/bin""#,
            r#"sandbox_image = "keelson.dev/pause:1""#,
            r#"snapshotter = "native""#,
            "restrict_oom_score_adj = true",
            "SystemdCgroup = false",
        ] {
            assert!(text.lines().any(|l| l.trim() == line), "{line} is missing in\n{text}");
        }
    }
}
