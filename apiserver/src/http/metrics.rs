//! Request metrics under upstream's names.

use std::sync::Arc;
use std::time::Instant;

use api::Error;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use tower::ServiceExt;

use super::State;
use super::body::{Request, Response};
use super::layer::Next;
use super::request_info::RequestInfo;
use super::router::info;
use crate::registry;

const BUCKETS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];
const LABELS: &[&str] = &[
    "verb",
    "dry_run",
    "group",
    "version",
    "resource",
    "subresource",
    "scope",
    "component",
    "code",
];

/// The handles.
pub struct Metrics {
    /// For `/metrics`.
    pub registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    long_running: IntGaugeVec,
    inflight: IntGaugeVec,
    /// `apiserver_storage_objects`.
    pub objects: IntGaugeVec,
    /// `apiserver_storage_revision`, of the store behind this server.
    pub revision: IntGauge,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When a name is registered twice, a fault of this file.
    pub fn new(registry: Registry) -> Result<Self, prometheus::Error> {
        let requests = IntCounterVec::new(
            Opts::new(
                "apiserver_request_total",
                "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
            ),
            LABELS,
        )?;
        let durations = HistogramVec::new(
            HistogramOpts::new("apiserver_request_duration_seconds", "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.")
                .buckets(BUCKETS.to_vec()),
            &LABELS[..LABELS.len() - 1],
        )?;
        let long_running = IntGaugeVec::new(
            Opts::new(
                "apiserver_longrunning_requests",
                "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.",
            ),
            &[
                "verb",
                "group",
                "version",
                "resource",
                "subresource",
                "scope",
                "component",
            ],
        )?;
        let inflight = IntGaugeVec::new(
            Opts::new(
                "apiserver_current_inflight_requests",
                "Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
            ),
            &["request_kind"],
        )?;
        let objects = IntGaugeVec::new(
            Opts::new(
                "apiserver_storage_objects",
                "Number of stored objects at the time of last check split by kind.",
            ),
            &["resource"],
        )?;
        let revision = IntGauge::new(
            "apiserver_storage_revision",
            "Revision of the store as this server has it.",
        )?;
        for collector in [
            Box::new(requests.clone()) as Box<dyn prometheus::core::Collector>,
            Box::new(durations.clone()),
            Box::new(long_running.clone()),
            Box::new(inflight.clone()),
            Box::new(objects.clone()),
            Box::new(revision.clone()),
        ] {
            registry.register(collector)?;
        }
        Ok(Self {
            registry,
            requests,
            durations,
            long_running,
            inflight,
            objects,
            revision,
        })
    }

    /// Counts a long-running request until the guard is dropped.
    pub fn long_running(&self, info: &RequestInfo) -> GaugeGuard {
        let [verb, _, group, version, resource, subresource, scope, component] = labels(info);
        GaugeGuard::new(self.long_running.with_label_values(&[
            verb,
            group,
            version,
            resource,
            subresource,
            scope,
            component,
        ]))
    }
}

/// Holds a gauge one higher while it lives.
pub struct GaugeGuard(IntGauge);

impl GaugeGuard {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counts and times a request.
pub async fn measure(state: Arc<State>, request: Request, next: Next) -> Result<Response, Error> {
    let info = info(&request);
    let start = Instant::now();
    let long = info.is_long_running();
    let kind = if matches!(info.attributes.verb.as_str(), "get" | "list" | "watch") {
        "readOnly"
    } else {
        "mutating"
    };
    let inflight = (!long).then(|| GaugeGuard::new(state.metrics.inflight.with_label_values(&[kind])));
    let outcome = next.oneshot(request).await;
    drop(inflight);
    let code = match &outcome {
        Ok(response) => response.status().as_u16(),
        Err(error) => error.code,
    };
    let [verb, dry_run, group, version, resource, subresource, scope, component] = labels(&info);
    let mut text = [0u8; 3];
    let code = digits(code, &mut text);
    state
        .metrics
        .requests
        .with_label_values(&[
            verb,
            dry_run,
            group,
            version,
            resource,
            subresource,
            scope,
            component,
            code,
        ])
        .inc();
    if !long {
        let labels = [verb, dry_run, group, version, resource, subresource, scope, component];
        state
            .metrics
            .durations
            .with_label_values(&labels)
            .observe(start.elapsed().as_secs_f64());
    }
    outcome
}

fn digits(code: u16, text: &mut [u8; 3]) -> &str {
    let code = code.min(999);
    *text = [
        b'0' + (code / 100) as u8,
        b'0' + (code / 10 % 10) as u8,
        b'0' + (code % 10) as u8,
    ];
    std::str::from_utf8(text).unwrap_or("")
}

/// Only words that the server knows become labels: clients cannot make new series.
fn labels(info: &RequestInfo) -> [&str; 8] {
    let a = &info.attributes;
    let verb = match a.verb.as_str() {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "OTHER",
    };
    let dry_run = if info.query.get("dryRun") == "All" { "All" } else { "" };
    let Some(kind) = registry::find(&a.group, &a.version, &a.resource) else {
        return [verb, dry_run, "", "", "", "", "", "apiserver"];
    };
    let subresource = kind
        .info
        .subresources
        .iter()
        .map(|s| s.name)
        .find(|name| *name == a.subresource)
        .unwrap_or("");
    let scope = match (a.name.is_empty(), a.namespace.is_empty()) {
        (false, _) => "resource",
        (true, false) => "namespace",
        (true, true) => "cluster",
    };
    [
        verb,
        dry_run,
        &kind.info.group,
        &kind.info.version,
        &kind.info.resource,
        subresource,
        scope,
        "apiserver",
    ]
}
