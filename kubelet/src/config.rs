//! Flags and the KubeletConfiguration file, and what both come to.

use daemon::config::ConfigError;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Runs the pods of this node and reports how they are.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "kubelet", version, about)]
pub struct Flags {
    /// Configuration file of kind KubeletConfiguration (kubelet.config.k8s.io/v1beta1).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How to reach the API servers, and as whom.
    #[arg(long, value_name = "FILE", required_unless_present = "write_pause_image")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of the node, instead of the host's name.
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// Address of the node, instead of the one that leads to the default route.
    #[arg(long, value_name = "IP")]
    pub node_ip: Option<IpAddr>,
    /// Labels to register the node with: key=value, separated by commas.
    #[arg(long, value_name = "LABELS", value_parser = pair, value_delimiter = ',')]
    pub node_labels: Vec<(String, String)>,
    /// Taints to register the node with: key=value:effect, separated by commas.
    #[arg(long, value_name = "TAINTS", value_parser = taint, value_delimiter = ',')]
    pub register_with_taints: Vec<api::core::v1::Taint>,
    /// Socket of the container runtime.
    #[arg(long, value_name = "URL")]
    pub container_runtime_endpoint: Option<String>,
    /// Folder of volumes and other files of pods.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet")]
    pub root_dir: PathBuf,
    /// Cgroup below which the pods' cgroups are made.
    #[arg(long, value_name = "PATH")]
    pub cgroup_root: Option<String>,
    /// Write the image of the sandbox's pause process, an archive for `ctr images import`, and exit. "-" is standard output.
    #[arg(long, value_name = "FILE")]
    pub write_pause_image: Option<PathBuf>,
    /// Logging.
    #[command(flatten)]
    pub log: daemon::cli::LogOptions,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn taint(text: &str) -> Result<api::core::v1::Taint, String> {
    let (head, effect) = text.rsplit_once(':').ok_or("expected key=value:effect")?;
    if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        return Err("expected NoSchedule, PreferNoSchedule or NoExecute as effect".into());
    }
    let (key, value) = head.split_once('=').unwrap_or((head, ""));
    let value = Some(value.to_owned()).filter(|value| !value.is_empty());
    Ok(api::core::v1::Taint {
        key: key.to_owned(),
        value,
        effect: effect.to_owned(),
        time_added: None,
    })
}

/// KubeletConfiguration v1beta1: the keys that this kubelet acts on. Any other key is an error.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct KubeletConfiguration {
    /// Address to serve on.
    pub address: IpAddr,
    /// Port to serve on.
    pub port: u16,
    /// Certificate to serve with.
    pub tls_cert_file: PathBuf,
    /// Its key.
    pub tls_private_key_file: PathBuf,
    /// Whom to believe.
    pub authentication: Authentication,
    /// Socket of the container runtime.
    pub container_runtime_endpoint: String,
    /// `cgroupfs`; the other of upstream's two is not served.
    pub cgroup_driver: CgroupDriver,
    /// Cgroup below which `kubepods` is made.
    pub cgroup_root: String,
    /// Addresses of the cluster's DNS.
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Vec<String>,
    /// Domain of the cluster.
    pub cluster_domain: String,
    /// The host's resolv.conf, "" for none.
    pub resolv_conf: PathBuf,
    /// Pods at once.
    pub max_pods: u32,
    /// Processes of one pod, -1 for no limit.
    pub pod_pids_limit: i64,
    /// Folder of the pods' logs.
    pub pod_logs_dir: PathBuf,
    /// Size of a log file at which it is rotated.
    pub container_log_max_size: String,
    /// Log files of one container.
    pub container_log_max_files: u32,
    /// Whether the node may write its own object into the API.
    pub register_node: bool,
    /// Taints to register with.
    pub register_with_taints: Vec<api::core::v1::Taint>,
    /// How often the status is looked at.
    #[serde(deserialize_with = "duration")]
    pub node_status_update_frequency: Duration,
    /// How often an unchanged status is reported.
    #[serde(deserialize_with = "duration")]
    pub node_status_report_frequency: Duration,
    /// Life of the node's Lease.
    pub node_lease_duration_seconds: i32,
    /// Kept from pods for the system.
    pub system_reserved: BTreeMap<String, String>,
    /// Kept from pods for the kubelet and the runtime.
    pub kube_reserved: BTreeMap<String, String>,
    /// Floors of free resources, kept from pods and reported as pressure.
    pub eviction_hard: BTreeMap<String, String>,
    /// Pull one image after another.
    pub serialize_image_pulls: bool,
    /// Pulls at once when they are not serialized; none is unlimited upstream and 8 here.
    pub max_parallel_image_pulls: Option<usize>,
    /// Use of the image file system, in percent, at which unused images are removed.
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: u8,
    /// Down to this use.
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: u8,
    /// Images younger than this stay.
    #[serde(rename = "imageMinimumGCAge", deserialize_with = "duration")]
    pub image_minimum_gc_age: Duration,
}

