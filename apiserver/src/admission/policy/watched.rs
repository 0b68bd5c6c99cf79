//! The objects of one resource, compiled once for each of their revisions. They are looked up in the store for every request: what is written
//! holds at once, and a look at a list that is nearly always empty or unchanged costs little.

use std::collections::HashMap;
use std::sync::Arc;

use api::Error;
use parking_lot::Mutex;
use serde_json::Value;

use super::GROUP;
use crate::registry::{find, store_error};
use crate::store::{ListQuery, ReadAt, Revision, Store};

/// See the module.
pub(super) struct Watched<T> {
    version: &'static str,
    resource: &'static str,
    compile: fn(&Value) -> T,
    current: Mutex<Snapshot<T>>,
}

struct Snapshot<T> {
    known: HashMap<Arc<str>, (Revision, Arc<T>)>,
    all: Arc<[Arc<T>]>,
}

impl<T> Watched<T> {
    pub(super) fn new(version: &'static str, resource: &'static str, compile: fn(&Value) -> T) -> Self {
        let (known, all) = (HashMap::new(), Vec::new().into());
        Self {
            version,
            resource,
            compile,
            current: Mutex::new(Snapshot { known, all }),
        }
    }

    /// All objects as this server's store has them now, by name.
    pub(super) async fn load(&self, store: &dyn Store) -> Result<Arc<[Arc<T>]>, Error> {
        let Some(kind) = find(GROUP, self.version, self.resource) else {
            return Ok(Vec::new().into());
        };
        let query = ListQuery {
            prefix: &kind.prefix,
            start_after: None,
            limit: 0,
            at: ReadAt::Any,
        };
        let listed = store.list(query).await.map_err(store_error)?;
        let mut current = self.current.lock();
        let known = |(key, revision): (&Arc<str>, Revision)| {
            current.known.get(key).is_some_and(|(known, _)| *known == revision)
        };
        let unchanged = listed.entries.len() == current.known.len()
            && listed.entries.iter().all(|entry| known((&entry.key, entry.revision)));
        if unchanged {
            return Ok(current.all.clone());
        }
        let mut next = HashMap::new();
        let mut all = Vec::new();
        for entry in &listed.entries {
            let compiled = match current.known.get(&entry.key) {
                Some((revision, compiled)) if *revision == entry.revision => compiled.clone(),
                _ => Arc::new((self.compile)(&kind.stored_value(entry)?)),
            };
            next.insert(entry.key.clone(), (entry.revision, compiled.clone()));
            all.push(compiled);
        }
        *current = Snapshot {
            known: next,
            all: all.into(),
        };
        Ok(current.all.clone())
    }
}
