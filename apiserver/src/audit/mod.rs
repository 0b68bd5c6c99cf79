//! Audit: what was asked of the API, by whom and with what outcome, written where an operator wants it. Owns the policy, the record of
//! each request in flight and the backends. Never decides about a request and never holds one up longer than a write to the log file takes.
//!
//! While a request is worked on, its record is in a task-local: [`annotate`] adds to it from anywhere below the HTTP stack, over REST and gRPC
//! alike. What carries credentials in its body (Secrets, tokens) is recorded without its objects whatever the policy says.

pub mod config;
pub mod event;
pub mod log;
pub mod policy;
pub mod webhook;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use api::Error;
use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, Opts};
use serde_json::{Value, json};

use crate::authn::review::user_value;
use crate::registry::access::{Attributes, UserInfo};
use event::{Event, ObjectReference};
use log::Log;
use policy::{Level, Policy, Stage, Verdict};

/// Objects whose text is longer, bytes, are left out of an event; the annotation [`TRUNCATED`] says so.
pub const MAX_OBJECT: usize = 10 << 20;
/// Upstream's mark of an event that is not whole.
const TRUNCATED: &str = "audit.k8s.io/truncated";

tokio::task_local! {
    static CURRENT: Arc<Record>;
}

/// Adds an annotation to the record of the request that is being worked on, if it is recorded. The first value of a key stays.
///
/// Keys are of the form `<domain of the component>/<name>`, as upstream's `authorization.k8s.io/decision`.
pub fn annotate(key: &str, value: impl Into<String>) {
    with(|record| record.annotate(key, value.into()));
}

/// Says who acts, once that is known: the request has been received.
pub fn received(user: &UserInfo) {
    with(|record| record.received(user));
}

/// Says whose powers are used instead.
pub fn impersonated(user: &UserInfo) {
    with(|record| record.event.lock().impersonated_user = Some(user_value(user)));
}

/// Says what a gRPC call is about; over REST that is known from the start.
pub fn describe(attributes: &Attributes) {
    with(|record| record.describe(attributes));
}

/// Says that a gRPC call failed, whose HTTP status does not tell.
pub fn failed(error: &Error) {
    with(|record| record.outcome.lock().error = Some(status_of(error)));
}

/// How much of the current request is recorded. Making objects into values costs time.
pub fn level() -> Level {
    CURRENT.try_with(|record| record.level()).unwrap_or_default()
}

/// Says that the credentials, of these kinds, were no good.
pub fn unauthenticated(methods: &str) {
    with(|record| record.unauthenticated(methods));
}

/// Hands over the request's object (the patch itself for a patch).
pub fn request_object(object: Value) {
    with(|record| record.request_object(object));
}

/// One part of a call that does many things at once, as a record of its own.
///
/// # Errors
/// Those of `part`.
pub async fn part<T>(part: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let Ok(whole) = CURRENT.try_with(Arc::clone) else {
        return part.await;
    };
    let record = Arc::new(whole.fork());
    let outcome = CURRENT.scope(record.clone(), part).await;
    if let Err(error) = &outcome {
        record.outcome.lock().error = Some(status_of(error));
    }
    record.complete(200);
    outcome
}

fn with(f: impl FnOnce(&Record)) {
    // Outside of requests (start, background work) there is nothing to add to.
    let _ = CURRENT.try_with(|record| f(record));
}

/// Where events go.
pub trait Sink: Send + Sync {
    /// The plugin's name in metrics.
    fn name(&self) -> &'static str;
    /// Takes an event, or loses it and says so.
    ///
    /// # Errors
    /// Why the event is lost.
    fn send(&self, event: &Event) -> Result<(), String>;
}

impl Sink for Log {
    fn name(&self) -> &'static str {
        "log"
    }

    fn send(&self, event: &Event) -> Result<(), String> {
        let mut line = serde_json::to_vec(event).map_err(|e| e.to_string())?;
        line.push(b'\n');
        self.write(&line).map_err(|e| e.to_string())
    }
}

/// Policy and backends.
pub struct Auditor {
    policy: Policy,
    sinks: Vec<Box<dyn Sink>>,
    events: IntCounter,
    levels: IntCounterVec,
    lost: IntCounterVec,
}

