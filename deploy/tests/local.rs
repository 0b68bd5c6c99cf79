//! `keelson local` with a real network, real containerd and real containers, and daemons that fail: what it says, and that nothing is
//! left behind. (Clusters that work are the matter of `integration-tests`.)

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder with a copy of keelson and failing daemons beside it, and a cluster's folder. Takes the cluster down at the end.
struct Fixture {
    temporary: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self {
            temporary: tempfile::tempdir().expect("temporary folder"),
        };
        let keelson = fixture.bin("keelson");
        fs::create_dir(keelson.parent().expect("folder")).expect("make the folder");
        fs::copy(env!("CARGO_BIN_EXE_keelson"), &keelson).expect("copy keelson");
        for daemon in ["kube-scheduler", "kube-controller-manager", "kube-proxy"] {
            fixture.script(daemon, "exec sleep 600");
        }
        // As far as anybody can tell, a pause image: an image that starts and waits.
        fixture.script("kubelet", r#"[ "$1" = --write-pause-image ] && exec "$(dirname "$0")/keelson" image build-web --output "$2"; exec sleep 600"#);
        fixture.script(
            "kube-apiserver",
            "echo 'kube-apiserver: --data-dir: read-only file system' >&2; exit 3",
        );
        fixture
    }

    fn bin(&self, name: &str) -> PathBuf {
        self.temporary.path().join("bin").join(name)
    }

    fn dir(&self) -> PathBuf {
        self.temporary.path().join("cluster")
    }

