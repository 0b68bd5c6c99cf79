//! The controllers: a file each, and the table that starts them.
//!
//! A controller's `plan` decides without a clock, a cache or a client; its `reconcile` reads caches, calls `plan` and applies what it said.

pub mod certificates;
pub mod cluster_role_aggregation;
pub mod daemonset;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod garbage_collector;
pub mod garbage_collector_plan;
pub mod job;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod pod_gc;
pub mod replicas;
pub mod replicaset;
pub mod resource_quota;
pub mod root_ca;
pub mod service_account;
pub mod service_cidrs;
pub mod service_pods;
pub mod statefulset;
pub mod storage_protection;
pub mod taint_eviction;
pub mod token_cleaner;
pub mod ttl_after_finished;

use api::apps::v1::ReplicaSet;
use api::core::v1::ReplicationController;

use crate::setup::Setup;

/// The names under which flags and files know the controllers, in the order they are started.
pub const NAMES: [&str; TABLE.len()] = {
    let (mut names, mut index) = ([""; TABLE.len()], 0);
    while index < TABLE.len() {
        names[index] = TABLE[index].0;
        index += 1;
    }
    names
};

/// What starts each of them.
const TABLE: [(&str, fn(&mut Setup)); 27] = [
    ("namespace-controller", namespace::start),
    ("serviceaccount-controller", service_account::start),
    ("root-ca-certificate-publisher-controller", root_ca::start),
    ("node-ipam-controller", node_ipam::start),
    ("node-lifecycle-controller", node_lifecycle::start),
    ("taint-eviction-controller", taint_eviction::start),
    ("deployment-controller", deployment::start),
    ("replicaset-controller", |setup| {
        let workers = setup.config.concurrent_replicaset_syncs;
        replicaset::start::<ReplicaSet>(setup, workers);
    }),
    ("replicationcontroller-controller", |setup| {
        let workers = setup.config.concurrent_rc_syncs;
        replicaset::start::<ReplicationController>(setup, workers);
    }),
    ("daemonset-controller", daemonset::start),
    ("job-controller", job::start),
    ("ttl-after-finished-controller", ttl_after_finished::start),
    ("statefulset-controller", statefulset::start),
    ("endpoints-controller", endpoints::start),
    ("endpointslice-controller", endpointslice::start),
    ("garbage-collector-controller", garbage_collector::start),
    ("pod-garbage-collector-controller", pod_gc::start),
    ("disruption-controller", disruption::start),
    ("clusterrole-aggregation-controller", cluster_role_aggregation::start),
    ("resourcequota-controller", resource_quota::start),
    ("service-cidr-controller", service_cidrs::start),
    (
        "persistentvolumeclaim-protection-controller",
        storage_protection::start_claims,
    ),
    (
        "persistentvolume-protection-controller",
        storage_protection::start_volumes,
    ),
    ("token-cleaner-controller", token_cleaner::start),
    (
        "certificatesigningrequest-approving-controller",
        certificates::start_approving,
    ),
    (
        "certificatesigningrequest-signing-controller",
        certificates::start_signing,
    ),
    (
        "certificatesigningrequest-cleaner-controller",
        certificates::start_cleaning,
    ),
];

/// Adds the controllers with these names.
pub fn start(setup: &mut Setup, names: &[&str]) {
    for (_, add) in TABLE.iter().filter(|(name, _)| names.contains(name)) {
        add(setup);
    }
}
