//! The daemons as units of a real systemd: they start, say that they are ready, are watched, restart, and stop.

mod machine;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use machine::{Machine, poll};

/// In the order of a start by hand; each comes up without the others as well.
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

/// The files that an operator would put on the machine, at their places below `folder`.
fn lay_out(folder: &Path) {
    let copy = |from: &Path, to: &str| {
        let to = folder.join(to);
        fs::create_dir_all(to.parent().expect("a folder")).expect("make a folder");
        fs::copy(from, to).unwrap_or_else(|e| panic!("copy {}: {e}", from.display()));
    };
    let programs = programs();
    let systemd = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
    for daemon in DAEMONS {
        copy(&programs.join(daemon), &format!("bin/{daemon}"));
        copy(
            &systemd.join(format!("{daemon}.service")),
            &format!("units/{daemon}.service"),
        );
    }
    copy(&systemd.join("keelson.sysusers.conf"), "keelson.sysusers.conf");
    copy(&systemd.join("keelson.tmpfiles.conf"), "keelson.tmpfiles.conf");

    let pki = folder.join("pki");
    let mut keelson = Command::new(programs.join("keelson"));
    keelson
        .args(["pki", "init", "--control-plane", &format!("one={ADDRESS}"), "--dir"])
        .arg(&pki);
    let output = keelson.output().expect("run keelson");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for entry in fs::read_dir(pki.join("one"))
        .expect("the machine's credentials")
        .flatten()
    {
        copy(
            &entry.path(),
            &format!("kubernetes/pki/{}", entry.file_name().display()),
        );
    }
    for (file, text) in configuration() {
        fs::write(folder.join("kubernetes").join(file), text).expect("write");
    }
}

fn configuration() -> [(&'static str, String); 6] {
    [
        ("kube-apiserver.env", format!("KUBE_APISERVER_ARGS=--advertise-address={ADDRESS} --raft-id=1 --raft-name=one --raft-members=1=one@{ADDRESS}:6443\n")),
        ("kube-controller-manager.env", "KUBE_CONTROLLER_MANAGER_ARGS=--cluster-cidr=10.244.0.0/16 --allocate-node-cidrs=true\n".into()),
        ("kubelet.env", format!("KUBELET_ARGS=--hostname-override=one --node-ip={ADDRESS}\n")),
        ("kube-proxy.env", "KUBE_PROXY_ARGS=--hostname-override=one\n".into()),
        (
            "kubelet.yaml",
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\ncgroupDriver: cgroupfs\n\
             authentication:\n  x509:\n    clientCAFile: /etc/kubernetes/pki/ca.crt\n\
             tlsCertFile: /etc/kubernetes/pki/kubelet.crt\ntlsPrivateKeyFile: /etc/kubernetes/pki/kubelet.key\n\
             containerRuntimeEndpoint: unix:///run/containerd/containerd.sock\nclusterDNS: [10.96.0.10]\nclusterDomain: cluster.local\n"
                .into(),
        ),
        (
            "kube-proxy.yaml",
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclusterCIDR: 10.244.0.0/16\nmode: nftables\n".into(),
        ),
    ]
}

/// Puts everything in its place, as a package's installation would.
fn install(machine: &Machine) {
    machine.run([
        "sh",
        "-ec",
        "
        cp -r /keelson/kubernetes /etc/ && chmod -R go= /etc/kubernetes/pki
        cp /keelson/bin/* /usr/bin/
        cp /keelson/units/* /etc/systemd/system/
        cp /keelson/keelson.sysusers.conf /usr/lib/sysusers.d/keelson.conf
        cp /keelson/keelson.tmpfiles.conf /usr/lib/tmpfiles.d/keelson.conf
        systemd-sysusers
        systemd-tmpfiles --create keelson.conf
        systemctl daemon-reload
    ",
    ]);
    machine.run(["ip", "link", "set", "lo", "up"]);
    machine.run(["ip", "address", "add", &format!("{ADDRESS}/32"), "dev", "lo"]);
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
    lay_out(folder.path());
    let machine = Machine::boot(&[(folder.path(), "/keelson")]);
    install(&machine);

    eprintln!("--- all five start at once and become ready");
    machine.run(["systemctl", "start", "--no-block"].iter().chain(&DAEMONS));
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
