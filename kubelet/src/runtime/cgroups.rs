//! The cgroups of pods: `kubepods`, `kubepods/burstable`, `kubepods/besteffort` and one a pod, made by hand (driver `cgroupfs`), on cgroup v1
//! and v2. Containers' own cgroups below them are the runtime's.

use super::resources::{self, Qos, cpu_quota, cpu_shares};
use api::core::v1::Pod;
use std::io;
use std::path::{Path, PathBuf};

/// A cgroup that could not be made, written or removed.
#[derive(Debug, thiserror::Error)]
#[error("cgroup {}: {operation}", .path.display())]
pub struct CgroupError {
    path: PathBuf,
    operation: &'static str,
    #[source]
    source: io::Error,
}

type Result<T> = std::result::Result<T, CgroupError>;

/// Which hierarchy the kernel has here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy a controller.
    V1,
    /// One hierarchy.
    V2,
}

/// The driver. Paths inside it are relative to the mount, as in `/kubepods/burstable/pod<uid>`.
#[derive(Clone, Debug)]
pub struct Cgroups {
    version: Version,
    /// v1: one mount a controller; v2: the one mount.
    mounts: Vec<(String, PathBuf)>,
    /// `--cgroup-root`.
    root: PathBuf,
}

/// Limits of one cgroup; nothing is left as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// In cgroup v1's scale.
    pub cpu_shares: Option<i64>,
    /// Microseconds in 100 ms; -1 is none.
    pub cpu_quota: Option<i64>,
    /// Bytes.
    pub memory: Option<i64>,
    /// Processes.
    pub pids: Option<i64>,
}

const CONTROLLERS_V1: [&str; 6] = ["cpu", "cpuacct", "memory", "pids", "cpuset", "hugetlb"];
const CONTROLLERS_V2: &str = "+cpu +cpuset +memory +pids +io";

impl Cgroups {
    /// Finds the mounts below `/sys/fs/cgroup`. `root` is `--cgroup-root` (`/` is the top).
    pub fn detect(root: &Path) -> Result<Self> {
        let path = Path::new("/proc/self/mountinfo");
        let text = std::fs::read_to_string(path).map_err(|source| failed(path, "read", source))?;
        Ok(Self::from_mounts(&text, root))
    }

    fn from_mounts(mountinfo: &str, root: &Path) -> Self {
        let mut v1 = Vec::new();
        let mut v2 = None;
        for line in mountinfo.lines() {
            let Some((head, tail)) = line.split_once(" - ") else {
                continue;
            };
            let Some(target) = head.split(' ').nth(4) else { continue };
            let mut tail = tail.split(' ');
            match (tail.next(), tail.nth(1)) {
                (Some("cgroup"), Some(options)) => {
                    v1.extend(
                        options
                            .split(',')
                            .filter(|o| !matches!(*o, "rw" | "ro"))
                            .map(|o| (o.to_owned(), target.into())),
                    );
                }
                (Some("cgroup2"), _) => v2 = v2.or(Some(PathBuf::from(target))),
                _ => {}
            }
        }
        let root = PathBuf::from("/").join(root);
        // A v2 mount beside v1 controllers has none of its own: systemd's hybrid layout.
        match v2 {
            Some(mount) if !v1.iter().any(|(name, _)| name == "memory" || name == "cpu") => Self {
                version: Version::V2,
                mounts: vec![(String::new(), mount)],
                root,
            },
            // runc makes a folder in the bare v2 hierarchy, too, which has to go with the others.
            unified => Self {
                version: Version::V1,
                mounts: v1
                    .into_iter()
                    .chain(unified.map(|mount| ("unified".to_owned(), mount)))
                    .collect(),
                root,
            },
        }
    }

    /// v1 or v2.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The folder of all pods, as the runtime and the kernel name it.
    pub fn kubepods(&self) -> PathBuf {
        self.root.join("kubepods")
    }

    fn qos_path(&self, qos: Qos) -> PathBuf {
        match qos {
            Qos::Guaranteed => self.kubepods(),
            Qos::Burstable => self.kubepods().join("burstable"),
            Qos::BestEffort => self.kubepods().join("besteffort"),
        }
    }

    /// A pod's cgroup.
    pub fn pod_path(&self, pod: &Pod) -> PathBuf {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        self.qos_path(resources::qos(pod)).join(format!("pod{uid}"))
    }

