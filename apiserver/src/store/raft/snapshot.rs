//! Snapshot files: the whole state at one log id, in blocks with a checksum each.
//!
//! Owns `data_dir/snap`. A file is written beside its final name, synced and renamed, so one that has its name is whole unless the disk damaged it, which
//! the checksums show. The log is purged only up to a snapshot that is here.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use prost::Message;
use proto::raft as pb;

use super::codec::{self, Malformed};
use super::files::{At, StartError, remove_if_present, sync_dir};
use super::types::{self, LogId, SnapshotMeta, StoredMembership};
use crate::store::vault::{Plain, Vault};
use crate::store::{Entry, Revision};

const MAGIC: [u8; 8] = *b"KEELSNP1";
/// A block is closed when it has this many bytes.
const BLOCK: usize = 256 << 10;
/// No block is larger: one entry of the largest size more than [`BLOCK`].
const MAX_BLOCK: usize = 8 << 20;

/// The folder of snapshots and the newest one.
#[derive(Debug)]
pub(super) struct Snapshots {
    dir: PathBuf,
    vault: Arc<dyn Vault>,
    current: Mutex<Option<(SnapshotMeta, PathBuf)>>,
}

/// What a snapshot says of itself.
pub(super) struct Head {
    pub(super) meta: SnapshotMeta,
    pub(super) revision: Revision,
}

impl Snapshots {
    /// Looks for the newest snapshot and checks it. A damaged one is reported beside: the state may make up for it.
    pub(super) fn open(dir: &Path, vault: Arc<dyn Vault>) -> Result<(Self, Option<StartError>), StartError> {
        std::fs::create_dir_all(dir).at("create", dir)?;
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir).at("list", dir)? {
            let path = entry.at("list", dir)?.path();
            match path.extension().and_then(|e| e.to_str()) {
                Some("snap") => names.push(path),
                Some("tmp") => remove_if_present(&path).at("remove", &path)?,
                _ => {}
            }
        }
        names.sort();
        let (mut current, mut damage) = (None, None);
        if let Some(path) = names.pop() {
            match read(&path, &*vault, |_| {}) {
                Ok(head) => current = Some((head.meta, path)),
                Err(damaged @ StartError::Damaged { .. }) => damage = Some(damaged),
                Err(e) => return Err(e),
            }
        }
        Ok((
            Self {
                dir: dir.to_owned(),
                vault,
                current: Mutex::new(current),
            },
            damage,
        ))
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn vault(&self) -> &Arc<dyn Vault> {
        &self.vault
    }

    pub(super) fn current(&self) -> Option<(SnapshotMeta, PathBuf)> {
        self.current.lock().clone()
    }

    pub(super) fn last_log_id(&self) -> Option<LogId> {
        self.current.lock().as_ref().and_then(|(meta, _)| meta.last_log_id)
    }

    /// A file name for a snapshot that is being written or received.
    pub(super) fn temporary(&self) -> PathBuf {
        self.dir.join(format!("{}.tmp", uuid::Uuid::new_v4().simple()))
    }

    /// Writes a snapshot and makes it the current one, durably.
    pub(super) fn write(
        &self,
        applied: Option<LogId>,
        membership: &StoredMembership,
        revision: Revision,
        entries: &[Arc<Entry>],
    ) -> io::Result<SnapshotMeta> {
        let snapshot_id = format!(
            "{}-{revision}",
            applied.map_or_else(|| "0".to_owned(), |l| l.index.to_string())
        );
        let meta = SnapshotMeta {
            last_log_id: applied,
            last_membership: membership.clone(),
            snapshot_id,
        };
        let temporary = self.temporary();
        let written =
            write(&temporary, &meta, revision, entries, &*self.vault).and_then(|()| self.adopt(&temporary, &meta));
        if written.is_err() {
            // The room it took is needed.
            remove_if_present(&temporary)?;
        }
        written.map(|()| meta)
    }

    /// Makes a synced file in the folder the current snapshot and removes the others.
    pub(super) fn adopt(&self, temporary: &Path, meta: &SnapshotMeta) -> io::Result<()> {
        let index = meta.last_log_id.map_or(0, |l| l.index);
        let path = self.dir.join(format!("{index:020}.snap"));
        std::fs::rename(temporary, &path)?;
        sync_dir(&self.dir)?;
        *self.current.lock() = Some((meta.clone(), path.clone()));
        for entry in std::fs::read_dir(&self.dir)? {
            let old = entry?.path();
            if old != path && old.extension().is_some_and(|e| e == "snap") {
                remove_if_present(&old)?;
            }
        }
        Ok(())
    }
}

