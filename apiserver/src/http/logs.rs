//! `pods/log`: asks the kubelet of the pod's node over gRPC and passes on what it streams. Owns the connections to kubelets.

use std::collections::HashMap;

use api::Error;
use futures_util::StreamExt;
use http::StatusCode;
use parking_lot::Mutex;
use proto::node::node_client::NodeClient;
use proto::node::{ContainerRef, LogsReply, LogsRequest};
use serde_json::Value;
use tonic::transport::Channel;

use super::State;
use super::body::{BodyError, Response, TEXT, answer, stream};
use super::request_info::RequestInfo;
use crate::registry::{Access, Registry, find, meta, store_error};
use crate::store::ReadAt;
use crate::store::raft::Connect;

/// Connections to kubelets, made when first needed and kept.
pub struct Nodes {
    connect: Connect,
    channels: Mutex<HashMap<String, Channel>>,
}

impl Nodes {
    /// No connections yet.
    pub fn new(connect: Connect) -> Self {
        Self {
            connect,
            channels: Mutex::default(),
        }
    }

    /// A client for the kubelet at `host:port`.
    ///
    /// # Errors
    /// When the address is none.
    pub fn client(&self, address: &str) -> Result<NodeClient<Channel>, Error> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(NodeClient::new(channel.clone()));
        }
        let channel = (self.connect)(address).map_err(Error::internal)?;
        channels.insert(address.to_owned(), channel.clone());
        Ok(NodeClient::new(channel))
    }
}

/// A pod that runs somewhere, and where.
pub struct Located {
    /// The pod in its storage version.
    pub pod: Value,
    /// A client of its kubelet.
    pub client: NodeClient<Channel>,
}

/// Finds the pod that a request names and its node.
///
/// # Errors
/// 404; 400 when it has no node yet; 500 when the node has no address.
pub async fn locate(state: &State, access: &Access) -> Result<Located, Error> {
    let entry = state.registry.get(access, "").await?;
    let pod = access.kind.stored_value(&entry)?;
    let node = pod
        .pointer("/spec/nodeName")
        .and_then(Value::as_str)
        .unwrap_or("")
        .to_owned();
    if node.is_empty() {
        return Err(Error::bad_request(format!(
            "pod {} does not have a host assigned",
            access.attributes.name
        )));
    }
    let client = state.nodes.client(&node_address(&state.registry, &node).await?)?;
    Ok(Located { pod, client })
}

/// `host:port` of a node's kubelet.
pub async fn node_address(registry: &Registry, name: &str) -> Result<String, Error> {
    let nodes = find("", "v1", "nodes").ok_or_else(Error::no_such_path)?;
    let entry = registry
        .store()
        .get(&nodes.key("", name), ReadAt::Any)
        .await
        .map_err(store_error)?;
    let node = nodes.stored_value(&*entry.ok_or_else(|| Error::not_found(&nodes.group_resource(), name))?)?;
    let addresses = node
        .pointer("/status/addresses")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let of_type = |kind: &str| {
        addresses
            .iter()
            .find(|a| a.get("type").and_then(Value::as_str) == Some(kind))
            .and_then(|a| a.get("address")?.as_str())
    };
    let host = of_type("InternalIP")
        .or_else(|| of_type("Hostname"))
        .ok_or_else(|| Error::internal(format!("no preferred addresses found for node {name:?}")))?;
    let port = node
        .pointer("/status/daemonEndpoints/kubeletEndpoint/Port")
        .and_then(Value::as_i64)
        .unwrap_or(10250);
    Ok(if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    })
}

