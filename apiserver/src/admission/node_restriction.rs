//! What a kubelet may write: its own node, its own pods' status, its own lease, tokens for its own pods.
//! Source: `plugin/pkg/admission/noderestriction`.

use api::Error;
use async_trait::async_trait;
use serde_json::Value;

use super::{Context, Plugin, forbidden};
use crate::authz::node::node_of;
use crate::kinds::field::{list, text};
use crate::registry::access::{AdmissionRequest, Operation};

const MIRROR: &str = "/metadata/annotations/kubernetes.io~1config.mirror";
const LABEL_GROUPS: [&str; 2] = ["kubernetes.io", "k8s.io"];
const KUBELET_LABELS: [&str; 12] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "node.kubernetes.io/windows-build",
];

pub(super) struct NodeRestriction;

#[async_trait]
impl Plugin for NodeRestriction {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        node_of(request.user).is_some()
    }

    async fn validate(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
        let Some(node) = node_of(request.user) else {
            return Ok(());
        };
        let a = request.attributes;
        match (a.group.as_str(), a.resource.as_str(), a.subresource.as_str()) {
            ("", "pods", "") => pod(cx, node, request, object).await,
            ("", "pods", "status") => pod_status(node, request, object),
            ("", "pods", "eviction") => evict(cx, node, request).await,
            ("", "pods", other) if request.operation != Operation::Connect => Err(forbidden(
                request,
                format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"),
            )),
            ("", "persistentvolumeclaims", "status") => claim_status(node, request, object),
            ("", "persistentvolumeclaims", _) => Err(forbidden(request, "may only update PVC status")),
            ("", "nodes", _) => own_node(node, request, object),
            ("", "serviceaccounts", "token") => token(cx, node, request, object).await,
            ("coordination.k8s.io", "leases", "") => lease(node, request, object),
            ("storage.k8s.io", "csinodes", "") => csi_node(node, request, object),
            _ => Ok(()),
        }
    }
}

async fn pod(cx: &Context, node: &str, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
    match request.operation {
        Operation::Create => mirror_pod(cx, node, object)
            .await?
            .map_err(|why| forbidden(request, why)),
        Operation::Delete if request.old.is_some_and(|pod| text(pod, "/spec/nodeName") != node) => Err(forbidden(
            request,
            format!("node {node:?} can only delete pods with spec.nodeName set to itself"),
        )),
        Operation::Delete => Ok(()),
        Operation::Update | Operation::Connect => Err(forbidden(
            request,
            format!(
                "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                request.operation.name()
            ),
        )),
    }
}

/// A kubelet makes only pods that show what it runs by itself, and those refer to nothing in the API.
async fn mirror_pod(cx: &Context, node: &str, pod: &Value) -> Result<Result<(), String>, Error> {
    let refuse = |why: &str| Ok(Err(why.replace("{}", &format!("{node:?}"))));
    if pod.pointer(MIRROR).is_none() {
        return refuse(
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node {} can only create mirror pods",
        );
    }
    if text(pod, "/spec/nodeName") != node {
        return refuse("node {} can only create pods with spec.nodeName set to itself");
    }
    let owner = match list(pod, "/metadata/ownerReferences") {
        [owner] => owner,
        [] => return refuse("node {} can only create pods with an owner reference set to itself"),
        _ => return refuse("node {} can only create pods with a single owner reference set to itself"),
    };
    if (text(owner, "/apiVersion"), text(owner, "/kind"), text(owner, "/name")) != ("v1", "Node", node) {
        return refuse("node {} can only create pods with an owner reference set to itself");
    }
    if owner.get("controller") != Some(&Value::Bool(true)) {
        return refuse("node {} can only create pods with a controller owner reference set to itself");
    }
    if owner.get("blockOwnerDeletion") == Some(&Value::Bool(true)) {
        return refuse("node {} must not set blockOwnerDeletion on an owner reference");
    }
    let Some(stored) = cx.get("", "nodes", "", node).await? else {
        return Err(Error::not_found(&api::GroupResource::new("", "nodes"), node));
    };
    let (is, said) = (text(&stored, "/metadata/uid"), text(owner, "/uid"));
    if is != said {
        return Ok(Err(format!("node {node} UID mismatch: expected {said} got {is}")));
    }
    let volumes = list(pod, "/spec/volumes");
    let projects = |kind: &str| {
        let mut sources = volumes.iter().flat_map(|v| list(v, "/projected/sources"));
        sources.any(|source| source.get(kind).is_some())
    };
    let containers = list(pod, "/spec/containers")
        .iter()
        .chain(list(pod, "/spec/initContainers"));
    let env = |key: &str, from: &str| {
        containers.clone().any(|c| {
            list(c, "/env")
                .iter()
                .any(|e| e.pointer(&format!("/valueFrom/{key}")).is_some())
                || list(c, "/envFrom").iter().any(|e| e.get(from).is_some())
        })
    };
    let uses = |kind: &str| volumes.iter().any(|v| v.get(kind).is_some()) || projects(kind);
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        return refuse("node {} can not create pods that reference a service account");
    }
    if uses("secret") || env("secretKeyRef", "secretRef") || !list(pod, "/spec/imagePullSecrets").is_empty() {
        return refuse("node {} can not create pods that reference secrets");
    }
    if uses("configMap") || env("configMapKeyRef", "configMapRef") {
        return refuse("node {} can not create pods that reference configmaps");
    }
    if projects("clusterTrustBundle") {
        return refuse("node {} can not create pods that reference clustertrustbundles");
    }
    if uses("persistentVolumeClaim") {
        return refuse("node {} can not create pods that reference persistentvolumeclaims");
    }
    Ok(Ok(()))
}

