//! NetworkPolicies, service ranges and addresses.

use api::names;
use serde_json::{Value, json};

use super::common::{format_selector, label_selector};
use super::field::{Errors, Field, default, each, ensure, list, port_number, text};
use super::ip;
use super::rules::Rules;
use crate::registry::table::{self, Column};

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
    validate: policy,
    warnings: |root, _| {
        let mut warnings = Vec::new();
        let spec = root.get("spec");
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            for rule in spec.get(direction).items() {
                for peer in rule.get(peers).items() {
                    let block = peer.get("ipBlock");
                    if block.exists() {
                        ip::warn_cidr(&block.get("cidr"), &mut warnings);
                        block
                            .get("except")
                            .items()
                            .for_each(|e| ip::warn_cidr(&e, &mut warnings));
                    }
                }
            }
        }
        warnings
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
            return cidrs.required(errors, "at least one CIDR required");
        }
        if cidrs.len() > 2 {
            return cidrs.invalid_as(errors, spec.value.clone(), "may only hold up to 2 values");
        }
        let families: Vec<bool> = cidrs
            .items()
            .filter_map(|c| ip::parse_cidr(c.str()))
            .map(|c| c.0.is_ipv4())
            .collect();
        if cidrs.len() == 2 && (families.len() < 2 || families[0] == families[1]) {
            let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
            return cidrs.invalid_as(errors, spec.value.clone(), detail);
        }
        cidrs.items().for_each(|cidr| ip::canonical_cidr(&cidr, errors));
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
        parent.get("group").check_if_set(errors, names::dns1123_subdomain);
        parent.get("resource").required_check(errors, names::path_segment);
        parent.get("name").required_check(errors, names::path_segment);
        parent.get("namespace").check_if_set(errors, names::path_segment);
    },
    validate_update: |root, old, errors| {
        root.get("spec")
            .get("parentRef")
            .immutable(errors, &old["spec"]["parentRef"])
    },
    name: |name| {
        let value = Value::from(name);
        let mut errors = Errors::new();
        ip::canonical_ip(&Field::root("", &value), &mut errors);
        errors.into_iter().map(|e| e.detail).collect()
    },
    columns: &[Column::NAME, Column::text("ParentRef")],
    row: |object, _| {
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
        vec![table::name(object), json!(shown.join("/"))]
    },
    fields: &["spec.parentRef.resource", "spec.parentRef.name"],
    ..Rules::NONE
};

fn policy(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.get("spec");
    label_selector(&spec.get("podSelector"), errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.get(direction).items() {
            rule.get("ports").items().for_each(|port| policy_port(&port, errors));
            rule.get(peers).items().for_each(|peer| policy_peer(&peer, errors));
        }
    }
    let kinds = spec.get("policyTypes");
    if kinds.len() > 2 {
        return kinds.invalid(errors, "may not specify more than two policyTypes");
    }
    for kind in kinds.items() {
        kind.one_of(errors, &["Ingress", "Egress"]);
    }
}

fn policy_peer(peer: &Field<'_>, errors: &mut Errors) {
    let (pods, namespaces, block) = (
        peer.get("podSelector"),
        peer.get("namespaceSelector"),
        peer.get("ipBlock"),
    );
    label_selector(&pods, errors);
    label_selector(&namespaces, errors);
    if block.exists() {
        ip_block(&block, errors);
    }
    if !pods.exists() && !namespaces.exists() && !block.exists() {
        peer.required(errors, "must specify a peer");
    } else if block.exists() && (pods.exists() || namespaces.exists()) {
        peer.forbidden(errors, "may not specify both ipBlock and another peer");
    }
}

fn ip_block(block: &Field<'_>, errors: &mut Errors) {
    let cidr = block.get("cidr");
    if cidr.is_empty() {
        return cidr.required(errors, "");
    }
    ip::cidr(&cidr, errors);
    let Some(outer) = ip::parse_cidr(cidr.str()) else {
        return;
    };
    for except in block.get("except").items() {
        ip::cidr(&except, errors);
        let Some(inner) = ip::parse_cidr(except.str()) else {
            continue;
        };
        if outer.1 >= inner.1 || ip::network(inner.0, outer.1) != ip::network(outer.0, outer.1) {
            except.invalid(errors, "must be a strict subset of `cidr`");
        }
    }
}

fn policy_port(port: &Field<'_>, errors: &mut Errors) {
    port.get("protocol").one_of_if_set(errors, &["TCP", "UDP", "SCTP"]);
    let (first, last) = (port.get("port"), port.get("endPort"));
    match first.value {
        Value::Null if last.exists() => last.invalid(errors, "may not be specified when `port` is not specified"),
        Value::Null => {}
        Value::String(_) => {
            if last.exists() {
                last.invalid(errors, "may not be specified when `port` is non-numeric");
            }
            first.check(errors, names::port_name);
        }
        _ => {
            port_number(&first, errors);
            if last.exists() && last.number() < first.number() {
                last.invalid_as(errors, first.number(), "must be greater than or equal to `port`");
            }
            if last.exists() {
                port_number(&last, errors);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created(rules: &Rules, spec: Value) -> Vec<String> {
        let mut object = json!({"metadata": {"name": "i"}, "spec": spec});
        (rules.default)(&mut object);
        let mut errors = Errors::new();
        (rules.validate)(&Field::root("", &object), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn policies() {
        let ingress = |rule: Value| json!({"podSelector": {}, "ingress": [rule]});
        let cases: [(Value, &[&str]); 5] = [
            (json!({"podSelector": {}}), &[]),
            (
                ingress(json!({"from": [{}]})),
                &["spec.ingress[0].from[0]: Required value: must specify a peer"],
            ),
            (
                ingress(json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]})),
                &[
                    "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
                ],
            ),
            (
                ingress(json!({"ports": [{"port": 80, "endPort": 79}]})),
                &["spec.ingress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`"],
            ),
            (
                ingress(json!({"ports": [{"protocol": "ICMP"}]})),
                &[
                    "spec.ingress[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"TCP\", \"UDP\", \"SCTP\"",
                ],
            ),
        ];
        for (spec, want) in cases {
            assert_eq!(created(&NETWORK_POLICY, spec.clone()), want, "{spec}");
        }
    }

    #[test]
    fn ranges() {
        assert_eq!(
            created(&SERVICE_CIDR, json!({"cidrs": ["10.0.0.0/16", "fd00::/112"]})),
            Vec::<String>::new()
        );
        assert_eq!(
            created(&SERVICE_CIDR, json!({})),
            ["spec.cidrs: Required value: at least one CIDR required"]
        );
        assert_eq!(
            created(&SERVICE_CIDR, json!({"cidrs": ["10.0.0.1/16"]})),
            ["spec.cidrs[0]: Invalid value: \"10.0.0.1/16\": must be in canonical form (\"10.0.0.0/16\")"]
        );
    }
}