/// The container a request means: the one it names, or the only one.
///
/// # Errors
/// 400 when that is not clear or there is none of that name.
pub fn container(pod: &Value, wanted: &str) -> Result<String, Error> {
    let name = meta::text(pod, "name");
    let names = |field: &str| -> Vec<String> {
        let list = pod.pointer(&format!("/spec/{field}")).and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .filter_map(|c| c.get("name")?.as_str().map(str::to_owned))
            .collect()
    };
    let (main, init, ephemeral) = (
        names("containers"),
        names("initContainers"),
        names("ephemeralContainers"),
    );
    if wanted.is_empty() {
        let default = pod
            .pointer("/metadata/annotations/kubectl.kubernetes.io~1default-container")
            .and_then(Value::as_str);
        return match (main.as_slice(), default) {
            ([only], _) => Ok(only.clone()),
            (_, Some(default)) if main.iter().any(|n| n == default) => Ok(default.to_owned()),
            _ => {
                let mut why = format!(
                    "a container name must be specified for pod {name}, choose one of: [{}]",
                    main.join(" ")
                );
                if !init.is_empty() {
                    why = format!("{why} or one of the init containers: [{}]", init.join(" "));
                }
                Err(Error::bad_request(why))
            }
        };
    }
    if [&main, &init, &ephemeral].into_iter().flatten().any(|n| n == wanted) {
        return Ok(wanted.to_owned());
    }
    Err(Error::bad_request(format!(
        "container {wanted} is not valid for pod {name}"
    )))
}

/// Answers `pods/log`.
///
/// # Errors
/// As [`locate`] and [`container`]; what the kubelet says.
pub async fn logs(state: &State, access: &Access, info: &RequestInfo) -> Result<Response, Error> {
    let Located { pod, mut client } = locate(state, access).await?;
    let query = &info.query;
    let flag = |name: &str| query.flag(name) == Some(true);
    let request = LogsRequest {
        container: Some(ContainerRef {
            namespace: access.attributes.namespace.clone(),
            pod: access.attributes.name.clone(),
            pod_uid: meta::text(&pod, "uid").to_owned(),
            container: container(&pod, query.get("container"))?,
        }),
        follow: flag("follow"),
        previous: flag("previous"),
        timestamps: flag("timestamps"),
        since_seconds: query.number("sinceSeconds"),
        since_time: query.get("sinceTime").to_owned(),
        tail_lines: query.number("tailLines"),
        limit_bytes: query.number("limitBytes"),
        stream: query.get("stream").to_owned(),
    };
    let node = pod
        .pointer("/spec/nodeName")
        .and_then(Value::as_str)
        .unwrap_or("")
        .to_owned();
    let replies = client
        .logs(request)
        .await
        .map_err(|status| node_error(&node, &status))?
        .into_inner();
    let gauge = state.metrics.long_running(&state.registry, info);
    let chunks = replies.map(move |reply| {
        let _counted = &gauge;
        reply.map(|LogsReply { data }| data).map_err(BodyError::from)
    });
    // Ends with the server as well, or a follower would hold up its stop.
    Ok(answer(
        StatusCode::OK,
        TEXT,
        stream(chunks.take_until(state.shutdown.token().cancelled_owned())),
    ))
}

/// A kubelet's refusal as the API's error.
pub fn node_error(node: &str, status: &tonic::Status) -> Error {
    if !status.details().is_empty()
        && let Ok(error) = Error::decode(status.details())
    {
        return error;
    }
    match status.code() {
        tonic::Code::NotFound => Error {
            code: 404,
            reason: "NotFound".into(),
            message: status.message().to_owned(),
            details: None,
        },
        tonic::Code::InvalidArgument | tonic::Code::FailedPrecondition => Error::bad_request(status.message()),
        _ => Error::internal(format!("kubelet of node {node:?}: {}", status.message())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_is_chosen_only_when_that_is_clear() {
        let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
        let two = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(container(&one, "").unwrap(), "a");
        assert_eq!(container(&two, "i").unwrap(), "i");
        assert_eq!(
            container(&two, "").unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
        );
        assert_eq!(
            container(&two, "x").unwrap_err().message,
            "container x is not valid for pod p"
        );
    }
}
