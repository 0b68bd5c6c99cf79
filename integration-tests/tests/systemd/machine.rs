//! A Debian machine of its own: a debootstrap folder, booted by systemd-nspawn, with this machine's systemd nowhere in sight.
//!
//! The folder is made once and kept in the user's cache; what a test changes goes to memory and is lost at its end.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What the machine has beyond the base system. Its folder's name says so: change one with the other.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,nftables,containerd,runc,containernetworking-plugins";
const FOLDER: &str = "machine-bookworm-1";
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Machine {
    name: String,
    nspawn: Child,
    /// Process 1 of the machine.
    init: i32,
    cgroups: Vec<PathBuf>,
}

impl Machine {
    /// Boots a machine that sees `folders` (of this machine, where in the new one), read-only.
    pub fn boot(label: &str, folders: &[(&Path, &str)]) -> Self {
        let name = format!("keelson-{}-{label}", std::process::id());
        let cgroups = make_cgroups(&name);
        let mut command = Command::new("sh");
        // nspawn makes its cgroups below the one it is started in.
        command.args([
            "-c",
            r#"while [ "$1" != -- ]; do echo 0 > "$1/cgroup.procs"; shift; done; shift; exec "$@""#,
            "sh",
        ]);
        command.args(&cgroups).arg("--");
        command.args([
            "systemd-nspawn",
            "--quiet",
            "--boot",
            "--register=no",
            "--keep-unit",
            "--private-network",
        ]);
        command
            .args([
                "--volatile=overlay",
                "--console=pipe",
                "--link-journal=no",
                &format!("--machine={name}"),
                "-D",
            ])
            .arg(root());
        for (here, there) in folders {
            command.arg(format!("--bind-ro={}:{there}", here.display()));
        }
        let nspawn = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("start systemd-nspawn");
        let mut machine = Self {
            name,
            nspawn,
            init: 0,
            cgroups,
        };
        machine.wait_for_boot();
        machine
    }

    fn wait_for_boot(&mut self) {
        let deadline = Instant::now() + BOOT_TIMEOUT;
        poll(deadline, "the machine's process 1", || {
            assert!(
                self.nspawn.try_wait().expect("a child").is_none(),
                "systemd-nspawn ended"
            );
            let pid = self.nspawn.id();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            self.init = children
                .split_whitespace()
                .next()
                .and_then(|child| child.parse().ok())
                .unwrap_or(0);
            self.init != 0
        });
        // nspawn mounts the hierarchies of version 1 read-only, being older than cgroup namespaces.
        for line in self
            .run(["cat", "/proc/self/mounts"])
            .lines()
            .filter(|line| line.contains(" cgroup ro,"))
        {
            self.run([
                "mount",
                "-o",
                "remount,bind,rw",
                line.split(' ').nth(1).expect("a mount point"),
            ]);
        }
        poll(deadline, "the machine to have started", || {
            let state = self.try_run(["systemctl", "is-system-running"]);
            ["running", "degraded"].contains(&String::from_utf8_lossy(&state.stdout).trim())
        });
    }

    /// A cable between two machines, with an address of a /24 at each end.
    pub fn connect(ends: [(&Self, &str); 2]) {
        let name = |i: usize| format!("kt{i}-{}", std::process::id());
        let (a, b) = (name(0), name(1));
        host(&["ip", "link", "add", &a, "type", "veth", "peer", "name", &b]);
        for ((machine, address), link) in ends.into_iter().zip([&a, &b]) {
            host(&[
                "ip",
                "link",
                "set",
                link,
                "netns",
                &machine.init.to_string(),
                "name",
                "host0",
            ]);
            machine.run(["ip", "address", "add", &format!("{address}/24"), "dev", "host0"]);
            machine.run(["ip", "link", "set", "host0", "up"]);
            machine.run(["ip", "link", "set", "lo", "up"]);
        }
    }

