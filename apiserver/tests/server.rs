//! A whole server in this process, on a memory store, asked over real TLS: REST verbs and their errors, watches, gRPC, certificates.

#[path = "api/mod.rs"]
mod cases;

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use daemon::Shutdown;
use daemon::tls::{ClientTls, TlsFiles};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use kube_apiserver::config::{Config, Settings, Storage};
use kube_apiserver::store::raft::tls_channels;
use proto::cluster::cluster_client::ClusterClient;
use proto::cluster::{BindRequest, Binding, GetRequest, ListRequest, Resource, WatchRequest};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

/// One certificate authority and what it has signed, in a folder.
struct Pki<'a> {
    dir: &'a Path,
    issuer: Issuer<'static, KeyPair>,
}

impl<'a> Pki<'a> {
    fn new(dir: &'a Path, name: &str) -> Self {
        let ca = Self::params(name);
        let key = KeyPair::generate().unwrap();
        std::fs::write(dir.join(format!("{name}.crt")), ca.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        Self {
            dir,
            issuer: Issuer::new(ca, key),
        }
    }

    /// The authority `ca` that is in the folder already.
    fn again(dir: &'a Path) -> Self {
        let key = KeyPair::from_pem(&std::fs::read_to_string(dir.join("ca.key")).unwrap()).unwrap();
        Self {
            dir,
            issuer: Issuer::new(Self::params("ca"), key),
        }
    }

    fn params(name: &str) -> CertificateParams {
        let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, name);
        ca
    }

    /// A certificate; its files trust the CA named `ca`.
    fn issue(&self, name: &str, group: &str) -> TlsFiles {
        let mut leaf = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        leaf.distinguished_name.push(DnType::CommonName, name);
        leaf.distinguished_name.push(DnType::OrganizationName, group);
        let key = KeyPair::generate().unwrap();
        let (certificate, path) = (leaf.signed_by(&key, &self.issuer).unwrap(), self.dir.join(name));
        let files = TlsFiles {
            certificate: path.with_extension("crt"),
            key: path.with_extension("key"),
            ca: self.dir.join("ca.crt"),
        };
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}

struct Server {
    dir: tempfile::TempDir,
    port: u16,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

/// Who asks.
struct Client {
    files: TlsFiles,
    port: u16,
}

impl Server {
    async fn start() -> (Self, Client) {
        Self::start_with(|_, _| {}).await
    }

    /// A server with further settings; `set` may write files into the folder that it is given.
    async fn start_with(set: impl FnOnce(&Path, &mut Settings)) -> (Self, Client) {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path(), "ca");
        let (serving, admin) = (
            pki.issue("kube-apiserver", "keelson:apiservers"),
            pki.issue("admin", "system:masters"),
        );
        pki.issue("bob", "dev");
        let signing = dir.path().join("sa.key");
        std::fs::write(&signing, KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut settings = Settings {
            secure_port: Some(port),
            tls_cert_file: Some(serving.certificate),
            tls_private_key_file: Some(serving.key),
            client_ca_file: Some(serving.ca),
            service_account_signing_key_file: Some(signing),
            ..Settings::default()
        };
        set(dir.path(), &mut settings);
        let mut config = Config::from_settings(settings).unwrap();
        config.storage = Storage::Memory;
        let shutdown = Shutdown::new();
        let task = tokio::spawn(kube_apiserver::run(config, listener, shutdown.clone()));
        let client = Client { files: admin, port };
        let patience = Instant::now() + Duration::from_secs(60);
        while client.call(Method::GET, "/readyz", "", Value::Null).await.0 != StatusCode::OK {
            assert!(Instant::now() < patience, "the server does not become ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        (
            Self {
                dir,
                port,
                shutdown,
                task,
            },
            client,
        )
    }

    /// A client with the certificate of that name.
    fn client(&self, name: &str) -> Client {
        let path = self.dir.path().join(name);
        let files = TlsFiles {
            certificate: path.with_extension("crt"),
            key: path.with_extension("key"),
            ca: self.dir.path().join("ca.crt"),
        };
        Client { files, port: self.port }
    }

    async fn stop(self) {
        self.shutdown.request();
        self.task.await.unwrap().unwrap();
    }
}

impl Client {
    async fn send(&self, method: Method, path: &str, content_type: &str, body: Value) -> http::Response<Incoming> {
        self.send_with(method, path, &[("content-type", content_type)], body)
            .await
    }

