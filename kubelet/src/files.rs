//! Files that every container gets besides its volumes: /etc/hosts, the DNS configuration, the host name. Pure text; the worker writes it.

use api::core::v1::{HostAlias, Pod};
use proto::cri;

/// DNS as the node has it and as the cluster offers it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsSettings {
    /// Addresses of the cluster's DNS.
    pub cluster: Vec<String>,
    /// The cluster's domain.
    pub domain: String,
    /// The node's own resolv.conf.
    pub host: ResolvConf,
}

/// A resolv.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// `nameserver`.
    pub servers: Vec<String>,
    /// `search`.
    pub searches: Vec<String>,
    /// `options`.
    pub options: Vec<String>,
}

/// What glibc and upstream's validation take at most.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

impl ResolvConf {
    /// Reads the text of a resolv.conf; of several `search` lines the last one counts.
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => found.servers.extend(words.next().map(str::to_owned)),
                Some("search") => found.searches = words.map(|word| word.trim_end_matches('.').to_owned()).collect(),
                Some("options") => found.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        found
    }
}

/// The pod's resolver by its `dnsPolicy` and `dnsConfig`.
pub fn dns(pod: &Pod, settings: &DnsSettings) -> cri::DnsConfig {
    let spec = pod.spec.as_ref();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let host_network = spec.and_then(|spec| spec.host_network) == Some(true);
    let cluster_first = match spec
        .and_then(|spec| spec.dns_policy.as_deref())
        .unwrap_or("ClusterFirst")
    {
        "None" => None,
        "ClusterFirstWithHostNet" => Some(true),
        "ClusterFirst" => Some(!host_network),
        _ => Some(false),
    };
    let mut dns = match cluster_first {
        None => ResolvConf::default(),
        Some(true) if !settings.cluster.is_empty() => {
            let domain = &settings.domain;
            let mut searches = vec![
                format!("{namespace}.svc.{domain}"),
                format!("svc.{domain}"),
                domain.clone(),
            ];
            searches.extend(settings.host.searches.iter().cloned());
            ResolvConf {
                servers: settings.cluster.clone(),
                searches,
                options: vec!["ndots:5".into()],
            }
        }
        Some(_) => settings.host.clone(),
    };
    if let Some(own) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        dns.servers.extend(own.nameservers.iter().flatten().cloned());
        dns.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            dns.options.retain(|text| text.split(':').next() != Some(name.as_str()));
            dns.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name,
            });
        }
    }
    dedup(&mut dns.servers);
    dedup(&mut dns.searches);
    dns.servers.truncate(MAX_SERVERS);
    dns.searches.truncate(MAX_SEARCHES);
    cri::DnsConfig {
        servers: dns.servers,
        searches: dns.searches,
        options: dns.options,
    }
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

/// Host name and, with a subdomain, domain of a pod.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> (String, String) {
    /// The kernel's limit is 64 with the final 0.
    const MAX: usize = 63;
    let spec = pod.spec.as_ref();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let chosen = spec
        .and_then(|spec| spec.hostname.clone())
        .filter(|name| !name.is_empty());
    let mut name = chosen.unwrap_or_else(|| pod.metadata.name.clone().unwrap_or_default());
    if name.len() > MAX {
        name = name.chars().take(MAX).collect();
        name = name.trim_end_matches(['-', '.']).to_owned();
    }
    let subdomain = spec
        .and_then(|spec| spec.subdomain.as_deref())
        .filter(|text| !text.is_empty());
    let domain = subdomain
        .map(|sub| format!("{sub}.{namespace}.svc.{cluster_domain}"))
        .unwrap_or_default();
    (name, domain)
}

/// What `hostname` prints inside: the fully qualified name if the pod wants that.
pub fn sandbox_hostname(pod: &Pod, cluster_domain: &str) -> String {
    let (name, domain) = hostname(pod, cluster_domain);
    let qualified = pod.spec.as_ref().and_then(|spec| spec.set_hostname_as_fqdn) == Some(true);
    if qualified && !domain.is_empty() {
        format!("{name}.{domain}")
    } else {
        name
    }
}

/// /etc/hosts of a pod with its own network.
pub fn etc_hosts(ips: &[String], name: &str, domain: &str, aliases: &[HostAlias]) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        if domain.is_empty() {
            text.push_str(&format!("{ip}\t{name}\n"));
        } else {
            text.push_str(&format!("{ip}\t{name}.{domain}\t{name}\n"));
        }
    }
    text + &alias_lines(aliases)
}

