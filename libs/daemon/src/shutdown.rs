//! One signal asks a daemon to stop, a second one ends it at once.

use std::future::Future;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The wish to stop, shared by everything in a process. Cloning is cheap; all clones are one wish.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// A wish that only [`Shutdown::request`] fulfils: for tests and embedded servers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Completes once the process should stop.
    pub async fn cancelled(&self) {
        self.0.cancelled().await;
    }

    /// Whether the process should stop.
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Asks everything that holds a clone to stop.
    pub fn request(&self) {
        self.0.cancel();
    }

    /// The token behind it, for APIs that take one.
    pub fn token(&self) -> CancellationToken {
        self.0.clone()
    }

    /// A wish that ends with this one but can also be fulfilled alone.
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Runs a future until it completes (`Some`) or stopping is asked for (`None`).
    pub async fn run_until<F: Future>(&self, future: F) -> Option<F::Output> {
        self.0.run_until_cancelled(future).await
    }

    /// Requests the shutdown on the first SIGTERM or SIGINT and exits with status 1 on the second.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let token = self.0.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if token.is_cancelled() {
                    tracing::warn!(signal = name, "second signal, exiting at once");
                    std::process::exit(1);
                }
                tracing::info!(signal = name, "stopping");
                token.cancel();
            }
        });
        Ok(())
    }
}