/// Whom the kubelet's own server believes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Authentication {
    /// By client certificate.
    pub x509: X509,
}

/// Client certificates.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct X509 {
    /// The CA that signs them.
    #[serde(rename = "clientCAFile")]
    pub client_ca_file: PathBuf,
}

/// Who makes cgroups.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// The kubelet, by hand.
    #[default]
    Cgroupfs,
}

impl Default for KubeletConfiguration {
    fn default() -> Self {
        Self {
            address: IpAddr::from([0, 0, 0, 0]),
            port: 10250,
            tls_cert_file: PathBuf::new(),
            tls_private_key_file: PathBuf::new(),
            authentication: Authentication::default(),
            container_runtime_endpoint: "unix:///run/containerd/containerd.sock".into(),
            cgroup_driver: CgroupDriver::Cgroupfs,
            cgroup_root: "/".into(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            max_pods: 110,
            pod_pids_limit: -1,
            pod_logs_dir: "/var/log/pods".into(),
            container_log_max_size: "10Mi".into(),
            container_log_max_files: 5,
            register_node: true,
            register_with_taints: Vec::new(),
            node_status_update_frequency: Duration::from_secs(10),
            node_status_report_frequency: Duration::from_secs(300),
            node_lease_duration_seconds: 40,
            system_reserved: BTreeMap::new(),
            kube_reserved: BTreeMap::new(),
            eviction_hard: [
                ("memory.available", "100Mi"),
                ("nodefs.available", "10%"),
                ("nodefs.inodesFree", "5%"),
            ]
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
            serialize_image_pulls: true,
            max_parallel_image_pulls: None,
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            image_minimum_gc_age: Duration::from_secs(120),
        }
    }
}

/// Go's durations: `10s`, `1m30s`, `500ms`.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text)
        .ok_or_else(|| serde::de::Error::custom(format!("expected a duration such as 10s, found {text:?}")))
}

fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .filter(|at| *at > 0)?;
        let (number, tail) = rest.split_at(digits);
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, next) = tail.split_at(end);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * seconds;
        rest = next;
    }
    (!text.is_empty())
        .then(|| Duration::try_from_secs_f64(total).ok())
        .flatten()
}

/// Everything that the kubelet runs with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file's keys, where flags did not say otherwise.
    pub file: KubeletConfiguration,
    /// The node's name.
    pub node_name: String,
    /// The node's address.
    pub node_ip: IpAddr,
    /// Labels of the node.
    pub labels: BTreeMap<String, String>,
    /// The kubelet's folder.
    pub root: PathBuf,
    /// How to reach the API.
    pub kubeconfig: PathBuf,
}

