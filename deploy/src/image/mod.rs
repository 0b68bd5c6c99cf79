//! Image archives for the samples, made from what the machine has: no registry, no Docker.

mod archive;
mod web;

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::console;

/// Image archives, made without a registry.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Make keelson.dev/web:1, a web server and the usual small tools, from a static busybox.
    BuildWeb {
        /// The statically linked busybox, as in the package busybox-static.
        #[arg(long, default_value = "/bin/busybox", value_name = "FILE")]
        busybox: PathBuf,
        /// The OCI archive to write.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
}

/// Does what the command says.
pub fn run(command: Command) -> Result<()> {
    let Command::BuildWeb { busybox, output } = command;
    let program = std::fs::read(&busybox).with_context(|| format!("read {}", busybox.display()))?;
    let image = web::image(&busybox, &program)?;
    let file = File::create(&output).with_context(|| format!("write {}", output.display()))?;
    archive::write(&image, file).with_context(|| format!("write {}", output.display()))?;
    console::line(format_args!("{}: {}", output.display(), image.name));
    Ok(())
}
