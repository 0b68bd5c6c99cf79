//! The Node authorizer: what a kubelet may do follows from the pods on its node. Owns the graph of what those pods refer to; `feed` keeps
//! it up to date. Source: `plugin/pkg/auth/authorizer/node`.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use parking_lot::RwLock;
use serde_json::Value;

use super::bootstrap;
use super::rbac::action;
use super::rules::Rule;
use crate::kinds::field::{list, text};
use crate::registry::access::{Attributes, Authorizer, Decision, UserInfo};

/// An object that pods refer to: resource, namespace, name.
type Object = (&'static str, String, String);

/// Which node holds which pod, and what each pod refers to.
#[derive(Debug, Default)]
pub struct Graph {
    /// By pod key (`namespace/name`): its node and what it refers to.
    pods: HashMap<String, (String, BTreeSet<Object>)>,
    /// How many pods of a node refer to an object.
    counts: HashMap<String, HashMap<Object, usize>>,
    /// The volume that a claim is bound to.
    volumes: HashMap<(String, String), String>,
    /// The Secrets that a volume needs, by namespace and name.
    secrets: HashMap<String, BTreeSet<(String, String)>>,
    /// The node of a VolumeAttachment.
    attachments: HashMap<String, String>,
}

impl Graph {
    /// Takes in a pod or its removal.
    pub fn pod(&mut self, namespace: &str, name: &str, pod: Option<&Value>) {
        let key = format!("{namespace}/{name}");
        if let Some((node, objects)) = self.pods.remove(&key) {
            self.release(&node, &objects);
        }
        let Some(pod) = pod else { return };
        let node = text(pod, "/spec/nodeName").to_owned();
        if node.is_empty() {
            return;
        }
        let objects = references(namespace, name, pod);
        let counts = self.counts.entry(node.clone()).or_default();
        for object in &objects {
            *counts.entry(object.clone()).or_default() += 1;
        }
        self.pods.insert(key, (node, objects));
    }

    fn release(&mut self, node: &str, objects: &BTreeSet<Object>) {
        let Some(counts) = self.counts.get_mut(node) else {
            return;
        };
        for object in objects {
            if let Some(count) = counts.get_mut(object) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(object);
                }
            }
        }
        if counts.is_empty() {
            self.counts.remove(node);
        }
    }

    /// Takes in a PersistentVolumeClaim or its removal.
    pub fn claim(&mut self, namespace: &str, name: &str, claim: Option<&Value>) {
        let key = (namespace.to_owned(), name.to_owned());
        match claim.map(|c| text(c, "/spec/volumeName")).filter(|v| !v.is_empty()) {
            Some(volume) => self.volumes.insert(key, volume.to_owned()),
            None => self.volumes.remove(&key),
        };
    }

    /// Takes in a PersistentVolume or its removal.
    pub fn volume(&mut self, name: &str, volume: Option<&Value>) {
        let secrets = volume.map(secrets_of).unwrap_or_default();
        match secrets.is_empty() {
            true => self.secrets.remove(name),
            false => self.secrets.insert(name.to_owned(), secrets),
        };
    }

    /// Takes in a VolumeAttachment or its removal.
    pub fn attachment(&mut self, name: &str, attachment: Option<&Value>) {
        match attachment.map(|a| text(a, "/spec/nodeName")).filter(|n| !n.is_empty()) {
            Some(node) => self.attachments.insert(name.to_owned(), node.to_owned()),
            None => self.attachments.remove(name),
        };
    }

    /// The volumes that pods of the node claim.
    fn volumes_of<'a>(&'a self, counts: &'a HashMap<Object, usize>) -> impl Iterator<Item = &'a String> {
        let claims = counts.keys().filter(|(r, _, _)| *r == "persistentvolumeclaims");
        claims.filter_map(|(_, namespace, claim)| self.volumes.get(&(namespace.clone(), claim.clone())))
    }

    /// Whether a pod of the node refers to the object.
    pub fn reaches(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
        if resource == "volumeattachments" {
            return self.attachments.get(name).is_some_and(|n| n == node);
        }
        let Some(counts) = self.counts.get(node) else {
            return false;
        };
        if resource == "persistentvolumes" {
            return self.volumes_of(counts).any(|volume| volume == name);
        }
        let direct = |(r, ns, n): &Object| *r == resource && ns == namespace && n == name;
        let through_volume = |volume: &String| {
            let secrets = self.secrets.get(volume);
            secrets.is_some_and(|s| s.contains(&(namespace.to_owned(), name.to_owned())))
        };
        counts.keys().any(direct) || resource == "secrets" && self.volumes_of(counts).any(through_volume)
    }
}

