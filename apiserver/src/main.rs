//! The daemon: flags, log, listener, [`kube_apiserver::run`].

use std::process::ExitCode;

use kube_apiserver::config::{Config, Options};

/// Objects in every form are many small allocations, made on one thread and freed on another, which cost glibc a third of a write's CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let options: Options = daemon::cli::parse();
    let log = options.log.clone();
    daemon::cli::run("kube-apiserver", &log, |shutdown| async move {
        let config = Config::resolve(&options)?;
        let listener = daemon::cli::listen(config.listen)?;
        kube_apiserver::run(config, listener, shutdown).await
    })
}
