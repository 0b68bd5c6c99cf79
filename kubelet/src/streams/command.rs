//! Exec and attach.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use proto::node::exec_input::Input as FromServer;
use proto::node::exec_output::Output as ToServer;
use proto::node::{ContainerRef, ExecInput, ExecOpen, ExecOutput};
use proto::{cri, node};
use streaming::remote::{self, Called, Input, Options, Output, Size};
use streaming::upgrade::connect_spdy;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{QUEUE, chain, first, refused, running_container, spawn};
use crate::pods::{Context, Pods};

type Replies = BoxStream<'static, Result<node::ExecOutput, Status>>;

/// Runs a command in a container.
///
/// # Errors
/// When the container does not run, or the runtime refuses.
pub async fn exec(
    pods: &Arc<Pods>,
    context: &Arc<Context>,
    mut input: Streaming<ExecInput>,
) -> Result<Replies, Status> {
    let (open, options) = opening(&mut input).await?;
    let id = running_container(pods, context, &open.container.unwrap_or_default()).await?;
    let request = cri::ExecRequest {
        container_id: id,
        cmd: open.command,
        tty: options.tty,
        stdin: options.stdin,
        stdout: options.stdout,
        stderr: options.stderr,
    };
    let url = context.runtime.exec_url(request).await.map_err(refused)?;
    stream(context, &url, options, input).await
}

/// Joins a container's first process.
///
/// # Errors
/// When the container does not run, or the runtime refuses.
pub async fn attach(
    pods: &Arc<Pods>,
    context: &Arc<Context>,
    mut input: Streaming<ExecInput>,
) -> Result<Replies, Status> {
    let (open, asked) = opening(&mut input).await?;
    let container: ContainerRef = open.container.unwrap_or_default();
    let id = running_container(pods, context, &container).await?;
    // The container has a terminal or not, whatever the caller believes.
    let tty = has_terminal(pods, &container);
    let options = Options {
        tty,
        stderr: asked.stderr && !tty,
        ..asked
    };
    let request = cri::AttachRequest {
        container_id: id,
        stdin: options.stdin,
        tty: options.tty,
        stdout: options.stdout,
        stderr: options.stderr,
    };
    let url = context.runtime.attach_url(request).await.map_err(refused)?;
    stream(context, &url, options, input).await
}

fn has_terminal(pods: &Pods, wanted: &ContainerRef) -> bool {
    let pod = pods.find(&wanted.namespace, &wanted.pod);
    let spec = pod.as_ref().and_then(|pod| pod.spec.as_ref());
    let containers = spec
        .into_iter()
        .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    containers
        .into_iter()
        .any(|container| container.name == wanted.container && container.tty == Some(true))
}

async fn opening(input: &mut Streaming<ExecInput>) -> Result<(ExecOpen, Options), Status> {
    let ExecInput {
        input: Some(FromServer::Open(open)),
    } = first(input).await?
    else {
        return Err(Status::invalid_argument("the first message must open the call"));
    };
    let options = Options {
        stdin: open.stdin,
        stdout: open.stdout,
        stderr: open.stderr && !open.tty,
        tty: open.tty,
    };
    Ok((open, options))
}

async fn stream(
    context: &Arc<Context>,
    url: &str,
    options: Options,
    input: Streaming<ExecInput>,
) -> Result<Replies, Status> {
    let connection = connect_spdy(url, remote::SPDY_PROTOCOLS[0]).await;
    let connection = connection.map_err(|error| Status::internal(chain(&error)))?;
    let called = remote::call(connection, options)
        .await
        .map_err(|error| Status::internal(error.to_string()))?;
    let (replies, received) = mpsc::channel(QUEUE);
    spawn(context, bridge(called, input, replies));
    Ok(ReceiverStream::new(received)
        .map(|output| Ok(ExecOutput { output: Some(output) }))
        .boxed())
}

/// Passes messages on until the command or the caller ends.
async fn bridge(called: Called, mut input: Streaming<ExecInput>, replies: mpsc::Sender<ToServer>) {
    let Called { mut incoming, outgoing } = called;
    if replies.send(ToServer::Accepted(true)).await.is_err() {
        return;
    }
    let inputs = async move {
        while let Ok(Some(ExecInput { input: Some(next) })) = input.message().await {
            let next = match next {
                FromServer::Stdin(data) => Input::Stdin(data),
                FromServer::StdinClosed(_) => Input::StdinClosed,
                FromServer::Resize(size) => {
                    let side = |length: u32| u16::try_from(length).unwrap_or(u16::MAX);
                    Input::Resize(Size {
                        width: side(size.width),
                        height: side(size.height),
                    })
                }
                FromServer::Open(_) => continue,
            };
            if outgoing.send(next).await.is_err() {
                // The command is over; its last output is still on its way.
                std::future::pending::<()>().await;
            }
        }
    };
    let outputs = async {
        while let Some(output) = incoming.recv().await {
            let output = match output {
                Output::Stdout(data) => ToServer::Stdout(data),
                Output::Stderr(data) => ToServer::Stderr(data),
                Output::Status(status) => ToServer::Status(status),
            };
            if replies.send(output).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = inputs => {}
        () = outputs => {}
    }
}
