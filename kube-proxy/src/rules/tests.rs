//! What the plan decides, case by case, and the text it becomes.

use std::sync::Arc;

use api::core::v1::Service;
use api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::*;

fn node() -> Node {
    Node {
        name: "n1".to_string(),
        zone: "z1".to_string(),
        addresses: vec!["192.0.2.1".parse().unwrap()],
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        own_vips: vec!["10.96.0.10".parse().unwrap()],
        masquerade_mark: 0x4000,
        masquerade_all: false,
    }
}

fn service(spec: Value) -> Arc<Service> {
    let mut all = json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "type": "ClusterIP",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]});
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    Arc::new(serde_json::from_value(json!({"metadata": {"namespace": "default", "name": "web"}, "spec": all})).unwrap())
}

/// Endpoints as `(address, node, state)`, where state is some of "ready", "serving", "terminating".
fn slice(endpoints: &[(&str, &str, &str)]) -> Arc<EndpointSlice> {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(ip, node, state)| {
            json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": state.contains("ready"),
                "serving": state.contains("serving") || state.contains("ready"), "terminating": state.contains("terminating")}})
        })
        .collect();
    slice_of(json!(endpoints))
}

fn slice_of(endpoints: Value) -> Arc<EndpointSlice> {
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints
        }))
        .unwrap(),
    )
}

fn frontend(ip: &str, port: u16) -> Frontend {
    Frontend {
        ip: ip.parse().unwrap(),
        protocol: Protocol::Tcp,
        port,
    }
}

/// The endpoints from which clients of a frontend are served, in order.
fn served(rules: &RuleSet, ip: &str, port: u16) -> Vec<String> {
    listed(rules, rules.services.get(&frontend(ip, port)), frontend(ip, port))
}

fn listed(rules: &RuleSet, balance: Option<&Balance>, frontend: Frontend) -> Vec<String> {
    let Some(balance) = balance else { return Vec::new() };
    let first = if balance.local { LOCAL_SLOTS } else { 0 };
    let found: Vec<_> = (first..first + balance.endpoints)
        .map(|index| {
            let slot = Slot { frontend, index };
            match rules.sticky_slots.get(&slot) {
                Some(id) => rules.sticky_endpoints[&StickyKey { frontend, id: *id }],
                None => rules.endpoints[&slot],
            }
        })
        .map(|address| address.to_string())
        .collect();
    found
}

const BOTH: &[(&str, &str, &str)] = &[("10.244.1.2", "n1", "ready"), ("10.244.2.2", "n2", "ready")];

#[test]
fn cluster_ip_leads_to_every_ready_endpoint() {
    let rules = plan(&[service(json!({}))], &[slice(BOTH)], &node());
    assert_eq!(served(&rules, "10.96.0.7", 80), ["10.244.1.2:8080", "10.244.2.2:8080"]);
    assert!(
        rules.masquerade.is_empty(),
        "cluster IPs are masqueraded by source, not always"
    );
    assert!(rules.cluster_ips.contains_key(&"10.96.0.7".parse::<IpAddr>().unwrap()));
    assert_eq!(
        rules.hairpin.len(),
        1,
        "only this node's endpoints can reach themselves here"
    );
}

#[test]
fn readiness_and_termination_decide_which_endpoints_count() {
    for (endpoints, expected) in [
        (
            &[("10.0.0.1", "n1", "ready"), ("10.0.0.2", "n2", "")][..],
            &["10.0.0.1:8080"][..],
        ),
        (
            &[("10.0.0.1", "n1", "ready"), ("10.0.0.2", "n2", "serving terminating")],
            &["10.0.0.1:8080"],
        ),
        (
            &[("10.0.0.1", "n1", "serving terminating"), ("10.0.0.2", "n2", "")],
            &["10.0.0.1:8080"],
        ),
        (&[("10.0.0.1", "n1", "terminating")], &[]),
        (&[("10.0.0.1", "n1", "serving")], &[]),
        // In two slices at once.
        (
            &[("10.0.0.1", "n1", ""), ("10.0.0.1", "n1", "ready")],
            &["10.0.0.1:8080"],
        ),
    ] {
        let rules = plan(&[service(json!({}))], &[slice(endpoints)], &node());
        assert_eq!(served(&rules, "10.96.0.7", 80), expected, "{endpoints:?}");
    }
    let unset = slice_of(json!([{"addresses": ["10.0.0.1"]}]));
    assert_eq!(
        served(&plan(&[service(json!({}))], &[unset], &node()), "10.96.0.7", 80),
        ["10.0.0.1:8080"]
    );
}

