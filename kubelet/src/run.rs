//! Start to stop of the kubelet, in one screen: runtime, registration, informers, workers, server; then the drain.

use crate::api_client::ApiCluster;
use crate::cluster::Cluster;
use crate::config::Settings;
use crate::files::{DnsSettings, ResolvConf};
use crate::gc::{self, ImagePolicy};
use crate::logs::rotate;
use crate::metrics::Metrics;
use crate::node::{facts::Machine, lease, report::Reporter};
use crate::pods::statuses::StatusWriter;
use crate::pods::{Context, NodeFacts, Pods};
use crate::runtime::cgroups::Cgroups;
use crate::runtime::images::Images;
use crate::runtime::relist::Relist;
use crate::runtime::resources::units;
use crate::runtime::{Runtime, events};
use crate::volumes::Volumes;
use crate::{pause, server};
use anyhow::Context as _;
use api::core::v1::{Node, Pod, Service};
use client::{Client, Event, EventRecorder, Informer, ListParams};
use daemon::Shutdown;
use daemon::config::ConfigError;
use daemon::health::{Health, Scope};
use daemon::http::Admin;
use daemon::tls::{ClientAuth, ServerTls, TlsFiles};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Pulls at once when nothing else is said.
const PARALLEL_PULLS: usize = 8;
const RUNTIME_RETRY: Duration = Duration::from_millis(100);

/// Binds the kubelet's port.
pub fn listen(settings: &Settings) -> Result<std::net::TcpListener, ConfigError> {
    daemon::cli::listen((settings.file.address, settings.file.port).into())
}

