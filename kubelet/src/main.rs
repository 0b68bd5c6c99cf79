//! kubelet: flags, configuration, then `kubelet::run`.

use anyhow::Context as _;
use kubelet::config::{Flags, Settings};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let flags: Flags = daemon::cli::parse();
    let log = flags.log.clone();
    daemon::cli::run("kubelet", &log, |shutdown| async move {
        if let Some(file) = &flags.write_pause_image {
            return write_pause_image(file);
        }
        let settings = Settings::load(&flags)?;
        let listener = kubelet::listen(&settings)?;
        kubelet::run(settings, listener, shutdown).await
    })
}

fn write_pause_image(file: &Path) -> anyhow::Result<()> {
    let out: Box<dyn Write> = match file.to_str() {
        Some("-") => Box::new(std::io::stdout()),
        _ => Box::new(std::fs::File::create(file).with_context(|| format!("create {}", file.display()))?),
    };
    kubelet::pause::write_image(out).context("write the pause image")
}
