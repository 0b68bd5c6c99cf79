//! postStart and preStop.

use super::handler::{HandlerError, Target};
use api::core::v1::LifecycleHandler;
use std::time::Duration;

/// Runs a hook to its end. The caller bounds the time: a preStop by the grace period, a postStart not at all.
pub async fn run(target: &Target, hook: &LifecycleHandler) -> Result<(), HandlerError> {
    const LONG: Duration = Duration::from_secs(3600);
    if let Some(action) = &hook.exec {
        let command = action.command.clone().unwrap_or_default();
        let told = |error: HandlerError| HandlerError(format!("Exec lifecycle hook ({command:?}) failed: {error}"));
        target.exec(action, Duration::ZERO).await.map(|_| ()).map_err(told)
    } else if let Some(action) = &hook.http_get {
        target.http(action, LONG).await
    } else if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0) as u64)).await;
        Ok(())
    } else {
        Err(HandlerError(
            "cannot run handler: no handler specified or an unsupported one".into(),
        ))
    }
}
