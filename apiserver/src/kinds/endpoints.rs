//! Endpoints and EndpointSlices.

use api::names;
use serde_json::{Value, json};

use super::field::{Errors, Field, default_zero, each, list, number, text};
use super::ip;
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
    warnings: |root, _| warn_endpoints(root),
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
    warnings: |root, _| warn_slice(root),
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

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

fn app_protocol(port: &Field<'_>, errors: &mut Errors) {
    let protocol = port.get("appProtocol");
    if protocol.exists() {
        protocol.check(errors, names::qualified_name);
    }
}

fn validate_endpoints(root: &Field<'_>, errors: &mut Errors) {
    let subsets = root.get("subsets");
    for subset in subsets.items() {
        let (ready, waiting) = (subset.get("addresses"), subset.get("notReadyAddresses"));
        if ready.is_empty() && waiting.is_empty() {
            subset.required(errors, "must specify `addresses` or `notReadyAddresses`");
        }
        for address in ready.items().chain(waiting.items()) {
            ip::ip(&address.get("ip"), errors);
            address.get("hostname").check_if_set(errors, names::dns1123_label);
            let node = address.get("nodeName");
            if node.exists() {
                node.check(errors, names::dns1123_subdomain);
            }
            ip::not_special(&address.get("ip"), errors);
        }
        let ports = subset.get("ports");
        for port in ports.items() {
            let name = port.get("name");
            if name.is_empty() && ports.len() > 1 {
                name.required(errors, "");
            } else {
                name.check_if_set(errors, names::dns1123_label);
            }
            super::field::port_number(&port.get("port"), errors);
            port.get("protocol").required_one_of(errors, &PROTOCOLS);
            app_protocol(&port, errors);
        }
    }
}

fn warn_endpoints(root: &Field<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    let manager = &root.value["metadata"]["labels"]["endpoints.kubernetes.io/managed-by"];
    if manager == "endpoint-controller" {
        return warnings;
    }
    let subsets = root.get("subsets");
    for subset in subsets.items() {
        for list in ["addresses", "notReadyAddresses"] {
            for address in subset.get(list).items() {
                ip::warn_ip(&address.get("ip"), &mut warnings);
            }
        }
    }
    warnings
}

fn warn_slice(root: &Field<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    let kind = root.get("addressType");
    if kind.str() == "FQDN" {
        warnings.push(format!("{kind}: FQDN endpoints are deprecated"));
        return warnings;
    }
    let endpoints = root.get("endpoints");
    for endpoint in endpoints.items() {
        for address in endpoint.get("addresses").items() {
            ip::warn_ip(&address, &mut warnings);
        }
    }
    warnings
}

fn validate_slice(root: &Field<'_>, errors: &mut Errors) {
    const MAX_ENDPOINTS: usize = 1000;
    const MAX_PORTS: usize = 20_000;
    let (kind, endpoints, ports) = (root.get("addressType"), root.get("endpoints"), root.get("ports"));
    kind.required_one_of(errors, &["FQDN", "IPv4", "IPv6"]);
    endpoints.too_many(errors, MAX_ENDPOINTS);
    if endpoints.len() <= MAX_ENDPOINTS {
        endpoints
            .items()
            .for_each(|endpoint| validate_endpoint(&endpoint, kind.str(), errors));
    }
    ports.too_many(errors, MAX_PORTS);
    if ports.len() > MAX_PORTS {
        return;
    }
    let mut seen = std::collections::HashSet::new();
    for port in ports.items() {
        let name = port.get("name");
        name.check_if_set(errors, names::dns1123_label);
        if !seen.insert(name.str().to_owned()) {
            name.duplicate_of(errors, name.str(), "");
        }
        port.get("protocol").one_of(errors, &PROTOCOLS);
        app_protocol(&port, errors);
    }
}

