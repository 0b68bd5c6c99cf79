//! What this machine offers: programs, capabilities, file systems, mounts.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Runs a program to its end; its error text becomes the error.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    run_with_input(program, arguments, "")
}

/// Like [`run`], with a text on standard input.
pub fn run_with_input(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let describe = || format!("{program} {}", arguments.join(" "));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).with_context(describe)?;
    }
    let output = child.wait_with_output().with_context(describe)?;
    if !output.status.success() {
        bail!(
            "{}: {}",
            describe(),
            String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Finds a program in PATH and the folders of system programs.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The folder of CNI plugins: Debian's, or where others put them.
fn cni_plugins() -> Option<PathBuf> {
    ["/usr/lib/cni", "/opt/cni/bin"]
        .map(PathBuf::from)
        .into_iter()
        .find(|folder| folder.join("bridge").is_file())
}

/// One of the suite's programs: it lies beside this one.
pub fn own_program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    let path = own.with_file_name(name);
    if !path.is_file() {
        bail!(
            "{}: missing; the suite's programs are expected beside keelson",
            path.display()
        );
    }
    Ok(path)
}

/// What of this machine a containerd's configuration depends on.
pub struct RuntimeSupport {
    /// The folder of CNI plugins.
    pub plugins: PathBuf,
    /// How images' layers are mounted: `overlayfs`, or `native` copies where the file system cannot.
    pub snapshotter: &'static str,
    /// Set where a process may not lower its OOM score.
    pub restrict_oom_score: bool,
}

impl RuntimeSupport {
    /// For a containerd that keeps its images on the file system of `folder`.
    pub fn detect(folder: &Path) -> Result<Self> {
        let snapshotter = if supports_overlay(folder)? {
            "overlayfs"
        } else {
            "native"
        };
        Ok(Self {
            plugins: cni_plugins().context("no CNI plugins; install the package containernetworking-plugins")?,
            snapshotter,
            restrict_oom_score: !may_lower_oom_score(),
        })
    }
}

/// Whether this process may lower a process's OOM score: containers in most virtual machines may, in some sandboxes not.
fn may_lower_oom_score() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    has_capability(&status, CAP_SYS_RESOURCE)
}

fn has_capability(status: &str, number: u32) -> bool {
    let set = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    set.is_some_and(|set| set >> number & 1 == 1)
}

/// Whether the file system of `folder` can carry overlay mounts; an overlay itself, for one, cannot.
fn supports_overlay(folder: &Path) -> Result<bool> {
    let probe = tempfile::tempdir_in(folder).context("make a folder to probe overlay mounts")?;
    let part = |name: &str| -> Result<PathBuf> {
        let path = probe.path().join(name);
        fs::create_dir(&path)?;
        Ok(path)
    };
    let (lower, upper, work, merged) = (part("lower")?, part("upper")?, part("work")?, part("merged")?);
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    let mounted = mount(
        Some("overlay"),
        &merged,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .is_ok();
    if mounted {
        umount2(&merged, MntFlags::MNT_DETACH).context("undo the overlay probe")?;
    }
    Ok(mounted)
}

/// Mount points at or below `folder`, the innermost first.
pub fn mounts_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    let mut mounts: Vec<PathBuf> = mounts(&table)
        .into_iter()
        .map(|mount| mount.point)
        .filter(|point| point.starts_with(folder))
        .collect();
    mounts.sort_by_key(|point| std::cmp::Reverse(point.as_os_str().len()));
    Ok(mounts)
}

/// A line of mountinfo.
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// The file system's type.
    pub kind: String,
    /// The options of the superblock.
    pub options: String,
}

/// Reads a mountinfo table.
pub fn mounts(table: &str) -> Vec<Mount> {
    let parse = |line: &str| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut filesystem = filesystem.split(' ');
        let (kind, options) = (filesystem.next()?.to_owned(), filesystem.nth(1)?.to_owned());
        Some(Mount {
            point: unescape(mount.split(' ').nth(4)?).into(),
            kind,
            options,
        })
    };
    table.lines().filter_map(parse).collect()
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mount_points_with_spaces() {
        let table = "43 42 0:4 net:[4026532177] /run/my\\040dir rw shared:2 - nsfs nsfs rw\n32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        let mounts = mounts(table);
        assert_eq!(mounts[0].point, Path::new("/run/my dir"));
        assert_eq!(
            (mounts[1].kind.as_str(), mounts[1].options.as_str()),
            ("cgroup", "rw,cpu")
        );
    }

    #[test]
    fn reads_capabilities() {
        assert!(!has_capability("Name:\tx\nCapEff:\t000001fffeffffff\n", 24));
        assert!(has_capability("CapEff:\t000001ffffffffff\n", 24));
        assert!(!has_capability("", 24));
    }

    #[test]
    fn an_error_names_the_command_and_its_complaint() {
        let error = run("sh", &["-c", "echo no such thing >&2; exit 3"])
            .expect_err("fails")
            .to_string();
        assert!(error.contains("no such thing") && error.starts_with("sh -c"), "{error}");
    }
}
