//! Keeps the pod network of the node: the container runtime's configuration and the routes to other nodes' pods.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use api::Object;
use daemon::Shutdown;

use crate::cache::{About, Caches, Wakes, about};
use crate::cni::{self, CniError, Written};
use crate::config::{Config, NetworkMode};
use crate::network::{Hop, Kernel, NetworkError, Peer, TUNNEL_OVERHEAD, Vxlan, plan};
use crate::sysctl;

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
enum PodNetworkError {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Cni(#[from] CniError),
}

/// Follows the nodes until shutdown. What it made stays.
pub async fn run(config: Arc<Config>, caches: Caches, wakes: Arc<Wakes>, kernel: Kernel, shutdown: Shutdown) {
    let mut retry = FIRST_RETRY;
    let mut prepared = false;
    if shutdown.run_until(caches.nodes.synced()).await.is_none() {
        return;
    }
    loop {
        let done = sync(&config, &caches, &kernel, &mut prepared).await;
        let wait = async {
            match &done {
                Ok(()) => {
                    retry = FIRST_RETRY;
                    wakes.nodes.notified().await;
                }
                Err(error) => {
                    tracing::error!(
                        error = crate::chain(error),
                        "the pod network is not in place, trying again"
                    );
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(LAST_RETRY);
                }
            }
        };
        if shutdown.run_until(wait).await.is_none() {
            return;
        }
    }
}

async fn sync(config: &Config, caches: &Caches, kernel: &Kernel, prepared: &mut bool) -> Result<(), PodNetworkError> {
    // Without a pod CIDR there is nothing to do until the controller gives the node one, which wakes us.
    let Some(own) = caches
        .node(&config.node_name)
        .map(|n| about(&n))
        .filter(|own| !own.pod_cidrs.is_empty())
    else {
        return Ok(());
    };
    if !*prepared {
        let has = |ipv6| own.pod_cidrs.iter().any(|cidr| cidr.addr().is_ipv6() == ipv6);
        sysctl::prepare(has(false), has(true), &config.conntrack);
        *prepared = true;
    }
    let mut others = caches.nodes.list();
    others.retain(|node| node.name() != config.node_name);
    others.sort_by(|a, b| a.name().cmp(b.name()));
    let peers: Vec<Peer> = others.iter().map(|node| about(node)).map(Peer::from).collect();
    let routes = plan(&peers, &kernel.links().await?, config.network.mode);
    let tunnel = own_end(&own);
    let tunnels = config.network.mode == NetworkMode::Vxlan || routes.values().any(|hop| matches!(hop, Hop::Vxlan(_)));
    if !config.network.cni_conf_dir.as_os_str().is_empty() {
        let mtu = match tunnel.filter(|_| tunnels) {
            Some(own) => kernel
                .mtu_towards(own.node)
                .await?
                .map(|mtu| mtu.saturating_sub(TUNNEL_OVERHEAD)),
            None => None,
        };
        match cni::write(&config.network.cni_conf_dir, &cni::conflist(&own.pod_cidrs, mtu))? {
            Written::Now => tracing::info!(dir = %config.network.cni_conf_dir.display(), "CNI configuration written"),
            Written::Before => (),
            Written::Foreign(path) => tracing::info!(path = %path.display(), "another CNI configuration is in charge"),
        }
    }
    if config.network.mode != NetworkMode::None {
        kernel.apply_routes(&routes, tunnel, config.network.vxlan_port).await?;
    }
    Ok(())
}

/// This node's end of the tunnels.
fn own_end(own: &About) -> Option<Vxlan> {
    let ipv4 = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    };
    let node: Ipv4Addr = own.addresses.iter().find_map(ipv4)?;
    Some(Vxlan {
        node,
        inner: own.pod_cidrs.first()?.network(),
    })
}

impl From<About> for Peer {
    fn from(node: About) -> Self {
        Self {
            addresses: node.addresses,
            pod_cidrs: node.pod_cidrs,
        }
    }
}
