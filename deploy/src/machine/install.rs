//! Turning this machine into one of a cluster: files at their places, then systemd.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::bundle::{Bundle, Machine};
use crate::configuration::{self, ISSUER, POD_CIDR, Runtime, SERVICE_CIDR};
use crate::host::{self, RuntimeSupport};
use crate::{console, pki, runtime};

/// A daemon and its unit, as checked in.
const UNITS: [(&str, &str); 5] = [
    ("kube-apiserver", include_str!("../../systemd/kube-apiserver.service")),
    (
        "kube-controller-manager",
        include_str!("../../systemd/kube-controller-manager.service"),
    ),
    ("kube-scheduler", include_str!("../../systemd/kube-scheduler.service")),
    ("kubelet", include_str!("../../systemd/kubelet.service")),
    ("kube-proxy", include_str!("../../systemd/kube-proxy.service")),
];
/// How many of them, from the first, belong to the control plane.
const CONTROL_PLANE_UNITS: usize = 3;
const USERS: &str = include_str!("../../systemd/keelson.sysusers.conf");
const FOLDERS: &str = include_str!("../../systemd/keelson.tmpfiles.conf");

const CONFIGURATION: &str = "/etc/kubernetes";
const RUNTIME_CONFIGURATION: &str = "/etc/containerd/config.toml";
/// Where programs go, unless they lie in a system folder already: units cannot see home folders.
const PROGRAMS: &str = "/usr/local/bin";
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/bin", "/usr/local/bin"];
const UNIT_PROGRAMS: &str = "/usr/bin/";

/// Fails where a machine cannot be part of a cluster, before anything is changed.
pub fn check() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "run this as root");
    ensure!(
        Path::new("/run/systemd/system").exists(),
        "this machine was not started by systemd"
    );
    for (program, package) in [
        ("containerd", "containerd"),
        ("ctr", "containerd"),
        ("runc", "runc"),
        ("nft", "nftables"),
        ("ip", "iproute2"),
    ] {
        ensure!(
            host::find_program(program).is_some(),
            "no program {program}; install the package {package}"
        );
    }
    UNITS.iter().try_for_each(|(name, _)| host::own_program(name).map(drop))
}

/// Makes this machine the one of the bundle and starts its daemons. It can be done again at any time.
pub async fn install(bundle: &Bundle) -> Result<()> {
    let programs = install_programs()?;
    let units = &UNITS[if bundle.machine.raft_id.is_some() {
        0
    } else {
        CONTROL_PLANE_UNITS
    }..];
    write("/etc/sysusers.d/keelson.conf".as_ref(), USERS, 0o644)?;
    write("/etc/tmpfiles.d/keelson.conf".as_ref(), FOLDERS, 0o644)?;
    host::run("systemd-sysusers", &[])?;
    host::run("systemd-tmpfiles", &["--create", "keelson.conf"])?;
    for (name, content) in &bundle.credentials {
        pki::write_private(&Path::new(CONFIGURATION).join("pki").join(name), content)?;
    }
    for (file, text) in machine_files(&bundle.machine) {
        write(&Path::new(CONFIGURATION).join(file), &text, 0o644)?;
    }
    for (name, text) in units {
        let text = text.replace(UNIT_PROGRAMS, &format!("{}/", programs.display()));
        write(
            &Path::new("/etc/systemd/system").join(format!("{name}.service")),
            &text,
            0o644,
        )?;
    }
    host::run("systemctl", &["daemon-reload"])?;
    prepare_runtime(&programs).await?;
    console::line("starting the daemons");
    let names: Vec<&str> = units.iter().map(|(name, _)| *name).collect();
    // Each says when it is ready, and this waits for it.
    host::run("systemctl", &[&["enable", "--quiet"], names.as_slice()].concat())?;
    host::run("systemctl", &[&["restart"], names.as_slice()].concat())?;
    Ok(())
}

/// Puts the programs where units can start them; answers the folder.
fn install_programs() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    if let Some(folder) = SYSTEM_FOLDERS
        .map(Path::new)
        .into_iter()
        .find(|folder| own.parent() == Some(folder))
    {
        return Ok(folder.to_owned());
    }
    let folder = PathBuf::from(PROGRAMS);
    for name in UNITS.map(|(name, _)| name).into_iter().chain(["keelson"]) {
        // Beside the old one first: a program that runs cannot be written to.
        let (target, fresh) = (folder.join(name), folder.join(format!(".{name}.new")));
        let copied = fs::copy(host::own_program(name)?, &fresh).and_then(|_| fs::rename(&fresh, &target));
        copied.with_context(|| format!("install {}", target.display()))?;
    }
    Ok(folder)
}

