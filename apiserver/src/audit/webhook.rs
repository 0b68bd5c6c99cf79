//! The audit webhook: events are sent in batches to a server that a kubeconfig file names. Owns a bounded queue; what does not fit is lost and
//! counted, as upstream's `batch` mode does.

use std::time::Duration;

use bytes::Bytes;
use daemon::Shutdown;
use http::HeaderMap;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Sink;
use super::event::Event;
use crate::outgoing::Limits;
use crate::outgoing::kubeconfig::Remote;

/// Time for one batch.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Pauses between attempts to send a batch; after the last it is lost.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

/// How events are gathered.
#[derive(Clone, Copy, Debug)]
pub struct Batching {
    /// Events in a batch at most.
    pub size: usize,
    /// How long the first event of a batch waits.
    pub wait: Duration,
    /// Events in the queue at most.
    pub queue: usize,
}

impl Default for Batching {
    fn default() -> Self {
        Self {
            size: 400,
            wait: Duration::from_secs(30),
            queue: 10_000,
        }
    }
}

/// The entry of the queue.
pub struct Webhook {
    queue: mpsc::Sender<String>,
}

impl Webhook {
    /// Sends batches to `remote` in the background; at shutdown what is in the queue is still sent.
    pub fn start(remote: Remote, batching: Batching, shutdown: Shutdown) -> Webhook {
        let (queue, events) = mpsc::channel(batching.queue.max(1));
        tokio::spawn(run(remote, batching, events, shutdown));
        Webhook { queue }
    }
}

impl Sink for Webhook {
    fn name(&self) -> &'static str {
        "webhook"
    }

    fn send(&self, event: &Event) -> Result<(), String> {
        let text = serde_json::to_string(event).map_err(|e| e.to_string())?;
        self.queue.try_send(text).map_err(|_| "the queue is full".to_owned())
    }
}

async fn run(remote: Remote, batching: Batching, mut events: mpsc::Receiver<String>, shutdown: Shutdown) {
    while let Some(batch) = gather(&mut events, batching, &shutdown).await {
        let body = format!(
            "{{\"kind\":\"EventList\",\"apiVersion\":\"audit.k8s.io/v1\",\"metadata\":{{}},\"items\":[{}]}}",
            batch.join(",")
        );
        deliver(&remote, body.into(), batch.len(), &shutdown).await;
    }
}

/// The next batch; `None` when the server stops and the queue is empty.
async fn gather(events: &mut mpsc::Receiver<String>, batching: Batching, shutdown: &Shutdown) -> Option<Vec<String>> {
    let first = tokio::select! {
        event = events.recv() => event?,
        () = shutdown.cancelled() => events.try_recv().ok()?,
    };
    let (mut batch, until) = (vec![first], Instant::now() + batching.wait);
    while batch.len() < batching.size {
        let next = tokio::select! {
            biased;
            event = events.recv() => event,
            () = tokio::time::sleep_until(until) => None,
            () = shutdown.cancelled() => None,
        };
        match next {
            Some(event) => batch.push(event),
            None => break,
        }
    }
    Some(batch)
}

async fn deliver(remote: &Remote, body: Bytes, count: usize, shutdown: &Shutdown) {
    let mut pauses = PAUSES.iter();
    loop {
        let Err(error) = remote
            .post(HeaderMap::new(), body.clone(), Limits::within(TIMEOUT))
            .await
        else {
            return;
        };
        let pause = pauses.next().filter(|_| error.is_temporary());
        let Some(pause) = pause else {
            tracing::error!(%error, count, "lost audit events: the webhook does not take them");
            return;
        };
        tracing::warn!(%error, count, "the audit webhook does not take events, trying again");
        if shutdown.run_until(tokio::time::sleep(*pause)).await.is_none() && error.is_temporary() {
            tracing::error!(count, "lost audit events: the server stops");
            return;
        }
    }
}