/// The Secrets that a volume names. A reference without a namespace is to the claim's.
fn secrets_of(volume: &Value) -> BTreeSet<(String, String)> {
    let claimant = text(volume, "/spec/claimRef/namespace");
    let mut out = BTreeSet::new();
    for (source, name) in [
        ("azureFile", "secretName"),
        ("cephfs/secretRef", "name"),
        ("rbd/secretRef", "name"),
        ("iscsi/secretRef", "name"),
        ("flexVolume/secretRef", "name"),
        ("scaleIO/secretRef", "name"),
        ("storageos/secretRef", "name"),
        ("csi/nodePublishSecretRef", "name"),
        ("csi/nodeStageSecretRef", "name"),
        ("csi/nodeExpandSecretRef", "name"),
    ] {
        let Some(reference) = volume.pointer(&format!("/spec/{source}")) else {
            continue;
        };
        let own = text(
            reference,
            if source == "azureFile" {
                "/secretNamespace"
            } else {
                "/namespace"
            },
        );
        let namespace = if own.is_empty() { claimant } else { own };
        let name = text(reference, &format!("/{name}"));
        if !name.is_empty() {
            out.insert((namespace.to_owned(), name.to_owned()));
        }
    }
    out
}

/// Secrets, ConfigMaps, claims and the service account that a pod names.
fn references(namespace: &str, name: &str, pod: &Value) -> BTreeSet<Object> {
    let spec = &pod["spec"];
    let mut out = BTreeSet::new();
    let mut add = |resource: &'static str, name: &str| {
        if !name.is_empty() {
            out.insert((resource, namespace.to_owned(), name.to_owned()));
        }
    };
    add("serviceaccounts", text(spec, "/serviceAccountName"));
    for secret in list(spec, "/imagePullSecrets") {
        add("secrets", text(secret, "/name"));
    }
    for container in ["/initContainers", "/containers", "/ephemeralContainers"]
        .into_iter()
        .flat_map(|l| list(spec, l))
    {
        for source in list(container, "/envFrom") {
            add("configmaps", text(source, "/configMapRef/name"));
            add("secrets", text(source, "/secretRef/name"));
        }
        for env in list(container, "/env") {
            add("configmaps", text(env, "/valueFrom/configMapKeyRef/name"));
            add("secrets", text(env, "/valueFrom/secretKeyRef/name"));
        }
    }
    for claim in list(spec, "/resourceClaims")
        .iter()
        .chain(list(pod, "/status/resourceClaimStatuses"))
    {
        add("resourceclaims", text(claim, "/resourceClaimName"));
    }
    for volume in list(spec, "/volumes") {
        add("secrets", text(volume, "/secret/secretName"));
        add("configmaps", text(volume, "/configMap/name"));
        add(
            "persistentvolumeclaims",
            text(volume, "/persistentVolumeClaim/claimName"),
        );
        if volume.get("ephemeral").is_some() {
            add("persistentvolumeclaims", &format!("{name}-{}", text(volume, "/name")));
        }
        for pointer in [
            "/csi/nodePublishSecretRef/name",
            "/cephfs/secretRef/name",
            "/rbd/secretRef/name",
            "/iscsi/secretRef/name",
            "/flexVolume/secretRef/name",
            "/azureFile/secretName",
        ] {
            add("secrets", text(volume, pointer));
        }
        for source in list(volume, "/projected/sources") {
            add("secrets", text(source, "/secret/name"));
            add("configmaps", text(source, "/configMap/name"));
        }
    }
    out
}

/// The node that a user is the kubelet of.
pub fn node_of(user: &UserInfo) -> Option<&str> {
    user.name
        .strip_prefix("system:node:")
        .filter(|name| !name.is_empty() && user.in_group("system:nodes"))
}

