//! Exec, attach and port-forward into pods: gRPC from kube-apiserver, SPDY to the container runtime's streaming server.
//!
//! Nothing is kept: a stream ends with either side. The first answer says that the runtime has accepted the call; what it refuses before
//! is the call's own error.

mod command;
mod ports;

use std::sync::Arc;
use std::time::Duration;

use proto::node;
use tonic::{Status, Streaming};

use crate::pods::{Context, Pods};
use crate::runtime::RuntimeError;
use crate::runtime::model::{Observed, State};

pub use command::{attach, exec};
pub use ports::port_forward;

/// Messages on their way in each direction.
const QUEUE: usize = 16;
/// Time for the caller's first message.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// The first message of a call.
async fn first<T>(input: &mut Streaming<T>) -> Result<T, Status> {
    let first = tokio::time::timeout(OPEN_TIMEOUT, input.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no first message"))??;
    first.ok_or_else(|| Status::invalid_argument("the call ended before its first message"))
}

/// What runs of a pod of this node.
async fn observe(pods: &Pods, context: &Context, namespace: &str, name: &str, uid: &str) -> Result<Observed, Status> {
    let pod = pods
        .find(namespace, name)
        .ok_or_else(|| Status::not_found(format!("pod does not exist: {namespace}/{name}")))?;
    let found = pod.metadata.uid.clone().unwrap_or_default();
    if !uid.is_empty() && uid != found {
        return Err(Status::not_found(format!("pod {namespace}/{name} has another uid")));
    }
    context
        .runtime
        .observe(&found, &Observed::default())
        .await
        .map_err(refused)
}

/// The id of a running container.
async fn running_container(pods: &Pods, context: &Context, wanted: &node::ContainerRef) -> Result<String, Status> {
    let observed = observe(pods, context, &wanted.namespace, &wanted.pod, &wanted.pod_uid).await?;
    let container = observed
        .container(&wanted.container)
        .filter(|container| container.state == State::Running);
    container
        .map(|container| container.id.clone())
        .ok_or_else(|| Status::internal(format!("container not found (\"{}\")", wanted.container)))
}

fn refused(error: RuntimeError) -> Status {
    Status::internal(error.to_string())
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// Runs a task that ends with the kubelet.
fn spawn(context: &Arc<Context>, task: impl Future<Output = ()> + Send + 'static) {
    let stop = context.stop.clone();
    tokio::spawn(async move { stop.run_until_cancelled(task).await });
}
