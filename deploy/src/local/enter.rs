//! Becoming a process of a node: `keelson local exec`.
//!
//! The process joins the node's network namespace, mount namespace and cgroup and then becomes the program asked for. It must have one
//! thread only, because the kernel moves threads, not processes, between mount namespaces.
//!
//! A node's mount namespace has no name. It lives as long as a process is in it, and it is found through any of them; when there is none
//! there is no mount to be kept either, and a new one is made.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::cgroup::{Hierarchies, processes_in};
use super::cluster::{Cluster, Node};
use super::network;

/// The host's folders that a node has its own of, and where in the node's root they lie. Programs other than ours write to them, and not all can
/// be told to write elsewhere.
pub const OWN_FOLDERS: [(&str, &str); 3] = [
    (network::NAMESPACES, "run/netns"),
    ("/run/containerd", "run/containerd"),
    ("/var/lib/cni", "var/lib/cni"),
];

/// Turns this process into `program`, running on `node`. Returns only when that fails.
pub fn exec(cluster: &Cluster, node: &Node, program: &OsString, arguments: &[OsString]) -> Result<()> {
    // Held until the new program starts: two that enter at once must not make two mount namespaces.
    let lock = File::open(&node.root).with_context(|| format!("open {}", node.root.display()))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, e)| e)
        .context("lock the node")?;
    let hierarchies = Hierarchies::find()?;
    let daemons = hierarchies.ensure(cluster, node)?;
    let network = Path::new(network::NAMESPACES).join(&node.namespace);
    let network = File::open(&network).with_context(|| format!("open {}; is the cluster up?", network.display()))?;
    setns(network, CloneFlags::CLONE_NEWNET).context("join the node's network namespace")?;
    match mount_namespace(&daemons, node) {
        Some(namespace) => setns(namespace, CloneFlags::CLONE_NEWNS).context("join the node's mount namespace")?,
        None => make_mount_namespace(node)?,
    }
    fs::write(daemons.join("cgroup.procs"), "0").with_context(|| format!("join the cgroup {}", daemons.display()))?;
    let error = Command::new(program).args(arguments).exec();
    bail!("{}: cannot start: {error}", program.display())
}

/// The mount namespace that the node's processes are in.
fn mount_namespace(daemons: &Path, node: &Node) -> Option<File> {
    let identity = |path: PathBuf| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let own = identity(node.path("run/containerd"))?;
    // A container's process may pass through here on its way; its root shows that it is not the node's.
    let of_node = |process: &i32| identity(format!("/proc/{process}/root/run/containerd").into()) == Some(own);
    let process = processes_in(daemons).into_iter().find(of_node)?;
    File::open(format!("/proc/{process}/ns/mnt")).ok()
}

fn make_mount_namespace(node: &Node) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    let none = None::<&str>;
    let propagate =
        |flags| mount(none, "/", none, MsFlags::MS_REC | flags, none).context("set the propagation of mounts");
    // What the host unmounts goes here too; what is mounted here stays here, and reaches pods that ask for it.
    propagate(MsFlags::MS_SLAVE)?;
    propagate(MsFlags::MS_SHARED)?;
    for (host, own) in OWN_FOLDERS {
        let own = node.path(own);
        mount(Some(&own), host, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
            .with_context(|| format!("mount {} over {host}", own.display()))?;
    }
    Ok(())
}