/// The graph behind a lock, as authorizer.
#[derive(Debug)]
pub struct Node {
    graph: RwLock<Graph>,
    rules: Vec<Rule>,
}

impl Default for Node {
    fn default() -> Self {
        let role = bootstrap::defaults()
            .into_iter()
            .find(|d| d.resource == "clusterroles" && d.name == "system:node");
        let rules = role
            .map(|d| list(&d.object, "/rules").iter().map(Rule::from_value).collect())
            .unwrap_or_default();
        Node {
            graph: RwLock::default(),
            rules,
        }
    }
}

impl Node {
    /// Changes the graph.
    pub fn update(&self, change: impl FnOnce(&mut Graph)) {
        change(&mut self.graph.write());
    }

    /// Decides at once.
    pub fn decide(&self, user: &UserInfo, a: &Attributes) -> Decision {
        let Some(node) = node_of(user) else {
            return match user.in_group("system:nodes") {
                true => no(&format!("unknown node for user {:?}", user.name)),
                false => Decision::NoOpinion(String::new()),
            };
        };
        if !a.is_resource {
            return Decision::NoOpinion(String::new());
        }
        let related = |verbs: &[&str]| self.related(node, a, verbs);
        match (a.group.as_str(), a.resource.as_str(), a.subresource.as_str()) {
            ("", "secrets" | "configmaps", "") => related(&["get", "list", "watch"]),
            ("", "persistentvolumeclaims", "") => related(&["get"]),
            ("", "persistentvolumeclaims", "status") => related(&["get", "update", "patch"]),
            ("", "persistentvolumes", "") => related(&["get"]),
            ("", "serviceaccounts", "token") => related(&["create"]),
            ("", "serviceaccounts", "") => related(&["get"]),
            ("storage.k8s.io", "volumeattachments", "") => related(&["get"]),
            ("resource.k8s.io", "resourceclaims", "") => related(&["get"]),
            ("coordination.k8s.io", "leases", "") => own_lease(node, a),
            ("storage.k8s.io", "csinodes", subresource) => own_csi_node(node, a, subresource),
            ("resource.k8s.io", "resourceslices", subresource) => slices(node, a, subresource),
            _ if self.rules.iter().any(|rule| rule.allows(&action(a))) => allow(),
            _ => Decision::NoOpinion(String::new()),
        }
    }

    fn related(&self, node: &str, a: &Attributes, verbs: &[&str]) -> Decision {
        if !verbs.contains(&a.verb.as_str()) {
            return match a.resource.as_str() {
                "serviceaccounts" => no("can only create tokens for individual service accounts"),
                "secrets" | "configmaps" => no("can only read resources of this type"),
                _ if a.subresource == "status" => no("can only get/update/patch this type"),
                _ => no("can only get individual resources of this type"),
            };
        }
        if a.name.is_empty() {
            return no("No Object name found");
        }
        if self.graph.read().reaches(node, &a.resource, &a.namespace, &a.name) {
            return allow();
        }
        no(&format!("no relationship found between node '{node}' and this object"))
    }
}

