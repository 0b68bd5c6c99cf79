//! A server of somebody else, in this process: an OIDC issuer, a webhook.

use std::convert::Infallible;
use std::sync::Arc;

use ::http::{Request, Response, StatusCode};
use bytes::Bytes;
use daemon::Shutdown;
use daemon::http::Limits;
use daemon::tls::{ClientAuth, ServerTls};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::Pki;

/// Answers with what a function makes of path and body.
pub struct Remote {
    pub dir: tempfile::TempDir,
    pub port: u16,
    shutdown: Shutdown,
}

impl Remote {
    /// Serves `https://localhost:<port>`; its authority is `ca.crt` in `dir`.
    pub fn start(answer: impl Fn(&str, Value) -> (u16, Value) + Send + Sync + 'static) -> Remote {
        let dir = tempfile::tempdir().unwrap();
        let files = Pki::new(dir.path(), "ca").issue("remote", "remotes");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let tls = ServerTls::load(files, ClientAuth::Requested).unwrap();
        let shutdown = Shutdown::new();
        let answer = Arc::new(answer);
        tokio::spawn(daemon::http::serve(
            listener,
            tls.config(&["http/1.1"]).unwrap(),
            Limits::default(),
            shutdown.clone(),
            move |request: Request<Incoming>| {
                let answer = answer.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let body = request
                        .into_body()
                        .collect()
                        .await
                        .map(|b| b.to_bytes())
                        .unwrap_or_default();
                    let (code, value) = answer(&path, serde_json::from_slice(&body).unwrap_or(Value::Null));
                    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
                    *response.status_mut() = StatusCode::from_u16(code).unwrap();
                    Ok::<_, Infallible>(response)
                }
            },
        ));
        Remote { dir, port, shutdown }
    }

    /// `https://localhost:<port>`
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// The authority, PEM.
    pub fn authority(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("ca.crt")).unwrap()
    }

    /// A kubeconfig file of this server.
    pub fn kubeconfig(&self) -> std::path::PathBuf {
        let path = self.dir.path().join("kubeconfig");
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "k", "cluster": {"server": format!("{}/ask", self.url()), "certificate-authority": "ca.crt"}}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": ""}}]});
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.shutdown.request();
    }
}