impl Settings {
    /// Reads the file and lays the flags over it. Every error is one line that names the key.
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        let mut file: KubeletConfiguration = match &flags.config {
            Some(path) => daemon::config::load(path, "kubelet.config.k8s.io/v1beta1", "KubeletConfiguration")?,
            None => KubeletConfiguration::default(),
        };
        if let Some(endpoint) = &flags.container_runtime_endpoint {
            file.container_runtime_endpoint = endpoint.clone();
        }
        if let Some(root) = &flags.cgroup_root {
            file.cgroup_root = root.clone();
        }
        file.register_with_taints
            .extend(flags.register_with_taints.iter().cloned());
        for (key, path) in [
            ("tlsCertFile", &file.tls_cert_file),
            ("tlsPrivateKeyFile", &file.tls_private_key_file),
            (
                "authentication.x509.clientCAFile",
                &file.authentication.x509.client_ca_file,
            ),
        ] {
            if path.as_os_str().is_empty() {
                return Err(ConfigError::Usage(format!(
                    "KubeletConfiguration lacks {key}: expected a file"
                )));
            }
        }
        for (key, amounts) in [
            ("systemReserved", &file.system_reserved),
            ("kubeReserved", &file.kube_reserved),
        ] {
            for (name, text) in amounts {
                api::quantity::Quantity::parse(text)
                    .map_err(|_| ConfigError::Usage(format!("{key}.{name}: expected a quantity, found {text:?}")))?;
            }
        }
        let kubeconfig = flags
            .kubeconfig
            .clone()
            .ok_or_else(|| ConfigError::Usage("--kubeconfig: expected a file".into()))?;
        let hostname = || {
            nix::unistd::gethostname()
                .ok()
                .map(|name| name.to_string_lossy().to_lowercase())
        };
        let node_name = flags.hostname_override.clone().or_else(hostname).unwrap_or_default();
        let problems = api::names::dns1123_subdomain(&node_name);
        if let Some(problem) = problems.first() {
            return Err(ConfigError::Usage(format!(
                "--hostname-override {node_name:?}: {problem}"
            )));
        }
        let node_ip = match flags.node_ip {
            Some(ip) => ip,
            None => default_address().ok_or_else(|| {
                ConfigError::Usage("--node-ip: expected, as no default route tells the node's address".into())
            })?,
        };
        let labels = flags.node_labels.iter().cloned().collect();
        Ok(Self {
            file,
            node_name,
            node_ip,
            labels,
            root: flags.root_dir.clone(),
            kubeconfig,
        })
    }

    /// `containerLogMaxSize` in bytes.
    pub fn log_max_size(&self) -> Result<u64, ConfigError> {
        let text = &self.file.container_log_max_size;
        let parsed = api::quantity::Quantity::parse(text)
            .ok()
            .and_then(|quantity| u64::try_from(quantity.as_i64()).ok());
        parsed.ok_or_else(|| ConfigError::Usage(format!("containerLogMaxSize: expected a quantity, found {text:?}")))
    }
}

/// The address that packets to the default route leave from. No packet is sent.
fn default_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, millis) in [
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("250ms", 250),
            ("0", 0),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "10", "s", "1x", "-1s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn unknown_keys_and_wrong_files_are_one_line() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("kubelet.yaml");
        let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
        for (text, expected) in [
            (format!("{head}maxPods: 10\nfoo: 1\n"), "foo"),
            (
                format!("{head}nodeStatusUpdateFrequency: soon\n"),
                "expected a duration",
            ),
            (format!("{head}maxPods: 10\n"), "tlsCertFile"),
            (
                "kind: Pod\n".to_owned(),
                "apiVersion: expected kubelet.config.k8s.io/v1beta1",
            ),
        ] {
            std::fs::write(&file, text)?;
            let flags: Flags = clap::Parser::try_parse_from([
                "kubelet".as_ref(),
                "--config".as_ref(),
                file.as_os_str(),
                "--kubeconfig".as_ref(),
                "k".as_ref(),
            ])?;
            let message = Settings::load(&flags)
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default();
            assert!(message.contains(expected) && !message.contains('\n'), "{message}");
        }
        Ok(())
    }

    #[test]
    fn taints_and_labels_are_flags() {
        assert_eq!(
            taint("a=b:NoSchedule").map(|taint| (taint.key, taint.value)),
            Ok(("a".into(), Some("b".into())))
        );
        assert_eq!(taint("a:NoExecute").map(|taint| taint.value), Ok(None));
        assert!(taint("a=b").is_err() && taint("a:Sometimes").is_err());
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
    }

    #[test]
    fn wrong_files_are_refused_in_one_line() {
        let sample = serde_json::json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "address": "127.0.0.1", "port": 10250, "tlsCertFile": "c", "tlsPrivateKeyFile": "k",
            "authentication": {"x509": {"clientCAFile": "a"}}, "clusterDNS": ["10.96.0.10"], "maxPods": 10, "podPidsLimit": -1,
            "cgroupDriver": "cgroupfs", "containerLogMaxSize": "10Mi", "containerLogMaxFiles": 3, "registerNode": true,
            "registerWithTaints": [{"key": "a", "effect": "NoSchedule"}], "nodeStatusUpdateFrequency": "10s",
            "systemReserved": {"cpu": "100m"}, "evictionHard": {"memory.available": "100Mi"}, "imageGCHighThresholdPercent": 85,
        });
        let refused = daemon::config::testing::read_wrong_documents(&sample, |file| {
            let flags: Flags = clap::Parser::try_parse_from([
                "kubelet".as_ref(),
                "--hostname-override=n1".as_ref(),
                "--node-ip=192.0.2.1".as_ref(),
                "--kubeconfig=k".as_ref(),
                "--config".as_ref(),
                file.as_os_str(),
            ])
            .unwrap();
            Settings::load(&flags)
                .and_then(|settings| settings.log_max_size())
                .map(drop)
        });
        assert!(refused > 200, "{refused}");
    }
}
