//! What the store reports about itself. Names follow etcd's where a dashboard of an apiserver knows them.

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntGauge, Registry};

/// The store's metrics.
#[derive(Debug)]
pub struct Metrics {
    pub(super) get: Histogram,
    pub(super) list: Histogram,
    pub(super) transact: Histogram,
    pub(super) fsync: Histogram,
    pub(super) proposals: IntCounter,
    pub(super) proposals_failed: IntCounter,
    pub(super) entries: IntCounter,
    pub(super) term: IntGauge,
    pub(super) is_leader: IntGauge,
    pub(super) has_leader: IntGauge,
    pub(super) last_index: IntGauge,
    pub(super) applied_index: IntGauge,
    pub(super) snapshot_index: IntGauge,
}

impl Metrics {
    /// Makes the metrics and registers them.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let seconds = |name, help, first| {
            Ok::<_, prometheus::Error>(
                HistogramOpts::new(name, help).buckets(prometheus::exponential_buckets(first, 2.0, 15)?),
            )
        };
        let requests = HistogramVec::new(
            seconds(
                "etcd_request_duration_seconds",
                "Time of a store request by operation.",
                0.0001,
            )?,
            &["operation"],
        )?;
        let request = |operation| requests.get_metric_with_label_values(&[operation]);
        let metrics = Self {
            get: request("get")?,
            list: request("list")?,
            transact: request("txn")?,
            fsync: Histogram::with_opts(seconds(
                "keelson_raft_log_fsync_duration_seconds",
                "Time to make an append to the log durable.",
                0.00005,
            )?)?,
            proposals: IntCounter::new("keelson_raft_proposals_total", "Transactions proposed here.")?,
            proposals_failed: IntCounter::new(
                "keelson_raft_proposals_failed_total",
                "Transactions without an outcome.",
            )?,
            entries: IntCounter::new("keelson_raft_log_entries_total", "Log entries proposed here.")?,
            term: IntGauge::new("keelson_raft_term", "Current term.")?,
            is_leader: IntGauge::new("keelson_raft_is_leader", "Whether this member leads.")?,
            has_leader: IntGauge::new("keelson_raft_has_leader", "Whether this member knows a leader.")?,
            last_index: IntGauge::new("keelson_raft_last_index", "Last entry in the log.")?,
            applied_index: IntGauge::new("keelson_raft_applied_index", "Last applied entry.")?,
            snapshot_index: IntGauge::new("keelson_raft_snapshot_index", "Last entry in the newest snapshot.")?,
        };
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(metrics.fsync.clone()))?;
        for counter in [&metrics.proposals, &metrics.proposals_failed, &metrics.entries] {
            registry.register(Box::new(counter.clone()))?;
        }
        for gauge in [
            &metrics.term,
            &metrics.is_leader,
            &metrics.has_leader,
            &metrics.last_index,
            &metrics.applied_index,
            &metrics.snapshot_index,
        ] {
            registry.register(Box::new(gauge.clone()))?;
        }
        Ok(metrics)
    }
}
