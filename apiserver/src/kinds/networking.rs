//! Ingresses, NetworkPolicies, service ranges and addresses.

use api::names;
use serde_json::{Value, json};

use super::common::{format_selector, label_selector};
use super::field::{Errors, Field, default, each, ensure, list, port_number, text};
use super::rules::Rules;
use crate::registry::table::{self, Column};

/// Rules of `ingresses.networking.k8s.io`.
pub static INGRESS: Rules = Rules {
    generation: true,
    validate: validate_ingress,
    columns: &[
        Column::NAME,
        Column::text("Class"),
        Column::text("Hosts"),
        Column::text("Address"),
        Column::text("Ports"),
        Column::AGE,
    ],
    row: |object, now| {
        let class = match text(object, "/spec/ingressClassName") {
            "" => text(object, "/metadata/annotations/kubernetes.io~1ingress.class"),
            class => class,
        };
        vec![
            table::name(object),
            json!(super::common::or_none(class)),
            json!(hosts(object)),
            json!(addresses(object)),
            json!(if list(object, "/spec/tls").is_empty() {
                "80"
            } else {
                "80, 443"
            }),
            table::age(object, now),
        ]
    },
    ..Rules::NONE
};

/// Rules of `ingressclasses.networking.k8s.io`.
pub static INGRESS_CLASS: Rules = Rules {
    generation: true,
    columns: &[
        Column::NAME,
        Column::text("Controller"),
        Column::text("Parameters"),
        Column::AGE,
    ],
    row: |object, now| {
        let parameters = object
            .pointer("/spec/parameters")
            .filter(|p| p.is_object())
            .map_or_else(
                || "<none>".to_owned(),
                |p| match text(p, "/apiGroup") {
                    "" => format!("{}/{}", text(p, "/kind"), text(p, "/name")),
                    group => format!("{}.{group}/{}", text(p, "/kind"), text(p, "/name")),
                },
            );
        vec![
            table::name(object),
            json!(text(object, "/spec/controller")),
            json!(parameters),
            table::age(object, now),
        ]
    },
    ..Rules::NONE
};

/// Rules of `networkpolicies.networking.k8s.io`.
pub static NETWORK_POLICY: Rules = Rules {
    generation: true,
    default: |object| {
        let Some(spec) = ensure(object, "spec") else { return };
        for direction in ["ingress", "egress"] {
            for rule in each(spec, direction) {
                for port in each(rule, "ports") {
                    default(port, "protocol", "TCP");
                }
            }
        }
        if list(spec, "/policyTypes").is_empty() {
            let egress = !list(spec, "/egress").is_empty();
            super::field::set(
                spec,
                "policyTypes",
                if egress {
                    json!(["Ingress", "Egress"])
                } else {
                    json!(["Ingress"])
                },
            );
        }
    },
    validate: |root, errors| {
        let spec = root.get("spec");
        label_selector(&spec.get("podSelector"), errors);
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            for rule in spec.get(direction).items() {
                rule.get(peers).items().for_each(|peer| policy_peer(&peer, errors));
                rule.get("ports").items().for_each(|port| policy_port(&port, errors));
            }
        }
        for kind in spec.get("policyTypes").items() {
            kind.one_of(errors, &["Egress", "Ingress"]);
        }
    },
    columns: &[Column::NAME, Column::text("Pod-Selector"), Column::AGE],
    row: |object, now| {
        vec![
            table::name(object),
            json!(format_selector(object.pointer("/spec/podSelector"))),
            table::age(object, now),
        ]
    },
    ..Rules::NONE
};

/// Rules of `servicecidrs.networking.k8s.io`.
pub static SERVICE_CIDR: Rules = Rules {
    create_on_update: true,
    validate: |root, errors| {
        let spec = root.get("spec");
        let cidrs = spec.get("cidrs");
        if cidrs.is_empty() {
            cidrs.required(errors, "at least one CIDR required");
        } else if cidrs.len() > 2 {
            cidrs.invalid(errors, "may only hold up to 2 values");
        }
        for cidr in cidrs.items() {
            cidr.invalid_all(errors, names::cidr(cidr.str()));
        }
    },
    validate_update: |root, old, errors| root.get("spec").get("cidrs").immutable(errors, &old["spec"]["cidrs"]),
    columns: &[Column::NAME, Column::text("CIDRs"), Column::AGE],
    row: |object, now| {
        let cidrs: Vec<&str> = list(object, "/spec/cidrs").iter().filter_map(Value::as_str).collect();
        vec![table::name(object), json!(cidrs.join(",")), table::age(object, now)]
    },
    ..Rules::NONE
};

/// Rules of `ipaddresses.networking.k8s.io`.
pub static IP_ADDRESS: Rules = Rules {
    create_on_update: true,
    generation: true,
    validate: |root, errors| {
        let spec = root.get("spec");
        let parent = spec.get("parentRef");
        if !parent.exists() {
            return parent.required(errors, "");
        }
        for name in ["resource", "name"] {
            let field = parent.get(name);
            if field.is_empty() {
                field.required(errors, "");
            }
        }
    },
    validate_update: |root, old, errors| {
        root.get("spec")
            .get("parentRef")
            .immutable(errors, &old["spec"]["parentRef"])
    },
    name: names::ip,
    columns: &[Column::NAME, Column::text("ParentRef"), Column::AGE],
    row: |object, now| {
        let parent = &object["spec"]["parentRef"];
        let parts = [
            text(parent, "/resource"),
            text(parent, "/group"),
            text(parent, "/namespace"),
            text(parent, "/name"),
        ];
        let resource = if parts[1].is_empty() {
            parts[0].to_owned()
        } else {
            format!("{}.{}", parts[0], parts[1])
        };
        let shown: Vec<&str> = [resource.as_str(), parts[2], parts[3]]
            .into_iter()
            .filter(|p| !p.is_empty())
            .collect();
        vec![table::name(object), json!(shown.join("/")), table::age(object, now)]
    },
    fields: &["spec.parentRef.resource", "spec.parentRef.name"],
    ..Rules::NONE
};

