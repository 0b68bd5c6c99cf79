//! Brings rule sets into the kernel through `nft`, remembering what is there.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::RuleSet;
use super::render::{Family, reload, remove, update};

/// A healthy kernel needs well under a second for 10,000 services.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Why the kernel does not have the rules.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The program could not be started or fed.
    #[error("run nft")]
    Run(#[source] std::io::Error),
    /// The transaction was refused as a whole.
    #[error("nft refused the rules: {0}")]
    Refused(String),
    /// No answer in time; whether the transaction took place is unknown.
    #[error("nft did not finish within {} s", TIMEOUT.as_secs())]
    Timeout,
}

/// Owns the proxy's tables. One at a time: nothing else may write them.
#[derive(Debug)]
pub struct Applier {
    families: Vec<Family>,
    mark: u32,
    /// What the kernel has; None if that is not known (at the start, after an error).
    current: Option<RuleSet>,
}

impl Applier {
    /// For the given families; `mark` is the packet mark bit that asks for masquerading.
    pub fn new(families: Vec<Family>, mark: u32) -> Self {
        Self {
            families,
            mark,
            current: None,
        }
    }

    /// Makes the tables contain `rules`: the difference if what is there is known, else everything.
    pub async fn apply(&mut self, rules: RuleSet) -> Result<(), ApplyError> {
        // Taken, so that an error or a dropped future leaves "not known" behind.
        let done = match self.current.take() {
            Some(current) => nft(&update(&current, &rules, &self.families)).await,
            None => self.reload(&rules).await,
        };
        done.map(|()| self.current = Some(rules))
    }

    async fn reload(&self, rules: &RuleSet) -> Result<(), ApplyError> {
        match nft(&reload(rules, &self.families, self.mark, true)).await {
            Err(ApplyError::Refused(why)) => {
                tracing::info!(%why, "tables of another version are in the way, replacing them");
                nft(&reload(rules, &self.families, self.mark, false)).await
            }
            done => done,
        }
    }

    /// Removes the tables.
    pub async fn remove(&mut self) -> Result<(), ApplyError> {
        self.current = None;
        nft(&remove(&self.families)).await
    }
}

/// Runs one transaction.
pub async fn nft(text: &str) -> Result<(), ApplyError> {
    if text.is_empty() {
        return Ok(());
    }
    let run = async {
        let mut child = tokio::process::Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // If nft ends early its message on stderr says more than the broken pipe.
            _ = stdin.write_all(text.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(TIMEOUT, run)
        .await
        .map_err(|_| ApplyError::Timeout)?
        .map_err(ApplyError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(ApplyError::Refused(
        message
            .lines()
            .take(4)
            .collect::<Vec<_>>()
            .join(" | ")
            .chars()
            .take(600)
            .collect(),
    ))
}
