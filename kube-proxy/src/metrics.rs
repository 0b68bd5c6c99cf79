//! Metrics under upstream's names.

use std::time::Duration;

use prometheus::{Gauge, HistogramOpts, HistogramVec, IntCounter, IntGauge, Opts, Registry};

/// The metrics of the service rules.
#[derive(Clone, Debug)]
pub struct Metrics {
    sync_duration: HistogramVec,
    network_programming: prometheus::Histogram,
    last_sync: Gauge,
    last_queued: Gauge,
    failures: IntCounter,
    /// Services that changed.
    pub service_changes: IntCounter,
    /// EndpointSlices that changed.
    pub endpoint_changes: IntCounter,
    no_local_endpoints: IntGauge,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let name = |name: &str| format!("kubeproxy_{name}");
        let sync_duration = HistogramVec::new(
            HistogramOpts::new(
                name("sync_proxy_rules_duration_seconds"),
                "SyncProxyRules latency in seconds.",
            )
            .buckets(prometheus::exponential_buckets(0.001, 2.0, 15)?),
            &["ip_family"],
        )?;
        // Upstream's buckets: fine below a second, then coarser up to five minutes.
        let mut buckets = vec![0.25, 0.5];
        buckets.extend((1..60).map(f64::from));
        buckets.extend((60..120).step_by(5).map(f64::from));
        buckets.extend((120..=300).step_by(30).map(f64::from));
        let network_programming = prometheus::Histogram::with_opts(
            HistogramOpts::new(
                name("network_programming_duration_seconds"),
                "In Cluster Network Programming Latency in seconds.",
            )
            .buckets(buckets),
        )?;
        let metrics = Self {
            sync_duration,
            network_programming,
            last_sync: Gauge::with_opts(Opts::new(
                name("sync_proxy_rules_last_timestamp_seconds"),
                "The last time proxy rules were successfully synced.",
            ))?,
            last_queued: Gauge::with_opts(Opts::new(
                name("sync_proxy_rules_last_queued_timestamp_seconds"),
                "The last time a sync of proxy rules was queued.",
            ))?,
            failures: IntCounter::with_opts(Opts::new(
                name("sync_proxy_rules_nftables_sync_failures_total"),
                "Cumulative proxy nftables sync failures.",
            ))?,
            service_changes: IntCounter::with_opts(Opts::new(
                name("sync_proxy_rules_service_changes_total"),
                "Cumulative proxy rules Service changes.",
            ))?,
            endpoint_changes: IntCounter::with_opts(Opts::new(
                name("sync_proxy_rules_endpoint_changes_total"),
                "Cumulative proxy rules Endpoint changes.",
            ))?,
            no_local_endpoints: IntGauge::with_opts(Opts::new(
                name("sync_proxy_rules_no_local_endpoints_total"),
                "Number of frontends with a Local traffic policy and no endpoint on this node.",
            ))?,
        };
        registry.register(Box::new(metrics.sync_duration.clone()))?;
        registry.register(Box::new(metrics.network_programming.clone()))?;
        registry.register(Box::new(metrics.last_sync.clone()))?;
        registry.register(Box::new(metrics.last_queued.clone()))?;
        registry.register(Box::new(metrics.failures.clone()))?;
        registry.register(Box::new(metrics.service_changes.clone()))?;
        registry.register(Box::new(metrics.endpoint_changes.clone()))?;
        registry.register(Box::new(metrics.no_local_endpoints.clone()))?;
        Ok(metrics)
    }

    /// A change waits for the next sync.
    pub fn queued(&self) {
        self.last_queued.set(now());
    }

    /// A sync ended.
    pub fn synced(&self, took: Duration, ok: bool, ipv6: bool, without_local_endpoints: usize) {
        self.sync_duration
            .with_label_values(&["IPv4"])
            .observe(took.as_secs_f64());
        if ipv6 {
            self.sync_duration
                .with_label_values(&["IPv6"])
                .observe(took.as_secs_f64());
        }
        if !ok {
            self.failures.inc();
            return;
        }
        self.last_sync.set(now());
        self.no_local_endpoints
            .set(i64::try_from(without_local_endpoints).unwrap_or(i64::MAX));
    }

    /// A change of endpoints that happened `at` has reached the kernel.
    pub fn programmed(&self, at: jiff::Timestamp) {
        let seconds = jiff::Timestamp::now().duration_since(at).as_secs_f64();
        self.network_programming.observe(seconds.max(0.0));
    }
}

fn now() -> f64 {
    jiff::Timestamp::now().as_duration().as_secs_f64()
}
