//! A server with TLS of this process, called directly and as a Service.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;

use super::*;
use crate::store::{MemoryStore, Op, Txn};

struct Server {
    address: SocketAddr,
    /// base64 of PEM.
    bundle: String,
    connections: Arc<AtomicUsize>,
}

/// Answers each path: `/slow` never, `/large` with 64 kB, `/bad` with 500, the others with the request's protocol.
async fn answer(request: http::Request<Incoming>) -> Result<http::Response<Body>, std::convert::Infallible> {
    let version = format!("{:?} {}", request.version(), request.uri().path());
    Ok(match request.uri().path() {
        "/slow" => std::future::pending().await,
        "/large" => http::Response::new(full(vec![b'x'; 64 << 10])),
        "/bad" => {
            let mut response = http::Response::new(full("boom"));
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
        _ => http::Response::new(full(version)),
    })
}

/// A self-signed certificate that calls itself an authority, as the usual one-liners make them.
async fn serve(name: &str, h2: bool) -> Server {
    let mut params = CertificateParams::new(vec![name.to_owned(), "127.0.0.1".into()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let bundle = STANDARD.encode(certificate.pem());
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    if h2 {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = connections.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, counter) = (acceptor.clone(), counter.clone());
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                counter.fetch_add(1, Ordering::Relaxed);
                let (io, service) = (TokioIo::new(tls), service_fn(answer));
                let _ = if h2 {
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    builder.serve_connection(io, service).await
                } else {
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(io, service)
                        .await
                };
            });
        }
    });
    Server {
        address,
        bundle,
        connections,
    }
}

fn outgoing() -> (Outgoing, Arc<dyn Store>) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(api::codec::set_resource_version));
    (Outgoing::new(store.clone()), store)
}

async fn put(store: &Arc<dyn Store>, group: &str, resource: &str, key: &str, object: Value) {
    let info = api::resources::find(group, "v1", resource).unwrap();
    let put = Op::Put {
        key: key.into(),
        value: api::codec::value_to_proto(info.message, &object).unwrap().into(),
        expires_at: None,
    };
    let txn = Txn {
        conditions: Vec::new(),
        ops: vec![put],
    };
    store.transact(txn).await.unwrap();
}

fn seconds(n: u64) -> Limits {
    Limits::within(Duration::from_secs(n))
}

async fn post(caller: &Caller, limits: Limits) -> Result<String, String> {
    let outcome = caller
        .post("", HeaderMap::new(), Bytes::from_static(b"{}"), limits)
        .await;
    outcome
        .map(|body| String::from_utf8_lossy(&body).into_owned())
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_url_is_called_over_one_connection() {
    for (h2, version) in [(true, "HTTP/2.0 /x"), (false, "HTTP/1.1 /x")] {
        let server = serve("localhost", h2).await;
        let (outgoing, _) = outgoing();
        let config = json!({"url": format!("https://{}/x", server.address), "caBundle": server.bundle});
        let caller = outgoing.caller(&Target::from_client_config(&config).unwrap()).unwrap();
        for _ in 0..3 {
            assert_eq!(post(&caller, seconds(30)).await.as_deref(), Ok(version));
        }
        assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn what_goes_wrong_has_its_words() {
    let server = serve("localhost", false).await;
    let (outgoing, _) = outgoing();
    let other = serve("elsewhere", false).await;
    let caller = |path: &str, bundle: &str| {
        let config = json!({"url": format!("https://{}{path}", server.address), "caBundle": bundle});
        outgoing.caller(&Target::from_client_config(&config).unwrap()).unwrap()
    };
    let url = |path: &str| format!("Post \"https://{}{path}\"", server.address);
    for (path, limits, message) in [
        (
            "/slow",
            Limits::within(Duration::from_millis(50)),
            format!("{}: context deadline exceeded", url("/slow")),
        ),
        (
            "/bad",
            seconds(30),
            "an error on the server (\"boom\") has prevented the request from succeeding".into(),
        ),
        (
            "/large",
            Limits {
                answer: 1024,
                ..seconds(30)
            },
            "the answer is larger than 1024 bytes".into(),
        ),
    ] {
        let refused = post(&caller(path, &server.bundle), limits).await;
        assert_eq!(refused, Err(message));
    }
    assert_eq!(
        post(&caller("/", &other.bundle), seconds(30)).await,
        Err(format!(
            "{}: tls: failed to verify certificate: x509: certificate signed by unknown authority",
            url("/")
        ))
    );
    let closed = json!({"url": "https://127.0.0.1:1/"});
    let caller = outgoing.caller(&Target::from_client_config(&closed).unwrap()).unwrap();
    assert_eq!(
        post(&caller, seconds(30)).await,
        Err("Post \"https://127.0.0.1:1/\": dial tcp 127.0.0.1:1: connect: connection refused".into())
    );
}

#[tokio::test]
async fn a_service_is_reached_through_its_endpoints() {
    let server = serve("hook.default.svc", true).await;
    let (outgoing, store) = outgoing();
    let config = json!({"service": {"namespace": "default", "name": "hook", "path": "/a"}, "caBundle": server.bundle});
    let caller = outgoing.caller(&Target::from_client_config(&config).unwrap()).unwrap();
    let url = "Post \"https://hook.default.svc:443/a\"";
    assert_eq!(
        post(&caller, seconds(30)).await,
        Err(format!("{url}: service \"hook\" not found"))
    );
    let service =
        json!({"metadata": {"name": "hook", "namespace": "default"}, "spec": {"ports": [{"name": "w", "port": 443}]}});
    put(&store, "", "services", "core/services/default/hook", service).await;
    assert_eq!(
        post(&caller, seconds(30)).await,
        Err(format!("{url}: no endpoints available for service \"hook\""))
    );
    let slice = json!({"metadata": {"name": "hook-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "hook"}},
        "addressType": "IPv4", "ports": [{"name": "w", "port": server.address.port()}], "endpoints": [{"addresses": ["127.0.0.1"]}]});
    put(
        &store,
        "discovery.k8s.io",
        "endpointslices",
        "discovery.k8s.io/endpointslices/default/hook-1",
        slice,
    )
    .await;
    assert_eq!(post(&caller, seconds(30)).await.as_deref(), Ok("HTTP/2.0 /a"));
}
