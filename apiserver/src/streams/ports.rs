//! `portforward`.

use std::sync::Arc;

use api::Error;
use proto::node::node_client::NodeClient;
use proto::node::port_forward_input::Input as ToNode;
use proto::node::port_forward_output::Output as FromNode;
use proto::node::{PortForwardInput, PortForwardOpen, PortForwardOutput};
use streaming::port_forward::{self, Connection, Output};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;

use super::{accept, switch};
use crate::http::State;
use crate::http::body::{Request, Response};
use crate::http::logs::{Located, locate};
use crate::http::request_info::RequestInfo;
use crate::registry::{Access, meta};

/// Messages of a connection on their way to the kubelet.
const QUEUE: usize = 16;

/// Answers `pods/portforward`.
///
/// # Errors
/// See [`super::handle`].
pub async fn handle(
    state: Arc<State>,
    access: Access,
    info: Arc<RequestInfo>,
    mut request: Request,
) -> Result<Response, Error> {
    let ports = ports(info.query.all("ports"))?;
    let accepted = accept(
        request.headers(),
        port_forward::SPDY_PROTOCOLS,
        port_forward::WEBSOCKET_PROTOCOLS,
    )?;
    let Located { pod, client } = locate(&state, &access).await?;
    let phase = pod
        .pointer("/status/phase")
        .and_then(|phase| phase.as_str())
        .unwrap_or("");
    if phase != "Running" {
        return Err(Error::bad_request(format!(
            "unable to forward port because pod is not running. Current status={phase}"
        )));
    }
    let target = PortForwardOpen {
        namespace: access.attributes.namespace.clone(),
        pod: access.attributes.name.clone(),
        pod_uid: meta::text(&pod, "uid").to_owned(),
        port: 0,
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let (transport, protocol) = (accepted.transport, accepted.protocol);
    Ok(switch(state, info, &accepted, upgrade, move |connection| async move {
        let mut connections = match port_forward::serve(connection, transport, protocol, &ports).await {
            Ok(connections) => connections,
            Err(error) => return tracing::debug!(%error, "port forwarding not served"),
        };
        // Connections end with the session: their channels close.
        let running = TaskTracker::new();
        while let Some(connection) = connections.recv().await {
            running.spawn(forward(connection, client.clone(), target.clone()));
        }
        running.close();
        running.wait().await;
    }))
}

/// The ports of `?ports=80&ports=81,82`.
fn ports<'a>(values: impl Iterator<Item = &'a str>) -> Result<Vec<u16>, Error> {
    let texts = values
        .flat_map(|value| value.split(','))
        .filter(|text| !text.is_empty());
    texts
        .map(|text| {
            text.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
                Error::bad_request(format!(
                    "unable to parse {text:?} as a port: expected a number from 1 to 65535"
                ))
            })
        })
        .collect()
}

/// Carries one connection; what goes wrong is told on its error stream.
async fn forward(mut connection: Connection, mut client: NodeClient<Channel>, target: PortForwardOpen) {
    let open = PortForwardOpen {
        port: connection.port.into(),
        ..target
    };
    let (to_node, inputs) = mpsc::channel(QUEUE);
    // The channel is new: there is room.
    let _ = to_node.try_send(PortForwardInput {
        input: Some(ToNode::Open(open)),
    });
    let mut from_node = match client.port_forward(ReceiverStream::new(inputs)).await {
        Ok(called) => called.into_inner(),
        Err(status) => {
            let _ = connection
                .outgoing
                .send(Output::Error(status.message().to_owned()))
                .await;
            return;
        }
    };
    let incoming = async {
        while let Some(data) = connection.incoming.recv().await {
            if to_node
                .send(PortForwardInput {
                    input: Some(ToNode::Data(data)),
                })
                .await
                .is_err()
            {
                return;
            }
        }
        // Half-closed: the pod may still answer.
        let _ = to_node
            .send(PortForwardInput {
                input: Some(ToNode::Closed(true)),
            })
            .await;
        std::future::pending::<()>().await;
    };
    let outgoing = async {
        loop {
            let output = match from_node.message().await {
                Ok(Some(PortForwardOutput { output })) => match output {
                    Some(FromNode::Data(data)) => Output::Data(data),
                    Some(FromNode::Error(text)) => Output::Error(text),
                    Some(FromNode::Accepted(_)) | None => continue,
                },
                Ok(None) => return,
                Err(status) => Output::Error(status.message().to_owned()),
            };
            let last = matches!(output, Output::Error(_));
            if connection.outgoing.send(output).await.is_err() || last {
                return;
            }
        }
    };
    tokio::select! {
        () = incoming => {}
        () = outgoing => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_repeated_or_in_a_list() {
        assert_eq!(ports(["80", "81,82"].into_iter()).unwrap(), [80, 81, 82]);
        assert!(ports(std::iter::empty()).unwrap().is_empty());
        for bad in ["0", "x", "70000"] {
            assert!(ports([bad].into_iter()).is_err(), "{bad}");
        }
    }
}
