//! The suite's daemons on a node: their configuration files, kubeconfigs and command lines.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::cluster::{Cluster, Node};
use super::process::Daemon;
use crate::configuration::{self, ISSUER, POD_CIDR, SERVICE_CIDR};
use crate::host::{self, RuntimeSupport};
use crate::pki;

/// The daemons of a control plane, and the port that each serves `/readyz` on.
pub const CONTROL_PLANE: [(&str, u16); 3] = [
    ("kube-apiserver", 6443),
    ("kube-controller-manager", 10257),
    ("kube-scheduler", 10259),
];
/// The daemons of every node.
pub const NODE: [(&str, u16); 2] = [("kubelet", 10250), ("kube-proxy", 10249)];

/// The daemons that run on `node`, with the address that each answers on.
pub fn of(node: &Node) -> Vec<(&'static str, SocketAddr)> {
    let control_plane = CONTROL_PLANE.iter().filter(|_| node.control_plane);
    control_plane
        .chain(&NODE)
        .map(|(name, port)| (*name, SocketAddr::new(node.address.into(), *port)))
        .collect()
}

/// Writes the configuration of the node's own containerd and says how to start it.
pub fn prepare_runtime(node: &Node, support: &RuntimeSupport) -> Result<Daemon> {
    let path = node.path("etc/containerd.toml");
    let text = configuration::containerd(&configuration::Runtime {
        root: &node.path("var/lib/containerd"),
        networks: &node.path("etc/cni/net.d"),
        host: support,
    });
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    let program = host::find_program("containerd").context("no containerd; install the package containerd")?;
    Ok(Daemon {
        name: "containerd",
        program,
        arguments: vec!["--config".into(), path.into()],
    })
}

/// Writes what the daemon `name` reads and says how to start it.
pub fn prepare(cluster: &Cluster, node: &Node, name: &'static str) -> Result<Daemon> {
    let files = Files { cluster, node, name };
    let mut arguments = match name {
        "kube-apiserver" => files.apiserver(),
        "kube-controller-manager" => files.controller_manager()?,
        "kube-scheduler" => files.scheduler()?,
        "kubelet" => files.kubelet()?,
        _ => files.proxy()?,
    };
    arguments.push("--v=2".into());
    Ok(Daemon {
        name,
        program: host::own_program(name)?,
        arguments,
    })
}

struct Files<'a> {
    cluster: &'a Cluster,
    node: &'a Node,
    name: &'static str,
}

impl Files<'_> {
    /// A file of the machine's own folder of certificates.
    fn pki(&self, file: &str) -> PathBuf {
        self.cluster.pki().join(&self.node.name).join(file)
    }

    /// The daemon's own file there.
    fn own(&self, extension: &str) -> PathBuf {
        self.pki(&format!("{}.{extension}", self.name))
    }

    fn serving(&self) -> Vec<OsString> {
        vec![
            flag("tls-cert-file", self.own("crt")),
            flag("tls-private-key-file", self.own("key")),
            flag("client-ca-file", self.pki("ca.crt")),
        ]
    }

    fn kubeconfig(&self) -> OsString {
        flag("kubeconfig", self.own("kubeconfig"))
    }

    fn write(&self, extension: &str, content: &Value) -> Result<PathBuf> {
        let path = self.node.path("etc").join(format!("{}.{extension}", self.name));
        pki::write_private(&path, &serde_json::to_vec_pretty(content)?)?;
        Ok(path)
    }

    fn data(&self) -> Result<PathBuf> {
        let path = self.node.path("var/lib").join(self.name);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(path)
    }

    fn apiserver(&self) -> Vec<OsString> {
        let members: Vec<String> = self
            .cluster
            .nodes()
            .iter()
            .filter(|node| node.control_plane)
            .map(|node| format!("{}={}@{}:6443", node.number, node.name, node.address))
            .collect();
        let mut arguments = self.serving();
        arguments.extend([
            flag("bind-address", "0.0.0.0"),
            flag("secure-port", "6443"),
            flag("advertise-address", self.node.address.to_string()),
            flag("kubelet-client-certificate", self.own("crt")),
            flag("kubelet-client-key", self.own("key")),
            flag("proxy-client-cert-file", self.pki("front-proxy-client.crt")),
            flag("proxy-client-key-file", self.pki("front-proxy-client.key")),
            flag("requestheader-client-ca-file", self.pki("front-proxy-ca.crt")),
            flag("requestheader-allowed-names", "front-proxy-client"),
            flag("service-cluster-ip-range", SERVICE_CIDR),
            flag("service-account-issuer", ISSUER),
            flag("service-account-key-file", self.pki("sa.pub")),
            flag("service-account-signing-key-file", self.pki("sa.key")),
            flag("data-dir", self.node.path("var/lib/kube-apiserver")),
            flag("raft-id", self.node.number.to_string()),
            flag("raft-name", &self.node.name),
            flag("raft-members", members.join(",")),
        ]);
        arguments
    }

    fn controller_manager(&self) -> Result<Vec<OsString>> {
        let mut arguments = self.serving();
        arguments.extend([
            self.kubeconfig(),
            flag("cluster-cidr", POD_CIDR),
            flag("allocate-node-cidrs", "true"),
            flag("service-cluster-ip-range", SERVICE_CIDR),
            flag("root-ca-file", self.pki("ca.crt")),
            flag("cluster-signing-cert-file", self.cluster.pki().join("ca.crt")),
            flag("cluster-signing-key-file", self.cluster.pki().join("ca.key")),
        ]);
        Ok(arguments)
    }

    fn scheduler(&self) -> Result<Vec<OsString>> {
        let mut arguments = self.serving();
        arguments.push(self.kubeconfig());
        Ok(arguments)
    }

    fn kubelet(&self) -> Result<Vec<OsString>> {
        let mut configuration = configuration::kubelet(&self.pki(""));
        // What several nodes of one machine cannot share.
        configuration["cgroupRoot"] = json!(format!("/{}/{}", self.cluster.cgroup(), self.node.name));
        // Its disk is often nearly full, which is no reason to run no pods; what is left for the system is.
        configuration["evictionHard"] =
            json!({ "memory.available": "100Mi", "nodefs.available": "1Gi", "imagefs.available": "1Gi" });
        configuration["imageGCHighThresholdPercent"] = json!(100);
        configuration["podLogsDir"] = json!(self.node.path("var/log/pods"));
        Ok(vec![
            self.kubeconfig(),
            flag("config", self.write("yaml", &configuration)?),
            flag("hostname-override", &self.node.name),
            flag("node-ip", self.node.address.to_string()),
            flag("root-dir", self.data()?),
        ])
    }

    fn proxy(&self) -> Result<Vec<OsString>> {
        let configuration = configuration::proxy(&self.node.path("etc/cni/net.d"));
        let mut arguments = self.serving();
        arguments.extend([
            self.kubeconfig(),
            flag("config", self.write("yaml", &configuration)?),
            flag("hostname-override", &self.node.name),
        ]);
        Ok(arguments)
    }
}

fn flag(name: &str, value: impl Into<OsString>) -> OsString {
    let mut argument = OsString::from(format!("--{name}="));
    argument.push(value.into());
    argument
}
