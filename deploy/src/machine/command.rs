//! The command lines of `keelson init`, `keelson node` and `keelson join`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::bundle::Bundle;
use super::install;
use super::register::Register;
use crate::console;
use crate::pki::node_name;

/// Where the first machine keeps the authority and the list of machines.
const CLUSTER: &str = "/var/lib/keelson/cluster";

/// Make this machine the first of a new cluster: its control plane and a node.
#[derive(clap::Args)]
pub struct InitArguments {
    /// This machine's name in the cluster.
    #[arg(long, value_parser = node_name)]
    name: String,
    /// The address that other machines reach this one at.
    #[arg(long, value_name = "IP")]
    address: IpAddr,
}

/// Make this machine one of the cluster, with the bundle that `keelson node add` wrote for it.
#[derive(clap::Args)]
pub struct JoinArguments {
    /// The bundle. It holds private keys: remove it afterwards.
    #[arg(value_name = "FILE")]
    bundle: PathBuf,
}

/// The cluster's machines; on the first of them.
#[derive(clap::Subcommand)]
pub enum NodeCommand {
    /// Issue the credentials of a further machine and write the bundle with which it can join.
    Add {
        /// The machine's name in the cluster.
        #[arg(value_parser = node_name)]
        name: String,
        /// The address that other machines reach it at.
        #[arg(long, value_name = "IP")]
        address: IpAddr,
        /// It shall run the control plane as well.
        #[arg(long)]
        control_plane: bool,
        /// The file to write.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
}

/// `keelson init`.
pub fn init(arguments: &InitArguments) -> Result<()> {
    install::check()?;
    let cluster = Path::new(CLUSTER);
    let bundle = Register::load(cluster)?.add(&arguments.name, arguments.address, true)?;
    run(&bundle)?;
    console::line(format_args!(
        "export KUBECONFIG={}",
        cluster.join("pki/admin.kubeconfig").display()
    ));
    Ok(())
}

/// `keelson join`.
pub fn join(arguments: &JoinArguments) -> Result<()> {
    install::check()?;
    run(&Bundle::read(&arguments.bundle)?)
}

/// `keelson node`.
pub fn node(command: &NodeCommand) -> Result<()> {
    let NodeCommand::Add {
        name,
        address,
        control_plane,
        output,
    } = command;
    let mut register = Register::load(Path::new(CLUSTER))?;
    ensure!(
        !register.is_empty(),
        "no cluster on this machine; `keelson init` makes one"
    );
    register.add(name, *address, *control_plane)?.write(output)?;
    console::line(format_args!(
        "{}: on {name}, run `keelson join` with this file, and then remove it",
        output.display()
    ));
    Ok(())
}

fn run(bundle: &Bundle) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(install::install(bundle))?;
    console::line(format_args!("{} runs", bundle.machine.name));
    Ok(())
}