fn pod_status(node: &str, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
    let old = request.old.unwrap_or(&Value::Null);
    if text(old, "/spec/nodeName") != node {
        return Err(forbidden(
            request,
            format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"),
        ));
    }
    if old.pointer("/metadata/labels") != object.pointer("/metadata/labels") {
        return Err(forbidden(
            request,
            format!("node {node:?} cannot update labels through pod status"),
        ));
    }
    Ok(())
}

async fn evict(cx: &Context, node: &str, request: &AdmissionRequest<'_>) -> Result<(), Error> {
    let a = request.attributes;
    match cx.get("", "pods", &a.namespace, &a.name).await? {
        Some(pod) if text(&pod, "/spec/nodeName") != node => Err(forbidden(
            request,
            format!("node {node:?} can only evict pods with spec.nodeName set to itself"),
        )),
        Some(_) => Ok(()),
        None => Err(Error::not_found(&a.group_resource(), &a.name)),
    }
}

fn own_node(node: &str, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
    let name = match request.attributes.name.as_str() {
        "" => text(object, "/metadata/name"),
        name => name,
    };
    if name != node {
        return Err(forbidden(
            request,
            format!("node {node:?} is not allowed to modify node {name:?}"),
        ));
    }
    let old = request.old.unwrap_or(&Value::Null);
    match request.operation {
        Operation::Create => check_labels(node, request, object, old),
        Operation::Update => {
            if list(old, "/spec/taints") != list(object, "/spec/taints") {
                return Err(forbidden(
                    request,
                    format!("node {node:?} is not allowed to modify taints"),
                ));
            }
            check_labels(node, request, object, old)
        }
        Operation::Delete => Err(forbidden(
            request,
            format!("node {node:?} is not allowed to delete itself"),
        )),
        Operation::Connect => Ok(()),
    }
}

fn check_labels(node: &str, request: &AdmissionRequest<'_>, object: &Value, old: &Value) -> Result<(), Error> {
    let labels = |v: &Value| {
        v.pointer("/metadata/labels")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default()
    };
    let (new, before) = (labels(object), labels(old));
    let changed = new
        .keys()
        .chain(before.keys())
        .filter(|key| new.get(*key) != before.get(*key));
    let mut refused: Vec<&str> = changed.map(String::as_str).filter(|key| !allowed_label(key)).collect();
    refused.sort_unstable();
    refused.dedup();
    if refused.is_empty() {
        return Ok(());
    }
    Err(forbidden(
        request,
        match request.operation {
            Operation::Create => format!(
                "node {node:?} is not allowed to set the following labels: {}",
                refused.join(", ")
            ),
            _ => format!("is not allowed to modify labels: {}", refused.join(", ")),
        },
    ))
}

fn allowed_label(key: &str) -> bool {
    let Some((namespace, _)) = key.split_once('/') else {
        return true;
    };
    let within =
        |group: &str| namespace == group || namespace.strip_suffix(group).is_some_and(|rest| rest.ends_with('.'));
    if !LABEL_GROUPS.into_iter().any(within) {
        return true;
    }
    let kubelet_own = ["kubelet.kubernetes.io", "node.kubernetes.io"]
        .into_iter()
        .any(|g| namespace == g || namespace.ends_with(&format!(".{g}")));
    KUBELET_LABELS.contains(&key) || kubelet_own
}

async fn token(cx: &Context, node: &str, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
    let bound = &object["spec"]["boundObjectRef"];
    if text(bound, "/kind") != "Pod" || text(bound, "/name").is_empty() {
        return Err(forbidden(request, "node requested token not bound to a pod"));
    }
    if text(bound, "/uid").is_empty() {
        return Err(forbidden(
            request,
            "node requested token with a pod binding without a uid",
        ));
    }
    let name = text(bound, "/name");
    match cx.get("", "pods", &request.attributes.namespace, name).await? {
        Some(pod) if text(&pod, "/metadata/uid") != text(bound, "/uid") => Err(forbidden(
            request,
            format!(
                "the UID in the bound object reference ({}) does not match the UID in record ({}). The object might have been deleted and then recreated",
                text(bound, "/uid"),
                text(&pod, "/metadata/uid")
            ),
        )),
        Some(pod) if text(&pod, "/spec/nodeName") != node => Err(forbidden(
            request,
            "node requested token bound to a pod scheduled on a different node",
        )),
        Some(_) => Ok(()),
        None => Err(Error::not_found(&api::GroupResource::new("", "pods"), name)),
    }
}