/// /etc/hosts of a pod on the host's network: the host's own.
pub fn host_etc_hosts(host: &str, aliases: &[HostAlias]) -> String {
    format!(
        "# Kubernetes-managed hosts file (host network).\n{host}{}",
        alias_lines(aliases)
    )
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        text.push_str(&format!(
            "{}\t{}\n",
            alias.ip,
            alias.hostnames.as_deref().unwrap_or_default().join("\t")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::core::v1::{PodDNSConfig, PodDNSConfigOption, PodSpec};
    use api::meta::ObjectMeta;

    fn pod(spec: PodSpec) -> Pod {
        let metadata = ObjectMeta {
            name: Some("web-0".into()),
            namespace: Some("shop".into()),
            ..Default::default()
        };
        Pod {
            metadata,
            spec: Some(spec),
            ..Default::default()
        }
    }

    fn settings() -> DnsSettings {
        let host = ResolvConf::parse("# x\nnameserver 192.0.2.53\nsearch corp.example. b\noptions timeout:1\n");
        DnsSettings {
            cluster: vec!["10.96.0.10".into()],
            domain: "cluster.local".into(),
            host,
        }
    }

    #[test]
    fn dns_follows_the_policy() {
        let of = |policy: &str, host_network: bool| {
            let spec = PodSpec {
                dns_policy: Some(policy.into()),
                host_network: Some(host_network),
                ..Default::default()
            };
            dns(&pod(spec), &settings())
        };
        let first = of("ClusterFirst", false);
        assert_eq!(first.servers, ["10.96.0.10"]);
        assert_eq!(
            first.searches,
            [
                "shop.svc.cluster.local",
                "svc.cluster.local",
                "cluster.local",
                "corp.example",
                "b"
            ]
        );
        assert_eq!(first.options, ["ndots:5"]);
        assert_eq!(of("ClusterFirst", true).servers, ["192.0.2.53"]);
        assert_eq!(of("ClusterFirstWithHostNet", true).servers, ["10.96.0.10"]);
        assert_eq!(of("Default", false).options, ["timeout:1"]);
        assert_eq!(of("None", false), cri::DnsConfig::default());
    }

    #[test]
    fn dns_config_adds_and_overrides() {
        let config = PodDNSConfig {
            nameservers: Some(vec!["1.2.3.4".into()]),
            searches: Some(vec!["x.y".into()]),
            options: Some(vec![
                PodDNSConfigOption {
                    name: Some("ndots".into()),
                    value: Some("2".into()),
                },
                PodDNSConfigOption {
                    name: Some("edns0".into()),
                    value: None,
                },
            ]),
        };
        let spec = PodSpec {
            dns_policy: Some("None".into()),
            dns_config: Some(config.clone()),
            ..Default::default()
        };
        let own = dns(&pod(spec), &settings());
        assert_eq!(
            (own.servers, own.searches),
            (vec!["1.2.3.4".to_owned()], vec!["x.y".to_owned()])
        );
        let spec = PodSpec {
            dns_config: Some(config),
            ..Default::default()
        };
        assert_eq!(dns(&pod(spec), &settings()).options, ["ndots:2", "edns0"]);
    }

    #[test]
    fn hosts_name_the_pod() {
        let (name, domain) = hostname(
            &pod(PodSpec {
                subdomain: Some("web".into()),
                ..Default::default()
            }),
            "cluster.local",
        );
        assert_eq!(
            (name.as_str(), domain.as_str()),
            ("web-0", "web.shop.svc.cluster.local")
        );
        let alias = HostAlias {
            ip: "1.1.1.1".into(),
            hostnames: Some(vec!["a".into(), "b".into()]),
        };
        let text = etc_hosts(&["10.1.1.1".into()], &name, &domain, &[alias]);
        assert!(text.contains("10.1.1.1\tweb-0.web.shop.svc.cluster.local\tweb-0\n"));
        assert!(text.ends_with("# Entries added by HostAliases.\n1.1.1.1\ta\tb\n"));
        let long = "x".repeat(62) + "-yz";
        let spec = PodSpec {
            hostname: Some(long),
            ..Default::default()
        };
        assert_eq!(hostname(&pod(spec), "c").0.len(), 62);
    }
}