impl Auditor {
    /// Records by the policy to the backends.
    ///
    /// # Errors
    /// When the metrics are in the registry already.
    pub fn new(
        policy: Policy,
        sinks: Vec<Box<dyn Sink>>,
        metrics: &prometheus::Registry,
    ) -> prometheus::Result<Arc<Auditor>> {
        let auditor = Auditor {
            policy,
            sinks,
            events: IntCounter::new(
                "apiserver_audit_event_total",
                "Audit events generated and sent to the backends.",
            )?,
            levels: IntCounterVec::new(
                Opts::new("apiserver_audit_level_total", "Policy levels of requests."),
                &["level"],
            )?,
            lost: IntCounterVec::new(
                Opts::new("apiserver_audit_error_total", "Audit events that were lost."),
                &["plugin"],
            )?,
        };
        metrics.register(Box::new(auditor.events.clone()))?;
        metrics.register(Box::new(auditor.levels.clone()))?;
        metrics.register(Box::new(auditor.lost.clone()))?;
        Ok(Arc::new(auditor))
    }

    fn send(&self, event: &Event) {
        self.events.inc();
        for sink in &self.sinks {
            if let Err(why) = sink.send(event) {
                self.lost.with_label_values(&[sink.name()]).inc();
                tracing::error!(backend = sink.name(), why, id = event.audit_id, "lost an audit event");
            }
        }
    }
}

/// What is known of a request before anybody has looked at it.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// The id in the answer's `Audit-Id` header.
    pub id: String,
    /// Path and query.
    pub uri: String,
    /// The client's address, and those that proxies say they speak for.
    pub source_ips: Vec<String>,
    /// The header.
    pub user_agent: String,
}

#[derive(Clone, Debug, Default)]
struct Outcome {
    error: Option<Value>,
    done: bool,
}

/// The record of one request.
pub struct Record {
    auditor: Arc<Auditor>,
    attributes: Mutex<Option<Attributes>>,
    user: Mutex<Option<UserInfo>>,
    verdict: Mutex<Verdict>,
    event: Mutex<Event>,
    outcome: Mutex<Outcome>,
}

impl Record {
    /// A record that has not been judged: the user is missing, and for gRPC calls what they are about.
    pub fn new(auditor: &Arc<Auditor>, start: Start, attributes: Option<Attributes>) -> Arc<Record> {
        let now = now();
        let event = Event {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: Level::None,
            audit_id: start.id,
            stage: Stage::RequestReceived,
            request_uri: start.uri,
            verb: String::new(),
            user: json!({}),
            impersonated_user: None,
            source_ips: start.source_ips,
            user_agent: start.user_agent,
            object_ref: None,
            response_status: None,
            request_object: None,
            response_object: None,
            request_received_timestamp: now.clone(),
            stage_timestamp: now,
            annotations: BTreeMap::new(),
        };
        Arc::new(Record {
            auditor: auditor.clone(),
            attributes: Mutex::new(attributes),
            user: Mutex::default(),
            verdict: Mutex::default(),
            event: Mutex::new(event),
            outcome: Mutex::default(),
        })
    }

    /// Works on the request with this record as the current one.
    pub async fn scope<T>(self: &Arc<Self>, work: impl Future<Output = T>) -> T {
        CURRENT.scope(self.clone(), work).await
    }

    /// A record of the same request for one of the things it does.
    fn fork(&self) -> Record {
        Record {
            auditor: self.auditor.clone(),
            attributes: Mutex::default(),
            user: Mutex::new(self.user.lock().clone()),
            verdict: Mutex::default(),
            event: Mutex::new(self.event.lock().clone()),
            outcome: Mutex::default(),
        }
    }

    /// How much is recorded.
    pub fn level(&self) -> Level {
        self.verdict.lock().level
    }

    /// True for a watch, a log and streams, whose answers last.
    pub fn is_long_running(&self) -> bool {
        self.attributes.lock().as_ref().is_some_and(Attributes::is_long_running)
    }

    fn received(&self, user: &UserInfo) {
        self.event.lock().user = user_value(user);
        *self.user.lock() = Some(user.clone());
        self.judge();
    }

