//! Services: defaults, IP families, validation and columns. Addresses and ports are allocated by `allocators`, in the transaction that
//! writes the service.

pub mod validate;

use std::collections::HashSet;
use std::net::IpAddr;

use api::{FieldError, names};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::common::{format_labels, or_none};
use super::field::{Errors, Field, default, default_zero, each, ensure, list, text};
use crate::allocators;
use crate::registry::strategy::{Extra, Strategy, WriteContext, keep_all_but_status, remove, restore};
use crate::registry::table::{self, Column};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Type"),
    Column::text("Cluster-IP"),
    Column::text("External-IP"),
    Column::text("Port(s)"),
    Column::AGE,
    Column::text("Selector").wide(),
];

/// Rules of `services`.
pub struct Service;

#[async_trait]
impl Strategy for Service {
    fn create_on_update(&self) -> bool {
        true
    }

    fn default(&self, service: &mut Value) {
        if let Some(spec) = ensure(service, "spec") {
            fill(spec);
        }
        if text(service, "/spec/type") == "LoadBalancer"
            && let Some(balancer) = service.pointer_mut("/status/loadBalancer")
        {
            fill_ip_modes(balancer);
        }
    }

    fn prepare_create(&self, _cx: &WriteContext<'_>, service: &mut Value) {
        remove(service, "status");
        crate::kinds::field::set(service, "status", json!({"loadBalancer": {}}));
        if let Some(spec) = service.get_mut("spec") {
            normalize_ips(spec, None);
        }
    }

    fn prepare_update(&self, cx: &WriteContext<'_>, new: &mut Value, old: &Value) {
        if cx.subresource == "status" {
            return keep_all_but_status(new, old);
        }
        restore(new, old, "status");
        if let Some(spec) = new.get_mut("spec") {
            normalize_ips(spec, old.get("spec"));
            keep_allocated(spec, &old["spec"]);
            drop_type_dependent(spec, &old["spec"]);
        }
    }

    fn validate(&self, _cx: &WriteContext<'_>, service: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        validate::service(&Field::root("", service), &mut errors);
        errors
    }

    fn validate_update(&self, cx: &WriteContext<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let root = Field::root("", new);
        if cx.subresource == "status" {
            validate::status(&root, &mut errors);
        } else {
            validate::update(&root.get("spec"), &old["spec"], &mut errors);
            validate::service(&root, &mut errors);
        }
        errors
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        validate::warnings(&Field::root("", new))
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        if prefix {
            names::dns1035_label(&format!("{}a", name.trim_end_matches('-')))
        } else {
            names::dns1035_label(name)
        }
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, service: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let ip = list(service, "/spec/clusterIPs")
            .first()
            .and_then(Value::as_str)
            .unwrap_or_default();
        vec![
            table::name(service),
            json!(text(service, "/spec/type")),
            json!(or_none(ip)),
            json!(external_ip(service)),
            json!(ports_cell(service)),
            table::age(service, now),
            json!(format_labels(service.pointer("/spec/selector"))),
        ]
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["spec.clusterIP", "spec.type"]
    }

    async fn before_create(&self, cx: &WriteContext<'_>, service: &mut Value) -> Result<Extra, api::Error> {
        allocators::service(cx, service, None).await
    }

    async fn before_update(&self, cx: &WriteContext<'_>, new: &mut Value, old: &Value) -> Result<Extra, api::Error> {
        if cx.subresource.is_empty() {
            allocators::service(cx, new, Some(old)).await
        } else {
            Ok(Extra::default())
        }
    }

    async fn before_remove(&self, _cx: &WriteContext<'_>, service: &Value) -> Result<Extra, api::Error> {
        Ok(allocators::release(service))
    }
}

fn kind(spec: &Value) -> &str {
    text(spec, "/type")
}

/// Whether a service of this type has cluster IPs at all.
pub fn has_cluster_ip(spec: &Value) -> bool {
    matches!(kind(spec), "ClusterIP" | "NodePort" | "LoadBalancer")
}

/// Whether the service asks for no address of its own.
pub fn is_headless(spec: &Value) -> bool {
    has_cluster_ip(spec)
        && (text(spec, "/clusterIP") == "None" || list(spec, "/clusterIPs").first().is_some_and(|ip| ip == "None"))
}

/// Whether the service is a name for addresses that somebody else writes down.
fn is_headless_without_selector(spec: &Value) -> bool {
    is_headless(spec)
        && spec
            .get("selector")
            .and_then(Value::as_object)
            .is_none_or(|map| map.is_empty())
}

