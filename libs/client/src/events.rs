//! Events: what happened to an object, for people to read.
//!
//! Recording never blocks and never fails its caller. Repeats of one event are counted on one Event object; an object that gives rise to
//! too many is silenced for a while (client-go's limits: a burst of 25, then one in five minutes).

use std::collections::HashMap;
use std::time::Duration;

use api::core::v1::{Event, EventSource, ObjectReference};
use api::meta::{MicroTime, ObjectMeta, Time};
use api::{Metadata, Object};
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::mpsc;

use crate::{Api, Client, Patch};

/// Events waiting to be written; more are dropped.
const QUEUE: usize = 1000;
/// Events remembered for counting repeats.
const REMEMBERED: usize = 4096;
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;

/// Whether an event is good news.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// All is well.
    Normal,
    /// Somebody should look.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Records events in the name of a component. Clones share the queue.
#[derive(Clone, Debug)]
pub struct EventRecorder {
    queue: mpsc::Sender<Occurrence>,
}

#[derive(Debug)]
struct Occurrence {
    about: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

/// A reference to an object, as events carry it.
pub fn reference<K: Object>(object: &K) -> ObjectReference {
    let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
    ObjectReference {
        api_version: Some(K::API_VERSION.to_owned()),
        kind: Some(K::KIND.to_owned()),
        namespace: text(object.namespace()),
        name: text(object.name()),
        uid: text(object.uid()),
        resource_version: text(object.resource_version()),
        field_path: None,
    }
}

impl EventRecorder {
    /// Starts to record; `host` is the node the component runs for, or "".
    pub fn new(client: &Client, component: &str, host: &str) -> Self {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let writer = Writer {
            api: client.api(),
            component: component.to_owned(),
            host: host.to_owned(),
            correlator: Correlator::default(),
        };
        tokio::spawn(writer.run(receiver));
        Self { queue }
    }

    /// Records that something happened to an object.
    pub fn event<K: Object>(&self, object: &K, kind: EventType, reason: &str, message: impl Into<String>) {
        self.event_about(reference(object), kind, reason, message);
    }

    /// Records that something happened to what a reference names; its `field_path` may point into the object.
    pub fn event_about(&self, about: ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        let message = message.into();
        tracing::debug!(name = about.name.as_deref().unwrap_or(""), reason, %message, "event");
        let occurrence = Occurrence {
            about,
            kind,
            reason: reason.to_owned(),
            message,
            at: Timestamp::now(),
        };
        if self.queue.try_send(occurrence).is_err() {
            tracing::warn!(reason, "event dropped: too many are waiting");
        }
    }
}

/// What to write for an occurrence.
#[derive(Debug, PartialEq)]
enum Write {
    /// A new Event object of this name.
    Create { name: String },
    /// The Event of this name happened once more.
    Count { name: String, count: i32 },
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Identity {
    about: String,
    kind: EventType,
    reason: String,
    message: String,
}

/// Decides between a new Event, one more of a known one, and silence.
#[derive(Default)]
struct Correlator {
    known: HashMap<Identity, (String, i32)>,
    budgets: HashMap<String, (f64, Timestamp)>,
}

impl Correlator {
    fn decide(&mut self, occurrence: &Occurrence) -> Option<Write> {
        let about = &occurrence.about;
        let name = about.name.as_deref().unwrap_or_default();
        let target = format!(
            "{}/{}/{}/{}/{}",
            about.kind.as_deref().unwrap_or_default(),
            about.namespace.as_deref().unwrap_or_default(),
            name,
            about.uid.as_deref().unwrap_or_default(),
            about.field_path.as_deref().unwrap_or_default()
        );
        if !self.spend(&target, occurrence.at) {
            return None;
        }
        let identity = Identity {
            about: target,
            kind: occurrence.kind,
            reason: occurrence.reason.clone(),
            message: occurrence.message.clone(),
        };
        if let Some((name, count)) = self.known.get_mut(&identity) {
            *count += 1;
            return Some(Write::Count {
                name: name.clone(),
                count: *count,
            });
        }
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let event = format!("{name}.{:x}", occurrence.at.as_nanosecond());
        self.known.insert(identity, (event.clone(), 1));
        Some(Write::Create { name: event })
    }

    fn spend(&mut self, target: &str, now: Timestamp) -> bool {
        if self.budgets.len() >= REMEMBERED {
            self.budgets.clear();
        }
        let (budget, last) = self.budgets.entry(target.to_owned()).or_insert((BURST, now));
        let passed = now.duration_since(*last).as_secs_f64().max(0.0);
        *budget = (*budget + passed * REFILL_PER_SECOND).min(BURST);
        *last = now;
        let allowed = *budget >= 1.0;
        if allowed {
            *budget -= 1.0;
        }
        allowed
    }

