//! The proxy subresources of pods and services, for plain requests and for upgrades.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use kube_apiserver::http::body::full;
use kube_apiserver::outgoing::Outgoing;
use kube_apiserver::outgoing::tls::{Identity, Roots, config};
use kube_apiserver::store::MemoryStore;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::{Client, Server, pod};

/// An address of this machine that is not loopback, which proxies refuse. Connecting a datagram socket sends nothing.
fn own_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket
        .local_addr()
        .ok()
        .map(|address| address.ip())
        .filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

/// A server for plain HTTP/1.1 that answers with a page, redirects `/moved`, and echoes after an upgrade.
async fn backend(ip: IpAddr) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let (mut first, mut upgrade) = (String::new(), false);
                loop {
                    let mut line = String::new();
                    if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                        return;
                    }
                    upgrade |= line.to_ascii_lowercase().starts_with("upgrade:");
                    if first.is_empty() {
                        first = line;
                    } else if line.trim().is_empty() {
                        break;
                    }
                }
                let path = first.split(' ').nth(1).unwrap_or("").to_owned();
                let page = format!("<a href=\"/x\">{path}</a>");
                let answer = match path.as_str() {
                    _ if upgrade => {
                        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n".to_owned()
                    }
                    "/moved" => {
                        "HTTP/1.1 302 Found\r\nLocation: /here\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                            .to_owned()
                    }
                    _ => format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
                        page.len()
                    ),
                };
                stream.write_all(answer.as_bytes()).await.unwrap();
                let mut buffer = [0; 64];
                if !upgrade {
                    return;
                }
                loop {
                    match stream.read(&mut buffer).await {
                        Ok(0) | Err(_) => return,
                        Ok(n) => stream.write_all(&buffer[..n]).await.unwrap(),
                    }
                }
            });
        }
    });
    address
}

async fn text(admin: &Client, method: Method, path: &str) -> (StatusCode, http::HeaderMap, String) {
    let response = admin.send(method, path, "", Value::Null).await;
    let (code, headers) = (response.status(), response.headers().clone());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (code, headers, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_is_told() {
    let (server, admin) = Server::start().await;
    let (services, pods) = ("/api/v1/namespaces/default/services", "/api/v1/namespaces/default/pods");
    let account = json!({"metadata": {"name": "default"}});
    admin
        .create("/api/v1/namespaces/default/serviceaccounts", account)
        .await;
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"name": "web", "port": 80}]}});
    assert_eq!(admin.create(services, service).await.0, StatusCode::CREATED);
    assert_eq!(admin.create(pods, pod("p")).await.0, StatusCode::CREATED);
    for (path, code, message) in [
        (format!("{services}/none:80/proxy/"), 404, "services \"none\" not found"),
        (
            format!("{services}/s:web/proxy/"),
            503,
            "no endpoints available for service \"s:web\"",
        ),
        (
            format!("{services}/s:81/proxy/"),
            503,
            "no service port 81 found for service \"s\"",
        ),
        (
            format!("{services}/a:b:c:d/proxy/"),
            400,
            "invalid service request \"a:b:c:d\"",
        ),
        (format!("{pods}/none/proxy/"), 404, "pods \"none\" not found"),
        (format!("{pods}/p/proxy/"), 400, "address not allowed"),
        (format!("{pods}/ftp:p:1/proxy/"), 400, "invalid pod request \"ftp:p:1\""),
        ("/api/v1/nodes/none/proxy/".into(), 404, "nodes \"none\" not found"),
    ] {
        let (got, answer) = admin.get(&path).await;
        assert_eq!(
            (got.as_u16(), answer["message"].as_str().unwrap_or("")),
            (code, message),
            "{path}"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_connections_are_passed_on() {
    let Some(ip) = own_address() else {
        // Without any address besides loopback there is nothing that a proxy may reach.
        return;
    };
    let (server, admin) = Server::start().await;
    let backend = backend(ip).await;
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"name": "web", "port": 80}]}});
    admin.create("/api/v1/namespaces/default/services", service).await;
    let slice = json!({"metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}}, "addressType": "IPv4",
        "ports": [{"name": "web", "port": backend.port(), "protocol": "TCP"}], "endpoints": [{"addresses": [ip.to_string()]}]});
    let (code, made) = admin
        .create("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice)
        .await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    let proxy = "/api/v1/namespaces/default/services/s:80/proxy";

    let (code, headers, _) = text(&admin, Method::GET, &format!("{proxy}?q=1")).await;
    assert_eq!(
        (code, &headers["location"]),
        (StatusCode::MOVED_PERMANENTLY, &format!("{proxy}/?q=1").parse().unwrap())
    );
    for method in [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ] {
        let (code, _, page) = text(&admin, method.clone(), &format!("{proxy}/a%20b/?q=1")).await;
        assert_eq!(
            (code, page.as_str()),
            (
                StatusCode::OK,
                format!("<a href=\"{proxy}/x\">/a%20b/?q=1</a>").as_str()
            ),
            "{method}"
        );
    }
    let (code, headers, _) = text(&admin, Method::GET, &format!("{proxy}/moved")).await;
    assert_eq!(
        (code, &headers["location"]),
        (StatusCode::FOUND, &format!("{proxy}/here").parse().unwrap())
    );

    let files = &admin.files;
    let roots = Roots::Bundle(std::fs::read(&files.ca).unwrap());
    let identity = Identity::from_files(&files.certificate, &files.key).unwrap();
    let outgoing = Outgoing::new(Arc::new(MemoryStore::new(::api::codec::set_resource_version)));
    let caller = outgoing.direct(config(&roots, Some(identity)).unwrap());
    let request = http::Request::get(format!("https://localhost:{}{proxy}/echo", admin.port))
        .header("connection", "Upgrade")
        .header("upgrade", "echo")
        .body(full(""))
        .unwrap();
    let response = caller.send_upgrade(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut connection = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    connection.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    connection.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"ping");
    drop(connection);
    server.stop().await;
}