/// Whether it can be reached from outside of the cluster.
fn is_reachable(spec: &Value) -> bool {
    matches!(kind(spec), "NodePort" | "LoadBalancer")
        || (kind(spec) == "ClusterIP" && !list(spec, "/externalIPs").is_empty())
}

/// Whether a load balancer asks each node for its health.
pub fn needs_health_port(spec: &Value) -> bool {
    kind(spec) == "LoadBalancer" && text(spec, "/externalTrafficPolicy") == "Local"
}

/// Whether each port gets a node port.
pub fn has_node_ports(spec: &Value) -> bool {
    match kind(spec) {
        "NodePort" => true,
        "LoadBalancer" => spec.get("allocateLoadBalancerNodePorts").and_then(Value::as_bool) != Some(false),
        _ => false,
    }
}

/// How a load balancer's address is reached, if it is not said: packets keep it as their destination.
fn fill_ip_modes(balancer: &mut Value) {
    for entry in each(balancer, "ingress") {
        if !text(entry, "/ip").is_empty() {
            default(entry, "ipMode", "VIP");
        }
    }
}

fn fill(spec: &mut Value) {
    default_zero(spec, "sessionAffinity", "None");
    if text(spec, "/sessionAffinity") == "None" {
        remove(spec, "sessionAffinityConfig");
    } else if text(spec, "/sessionAffinity") == "ClientIP"
        && let Some(client) = ensure(spec, "sessionAffinityConfig").and_then(|c| ensure(c, "clientIP"))
    {
        default(client, "timeoutSeconds", 10800);
    }
    default_zero(spec, "type", "ClusterIP");
    for port in each(spec, "ports") {
        default_zero(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or_default();
        default_zero(port, "targetPort", number);
    }
    let kind = kind(spec).to_owned();
    if is_reachable(spec) {
        default_zero(spec, "externalTrafficPolicy", "Cluster");
    }
    if has_cluster_ip(spec) {
        default(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// Keeps `clusterIP` and `clusterIPs` saying the same, and fills in the families that follow from them.
fn normalize_ips(spec: &mut Value, old: Option<&Value>) {
    if kind(spec) == "ExternalName" {
        if old.is_some_and(|o| kind(o) != "ExternalName") {
            ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]
                .into_iter()
                .for_each(|field| remove(spec, field));
        }
        return;
    }
    let single = text(spec, "/clusterIP").to_owned();
    let many = list(spec, "/clusterIPs");
    let before = old.map_or("", |o| text(o, "/clusterIP"));
    if many.is_empty() && !single.is_empty() {
        crate::kinds::field::set(spec, "clusterIPs", json!([single]));
    } else if single.is_empty() && !many.is_empty() {
        let first = many[0].clone();
        crate::kinds::field::set(spec, "clusterIP", first);
    } else if old.is_some() && single != before && !many.is_empty() && many[0] == before {
        crate::kinds::field::set(spec, "clusterIPs", json!([single]));
    }
    let families: Vec<&str> = list(spec, "/clusterIPs")
        .iter()
        .filter_map(Value::as_str)
        .filter_map(|ip| ip.parse::<IpAddr>().ok())
        .map(family)
        .collect();
    let families = if families.is_empty() {
        json!(["IPv4"])
    } else {
        json!(families)
    };
    let either = json!(["IPv4", "IPv6"]);
    if is_headless_without_selector(spec) {
        default(spec, "ipFamilyPolicy", "RequireDualStack");
        let dual = text(spec, "/ipFamilyPolicy") != "SingleStack";
        match list(spec, "/ipFamilies") {
            [] => crate::kinds::field::set(spec, "ipFamilies", if dual { either } else { json!(["IPv4"]) }),
            [one] if dual => {
                let both = if one == "IPv6" { json!(["IPv6", "IPv4"]) } else { either };
                crate::kinds::field::set(spec, "ipFamilies", both);
            }
            _ => {}
        }
        return;
    }
    let several = families.as_array().map_or(0, Vec::len) > 1 || list(spec, "/ipFamilies").len() > 1;
    default(
        spec,
        "ipFamilyPolicy",
        if several { "RequireDualStack" } else { "SingleStack" },
    );
    if list(spec, "/ipFamilies").is_empty() {
        crate::kinds::field::set(spec, "ipFamilies", families);
    }
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// A PUT that leaves out what the server allocated keeps it, as upstream does for callers that send their manifest again.
fn keep_allocated(spec: &mut Value, old: &Value) {
    if !has_cluster_ip(spec) || !has_cluster_ip(old) {
        return;
    }
    if text(spec, "/clusterIP").is_empty() && list(spec, "/clusterIPs").is_empty() {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            restore(spec, old, field);
        }
    }
    if !has_node_ports(spec) || !has_node_ports(old) {
        return;
    }
    let mut used: HashSet<i64> = list(spec, "/ports")
        .iter()
        .filter_map(|p| p.get("nodePort")?.as_i64())
        .filter(|n| *n != 0)
        .collect();
    let before = list(old, "/ports").to_vec();
    for port in each(spec, "ports") {
        if port.get("nodePort").and_then(Value::as_i64).unwrap_or(0) != 0 {
            continue;
        }
        let same = before
            .iter()
            .find(|b| b["port"] == port["port"] && b["protocol"] == port["protocol"]);
        if let Some(number) = same
            .and_then(|b| b.get("nodePort")?.as_i64())
            .filter(|n| *n != 0 && used.insert(*n))
        {
            port["nodePort"] = json!(number);
        }
    }
}

/// A change of the type drops what only the old type had, where the caller left it as it was.
fn drop_type_dependent(spec: &mut Value, old: &Value) {
    let before = list(old, "/ports").to_vec();
    if has_node_ports(old) && !has_node_ports(spec) {
        for (i, port) in each(spec, "ports").enumerate() {
            if before.get(i).is_some_and(|b| b.get("nodePort") == port.get("nodePort")) {
                remove(port, "nodePort");
            }
        }
    }
    let accessible = |s: &Value| matches!(kind(s), "NodePort" | "LoadBalancer") || !list(s, "/externalIPs").is_empty();
    let balanced = |s: &Value| kind(s) == "LoadBalancer";
    let checked = |s: &Value| balanced(s) && text(s, "/externalTrafficPolicy") == "Local";
    let rules: [(&str, &dyn Fn(&Value) -> bool); 4] = [
        ("externalTrafficPolicy", &accessible),
        ("allocateLoadBalancerNodePorts", &balanced),
        ("loadBalancerClass", &balanced),
        ("healthCheckNodePort", &checked),
    ];
    for (field, needed) in rules {
        if needed(old) && !needed(spec) && spec.get(field) == old.get(field) {
            remove(spec, field);
        }
    }
}

fn external_ip(service: &Value) -> String {
    let mut external: Vec<&str> = list(service, "/spec/externalIPs")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    match text(service, "/spec/type") {
        "ClusterIP" | "NodePort" => or_none(&external.join(",")).to_owned(),
        "ExternalName" => text(service, "/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let ingress = list(service, "/status/loadBalancer/ingress").iter();
            let shown = ingress
                .map(|i| {
                    if text(i, "/ip").is_empty() {
                        text(i, "/hostname")
                    } else {
                        text(i, "/ip")
                    }
                })
                .filter(|s| !s.is_empty());
            let mut all: Vec<&str> = shown.collect();
            all.append(&mut external);
            if all.is_empty() {
                "<pending>".to_owned()
            } else {
                all.join(",")
            }
        }
        _ => "<unknown>".to_owned(),
    }
}

fn ports_cell(service: &Value) -> String {
    let one = |p: &Value| {
        let (port, protocol) = (p.get("port").and_then(Value::as_i64).unwrap_or(0), text(p, "/protocol"));
        match p.get("nodePort").and_then(Value::as_i64) {
            Some(node) if node > 0 => format!("{port}:{node}/{protocol}"),
            _ => format!("{port}/{protocol}"),
        }
    };
    let ports: Vec<String> = list(service, "/spec/ports").iter().map(one).collect();
    or_none(&ports.join(",")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(spec: Value) -> Vec<String> {
        let mut service = json!({"spec": spec});
        Service.default(&mut service);
        normalize_ips(&mut service["spec"], None);
        let mut errors = Errors::new();
        validate::service(&Field::root("", &service), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn faults() {
        assert_eq!(messages(json!({"ports": [{"port": 80}]})), Vec::<String>::new());
        assert_eq!(messages(json!({"clusterIP": "None"})), Vec::<String>::new());
        assert_eq!(messages(json!({})), ["spec.ports: Required value"]);
        assert_eq!(
            messages(json!({"type": "Other", "ports": [{"port": 80}]})),
            [
                "spec.type: Unsupported value: \"Other\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\""
            ]
        );
        assert_eq!(
            messages(json!({"ports": [{"port": 80}, {"port": 81}]})),
            [
                "spec.ports[0].name: Required value",
                "spec.ports[1].name: Required value"
            ]
        );
        assert_eq!(
            messages(json!({"ports": [{"port": 80, "nodePort": 30080}]})),
            ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"]
        );
        let cases: [(Value, &[&str]); 8] = [
            (json!({"type": "ExternalName"}), &["spec.externalName: Required value"]),
            (
                json!({"ports": [{"port": 80}], "clusterIP": "1.2.3", "sessionAffinity": "No"}),
                &[
                    "spec.sessionAffinity: Unsupported value: \"No\": supported values: \"ClientIP\", \"None\"",
                    "spec.clusterIPs[0]: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                ],
            ),
            (
                json!({"ports": [{"port": 80, "name": "a.b"}, {"port": 80, "name": "b", "targetPort": "--"}]}),
                &[
                    "spec.ports[0].name: Invalid value: \"a.b\": must not contain dots",
                    "spec.ports[1].targetPort: Invalid value: \"--\": must contain at least one letter (a-z)",
                    "spec.ports[1].targetPort: Invalid value: \"--\": must not contain consecutive hyphens",
                    "spec.ports[1].targetPort: Invalid value: \"--\": must not begin or end with a hyphen",
                    "spec.ports[1]: Duplicate value: {\"AppProtocol\":null,\"Name\":\"\",\"NodePort\":0,\"Port\":80,\"Protocol\":\"TCP\",\"TargetPort\":0}",
                ],
            ),
            (
                json!({"ports": [{"port": 80}], "externalIPs": ["127.0.0.1"]}),
                &[
                    "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                ],
            ),
            (
                json!({"ports": [{"port": 80}], "loadBalancerClass": "a/b", "allocateLoadBalancerNodePorts": true}),
                &[
                    "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
                    "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
                ],
            ),
            (
                json!({"ports": [{"port": 80}], "trafficDistribution": "Far"}),
                &[
                    "spec.trafficDistribution: Unsupported value: \"Far\": supported values: \"PreferClose\", \"PreferSameZone\", \"PreferSameNode\"",
                ],
            ),
            (
                json!({"ports": [{"port": 80}], "ipFamilyPolicy": "RequireDualStack"}),
                &[
                    "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
                ],
            ),
            (
                json!({"ports": [{"port": 80}], "externalTrafficPolicy": "Local"}),
                &[
                    "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
                ],
            ),
        ];
        for (spec, want) in cases {
            assert_eq!(messages(spec.clone()), want, "{spec}");
        }
    }

    #[test]
    fn changes() {
        let service = |spec: Value| {
            let mut service = json!({"spec": spec});
            Service.default(&mut service);
            normalize_ips(&mut service["spec"], None);
            service
        };
        let old = service(json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}));
        let changed = |spec: Value| {
            let new = service(spec);
            let mut errors = Errors::new();
            validate::update(&Field::root("spec", &new["spec"]), &old["spec"], &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            changed(json!({"clusterIP": "10.96.0.10", "ports": [{"port": 80}]})),
            ["spec.clusterIPs[0]: Invalid value: [\"10.96.0.10\"]: may not change once set"]
        );
        assert_eq!(
            changed(json!({"clusterIP": "None", "ports": [{"port": 80}]})),
            ["spec.clusterIPs[0]: Invalid value: [\"None\"]: may not change once set"]
        );
        assert_eq!(
            changed(json!({"type": "ExternalName", "externalName": "a.b"})),
            Vec::<String>::new()
        );
    }

    #[test]
    fn defaults_and_families() {
        let mut service = json!({"spec": {"ports": [{"port": 80}], "clusterIP": "10.96.3.4"}});
        Service.default(&mut service);
        normalize_ips(&mut service["spec"], None);
        assert_eq!(
            service["spec"],
            json!({"ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}], "clusterIP": "10.96.3.4", "clusterIPs": ["10.96.3.4"],
            "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"})
        );
    }

    #[test]
    fn what_was_allocated_stays() {
        let old = json!({"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]});
        let mut new =
            json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP"}]});
        keep_allocated(&mut new, &old);
        assert_eq!(new["clusterIP"], "10.96.0.9");
        assert_eq!(
            new["ports"],
            json!([{"port": 80, "protocol": "TCP", "nodePort": 30001}, {"port": 81, "protocol": "TCP"}])
        );
    }

    #[test]
    fn cells() {
        let service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "clusterIPs": ["10.96.0.9"], "ports": [{"port": 80, "nodePort": 30001, "protocol": "TCP"}], "selector": {"a": "b"}}});
        let row = Service.row(&service, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(
            row,
            [
                json!("s"),
                json!("NodePort"),
                json!("10.96.0.9"),
                json!("<none>"),
                json!("80:30001/TCP"),
                json!("<unknown>"),
                json!("a=b")
            ]
        );
    }
}
