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
use crate::aggregation::config::RequestHeader;
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
    /// With this authority and these headers.
    ///
    /// # Errors
    /// When the authority's file cannot be used.
    pub fn new(config: &RequestHeader) -> Result<FrontProxy, ConfigError> {
        let lower = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect();
        let authority = config.client_ca_file.clone();
        Ok(FrontProxy {
            verifier: Mutex::new((modified(&authority), load(&authority)?)),
            authority,
            names: config.allowed_names.clone(),
            user: lower(&config.username_headers),
            uid: lower(&config.uid_headers),
            group: lower(&config.group_headers),
            extra: lower(&config.extra_prefixes),
        })
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
