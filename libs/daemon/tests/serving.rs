//! A real server on loopback: health for everybody, metrics for the cluster's own certificates, a clean drain.

use std::path::Path;
use std::sync::Arc;

use daemon::Shutdown;
use daemon::health::Health;
use daemon::http::Admin;
use daemon::tls::{ClientAuth, ClientTls, ServerTls, TlsFiles};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Writes a CA and a certificate of it into `dir`.
fn make_files(dir: &Path, name: &str, groups: &str) -> TlsFiles {
    let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let mut leaf = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    leaf.distinguished_name.push(DnType::CommonName, name);
    leaf.distinguished_name.push(DnType::OrganizationName, groups);
    let key = KeyPair::generate().unwrap();
    let certificate = leaf.signed_by(&key, &issuer).unwrap();
    let files = TlsFiles {
        certificate: dir.join(format!("{name}.crt")),
        key: dir.join(format!("{name}.key")),
        ca: dir.join(format!("{name}-ca.crt")),
    };
    std::fs::write(&files.certificate, certificate.pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    std::fs::write(&files.ca, ca_pem).unwrap();
    files
}

async fn get(tls: Arc<rustls::ClientConfig>, port: u16, path: &str) -> String {
    let tcp = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(tls).connect(name, tcp).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn serves_health_to_all_and_metrics_to_trusted_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let files = make_files(dir.path(), "component", "system:components");
    let foreign = make_files(dir.path(), "foreign", "system:masters");
    let tls = ServerTls::load(files.clone(), ClientAuth::Requested).unwrap();
    let shutdown = Shutdown::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let admin = Admin {
        health: Health::new(),
        metrics: daemon::metrics::registry(),
        tls,
    };
    let server = tokio::spawn(admin.serve(listener, shutdown.clone()));

    let ours = ClientTls::load(files.clone()).unwrap().config(&["http/1.1"]).unwrap();
    let theirs = TlsFiles {
        ca: files.ca.clone(),
        ..foreign
    };
    let theirs = ClientTls::load(theirs).unwrap().config(&["http/1.1"]).unwrap();

    let answer = get(theirs.clone(), port, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer}");
    assert!(get(theirs, port, "/metrics").await.starts_with("HTTP/1.1 401"));
    let metrics = get(ours.clone(), port, "/metrics").await;
    assert!(metrics.contains("process_cpu_seconds_total"), "{metrics}");
    assert!(get(ours, port, "/other").await.starts_with("HTTP/1.1 404"));

    shutdown.request();
    server.await.unwrap().unwrap();
    assert!(
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err(),
        "the port is free again"
    );
}

#[test]
fn an_unusable_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let files = make_files(dir.path(), "a", "b");
    let missing = TlsFiles {
        key: dir.path().join("absent.key"),
        ..files.clone()
    };
    assert!(
        ServerTls::load(missing, ClientAuth::Required)
            .unwrap_err()
            .to_string()
            .contains("absent.key")
    );
    std::fs::write(&files.certificate, "not a certificate").unwrap();
    let error = ClientTls::load(files).unwrap_err().to_string();
    assert!(
        error.contains("a.crt: expected a PEM certificate, found none"),
        "{error}"
    );
}