fn write(
    path: &Path,
    meta: &SnapshotMeta,
    revision: Revision,
    entries: &[Arc<Entry>],
    vault: &dyn Vault,
) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(BLOCK, File::create(path)?);
    file.write_all(&MAGIC)?;
    let mut block = Vec::with_capacity(BLOCK + (64 << 10));
    codec::put_bytes(&mut block, &meta_to_pb(meta).encode_to_vec());
    codec::put_number(&mut block, revision);
    codec::put_number(&mut block, entries.len() as u64);
    write_block(&mut file, &block)?;
    block.clear();
    for entry in entries {
        put_entry(&mut block, entry, vault);
        if block.len() >= BLOCK {
            write_block(&mut file, &block)?;
            block.clear();
        }
    }
    if !block.is_empty() {
        write_block(&mut file, &block)?;
    }
    write_block(&mut file, &[])?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

fn write_block(out: &mut impl Write, block: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(block.len() + 8);
    framed(block, &mut frame);
    out.write_all(&frame)
}

/// Reads and checks a whole snapshot, entry by entry in key order.
pub(super) fn read(path: &Path, vault: &dyn Vault, mut each: impl FnMut(Entry)) -> Result<Head, StartError> {
    let mut file = BufReader::with_capacity(BLOCK, File::open(path).at("open", path)?);
    let mut magic = [0; 8];
    if file.read_exact(&mut magic).is_err() || magic != MAGIC {
        return Err(StartError::damaged(path, "not a snapshot"));
    }
    let damaged = |Malformed| StartError::damaged(path, "a block is malformed");
    let mut first = read_block(&mut file, path)?;
    let (head, count) = parse_head(&mut first).map_err(damaged)?;
    let mut found = 0u64;
    loop {
        let mut block = read_block(&mut file, path)?;
        if block.is_empty() {
            break;
        }
        while !block.is_empty() {
            each(entry(&mut block, vault).map_err(|fault| fault.at(path))?);
            found += 1;
        }
    }
    if found != count {
        return Err(StartError::damaged(path, format!("{found} entries instead of {count}")));
    }
    Ok(head)
}

/// No key of an object is empty: an encrypted entry begins with a zero length.
const SEALED: u8 = 0;
/// What encrypted entries are bound to.
const CONTEXT: &[u8] = b"snapshot";

/// Why an entry cannot be read.
#[derive(Debug)]
pub(super) enum Fault {
    Malformed,
    Sealed(String),
}

impl Fault {
    fn at(self, path: &Path) -> StartError {
        match self {
            Fault::Malformed => StartError::damaged(path, "a block is malformed"),
            Fault::Sealed(why) => StartError::Sealed {
                path: path.to_owned(),
                why,
            },
        }
    }
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Fault::Malformed
    }
}

fn put_entry(block: &mut Vec<u8>, entry: &Entry, vault: &dyn Vault) {
    let start = block.len();
    codec::put_entry(block, entry);
    if let Some(sealed) = vault.seal(&entry.key, CONTEXT, &block[start..]) {
        block.truncate(start);
        block.push(SEALED);
        codec::put_bytes(block, &sealed);
    }
}

fn entry(block: &mut Bytes, vault: &dyn Vault) -> Result<Entry, Fault> {
    if block.first() != Some(&SEALED) {
        let entry = codec::entry(block)?;
        if vault.protects(&entry.key) {
            vault.note_stale();
        }
        return Ok(entry);
    }
    codec::byte(block)?;
    let sealed = codec::bytes(block)?;
    let mut plain = vault.open(CONTEXT, &sealed).map(Bytes::from).map_err(Fault::Sealed)?;
    Ok(codec::entry(&mut plain)?)
}

/// A block as another vault would have it.
fn translate(mut block: Bytes, from: &dyn Vault, to: &dyn Vault) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::with_capacity(block.len());
    while !block.is_empty() {
        put_entry(&mut out, &entry(&mut block, from)?, to);
    }
    Ok(out)
}