fn own_lease(node: &str, a: &Attributes) -> Decision {
    if !matches!(a.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if a.namespace != "kube-node-lease" {
        return no("can only access leases in the \"kube-node-lease\" system namespace");
    }
    if a.name != node && (a.verb != "create" || !a.name.is_empty()) {
        return no("can only access node lease with the same name as the requesting node");
    }
    allow()
}

fn own_csi_node(node: &str, a: &Attributes, subresource: &str) -> Decision {
    if !subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if !matches!(a.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if a.name != node && (a.verb != "create" || !a.name.is_empty()) {
        return no("can only access CSINode with the same name as the requesting node");
    }
    allow()
}

/// Which slice is the node's own is seen by its selector, or by admission on writes.
fn slices(node: &str, a: &Attributes, subresource: &str) -> Decision {
    if !subresource.is_empty() {
        return no("cannot authorize ResourceSlice subresources");
    }
    if matches!(a.verb.as_str(), "list" | "watch" | "deletecollection") {
        let selector = api::fields::Selector::parse(&a.field_selector).unwrap_or_default();
        if selector.exact("spec.nodeName") != Some(node) {
            return no("can only list/watch/deletecollection resourceslices with nodeName field selector");
        }
    }
    allow()
}

fn allow() -> Decision {
    Decision::Allow(String::new())
}

fn no(reason: &str) -> Decision {
    Decision::NoOpinion(reason.to_owned())
}

#[async_trait]
impl Authorizer for Node {
    async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        self.decide(user, attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn attributes(verb: &str, resource: &str, namespace: &str, name: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb: verb.into(),
            is_resource: true,
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn a_node_reads_what_its_pods_need() {
        let authorizer = Node::default();
        let pod = json!({"spec": {"nodeName": "n1", "serviceAccountName": "web", "volumes": [{"secret": {"secretName": "s"}}, {"persistentVolumeClaim": {"claimName": "c"}}],
            "containers": [{"envFrom": [{"configMapRef": {"name": "m"}}]}]}});
        authorizer.update(|g| {
            g.pod("dev", "p", Some(&pod));
            g.claim("dev", "c", Some(&json!({"spec": {"volumeName": "pv1"}})));
        });
        let user = |node: &str| UserInfo {
            name: format!("system:node:{node}"),
            groups: vec!["system:nodes".into()],
            ..UserInfo::default()
        };
        let allowed = |node: &str, a: Attributes| authorizer.decide(&user(node), &a).is_allowed();
        assert!(allowed("n1", attributes("get", "secrets", "dev", "s")));
        assert!(allowed("n1", attributes("watch", "configmaps", "dev", "m")));
        assert!(allowed("n1", attributes("get", "persistentvolumes", "", "pv1")));
        assert!(allowed(
            "n1",
            attributes("create", "serviceaccounts/token", "dev", "web")
        ));
        assert!(!allowed("n2", attributes("get", "secrets", "dev", "s")));
        assert!(!allowed("n1", attributes("get", "secrets", "dev", "other")));
        assert!(!allowed("n1", attributes("list", "secrets", "dev", "")));
        assert!(!allowed("n1", attributes("update", "secrets", "dev", "s")));
        assert!(allowed("n1", attributes("update", "nodes/status", "", "n1")));
        assert_eq!(
            authorizer.decide(&UserInfo::anonymous(), &attributes("get", "nodes", "", "n1")),
            Decision::NoOpinion(String::new())
        );
        authorizer.update(|g| {
            g.volume("pv1", Some(&json!({"spec": {"claimRef": {"namespace": "dev"}, "csi": {"nodePublishSecretRef": {"name": "vs", "namespace": "dev"}}}})));
            g.attachment("va", Some(&json!({"spec": {"nodeName": "n1"}})));
        });
        assert!(
            allowed("n1", attributes("get", "secrets", "dev", "vs")),
            "through the volume"
        );
        assert!(!allowed("n1", attributes("get", "secrets", "other", "vs")));
        let storage = |verb: &str, resource: &str, name: &str| Attributes {
            group: "storage.k8s.io".into(),
            ..attributes(verb, resource, "", name)
        };
        assert!(allowed("n1", storage("get", "volumeattachments", "va")));
        assert!(!allowed("n2", storage("get", "volumeattachments", "va")));
        assert!(allowed("n1", storage("update", "csinodes", "n1")));
        assert_eq!(
            authorizer.decide(&user("n1"), &storage("list", "csinodes", "")),
            Decision::NoOpinion("can only get, create, update, patch, or delete a CSINode".into())
        );
        let slices = |selector: &str| Attributes {
            group: "resource.k8s.io".into(),
            field_selector: selector.into(),
            ..attributes("list", "resourceslices", "", "")
        };
        assert!(allowed("n1", slices("spec.nodeName=n1")));
        assert!(!allowed("n1", slices("")) && !allowed("n1", slices("spec.nodeName=n2")));
        authorizer.update(|g| g.pod("dev", "p", None));
        assert!(!allowed("n1", attributes("get", "secrets", "dev", "s")));
        let lease = Attributes {
            group: "coordination.k8s.io".into(),
            ..attributes("update", "leases", "kube-node-lease", "n1")
        };
        assert!(allowed("n1", lease.clone()));
        assert!(!allowed("n2", lease));
    }
}
