//! The cgroup that holds every process of a cluster: `keelson-<id>/<node>/daemons` for daemons and shims, and beside it whatever the
//! kubelet makes for pods. It works on both versions of cgroups; on version 1 processes are followed in one hierarchy, and folders are
//! removed from all.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cluster::{Cluster, Node};
use crate::host::{self, Mount};

/// Controllers that pods need, where cgroup version 2 must be told to pass them down.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// The cgroup file systems of this machine.
pub struct Hierarchies {
    /// Where processes are followed.
    tracking: PathBuf,
    /// Every mount, the tracking one included.
    all: Vec<PathBuf>,
    unified: bool,
}

impl Hierarchies {
    /// Those of this machine.
    pub fn find() -> Result<Self> {
        let table = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
        Self::choose(host::mounts(&table)).context("no cgroup file system is mounted; mount one at /sys/fs/cgroup")
    }

    /// Version 1 wins where both are mounted: then the controllers, and so the pods, are there.
    fn choose(mounts: Vec<Mount>) -> Option<Self> {
        let of = |kind: &str| mounts.iter().filter(|mount| mount.kind == kind).collect::<Vec<_>>();
        let (old, new) = (of("cgroup"), of("cgroup2"));
        let has = |mount: &Mount, controller| mount.options.split(',').any(|option| option == controller);
        let tracking = old
            .iter()
            .find(|mount| has(mount, "pids"))
            .or(old.first())
            .or(new.first())?
            .point
            .clone();
        let all = mounts
            .iter()
            .filter(|mount| mount.kind.starts_with("cgroup"))
            .map(|mount| mount.point.clone())
            .collect();
        Some(Self {
            tracking,
            all,
            unified: old.is_empty(),
        })
    }

    /// The node's cgroup for daemons, made if missing.
    pub fn ensure(&self, cluster: &Cluster, node: &Node) -> Result<PathBuf> {
        let of_cluster = self.tracking.join(cluster.cgroup());
        let of_node = of_cluster.join(&node.name);
        let daemons = of_node.join("daemons");
        fs::create_dir_all(&daemons).with_context(|| format!("make the cgroup {}", daemons.display()))?;
        if self.unified {
            for folder in [&self.tracking, &of_cluster, &of_node] {
                pass_down_controllers(folder)?;
            }
        }
        Ok(daemons)
    }

    /// Every process below the cgroup `name`.
    pub fn processes(&self, name: &str) -> BTreeSet<i32> {
        self.all
            .iter()
            .flat_map(|root| tree(&root.join(name)))
            .flat_map(|folder| processes_in(&folder))
            .collect()
    }

    /// Kills every process below the cgroup `name`.
    pub fn kill(&self, name: &str) -> usize {
        let processes = self.processes(name);
        for process in &processes {
            // One that has just ended is what we want.
            let _ = kill(Pid::from_raw(*process), Signal::SIGKILL);
        }
        processes.len()
    }

    /// Removes the cgroup `name` from every hierarchy. Fails while a process is in it.
    pub fn remove(&self, name: &str) -> Result<()> {
        for folder in self.all.iter().flat_map(|root| tree(&root.join(name))) {
            if let Err(e) = fs::remove_dir(&folder)
                && e.kind() != std::io::ErrorKind::NotFound
            {
                bail!("{}: cannot remove the cgroup: {e}", folder.display());
            }
        }
        Ok(())
    }

    /// Whether the cgroup `name` is gone everywhere.
    pub fn is_gone(&self, name: &str) -> bool {
        self.all.iter().all(|root| !root.join(name).exists())
    }
}

fn pass_down_controllers(folder: &Path) -> Result<()> {
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
    let available = read("cgroup.controllers");
    let wanted = CONTROLLERS
        .iter()
        .filter(|controller| available.split_whitespace().any(|word| word == **controller));
    let text: String = wanted.map(|controller| format!("+{controller} ")).collect();
    let path = folder.join("cgroup.subtree_control");
    fs::write(&path, text.trim_end()).with_context(|| format!("write {}", path.display()))
}

/// The processes directly in a cgroup; a cgroup that has just gone has none.
pub fn processes_in(folder: &Path) -> Vec<i32> {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// A folder and all below it, children before parents.
fn tree(folder: &Path) -> Vec<PathBuf> {
    if !folder.is_dir() {
        return Vec::new();
    }
    let children = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut folders: Vec<PathBuf> = children.flat_map(|entry| tree(&entry.path())).collect();
    folders.push(folder.to_owned());
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(point: &str, kind: &str, options: &str) -> Mount {
        Mount {
            point: point.into(),
            kind: kind.into(),
            options: options.into(),
        }
    }

    #[test]
    fn follows_processes_where_the_controllers_are() {
        let hybrid = vec![
            mount("/c/cpu", "cgroup", "rw,cpu"),
            mount("/c/pids", "cgroup", "rw,pids"),
            mount("/c/unified", "cgroup2", "rw"),
        ];
        let hybrid = Hierarchies::choose(hybrid).expect("hierarchies");
        assert_eq!(
            (hybrid.tracking.as_path(), hybrid.all.len(), hybrid.unified),
            (Path::new("/c/pids"), 3, false)
        );
        let unified = Hierarchies::choose(vec![mount("/c", "cgroup2", "rw,nsdelegate"), mount("/", "ext4", "rw")])
            .expect("hierarchies");
        assert_eq!(
            (unified.tracking.as_path(), unified.all.len(), unified.unified),
            (Path::new("/c"), 1, true)
        );
        assert!(Hierarchies::choose(vec![mount("/", "ext4", "rw")]).is_none());
    }
}
