//! Flags and the configuration file, under upstream's names. A flag overrules the file, the file overrules the default.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use daemon::cli::{LogOptions, ServingOptions};
use daemon::config::ConfigError;
use ipnet::IpNet;
use serde::Deserialize;

use crate::controllers::certificates::{Authority, Signing};
use crate::controllers::{NAMES, node_ipam::Pool};

/// The command line of kube-controller-manager.
#[derive(clap::Parser, Clone, Debug)]
#[command(
    name = "kube-controller-manager",
    version,
    about = "Runs the control loops that move a cluster towards what its objects ask for."
)]
pub struct Flags {
    /// Configuration file: a KubeControllerManagerConfiguration of kubecontrollermanager.config.k8s.io/v1alpha1.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How to reach the API servers.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// The log.
    #[command(flatten)]
    pub log: LogOptions,
    /// Where to serve health and metrics.
    #[command(flatten)]
    pub serving: ServingOptions,
    /// Port to serve health and metrics on.
    #[arg(long, default_value_t = 10257, value_name = "PORT")]
    pub secure_port: u16,
    /// Compete for leadership before starting the controllers; several managers may then run [default: true].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub leader_elect: Option<bool>,
    /// How long others wait before they take over from a silent leader [default: 15s].
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub leader_elect_lease_duration: Option<Duration>,
    /// How long a leader that cannot renew goes on [default: 10s].
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub leader_elect_renew_deadline: Option<Duration>,
    /// How often to try to become or stay leader [default: 2s].
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub leader_elect_retry_period: Option<Duration>,
    /// Controllers to run: "*" is all, "name" is one, "-name" is not that one [default: *].
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub controllers: Option<Vec<String>>,
    /// Ranges of pod addresses, one a family, separated by a comma.
    #[arg(long, value_delimiter = ',', value_name = "CIDRS")]
    pub cluster_cidr: Option<Vec<IpNet>>,
    /// Ranges of service addresses. Accepted for upstream's command lines; the API server allocates from them.
    #[arg(long, value_delimiter = ',', value_name = "CIDRS")]
    pub service_cluster_ip_range: Option<Vec<IpNet>>,
    /// Give every node a range of pod addresses out of --cluster-cidr [default: false].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub allocate_node_cidrs: Option<bool>,
    /// Prefix length of a node's IPv4 range [default: 24].
    #[arg(long, alias = "node-cidr-mask-size", value_name = "BITS")]
    pub node_cidr_mask_size_ipv4: Option<u8>,
    /// Prefix length of a node's IPv6 range [default: 64].
    #[arg(long, value_name = "BITS")]
    pub node_cidr_mask_size_ipv6: Option<u8>,
    /// How long a node may be silent before it counts as unreachable [default: 50s].
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub node_monitor_grace_period: Option<Duration>,
    /// How many pods that ended are kept, 0 for all [default: 12500].
    #[arg(long, value_name = "COUNT")]
    pub terminated_pod_gc_threshold: Option<usize>,
    /// CA bundle to publish to every namespace for verifying the API server: a PEM file.
    #[arg(long, value_name = "FILE")]
    pub root_ca_file: Option<PathBuf>,
    /// CA that signs certificate requests: a PEM file [default: none, nothing is signed].
    #[arg(long, value_name = "FILE")]
    pub cluster_signing_cert_file: Option<PathBuf>,
    /// Private key of that CA: a PEM file.
    #[arg(long, value_name = "FILE")]
    pub cluster_signing_key_file: Option<PathBuf>,
    /// The longest life of a certificate that is signed [default: 8760h].
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub cluster_signing_duration: Option<Duration>,
    /// Deployments reconciled at once [default: 5].
    #[arg(long, value_name = "COUNT")]
    pub concurrent_deployment_syncs: Option<usize>,
    /// ReplicaSets reconciled at once [default: 5].
    #[arg(long, value_name = "COUNT")]
    pub concurrent_replicaset_syncs: Option<usize>,
    /// ReplicationControllers reconciled at once [default: 5].
    #[arg(long, value_name = "COUNT")]
    pub concurrent_rc_syncs: Option<usize>,
    /// Services whose Endpoints are reconciled at once [default: 5].
    #[arg(long, value_name = "COUNT")]
    pub concurrent_endpoint_syncs: Option<usize>,
    /// Services whose EndpointSlices are reconciled at once [default: 5].
    #[arg(long, value_name = "COUNT")]
    pub concurrent_service_endpoint_syncs: Option<usize>,
    /// Namespaces deleted at once [default: 10].
    #[arg(long, value_name = "COUNT")]
    pub concurrent_namespace_syncs: Option<usize>,
    /// Objects that the garbage collector looks at at once [default: 20].
    #[arg(long, value_name = "COUNT")]
    pub concurrent_gc_syncs: Option<usize>,
    /// DaemonSets reconciled at once [default: 2].
    #[arg(long, value_name = "COUNT")]
    pub concurrent_daemonset_syncs: Option<usize>,
    /// Jobs reconciled at once [default: 5].
    #[arg(long, value_name = "COUNT")]
    pub concurrent_job_syncs: Option<usize>,
    /// StatefulSets reconciled at once [default: 5].
    #[arg(long, value_name = "COUNT")]
    pub concurrent_statefulset_syncs: Option<usize>,
}

