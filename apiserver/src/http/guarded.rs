//! Nothing reaches the store without the authorizer's leave: requests of every kind, over REST and over gRPC, at a server whose authorizer
//! refuses everything and whose store notes that it was touched.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use api::Error;
use api::resources::ResourceInfo;
use async_trait::async_trait;
use bytes::Bytes;
use daemon::Shutdown;
use daemon::health::Health;
use http::Method;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proptest::prelude::*;
use proto::cluster::cluster_client::ClusterClient;
use proto::cluster::*;
use serde_json::Value;
use tokio::runtime::Runtime;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};

use super::metrics::Metrics;
use super::stack::{serve, stack};
use super::{State, logs};
use crate::aggregation::Aggregator;
use crate::aggregation::config::AggregationConfig;
use crate::apiextensions::catalog::Catalog;
use crate::authn::jwt::Signer;
use crate::authn::service_account::{TokenOptions, Tokens};
use crate::flowcontrol::{FlowControl, Limits};
use crate::outgoing::Outgoing;
use crate::outgoing::tls::Roots;
use crate::registry::access::{
    Admission, AdmissionRequest, Attributes, Authenticator, Authorizer, Credentials, Decision, Reservation, Reviewer,
    UserInfo,
};
use crate::registry::{Registry, kinds};
use crate::store::{Entry, ListQuery, ListResult, ReadAt, Revision, Store, StoreError, Txn, TxnOutcome, Watcher};

/// What happened behind the authorizer, and how often it was asked.
#[derive(Default)]
struct Seen {
    touched: AtomicBool,
    asked: AtomicUsize,
}

struct Forbidden(Arc<Seen>);

impl Forbidden {
    fn touch<T>(&self) -> Result<T, StoreError> {
        self.0.touched.store(true, Ordering::SeqCst);
        Err(StoreError::Unavailable("touched".into()))
    }
}

#[async_trait]
impl Store for Forbidden {
    async fn get(&self, _: &str, _: ReadAt) -> Result<Option<Arc<Entry>>, StoreError> {
        self.touch()
    }

    async fn list(&self, _: ListQuery<'_>) -> Result<ListResult, StoreError> {
        self.touch()
    }

    fn watch(&self, _: &str, _: Revision) -> Result<Watcher, StoreError> {
        self.touch()
    }

    async fn transact(&self, _: Txn) -> Result<TxnOutcome, StoreError> {
        self.touch()
    }

    fn revision(&self) -> Revision {
        self.0.touched.store(true, Ordering::SeqCst);
        0
    }
}

#[async_trait]
impl Authorizer for Forbidden {
    async fn authorize(&self, _: &UserInfo, _: &Attributes) -> Decision {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        Decision::NoOpinion("never".into())
    }
}

#[async_trait]
impl Admission for Forbidden {
    async fn mutate(&self, _: &AdmissionRequest<'_>, _: &mut Value) -> Result<(), Error> {
        self.touch().map_err(Error::internal)
    }

    async fn validate(&self, _: &AdmissionRequest<'_>, _: &Value) -> Result<(), Error> {
        self.touch().map_err(Error::internal)
    }

    async fn reserve(&self, _: &AdmissionRequest<'_>, _: &Value, _: bool) -> Result<Reservation, Error> {
        self.touch().map_err(Error::internal)
    }
}

#[async_trait]
impl Reviewer for Forbidden {
    async fn review(&self, _: &UserInfo, _: &ResourceInfo, _: &str, _: Value) -> Result<Value, Error> {
        self.touch().map_err(Error::internal)
    }

    async fn token(&self, _: &str, _: &str, _: Value) -> Result<Value, Error> {
        self.touch().map_err(Error::internal)
    }
}

struct Amy;

#[async_trait]
impl Authenticator for Amy {
    async fn authenticate(&self, _: Credentials<'_>) -> Result<Option<UserInfo>, Error> {
        Ok(Some(UserInfo {
            name: "amy".into(),
            groups: vec!["system:authenticated".into()],
            ..UserInfo::default()
        }))
    }
}

/// The whole stack over such a store, and connections to it in memory.
struct Server {
    seen: Arc<Seen>,
    chain: super::layer::Next,
    runtime: Runtime,
}

