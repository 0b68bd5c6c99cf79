//! `kubectl logs`: which container's log, and the stream of it.

use crate::logs::line::Stream as Output;
use crate::logs::read::{Options, read};
use crate::pods::{Context, Pods};
use crate::runtime::model::{Container as Seen, State};
use api::core::v1::Pod;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use jiff::{SignedDuration, Timestamp};
use proto::node;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::Status;

/// Pieces on their way to a slow reader.
const BUFFERED: usize = 16;

/// Finds the log and starts to stream it.
pub(super) async fn serve(
    pods: &Pods,
    context: &Arc<Context>,
    request: node::LogsRequest,
) -> Result<BoxStream<'static, Result<node::LogsReply, Status>>, Status> {
    let container = request.container.clone().unwrap_or_default();
    let pod = pods
        .find(&container.namespace, &container.pod)
        .ok_or_else(|| Status::not_found(format!("pod {} does not exist", container.pod)))?;
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    if !container.pod_uid.is_empty() && container.pod_uid != uid {
        return Err(Status::not_found(format!("pod {} has another uid", container.pod)));
    }
    let name = container.container.as_str();
    let spec = pod.spec.as_ref();
    let named = spec.is_some_and(|spec| {
        spec.containers.iter().any(|c| c.name == name)
            || spec.init_containers.iter().flatten().any(|c| c.name == name)
            || spec.ephemeral_containers.iter().flatten().any(|c| c.name == name)
    });
    if !named {
        return Err(Status::not_found(format!(
            "container {name} is not valid for pod {}",
            container.pod
        )));
    }
    let observed = context.runtime.observe(&uid, &Default::default()).await;
    let observed = observed.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut all = observed.containers.into_iter().filter(|seen| seen.name == name);
    let newest = all.next();
    let chosen = if request.previous { all.next() } else { newest };
    let seen = chosen.ok_or_else(|| missing(&request, name, &pod))?;
    stream(context.clone(), seen, options(&request)?).await
}

fn missing(request: &node::LogsRequest, name: &str, pod: &Pod) -> Status {
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    if request.previous {
        let text = format!("previous terminated container \"{name}\" in pod \"{pod_name}\" not found");
        return Status::invalid_argument(text);
    }
    let status = pod.status.as_ref();
    let all = status.into_iter().flat_map(|status| {
        [
            &status.container_statuses,
            &status.init_container_statuses,
            &status.ephemeral_container_statuses,
        ]
    });
    let own = all.flatten().flatten().find(|status| status.name == name);
    let reason = own.and_then(|status| status.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
    let why = match reason.unwrap_or("ContainerCreating") {
        "ErrImagePull" => "image can't be pulled",
        "ImagePullBackOff" => "trying and failing to pull image",
        other => other,
    };
    Status::invalid_argument(format!(
        "container \"{name}\" in pod \"{pod_name}\" is waiting to start: {why}"
    ))
}

fn options(request: &node::LogsRequest) -> Result<Options, Status> {
    let since = match (request.since_seconds, request.since_time.as_str()) {
        (Some(seconds), _) => Timestamp::now().checked_sub(SignedDuration::from_secs(seconds)).ok(),
        (None, "") => None,
        (None, text) => {
            let parsed = text.parse::<Timestamp>();
            Some(parsed.map_err(|error| Status::invalid_argument(format!("sinceTime: {error}")))?)
        }
    };
    let number = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
    Ok(Options {
        follow: request.follow,
        timestamps: request.timestamps,
        since,
        tail: number(request.tail_lines),
        limit: number(request.limit_bytes),
        stream: match request.stream.as_str() {
            "" | "All" => None,
            "Stdout" => Some(Output::Stdout),
            "Stderr" => Some(Output::Stderr),
            other => {
                return Err(Status::invalid_argument(format!(
                    "stream {other:?}: expected All, Stdout or Stderr"
                )));
            }
        },
    })
}

async fn stream(
    context: Arc<Context>,
    seen: Seen,
    options: Options,
) -> Result<BoxStream<'static, Result<node::LogsReply, Status>>, Status> {
    let path = PathBuf::from(&seen.log_path);
    if let Err(error) = tokio::fs::metadata(&path).await {
        // A container that never started has no log.
        if seen.state == State::Created || error.kind() == std::io::ErrorKind::NotFound {
            return Ok(futures_util::stream::empty().boxed());
        }
        return Err(Status::internal(error.to_string()));
    }
    let (pieces, received) = mpsc::channel::<Bytes>(BUFFERED);
    tokio::spawn(async move {
        let runtime = context.runtime.clone();
        let id = seen.id.clone();
        let is_running = move || {
            let (runtime, id) = (runtime.clone(), id.clone());
            async move {
                let status = runtime.container_status(&id).await;
                status.is_ok_and(|status| State::from_cri(status.state) == State::Running)
            }
        };
        tokio::select! {
            outcome = read(&path, &options, &pieces, is_running) => {
                if let Err(error) = outcome {
                    tracing::warn!(%error, log = %path.display(), "read log");
                }
            }
            () = context.stop.cancelled() => {}
        }
    });
    let replies = tokio_stream::wrappers::ReceiverStream::new(received).map(|data| Ok(node::LogsReply { data }));
    Ok(replies.boxed())
}