fn hosts(object: &Value) -> String {
    let hosts: Vec<&str> = list(object, "/spec/rules")
        .iter()
        .map(|r| text(r, "/host"))
        .filter(|h| !h.is_empty())
        .collect();
    match hosts.len() {
        0 => "*".to_owned(),
        n if n > 3 => format!("{} + {} more...", hosts[..3].join(","), n - 3),
        _ => hosts.join(","),
    }
}

fn addresses(object: &Value) -> String {
    let shown = list(object, "/status/loadBalancer/ingress").iter().map(|i| {
        if text(i, "/ip").is_empty() {
            text(i, "/hostname")
        } else {
            text(i, "/ip")
        }
    });
    shown.filter(|s| !s.is_empty()).collect::<Vec<_>>().join(",")
}

fn validate_ingress(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.get("spec");
    let (rules, backend) = (spec.get("rules"), spec.get("defaultBackend"));
    if rules.is_empty() && !backend.exists() {
        spec.invalid(errors, "either `defaultBackend` or `rules` must be specified");
    }
    ingress_backend(&backend, errors);
    for rule in rules.items() {
        let host = rule.get("host");
        let bare = host.str().strip_prefix("*.").unwrap_or(host.str());
        if !host.is_empty() {
            if host.str().parse::<std::net::IpAddr>().is_ok() {
                host.invalid(errors, "must be a DNS name, not an IP address");
            }
            host.invalid_all(errors, names::dns1123_subdomain(bare));
        }
        let http = rule.get("http");
        let paths = http.get("paths");
        if http.exists() && paths.is_empty() {
            paths.required(errors, "");
        }
        for path in paths.items() {
            let kind = path.get("pathType");
            if kind.exists() {
                kind.one_of(errors, &["Exact", "ImplementationSpecific", "Prefix"])
            } else {
                kind.required(errors, "pathType must be specified")
            }
            let text = path.get("path");
            if kind.str() != "ImplementationSpecific" && !text.str().starts_with('/') {
                text.invalid(errors, "must be an absolute path");
            }
            let backend = path.get("backend");
            ingress_backend(&backend, errors);
        }
    }
}

fn ingress_backend(backend: &Field<'_>, errors: &mut Errors) {
    if !backend.exists() {
        return;
    }
    let (service, resource) = (backend.get("service"), backend.get("resource"));
    if service.exists() && resource.exists() {
        return backend.invalid(errors, "cannot set both resource and service backends");
    }
    if !service.exists() {
        return;
    }
    let name = service.get("name");
    if name.is_empty() {
        name.required(errors, "")
    } else {
        name.invalid_all(errors, names::dns1035_label(name.str()))
    }
    let port = service.get("port");
    let (named, number) = (port.get("name"), port.get("number"));
    match (named.is_empty(), number.int().unwrap_or(0) == 0) {
        (true, true) => port.required(errors, "port name or number is required"),
        (false, false) => port.invalid(errors, "cannot set both port name & port number"),
        (false, true) => named.invalid_all(errors, names::port_name(named.str())),
        (true, false) => port_number(&number, errors),
    }
}

fn policy_peer(peer: &Field<'_>, errors: &mut Errors) {
    let (pods, namespaces, block) = (
        peer.get("podSelector"),
        peer.get("namespaceSelector"),
        peer.get("ipBlock"),
    );
    if !pods.exists() && !namespaces.exists() && !block.exists() {
        peer.required(errors, "must specify a peer");
    } else if block.exists() && (pods.exists() || namespaces.exists()) {
        peer.forbidden(errors, "may not specify both ipBlock and another peer");
    }
    label_selector(&pods, errors);
    label_selector(&namespaces, errors);
    if block.exists() {
        let cidr = block.get("cidr");
        if cidr.is_empty() {
            cidr.required(errors, "")
        } else {
            cidr.invalid_all(errors, names::cidr(cidr.str()))
        }
        for except in block.get("except").items() {
            except.invalid_all(errors, names::cidr(except.str()));
        }
    }
}

fn policy_port(port: &Field<'_>, errors: &mut Errors) {
    let protocol = port.get("protocol");
    if protocol.exists() {
        protocol.one_of(errors, &["SCTP", "TCP", "UDP"]);
    }
    let number = port.get("port");
    match number.value {
        Value::Null => {}
        Value::String(name) => number.invalid_all(errors, names::port_name(name)),
        _ => port_number(&number, errors),
    }
    let end = port.get("endPort");
    if let Some(last) = end.int() {
        match number.int() {
            None if number.exists() => end.invalid(errors, "may not be specified when `port` is non-numeric"),
            None => end.invalid(errors, "may not be specified when `port` is not specified"),
            Some(first) if last < first => end.invalid(errors, "must be greater than or equal to `port`"),
            Some(_) => {}
        }
    }
}
