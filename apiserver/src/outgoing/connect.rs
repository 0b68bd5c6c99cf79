//! Connections: to the host of a URL or to a ready endpoint of a Service, with TLS unless the URL says `http`.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::ServiceReference;
use super::resolve::{ResolveError, Resolver};

/// Time for one attempt to connect, and for the handshake.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many addresses of one name are tried.
const ATTEMPTS: usize = 3;

/// Where connections go.
#[derive(Debug, Clone)]
pub(super) enum Route {
    /// To the host that the request names.
    Direct,
    /// To this Service, whatever the request names.
    Service(ServiceReference),
}

/// Why there is no connection.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// The Service or the name leads nowhere.
    #[error("{0}")]
    Resolve(#[from] ResolveError),
    /// Nobody answers at the address.
    #[error("dial tcp {address}: {why}")]
    Dial {
        /// The address.
        address: SocketAddr,
        /// In a word.
        why: String,
    },
    /// The other side is not who it should be, or speaks no TLS.
    #[error("{0}")]
    Tls(String),
}

/// Makes connections for a pool.
#[derive(Clone)]
pub(super) struct Connector {
    route: Route,
    pooled: Arc<ClientConfig>,
    plain: Arc<ClientConfig>,
    resolver: Resolver,
}

impl Connector {
    pub(super) fn new(route: Route, config: Arc<ClientConfig>, resolver: Resolver) -> Self {
        let with = |protocols: &[&str]| {
            let mut config = (*config).clone();
            config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
            Arc::new(config)
        };
        Self {
            route,
            pooled: with(&["h2", "http/1.1"]),
            plain: with(&["http/1.1"]),
            resolver,
        }
    }

    /// A connection for a request to this URI; HTTP/2 only if `offer_h2`.
    pub(super) async fn connect(&self, uri: &Uri, offer_h2: bool) -> Result<Link, ConnectError> {
        let tls = uri.scheme_str() != Some("http");
        let host = uri.host().unwrap_or("").trim_start_matches('[').trim_end_matches(']');
        let addresses = match &self.route {
            Route::Service(service) => self.resolver.service(service).await?,
            Route::Direct => {
                let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
                self.resolver.name(host, port).await?
            }
        };
        let tcp = dial(&addresses).await?;
        if !tls {
            return Ok(Link {
                io: Box::new(tcp),
                h2: false,
            });
        }
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| ConnectError::Tls(format!("tls: {host:?} is no server name")))?;
        let config = if offer_h2 { &self.pooled } else { &self.plain };
        let handshake = TlsConnector::from(config.clone()).connect(name, tcp);
        let stream = match tokio::time::timeout(PATIENCE, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(ConnectError::Tls(handshake_error(&error, host))),
            Err(_) => return Err(ConnectError::Tls("net/http: TLS handshake timeout".into())),
        };
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Link {
            io: Box::new(stream),
            h2,
        })
    }
}

/// The first of the addresses that answers.
async fn dial(addresses: &[SocketAddr]) -> Result<TcpStream, ConnectError> {
    let mut last = ConnectError::Resolve(ResolveError::NoAddress);
    for address in addresses.iter().take(ATTEMPTS) {
        let why = match tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Small requests leave at once.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => dial_error(&error),
            Err(_) => "i/o timeout".to_owned(),
        };
        last = ConnectError::Dial { address: *address, why };
    }
    Err(last)
}

fn dial_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        io::ErrorKind::TimedOut => "connect: connection timed out".into(),
        _ => format!("connect: {error}"),
    }
}

/// The words of upstream's clients for a failed handshake.
fn handshake_error(error: &io::Error, host: &str) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "EOF".into(),
            io::ErrorKind::ConnectionReset => "read: connection reset by peer".into(),
            _ => format!("remote error: {error}"),
        };
    };
    let certificate = |why: String| format!("tls: failed to verify certificate: x509: {why}");
    match tls {
        rustls::Error::InvalidMessage(_) => "http: server gave HTTP response to HTTPS client".into(),
        rustls::Error::InvalidCertificate(error) => match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                certificate("certificate signed by unknown authority".into())
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => {
                certificate("certificate has expired or is not yet valid".into())
            }
            CertificateError::NotValidForName => certificate(format!(
                "certificate is not valid for any names, but wanted to match {host}"
            )),
            CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => certificate(format!(
                "certificate is not valid for any names, but wanted to match {host}"
            )),
            CertificateError::NotValidForNameContext { presented, .. } => {
                certificate(format!("certificate is valid for {}, not {host}", names(presented)))
            }
            other => certificate(other.to_string()),
        },
        other => format!("remote error: tls: {other}"),
    }
}

/// `DnsName("a")` as `a`.
fn names(presented: &[String]) -> String {
    let plain = presented.iter().map(|name| {
        let inner = name
            .split_once('(')
            .map_or(name.as_str(), |(_, rest)| rest.trim_end_matches(')'));
        inner.trim_matches('"').to_owned()
    });
    plain.collect::<Vec<_>>().join(", ")
}

impl tower::Service<Uri> for Connector {
    type Response = Pooled;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<Pooled, ConnectError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let link = connector.connect(&uri, true).await?;
            let h2 = link.h2;
            Ok(Pooled {
                io: TokioIo::new(link),
                h2,
            })
        })
    }
}

/// Bytes both ways.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection, with or without TLS.
pub(super) struct Link {
    io: Box<dyn Stream>,
    h2: bool,
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A connection as the pool wants it.
pub(super) struct Pooled {
    io: TokioIo<Link>,
    h2: bool,
}

impl Connection for Pooled {
    fn connected(&self) -> Connected {
        match self.h2 {
            true => Connected::new().negotiated_h2(),
            false => Connected::new(),
        }
    }
}

impl Read for Pooled {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Pooled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
