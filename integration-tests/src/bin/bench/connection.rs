//! A client's connection: HTTP/2 over TLS with a client certificate, as client libraries have one.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::load::Call;

/// Who the client is and whom it trusts.
#[derive(Clone)]
pub struct Credentials(Arc<ClientConfig>);

impl Credentials {
    /// From PEM files.
    ///
    /// # Errors
    /// When one cannot be read or does not fit.
    pub fn load(authority: &Path, certificate: &Path, key: &Path) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority).context("read the authority")?)?;
        let certificate = CertificateDer::from_pem_file(certificate).context("read the client certificate")?;
        let key = PrivateKeyDer::from_pem_file(key).context("read the client key")?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

/// An open connection; clones share it.
#[derive(Clone)]
pub struct Connection {
    requests: SendRequest<Full<Bytes>>,
    authority: String,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens or the handshake fails.
    pub async fn open(address: SocketAddr, credentials: &Credentials) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(address.ip().into());
        let stream = TlsConnector::from(credentials.0.clone()).connect(name, stream).await?;
        let (requests, connection) = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .handshake(TokioIo::new(stream))
            .await?;
        // It ends with the last clone of `requests`; requests that are open then hear of an error themselves.
        tokio::spawn(connection);
        Ok(Self {
            requests,
            authority: address.to_string(),
        })
    }

    /// Sends a request; its body is still to come.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn stream(&self, call: Call) -> Result<(StatusCode, Incoming)> {
        let mut request = Request::new(Full::new(call.body));
        *request.uri_mut() = format!("https://{}{}", self.authority, call.path).parse()?;
        *request.method_mut() = call.method;
        let headers = request.headers_mut();
        headers.insert(header::ACCEPT, HeaderValue::from_str(&call.accept)?);
        headers.insert(header::USER_AGENT, HeaderValue::from_static("bench/1"));
        if !call.content_type.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(call.content_type));
        }
        let mut requests = self.requests.clone();
        requests.ready().await?;
        let (head, body) = requests.send_request(request).await?.into_parts();
        Ok((head.status, body))
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn call(&self, call: Call) -> Result<(StatusCode, Bytes)> {
        let (status, body) = self.stream(call).await?;
        Ok((status, body.collect().await?.to_bytes()))
    }
}
