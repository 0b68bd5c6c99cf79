//! Takes keys off a queue and reconciles them with a fixed number of workers.

use std::fmt::Display;
use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::Queue;

/// What a reconciled key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing until something changes.
    Done,
    /// Another look after this time, whatever happens.
    RequeueAfter(Duration),
}

/// Why a key could not be reconciled. It is tried again, later each time.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server said no, or could not be asked.
    #[error("{doing}")]
    Client {
        /// The attempt, with the object's name.
        doing: String,
        /// The answer.
        #[source]
        source: client::Error,
    },
    /// The object cannot be worked on as it is.
    #[error("{0}")]
    Object(String),
}

impl Error {
    /// For `map_err`: names what was attempted.
    pub fn client(doing: impl Into<String>) -> impl FnOnce(client::Error) -> Error {
        let doing = doing.into();
        move |source| Error::Client { doing, source }
    }

    /// Another writer was faster: it changed the object or removed it. The retry sees its work; nobody needs to hear of it.
    pub fn is_overtaken(&self) -> bool {
        matches!(self, Error::Client { source, .. } if source.is_conflict() || source.is_not_found())
    }
}

/// Reconciles keys until `shutdown`, then returns once the work in progress has ended.
///
/// `reconcile` may fail or panic for one key: it is logged and the key is tried again with back-off; the others go on.
pub async fn run<K, F, R>(name: &str, queue: Queue<K>, workers: usize, reconcile: F, shutdown: CancellationToken)
where
    K: Clone + Display + Eq + Hash + Ord + Send + Sync + 'static,
    F: Fn(K) -> R,
    R: Future<Output = Result<Action, Error>>,
{
    let worker = async || {
        loop {
            let key = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                key = queue.get() => key,
            };
            let span = tracing::info_span!("reconcile", controller = name, object = %key);
            async {
                let outcome = AssertUnwindSafe(async { reconcile(key.clone()).await })
                    .catch_unwind()
                    .await;
                settle(&queue, &key, outcome.ok());
            }
            .instrument(span)
            .await;
            queue.done(&key);
        }
    };
    join_all((0..workers.max(1)).map(|_| worker())).await;
}

/// Puts a reconciled key where it belongs. No outcome at all means that the function panicked.
fn settle<K>(queue: &Queue<K>, key: &K, outcome: Option<Result<Action, Error>>)
where
    K: Clone + Eq + Hash + Ord + Send + Sync + 'static,
{
    match outcome {
        Some(Ok(action)) => {
            queue.forget(key);
            if let Action::RequeueAfter(delay) = action {
                queue.add_after(key.clone(), delay);
            }
        }
        Some(Err(error)) => {
            if error.is_overtaken() {
                tracing::debug!(error = &error as &dyn std::error::Error, "retrying on fresh state");
            } else {
                tracing::warn!(error = &error as &dyn std::error::Error, "retrying later");
            }
            queue.retry(key.clone());
        }
        None => {
            tracing::error!("reconcile panicked; retrying later");
            queue.retry(key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;
    use crate::Metrics;

    /// Runs two workers over keys until `expected` calls happened.
    async fn calls<F>(keys: &[&'static str], expected: usize, mut behaviour: F) -> Vec<&'static str>
    where
        F: FnMut(&'static str, usize) -> Result<Action, Error>,
    {
        let queue = Queue::new("test", &Metrics::new());
        keys.iter().for_each(|key| queue.add(*key));
        let (seen, shutdown) = (Arc::new(Mutex::new(Vec::new())), CancellationToken::new());
        let behaviour = Mutex::new(&mut behaviour);
        run(
            "test",
            queue,
            2,
            |key| {
                let count = {
                    let mut seen = seen.lock();
                    seen.push(key);
                    seen.len()
                };
                if count == expected {
                    shutdown.cancel();
                }
                let outcome = behaviour.lock()(key, count);
                async move { outcome }
            },
            shutdown.clone(),
        )
        .await;
        Arc::into_inner(seen).unwrap().into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_key_comes_back_and_does_not_hold_up_others() {
        let order = calls(&["bad", "good"], 3, |key, count| match (key, count) {
            ("bad", 1) => Err(Error::Object("no".into())),
            _ => Ok(Action::Done),
        })
        .await;
        assert_eq!(order, ["bad", "good", "bad"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_a_failure_of_one_key() {
        let order = calls(&["bad", "good"], 3, |key, count| match (key, count) {
            ("bad", 1) => panic!("a bug"),
            _ => Ok(Action::Done),
        })
        .await;
        assert_eq!(order, ["bad", "good", "bad"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_may_ask_for_another_look() {
        let order = calls(&["a"], 3, |_, _| Ok(Action::RequeueAfter(Duration::from_secs(60)))).await;
        assert_eq!(order, ["a", "a", "a"]);
    }
}
