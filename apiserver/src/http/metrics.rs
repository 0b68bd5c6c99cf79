//! Request metrics under upstream's names.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use api::Error;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use tower::ServiceExt;

use super::State;
use super::body::{Body, BodyError, Request, Response};
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

/// The labels of what is counted without `dry_run` and `code`.
const PLACE: &[&str] = &[
    "verb",
    "group",
    "version",
    "resource",
    "subresource",
    "scope",
    "component",
];
const SIZES: &[f64] = &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
const IDENTITY_BUCKETS: &[f64] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
];

/// The handles.
pub struct Metrics {
    /// For `/metrics`.
    pub registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    own_durations: HistogramVec,
    sizes: HistogramVec,
    long_running: IntGaugeVec,
    inflight: IntGaugeVec,
    attempts: IntCounterVec,
    attempt_durations: HistogramVec,
    users: IntCounterVec,
    decisions: IntCounterVec,
    decision_durations: HistogramVec,
    /// `apiserver_storage_objects`.
    pub objects: IntGaugeVec,
    /// `apiserver_storage_revision`, of the store behind this server.
    pub revision: IntGauge,
}

/// A collector that `registry` answers for from now on.
fn kept<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: Result<C, prometheus::Error>,
) -> Result<C, prometheus::Error> {
    let collector = collector?;
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When a name is registered twice, a fault of this file.
    pub fn new(registry: Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            kept(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gauge =
            |name: &str, help: &str, labels: &[&str]| kept(&registry, IntGaugeVec::new(Opts::new(name, help), labels));
        let histogram = |name: &str, help: &str, buckets: &[f64], labels: &[&str]| {
            kept(
                &registry,
                HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels),
            )
        };
        Ok(Self {
            requests: counter(
                "apiserver_request_total",
                "Requests, by what was asked and how it was answered.",
                LABELS,
            )?,
            durations: histogram(
                "apiserver_request_duration_seconds",
                "Time to answer a request.",
                BUCKETS,
                &LABELS[..LABELS.len() - 1],
            )?,
            own_durations: histogram(
                "apiserver_request_sli_duration_seconds",
                "Time to answer a request without the time that it waited for its turn.",
                BUCKETS,
                PLACE,
            )?,
            sizes: histogram("apiserver_response_sizes", "Bytes of answers.", SIZES, PLACE)?,
            long_running: gauge(
                "apiserver_longrunning_requests",
                "Requests that last as long as they like and are running.",
                PLACE,
            )?,
            inflight: gauge(
                "apiserver_current_inflight_requests",
                "Requests that are being answered.",
                &["request_kind"],
            )?,
            attempts: counter(
                "authentication_attempts",
                "Credentials that were looked at.",
                &["result"],
            )?,
            attempt_durations: histogram(
                "authentication_duration_seconds",
                "Time to look at credentials.",
                IDENTITY_BUCKETS,
                &["result"],
            )?,
            users: counter("authenticated_user_requests", "Requests by known users.", &["username"])?,
            decisions: counter(
                "authorization_attempts_total",
                "Requests that were judged.",
                &["result"],
            )?,
            decision_durations: histogram(
                "authorization_duration_seconds",
                "Time to judge requests.",
                IDENTITY_BUCKETS,
                &["result"],
            )?,
            objects: gauge(
                "apiserver_storage_objects",
                "Objects in the store, when last counted.",
                &["resource"],
            )?,
            revision: kept(
                &registry,
                IntGauge::new(
                    "apiserver_storage_revision",
                    "Revision of the store as this server has it.",
                ),
            )?,
            registry,
        })
    }

    /// Counts credentials that were looked at since `start`; the user's name if they are good, nothing for a request without any.
    pub fn authenticated(&self, outcome: Result<Option<&str>, ()>, start: Instant) {
        let result = if outcome.is_ok() { "success" } else { "failure" };
        self.attempts.with_label_values(&[result]).inc();
        self.attempt_durations
            .with_label_values(&[result])
            .observe(start.elapsed().as_secs_f64());
        if let Ok(Some(name)) = outcome {
            self.users.with_label_values(&[known_user(name)]).inc();
        }
    }

    /// Counts a judgement that began at `start`.
    pub fn authorized(&self, allowed: bool, start: Instant) {
        let result = if allowed { "allowed" } else { "denied" };
        self.decisions.with_label_values(&[result]).inc();
        self.decision_durations
            .with_label_values(&[result])
            .observe(start.elapsed().as_secs_f64());
    }

    /// Objects of a resource that is served, when last counted.
    pub fn count(&self, resource: &api::GroupResource) -> u64 {
        let gauge = self.objects.with_label_values(&[&resource.to_string()]);
        u64::try_from(gauge.get()).unwrap_or(0)
    }

    /// Counts a long-running request until the guard is dropped.
    pub fn long_running(&self, served: &registry::Registry, info: &RequestInfo) -> GaugeGuard {
        let [verb, _, group, version, resource, subresource, scope, component] = labels(served, info);
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
    let [verb, dry_run, group, version, resource, subresource, scope, component] = labels(&state.registry, &info);
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
    if long {
        return outcome;
    }
    let elapsed = start.elapsed();
    let labels = [verb, dry_run, group, version, resource, subresource, scope, component];
    state
        .metrics
        .durations
        .with_label_values(&labels)
        .observe(elapsed.as_secs_f64());
    let place = [verb, group, version, resource, subresource, scope, component];
    let waited = outcome
        .as_ref()
        .ok()
        .and_then(|response| response.extensions().get::<Waited>())
        .map_or(Duration::ZERO, |w| w.0);
    let own = elapsed.saturating_sub(waited);
    state
        .metrics
        .own_durations
        .with_label_values(&place)
        .observe(own.as_secs_f64());
    let sizes = state.metrics.sizes.with_label_values(&place);
    outcome.map(|response| response.map(|body| Counted::watching(body, sizes)))
}

/// How long a request waited for its turn; an extension of its answer.
#[derive(Debug, Clone, Copy)]
pub struct Waited(pub Duration);

/// A body that tells its size when it is done with.
struct Counted {
    body: Body,
    bytes: u64,
    sizes: Histogram,
}

impl Counted {
    /// Looks at once if the size is known, and on the way if not.
    fn watching(body: Body, sizes: Histogram) -> Body {
        match body.size_hint().exact() {
            Some(bytes) => {
                sizes.observe(bytes as f64);
                body
            }
            None => Self { body, bytes: 0, sizes }.boxed_unsync(),
        }
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.sizes.observe(self.bytes as f64);
    }
}

/// Clients cannot make new series: upstream names these users and no others.
fn known_user(name: &str) -> &str {
    const NAMED: &[&str] = &[
        "admin",
        "client",
        "kube_proxy",
        "kubelet",
        "system:serviceaccount:kube-system:default",
    ];
    match name {
        name if name.contains('@') => "email_id",
        name if NAMED.contains(&name) => name,
        _ => "other",
    }
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
fn labels<'a>(served: &registry::Registry, info: &'a RequestInfo) -> [&'a str; 8] {
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
    let Some(kind) = served.find(&a.group, &a.version, &a.resource) else {
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
        &a.group,
        &a.version,
        &a.resource,
        subresource,
        scope,
        "apiserver",
    ]
}
