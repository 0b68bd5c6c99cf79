//! Reads the file of `--authentication-config` again when it changes.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use daemon::Shutdown;

use super::config::AuthenticationConfig;
use super::oidc::Issuers;
use crate::config::security::AuthenticationSettings;
use crate::outgoing::Outgoing;

/// How often the file is looked at.
const PERIOD: Duration = Duration::from_secs(2);

/// The issuers, followed until shutdown. A file that cannot be used is told in the log; the last good one stays.
///
/// # Errors
/// When flags or file cannot be used now.
pub fn start(
    settings: AuthenticationSettings,
    outgoing: Outgoing,
    shutdown: Shutdown,
) -> anyhow::Result<Arc<ArcSwap<Issuers>>> {
    let config = AuthenticationConfig::new(&settings)?;
    let current = Arc::new(ArcSwap::from_pointee(Issuers::new(&config, &outgoing)?));
    if let Some(path) = settings.authentication_config.clone() {
        let current = current.clone();
        tokio::spawn(async move {
            let mut seen = fingerprint(&path);
            while shutdown.run_until(tokio::time::sleep(PERIOD)).await.is_some() {
                let now = fingerprint(&path);
                if now == seen {
                    continue;
                }
                seen = now;
                match read(&settings, &outgoing) {
                    Ok(fresh) => {
                        current.store(Arc::new(fresh));
                        tracing::info!(path = %path.display(), "authentication configuration reloaded");
                    }
                    Err(error) => tracing::error!(%error, "authentication configuration not reloaded"),
                }
            }
        });
    }
    Ok(current)
}

fn read(settings: &AuthenticationSettings, outgoing: &Outgoing) -> anyhow::Result<Issuers> {
    Ok(Issuers::new(&AuthenticationConfig::new(settings)?, outgoing)?)
}

fn fingerprint(path: &Path) -> Option<(SystemTime, u64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}
