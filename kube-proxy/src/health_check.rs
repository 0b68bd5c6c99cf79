//! Health-check node ports: tells external load balancers whether this node has endpoints of a service with external policy Local.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api::Object;
use api::core::v1::Service;
use api::discovery::v1::EndpointSlice;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

const MAX_CONNECTIONS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(5);

/// What one port answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Namespace of the service.
    pub namespace: String,
    /// Name of the service.
    pub name: String,
    /// Its ready endpoints on this node.
    pub local_endpoints: usize,
}

/// The checks that `service` asks for on the node `node`, if any.
pub fn check(service: &Service, slices: &[Arc<EndpointSlice>], node: &str) -> Option<(u16, Check)> {
    let spec = service.spec.as_ref()?;
    let wanted =
        spec.type_.as_deref() == Some("LoadBalancer") && spec.external_traffic_policy.as_deref() == Some("Local");
    let port = spec
        .health_check_node_port
        .and_then(|p| u16::try_from(p).ok())
        .filter(|p| wanted && *p != 0)?;
    let ready = slices.iter().flat_map(|slice| &slice.endpoints).filter(|endpoint| {
        endpoint.node_name.as_deref() == Some(node)
            && endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
    });
    let addresses: std::collections::BTreeSet<_> = ready.filter_map(|e| e.addresses.first()).collect();
    let (namespace, name) = (service.namespace().to_string(), service.name().to_string());
    Some((
        port,
        Check {
            namespace,
            name,
            local_endpoints: addresses.len(),
        },
    ))
}

/// The open ports. Dropping it closes them.
#[derive(Debug, Default)]
pub struct HealthChecks {
    open: BTreeMap<u16, (Arc<Mutex<Check>>, AbortHandle)>,
}

impl Drop for HealthChecks {
    fn drop(&mut self) {
        self.open.values().for_each(|(_, task)| task.abort());
    }
}

impl HealthChecks {
    /// Opens and closes ports so that exactly `wanted` is answered. A port that another program holds is told and tried again next time.
    pub async fn apply(&mut self, wanted: BTreeMap<u16, Check>) {
        self.open.retain(|port, (_, task)| {
            let keep = wanted.contains_key(port);
            if !keep {
                task.abort();
            }
            keep
        });
        for (port, check) in wanted {
            if let Some((current, _)) = self.open.get(&port) {
                *current.lock() = check;
                continue;
            }
            match listen(port).await {
                Ok(listener) => {
                    let check = Arc::new(Mutex::new(check));
                    let task = tokio::spawn(serve(listener, Arc::clone(&check))).abort_handle();
                    self.open.insert(port, (check, task));
                }
                Err(error) => tracing::warn!(port, %error, "health check node port"),
            }
        }
    }
}

/// On all addresses of both families, or of IPv4 where the machine has no other.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    let any = |ip: IpAddr| SocketAddr::new(ip, port);
    match TcpListener::bind(any(Ipv6Addr::UNSPECIFIED.into())).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(error),
        Err(_) => TcpListener::bind(any(Ipv4Addr::UNSPECIFIED.into())).await,
    }
}

async fn serve(listener: TcpListener, check: Arc<Mutex<Check>>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: try again when there may be some.
                tracing::debug!(%error, "accept a health check");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let check = Arc::clone(&check);
        tokio::spawn(async move {
            let service = service_fn(|_: hyper::Request<Incoming>| {
                let answer = answer(&check.lock());
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "health check connection");
            }
            drop(place);
        });
    }
}

fn answer(check: &Check) -> Response<Full<Bytes>> {
    let body = json!({
        "service": { "namespace": check.namespace, "name": check.name },
        "localEndpoints": check.local_endpoints,
        // Whoever can answer is alive; rules that could not be written are retried.
        "serviceProxyHealthy": true,
    });
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = match check.local_endpoints {
        0 => hyper::StatusCode::SERVICE_UNAVAILABLE,
        _ => hyper::StatusCode::OK,
    };
    let headers = response.headers_mut();
    headers.insert(
        "Content-Type",
        hyper::header::HeaderValue::from_static("application/json"),
    );
    headers.insert(
        "X-Content-Type-Options",
        hyper::header::HeaderValue::from_static("nosniff"),
    );
    headers.insert("X-Load-Balancing-Endpoint-Weight", check.local_endpoints.into());
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn service(policy: &str) -> Service {
        let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": policy, "healthCheckNodePort": 32000});
        serde_json::from_value(json!({"metadata": {"namespace": "default", "name": "web"}, "spec": spec})).unwrap()
    }

    #[test]
    fn only_local_ready_endpoints_count() {
        let slice = json!({"metadata": {}, "addressType": "IPv4", "endpoints": [
            {"addresses": ["10.0.0.1"], "nodeName": "n1"},
            {"addresses": ["10.0.0.1"], "nodeName": "n1", "conditions": {"ready": true}},
            {"addresses": ["10.0.0.2"], "nodeName": "n1", "conditions": {"ready": false}},
            {"addresses": ["10.0.0.3"], "nodeName": "n2"}]});
        let slices = [Arc::new(serde_json::from_value(slice).unwrap())];
        let (port, found) = check(&service("Local"), &slices, "n1").unwrap();
        assert_eq!((port, found.local_endpoints), (32000, 1));
        assert_eq!(check(&service("Cluster"), &slices, "n1"), None);
    }

    async fn ask(port: u16) -> std::io::Result<String> {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    #[tokio::test]
    async fn ports_open_change_and_close() {
        let port = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let wanted = |local_endpoints| {
            BTreeMap::from([(
                port,
                Check {
                    namespace: "ns".into(),
                    name: "web".into(),
                    local_endpoints,
                },
            )])
        };
        let mut checks = HealthChecks::default();
        checks.apply(wanted(2)).await;
        let text = ask(port).await.unwrap();
        assert!(
            text.starts_with("HTTP/1.1 200 ") && text.contains("\"localEndpoints\":2"),
            "{text}"
        );
        checks.apply(wanted(0)).await;
        assert!(ask(port).await.unwrap().starts_with("HTTP/1.1 503 "));
        checks.apply(BTreeMap::new()).await;
        while ask(port).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
