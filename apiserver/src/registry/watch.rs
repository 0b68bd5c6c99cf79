//! Watch: the state as events, then every change, filtered by the selectors.
//!
//! An object that enters a selector is ADDED, one that leaves it is DELETED. Events that pass without a selector share one encoded frame among
//! all watchers; encoding is left to the front ends.

use std::collections::VecDeque;
use std::sync::Arc;

use api::{Error, FieldError};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::custom::present;
use super::options::{ListOptions, WatchOptions};
use super::read::{bad_options, parse_revision};
use super::select::Filter;
use super::{Access, Kind, Registry, store_error};
use crate::apiextensions::convert::Shared;
use crate::apiextensions::definition::Conversion;
use crate::store::{Change, Entry, Revision, StoreError, WatchEvent, Watcher};

/// What happened to an object, from the watcher's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// It is new to the watcher.
    Added,
    /// It changed.
    Modified,
    /// It is gone from the watcher's view.
    Deleted,
}

impl EventType {
    /// As in `WatchEvent.type`.
    pub fn text(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One event for one watcher.
#[derive(Debug, Clone)]
pub enum Event {
    /// A change as the store tells it to everybody: its frames are shared.
    Shared(Arc<WatchEvent>),
    /// An event made for this watcher.
    Own {
        /// What happened.
        kind: EventType,
        /// The object.
        entry: Arc<Entry>,
        /// The revision the object shows instead of its own, for an object that left.
        revision: Option<Revision>,
    },
    /// Nothing older than this revision will come.
    Bookmark {
        /// How far the watcher has got.
        revision: Revision,
        /// The initial state is complete.
        initial: bool,
    },
}

impl Event {
    /// What happened, and to which object; `None` for a bookmark.
    pub fn parts(&self) -> Option<(EventType, &Arc<Entry>, Option<Revision>)> {
        match self {
            Self::Shared(event) => Some(match &event.change {
                Change::Put { entry, previous: None } => (EventType::Added, entry, None),
                Change::Put {
                    entry,
                    previous: Some(_),
                } => (EventType::Modified, entry, None),
                Change::Delete { previous } => (EventType::Deleted, previous, Some(event.revision)),
            }),
            Self::Own { kind, entry, revision } => Some((*kind, entry, *revision)),
            Self::Bookmark { .. } => None,
        }
    }
}

/// The entry as an event shows it: with another revision if the event has one.
pub fn shown(entry: &Arc<Entry>, revision: Option<Revision>) -> Arc<Entry> {
    match revision {
        None => entry.clone(),
        Some(revision) => {
            let value = Bytes::from(api::codec::set_resource_version(&entry.value, revision));
            Arc::new(Entry::new(
                entry.key.clone(),
                entry.create_revision,
                revision,
                value,
                None,
            ))
        }
    }
}

/// A running watch.
pub struct Watch {
    /// The resource.
    pub kind: Arc<Kind>,
    initial: VecDeque<Event>,
    watcher: Watcher,
    filter: Filter,
    bookmarks: bool,
    /// The revision it began after.
    from: Revision,
    /// For kinds whose objects somebody else converts.
    webhooks: Option<Shared>,
    /// Requested when the kind's definition has changed.
    retired: CancellationToken,
}

impl Watch {
    /// The next events, at least one; `None` once the store stops or the kind is not what it was.
    ///
    /// # Errors
    /// 410 when the watcher was too slow. Nothing comes after an error.
    pub async fn next(&mut self) -> Option<Result<Vec<Event>, Error>> {
        if !self.initial.is_empty() {
            return Some(Ok(self.initial.drain(..).collect()));
        }
        loop {
            let batch = tokio::select! {
                // What has happened before the kind changed is told first.
                biased;
                batch = self.watcher.next() => batch?,
                () = self.retired.cancelled() => return None,
            };
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => return Some(Err(watch_error(error, self.from))),
            };
            let events: Vec<Event> = batch.into_iter().filter_map(|event| self.view(event)).collect();
            if !events.is_empty() {
                return Some(self.present(events).await);
            }
        }
    }

    /// The events with their objects in the version of the kind.
    async fn present(&self, events: Vec<Event>) -> Result<Vec<Event>, Error> {
        let Some(webhooks) = &self.webhooks else {
            return Ok(events);
        };
        let mut presented = Vec::with_capacity(events.len());
        for event in events {
            let Some((kind, entry, revision)) = event.parts() else {
                presented.push(event);
                continue;
            };
            let shown = present(webhooks, &self.kind, vec![entry.clone()]).await?;
            presented.extend(shown.into_iter().map(|entry| Event::Own { kind, entry, revision }));
        }
        Ok(presented)
    }

    /// A bookmark for now, if the caller wants any.
    pub fn bookmark(&mut self) -> Option<Event> {
        let revision = self.watcher.progress();
        (self.bookmarks && revision > 0).then_some(Event::Bookmark {
            revision,
            initial: false,
        })
    }

    /// The event as this watcher sees it.
    fn view(&self, event: Arc<WatchEvent>) -> Option<Event> {
        if self.filter.is_empty() {
            return Some(Event::Shared(event));
        }
        let passes = |entry: Option<&Arc<Entry>>| entry.is_some_and(|entry| self.filter.matches(&entry.value));
        match (passes(event.change.previous()), passes(event.change.current())) {
            (false, false) => None,
            (true, true) => Some(Event::Shared(event)),
            (false, true) => match &event.change {
                Change::Put { previous: None, .. } => Some(Event::Shared(event)),
                Change::Put { entry, .. } => Some(Event::Own {
                    kind: EventType::Added,
                    entry: entry.clone(),
                    revision: None,
                }),
                Change::Delete { .. } => None,
            },
            (true, false) => match &event.change {
                Change::Delete { .. } => Some(Event::Shared(event)),
                Change::Put { previous, .. } => previous.clone().map(|entry| Event::Own {
                    kind: EventType::Deleted,
                    entry,
                    revision: Some(event.revision),
                }),
            },
        }
    }
}

impl Registry {
    /// Starts a watch of a collection, or of one object if the request names it.
    ///
    /// # Errors
    /// 400 for bad options, 410 for a revision that is gone.
    pub async fn watch(&self, access: &Access, options: &WatchOptions) -> Result<Watch, Error> {
        let mut fields = options.field_selector.clone();
        if !access.attributes.name.is_empty() {
            let name = format!("metadata.name={}", access.attributes.name);
            fields = if fields.is_empty() {
                name
            } else {
                format!("{fields},{name}")
            };
        }
        let filter = Filter::parse(&access.kind, &options.label_selector, &fields)?;
        check(options)?;
        let after = parse_revision(&options.resource_version)?;
        let initial = options.send_initial_events.unwrap_or(matches!(after, None | Some(0)));
        let mut events = VecDeque::new();
        let revision = match (initial, after) {
            (false, Some(revision)) if revision > 0 => revision,
            (false, _) => self.store.revision(),
            (true, _) => {
                let list = ListOptions {
                    label_selector: options.label_selector.clone(),
                    field_selector: fields,
                    resource_version: options.resource_version.clone(),
                    ..ListOptions::default()
                };
                let page = self.list(access, &list).await?;
                let added = page.entries.into_iter().map(|entry| Event::Own {
                    kind: EventType::Added,
                    entry,
                    revision: None,
                });
                events.extend(added);
                if options.send_initial_events == Some(true) && options.allow_bookmarks {
                    events.push_back(Event::Bookmark {
                        revision: page.revision,
                        initial: true,
                    });
                }
                page.revision
            }
        };
        let custom = access.kind.strategy.custom();
        let watcher = self
            .store
            .watch(&filter.prefix(access), revision)
            .map_err(|error| watch_error(error, revision))?;
        Ok(Watch {
            kind: access.kind.clone(),
            initial: events,
            watcher,
            filter,
            bookmarks: options.allow_bookmarks,
            from: revision,
            webhooks: custom
                .filter(|custom| custom.definition.conversion != Conversion::None)
                .map(|_| self.catalog.webhooks().clone()),
            retired: custom.map_or_else(CancellationToken::new, |custom| custom.definition.retired.clone()),
        })
    }
}

fn watch_error(error: StoreError, from: Revision) -> Error {
    match error {
        StoreError::Compacted { oldest } => Error::expired(format!(
            "too old resource version: {from} ({})",
            oldest.saturating_sub(1)
        )),
        other => store_error(other),
    }
}

/// Combinations of options that mean nothing.
fn check(options: &WatchOptions) -> Result<(), Error> {
    const FIELD: &str = "resourceVersionMatch";
    let matched = options.resource_version_match.as_str();
    let mut faults = Vec::new();
    let mut forbid = |is: bool, why: &str| {
        if is {
            faults.push(FieldError::forbidden(FIELD, why));
        }
    };
    forbid(
        options.send_initial_events.is_some() && matched != "NotOlderThan",
        "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
    );
    forbid(
        options.send_initial_events.is_none() && !matched.is_empty(),
        "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
    );
    if !matches!(matched, "" | "NotOlderThan") {
        faults.push(FieldError::not_supported(FIELD, matched, &["NotOlderThan"]));
    }
    if !matched.is_empty() && !options.continue_.is_empty() {
        let why = "resourceVersionMatch is forbidden when continue is provided";
        faults.push(FieldError::forbidden(FIELD, why));
    }
    bad_options(faults)
}
