//! Daemons as processes: started on a node, remembered in a pid file, watched while `up` waits.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, Node};

/// How much of a log is shown when its daemon has ended.
const TAIL_LINES: usize = 20;
/// How long a daemon may take to end when it is asked to.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// A program to run on a node.
#[derive(Debug, Clone)]
pub struct Daemon {
    /// The name that its pid file and its log have.
    pub name: &'static str,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// A process that this machine's kernel knows under this number and start time: the number alone may be given out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    pid: i32,
    /// In clock ticks since the machine's start.
    started: u64,
}

impl Process {
    /// The running process `pid`.
    pub fn find(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, started) = parse_stat(&stat)?;
        (state != 'Z').then_some(Self { pid, started })
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        Self::find(self.pid) == Some(*self)
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it runs the program that now lies at `program`, and not one that has been replaced.
    fn runs(&self, program: &Path) -> bool {
        let running = fs::read_link(format!("/proc/{}/exe", self.pid));
        running.ok() == program.canonicalize().ok()
    }
}

/// The state and the start time in a line of `/proc/<pid>/stat`. The name in it may hold anything, so fields count from its end.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

fn pid_file(node: &Node, name: &str) -> PathBuf {
    node.path("run").join(format!("{name}.pid"))
}

/// Where a daemon's output goes.
pub fn log_file(node: &Node, name: &str) -> PathBuf {
    node.path("log").join(format!("{name}.log"))
}

/// The process that a pid file remembers, if it still runs.
pub fn running(node: &Node, name: &str) -> Option<Process> {
    let text = fs::read_to_string(pid_file(node, name)).ok()?;
    let (pid, started) = text.trim().split_once(' ')?;
    let process = Process {
        pid: pid.parse().ok()?,
        started: started.parse().ok()?,
    };
    process.is_alive().then_some(process)
}

/// A daemon that runs, and what there is to watch it by.
pub struct Running {
    /// Its name.
    pub name: &'static str,
    /// Whether it was started just now.
    pub fresh: bool,
    process: Process,
    /// Present when it is our child: then its end must be collected.
    child: Option<Child>,
    log: PathBuf,
}

impl Running {
    /// How it ended, if it has ended: what to tell the operator.
    pub fn ended(&mut self) -> Option<String> {
        let how = match &mut self.child {
            Some(child) => child.try_wait().ok()??.to_string(),
            None if self.process.is_alive() => return None,
            None => "no such process".to_owned(),
        };
        let log = self.log.display();
        Some(match tail(&self.log) {
            text if text.is_empty() => format!("{} ended ({how}) and wrote nothing to {log}", self.name),
            text => format!("{} ended ({how}); the end of {log}:\n{text}", self.name),
        })
    }
}

fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// Makes sure that `daemon` runs on `node`. One that runs stays, unless its program has been replaced since.
pub async fn ensure(cluster: &Cluster, node: &Node, daemon: &Daemon) -> Result<Running> {
    let log = log_file(node, daemon.name);
    if let Some(process) = running(node, daemon.name) {
        if process.runs(&daemon.program) {
            return Ok(Running {
                name: daemon.name,
                fresh: false,
                process,
                child: None,
                log,
            });
        }
        stop(process).await?;
    }
    let child = start(cluster, node, daemon, &log).with_context(|| format!("{}: start {}", node.name, daemon.name))?;
    let pid = i32::try_from(child.id()).context("a process number")?;
    // A child that has ended already keeps its number until it is collected; it shows in `ended`.
    let process = Process::find(pid).unwrap_or(Process { pid, started: 0 });
    fs::write(
        pid_file(node, daemon.name),
        format!("{} {}\n", process.pid, process.started),
    )
    .context("write the pid file")?;
    Ok(Running {
        name: daemon.name,
        fresh: true,
        process,
        child: Some(child),
        log,
    })
}

fn start(cluster: &Cluster, node: &Node, daemon: &Daemon, log: &Path) -> Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("open {}", log.display()))?;
    let own = std::env::current_exe().context("find this program")?;
    let child = Command::new(own)
        .args(["local", "exec", "--dir"])
        .arg(&cluster.dir)
        .args([&node.name, "--"])
        .arg(&daemon.program)
        .args(&daemon.arguments)
        .env_remove("KUBECONFIG")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()?;
    Ok(child)
}

async fn stop(process: Process) -> Result<()> {
    let deadline = Instant::now() + STOP_TIMEOUT;
    let mut signal = Signal::SIGTERM;
    while process.is_alive() {
        // It may end between the check and the signal.
        let _ = kill(Pid::from_raw(process.pid), signal);
        if Instant::now() > deadline {
            signal = Signal::SIGKILL;
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_process_line_whose_name_is_hostile() {
        let stat = "42 (a) Z (b) c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 10";
        assert_eq!(parse_stat(stat), Some(('S', 987_654)));
        assert_eq!(parse_stat("42 (x"), None);
    }

    #[test]
    fn tells_a_process_from_a_later_one_of_the_same_number() {
        let own = Process::find(i32::try_from(std::process::id()).expect("pid")).expect("running");
        assert!(own.is_alive());
        assert!(
            !Process {
                started: own.started + 1,
                ..own
            }
            .is_alive()
        );
        assert!(own.runs(&std::env::current_exe().expect("exe")));
        assert!(!own.runs(Path::new("/bin/busybox")));
    }

    #[test]
    fn reports_the_end_of_the_log() {
        let dir = tempfile::tempdir().expect("dir");
        let log = dir.path().join("x.log");
        let lines: Vec<String> = (0..100).map(|i| format!("line {i}")).collect();
        fs::write(&log, lines.join("\n")).expect("write");
        let mut child = Command::new("false").spawn().expect("spawn");
        child.wait().expect("wait");
        let mut running = Running {
            name: "x",
            fresh: true,
            process: Process { pid: 1, started: 0 },
            child: Some(child),
            log,
        };
        let report = running.ended().expect("ended");
        assert!(
            report.contains("exit status: 1") && report.contains("line 99") && !report.contains("line 79"),
            "{report}"
        );
    }
}