fn validate_endpoint(endpoint: &Field<'_>, kind: &str, errors: &mut Errors) {
    const MAX_ADDRESSES: usize = 100;
    const MAX_TOPOLOGY: usize = 16;
    let addresses = endpoint.get("addresses");
    if addresses.is_empty() {
        addresses.required(errors, "must contain at least 1 address");
    }
    addresses.too_many(errors, MAX_ADDRESSES);
    for address in addresses.items() {
        match kind {
            "IPv4" | "IPv6" => {
                ip::ip(&address, errors);
                if ip::parse(address.str()).is_none_or(|ip| ip.is_ipv4() != (kind == "IPv4")) {
                    address.invalid(errors, format!("must be a valid {kind} address"));
                }
                ip::not_special(&address, errors);
            }
            "FQDN" => domain_name(&address, errors),
            _ => {}
        }
    }
    let node = endpoint.get("nodeName");
    if node.exists() {
        node.check(errors, names::dns1123_subdomain);
    }
    let topology = endpoint.get("deprecatedTopology");
    topology.too_many(errors, MAX_TOPOLOGY);
    super::common::labels(&topology, errors);
    let host = endpoint.get("hostname");
    if host.exists() {
        host.check(errors, names::dns1123_label);
    }
    let all = endpoint.get("hints");
    hints(&all.get("forZones"), names::label_value, errors);
    hints(&all.get("forNodes"), names::dns1123_subdomain, errors);
}

fn hints(list: &Field<'_>, check: fn(&str) -> Vec<String>, errors: &mut Errors) {
    const MAX_HINTS: usize = 8;
    list.too_many(errors, MAX_HINTS);
    if list.len() > MAX_HINTS {
        return;
    }
    let mut seen = std::collections::HashSet::new();
    for hint in list.items() {
        let name = hint.get("name");
        if name.is_empty() {
            name.required(errors, "");
        } else if seen.insert(name.str().to_owned()) {
            name.check(errors, check);
        } else {
            name.duplicate(errors);
        }
    }
}

fn domain_name(address: &Field<'_>, errors: &mut Errors) {
    if address.is_empty() {
        address.required(errors, "");
    }
    let name = address.str().strip_suffix('.').unwrap_or(address.str());
    for detail in names::dns1123_subdomain(name) {
        address.invalid_as(errors, name, detail);
    }
    if name.split('.').count() < 2 {
        address.invalid_as(
            errors,
            name,
            "should be a domain with at least two segments separated by dots",
        );
    }
    for label in name.split('.') {
        for detail in names::dns1123_label(label) {
            address.invalid_as(errors, label, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rules: &Rules, mut object: Value) -> Vec<String> {
        (rules.default)(&mut object);
        let mut errors = Errors::new();
        (rules.validate)(&Field::root("", &object), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn faults() {
        assert_eq!(
            check(
                &ENDPOINTS,
                json!({"subsets": [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 80}, {"port": 0, "name": "b"}]}, {}]})
            ),
            [
                "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "subsets[0].ports[0].name: Required value",
                "subsets[0].ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`"
            ]
        );
        assert_eq!(
            check(
                &ENDPOINT_SLICE,
                json!({"addressType": "IPv4", "endpoints": [{"addresses": ["fd00::1"], "hints": {"forZones": [{"name": "a"}, {"name": "a"}]}}],
                    "ports": [{"port": 1}, {"port": 2}]})
            ),
            [
                "endpoints[0].addresses[0]: Invalid value: \"fd00::1\": must be a valid IPv4 address",
                "endpoints[0].hints.forZones[1].name: Duplicate value: \"a\"",
                "ports[1].name: Duplicate value: \"\""
            ]
        );
    }

    #[test]
    fn cells() {
        let object = json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"port": 80}, {"port": 443}]}]});
        assert_eq!(addresses(&object), "10.0.0.1:80,10.0.0.2:80,10.0.0.1:443 + 1 more...");
        assert_eq!(addresses(&json!({})), "<none>");
    }
}
