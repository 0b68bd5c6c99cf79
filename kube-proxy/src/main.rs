//! Flags, configuration, listener, [`kube_proxy::run`].

use std::net::SocketAddr;
use std::process::ExitCode;

use daemon::cli;
use kube_proxy::config::{Config, Flags, dns_addresses};

fn main() -> ExitCode {
    let flags: Flags = cli::parse();
    cli::run("kube-proxy", &flags.log.clone(), |shutdown| async move {
        if flags.cleanup {
            return kube_proxy::cleanup(&dns_addresses(&flags)?).await;
        }
        let config = Config::from_flags(&flags)?;
        let listener = cli::listen(SocketAddr::new(flags.bind_address, flags.secure_port))?;
        kube_proxy::run(config, listener, shutdown).await
    })
}
