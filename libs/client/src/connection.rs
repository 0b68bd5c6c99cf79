//! One HTTP/2 connection to one of the API servers, made when it is needed and again when it breaks.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use daemon::Shutdown;
use daemon::config::ConfigError;
use daemon::tls::ClientTls;
use hyper_util::rt::TokioIo;
use proto::cluster::cluster_client::ClusterClient;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::typed::Api;
use crate::{Dynamic, kubeconfig};

/// Time to open a connection to one server before the next one is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that answers no ping within these is dead.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest message to accept: a chunk of a list or a batch of watch events.
const MAX_MESSAGE: usize = 64 << 20;

/// How to reach the API servers.
#[derive(Clone, Debug)]
pub struct Config {
    /// `host:port` of each API server.
    pub servers: Vec<String>,
    /// Certificates to call them with.
    pub tls: Arc<ClientTls>,
    /// Names the component in the API server's log and metrics.
    pub user_agent: String,
}

impl Config {
    /// Takes the current context of a kubeconfig file.
    ///
    /// # Errors
    /// One line that names the file and the key.
    pub fn from_kubeconfig(path: &Path) -> Result<Self, ConfigError> {
        let kubeconfig::Target { servers, tls } = kubeconfig::read(path)?;
        Ok(Self {
            servers,
            tls,
            user_agent: "keelson".to_owned(),
        })
    }

    /// Sets the name that the API server sees.
    pub fn user_agent(mut self, name: &str) -> Self {
        self.user_agent = format!("{name}/v1.35.0+keelson-{}", env!("CARGO_PKG_VERSION"));
        self
    }

    /// Reads the certificates again when their files change, until shutdown.
    pub fn reload_on_change(&self, shutdown: Shutdown) {
        self.tls.reload_on_change(shutdown);
    }
}

/// A client of the API servers. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Client {
    inner: ClusterClient<Channel>,
}

impl Client {
    /// Prepares a client; the connection is made by the first call, and after a failure the next call tries the next server.
    ///
    /// # Errors
    /// When the configuration names no server or is not fit for TLS.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        let usage = |error: &dyn std::fmt::Display| ConfigError::Usage(format!("client configuration: {error}"));
        if config.servers.is_empty() {
            return Err(usage(&"no API server is named"));
        }
        let tls = TlsConnector::from(config.tls.config(&["h2"]).map_err(|error| usage(&error))?);
        // The scheme is of no consequence: the connector below always speaks TLS.
        let endpoint = Endpoint::from_static("http://kube-apiserver")
            .user_agent(config.user_agent)
            .map_err(|error| usage(&error))?
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20);
        let servers = Arc::new(Servers {
            addresses: config.servers,
            next: AtomicUsize::new(0),
        });
        let connector = tower::service_fn(move |_: http::Uri| {
            let (tls, servers) = (tls.clone(), servers.clone());
            async move { servers.connect(&tls).await.map(TokioIo::new) }
        });
        let channel = endpoint.connect_with_connector_lazy(connector);
        let inner = ClusterClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        Ok(Self { inner })
    }

    /// Calls on the objects of one built-in kind.
    pub fn api<K: api::Object>(&self) -> Api<K> {
        Api::new(self.clone())
    }

    /// Calls on the objects of any resource, reading only their metadata.
    pub fn dynamic(&self, resource: &api::GroupVersionResource) -> Dynamic {
        Dynamic::new(self.clone(), resource)
    }

    /// The generated client; a clone is a handle on the same connection.
    pub(crate) fn grpc(&self) -> ClusterClient<Channel> {
        self.inner.clone()
    }
}

struct Servers {
    addresses: Vec<String>,
    next: AtomicUsize,
}

impl Servers {
    /// Tries each server once, beginning with the one that served last.
    async fn connect(&self, tls: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
        let mut last = None;
        for _ in 0..self.addresses.len() {
            let index = self.next.load(Ordering::Relaxed) % self.addresses.len();
            let address = &self.addresses[index];
            let attempt = tokio::time::timeout(CONNECT_TIMEOUT, open(address, tls)).await;
            match attempt.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())) {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    tracing::debug!(%address, %error, "API server not reached");
                    self.next.store(index + 1, Ordering::Relaxed);
                    last = Some(std::io::Error::new(error.kind(), format!("{address}: {error}")));
                }
            }
        }
        Err(last.unwrap_or_else(|| std::io::ErrorKind::NotFound.into()))
    }
}

async fn open(address: &str, tls: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
    let host = address
        .rsplit_once(':')
        .map_or(address, |(host, _)| host)
        .trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    tls.connect(name, tcp).await
}
