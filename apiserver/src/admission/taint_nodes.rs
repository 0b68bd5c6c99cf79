//! A new node is tainted as not ready until the node lifecycle controller has seen it ready.

use api::Error;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Context, Plugin, creates};
use crate::kinds::field::{ensure, text};
use crate::registry::access::AdmissionRequest;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        creates(request, "", "nodes")
    }

    async fn mutate(&self, _cx: &Context, _request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Error> {
        let taints = ensure(object, "spec")
            .and_then(|s| s.as_object_mut())
            .map(|s| s.entry("taints").or_insert(json!([])));
        if let Some(list) = taints.and_then(Value::as_array_mut)
            && !list
                .iter()
                .any(|t| text(t, "/key") == NOT_READY && text(t, "/effect") == "NoSchedule")
        {
            list.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        }
        Ok(())
    }
}
