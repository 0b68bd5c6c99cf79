//! A watch as a stream of replies: one message carries every event that was ready.

use std::time::Duration;

use api::Error;
use daemon::Shutdown;
use futures_util::Stream;
use proto::cluster::{EventType, WatchEvent, WatchReply};
use serde_json::json;
use tokio::time::Instant;
use tonic::Status;

use super::{encode_status, status};
use crate::registry::watch::{self, Event, Watch, shown};

const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Without a timeout a watch lasts until somebody leaves; this bounds it all the same, so that load moves to servers that come back.
const LONGEST: i64 = 3600;

struct Running {
    watch: Watch,
    deadline: Instant,
    bookmark: Instant,
    shutdown: Shutdown,
    finished: bool,
}

/// Starts to reply.
pub fn replies(
    watch: Watch,
    timeout_seconds: i64,
    shutdown: Shutdown,
) -> impl Stream<Item = Result<WatchReply, Status>> + Send + 'static {
    let seconds = if timeout_seconds > 0 {
        timeout_seconds.min(LONGEST)
    } else {
        LONGEST
    };
    let now = Instant::now();
    let deadline = now + Duration::from_secs(seconds.unsigned_abs());
    let running = Running {
        watch,
        deadline,
        bookmark: now + BOOKMARK_EVERY,
        shutdown,
        finished: false,
    };
    futures_util::stream::unfold(running, |mut running| async move {
        let reply = running.next().await?;
        Some((reply, running))
    })
}

impl Running {
    async fn next(&mut self) -> Option<Result<WatchReply, Status>> {
        if self.finished {
            return None;
        }
        let outcome = loop {
            break tokio::select! {
                events = self.watch.next() => events?,
                () = tokio::time::sleep_until(self.bookmark) => {
                    self.bookmark = Instant::now() + BOOKMARK_EVERY;
                    match self.watch.bookmark() {
                        Some(bookmark) => Ok(vec![bookmark]),
                        None => continue,
                    }
                }
                () = tokio::time::sleep_until(self.deadline) => return None,
                () = self.shutdown.cancelled() => return None,
            };
        };
        let reply = outcome.and_then(|events| events.iter().map(|event| self.encode(event)).collect::<Result<_, _>>());
        match reply {
            Ok(events) => Some(Ok(WatchReply { events })),
            Err(error) => {
                self.finished = true;
                let event = WatchEvent {
                    r#type: EventType::Error.into(),
                    object: encode_status(&error),
                    initial_events_end: false,
                };
                Some(if error.code == 500 {
                    Err(status(&error))
                } else {
                    Ok(WatchReply { events: vec![event] })
                })
            }
        }
    }

    fn encode(&self, event: &Event) -> Result<WatchEvent, Error> {
        if let Event::Bookmark { revision, initial } = event {
            let object = json!({"metadata": {"resourceVersion": revision.to_string()}});
            let object = api::codec::value_to_proto(self.watch.kind.info.message, &object).map_err(Error::internal)?;
            return Ok(WatchEvent {
                r#type: EventType::Bookmark.into(),
                object: object.into(),
                initial_events_end: *initial,
            });
        }
        let Some((kind, entry, revision)) = event.parts() else {
            return Ok(WatchEvent::default());
        };
        let kind = match kind {
            watch::EventType::Added => EventType::Added,
            watch::EventType::Modified => EventType::Modified,
            watch::EventType::Deleted => EventType::Deleted,
        };
        let object = self.watch.kind.proto(&shown(entry, revision))?;
        Ok(WatchEvent {
            r#type: kind.into(),
            object,
            initial_events_end: false,
        })
    }
}
