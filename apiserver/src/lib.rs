//! kube-apiserver: the API, over REST and gRPC, and the store behind it.
//!
//! [`run`] is the entry: it opens the store, puts authentication, authorization, admission and the registry in front of it, and serves.

pub mod admission;
pub mod aggregation;
pub mod allocators;
mod answers;
pub mod apiextensions;
pub mod audit;
pub mod authn;
pub mod authz;
mod bootstrap;
pub mod config;
pub mod discovery;
pub mod encryption;
pub mod flowcontrol;
pub mod grpc;
pub mod http;
pub mod kinds;
pub mod outgoing;
pub mod proxy;
pub mod registry;
pub mod store;
mod streams;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use daemon::Shutdown;
use daemon::config::ConfigError;
use daemon::health::{Health, Scope};
use daemon::http::Limits;
use daemon::tls::{ClientAuth, ClientTls, ServerTls};
use tonic::service::Routes;

use admission::webhook::Webhooks;
use admission::{Chain, Context as AdmissionContext};
use aggregation::Aggregator;
use answers::Answers;
use apiextensions::catalog::Catalog;
use authn::Authenticators;
use authn::bootstrap::BootstrapTokens;
use authn::jwt::{PublicKey, Signer};
use authn::service_account::{TokenOptions, Tokens};
use authn::static_tokens::StaticTokens;
use authn::tokens::TokenChain;
use authn::webhook::Webhook;
use authz::Authorizers;
use config::security::duration;
use config::{Config, Storage};
use encryption::Keys;
use encryption::config::Source;
use flowcontrol::FlowControl;
use http::metrics::Metrics;
use http::stack::{serve, stack};
use outgoing::Outgoing;
use outgoing::kubeconfig::Remote;
use outgoing::tls::Roots;
use registry::Registry;
use store::raft::{Connect, Member, RaftConfig, RaftStore, tls_channels};
use store::{MemoryStore, Stamp, Store};

/// How the store writes the revision into an object.
const STAMP: Stamp = api::codec::set_resource_version;
/// What has been done when a server is ready.
const AT_START: &[&str] = &[
    "informer-sync",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/start-system-namespaces-controller",
];
/// How long a server tries to take itself out of the endpoints when it stops.
const LEAVE: Duration = Duration::from_secs(2);
/// How often the gauges that need counting are counted.
const COUNT_EVERY: Duration = Duration::from_secs(60);

