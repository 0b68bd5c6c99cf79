//! The rules in a real kernel: a node, two pods and a client outside, each in a network namespace of its own.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use crate::support::{Host, echoes};
use api::core::v1::Service;
use api::discovery::v1::EndpointSlice;
use kube_proxy::conntrack;
use kube_proxy::rules::{Applier, Family, Node, RuleSet, plan};
use serde_json::{Value, json};

const MARK: u32 = 0x4000;

/// Pods 10.244.1.2 and 10.244.1.3 on the node 192.0.2.1, client 192.0.2.9 beside it.
struct Net {
    node: Host,
    pods: [Host; 2],
    client: Host,
    _router: Host,
    applier: Arc<Mutex<Applier>>,
}

impl Net {
    fn new() -> Self {
        let (node, pods, client, router) = (Host::new(), [Host::new(), Host::new()], Host::new(), Host::new());
        node.link("ext", &client, "eth0");
        node.link("wan", &router, "eth0");
        // Cluster IPs need some route for the node's own connections; a redirect to the client would use up its ICMP allowance.
        node.sh("ip addr add 198.18.0.1/24 dev wan; ip route add default via 198.18.0.254");
        node.sh("ip addr add 192.0.2.1/24 dev ext; sysctl -qw net.ipv4.ip_forward=1");
        client.sh("ip addr add 192.0.2.9/24 dev eth0; ip route add default via 192.0.2.1");
        for (pod, ip, name) in [(&pods[0], "10.244.1.2", "a"), (&pods[1], "10.244.1.3", "b")] {
            let device = format!("veth-{name}");
            node.link(&device, pod, "eth0");
            // As CNI's ptp plugin does it.
            node.sh(&format!(
                "ip addr add 10.244.1.1/32 dev {device}; ip route add {ip}/32 dev {device}"
            ));
            pod.sh(&format!(
                "ip addr add {ip}/32 dev eth0; ip route add 10.244.1.1 dev eth0 scope link; ip route add default via 10.244.1.1"
            ));
            pod.serve_tcp("0.0.0.0:8080", name);
            pod.serve_udp("0.0.0.0:8053", name);
        }
        Self {
            node,
            pods,
            client,
            _router: router,
            applier: Arc::new(Mutex::new(Applier::new(Family::ALL.to_vec(), MARK))),
        }
    }

    fn apply(&self, services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) {
        self.apply_rules(plan(services, slices, &this_node()));
    }

    fn apply_rules(&self, rules: RuleSet) {
        let applier = Arc::clone(&self.applier);
        self.node.run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(applier.lock().unwrap().apply(rules)).unwrap();
        });
    }

    /// As a new process of the proxy would start.
    fn restart(&self) {
        *self.applier.lock().unwrap() = Applier::new(Family::ALL.to_vec(), MARK);
    }
}

fn this_node() -> Node {
    Node {
        name: "n1".to_string(),
        addresses: vec!["192.0.2.1".parse().unwrap()],
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        masquerade_mark: MARK,
        ..Node::default()
    }
}