/// Files of `/etc/kubernetes` that hold what differs between machines.
fn machine_files(machine: &Machine) -> Vec<(&'static str, String)> {
    let pki = Path::new(CONFIGURATION).join("pki");
    let (name, address) = (&machine.name, machine.address);
    let document = |value: Value| format!("{value:#}\n");
    let mut kubelet = configuration::kubelet(&pki);
    kubelet["cgroupRoot"] = json!("/");
    let mut files = vec![
        ("kubelet.yaml", document(kubelet)),
        (
            "kubelet.env",
            format!("KUBELET_ARGS=--hostname-override={name} --node-ip={address}\n"),
        ),
        (
            "kube-proxy.yaml",
            document(configuration::proxy("/etc/cni/net.d".as_ref())),
        ),
        (
            "kube-proxy.env",
            format!("KUBE_PROXY_ARGS=--hostname-override={name}\n"),
        ),
    ];
    if let Some(id) = machine.raft_id {
        let store = match &machine.raft_join {
            Some(server) => format!("--raft-join={server}"),
            None => format!("--raft-members={id}={name}@{}", SocketAddr::new(address, 6443)),
        };
        let apiserver = format!(
            "KUBE_APISERVER_ARGS=--advertise-address={address} --service-cluster-ip-range={SERVICE_CIDR} \
             --service-account-issuer={ISSUER} --raft-id={id} --raft-name={name} {store}\n"
        );
        let manager = format!(
            "KUBE_CONTROLLER_MANAGER_ARGS=--cluster-cidr={POD_CIDR} --allocate-node-cidrs=true \
             --service-cluster-ip-range={SERVICE_CIDR}\n"
        );
        files.extend([
            ("kube-apiserver.env", apiserver),
            ("kube-controller-manager.env", manager),
        ]);
    }
    files
}

/// Gives containerd the suite's configuration, keeping an operator's own beside it, and the image of the pods' first container.
async fn prepare_runtime(programs: &Path) -> Result<()> {
    let root = Path::new("/var/lib/containerd");
    fs::create_dir_all(root).with_context(|| format!("make {}", root.display()))?;
    let support = RuntimeSupport::detect(root)?;
    let text = configuration::containerd(&Runtime {
        root,
        networks: "/etc/cni/net.d".as_ref(),
        host: &support,
    });
    let path = Path::new(RUNTIME_CONFIGURATION);
    let present = fs::read_to_string(path).unwrap_or_default();
    if present != text {
        if !present.is_empty() {
            let kept = path.with_extension("toml.before-keelson");
            fs::write(&kept, present).with_context(|| format!("write {}", kept.display()))?;
            console::line(format_args!("{} is kept as {}", path.display(), kept.display()));
        }
        write(path, &text, 0o644)?;
        host::run("systemctl", &["restart", "containerd"])?;
    }
    host::run("systemctl", &["enable", "--quiet", "--now", "containerd"])?;
    let socket = Path::new("/run/containerd/containerd.sock");
    tokio::time::timeout(
        std::time::Duration::from_secs(30),
        runtime::wait_until_it_serves(socket),
    )
    .await
    .context("containerd does not answer")?;
    let image = tempfile::NamedTempFile::new().context("make a file for the pause image")?;
    let kubelet = programs.join("kubelet");
    host::run(
        &kubelet.to_string_lossy(),
        &["--write-pause-image", &image.path().to_string_lossy()],
    )?;
    runtime::import(socket, image.path(), support.snapshotter).await
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let put = || {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, text)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    put().with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(machine: &Machine, name: &str) -> Option<String> {
        machine_files(machine)
            .into_iter()
            .find(|(file, _)| *file == name)
            .map(|(_, text)| text)
    }

    #[test]
    fn the_first_machine_starts_the_store_and_the_next_joins_it() {
        let mut machine = Machine {
            name: "one".into(),
            address: [10, 0, 0, 1].into(),
            raft_id: Some(1),
            raft_join: None,
        };
        assert!(
            file(&machine, "kube-apiserver.env")
                .expect("file")
                .contains("--raft-members=1=one@10.0.0.1:6443")
        );
        machine.raft_join = Some("10.0.0.9:6443".into());
        let joining = file(&machine, "kube-apiserver.env").expect("file");
        assert!(
            joining.contains("--raft-join=10.0.0.9:6443") && !joining.contains("--raft-members"),
            "{joining}"
        );
        machine.raft_id = None;
        assert_eq!(file(&machine, "kube-apiserver.env"), None);
        assert!(
            file(&machine, "kubelet.env")
                .expect("file")
                .contains("--node-ip=10.0.0.1")
        );
    }

    #[test]
    fn every_unit_starts_its_own_daemon() {
        for (name, text) in UNITS {
            assert!(text.contains(&format!("ExecStart={UNIT_PROGRAMS}{name} ")), "{name}");
        }
    }
}
