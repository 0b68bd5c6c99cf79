//! `apiserver_admission_webhook_*`, with upstream's names and labels.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

use super::hooks::{Hook, Phase};
use crate::registry::access::Operation;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Allowed, or denied by the hook with this code.
    Answered(u16),
    /// The hook could not be asked; with this code.
    Unreachable(u16),
    /// The answer could not be used.
    Unusable,
}

/// The handles.
pub(super) struct Metrics {
    duration: HistogramVec,
    requests: IntCounterVec,
    rejections: IntCounterVec,
    open: IntCounterVec,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let buckets = vec![0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];
        let this = Self {
            duration: HistogramVec::new(
                HistogramOpts::new(
                    "apiserver_admission_webhook_admission_duration_seconds",
                    "Admission webhook latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
                )
                .buckets(buckets),
                &["name", "type", "operation", "rejected"],
            )?,
            requests: IntCounterVec::new(
                Opts::new(
                    "apiserver_admission_webhook_request_total",
                    "Admission webhook request total, identified by name and broken out for each admission type (validating or mutating) and operation. Additional labels specify whether the request was rejected or not and an HTTP status code. Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
                ),
                &["name", "type", "operation", "code", "rejected"],
            )?,
            rejections: IntCounterVec::new(
                Opts::new(
                    "apiserver_admission_webhook_rejection_count",
                    "Admission webhook rejection count, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify an error type (calling_webhook_error or apiserver_internal_error if an error occurred; no_error otherwise) and optionally a non-zero rejection code if the webhook rejects the request with an HTTP status code (honored by the apiserver when the code is greater or equal to 400). Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
                ),
                &["name", "type", "operation", "error_type", "rejection_code"],
            )?,
            open: IntCounterVec::new(
                Opts::new(
                    "apiserver_admission_webhook_fail_open_count",
                    "Admission webhook fail open count, identified by name and broken out for each admission type (validating or mutating).",
                ),
                &["name", "type"],
            )?,
        };
        registry.register(Box::new(this.duration.clone()))?;
        registry.register(Box::new(this.requests.clone()))?;
        registry.register(Box::new(this.rejections.clone()))?;
        registry.register(Box::new(this.open.clone()))?;
        Ok(this)
    }

    /// Counts one call.
    pub(super) fn observe(
        &self,
        (hook, phase, operation): (&Hook, Phase, Operation),
        time: Duration,
        ending: Ending,
        rejected: bool,
    ) {
        let (name, step, operation) = (hook.name.as_str(), phase.step(), operation.name());
        let (error, code) = match ending {
            Ending::Answered(code) => ("no_error", code),
            Ending::Unreachable(code) => ("calling_webhook_error", code),
            Ending::Unusable => ("apiserver_internal_error", 500),
        };
        let (code, rejected_text) = (code.min(600).to_string(), rejected.to_string());
        self.duration
            .with_label_values(&[name, step, operation, &rejected_text])
            .observe(time.as_secs_f64());
        self.requests
            .with_label_values(&[name, step, operation, &code, &rejected_text])
            .inc();
        if rejected {
            let code = if error == "no_error" { &code } else { "0" };
            self.rejections
                .with_label_values(&[name, step, operation, error, code])
                .inc();
        }
    }

    /// Counts a request that went on without its hook.
    pub(super) fn failed_open(&self, hook: &Hook, phase: Phase) {
        self.open.with_label_values(&[&hook.name, phase.step()]).inc();
    }
}