#[test]
fn without_endpoints_every_frontend_rejects() {
    let node_port = service(json!({"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}));
    let rules = plan(&[node_port], &[] as &[Arc<EndpointSlice>], &node());
    assert_eq!(rules.refused[&frontend("10.96.0.7", 80)], Refusal::Reject);
    assert_eq!(rules.refused[&frontend("192.0.2.1", 30080)], Refusal::Reject);
    assert!(rules.services.is_empty());
}

#[test]
fn internal_policy_local_uses_this_nodes_endpoints_or_drops() {
    let local = || service(json!({"internalTrafficPolicy": "Local"}));
    let rules = plan(&[local()], &[slice(BOTH)], &node());
    assert_eq!(served(&rules, "10.96.0.7", 80), ["10.244.1.2:8080"]);
    let rules = plan(&[local()], &[slice(&BOTH[1..])], &node());
    assert_eq!(rules.refused[&frontend("10.96.0.7", 80)], Refusal::Drop);
    let rules = plan(&[local()], &[slice(&[])], &node());
    assert_eq!(rules.refused[&frontend("10.96.0.7", 80)], Refusal::Reject);
}

#[test]
fn external_policy_cluster_masquerades_and_local_does_not() {
    let with = |policy: &str| {
        service(json!({"type": "NodePort", "externalTrafficPolicy": policy,
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}))
    };
    let at = frontend("192.0.2.1", 30080);
    let rules = plan(&[with("Cluster")], &[slice(BOTH)], &node());
    assert_eq!(served(&rules, "192.0.2.1", 30080).len(), 2);
    assert!(rules.masquerade.contains_key(&at) && rules.internal.is_empty());

    let rules = plan(&[with("Local")], &[slice(BOTH)], &node());
    assert_eq!(served(&rules, "192.0.2.1", 30080), ["10.244.1.2:8080"]);
    assert!(!rules.masquerade.contains_key(&at));
    assert_eq!(
        listed(&rules, rules.internal.get(&at), at).len(),
        2,
        "pods and the node itself use all endpoints"
    );
    assert_eq!(
        served(&rules, "10.96.0.7", 80).len(),
        2,
        "the external policy is not the cluster IP's"
    );

    let rules = plan(&[with("Local")], &[slice(&BOTH[1..])], &node());
    assert_eq!(rules.refused[&at], Refusal::Drop);
    assert_eq!(listed(&rules, rules.internal.get(&at), at), ["10.244.2.2:8080"]);
}

#[test]
fn load_balancer_and_external_addresses_are_frontends() {
    let mut lb = Service::clone(&service(
        json!({"type": "LoadBalancer", "externalIPs": ["198.51.100.1"],
        "loadBalancerSourceRanges": ["203.0.113.0/24", " 203.0.113.128/25", "2001:db8::/32"]}),
    ));
    lb.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [
        {"ip": "198.51.100.7"}, {"ip": "198.51.100.8", "ipMode": "Proxy"}, {"hostname": "lb.example"}]}}))
    .unwrap();
    let rules = plan(&[Arc::new(lb)], &[slice(BOTH)], &node());
    assert_eq!(served(&rules, "198.51.100.1", 80).len(), 2);
    assert_eq!(served(&rules, "198.51.100.7", 80).len(), 2);
    assert!(served(&rules, "198.51.100.8", 80).is_empty());
    let lb = frontend("198.51.100.7", 80);
    assert_eq!(
        rules.restricted.keys().collect::<Vec<_>>(),
        [&lb],
        "source ranges are for load balancer addresses only"
    );
    assert_eq!(
        rules.allowed.keys().collect::<Vec<_>>(),
        [&(lb, "203.0.113.0/24".parse().unwrap())],
        "merged, own family"
    );
}

#[test]
fn services_of_others_and_without_address_are_left_alone() {
    for spec in [
        json!({"clusterIP": "None", "clusterIPs": ["None"]}),
        json!({"type": "ExternalName", "clusterIP": "", "clusterIPs": []}),
        json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"]}),
    ] {
        let rules = plan(&[service(spec.clone())], &[slice(BOTH)], &node());
        assert!(
            rules.services.is_empty() && rules.refused.is_empty() && rules.cluster_ips.is_empty(),
            "{spec}"
        );
    }
    let mut foreign = Service::clone(&service(json!({})));
    foreign.metadata.labels = Some([("service.kubernetes.io/service-proxy-name".to_string(), "x".to_string())].into());
    assert!(plan(&[Arc::new(foreign)], &[slice(BOTH)], &node()).services.is_empty());
}

#[test]
fn ports_match_by_name_and_protocol() {
    let two =
        service(json!({"ports": [{"name": "http", "port": 80, "protocol": "UDP"}, {"name": "other", "port": 81}]}));
    let rules = plan(&[two], &[slice(BOTH)], &node());
    assert!(rules.services.is_empty());
    assert_eq!(rules.refused.len(), 2);
}