impl Server {
    fn new() -> Server {
        let seen = Arc::new(Seen::default());
        let forbidden = || Arc::new(Forbidden(seen.clone()));
        let outgoing = Outgoing::new(forbidden());
        let aggregation = AggregationConfig::default();
        let registry = Registry::new(
            forbidden(),
            forbidden(),
            forbidden(),
            forbidden(),
            Arc::new(Catalog::new(outgoing.clone())),
        );
        let registry = Arc::new(registry);
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let signer = Signer::from_pem(key.as_bytes()).unwrap();
        let shutdown = Shutdown::new();
        let state = Arc::new(State {
            registry: registry.clone(),
            authenticator: Arc::new(Amy),
            started: Arc::new(AtomicBool::new(true)),
            auditor: None,
            flow: Arc::new(FlowControl::new(Limits::default(), &prometheus::Registry::new()).unwrap()),
            health: Health::new(),
            metrics: Metrics::new(prometheus::Registry::new()).unwrap(),
            documents: crate::discovery::openapi::Documents::default(),
            grpc: Routes::new(crate::grpc::service(registry, shutdown.clone())).prepare(),
            shutdown,
            address: "127.0.0.1:1".into(),
            proxied: outgoing.direct(crate::outgoing::tls::config(&Roots::Unchecked, None).unwrap()),
            aggregator: Arc::new(Aggregator::new(aggregation, outgoing.clone()).unwrap()),
            outgoing,
            nodes: logs::Nodes::new(Arc::new(|address| {
                Ok(crate::store::raft::endpoint(address)?.connect_lazy())
            })),
            tokens: Arc::new(Tokens::new(TokenOptions::default(), signer, Vec::new(), forbidden())),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        Server {
            seen,
            chain: stack(&state),
            runtime,
        }
    }

    /// A connection whose other end the server serves.
    fn connect(&self) -> tokio::io::DuplexStream {
        connect(&self.runtime, self.chain.clone())
    }

    /// Sends one request and answers its status code.
    fn send(&self, request: http::Request<Full<Bytes>>) -> u16 {
        let stream = self.connect();
        self.runtime.block_on(async {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                    .await
                    .unwrap();
            tokio::spawn(connection);
            let response = sender.send_request(request).await.unwrap();
            let code = response.status().as_u16();
            response.into_body().collect().await.unwrap();
            code
        })
    }

    /// Asserts that the authorizer was asked since the last time, and nothing behind it.
    fn assert_guarded(&self, what: &str) {
        assert!(
            !self.seen.touched.load(Ordering::SeqCst),
            "{what} got past the authorizer"
        );
        assert!(
            self.seen.asked.swap(0, Ordering::SeqCst) > 0,
            "{what}: nobody was asked"
        );
    }

    fn grpc(&self) -> ClusterClient<Channel> {
        let (handle, chain) = (self.runtime.handle().clone(), self.chain.clone());
        let connector = tower::service_fn(move |_: http::Uri| {
            let (near, far) = tokio::io::duplex(1 << 16);
            handle.spawn(serve_connection(far, chain.clone()));
            async move { Ok::<_, std::io::Error>(TokioIo::new(near)) }
        });
        let _inside = self.runtime.enter();
        ClusterClient::new(Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector))
    }
}

fn connect(runtime: &Runtime, chain: super::layer::Next) -> tokio::io::DuplexStream {
    let (near, far) = tokio::io::duplex(1 << 16);
    runtime.spawn(serve_connection(far, chain));
    near
}

async fn serve_connection(stream: tokio::io::DuplexStream, chain: super::layer::Next) {
    let service = hyper::service::service_fn(move |request| serve(chain.clone(), request));
    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended");
    }
}

fn request(method: &Method, path: &str, content_type: &str, body: &str) -> http::Request<Full<Bytes>> {
    http::Request::builder()
        .method(method)
        .uri(format!("http://localhost{path}"))
        .header("content-type", content_type)
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .unwrap()
}

const METHODS: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];

#[test]
fn every_resource_verb_and_subresource_over_rest() {
    let server = Server::new();
    for kind in kinds() {
        let info = &kind.info;
        let root = match info.group.as_ref() as &str {
            "" => format!("/api/{}", info.version),
            group => format!("/apis/{group}/{}", info.version),
        };
        let place = if info.namespaced { "/namespaces/a" } else { "" };
        let collection = format!("{root}{place}/{}", info.resource);
        let mut paths = vec![
            collection.clone(),
            format!("{collection}/x"),
            format!("{collection}?watch=true"),
        ];
        paths.extend(
            info.subresources
                .iter()
                .map(|sub| format!("{collection}/x/{}", sub.name)),
        );
        for path in paths {
            for method in &METHODS {
                let what = format!("{method} {path}");
                assert_eq!(
                    server.send(request(method, &path, "application/json", "{}")),
                    403,
                    "{what}"
                );
                server.assert_guarded(&what);
            }
        }
    }
}

