//! Port-forward.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use proto::cri;
use proto::node::port_forward_input::Input as FromServer;
use proto::node::port_forward_output::Output as ToServer;
use proto::node::{PortForwardInput, PortForwardOpen, PortForwardOutput};
use streaming::port_forward::{self as streams, Connected};
use streaming::upgrade::connect_spdy;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{QUEUE, chain, first, observe, refused, spawn};
use crate::pods::{Context, Pods};

/// Carries one connection to a port of a pod.
///
/// # Errors
/// When the pod does not run here, or the runtime refuses.
pub async fn port_forward(
    pods: &Arc<Pods>,
    context: &Arc<Context>,
    mut input: Streaming<PortForwardInput>,
) -> Result<BoxStream<'static, Result<PortForwardOutput, Status>>, Status> {
    let PortForwardInput {
        input: Some(FromServer::Open(open)),
    } = first(&mut input).await?
    else {
        return Err(Status::invalid_argument("the first message must open the call"));
    };
    let PortForwardOpen {
        namespace,
        pod,
        pod_uid,
        port,
    } = open;
    let port = u16::try_from(port).ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| Status::invalid_argument("port: expected a number from 1 to 65535"))?;
    let observed = observe(pods, context, &namespace, &pod, &pod_uid).await?;
    let sandbox = observed.sandbox().filter(|sandbox| sandbox.ready);
    let sandbox =
        sandbox.ok_or_else(|| Status::failed_precondition(format!("pod {namespace}/{pod} has no sandbox")))?;
    let request = cri::PortForwardRequest {
        pod_sandbox_id: sandbox.id.clone(),
        port: vec![port.into()],
    };
    let url = context.runtime.port_forward_url(request).await.map_err(refused)?;
    let connection = connect_spdy(&url, streams::SPDY_PROTOCOLS[0]).await;
    let connection = connection.map_err(|error| Status::internal(chain(&error)))?;
    let connected = streams::call(connection, port)
        .await
        .map_err(|error| Status::internal(error.to_string()))?;
    let (replies, received) = mpsc::channel(QUEUE);
    spawn(context, bridge(connected, input, replies));
    Ok(ReceiverStream::new(received)
        .map(|output| Ok(PortForwardOutput { output: Some(output) }))
        .boxed())
}

/// Passes bytes on until the pod or the caller ends; a caller that has sent its last byte still gets the rest.
async fn bridge(connected: Connected, mut input: Streaming<PortForwardInput>, replies: mpsc::Sender<ToServer>) {
    let Connected { data, mut error } = connected;
    if replies.send(ToServer::Accepted(true)).await.is_err() {
        return;
    }
    let (writer, mut reader) = (data.writer, data.reader);
    let inputs = async move {
        while let Ok(Some(PortForwardInput { input: Some(next) })) = input.message().await {
            match next {
                FromServer::Data(data) => {
                    if writer.write(data).await.is_err() {
                        return;
                    }
                }
                FromServer::Closed(_) => {
                    let _ = writer.finish().await;
                    std::future::pending::<()>().await;
                    return;
                }
                FromServer::Open(_) => {}
            }
        }
    };
    let outputs = async {
        while let Some(data) = reader.read().await {
            if replies.send(ToServer::Data(data)).await.is_err() {
                return;
            }
        }
        let mut message = Vec::new();
        while let Some(part) = error.read().await {
            message.extend_from_slice(&part);
        }
        if !message.is_empty() {
            let text = String::from_utf8_lossy(&message).into_owned();
            let _ = replies.send(ToServer::Error(text)).await;
        }
    };
    tokio::select! {
        () = inputs => {}
        () = outputs => {}
    }
}
