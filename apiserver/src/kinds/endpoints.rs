//! Endpoints and EndpointSlices.

use api::names;
use serde_json::{Value, json};

use super::field::{Errors, Field, default_zero, each, list, number, text};
use super::rules::Rules;
use crate::registry::table::{self, Column};

/// How many addresses or ports a cell shows.
const SHOWN: usize = 3;

/// Rules of `endpoints`.
pub static ENDPOINTS: Rules = Rules {
    create_on_update: true,
    default: |object| {
        for subset in each(object, "subsets") {
            for port in each(subset, "ports") {
                default_zero(port, "protocol", "TCP");
            }
        }
    },
    validate: validate_endpoints,
    columns: &[Column::NAME, Column::text("Endpoints"), Column::AGE],
    row: |object, now| vec![table::name(object), json!(addresses(object)), table::age(object, now)],
    ..Rules::NONE
};

/// Rules of `endpointslices.discovery.k8s.io`.
pub static ENDPOINT_SLICE: Rules = Rules {
    generation: true,
    default: |object| {
        for port in each(object, "ports") {
            default_zero(port, "protocol", "TCP");
            super::field::default(port, "name", "");
        }
    },
    validate: validate_slice,
    validate_update: |root, old, errors| root.get("addressType").immutable(errors, &old["addressType"]),
    columns: &[
        Column::NAME,
        Column::text("AddressType"),
        Column::text("Ports"),
        Column::text("Endpoints"),
        Column::AGE,
    ],
    row: |object, now| {
        let port = |p: &Value| {
            p.get("port")
                .and_then(Value::as_i64)
                .map_or_else(|| "*".to_owned(), |n| n.to_string())
        };
        let ports: Vec<String> = list(object, "/ports").iter().map(port).collect();
        let hosts = list(object, "/endpoints").iter().flat_map(|e| list(e, "/addresses"));
        let hosts: Vec<String> = hosts.filter_map(Value::as_str).map(str::to_owned).collect();
        vec![
            table::name(object),
            json!(text(object, "/addressType")),
            json!(shortened(&ports, "<unset>")),
            json!(shortened(&hosts, "<unset>")),
            table::age(object, now),
        ]
    },
    ..Rules::NONE
};

fn shortened(items: &[String], none: &str) -> String {
    match items.len() {
        0 => none.to_owned(),
        n if n > SHOWN => format!("{} + {} more...", items[..SHOWN].join(","), n - SHOWN),
        _ => items.join(","),
    }
}

fn addresses(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in list(object, "/subsets") {
        let hosts = list(subset, "/addresses");
        let ports = list(subset, "/ports");
        if ports.is_empty() {
            all.extend(hosts.iter().map(|h| text(h, "/ip").to_owned()));
        }
        for port in ports {
            all.extend(hosts.iter().map(|h| host_port(text(h, "/ip"), number(port, "/port"))));
        }
    }
    shortened(&all, "<none>")
}

fn host_port(host: &str, port: i64) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn endpoint_ip(ip: &Field<'_>, errors: &mut Errors) {
    let messages = names::ip(ip.str());
    if !messages.is_empty() {
        return ip.invalid_all(errors, messages);
    }
    let Ok(address) = ip.str().parse::<std::net::IpAddr>() else {
        return;
    };
    if address.is_unspecified() {
        ip.invalid(errors, format!("may not be unspecified ({address})"));
    } else if address.is_loopback() {
        ip.invalid(errors, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    } else if matches!(address, std::net::IpAddr::V4(a) if a.is_link_local()) {
        ip.invalid(errors, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
}

fn validate_endpoints(root: &Field<'_>, errors: &mut Errors) {
    for subset in root.get("subsets").items() {
        let (ready, waiting) = (subset.get("addresses"), subset.get("notReadyAddresses"));
        if ready.is_empty() && waiting.is_empty() {
            subset.required(errors, "must specify `addresses` or `notReadyAddresses`");
        }
        for address in ready.items().chain(waiting.items()) {
            endpoint_ip(&address.get("ip"), errors);
        }
        let ports = subset.get("ports");
        for port in ports.items() {
            let name = port.get("name");
            if name.is_empty() && ports.len() > 1 {
                name.required(errors, "");
            } else if !name.is_empty() {
                name.invalid_all(errors, names::dns1123_label(name.str()));
            }
            super::field::port_number(&port.get("port"), errors);
            port.get("protocol").required_one_of(errors, &["SCTP", "TCP", "UDP"]);
        }
    }
}

fn validate_slice(root: &Field<'_>, errors: &mut Errors) {
    let kind = root.get("addressType");
    kind.required_one_of(errors, &["FQDN", "IPv4", "IPv6"]);
    for endpoint in root.get("endpoints").items() {
        let addresses = endpoint.get("addresses");
        if addresses.is_empty() {
            addresses.required(errors, "must contain at least 1 address");
        }
        for address in addresses.items() {
            match (kind.str(), address.str().parse::<std::net::IpAddr>()) {
                ("IPv4", Ok(ip)) if ip.is_ipv4() => endpoint_ip(&address, errors),
                ("IPv4", _) => address.invalid(errors, "must be an IPv4 address"),
                ("IPv6", Ok(ip)) if ip.is_ipv6() => endpoint_ip(&address, errors),
                ("IPv6", _) => address.invalid(errors, "must be an IPv6 address"),
                _ => address.invalid_all(errors, names::dns1123_subdomain(address.str())),
            }
        }
        let node = endpoint.get("nodeName");
        if !node.is_empty() {
            node.invalid_all(errors, names::dns1123_subdomain(node.str()));
        }
    }
    let ports = root.get("ports");
    ports.unique(errors, "name");
    for port in ports.items() {
        let name = port.get("name");
        if !name.is_empty() {
            name.invalid_all(errors, names::dns1123_label(name.str()));
        }
        port.get("protocol").required_one_of(errors, &["SCTP", "TCP", "UDP"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells() {
        let object = json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"port": 80}, {"port": 443}]}]});
        assert_eq!(addresses(&object), "10.0.0.1:80,10.0.0.2:80,10.0.0.1:443 + 1 more...");
        assert_eq!(addresses(&json!({})), "<none>");
    }
}
