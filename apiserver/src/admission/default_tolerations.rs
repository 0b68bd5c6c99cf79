//! Pods tolerate a node that is not ready or not reachable for five minutes, unless they say otherwise.

use api::Error;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Context, Plugin, is, writes};
use crate::kinds::field::{ensure, text};
use crate::registry::access::AdmissionRequest;

const SECONDS: i64 = 300;

pub(super) struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        writes(request) && is(request, "", "pods")
    }

    async fn mutate(&self, _cx: &Context, _request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Error> {
        add(object);
        Ok(())
    }
}

fn add(pod: &mut Value) {
    let Some(spec) = ensure(pod, "spec") else { return };
    let Some(list) = spec
        .as_object_mut()
        .map(|s| s.entry("tolerations").or_insert(json!([])))
        .and_then(Value::as_array_mut)
    else {
        return;
    };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = |t: &Value| {
            matches!(text(t, "/key"), k if k == key || k.is_empty()) && matches!(text(t, "/effect"), "NoExecute" | "")
        };
        if !list.iter().any(tolerated) {
            list.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_once_and_not_where_tolerated() {
        let mut pod = json!({});
        add(&mut pod);
        add(&mut pod);
        assert_eq!(pod["spec"]["tolerations"].as_array().map(Vec::len), Some(2));
        let mut everything = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        add(&mut everything);
        assert_eq!(everything["spec"]["tolerations"].as_array().map(Vec::len), Some(1));
    }
}
