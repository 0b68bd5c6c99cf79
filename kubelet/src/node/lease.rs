//! The node's Lease: the heartbeat that tells node lifecycle that this kubelet lives.

use api::Object as _;
use api::coordination::v1::{Lease, LeaseSpec};
use api::core::v1::Node;
use api::meta::{MicroTime, ObjectMeta};
use client::Client;
use jiff::Timestamp;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Namespace of all node leases.
const NAMESPACE: &str = "kube-node-lease";
/// Between attempts after a failure.
const RETRY: Duration = Duration::from_millis(500);

/// Renews the lease of `node` until `stop`: a quarter of its life apart, as upstream.
pub async fn run(client: Client, node: Node, duration_seconds: i32, stop: CancellationToken) {
    let api = client.api::<Lease>();
    let period = Duration::from_secs(duration_seconds.max(4) as u64 / 4);
    let name = node.name().to_owned();
    let mut known: Option<Lease> = None;
    loop {
        let outcome = match known.take() {
            Some(lease) => api.update(&renewed(lease, &node, duration_seconds)).await,
            None => match api.get(NAMESPACE, &name).await {
                Ok(lease) => api.update(&renewed(lease, &node, duration_seconds)).await,
                Err(error) if error.is_not_found() => api.create(&renewed(fresh(&name), &node, duration_seconds)).await,
                Err(error) => Err(error),
            },
        };
        let pause = match outcome {
            Ok(lease) => {
                known = Some(lease);
                period
            }
            Err(error) => {
                tracing::warn!(%error, "renew the node's lease");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

fn fresh(name: &str) -> Lease {
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(NAMESPACE.to_owned()),
        ..Default::default()
    };
    Lease {
        metadata,
        ..Default::default()
    }
}

fn renewed(mut lease: Lease, node: &Node, duration_seconds: i32) -> Lease {
    // The lease goes with the node.
    if !node.uid().is_empty() {
        let mut owner = node.owner_reference(false);
        owner.controller = None;
        lease.metadata.owner_references = Some(vec![owner]);
    }
    let spec = lease.spec.take().unwrap_or_default();
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(node.name().to_owned()),
        lease_duration_seconds: Some(duration_seconds),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..spec
    });
    lease
}
