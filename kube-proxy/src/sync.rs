//! Keeps the kernel's rules as the cluster's services are: one sync at a time, as often as something changed, never more often than configured.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::Object;
use daemon::Shutdown;
use tokio::time::Instant;

use crate::cache::{About, Caches, Wakes, about};
use crate::config::Config;
use crate::conntrack::{self, Expected};
use crate::dns::Directory;
use crate::health_check::{self, HealthChecks};
use crate::metrics::Metrics;
use crate::network::Kernel;
use crate::rules::{Applier, ApplyError, Family, Node, Refusal, RuleSet, plan};

/// After this time everything is loaded anew, in case somebody else changed our tables.
const RELOAD_PERIOD: Duration = Duration::from_secs(3600);
/// The first wait after a failure; it doubles up to the configured sync period.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Whether the rules are in the kernel, for the health endpoints.
#[derive(Clone, Debug, Default)]
pub struct Status {
    once: Arc<AtomicBool>,
    failed: Arc<AtomicBool>,
}

impl Status {
    /// Ok after the first sync.
    pub fn ready(&self) -> Result<(), String> {
        if self.once.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err("no sync of the service rules yet".to_string())
        }
    }

    /// Ok unless the last sync failed.
    pub fn current(&self) -> Result<(), String> {
        if self.failed.load(Ordering::Relaxed) {
            Err("the last sync of the service rules failed".to_string())
        } else {
            Ok(())
        }
    }

    fn set(&self, ok: bool) {
        self.failed.store(!ok, Ordering::Relaxed);
        self.once.fetch_or(ok, Ordering::Relaxed);
    }
}

/// The families whose tables this machine can have.
pub fn families() -> Vec<Family> {
    let ipv6 = std::path::Path::new("/proc/net/if_inet6").exists();
    Family::ALL
        .into_iter()
        .filter(|family| ipv6 || *family == Family::V4)
        .collect()
}

/// Owns the service rules of the node.
pub struct Syncer {
    config: Arc<Config>,
    caches: Caches,
    wakes: Arc<Wakes>,
    kernel: Kernel,
    metrics: Metrics,
    status: Status,
    families: Vec<Family>,
    applier: Applier,
    reloaded: Instant,
    health_checks: HealthChecks,
    /// Where UDP flows may go by the last sync; None before it.
    udp: Option<Expected>,
}

impl Syncer {
    /// Does nothing yet.
    pub fn new(
        config: Arc<Config>,
        caches: Caches,
        wakes: Arc<Wakes>,
        kernel: Kernel,
        metrics: Metrics,
        status: Status,
    ) -> Self {
        let families = families();
        let applier = Applier::new(families.clone(), config.masquerade_mark);
        Self {
            config,
            caches,
            wakes,
            kernel,
            metrics,
            status,
            families,
            applier,
            reloaded: Instant::now(),
            health_checks: HealthChecks::default(),
            udp: None,
        }
    }

    /// Syncs until shutdown. The rules stay when it returns: connections go on while the daemon is restarted.
    pub async fn run(mut self, shutdown: Shutdown) {
        let mut retry = FIRST_RETRY;
        if shutdown.run_until(self.caches.synced()).await.is_none() {
            return;
        }
        loop {
            let began = Instant::now();
            let done = self.sync().await;
            self.status.set(done.is_ok());
            let wait = async {
                match &done {
                    Ok(()) => {
                        retry = FIRST_RETRY;
                        tokio::select! {
                            () = self.wakes.rules.notified() => (),
                            () = tokio::time::sleep_until(self.reloaded + RELOAD_PERIOD) => (),
                        }
                        tokio::time::sleep_until(began + self.config.min_sync_period).await;
                    }
                    Err(error) => {
                        tracing::error!(
                            error = crate::chain(error),
                            "service rules are not in place, trying again"
                        );
                        tokio::time::sleep(retry).await;
                        retry = (retry * 2).min(self.config.sync_period.max(FIRST_RETRY));
                    }
                }
            };
            if shutdown.run_until(wait).await.is_none() {
                return;
            }
        }
    }

