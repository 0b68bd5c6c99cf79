//! The cluster's certificate authorities and its service-account signing key.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::files::{read_key, read_optional, write_private};
use super::plan::FRONT_PROXY_CLIENT;
use super::{Certificate, Error, Spec, files};

const AUTHORITY_LIFE: Duration = Duration::days(3650);
const CERTIFICATE_LIFE: Duration = Duration::days(365);
/// Certificates are valid from a little before their making, for machines whose clocks are behind.
const CLOCK_SKEW: Duration = Duration::minutes(5);

/// Which of a cluster's two authorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// Signs the certificates of components and users.
    Cluster,
    /// Signs the certificate with which API servers name a user to extension API servers. Nothing else may be of it, or its holder could be
    /// anybody.
    FrontProxy,
}

impl Name {
    /// The authority that signs this certificate, by its file.
    pub(super) fn of(file: &str) -> Self {
        match file.ends_with(FRONT_PROXY_CLIENT) {
            true => Self::FrontProxy,
            false => Self::Cluster,
        }
    }

    /// Its files, without extension.
    pub(super) fn file(self) -> &'static str {
        match self {
            Self::Cluster => "ca",
            Self::FrontProxy => "front-proxy-ca",
        }
    }

    fn common_name(self) -> &'static str {
        match self {
            Self::Cluster => "kubernetes",
            Self::FrontProxy => "front-proxy-ca",
        }
    }
}

/// An authority that signs certificates of one cluster.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

impl Authority {
    /// The authority in `dir`, made first if there is none.
    pub fn load_or_create(dir: &Path, name: Name, now: OffsetDateTime) -> Result<Self, Error> {
        let certificate = dir.join(format!("{}.crt", name.file()));
        let key = certificate.with_extension("key");
        match (certificate.exists(), key.exists()) {
            (false, false) => Self::create(dir, name, now)?,
            (true, false) => {
                return Err(Error::HalfPair {
                    missing: key,
                    present: certificate,
                });
            }
            (false, true) => {
                return Err(Error::HalfPair {
                    missing: certificate,
                    present: key,
                });
            }
            (true, true) => {}
        }
        Self::load(dir, name)
    }

    /// The authority in `dir`.
    pub fn load(dir: &Path, name: Name) -> Result<Self, Error> {
        let path = dir.join(format!("{}.crt", name.file()));
        let certificate = Certificate::read(&path)?;
        let key = read_key(&path.with_extension("key"))?;
        if !certificate.is_authority || key.public_key_raw() != certificate.public_key {
            return Err(Error::Malformed {
                path,
                expected: "an authority's certificate that belongs to its key",
            });
        }
        let pem = files::read(&path)?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(|source| Error::Issue { path, source })?;
        Ok(Self { issuer, certificate })
    }

    fn create(dir: &Path, name: Name, now: OffsetDateTime) -> Result<(), Error> {
        let path = dir.join(format!("{}.crt", name.file()));
        let issue = |source| Error::Issue {
            path: path.clone(),
            source,
        };
        let key = KeyPair::generate().map_err(issue)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name.common_name());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        params.not_before = now - CLOCK_SKEW;
        params.not_after = now + AUTHORITY_LIFE;
        let certificate = params.self_signed(&key).map_err(issue)?;
        write_private(&path.with_extension("key"), key.serialize_pem().as_bytes())?;
        write_private(&path, certificate.pem().as_bytes())
    }

    /// Whether this authority signed `certificate`.
    pub fn issued(&self, certificate: &Certificate) -> bool {
        let Ok((_, own)) = X509Certificate::from_der(&self.certificate.der) else {
            return false;
        };
        let Ok((_, other)) = X509Certificate::from_der(&certificate.der) else {
            return false;
        };
        other.verify_signature(Some(own.public_key())).is_ok()
    }

    /// Issues `spec` with a new key and writes `<file>.key` and `<file>.crt` under `dir`. Each may serve and be a client: a
    /// component has one certificate for both.
    pub(super) fn issue(&self, dir: &Path, spec: &Spec, now: OffsetDateTime) -> Result<(), Error> {
        let path = dir.join(format!("{}.crt", spec.file));
        let issue = |source| Error::Issue {
            path: path.clone(),
            source,
        };
        let key = KeyPair::generate().map_err(issue)?;
        let params = parameters(spec, now).map_err(issue)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(issue)?;
        write_private(&path.with_extension("key"), key.serialize_pem().as_bytes())?;
        write_private(&path, certificate.pem().as_bytes())
    }
}

fn parameters(spec: &Spec, now: OffsetDateTime) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(organization) = &spec.organization {
        params
            .distinguished_name
            .push(DnType::OrganizationName, organization.as_str());
    }
    params
        .distinguished_name
        .push(DnType::CommonName, spec.common_name.as_str());
    for name in &spec.dns_names {
        params
            .subject_alt_names
            .push(SanType::DnsName(name.as_str().try_into()?));
    }
    params
        .subject_alt_names
        .extend(spec.addresses.iter().copied().map(SanType::IpAddress));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if !params.subject_alt_names.is_empty() {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.use_authority_key_identifier_extension = true;
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + CERTIFICATE_LIFE;
    Ok(params)
}

/// Makes `sa.key` and `sa.pub` in `dir` if they are missing. A lost public half is written again from the private one.
pub(super) fn ensure_service_account_key(dir: &Path) -> Result<(), Error> {
    let (private, public) = (dir.join("sa.key"), dir.join("sa.pub"));
    if read_optional(&private)?.is_none() {
        if public.exists() {
            return Err(Error::HalfPair {
                missing: private,
                present: public,
            });
        }
        let key = KeyPair::generate().map_err(|source| Error::Issue {
            path: private.clone(),
            source,
        })?;
        write_private(&private, key.serialize_pem().as_bytes())?;
    }
    if read_optional(&public)?.is_none() {
        write_private(&public, read_key(&private)?.public_key_pem().as_bytes())?;
    }
    Ok(())
}

/// Makes `encryption.key` in `dir` if it is missing: the key that API servers encrypt Secrets on disk with, 32 bytes in base64. It is never made
/// again: without it what it encrypted is lost.
pub(super) fn ensure_encryption_key(dir: &Path) -> Result<(), Error> {
    let path = dir.join("encryption.key");
    if read_optional(&path)?.is_some() {
        return Ok(());
    }
    let mut key = [0; 32];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut key).map_err(|_| Error::NoRandomness)?;
    write_private(&path, format!("{}\n", STANDARD.encode(key)).as_bytes())
}
