//! Plain requests: any headers, with or without a client certificate.

use std::path::Path;

use ::http::response::Parts;
use ::http::{HeaderMap, Method, Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use kube_apiserver::outgoing::tls::{Identity, Roots, config};
use serde_json::Value;

use crate::Server;

/// An answer, read to its end.
pub struct Answer {
    pub code: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    /// `body.message` of a Status.
    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

/// Sends one request on a connection of its own, showing the certificate in these files (`<identity>.crt` and `.key`) if there is one.
pub async fn send(
    server: &Server,
    identity: Option<&Path>,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Value,
) -> Answer {
    let mut headers = headers.to_vec();
    let body = match body {
        Value::Null => Bytes::new(),
        body => {
            headers.push(("content-type", "application/json"));
            body.to_string().into()
        }
    };
    let (parts, bytes) = send_bytes(server, identity, method, path, &headers, body).await;
    Answer {
        code: parts.status,
        headers: parts.headers,
        body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    }
}

/// The same with any body, sent and read as it is.
pub async fn send_bytes(
    server: &Server,
    identity: Option<&Path>,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> (Parts, Bytes) {
    let roots = Roots::Bundle(std::fs::read(server.dir.path().join("ca.crt")).unwrap());
    let identity =
        identity.map(|path| Identity::from_files(&path.with_extension("crt"), &path.with_extension("key")).unwrap());
    let tls = config(&roots, identity).unwrap();
    let tcp = tokio::net::TcpStream::connect(("127.0.0.1", server.port))
        .await
        .unwrap();
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let stream = tokio_rustls::TlsConnector::from(tls).connect(name, tcp).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender
        .send_request(request.body(Full::new(body)).unwrap())
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    (parts, body.collect().await.unwrap().to_bytes())
}

/// A GET with a bearer token.
pub async fn get_with_token(server: &Server, token: &str, path: &str) -> Answer {
    let authorization = format!("Bearer {token}");
    let headers = [("authorization", authorization.as_str())];
    send(server, None, Method::GET, path, &headers, Value::Null).await
}
