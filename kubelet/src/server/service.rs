//! The gRPC Node service: logs, figures, and the kubelet's own pages for the node proxy. Exec, attach and port-forward are in `streams`.

use super::{container_logs, pages, stats};
use crate::pods::{Context, Pods};
use crate::streams;
use daemon::http::Admin;
use futures_util::stream::BoxStream;
use http_body_util::BodyExt as _;
use proto::node;
use proto::node::node_server::Node;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// Serves kube-apiserver.
pub struct NodeService {
    /// This node's pods.
    pub pods: Arc<Pods>,
    /// What their workers share.
    pub context: Arc<Context>,
    /// Health and metrics.
    pub admin: Admin,
}

type Stream<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl Node for NodeService {
    type LogsStream = Stream<node::LogsReply>;

    async fn logs(&self, request: Request<node::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        container_logs::serve(&self.pods, &self.context, request.into_inner())
            .await
            .map(Response::new)
    }

    type ExecStream = Stream<node::ExecOutput>;

    async fn exec(&self, request: Request<Streaming<node::ExecInput>>) -> Result<Response<Self::ExecStream>, Status> {
        streams::exec(&self.pods, &self.context, request.into_inner())
            .await
            .map(Response::new)
    }

    type AttachStream = Stream<node::ExecOutput>;

    async fn attach(
        &self,
        request: Request<Streaming<node::ExecInput>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        streams::attach(&self.pods, &self.context, request.into_inner())
            .await
            .map(Response::new)
    }

    type PortForwardStream = Stream<node::PortForwardOutput>;

    async fn port_forward(
        &self,
        request: Request<Streaming<node::PortForwardInput>>,
    ) -> Result<Response<Self::PortForwardStream>, Status> {
        streams::port_forward(&self.pods, &self.context, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn stats(&self, request: Request<node::StatsRequest>) -> Result<Response<node::StatsReply>, Status> {
        let only_cpu_and_memory = request.into_inner().only_cpu_and_memory;
        let summary = stats::summary(&self.context, only_cpu_and_memory).await;
        let summary = summary.map_err(|error| Status::unavailable(error.to_string()))?;
        let text = serde_json::to_vec(&summary).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(node::StatsReply { summary: text.into() }))
    }

    async fn http_get(&self, request: Request<node::HttpGetRequest>) -> Result<Response<node::HttpGetReply>, Status> {
        let path = request.into_inner().path_and_query;
        let (status, content_type, body) = self.page(&path).await?;
        Ok(Response::new(node::HttpGetReply {
            status,
            content_type,
            body: body.into(),
        }))
    }
}

impl NodeService {
    /// One of the kubelet's own pages: status, content type, body. The caller was let in already.
    pub(super) async fn page(&self, path_and_query: &str) -> Result<(u32, String, Vec<u8>), Status> {
        let bad = |error: http::Error| Status::invalid_argument(error.to_string());
        let path = path_and_query.split('?').next().unwrap_or_default();
        let json = || "application/json".to_owned();
        match path {
            // The caller was authenticated as an API server already, which the admin endpoint would ask for again.
            "/metrics" => {
                let content_type = daemon::metrics::CONTENT_TYPE.to_owned();
                return Ok((200, content_type, daemon::metrics::render(&self.admin.metrics)));
            }
            "/pods" | "/pods/" => {
                let items: Vec<_> = self
                    .pods
                    .list()
                    .iter()
                    .map(|pod| api::Object::to_value(pod.as_ref()))
                    .collect();
                let list = serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
                return Ok((200, json(), list.to_string().into_bytes()));
            }
            "/stats/summary" => {
                let summary = stats::summary(&self.context, path_and_query.contains("only_cpu_and_memory=true")).await;
                let summary = summary.map_err(|error| Status::unavailable(error.to_string()))?;
                return Ok((200, json(), summary.to_string().into_bytes()));
            }
            "/metrics/resource" | "/metrics/cadvisor" => {
                let cadvisor = path == "/metrics/cadvisor";
                let summary = stats::summary(&self.context, !cadvisor).await;
                let summary = summary.map_err(|error| Status::unavailable(error.to_string()))?;
                let text = if cadvisor {
                    pages::cadvisor(&summary)
                } else {
                    pages::resource(&summary)
                };
                return Ok((200, daemon::metrics::CONTENT_TYPE.to_owned(), text.into_bytes()));
            }
            _ => {}
        }
        let request = http::Request::get(path_and_query).body(()).map_err(bad)?;
        let Some(answer) = self.admin.answer(&request) else {
            return Ok((
                404,
                "text/plain; charset=utf-8".into(),
                b"404 page not found\n".to_vec(),
            ));
        };
        let status = u32::from(answer.status().as_u16());
        let body = answer
            .into_body()
            .collect()
            .await
            .map(|body| body.to_bytes().to_vec())
            .unwrap_or_default();
        Ok((status, "text/plain; charset=utf-8".into(), body))
    }
}