    async fn sync(&mut self) -> Result<(), SyncError> {
        let began = Instant::now();
        if began.duration_since(self.reloaded) >= RELOAD_PERIOD {
            self.applier = Applier::new(self.families.clone(), self.config.masquerade_mark);
            self.reloaded = began;
        }
        // Taken before the caches are read: a change after that is for the next sync.
        let triggers = std::mem::take(&mut *self.wakes.triggers.lock());
        let rules = self.plan().await?;
        let expected = conntrack::expected(&rules);
        let dropped = rules
            .refused
            .values()
            .filter(|refusal| **refusal == Refusal::Drop)
            .count();
        let frontends = rules.services.len();
        let applied = self.applier.apply(rules).await;
        self.metrics.synced(
            began.elapsed(),
            applied.is_ok(),
            self.families.contains(&Family::V6),
            dropped,
        );
        applied?;
        tracing::debug!(frontends, took = ?began.elapsed(), "service rules are in place");
        triggers.into_iter().for_each(|at| self.metrics.programmed(at));
        self.clean_flows(expected).await;
        self.check_health().await;
        Ok(())
    }

    async fn check_health(&mut self) {
        let services = self.caches.services.list();
        let check = |service: &Arc<api::core::v1::Service>| {
            // Cheap first: few services ask for a check.
            service.spec.as_ref()?.health_check_node_port?;
            let slices = Directory::slices(&self.caches, service.namespace(), service.name());
            health_check::check(service, &slices, &self.config.node_name)
        };
        let wanted = services.iter().filter_map(check).collect();
        self.health_checks.apply(wanted).await;
    }

    async fn plan(&self) -> Result<RuleSet, SyncError> {
        let node = self.node().await?;
        let (mut services, slices) = (self.caches.services.list(), self.caches.slices.list());
        services.sort_by(|a, b| (a.namespace(), a.name()).cmp(&(b.namespace(), b.name())));
        Ok(plan(&services, &slices, &node))
    }

    /// This node as the rules see it; one that is not registered yet has cluster IPs and no node ports.
    async fn node(&self) -> Result<Node, SyncError> {
        let own = self.caches.node(&self.config.node_name).map(|node| about(&node));
        let About {
            addresses,
            pod_cidrs,
            zone,
        } = own.unwrap_or_default();
        let own_vips = self.config.network.dns_addresses.clone();
        let addresses = match &self.config.node_port_addresses {
            None => addresses,
            Some(networks) => {
                let links = self.kernel.links().await?;
                let mut found: Vec<IpAddr> = links.iter().map(|link| link.network.addr()).collect();
                found.retain(|ip| networks.iter().any(|n| n.contains(ip)) && !own_vips.contains(ip));
                found.sort_unstable();
                found.dedup();
                found
            }
        };
        let cluster_cidrs = match self.config.cluster_cidrs.as_slice() {
            [] => self
                .caches
                .nodes
                .list()
                .iter()
                .flat_map(|node| about(node).pod_cidrs)
                .collect(),
            configured => configured.to_vec(),
        };
        Ok(Node {
            name: self.config.node_name.clone(),
            zone,
            addresses,
            pod_cidrs,
            cluster_cidrs,
            own_vips,
            masquerade_mark: self.config.masquerade_mark,
            masquerade_all: self.config.masquerade_all,
        })
    }

    /// A failure here leaves some UDP clients with a dead endpoint until they pause; it is told, and the rules are right nevertheless.
    async fn clean_flows(&mut self, expected: Expected) {
        let stale = conntrack::changed(self.udp.as_ref().unwrap_or(&Expected::new()), &expected);
        self.udp = Some(expected);
        if stale.is_empty() {
            return;
        }
        match tokio::task::spawn_blocking(move || conntrack::clean(&stale)).await {
            Ok(Ok(0)) => (),
            Ok(Ok(removed)) => tracing::debug!(removed, "stale UDP flows"),
            Ok(Err(error)) => tracing::warn!(%error, "stale UDP flows are not removed"),
            Err(error) => tracing::warn!(%error, "stale UDP flows are not removed"),
        }
    }
}

/// Why a sync failed.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error("read the node's addresses")]
    Addresses(#[from] crate::network::NetworkError),
}
