//! A watch as an answer: a stream of frames in the negotiated form.

use std::sync::Arc;
use std::time::Duration;

use api::Error;
use api::codec::{self, Encoding};
use bytes::Bytes;
use daemon::Shutdown;
use http::StatusCode;
use jiff::Timestamp;
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::body::{BodyError, Response, answer, full, stream};
use super::metrics::GaugeGuard;
use super::negotiate::{Form, Format};
use super::render;
use crate::registry::table::IncludeObject;
use crate::registry::watch::{Event, EventType, Watch, shown};
use crate::registry::{Kind, wire};
use crate::store::{Change, Entry, Frame};

/// Upstream sends a bookmark about every minute.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// The last one comes so long before the end of the watch.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// Upstream's `--min-request-timeout`: a watch without a timeout lasts between one and two of these.
const MIN_TIMEOUT: u64 = 1800;

/// Everything a running watch needs.
struct Running {
    watch: Watch,
    encoder: Encoder,
    deadline: Instant,
    bookmark: Instant,
    shutdown: Shutdown,
    finished: bool,
    _gauge: GaugeGuard,
}

/// A watch as an answer. `timeout` is the caller's wish in seconds.
pub fn answer_watch(
    watch: Watch,
    format: Format,
    include: IncludeObject,
    timeout: Option<i64>,
    shutdown: Shutdown,
    gauge: GaugeGuard,
) -> Response {
    let seconds = timeout
        .and_then(|t| u64::try_from(t).ok())
        .filter(|t| *t > 0)
        .unwrap_or_else(|| rand::rng().random_range(MIN_TIMEOUT..2 * MIN_TIMEOUT));
    let now = Instant::now();
    let mut running = Running {
        encoder: Encoder {
            kind: watch.kind.clone(),
            format,
            include,
            headed: false,
        },
        watch,
        deadline: now + Duration::from_secs(seconds.min(1 << 30)),
        bookmark: now,
        shutdown,
        finished: false,
        _gauge: gauge,
    };
    running.bookmark = running.next_bookmark(now);
    let frames = futures_util::stream::unfold(running, |mut running| async move {
        let bytes = running.next().await?;
        Some((Ok::<_, BodyError>(bytes), running))
    });
    answer(StatusCode::OK, format.watch_content_type(), stream(frames))
}

/// A watch that ends before it begins: one ERROR event.
pub fn answer_error(error: &Error, format: Format) -> Response {
    let frame = error_frame(error, format.encoding);
    answer(StatusCode::OK, format.watch_content_type(), full(frame))
}

impl Running {
    /// When the next bookmark is due: about every minute, and shortly before the end.
    fn next_bookmark(&self, now: Instant) -> Instant {
        let last = self.deadline.checked_sub(LAST_BOOKMARK).unwrap_or(now);
        match now + BOOKMARK_EVERY {
            regular if last > now => regular.min(last),
            regular => regular,
        }
    }

    async fn next(&mut self) -> Option<Bytes> {
        while !self.finished {
            let outcome = tokio::select! {
                events = self.watch.next() => events?,
                () = tokio::time::sleep_until(self.bookmark) => {
                    self.bookmark = self.next_bookmark(Instant::now());
                    Ok(self.watch.bookmark().into_iter().collect())
                }
                () = tokio::time::sleep_until(self.deadline) => return None,
                () = self.shutdown.cancelled() => return None,
            };
            let encoded = outcome.and_then(|events| self.encoder.encode(&events));
            let bytes = encoded.unwrap_or_else(|error| {
                self.finished = true;
                error_frame(&error, self.encoder.format.encoding)
            });
            if !bytes.is_empty() {
                return Some(bytes);
            }
        }
        None
    }
}

/// Turns events into bytes.
struct Encoder {
    kind: Arc<Kind>,
    format: Format,
    include: IncludeObject,
    /// The columns of a table have been sent.
    headed: bool,
}

impl Encoder {
    fn encode(&mut self, events: &[Event]) -> Result<Bytes, Error> {
        let mut out = Vec::new();
        for event in events {
            match (event, event.parts()) {
                (Event::Bookmark { revision, initial }, _) => self.bookmark(*revision, *initial, &mut out)?,
                (_, Some((kind, entry, revision))) => match self.shared(event)? {
                    Some(frame) => out.extend_from_slice(&frame),
                    None => self.put(kind, &shown(entry, revision), &mut out)?,
                },
                _ => {}
            }
        }
        Ok(out.into())
    }

