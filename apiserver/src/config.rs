//! Flags and the configuration file. Flags have upstream's names where upstream has the flag; a file given with `--config` sets the same things
//! under camelCase names, and a flag overrules it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub mod security;

use daemon::cli::LogOptions;
use daemon::config::ConfigError;
use daemon::tls::TlsFiles;
use ipnet::Ipv4Net;
use security::{AuditSettings, AuthenticationSettings, AuthorizationSettings, EncryptionSettings};
use serde::Deserialize;

use crate::admission::config::AdmissionConfig;
use crate::aggregation::config::{AggregationConfig, AggregationSettings};
use crate::audit::config::AuditConfig;
use crate::flowcontrol;

/// `apiVersion` of the file.
pub const API_VERSION: &str = "apiserver.config.keelson.dev/v1";
/// `kind` of the file.
pub const KIND: &str = "KubeApiserverConfiguration";

/// The command line.
#[derive(clap::Parser, Debug)]
#[command(
    name = "kube-apiserver",
    version,
    about = "The Kubernetes API over REST and gRPC, and the replicated store behind it."
)]
pub struct Options {
    /// Configuration file, YAML.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What can be set by flag or file.
    #[command(flatten)]
    pub settings: Settings,
    /// The log.
    #[command(flatten)]
    pub log: LogOptions,
}

/// What can be set by flag or file; the first that says something wins, then the default.
#[derive(clap::Args, Deserialize, Debug, Default, Clone)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// Address to serve on [default: 0.0.0.0].
    #[arg(long, value_name = "IP")]
    pub bind_address: Option<IpAddr>,
    /// Port for REST and gRPC over TLS [default: 6443].
    #[arg(long, value_name = "PORT")]
    pub secure_port: Option<u16>,
    /// Address under which the cluster's members and the `kubernetes` Service reach this server [default: the bind address].
    #[arg(long, value_name = "IP")]
    pub advertise_address: Option<IpAddr>,
    /// Certificate to serve with: a PEM file, read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,
    /// Private key of the certificate: a PEM file, read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub tls_private_key_file: Option<PathBuf>,
    /// CA that signs the client certificates to trust: a PEM file, read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// Client certificate towards kubelets and other API servers [default: the serving certificate].
    #[arg(long, value_name = "FILE")]
    pub kubelet_client_certificate: Option<PathBuf>,
    /// Private key of that certificate.
    #[arg(long, value_name = "FILE")]
    pub kubelet_client_key: Option<PathBuf>,
    /// Range of the Services' cluster IPs [default: 10.96.0.0/16].
    #[arg(long, value_name = "CIDR")]
    pub service_cluster_ip_range: Option<Ipv4Net>,
    /// Range of node ports, as `30000-32767`, which is the default.
    #[arg(long, value_name = "FROM-TO")]
    pub service_node_port_range: Option<String>,
    /// Issuer of service-account tokens [default: https://kubernetes.default.svc.cluster.local].
    #[arg(long, value_name = "URL")]
    pub service_account_issuer: Option<String>,
    /// Public or private key (PEM) that verifies service-account tokens; may be given more than once.
    #[arg(long, value_name = "FILE")]
    pub service_account_key_file: Vec<PathBuf>,
    /// Private key (PEM) that signs service-account tokens.
    #[arg(long, value_name = "FILE")]
    pub service_account_signing_key_file: Option<PathBuf>,
    /// CSV file of bearer tokens, a line each: token,user,uid,"group1,group2" [default: none].
    #[arg(long, value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// Admission plugins to run besides the default ones, comma-separated; may be given more than once.
    #[arg(long, value_name = "NAMES")]
    pub enable_admission_plugins: Vec<String>,
    /// Default admission plugins not to run, comma-separated; may be given more than once.
    #[arg(long, value_name = "NAMES")]
    pub disable_admission_plugins: Vec<String>,
    /// AdmissionConfiguration file: how admission plugins are configured [default: none].
    #[arg(long, value_name = "FILE")]
    pub admission_control_config_file: Option<PathBuf>,
    /// Audit.
    #[command(flatten)]
    pub audit: AuditSettings,
    /// Authentication.
    #[command(flatten)]
    pub authentication: AuthenticationSettings,
    /// Authorization.
    #[command(flatten)]
    pub authorization: AuthorizationSettings,
    /// Encryption at rest.
    #[command(flatten)]
    pub encryption: EncryptionSettings,
    /// Extension API servers and front proxies.
    #[command(flatten)]
    pub aggregation: AggregationSettings,
    /// Reads at once; together with the writes the seats that priority levels divide [default: 400].
    #[arg(long, value_name = "N")]
    pub max_requests_inflight: Option<u32>,
    /// Writes at once [default: 200].
    #[arg(long, value_name = "N")]
    pub max_mutating_requests_inflight: Option<u32>,
    /// Queue requests by priority level and flow instead of refusing those beyond the two numbers [default: true].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub enable_priority_and_fairness: Option<bool>,
    /// How long to serve on after a stop is asked for, unready, so that load balancers notice first [default: 0].
    #[arg(long, value_name = "SECONDS")]
    pub shutdown_delay_duration: Option<u64>,
    /// Folder of the store [default: /var/lib/kube-apiserver].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Number of this member among the API servers, never used again for another one [default: 1].
    #[arg(long, value_name = "N")]
    pub raft_id: Option<u64>,
    /// Name of this member [default: the host's name].
    #[arg(long, value_name = "NAME")]
    pub raft_name: Option<String>,
    /// All first members of a new cluster, as `1=a@10.0.0.1:6443,2=b@10.0.0.2:6443` [default: this one alone].
    #[arg(long, value_name = "MEMBERS")]
    pub raft_members: Option<String>,
    /// Join the cluster of this API server (`host:port`) instead of starting one.
    #[arg(long, value_name = "ADDRESS")]
    pub raft_join: Option<String>,
}

