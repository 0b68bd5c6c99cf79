//! Mutual TLS from PEM files that may change while the process runs.
//!
//! A server asks every client for a certificate. Whether a certificate is *trusted* is decided by [`ServerTls::authenticate`] after the
//! handshake, so that an unknown or expired certificate gets an answer (401) and not a broken connection, as Kubernetes does it; with
//! [`ClientAuth::Required`] the handshake itself decides.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};

use crate::Shutdown;

/// How often the files are looked at for a change.
const RELOAD_PERIOD: Duration = Duration::from_secs(10);

/// Why TLS material was refused; the text names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, unreadable or not PEM of the expected kind.
    #[error("{}: {what}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Certificate and key do not belong together, or a CA is not usable.
    #[error("{}: {source}", path.display())]
    Rejected {
        /// The file.
        path: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
    /// A client's certificate is not to be trusted.
    #[error("client certificate: {0}")]
    Untrusted(String),
}

/// What a client must present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// The handshake fails without a certificate of the client CA.
    Required,
    /// Any certificate or none passes the handshake; [`ServerTls::authenticate`] judges it.
    Requested,
}

/// The user that a client certificate names (CN and O, as Kubernetes reads them).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Common name.
    pub user: String,
    /// Organizations.
    pub groups: Vec<String>,
}

impl Identity {
    /// Reads the subject of a certificate, which the caller has verified; `None` when it cannot be parsed or has no common name.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let subject = parsed.subject();
        let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject
            .iter_organization()
            .filter_map(|o| o.as_str().ok().map(str::to_owned))
            .collect();
        Some(Self { user, groups })
    }

    /// Whether one of the groups is `group`.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(ring::default_provider())).clone()
}

fn file_error(path: &Path, what: impl ToString) -> TlsError {
    TlsError::File {
        path: path.to_owned(),
        what: what.to_string(),
    }
}

fn rejected(path: &Path) -> impl Fn(rustls::Error) -> TlsError + '_ {
    move |source| TlsError::Rejected {
        path: path.to_owned(),
        source,
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| file_error(path, error))
}

/// Reads all certificates of a PEM file.
///
/// # Errors
/// When the file cannot be read or holds no certificate.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    parse_certificates(path, &read(path)?)
}

/// `path` is only for the error's text, here and below.
fn parse_certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| file_error(path, error))?;
    if all.is_empty() {
        return Err(file_error(path, "expected a PEM certificate, found none"));
    }
    Ok(all)
}

fn read_key_pair(files: &TlsFiles) -> Result<Arc<CertifiedKey>, TlsError> {
    parse_key_pair(files, &read(&files.certificate)?, &read(&files.key)?)
}

fn parse_key_pair(files: &TlsFiles, certificate: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = parse_certificates(&files.certificate, certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| file_error(&files.key, error))?;
    let pair = CertifiedKey::from_der(chain, key, &provider()).map_err(rejected(&files.key))?;
    Ok(Arc::new(pair))
}

fn parse_roots(path: &Path, pem: &[u8]) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in parse_certificates(path, pem)? {
        roots.add(certificate).map_err(rejected(path))?;
    }
    Ok(Arc::new(roots))
}

/// The files of one side of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, PEM.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// CA of the other side, PEM.
    pub ca: PathBuf,
}

impl TlsFiles {
    fn modified(&self) -> [Option<std::time::SystemTime>; 3] {
        [&self.certificate, &self.key, &self.ca].map(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok())
    }
}

/// Calls `reload` whenever one of the files changed, until shutdown. A file that cannot be used is told in the log; the last good one stays.
async fn watch_files(files: TlsFiles, shutdown: Shutdown, reload: impl Fn() -> Result<(), TlsError>) {
    let mut seen = files.modified();
    while shutdown.run_until(tokio::time::sleep(RELOAD_PERIOD)).await.is_some() {
        let now = files.modified();
        if now == seen {
            continue;
        }
        match reload() {
            Ok(()) => {
                seen = now;
                tracing::info!(certificate = %files.certificate.display(), "certificates reloaded");
            }
            Err(error) => tracing::warn!(%error, "certificates not reloaded"),
        }
    }
}

/// The serving side.
#[derive(Debug)]
pub struct ServerTls {
    files: TlsFiles,
    pair: ArcSwap<CertifiedKey>,
    clients: ArcSwap<Clients>,
    auth: ClientAuth,
}

