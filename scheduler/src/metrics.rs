//! Metrics under upstream's names.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::queue::Depth;

/// The scheduler's metrics; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    attempt_duration: Histogram,
    sli_duration: Histogram,
    attempts_per_pod: Histogram,
    scheduled: IntCounter,
    unschedulable: IntCounter,
    errors: IntCounter,
    active: IntGauge,
    backoff: IntGauge,
    waiting: IntGauge,
}

impl Metrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// When a name is taken, which is a programming error.
    pub fn new(registry: &Registry, profile: &str) -> prometheus::Result<Self> {
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| -> prometheus::Result<Histogram> {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok(histogram)
        };
        let attempts = IntCounterVec::new(
            Opts::new(
                "scheduler_schedule_attempts_total",
                "Number of attempts to schedule pods, by the result.",
            )
            .const_label("profile", profile),
            &["result"],
        )?;
        registry.register(Box::new(attempts.clone()))?;
        let pending = IntGaugeVec::new(
            Opts::new("scheduler_pending_pods", "Number of pending pods, by the queue type."),
            &["queue"],
        )?;
        registry.register(Box::new(pending.clone()))?;
        Ok(Self {
            attempt_duration: histogram(
                "scheduler_scheduling_attempt_duration_seconds",
                "Scheduling attempt latency in seconds (scheduling algorithm).",
                prometheus::exponential_buckets(0.000_01, 2.0, 18)?,
            )?,
            sli_duration: histogram(
                "scheduler_pod_scheduling_sli_duration_seconds",
                "Latency from a pod's entry into the queue to its binding, in seconds.",
                prometheus::exponential_buckets(0.001, 2.0, 20)?,
            )?,
            attempts_per_pod: histogram(
                "scheduler_pod_scheduling_attempts",
                "Number of attempts to successfully schedule a pod.",
                prometheus::exponential_buckets(1.0, 2.0, 5)?,
            )?,
            scheduled: attempts.with_label_values(&["scheduled"]),
            unschedulable: attempts.with_label_values(&["unschedulable"]),
            errors: attempts.with_label_values(&["error"]),
            active: pending.with_label_values(&["active"]),
            backoff: pending.with_label_values(&["backoff"]),
            waiting: pending.with_label_values(&["unschedulable"]),
        })
    }

    /// A cycle took this long.
    pub fn attempt(&self, took: Duration) {
        self.attempt_duration.observe(took.as_secs_f64());
    }

    /// A pod was bound, so long after it came in.
    pub fn scheduled(&self, attempts: u32, after: Duration) {
        self.scheduled.inc();
        self.attempts_per_pod.observe(attempts.into());
        self.sli_duration.observe(after.as_secs_f64());
    }

    /// A pod fits nowhere.
    pub fn unschedulable(&self) {
        self.unschedulable.inc();
    }

    /// A binding failed.
    pub fn error(&self) {
        self.errors.inc();
    }

    /// So many pods wait.
    pub fn depth(&self, depth: Depth) {
        self.active.set(depth.active as i64);
        self.backoff.set(depth.backoff as i64);
        self.waiting.set(depth.unschedulable as i64);
    }
}
