//! Kubeconfig files: where the API servers are and with which certificates to call them.
//!
//! The suite's daemons use client certificates only. A cluster may name further API servers in the extension `keelson.dev/servers`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use daemon::config::{ConfigError, load};
use daemon::tls::{ClientTls, TlsFiles};
use serde::Deserialize;

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Document {
    clusters: Vec<Named>,
    users: Vec<Named>,
    contexts: Vec<Named>,
    current_context: String,
    #[allow(dead_code, reason = "kubectl writes it")]
    preferences: serde::de::IgnoredAny,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Named {
    name: String,
    cluster: Option<Cluster>,
    user: Option<User>,
    context: Option<Context>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    extensions: Vec<Extension>,
}

#[derive(Deserialize, Clone)]
struct Extension {
    name: String,
    extension: serde_json::Value,
}

#[derive(Deserialize, Default, Clone)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
    #[allow(dead_code, reason = "kubectl writes it")]
    namespace: String,
}

/// What a kubeconfig's current context says.
#[derive(Debug)]
pub struct Target {
    /// Addresses of the API servers, `host:port`.
    pub servers: Vec<String>,
    /// Certificates to call them with.
    pub tls: Arc<ClientTls>,
}

/// Reads the current context of a kubeconfig file.
///
/// # Errors
/// One line that names the file and the key.
pub fn read(path: &Path) -> Result<Target, ConfigError> {
    let document: Document = load(path, "v1", "Config")?;
    let fail = |what: String| ConfigError::Content {
        path: path.to_owned(),
        what,
    };
    let context_name = &document.current_context;
    let context = find(&document.contexts, context_name, |entry| entry.context.clone()).ok_or_else(|| {
        fail(format!(
            "current-context: expected the name of a context, found {context_name:?}"
        ))
    })?;
    let cluster = find(&document.clusters, &context.cluster, |entry| entry.cluster.clone())
        .ok_or_else(|| fail(format!("contexts: cluster {:?} is not in clusters", context.cluster)))?;
    let user = find(&document.users, &context.user, |entry| entry.user.clone())
        .ok_or_else(|| fail(format!("contexts: user {:?} is not in users", context.user)))?;
    let mut servers = Vec::new();
    for url in std::iter::once(cluster.server.clone()).chain(more_servers(&cluster)) {
        let address = address(&url).ok_or_else(|| {
            fail(format!(
                "clusters.cluster.server: expected https://host[:port], found {url:?}"
            ))
        })?;
        if !servers.contains(&address) {
            servers.push(address);
        }
    }
    let material = |key: &str, file: &Option<PathBuf>, data: &Option<String>| material(path, key, file, data);
    let (certificate, certificate_pem) = material(
        "users.user.client-certificate",
        &user.client_certificate,
        &user.client_certificate_data,
    )?;
    let (key, key_pem) = material("users.user.client-key", &user.client_key, &user.client_key_data)?;
    let (ca, ca_pem) = material(
        "clusters.cluster.certificate-authority",
        &cluster.certificate_authority,
        &cluster.certificate_authority_data,
    )?;
    let files = TlsFiles { certificate, key, ca };
    let tls = ClientTls::from_pem(files, &certificate_pem, &key_pem, &ca_pem)
        .map_err(|error| ConfigError::Usage(error.to_string()))?;
    Ok(Target { servers, tls })
}

fn find<T>(list: &[Named], name: &str, pick: impl Fn(&Named) -> Option<T>) -> Option<T> {
    list.iter().find(|entry| entry.name == name).and_then(pick)
}

fn more_servers(cluster: &Cluster) -> Vec<String> {
    cluster
        .extensions
        .iter()
        .filter(|extension| extension.name == "keelson.dev/servers")
        .filter_map(|extension| extension.extension["servers"].as_array())
        .flatten()
        .filter_map(|server| server.as_str().map(str::to_owned))
        .collect()
}

/// `host:port` of an https URL.
fn address(url: &str) -> Option<String> {
    let uri: http::Uri = url.parse().ok()?;
    (uri.scheme_str() == Some("https")).then_some(())?;
    Some(format!("{}:{}", uri.host()?, uri.port_u16().unwrap_or(443)))
}

/// The PEM text of inline data or of a file, and the file's name (the kubeconfig's own for inline data).
fn material(
    kubeconfig: &Path,
    key: &str,
    file: &Option<PathBuf>,
    data: &Option<String>,
) -> Result<(PathBuf, Vec<u8>), ConfigError> {
    use base64::Engine;
    let fail = |what: &str| ConfigError::Content {
        path: kubeconfig.to_owned(),
        what: format!("{key}{what}"),
    };
    match (data, file) {
        (Some(data), _) => {
            let pem = base64::engine::general_purpose::STANDARD
                .decode(data.trim())
                .map_err(|_| fail("-data: expected base64"))?;
            Ok((kubeconfig.to_owned(), pem))
        }
        (None, Some(file)) => {
            let path = kubeconfig.parent().unwrap_or(Path::new(".")).join(file);
            let pem = std::fs::read(&path).map_err(|source| ConfigError::Read {
                path: path.clone(),
                source,
            })?;
            Ok((path, pem))
        }
        (None, None) => Err(fail(": the key is missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_servers() {
        for (url, expected) in [
            ("https://10.0.0.1:6443", Some("10.0.0.1:6443")),
            ("https://api.example", Some("api.example:443")),
            ("https://[::1]:6443", Some("[::1]:6443")),
            ("http://10.0.0.1:6443", None),
            ("10.0.0.1", None),
            ("", None),
        ] {
            assert_eq!(address(url).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn a_refusal_names_file_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        let head = "apiVersion: v1\nkind: Config\n";
        let body = "contexts: [{name: a, context: {cluster: c, user: u}}]\ncurrent-context: a\n";
        for (text, expected) in [
            (
                format!("{head}current-context: x\n"),
                "current-context: expected the name of a context, found \"x\"",
            ),
            (format!("{head}{body}"), "contexts: cluster \"c\" is not in clusters"),
            (
                format!(
                    "{head}{body}clusters: [{{name: c, cluster: {{server: 'ftp://x'}}}}]\nusers: [{{name: u, user: {{}}}}]\n"
                ),
                "clusters.cluster.server: expected https://host[:port], found \"ftp://x\"",
            ),
            (
                format!(
                    "{head}{body}clusters: [{{name: c, cluster: {{server: 'https://x'}}}}]\nusers: [{{name: u, user: {{}}}}]\n"
                ),
                "users.user.client-certificate: the key is missing",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(
                read(&path).unwrap_err().to_string(),
                format!("{}: {expected}", path.display())
            );
        }
    }
}