/// A member of the cluster of API servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// `host:port`.
    pub address: String,
}

/// Where objects are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// In memory only, for tests.
    Memory,
    /// Replicated, in a folder.
    Raft {
        /// The folder.
        data_dir: PathBuf,
        /// This member.
        this: Member,
        /// The first members of a new cluster.
        members: Vec<Member>,
        /// A server of the cluster to join.
        join: Option<String>,
    },
}

/// Everything `run` needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where others reach this server.
    pub advertise: SocketAddr,
    /// Serving certificate and client CA.
    pub serving: TlsFiles,
    /// Client certificate towards kubelets and other API servers.
    pub peer: TlsFiles,
    /// Cluster IPs.
    pub service_cidr: Ipv4Net,
    /// First and last node port.
    pub node_ports: (u16, u16),
    /// Of service-account tokens.
    pub issuer: String,
    /// Keys that verify service-account tokens.
    pub token_keys: Vec<PathBuf>,
    /// The key that signs them.
    pub signing_key: PathBuf,
    /// Static bearer tokens.
    pub static_tokens: Option<PathBuf>,
    /// Admission plugins.
    pub admission: AdmissionConfig,
    /// Who may ask, and how they show it.
    pub authentication: AuthenticationSettings,
    /// Who decides what they may do.
    pub authorization: AuthorizationSettings,
    /// Encryption at rest; the key file is always named.
    pub encryption: EncryptionSettings,
    /// What is recorded, and where.
    pub audit: AuditConfig,
    /// Extension API servers and front proxies.
    pub aggregation: AggregationConfig,
    /// Requests at once.
    pub flow: flowcontrol::Limits,
    /// Where objects are kept.
    pub storage: Storage,
    /// How long the server serves on, unready, when it is to stop.
    pub delay: Duration,
    /// How long connections may take to finish when the server stops.
    pub drain: Duration,
}

impl Config {
    /// From flags over file over defaults.
    ///
    /// # Errors
    /// One line naming the file and key, or the flag, and what was expected.
    pub fn resolve(options: &Options) -> Result<Self, ConfigError> {
        let file = match &options.config {
            Some(path) => daemon::config::load(path, API_VERSION, KIND)?,
            None => Settings::default(),
        };
        Self::from_settings(options.settings.clone().over(file))
    }

