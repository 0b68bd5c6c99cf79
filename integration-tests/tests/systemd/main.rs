//! The daemons as units of a real systemd: they start, say that they are ready, are watched, restart, and stop.

mod machine;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use integration_tests::Tools;
use machine::{Machine, poll};

const DAEMONS: [&str; 5] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
];
const ADDRESS: &str = "192.0.2.1";
const TIMEOUT: Duration = Duration::from_secs(120);

/// Where cargo put the daemons: beside the folder of test programs.
fn programs() -> PathBuf {
    let own = std::env::current_exe().expect("this program");
    let folder = own.parent().and_then(Path::parent).expect("cargo's folder").to_owned();
    for program in DAEMONS.iter().chain(&["keelson"]) {
        assert!(
            folder.join(program).is_file(),
            "{program} is not built; run cargo build --workspace first"
        );
    }
    folder
}

/// The programs in a folder of their own: cargo's holds much else.
fn copy_programs(folder: &Path) {
    for program in DAEMONS.iter().chain(&["keelson"]) {
        fs::copy(programs().join(program), folder.join(program)).unwrap_or_else(|e| panic!("copy {program}: {e}"));
    }
}

fn wait_until_active(machine: &Machine, unit: &str) {
    let deadline = Instant::now() + TIMEOUT;
    poll(deadline, unit, || {
        let active = machine.property(unit, "ActiveState") == "active";
        if !active && Instant::now() + Duration::from_secs(1) > deadline {
            eprintln!("{}", machine.run(["journalctl", "--no-pager", "-n", "40", "-u", unit]));
        }
        active
    });
}

#[test]
fn every_daemon_starts_under_systemd_and_restarts() {
    let folder = tempfile::tempdir().expect("temporary folder");
    copy_programs(folder.path());
    let machine = Machine::boot("one", &[(folder.path(), "/keelson")]);
    machine.run(["ip", "link", "set", "lo", "up"]);
    machine.run(["ip", "address", "add", &format!("{ADDRESS}/32"), "dev", "lo"]);

    eprintln!("--- the machine becomes a cluster, and every daemon says that it is ready");
    let init = machine.try_run(["/keelson/keelson", "init", "--name", "one", "--address", ADDRESS]);
    if !init.status.success() {
        eprintln!("{}", machine.run(["journalctl", "--no-pager", "-n", "60"]));
        panic!("keelson init: {}", String::from_utf8_lossy(&init.stderr));
    }
    for daemon in DAEMONS {
        wait_until_active(&machine, daemon);
        assert_eq!(machine.property(daemon, "WatchdogUSec"), "30s", "{daemon}");
    }

    eprintln!("--- those that need no root have a user of their own and no capability");
    for daemon in &DAEMONS[..3] {
        let pid = machine.property(daemon, "MainPID");
        let status = machine.run(["cat", &format!("/proc/{pid}/status")]);
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        assert_ne!(field("Uid:").split_whitespace().next(), Some("0"), "{daemon}");
        assert_eq!(field("CapBnd:").trim_start_matches('0'), "", "{daemon}");
    }

    eprintln!("--- one that is killed comes back");
    for daemon in DAEMONS {
        let before = machine.property(daemon, "MainPID");
        machine.run(["systemctl", "kill", "--signal=KILL", "--kill-whom=main", daemon]);
        poll(Instant::now() + TIMEOUT, daemon, || {
            machine.property(daemon, "ActiveState") == "active" && machine.property(daemon, "MainPID") != before
        });
    }

    eprintln!("--- what the kubelet started outlives its restart");
    let cgroup = machine.property("kubelet", "ControlGroup");
    let procs = format!("/sys/fs/cgroup/systemd{cgroup}/cgroup.procs");
    let procs = if machine.try_run(["test", "-e", &procs]).status.success() {
        procs
    } else {
        format!("/sys/fs/cgroup{cgroup}/cgroup.procs")
    };
    let child = machine
        .run([
            "sh",
            "-c",
            &format!("sleep 600 >/dev/null 2>&1 & echo $! > {procs}; echo $!"),
        ])
        .trim()
        .to_owned();
    machine.run(["systemctl", "restart", "kubelet"]);
    wait_until_active(&machine, "kubelet");
    machine.run(["test", "-d", &format!("/proc/{child}")]);

    eprintln!("--- all stop cleanly");
    machine.run(["systemctl", "stop"].iter().chain(&DAEMONS));
    for daemon in DAEMONS {
        assert_eq!(machine.property(daemon, "Result"), "success", "{daemon}");
        assert_eq!(machine.property(daemon, "ExecMainStatus"), "0", "{daemon}");
    }
}

#[test]
fn a_second_machine_joins_with_a_control_plane() {
    const SECOND: &str = "192.0.2.2";
    let folder = tempfile::tempdir().expect("temporary folder");
    copy_programs(folder.path());
    let kubectl = Tools::new(env!("CARGO_TARGET_TMPDIR"))
        .debian("kubernetes-client")
        .join("usr/bin/kubectl");
    fs::copy(kubectl, folder.path().join("kubectl")).expect("copy kubectl");
    let boot = |label| Machine::boot(label, &[(folder.path(), "/keelson")]);
    let (one, two) = (boot("one"), boot("two"));
    Machine::connect([(&one, ADDRESS), (&two, SECOND)]);
    one.run(["/keelson/keelson", "init", "--name", "one", "--address", ADDRESS]);
    let add = [
        "/keelson/keelson",
        "node",
        "add",
        "two",
        "--control-plane",
        "--output",
        "/root/two.tar",
    ];
    one.run(add.iter().chain(&["--address", SECOND]));
    two.write("/root/two.tar", &one.try_run(["cat", "/root/two.tar"]).stdout);

    eprintln!("--- it becomes a node and a member of the store");
    two.run(["/keelson/keelson", "join", "/root/two.tar"]);
    for daemon in DAEMONS {
        wait_until_active(&two, daemon);
    }
    let ask = |server: &str, line: &str| {
        let mut words = vec![
            "/keelson/kubectl",
            "--kubeconfig=/var/lib/keelson/cluster/pki/admin.kubeconfig",
        ];
        let server = format!("--server=https://{server}:6443");
        words.push(&server);
        words.extend(line.split_whitespace());
        one.try_run(words)
    };
    let says = |server: &str, line: &str| String::from_utf8_lossy(&ask(server, line).stdout).into_owned();
    for server in [ADDRESS, SECOND] {
        poll(Instant::now() + TIMEOUT, "both nodes to be ready", || {
            says(server, "get nodes --no-headers").matches(" Ready ").count() == 2
        });
    }

    eprintln!("--- what is written through one is read through the other, also after both were started again");
    assert!(ask(ADDRESS, "create configmap a").status.success());
    for (machine, daemon) in [(&one, "kube-apiserver"), (&two, "kube-apiserver")] {
        machine.run(["systemctl", "restart", daemon]);
        wait_until_active(machine, daemon);
    }
    for server in [ADDRESS, SECOND] {
        poll(Instant::now() + TIMEOUT, "the object", || {
            says(server, "get configmap a -o name") == "configmap/a\n"
        });
    }
    assert!(ask(SECOND, "delete configmap a").status.success());
}
