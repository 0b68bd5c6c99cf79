//! The command line of `keelson local`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::cluster::Cluster;
use super::{down, enter, status, up};
use crate::host::RuntimeSupport;
use crate::{console, runtime};

/// Where a cluster lives when nothing else is said.
const DEFAULT_DIR: &str = ".keelson";

/// Clusters on this machine: each node in its own network namespace, with its own containerd.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Make a cluster, or start what is missing of it, and wait until it is ready.
    Up {
        #[command(flatten)]
        dir: Dir,
        /// How many nodes [default: 1].
        #[arg(long)]
        nodes: Option<u8>,
        /// How many of them, from the first, are control planes: the members of the replicated store [default: 1].
        #[arg(long)]
        control_planes: Option<u8>,
        /// Seconds to wait until everything is ready.
        #[arg(long, default_value_t = 120, value_name = "SECONDS")]
        timeout: u64,
    },
    /// End a cluster and remove everything of it, its folder included.
    Down {
        #[command(flatten)]
        dir: Dir,
    },
    /// Show the daemons of a cluster and how they are.
    Status {
        #[command(flatten)]
        dir: Dir,
    },
    /// Import image archives into every node.
    Import {
        #[command(flatten)]
        dir: Dir,
        /// OCI or docker archives.
        #[arg(required = true, value_name = "FILE")]
        archives: Vec<PathBuf>,
    },
    /// Run a program as a process of a node: in its network, with its mounts.
    Exec {
        #[command(flatten)]
        dir: Dir,
        /// The node, as in node-1 or 1.
        node: String,
        /// The program and its arguments.
        #[arg(last = true, required = true, value_name = "PROGRAM")]
        program: Vec<OsString>,
    },
}

/// The folder of a cluster.
#[derive(clap::Args)]
pub struct Dir {
    /// The cluster's folder.
    #[arg(long, default_value = DEFAULT_DIR)]
    dir: PathBuf,
}

/// Does what the command says.
pub fn run(command: Command) -> Result<()> {
    // Before there is a second thread, see `enter`.
    if let Command::Exec { dir, node, program } = &command {
        let cluster = Cluster::existing(&dir.dir)?;
        let (program, arguments) = program.split_first().context("no program")?;
        return enter::exec(&cluster, &cluster.find_node(node)?, program, arguments);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        match command {
            Command::Up {
                dir,
                nodes,
                control_planes,
                timeout,
            } => {
                up::up(up::Options {
                    dir: dir.dir,
                    nodes,
                    control_planes,
                    timeout: Duration::from_secs(timeout),
                })
                .await
            }
            Command::Down { dir } => down::down(&dir.dir).await,
            Command::Status { dir } => status::status(&dir.dir).await,
            Command::Import { dir, archives } => import(&dir.dir, &archives).await,
            Command::Exec { .. } => Ok(()),
        }
    })
}

async fn import(dir: &Path, archives: &[PathBuf]) -> Result<()> {
    let cluster = Cluster::existing(dir)?;
    let snapshotter = RuntimeSupport::detect(&cluster.dir)?.snapshotter;
    for node in cluster.nodes() {
        for archive in archives {
            runtime::import(&node.runtime_socket(), archive, snapshotter)
                .await
                .with_context(|| node.name.clone())?;
            console::line(format_args!("{}: imported {}", node.name, archive.display()));
        }
    }
    Ok(())
}