fn web(spec: Value) -> Arc<Service> {
    let mut all = json!({"clusterIP": "10.96.0.7", "type": "NodePort",
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP"}]});
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    Arc::new(serde_json::from_value(json!({"metadata": {"namespace": "default", "name": "web"}, "spec": all})).unwrap())
}

fn endpoints(ips: &[&str]) -> Arc<EndpointSlice> {
    let endpoints: Vec<_> = ips
        .iter()
        .map(|ip| json!({"addresses": [ip], "nodeName": "n1"}))
        .collect();
    let slice = json!({"metadata": {"namespace": "default", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 8053, "protocol": "UDP"}]});
    Arc::new(serde_json::from_value(slice).unwrap())
}

const BOTH: &[&str] = &["10.244.1.2", "10.244.1.3"];

fn tally(host: &Host, to: &str, times: usize) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for _ in 0..times {
        *counts.entry(host.ask(to).expect(to).0).or_default() += 1;
    }
    counts
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn connections_are_spread_over_the_endpoints_from_everywhere() {
    let net = Net::new();
    net.apply(&[web(json!({}))], &[endpoints(BOTH)]);
    for (host, to) in [
        (&net.pods[0], "10.96.0.7:80"),
        (&net.node, "10.96.0.7:80"),
        (&net.client, "10.96.0.7:80"),
        (&net.client, "192.0.2.1:30080"),
        (&net.node, "192.0.2.1:30080"),
        (&net.pods[1], "192.0.2.1:30080"),
    ] {
        let counts = tally(host, to, 40);
        // 40 draws all alike: 2 in 2^40.
        assert!(counts["a"] > 0 && counts["b"] > 0, "{to}: {counts:?}");
    }
}

#[test]
fn datagrams_reach_endpoints_too() {
    let net = Net::new();
    net.apply(&[web(json!({}))], &[endpoints(BOTH)]);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..40 {
        seen.insert(net.pods[0].udp_client("10.96.0.7:53").ask());
    }
    assert_eq!(seen.len(), 2);
}

#[test]
fn the_source_address_is_kept_where_replies_come_back_anyway() {
    let net = Net::new();
    net.apply(&[web(json!({}))], &[endpoints(&["10.244.1.3"])]);
    let seen = |host: &Host, to| host.ask(to).unwrap().1;
    assert_eq!(
        seen(&net.pods[0], "10.96.0.7:80"),
        ip("10.244.1.2"),
        "between pods nothing is masqueraded"
    );
    assert_eq!(
        seen(&net.pods[1], "10.96.0.7:80"),
        ip("10.244.1.1"),
        "a pod that reaches itself must see another peer"
    );
    assert_eq!(
        seen(&net.client, "10.96.0.7:80"),
        ip("10.244.1.1"),
        "a client outside the pod network is masqueraded"
    );
    assert_eq!(
        seen(&net.client, "192.0.2.1:30080"),
        ip("10.244.1.1"),
        "and at node ports under policy Cluster"
    );
    net.apply(
        &[web(json!({"externalTrafficPolicy": "Local"}))],
        &[endpoints(&["10.244.1.3"])],
    );
    assert_eq!(
        seen(&net.client, "192.0.2.1:30080"),
        ip("192.0.2.9"),
        "policy Local keeps the client's address"
    );
}

#[test]
fn pods_leave_the_cluster_with_the_nodes_address() {
    let net = Net::new();
    net.apply(&[], &[]);
    net.client.serve_tcp("0.0.0.0:9000", "outside");
    assert_eq!(net.pods[0].ask("192.0.2.9:9000").unwrap().1, ip("192.0.2.1"));
    assert_eq!(
        net.pods[0].ask("10.244.1.3:8080").unwrap().1,
        ip("10.244.1.2"),
        "but not on the way to other pods"
    );
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    let net = Net::new();
    net.apply(&[web(json!({}))], &[endpoints(&[])]);
    for (name, host, to) in [
        ("a pod", &net.pods[0], "10.96.0.7:80"),
        ("the node", &net.node, "10.96.0.7:80"),
        ("outside", &net.client, "10.96.0.7:80"),
        ("outside", &net.client, "192.0.2.1:30080"),
        // A port that the service does not have.
        ("a pod", &net.pods[0], "10.96.0.7:81"),
    ] {
        assert_eq!(host.ask(to), Err(ErrorKind::ConnectionRefused), "{to} from {name}");
    }
    net.apply(&[web(json!({}))], &[endpoints(BOTH)]);
    assert!(net.pods[0].ask("10.96.0.7:80").is_ok());
}

#[test]
fn affinity_holds_until_the_endpoint_goes() {
    let net = Net::new();
    let sticky = || web(json!({"sessionAffinity": "ClientIP"}));
    net.apply(&[sticky()], &[endpoints(BOTH)]);
    for (host, to) in [
        (&net.pods[0], "10.96.0.7:80"),
        (&net.client, "192.0.2.1:30080"),
        (&net.client, "10.96.0.7:80"),
    ] {
        let counts = tally(host, to, 20);
        assert_eq!(counts.len(), 1, "{to}: {counts:?}");
    }
    let first = net.client.ask("192.0.2.1:30080").unwrap();
    assert_eq!(first.1, ip("10.244.1.1"), "masqueraded with affinity too");
    let (gone, other) = if first.0 == "a" {
        ("10.244.1.2", "b")
    } else {
        ("10.244.1.3", "a")
    };
    let rest: Vec<_> = BOTH.iter().copied().filter(|ip| *ip != gone).collect();
    net.apply(&[sticky()], &[endpoints(&rest)]);
    assert_eq!(
        tally(&net.client, "192.0.2.1:30080", 10),
        HashMap::from([(other.to_string(), 10)])
    );
    // The one that went is back: clients stay where they are now, also over a restart of the proxy.
    net.apply(&[sticky()], &[endpoints(BOTH)]);
    assert_eq!(
        tally(&net.client, "192.0.2.1:30080", 10),
        HashMap::from([(other.to_string(), 10)])
    );
    net.restart();
    net.apply(&[sticky()], &[endpoints(BOTH)]);
    assert_eq!(
        tally(&net.client, "192.0.2.1:30080", 10),
        HashMap::from([(other.to_string(), 10)])
    );
}

#[test]
fn source_ranges_guard_the_load_balancer_address() {
    let net = Net::new();
    let with = |range: &str| {
        let mut lb = Service::clone(&web(
            json!({"type": "LoadBalancer", "loadBalancerSourceRanges": [range]}),
        ));
        lb.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}]}})).unwrap();
        Arc::new(lb)
    };
    net.apply(&[with("192.0.2.0/28")], &[endpoints(BOTH)]);
    assert!(net.client.ask("198.51.100.7:80").is_ok());
    net.apply(&[with("192.0.2.16/28")], &[endpoints(BOTH)]);
    assert!(matches!(
        net.client.ask("198.51.100.7:80"),
        Err(ErrorKind::TimedOut | ErrorKind::WouldBlock)
    ));
    assert!(
        net.client.ask("192.0.2.1:30080").is_ok(),
        "node ports are not guarded by the ranges"
    );
}

