//! The sample's image: busybox, its tools, and a page that says which pod served it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::archive::{Entry, Image};

/// Process 1 of the container: a shell that serves in the background, so that it can act on SIGTERM at once.
const SERVE: &str = r#"#!/bin/sh
trap 'kill "$!"; exit 0' TERM INT
echo "Hello from Keelson, served by $(hostname)" > /www/index.html
httpd -f -p "${PORT:-8080}" -h /www &
wait "$!"
"#;

/// The image, with a link for every tool that `busybox` says it has.
pub fn image(busybox: &Path, program: &[u8]) -> Result<Image> {
    let output = Command::new(busybox)
        .arg("--list")
        .output()
        .with_context(|| format!("run {}", busybox.display()))?;
    let list = String::from_utf8(output.stdout).unwrap_or_default();
    ensure!(
        output.status.success() && list.lines().any(|tool| tool == "httpd"),
        "{}: not a busybox with httpd",
        busybox.display()
    );
    ensure!(
        is_static(program),
        "{}: not statically linked; install the package busybox-static",
        busybox.display()
    );
    let mut entries = vec![
        Entry::Folder("bin", 0o755),
        Entry::Folder("etc", 0o755),
        Entry::Folder("tmp", 0o1777),
        Entry::Folder("www", 0o755),
        Entry::File("bin/busybox", 0o755, program.to_vec()),
        Entry::File("bin/serve", 0o755, SERVE.into()),
        Entry::File(
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n".to_vec(),
        ),
        Entry::File("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n".to_vec()),
    ];
    let tools = list.lines().filter(|tool| *tool != "busybox" && !tool.contains('/'));
    entries.extend(tools.map(|tool| Entry::Link(format!("bin/{tool}"), "busybox")));
    Ok(Image {
        name: "keelson.dev/web:1".into(),
        entries,
        entrypoint: vec!["/bin/serve".into()],
        environment: vec!["PATH=/bin".into()],
    })
}

/// Whether an ELF program asks for no dynamic loader.
fn is_static(program: &[u8]) -> bool {
    !program.windows(LOADER.len()).take(4096).any(|window| window == LOADER)
}

/// A dynamic program names its loader near the start.
const LOADER: &[u8] = b"/ld-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_refused() {
        let own = std::fs::read("/bin/sh").expect("sh");
        assert!(!is_static(&own));
        assert!(is_static(b"\x7fELF and no loader"));
    }
}
