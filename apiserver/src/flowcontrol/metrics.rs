//! `apiserver_flowcontrol_*`.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::dispatch::Refusal;
use super::shares::Bounds;

const BUCKETS: &[f64] = &[0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
const LABELS: &[&str] = &["priority_level", "flow_schema"];

/// The handles.
pub struct Metrics {
    refused: IntCounterVec,
    begun: IntCounterVec,
    queued: IntGaugeVec,
    running: IntGaugeVec,
    seats: IntGaugeVec,
    waits: HistogramVec,
    runs: HistogramVec,
    limits: [IntGaugeVec; 4],
}

/// Those of one FlowSchema at its level.
#[derive(Clone)]
pub struct Flow {
    refused: [IntCounter; 3],
    begun: IntCounter,
    queued: IntGauge,
    running: IntGauge,
    seats: IntGauge,
    waits: [Histogram; 2],
    runs: Histogram,
}

/// Counts a request as waiting while it lives.
pub struct Queued(IntGauge);

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Registers everything.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        fn kept<C: Collector + Clone + 'static>(
            registry: &Registry,
            made: Result<C, prometheus::Error>,
        ) -> Result<C, prometheus::Error> {
            let made = made?;
            registry.register(Box::new(made.clone()))?;
            Ok(made)
        }
        let name = |name: &str| format!("apiserver_flowcontrol_{name}");
        let counter = |what: &str, help: &str, labels: &[&str]| {
            kept(registry, IntCounterVec::new(Opts::new(name(what), help), labels))
        };
        let gauge = |what: &str, help: &str, labels: &[&str]| {
            kept(registry, IntGaugeVec::new(Opts::new(name(what), help), labels))
        };
        let histogram = |what: &str, help: &str, labels: &[&str]| {
            kept(
                registry,
                HistogramVec::new(HistogramOpts::new(name(what), help).buckets(BUCKETS.to_vec()), labels),
            )
        };
        let level = &LABELS[..1];
        Ok(Self {
            refused: counter(
                "rejected_requests_total",
                "Requests that came to no turn.",
                &["priority_level", "flow_schema", "reason"],
            )?,
            begun: counter("dispatched_requests_total", "Requests that came to their turn.", LABELS)?,
            queued: gauge("current_inqueue_requests", "Requests that wait for their turn.", LABELS)?,
            running: gauge(
                "current_executing_requests",
                "Requests that are being answered, watches until they have begun.",
                LABELS,
            )?,
            seats: gauge(
                "current_executing_seats",
                "Seats of the requests that are being answered.",
                LABELS,
            )?,
            waits: histogram(
                "request_wait_duration_seconds",
                "Time that requests waited.",
                &["priority_level", "flow_schema", "execute"],
            )?,
            runs: histogram(
                "request_execution_seconds",
                "Time to answer requests after their turn has come.",
                LABELS,
            )?,
            limits: [
                gauge(
                    "nominal_limit_seats",
                    "Seats of a level while nobody lends or borrows.",
                    level,
                )?,
                gauge("lower_limit_seats", "Seats that a level always has.", level)?,
                gauge("upper_limit_seats", "Seats that a level may have at most.", level)?,
                gauge("current_limit_seats", "Seats that a level has.", level)?,
            ],
        })
    }

    /// The bounds of a level.
    pub fn bounds(&self, level: &str, bounds: &Bounds) {
        for (gauge, value) in self.limits.iter().zip([bounds.nominal, bounds.lower, bounds.upper]) {
            gauge.with_label_values(&[level]).set(i64::from(value));
        }
    }

    /// The seats of a level.
    pub fn current(&self, level: &str, seats: u32) {
        self.limits[3].with_label_values(&[level]).set(i64::from(seats));
    }

    /// The handles of a FlowSchema at a level.
    pub fn flow(&self, schema: &str, level: &str) -> Flow {
        let labels = [level, schema];
        let refused = |refusal: Refusal| self.refused.with_label_values(&[level, schema, refusal.word()]);
        let waits = |executed: &str| self.waits.with_label_values(&[level, schema, executed]);
        Flow {
            refused: [
                refused(Refusal::ConcurrencyLimit),
                refused(Refusal::QueueFull),
                refused(Refusal::TimeOut),
            ],
            begun: self.begun.with_label_values(&labels),
            queued: self.queued.with_label_values(&labels),
            running: self.running.with_label_values(&labels),
            seats: self.seats.with_label_values(&labels),
            waits: [waits("false"), waits("true")],
            runs: self.runs.with_label_values(&labels),
        }
    }
}

impl Flow {
    /// A request waits.
    pub fn queued(&self) -> Queued {
        self.queued.inc();
        Queued(self.queued.clone())
    }

    /// It is refused.
    pub fn refused(&self, why: Refusal, waited: Duration) {
        self.refused[why as usize].inc();
        self.waits[0].observe(waited.as_secs_f64());
    }

    /// It begins.
    pub fn begun(&self, width: u32, waited: Duration) {
        self.begun.inc();
        self.running.inc();
        self.seats.add(i64::from(width));
        self.waits[1].observe(waited.as_secs_f64());
    }

    /// It has ended.
    pub fn ended(&self, width: u32, took: Duration) {
        self.running.dec();
        self.seats.sub(i64::from(width));
        self.runs.observe(took.as_secs_f64());
    }
}
