//! Each node's own containerd: its configuration and its images.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::net::UnixStream;
use tokio::process::Command;

use super::cluster::Node;
use super::host;
use super::process::Daemon;

/// The image of every pod's first container. It comes out of the kubelet: nothing is pulled.
pub const PAUSE_IMAGE: &str = "keelson.dev/pause:1";
/// Plugins that a node has no use for, and that take time to find that out.
const DISABLED_PLUGINS: [&str; 5] = [
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.internal.v1.opt",
];

/// What the configuration depends on beside the node.
pub struct Settings {
    /// How images' layers are mounted: `overlayfs`, or `native` copies where the file system cannot.
    pub snapshotter: &'static str,
    /// Set where a process may not lower its OOM score.
    pub restrict_oom_score: bool,
    /// The folder of CNI plugins.
    pub plugins: String,
}

impl Settings {
    /// Those for this machine and a cluster in `dir`.
    pub fn detect(dir: &Path) -> Result<Self> {
        let plugins = host::cni_plugins().context("no CNI plugins; install the package containernetworking-plugins")?;
        Ok(Self {
            snapshotter: if host::supports_overlay(dir)? {
                "overlayfs"
            } else {
                "native"
            },
            restrict_oom_score: !host::may_lower_oom_score(),
            plugins: plugins.display().to_string(),
        })
    }
}

/// The configuration, in the version that containerd 1.6 to 2.x read.
fn configuration(node: &Node, settings: &Settings) -> String {
    let path = |inside: &str| quote(&node.path(inside).display().to_string());
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
        root = path("var/lib/containerd"),
        disabled = disabled.join(", "),
        pause = quote(PAUSE_IMAGE),
        restrict = settings.restrict_oom_score,
        plugins = quote(&settings.plugins),
        networks = path("etc/cni/net.d"),
        snapshotter = quote(settings.snapshotter),
    )
}

/// A TOML string.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Writes the node's configuration and says how to start its containerd.
pub fn prepare(node: &Node, settings: &Settings) -> Result<Daemon> {
    let path = node.path("etc/containerd.toml");
    fs::write(&path, configuration(node, settings)).with_context(|| format!("write {}", path.display()))?;
    let program = host::find_program("containerd").context("no containerd; install the package containerd")?;
    Ok(Daemon {
        name: "containerd",
        program,
        arguments: vec!["--config".into(), path.into()],
    })
}

/// Waits until the node's containerd answers. It does not watch whether it runs.
pub async fn wait_until_it_serves(node: &Node) {
    while UnixStream::connect(node.runtime_socket()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Imports an image archive.
pub async fn import(node: &Node, archive: &Path, snapshotter: &str) -> Result<()> {
    let output = Command::new("ctr")
        .arg("--address")
        .arg(node.runtime_socket())
        .args([
            "--namespace",
            "k8s.io",
            "images",
            "import",
            "--snapshotter",
            snapshotter,
        ])
        .arg(archive)
        .output()
        .await
        .context("start ctr; install the package containerd")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{}: import {}: {}",
        node.name,
        archive.display(),
        complaint.trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::cluster::{Cluster, Shape};
    use super::*;

    #[test]
    fn the_configuration_keeps_to_the_nodes_folders() {
        let shape = Shape {
            nodes: 1,
            control_planes: 1,
            network: "172.30.9.0/24".parse().expect("network"),
        };
        let node = Cluster {
            dir: "/with \"quote".into(),
            id: "abcdef".into(),
            shape,
        }
        .nodes()
        .remove(0);
        let text = configuration(
            &node,
            &Settings {
                snapshotter: "native",
                restrict_oom_score: true,
                plugins: "/opt/cni/bin".into(),
            },
        );
        for line in [
            r#"root = "/with \"quote/nodes/node-1/var/lib/containerd""#,
            r#"conf_dir = "/with \"quote/nodes/node-1/etc/cni/net.d""#,
            r#"sandbox_image = "keelson.dev/pause:1""#,
            r#"snapshotter = "native""#,
            "restrict_oom_score_adj = true",
            "SystemdCgroup = false",
        ] {
            assert!(text.lines().any(|l| l.trim() == line), "{line} is missing in\n{text}");
        }
    }
}
