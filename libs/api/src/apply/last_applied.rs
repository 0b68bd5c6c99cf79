//! The way from client-side to server-side apply: `kubectl` keeps in an annotation what it applied last; what has not changed since is its own.

use super::Set;
use serde_json::Value;

/// The only manager to whom this applies.
pub(super) const MANAGER: &str = "kubectl";
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The configuration in the annotation.
pub(super) fn read(object: &Value) -> Option<Value> {
    let annotation = object.get("metadata")?.get("annotations")?.get(ANNOTATION)?;
    serde_json::from_str(annotation.as_str()?).ok()
}

/// The conflicts that are left without these fields.
pub(super) fn left(conflicts: Vec<(String, Set)>, allowed: &Set) -> Vec<(String, Set)> {
    let left = conflicts
        .into_iter()
        .map(|(manager, fields)| (manager, fields.difference(allowed)));
    left.filter(|(_, fields)| !fields.is_empty()).collect()
}

/// Brings the annotation, where there is one, up to date with the configuration, so that a client that goes back to client-side apply
/// goes on from here.
pub(super) fn keep(object: &mut Value, config: &Value) {
    let Some(annotation) = object
        .pointer_mut("/metadata/annotations")
        .and_then(|all| all.get_mut(ANNOTATION))
    else {
        return;
    };
    let mut config = config.clone();
    if let Some(annotations) = config
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.remove(ANNOTATION);
    }
    *annotation = format!("{config}\n").into();
}
