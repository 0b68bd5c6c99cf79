//! kube-proxy: the node's network.
//!
//! Entry point: [`run`]. It follows the cluster's objects and keeps four things as they say: the service rules ([`sync`], [`rules`],
//! [`conntrack`]), the pod network ([`pod_network`], [`cni`], [`network`]), network policy ([`policy`]), and DNS of the cluster domain ([`dns`]).
//!
//! It writes no object of the API, never reads back its nftables tables, and leaves everything in place when it stops.

pub mod cache;
pub mod cni;
pub mod config;
pub mod conntrack;
pub mod dns;
pub mod health_check;
pub mod metrics;
pub mod network;
pub mod pod_network;
pub mod policy;
pub mod rules;
pub mod sync;
pub mod sysctl;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use client::Client;
use daemon::Shutdown;
use daemon::config::ConfigError;
use daemon::health::{Health, Scope};
use daemon::http::Admin;
use daemon::tls::{ClientAuth, ServerTls};

use cache::{Caches, Wakes};
use config::Config;
use dns::{Bound, Forwarder, Server, Zone};
use network::Kernel;
use sync::{Status, Syncer};

const DNS_PORT: u16 = 53;
const DNS_RETRY: Duration = Duration::from_secs(2);

/// Runs the daemon until shutdown; `admin` is where its own endpoints are served.
///
/// # Errors
/// Only what a person must put right: files, certificates. The cluster and the kernel are tried again for ever.
pub async fn run(config: Config, admin: TcpListener, shutdown: Shutdown) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let registry = daemon::metrics::registry();
    let metrics = metrics::Metrics::new(&registry).context("register metrics")?;
    let dns_metrics = dns::Metrics::new(&registry).context("register metrics")?;
    let status = Status::default();
    let health = health(&status);
    let tls = ServerTls::load(config.tls.clone(), ClientAuth::Requested)
        .map_err(|error| ConfigError::Usage(error.to_string()))?;
    tls.reload_on_change(shutdown.clone());
    let target = client::Config::from_kubeconfig(&config.kubeconfig)?.user_agent("kube-proxy");
    target.reload_on_change(shutdown.clone());
    let client = Client::new(target)?;
    let wakes = Arc::new(Wakes::default());
    let caches = Caches::start(&client, &wakes, &metrics, &shutdown);
    let kernel = Kernel::open()?;

    let syncer = Syncer::new(
        Arc::clone(&config),
        caches.clone(),
        Arc::clone(&wakes),
        kernel.clone(),
        metrics,
        status,
    );
    let rules = syncer.run(shutdown.clone());
    let pods = pod_network::run(
        Arc::clone(&config),
        caches.clone(),
        wakes,
        kernel.clone(),
        shutdown.clone(),
    );
    let policies = policy::run(Arc::clone(&config), client, shutdown.clone());
    let names = serve_dns(Arc::clone(&config), caches, kernel, dns_metrics, shutdown.clone());
    let admin = Admin {
        health,
        metrics: registry,
        tls,
    }
    .serve(admin, shutdown.clone());
    daemon::notify::ready(&shutdown);
    let (served, (), (), (), ()) = tokio::join!(admin, rules, pods, policies, names);
    served
}

fn health(status: &Status) -> Health {
    let mut health = Health::new();
    let (once, last) = (status.clone(), status.clone());
    health.add("rules", Scope::Ready, move || once.ready());
    health.add("sync", Scope::Live, move || last.current());
    health
}

/// Answers DNS once the cluster's services are known; before, an answer would deny what exists.
async fn serve_dns(config: Arc<Config>, caches: Caches, kernel: Kernel, metrics: dns::Metrics, shutdown: Shutdown) {
    let network = &config.network;
    if network.dns_addresses.is_empty() || shutdown.run_until(caches.synced()).await.is_none() {
        return;
    }
    let serve = || async {
        kernel.add_own_addresses(&network.dns_addresses).await?;
        let bound = Bound::bind(&network.dns_addresses, DNS_PORT).context("bind port 53")?;
        let serial = u32::try_from(jiff::Timestamp::now().as_second()).unwrap_or(u32::MAX);
        let zone = Zone::new(&network.cluster_domain, network.dns_addresses.clone(), serial)
            .context("nodeNetwork.clusterDomain")?;
        let own = network.dns_addresses.clone();
        let forwarder = Forwarder::new(network.resolv_conf.clone(), DNS_PORT, own);
        let server = Server {
            zone,
            directory: Arc::new(caches.clone()),
            forwarder,
            metrics: metrics.clone(),
        };
        tracing::info!(addresses = ?network.dns_addresses, domain = network.cluster_domain, "DNS is served");
        server.run(bound, shutdown.clone()).await.context("serve")
    };
    while !shutdown.is_requested() {
        if let Err(error) = serve().await {
            tracing::error!(error = format!("{error:#}"), "DNS is not served, trying again");
            shutdown.run_until(tokio::time::sleep(DNS_RETRY)).await;
        }
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Removes what the daemon put into the kernel: rules, routes, tunnel, DNS addresses.
///
/// # Errors
/// When the kernel refuses.
pub async fn cleanup(dns_addresses: &[std::net::IpAddr]) -> anyhow::Result<()> {
    rules::Applier::new(sync::families(), 0).remove().await?;
    rules::nft(&policy::remove(&sync::families())).await?;
    let kernel = Kernel::open()?;
    kernel.remove_routes().await?;
    kernel.remove_own_addresses(dns_addresses).await?;
    Ok(())
}
