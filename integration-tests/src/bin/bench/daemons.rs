//! The memory of every daemon, in a cluster of one node made with `keelson local up`.

use std::time::Duration;

use anyhow::{Context, Result};
use http::Method;
use integration_tests::{Cluster, is_built};
use tokio::runtime::Runtime;

use crate::connection::{Connection, Credentials};
use crate::load::Call;
use crate::report::{self, Figure, Value};
use crate::{FILL_LIMIT, PODS, process, requests};

const DAEMONS: [&str; 5] = [
    "kube-apiserver",
    "kube-scheduler",
    "kube-controller-manager",
    "kubelet",
    "kube-proxy",
];
/// Until what a start needed has been given back.
const SETTLE: Duration = Duration::from_secs(10);

/// Prints them, idle and with [`PODS`] pods that nobody runs.
///
/// # Errors
/// When the cluster cannot be reached.
pub fn measure(runtime: &Runtime) -> Result<()> {
    let missing: Vec<_> = DAEMONS.iter().filter(|name| !is_built(name)).collect();
    if !nix::unistd::geteuid().is_root() || !missing.is_empty() {
        report::remark(&format!(
            "memory of all daemons: not measured, which takes root and a build of all of them (missing: {missing:?})"
        ));
        return Ok(());
    }
    let cluster = Cluster::start(1, 1);
    std::thread::sleep(SETTLE);
    memory(
        &cluster,
        "idle",
        "VmRSS 10 s after `keelson local up --nodes 1`",
        Some(554.0),
    )?;
    runtime.block_on(fill(&cluster))?;
    std::thread::sleep(SETTLE);
    let method = format!(
        "VmRSS 10 s after the creation of {PODS} pods with a scheduling gate: everybody knows them, nobody runs them"
    );
    memory(&cluster, "loaded", &method, None)
}

fn memory(cluster: &Cluster, state: &str, method: &str, upstream: Option<f64>) -> Result<()> {
    let mut values = Vec::new();
    let mut sum = 0.0;
    for daemon in DAEMONS {
        let resident = process::resident(cluster.pid("node-1", daemon))? as f64 / 1e6;
        sum += resident;
        values.push(Value::new(format!("{daemon}, MB"), resident, None));
    }
    values.push(Value::new("all, MB", sum, upstream));
    report::print(&Figure {
        name: &format!("memory of the daemons, {state}"),
        method: method.to_owned(),
        values,
    });
    Ok(())
}

async fn fill(cluster: &Cluster) -> Result<()> {
    let pki = cluster.dir().join("pki");
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(pki.join("admin.kubeconfig"))?)?;
    let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap_or_default();
    let address = server
        .trim_start_matches("https://")
        .parse()
        .with_context(|| format!("the server {server:?}"))?;
    let credentials = Credentials::load(&pki.join("ca.crt"), &pki.join("admin.crt"), &pki.join("admin.key"))?;
    let connection = Connection::open(address, &credentials).await?;
    let create = async |worker: usize| -> Result<()> {
        for number in (worker..PODS).step_by(32) {
            let body = requests::pod(&format!("bench-{number}"), true);
            let call = Call::json(Method::POST, "/api/v1/namespaces/default/pods", body);
            let (status, answer) = connection.call(call).await?;
            anyhow::ensure!(
                status.is_success(),
                "POST of a pod: {status} {}",
                String::from_utf8_lossy(&answer)
            );
        }
        Ok(())
    };
    tokio::time::timeout(FILL_LIMIT, process::all((0..32).map(create)))
        .await
        .context("the creation of the pods takes too long")??;
    Ok(())
}
