//! Programs and libraries that people use with Kubernetes, unchanged and from their registries, against a cluster.

mod kube_rs;
mod prometheus;

use std::path::{Path, PathBuf};
use std::process::Command;

use integration_tests::{Cluster, Tools};

type Client = (&'static str, fn(&Cluster, &Tools));

#[test]
fn clients_work_unchanged() {
    let cluster = Cluster::start(1, 1);
    let tools = Tools::new(env!("CARGO_TARGET_TMPDIR"));
    let clients: [Client; 6] = [
        ("the Python client", python),
        ("the JavaScript client", javascript),
        ("Ansible", ansible),
        ("Prometheus", prometheus::scrapes),
        ("kube-rs", kube_rs::client),
        ("an operator of kube-rs", kube_rs::operator),
    ];
    let failed: Vec<&str> = clients
        .iter()
        .filter(|(title, client)| {
            eprintln!("client: {title}");
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client(&cluster, &tools))).is_err()
        })
        .map(|(title, _)| *title)
        .collect();
    assert!(failed.is_empty(), "failed: {failed:?}");
}

fn python(cluster: &Cluster, tools: &Tools) {
    let mut command = Command::new(tools.python("kubernetes==35.0.0"));
    succeed(command.arg(script("python.py")), cluster);
}

fn javascript(cluster: &Cluster, tools: &Tools) {
    // Later ones need a newer Node.js than Debian has. Modules are looked for beside the script.
    let folder = tools.javascript("@kubernetes/client-node@1.3.0");
    let copy = folder.join("client.mjs");
    std::fs::copy(script("javascript.mjs"), &copy).expect("copy the script");
    succeed(Command::new("node").arg(copy), cluster);
}

fn ansible(cluster: &Cluster, tools: &Tools) {
    let python = tools.python("ansible==12.2.0 kubernetes==35.0.0");
    let mut command = Command::new(python.with_file_name("ansible-playbook"));
    command
        .arg("-e")
        .arg(format!("ansible_python_interpreter={}", python.display()));
    succeed(command.arg(script("playbook.yaml")), cluster);
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// Runs a program as the cluster's administrator, with a home of its own.
fn succeed(command: &mut Command, cluster: &Cluster) {
    let home = tempfile::tempdir().expect("a folder");
    let output = command
        .env("KUBECONFIG", cluster.dir().join("pki/admin.kubeconfig"))
        .env("HOME", home.path())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