impl Flags {
    /// Binds the port to serve on.
    pub fn listen(&self) -> Result<TcpListener, ConfigError> {
        self.serving.listen(self.secure_port)
    }
}

/// The configuration file; upstream's structure with the fields that mean something here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct File {
    generic: Generic,
    #[serde(rename = "kubeCloudShared")]
    shared: KubeCloudShared,
    deployment_controller: DeploymentController,
    replica_set_controller: ReplicaSetController,
    replication_controller: ReplicationController,
    endpoint_controller: EndpointController,
    endpoint_slice_controller: EndpointSliceController,
    namespace_controller: NamespaceController,
    garbage_collector_controller: GarbageCollector,
    #[serde(rename = "podGCController")]
    pod_gc: PodGc,
    #[serde(rename = "nodeIPAMController")]
    node_ipam: NodeIpam,
    node_lifecycle_controller: NodeLifecycle,
    #[serde(rename = "saController")]
    service_accounts: ServiceAccounts,
    #[serde(rename = "csrSigningController")]
    signing: SigningController,
    daemon_set_controller: DaemonSetController,
    job_controller: JobController,
    stateful_set_controller: StatefulSetController,
}

macro_rules! section {
    ($($name:ident { $($field:ident: $type:ty $(= $rename:literal)?),* })*) => {
        $(#[derive(Clone, Debug, Default, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
        struct $name { $($(#[serde(rename = $rename)])? $field: Option<$type>,)* })*
    };
}

section! {
    Generic { controllers: Vec<String>, leader_election: LeaderElection }
    LeaderElection { leader_elect: bool, lease_duration: Text, renew_deadline: Text, retry_period: Text }
    KubeCloudShared { cluster_cidr: String = "clusterCIDR", allocate_node_cidrs: bool = "allocateNodeCIDRs" }
    DeploymentController { concurrent_deployment_syncs: usize }
    ReplicaSetController { concurrent_rs_syncs: usize = "concurrentRSSyncs" }
    ReplicationController { concurrent_rc_syncs: usize = "concurrentRCSyncs" }
    EndpointController { concurrent_endpoint_syncs: usize }
    EndpointSliceController { concurrent_service_endpoint_syncs: usize }
    NamespaceController { concurrent_namespace_syncs: usize }
    GarbageCollector { concurrent_gc_syncs: usize = "concurrentGCSyncs" }
    PodGc { terminated_pod_gc_threshold: usize = "terminatedPodGCThreshold" }
    NodeIpam {
        node_cidr_mask_size_ipv4: u8 = "nodeCIDRMaskSizeIPv4",
        node_cidr_mask_size_ipv6: u8 = "nodeCIDRMaskSizeIPv6",
        node_cidr_mask_size: u8 = "nodeCIDRMaskSize"
    }
    NodeLifecycle { node_monitor_grace_period: Text }
    SigningController { cluster_signing_cert_file: PathBuf, cluster_signing_key_file: PathBuf, cluster_signing_duration: Text }
    ServiceAccounts { root_ca_file: PathBuf = "rootCAFile" }
    DaemonSetController { concurrent_daemon_set_syncs: usize }
    JobController { concurrent_job_syncs: usize }
    StatefulSetController { concurrent_stateful_set_syncs: usize }
}

/// A duration in the file, as Go writes it.
#[derive(Clone, Copy, Debug)]
struct Text(Duration);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        duration(&String::deserialize(deserializer)?)
            .map(Text)
            .map_err(serde::de::Error::custom)
    }
}

/// What the manager runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// How to reach the API servers.
    pub kubeconfig: PathBuf,
    /// Where to serve, with which certificates.
    pub serving: ServingOptions,
    /// The election, if there is one.
    pub leader_election: Option<Election>,
    /// The controllers to run.
    pub controllers: Vec<&'static str>,
    /// The ranges that nodes get theirs from; none if they get none.
    pub pools: Vec<Pool>,
    /// How long a node may be silent.
    pub node_monitor_grace_period: Duration,
    /// How many ended pods stay, 0 for all.
    pub terminated_pod_gc_threshold: usize,
    /// The CA bundle to publish, in PEM.
    pub root_ca: Option<String>,
    /// The CA that signs certificate requests.
    pub signing: Option<Arc<Signing>>,
    /// Deployments reconciled at once.
    pub concurrent_deployment_syncs: usize,
    /// ReplicaSets reconciled at once.
    pub concurrent_replicaset_syncs: usize,
    /// ReplicationControllers reconciled at once.
    pub concurrent_rc_syncs: usize,
    /// Services whose Endpoints are reconciled at once.
    pub concurrent_endpoint_syncs: usize,
    /// Services whose EndpointSlices are reconciled at once.
    pub concurrent_service_endpoint_syncs: usize,
    /// Namespaces deleted at once.
    pub concurrent_namespace_syncs: usize,
    /// Objects the garbage collector looks at at once.
    pub concurrent_gc_syncs: usize,
    /// DaemonSets reconciled at once.
    pub concurrent_daemonset_syncs: usize,
    /// Jobs reconciled at once.
    pub concurrent_job_syncs: usize,
    /// StatefulSets reconciled at once.
    pub concurrent_statefulset_syncs: usize,
}

/// The periods of a leader election.
#[derive(Clone, Copy, Debug)]
pub struct Election {
    /// How long others wait for a silent leader.
    pub lease_duration: Duration,
    /// How long a leader that cannot renew goes on.
    pub renew_deadline: Duration,
    /// How often to try.
    pub retry_period: Duration,
}

impl Config {
    /// Reads the file that the flags name and puts the flags over it.
    pub fn load(flags: Flags) -> Result<Config, ConfigError> {
        let file = match &flags.config {
            Some(path) => daemon::config::load(
                path,
                "kubecontrollermanager.config.k8s.io/v1alpha1",
                "KubeControllerManagerConfiguration",
            )?,
            None => File::default(),
        };
        Config::merge(flags, file)
    }

    fn merge(flags: Flags, file: File) -> Result<Config, ConfigError> {
        let election = file.generic.leader_election.unwrap_or_default();
        let leader_election = flags.leader_elect.or(election.leader_elect).unwrap_or(true).then(|| {
            let period = |flag: Option<Duration>, file: Option<Text>, seconds| {
                flag.or(file.map(|text| text.0)).unwrap_or(Duration::from_secs(seconds))
            };
            Election {
                lease_duration: period(flags.leader_elect_lease_duration, election.lease_duration, 15),
                renew_deadline: period(flags.leader_elect_renew_deadline, election.renew_deadline, 10),
                retry_period: period(flags.leader_elect_retry_period, election.retry_period, 2),
            }
        });
        let allocate = flags
            .allocate_node_cidrs
            .or(file.shared.allocate_node_cidrs)
            .unwrap_or(false);
        let clusters = match (flags.cluster_cidr, &file.shared.cluster_cidr) {
            (Some(clusters), _) => clusters,
            (None, Some(text)) => text.split(',').map(range).collect::<Result<_, _>>()?,
            (None, None) => Vec::new(),
        };
        let mask_v4 = flags
            .node_cidr_mask_size_ipv4
            .or(file.node_ipam.node_cidr_mask_size_ipv4)
            .or(file.node_ipam.node_cidr_mask_size);
        let masks = (
            mask_v4.unwrap_or(24),
            flags
                .node_cidr_mask_size_ipv6
                .or(file.node_ipam.node_cidr_mask_size_ipv6)
                .unwrap_or(64),
        );
        let wanted = flags
            .controllers
            .or(file.generic.controllers)
            .unwrap_or_else(|| vec!["*".into()]);
        let grace = flags.node_monitor_grace_period.or(file
            .node_lifecycle_controller
            .node_monitor_grace_period
            .map(|text| text.0));
        let root_ca = flags.root_ca_file.or(file.service_accounts.root_ca_file);
        Ok(Config {
            kubeconfig: flags.kubeconfig,
            serving: flags.serving,
            leader_election,
            controllers: select(&wanted)?,
            pools: pools(allocate, clusters, masks)?,
            node_monitor_grace_period: grace.unwrap_or(Duration::from_secs(50)),
            terminated_pod_gc_threshold: flags
                .terminated_pod_gc_threshold
                .or(file.pod_gc.terminated_pod_gc_threshold)
                .unwrap_or(12500),
            root_ca: root_ca.as_deref().map(read_ca).transpose()?,
            signing: signing(
                flags
                    .cluster_signing_cert_file
                    .or(file.signing.cluster_signing_cert_file),
                flags.cluster_signing_key_file.or(file.signing.cluster_signing_key_file),
                flags
                    .cluster_signing_duration
                    .or(file.signing.cluster_signing_duration.map(|text| text.0)),
            )?,
            concurrent_deployment_syncs: flags
                .concurrent_deployment_syncs
                .or(file.deployment_controller.concurrent_deployment_syncs)
                .unwrap_or(5),
            concurrent_replicaset_syncs: flags
                .concurrent_replicaset_syncs
                .or(file.replica_set_controller.concurrent_rs_syncs)
                .unwrap_or(5),
            concurrent_rc_syncs: flags
                .concurrent_rc_syncs
                .or(file.replication_controller.concurrent_rc_syncs)
                .unwrap_or(5),
            concurrent_endpoint_syncs: flags
                .concurrent_endpoint_syncs
                .or(file.endpoint_controller.concurrent_endpoint_syncs)
                .unwrap_or(5),
            concurrent_service_endpoint_syncs: flags
                .concurrent_service_endpoint_syncs
                .or(file.endpoint_slice_controller.concurrent_service_endpoint_syncs)
                .unwrap_or(5),
            concurrent_namespace_syncs: flags
                .concurrent_namespace_syncs
                .or(file.namespace_controller.concurrent_namespace_syncs)
                .unwrap_or(10),
            concurrent_gc_syncs: flags
                .concurrent_gc_syncs
                .or(file.garbage_collector_controller.concurrent_gc_syncs)
                .unwrap_or(20),
            concurrent_daemonset_syncs: flags
                .concurrent_daemonset_syncs
                .or(file.daemon_set_controller.concurrent_daemon_set_syncs)
                .unwrap_or(2),
            concurrent_job_syncs: flags
                .concurrent_job_syncs
                .or(file.job_controller.concurrent_job_syncs)
                .unwrap_or(5),
            concurrent_statefulset_syncs: flags
                .concurrent_statefulset_syncs
                .or(file.stateful_set_controller.concurrent_stateful_set_syncs)
                .unwrap_or(5),
        })
    }
}

/// A duration as Go writes it: `40s`, `1m30s`.
fn duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("expected a duration such as 40s or 1m30s, found {text:?}");
    let signed: jiff::SignedDuration = text.parse().map_err(|_| expected())?;
    Duration::try_from(signed).map_err(|_| expected())
}

