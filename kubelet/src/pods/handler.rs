//! What probes and hooks do: run a command in a container, GET a URL, open a port, ask a gRPC health service, sleep.

use crate::runtime::Runtime;
use api::core::v1::{Container, ExecAction, GRPCAction, HTTPGetAction, TCPSocketAction};
use api::meta::IntOrString;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Upstream reads this much of an answer's body.
const MAX_BODY: usize = 10 << 10;
const USER_AGENT: &str = concat!("kube-probe/", "1.35");

/// A handler that did not succeed; the text is shown in events.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct HandlerError(pub String);

type Result<T> = std::result::Result<T, HandlerError>;

fn failed(error: impl std::fmt::Display) -> HandlerError {
    HandlerError(error.to_string())
}

/// What handlers need to know of a container.
#[derive(Clone)]
pub struct Target {
    /// Where commands run.
    pub runtime: Runtime,
    /// The runtime's container id.
    pub id: String,
    /// The pod's address.
    pub ip: Option<IpAddr>,
    /// The container, for its ports' names.
    pub container: Arc<Container>,
}

impl Target {
    fn port(&self, port: &IntOrString) -> Result<u16> {
        let number = match port {
            IntOrString::Int(number) => Some(*number),
            IntOrString::String(name) => self
                .container
                .ports
                .iter()
                .flatten()
                .find(|port| port.name.as_deref() == Some(name))
                .map(|port| port.container_port)
                .or_else(|| name.parse().ok()),
        };
        let number = number
            .and_then(|number| u16::try_from(number).ok())
            .filter(|number| *number > 0);
        number.ok_or_else(|| HandlerError(format!("invalid port {port:?}")))
    }

    fn host(&self, host: Option<&str>) -> Result<String> {
        match host.filter(|host| !host.is_empty()) {
            Some(host) => Ok(host.to_owned()),
            None => self
                .ip
                .map(|ip| ip.to_string())
                .ok_or_else(|| HandlerError("the pod has no address yet".into())),
        }
    }

    /// Runs a command; its output when it ended with 0.
    pub async fn exec(&self, action: &ExecAction, timeout: Duration) -> Result<String> {
        let command: Vec<String> = action.command.clone().unwrap_or_default();
        let answer = match self.runtime.exec(&self.id, &command, timeout).await {
            Ok(answer) => answer,
            Err(error) if error.is_deadline() => {
                return Err(HandlerError(format!(
                    "command timed out: {command:?} timed out after {}s",
                    timeout.as_secs()
                )));
            }
            Err(error) => return Err(failed(error)),
        };
        let mut output = answer.stdout;
        output.extend(answer.stderr);
        output.truncate(MAX_BODY);
        let output = String::from_utf8_lossy(&output).into_owned();
        if answer.exit_code == 0 {
            Ok(output)
        } else {
            Err(HandlerError(output))
        }
    }

    /// Opens a TCP connection.
    pub async fn tcp(&self, action: &TCPSocketAction, timeout: Duration) -> Result<()> {
        let (host, port) = (self.host(action.host.as_deref())?, self.port(&action.port)?);
        connect(&host, port, timeout).await.map(|_| ())
    }

    /// GETs a URL; the answer's status has to be 200 to 399.
    pub async fn http(&self, action: &HTTPGetAction, timeout: Duration) -> Result<()> {
        let (host, port) = (self.host(action.host.as_deref())?, self.port(&action.port)?);
        let tls = action
            .scheme
            .as_deref()
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
        let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        let headers: Vec<(String, String)> = action
            .http_headers
            .iter()
            .flatten()
            .map(|header| (header.name.clone(), header.value.clone()))
            .collect();
        let get = get(&host, port, tls, &path, &headers);
        let (status, body) = tokio::time::timeout(timeout, get).await.map_err(|_| {
            let scheme = if tls { "https" } else { "http" };
            HandlerError(format!("Get \"{scheme}://{}{path}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)", authority(&host, port)))
        })??;
        if (200..400).contains(&status) {
            return Ok(());
        }
        tracing::debug!(status, body, "an HTTP handler's answer");
        Err(HandlerError(format!("HTTP probe failed with statuscode: {status}")))
    }

    /// Asks `grpc.health.v1.Health/Check`.
    pub async fn grpc(&self, action: &GRPCAction, timeout: Duration) -> Result<()> {
        let host = self.host(None)?;
        let port = self.port(&IntOrString::Int(action.port))?;
        let endpoint =
            tonic::transport::Endpoint::from_shared(format!("http://{}", authority(&host, port))).map_err(failed)?;
        let service = action.service.clone().unwrap_or_default();
        let check = async {
            let channel = endpoint.connect().await.map_err(failed)?;
            let mut grpc = tonic::client::Grpc::new(channel);
            grpc.ready().await.map_err(failed)?;
            let codec = tonic_prost::ProstCodec::<HealthRequest, HealthAnswer>::default();
            let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
            grpc.unary(tonic::Request::new(HealthRequest { service }), path, codec)
                .await
                .map_err(|status| failed(status.message()))
        };
        let limit = tokio::time::timeout(timeout, check).await;
        let answer =
            limit.map_err(|_| HandlerError(format!("timeout: health rpc did not complete within {timeout:?}")))??;
        match answer.into_inner().status {
            1 => Ok(()),
            other => Err(HandlerError(format!("service unhealthy (responded with {other})"))),
        }
    }
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`; 1 is SERVING.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthAnswer {
    #[prost(int32, tag = "1")]
    status: i32,
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

async fn connect(host: &str, port: u16, timeout: Duration) -> Result<TcpStream> {
    let address = authority(host, port);
    match tokio::time::timeout(timeout, TcpStream::connect(&address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(HandlerError(format!("dial tcp {address}: connect: {}", plain(&error)))),
        Err(_) => Err(HandlerError(format!("dial tcp {address}: i/o timeout"))),
    }
}

/// The operating system's words, as Go shows them.
fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        std::io::ErrorKind::HostUnreachable => "no route to host".into(),
        _ => error.to_string(),
    }
}

async fn get(host: &str, port: u16, tls: bool, path: &str, headers: &[(String, String)]) -> Result<(u16, String)> {
    let stream = connect(host, port, Duration::from_secs(3600)).await?;
    if !tls {
        return exchange(TokioIo::new(stream), host, port, path, headers).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(failed)?;
    let stream = connector()?.connect(name, stream).await.map_err(failed)?;
    exchange(TokioIo::new(stream), host, port, path, headers).await
}

async fn exchange<I>(io: I, host: &str, port: u16, path: &str, headers: &[(String, String)]) -> Result<(u16, String)>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(failed)?;
    let driver = tokio::spawn(connection);
    let mut request = http::Request::get(path);
    let own = |name: &str| headers.iter().any(|(header, _)| header.eq_ignore_ascii_case(name));
    if !own("host") {
        request = request.header("Host", authority(host, port));
    }
    if !own("user-agent") {
        request = request.header("User-Agent", USER_AGENT);
    }
    if !own("accept") {
        request = request.header("Accept", "*/*");
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request
        .header("Connection", "close")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(failed)?;
    let answer = sender.send_request(request).await.map_err(failed)?;
    let status = answer.status().as_u16();
    let body = match Limited::new(answer.into_body(), MAX_BODY).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(_) => String::new(),
    };
    driver.abort();
    Ok((status, body))
}

/// TLS that looks at no certificate: as upstream's probes, which check that something answers, not who.
fn connector() -> Result<tokio_rustls::TlsConnector> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(tokio_rustls::TlsConnector::from(Arc::new(config)))
}

#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
