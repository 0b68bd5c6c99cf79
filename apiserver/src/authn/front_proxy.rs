//! The front proxy: a client whose certificate is of its own authority says in headers who is asking. Source:
//! `k8s.io/apiserver/pkg/authentication/request/headerrequest`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use daemon::config::ConfigError;
use http::HeaderMap;
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::impersonate::unescape;
use crate::config::security::AuthenticationSettings;
use crate::registry::access::UserInfo;

/// Which headers say what.
pub struct FrontProxy {
    authority: PathBuf,
    verifier: Mutex<(Option<SystemTime>, Arc<dyn ClientCertVerifier>)>,
    /// Common names of proxies; none means any that the authority signed.
    names: Vec<String>,
    user: Vec<String>,
    uid: Vec<String>,
    group: Vec<String>,
    extra: Vec<String>,
}

fn load(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, ConfigError> {
    let bad = |what: String| ConfigError::Content {
        path: path.to_owned(),
        what,
    };
    let pem = std::fs::read(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let built = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let built = built.map_err(|error| bad(error.to_string()))?;
    Ok(built)
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

impl FrontProxy {
    /// From the settings; `None` without an authority.
    ///
    /// # Errors
    /// When the authority's file cannot be used.
    pub fn new(s: &AuthenticationSettings) -> Result<Option<FrontProxy>, ConfigError> {
        let Some(authority) = s.requestheader_client_ca_file.clone() else {
            return Ok(None);
        };
        let or = |given: &[String], usual: &str| match given {
            [] => vec![usual.to_owned()],
            given => given.iter().map(|name| name.to_ascii_lowercase()).collect(),
        };
        Ok(Some(FrontProxy {
            verifier: Mutex::new((modified(&authority), load(&authority)?)),
            authority,
            names: s.requestheader_allowed_names.clone(),
            user: or(&s.requestheader_username_headers, "x-remote-user"),
            uid: or(&s.requestheader_uid_headers, "x-remote-uid"),
            group: or(&s.requestheader_group_headers, "x-remote-group"),
            extra: or(&s.requestheader_extra_headers_prefix, "x-remote-extra-"),
        }))
    }

    /// Who asks through the proxy; `None` when the client is no proxy or names nobody.
    pub fn authenticate(&self, chain: &[CertificateDer<'static>], headers: &HeaderMap) -> Option<UserInfo> {
        let name = first(headers, &self.user)?;
        let (leaf, intermediates) = chain.split_first()?;
        let verifier = self.verifier();
        if let Err(error) = verifier.verify_client_cert(leaf, intermediates, UnixTime::now()) {
            tracing::debug!(%error, "headers of a front proxy without its certificate");
            return None;
        }
        let identity = daemon::tls::Identity::of(leaf)?;
        if !self.names.is_empty() && !self.names.contains(&identity.user) {
            tracing::info!(
                name = identity.user,
                "a certificate of the front proxies' authority that is not among the allowed names"
            );
            return None;
        }
        Some(UserInfo {
            name,
            uid: first(headers, &self.uid).unwrap_or_default(),
            groups: self.group.iter().flat_map(|header| values(headers, header)).collect(),
            extra: self.extra(headers),
        })
    }

    fn extra(&self, headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
        let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (header, value) in headers {
            let key = self
                .extra
                .iter()
                .find_map(|prefix| header.as_str().strip_prefix(prefix.as_str()));
            if let (Some(key), Ok(value)) = (key, value.to_str()) {
                out.entry(unescape(key)).or_default().push(value.to_owned());
            }
        }
        out
    }

    /// The authority as its file is now; the last good one while the file cannot be used.
    fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        let mut current = self.verifier.lock();
        let now = modified(&self.authority);
        if now != current.0 {
            match load(&self.authority) {
                Ok(fresh) => *current = (now, fresh),
                Err(error) => tracing::warn!(%error, "authority of the front proxies not reloaded"),
            }
        }
        current.1.clone()
    }
}

fn values(headers: &HeaderMap, header: &str) -> Vec<String> {
    let all = headers.get_all(header).iter();
    all.filter_map(|v| v.to_str().ok())
        .filter(|v| !v.is_empty())
        .map(str::to_owned)
        .collect()
}

fn first(headers: &HeaderMap, names: &[String]) -> Option<String> {
    names.iter().find_map(|name| values(headers, name).into_iter().next())
}
