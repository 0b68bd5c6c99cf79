//! systemd's service notification protocol (sd_notify(3)). Without systemd (`NOTIFY_SOCKET` unset) every call does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::Shutdown;

/// Tells systemd that the daemon serves (`READY=1`) and starts to feed its watchdog when the unit has one.
pub fn ready(shutdown: &Shutdown) {
    send(&[NotifyState::Ready]);
    if let Some(period) = watchdog_period() {
        tokio::spawn(feed_watchdog(period, shutdown.clone()));
    }
}

/// Tells systemd that the daemon is on its way out (`STOPPING=1`).
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// A line for `systemctl status`.
pub fn status(text: &str) {
    send(&[NotifyState::Status(text)]);
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd was not notified");
    }
}

/// Half of `WATCHDOG_USEC`, as sd_watchdog_enabled(3) advises; `None` when it is unset or meant for another process.
fn watchdog_period() -> Option<Duration> {
    let for_us = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
    let micros: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    (for_us && micros > 1).then(|| Duration::from_micros(micros / 2))
}

/// Runs on the same executor as the work: when that is stuck, systemd learns of it.
async fn feed_watchdog(period: Duration, shutdown: Shutdown) {
    let mut ticks = tokio::time::interval(period);
    while shutdown.run_until(ticks.tick()).await.is_some() {
        send(&[NotifyState::Watchdog]);
    }
}