    /// From settings over defaults.
    ///
    /// # Errors
    /// One line naming the flag and what was expected.
    pub fn from_settings(s: Settings) -> Result<Self, ConfigError> {
        let bind = s.bind_address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let port = s.secure_port.unwrap_or(6443);
        let advertise = SocketAddr::new(
            s.advertise_address.unwrap_or(if bind.is_unspecified() {
                IpAddr::V4(Ipv4Addr::LOCALHOST)
            } else {
                bind
            }),
            port,
        );
        let serving = TlsFiles {
            certificate: required(s.tls_cert_file, "tls-cert-file")?,
            key: required(s.tls_private_key_file, "tls-private-key-file")?,
            ca: required(s.client_ca_file, "client-ca-file")?,
        };
        let peer = TlsFiles {
            certificate: s
                .kubelet_client_certificate
                .unwrap_or_else(|| serving.certificate.clone()),
            key: s.kubelet_client_key.unwrap_or_else(|| serving.key.clone()),
            ca: serving.ca.clone(),
        };
        let this = Member {
            id: s.raft_id.unwrap_or(1),
            name: s.raft_name.unwrap_or_else(host_name),
            address: advertise.to_string(),
        };
        let members = match s.raft_members.as_deref() {
            None | Some("") => vec![this.clone()],
            Some(text) => parse_members(text)?,
        };
        if this.id == 0 || !members.iter().any(|m| m.id == this.id) && s.raft_join.is_none() {
            return Err(ConfigError::Usage(format!(
                "--raft-id: expected the number of one of --raft-members, found {}",
                this.id
            )));
        }
        let signing_key = required(s.service_account_signing_key_file, "service-account-signing-key-file")?;
        let key_file = s.encryption.encryption_key_file.clone();
        Ok(Self {
            aggregation: AggregationConfig::new(&s.aggregation, &s.authentication)?,
            authentication: s.authentication,
            authorization: s.authorization,
            encryption: EncryptionSettings {
                encryption_key_file: key_file.or_else(|| Some(signing_key.with_file_name("encryption.key"))),
                ..s.encryption
            },
            listen: SocketAddr::new(bind, port),
            advertise,
            serving,
            peer,
            service_cidr: s
                .service_cluster_ip_range
                .unwrap_or(Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16)),
            node_ports: parse_ports(s.service_node_port_range.as_deref().unwrap_or("30000-32767"))?,
            issuer: s
                .service_account_issuer
                .unwrap_or_else(|| "https://kubernetes.default.svc.cluster.local".into()),
            token_keys: s.service_account_key_file,
            signing_key,
            static_tokens: s.token_auth_file,
            admission: AdmissionConfig::new(
                &s.enable_admission_plugins,
                &s.disable_admission_plugins,
                s.admission_control_config_file.as_deref(),
            )?,
            audit: AuditConfig::new(&s.audit)?,
            flow: flowcontrol::Limits {
                reads: s.max_requests_inflight.unwrap_or(400),
                writes: s.max_mutating_requests_inflight.unwrap_or(200),
                fair: s.enable_priority_and_fairness.unwrap_or(true),
            },
            delay: Duration::from_secs(s.shutdown_delay_duration.unwrap_or(0)),
            storage: Storage::Raft {
                data_dir: s.data_dir.unwrap_or_else(|| "/var/lib/kube-apiserver".into()),
                this,
                members,
                join: s.raft_join,
            },
            drain: Duration::from_secs(10),
        })
    }
}

impl Settings {
    fn over(self, file: Self) -> Self {
        Self {
            bind_address: self.bind_address.or(file.bind_address),
            secure_port: self.secure_port.or(file.secure_port),
            advertise_address: self.advertise_address.or(file.advertise_address),
            tls_cert_file: self.tls_cert_file.or(file.tls_cert_file),
            tls_private_key_file: self.tls_private_key_file.or(file.tls_private_key_file),
            client_ca_file: self.client_ca_file.or(file.client_ca_file),
            kubelet_client_certificate: self.kubelet_client_certificate.or(file.kubelet_client_certificate),
            kubelet_client_key: self.kubelet_client_key.or(file.kubelet_client_key),
            service_cluster_ip_range: self.service_cluster_ip_range.or(file.service_cluster_ip_range),
            service_node_port_range: self.service_node_port_range.or(file.service_node_port_range),
            service_account_issuer: self.service_account_issuer.or(file.service_account_issuer),
            service_account_key_file: first(self.service_account_key_file, file.service_account_key_file),
            token_auth_file: self.token_auth_file.or(file.token_auth_file),
            service_account_signing_key_file: self
                .service_account_signing_key_file
                .or(file.service_account_signing_key_file),
            enable_admission_plugins: first(self.enable_admission_plugins, file.enable_admission_plugins),
            disable_admission_plugins: first(self.disable_admission_plugins, file.disable_admission_plugins),
            admission_control_config_file: self
                .admission_control_config_file
                .or(file.admission_control_config_file),
            audit: self.audit.over(file.audit),
            authentication: self.authentication.over(file.authentication),
            authorization: self.authorization.over(file.authorization),
            encryption: self.encryption.over(file.encryption),
            aggregation: self.aggregation.over(file.aggregation),
            max_requests_inflight: self.max_requests_inflight.or(file.max_requests_inflight),
            max_mutating_requests_inflight: self
                .max_mutating_requests_inflight
                .or(file.max_mutating_requests_inflight),
            enable_priority_and_fairness: self.enable_priority_and_fairness.or(file.enable_priority_and_fairness),
            shutdown_delay_duration: self.shutdown_delay_duration.or(file.shutdown_delay_duration),
            data_dir: self.data_dir.or(file.data_dir),
            raft_id: self.raft_id.or(file.raft_id),
            raft_name: self.raft_name.or(file.raft_name),
            raft_members: self.raft_members.or(file.raft_members),
            raft_join: self.raft_join.or(file.raft_join),
        }
    }
}

