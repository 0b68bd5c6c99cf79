//! Events, which core/v1 and events.k8s.io share. They disappear by themselves.

use api::FieldError;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::field::{Errors, Field, number, same, text};
use crate::registry::strategy::{Strategy, WriteContext};
use crate::registry::table::{self, Column};

/// Seconds an event stays after its last write.
const TTL: i64 = 3600;
/// Bytes of a reason and the like, and of a message.
const NAME_LIMIT: usize = 128;
const MESSAGE_LIMIT: usize = 1024;

const COLUMNS: &[Column] = &[
    Column::text("Last Seen"),
    Column::text("Type"),
    Column::text("Reason"),
    Column::text("Object"),
    Column::text("Subobject").wide(),
    Column::text("Source").wide(),
    Column::text("Message"),
    Column::text("First Seen").wide(),
    Column::text("Count").wide(),
    Column {
        priority: 1,
        ..Column::NAME
    },
];

/// Rules of `events`.
pub struct Event;

impl Strategy for Event {
    fn create_on_update(&self) -> bool {
        true
    }

    fn validate(&self, cx: &WriteContext<'_>, event: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let root = Field::root("", event);
        whatever_the_version(cx, &root, &mut errors);
        if is_legacy(cx) {
            return errors;
        }
        series(&root, &mut errors);
        root.require(&mut errors, &["eventTime"]);
        let kind = root.get("type");
        if !matches!(kind.str(), "Normal" | "Warning") {
            kind.invalid_as(&mut errors, "", format!("has invalid value: {}", kind.str()));
        }
        for name in ["firstTimestamp", "lastTimestamp", "count"] {
            let field = root.get(name);
            if field.exists() && field.int() != Some(0) {
                field.invalid_as(&mut errors, "", "needs to be unset");
            }
        }
        let source = root.get("source");
        if !component_and_host(source.value).is_empty() {
            source.invalid_as(&mut errors, "", "needs to be unset");
        }
        errors
    }

    fn validate_update(&self, cx: &WriteContext<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let root = Field::root("", new);
        whatever_the_version(cx, &root, &mut errors);
        if is_legacy(cx) {
            return errors;
        }
        if !same(&new["series"], &old["series"]) {
            series(&root, &mut errors);
        }
        for name in [
            "involvedObject",
            "reason",
            "message",
            "source",
            "firstTimestamp",
            "lastTimestamp",
            "count",
            "type",
            "eventTime",
            "action",
            "related",
        ] {
            root.get(name).immutable(&mut errors, &old[name]);
        }
        let controller = Field::root("reportingController", &new["reportingComponent"]);
        controller.immutable(&mut errors, &old["reportingComponent"]);
        let instance = root.get("reportingInstance");
        instance.immutable(&mut errors, &old["reportingInstance"]);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, event: &Value, now: Timestamp) -> Vec<Value> {
        let object = format!(
            "{}/{}",
            text(event, "/involvedObject/kind").to_lowercase(),
            text(event, "/involvedObject/name")
        );
        let times = Times::of(event);
        let shown = |time: &str| {
            if time.is_empty() {
                json!("<unknown>")
            } else {
                table::since(Some(&json!(time)), now)
            }
        };
        vec![
            shown(times.last),
            json!(text(event, "/type")),
            json!(text(event, "/reason")),
            json!(object),
            json!(text(event, "/involvedObject/fieldPath")),
            json!(source(event)),
            json!(text(event, "/message").trim()),
            shown(times.first),
            json!(times.count),
            table::name(event),
        ]
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ]
    }

    fn field(&self, event: &Value, field: &str) -> Option<String> {
        match field {
            "source" => Some(component(event).to_owned()),
            "reportingComponent" => Some(text(event, "/reportingComponent").to_owned()),
            _ => None,
        }
    }

    fn ttl(&self) -> Option<i64> {
        Some(TTL)
    }
}

/// Written in the core group, whose rules are few.
fn is_legacy(cx: &WriteContext<'_>) -> bool {
    cx.requested.group.is_empty()
}

fn component_and_host(source: &Value) -> String {
    format!("{}{}", text(source, "/component"), text(source, "/host"))
}

fn whatever_the_version(cx: &WriteContext<'_>, root: &Field<'_>, errors: &mut Errors) {
    let (involved, metadata) = (root.get("involvedObject"), root.get("metadata"));
    let (namespace, own) = (involved.get("namespace"), metadata.get("namespace"));
    let own = own.str();
    let elsewhere = match (root.get("eventTime").is_empty(), namespace.is_empty()) {
        (true, true) => !matches!(own, "" | "default"),
        (true, false) => namespace.str() != own,
        (false, true) => !matches!(own, "default" | "kube-system"),
        (false, false) => false,
    };
    if elsewhere {
        namespace.invalid_as(errors, namespace.str(), "does not match event.namespace");
    }
    if !root.get("eventTime").is_empty() {
        let name = if is_legacy(cx) {
            "reportingComponent"
        } else {
            "reportingController"
        };
        let controller = Field::root(name, &root.value["reportingComponent"]);
        if controller.is_empty() {
            controller.required(errors, "");
        }
        controller.check(errors, api::names::qualified_name);
        for name in ["reportingInstance", "action", "reason"] {
            let field = root.get(name);
            if field.is_empty() {
                field.required(errors, "");
            }
            at_most(&field, NAME_LIMIT, errors);
        }
        at_most(&root.get("message"), MESSAGE_LIMIT, errors);
    }
    for detail in api::names::dns1123_subdomain(own) {
        Field::root("namespace", root.value).invalid_as(errors, own, detail);
    }
}

fn at_most(field: &Field<'_>, limit: usize, errors: &mut Errors) {
    if field.str().len() > limit {
        field.invalid_as(errors, "", format!("can have at most {limit} characters"));
    }
}

fn series(root: &Field<'_>, errors: &mut Errors) {
    let series = root.get("series");
    if !series.exists() {
        return;
    }
    if series.get("count").number() < 2 {
        series.get("count").invalid_as(errors, "", "should be at least 2");
    }
    series.require(errors, &["lastObservedTime"]);
}

struct Times<'a> {
    first: &'a str,
    last: &'a str,
    count: i64,
}

impl<'a> Times<'a> {
    fn of(event: &'a Value) -> Times<'a> {
        let pick = |pointers: &[&str]| {
            pointers
                .iter()
                .map(|p| text(event, p))
                .find(|t| !t.is_empty())
                .unwrap_or_default()
        };
        let first = pick(&["/firstTimestamp", "/eventTime"]);
        let last = pick(&["/series/lastObservedTime", "/lastTimestamp"]);
        let count = [number(event, "/series/count"), number(event, "/count"), 1]
            .into_iter()
            .find(|n| *n != 0)
            .unwrap_or(1);
        Times {
            first,
            last: if last.is_empty() { first } else { last },
            count,
        }
    }
}

fn component(event: &Value) -> &str {
    match text(event, "/source/component") {
        "" => text(event, "/reportingComponent"),
        name => name,
    }
}

fn source(event: &Value) -> String {
    let host = match text(event, "/source/host") {
        "" => text(event, "/reportingInstance"),
        host => host,
    };
    if host.is_empty() {
        component(event).to_owned()
    } else {
        format!("{}, {host}", component(event))
    }
}
