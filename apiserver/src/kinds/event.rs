//! Events, which core/v1 and events.k8s.io share. They disappear by themselves.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::field::{Errors, Field, number, text};
use crate::registry::strategy::Strategy;
use crate::registry::table::{self, Column};

/// Seconds an event stays after its last write.
const TTL: i64 = 3600;

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

    fn validate(&self, _cx: &crate::registry::strategy::WriteContext<'_>, event: &Value) -> Vec<api::FieldError> {
        let mut errors = Errors::new();
        let root = Field::root("", event);
        let involved = root.get("involvedObject");
        let namespace = involved.get("namespace");
        let own = text(event, "/metadata/namespace");
        if namespace.is_empty() {
            if own != "default" && own != "kube-system" {
                namespace.invalid(&mut errors, "does not match event.namespace");
            }
        } else if namespace.str() != own {
            namespace.invalid(&mut errors, "does not match event.namespace");
        }
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
