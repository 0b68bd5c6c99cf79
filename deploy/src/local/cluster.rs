//! The description of a local cluster and every name and path derived from it.

use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::configuration::{DOMAIN, SERVICE_CIDR};
use crate::pki;

/// Nodes' addresses start here in the cluster's network; the host is at .1.
const FIRST_NODE: u8 = 11;
/// A /24 has no room for more.
pub const MAX_NODES: u8 = 200;
/// The most members that a Raft group of API servers is meant for.
pub const MAX_CONTROL_PLANES: u8 = 5;

/// What is written down about a cluster; the rest follows from it and from the folder's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Shape {
    /// How many nodes it has.
    pub nodes: u8,
    /// How many of them, from the first, run an API server, a scheduler and a controller manager.
    pub control_planes: u8,
    /// The network of the nodes: a /24.
    pub network: Ipv4Net,
}

/// A local cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its folder, without symbolic links.
    pub dir: PathBuf,
    /// Six hexadecimal digits that tell it from other clusters of this machine.
    pub id: String,
    /// What it consists of.
    pub shape: Shape,
}

/// One node of a local cluster.
#[derive(Debug, Clone)]
pub struct Node {
    /// Counted from 1.
    pub number: u8,
    /// Its name as a Node object.
    pub name: String,
    /// Its address in the cluster's network.
    pub address: Ipv4Addr,
    /// Whether it runs the control plane's daemons.
    pub control_plane: bool,
    /// The folder that is this machine's root, as far as it has its own.
    pub root: PathBuf,
    /// Its network namespace, as in `ip netns`.
    pub namespace: String,
}

/// Six digits that follow from the folder's path alone, so that a half-made cluster can be found and taken down.
pub fn id(dir: &Path) -> String {
    let digest = Sha256::digest(dir.as_os_str().as_encoded_bytes());
    digest[..3].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Cluster {
    /// The cluster in `dir`; nothing when there is none.
    pub fn load(dir: &Path) -> Result<Option<Self>> {
        let Ok(dir) = dir.canonicalize() else { return Ok(None) };
        let path = dir.join("cluster.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("read {}", path.display())),
        };
        let shape = serde_json::from_slice(&text)
            .with_context(|| format!("{}: not a cluster's description", path.display()))?;
        Ok(Some(Self {
            id: id(&dir),
            dir,
            shape,
        }))
    }

    /// The cluster in `dir`, which must be there.
    pub fn existing(dir: &Path) -> Result<Self> {
        Self::load(dir)?.with_context(|| format!("{}: no cluster; `keelson local up` makes one", dir.display()))
    }

    /// A new cluster in `dir`, which is made if missing and must otherwise be empty. It is not written down yet.
    pub fn create(dir: &Path, nodes: u8, control_planes: u8) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let dir = dir.canonicalize().with_context(|| format!("find {}", dir.display()))?;
        let mut entries = fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))?;
        ensure!(
            entries.next().is_none(),
            "{}: not empty and holds no cluster",
            dir.display()
        );
        let shape = Shape {
            nodes,
            control_planes,
            network: Ipv4Net::default(),
        };
        Ok(Self {
            id: id(&dir),
            dir,
            shape,
        })
    }

    /// Writes the description down.
    pub fn save(&self) -> Result<()> {
        let text = serde_json::to_vec_pretty(&self.shape)?;
        Ok(pki::write_private(&self.dir.join("cluster.json"), &text)?)
    }

    /// The nodes, in order.
    pub fn nodes(&self) -> Vec<Node> {
        (1..=self.shape.nodes).map(|number| self.node(number)).collect()
    }

    /// The node called `name`, or numbered so.
    pub fn find_node(&self, name: &str) -> Result<Node> {
        let Some(node) = self
            .nodes()
            .into_iter()
            .find(|node| node.name == name || node.number.to_string() == name)
        else {
            bail!("no node {name}; this cluster has node-1 to node-{}", self.shape.nodes)
        };
        Ok(node)
    }

    fn node(&self, number: u8) -> Node {
        let [a, b, c, _] = self.shape.network.network().octets();
        let name = format!("node-{number}");
        Node {
            number,
            address: Ipv4Addr::new(a, b, c, FIRST_NODE + number - 1),
            control_plane: number <= self.shape.control_planes,
            root: self.dir.join("nodes").join(&name),
            namespace: format!("keelson-{}-{number}", self.id),
            name,
        }
    }

    /// The host's own address in the cluster's network.
    pub fn host_address(&self) -> Ipv4Addr {
        self.shape.network.hosts().next().unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    /// The bridge that joins the nodes.
    pub fn bridge(&self) -> String {
        format!("kl-{}", self.id)
    }

    /// The host's end of a node's cable.
    pub fn cable(&self, node: &Node) -> String {
        format!("kl-{}-{}", self.id, node.number)
    }

    /// The cgroup of the whole cluster, below the root of each hierarchy.
    pub fn cgroup(&self) -> String {
        format!("keelson-{}", self.id)
    }

    /// The folder of certificates.
    pub fn pki(&self) -> PathBuf {
        self.dir.join("pki")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.pki().join("admin.kubeconfig")
    }

    /// What the cluster's certificates and kubeconfigs are made from.
    pub fn credentials(&self) -> pki::Cluster {
        let node = |node: Node| pki::Node {
            name: node.name,
            addresses: vec![node.address.into()],
            control_plane: node.control_plane,
        };
        pki::Cluster {
            nodes: self.nodes().into_iter().map(node).collect(),
            domain: DOMAIN.into(),
            kubernetes_address: pki::first_address(SERVICE_CIDR.parse().unwrap_or_default()),
        }
    }
}

