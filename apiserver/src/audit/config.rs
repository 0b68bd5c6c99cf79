//! Where events go, from the settings.

use std::path::PathBuf;
use std::sync::Arc;

use daemon::Shutdown;
use daemon::config::ConfigError;

use super::log::{Log, LogConfig};
use super::policy::Policy;
use super::webhook::{Batching, Webhook};
use super::{Auditor, Sink};
use crate::config::security::{AuditSettings, duration};
use crate::outgoing::Outgoing;
use crate::outgoing::kubeconfig::Remote;

/// Policy and backends; without a policy nothing is recorded.
#[derive(Clone, Debug, Default)]
pub struct AuditConfig {
    policy: Option<Policy>,
    log: Option<LogConfig>,
    webhook: Option<(PathBuf, Batching)>,
}

impl AuditConfig {
    /// From the settings.
    ///
    /// # Errors
    /// When a file or a flag cannot be used; the text names it.
    pub fn new(s: &AuditSettings) -> Result<AuditConfig, ConfigError> {
        let usual = Batching::default();
        let wait = match &s.audit_webhook_batch_max_wait {
            Some(text) => duration("audit-webhook-batch-max-wait", text)?,
            None => usual.wait,
        };
        let batching = Batching {
            size: s.audit_webhook_batch_max_size.unwrap_or(usual.size).max(1),
            wait,
            queue: s.audit_webhook_batch_buffer_size.unwrap_or(usual.queue),
        };
        Ok(AuditConfig {
            policy: s.audit_policy_file.as_deref().map(Policy::load).transpose()?,
            log: s.audit_log_path.clone().map(|path| LogConfig {
                path,
                max_age: s.audit_log_maxage.unwrap_or(0),
                max_backups: s.audit_log_maxbackup.unwrap_or(0),
                max_size: s.audit_log_maxsize.unwrap_or(0),
            }),
            webhook: s.audit_webhook_config_file.clone().map(|path| (path, batching)),
        })
    }

    /// Opens the backends; `None` when nothing is to be recorded.
    ///
    /// # Errors
    /// When a backend cannot be used; the text names the file.
    pub fn start(
        &self,
        outgoing: &Outgoing,
        metrics: &prometheus::Registry,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Option<Arc<Auditor>>> {
        let Some(policy) = &self.policy else { return Ok(None) };
        let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
        if let Some(log) = &self.log {
            let opened = Log::open(log.clone()).map_err(|source| ConfigError::Read {
                path: log.path.clone(),
                source,
            })?;
            sinks.push(Box::new(opened));
        }
        if let Some((path, batching)) = &self.webhook {
            let remote = Remote::load(path, outgoing)?;
            sinks.push(Box::new(Webhook::start(remote, *batching, shutdown.clone())));
        }
        if sinks.is_empty() {
            return Ok(None);
        }
        Ok(Some(Auditor::new(policy.clone(), sinks, metrics)?))
    }
}
