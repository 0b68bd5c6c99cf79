//! The cluster as the scheduler knows it: nodes, the pods on them, and the pods that are about to be there.
//!
//! It is changed event by event and borrowed by scheduling cycles; nothing copies it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::core::v1::Node;
use api::{Object, ObjectKey};

use crate::model::{NodeInfo, PodInfo};

/// Nodes and placed pods.
#[derive(Debug, Default)]
pub struct Cluster {
    nodes: Vec<NodeInfo>,
    index: HashMap<String, usize>,
    /// Where each placed pod is; pods of nodes that we have not seen yet wait in `homeless`.
    placed: HashMap<ObjectKey, String>,
    homeless: HashMap<ObjectKey, (String, Arc<PodInfo>)>,
    /// How many nodes have an image.
    image_nodes: HashMap<String, usize>,
    namespaces: HashMap<String, BTreeMap<String, String>>,
}

impl Cluster {
    /// All nodes, in a stable order.
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    /// A node by name.
    #[cfg(test)]
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.index.get(name).map(|at| &self.nodes[*at])
    }

    /// How many nodes have an image.
    pub fn nodes_with_image(&self, image: &str) -> usize {
        self.image_nodes.get(image).copied().unwrap_or(0)
    }

    /// The labels of a namespace; none for one that we have not seen.
    pub fn namespace_labels(&self, name: &str) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.namespaces.get(name).unwrap_or(&NONE)
    }

    /// Takes a namespace's labels, or forgets them.
    pub fn set_namespace(&mut self, name: &str, labels: Option<BTreeMap<String, String>>) {
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels),
            None => self.namespaces.remove(name),
        };
    }

    /// The node that a pod is placed on, assumed or bound.
    pub fn node_of(&self, pod: &ObjectKey) -> Option<&str> {
        self.placed.get(pod).map(String::as_str)
    }

    /// Takes a node's state, new or changed.
    pub fn put_node(&mut self, node: Arc<Node>) {
        let name = node.name().to_owned();
        match self.index.get(&name) {
            Some(&at) => {
                self.count_images(at, false);
                self.nodes[at].set_node(node);
                self.count_images(at, true);
            }
            None => {
                let mut info = NodeInfo::new(node);
                let waiting: Vec<ObjectKey> = self
                    .homeless
                    .iter()
                    .filter(|(_, (home, _))| *home == name)
                    .map(|(key, _)| key.clone())
                    .collect();
                for (_, pod) in waiting.iter().filter_map(|key| self.homeless.remove(key)) {
                    info.add_pod(pod);
                }
                self.index.insert(name, self.nodes.len());
                self.nodes.push(info);
                self.count_images(self.nodes.len() - 1, true);
            }
        }
    }

    /// Forgets a node. Its pods are remembered until they are deleted.
    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.index.remove(name) else { return };
        self.count_images(at, false);
        let gone = self.nodes.swap_remove(at);
        if let Some(moved) = self.nodes.get(at) {
            self.index.insert(moved.name().to_owned(), at);
        }
        for pod in gone.pods {
            self.homeless.insert(pod.key.clone(), (name.to_owned(), pod));
        }
    }

    fn count_images(&mut self, at: usize, present: bool) {
        for image in self.nodes[at].images.keys() {
            let count = self.image_nodes.entry(image.clone()).or_default();
            *count = if present { *count + 1 } else { count.saturating_sub(1) };
        }
        if !present {
            self.image_nodes.retain(|_, count| *count > 0);
        }
    }

    /// Places a pod: one that is bound, or one that is assumed to be in a moment.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove_pod(&pod.key);
        self.placed.insert(pod.key.clone(), node.to_owned());
        match self.index.get(node) {
            Some(&at) => self.nodes[at].add_pod(pod),
            None => {
                self.homeless.insert(pod.key.clone(), (node.to_owned(), pod));
            }
        }
    }

    /// Takes a pod away; answers whether it was placed.
    pub fn remove_pod(&mut self, key: &ObjectKey) -> bool {
        let Some(node) = self.placed.remove(key) else {
            return false;
        };
        let here = self.index.get(&node).is_some_and(|&at| self.nodes[at].remove_pod(key));
        here || self.homeless.remove(key).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};

    #[test]
    fn sums_follow_pods_that_come_move_and_go() {
        let mut cluster = Cluster::default();
        cluster.put_node(node("a").cpu("4").build());
        let web = pod("web").cpu("500m").info();
        cluster.place(web.clone(), "a");
        cluster.place(web.clone(), "a");
        assert_eq!(
            cluster.node("a").unwrap().requested.milli_cpu,
            500,
            "placing twice counts once"
        );
        cluster.put_node(node("a").cpu("8").build());
        assert_eq!(
            cluster.node("a").unwrap().requested.milli_cpu,
            500,
            "a node's update keeps its pods"
        );
        assert!(cluster.remove_pod(&web.key));
        assert!(!cluster.remove_pod(&web.key));
        assert_eq!(cluster.node("a").unwrap().requested, crate::model::Resources::default());
    }

    #[test]
    fn pods_wait_for_their_node() {
        let mut cluster = Cluster::default();
        let web = pod("web").cpu("1").info();
        cluster.place(web.clone(), "late");
        cluster.put_node(node("late").cpu("4").build());
        assert_eq!(cluster.node("late").unwrap().requested.milli_cpu, 1000);
        cluster.remove_node("late");
        assert_eq!(cluster.node_of(&web.key), Some("late"));
        cluster.put_node(node("late").cpu("4").build());
        assert_eq!(cluster.node("late").unwrap().pods.len(), 1);
    }

    #[test]
    fn removing_a_node_keeps_the_others_findable() {
        let mut cluster = Cluster::default();
        for name in ["a", "b", "c"] {
            cluster.put_node(node(name).image("web:1", 10).build());
        }
        cluster.remove_node("a");
        assert_eq!(cluster.node("c").map(NodeInfo::name), Some("c"));
        assert_eq!(cluster.nodes_with_image("web:1"), 2);
        cluster.remove_node("b");
        cluster.remove_node("c");
        assert_eq!(cluster.nodes_with_image("web:1"), 0);
    }
}