    /// Makes `kubepods` and the two QoS folders. `memory` and `cpu_milli` are what the node may give to pods.
    pub fn prepare_node(&self, memory: i64, cpu_milli: i64) -> Result<()> {
        let limits = Limits {
            cpu_shares: Some(cpu_shares(cpu_milli)),
            memory: Some(memory),
            ..Default::default()
        };
        self.apply(&self.kubepods(), &limits)?;
        self.apply(
            &self.qos_path(Qos::Burstable),
            &Limits {
                cpu_shares: Some(2),
                ..Default::default()
            },
        )?;
        self.apply(
            &self.qos_path(Qos::BestEffort),
            &Limits {
                cpu_shares: Some(2),
                ..Default::default()
            },
        )
    }

    /// Weighs the burstable pods together by what they request together.
    pub fn weigh_burstable(&self, cpu_milli: i64) -> Result<()> {
        self.apply(
            &self.qos_path(Qos::Burstable),
            &Limits {
                cpu_shares: Some(cpu_shares(cpu_milli)),
                ..Default::default()
            },
        )
    }

    /// Makes or updates the pod's cgroup.
    pub fn prepare_pod(&self, pod: &Pod, pids: Option<i64>) -> Result<PathBuf> {
        let totals = resources::pod_totals(pod);
        let limits = match resources::qos(pod) {
            Qos::BestEffort => Limits {
                cpu_shares: Some(2),
                pids,
                ..Default::default()
            },
            _ => Limits {
                cpu_shares: Some(cpu_shares(totals.cpu_milli)),
                cpu_quota: totals.cpu_limit_milli.and_then(cpu_quota),
                memory: totals.memory_limit,
                pids,
            },
        };
        let path = self.pod_path(pod);
        self.apply(&path, &limits)?;
        Ok(path)
    }