    fn describe(&self, attributes: &Attributes) {
        *self.attributes.lock() = Some(attributes.clone());
        self.judge();
    }

    /// Once both are known: who, and what about.
    fn judge(&self) {
        let (user, attributes) = (self.user.lock(), self.attributes.lock());
        let (Some(user), Some(attributes)) = (user.as_ref(), attributes.as_ref()) else {
            return;
        };
        let verdict = self.auditor.policy.judge(user, attributes);
        self.auditor
            .levels
            .with_label_values(&[&format!("{:?}", verdict.level)])
            .inc();
        {
            let mut event = self.event.lock();
            event.level = verdict.level;
            event.verb.clone_from(&attributes.verb);
            event.object_ref = ObjectReference::of(attributes);
        }
        *self.verdict.lock() = verdict;
        self.stage(Stage::RequestReceived);
    }

    fn annotate(&self, key: &str, value: String) {
        if self.level() >= Level::Metadata {
            self.event.lock().annotations.entry(key.to_owned()).or_insert(value);
        }
    }

    fn request_object(&self, object: Value) {
        let level = self.level();
        if level == Level::None {
            return;
        }
        let mut event = self.event.lock();
        if let Some(reference) = &mut event.object_ref {
            reference.complete(&object);
        }
        if level >= Level::Request {
            event.request_object = Some(self.shown(object));
        }
    }

    /// Hands over the answer's object.
    pub fn response_object(&self, object: Value) {
        if self.level() >= Level::RequestResponse {
            let shown = self.shown(object);
            self.event.lock().response_object = Some(shown);
        }
    }

    /// Says that an object was too large.
    pub fn truncated(&self) {
        self.annotate(TRUNCATED, "true".to_owned());
    }

    fn shown(&self, mut object: Value) -> Value {
        if self.verdict.lock().omit_managed_fields {
            without_managed_fields(&mut object);
        }
        object
    }

    /// The head of an answer that lasts is on its way.
    pub fn started(&self, code: u16) {
        self.event.lock().response_status = Some(json!({"metadata": {}, "code": code}));
        self.stage(Stage::ResponseStarted);
    }

    /// The answer is complete.
    pub fn complete(&self, code: u16) {
        let mut outcome = self.outcome.lock();
        if std::mem::replace(&mut outcome.done, true) {
            return;
        }
        let status = outcome
            .error
            .take()
            .unwrap_or_else(|| json!({"metadata": {}, "code": code}));
        drop(outcome);
        self.event.lock().response_status = Some(status);
        self.stage(Stage::ResponseComplete);
    }

    /// The request was refused by a layer of the stack or by its handler.
    pub fn refused(&self, error: &Error) {
        let status = status_of(error);
        if self.level() >= Level::RequestResponse {
            self.event.lock().response_object = Some(error.to_value());
        }
        self.outcome.lock().error = Some(status);
        self.complete(error.code);
    }

    /// The credentials were no good: there is no user, and the policy is asked about nobody.
    fn unauthenticated(&self, methods: &str) {
        self.received(&UserInfo::default());
        let why = format!("Authentication failed, attempted: {methods}");
        self.outcome.lock().done = true;
        self.event.lock().response_status =
            Some(json!({"metadata": {}, "status": "Failure", "message": why, "reason": "Unauthorized", "code": 401}));
        self.stage(Stage::ResponseStarted);
    }

    /// The handler panicked.
    pub fn panicked(&self) {
        self.outcome.lock().done = true;
        self.event.lock().response_status = Some(json!({"metadata": {}, "status": "Failure",
            "message": "APIServer panic'd", "reason": "InternalError", "code": 500}));
        self.stage(Stage::Panic);
    }

    fn stage(&self, stage: Stage) {
        let verdict = self.verdict.lock().clone();
        if verdict.level == Level::None || verdict.omitted.contains(&stage) {
            return;
        }
        let mut event = self.event.lock();
        event.stage = stage;
        event.stage_timestamp = now();
        self.auditor.send(&event);
    }
}