#[derive(Debug)]
struct Clients(Arc<dyn ClientCertVerifier>);

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one of them cannot be used; the text names it.
    pub fn load(files: TlsFiles, auth: ClientAuth) -> Result<Arc<Self>, TlsError> {
        let pair = ArcSwap::new(read_key_pair(&files)?);
        let clients = ArcSwap::from_pointee(Self::read_clients(&files.ca)?);
        Ok(Arc::new(Self {
            files,
            pair,
            clients,
            auth,
        }))
    }

    fn read_clients(ca: &Path) -> Result<Clients, TlsError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(parse_roots(ca, &read(ca)?)?, provider())
            .build()
            .map_err(|error| file_error(ca, error))?;
        Ok(Clients(verifier))
    }

    /// Reads the files again when they change, until shutdown. New connections use what is new.
    pub fn reload_on_change(self: &Arc<Self>, shutdown: Shutdown) {
        let this = self.clone();
        tokio::spawn(watch_files(self.files.clone(), shutdown, move || {
            let (pair, clients) = (read_key_pair(&this.files)?, Self::read_clients(&this.files.ca)?);
            this.pair.store(pair);
            this.clients.store(Arc::new(clients));
            Ok(())
        }));
    }

    /// A configuration that follows reloads, offering these ALPN protocols (`h2`, `http/1.1`).
    ///
    /// # Errors
    /// When rustls cannot offer TLS 1.2 and 1.3.
    pub fn config(self: &Arc<Self>, alpn: &[&str]) -> Result<Arc<rustls::ServerConfig>, rustls::Error> {
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(ClientVerifier(self.clone())))
            .with_cert_resolver(Arc::new(CertificateResolver(self.clone())));
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// Judges the certificate chain that a client presented in the handshake, now.
    ///
    /// # Errors
    /// When it is not of the client CA, expired, not yet valid or not meant for clients.
    pub fn authenticate(&self, chain: &[CertificateDer<'_>]) -> Result<Identity, TlsError> {
        let (leaf, intermediates) = chain
            .split_first()
            .ok_or_else(|| TlsError::Untrusted("none was presented".into()))?;
        self.clients
            .load()
            .0
            .verify_client_cert(leaf, intermediates, UnixTime::now())
            .map_err(|error| TlsError::Untrusted(error.to_string()))?;
        Identity::of(leaf).ok_or_else(|| TlsError::Untrusted("its subject has no common name".into()))
    }
}

#[derive(Debug)]
struct CertificateResolver(Arc<ServerTls>);

impl rustls::server::ResolvesServerCert for CertificateResolver {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.pair.load_full())
    }
}

#[derive(Debug)]
struct ClientVerifier(Arc<ServerTls>);

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hint: clients present whatever they have, and a CA may change while we run.
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.auth == ClientAuth::Required
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match self.0.auth {
            ClientAuth::Required => self.0.clients.load().0.verify_client_cert(leaf, intermediates, now),
            ClientAuth::Requested => Ok(ClientCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &provider().signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The calling side.
#[derive(Debug)]
pub struct ClientTls {
    files: TlsFiles,
    pair: ArcSwap<CertifiedKey>,
    servers: ArcSwap<WebPkiServerVerifier>,
}

impl ClientTls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one of them cannot be used; the text names it.
    pub fn load(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let (certificate, key, ca) = (read(&files.certificate)?, read(&files.key)?, read(&files.ca)?);
        Self::from_pem(files, &certificate, &key, &ca)
    }

    /// Takes PEM texts that are already in memory; `files` name them in errors, and are where reloads read.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn from_pem(files: TlsFiles, certificate: &[u8], key: &[u8], ca: &[u8]) -> Result<Arc<Self>, TlsError> {
        let pair = ArcSwap::new(parse_key_pair(&files, certificate, key)?);
        let servers = ArcSwap::new(Self::parse_servers(&files.ca, ca)?);
        Ok(Arc::new(Self { files, pair, servers }))
    }

    fn parse_servers(path: &Path, ca: &[u8]) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
        WebPkiServerVerifier::builder_with_provider(parse_roots(path, ca)?, provider())
            .build()
            .map_err(|error| file_error(path, error))
    }

    /// Reads the files again when they change, until shutdown. New connections use what is new.
    pub fn reload_on_change(self: &Arc<Self>, shutdown: Shutdown) {
        let this = self.clone();
        tokio::spawn(watch_files(self.files.clone(), shutdown, move || {
            let (pair, servers) = (
                read_key_pair(&this.files)?,
                Self::parse_servers(&this.files.ca, &read(&this.files.ca)?)?,
            );
            this.pair.store(pair);
            this.servers.store(servers);
            Ok(())
        }));
    }

    /// A configuration that follows reloads, offering these ALPN protocols.
    ///
    /// # Errors
    /// When rustls cannot offer TLS 1.2 and 1.3.
    pub fn config(self: &Arc<Self>, alpn: &[&str]) -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .dangerous() // Not a weaker check: the same verifier, behind a pointer that reloads swap.
            .with_custom_certificate_verifier(Arc::new(ServerVerifier(self.clone())))
            .with_client_cert_resolver(Arc::new(ClientCertificate(self.clone())));
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }
}

#[derive(Debug)]
struct ClientCertificate(Arc<ClientTls>);

impl rustls::client::ResolvesClientCert for ClientCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.pair.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct ServerVerifier(Arc<ClientTls>);

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0
            .servers
            .load()
            .verify_server_cert(leaf, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .servers
            .load()
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .servers
            .load()
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.servers.load().supported_verify_schemes()
    }
}