impl Node {
    /// A path inside the node's own root.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside)
    }

    /// containerd's socket, as it is reached from the host and from the node.
    pub fn runtime_socket(&self) -> PathBuf {
        self.path("run/containerd/containerd.sock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Cluster {
        let shape = Shape {
            nodes: 3,
            control_planes: 1,
            network: "172.30.9.0/24".parse().expect("network"),
        };
        Cluster {
            dir: "/d".into(),
            id: id(Path::new("/d")),
            shape,
        }
    }

    #[test]
    fn names_fit_an_interface_name() {
        let mut cluster = cluster();
        cluster.shape.nodes = MAX_NODES;
        for node in cluster.nodes() {
            assert!(cluster.cable(&node).len() <= 15, "{}", cluster.cable(&node));
        }
        assert_eq!(cluster.nodes()[199].address.octets()[3], 210);
    }

    #[test]
    fn derives_addresses_from_the_network() {
        let cluster = cluster();
        assert_eq!(cluster.host_address().to_string(), "172.30.9.1");
        assert_eq!(cluster.credentials().servers(None), ["https://172.30.9.11:6443"]);
        assert_eq!(cluster.find_node("2").expect("node").address.to_string(), "172.30.9.12");
        assert!(cluster.find_node("node-4").is_err());
    }

    #[test]
    fn refuses_a_folder_with_other_things_in_it() {
        let dir = tempfile::tempdir().expect("dir");
        fs::write(dir.path().join("thesis.txt"), "").expect("write");
        let error = Cluster::create(dir.path(), 1, 1).expect_err("not empty").to_string();
        assert!(error.contains("not empty"), "{error}");
    }

    #[test]
    fn reads_what_it_wrote() {
        let dir = tempfile::tempdir().expect("dir");
        let cluster = Cluster::create(dir.path(), 3, 1).expect("created");
        assert!(Cluster::load(dir.path()).expect("nothing").is_none());
        cluster.save().expect("saved");
        assert_eq!(Cluster::existing(dir.path()).expect("loaded").shape, cluster.shape);
        fs::write(dir.path().join("cluster.json"), "{}").expect("write");
        assert!(format!("{:#}", Cluster::load(dir.path()).expect_err("damaged")).contains("cluster.json"));
    }
}