/// The flag's values, or those of the file if there are none.
fn first<T>(flag: Vec<T>, file: Vec<T>) -> Vec<T> {
    if flag.is_empty() { file } else { flag }
}

fn required(path: Option<PathBuf>, flag: &str) -> Result<PathBuf, ConfigError> {
    path.ok_or_else(|| {
        ConfigError::Usage(format!(
            "--{flag}: expected a file, but neither the flag nor the configuration file names one"
        ))
    })
}

fn parse_members(text: &str) -> Result<Vec<Member>, ConfigError> {
    let member = |part: &str| {
        let (id, rest) = part.trim().split_once('=')?;
        let (name, address) = rest.split_once('@')?;
        let well_formed = !name.is_empty()
            && address
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        let id = id.parse().ok().filter(|id| *id > 0)?;
        well_formed.then(|| Member {
            id,
            name: name.into(),
            address: address.into(),
        })
    };
    text.split(',')
        .map(|part| {
            member(part).ok_or_else(|| {
                ConfigError::Usage(format!(
                    "--raft-members: expected <number>=<name>@<host>:<port>, found {part:?}"
                ))
            })
        })
        .collect()
}

fn parse_ports(text: &str) -> Result<(u16, u16), ConfigError> {
    let ports = text
        .split_once('-')
        .and_then(|(from, to)| Some((from.trim().parse().ok()?, to.trim().parse().ok()?)));
    match ports {
        Some((from, to)) if 0 < from && from <= to => Ok((from, to)),
        _ => Err(ConfigError::Usage(format!(
            "--service-node-port-range: expected <from>-<to>, found {text:?}"
        ))),
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "apiserver".into(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn settings(extra: &[&str]) -> Result<Config, ConfigError> {
        let base = [
            "kube-apiserver",
            "--tls-cert-file=c",
            "--tls-private-key-file=k",
            "--client-ca-file=a",
            "--service-account-signing-key-file=s",
        ];
        Config::resolve(&Options::try_parse_from(base.iter().chain(extra)).unwrap())
    }

    #[test]
    fn members_are_read() {
        let config = settings(&["--raft-id=2", "--raft-members=1=a@10.0.0.1:6443,2=b@10.0.0.2:6443"]).unwrap();
        let Storage::Raft { members, this, .. } = config.storage else {
            panic!("not raft")
        };
        assert_eq!((members.len(), this.id, members[1].name.as_str()), (2, 2, "b"));
    }

    #[test]
    fn a_wrong_flag_is_named() {
        for (flag, text) in [
            (
                "--raft-members=1=a",
                "--raft-members: expected <number>=<name>@<host>:<port>, found \"1=a\"",
            ),
            (
                "--service-node-port-range=9-1",
                "--service-node-port-range: expected <from>-<to>, found \"9-1\"",
            ),
        ] {
            assert_eq!(settings(&[flag]).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn a_flag_overrules_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        std::fs::write(
            &path,
            format!("apiVersion: {API_VERSION}\nkind: {KIND}\nsecurePort: 7000\nraftName: file\n"),
        )
        .unwrap();
        let config = settings(&["--config", path.to_str().unwrap(), "--raft-name=flag"]).unwrap();
        let Storage::Raft { this, .. } = config.storage else {
            panic!("not raft")
        };
        assert_eq!((config.listen.port(), this.name.as_str()), (7000, "flag"));
    }

    #[test]
    fn wrong_files_are_refused_in_one_line() {
        let sample = serde_json::json!({
            "apiVersion": API_VERSION, "kind": KIND, "bindAddress": "127.0.0.1", "securePort": 7000, "advertiseAddress": "10.0.0.1",
            "tlsCertFile": "c", "serviceClusterIpRange": "10.0.0.0/16", "serviceNodePortRange": "30000-30100",
            "serviceAccountKeyFile": ["k"], "raftId": 2, "raftMembers": "1=a@10.0.0.1:6443,2=b@10.0.0.2:6443",
        });
        let refused = daemon::config::testing::read_wrong_documents(&sample, |file| {
            settings(&["--config", file.to_str().unwrap()]).map(drop)
        });
        assert!(refused > 90, "{refused}");
    }
}