/// Runs until shutdown. Pods go on running after it.
pub async fn run(settings: Settings, listener: std::net::TcpListener, shutdown: Shutdown) -> anyhow::Result<()> {
    let registry = daemon::metrics::registry();
    let metrics = Metrics::new(&registry)?;
    metrics.node_name.with_label_values(&[&settings.node_name]).set(1);
    for folder in [&settings.root, &settings.file.pod_logs_dir] {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let relist = Arc::new(Relist::default());
    let admin = admin(&settings, registry, relist.clone())?;
    let runtime = Runtime::new(&settings.file.container_runtime_endpoint, metrics.clone())?;
    let cgroups = Cgroups::detect(Path::new(&settings.file.cgroup_root))?;
    let machine = Machine::read(&settings.root).context("read the machine's figures")?;
    prepare_cgroups(&cgroups, &machine, &settings)?;

    let config = client::Config::from_kubeconfig(&settings.kubeconfig)?.user_agent("kubelet");
    config.reload_on_change(shutdown.clone());
    let client = Client::new(config)?;
    let services = Informer::<Service>::new(&client, &ListParams::default()).start(&shutdown);
    let recorder = EventRecorder::new(&client, "kubelet", &settings.node_name);

    let (network_sender, network_ready) = watch::channel(false);
    let reporter = Reporter {
        client: client.clone(),
        runtime: runtime.clone(),
        relist: relist.clone(),
        settings: settings.clone(),
        machine: machine.clone(),
        network_ready: network_sender,
    };
    let stop = shutdown.token();
    let (registered, ()) = tokio::join!(
        reporter.register(&stop),
        wait_for_runtime(&runtime, &settings, &shutdown)
    );
    let Some(node) = registered else { return Ok(()) };
    tokio::spawn(lease::run(
        client.clone(),
        node.clone(),
        settings.file.node_lease_duration_seconds,
        stop.clone(),
    ));
    tokio::spawn(reporter.run(stop.clone()));

    let cluster: Arc<dyn Cluster> = ApiCluster::new(client.clone(), services.clone(), recorder);
    let statuses = Arc::new(StatusWriter::default());
    let writer = tokio::spawn({
        let (statuses, cluster, stop) = (statuses.clone(), cluster.clone(), stop.clone());
        async move { statuses.run(cluster, stop).await }
    });
    let pulls = match (
        settings.file.serialize_image_pulls,
        settings.file.max_parallel_image_pulls,
    ) {
        (true, None) => 1,
        (_, Some(count)) => count,
        (false, None) => PARALLEL_PULLS,
    };
    let context = Arc::new(Context {
        images: Images::new(runtime.clone(), pulls),
        volumes: Volumes::new(&settings.root, cluster.clone()),
        cgroups,
        cluster,
        statuses,
        metrics: metrics.clone(),
        node: facts(&settings, &machine, node),
        network_ready,
        admitted: parking_lot::Mutex::default(),
        stop: stop.clone(),
        runtime: runtime.clone(),
    });
    let pods = Pods::new(context.clone());
    // Environment variables of services have to be known before the first container starts.
    if shutdown.run_until(services.synced()).await.is_none() {
        return Ok(());
    }
    let cache = follow_pods(&client, &settings.node_name, &pods, &shutdown);
    tokio::spawn(events::follow(runtime.clone(), relist.wake(), stop.clone()));
    tokio::spawn({
        let (pods, runtime, metrics, relist, stop) = (
            pods.clone(),
            runtime.clone(),
            metrics.clone(),
            relist.clone(),
            stop.clone(),
        );
        async move { relist.run(runtime, metrics, move |uid| pods.wake(uid), stop).await }
    });
    let policy = rotate::Policy {
        max_size: settings.log_max_size()?,
        max_files: settings.file.container_log_max_files as usize,
    };
    tokio::spawn(rotate::run(runtime, policy, stop.clone()));
    tokio::spawn({
        let (pods, context, stop) = (pods.clone(), context.clone(), stop.clone());
        let images = ImagePolicy {
            high: settings.file.image_gc_high_threshold_percent,
            low: settings.file.image_gc_low_threshold_percent,
            age: settings.file.image_minimum_gc_age,
        };
        async move {
            cache.synced().await;
            gc::run(pods, context, images, stop).await;
        }
    });
    daemon::notify::ready(&shutdown);
    server::serve(listener, admin, pods, context, shutdown).await?;
    writer.await.context("write the last statuses")
}

fn admin(settings: &Settings, metrics: prometheus::Registry, relist: Arc<Relist>) -> anyhow::Result<Admin> {
    let files = TlsFiles {
        certificate: settings.file.tls_cert_file.clone(),
        key: settings.file.tls_private_key_file.clone(),
        ca: settings.file.authentication.x509.client_ca_file.clone(),
    };
    let tls = ServerTls::load(files, ClientAuth::Requested)?;
    let mut health = Health::new();
    health.add("pleg", Scope::Ready, move || relist.healthy());
    Ok(Admin { health, metrics, tls })
}

fn prepare_cgroups(cgroups: &Cgroups, machine: &Machine, settings: &Settings) -> anyhow::Result<()> {
    let allocatable = machine.allocatable(&settings.file);
    let memory = units(Some(&allocatable), "memory").unwrap_or(0);
    let cpu = crate::runtime::resources::milli(Some(&allocatable), "cpu").unwrap_or(0);
    cgroups.prepare_node(memory, cpu).context("make the pods' cgroup")
}

/// Until the runtime answers and has the pause image.
async fn wait_for_runtime(runtime: &Runtime, settings: &Settings, shutdown: &Shutdown) {
    let mut told = false;
    while !shutdown.is_requested() {
        match pause::ensure(runtime, &settings.root).await {
            Ok(()) => return,
            Err(error) if told => tracing::debug!(error = &error as &dyn std::error::Error, "waiting for the runtime"),
            Err(error) => {
                told = true;
                tracing::warn!(error = &error as &dyn std::error::Error, "waiting for the runtime");
            }
        }
        tokio::time::sleep(RUNTIME_RETRY).await;
    }
}

fn facts(settings: &Settings, machine: &Machine, node: Node) -> NodeFacts {
    let host = std::fs::read_to_string(&settings.file.resolv_conf).unwrap_or_default();
    NodeFacts {
        name: settings.node_name.clone(),
        ips: vec![settings.node_ip.to_string()],
        memory: i64::try_from(machine.memory).unwrap_or(i64::MAX),
        allocatable: machine.allocatable(&settings.file),
        dns: DnsSettings {
            cluster: settings.file.cluster_dns.clone(),
            domain: settings.file.cluster_domain.clone(),
            host: ResolvConf::parse(&host),
        },
        root: settings.root.clone(),
        log_root: settings.file.pod_logs_dir.clone(),
        pod_pids_limit: Some(settings.file.pod_pids_limit).filter(|limit| *limit > 0),
        object: node,
    }
}

fn follow_pods(client: &Client, node: &str, pods: &Arc<Pods>, shutdown: &Shutdown) -> client::Cache<Pod> {
    let pods = pods.clone();
    let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
    Informer::<Pod>::new(client, &params)
        .on_event(move |event| match event {
            Event::Added(pod) => pods.update(pod.clone()),
            Event::Updated { old, new } if old.metadata.uid != new.metadata.uid => {
                pods.gone(old);
                pods.update(new.clone());
            }
            Event::Updated { new, .. } => pods.update(new.clone()),
            Event::Deleted(pod) => pods.gone(pod),
        })
        .start(shutdown)
}
