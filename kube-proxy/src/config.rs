//! Flags and the KubeProxyConfiguration file, checked and merged into [`Config`]. A flag that is given wins over the file.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use daemon::cli::LogOptions;
use daemon::config::ConfigError;
use daemon::tls::TlsFiles;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";

/// The node's network: service addresses, node ports, DNS of the cluster domain, pod network and its configuration for the container
/// runtime.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "kube-proxy", version)]
pub struct Flags {
    /// Configuration file: a KubeProxyConfiguration of kubeproxy.config.k8s.io/v1alpha1.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Kubeconfig file that names the API servers and the certificate to present.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of this node, if not the host's name.
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// Network of all pods of the cluster; with two address families, two of them separated by a comma.
    #[arg(long, value_name = "CIDRS")]
    pub cluster_cidr: Option<String>,
    /// Backend of the service rules; nftables is the only one.
    #[arg(long, value_name = "MODE")]
    pub proxy_mode: Option<String>,
    /// Masquerade everything that is sent to a cluster IP.
    #[arg(long)]
    pub masquerade_all: bool,
    /// Networks of the node addresses on which node ports are answered, separated by commas; the node's own addresses if not given.
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    pub nodeport_addresses: Option<Vec<String>>,
    /// Address for /healthz, /livez, /readyz and /metrics.
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    pub bind_address: IpAddr,
    /// Port for /healthz, /livez, /readyz and /metrics (HTTPS).
    #[arg(long, default_value_t = 10249, value_name = "PORT")]
    pub secure_port: u16,
    /// Certificate to serve with: a PEM file, read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,
    /// Private key of the certificate: a PEM file, read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub tls_private_key_file: Option<PathBuf>,
    /// CA that signs the client certificates to trust: a PEM file, read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// Folder in which the container runtime looks for its network configuration; empty if another program writes it.
    #[arg(long, value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Remove everything that kube-proxy put into the kernel, then exit.
    #[arg(long)]
    pub cleanup: bool,
    /// Log
    #[command(flatten)]
    pub log: LogOptions,
}

/// What the daemon works with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node.
    pub node_name: String,
    /// Kubeconfig file.
    pub kubeconfig: PathBuf,
    /// Certificates of the admin endpoints.
    pub tls: TlsFiles,
    /// All pods' networks.
    pub cluster_cidrs: Vec<IpNet>,
    /// Networks of node port addresses; None for the addresses of the Node object.
    pub node_port_addresses: Option<Vec<IpNet>>,
    /// Masquerade everything that is sent to a cluster IP.
    pub masquerade_all: bool,
    /// The packet mark that asks for masquerading.
    pub masquerade_mark: u32,
    /// Between two syncs at least.
    pub min_sync_period: Duration,
    /// Between two complete reloads, which repair what somebody else changed.
    pub sync_period: Duration,
    /// Timeouts that the kernel's connection tracking is set to.
    pub conntrack: Conntrack,
    /// What is ours alone.
    pub network: NodeNetwork,
}

/// Section `nodeNetwork` of the file: pod network and DNS, which upstream leaves to other programs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeNetwork {
    /// Where the container runtime looks for its network configuration; empty: another program writes it.
    pub cni_conf_dir: PathBuf,
    /// How packets get to pods of other nodes.
    pub mode: NetworkMode,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// Addresses that DNS is answered on; empty: no DNS. They are put on `lo`.
    pub dns_addresses: Vec<IpAddr>,
    /// Domain of service names.
    pub cluster_domain: String,
    /// Names the resolvers for all other domains.
    pub resolv_conf: PathBuf,
}

impl Default for NodeNetwork {
    fn default() -> Self {
        Self {
            cni_conf_dir: "/etc/cni/net.d".into(),
            mode: NetworkMode::Auto,
            vxlan_port: 4789,
            dns_addresses: vec![IpAddr::from([10, 96, 0, 10])],
            cluster_domain: "cluster.local".to_string(),
            resolv_conf: "/etc/resolv.conf".into(),
        }
    }
}

/// How packets get to pods of other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NetworkMode {
    /// Plain routes to nodes on the same link, VXLAN to the others.
    #[default]
    Auto,
    /// VXLAN to every node.
    Vxlan,
    /// Not our business.
    None,
}

/// Section `conntrack` of the file; unset or zero leaves the kernel's setting alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conntrack {
    /// Connections for each processor core.
    pub max_per_core: Option<u32>,
    /// Connections at least.
    pub min: Option<u32>,
    tcp_established_timeout: Option<Period>,
    tcp_close_wait_timeout: Option<Period>,
    /// Accept packets outside the window.
    pub tcp_be_liberal: bool,
    udp_timeout: Option<Period>,
    udp_stream_timeout: Option<Period>,
}