/// Serves until shutdown.
///
/// # Errors
/// When a file or the store cannot be used; the text names it.
pub async fn run(config: Config, listener: std::net::TcpListener, shutdown: Shutdown) -> anyhow::Result<()> {
    let tls = ServerTls::load(config.serving.clone(), ClientAuth::Requested)?;
    let peer = ClientTls::load(config.peer.clone())?;
    tls.reload_on_change(shutdown.clone());
    peer.reload_on_change(shutdown.clone());
    let connect = tls_channels(peer.config(&["h2"])?);
    let metrics = Metrics::new(daemon::metrics::registry())?;
    let encryption = encryption(&config, &metrics).await?;
    let keys = encryption.as_ref().map(|(keys, _)| keys.clone());
    let (store, raft) = open(&config, connect.clone(), &metrics, keys).await?;
    let kms = Arc::new(parking_lot::Mutex::new(Ok(())));
    if let (Some((keys, source)), Some(raft)) = (encryption, raft.clone()) {
        let rewrite = move || {
            let raft = raft.clone();
            async move { raft.rewrite().await.map_err(|error| error.to_string()) }
        };
        tokio::spawn(encryption::follow(keys, source, kms.clone(), shutdown.clone(), rewrite));
    }

    let tokens = Arc::new(tokens(&config, store.clone())?);
    let authorizers = Authorizers::default();
    let outgoing = Outgoing::new(store.clone());
    let catalog = Arc::new(Catalog::new(outgoing.clone()));
    authz::config::start(&config.authorization, &authorizers, &outgoing, &shutdown)?;
    let chain = token_chain(&config, &outgoing, tokens.clone(), &store, &shutdown)?;
    let admission = AdmissionContext {
        store: store.clone(),
        catalog: catalog.clone(),
        authorizers: authorizers.clone(),
        webhooks: Webhooks::new(outgoing.clone(), &metrics.registry)?,
    };
    let registry = Arc::new(Registry::new(
        store.clone(),
        Arc::new(authorizers.clone()),
        Arc::new(Chain::new(admission, &config.admission)?),
        Arc::new(Answers {
            tokens: tokens.clone(),
            authorizers: authorizers.clone(),
            chain: chain.clone(),
        }),
        catalog,
    ));
    // Requested after `shutdown`: the server is unready first, then connections are asked to leave.
    let leaving = Shutdown::new();
    let flow = Arc::new(FlowControl::new(config.flow, &metrics.registry)?);
    let mut routes = Routes::new(grpc::service(registry.clone(), leaving.clone()));
    if let Some(raft) = &raft {
        routes = routes.add_service(raft.service());
    }
    let started = Arc::new(AtomicBool::new(false));
    let aggregator = Arc::new(Aggregator::new(config.aggregation.clone(), outgoing.clone())?);
    let state = Arc::new(http::State {
        registry: registry.clone(),
        authenticator: Arc::new(Authenticators::new(
            tls.clone(),
            chain,
            config.aggregation.request_header.as_ref(),
        )?),
        auditor: config.audit.start(&outgoing, &metrics.registry, &shutdown)?,
        started: started.clone(),
        health: health(raft.clone(), started, kms),
        metrics,
        flow: flow.clone(),
        documents: discovery::openapi::Documents::default(),
        grpc: routes.prepare(),
        shutdown: leaving.clone(),
        address: config.advertise.to_string(),
        proxied: outgoing.direct(outgoing::tls::config(&Roots::Unchecked, None)?),
        outgoing,
        aggregator,
        nodes: http::logs::Nodes::new(connect),
        tokens,
    });
    let limits = Limits {
        drain: config.drain,
        ..Limits::default()
    };
    let chain = stack(&state);
    let mut serving = tokio::spawn(daemon::http::serve(
        listener,
        tls.config(&["h2", "http/1.1"])?,
        limits,
        leaving.clone(),
        move |request| serve(chain.clone(), request),
    ));

    start(&state, &config, &authorizers, raft.as_deref(), &shutdown).await;
    tokio::select! {
        ended = &mut serving => return ended.context("serve")?.context("serve"),
        why = failed(raft.as_deref()) => anyhow::bail!("the store has stopped: {why}"),
        () = shutdown.cancelled() => state.health.drain(),
    }
    if state.started.load(Ordering::Relaxed) {
        let left = tokio::time::timeout(LEAVE, bootstrap::leave(&registry, &config)).await;
        tracing::info!(
            done = matches!(left, Ok(Ok(()))),
            "left the endpoints of the kubernetes service"
        );
    }
    tokio::time::sleep(config.delay).await;
    leaving.request();
    serving.await.context("serve")??;
    if let Some(raft) = raft {
        raft.shutdown().await;
    }
    Ok(())
}