    /// The Event is no longer there: the next occurrence makes a new one.
    fn forget(&mut self, name: &str) {
        self.known.retain(|_, (known, _)| known != name);
    }
}

struct Writer {
    api: Api<Event>,
    component: String,
    host: String,
    correlator: Correlator,
}

impl Writer {
    async fn run(mut self, mut receiver: mpsc::Receiver<Occurrence>) {
        while let Some(occurrence) = receiver.recv().await {
            // An API server that is away for a moment does not cost the event; one that refuses does.
            for attempt in 1..=5_u32 {
                match self.write(&occurrence).await {
                    Ok(()) => break,
                    Err(error) if error.is_transport() && attempt < 5 => {
                        tokio::time::sleep(Duration::from_millis(200) * attempt).await;
                    }
                    Err(error) if error.is_namespace_terminating() => break,
                    Err(error) => {
                        tracing::warn!(reason = %occurrence.reason, %error, "event not recorded");
                        break;
                    }
                }
            }
        }
    }

    async fn write(&mut self, occurrence: &Occurrence) -> crate::Result<()> {
        let namespace = occurrence
            .about
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        match self.correlator.decide(occurrence) {
            None => Ok(()),
            Some(Write::Create { name }) => {
                let outcome = self.api.create(&self.object(&name, &namespace, occurrence)).await;
                if outcome.is_err() {
                    self.correlator.forget(&name);
                }
                outcome.map(drop)
            }
            Some(Write::Count { name, count }) => {
                let change = json!({"count": count, "lastTimestamp": Time(occurrence.at)});
                match self.api.patch(&namespace, &name, "", &Patch::Merge(change)).await {
                    Err(error) if error.is_not_found() => {
                        self.correlator.forget(&name);
                        let name = format!("{name}.{count}");
                        self.api
                            .create(&self.object(&name, &namespace, occurrence))
                            .await
                            .map(drop)
                    }
                    outcome => outcome.map(drop),
                }
            }
        }
    }

    fn object(&self, name: &str, namespace: &str, occurrence: &Occurrence) -> Event {
        let mut event = Event {
            involved_object: occurrence.about.clone(),
            reason: Some(occurrence.reason.clone()),
            message: Some(occurrence.message.clone()),
            type_: Some(occurrence.kind.as_str().to_owned()),
            count: Some(1),
            first_timestamp: Some(Time(occurrence.at)),
            last_timestamp: Some(Time(occurrence.at)),
            event_time: None::<MicroTime>,
            source: Some(EventSource {
                component: Some(self.component.clone()),
                host: (!self.host.is_empty()).then(|| self.host.clone()),
            }),
            reporting_component: Some(self.component.clone()),
            reporting_instance: (!self.host.is_empty()).then(|| self.host.clone()),
            ..Event::default()
        };
        *event.metadata_mut() = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        };
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occurrence(message: &str, at: i64) -> Occurrence {
        Occurrence {
            about: ObjectReference {
                name: Some("web".into()),
                ..ObjectReference::default()
            },
            kind: EventType::Normal,
            reason: "Pulled".into(),
            message: message.into(),
            at: Timestamp::from_second(at).unwrap(),
        }
    }

    #[test]
    fn repeats_are_counted_on_one_event() {
        let mut correlator = Correlator::default();
        let Some(Write::Create { name }) = correlator.decide(&occurrence("image present", 1)) else {
            panic!()
        };
        assert!(name.starts_with("web."));
        assert_eq!(
            correlator.decide(&occurrence("image present", 2)),
            Some(Write::Count {
                name: name.clone(),
                count: 2
            })
        );
        assert!(matches!(
            correlator.decide(&occurrence("other", 2)),
            Some(Write::Create { .. })
        ));
        correlator.forget(&name);
        assert!(matches!(
            correlator.decide(&occurrence("image present", 3)),
            Some(Write::Create { .. })
        ));
    }

    #[test]
    fn a_flood_is_silenced_and_recovers() {
        let mut correlator = Correlator::default();
        let written = (0..100)
            .filter(|i| correlator.decide(&occurrence(&format!("m{i}"), 1)).is_some())
            .count();
        assert_eq!(written, 25);
        assert!(correlator.decide(&occurrence("later", 1 + 301)).is_some());
    }
}
