//! The runtime's own news: something began or ended, look at it. Says nothing about what; `relist` finds that out.
//!
//! CRI's GetContainerEvents where it is served (containerd 1.7 and later); else containerd's native event stream on the same socket; else nothing,
//! and the relist is all there is.

use super::Runtime;
use futures_util::StreamExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// `containerd.services.events.v1.SubscribeRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

/// `containerd.services.events.v1.Envelope`, without the event itself.
#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "3")]
    topic: String,
}

const SUBSCRIBE: &str = "/containerd.services.events.v1.Events/Subscribe";
/// Ends and starts of processes in the namespace that CRI uses; images and snapshots are no news for us.
const FILTERS: [&str; 3] = [
    "namespace==k8s.io,topic==/tasks/exit",
    "namespace==k8s.io,topic==/tasks/oom",
    "namespace==k8s.io,topic==/tasks/start",
];

/// Wakes `changed` at every event until `stop`.
pub async fn follow(runtime: Runtime, changed: Arc<Notify>, stop: CancellationToken) {
    let mut cri_served = true;
    while !stop.is_cancelled() {
        if cri_served {
            match runtime.container_events().await {
                Ok(events) => drain(events, &changed, &stop).await,
                Err(error) if error.is_unimplemented() => {
                    cri_served = false;
                    continue;
                }
                Err(error) => tracing::debug!(%error, "container events"),
            }
        } else {
            match subscribe(&runtime).await {
                Ok(events) => drain(events, &changed, &stop).await,
                Err(status) if status.code() == tonic::Code::Unimplemented => {
                    tracing::info!("the runtime serves no events; relisting only");
                    return;
                }
                Err(status) => tracing::debug!(%status, "containerd events"),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = stop.cancelled() => {}
        }
    }
}

async fn subscribe(runtime: &Runtime) -> Result<tonic::Streaming<Envelope>, tonic::Status> {
    let mut grpc = tonic::client::Grpc::new(runtime.channel());
    grpc.ready()
        .await
        .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let request = SubscribeRequest {
        filters: FILTERS.iter().map(|filter| (*filter).to_owned()).collect(),
    };
    let codec = tonic_prost::ProstCodec::<SubscribeRequest, Envelope>::default();
    let path = http::uri::PathAndQuery::from_static(SUBSCRIBE);
    Ok(grpc
        .server_streaming(tonic::Request::new(request), path, codec)
        .await?
        .into_inner())
}

async fn drain<T>(mut events: tonic::Streaming<T>, changed: &Notify, stop: &CancellationToken) {
    // What happened before the stream was there.
    changed.notify_one();
    loop {
        let next = tokio::select! {
            next = events.next() => next,
            () = stop.cancelled() => return,
        };
        match next {
            Some(Ok(_)) => changed.notify_one(),
            Some(Err(status)) => {
                tracing::debug!(%status, "the event stream broke");
                return;
            }
            None => return,
        }
    }
}
