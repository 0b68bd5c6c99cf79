//! Writes pod statuses: what many workers have to say goes out together, only the newest of each pod, and is tried again while the API server is away.

use crate::cluster::{Cluster, ClusterError};
use api::core::v1::Pod;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

/// More than this in one call helps nobody.
const BATCH: usize = 256;
const RETRY: Duration = Duration::from_millis(500);

#[derive(Default)]
struct Entry {
    pod: Pod,
    waiting: Vec<oneshot::Sender<()>>,
}

/// Collects and writes statuses.
#[derive(Default)]
pub struct StatusWriter {
    pending: Mutex<HashMap<String, Entry>>,
    wake: Notify,
}

impl StatusWriter {
    /// Hands a pod's newest status in.
    pub fn set(&self, pod: Pod) {
        self.put(pod, None);
    }

    /// The same, and waits until it is written (or the object is gone).
    pub async fn set_and_wait(&self, pod: Pod) {
        let (sender, receiver) = oneshot::channel();
        self.put(pod, Some(sender));
        // The writer only drops the sender when the kubelet stops.
        let _ = receiver.await;
    }

    fn put(&self, pod: Pod, waiter: Option<oneshot::Sender<()>>) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut pending = self.pending.lock();
        let entry = pending.entry(uid).or_default();
        entry.pod = pod;
        entry.waiting.extend(waiter);
        drop(pending);
        self.wake.notify_one();
    }

    /// Writes until `stop`, then once more what is left.
    pub async fn run(&self, cluster: Arc<dyn Cluster>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = self.wake.notified() => {}
                () = stop.cancelled() => {
                    self.write(cluster.as_ref()).await;
                    return;
                }
            }
            while !self.write(cluster.as_ref()).await {
                tokio::select! {
                    () = tokio::time::sleep(RETRY) => {}
                    () = stop.cancelled() => return,
                }
            }
        }
    }

    /// Writes one batch; false when something has to be tried again.
    async fn write(&self, cluster: &dyn Cluster) -> bool {
        let batch: Vec<(String, Entry)> = {
            let mut pending = self.pending.lock();
            let uids: Vec<String> = pending.keys().take(BATCH).cloned().collect();
            uids.into_iter().filter_map(|uid| pending.remove_entry(&uid)).collect()
        };
        if batch.is_empty() {
            return true;
        }
        let answers = cluster
            .update_statuses(batch.iter().map(|(_, entry)| entry.pod.clone()).collect())
            .await;
        let mut all_written = true;
        for ((uid, entry), answer) in batch.into_iter().zip(answers) {
            match answer {
                Ok(()) | Err(ClusterError::NotFound(_)) => {
                    for waiter in entry.waiting {
                        // The worker may have gone on without the answer.
                        let _ = waiter.send(());
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, uid, "write pod status");
                    all_written = false;
                    let mut pending = self.pending.lock();
                    match pending.get_mut(&uid) {
                        Some(newer) => newer.waiting.extend(entry.waiting),
                        None => drop(pending.insert(uid, entry)),
                    }
                }
            }
        }
        if !self.pending.lock().is_empty() && all_written {
            self.wake.notify_one();
        }
        all_written
    }
}
