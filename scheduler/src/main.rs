//! kube-scheduler.

use std::process::ExitCode;

use daemon::cli;
use kube_scheduler::config::{Config, Flags};

fn main() -> ExitCode {
    let flags: Flags = cli::parse();
    cli::run("kube-scheduler", &flags.log, |shutdown| async {
        let config = Config::new(&flags)?;
        let listener = config.serving.listen(flags.secure_port)?;
        kube_scheduler::run(config, listener, shutdown).await
    })
}
