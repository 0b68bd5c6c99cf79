//! Remembers our own writes until the cache shows them.
//!
//! A watch cache lags behind what this process has just created or deleted; a controller that plans on such a cache creates its pods
//! twice. Deterministic names would make the second create a harmless conflict, but the names of replicas are random upstream, and a
//! second deletion collides with nothing: it takes another pod. So a key is planned again only when the cache has caught up with it. A
//! creation has caught up when the cache has reached its revision: revisions come from one counter and a watch delivers in their
//! order. A removal has caught up when the object is no longer among those that count. Neither counts events, so an event that a
//! reconnect swallowed cannot leave a key stuck.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use parking_lot::Mutex;

/// What was written for each key and may not be visible yet.
pub struct Writes<K>(Mutex<HashMap<K, Pending>>);

#[derive(Default)]
struct Pending {
    /// The highest revision of a creation.
    revision: u64,
    /// The uids of what was removed.
    removed: HashSet<String>,
}

impl<K> Default for Writes<K> {
    fn default() -> Self {
        Writes(Mutex::default())
    }
}

impl<K: Eq + Hash> Writes<K> {
    /// No writes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers that an object was created for `key`, with the `resourceVersion` of the answer.
    pub fn created(&self, key: K, resource_version: &str) {
        // A version that is no number is not from our store, and nothing could be compared with it.
        if let Ok(revision) = resource_version.parse() {
            let mut writes = self.0.lock();
            let pending = writes.entry(key).or_default();
            pending.revision = pending.revision.max(revision);
        }
    }

    /// Remembers that the object with this uid was deleted for `key`.
    pub fn removed(&self, key: K, uid: &str) {
        self.0.lock().entry(key).or_default().removed.insert(uid.to_owned());
    }

    /// Whether a cache at revision `cached` that counts the objects with these uids shows everything written for `key`.
    pub fn visible<'a>(&self, key: &K, cached: u64, mut counted: impl Iterator<Item = &'a str>) -> bool {
        let mut writes = self.0.lock();
        let Some(pending) = writes.get(key) else { return true };
        if pending.revision > cached || counted.any(|uid| pending.removed.contains(uid)) {
            return false;
        }
        writes.remove(key);
        true
    }

    /// Forgets a key that is gone.
    pub fn forget(&self, key: &K) {
        self.0.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visible(writes: &Writes<&'static str>, key: &'static str, cached: u64, counted: &[&str]) -> bool {
        writes.visible(&key, cached, counted.iter().copied())
    }

    #[test]
    fn a_key_waits_for_its_own_last_creation_only() {
        let writes = Writes::new();
        writes.created("web", "12");
        writes.created("web", "15");
        writes.created("web", "14");
        assert!(visible(&writes, "db", 1, &[]));
        assert!(!visible(&writes, "web", 14, &[]));
        assert!(visible(&writes, "web", 15, &[]));
        assert!(visible(&writes, "web", 1, &[]), "a write that was seen is seen");
    }

    #[test]
    fn a_key_waits_until_what_it_removed_does_not_count() {
        let writes = Writes::new();
        writes.removed("web", "a");
        assert!(!visible(&writes, "web", 99, &["b", "a"]));
        assert!(visible(&writes, "web", 1, &["b"]));
    }

    #[test]
    fn a_key_that_is_gone_holds_nothing() {
        let writes = Writes::new();
        writes.created("web", "12");
        writes.forget(&"web");
        assert!(visible(&writes, "web", 0, &[]));
    }
}
