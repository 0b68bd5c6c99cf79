//! kubelet's metrics, under upstream's names. Owns their registration; never decides anything.

use prometheus::{Gauge, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use std::sync::Arc;

/// Every metric of the kubelet; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    /// `kubelet_runtime_operations_total{operation_type}`.
    pub runtime_operations: IntCounterVec,
    /// `kubelet_runtime_operations_errors_total{operation_type}`.
    pub runtime_errors: IntCounterVec,
    /// `kubelet_runtime_operations_duration_seconds{operation_type}`.
    pub runtime_duration: HistogramVec,
    /// `kubelet_running_pods`.
    pub running_pods: IntGauge,
    /// `kubelet_running_containers{container_state}`.
    pub containers: IntGaugeVec,
    /// `kubelet_desired_pods`.
    pub desired_pods: IntGauge,
    /// `kubelet_pod_start_duration_seconds`: from when the kubelet first saw the pod to all its containers running.
    pub pod_start: prometheus::Histogram,
    /// `kubelet_pod_worker_duration_seconds{operation_type}`.
    pub pod_worker: HistogramVec,
    /// `kubelet_pleg_relist_duration_seconds`.
    pub relist: prometheus::Histogram,
    /// `kubelet_pleg_last_seen_seconds`.
    pub relist_last_seen: Gauge,
    /// `kubelet_started_containers_total{container_type}`.
    pub started_containers: IntCounterVec,
    /// `kubelet_started_containers_errors_total{container_type,code}`.
    pub started_containers_errors: IntCounterVec,
    /// `kubelet_started_pods_total`.
    pub started_pods: prometheus::IntCounter,
    /// `kubelet_started_pods_errors_total`.
    pub started_pods_errors: prometheus::IntCounter,
    /// `prober_probe_total{probe_type,result,container,pod,namespace,pod_uid}` without the unbounded labels.
    pub probes: IntCounterVec,
    /// `kubelet_node_name{node}`.
    pub node_name: IntGaugeVec,
}

impl Metrics {
    /// Makes the metrics and registers them. Fails when a name is registered twice.
    pub fn new(registry: &Registry) -> Result<Arc<Self>, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let counter = |name: &str, help: &str| -> Result<prometheus::IntCounter, prometheus::Error> {
            let metric = prometheus::IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec, prometheus::Error> {
            let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let histograms = |name: &str, help: &str, labels: &[&str]| -> Result<HistogramVec, prometheus::Error> {
            let options = HistogramOpts::new(name, help).buckets(duration_buckets());
            let metric = HistogramVec::new(options, labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let histogram = |name: &str, help: &str| -> Result<prometheus::Histogram, prometheus::Error> {
            let metric = prometheus::Histogram::with_opts(HistogramOpts::new(name, help).buckets(duration_buckets()))?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let last_seen = Gauge::new(
            "kubelet_pleg_last_seen_seconds",
            "Time of the last relist, in seconds since 1970.",
        )?;
        registry.register(Box::new(last_seen.clone()))?;
        Ok(Arc::new(Self {
            runtime_operations: counters(
                "kubelet_runtime_operations_total",
                "Number of calls of the container runtime.",
                &["operation_type"],
            )?,
            runtime_errors: counters(
                "kubelet_runtime_operations_errors_total",
                "Number of failed calls of the container runtime.",
                &["operation_type"],
            )?,
            runtime_duration: histograms(
                "kubelet_runtime_operations_duration_seconds",
                "Duration of calls of the container runtime.",
                &["operation_type"],
            )?,
            running_pods: gauge("kubelet_running_pods", "Number of pods that have a running sandbox.")?,
            containers: gauges(
                "kubelet_running_containers",
                "Number of containers by state.",
                &["container_state"],
            )?,
            desired_pods: gauge("kubelet_desired_pods", "Number of pods bound to this node.")?,
            pod_start: histogram(
                "kubelet_pod_start_duration_seconds",
                "From the kubelet seeing a pod for the first time to its containers running.",
            )?,
            pod_worker: histograms(
                "kubelet_pod_worker_duration_seconds",
                "Duration of one synchronisation of a pod.",
                &["operation_type"],
            )?,
            relist: histogram(
                "kubelet_pleg_relist_duration_seconds",
                "Duration of a relist of the runtime.",
            )?,
            relist_last_seen: last_seen,
            started_containers: counters(
                "kubelet_started_containers_total",
                "Number of containers started.",
                &["container_type"],
            )?,
            started_containers_errors: counters(
                "kubelet_started_containers_errors_total",
                "Number of containers that could not be started.",
                &["container_type", "code"],
            )?,
            started_pods: counter("kubelet_started_pods_total", "Number of pod sandboxes started.")?,
            started_pods_errors: counter(
                "kubelet_started_pods_errors_total",
                "Number of pod sandboxes that could not be started.",
            )?,
            probes: counters(
                "prober_probe_total",
                "Number of probes by type and result.",
                &["probe_type", "result"],
            )?,
            node_name: gauges("kubelet_node_name", "The node's name.", &["node"])?,
        }))
    }
}

fn duration_buckets() -> Vec<f64> {
    vec![
        0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
    ]
}
