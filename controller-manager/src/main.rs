//! The kube-controller-manager program: flags, configuration, listener, then [`kube_controller_manager::run`].

use std::process::ExitCode;

use kube_controller_manager::config::{Config, Flags};

fn main() -> ExitCode {
    let flags: Flags = daemon::cli::parse();
    let log = flags.log.clone();
    daemon::cli::run("kube-controller-manager", &log, |shutdown| async move {
        let listener = flags.listen()?;
        let config = Config::load(flags)?;
        kube_controller_manager::run(config, listener, shutdown).await
    })
}