#[test]
fn hints_keep_traffic_in_the_zone_when_every_endpoint_has_one() {
    let hinted = |second: Value| {
        slice_of(json!([
            {"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "hints": {"forZones": [{"name": "z1"}]}},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": true}, "hints": second},
        ]))
    };
    let served = |slice| served(&plan(&[service(json!({}))], &[slice], &node()), "10.96.0.7", 80);
    assert_eq!(served(hinted(json!({"forZones": [{"name": "z2"}]}))), ["10.0.0.1:8080"]);
    assert_eq!(served(hinted(Value::Null)).len(), 2, "one without hint: none counts");
    let node_hints = slice_of(json!([
        {"addresses": ["10.0.0.1"], "hints": {"forZones": [{"name": "z1"}], "forNodes": [{"name": "n2"}]}},
        {"addresses": ["10.0.0.2"], "hints": {"forZones": [{"name": "z1"}], "forNodes": [{"name": "n1"}]}},
    ]));
    assert_eq!(
        served(node_hints),
        ["10.0.0.2:8080"],
        "a node hint is stronger than a zone hint"
    );
}

#[test]
fn affinity_keeps_an_endpoints_number_while_others_come_and_go() {
    let sticky = || {
        service(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}))
    };
    let ids = |slice| -> BTreeMap<String, u32> {
        let rules = plan(&[sticky()], &[slice], &node());
        assert!(rules.endpoints.is_empty());
        rules
            .sticky_endpoints
            .iter()
            .map(|(key, endpoint)| (endpoint.to_string(), key.id))
            .collect()
    };
    let (two, one) = (ids(slice(BOTH)), ids(slice(&BOTH[1..])));
    assert_eq!(two.len(), 2);
    assert_eq!(two["10.244.2.2:8080"], one["10.244.2.2:8080"]);
    assert!(two.values().all(|id| id & 0xffff == 0 && *id != 0), "{two:?}");
    let default = plan(
        &[service(json!({"sessionAffinity": "ClientIP"}))],
        &[slice(BOTH)],
        &node(),
    );
    assert_eq!(default.services[&frontend("10.96.0.7", 80)].affinity, Some(10_800));
}

#[test]
fn dual_stack_services_keep_the_families_apart() {
    let dual = service(json!({"clusterIPs": ["10.96.0.7", "fd00::7"]}));
    let mut six = EndpointSlice::clone(&slice_of(json!([{"addresses": ["fd01::2"]}])));
    six.address_type = "IPv6".to_string();
    let rules = plan(&[dual], &[slice(BOTH), Arc::new(six)], &node());
    assert_eq!(served(&rules, "fd00::7", 80), ["[fd01::2]:8080"]);
    assert_eq!(served(&rules, "10.96.0.7", 80).len(), 2);
    let text = update(&RuleSet::default(), &rules, &Family::ALL);
    assert!(
        text.contains("add element ip6 keelson-proxy endpoints-tcp { fd00::7 . 80 . 0 : fd01::2 . 8080 }"),
        "{text}"
    );
    assert!(!update(&RuleSet::default(), &rules, &[Family::V4]).contains("fd0"));
}

#[test]
fn an_update_writes_only_what_changed() {
    let before = plan(&[service(json!({}))], &[slice(BOTH)], &node());
    let after = plan(&[service(json!({}))], &[slice(&BOTH[1..])], &node());
    assert_eq!(update(&before, &before, &Family::ALL), "");
    assert_eq!(
        update(&before, &after, &Family::ALL),
        "add chain ip keelson-proxy lb-1\n\
         flush chain ip keelson-proxy lb-1\n\
         add rule ip keelson-proxy lb-1 dnat ip to ip daddr . tcp dport . numgen random mod 1 map @endpoints-tcp\n\
         add rule ip keelson-proxy lb-1 dnat ip to ip daddr . udp dport . numgen random mod 1 map @endpoints-udp\n\
         add rule ip keelson-proxy lb-1 dnat ip to ip daddr . sctp dport . numgen random mod 1 map @endpoints-sctp\n\
         delete element ip keelson-proxy services { 10.96.0.7 . tcp . 80 }\n\
         delete element ip keelson-proxy endpoints-tcp { 10.96.0.7 . 80 . 0, 10.96.0.7 . 80 . 1 }\n\
         delete element ip keelson-proxy hairpin { 10.244.1.2 . 10.244.1.2 }\n\
         add element ip keelson-proxy services { 10.96.0.7 . tcp . 80 : goto lb-1 }\n\
         add element ip keelson-proxy endpoints-tcp { 10.96.0.7 . 80 . 0 : 10.244.2.2 . 8080 }\n"
    );
}