fn range(text: &str) -> Result<IpNet, ConfigError> {
    let expected = || {
        ConfigError::Usage(format!(
            "clusterCIDR: expected ranges such as 10.244.0.0/16, found {text:?}"
        ))
    };
    text.trim().parse().map_err(|_| expected())
}

fn pools(allocate: bool, clusters: Vec<IpNet>, (v4, v6): (u8, u8)) -> Result<Vec<Pool>, ConfigError> {
    if !allocate {
        return Ok(Vec::new());
    }
    if clusters.is_empty() {
        return Err(ConfigError::Usage(
            "--allocate-node-cidrs: expected --cluster-cidr with it".into(),
        ));
    }
    let pool = |cluster: IpNet| {
        let bits = if cluster.addr().is_ipv4() { v4 } else { v6 };
        Pool::new(cluster, bits).map_err(|error| ConfigError::Usage(format!("--cluster-cidr: {error}")))
    };
    clusters.into_iter().map(pool).collect()
}

/// The controllers that a list such as `*,-daemonset` means.
fn select(wanted: &[String]) -> Result<Vec<&'static str>, ConfigError> {
    for name in wanted.iter().filter(|name| *name != "*") {
        let name = name.strip_prefix('-').unwrap_or(name);
        if !NAMES.contains(&name) {
            let expected = NAMES.join(", ");
            return Err(ConfigError::Usage(format!(
                "--controllers: no controller {name:?}; expected * or any of {expected}"
            )));
        }
    }
    let has = |name: &str| wanted.iter().any(|other| other == name);
    let runs = |name: &&&str| !has(&format!("-{name}")) && (has("*") || has(name));
    Ok(NAMES.iter().filter(runs).copied().collect())
}

