//! TLS towards targets: whose certificates are good, and which one we show.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::TargetError;

/// Where Debian keeps the machine's certificate authorities; `SSL_CERT_FILE` overrules it, as for other programs.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Whose certificates are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// The machine's authorities.
    System,
    /// These authorities or servers, PEM.
    Bundle(Vec<u8>),
    /// Anybody's: for what proxies reach, as upstream, and for `insecureSkipTLSVerify`.
    Unchecked,
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(ring::default_provider())).clone()
}

/// The machine's authorities, read once.
fn system() -> Vec<CertificateDer<'static>> {
    static SYSTEM: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();
    let read = || {
        let path = std::env::var_os("SSL_CERT_FILE").map_or_else(|| PathBuf::from(SYSTEM_ROOTS), PathBuf::from);
        let pem = std::fs::read(&path).unwrap_or_default();
        CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect()
    };
    SYSTEM.get_or_init(read).clone()
}

/// A client's configuration, without ALPN protocols.
///
/// # Errors
/// When a bundle holds no certificate.
pub fn config(roots: &Roots, identity: Option<Arc<Identity>>) -> Result<Arc<ClientConfig>, TargetError> {
    let verifier: Arc<dyn ServerCertVerifier> = match roots {
        Roots::Unchecked => Arc::new(Unchecked),
        Roots::System => Arc::new(Checked::new(system())?),
        Roots::Bundle(pem) => {
            let all: Vec<_> = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
            if all.is_empty() {
                return Err(TargetError::Bundle);
            }
            Arc::new(Checked::new(all)?)
        }
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous() // The verifiers are below: webpki's own with one addition, and the one that upstream's proxies have.
        .with_custom_certificate_verifier(verifier);
    Ok(Arc::new(match identity {
        Some(identity) => builder.with_client_cert_resolver(identity),
        None => builder.with_no_client_auth(),
    }))
}

/// The usual check, which also takes a server whose own certificate is in the bundle, authority or not.
#[derive(Debug)]
struct Checked {
    known: Vec<CertificateDer<'static>>,
    chain: Option<Arc<WebPkiServerVerifier>>,
}

impl Checked {
    fn new(known: Vec<CertificateDer<'static>>) -> Result<Self, TargetError> {
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(known.iter().cloned());
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
        let chain = match added {
            // Nobody is trusted; the handshake says so.
            0 => None,
            _ => Some(builder.build().map_err(|error| Error::General(error.to_string()))?),
        };
        Ok(Self { known, chain })
    }

    /// A server's certificate that is itself in the bundle: name and time are left to check.
    fn itself(
        &self,
        leaf: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let valid = parsed.validity();
        if now < valid.not_before.timestamp() || now > valid.not_after.timestamp() {
            return Err(Error::InvalidCertificate(CertificateError::Expired));
        }
        Ok(ServerCertVerified::assertion())
    }
}

impl ServerCertVerifier for Checked {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.known.iter().any(|known| known == leaf) {
            return self.itself(leaf, name, now);
        }
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let Some(chain) = &self.chain else { return Err(unknown) };
        let outcome = chain.verify_server_cert(leaf, intermediates, name, ocsp, now);
        outcome.map_err(|error| match error {
            // webpki's refusal of an authority as a server: one that the bundle does not name.
            Error::InvalidCertificate(CertificateError::Other(_)) => unknown,
            error => error,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Takes any certificate whose key the server holds.
#[derive(Debug)]
struct Unchecked;

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn tls12(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls12_signature(
        message,
        certificate,
        signature,
        &provider().signature_verification_algorithms,
    )
}

fn tls13(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls13_signature(
        message,
        certificate,
        signature,
        &provider().signature_verification_algorithms,
    )
}

/// A client certificate: fixed, or in files that are read again when they change.
#[derive(Debug)]
pub struct Identity {
    files: Option<(PathBuf, PathBuf)>,
    current: Mutex<(Option<SystemTime>, Arc<CertifiedKey>)>,
}

impl Identity {
    /// From PEM texts.
    ///
    /// # Errors
    /// When they hold no certificate or key, or do not belong together.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Arc<Self>, TargetError> {
        Ok(Arc::new(Self {
            files: None,
            current: Mutex::new((None, parse(certificate, key)?)),
        }))
    }

    /// From PEM files, which are looked at before each connection.
    ///
    /// # Errors
    /// When they cannot be used; the text names the file.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Arc<Self>, TargetError> {
        let pair = load(certificate, key)?;
        Ok(Arc::new(Self {
            files: Some((certificate.to_owned(), key.to_owned())),
            current: Mutex::new((modified(certificate), pair)),
        }))
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

fn load(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, TargetError> {
    let read =
        |path: &Path| std::fs::read(path).map_err(|error| Error::General(format!("{}: {error}", path.display())));
    parse(&read(certificate)?, &read(key)?)
}

fn parse(certificate: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, TargetError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
        .filter_map(Result::ok)
        .collect();
    if chain.is_empty() {
        return Err(Error::General("expected a PEM certificate, found none".into()).into());
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| Error::General(error.to_string()))?;
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &provider())?))
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let mut current = self.current.lock();
        if let Some((certificate, key)) = &self.files {
            let now = modified(certificate);
            if now != current.0 {
                match load(certificate, key) {
                    Ok(pair) => *current = (now, pair),
                    Err(error) => tracing::warn!(%error, "client certificate not reloaded"),
                }
            }
        }
        Some(current.1.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
