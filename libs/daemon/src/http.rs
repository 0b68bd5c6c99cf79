//! HTTPS: one accept loop for every server of the suite, and the admin endpoints (`/livez /readyz /healthz /metrics`) on top of it.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use prometheus::Registry;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::gather::{Gathered, Turns};
use crate::health::Health;
use crate::tls::ServerTls;
use crate::{Shutdown, metrics};

/// Who is on the other end of a connection; every request of it carries this as an extension.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address the connection came from.
    pub address: SocketAddr,
    /// The certificate chain presented in the handshake, leaf first; empty when none was. Not judged yet with `ClientAuth::Requested`.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

/// Bounds on what clients may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; more wait in the kernel's backlog.
    pub connections: usize,
    /// Time for a TLS handshake.
    pub handshake: Duration,
    /// Time until the headers of an HTTP/1 connection's next request are there. Clients keep connections for later and find it out too late
    /// when the server does not: upstream's time for idle connections.
    pub idle: Duration,
    /// HTTP/2 streams at once on one connection.
    pub streams: u32,
    /// Bytes of a request's headers.
    pub headers: u32,
    /// Time for connections to finish after shutdown is asked for; then they are closed.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(90),
            streams: 250,
            headers: 1 << 20,
            drain: Duration::from_secs(10),
        }
    }
}

/// Serves HTTP/1.1 and HTTP/2, chosen by ALPN, until shutdown; then asks connections to leave and waits for them as long as
/// [`Limits::drain`] says. HTTP/1.1 connections may be upgraded.
///
/// `service` is called for each request, which carries a [`Peer`] extension.
///
/// # Errors
/// When the listener cannot be used.
pub async fn serve<S, F, B>(
    listener: std::net::TcpListener,
    tls: Arc<rustls::ServerConfig>,
    limits: Limits,
    shutdown: Shutdown,
    service: S,
) -> std::io::Result<()>
where
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let acceptor = TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    while let Some(slot) = shutdown.run_until(slots.clone().acquire_owned()).await {
        let Some(accepted) = shutdown.run_until(listener.accept()).await else {
            break;
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, or a connection that went before we took it.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (acceptor, service, shutdown) = (acceptor.clone(), service.clone(), shutdown.clone());
        connections.spawn(async move {
            let _slot = slot;
            connection(stream, address, acceptor, limits, shutdown, service).await;
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(limits.drain, connections.wait()).await.is_err() {
        tracing::info!(left = connections.len(), "connections cut after the drain period");
    }
    Ok(())
}

async fn connection<S, F, B>(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    limits: Limits,
    shutdown: Shutdown,
    service: S,
) where
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if let Err(error) = prepare(&stream) {
        return tracing::debug!(%address, %error, "connection lost before it began");
    }
    let stream = match tokio::time::timeout(limits.handshake, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%address, "TLS handshake took too long"),
    };
    let session = stream.get_ref().1;
    let http2 = session.alpn_protocol() == Some(b"h2");
    let certificates = session.peer_certificates().unwrap_or_default().to_vec().into();
    let peer = Peer { address, certificates };
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        service(request)
    });
    let outcome = if http2 {
        let stream = Gathered::new(stream);
        let mut turns = Turns::new(stream.clone());
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(limits.headers)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        let connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        let poll = |connection: Pin<&mut _>, cx: &mut Context<'_>| turns.poll(connection, cx);
        drive(connection, poll, &shutdown, |connection| connection.graceful_shutdown()).await
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(limits.idle)
            .max_buf_size(limits.headers as usize);
        let connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
        drive(connection, Future::poll, &shutdown, |connection| {
            connection.graceful_shutdown()
        })
        .await
    };
    if let Err(error) = outcome {
        tracing::debug!(%address, %error, "connection ended");
    }
}

/// Small answers leave at once, and a peer that is gone without a word is found out.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &30)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &15)?;
    setsockopt(stream, sockopt::TcpKeepCount, &4)?;
    Ok(())
}

/// Runs a connection to its end; on shutdown asks it once to leave.
async fn drive<C, E>(
    mut connection: Pin<&mut C>,
    mut poll: impl FnMut(Pin<&mut C>, &mut Context<'_>) -> Poll<Result<(), E>>,
    shutdown: &Shutdown,
    leave: impl Fn(Pin<&mut C>),
) -> Result<(), E> {
    tokio::select! {
        outcome = poll_fn(|cx| poll(connection.as_mut(), cx)) => return outcome,
        () = shutdown.cancelled() => leave(connection.as_mut()),
    }
    poll_fn(|cx| poll(connection.as_mut(), cx)).await
}

/// The endpoints every daemon has beside its work.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Answers `/livez`, `/readyz`, `/healthz`.
    pub health: Health,
    /// Answers `/metrics`, for clients with a certificate of the client CA.
    pub metrics: Registry,
    /// Judges client certificates.
    pub tls: Arc<ServerTls>,
}

impl Admin {
    /// Serves only these endpoints until shutdown.
    ///
    /// # Errors
    /// When the listener or the TLS configuration cannot be used.
    pub async fn serve(self, listener: std::net::TcpListener, shutdown: Shutdown) -> anyhow::Result<()> {
        let config = self.tls.config(&["h2", "http/1.1"])?;
        self.tls.reload_on_change(shutdown.clone());
        let limits = Limits {
            connections: 256,
            drain: Duration::from_secs(1),
            ..Limits::default()
        };
        let service = move |request: Request<Incoming>| {
            let admin = self.clone();
            async move {
                Ok(admin
                    .answer(&request)
                    .unwrap_or_else(|| text(StatusCode::NOT_FOUND, "404 page not found\n")))
            }
        };
        Ok(serve(listener, config, limits, shutdown, service).await?)
    }

    /// Answers a request for one of the endpoints; `None` for any other path.
    pub fn answer<B>(&self, request: &Request<B>) -> Option<Response<Full<Bytes>>> {
        let path = request.uri().path();
        if path != "/metrics" {
            let (code, body) = self.health.answer(path, request.uri().query().unwrap_or(""))?;
            return Some(text(
                StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                body,
            ));
        }
        if request.method() != Method::GET {
            return Some(text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n"));
        }
        let trusted = request
            .extensions()
            .get::<Peer>()
            .is_some_and(|peer| self.tls.authenticate(&peer.certificates).is_ok());
        if !trusted {
            return Some(text(StatusCode::UNAUTHORIZED, "Unauthorized\n"));
        }
        let mut response = Response::new(Full::from(metrics::render(&self.metrics)));
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static(metrics::CONTENT_TYPE),
        );
        Some(response)
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        header::HeaderValue::from_static("nosniff"),
    );
    response
}
