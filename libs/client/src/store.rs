//! The state behind an informer: a synchronous, indexed map that turns lists and watch events into changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use api::ObjectKey;
use parking_lot::RwLock;
use tokio::sync::watch;

/// A change of the cache. Handlers are called with it in order, after the cache shows it.
#[derive(Clone, Debug)]
pub enum Event<T> {
    /// An object is new.
    Added(Arc<T>),
    /// An object changed.
    Updated {
        /// As it was.
        old: Arc<T>,
        /// As it is.
        new: Arc<T>,
    },
    /// An object is gone; this is its last known state.
    Deleted(Arc<T>),
}

impl<T> Event<T> {
    /// The object, in its newest known state.
    pub fn object(&self) -> &Arc<T> {
        match self {
            Self::Added(object) | Self::Updated { new: object, .. } | Self::Deleted(object) => object,
        }
    }

    /// The state before, if the object was known.
    pub fn previous(&self) -> Option<&Arc<T>> {
        match self {
            Self::Added(_) => None,
            Self::Updated { old: object, .. } | Self::Deleted(object) => Some(object),
        }
    }
}

/// Computes the values under which an index finds an object.
pub(crate) type IndexFn<T> = Box<dyn Fn(&T) -> Vec<String> + Send + Sync>;

struct Index<T> {
    name: &'static str,
    values: IndexFn<T>,
    keys: HashMap<String, HashSet<ObjectKey>>,
}

impl<T> Index<T> {
    fn insert(&mut self, key: &ObjectKey, object: &T) {
        for value in (self.values)(object) {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &ObjectKey, object: &T) {
        for value in (self.values)(object) {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
    }
}

pub(crate) struct State<T> {
    /// The revision that the state shows; 0 before the first list.
    pub(crate) revision: u64,
    objects: HashMap<ObjectKey, Arc<T>>,
    indexes: Vec<Index<T>>,
}

impl<T> State<T> {
    pub(crate) fn new(indexes: Vec<(&'static str, IndexFn<T>)>) -> Self {
        let indexes = indexes
            .into_iter()
            .map(|(name, values)| Index {
                name,
                values,
                keys: HashMap::new(),
            })
            .collect();
        Self {
            revision: 0,
            objects: HashMap::new(),
            indexes,
        }
    }

    /// Puts an object, added or changed.
    pub(crate) fn put(&mut self, key: ObjectKey, object: T) -> Event<T> {
        let new = Arc::new(object);
        let old = self.objects.insert(key.clone(), new.clone());
        for index in &mut self.indexes {
            if let Some(old) = &old {
                index.remove(&key, old);
            }
            index.insert(&key, &new);
        }
        match old {
            Some(old) => Event::Updated { old, new },
            None => Event::Added(new),
        }
    }

    /// Removes an object; `None` when it was not there.
    pub(crate) fn remove(&mut self, key: &ObjectKey) -> Option<Event<T>> {
        let old = self.objects.remove(key)?;
        for index in &mut self.indexes {
            index.remove(key, &old);
        }
        Some(Event::Deleted(old))
    }

    /// Makes the state equal to a list and answers what changed. Objects for which `same` holds are left alone.
    pub(crate) fn replace(&mut self, list: Vec<(ObjectKey, T)>, same: impl Fn(&T, &T) -> bool) -> Vec<Event<T>> {
        let listed: HashSet<&ObjectKey> = list.iter().map(|(key, _)| key).collect();
        let gone: Vec<ObjectKey> = self
            .objects
            .keys()
            .filter(|key| !listed.contains(key))
            .cloned()
            .collect();
        drop(listed);
        let mut events: Vec<_> = gone.iter().filter_map(|key| self.remove(key)).collect();
        for (key, object) in list {
            if !self.objects.get(&key).is_some_and(|known| same(known, &object)) {
                events.push(self.put(key, object));
            }
        }
        events
    }
}

/// A read view of what an informer has seen. Clones share it.
pub struct Cache<T> {
    state: Arc<RwLock<State<T>>>,
    synced: watch::Receiver<bool>,
}

impl<T> Clone for Cache<T> {
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone(),
            synced: self.synced.clone(),
        }
    }
}

impl<T> std::fmt::Debug for Cache<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("len", &self.len()).finish()
    }
}

impl<T> Cache<T> {
    pub(crate) fn new(state: Arc<RwLock<State<T>>>, synced: watch::Receiver<bool>) -> Self {
        Self { state, synced }
    }

    /// The object, if it is there.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<T>> {
        self.state.read().objects.get(key).cloned()
    }

    /// All objects, in no order.
    pub fn list(&self) -> Vec<Arc<T>> {
        self.state.read().objects.values().cloned().collect()
    }

    /// The objects that an index files under a value; none for an index that the informer was not given.
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<T>> {
        let state = self.state.read();
        let index = state.indexes.iter().find(|candidate| candidate.name == index);
        debug_assert!(index.is_some(), "the informer was built without this index");
        let keys = index.and_then(|index| index.keys.get(value));
        keys.into_iter()
            .flatten()
            .filter_map(|key| state.objects.get(key).cloned())
            .collect()
    }

    /// The revision that the cache has reached: it shows every change of its objects up to there. 0 before the first list.
    pub fn revision(&self) -> u64 {
        self.state.read().revision
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the first list is in and its handlers have run.
    pub fn has_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Completes once the first list is in and its handlers have run; never when the informer was stopped before.
    pub async fn synced(&self) {
        let mut synced = self.synced.clone();
        if synced.wait_for(|synced| *synced).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State<(u32, &'static str)> {
        State::new(vec![("color", Box::new(|object| vec![object.1.to_owned()]))])
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("ns", name)
    }

    fn colored(state: &State<(u32, &'static str)>, color: &str) -> usize {
        state.indexes[0].keys.get(color).map_or(0, HashSet::len)
    }

    #[test]
    fn indexes_follow_objects() {
        let mut state = state();
        assert!(matches!(state.put(key("a"), (1, "red")), Event::Added(_)));
        assert!(matches!(state.put(key("a"), (2, "blue")), Event::Updated { old, .. } if old.0 == 1));
        assert_eq!((colored(&state, "red"), colored(&state, "blue")), (0, 1));
        assert!(matches!(state.remove(&key("a")), Some(Event::Deleted(_))));
        assert!(state.remove(&key("a")).is_none());
        assert!(state.indexes[0].keys.is_empty(), "no empty sets are left behind");
    }

    #[test]
    fn a_list_tells_only_what_changed() {
        let mut state = state();
        state.put(key("same"), (1, "red"));
        state.put(key("changed"), (1, "red"));
        state.put(key("gone"), (1, "red"));
        let list = vec![
            (key("same"), (1, "red")),
            (key("changed"), (2, "blue")),
            (key("new"), (1, "red")),
        ];
        let mut told: Vec<_> = state
            .replace(list, |a, b| a == b)
            .iter()
            .map(|event| match event {
                Event::Added(_) => "added",
                Event::Updated { .. } => "updated",
                Event::Deleted(_) => "deleted",
            })
            .collect();
        told.sort_unstable();
        assert_eq!(told, ["added", "deleted", "updated"]);
        assert_eq!((colored(&state, "red"), colored(&state, "blue")), (2, 1));
    }
}
