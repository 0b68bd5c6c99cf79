//! The custom kinds that are served at this moment. Readers load one pointer; the feed of the definitions replaces the table as a whole.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::convert::{Shared, Webhooks};
use crate::outgoing::Outgoing;
use crate::registry::Kind;

/// The kinds of one moment.
#[derive(Default)]
pub struct Table {
    /// In the order of their definitions' names, the preferred version first.
    kinds: Vec<Arc<Kind>>,
    /// Group, then plural name, then the places in `kinds` of its versions.
    index: HashMap<String, HashMap<String, Vec<usize>>>,
}

impl Table {
    /// A table of these kinds.
    pub fn new(kinds: Vec<Arc<Kind>>) -> Self {
        let mut index: HashMap<String, HashMap<String, Vec<usize>>> = HashMap::new();
        for (place, kind) in kinds.iter().enumerate() {
            let group = index.entry(kind.info.group.to_string()).or_default();
            group.entry(kind.info.resource.to_string()).or_default().push(place);
        }
        Self { kinds, index }
    }

    /// Every kind.
    pub fn kinds(&self) -> &[Arc<Kind>] {
        &self.kinds
    }

    /// The kind by group, version and plural.
    pub fn find(&self, group: &str, version: &str, resource: &str) -> Option<Arc<Kind>> {
        let places = self.index.get(group)?.get(resource)?;
        let mut found = places.iter().filter_map(|place| self.kinds.get(*place));
        found.find(|kind| kind.info.version == version).cloned()
    }
}

/// The table that is in force, and the way between the versions of its kinds.
pub struct Catalog {
    table: ArcSwap<Table>,
    replaced: watch::Sender<()>,
    webhooks: Shared,
}

impl Catalog {
    /// An empty table; conversion goes out this way.
    pub fn new(outgoing: Outgoing) -> Self {
        Self {
            table: ArcSwap::default(),
            replaced: watch::Sender::default(),
            webhooks: Arc::new(Webhooks::new(outgoing)),
        }
    }

    /// What converts between versions.
    pub fn webhooks(&self) -> &Shared {
        &self.webhooks
    }

    /// The table of this moment.
    pub fn load(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// The kind, as soon as it is in force.
    pub async fn wait(&self, group: &str, version: &str, resource: &str) -> Arc<Kind> {
        let mut replaced = self.replaced.subscribe();
        loop {
            replaced.mark_unchanged();
            if let Some(kind) = self.find(group, version, resource) {
                return kind;
            }
            if replaced.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// A served custom kind by group, version and plural.
    pub fn find(&self, group: &str, version: &str, resource: &str) -> Option<Arc<Kind>> {
        self.table.load().find(group, version, resource)
    }

    /// Puts another table in force.
    pub fn replace(&self, table: Table) {
        self.table.store(Arc::new(table));
        self.replaced.send_replace(());
    }
}