impl Conntrack {
    /// Settings below `net.netfilter` with their values. Upstream's defaults fill what the file leaves open.
    pub fn sysctls(&self, cores: u32) -> Vec<(&'static str, u64)> {
        let period = |p: &Option<Period>, default: u64| p.as_ref().map_or(default, |p| p.0.as_secs());
        let max = self
            .max_per_core
            .unwrap_or(32_768)
            .saturating_mul(cores)
            .max(self.min.unwrap_or(131_072));
        [
            (
                "nf_conntrack_max",
                if self.max_per_core == Some(0) {
                    0
                } else {
                    u64::from(max)
                },
            ),
            (
                "nf_conntrack_tcp_timeout_established",
                period(&self.tcp_established_timeout, 86_400),
            ),
            (
                "nf_conntrack_tcp_timeout_close_wait",
                period(&self.tcp_close_wait_timeout, 3_600),
            ),
            ("nf_conntrack_udp_timeout", period(&self.udp_timeout, 0)),
            ("nf_conntrack_udp_timeout_stream", period(&self.udp_stream_timeout, 0)),
            ("nf_conntrack_tcp_be_liberal", u64::from(self.tcp_be_liberal)),
        ]
        .into_iter()
        .filter(|(_, value)| *value > 0)
        .collect()
    }
}

/// A Go duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Period(Duration);

impl TryFrom<String> for Period {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        parse_duration(&text)
            .map(Self)
            .ok_or_else(|| format!("expected a duration as \"1m30s\", found {text:?}"))
    }
}

/// Numbers with units: `1h15m30.5s`, `100ms`, `0`.
fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * unit).ok()?)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total)
}

/// The file. Keys that upstream has and that mean nothing here are read and named in the log; all others are errors.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    client_connection: ClientConnection,
    #[serde(rename = "clusterCIDR")]
    cluster_cidr: String,
    hostname_override: String,
    mode: String,
    node_port_addresses: Vec<String>,
    conntrack: Conntrack,
    nftables: Nftables,
    node_network: NodeNetwork,

    bind_address: Option<Value>,
    bind_address_hard_fail: Option<Value>,
    config_sync_period: Option<Value>,
    detect_local: Option<Value>,
    detect_local_mode: Option<Value>,
    enable_profiling: Option<Value>,
    feature_gates: Option<Value>,
    healthz_bind_address: Option<Value>,
    iptables: Option<Value>,
    ipvs: Option<Value>,
    logging: Option<Value>,
    metrics_bind_address: Option<Value>,
    oom_score_adj: Option<Value>,
    port_range: Option<Value>,
    show_hidden_metrics_for_version: Option<Value>,
    windows_run_as_service: Option<Value>,
    winkernel: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClientConnection {
    kubeconfig: String,
    accept_content_types: Option<Value>,
    burst: Option<Value>,
    content_type: Option<Value>,
    qps: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Nftables {
    masquerade_all: bool,
    masquerade_bit: Option<u8>,
    min_sync_period: Option<Period>,
    sync_period: Option<Period>,
}

/// The addresses that DNS is answered on, without asking for anything else that the daemon needs.
///
/// # Errors
/// When the file cannot be used.
pub fn dns_addresses(flags: &Flags) -> Result<Vec<IpAddr>, ConfigError> {
    Ok(File::load(flags)?.node_network.dns_addresses)
}

impl File {
    fn load(flags: &Flags) -> Result<Self, ConfigError> {
        flags.config.as_ref().map_or_else(
            || Ok(Self::default()),
            |path| daemon::config::load(path, API_VERSION, KIND),
        )
    }

    fn without_effect(&self) -> Vec<&'static str> {
        [
            ("bindAddress", &self.bind_address),
            ("bindAddressHardFail", &self.bind_address_hard_fail),
            ("configSyncPeriod", &self.config_sync_period),
            ("detectLocal", &self.detect_local),
            ("detectLocalMode", &self.detect_local_mode),
            ("enableProfiling", &self.enable_profiling),
            ("featureGates", &self.feature_gates),
            ("healthzBindAddress", &self.healthz_bind_address),
            ("iptables", &self.iptables),
            ("ipvs", &self.ipvs),
            ("logging", &self.logging),
            ("metricsBindAddress", &self.metrics_bind_address),
            ("oomScoreAdj", &self.oom_score_adj),
            ("portRange", &self.port_range),
            ("showHiddenMetricsForVersion", &self.show_hidden_metrics_for_version),
            ("windowsRunAsService", &self.windows_run_as_service),
            ("winkernel", &self.winkernel),
            (
                "clientConnection.acceptContentTypes",
                &self.client_connection.accept_content_types,
            ),
            ("clientConnection.burst", &self.client_connection.burst),
            ("clientConnection.contentType", &self.client_connection.content_type),
            ("clientConnection.qps", &self.client_connection.qps),
        ]
        .into_iter()
        .filter_map(|(key, value)| value.is_some().then_some(key))
        .collect()
    }
}

