//! `keelson local status`: what runs and how it is.

use std::path::Path;

use anyhow::{Result, bail};
use serde_json::Value;

use super::cluster::{Cluster, Node};
use super::ready::Probe;
use super::{daemons, process, up};
use crate::console;

/// Prints a line for each daemon and each node; fails when something is not as it should be.
pub async fn status(dir: &Path) -> Result<()> {
    let cluster = Cluster::existing(dir)?;
    let probe = Probe::new(&cluster)?;
    let mut troubles = 0;
    console::line(format_args!(
        "{:<10} {:<24} {:>8}  {}",
        "NODE", "DAEMON", "PID", "STATE"
    ));
    for node in cluster.nodes() {
        for (name, state) in daemon_states(&node, &probe).await {
            let pid = process::running(&node, name).map_or("-".to_owned(), |process| process.pid().to_string());
            troubles += usize::from(state.is_err());
            console::line(format_args!(
                "{:<10} {name:<24} {pid:>8}  {}",
                node.name,
                state.unwrap_or_else(|e| format!("{e:#}"))
            ));
        }
    }
    match nodes(&cluster, &probe).await {
        Ok(list) => {
            for node in cluster.nodes() {
                let trouble = up::why_not_ready(&list, &node.name);
                troubles += usize::from(trouble.is_some());
                console::line(trouble.unwrap_or_else(|| format!("{} is Ready", node.name)));
            }
        }
        Err(error) => console::line(format_args!("the nodes' conditions are unknown: {error:#}")),
    }
    console::line(format_args!("export KUBECONFIG={}", cluster.kubeconfig().display()));
    if troubles > 0 {
        bail!("{troubles} of them not as they should be; `keelson local up` starts what is missing");
    }
    Ok(())
}

async fn daemon_states(node: &Node, probe: &Probe) -> Vec<(&'static str, Result<String>)> {
    let mut states = Vec::new();
    for (name, address) in daemons::of(node) {
        let state = match process::running(node, name) {
            None => Err(anyhow::anyhow!(
                "not running; its log is {}",
                process::log_file(node, name).display()
            )),
            Some(_) => probe.get(address, "/readyz").await.map(|_| "ready".to_owned()),
        };
        states.push((name, state));
    }
    let runtime = match process::running(node, "containerd") {
        Some(_) => Ok("running".to_owned()),
        None => Err(anyhow::anyhow!(
            "not running; its log is {}",
            process::log_file(node, "containerd").display()
        )),
    };
    states.push(("containerd", runtime));
    states
}

async fn nodes(cluster: &Cluster, probe: &Probe) -> Result<Value> {
    let mut last = anyhow::anyhow!("no API server");
    for node in cluster.nodes().iter().filter(|node| node.control_plane) {
        match probe.get(daemons::of(node)[0].1, "/api/v1/nodes").await {
            Ok(body) => return Ok(serde_json::from_slice(&body)?),
            Err(error) => last = error,
        }
    }
    Err(last)
}
