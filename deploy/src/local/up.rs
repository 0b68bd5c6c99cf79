//! `keelson local up`: makes what is missing of a cluster, starts what does not run, and waits until it works.

use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, MAX_CONTROL_PLANES, MAX_NODES, Node};
use super::process::{self, Running};
use super::ready::Probe;
use super::{daemons, enter, network};
use crate::console::{self, Progress};
use crate::host::RuntimeSupport;
use crate::{host, pki, runtime};

/// Programs that a cluster needs from the system, and the Debian package of each.
const PROGRAMS: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
];
/// How often a daemon that is starting is asked whether it is ready.
const POLL: Duration = Duration::from_millis(50);

/// What to bring up.
pub struct Options {
    /// The cluster's folder.
    pub dir: PathBuf,
    /// How many nodes; for a cluster that is there, as many as it has.
    pub nodes: Option<u8>,
    /// How many of them are control planes.
    pub control_planes: Option<u8>,
    /// How long to wait until everything is ready.
    pub timeout: Duration,
}

/// Brings the cluster up. It can be called again at any time.
pub async fn up(options: Options) -> Result<()> {
    let progress = Progress::start();
    check_machine()?;
    let cluster = Arc::new(describe(&options)?);
    let shape = &cluster.shape;
    progress.step(format_args!(
        "cluster {} in {}: {} node(s), {} control plane(s)",
        cluster.id,
        cluster.dir.display(),
        shape.nodes,
        shape.control_planes
    ));
    make_folders(&cluster)?;
    pki::ensure_cluster(&cluster.pki(), &cluster.credentials(), OffsetDateTime::now_utc())?;
    progress.step(format_args!("certificates and network {} are ready", shape.network));
    let images = Arc::new(make_images(&cluster)?);
    let up = Arc::new(Up {
        probe: Probe::new(&cluster)?,
        support: RuntimeSupport::detect(&cluster.dir)?,
        deadline: Instant::now() + options.timeout,
        cluster,
        images,
        progress,
    });
    up.clone().start_everything().await?;
    up.wait_for_nodes().await?;
    up.progress.step("every node is ready");
    console::line(format_args!("export KUBECONFIG={}", up.cluster.kubeconfig().display()));
    Ok(())
}

fn check_machine() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "keelson local up must run as root");
    for (program, package) in PROGRAMS {
        ensure!(
            host::find_program(program).is_some(),
            "no program {program}; install the package {package}"
        );
    }
    for (program, _) in daemons::CONTROL_PLANE.iter().chain(&daemons::NODE) {
        host::own_program(program)?;
    }
    Ok(())
}

/// The cluster that is there, or a new one; written down, and with its network, which marks this machine as in use.
fn describe(options: &Options) -> Result<Cluster> {
    if let Some(cluster) = Cluster::load(&options.dir)? {
        let shape = &cluster.shape;
        let as_asked = options.nodes.is_none_or(|nodes| nodes == shape.nodes)
            && options
                .control_planes
                .is_none_or(|control_planes| control_planes == shape.control_planes);
        ensure!(
            as_asked,
            "{}: there is a cluster of {} node(s), {} of them control planes; take it down first",
            options.dir.display(),
            shape.nodes,
            shape.control_planes
        );
        // After a restart of the machine it is gone.
        let _lock = network::lock()?;
        network::ensure(&cluster)?;
        return Ok(cluster);
    }
    let (nodes, control_planes) = (options.nodes.unwrap_or(1), options.control_planes.unwrap_or(1));
    ensure!((1..=MAX_NODES).contains(&nodes), "--nodes: expected 1 to {MAX_NODES}");
    ensure!(
        (1..=MAX_CONTROL_PLANES.min(nodes)).contains(&control_planes),
        "--control-planes: expected 1 to {MAX_CONTROL_PLANES}, and no more than nodes"
    );
    let mut cluster = Cluster::create(&options.dir, nodes, control_planes)?;
    let _lock = network::lock()?;
    let seed = u8::from_str_radix(&cluster.id[..2], 16).unwrap_or_default();
    cluster.shape.network = network::choose(seed)?;
    cluster.save()?;
    network::ensure(&cluster)?;
    Ok(cluster)
}

fn make_folders(cluster: &Cluster) -> Result<()> {
    let make = |path: &Path| fs::create_dir_all(path).with_context(|| format!("make {}", path.display()));
    for node in cluster.nodes() {
        for inside in ["etc/cni/net.d", "log", "run", "var/lib", "var/log/pods"] {
            make(&node.path(inside))?;
        }
        for (host, own) in enter::OWN_FOLDERS {
            make(Path::new(host))?;
            make(&node.path(own))?;
        }
    }
    make(&cluster.dir.join("images"))
}

/// The archives that every node's containerd gets.
fn make_images(cluster: &Cluster) -> Result<PathBuf> {
    let path = cluster.dir.join("images/pause.tar");
    let kubelet = host::own_program("kubelet")?;
    host::run(
        &kubelet.to_string_lossy(),
        &["--write-pause-image", &path.to_string_lossy()],
    )?;
    Ok(path)
}

/// What the steps share.
struct Up {
    cluster: Arc<Cluster>,
    support: RuntimeSupport,
    /// The archive of the pause image.
    images: Arc<PathBuf>,
    probe: Probe,
    progress: Progress,
    deadline: Instant,
}