    /// Folders on disk of a cgroup, one a controller on v1.
    pub fn folders(&self, path: &Path) -> Vec<PathBuf> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let mut folders: Vec<PathBuf> = self.mounts.iter().map(|(_, mount)| mount.join(relative)).collect();
        folders.sort();
        folders.dedup();
        folders
    }

    /// The folder of one controller (v2: of all).
    pub fn folder(&self, controller: &str, path: &Path) -> Option<PathBuf> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let of = |(name, _): &&(String, PathBuf)| self.version == Version::V2 || name == controller;
        self.mounts.iter().find(of).map(|(_, mount)| mount.join(relative))
    }

    fn apply(&self, path: &Path, limits: &Limits) -> Result<()> {
        match self.version {
            Version::V1 => self.apply_v1(path, limits),
            Version::V2 => self.apply_v2(path, limits),
        }
    }

    fn apply_v1(&self, path: &Path, limits: &Limits) -> Result<()> {
        for (controller, mount) in &self.mounts {
            if !CONTROLLERS_V1.contains(&controller.as_str()) {
                continue;
            }
            let folder = mount.join(path.strip_prefix("/").unwrap_or(path));
            std::fs::create_dir_all(&folder).map_err(|source| failed(&folder, "create", source))?;
            match controller.as_str() {
                "cpuset" => inherit_cpuset(mount, path)?,
                "cpu" => {
                    write_some(&folder.join("cpu.shares"), limits.cpu_shares)?;
                    if let Some(quota) = limits.cpu_quota {
                        write(&folder.join("cpu.cfs_period_us"), &resources::cpu_period().to_string())?;
                        write(&folder.join("cpu.cfs_quota_us"), &quota.to_string())?;
                    }
                }
                "memory" => write_some(&folder.join("memory.limit_in_bytes"), limits.memory)?,
                "pids" => write_some(&folder.join("pids.max"), limits.pids)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn apply_v2(&self, path: &Path, limits: &Limits) -> Result<()> {
        let Some((_, mount)) = self.mounts.first() else {
            return Ok(());
        };
        let mut folder = mount.clone();
        for part in path.strip_prefix("/").unwrap_or(path) {
            delegate(&folder)?;
            folder.push(part);
            if !folder.exists() {
                std::fs::create_dir(&folder).map_err(|source| failed(&folder, "create", source))?;
            }
        }
        delegate(&folder)?;
        if let Some(shares) = limits.cpu_shares {
            write(&folder.join("cpu.weight"), &weight(shares).to_string())?;
        }
        if let Some(quota) = limits.cpu_quota {
            write(&folder.join("cpu.max"), &format!("{quota} {}", resources::cpu_period()))?;
        }
        write_some(&folder.join("memory.max"), limits.memory)?;
        write_some(&folder.join("pids.max"), limits.pids)
    }

    /// Uids of pods that have a cgroup here.
    pub fn pods(&self) -> Vec<(String, PathBuf)> {
        let mut found = Vec::new();
        for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            let path = self.qos_path(qos);
            for folder in self.folders(&path) {
                let Ok(entries) = std::fs::read_dir(folder) else {
                    continue;
                };
                let names = entries
                    .flatten()
                    .filter_map(|entry| entry.file_name().into_string().ok());
                found.extend(names.filter_map(|name| Some((name.strip_prefix("pod")?.to_owned(), path.join(&name)))));
            }
        }
        found.sort();
        found.dedup();
        found
    }

    /// Removes a cgroup with everything below it. Fails with `EBUSY` while a process is in it; one that is gone is no error.
    pub fn remove(&self, path: &Path) -> Result<()> {
        for folder in self.folders(path) {
            remove_tree(&folder).map_err(|source| failed(&folder, "remove", source))?;
        }
        Ok(())
    }
}

/// cgroup v2's weight of v1's shares, by the formula that runc and systemd use.
fn weight(shares: i64) -> i64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Lets the children of `folder` use the controllers that the kernel offers there.
fn delegate(folder: &Path) -> Result<()> {
    let offered = folder.join("cgroup.controllers");
    let offered = std::fs::read_to_string(&offered).map_err(|source| failed(&offered, "read", source))?;
    let wanted = CONTROLLERS_V2
        .split(' ')
        .filter(|name| offered.split_whitespace().any(|has| Some(has) == name.get(1..)));
    let wanted: Vec<&str> = wanted.collect();
    if wanted.is_empty() {
        return Ok(());
    }
    write(&folder.join("cgroup.subtree_control"), &wanted.join(" "))
}

/// A new v1 cpuset is empty and takes no process before it has its parent's processors and memory nodes.
fn inherit_cpuset(mount: &Path, path: &Path) -> Result<()> {
    let mut parent = mount.to_path_buf();
    for part in path.strip_prefix("/").unwrap_or(path) {
        let folder = parent.join(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (from, to) = (parent.join(file), folder.join(file));
            let read = |path: &Path| std::fs::read_to_string(path).map_err(|source| failed(path, "read", source));
            if read(&to)?.trim().is_empty() {
                write(&to, read(&from)?.trim())?;
            }
        }
        parent = folder;
    }
    Ok(())
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn write_some(path: &Path, value: Option<i64>) -> Result<()> {
    value.map_or(Ok(()), |value| write(path, &value.to_string()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|source| failed(path, "write", source))
}

fn failed(path: &Path, operation: &'static str, source: io::Error) -> CgroupError {
    CgroupError {
        path: path.to_path_buf(),
        operation,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 25 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 25 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
33 25 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

    #[test]
    fn a_v2_mount_beside_v1_controllers_is_v1() {
        let cgroups = Cgroups::from_mounts(HYBRID, Path::new("/"));
        assert_eq!(cgroups.version(), Version::V1);
        assert_eq!(
            cgroups.folder("cpuacct", Path::new("/kubepods")),
            Some("/sys/fs/cgroup/cpu,cpuacct/kubepods".into())
        );
        assert_eq!(cgroups.folders(Path::new("/a")).len(), 4);
    }

    #[test]
    fn a_v2_mount_alone_is_v2() {
        let line = "33 25 0:29 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        let cgroups = Cgroups::from_mounts(line, Path::new("/keelson"));
        assert_eq!(cgroups.version(), Version::V2);
        assert_eq!(
            cgroups.folder("memory", &cgroups.kubepods()),
            Some("/sys/fs/cgroup/keelson/kubepods".into())
        );
    }

    #[test]
    fn weight_covers_the_whole_range() {
        assert_eq!(weight(2), 1);
        assert_eq!(weight(1024), 39);
        assert_eq!(weight(262_144), 10_000);
    }
}
