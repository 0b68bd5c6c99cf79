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
            ("", "pods", "") => pod(node, request, object),
            ("", "pods", "status") => pod_status(node, request, object),
            ("", "pods", "eviction") => evict(cx, node, request).await,
            ("", "nodes", _) => own_node(node, request, object),
            ("", "serviceaccounts", "token") => token(cx, node, request, object).await,
            ("coordination.k8s.io", "leases", "") => lease(node, request, object),
            _ => Ok(()),
        }
    }
}

fn pod(node: &str, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
    match request.operation {
        Operation::Create if object.pointer(MIRROR).is_none() => Err(forbidden(
            request,
            format!(
                "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
            ),
        )),
        Operation::Create if text(object, "/spec/nodeName") != node => Err(forbidden(
            request,
            format!("node {node:?} can only create pods with spec.nodeName set to itself"),
        )),
        Operation::Create if !text(object, "/spec/serviceAccountName").is_empty() => Err(forbidden(
            request,
            format!("node {node:?} can not create pods that reference a service account"),
        )),
        Operation::Create => Ok(()),
        Operation::Delete if request.old.is_some_and(|pod| text(pod, "/spec/nodeName") != node) => Err(forbidden(
            request,
            format!("node {node:?} can only delete pods with spec.nodeName set to itself"),
        )),
        Operation::Delete => Ok(()),
        Operation::Update | Operation::Connect => Err(forbidden(request, "unexpected operation")),
    }
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
        format!("node {node:?} is not allowed to modify labels: {}", refused.join(", ")),
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
}
