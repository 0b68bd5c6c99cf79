//! Kubeconfig files: the administrator's with everything in it, a component's with paths to its certificate.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The name of the cluster entry's extension that lists every API server.
const SERVERS_EXTENSION: &str = "keelson.dev/servers";

/// A kubeconfig that is complete in itself, from the PEM texts of the authority, the certificate and its key.
pub fn embedded(cluster: &str, servers: &[String], user: &str, authority: &str, certificate: &str, key: &str) -> Value {
    let authority = json!({ "certificate-authority-data": STANDARD.encode(authority) });
    document(
        cluster,
        servers,
        user,
        authority,
        embedded_credentials(certificate, key),
    )
}

/// A user entry of [`embedded`].
pub fn embedded_credentials(certificate: &str, key: &str) -> Value {
    json!({
        "client-certificate-data": STANDARD.encode(certificate),
        "client-key-data": STANDARD.encode(key),
    })
}

/// A kubeconfig that names the files `ca.crt`, `<user>.crt` and `<user>.key` beside it, so that a renewed certificate is taken up.
pub fn referencing(cluster: &str, servers: &[String], user: &str) -> Value {
    let credentials = json!({
        "client-certificate": format!("{user}.crt"),
        "client-key": format!("{user}.key"),
    });
    document(
        cluster,
        servers,
        user,
        json!({ "certificate-authority": "ca.crt" }),
        credentials,
    )
}

fn document(cluster: &str, servers: &[String], user: &str, mut endpoint: Value, credentials: Value) -> Value {
    endpoint["server"] = json!(servers.first());
    if servers.len() > 1 {
        endpoint["extensions"] = json!([{ "name": SERVERS_EXTENSION, "extension": { "servers": servers } }]);
    }
    let context = format!("{user}@{cluster}");
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": cluster, "cluster": endpoint }],
        "users": [{ "name": user, "user": credentials }],
        "contexts": [{ "name": context, "context": { "cluster": cluster, "user": user } }],
        "current-context": context,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_further_servers_in_an_extension() {
        let servers = ["https://a:6443".to_owned(), "https://b:6443".to_owned()];
        let config = embedded("c", &servers, "u", "CA", "CERT", "KEY");
        let cluster = &config["clusters"][0]["cluster"];
        assert_eq!(cluster["server"], "https://a:6443");
        assert_eq!(cluster["extensions"][0]["extension"]["servers"], json!(servers));
        assert_eq!(config["users"][0]["user"]["client-key-data"], "S0VZ");
        assert_eq!(config["current-context"], "u@c");
    }

    #[test]
    fn names_files_and_no_extension_for_one_server() {
        let config = referencing("c", &["https://a:6443".to_owned()], "kubelet");
        assert_eq!(config["users"][0]["user"]["client-key"], "kubelet.key");
        assert!(config["clusters"][0]["cluster"].get("extensions").is_none());
    }
}
