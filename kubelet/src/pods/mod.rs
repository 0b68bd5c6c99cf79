//! The pods of this node: one worker a pod, told of changes of its object and of its containers.
//!
//! Owns which pods have a worker. What a worker does is decided in `decide` and `ending`; the API object is only ever written as a status, or deleted
//! for good once nothing of the pod is left.

pub mod admit;
pub mod conditions;
pub mod credentials;
pub mod decide;
pub mod handler;
pub mod hooks;
pub mod probes;
mod sandboxes;
mod start;
pub mod status;
pub mod statuses;
mod stop;
pub mod termination;
mod worker;

use crate::cluster::Cluster;
use crate::env::field::PodFacts;
use crate::files::DnsSettings;
use crate::metrics::Metrics;
use crate::runtime::Runtime;
use crate::runtime::cgroups::Cgroups;
use crate::runtime::images::Images;
use crate::runtime::resources::Amounts;
use crate::volumes::Volumes;
use admit::Refusal;
use api::core::v1::{Node, Pod};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use statuses::StatusWriter;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// What workers share.
pub struct Context {
    /// The container runtime.
    pub runtime: Runtime,
    /// Pulls images.
    pub images: Arc<Images>,
    /// Sets volumes up.
    pub volumes: Volumes,
    /// Makes cgroups.
    pub cgroups: Cgroups,
    /// The API server.
    pub cluster: Arc<dyn Cluster>,
    /// Writes statuses.
    pub statuses: Arc<StatusWriter>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Facts about the node.
    pub node: NodeFacts,
    /// Whether the runtime's network is up.
    pub network_ready: watch::Receiver<bool>,
    /// Pods that were let in and are not over, by uid.
    pub admitted: Mutex<HashMap<String, Arc<Pod>>>,
    /// Ends all workers, without touching their pods.
    pub stop: CancellationToken,
}

/// What is true of the node as long as the kubelet runs.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// The node's name.
    pub name: String,
    /// Its addresses, the primary one first.
    pub ips: Vec<String>,
    /// Its memory in bytes.
    pub memory: i64,
    /// What it may give to pods.
    pub allocatable: Amounts,
    /// DNS of node and cluster.
    pub dns: DnsSettings,
    /// The kubelet's folder.
    pub root: PathBuf,
    /// The folder of all pods' logs.
    pub log_root: PathBuf,
    /// Processes that one pod may have; nothing is no limit.
    pub pod_pids_limit: Option<i64>,
    /// The object as it was registered, for admission.
    pub object: Node,
}

impl Context {
    /// Lets a pod in, or says why not.
    fn admit(&self, pod: &Arc<Pod>) -> Result<(), Refusal> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut admitted = self.admitted.lock();
        let others = admitted
            .iter()
            .filter(|(other, _)| **other != uid)
            .map(|(_, pod)| pod.as_ref());
        admit::admit(pod, others, &self.node.object, &self.node.allocatable)?;
        admitted.insert(uid, pod.clone());
        drop(admitted);
        self.weigh();
        Ok(())
    }

    /// A pod that is over takes nothing any more.
    fn release(&self, uid: &str) {
        if self.admitted.lock().remove(uid).is_some() {
            self.weigh();
        }
    }

    fn weigh(&self) {
        use crate::runtime::resources::{Qos, pod_totals, qos};
        let burstable = |pod: &Arc<Pod>| {
            if qos(pod) == Qos::Burstable {
                pod_totals(pod).cpu_milli
            } else {
                0
            }
        };
        let sum = self
            .admitted
            .lock()
            .values()
            .map(burstable)
            .fold(0, i64::saturating_add);
        if let Err(error) = self.cgroups.weigh_burstable(sum) {
            tracing::warn!(error = &error as &dyn std::error::Error, "weigh burstable pods");
        }
    }

    /// What a pod may be told about itself.
    fn facts(&self, pod: &Pod, sandbox_ips: &[String]) -> PodFacts {
        let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
        PodFacts {
            host_ips: self.node.ips.clone(),
            pod_ips: if host_network {
                self.node.ips.clone()
            } else {
                sandbox_ips.to_vec()
            },
            node_name: self.node.name.clone(),
            allocatable: self.node.allocatable.clone(),
        }
    }
}

/// The newest that is known of a pod's object.
#[derive(Clone, Debug)]
struct Update {
    pod: Arc<Pod>,
    /// The object is not there any more.
    gone: bool,
}

struct Handle {
    updates: watch::Sender<Update>,
    changed: Arc<Notify>,
}

/// All workers.
pub struct Pods {
    context: Arc<Context>,
    workers: Mutex<HashMap<String, Handle>>,
}

impl Pods {
    /// No pods yet.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        Arc::new(Self {
            context,
            workers: Mutex::default(),
        })
    }

    /// A pod's object is new or changed.
    pub fn update(self: &Arc<Self>, pod: Arc<Pod>) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let update = Update { pod, gone: false };
        let mut workers = self.workers.lock();
        if let Some(worker) = workers.get(&uid) {
            worker.updates.send_replace(update);
            return;
        }
        let changed = Arc::new(Notify::new());
        let (sender, receiver) = watch::channel(update);
        workers.insert(
            uid.clone(),
            Handle {
                updates: sender,
                changed: changed.clone(),
            },
        );
        self.context.metrics.desired_pods.set(workers.len() as i64);
        drop(workers);
        let (pods, context) = (self.clone(), self.context.clone());
        tokio::spawn(async move {
            let run: BoxFuture<'static, ()> = worker::Worker::new(context.clone(), receiver, changed).run().boxed();
            if context.stop.clone().run_until_cancelled_owned(run).await.is_none() {
                return;
            }
            context.release(&uid);
            let mut workers = pods.workers.lock();
            workers.remove(&uid);
            context.metrics.desired_pods.set(workers.len() as i64);
        });
    }

    /// A pod's object is gone.
    pub fn gone(&self, pod: &Pod) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if let Some(worker) = self.workers.lock().get(uid) {
            worker.updates.send_modify(|update| {
                // The last object tells the grace period that deletion was asked with.
                update.pod = Arc::new(pod.clone());
                update.gone = true;
            });
        }
    }

    /// Something of a pod changed in the runtime.
    pub fn wake(&self, uid: &str) {
        if let Some(worker) = self.workers.lock().get(uid) {
            worker.changed.notify_one();
        }
    }

    /// Uids of all pods that have a worker.
    pub fn uids(&self) -> BTreeSet<String> {
        self.workers.lock().keys().cloned().collect()
    }

    /// The object of a pod that has a worker.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let workers = self.workers.lock();
        let all = workers.values().map(|worker| worker.updates.borrow().pod.clone());
        let named = |pod: &Arc<Pod>| {
            pod.metadata.name.as_deref() == Some(name) && pod.metadata.namespace.as_deref() == Some(namespace)
        };
        // Of two with one name the one that is not on its way out is meant.
        all.filter(named)
            .min_by_key(|pod| pod.metadata.deletion_timestamp.is_some())
    }

    /// The objects of all pods.
    pub fn list(&self) -> Vec<Arc<Pod>> {
        self.workers
            .lock()
            .values()
            .map(|worker| worker.updates.borrow().pod.clone())
            .collect()
    }
}