impl Up {
    /// Starts what does not run, all at once, and returns when each has said that it is ready.
    async fn start_everything(self: Arc<Self>) -> Result<()> {
        let mut steps = JoinSet::new();
        for node in self.cluster.nodes() {
            for (name, address) in daemons::of(&node) {
                if name != "kubelet" {
                    steps.spawn(self.clone().start_daemon(node.clone(), name, address));
                }
            }
            steps.spawn(self.clone().start_runtime_and_kubelet(node));
        }
        while let Some(step) = steps.join_next().await {
            step.context("a step broke off")??;
        }
        Ok(())
    }

    async fn start_runtime_and_kubelet(self: Arc<Self>, node: Node) -> Result<()> {
        let daemon = daemons::prepare_runtime(&node, &self.support)?;
        let mut running = process::ensure(&self.cluster, &node, &daemon).await?;
        let fresh = running.fresh;
        self.watch(
            &node,
            &mut running,
            runtime::wait_until_it_serves(&node.runtime_socket()),
        )
        .await?;
        self.report(&node, &running);
        if fresh {
            let socket = node.runtime_socket();
            let import = runtime::import(&socket, &self.images, self.support.snapshotter);
            self.watch(&node, &mut running, import)
                .await?
                .with_context(|| node.name.clone())?;
        }
        let kubelet = daemons::of(&node)
            .into_iter()
            .find(|(name, _)| *name == "kubelet")
            .context("a node has a kubelet")?;
        self.start_daemon(node, kubelet.0, kubelet.1).await
    }

    async fn start_daemon(self: Arc<Self>, node: Node, name: &'static str, address: SocketAddr) -> Result<()> {
        let daemon = daemons::prepare(&self.cluster, &node, name)?;
        let mut running = process::ensure(&self.cluster, &node, &daemon).await?;
        let ready = self.until(|| async { self.probe.get(address, "/readyz").await.map(drop) });
        self.watch(&node, &mut running, ready)
            .await?
            .with_context(|| format!("{}: {name} is not ready", node.name))?;
        self.report(&node, &running);
        Ok(())
    }

    fn report(&self, node: &Node, running: &Running) {
        let how = if running.fresh { "is ready" } else { "was running" };
        self.progress
            .step(format_args!("{}: {} {how}", node.name, running.name));
    }

    /// Does `work` while `running` runs; fails with the end of its log as soon as it does not.
    async fn watch<T>(&self, node: &Node, running: &mut Running, work: impl Future<Output = T>) -> Result<T> {
        let ended = async {
            loop {
                if let Some(report) = running.ended() {
                    return report;
                }
                sleep(POLL).await;
            }
        };
        tokio::select! {
            result = work => Ok(result),
            report = ended => bail!("{}: {report}", node.name),
        }
    }

    /// Tries until it succeeds; at the deadline the last failure is the answer.
    async fn until<F: Future<Output = Result<()>>>(&self, mut attempt: impl FnMut() -> F) -> Result<()> {
        loop {
            let Err(error) = attempt().await else { return Ok(()) };
            if Instant::now() > self.deadline {
                return Err(error);
            }
            sleep(POLL).await;
        }
    }

    async fn wait_for_nodes(&self) -> Result<()> {
        let nodes = self.cluster.nodes();
        let server = nodes
            .first()
            .map(|node| daemons::of(node)[0].1)
            .context("a cluster has a node")?;
        self.until(|| async {
            let list: Value = serde_json::from_slice(&self.probe.get(server, "/api/v1/nodes").await?)?;
            match nodes.iter().find_map(|node| why_not_ready(&list, &node.name)) {
                None => Ok(()),
                Some(reason) => Err(anyhow!(reason)),
            }
        })
        .await
        .context("not every node is ready")
    }
}

/// Why the node `name` of a node list is not ready, or nothing if it is.
pub fn why_not_ready(list: &Value, name: &str) -> Option<String> {
    let Some(node) = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|node| node["metadata"]["name"] == name)
    else {
        return Some(format!("{name} has not registered"));
    };
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    match conditions.into_iter().find(|condition| condition["type"] == "Ready") {
        Some(ready) if ready["status"] == "True" => None,
        Some(ready) => Some(format!("{name}: {}", ready["message"].as_str().unwrap_or("not ready"))),
        None => Some(format!("{name} has not reported its condition")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn says_why_a_node_is_not_ready() {
        let list = json!({ "items": [
            { "metadata": { "name": "a" }, "status": { "conditions": [{ "type": "Ready", "status": "True" }] } },
            { "metadata": { "name": "b" }, "status": { "conditions": [{ "type": "Ready", "status": "False", "message": "no network" }] } },
            { "metadata": { "name": "c" }, "status": {} },
        ] });
        assert_eq!(why_not_ready(&list, "a"), None);
        assert_eq!(why_not_ready(&list, "b").as_deref(), Some("b: no network"));
        assert_eq!(
            why_not_ready(&list, "c").as_deref(),
            Some("c has not reported its condition")
        );
        assert_eq!(why_not_ready(&list, "d").as_deref(), Some("d has not registered"));
    }
}