#[test]
fn updates_and_restarts_leave_open_connections_alone() {
    let net = Net::new();
    net.apply(&[web(json!({}))], &[endpoints(BOTH)]);
    let mut open = [
        net.client.connect("192.0.2.1:30080"),
        net.pods[0].connect("10.96.0.7:80"),
        net.node.connect("10.96.0.7:80"),
    ];
    net.apply(&[web(json!({}))], &[endpoints(&[])]);
    assert!(
        open.iter_mut().all(echoes),
        "a connection outlives its endpoint's entry"
    );
    net.restart();
    net.apply(&[web(json!({}))], &[endpoints(BOTH)]);
    assert!(open.iter_mut().all(echoes));
}

#[test]
fn tables_of_another_version_are_replaced_and_removal_is_complete() {
    let net = Net::new();
    net.node
        .sh("nft add table ip keelson-proxy; nft 'add map ip keelson-proxy services { type ipv4_addr : ipv4_addr; }'");
    net.apply(&[web(json!({}))], &[endpoints(BOTH)]);
    assert!(net.client.ask("192.0.2.1:30080").is_ok());
    let applier = Arc::clone(&net.applier);
    net.node.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(applier.lock().unwrap().remove()).unwrap();
    });
    assert_eq!(net.node.sh("nft list tables"), "");
}

#[test]
fn a_table_somebody_removed_comes_back_with_the_next_sync() {
    let net = Net::new();
    net.apply(&[web(json!({}))], &[endpoints(BOTH)]);
    net.node.sh("nft delete table ip keelson-proxy");
    let (applier, rules) = (
        Arc::clone(&net.applier),
        plan(&[web(json!({}))], &[endpoints(&BOTH[..1])], &this_node()),
    );
    net.node.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut applier = applier.lock().unwrap();
        assert!(
            runtime.block_on(applier.apply(rules.clone())).is_err(),
            "the difference does not fit"
        );
        runtime.block_on(applier.apply(rules)).unwrap();
    });
    assert!(net.client.ask("192.0.2.1:30080").is_ok());
}

#[test]
fn ten_thousand_services_load_in_bounded_memory_and_statements() {
    let net = Net::new();
    let service = |i: usize| -> Arc<Service> {
        let spec = json!({"clusterIP": format!("10.100.{}.{}", i / 250, i % 250 + 1), "ports": [{"port": 80}]});
        Arc::new(
            serde_json::from_value(json!({"metadata": {"namespace": "load", "name": format!("s{i}")}, "spec": spec}))
                .unwrap(),
        )
    };
    let slice = |i: usize, ips: &[&str]| -> Arc<EndpointSlice> {
        let mut slice = EndpointSlice::clone(&endpoints(ips));
        slice.metadata.namespace = Some("load".to_string());
        slice.metadata.labels = Some([("kubernetes.io/service-name".to_string(), format!("s{i}"))].into());
        slice.ports.as_mut().unwrap()[0].name = None;
        Arc::new(slice)
    };
    let services: Vec<_> = (0..10_000).map(service).collect();
    let mut slices: Vec<_> = (0..10_000).map(|i| slice(i, BOTH)).collect();
    net.apply(&services, &slices);
    let chains = net.node.sh("nft list chains ip | grep -c 'chain ' || true");
    assert!(
        chains.trim().parse::<usize>().unwrap() < 20,
        "a chain a service costs the kernel seconds: {chains}"
    );
    let last = "10.100.39.250:80";
    assert_eq!(tally(&net.pods[0], last, 20).len(), 2);
    slices[9_999] = slice(9_999, &BOTH[1..]);
    net.apply(&services, &slices);
    assert_eq!(tally(&net.pods[0], last, 10), HashMap::from([("b".to_string(), 10)]));
}

#[test]
fn a_udp_client_that_keeps_its_port_moves_with_the_endpoints() {
    let net = Net::new();
    let sync = |ips: &[&str]| {
        let rules = plan(&[web(json!({}))], &[endpoints(ips)], &this_node());
        let expected = conntrack::expected(&rules);
        net.apply_rules(rules);
        net.node.run(move || conntrack::clean(&expected).unwrap())
    };
    assert_eq!(sync(&["10.244.1.2"]), 0);
    let mut client = net.client.udp_client("10.96.0.7:53");
    assert_eq!(client.ask(), "a");
    net.apply(&[web(json!({}))], &[endpoints(&["10.244.1.3"])]);
    assert_eq!(client.ask(), "a", "the kernel remembers the flow");
    assert_eq!(sync(&["10.244.1.3"]), 1);
    assert_eq!(client.ask(), "b");
    assert_eq!(sync(&["10.244.1.3"]), 0, "flows to endpoints that exist stay");
}
