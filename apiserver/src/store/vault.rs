//! What the store asks for before it writes to disk and after it reads: encryption, where it is wanted. Which objects, and with what, is not
//! the store's to know.
//!
//! Values are encrypted where they meet the disk (log records, snapshot entries, records of the state file), by each member with keys of its
//! own. Between members they travel inside of mutual TLS; so members need no common keys, a new member brings its own, and a key that one
//! member lost does not take the others' data with it.

use std::fmt::Debug;

/// Encrypts what goes to disk.
///
/// To ensure correctness: what [`Vault::seal`] made, [`Vault::open`] opens again with the same context, also in a later process, as long as
/// the configured keys allow it. Neither may be called with a lock held that the other needs.
pub trait Vault: Debug + Send + Sync + 'static {
    /// Whether the object under this key is to be encrypted.
    fn protects(&self, key: &str) -> bool;
    /// The encrypted form of `plain`, with what protects the object under `key`; `None` when it is not to be encrypted. At most
    /// [`OVERHEAD`] bytes longer than `plain`.
    fn seal(&self, key: &str, context: &[u8], plain: &[u8]) -> Option<Vec<u8>>;
    /// What was sealed.
    ///
    /// # Errors
    /// Which key is missing, or that the data is not what was written.
    fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, String>;
    /// Notes that something on disk is not as it would be written now.
    fn note_stale(&self);
}

/// Bytes that sealing adds at most.
pub const OVERHEAD: usize = 2048;

/// Leaves everything as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

impl Vault for Plain {
    fn protects(&self, _: &str) -> bool {
        false
    }

    fn seal(&self, _: &str, _: &[u8], _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn open(&self, _: &[u8], _: &[u8]) -> Result<Vec<u8>, String> {
        Err("the data is encrypted and no keys are configured".to_owned())
    }

    fn note_stale(&self) {}
}
