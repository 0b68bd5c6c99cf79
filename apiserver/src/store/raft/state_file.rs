//! The applied state in sled, so that an orderly restart needs neither snapshot nor log.
//!
//! Owns `data_dir/state`. sled 0.34 neither syncs what it says it flushed nor notices all damage, so nothing rests on it: it is used only when the last stop
//! was orderly (the file `clean` is there), it opens, and the number of entries and the sum of their fingerprints are what was noted. In
//! every other case it is wiped and written anew. One tree a kind of data: `objects`, whose record under an impossible key holds the applied
//! log id and is written in the same batch as the objects, and `history`, written at an orderly stop so that watches go on after a restart.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::codec::{self, Malformed};
use super::files::{At, StartError, remove_if_present, sync_dir};
use super::snapshot::{meta_from_pb, meta_to_pb};
use super::types::{LogId, SnapshotMeta, StoredMembership};
use crate::store::state::Past;
use crate::store::vault::Vault;
use crate::store::{Change, Entry, Revision};

/// No object's key begins with a zero byte.
const HEAD: &[u8] = b"\0head";
/// The state is read once, at the start, and else only written: little needs to be cached, bytes.
const CACHE: u64 = 16 << 20;
/// Large segments keep large values out of sled's blob files.
const SEGMENT: usize = 8 << 20;
/// Entries in a batch when everything is written.
const CHUNK: usize = 1000;

/// A change of a key since the last write: what the file has and what it shall have.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) stored: Option<Arc<Entry>>,
    pub(super) now: Option<Arc<Entry>>,
}

/// The point in the log that a state is of.
#[derive(Debug, Clone, Default)]
pub(super) struct Point {
    pub(super) applied: Option<LogId>,
    pub(super) membership: StoredMembership,
    pub(super) revision: Revision,
}

/// A state read back.
pub(super) struct Restored {
    pub(super) point: Point,
    pub(super) entries: Vec<Arc<Entry>>,
    pub(super) compacted: Revision,
    pub(super) history: Vec<Past>,
}

/// Number and order-independent sum of fingerprints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    count: u64,
    sum: u64,
}

impl Tally {
    fn add(&mut self, fingerprint: u64) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(fingerprint);
    }

    fn remove(&mut self, fingerprint: u64) {
        self.count -= 1;
        self.sum = self.sum.wrapping_sub(fingerprint);
    }
}

fn fingerprint(key: &[u8], value: &[u8]) -> u64 {
    u64::from(crc32c::crc32c(key)) << 32 | u64::from(crc32c::crc32c(value))
}

pub(super) struct StateFile {
    dir: PathBuf,
    vault: Arc<dyn Vault>,
    open: Option<Open>,
    tally: Tally,
}

struct Open {
    db: sled::Db,
    objects: sled::Tree,
    history: sled::Tree,
}

/// Anything that goes wrong inside sled, also a panic.
type SledResult<T> = Result<T, String>;

fn guarded<T>(work: impl FnOnce() -> SledResult<T>) -> SledResult<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("sled panicked".to_owned()))
}

impl StateFile {
    /// Opens the state if it can be trusted, else an empty one.
    pub(super) fn open(dir: &Path, vault: Arc<dyn Vault>) -> Result<(Self, Option<Restored>), StartError> {
        std::fs::create_dir_all(dir).at("create", dir)?;
        let mut file = Self {
            dir: dir.to_owned(),
            vault,
            open: None,
            tally: Tally::default(),
        };
        let marker = file.marker();
        let noted = std::fs::read(&marker).ok();
        // From here on the state counts as unclean until the next orderly stop.
        remove_if_present(&marker).at("remove", &marker)?;
        sync_dir(dir).at("sync", dir)?;
        if let Some(noted) = noted {
            match guarded(|| file.restore(&noted)) {
                Ok(restored) => return Ok((file, Some(restored))),
                Err(why) => tracing::warn!(dir = %dir.display(), why, "the state is damaged, rebuilding it"),
            }
        }
        file.wipe().at("wipe", dir)?;
        Ok((file, None))
    }

    fn marker(&self) -> PathBuf {
        self.dir.join("clean")
    }

    fn sled_dir(&self) -> PathBuf {
        self.dir.join("sled")
    }