    async fn send_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> http::Response<Incoming> {
        let tls = ClientTls::load(self.files.clone())
            .unwrap()
            .config(&["http/1.1"])
            .unwrap();
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
        let stream = tokio_rustls::TlsConnector::from(tls).connect(name, tcp).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let body = if body.is_null() {
            Bytes::new()
        } else {
            Bytes::from(body.to_string())
        };
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        sender
            .send_request(request.body(Full::new(body)).unwrap())
            .await
            .unwrap()
    }

    async fn call(&self, method: Method, path: &str, content_type: &str, body: Value) -> (StatusCode, Value) {
        let response = self.send(method, path, content_type, body).await;
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.call(Method::GET, path, "", Value::Null).await
    }

    async fn create(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.call(Method::POST, path, "application/json", body).await
    }

    fn grpc(&self) -> ClusterClient<tonic::transport::Channel> {
        let tls = ClientTls::load(self.files.clone()).unwrap().config(&["h2"]).unwrap();
        ClusterClient::new(tls_channels(tls)(&format!("127.0.0.1:{}", self.port)).unwrap())
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_lives_its_life_over_rest() {
    let (server, admin) = Server::start().await;
    let one = format!("{MAPS}/one");

    let (code, made) = admin.create(MAPS, map("one")).await;
    assert_eq!(
        (code, &made["metadata"]["namespace"]),
        (StatusCode::CREATED, &json!("default")),
        "{made}"
    );
    let (code, read) = admin.get(&one).await;
    assert_eq!((code, &read), (StatusCode::OK, &made));

    let mut changed = read.clone();
    changed["data"]["a"] = "2".into();
    let (code, written) = admin.call(Method::PUT, &one, "application/json", changed.clone()).await;
    assert_eq!((code, &written["data"]["a"]), (StatusCode::OK, &json!("2")));
    let (code, stale) = admin.call(Method::PUT, &one, "application/json", changed).await;
    assert_eq!((code, &stale["reason"]), (StatusCode::CONFLICT, &json!("Conflict")));
    assert_eq!(
        stale["message"],
        "Operation cannot be fulfilled on configmaps \"one\": the object has been modified; please apply your changes to the latest version and try again"
    );

    for (content_type, patch, value) in [
        (
            "application/json-patch+json",
            json!([{"op": "replace", "path": "/data/a", "value": "3"}]),
            "3",
        ),
        ("application/merge-patch+json", json!({"data": {"a": "4"}}), "4"),
        (
            "application/strategic-merge-patch+json",
            json!({"data": {"a": "5"}}),
            "5",
        ),
    ] {
        let (code, patched) = admin.call(Method::PATCH, &one, content_type, patch).await;
        assert_eq!(
            (code, &patched["data"]["a"]),
            (StatusCode::OK, &json!(value)),
            "{content_type}: {patched}"
        );
    }
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"b": "6"}});
    let (code, merged) = admin
        .call(
            Method::PATCH,
            &format!("{one}?fieldManager=t"),
            "application/apply-patch+yaml",
            applied,
        )
        .await;
    assert_eq!(
        (code, &merged["data"]),
        (StatusCode::OK, &json!({"a": "5", "b": "6"})),
        "{merged}"
    );

    let (code, unchanged) = admin
        .call(
            Method::PATCH,
            &one,
            "application/merge-patch+json",
            json!({"data": {"a": "5"}}),
        )
        .await;
    assert_eq!(
        (code, &unchanged["metadata"]["resourceVersion"]),
        (StatusCode::OK, &merged["metadata"]["resourceVersion"])
    );

