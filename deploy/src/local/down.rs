//! `keelson local down`: ends a cluster and leaves nothing of it, in whatever state it was.
//!
//! Nothing here needs the cluster's description: names follow from the folder, so a cluster whose making was cut off goes away as well.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, umount2};
use tokio::time::{Instant, sleep};

use super::cgroup::Hierarchies;
use super::{cluster, enter, network};
use crate::{console, host};

/// The kernel takes a moment to end processes and to let go of their cgroups.
const TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// Takes down the cluster in `dir` and removes the folder.
pub async fn down(dir: &Path) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "keelson local down must run as root");
    let dir = absolute(dir)?;
    let id = cluster::id(&dir);
    let is_cluster = dir.join("cluster.json").exists();
    end_processes(&format!("keelson-{id}")).await?;
    {
        let _lock = network::lock()?;
        network::remove(&id)?;
        if network::is_last() {
            if Path::new(network::NAMESPACES).exists() {
                network::tidy_up()?;
            }
            remove_mount_points();
        }
    }
    if !is_cluster {
        console::line(format_args!("{}: no cluster", dir.display()));
        return Ok(());
    }
    for mount in host::mounts_below(&dir)? {
        umount2(&mount, MntFlags::MNT_DETACH).with_context(|| format!("unmount {}", mount.display()))?;
    }
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    console::line(format_args!("{}: the cluster is gone", dir.display()));
    Ok(())
}

/// The folder without symbolic links, as it was when the cluster got its id; somebody may have removed it since.
fn absolute(dir: &Path) -> Result<PathBuf> {
    if let Ok(dir) = dir.canonicalize() {
        return Ok(dir);
    }
    let dir = std::path::absolute(dir).with_context(|| format!("find {}", dir.display()))?;
    Ok(match (dir.parent().map(Path::canonicalize), dir.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => dir,
    })
}

/// Kills everything in the cluster's cgroup, pods included, and removes the cgroup. With the last process of a node its mount namespace
/// ends, and every mount in it.
async fn end_processes(cgroup: &str) -> Result<()> {
    let hierarchies = Hierarchies::find()?;
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let killed = hierarchies.kill(cgroup);
        let removed = if killed == 0 {
            hierarchies.remove(cgroup)
        } else {
            Ok(())
        };
        if hierarchies.is_gone(cgroup) {
            return Ok(());
        }
        if Instant::now() > deadline {
            removed?;
            bail!("{killed} process(es) of the cluster do not end");
        }
        sleep(POLL).await;
    }
}

/// Removes the folders that only served to mount over. One with something in it belongs to somebody else and stays. The caller holds the
/// network's lock and knows that no other cluster is there: removing a folder undoes the mounts on it in every namespace.
fn remove_mount_points() {
    for (folder, _) in enter::OWN_FOLDERS {
        // Everybody's, and `ip netns add` trusts that it stays.
        if folder != network::NAMESPACES {
            let _ = fs::remove_dir(folder);
        }
    }
}