/// The CA for certificate requests, if it is configured.
fn signing(
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    duration: Option<Duration>,
) -> Result<Option<Arc<Signing>>, ConfigError> {
    let (certificate, key) = match (certificate, key) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => (certificate, key),
        _ => {
            let what = "--cluster-signing-cert-file and --cluster-signing-key-file: expected both or none";
            return Err(ConfigError::Usage(what.into()));
        }
    };
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|source| ConfigError::Read {
            path: path.clone(),
            source,
        })
    };
    let authority = Authority::from_pem(&read(&certificate)?, &read(&key)?).map_err(|error| {
        ConfigError::Usage(format!(
            "--cluster-signing-cert-file {}, --cluster-signing-key-file {}: {error}",
            certificate.display(),
            key.display()
        ))
    })?;
    Ok(Some(Arc::new(Signing {
        authority,
        duration: duration.unwrap_or(Duration::from_secs(365 * 24 * 3600)),
    })))
}

fn read_ca(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn flags(more: &[&str]) -> Flags {
        let required = [
            "kcm",
            "--kubeconfig=k",
            "--tls-cert-file=c",
            "--tls-private-key-file=p",
            "--client-ca-file=a",
        ];
        Flags::try_parse_from(required.iter().chain(more)).unwrap()
    }

    #[test]
    fn defaults_are_upstreams() {
        let config = Config::merge(flags(&[]), File::default()).unwrap();
        assert_eq!(config.controllers, NAMES);
        assert_eq!(config.leader_election.unwrap().lease_duration, Duration::from_secs(15));
        assert_eq!(config.node_monitor_grace_period, Duration::from_secs(50));
        assert_eq!((config.terminated_pod_gc_threshold, config.pools.len()), (12500, 0));
    }

    #[test]
    fn a_flag_overrules_the_file() {
        let text = serde_json::json!({
            "generic": {"leaderElection": {"leaderElect": false}, "controllers": ["*", "-deployment-controller"]},
            "kubeCloudShared": {"clusterCIDR": "10.1.0.0/16,fd00::/48", "allocateNodeCIDRs": true},
            "nodeLifecycleController": {"nodeMonitorGracePeriod": "1m30s"},
            "podGCController": {"terminatedPodGCThreshold": 7},
        });
        let file: File = serde_json::from_value(text).unwrap();
        let config = Config::merge(flags(&["--terminated-pod-gc-threshold=9", "--leader-elect"]), file).unwrap();
        assert!(config.leader_election.is_some());
        assert_eq!(config.terminated_pod_gc_threshold, 9);
        assert_eq!(config.node_monitor_grace_period, Duration::from_secs(90));
        assert_eq!(config.pools.len(), 2);
        assert!(!config.controllers.contains(&"deployment-controller"));
    }

    #[test]
    fn wrong_values_name_the_flag_and_what_was_expected() {
        let cases: [(&[&str], &str); 3] = [
            (&["--controllers=nope"], "--controllers: no controller \"nope\""),
            (&["--allocate-node-cidrs"], "expected --cluster-cidr"),
            (
                &["--allocate-node-cidrs", "--cluster-cidr=10.0.0.0/25"],
                "node mask /24 does not fit",
            ),
        ];
        for (more, expected) in cases {
            let error = Config::merge(flags(more), File::default()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(duration("40").is_err() && duration("-1s").is_err());
    }

    #[test]
    fn wrong_files_are_refused_in_one_line() {
        let sample = serde_json::json!({
            "apiVersion": "kubecontrollermanager.config.k8s.io/v1alpha1", "kind": "KubeControllerManagerConfiguration",
            "generic": {"leaderElection": {"leaderElect": true, "leaseDuration": "15s", "renewDeadline": "10s", "retryPeriod": "2s"},
                        "controllers": ["*", "-deployment-controller"]},
            "kubeCloudShared": {"clusterCIDR": "10.1.0.0/16,fd00::/48", "allocateNodeCIDRs": true},
            "nodeIPAMController": {"nodeCIDRMaskSizeIPv4": 24, "nodeCIDRMaskSizeIPv6": 64},
            "nodeLifecycleController": {"nodeMonitorGracePeriod": "1m30s"},
            "podGCController": {"terminatedPodGCThreshold": 7},
            "deploymentController": {"concurrentDeploymentSyncs": 3},
        });
        let refused = daemon::config::testing::read_wrong_documents(&sample, |file| {
            Config::load(flags(&["--config", file.to_str().unwrap()])).map(drop)
        });
        assert!(refused > 150, "{refused}");
    }
}