impl Config {
    /// Reads the file that the flags name and merges the two.
    ///
    /// # Errors
    /// One line that names the file or flag, the key and what was expected.
    pub fn from_flags(flags: &Flags) -> Result<Self, ConfigError> {
        let file = File::load(flags)?;
        for key in file.without_effect() {
            tracing::info!(key, "has no effect here");
        }
        Self::merge(flags, file)
    }

    fn merge(flags: &Flags, file: File) -> Result<Self, ConfigError> {
        let mode = flags.proxy_mode.as_deref().unwrap_or(&file.mode);
        if !matches!(mode, "" | "nftables") {
            return Err(ConfigError::Usage(format!(
                "--proxy-mode: expected nftables, found {mode:?}"
            )));
        }
        let bit = file.nftables.masquerade_bit.unwrap_or(14);
        if bit > 15 {
            // The upper half of the mark holds session affinity's numbers.
            return Err(ConfigError::Usage(format!(
                "nftables.masqueradeBit: expected 0 to 15, found {bit}"
            )));
        }
        let node_ports = flags.nodeport_addresses.as_ref().unwrap_or(&file.node_port_addresses);
        let mut network = file.node_network;
        if let Some(dir) = &flags.cni_conf_dir {
            network.cni_conf_dir.clone_from(dir);
        }
        let min_sync_period = file
            .nftables
            .min_sync_period
            .map_or(Duration::from_millis(100), |p| p.0);
        Ok(Self {
            node_name: node_name(flags.hostname_override.as_deref().unwrap_or(&file.hostname_override))?,
            kubeconfig: match (&flags.kubeconfig, file.client_connection.kubeconfig.as_str()) {
                (Some(path), _) => path.clone(),
                (None, "") => return Err(missing("kubeconfig")),
                (None, path) => path.into(),
            },
            tls: TlsFiles {
                certificate: flags.tls_cert_file.clone().ok_or_else(|| missing("tls-cert-file"))?,
                key: flags
                    .tls_private_key_file
                    .clone()
                    .ok_or_else(|| missing("tls-private-key-file"))?,
                ca: flags.client_ca_file.clone().ok_or_else(|| missing("client-ca-file"))?,
            },
            cluster_cidrs: {
                let text = flags.cluster_cidr.as_deref().unwrap_or(&file.cluster_cidr);
                cidrs("--cluster-cidr", text.split(',').filter(|t| !t.is_empty()))?
            },
            node_port_addresses: match node_ports.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                [] | ["primary"] => None,
                texts => Some(cidrs("--nodeport-addresses", texts.iter().copied())?),
            },
            masquerade_all: flags.masquerade_all || file.nftables.masquerade_all,
            masquerade_mark: 1 << bit,
            min_sync_period,
            sync_period: file
                .nftables
                .sync_period
                .map_or(Duration::from_secs(30), |p| p.0)
                .max(min_sync_period),
            conntrack: file.conntrack,
            network,
        })
    }
}

fn missing(flag: &str) -> ConfigError {
    ConfigError::Usage(format!("--{flag}: expected a file, but the flag is missing"))
}

fn cidrs<'a>(flag: &str, texts: impl Iterator<Item = &'a str>) -> Result<Vec<IpNet>, ConfigError> {
    let parse = |text: &str| {
        let wrong = |_| ConfigError::Usage(format!("{flag}: expected a network as 10.244.0.0/16, found {text:?}"));
        text.trim().parse::<IpNet>().map(|net| net.trunc()).map_err(wrong)
    };
    texts.map(parse).collect()
}

