//! Writes bindings in batches: all that wait go in one call, and so in one entry of the Raft log.

use std::sync::Arc;

use api::core::v1::Pod;
use api::{Object, ObjectKey};
use client::{Binding, Client, EventRecorder, EventType};
use daemon::Shutdown;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::queue::Queued;
use crate::scheduler::{BindError, Input};

/// Bindings in one call.
const BATCH: usize = 512;
/// Calls at once.
const IN_FLIGHT: usize = 4;

/// A pod and its node.
#[derive(Debug)]
pub struct Order {
    /// The pod.
    pub queued: Queued,
    /// The node's name.
    pub node: String,
}

/// Writes what it is sent until the channel closes or shutdown, and tells the scheduler of each outcome.
#[derive(Debug)]
pub struct Binder {
    /// Where to write.
    pub client: Client,
    /// Tells people.
    pub events: EventRecorder,
    /// Where outcomes go.
    pub outcomes: mpsc::UnboundedSender<Input>,
    /// Counts them.
    pub metrics: Metrics,
}

impl Binder {
    /// Runs it.
    pub async fn run(self, mut orders: mpsc::UnboundedReceiver<Order>, shutdown: Shutdown) {
        let this = Arc::new(self);
        let slots = Arc::new(Semaphore::new(IN_FLIGHT));
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else {
                return;
            };
            let mut batch = Vec::new();
            match shutdown.run_until(orders.recv_many(&mut batch, BATCH)).await {
                None | Some(0) => break,
                Some(_) => {}
            }
            let this = this.clone();
            tokio::spawn(async move {
                this.write(batch).await;
                drop(slot);
            });
        }
        // What is being written is finished before the daemon goes.
        let _ = slots.acquire_many(IN_FLIGHT as u32).await;
    }

    async fn write(&self, batch: Vec<Order>) {
        let bindings = batch
            .iter()
            .map(|Order { queued, node }| Binding {
                namespace: queued.pod.key.namespace.clone(),
                name: queued.pod.key.name.clone(),
                uid: queued.pod.uid().to_owned(),
                node: node.clone(),
            })
            .collect();
        let outcomes = self.client.bind(bindings).await;
        match outcomes {
            Ok(outcomes) => {
                for (order, outcome) in batch.iter().zip(outcomes) {
                    self.tell(order, outcome);
                }
            }
            Err(error) => {
                tracing::warn!(%error, pods = batch.len(), "bindings not written");
                for order in &batch {
                    self.answer(order.queued.pod.key.clone(), Err(BindError::Failed));
                }
            }
        }
    }

    fn tell(&self, order: &Order, outcome: Result<(), api::Error>) {
        let (pod, key) = (&*order.queued.pod.pod, order.queued.pod.key.clone());
        let outcome = match outcome {
            Ok(()) => {
                self.metrics
                    .scheduled(order.queued.attempts, Instant::now() - order.queued.since);
                let message = format!("Successfully assigned {key} to {}", order.node);
                self.events.event::<Pod>(pod, EventType::Normal, "Scheduled", message);
                Ok(())
            }
            Err(error) if error.is_not_found() || error.is_conflict() => {
                tracing::info!(pod = %key, %error, "binding is moot");
                Err(BindError::Moot)
            }
            Err(error) => {
                tracing::warn!(pod = %key, node = %order.node, %error, "binding refused");
                self.metrics.error();
                let message = format!("binding rejected: {error}");
                self.events
                    .event::<Pod>(pod, EventType::Warning, "FailedScheduling", message);
                Err(BindError::Failed)
            }
        };
        self.answer(key, outcome);
    }

    fn answer(&self, key: ObjectKey, outcome: Result<(), BindError>) {
        // Only a scheduler that has stopped hears nothing.
        let _ = self.outcomes.send(Input::Bound { key, outcome });
    }
}

/// Writes into a pod's status why it waits, and records an event. Repeats of the same reason are written once.
#[derive(Debug)]
pub struct Explainer {
    /// Where to write.
    pub client: Client,
    /// Tells people.
    pub events: EventRecorder,
}

impl Explainer {
    /// Writes what it is sent until the channel closes.
    pub async fn run(self, mut pods: mpsc::Receiver<(Arc<Pod>, String)>) {
        while let Some((pod, message)) = pods.recv().await {
            self.events
                .event::<Pod>(&pod, EventType::Warning, "FailedScheduling", message.clone());
            let Some(change) = unschedulable_condition(&pod, &message, jiff::Timestamp::now()) else {
                continue;
            };
            let patch = client::Patch::Strategic(change);
            match self
                .client
                .api::<Pod>()
                .patch(pod.namespace(), pod.name(), "status", &patch)
                .await
            {
                Err(error) if !error.is_not_found() && !error.is_conflict() => {
                    tracing::warn!(pod = %pod.key(), %error, "condition PodScheduled not written");
                }
                _ => {}
            }
        }
    }
}

/// The patch that makes `PodScheduled` false; `None` when it says so already.
fn unschedulable_condition(pod: &Pod, message: &str, now: jiff::Timestamp) -> Option<serde_json::Value> {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let known = conditions
        .into_iter()
        .find(|condition| condition.type_ == "PodScheduled");
    let told = |field: &Option<String>, value: &str| field.as_deref() == Some(value);
    if known.is_some_and(|c| c.status == "False" && told(&c.reason, "Unschedulable") && told(&c.message, message)) {
        return None;
    }
    let mut condition = serde_json::json!({
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
    });
    if known.is_none_or(|condition| condition.status != "False") {
        condition["lastTransitionTime"] = serde_json::json!(api::meta::Time(now));
    }
    // The uid makes the patch miss a pod that took this one's name.
    Some(serde_json::json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn a_condition_is_written_once() {
        let mut pending = (*pod("p").build()).clone();
        let now = jiff::Timestamp::UNIX_EPOCH;
        let patch = unschedulable_condition(&pending, "0/1", now).unwrap();
        let condition = &patch["status"]["conditions"][0];
        assert_eq!(
            (condition["reason"].as_str(), condition["status"].as_str()),
            (Some("Unschedulable"), Some("False"))
        );
        assert!(condition["lastTransitionTime"].is_string());
        let condition = serde_json::from_value(condition.clone()).unwrap();
        pending.status.get_or_insert_default().conditions = Some(vec![condition]);
        assert_eq!(unschedulable_condition(&pending, "0/1", now), None);
        let patch = unschedulable_condition(&pending, "0/2", now).unwrap();
        assert!(
            patch["status"]["conditions"][0]["lastTransitionTime"].is_null(),
            "still unschedulable since then"
        );
    }
}