    /// Removes everything; the next write starts an empty sled.
    pub(super) fn wipe(&mut self) -> io::Result<()> {
        let open = self.open.take();
        // Dropping a damaged sled may panic as well.
        let _ = guarded(|| {
            drop(open);
            Ok(())
        });
        self.tally = Tally::default();
        match std::fs::remove_dir_all(self.sled_dir()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn opened(&mut self) -> SledResult<&Open> {
        if self.open.is_none() {
            let config = sled::Config::new()
                .path(self.sled_dir())
                .cache_capacity(CACHE)
                .segment_size(SEGMENT);
            // What sled syncs in the background would compete with the log for nothing.
            let db = config.flush_every_ms(None).open().map_err(|e| e.to_string())?;
            let objects = db.open_tree("objects").map_err(|e| e.to_string())?;
            let history = db.open_tree("history").map_err(|e| e.to_string())?;
            self.open = Some(Open { db, objects, history });
        }
        self.open.as_ref().ok_or_else(|| "not open".to_owned())
    }

    /// Brings the file to `point`.
    pub(super) fn write(&mut self, pending: &HashMap<Arc<str>, Pending>, point: &Point) -> SledResult<()> {
        let mut tally = self.tally;
        let mut batch = sled::Batch::default();
        for (key, Pending { stored, now }) in pending {
            if let Some(stored) = stored {
                tally.remove(fingerprint(key.as_bytes(), &body(stored)));
            }
            match now {
                Some(entry) => insert(&mut batch, &mut tally, entry, &*self.vault),
                None => batch.remove(key.as_bytes()),
            }
        }
        self.commit(batch, tally, point)
    }

    /// Replaces the whole content.
    pub(super) fn rewrite(&mut self, entries: &[Arc<Entry>], point: &Point) -> SledResult<()> {
        self.wipe().map_err(|e| e.to_string())?;
        let mut tally = Tally::default();
        for chunk in entries.chunks(CHUNK) {
            let mut batch = sled::Batch::default();
            chunk
                .iter()
                .for_each(|entry| insert(&mut batch, &mut tally, entry, &*self.vault));
            guarded(|| self.opened()?.objects.apply_batch(batch).map_err(|e| e.to_string()))?;
        }
        self.commit(sled::Batch::default(), tally, point)
    }

    fn commit(&mut self, mut batch: sled::Batch, tally: Tally, point: &Point) -> SledResult<()> {
        batch.insert(HEAD, encode_head(tally, point));
        guarded(|| self.opened()?.objects.apply_batch(batch).map_err(|e| e.to_string()))?;
        self.tally = tally;
        Ok(())
    }

    /// Ends an orderly run: with the marker in place the next start trusts the state.
    pub(super) fn close<'a>(
        mut self,
        compacted: Revision,
        history: impl Iterator<Item = &'a Past>,
    ) -> Result<(), String> {
        let mut tally = Tally::default();
        let mut batch = sled::Batch::default();
        for (n, past) in history.enumerate() {
            let (key, value) = ((n as u64).to_be_bytes(), encode_past(past));
            tally.add(fingerprint(&key, &value));
            batch.insert(&key, protect(past.change.key(), &key, value, &*self.vault));
        }
        guarded(|| {
            let open = self.opened()?;
            open.history
                .clear()
                .and_then(|()| open.history.apply_batch(batch))
                .map_err(|e| e.to_string())?;
            open.db.flush().map(drop).map_err(|e| e.to_string())
        })?;
        let marker = encode_marker(self.tally, tally, compacted);
        let open = self.open.take();
        guarded(|| {
            drop(open);
            Ok(())
        })?;
        self.seal(&marker).map_err(|e| e.to_string())
    }

    fn seal(&self, marker: &[u8]) -> io::Result<()> {
        sync_all(&self.sled_dir())?;
        let new = self.dir.join("clean.new");
        std::fs::write(&new, marker)?;
        File::open(&new)?.sync_all()?;
        std::fs::rename(&new, self.marker())?;
        sync_dir(&self.dir)
    }

    fn restore(&mut self, marker: &[u8]) -> SledResult<Restored> {
        let (objects_noted, history_noted, compacted) = decode_marker(marker).map_err(|_| "the marker is malformed")?;
        let vault = self.vault.clone();
        let open = self.opened()?;
        let (mut entries, mut head, mut tally) = (Vec::new(), None, Tally::default());
        for item in open.objects.iter() {
            let (key, value) = item.map_err(|e| e.to_string())?;
            if key == HEAD {
                head = Some(decode_head(Bytes::copy_from_slice(&value)).map_err(|_| "the head is malformed")?);
                continue;
            }
            let (value, sealed) = reveal(&key, &value, &*vault)?;
            tally.add(fingerprint(&key, &value));
            let key = std::str::from_utf8(&key).map_err(|_| "a key is malformed")?;
            if !sealed && vault.protects(key) {
                vault.note_stale();
            }
            let entry = codec::entry_body(key.into(), &mut value.clone());
            entries.push(Arc::new(entry.map_err(|_| "an entry is malformed")?));
        }
        let (counted, point) = head.ok_or("the head is missing")?;
        let mut history_tally = Tally::default();
        let mut records = Vec::new();
        for item in open.history.iter() {
            let (key, value) = item.map_err(|e| e.to_string())?;
            let (value, _) = reveal(&key, &value, &*vault)?;
            history_tally.add(fingerprint(&key, &value));
            records.push(decode_past(value).map_err(|_| "the history is malformed")?);
        }
        if tally != objects_noted || counted != objects_noted || history_tally != history_noted {
            return Err(format!(
                "{} objects and {} changes do not add up",
                tally.count, history_tally.count
            ));
        }
        let history = replay(&entries, records).ok_or("the history does not fit the objects")?;
        self.tally = tally;
        Ok(Restored {
            point,
            entries,
            compacted,
            history,
        })
    }
}

/// Syncs every file under a folder, and the folders.
fn sync_all(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_all(&path)?;
        } else {
            File::open(&path)?.sync_all()?;
        }
    }
    sync_dir(dir)
}

