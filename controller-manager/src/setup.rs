//! What controllers are made of: shared informers, queues, and the tasks to run once the caches are filled.
//!
//! A controller first says what wakes it (`on_event`), then what it does (`run`). Only after all have spoken are the informers started, one
//! for each kind, however many controllers look at it.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use api::apiextensions::v1::CustomResourceDefinition;
use api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use api::batch::v1::Job;
use api::certificates::v1::CertificateSigningRequest;
use api::coordination::v1::Lease;
use api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController,
    ResourceQuota, Secret, Service, ServiceAccount,
};
use api::discovery::v1::EndpointSlice;
use api::networking::v1::{IPAddress, ServiceCIDR};
use api::policy::v1::PodDisruptionBudget;
use api::rbac::v1::ClusterRole;
use api::{Object, ObjectKey};
use client::{Cache, Client, Event, EventRecorder, Informer, ListParams};
use controller::{Action, Error, Metrics, Queue};
use daemon::Shutdown;
use futures_util::future::{BoxFuture, join_all};

use crate::config::Config;
use crate::{ownership, pods};

/// The index by [`ownership::index`].
pub const OWNER: &str = "owner";
/// The index by namespace.
pub const NAMESPACE: &str = "namespace";
/// The index of pods by node.
pub const NODE: &str = "node";

/// A cache that is there once the informers run. Handlers hold one; reconcilers get the caches themselves.
pub struct Late<K>(Arc<OnceLock<Cache<K>>>);

impl<K> Clone for Late<K> {
    fn clone(&self) -> Self {
        Late(self.0.clone())
    }
}

impl<K> Late<K> {
    /// What an index files under a value; nothing before the start.
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<K>> {
        self.0
            .get()
            .map(|cache| cache.by_index(index, value))
            .unwrap_or_default()
    }

    /// All objects; nothing before the start.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.0.get().map(Cache::list).unwrap_or_default()
    }

    /// One object.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.0.get()?.get(key)
    }
}

/// An informer that several controllers listen to.
pub struct Shared<K> {
    informer: Informer<K>,
    handlers: Vec<Box<dyn Fn(&Event<K>) + Send + Sync>>,
    late: Arc<OnceLock<Cache<K>>>,
}

impl<K: Object> Shared<K> {
    fn new(client: &Client, params: &ListParams) -> Shared<K> {
        Shared {
            informer: Informer::new(client, params),
            handlers: Vec::new(),
            late: Arc::default(),
        }
    }

    fn index(mut self, name: &'static str, values: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) -> Self {
        self.informer = self.informer.index(name, values);
        self
    }

    fn by_namespace(self) -> Self {
        self.index(NAMESPACE, |object| vec![object.namespace().to_owned()])
    }

    fn by_owner(self) -> Self {
        self.index(OWNER, ownership::index)
    }

    /// Has `handler` called for each change, in order, after the cache shows it.
    pub fn on_event(&mut self, handler: impl Fn(&Event<K>) + Send + Sync + 'static) {
        self.handlers.push(Box::new(handler));
    }

    /// The cache, for handlers.
    pub fn late(&self) -> Late<K> {
        Late(self.late.clone())
    }

    fn start(self, shutdown: &Shutdown) -> Cache<K> {
        let informer = self.handlers.into_iter().fold(self.informer, Informer::on_event);
        let cache = informer.start(shutdown);
        // The informer is started here alone, so the cell is empty.
        let _ = self.late.set(cache.clone());
        cache
    }
}

