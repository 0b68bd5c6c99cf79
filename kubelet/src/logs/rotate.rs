//! Rotates logs of running containers: over the size the file is renamed with a time, the runtime opens a new one, and the oldest are removed.

use crate::runtime::{Runtime, model::State};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Upstream's `containerLogMonitorInterval`.
const PERIOD: Duration = Duration::from_secs(10);

/// When to rotate and what to keep.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Bytes.
    pub max_size: u64,
    /// Files of one container, the current one included.
    pub max_files: usize,
}

/// Rotates until `stop`.
pub async fn run(runtime: Runtime, policy: Policy, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = stop.cancelled() => return,
        }
        let containers = match runtime.list_containers(None).await {
            Ok(containers) => containers,
            Err(error) => {
                tracing::warn!(%error, "list containers for log rotation");
                continue;
            }
        };
        for container in containers.iter().filter(|c| State::from_cri(c.state) == State::Running) {
            if let Err(error) = rotate_one(&runtime, &container.id, policy).await {
                tracing::warn!(%error, container = container.id, "rotate log");
            }
        }
    }
}

async fn rotate_one(runtime: &Runtime, id: &str, policy: Policy) -> anyhow::Result<()> {
    let status = runtime.container_status(id).await?;
    let path = PathBuf::from(&status.log_path);
    let Ok(meta) = tokio::fs::metadata(&path).await else {
        return Ok(());
    };
    if meta.len() < policy.max_size {
        return Ok(());
    }
    let stamp = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    let rotated = PathBuf::from(format!("{}.{stamp}", path.display()));
    tokio::fs::rename(&path, &rotated).await?;
    if let Err(error) = runtime.reopen_log(id).await {
        // The container goes on writing into the renamed file: give it its name back.
        tokio::fs::rename(&rotated, &path).await?;
        return Err(error.into());
    }
    for old in surplus(&path, policy.max_files) {
        tokio::fs::remove_file(&old).await?;
    }
    Ok(())
}

/// Rotated files that are too many, the oldest first.
fn surplus(path: &Path, max_files: usize) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut rotated: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)))
        .map(|entry| entry.path())
        .collect();
    rotated.sort();
    let keep = max_files.saturating_sub(1).max(1);
    rotated.truncate(rotated.len().saturating_sub(keep));
    rotated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_files_go() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("0.log");
        for stamp in ["20260101-000000", "20260102-000000", "20260103-000000"] {
            std::fs::write(folder.path().join(format!("0.log.{stamp}")), "")?;
        }
        std::fs::write(folder.path().join("1.log.20260101-000000"), "")?;
        assert_eq!(surplus(&path, 3), [folder.path().join("0.log.20260101-000000")]);
        assert!(surplus(&path, 5).is_empty());
        Ok(())
    }
}
