//! Small storage and network defaults: the default StorageClass of a claim, the default IngressClass of an Ingress, and the finalizers
//! that keep volumes and claims in use.

use api::Error;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Context, Plugin, creates};
use crate::kinds::field::{ensure, set, text};
use crate::registry::access::AdmissionRequest;

const DEFAULT_STORAGE: &str = "/metadata/annotations/storageclass.kubernetes.io~1is-default-class";
const DEFAULT_INGRESS: &str = "/metadata/annotations/ingressclass.kubernetes.io~1is-default-class";
const INGRESS_ANNOTATION: &str = "/metadata/annotations/kubernetes.io~1ingress.class";

pub(super) struct DefaultStorageClass;
pub(super) struct DefaultIngressClass;
pub(super) struct StorageObjectInUseProtection;

/// The youngest class that is marked as default; of two of one age the first by name, as upstream chooses.
fn pick(classes: Vec<Value>, marker: &str) -> Option<String> {
    let mut marked: Vec<Value> = classes.into_iter().filter(|c| text(c, marker) == "true").collect();
    marked.sort_by(|a, b| {
        let age = text(b, "/metadata/creationTimestamp").cmp(text(a, "/metadata/creationTimestamp"));
        age.then_with(|| text(a, "/metadata/name").cmp(text(b, "/metadata/name")))
    });
    marked.first().map(|c| text(c, "/metadata/name").to_owned())
}

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        creates(request, "", "persistentvolumeclaims")
    }

    async fn mutate(&self, cx: &Context, _request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Error> {
        let annotated = object
            .pointer("/metadata/annotations/volume.beta.kubernetes.io~1storage-class")
            .is_some();
        if annotated || object["spec"].get("storageClassName").is_some() {
            return Ok(());
        }
        let class = pick(cx.list("storage.k8s.io", "storageclasses", "").await?, DEFAULT_STORAGE);
        if let (Some(class), Some(spec)) = (class, ensure(object, "spec")) {
            set(spec, "storageClassName", class);
        }
        Ok(())
    }
}

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        creates(request, "networking.k8s.io", "ingresses")
    }

    async fn mutate(&self, cx: &Context, _request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Error> {
        let chosen = object["spec"].get("ingressClassName").is_some() || object.pointer(INGRESS_ANNOTATION).is_some();
        if chosen {
            return Ok(());
        }
        let class = pick(
            cx.list("networking.k8s.io", "ingressclasses", "").await?,
            DEFAULT_INGRESS,
        );
        if let (Some(class), Some(spec)) = (class, ensure(object, "spec")) {
            set(spec, "ingressClassName", class);
        }
        Ok(())
    }
}

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        creates(request, "", "persistentvolumeclaims") || creates(request, "", "persistentvolumes")
    }

    async fn mutate(&self, _cx: &Context, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Error> {
        let finalizer = match &*request.resource.resource {
            "persistentvolumes" => "kubernetes.io/pv-protection",
            _ => "kubernetes.io/pvc-protection",
        };
        let list = ensure(object, "metadata")
            .and_then(Value::as_object_mut)
            .map(|m| m.entry("finalizers").or_insert(json!([])));
        if let Some(list) = list.and_then(Value::as_array_mut)
            && !list.iter().any(|f| f == finalizer)
        {
            list.push(json!(finalizer));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_youngest_default_wins() {
        let class = |name: &str, created: &str, default: &str| json!({"metadata": {"name": name, "creationTimestamp": created, "annotations": {"storageclass.kubernetes.io/is-default-class": default}}});
        let classes = vec![
            class("a", "2025-01-01T00:00:00Z", "true"),
            class("c", "2025-02-01T00:00:00Z", "true"),
            class("b", "2025-02-01T00:00:00Z", "true"),
            class("x", "2025-03-01T00:00:00Z", "false"),
        ];
        assert_eq!(pick(classes, DEFAULT_STORAGE).as_deref(), Some("b"));
        assert_eq!(pick(Vec::new(), DEFAULT_STORAGE), None);
    }
}