macro_rules! informers {
    ($($(#[$doc:meta])* $field:ident: $kind:ty = $make:expr;)*) => {
        /// The informers before their start.
        pub struct Informers {
            $($(#[$doc])* pub $field: Shared<$kind>,)*
        }

        /// Their caches.
        #[derive(Clone)]
        pub struct Caches {
            $($(#[$doc])* pub $field: Cache<$kind>,)*
        }

        impl Informers {
            fn new(client: &Client) -> Informers {
                let all = ListParams::default();
                Informers { $($field: $make(Shared::<$kind>::new(client, &all), client),)* }
            }

            fn start(self, shutdown: &Shutdown) -> Caches {
                Caches { $($field: self.$field.start(shutdown),)* }
            }
        }

        impl Caches {
            /// Completes once every cache has its first list.
            pub async fn synced(&self) {
                tokio::join!($(self.$field.synced()),*);
            }
        }
    };
}

informers! {
    /// Every pod, by node and by owner.
    pods: Pod = |shared: Shared<Pod>, _: &Client| {
        shared.by_owner().by_namespace().index(NODE, |pod| vec![pods::node(pod).to_owned()])
    };
    /// Every node.
    nodes: Node = |shared: Shared<Node>, _: &Client| shared;
    /// The Leases of nodes.
    leases: Lease = |_, client: &Client| Shared::new(client, &ListParams::namespace("kube-node-lease"));
    /// Every namespace.
    namespaces: Namespace = |shared: Shared<Namespace>, _: &Client| shared;
    /// Every service.
    services: Service = |shared: Shared<Service>, _: &Client| shared.by_namespace();
    /// Every Endpoints object.
    endpoints: Endpoints = |shared: Shared<Endpoints>, _: &Client| shared;
    /// Every EndpointSlice, by owner.
    endpoint_slices: EndpointSlice = |shared: Shared<EndpointSlice>, _: &Client| shared.by_owner();
    /// Every ReplicaSet, by owner.
    replica_sets: ReplicaSet = |shared: Shared<ReplicaSet>, _: &Client| shared.by_owner().by_namespace();
    /// Every ReplicationController.
    replication_controllers: ReplicationController = |shared: Shared<ReplicationController>, _: &Client| shared.by_owner().by_namespace();
    /// Every Deployment.
    deployments: Deployment = |shared: Shared<Deployment>, _: &Client| shared.by_namespace();
    /// Every StatefulSet.
    stateful_sets: StatefulSet = |shared: Shared<StatefulSet>, _: &Client| shared.by_namespace();
    /// Every DaemonSet.
    daemon_sets: DaemonSet = |shared: Shared<DaemonSet>, _: &Client| shared.by_namespace();
    /// Every ControllerRevision, by owner.
    revisions: ControllerRevision = |shared: Shared<ControllerRevision>, _: &Client| shared.by_owner();
    /// Every Job.
    jobs: Job = |shared: Shared<Job>, _: &Client| shared.by_owner().by_namespace();
    /// Every PodDisruptionBudget.
    budgets: PodDisruptionBudget = |shared: Shared<PodDisruptionBudget>, _: &Client| shared.by_namespace();
    /// Every service account.
    service_accounts: ServiceAccount = |shared: Shared<ServiceAccount>, _: &Client| shared;
    /// The ConfigMaps called `kube-root-ca.crt`.
    root_cas: ConfigMap = |_, client: &Client| {
        Shared::new(client, &ListParams::default().fields("metadata.name=kube-root-ca.crt"))
    };
    /// Every CustomResourceDefinition.
    definitions: CustomResourceDefinition = |shared: Shared<CustomResourceDefinition>, _: &Client| shared;
    /// Every ResourceQuota.
    resource_quotas: ResourceQuota = |shared: Shared<ResourceQuota>, _: &Client| shared.by_namespace();
    /// Every claim to storage.
    persistent_volume_claims: PersistentVolumeClaim = |shared: Shared<PersistentVolumeClaim>, _: &Client| shared;
    /// Every volume.
    persistent_volumes: PersistentVolume = |shared: Shared<PersistentVolume>, _: &Client| shared;
    /// Every range of service addresses.
    service_cidrs: ServiceCIDR = |shared: Shared<ServiceCIDR>, _: &Client| shared;
    /// Every service address.
    ip_addresses: IPAddress = |shared: Shared<IPAddress>, _: &Client| shared;
    /// Every certificate request.
    signing_requests: CertificateSigningRequest = |shared: Shared<CertificateSigningRequest>, _: &Client| shared;
    /// The Secrets that are bootstrap tokens.
    bootstrap_tokens: Secret = |_, client: &Client| {
        Shared::new(client, &ListParams::namespace("kube-system").fields("type=bootstrap.kubernetes.io/token"))
    };
    /// Every ClusterRole.
    cluster_roles: ClusterRole = |shared: Shared<ClusterRole>, _: &Client| shared;
}

type Task = Box<dyn FnOnce(Caches) -> BoxFuture<'static, ()> + Send>;

/// The controllers in the making.
pub struct Setup {
    /// How they talk to the API server.
    pub client: Client,
    /// How they were configured.
    pub config: Arc<Config>,
    /// What wakes them.
    pub informers: Informers,
    /// When they stop.
    pub shutdown: Shutdown,
    metrics: Metrics,
    tasks: Vec<Task>,
}

impl Setup {
    /// No controller yet.
    pub fn new(client: Client, config: Arc<Config>, metrics: Metrics, shutdown: Shutdown) -> Setup {
        let informers = Informers::new(&client);
        Setup {
            client,
            config,
            informers,
            shutdown,
            metrics,
            tasks: Vec::new(),
        }
    }

    /// A queue whose metrics carry `name`.
    pub fn queue<Q: Clone + Eq + std::hash::Hash + Ord + Send + Sync + 'static>(&self, name: &str) -> Queue<Q> {
        Queue::new(name, &self.metrics)
    }

    /// A recorder of events in a controller's name.
    pub fn events(&self, component: &str) -> EventRecorder {
        EventRecorder::new(&self.client, component, "")
    }

    /// Has keys of `queue` reconciled by the function that `make` builds over the caches.
    pub fn run<Q, F, R>(
        &mut self,
        name: &'static str,
        queue: Queue<Q>,
        workers: usize,
        make: impl FnOnce(Caches) -> F + Send + 'static,
    ) where
        Q: Clone + std::fmt::Display + Eq + std::hash::Hash + Ord + Send + Sync + 'static,
        F: Fn(Q) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Action, Error>> + Send + 'static,
    {
        let token = self.shutdown.token();
        self.task(move |caches| {
            let reconcile = make(caches);
            controller::run(name, queue, workers, reconcile, token)
        });
    }

    /// Has `make`'s future run once the caches are filled.
    pub fn task<R>(&mut self, make: impl FnOnce(Caches) -> R + Send + 'static)
    where
        R: Future<Output = ()> + Send + 'static,
    {
        self.tasks.push(Box::new(move |caches| Box::pin(make(caches))));
    }

    /// Starts everything; completes after shutdown, when the work in progress has ended.
    pub async fn start(self) {
        let caches = self.informers.start(&self.shutdown);
        if self.shutdown.run_until(caches.synced()).await.is_none() {
            return;
        }
        tracing::info!(controllers = self.tasks.len(), "caches are filled, controllers start");
        let tasks = self.tasks.into_iter().map(|task| tokio::spawn(task(caches.clone())));
        for outcome in join_all(tasks).await {
            if let Err(error) = outcome {
                tracing::error!(%error, "a controller ended");
            }
        }
    }
}

/// A handler that queues the key of whatever changed.
pub fn enqueue<K: Object>(queue: &Queue<ObjectKey>) -> impl Fn(&Event<K>) + Send + Sync + 'static {
    let queue = queue.clone();
    move |event| queue.add(event.object().key())
}

/// A handler that queues the key of an object's controller, if it is an `O`.
pub fn enqueue_owner<K: Object, O: Object>(queue: &Queue<ObjectKey>) -> impl Fn(&Event<K>) + Send + Sync + 'static {
    let queue = queue.clone();
    move |event| {
        let object = event.object();
        if let Some(owner) = object.controller().filter(|owner| owner.kind == O::KIND) {
            queue.add(ObjectKey::new(object.namespace(), &*owner.name));
        }
    }
}
