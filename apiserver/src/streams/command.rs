//! `exec` and `attach`.

use std::sync::Arc;

use api::Error;
use proto::node::exec_input::Input as ToNode;
use proto::node::exec_output::Output as FromNode;
use proto::node::{ContainerRef, ExecInput, ExecOpen, ExecOutput, TerminalSize};
use streaming::remote::{self, Input, Options, Output, Served};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{accept, switch};
use crate::http::State;
use crate::http::body::{Request, Response};
use crate::http::logs::{Located, container, locate, node_error};
use crate::http::query::Query;
use crate::http::request_info::RequestInfo;
use crate::registry::{Access, meta};

/// Messages on their way to the kubelet.
const QUEUE: usize = 16;

/// Answers `pods/exec` and `pods/attach`.
///
/// # Errors
/// See [`super::handle`].
pub async fn handle(
    state: Arc<State>,
    access: Access,
    info: Arc<RequestInfo>,
    mut request: Request,
) -> Result<Response, Error> {
    let exec = access.attributes.subresource == "exec";
    let options = options(&info.query, exec)?;
    let command: Vec<String> = info.query.all("command").map(str::to_owned).collect();
    if exec && command.is_empty() {
        return Err(Error::bad_request("you must specify at least 1 command for exec"));
    }
    let accepted = accept(request.headers(), remote::SPDY_PROTOCOLS, remote::WEBSOCKET_PROTOCOLS)?;
    let Located { pod, mut client } = locate(&state, &access).await?;
    let node = pod
        .pointer("/spec/nodeName")
        .and_then(|name| name.as_str())
        .unwrap_or("")
        .to_owned();
    let open = ExecOpen {
        container: Some(ContainerRef {
            namespace: access.attributes.namespace.clone(),
            pod: access.attributes.name.clone(),
            pod_uid: meta::text(&pod, "uid").to_owned(),
            container: container(&pod, info.query.get("container"))?,
        }),
        command,
        stdin: options.stdin,
        stdout: options.stdout,
        stderr: options.stderr,
        tty: options.tty,
    };
    let (to_node, inputs) = mpsc::channel(QUEUE);
    // The channel is new: there is room.
    let _ = to_node.try_send(ExecInput {
        input: Some(ToNode::Open(open)),
    });
    let inputs = ReceiverStream::new(inputs);
    let called = if exec {
        client.exec(inputs).await
    } else {
        client.attach(inputs).await
    };
    let mut from_node = called.map_err(|status| node_error(&node, &status))?.into_inner();
    // The first message says that the runtime has accepted the call.
    match from_node.message().await.map_err(|status| node_error(&node, &status))? {
        Some(ExecOutput {
            output: Some(FromNode::Accepted(true)),
        }) => {}
        _ => return Err(Error::internal(format!("kubelet of node {node:?} gave up the call"))),
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let (transport, protocol) = (accepted.transport, accepted.protocol);
    Ok(switch(state, info, &accepted, upgrade, move |connection| async move {
        match remote::serve(connection, transport, protocol, options).await {
            Ok(served) => bridge(served, to_node, from_node).await,
            Err(error) => tracing::debug!(%error, "remote command not served"),
        }
    }))
}

/// The streams that a request asks for, with upstream's rules for them.
fn options(query: &Query, exec: bool) -> Result<Options, Error> {
    let flag = |name: &str| query.flag(name) == Some(true);
    let tty = flag("tty");
    let options = Options {
        stdin: flag("stdin"),
        stdout: flag("stdout"),
        // A terminal has but one way out. Clients ask for both, and upstream's kubelet lets them.
        stderr: flag("stderr") && !tty,
        tty,
    };
    if !(options.stdin || options.stdout || options.stderr) {
        let what = if exec { "exec" } else { "attach" };
        return Err(Error::bad_request(format!(
            "you must specify at least 1 of stdin, stdout, stderr for {what}"
        )));
    }
    Ok(options)
}

/// Passes messages on until the command or the client ends.
async fn bridge(mut served: Served, to_node: mpsc::Sender<ExecInput>, mut from_node: Streaming<ExecOutput>) {
    let incoming = async {
        while let Some(input) = served.incoming.recv().await {
            let input = match input {
                Input::Stdin(data) => ToNode::Stdin(data),
                Input::StdinClosed => ToNode::StdinClosed(true),
                Input::Resize(size) => ToNode::Resize(TerminalSize {
                    width: size.width.into(),
                    height: size.height.into(),
                }),
            };
            if to_node.send(ExecInput { input: Some(input) }).await.is_err() {
                return;
            }
        }
    };
    let outgoing = async {
        loop {
            let output = match from_node.message().await {
                Ok(Some(ExecOutput { output })) => match output {
                    Some(FromNode::Stdout(data)) => Output::Stdout(data),
                    Some(FromNode::Stderr(data)) => Output::Stderr(data),
                    Some(FromNode::Status(status)) => Output::Status(status),
                    Some(FromNode::Accepted(_)) | None => continue,
                },
                Ok(None) => return,
                Err(status) => {
                    let error = Error::internal(format!("error executing command: {}", status.message()));
                    Output::Status(error.to_value().to_string().into())
                }
            };
            let last = matches!(output, Output::Status(_));
            if served.outgoing.send(output).await.is_err() || last {
                return;
            }
        }
    };
    tokio::select! {
        () = incoming => {}
        () = outgoing => {}
    }
    // The streaming library sends on what it has when both ends are dropped.
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_chosen_by_upstreams_rules() {
        let of = |query: &str| options(&Query::parse(query), true).map_err(|error| error.message);
        assert_eq!(
            of("stdin=true&stdout=1&tty=true"),
            Ok(Options {
                stdin: true,
                stdout: true,
                stderr: false,
                tty: true
            })
        );
        assert_eq!(
            of("tty=true"),
            Err("you must specify at least 1 of stdin, stdout, stderr for exec".to_owned())
        );
        assert_eq!(of("stdout=1&stderr=true&tty=true"), of("stdout=1&tty=true"));
    }
}