    /// Writes a file of the machine.
    pub fn write(&self, path: &str, content: &[u8]) {
        let mut child = self
            .command(["sh", "-c", "cat > \"$0\"", path])
            .stdin(Stdio::piped())
            .spawn()
            .expect("run nsenter");
        child
            .stdin
            .take()
            .expect("its input")
            .write_all(content)
            .expect("write");
        assert!(child.wait().expect("wait").success(), "write {path}");
    }

    /// Runs a program in the machine, to whatever end.
    pub fn try_run<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> Output {
        self.command(command).output().expect("run nsenter")
    }

    fn command<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter
            .arg(format!("--target={}", self.init))
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--"]);
        nsenter
            .args(command)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        nsenter
    }

    /// Runs a program in the machine; it must succeed.
    pub fn run<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> String {
        let command: Vec<S> = command.into_iter().collect();
        let output = self.try_run(&command);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let line = command
            .iter()
            .map(|word| word.as_ref().to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ");
        assert!(
            output.status.success(),
            "{line}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// One property of a unit, as in `systemctl show`.
    pub fn property(&self, unit: &str, property: &str) -> String {
        self.run(["systemctl", "show", "--value", "--property", property, unit])
            .trim()
            .to_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // nspawn ends with its process 1.
        let victim = if self.init == 0 {
            self.nspawn.id().to_string()
        } else {
            self.init.to_string()
        };
        let _ = Command::new("kill").args(["-KILL", &victim]).status();
        let _ = self.nspawn.wait();
        let _ = fs::remove_dir_all(format!("/run/systemd/nspawn/propagate/{}", self.name));
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.cgroups.iter().any(|cgroup| !remove_tree(cgroup)) && Instant::now() < deadline {}
    }
}

/// Runs a program of this machine; it must succeed.
fn host(command: &[&str]) {
    let status = Command::new(command[0]).args(&command[1..]).status();
    assert!(status.expect("run it").success(), "{}", command.join(" "));
}

/// Tries until it holds; fails at the deadline.
pub fn poll(deadline: Instant, what: &str, mut holds: impl FnMut() -> bool) {
    while !holds() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A cgroup in each hierarchy: the machine sees it as the root, and may do below it what it likes.
fn make_cgroups(name: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    let is_cgroup = |line: &&str| line.contains(" cgroup2 ") || line.contains(" cgroup ");
    let make = |line: &str| {
        let parent = Path::new(line.split(' ').nth(1)?);
        let cgroup = parent.join(name);
        fs::create_dir(&cgroup).unwrap_or_else(|e| panic!("{}: {e}", cgroup.display()));
        // On version 1 a new one allows no processor and no memory, and so no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(inherited) = fs::read(parent.join(file)) {
                fs::write(cgroup.join(file), inherited).expect("write the cpuset");
            }
        }
        Some(cgroup)
    };
    mounts.lines().filter(is_cgroup).filter_map(make).collect()
}

fn remove_tree(cgroup: &Path) -> bool {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    fs::remove_dir(cgroup).is_ok() || !cgroup.exists()
}

/// The folder of the base system, made now if there is none.
fn root() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache");
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map_or_else(home, PathBuf::from)
        .join("keelson");
    fs::create_dir_all(&cache).expect("make the cache");
    let lock = fs::File::create(cache.join("machine.lock")).expect("make the lock");
    lock.lock().expect("lock the cache");
    let folder = cache.join(FOLDER);
    if !folder.exists() {
        let unfinished = cache.join(format!("{FOLDER}.unfinished"));
        let _ = fs::remove_dir_all(&unfinished);
        let output = Command::new("debootstrap")
            .args(["--variant=minbase", &format!("--include={PACKAGES}"), "bookworm"])
            .arg(&unfinished)
            .output()
            .expect("run debootstrap");
        let log = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "debootstrap: {}",
            log.lines().last().unwrap_or_default()
        );
        fs::rename(&unfinished, &folder).expect("finish the folder");
    }
    folder
}
