//! The `workqueue_*` metrics under upstream's names, one series a queue.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// Upstream's buckets: 10 ns to 1000 s by powers of ten.
const BUCKETS: [f64; 12] = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0];

/// The metrics of every queue of a process.
#[derive(Clone)]
pub struct Metrics {
    depth: IntGaugeVec,
    adds: IntCounterVec,
    retries: IntCounterVec,
    queue_duration: HistogramVec,
    work_duration: HistogramVec,
    unfinished: UnfinishedWork,
}

/// What a queue tells about the work it has handed out: the age of each piece.
pub(crate) trait Unfinished: Send + Sync {
    fn ages(&self) -> Vec<Duration>;
}

/// The series of one queue.
pub(crate) struct QueueMetrics {
    pub(crate) depth: IntGauge,
    pub(crate) adds: IntCounter,
    pub(crate) retries: IntCounter,
    pub(crate) queue_duration: Histogram,
    pub(crate) work_duration: Histogram,
}

impl Metrics {
    /// Metrics that no registry shows yet.
    #[expect(
        clippy::expect_used,
        reason = "the names are literals of this file and every test makes them"
    )]
    pub fn new() -> Metrics {
        let opts = |name: &str, help: &str| Opts::new(format!("workqueue_{name}"), help);
        let histogram = |name: &str, help: &str| {
            HistogramVec::new(
                HistogramOpts::from(opts(name, help)).buckets(BUCKETS.to_vec()),
                &["name"],
            )
            .expect("literal metric name")
        };
        Metrics {
            depth: IntGaugeVec::new(opts("depth", "Keys that wait for a worker"), &["name"])
                .expect("literal metric name"),
            adds: IntCounterVec::new(opts("adds_total", "Keys that became due"), &["name"])
                .expect("literal metric name"),
            retries: IntCounterVec::new(opts("retries_total", "Keys put back after a failure"), &["name"])
                .expect("literal metric name"),
            queue_duration: histogram("queue_duration_seconds", "Time a key waits before a worker takes it"),
            work_duration: histogram("work_duration_seconds", "Time a worker needs for a key"),
            unfinished: UnfinishedWork::new(
                GaugeVec::new(
                    opts("unfinished_work_seconds", "Age of the work in progress, summed"),
                    &["name"],
                )
                .expect("literal metric name"),
                GaugeVec::new(
                    opts(
                        "longest_running_processor_seconds",
                        "Age of the oldest work in progress",
                    ),
                    &["name"],
                )
                .expect("literal metric name"),
            ),
        }
    }

    /// Shows the metrics in `registry`.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.depth.clone()))?;
        registry.register(Box::new(self.adds.clone()))?;
        registry.register(Box::new(self.retries.clone()))?;
        registry.register(Box::new(self.queue_duration.clone()))?;
        registry.register(Box::new(self.work_duration.clone()))?;
        registry.register(Box::new(self.unfinished.clone()))
    }

    pub(crate) fn queue(&self, name: &str) -> QueueMetrics {
        QueueMetrics {
            depth: self.depth.with_label_values(&[name]),
            adds: self.adds.with_label_values(&[name]),
            retries: self.retries.with_label_values(&[name]),
            queue_duration: self.queue_duration.with_label_values(&[name]),
            work_duration: self.work_duration.with_label_values(&[name]),
        }
    }

    pub(crate) fn watch(&self, name: &str, queue: Weak<dyn Unfinished>) {
        let (sum, longest) = (&self.unfinished.sum, &self.unfinished.longest);
        let watched = Watched {
            sum: sum.with_label_values(&[name]),
            longest: longest.with_label_values(&[name]),
            queue,
        };
        self.unfinished.watched.lock().push(watched);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

/// Computes the ages when it is scraped: nothing ticks in between.
#[derive(Clone)]
struct UnfinishedWork {
    sum: GaugeVec,
    longest: GaugeVec,
    watched: Arc<Mutex<Vec<Watched>>>,
}

struct Watched {
    sum: Gauge,
    longest: Gauge,
    queue: Weak<dyn Unfinished>,
}

impl UnfinishedWork {
    fn new(sum: GaugeVec, longest: GaugeVec) -> Self {
        UnfinishedWork {
            sum,
            longest,
            watched: Arc::default(),
        }
    }
}

impl Collector for UnfinishedWork {
    fn desc(&self) -> Vec<&Desc> {
        self.sum.desc().into_iter().chain(self.longest.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for watched in self.watched.lock().iter() {
            let ages = watched.queue.upgrade().map(|queue| queue.ages()).unwrap_or_default();
            watched.sum.set(ages.iter().sum::<Duration>().as_secs_f64());
            watched
                .longest
                .set(ages.iter().max().map_or(0.0, Duration::as_secs_f64));
        }
        self.sum.collect().into_iter().chain(self.longest.collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Queue;

    #[tokio::test(start_paused = true)]
    async fn shows_depth_adds_and_the_age_of_work_in_progress() {
        let (metrics, registry) = (Metrics::new(), Registry::new());
        metrics.register(&registry).unwrap();
        let queue = Queue::new("deployment", &metrics);
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.get().await, "a");
        tokio::time::advance(Duration::from_secs(3)).await;

        let value = |name: &str| {
            let family = registry
                .gather()
                .into_iter()
                .find(|family| family.name() == name)
                .unwrap();
            let metric = &family.get_metric()[0];
            assert_eq!(metric.get_label()[0].value(), "deployment");
            metric.get_counter().get_value() + metric.get_gauge().get_value()
        };
        assert_eq!(value("workqueue_adds_total"), 2.0);
        assert_eq!(value("workqueue_depth"), 1.0);
        assert_eq!(value("workqueue_longest_running_processor_seconds"), 3.0);
        queue.done(&"a");
        assert_eq!(value("workqueue_unfinished_work_seconds"), 0.0);
    }
}
