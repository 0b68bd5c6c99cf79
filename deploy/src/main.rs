//! `keelson`, the operator's command: certificates, clusters on one machine, the sample image.

mod configuration;
mod console;
mod host;
mod image;
mod kubeconfig;
mod local;
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
    /// Image archives, made without a registry.
    #[command(subcommand)]
    Image(image::Command),
}

fn main() -> ExitCode {
    let outcome = match daemon::cli::parse::<Arguments>().command {
        Command::Pki(command) => pki::run(command),
        Command::Local(command) => local::run(command),
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