    fn script(&self, name: &str, text: &str) {
        let path = self.bin(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("write a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it executable");
    }

    fn keelson(&self, command: &str, rest: &[&str]) -> Output {
        let mut keelson = Command::new(self.bin("keelson"));
        keelson.args(["local", command, "--dir"]).arg(self.dir()).args(rest);
        keelson.output().expect("run keelson")
    }

    fn on_node(&self, node: &str, program: &[&str]) -> String {
        let output = self.keelson("exec", &[&[node, "--"], program].concat());
        assert!(output.status.success(), "{program:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.keelson("down", &[]);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whatever of this machine carries the cluster's id or its folder in its name.
fn traces(id: &str, dir: &Path) -> Vec<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut traces: Vec<String> = read("/proc/self/mountinfo")
        .lines()
        .filter(|line| line.contains(dir.to_str().expect("text")))
        .map(str::to_owned)
        .collect();
    let names = |folder: &str| {
        fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path().display().to_string())
            .collect::<Vec<_>>()
    };
    let mut candidates = [names("/run/netns"), names("/sys/class/net"), names("/sys/fs/cgroup")].concat();
    for hierarchy in names("/sys/fs/cgroup") {
        candidates.extend(names(&hierarchy));
    }
    traces.extend(candidates.into_iter().filter(|name| name.contains(id)));
    for process in names("/proc") {
        let line = read(&format!("{process}/cmdline")).replace('\0', " ");
        if line.contains(dir.to_str().expect("text")) && !line.contains("local.rs") {
            traces.push(format!("{process} {line}"));
        }
    }
    traces
}

#[test]
fn reports_a_daemon_that_ends_and_leaves_nothing_behind() {
    let fixture = Fixture::new();
    let output = fixture.keelson("up", &["--nodes", "2"]);
    assert_eq!(output.status.code(), Some(1));
    let complaint = text(&output.stderr);
    assert!(
        complaint.contains("node-1: kube-apiserver ended (exit status: 3)"),
        "{complaint}"
    );
    assert!(complaint.contains("--data-dir: read-only file system"), "{complaint}");
    let output = text(&output.stdout);
    let id = output.split_once("cluster ").expect("the cluster's id").1[..6].to_owned();

    phase("the nodes reach each other and keep their mounts to themselves");
    fixture.on_node("2", &["busybox", "ping", "-c1", "-W5", &address_of(&fixture, "1")]);
    assert!(
        fixture
            .on_node("1", &["cat", "/proc/self/mountinfo"])
            .contains(" /var/lib/cni ")
    );
    assert!(
        !fs::read_to_string("/proc/self/mountinfo")
            .expect("mounts")
            .contains(" /var/lib/cni ")
    );

    phase("a container runs, with everything that a container has");
    wait_for_containerd(&fixture);
    let image = fixture.temporary.path().join("web.tar");
    let built = Command::new(fixture.bin("keelson"))
        .args(["image", "build-web", "--output"])
        .arg(&image)
        .output()
        .expect("build");
    assert!(built.status.success(), "{}", text(&built.stderr));
    let imported = fixture.keelson("import", &[image.to_str().expect("text")]);
    assert!(imported.status.success(), "{}", text(&imported.stderr));
    let cgroup = format!("/keelson-{id}/node-1/kubepods/web");
    fixture.on_node(
        "1",
        &[
            "ctr",
            "-n",
            "k8s.io",
            "run",
            "-d",
            "--cgroup",
            &cgroup,
            "keelson.dev/web:1",
            "web",
        ],
    );
    assert!(
        fixture
            .on_node("1", &["ctr", "-n", "k8s.io", "task", "list"])
            .contains("RUNNING")
    );
    assert!(!traces(&id, &fixture.dir()).is_empty());

    phase("a second attempt finds the first one's containerd");
    let again = fixture.keelson("up", &[]);
    assert!(
        text(&again.stdout).contains("node-1: containerd was running"),
        "{}",
        text(&again.stdout)
    );
    assert!(
        fixture
            .on_node("1", &["ctr", "-n", "k8s.io", "task", "list"])
            .contains("RUNNING")
    );

    phase("nothing is left");
    let down = fixture.keelson("down", &[]);
    assert!(down.status.success(), "{}", text(&down.stderr));
    assert_eq!(traces(&id, &fixture.dir()), Vec::<String>::new());
    assert!(!fixture.dir().exists());
    let down = fixture.keelson("down", &[]);
    assert!(down.status.success(), "a second down is no error");
}

#[test]
fn a_cluster_without_its_description_goes_away_too() {
    let fixture = Fixture::new();
    let output = text(&fixture.keelson("up", &[]).stdout);
    let id = output.split_once("cluster ").expect("the cluster's id").1[..6].to_owned();
    fs::remove_file(fixture.dir().join("cluster.json")).expect("remove");
    let down = fixture.keelson("down", &[]);
    assert!(down.status.success(), "{}", text(&down.stderr));
    assert_eq!(traces(&id, &fixture.dir()), Vec::<String>::new());
    assert!(fixture.dir().exists(), "what is in the folder may be somebody's");
}

#[test]
fn a_cluster_without_its_folder_goes_away_too() {
    let fixture = Fixture::new();
    let output = text(&fixture.keelson("up", &[]).stdout);
    let id = output.split_once("cluster ").expect("the cluster's id").1[..6].to_owned();
    assert!(!traces(&id, &fixture.dir()).is_empty());
    fs::rename(fixture.dir(), fixture.temporary.path().join("elsewhere")).expect("move");
    let down = fixture.keelson("down", &[]);
    assert!(down.status.success(), "{}", text(&down.stderr));
    assert_eq!(traces(&id, &fixture.dir()), Vec::<String>::new());
}

#[test]
fn wrong_usage_is_one_line_and_exit_status_2() {
    for arguments in [
        &["local", "up", "--nodes", "many"][..],
        &["local", "fly"],
        &["pki", "init", "--control-plane", "x"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_keelson"))
            .args(arguments)
            .output()
            .expect("run");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(
            text(&output.stderr).trim().lines().count(),
            1,
            "{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn refuses_a_cluster_of_another_shape() {
    let fixture = Fixture::new();
    for (arguments, complaint) in [
        (&["--nodes", "0"][..], "--nodes: expected 1 to"),
        (
            &["--nodes", "2", "--control-planes", "3"],
            "--control-planes: expected 1 to",
        ),
    ] {
        let output = fixture.keelson("up", arguments);
        assert!(text(&output.stderr).contains(complaint), "{}", text(&output.stderr));
    }
    fixture.keelson("up", &[]);
    let output = fixture.keelson("up", &["--nodes", "3"]);
    assert!(
        text(&output.stderr).contains("there is a cluster of 1 node(s)"),
        "{}",
        text(&output.stderr)
    );
}

fn address_of(fixture: &Fixture, node: &str) -> String {
    let line = fixture.on_node(node, &["ip", "-brief", "-4", "address", "show", "dev", "eth0"]);
    let address = line.split_whitespace().nth(2).expect("an address").to_owned();
    address.split('/').next().expect("an address").to_owned()
}

/// `up` gave up on the daemon that ended; containerd may still be starting.
fn wait_for_containerd(fixture: &Fixture) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    for node in ["1", "2"] {
        while !fixture
            .keelson("exec", &[node, "--", "ctr", "version"])
            .status
            .success()
        {
            assert!(std::time::Instant::now() < deadline, "containerd does not start");
        }
    }
}

fn phase(text: &str) {
    eprintln!("--- {text}");
}