fn body(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::with_capacity(entry.value.len() + 32);
    codec::put_entry_body(&mut out, entry);
    out
}

/// Fingerprints are those of the plain records: encrypted twice, the same record differs.
fn insert(batch: &mut sled::Batch, tally: &mut Tally, entry: &Entry, vault: &dyn Vault) {
    let body = body(entry);
    tally.add(fingerprint(entry.key.as_bytes(), &body));
    batch.insert(
        entry.key.as_bytes(),
        protect(&entry.key, entry.key.as_bytes(), body, vault),
    );
}

/// No plain record begins with a zero: it would be a revision.
const SEALED: u8 = 0;

/// A record about the object `object` as it stands under `key`, encrypted if that is to be.
fn protect(object: &str, key: &[u8], record: Vec<u8>, vault: &dyn Vault) -> Vec<u8> {
    match vault.seal(object, key, &record) {
        Some(sealed) => [&[SEALED], &sealed[..]].concat(),
        None => record,
    }
}

/// The plain record, and whether it was encrypted.
fn reveal(key: &[u8], stored: &[u8], vault: &dyn Vault) -> SledResult<(Bytes, bool)> {
    match stored.split_first() {
        Some((&SEALED, sealed)) => Ok((vault.open(key, sealed)?.into(), true)),
        _ => Ok((Bytes::copy_from_slice(stored), false)),
    }
}

fn encode_head(tally: Tally, point: &Point) -> Vec<u8> {
    let meta = SnapshotMeta {
        last_log_id: point.applied,
        last_membership: point.membership.clone(),
        snapshot_id: String::new(),
    };
    let mut out = Vec::new();
    codec::put_number(&mut out, tally.count);
    codec::put_number(&mut out, tally.sum);
    codec::put_number(&mut out, point.revision);
    codec::put_bytes(&mut out, &meta_to_pb(&meta).encode_to_vec());
    out
}

fn decode_head(mut input: Bytes) -> Result<(Tally, Point), Malformed> {
    let tally = Tally {
        count: codec::number(&mut input)?,
        sum: codec::number(&mut input)?,
    };
    let revision = codec::number(&mut input)?;
    let meta = proto::raft::SnapshotOpen::decode(codec::bytes(&mut input)?).map_err(|_| Malformed)?;
    let meta = meta_from_pb(meta)?;
    Ok((
        tally,
        Point {
            applied: meta.last_log_id,
            membership: meta.last_membership,
            revision,
        },
    ))
}

fn encode_marker(objects: Tally, history: Tally, compacted: Revision) -> Vec<u8> {
    let mut out = Vec::new();
    for number in [objects.count, objects.sum, history.count, history.sum, compacted] {
        codec::put_number(&mut out, number);
    }
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn decode_marker(marker: &[u8]) -> Result<(Tally, Tally, Revision), Malformed> {
    let (content, crc) = marker.split_last_chunk::<4>().ok_or(Malformed)?;
    if crc32c::crc32c(content).to_le_bytes() != *crc {
        return Err(Malformed);
    }
    let mut input = Bytes::copy_from_slice(content);
    let mut tally = || {
        Ok(Tally {
            count: codec::number(&mut input)?,
            sum: codec::number(&mut input)?,
        })
    };
    let (objects, history) = (tally()?, tally()?);
    Ok((objects, history, codec::number(&mut input)?))
}

/// A change of the past: its revision, its key and the value before it. The value after it is in a later change or in the objects.
fn encode_past(past: &Past) -> Vec<u8> {
    let mut out = Vec::new();
    codec::put_number(&mut out, past.revision);
    codec::put_bytes(&mut out, past.change.key().as_bytes());
    if let Some(previous) = past.change.previous() {
        codec::put_entry_body(&mut out, previous);
    }
    out
}

fn decode_past(mut input: Bytes) -> Result<(Revision, Arc<str>, Option<Arc<Entry>>), Malformed> {
    let revision = codec::number(&mut input)?;
    let key: Arc<str> = codec::string(&mut input)?.into();
    let previous = if input.is_empty() {
        None
    } else {
        Some(Arc::new(codec::entry_body(key.clone(), &mut input)?))
    };
    Ok((revision, key, previous))
}

/// Goes back from the objects, change by change. `None` if the records contradict each other.
fn replay(entries: &[Arc<Entry>], records: Vec<(Revision, Arc<str>, Option<Arc<Entry>>)>) -> Option<Vec<Past>> {
    let mut values: HashMap<Arc<str>, Arc<Entry>> = entries.iter().map(|e| (e.key.clone(), e.clone())).collect();
    let mut history = Vec::with_capacity(records.len());
    for (revision, key, previous) in records.into_iter().rev() {
        let after = match &previous {
            Some(previous) => values.insert(key, previous.clone()),
            None => values.remove(&key),
        };
        let change = match (after, previous) {
            (Some(entry), previous) if entry.revision == revision => Change::Put { entry, previous },
            (None, Some(previous)) => Change::Delete { previous },
            _ => return None,
        };
        history.push(Past { revision, change });
    }
    history.reverse();
    Some(history)
}