/// Microseconds, as upstream's MicroTime.
fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// The part of a Status that is recorded at every level.
fn status_of(error: &Error) -> Value {
    let mut status = error.to_value();
    if let Some(status) = status.as_object_mut() {
        status.remove("apiVersion");
        status.remove("kind");
        status.insert("metadata".into(), json!({}));
    }
    status
}

fn without_managed_fields(object: &mut Value) {
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
    for item in object
        .get_mut("items")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        without_managed_fields(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<Value>>>);

    impl Sink for Memory {
        fn name(&self) -> &'static str {
            "memory"
        }

        fn send(&self, event: &Event) -> Result<(), String> {
            self.0
                .lock()
                .push(serde_json::to_value(event).map_err(|e| e.to_string())?);
            Ok(())
        }
    }

    fn attributes(resource: &str) -> Attributes {
        Attributes {
            verb: "create".into(),
            is_resource: true,
            version: "v1".into(),
            resource: resource.into(),
            namespace: "dev".into(),
            ..Attributes::default()
        }
    }

    fn auditor(policy: &str) -> (Arc<Auditor>, Memory) {
        let sink = Memory::default();
        let policy = policy::tests::policy(policy).unwrap_or_else(|e| panic!("{e}"));
        let auditor = Auditor::new(policy, vec![Box::new(sink.clone())], &prometheus::Registry::new());
        (auditor.unwrap_or_else(|e| panic!("{e}")), sink)
    }

    #[tokio::test]
    async fn a_request_is_recorded_stage_by_stage() {
        let (auditor, sink) = auditor("omitManagedFields: true\nrules: [{level: RequestResponse}]");
        let start = Start {
            id: "id".into(),
            uri: "/api/v1/namespaces/dev/configmaps".into(),
            ..Start::default()
        };
        let record = Record::new(&auditor, start, Some(attributes("configmaps")));
        record
            .scope(async {
                received(&UserInfo::anonymous());
                annotate("a.io/one", "1");
                annotate("a.io/one", "2");
                assert_eq!(level(), Level::RequestResponse);
                request_object(json!({"metadata": {"name": "m", "managedFields": []}}));
            })
            .await;
        record.response_object(json!({"items": [{"metadata": {"uid": "u", "managedFields": []}}]}));
        record.complete(201);
        record.complete(201);
        let events = sink.0.lock();
        let stages: Vec<&str> = events.iter().filter_map(|e| e["stage"].as_str()).collect();
        assert_eq!(stages, ["RequestReceived", "ResponseComplete"]);
        let last = &events[1];
        assert_eq!(last["annotations"], json!({"a.io/one": "1"}));
        assert_eq!(
            last["objectRef"],
            json!({"resource": "configmaps", "namespace": "dev", "name": "m", "apiVersion": "v1"})
        );
        assert_eq!(last["requestObject"], json!({"metadata": {"name": "m"}}));
        assert_eq!(last["responseObject"], json!({"items": [{"metadata": {"uid": "u"}}]}));
        assert_eq!(last["responseStatus"], json!({"metadata": {}, "code": 201}));
        assert_eq!(last["user"]["username"], "system:anonymous");
    }

    #[tokio::test]
    async fn parts_of_a_call_are_records_of_their_own_and_secrets_have_no_objects() {
        let (auditor, sink) = auditor("omitStages: [RequestReceived]\nrules: [{level: RequestResponse}]");
        let record = Record::new(&auditor, Start::default(), None);
        record
            .scope(async {
                received(&UserInfo::anonymous());
                for (resource, outcome) in [("pods", Ok(())), ("secrets", Err(Error::bad_request("no")))] {
                    let _ = part(async {
                        describe(&attributes(resource));
                        request_object(json!({"data": "x"}));
                        outcome
                    })
                    .await;
                }
            })
            .await;
        record.complete(200);
        let events = sink.0.lock();
        assert_eq!(events.len(), 2, "the call as a whole is about nothing: {events:?}");
        assert_eq!(events[0]["requestObject"], json!({"data": "x"}));
        assert_eq!(
            (&events[1]["level"], events[1].get("requestObject")),
            (&json!("Metadata"), None)
        );
        assert_eq!(events[1]["responseStatus"]["code"], 400);
    }
}
