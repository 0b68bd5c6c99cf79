//! The pause image: what holds a pod's namespaces open. A static ELF file of a few hundred bytes, packed as a docker archive, so that no registry is
//! needed to start a sandbox.
//!
//! The program blocks SIGINT, SIGTERM and SIGCHLD and waits for them: a child's death is reaped (with a shared process namespace it is the init of all
//! containers), anything else ends it.

use crate::runtime::{Runtime, RuntimeError};
use sha2::{Digest as _, Sha256};
use std::io::{self, Write};
use std::path::Path;

/// The image's name: also what containerd's `sandbox_image` has to be.
pub const IMAGE: &str = "keelson.dev/pause:1";

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the pause program is written for x86_64; write it for this architecture, too");

// Assembled with this crate and copied out of it: it is never run here.
std::arch::global_asm!(
    ".pushsection .rodata.keelson_pause, \"a\"",
    ".globl keelson_pause_begin",
    ".globl keelson_pause_end",
    "keelson_pause_begin:",
    // rt_sigprocmask(SIG_BLOCK, &{INT, TERM, CHLD}, NULL, 8); bit n-1 is signal n: 2, 15, 17.
    "push 0x14002",
    "mov eax, 14",
    "xor edi, edi",
    "mov rsi, rsp",
    "xor edx, edx",
    "mov r10d, 8",
    "syscall",
    "2:",
    // rt_sigtimedwait(&set, NULL, NULL, 8)
    "mov eax, 128",
    "mov rdi, rsp",
    "xor esi, esi",
    "xor edx, edx",
    "mov r10d, 8",
    "syscall",
    "cmp eax, 17",
    "je 3f",
    "test eax, eax",
    "js 2b",
    // exit_group(0)
    "mov eax, 231",
    "xor edi, edi",
    "syscall",
    "3:",
    // while wait4(-1, NULL, WNOHANG, NULL) > 0 {}
    "mov eax, 61",
    "mov rdi, -1",
    "xor esi, esi",
    "mov edx, 1",
    "xor r10d, r10d",
    "syscall",
    "test eax, eax",
    "jg 3b",
    "jmp 2b",
    "keelson_pause_end:",
    ".popsection",
);

unsafe extern "C" {
    static keelson_pause_begin: u8;
    static keelson_pause_end: u8;
}

fn code() -> &'static [u8] {
    let begin = &raw const keelson_pause_begin;
    let end = &raw const keelson_pause_end;
    // SAFETY: both symbols bound the one read-only block assembled above, the end after the beginning, for the life of the program.
    unsafe { std::slice::from_raw_parts(begin, end.offset_from_unsigned(begin)) }
}

/// The program: an ELF header, one segment, the code.
pub fn program() -> Vec<u8> {
    const HEADERS: u64 = 64 + 56;
    const BASE: u64 = 0x40_0000;
    let code = code();
    let size = HEADERS + code.len() as u64;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |elf: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    let word = |elf: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    let long = |elf: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    // ET_EXEC, EM_X86_64, version, entry, program headers at 64, no sections.
    half(&mut elf, &[2, 62]);
    word(&mut elf, &[1]);
    long(&mut elf, &[BASE + HEADERS, 64, 0]);
    word(&mut elf, &[0]);
    half(&mut elf, &[64, 56, 1, 64, 0, 0]);
    // PT_LOAD, readable and executable: the whole file.
    word(&mut elf, &[1, 5]);
    long(&mut elf, &[0, BASE, BASE, size, size, 0x1000]);
    elf.extend(code);
    elf
}

/// Writes the image as a docker archive, as `ctr images import` and `docker load` take it. The same bytes every time.
pub fn write_image(out: impl Write) -> io::Result<()> {
    let mut layer = tar::Builder::new(Vec::new());
    append(&mut layer, "pause", &program(), 0o755)?;
    let layer = layer.into_inner()?;
    let diff_id = format!("sha256:{}", hex(&Sha256::digest(&layer)));
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535", "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "kubelet --write-pause-image"}],
    })
    .to_string();
    let config_name = format!("{}.json", hex(&Sha256::digest(config.as_bytes())));
    let manifest =
        serde_json::json!([{"Config": config_name, "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]).to_string();
    let mut archive = tar::Builder::new(out);
    append(&mut archive, &config_name, config.as_bytes(), 0o644)?;
    append(&mut archive, "layer.tar", &layer, 0o644)?;
    append(&mut archive, "manifest.json", manifest.as_bytes(), 0o644)?;
    archive.into_inner()?.flush()
}

fn append<W: Write>(archive: &mut tar::Builder<W>, name: &str, data: &[u8], mode: u32) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(data.len() as u64);
    header.set_mode(mode);
    header.set_mtime(0);
    archive.append_data(&mut header, name, data)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The image could not be brought into the runtime.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The runtime did not say whether it has the image.
    #[error("look for the pause image")]
    Runtime(#[from] RuntimeError),
    /// The archive could not be written.
    #[error("write the pause image")]
    Write(#[from] io::Error),
    /// `ctr` failed.
    #[error("ctr images import: {0}")]
    Import(String),
}

/// Brings the image into the runtime when it is not there, by containerd's `ctr`. `scratch` is a folder for the archive.
pub async fn ensure(runtime: &Runtime, scratch: &Path) -> Result<(), ImportError> {
    if runtime.image(IMAGE).await?.is_some() {
        return Ok(());
    }
    let file = tempfile::NamedTempFile::new_in(scratch)?;
    write_image(file.as_file())?;
    let mut command = tokio::process::Command::new("ctr");
    command
        .args([
            "--address",
            runtime.socket(),
            "--namespace",
            "k8s.io",
            "images",
            "import",
        ])
        .arg(file.path());
    let output = command.stdin(std::process::Stdio::null()).output().await?;
    if !output.status.success() {
        return Err(ImportError::Import(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ));
    }
    tracing::info!(image = IMAGE, "imported the pause image");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::ExitStatusExt as _;

    #[test]
    fn the_program_waits_and_ends_on_sigterm() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("pause");
        std::fs::write(&path, program())?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        let mut child = std::process::Command::new(&path).spawn()?;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
        // A signal before it waits for signals would kill it: 128 is rt_sigtimedwait.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let waits = || {
            let text = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
            text.starts_with("128 ")
        };
        while !waits() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(waits());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCHLD)?;
        assert!(child.try_wait()?.is_none());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        let status = child.wait()?;
        assert_eq!((status.code(), status.signal()), (Some(0), None));
        Ok(())
    }

    #[test]
    fn the_image_is_small_and_always_the_same() -> anyhow::Result<()> {
        let (mut one, mut two) = (Vec::new(), Vec::new());
        write_image(&mut one)?;
        write_image(&mut two)?;
        assert_eq!(one, two);
        assert!(program().len() < 512 && one.len() < 16 << 10);
        let mut names = Vec::new();
        for entry in tar::Archive::new(one.as_slice()).entries()? {
            names.push(entry?.path()?.to_string_lossy().into_owned());
        }
        assert_eq!(names.get(1..).unwrap_or_default(), ["layer.tar", "manifest.json"]);
        Ok(())
    }
}