/// Everything between being reachable and being ready, and the work in the background that begins then.
async fn start(
    state: &Arc<http::State>,
    config: &Config,
    authorizers: &Authorizers,
    raft: Option<&RaftStore>,
    shutdown: &Shutdown,
) {
    let registry = &state.registry;
    let ready = async {
        while let Some(Err(error)) = match raft {
            Some(raft) => Some(raft.ready().await),
            None => None,
        } {
            tracing::info!(%error, "waiting for the store");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        while let Err(error) = authorizers.start(registry.store().clone(), shutdown.clone()).await {
            tracing::warn!(%error, "waiting for roles");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        while let Err(error) = apiextensions::feed::start(registry.clone(), shutdown.clone()).await {
            tracing::warn!(%error, "waiting for definitions");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        bootstrap::run(registry, config, shutdown).await
    };
    if shutdown.run_until(ready).await != Some(true) {
        return;
    }
    state.started.store(true, Ordering::Relaxed);
    daemon::notify::ready(shutdown);
    tracing::info!(address = %config.advertise, "serving");
    tokio::spawn(bootstrap::keep_endpoints(
        registry.clone(),
        config.clone(),
        shutdown.child(),
    ));
    tokio::spawn(
        state
            .aggregator
            .clone()
            .keep(registry.clone(), config.serving.ca.clone(), shutdown.clone()),
    );
    tokio::spawn(bootstrap::keep_allocations(
        registry.clone(),
        config.clone(),
        shutdown.child(),
    ));
    tokio::spawn(admission::policy::type_check::keep(registry.clone(), shutdown.clone()));
    tokio::spawn(count_objects(state.clone(), shutdown.clone()));
    if state.flow.is_fair() {
        let (flow, registry) = (state.flow.clone(), registry.clone());
        tokio::spawn(flowcontrol::controller::run(
            flow,
            registry,
            config.clone(),
            shutdown.clone(),
        ));
    }
}

/// Waits for the store to stop by itself.
async fn failed(raft: Option<&RaftStore>) -> String {
    match raft {
        Some(raft) => raft.failed().await,
        None => std::future::pending().await,
    }
}

/// The keys that the store's files are encrypted with, and where they come from; a store in memory has no files.
async fn encryption(config: &Config, metrics: &Metrics) -> anyhow::Result<Option<(Arc<Keys>, Source)>> {
    if config.storage == Storage::Memory {
        return Ok(None);
    }
    let (settings, registry) = (config.encryption.clone(), metrics.registry.clone());
    let made = tokio::task::spawn_blocking(move || {
        let source = Source::read(
            settings.encryption_provider_config,
            settings.encryption_provider_config_automatic_reload == Some(true),
            settings.encryption_key_file.unwrap_or_default(),
        )?;
        let keys = Keys::new(&source.config, &registry)?;
        anyhow::Ok((keys, source))
    });
    made.await.context("read the encryption configuration")?.map(Some)
}

fn health(
    raft: Option<Arc<RaftStore>>,
    started: Arc<AtomicBool>,
    kms: Arc<parking_lot::Mutex<Result<(), String>>>,
) -> Health {
    // Under upstream's names, which monitors ask for one by one.
    let mut health = Health::new();
    health.add("kms-providers", Scope::Ready, move || kms.lock().clone());
    health.add("log", Scope::Live, || Ok(()));
    if let Some(raft) = raft {
        let store = raft.clone();
        health.add("etcd", Scope::Live, move || store.running());
        health.add("etcd-readiness", Scope::Ready, move || raft.health());
    }
    for name in AT_START {
        let started = started.clone();
        health.add(name, Scope::Ready, move || match started.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err("the cluster is not set up yet".into()),
        });
    }
    health
}

/// Opens the store; with Raft also as itself, for its service, health and stop.
async fn open(
    config: &Config,
    connect: Connect,
    metrics: &Metrics,
    keys: Option<Arc<Keys>>,
) -> anyhow::Result<(Arc<dyn Store>, Option<Arc<RaftStore>>)> {
    let Storage::Raft {
        data_dir,
        this,
        members,
        join,
    } = &config.storage
    else {
        return Ok((Arc::new(MemoryStore::new(STAMP)), None));
    };
    let member = |m: &config::Member| Member {
        name: m.name.clone(),
        address: m.address.clone(),
    };
    let mut raft = RaftConfig::single(data_dir, member(this), connect, STAMP);
    raft.node_id = this.id;
    raft.members = members.iter().map(|m| (m.id, member(m))).collect::<BTreeMap<_, _>>();
    if let Some(address) = join {
        raft.join = true;
        raft.members.retain(|id, _| *id != this.id);
        raft.members.entry(0).or_insert(Member {
            name: String::new(),
            address: address.clone(),
        });
    }
    if let Some(keys) = keys {
        raft.vault = keys;
    }
    raft.registry = metrics.registry.clone();
    let store = Arc::new(RaftStore::start(raft).await?);
    Ok((store.clone(), Some(store)))
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|source| ConfigError::Read {
        path: path.into(),
        source,
    })
}

fn bad(path: &Path, what: String) -> ConfigError {
    ConfigError::Content {
        path: path.into(),
        what,
    }
}

/// The static tokens, if there is a file of them.
fn static_tokens(config: &Config) -> Result<StaticTokens, ConfigError> {
    let Some(path) = &config.static_tokens else {
        return Ok(StaticTokens::default());
    };
    let text = String::from_utf8(read(path)?).map_err(|error| bad(path, error.to_string()))?;
    StaticTokens::parse(&text).map_err(|error| bad(path, error.to_string()))
}

fn tokens(config: &Config, store: Arc<dyn Store>) -> Result<Tokens, ConfigError> {
    let signer =
        Signer::from_pem(&read(&config.signing_key)?).map_err(|error| bad(&config.signing_key, error.to_string()))?;
    let mut keys = Vec::new();
    for path in &config.token_keys {
        keys.push(PublicKey::from_pem(&read(path)?).map_err(|error| bad(path, error.to_string()))?);
    }
    let settings = &config.authentication;
    let longest = settings.service_account_max_token_expiration.as_deref();
    let longest = longest.map(|text| duration("service-account-max-token-expiration", text));
    let options = TokenOptions {
        issuer: config.issuer.clone(),
        audiences: settings.api_audiences.clone(),
        jwks_uri: settings
            .service_account_jwks_uri
            .clone()
            .unwrap_or_else(|| format!("https://{}/openid/v1/jwks", config.advertise)),
        longest: longest.transpose()?.and_then(|d| i64::try_from(d.as_secs()).ok()),
        extend: settings.service_account_extend_token_expiration != Some(false),
    };
    Ok(Tokens::new(options, signer, keys, store))
}

/// Everything that knows bearer tokens.
fn token_chain(
    config: &Config,
    outgoing: &Outgoing,
    accounts: Arc<Tokens>,
    store: &Arc<dyn Store>,
    shutdown: &Shutdown,
) -> anyhow::Result<Arc<TokenChain>> {
    let settings = &config.authentication;
    let webhook = settings
        .authentication_token_webhook_config_file
        .as_deref()
        .map(|path| {
            let ttl = settings
                .authentication_token_webhook_cache_ttl
                .as_deref()
                .unwrap_or("2m");
            let ttl = duration("authentication-token-webhook-cache-ttl", ttl)?;
            let version = settings
                .authentication_token_webhook_version
                .as_deref()
                .unwrap_or("v1beta1");
            if !matches!(version, "v1" | "v1beta1") {
                let why = format!("--authentication-token-webhook-version: expected v1 or v1beta1, found {version:?}");
                return Err(ConfigError::Usage(why));
            }
            Ok(Webhook::new(Remote::load(path, outgoing)?, version, ttl))
        });
    let bootstrap = settings.enable_bootstrap_token_auth != Some(false);
    Ok(Arc::new(TokenChain {
        static_tokens: static_tokens(config)?,
        accounts,
        bootstrap: bootstrap.then(|| BootstrapTokens::new(store.clone())),
        issuers: authn::reload::start(settings.clone(), outgoing.clone(), shutdown.clone())?,
        webhook: webhook.transpose()?,
    }))
}

/// Keeps `apiserver_storage_objects` until shutdown.
async fn count_objects(state: Arc<http::State>, shutdown: Shutdown) {
    let mut ticks = tokio::time::interval(COUNT_EVERY);
    while shutdown.run_until(ticks.tick()).await.is_some() {
        let store = state.registry.store();
        state
            .metrics
            .revision
            .set(i64::try_from(store.revision()).unwrap_or(i64::MAX));
        for kind in state
            .registry
            .kinds()
            .iter()
            .filter(|kind| kind.is_storage_version() && !kind.is_review())
        {
            let query = store::ListQuery {
                prefix: &kind.prefix,
                start_after: None,
                limit: 1,
                at: store::ReadAt::Any,
            };
            if let Ok(list) = store.list(query).await {
                let count = list.entries.len() + list.remaining;
                let name = kind.group_resource().to_string();
                state
                    .metrics
                    .objects
                    .with_label_values(&[&name])
                    .set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
    }
}
