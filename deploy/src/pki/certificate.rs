//! What this tool reads from a certificate: its names, its times and its issuer.

use std::net::IpAddr;
use std::path::Path;

use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Error, Spec, files};

/// The parts of an X.509 certificate that decide whether it is still good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The subject's common name: a user, to Kubernetes.
    pub common_name: String,
    /// The subject's organization: a group, to Kubernetes.
    pub organization: Option<String>,
    /// DNS names it may be served under.
    pub dns_names: Vec<String>,
    /// Addresses it may be served under.
    pub addresses: Vec<IpAddr>,
    /// Whether it may sign others.
    pub is_authority: bool,
    /// From when it is valid.
    pub not_before: OffsetDateTime,
    /// Until when it is valid.
    pub not_after: OffsetDateTime,
    /// The subject's public key, as it stands in the certificate.
    pub(super) public_key: Vec<u8>,
    pub(super) der: Vec<u8>,
}

impl Certificate {
    /// The certificate in the PEM file `path`.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Self::parse(&files::read(path)?).ok_or_else(|| Error::Malformed {
            path: path.to_owned(),
            expected: "an X.509 certificate in PEM form",
        })
    }

    /// Like [`Certificate::read`]; nothing when there is no such file.
    pub fn read_optional(path: &Path) -> Result<Option<Self>, Error> {
        if path.exists() {
            Self::read(path).map(Some)
        } else {
            Ok(None)
        }
    }

    fn parse(pem: &str) -> Option<Self> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
        let (_, x509) = X509Certificate::from_der(&pem.contents).ok()?;
        let mut dns_names = Vec::new();
        let mut addresses = Vec::new();
        for name in x509
            .subject_alternative_name()
            .ok()?
            .iter()
            .flat_map(|extension| &extension.value.general_names)
        {
            match name {
                GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => addresses.push(address(bytes)?),
                _ => {}
            }
        }
        let subject = x509.subject();
        Some(Self {
            common_name: subject.iter_common_name().next()?.as_str().ok()?.to_owned(),
            organization: subject
                .iter_organization()
                .next()
                .and_then(|name| name.as_str().ok())
                .map(str::to_owned),
            dns_names,
            addresses,
            is_authority: x509.is_ca(),
            not_before: x509.validity().not_before.to_datetime(),
            not_after: x509.validity().not_after.to_datetime(),
            public_key: x509.public_key().subject_public_key.data.to_vec(),
            der: pem.contents.clone(),
        })
    }

    /// What one would ask for to get this certificate again under the name `file`.
    pub fn spec(&self, file: &str) -> Spec {
        Spec {
            file: file.to_owned(),
            common_name: self.common_name.clone(),
            organization: self.organization.clone(),
            dns_names: self.dns_names.clone(),
            addresses: self.addresses.clone(),
        }
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