    /// The frame that all watchers share, for deletions: their object has to be stamped anew. What was stored has its JSON with it already.
    fn shared(&mut self, event: &Event) -> Result<Option<Bytes>, Error> {
        let Event::Shared(change) = event else { return Ok(None) };
        let (Change::Delete { previous }, Form::Object, true) =
            (&change.change, self.format.form, self.shares_frames())
        else {
            return Ok(None);
        };
        let frame = if self.format.encoding == Encoding::Protobuf {
            Frame::Protobuf
        } else {
            Frame::Json
        };
        let mut failure = None;
        let bytes = change.frame(frame, || {
            let mut out = Vec::new();
            failure = self
                .put(EventType::Deleted, &shown(previous, Some(change.revision)), &mut out)
                .err();
            out.into()
        });
        let bytes = bytes.clone();
        failure.map_or(Ok(Some(bytes)), Err)
    }

    /// All watchers see the same object: it is in the version that is stored.
    fn shares_frames(&self) -> bool {
        self.kind.is_storage_version() && self.kind.strategy.custom().is_none()
    }

    fn put(&mut self, kind: EventType, entry: &Entry, out: &mut Vec<u8>) -> Result<(), Error> {
        if self.format.encoding == Encoding::Protobuf {
            let object = match self.format.form {
                Form::Metadata(api_version) => render::metadata(entry, api_version, Encoding::Protobuf)?,
                _ => self.kind.envelope(entry)?.into(),
            };
            proto_frame(kind.text(), &object, out);
            return Ok(());
        }
        let object = match self.format.form {
            Form::Object => self.kind.json(entry)?,
            Form::Metadata(api_version) => render::metadata(entry, api_version, Encoding::Json)?,
            Form::Table(api_version) => {
                let row = render::row(&self.kind, entry, self.include, api_version, Timestamp::now())?;
                self.table(api_version, entry.revision, &[row]).to_string().into()
            }
        };
        json_frame(kind.text(), &object, out);
        Ok(())
    }

    fn table(&mut self, api_version: &str, revision: u64, rows: &[Value]) -> Value {
        let mut table = json!({"kind": "Table", "apiVersion": api_version, "metadata": {"resourceVersion": revision.to_string()}, "rows": rows});
        table["columnDefinitions"] = if self.headed {
            Value::Null
        } else {
            self.kind.column_definitions()
        };
        self.headed = true;
        table
    }

    fn bookmark(&mut self, revision: u64, initial: bool, out: &mut Vec<u8>) -> Result<(), Error> {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (api_version, kind) = match self.format.form {
            Form::Metadata(api_version) => (api_version.to_owned(), "PartialObjectMetadata"),
            _ => (self.kind.api_version(), &*self.kind.info.kind),
        };
        let object = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
        if self.format.encoding == Encoding::Protobuf {
            let message = codec::value_to_proto(self.kind.info.message, &json!({"metadata": metadata}))
                .map_err(Error::internal)?;
            proto_frame("BOOKMARK", &codec::wrap(&api_version, kind, &message), out);
            return Ok(());
        }
        let object = match self.format.form {
            Form::Table(api_version) => {
                let row = json!({"cells": [], "object": object});
                self.table(api_version, revision, &[row])
            }
            _ => object,
        };
        json_frame("BOOKMARK", object.to_string().as_bytes(), out);
        Ok(())
    }
}

fn error_frame(error: &Error, encoding: codec::Encoding) -> Bytes {
    let mut out = Vec::new();
    match encoding {
        codec::Encoding::Protobuf => proto_frame("ERROR", &codec::wrap("v1", "Status", &error.encode()), &mut out),
        _ => json_frame("ERROR", error.to_value().to_string().as_bytes(), &mut out),
    }
    out.into()
}

fn json_frame(kind: &str, object: &[u8], out: &mut Vec<u8>) {
    out.reserve(object.len() + 40);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
}

/// A length and a `WatchEvent {type = 1, object = 2 RawExtension {raw = 1}}`.
fn proto_frame(kind: &str, object: &[u8], out: &mut Vec<u8>) {
    let mut raw = Vec::with_capacity(object.len() + 8);
    wire::put_bytes(&mut raw, 1, object);
    let mut event = Vec::with_capacity(raw.len() + 16);
    wire::put_bytes(&mut event, 1, kind.as_bytes());
    wire::put_bytes(&mut event, 2, &raw);
    out.extend_from_slice(&(event.len() as u32).to_be_bytes());
    out.extend_from_slice(&event);
}