#[test]
fn every_path_outside_of_resources() {
    let server = Server::new();
    for path in [
        "/",
        "/api",
        "/apis",
        "/apis/apps",
        "/api/v1",
        "/apis/apps/v1",
        "/version",
        "/metrics",
        "/livez",
        "/readyz/ping",
        "/healthz",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/api/v1",
        "/openid/v1/jwks",
        "/.well-known/openid-configuration",
        "/logs",
        "/debug/pprof",
        "/keelson.raft.v1.Raft/Members",
        "/none",
    ] {
        for method in &METHODS {
            let what = format!("{method} {path}");
            assert_eq!(
                server.send(request(method, path, "application/json", "")),
                403,
                "{what}"
            );
            assert!(!server.seen.touched.load(Ordering::SeqCst), "{what}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the path, the query, the headers and the body are.
    #[test]
    fn any_request_over_rest(
        requests in proptest::collection::vec((
            0..METHODS.len(),
            "/(api/v1|apis/apps/v1|apis/[a-z.]{1,9}/v1|api|apis)?(/watch)?(/namespaces/[a-z%2Ff]{1,6})?(/(pods|secrets|nodes|deployments|[a-z%.]{1,9}))?(/[a-z0-9:%]{0,6}){0,3}",
            "(watch=1&|dryRun=All&|fieldSelector=metadata.name%3Dx&|limit=1&|fieldManager=m&|[a-z]{1,5}=[a-z]{0,5}&){0,3}",
            "application/(json|yaml|apply-patch\\+yaml|json-patch\\+json|vnd\\.kubernetes\\.protobuf)",
            "[ -~]{0,40}",
        ), 8)
    ) {
        let server = Server::new();
        for (method, path, query, content_type, body) in requests {
            let target = format!("{path}?{query}");
            // Not every text is a URI; what is none does not reach any server.
            if format!("http://localhost{target}").parse::<http::Uri>().is_err() {
                continue;
            }
            let what = format!("{} {target}", METHODS[method]);
            let code = server.send(request(&METHODS[method], &target, &content_type, &body));
            prop_assert_eq!(code, 403, "{}", what);
            server.assert_guarded(&what);
        }
    }
}

/// Asks for the user by impersonation: that, too, is the authorizer's to allow.
#[test]
fn impersonation_is_asked_about() {
    let server = Server::new();
    let mut asking = request(&Method::GET, "/api/v1/pods", "application/json", "");
    asking
        .headers_mut()
        .insert("impersonate-user", http::HeaderValue::from_static("root"));
    asking
        .headers_mut()
        .insert("impersonate-group", http::HeaderValue::from_static("system:masters"));
    assert_eq!(server.send(asking), 403);
    server.assert_guarded("impersonation");
}

fn refused<T>(outcome: Result<tonic::Response<T>, tonic::Status>, what: &str) {
    let code = outcome.err().map(|status| status.code());
    assert_eq!(code, Some(tonic::Code::PermissionDenied), "{what}");
}

#[test]
fn every_call_over_grpc() {
    let server = Server::new();
    let mut client = server.grpc();
    for kind in kinds() {
        let resource = Some(Resource {
            group: kind.info.group.to_string(),
            version: kind.info.version.to_string(),
            resource: kind.info.resource.to_string(),
        });
        let (namespace, name) = ("a".to_owned(), "x".to_owned());
        let subresources =
            std::iter::once(String::new()).chain(kind.info.subresources.iter().map(|s| s.name.to_string()));
        server.runtime.block_on(async {
            let what = format!("{}.{}", kind.info.resource, kind.info.group);
            for subresource in subresources {
                let get = GetRequest {
                    resource: resource.clone(),
                    namespace: namespace.clone(),
                    name: name.clone(),
                    subresource: subresource.clone(),
                    ..Default::default()
                };
                refused(client.get(get).await, &what);
                let create = CreateRequest {
                    resource: resource.clone(),
                    namespace: namespace.clone(),
                    name: name.clone(),
                    subresource: subresource.clone(),
                    ..Default::default()
                };
                refused(client.create(create).await, &what);
                let update = UpdateRequest {
                    resource: resource.clone(),
                    namespace: namespace.clone(),
                    name: name.clone(),
                    subresource: subresource.clone(),
                    ..Default::default()
                };
                refused(client.update(update).await, &what);
                let patch = PatchRequest {
                    resource: resource.clone(),
                    namespace: namespace.clone(),
                    name: name.clone(),
                    subresource,
                    r#type: 4,
                    ..Default::default()
                };
                refused(client.patch(patch).await, &what);
            }
            let list = ListRequest {
                resource: resource.clone(),
                ..Default::default()
            };
            refused(client.list(list).await, &what);
            let watch = WatchRequest {
                resource: resource.clone(),
                send_initial_events: true,
                ..Default::default()
            };
            refused(client.watch(watch).await, &what);
            let delete = DeleteRequest {
                resource: resource.clone(),
                namespace: namespace.clone(),
                name: name.clone(),
                ..Default::default()
            };
            refused(client.delete(delete).await, &what);
            let all = DeleteCollectionRequest {
                resource: resource.clone(),
                namespace: namespace.clone(),
                ..Default::default()
            };
            refused(client.delete_collection(all).await, &what);
            let statuses = UpdateStatusesRequest {
                resource: resource.clone(),
                objects: vec![Bytes::new(), Bytes::new()],
                ..Default::default()
            };
            let outcomes = client.update_statuses(statuses).await.unwrap().into_inner().outcomes;
            assert!(
                outcomes
                    .iter()
                    .all(|o| Error::decode(&o.status).unwrap().is_forbidden()),
                "{what}"
            );
        });
        server.assert_guarded(kind.info.resource.as_ref());
    }
    let bindings = vec![Binding {
        namespace: "a".into(),
        name: "p".into(),
        node: "n".into(),
        ..Default::default()
    }];
    let outcomes = server
        .runtime
        .block_on(client.bind(BindRequest { bindings }))
        .unwrap()
        .into_inner()
        .outcomes;
    assert!(Error::decode(&outcomes[0].status).unwrap().is_forbidden());
    server.assert_guarded("bind");
}
