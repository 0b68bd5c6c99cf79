//! Network policies on real connections: two pods of one node and a client outside.

use std::net::IpAddr;
use std::sync::Arc;

use api::core::v1::{Namespace, Pod};
use api::networking::v1::NetworkPolicy;
use kube_proxy::policy::{PolicySet, plan, reload, update};
use kube_proxy::rules::{Family, nft};
use serde_json::{Value, json};

use crate::support::{Host, echoes};

/// Pods a (10.244.1.2) and b (10.244.1.3) on a node, a client 192.0.2.9 beside it.
struct Net {
    node: Host,
    pods: [Host; 2],
    client: Host,
    current: Option<PolicySet>,
}

impl Net {
    fn new() -> Self {
        let (node, pods, client) = (Host::new(), [Host::new(), Host::new()], Host::new());
        node.link("ext", &client, "eth0");
        node.sh("ip addr add 192.0.2.1/24 dev ext; sysctl -qw net.ipv4.ip_forward=1; ip addr add 10.96.0.10/32 dev lo");
        client.sh("ip addr add 192.0.2.9/24 dev eth0; ip route add default via 192.0.2.1");
        for (pod, ip, name) in [(&pods[0], "10.244.1.2", "a"), (&pods[1], "10.244.1.3", "b")] {
            node.link(&format!("veth-{name}"), pod, "eth0");
            node.sh(&format!(
                "ip addr add 10.244.1.1/32 dev veth-{name}; ip route add {ip}/32 dev veth-{name}"
            ));
            pod.sh(&format!(
                "ip addr add {ip}/32 dev eth0; ip route add 10.244.1.1 dev eth0 scope link; \
                 ip route add default via 10.244.1.1"
            ));
            pod.serve_tcp("0.0.0.0:8080", name);
            pod.serve_tcp("0.0.0.0:9090", name);
        }
        node.serve_tcp("10.96.0.10:53", "dns");
        node.serve_tcp("192.0.2.1:6443", "api");
        client.serve_tcp("0.0.0.0:8080", "outside");
        Self {
            node,
            pods,
            client,
            current: None,
        }
    }

    fn apply(&mut self, policies: &[Arc<NetworkPolicy>]) {
        let pods = [pod("a", "10.244.1.2"), pod("b", "10.244.1.3")];
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        let wanted = plan(policies, &pods, &[Arc::new(namespace)], "n1");
        let dns: IpAddr = "10.96.0.10".parse().unwrap();
        let text = match &self.current {
            None => reload(&wanted, &Family::ALL, &[dns]),
            Some(current) => update(current, &wanted, &Family::ALL),
        };
        self.node.run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(nft(&text)).unwrap();
        });
        self.current = Some(wanted);
    }
}

fn pod(name: &str, ip: &str) -> Arc<Pod> {
    let pod = json!({"metadata": {"namespace": "default", "name": name, "labels": {"app": name}},
        "spec": {"nodeName": "n1", "containers": []}, "status": {"podIP": ip}});
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn policy(name: &str, spec: Value) -> Arc<NetworkPolicy> {
    let policy = json!({"metadata": {"namespace": "default", "name": name}, "spec": spec});
    Arc::new(serde_json::from_value(policy).unwrap())
}

#[test]
fn ingress_is_denied_but_for_what_policies_allow() {
    let mut net = Net::new();
    net.apply(&[]);
    let mut open = net.client.connect("10.244.1.3:8080");
    let deny = || {
        policy(
            "deny",
            json!({"podSelector": {"matchLabels": {"app": "b"}}, "policyTypes": ["Ingress"]}),
        )
    };
    net.apply(&[deny()]);
    for host in [&net.client, &net.pods[0]] {
        assert!(host.ask("10.244.1.3:8080").is_err());
    }
    assert!(
        net.node.ask("10.244.1.3:8080").is_ok(),
        "the node probes its pods whatever policies say"
    );
    assert!(
        net.pods[1].ask("10.244.1.2:8080").is_ok(),
        "egress is not restricted, and replies come back"
    );
    assert!(
        net.client.ask("10.244.1.2:8080").is_ok(),
        "the other pod is not isolated"
    );
    assert!(echoes(&mut open), "a connection that was allowed once goes on");

    let allow = policy(
        "allow",
        json!({"podSelector": {"matchLabels": {"app": "b"}}, "ingress": [
        {"from": [{"podSelector": {"matchLabels": {"app": "a"}}}], "ports": [{"port": 8080}]},
        {"from": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.8/30"]}}]}]}),
    );
    net.apply(&[deny(), allow]);
    assert!(net.pods[0].ask("10.244.1.3:8080").is_ok());
    assert!(net.pods[0].ask("10.244.1.3:9090").is_err(), "only the port");
    assert!(
        net.client.ask("10.244.1.3:8080").is_err(),
        "the client is in the excepted part"
    );
    net.apply(&[]);
    assert!(net.client.ask("10.244.1.3:9090").is_ok());
}

#[test]
fn egress_is_denied_but_for_dns_and_what_policies_allow() {
    let mut net = Net::new();
    let with = |egress: Value| {
        policy(
            "p",
            json!({"podSelector": {"matchLabels": {"app": "a"}}, "policyTypes": ["Egress"], "egress": egress}),
        )
    };
    net.apply(&[with(json!([]))]);
    for to in ["10.244.1.3:8080", "192.0.2.9:8080", "192.0.2.1:6443"] {
        assert!(net.pods[0].ask(to).is_err(), "{to}");
    }
    assert!(net.pods[0].ask("10.96.0.10:53").is_ok(), "DNS is part of the node");
    assert!(
        net.client.ask("10.244.1.2:8080").is_ok(),
        "ingress is not restricted, and replies go out"
    );
    net.apply(&[with(
        json!([{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 8000, "endPort": 8100}]}]),
    )]);
    assert!(net.pods[0].ask("192.0.2.9:8080").is_ok());
    assert!(net.pods[0].ask("192.0.2.1:6443").is_err());
}