/// As the kubelet names its Node object.
fn node_name(given: &str) -> Result<String, ConfigError> {
    if !given.is_empty() {
        return Ok(given.trim().to_lowercase());
    }
    let host =
        nix::unistd::gethostname().map_err(|e| ConfigError::Usage(format!("cannot read the host's name: {e}")))?;
    Ok(host.to_string_lossy().trim().to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::json;

    fn flags(more: &[&str]) -> Flags {
        let given = [
            "kube-proxy",
            "--kubeconfig=k",
            "--tls-cert-file=c",
            "--tls-private-key-file=p",
            "--client-ca-file=a",
        ];
        Flags::try_parse_from(given.iter().chain(more)).unwrap()
    }

    fn read(more: &[&str], file: Value) -> Result<Config, String> {
        let file = serde_json::from_value(file).map_err(|e| e.to_string())?;
        Config::merge(&flags(more), file).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_upstreams() {
        let config = read(&["--hostname-override=N1 "], json!({})).unwrap();
        assert_eq!((config.node_name.as_str(), config.masquerade_mark), ("n1", 0x4000));
        assert_eq!(config.sync_period, Duration::from_secs(30));
        assert!(config.cluster_cidrs.is_empty() && config.node_port_addresses.is_none());
        assert_eq!(config.conntrack.sysctls(2)[0], ("nf_conntrack_max", 131_072));
        assert_eq!(config.conntrack.sysctls(8)[0], ("nf_conntrack_max", 262_144));
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = json!({"clusterCIDR": "10.0.0.0/8", "hostnameOverride": "file", "mode": "nftables",
            "nodePortAddresses": ["192.0.2.0/24"], "conntrack": {"maxPerCore": 0, "udpTimeout": "1m30s"},
            "nftables": {"masqueradeBit": 3, "minSyncPeriod": "1.5s", "syncPeriod": "1s"},
            "nodeNetwork": {"mode": "vxlan", "dnsAddresses": []}});
        let config = read(&["--cluster-cidr=10.244.0.0/16,fd00::/48", "--cni-conf-dir=/x"], file).unwrap();
        assert_eq!(config.node_name, "file");
        assert_eq!(config.cluster_cidrs.len(), 2);
        assert_eq!(config.masquerade_mark, 8);
        assert_eq!(config.sync_period, Duration::from_millis(1500));
        assert_eq!(config.node_port_addresses.unwrap().len(), 1);
        assert_eq!(config.network.mode, NetworkMode::Vxlan);
        assert_eq!(config.network.cni_conf_dir, PathBuf::from("/x"));
        assert!(config.conntrack.sysctls(4).contains(&("nf_conntrack_udp_timeout", 90)));
        assert!(
            !config
                .conntrack
                .sysctls(4)
                .iter()
                .any(|(name, _)| *name == "nf_conntrack_max")
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (more, file, expected) in [
            (
                &["--proxy-mode=ipvs"][..],
                json!({}),
                "--proxy-mode: expected nftables, found \"ipvs\"",
            ),
            (
                &["--cluster-cidr=x"],
                json!({}),
                "--cluster-cidr: expected a network as 10.244.0.0/16, found \"x\"",
            ),
            (
                &[],
                json!({"nftables": {"masqueradeBit": 16}}),
                "nftables.masqueradeBit: expected 0 to 15, found 16",
            ),
            (
                &[],
                json!({"nftables": {"syncPeriod": "30"}}),
                "expected a duration as \"1m30s\", found \"30\"",
            ),
        ] {
            assert_eq!(read(more, file).unwrap_err(), expected);
        }
    }

    #[test]
    fn durations_are_gos() {
        for (text, millis) in [
            ("1h1m1s", Some(3_661_000)),
            ("0", Some(0)),
            ("100ms", Some(100)),
            ("1.5s", Some(1500)),
        ] {
            assert_eq!(parse_duration(text).map(|d| d.as_millis()), millis, "{text}");
        }
        for text in ["", "1", "s", "1d", "-1s", "1..s", "9e9s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn wrong_files_are_refused_in_one_line() {
        let sample = json!({"apiVersion": API_VERSION, "kind": KIND,
            "clusterCIDR": "10.0.0.0/8", "hostnameOverride": "file", "mode": "nftables", "clientConnection": {"kubeconfig": "k"},
            "nodePortAddresses": ["192.0.2.0/24"], "conntrack": {"maxPerCore": 0, "min": 5, "udpTimeout": "1m30s", "tcpBeLiberal": true},
            "nftables": {"masqueradeAll": true, "masqueradeBit": 3, "minSyncPeriod": "1s", "syncPeriod": "30s"},
            "nodeNetwork": {"mode": "vxlan", "vxlanPort": 1, "dnsAddresses": ["10.96.0.10"], "clusterDomain": "c.local"}});
        let refused = daemon::config::testing::read_wrong_documents(&sample, |file| {
            let flags = flags(&["--config", file.to_str().unwrap()]);
            Config::merge(&flags, File::load(&flags)?).map(drop)
        });
        assert!(refused > 150, "{refused}");
    }
}
