//! The cluster's certificates: one authority, one certificate for each component on each node, the service-account key pair; and an authority
//! of its own for the front proxy, as which API servers call extension API servers.
//!
//! Everything lies in one folder: `ca.{crt,key}`, `front-proxy-ca.{crt,key}`, `sa.{key,pub}`, `admin.{crt,key,kubeconfig}`, `prometheus.{crt,key}`, and one folder a node,
//! which holds all that this machine needs: `<component>.{crt,key,kubeconfig}`, a copy of `ca.crt`, and on control planes of `sa.{key,pub}`.
//! Keys are ECDSA P-256 and readable by their owner only. [`ensure`] may be called at any time: it keeps what is still good and
//! issues what is missing, about to expire, signed by another authority or made for other names. It never replaces an
//! authority or a service-account key, because that would cut off every component and token at once.

mod authority;
mod certificate;
mod command;
mod files;
mod folders;
mod plan;

pub use authority::{Authority, Name};
pub use certificate::Certificate;
pub use command::{Command, node_name, run};
pub use files::write_private;
pub use folders::ensure_cluster;
pub use plan::{Cluster, Node, Spec};

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use time::{Duration, OffsetDateTime};

/// A certificate is issued again when less than this is left of it.
pub const RENEW_BEFORE: Duration = Duration::days(30);

/// What can go wrong with a certificate folder; every variant names the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system gives no randomness for a key.
    #[error("the system gives no randomness")]
    NoRandomness,
    /// A file or folder could not be read or written.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// What was tried, as in "read" or "write".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file is there but does not hold what its name says.
    #[error("{}: expected {expected}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What a good file holds.
        expected: &'static str,
    },
    /// One half of a pair that cannot be made anew is missing.
    #[error("{}: missing, while {} exists", missing.display(), present.display())]
    HalfPair {
        /// The file that should be there.
        missing: PathBuf,
        /// The file that is there.
        present: PathBuf,
    },
    /// A kubeconfig is there but cannot be understood.
    #[error("{}: expected a kubeconfig in JSON form", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// The certificate library refused a name or a key.
    #[error("{}: cannot issue the certificate", path.display())]
    Issue {
        /// The certificate to be issued.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
}

/// What [`ensure`] or [`renew`] did with one certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was good and stays as it is.
    Kept,
    /// It was written, with a new key.
    Issued,
}

/// Makes sure that `dir` holds an authority, a service-account key pair and every certificate of `specs`.
pub fn ensure(dir: &Path, specs: &[Spec], now: OffsetDateTime) -> Result<Vec<(PathBuf, Outcome)>, Error> {
    let cluster = Authority::load_or_create(dir, Name::Cluster, now)?;
    let front_proxy = Authority::load_or_create(dir, Name::FrontProxy, now)?;
    authority::ensure_service_account_key(dir)?;
    authority::ensure_encryption_key(dir)?;
    specs
        .iter()
        .map(|spec| match Name::of(&spec.file) {
            Name::Cluster => ensure_one(dir, &cluster, spec, now),
            Name::FrontProxy => ensure_one(dir, &front_proxy, spec, now),
        })
        .collect()
}

fn ensure_one(
    dir: &Path,
    authority: &Authority,
    spec: &Spec,
    now: OffsetDateTime,
) -> Result<(PathBuf, Outcome), Error> {
    let path = dir.join(format!("{}.crt", spec.file));
    let key = path.with_extension("key");
    let good = key.exists()
        && match Certificate::read_optional(&path)? {
            Some(current) => {
                current.spec(&spec.file) == *spec
                    && authority.issued(&current)
                    && current.not_after - now > RENEW_BEFORE
                    && files::holds_key_of(&key, &current)?
            }
            None => false,
        };
    if good {
        return Ok((path, Outcome::Kept));
    }
    authority.issue(dir, spec, now)?;
    Ok((path, Outcome::Issued))
}

/// Issues every certificate in `dir` again, with new keys and the same names. The authority and the service-account key stay.
pub fn renew(dir: &Path, now: OffsetDateTime) -> Result<Vec<PathBuf>, Error> {
    let cluster = Authority::load(dir, Name::Cluster)?;
    let front_proxy = Authority::load_or_create(dir, Name::FrontProxy, now)?;
    let mut renewed = Vec::new();
    for (path, certificate) in list(dir)? {
        if certificate.is_authority {
            continue;
        }
        let file = path.strip_prefix(dir).unwrap_or(&path).with_extension("");
        let file = file.to_string_lossy();
        let authority = match Name::of(&file) {
            Name::Cluster => &cluster,
            Name::FrontProxy => &front_proxy,
        };
        authority.issue(dir, &certificate.spec(&file), now)?;
        renewed.push(path);
    }
    folders::update_admin_kubeconfig(dir)?;
    Ok(renewed)
}

/// Every certificate in `dir` and one level of folders below it, by path; copies of the authority's are left out.
pub fn list(dir: &Path) -> Result<Vec<(PathBuf, Certificate)>, Error> {
    let mut paths = Vec::new();
    for entry in files::entries(dir)? {
        if entry.is_dir() {
            paths.extend(
                files::entries(&entry)?
                    .into_iter()
                    .filter(|path| !path.ends_with("ca.crt") && !path.ends_with("front-proxy-ca.crt")),
            );
        } else {
            paths.push(entry);
        }
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "crt"));
    paths.sort();
    paths
        .into_iter()
        .map(|path| Ok((path.clone(), Certificate::read(&path)?)))
        .collect()
}

/// The first address of a network: what the `kubernetes` service takes of the service network.
pub fn first_address(network: ipnet::IpNet) -> IpAddr {
    network.hosts().next().unwrap_or(network.addr())
}

#[cfg(test)]
mod tests;
