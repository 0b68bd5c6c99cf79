//! Builders of pods and nodes for table tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::core::v1::{Container, ContainerImage, Node, NodeSpec, NodeStatus, Pod, PodSpec, Taint};
use api::meta::{ObjectMeta, OwnerReference, Quantity};

use crate::model::PodInfo;

/// A node under construction.
pub(crate) struct NodeBuilder(Node);

/// A node with room for 110 pods.
pub(crate) fn node(name: &str) -> NodeBuilder {
    let labels = BTreeMap::from([("kubernetes.io/hostname".to_owned(), name.to_owned())]);
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(labels),
        ..ObjectMeta::default()
    };
    let builder = NodeBuilder(Node {
        metadata,
        spec: Some(NodeSpec::default()),
        status: Some(NodeStatus::default()),
    });
    builder.pods("110")
}

impl NodeBuilder {
    fn allocatable(mut self, name: &str, amount: &str) -> Self {
        let list = self
            .0
            .status
            .get_or_insert_default()
            .allocatable
            .get_or_insert_default();
        list.insert(name.to_owned(), Quantity(amount.to_owned()));
        self
    }

    pub(crate) fn cpu(self, amount: &str) -> Self {
        self.allocatable("cpu", amount)
    }

    pub(crate) fn memory(self, amount: &str) -> Self {
        self.allocatable("memory", amount)
    }

    pub(crate) fn pods(self, amount: &str) -> Self {
        self.allocatable("pods", amount)
    }

    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.0
            .metadata
            .labels
            .get_or_insert_default()
            .insert(key.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn taint(mut self, key: &str, value: &str, effect: &str) -> Self {
        let taint = Taint {
            key: key.to_owned(),
            value: Some(value.to_owned()),
            effect: effect.to_owned(),
            time_added: None,
        };
        self.0
            .spec
            .get_or_insert_default()
            .taints
            .get_or_insert_default()
            .push(taint);
        self
    }

    pub(crate) fn image(mut self, name: &str, size: i64) -> Self {
        let image = ContainerImage {
            names: Some(vec![name.to_owned()]),
            size_bytes: Some(size),
        };
        self.0
            .status
            .get_or_insert_default()
            .images
            .get_or_insert_default()
            .push(image);
        self
    }

    pub(crate) fn build(self) -> Arc<Node> {
        Arc::new(self.0)
    }
}

/// A pod under construction.
pub(crate) struct PodBuilder(Pod);

/// A pod with one container in the namespace `default`.
pub(crate) fn pod(name: &str) -> PodBuilder {
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("default".to_owned()),
        uid: Some(format!("uid-{name}")),
        ..ObjectMeta::default()
    };
    let spec = PodSpec {
        containers: vec![Container::default()],
        ..PodSpec::default()
    };
    PodBuilder(Pod {
        metadata,
        spec: Some(spec),
        status: None,
    })
}

impl PodBuilder {
    /// Changes the spec.
    pub(crate) fn spec(mut self, change: impl FnOnce(&mut PodSpec)) -> Self {
        change(self.0.spec.get_or_insert_default());
        self
    }

    pub(crate) fn request(self, name: &str, amount: &str) -> Self {
        let (name, amount) = (name.to_owned(), Quantity(amount.to_owned()));
        self.spec(|spec| {
            let requests = &mut spec.containers[0].resources.get_or_insert_default().requests;
            requests.get_or_insert_default().insert(name, amount);
        })
    }

    pub(crate) fn cpu(self, amount: &str) -> Self {
        self.request("cpu", amount)
    }

    pub(crate) fn memory(self, amount: &str) -> Self {
        self.request("memory", amount)
    }

    pub(crate) fn image(self, name: &str) -> Self {
        self.spec(|spec| spec.containers[0].image = Some(name.to_owned()))
    }

    pub(crate) fn node_selector(self, key: &str, value: &str) -> Self {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.spec(|spec| {
            spec.node_selector.get_or_insert_default().insert(key, value);
        })
    }

    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.0
            .metadata
            .labels
            .get_or_insert_default()
            .insert(key.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn owner(mut self, uid: &str) -> Self {
        let owner = OwnerReference {
            uid: uid.to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        };
        self.0.metadata.owner_references = Some(vec![owner]);
        self
    }

    pub(crate) fn priority(self, priority: i32) -> Self {
        self.spec(|spec| spec.priority = Some(priority))
    }

    pub(crate) fn build(self) -> Arc<Pod> {
        Arc::new(self.0)
    }

    pub(crate) fn info(self) -> Arc<PodInfo> {
        Arc::new(PodInfo::new(self.build()))
    }
}
