//! Follows the objects that policies are made of, and keeps the kernel as they say.

use std::sync::Arc;
use std::time::Duration;

use api::core::v1::{Namespace, Pod};
use api::networking::v1::NetworkPolicy;
use client::{Cache, Client, Informer, ListParams};
use daemon::Shutdown;
use tokio::sync::Notify;

use super::{PolicySet, plan, reload, update};
use crate::config::Config;
use crate::rules::nft;
use crate::sync::families;

const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Enforces policies until shutdown. What is in the kernel stays.
pub async fn run(config: Arc<Config>, client: Client, shutdown: Shutdown) {
    let changed = Arc::new(Notify::new());
    let policies = follow::<NetworkPolicy>(&client, &changed, &shutdown);
    // Every pod of the cluster on every node is a high price: paid only where there is a policy.
    let mut selected: Option<(Cache<Pod>, Cache<Namespace>)> = None;
    let mut current: Option<PolicySet> = None;
    let mut retry = FIRST_RETRY;
    let wait_for_policies = policies.synced();
    if shutdown.run_until(wait_for_policies).await.is_none() {
        return;
    }
    loop {
        if selected.is_none() && !policies.is_empty() {
            let (pods, namespaces) = (
                follow(&client, &changed, &shutdown),
                follow(&client, &changed, &shutdown),
            );
            let synced = async { tokio::join!(pods.synced(), namespaces.synced()) };
            if shutdown.run_until(synced).await.is_none() {
                return;
            }
            selected = Some((pods, namespaces));
        }
        let wanted = match &selected {
            Some((pods, namespaces)) => plan(&policies.list(), &pods.list(), &namespaces.list(), &config.node_name),
            None => PolicySet::default(),
        };
        let text = match &current {
            Some(current) => update(current, &wanted, &families()),
            None => reload(&wanted, &families(), &config.network.dns_addresses),
        };
        let done = nft(&text).await;
        // After an error the kernel's state is not known: everything is loaded anew.
        current = done.is_ok().then_some(wanted);
        let wait = async {
            match &done {
                Ok(()) => {
                    retry = FIRST_RETRY;
                    changed.notified().await;
                    tokio::time::sleep(config.min_sync_period).await;
                }
                Err(error) => {
                    tracing::error!(
                        error = crate::chain(error),
                        "network policies are not in place, trying again"
                    );
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(config.sync_period.max(FIRST_RETRY));
                }
            }
        };
        if shutdown.run_until(wait).await.is_none() {
            return;
        }
    }
}

fn follow<K: api::Object>(client: &Client, changed: &Arc<Notify>, shutdown: &Shutdown) -> Cache<K> {
    let changed = Arc::clone(changed);
    Informer::<K>::new(client, &ListParams::default())
        .on_event(move |_| changed.notify_one())
        .start(shutdown)
}
