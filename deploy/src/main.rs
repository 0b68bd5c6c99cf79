//! `keelson`, the operator's command: certificates, clusters of machines and on one machine, the sample image.

mod configuration;
mod console;
mod host;
mod image;
mod kubeconfig;
mod local;
mod machine;
mod pki;
mod runtime;

use std::process::ExitCode;

/// Keelson, a Kubernetes cluster manager: the operator's command.
#[derive(clap::Parser)]
#[command(name = "keelson", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// The cluster's certificates.
    #[command(subcommand)]
    Pki(pki::Command),
    /// Clusters on this machine: each node in its own network namespace, with its own containerd.
    #[command(subcommand)]
    Local(local::Command),
    /// Make this machine the first of a new cluster: its control plane and a node.
    Init(machine::InitArguments),
    /// The cluster's machines; on the first of them.
    #[command(subcommand)]
    Node(machine::NodeCommand),
    /// Make this machine one of the cluster, with the bundle that `keelson node add` wrote for it.
    Join(machine::JoinArguments),
    /// Image archives, made without a registry.
    #[command(subcommand)]
    Image(image::Command),
}

fn main() -> ExitCode {
    let outcome = match daemon::cli::parse::<Arguments>().command {
        Command::Pki(command) => pki::run(command),
        Command::Local(command) => local::run(command),
        Command::Init(arguments) => machine::init(&arguments),
        Command::Node(command) => machine::node(&command),
        Command::Join(arguments) => machine::join(&arguments),
        Command::Image(command) => image::run(command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keelson: {error:#}");
            ExitCode::FAILURE
        }
    }
}
