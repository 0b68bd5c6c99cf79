//! Asking a daemon over HTTPS how it is, as the administrator.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use daemon::tls::{ClientTls, TlsFiles};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::cluster::Cluster;

/// One answer may take this long.
const TIMEOUT: Duration = Duration::from_secs(5);
/// And be this large.
const MAX_BODY: usize = 16 << 20;

/// A client with the administrator's certificate.
#[derive(Clone)]
pub struct Probe {
    tls: Arc<rustls::ClientConfig>,
}

impl Probe {
    /// For this cluster.
    pub fn new(cluster: &Cluster) -> Result<Self> {
        let file = |name: &str| cluster.pki().join(name);
        let files = TlsFiles {
            certificate: file("admin.crt"),
            key: file("admin.key"),
            ca: file("ca.crt"),
        };
        Ok(Self {
            tls: ClientTls::load(files)?.config(&["http/1.1"])?,
        })
    }

    /// The answer to a GET request; an error for any status but 200.
    pub async fn get(&self, address: SocketAddr, path: &str) -> Result<Bytes> {
        let (status, body) = timeout(TIMEOUT, self.request(address, path))
            .await
            .map_err(|_| anyhow!("no answer"))??;
        if status != StatusCode::OK {
            return Err(anyhow!("{status}: {}", String::from_utf8_lossy(&body).trim()));
        }
        Ok(body)
    }

    async fn request(&self, address: SocketAddr, path: &str) -> Result<(StatusCode, Bytes)> {
        let stream = TcpStream::connect(address).await?;
        let stream = TlsConnector::from(self.tls.clone())
            .connect(ServerName::from(address.ip()), stream)
            .await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::get(path)
            .header("host", address.to_string())
            .header("accept", "application/json");
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY)
            .collect()
            .await
            .map_err(|e| anyhow!(e))
            .context("read the answer")?;
        connection.abort();
        Ok((status, body.to_bytes()))
    }
}
