//! A webhook that allows everything, in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use base64::Engine;
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::process::Certificates;

/// It serves as long as the runtime runs.
pub struct Webhook {
    port: u16,
    authority: String,
    calls: Arc<AtomicUsize>,
}

impl Webhook {
    /// Serves on loopback.
    ///
    /// # Errors
    /// When a certificate cannot be read or no port is to be had.
    pub async fn serve(certificates: &Certificates) -> Result<Self> {
        let acceptor = TlsAcceptor::from(Arc::new(certificates.server()?));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let calls = Arc::new(AtomicUsize::new(0));
        let webhook = Self {
            port: listener.local_addr()?.port(),
            authority: base64::engine::general_purpose::STANDARD.encode(certificates.authority()?),
            calls: calls.clone(),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, calls) = (acceptor.clone(), calls.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service = service_fn(move |request| allow(request, calls.clone()));
                    // A client that leaves is no event.
                    let _ = Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(webhook)
    }

    /// How often it was called.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// The entry of a configuration that has it called for ConfigMaps.
    pub fn configuration(&self, name: &str) -> Value {
        json!({
            "name": format!("{name}.bench.keelson.dev"),
            "clientConfig": {"url": format!("https://127.0.0.1:{}/", self.port), "caBundle": self.authority},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
            "admissionReviewVersions": ["v1"], "sideEffects": "None",
        })
    }
}

async fn allow(request: Request<Incoming>, calls: Arc<AtomicUsize>) -> Result<Response<Full<Bytes>>> {
    let review: Value = serde_json::from_slice(&request.into_body().collect().await?.to_bytes())?;
    calls.fetch_add(1, Ordering::Relaxed);
    let answer = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": {"uid": review["request"]["uid"], "allowed": true},
    });
    let response = Response::builder().header(header::CONTENT_TYPE, "application/json");
    Ok(response.body(Full::new(answer.to_string().into()))?)
}