/// Hands out a snapshot file decrypted, piece by piece, as another member takes it ([`Receiver`]); ends early when `each` says no.
pub(super) fn send(path: &Path, vault: &dyn Vault, mut each: impl FnMut(Vec<u8>) -> bool) -> Result<(), StartError> {
    let mut file = BufReader::with_capacity(BLOCK, File::open(path).at("open", path)?);
    let mut magic = vec![0; MAGIC.len()];
    file.read_exact(&mut magic).at("read", path)?;
    let head = read_block(&mut file, path)?;
    framed(&head, &mut magic);
    if !each(magic) {
        return Ok(());
    }
    loop {
        let block = read_block(&mut file, path)?;
        let plain = translate(block, vault, &Plain).map_err(|fault| fault.at(path))?;
        let last = plain.is_empty();
        let mut out = Vec::with_capacity(plain.len() + 8);
        framed(&plain, &mut out);
        if !each(out) || last {
            return Ok(());
        }
    }
}

fn framed(block: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(block.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(block).to_le_bytes());
    out.extend_from_slice(block);
}

/// Turns what [`send`] made on another member into what this member's disk may have.
pub(super) struct Receiver {
    vault: Arc<dyn Vault>,
    waiting: BytesMut,
    /// Magic and head are passed on as they are.
    begun: bool,
}

impl Receiver {
    pub(super) fn new(vault: Arc<dyn Vault>) -> Self {
        Self {
            vault,
            waiting: BytesMut::new(),
            begun: false,
        }
    }

    /// What can be written after these bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Fault> {
        self.waiting.extend_from_slice(bytes);
        let mut out = Vec::new();
        loop {
            let before = if self.begun { 0 } else { MAGIC.len() };
            let Some(len) = self.waiting.get(before..before + 4) else {
                return Ok(out);
            };
            let len = u32::from_le_bytes(len.try_into().map_err(|_| Fault::Malformed)?) as usize;
            if len > MAX_BLOCK {
                return Err(Fault::Malformed);
            }
            if self.waiting.len() < before + 8 + len {
                return Ok(out);
            }
            let frame = self.waiting.split_to(before + 8 + len).freeze();
            if self.begun {
                let block = frame.slice(8..);
                if crc32c::crc32c(&block).to_le_bytes() != frame[4..8] {
                    return Err(Fault::Malformed);
                }
                framed(&translate(block, &Plain, &*self.vault)?, &mut out);
            } else {
                out.extend_from_slice(&frame);
                self.begun = true;
            }
        }
    }

    /// Whether nothing is left over.
    pub(super) fn is_complete(&self) -> bool {
        self.waiting.is_empty()
    }
}

fn read_block(file: &mut impl Read, path: &Path) -> Result<Bytes, StartError> {
    let cut = |_| StartError::damaged(path, "the file is cut off");
    let mut header = [0; 8];
    file.read_exact(&mut header).map_err(cut)?;
    let [len, crc] = [&header[..4], &header[4..]].map(|b| u32::from_le_bytes(b.try_into().unwrap_or_default()));
    if len as usize > MAX_BLOCK {
        return Err(StartError::damaged(path, "a block has an impossible length"));
    }
    let mut block = vec![0; len as usize];
    file.read_exact(&mut block).map_err(cut)?;
    if crc32c::crc32c(&block) != crc {
        return Err(StartError::damaged(path, "a block has a bad checksum"));
    }
    Ok(block.into())
}

fn parse_head(block: &mut Bytes) -> Result<(Head, u64), Malformed> {
    let meta = pb::SnapshotOpen::decode(codec::bytes(block)?).map_err(|_| Malformed)?;
    let head = Head {
        meta: meta_from_pb(meta)?,
        revision: codec::number(block)?,
    };
    Ok((head, codec::number(block)?))
}

/// The form in which a snapshot's description is kept and sent; the vote and the length are the sender's to add.
pub(super) fn meta_to_pb(meta: &SnapshotMeta) -> pb::SnapshotOpen {
    pb::SnapshotOpen {
        vote: None,
        last_log_id: meta.last_log_id.as_ref().map(types::log_id_to_pb),
        last_membership: Some(types::stored_membership_to_pb(&meta.last_membership)),
        snapshot_id: meta.snapshot_id.clone(),
        length: 0,
    }
}

pub(super) fn meta_from_pb(open: pb::SnapshotOpen) -> Result<SnapshotMeta, Malformed> {
    Ok(SnapshotMeta {
        last_log_id: types::optional_log_id(open.last_log_id)?,
        last_membership: types::stored_membership_from_pb(open.last_membership)?,
        snapshot_id: open.snapshot_id,
    })
}
