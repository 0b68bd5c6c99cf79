//! Flags and the KubeSchedulerConfiguration file (kubescheduler.config.k8s.io/v1, the keys that Keelson's scheduler has).

use std::path::PathBuf;
use std::time::Duration;

use daemon::cli::{LogOptions, ServingOptions};
use daemon::config::{ConfigError, load};
use serde::Deserialize;

use crate::queue::Backoff;

/// kube-scheduler assigns pods to nodes: it watches for pods without a node, finds the nodes on which they can run, and binds each to the
/// best of them.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "kube-scheduler", version, max_term_width = 120)]
pub struct Flags {
    /// Configuration: a KubeSchedulerConfiguration file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How to reach kube-apiserver: a kubeconfig file. Overrules the configuration.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Port of /livez, /readyz and /metrics.
    #[arg(long, default_value_t = 10259, value_name = "PORT")]
    pub secure_port: u16,
    /// Compete for leadership, so that several schedulers can stand by. Overrules the configuration.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub leader_elect: Option<bool>,
    /// Serving address and certificates.
    #[command(flatten)]
    pub serving: ServingOptions,
    /// Log.
    #[command(flatten)]
    pub log: LogOptions,
}

/// The configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct File {
    client_connection: ClientConnection,
    leader_election: LeaderElection,
    percentage_of_nodes_to_score: u8,
    pod_initial_backoff_seconds: u64,
    pod_max_backoff_seconds: u64,
    profiles: Vec<ProfileName>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClientConnection {
    kubeconfig: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LeaderElection {
    leader_elect: bool,
    resource_namespace: String,
    resource_name: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProfileName {
    scheduler_name: String,
}

impl Default for LeaderElection {
    fn default() -> Self {
        Self {
            leader_elect: true,
            resource_namespace: "kube-system".into(),
            resource_name: "kube-scheduler".into(),
        }
    }
}

impl Default for File {
    fn default() -> Self {
        Self {
            client_connection: ClientConnection::default(),
            leader_election: LeaderElection::default(),
            percentage_of_nodes_to_score: 0,
            pod_initial_backoff_seconds: 1,
            pod_max_backoff_seconds: 10,
            profiles: vec![ProfileName {
                scheduler_name: "default-scheduler".into(),
            }],
        }
    }
}

/// What the daemon runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// How to reach kube-apiserver.
    pub kubeconfig: PathBuf,
    /// Namespace and name of the Lease to compete for; `None` to lead at once.
    pub lease: Option<(String, String)>,
    /// The schedulers that pods may name to mean this one.
    pub scheduler_names: Vec<String>,
    /// 0 chooses by the size of the cluster.
    pub percentage_of_nodes_to_score: usize,
    /// How long failed pods wait.
    pub backoff: Backoff,
    /// Serving address and certificates.
    pub serving: ServingOptions,
}

impl Config {
    /// Puts flags and file together.
    ///
    /// # Errors
    /// One line that names the flag, or the file and the key.
    pub fn new(flags: &Flags) -> Result<Self, ConfigError> {
        let file = match &flags.config {
            Some(path) => {
                let file: File = load(path, "kubescheduler.config.k8s.io/v1", "KubeSchedulerConfiguration")?;
                file.check().map_err(|what| ConfigError::Content {
                    path: path.clone(),
                    what,
                })?;
                file
            }
            None => File::default(),
        };
        let kubeconfig = flags
            .kubeconfig
            .clone()
            .or(file.client_connection.kubeconfig)
            .ok_or_else(|| {
                ConfigError::Usage(
                    "--kubeconfig, or clientConnection.kubeconfig in the configuration, is required".into(),
                )
            })?;
        let election = file.leader_election;
        let elect = flags.leader_elect.unwrap_or(election.leader_elect);
        Ok(Self {
            kubeconfig,
            lease: elect.then_some((election.resource_namespace, election.resource_name)),
            scheduler_names: file
                .profiles
                .into_iter()
                .map(|profile| profile.scheduler_name)
                .collect(),
            percentage_of_nodes_to_score: file.percentage_of_nodes_to_score.into(),
            backoff: Backoff {
                initial: Duration::from_secs(file.pod_initial_backoff_seconds),
                max: Duration::from_secs(file.pod_max_backoff_seconds),
            },
            serving: flags.serving.clone(),
        })
    }
}

impl File {
    fn check(&self) -> Result<(), String> {
        if self.percentage_of_nodes_to_score > 100 {
            return Err("percentageOfNodesToScore: expected a number from 0 to 100".into());
        }
        if self.pod_initial_backoff_seconds == 0 {
            return Err("podInitialBackoffSeconds: expected a number above 0".into());
        }
        if self.pod_max_backoff_seconds < self.pod_initial_backoff_seconds {
            return Err("podMaxBackoffSeconds: expected at least podInitialBackoffSeconds".into());
        }
        match self.profiles.is_empty() {
            true => Err("profiles: expected at least one".into()),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_file_is_refused_by_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scheduler.yaml");
        let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
        for (body, expected) in [
            (
                "percentageOfNodesToScore: 101",
                "percentageOfNodesToScore: expected a number from 0 to 100",
            ),
            (
                "podMaxBackoffSeconds: 0",
                "podMaxBackoffSeconds: expected at least podInitialBackoffSeconds",
            ),
            ("profiles: []", "profiles: expected at least one"),
            (
                "leaderElection: {leaderElection: true}",
                "leaderElection.leaderElection: unknown key",
            ),
        ] {
            std::fs::write(&path, format!("{head}{body}\n")).unwrap();
            let arguments = [
                "kube-scheduler",
                "--kubeconfig=k",
                "--tls-cert-file=c",
                "--tls-private-key-file=k",
                "--client-ca-file=a",
            ];
            let mut flags = <Flags as clap::Parser>::parse_from(arguments);
            flags.config = Some(path.clone());
            assert_eq!(
                Config::new(&flags).unwrap_err().to_string(),
                format!("{}: {expected}", path.display())
            );
        }
    }

    #[test]
    fn wrong_files_are_refused_in_one_line() {
        let sample = serde_json::json!({
            "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
            "clientConnection": {"kubeconfig": "k"},
            "leaderElection": {"leaderElect": true, "resourceNamespace": "n", "resourceName": "l"},
            "percentageOfNodesToScore": 50, "podInitialBackoffSeconds": 2, "podMaxBackoffSeconds": 20,
            "profiles": [{"schedulerName": "a"}, {"schedulerName": "b"}],
        });
        let refused = daemon::config::testing::read_wrong_documents(&sample, |file| {
            let mut flags = <Flags as clap::Parser>::parse_from([
                "kube-scheduler",
                "--tls-cert-file=c",
                "--tls-private-key-file=k",
                "--client-ca-file=a",
            ]);
            flags.config = Some(file.to_owned());
            Config::new(&flags).map(drop)
        });
        assert!(refused > 90, "{refused}");
    }
}