    let (code, list) = admin.get(&format!("{MAPS}?fieldSelector=metadata.name%3Done")).await;
    assert_eq!(
        (code, list["items"].as_array().map(Vec::len)),
        (StatusCode::OK, Some(1))
    );
    let (code, gone) = admin.call(Method::DELETE, &one, "", Value::Null).await;
    assert_eq!(
        (code, &gone["status"], &gone["details"]["name"]),
        (StatusCode::OK, &json!("Success"), &json!("one"))
    );
    let (code, missing) = admin.get(&one).await;
    assert_eq!(
        (code, &missing["message"]),
        (StatusCode::NOT_FOUND, &json!("configmaps \"one\" not found"))
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_as_upstream_tells_it() {
    let (server, admin) = Server::start().await;
    admin.create(MAPS, map("taken")).await;
    let unknown = json!({"metadata": {"name": "x"}, "dataa": {}});
    for (method, path, content_type, body, code, reason, message) in [
        (
            Method::POST,
            MAPS,
            "application/json",
            map("taken"),
            409,
            "AlreadyExists",
            "configmaps \"taken\" already exists",
        ),
        (
            Method::POST,
            "/api/v1/namespaces/other/configmaps",
            "application/json",
            map("x"),
            404,
            "NotFound",
            "namespaces \"other\" not found",
        ),
        (
            Method::POST,
            MAPS,
            "application/json",
            json!({"kind": "Pod"}),
            400,
            "BadRequest",
            "Pod in version \"v1\" cannot be handled as a ConfigMap",
        ),
        (
            Method::POST,
            MAPS,
            "application/json",
            json!({"metadata": {"name": "Bad_"}}),
            422,
            "Invalid",
            "ConfigMap \"Bad_\" is invalid: metadata.name: Invalid value: \"Bad_\"",
        ),
        (
            Method::POST,
            MAPS,
            "application/json",
            json!({"data": {"a": 1}}),
            400,
            "BadRequest",
            "cannot unmarshal number",
        ),
        (
            Method::POST,
            MAPS,
            "text/html",
            json!({}),
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format",
        ),
        (
            Method::POST,
            "/api/v1/namespaces/default/configmaps?fieldValidation=Strict",
            "application/json",
            unknown,
            400,
            "BadRequest",
            "strict decoding error: unknown field \"dataa\"",
        ),
        (
            Method::PUT,
            MAPS,
            "application/json",
            map("x"),
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ),
        (
            Method::GET,
            "/api/v1/namespaces/default/pods?fieldSelector=foo%3Dbar",
            "",
            Value::Null,
            400,
            "BadRequest",
            "field label not supported: foo",
        ),
        (
            Method::GET,
            "/api/v1/namespaces/default/things",
            "",
            Value::Null,
            404,
            "NotFound",
            "the server could not find the requested resource",
        ),
        (
            Method::GET,
            "/api/v1/pods?continue=x",
            "",
            Value::Null,
            400,
            "BadRequest",
            "continue key is not valid",
        ),
        (
            Method::GET,
            "/api/v1/pods?resourceVersion=99999999",
            "",
            Value::Null,
            504,
            "Timeout",
            "Too large resource version",
        ),
        (
            Method::DELETE,
            "/api/v1/namespaces/default/configmaps/none",
            "",
            Value::Null,
            404,
            "NotFound",
            "configmaps \"none\" not found",
        ),
    ] {
        let (got, status) = admin.call(method.clone(), path, content_type, body).await;
        assert_eq!(
            (got.as_u16(), status["reason"].as_str().unwrap_or("")),
            (code, reason),
            "{method} {path}: {status}"
        );
        assert!(
            status["message"].as_str().unwrap_or("").contains(message),
            "{method} {path}: {status}"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_those_may_who_may() {
    let (server, admin) = Server::start().await;
    let (code, refused) = server.client("bob").get("/api/v1/namespaces/default/pods").await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert_eq!(
        refused["message"],
        "pods is forbidden: User \"bob\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    let call = GetRequest {
        resource: Some(resource("pods")),
        namespace: "default".into(),
        name: "p".into(),
        ..GetRequest::default()
    };
    let refused = server.client("bob").grpc().get(call).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    assert!(api::Error::decode(refused.details()).unwrap().is_forbidden());

    // The same names from a foreign authority: an answer, not a broken handshake.
    let foreign = Pki::new(server.dir.path(), "foreign").issue("stranger", "system:masters");
    let (code, status) = Client {
        files: foreign,
        port: server.port,
    }
    .get("/api/v1/pods")
    .await;
    assert_eq!(
        (code, &status["reason"]),
        (StatusCode::UNAUTHORIZED, &json!("Unauthorized"))
    );
    assert_eq!(admin.get("/api/v1/pods").await.0, StatusCode::OK);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_who_enters_and_leaves_a_selector() {
    let (server, admin) = Server::start().await;
    let path = format!("{MAPS}?watch=true&labelSelector=a%3Db");
    let mut events = admin.send(Method::GET, &path, "", Value::Null).await.into_body();
    admin.create(MAPS, map("w")).await;
    let one = format!("{MAPS}/w");
    for label in [json!("b"), json!("c")] {
        admin
            .call(
                Method::PATCH,
                &one,
                "application/merge-patch+json",
                json!({"metadata": {"labels": {"a": label}}}),
            )
            .await;
    }
    let mut text = String::new();
    while text.lines().count() < 2 || !text.ends_with('\n') {
        let frame = tokio::time::timeout(Duration::from_secs(30), events.frame())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    let types: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].clone())
        .collect();
    assert_eq!(types, ["ADDED", "DELETED"]);
    server.stop().await;
}

fn resource(name: &str) -> Resource {
    Resource {
        group: String::new(),
        version: "v1".into(),
        resource: name.into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_reads_what_rest_wrote_and_binds() {
    let (server, admin) = Server::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    admin
        .create(
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"metadata": {"name": "default"}}),
        )
        .await;
    for name in ["p1", "p2"] {
        let (code, made) = admin.create(pods, pod(name)).await;
        assert_eq!(code, StatusCode::CREATED, "{made}");
    }
    let mut grpc = admin.grpc();
    let list = ListRequest {
        resource: Some(resource("pods")),
        namespace: "default".into(),
        ..ListRequest::default()
    };
    let reply = grpc
        .list(list)
        .await
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap();
    assert_eq!(reply.objects.len(), 2);

    let watch = WatchRequest {
        resource: Some(resource("pods")),
        resource_version: reply.resource_version,
        ..WatchRequest::default()
    };
    let mut events = grpc.watch(watch).await.unwrap().into_inner();
    let binding = |name: &str| Binding {
        namespace: "default".into(),
        name: name.into(),
        uid: String::new(),
        node: "n1".into(),
    };
    let request = BindRequest {
        bindings: vec![binding("p1"), binding("p2"), binding("none")],
    };
    let outcomes = grpc.bind(request).await.unwrap().into_inner().outcomes;
    let failed: Vec<bool> = outcomes.iter().map(|outcome| !outcome.status.is_empty()).collect();
    assert_eq!(failed, [false, false, true]);
    assert!(api::Error::decode(&outcomes[2].status).unwrap().is_not_found());
    let mut seen = 0;
    while seen < 2 {
        seen += tokio::time::timeout(Duration::from_secs(30), events.message())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
            .events
            .len();
    }
    let (_, bound) = admin.get(&format!("{pods}/p1")).await;
    assert_eq!(bound["spec"]["nodeName"], "n1");

    // A bound pod goes only after its grace period; at once when told so.
    let (code, marked) = admin.call(Method::DELETE, &format!("{pods}/p1"), "", Value::Null).await;
    assert_eq!(
        (code, marked["metadata"]["deletionGracePeriodSeconds"].as_i64()),
        (StatusCode::OK, Some(30)),
        "{marked}"
    );
    admin
        .call(
            Method::DELETE,
            &format!("{pods}/p1?gracePeriodSeconds=0"),
            "",
            Value::Null,
        )
        .await;
    assert_eq!(admin.get(&format!("{pods}/p1")).await.0, StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_of_one_snapshot() {
    let (server, admin) = Server::start().await;
    for name in ["a", "b", "c"] {
        admin.create(MAPS, map(name)).await;
    }
    let (_, first) = admin.get(&format!("{MAPS}?limit=2")).await;
    assert_eq!(first["metadata"]["remainingItemCount"], 1, "{first}");
    admin.create(MAPS, map("d")).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = admin.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    let names: Vec<&Value> = second["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["metadata"]["name"])
        .collect();
    assert_eq!(names, ["c"]);
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scale_and_dry_run() {
    let (server, admin) = Server::start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let labels = json!({"app": "w"});
    let body = json!({"metadata": {"name": "w"}, "spec": {"replicas": 1, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let (code, _) = admin.create(&format!("{deployments}?dryRun=All"), body.clone()).await;
    assert_eq!(code, StatusCode::CREATED);
    assert_eq!(admin.get(&format!("{deployments}/w")).await.0, StatusCode::NOT_FOUND);
    admin.create(deployments, body).await;
    let scale = format!("{deployments}/w/scale");
    let (code, view) = admin
        .call(
            Method::PATCH,
            &scale,
            "application/merge-patch+json",
            json!({"spec": {"replicas": 4}}),
        )
        .await;
    assert_eq!(
        (code, &view["spec"]["replicas"], &view["status"]["selector"]),
        (StatusCode::OK, &json!(4), &json!("app=w")),
        "{view}"
    );
    let (_, deployment) = admin.get(&format!("{deployments}/w")).await;
    assert_eq!(
        (&deployment["spec"]["replicas"], &deployment["metadata"]["generation"]),
        (&json!(4), &json!(2))
    );
    server.stop().await;
}
