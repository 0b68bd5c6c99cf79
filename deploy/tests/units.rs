//! The systemd units, as systemd itself reads them. (That the daemons start under it is shown in `integration-tests`.)

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each daemon, and the exposure that `systemd-analyze security` may find, in tenths. The kubelet is root and needs the machine's mounts.
const DAEMONS: [(&str, u32); 5] = [
    ("kube-apiserver", 16),
    ("kube-scheduler", 16),
    ("kube-controller-manager", 16),
    ("kube-proxy", 28),
    ("kubelet", 77),
];

fn systemd() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

fn unit(daemon: &str) -> String {
    fs::read_to_string(systemd().join(format!("{daemon}.service"))).unwrap_or_else(|e| panic!("{daemon}.service: {e}"))
}

/// The units in a folder of their own, starting programs that exist.
fn copies() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    for (daemon, _) in DAEMONS {
        let program = folder.path().join(daemon);
        fs::write(&program, "#!/bin/sh\n").expect("write");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("make it executable");
        let text = unit(daemon).replace("/usr/bin/", &format!("{}/", folder.path().display()));
        fs::write(folder.path().join(format!("{daemon}.service")), text).expect("write");
    }
    folder
}

#[test]
fn systemd_accepts_every_unit_without_a_word() {
    let folder = copies();
    let units = DAEMONS.map(|(daemon, _)| folder.path().join(format!("{daemon}.service")));
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(units)
        .output()
        .expect("run systemd-analyze");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours: Vec<&str> = complaint
        .lines()
        .filter(|line| DAEMONS.iter().any(|(daemon, _)| line.contains(daemon)))
        .collect();
    assert!(output.status.success() && ours.is_empty(), "{complaint}");
}

#[test]
fn units_are_as_closed_as_their_work_allows() {
    let folder = copies();
    for (daemon, limit) in DAEMONS {
        let output = Command::new("systemd-analyze")
            .args([
                "security",
                "--offline=yes",
                "--no-pager",
                &format!("--threshold={limit}"),
            ])
            .arg(folder.path().join(format!("{daemon}.service")))
            .output()
            .expect("run systemd-analyze");
        let report = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{daemon}: {}",
            report.lines().last().unwrap_or_default()
        );
    }
}

#[test]
fn a_restart_of_the_kubelet_leaves_containers_alone() {
    let text = unit("kubelet");
    for line in ["Delegate=yes", "KillMode=process"] {
        assert!(text.lines().any(|l| l == line), "{line} is missing");
    }
}

#[test]
fn every_daemon_says_when_it_is_ready_and_that_it_lives() {
    for (daemon, _) in DAEMONS {
        for line in ["Type=notify", "WatchdogSec=30", "Restart=always", "NoNewPrivileges=yes"] {
            assert!(unit(daemon).lines().any(|l| l == line), "{daemon}: {line} is missing");
        }
    }
}

#[test]
fn every_user_that_a_unit_names_is_made() {
    let users = fs::read_to_string(systemd().join("keelson.sysusers.conf")).expect("sysusers");
    for (daemon, _) in DAEMONS {
        if let Some(user) = unit(daemon)
            .lines()
            .find_map(|line| line.strip_prefix("User=").map(str::to_owned))
        {
            assert!(
                users.lines().any(|line| line.split_whitespace().nth(1) == Some(&user)),
                "{user}"
            );
        }
    }
}
