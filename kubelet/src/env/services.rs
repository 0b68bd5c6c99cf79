//! Service environment variables: `<NAME>_SERVICE_HOST`, `<NAME>_SERVICE_PORT` and Docker's old link variables.

use api::core::v1::Service;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The variables of every service in `services` that a pod of `namespace` gets. Without links only `default/kubernetes` counts.
pub fn variables<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    namespace: &str,
    enable_links: bool,
) -> BTreeMap<String, String> {
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let (own, name) = (
            service.metadata.namespace.as_deref(),
            service.metadata.name.as_deref().unwrap_or_default(),
        );
        let master = own == Some("default") && name == "kubernetes";
        if master {
            chosen.entry(name).or_insert(service);
        } else if enable_links && own == Some(namespace) {
            // A service of the pod's own namespace hides the other.
            chosen.insert(name, service);
        }
    }
    let mut out = BTreeMap::new();
    for (name, service) in chosen {
        of_service(name, service, &mut out);
    }
    out
}

fn of_service(name: &str, service: &Service, out: &mut BTreeMap<String, String>) {
    let Some(spec) = service.spec.as_ref() else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| ip.parse::<IpAddr>().is_ok()) else {
        return;
    };
    let host = if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    };
    let prefix = upper(name);
    let ports = spec.ports.as_deref().unwrap_or_default();
    out.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    if let Some(first) = ports.first() {
        out.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    }
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            out.insert(
                format!("{prefix}_SERVICE_PORT_{}", upper(port_name)),
                port.port.to_string(),
            );
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let (lower, number) = (protocol.to_lowercase(), port.port);
        let url = format!("{lower}://{host}:{number}");
        let link = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        if index == 0 {
            out.insert(format!("{prefix}_PORT"), url.clone());
        }
        out.insert(link.clone(), url);
        out.insert(format!("{link}_PROTO"), lower);
        out.insert(format!("{link}_PORT"), number.to_string());
        out.insert(format!("{link}_ADDR"), ip.to_owned());
    }
}

fn upper(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::core::v1::{ServicePort, ServiceSpec};
    use api::meta::ObjectMeta;

    fn service(namespace: &str, name: &str, ip: &str, ports: &[(&str, i32)]) -> Service {
        let port = |(name, port): &(&str, i32)| ServicePort {
            name: Some((*name).to_owned()),
            port: *port,
            protocol: Some("TCP".into()),
            ..Default::default()
        };
        let spec = ServiceSpec {
            cluster_ip: Some(ip.into()),
            ports: Some(ports.iter().map(port).collect()),
            ..Default::default()
        };
        let metadata = ObjectMeta {
            name: Some(name.into()),
            namespace: Some(namespace.into()),
            ..Default::default()
        };
        Service {
            metadata,
            spec: Some(spec),
            ..Default::default()
        }
    }

    #[test]
    fn variables_of_own_namespace_and_the_api() {
        let all = [
            service("default", "kubernetes", "10.96.0.1", &[("https", 443)]),
            service("shop", "web-front", "10.96.0.7", &[("http", 80), ("", 81)]),
            service("shop", "headless", "None", &[("", 80)]),
            service("other", "x", "10.96.0.9", &[("", 80)]),
        ];
        let found = variables(&all, "shop", true);
        assert_eq!(
            found.get("KUBERNETES_SERVICE_HOST").map(String::as_str),
            Some("10.96.0.1")
        );
        assert_eq!(
            found.get("KUBERNETES_SERVICE_PORT_HTTPS").map(String::as_str),
            Some("443")
        );
        assert_eq!(found.get("WEB_FRONT_SERVICE_PORT").map(String::as_str), Some("80"));
        assert_eq!(
            found.get("WEB_FRONT_PORT_81_TCP_ADDR").map(String::as_str),
            Some("10.96.0.7")
        );
        assert_eq!(
            found.get("WEB_FRONT_PORT").map(String::as_str),
            Some("tcp://10.96.0.7:80")
        );
        assert!(
            !found
                .keys()
                .any(|key| key.starts_with("HEADLESS") || key.starts_with("X_"))
        );
        let few = variables(&all, "shop", false);
        assert!(few.keys().all(|key| key.starts_with("KUBERNETES_")), "{few:?}");
    }
}
