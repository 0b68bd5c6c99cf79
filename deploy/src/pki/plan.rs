//! Which certificates a cluster needs. No I/O.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// One certificate to be issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Its path in the certificate folder, without `.crt`.
    pub file: String,
    /// The user that it names.
    pub common_name: String,
    /// The group that it names.
    pub organization: Option<String>,
    /// DNS names that it serves.
    pub dns_names: Vec<String>,
    /// Addresses that it serves.
    pub addresses: Vec<IpAddr>,
}

/// A machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name as a Node object.
    pub name: String,
    /// The addresses others reach it at.
    pub addresses: Vec<IpAddr>,
    /// Whether it runs an API server, a scheduler and a controller manager.
    pub control_plane: bool,
}

/// What the certificates' names depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster's machines.
    pub nodes: Vec<Node>,
    /// The domain of service names, as in `cluster.local`.
    pub domain: String,
    /// The address of the `kubernetes` service.
    pub kubernetes_address: IpAddr,
}

/// The daemons of a control plane that are clients of the API server.
pub const CONTROL_PLANE_CLIENTS: [&str; 2] = ["kube-scheduler", "kube-controller-manager"];
/// The daemons of every node.
pub const NODE_CLIENTS: [&str; 2] = ["kubelet", "kube-proxy"];
/// The file and user of the certificate with which an API server names a user to extension API servers.
pub const FRONT_PROXY_CLIENT: &str = "front-proxy-client";
/// The port of the API servers.
const PORT: u16 = 6443;

impl Cluster {
    /// Every certificate that this cluster needs: the administrator's, Prometheus', and one for each component on
    /// each node.
    pub fn certificates(&self) -> Vec<Spec> {
        let mut specs = vec![
            person("admin", "kubernetes-admin", "system:masters"),
            person("prometheus", "prometheus", "system:monitoring"),
        ];
        for node in &self.nodes {
            if node.control_plane {
                specs.push(self.apiserver(node));
                specs.push(component(node, "kube-scheduler", "system:kube-scheduler", None));
                specs.push(component(
                    node,
                    "kube-controller-manager",
                    "system:kube-controller-manager",
                    None,
                ));
                specs.push(Spec {
                    file: format!("{}/{FRONT_PROXY_CLIENT}", node.name),
                    common_name: FRONT_PROXY_CLIENT.into(),
                    organization: None,
                    dns_names: Vec::new(),
                    addresses: Vec::new(),
                });
            }
            specs.push(component(
                node,
                "kubelet",
                &format!("system:node:{}", node.name),
                Some("system:nodes"),
            ));
            specs.push(component(
                node,
                "kube-proxy",
                "system:kube-proxy",
                Some("system:node-proxier"),
            ));
        }
        specs
    }

    /// The URLs of the API servers, that on `node` first.
    pub fn servers(&self, node: Option<&Node>) -> Vec<String> {
        let mut control_planes: Vec<&Node> = self.nodes.iter().filter(|other| other.control_plane).collect();
        control_planes.sort_by_key(|other| node.is_none_or(|node| node.name != other.name));
        let first_addresses = control_planes.into_iter().filter_map(|other| other.addresses.first());
        first_addresses
            .map(|address| format!("https://{}", SocketAddr::new(*address, PORT)))
            .collect()
    }

    fn apiserver(&self, node: &Node) -> Spec {
        let mut spec = component(node, "kube-apiserver", "kube-apiserver", Some("keelson:apiservers"));
        for suffix in ["", ".default", ".default.svc"] {
            spec.dns_names.push(format!("kubernetes{suffix}"));
        }
        spec.dns_names.push(format!("kubernetes.default.svc.{}", self.domain));
        spec.addresses.push(self.kubernetes_address);
        spec
    }
}

/// The certificate of somebody who is only ever a client.
fn person(file: &str, user: &str, group: &str) -> Spec {
    Spec {
        file: file.to_owned(),
        common_name: user.to_owned(),
        organization: Some(group.to_owned()),
        dns_names: Vec::new(),
        addresses: Vec::new(),
    }
}

/// A component's certificate on `node`: it may serve under the node's own names.
fn component(node: &Node, component: &str, user: &str, group: Option<&str>) -> Spec {
    let mut addresses = node.addresses.clone();
    addresses.push(Ipv4Addr::LOCALHOST.into());
    Spec {
        file: format!("{}/{component}", node.name),
        common_name: user.to_owned(),
        organization: group.map(str::to_owned),
        dns_names: vec![node.name.clone(), "localhost".into()],
        addresses,
    }
}