fn lease(node: &str, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
    if request.attributes.namespace != "kube-node-lease" {
        return Err(forbidden(
            request,
            "can only access leases in the \"kube-node-lease\" system namespace",
        ));
    }
    let name = if request.operation == Operation::Create {
        text(object, "/metadata/name")
    } else {
        &request.attributes.name
    };
    if name == node {
        Ok(())
    } else {
        Err(forbidden(
            request,
            "can only access node lease with the same name as the requesting node",
        ))
    }
}

fn csi_node(node: &str, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
    let name = match request.operation {
        Operation::Create => text(object, "/metadata/name"),
        _ => &request.attributes.name,
    };
    match name == node {
        true => Ok(()),
        false => Err(forbidden(
            request,
            "can only access CSINode with the same name as the requesting node",
        )),
    }
}

/// A kubelet that has grown a volume says so in the claim's status, and nothing else.
fn claim_status(node: &str, request: &AdmissionRequest<'_>, claim: &Value) -> Result<(), Error> {
    let rest = |claim: &Value| {
        let mut rest = claim.clone();
        for (parent, fields) in [
            ("metadata", &["resourceVersion", "managedFields"][..]),
            (
                "status",
                &[
                    "capacity",
                    "conditions",
                    "allocatedResources",
                    "allocatedResourceStatuses",
                ][..],
            ),
        ] {
            if let Some(map) = rest.get_mut(parent).and_then(Value::as_object_mut) {
                map.retain(|field, _| !fields.contains(&field.as_str()));
            }
        }
        rest
    };
    match request.old.is_some_and(|old| rest(old) == rest(claim)) {
        true => Ok(()),
        false => Err(forbidden(
            request,
            format!("node {node:?} is not allowed to update fields other than status.capacity and status.conditions"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        for (key, want) in [
            ("mine", true),
            ("example.com/x", true),
            ("kubernetes.io/hostname", true),
            ("node.kubernetes.io/x", true),
            ("kubernetes.io/other", false),
            ("node-role.kubernetes.io/master", false),
            ("node-restriction.kubernetes.io/x", false),
            ("notkubernetes.io/x", true),
        ] {
            assert_eq!(allowed_label(key), want, "{key}");
        }
    }

    #[tokio::test]
    async fn a_kubelet_keeps_to_itself() {
        let user = crate::registry::access::UserInfo {
            name: "system:node:n1".into(),
            groups: vec!["system:nodes".into()],
            ..Default::default()
        };
        let mut fixture = crate::admission::testing::Fixture {
            user,
            ..Default::default()
        };
        fixture
            .put(
                "",
                "nodes",
                serde_json::json!({"metadata": {"name": "n1", "uid": "u1"}}),
            )
            .await;
        let mirror = |patch: Value| {
            let mut pod = serde_json::json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "h"}, "ownerReferences":
                [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1", "controller": true}]}, "spec": {"nodeName": "n1"}});
            api::patch::merge_patch(&mut pod, &patch);
            pod
        };
        for (patch, want) in [
            (serde_json::json!({}), ""),
            (
                serde_json::json!({"metadata": {"annotations": null}}),
                "node \"n1\" can only create mirror pods",
            ),
            (
                serde_json::json!({"metadata": {"ownerReferences": null}}),
                "with an owner reference set to itself",
            ),
            (
                serde_json::json!({"spec": {"nodeName": "n2"}}),
                "with spec.nodeName set to itself",
            ),
            (
                serde_json::json!({"spec": {"volumes": [{"secret": {}}]}}),
                "reference secrets",
            ),
            (
                serde_json::json!({"spec": {"containers": [{"envFrom": [{"configMapRef": {}}]}]}}),
                "reference configmaps",
            ),
        ] {
            let pod = mirror(patch);
            let outcome = fixture
                .validate(&NodeRestriction, Operation::Create, "", "pods", &pod, None)
                .await;
            let said = outcome.err().map(|e| e.message).unwrap_or_default();
            assert!(said.ends_with(want) && said.is_empty() == want.is_empty(), "{said}");
        }
        fixture.subresource = "binding";
        let refused = fixture
            .validate(&NodeRestriction, Operation::Create, "", "pods", &Value::Null, None)
            .await;
        assert!(
            refused
                .unwrap_err()
                .message
                .contains("unexpected pod subresource \"binding\"")
        );
    }
}
