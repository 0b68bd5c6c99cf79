//! Talking to a containerd that runs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::net::UnixStream;
use tokio::process::Command;

/// Waits until the containerd at `socket` answers. It does not watch whether it runs.
pub async fn wait_until_it_serves(socket: &Path) {
    while UnixStream::connect(socket).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Imports an image archive for the kubelet's use.
pub async fn import(socket: &Path, archive: &Path, snapshotter: &str) -> Result<()> {
    let output = Command::new("ctr")
        .arg("--address")
        .arg(socket)
        .args([
            "--namespace",
            "k8s.io",
            "images",
            "import",
            "--snapshotter",
            snapshotter,
        ])
        .arg(archive)
        // Nobody waits for it once another step has failed.
        .kill_on_drop(true)
        .output()
        .await
        .context("start ctr; install the package containerd")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "import {}: {}",
        archive.display(),
        complaint.trim()
    );
    Ok(())
}
