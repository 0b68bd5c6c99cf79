//! Deletes a pod on behalf of the cluster, saying why in its status first.

use api::Object;
use api::core::v1::Pod;
use client::{Client, DeleteParams, Patch};
use controller::Error;
use jiff::Timestamp;
use serde_json::json;

/// The content of condition `DisruptionTarget`.
#[derive(Clone, Copy, Debug)]
pub struct Disruption {
    /// Its reason.
    pub reason: &'static str,
    /// Its message.
    pub message: &'static str,
    /// Whether the pod has ended with it: nobody else is there to say so.
    pub ended: bool,
}

/// Deletes the pod, if it is still the one that was seen. That it is gone already is fine.
pub async fn delete(client: &Client, pod: &Pod, why: Option<Disruption>, how: &DeleteParams) -> Result<(), Error> {
    let api = client.api::<Pod>();
    let (namespace, name) = (pod.namespace(), pod.name());
    if let Some(why) = why {
        let patch = Patch::Strategic(patch(pod, why, Timestamp::now()));
        match api.patch(namespace, name, "status", &patch).await {
            Err(error) if !error.is_not_found() => {
                return Err(Error::client(format!("mark pod {} as disrupted", pod.key()))(error));
            }
            _ => {}
        }
    }
    match api.delete(namespace, name, &how.clone().uid(pod.uid())).await {
        Err(error) if !error.is_not_found() => Err(Error::client(format!("delete pod {}", pod.key()))(error)),
        _ => Ok(()),
    }
}

fn patch(pod: &Pod, why: Disruption, now: Timestamp) -> serde_json::Value {
    let mut status = json!({"conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": why.reason, "message": why.message,
        "lastTransitionTime": format!("{now:.0}"),
    }]});
    if why.ended {
        status["phase"] = "Failed".into();
    }
    json!({"metadata": {"uid": pod.uid()}, "status": status})
}
