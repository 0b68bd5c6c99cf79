//! The vote: which leader this member promised to follow, kept durably.
//!
//! One file, two slots of one block each, written one after the other and synced each: whatever a crash tears, one slot is whole, and one
//! damaged slot never brings back an older promise. The file never grows, so a full disk cannot stop an election.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::files::{At, StartError, sync_dir};
use super::types::Vote;

const SLOT: u64 = 4096;
const RECORD: usize = 32;
const MAGIC: [u8; 4] = *b"KVO1";

#[derive(Debug)]
pub(super) struct VoteFile {
    file: File,
    path: PathBuf,
    vote: Option<Vote>,
}

impl VoteFile {
    /// Opens the file; `must_exist` when there is a log, which is never older than its vote.
    pub(super) fn open(dir: &Path, must_exist: bool) -> Result<Self, StartError> {
        let path = dir.join("vote");
        if !path.exists() {
            if must_exist {
                return Err(StartError::damaged(&path, "the file is missing beside a log"));
            }
            return Self::create(dir, path);
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .at("open", &path)?;
        let slots = [read_slot(&file, 0), read_slot(&file, SLOT)];
        let vote = match slots {
            [Some(a), Some(b)] => {
                if a >= b {
                    a
                } else {
                    b
                }
            }
            [Some(one), None] | [None, Some(one)] => one,
            [None, None] => {
                return Err(StartError::damaged(
                    &path,
                    "neither of its two records has a valid checksum",
                ));
            }
        };
        Ok(Self { file, path, vote })
    }

    fn create(dir: &Path, path: PathBuf) -> Result<Self, StartError> {
        let new = dir.join("vote.new");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&new)
            .at("create", &new)?;
        file.write_all_at(&vec![0; 2 * SLOT as usize], 0).at("write", &new)?;
        let mut created = Self {
            file,
            path: new.clone(),
            vote: None,
        };
        created.write(None).at("write", &new)?;
        std::fs::rename(&new, &path).at("create", &path)?;
        sync_dir(dir).at("sync", dir)?;
        created.path = path;
        Ok(created)
    }

    /// Takes back in memory that this member was elected: openraft would resume the leadership without an entry of its own to commit, and for a moment
    /// answer linearizable reads without the last writes. The promise not to vote for anybody else in that term stays.
    pub(super) fn step_down(&mut self, node_id: u64) {
        if let Some(vote) = self.vote.as_mut().filter(|v| v.leader_id.node_id == node_id) {
            vote.committed = false;
        }
    }

    pub(super) fn vote(&self) -> Option<Vote> {
        self.vote
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Durable when it returns.
    pub(super) fn save(&mut self, vote: Vote) -> std::io::Result<()> {
        self.write(Some(vote))?;
        self.vote = Some(vote);
        Ok(())
    }

    fn write(&mut self, vote: Option<Vote>) -> std::io::Result<()> {
        for slot in [0, SLOT] {
            self.file.write_all_at(&encode(vote), slot)?;
            self.file.sync_data()?;
        }
        Ok(())
    }
}

fn encode(vote: Option<Vote>) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..4].copy_from_slice(&MAGIC);
    if let Some(vote) = vote {
        record[4] = 1;
        record[5] = u8::from(vote.committed);
        record[8..16].copy_from_slice(&vote.leader_id.term.to_le_bytes());
        record[16..24].copy_from_slice(&vote.leader_id.node_id.to_le_bytes());
    }
    let crc = crc32c::crc32c(&record[..RECORD - 4]);
    record[RECORD - 4..].copy_from_slice(&crc.to_le_bytes());
    record
}

/// The vote in a slot (`Some(None)`: none yet), or `None` if the slot is torn.
fn read_slot(file: &File, at: u64) -> Option<Option<Vote>> {
    let mut record = [0; RECORD];
    file.read_exact_at(&mut record, at).ok()?;
    let number = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().unwrap_or_default());
    let vote = Vote {
        leader_id: openraft::LeaderId::new(number(8), number(16)),
        committed: record[5] == 1,
    };
    let vote = (record[4] == 1).then_some(vote);
    (encode(vote) == record).then_some(vote)
}
