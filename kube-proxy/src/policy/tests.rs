//! What policies mean for the pods of a node.

use std::sync::Arc;

use api::core::v1::{Namespace, Pod};
use api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use super::*;
use crate::rules::Family;

fn pod(namespace: &str, name: &str, ip: &str, node: &str) -> Arc<Pod> {
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"podIP": ip, "podIPs": [{"ip": ip}]}
        }))
        .unwrap(),
    )
}

fn pods() -> Vec<Arc<Pod>> {
    vec![
        pod("default", "web", "10.244.1.2", "n1"),
        pod("default", "client", "10.244.2.2", "n2"),
        pod("other", "client", "10.244.2.3", "n2"),
    ]
}

fn namespaces() -> Vec<Arc<Namespace>> {
    let namespace = |name: &str| json!({"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}});
    ["default", "other"]
        .map(|name| Arc::new(serde_json::from_value(namespace(name)).unwrap()))
        .into()
}

fn policy(spec: Value) -> Arc<NetworkPolicy> {
    let mut all = json!({"podSelector": {"matchLabels": {"app": "web"}}});
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    Arc::new(serde_json::from_value(json!({"metadata": {"namespace": "default", "name": "p"}, "spec": all})).unwrap())
}

fn planned(policies: &[Arc<NetworkPolicy>]) -> PolicySet {
    plan(policies, &pods(), &namespaces(), "n1")
}

/// What web is allowed in the direction; None if it is not isolated. Sets are written out.
fn allowed(spec: Value, direction: Direction) -> Option<Vec<String>> {
    let set = planned(&[policy(spec)]);
    let chain = set.isolated.get(&(direction, "10.244.1.2".parse().unwrap()))?;
    let peers = |peers: &Peers| match peers {
        Peers::Any => "any".to_string(),
        Peers::Set(name) => set.peers[name]
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(","),
        Peers::Block { network, except } => format!("{network} but {except:?}"),
    };
    let ports = |ports: &Ports| match ports {
        Ports::Any => "any".to_string(),
        Ports::Range { protocol, first, last } => format!("{} {first}-{last}", protocol.name()),
    };
    Some(
        set.chains[chain]
            .1
            .iter()
            .map(|one| format!("{}: {}", peers(&one.peers), ports(&one.ports)))
            .collect(),
    )
}

#[test]
fn a_policy_isolates_only_its_own_pods_in_its_own_directions() {
    use Direction::{Egress, Ingress};
    assert!(planned(&[]).isolated.is_empty());
    assert!(
        planned(&[policy(json!({"podSelector": {"matchLabels": {"app": "none"}}}))])
            .isolated
            .is_empty()
    );
    let everyone = planned(&[policy(json!({"podSelector": {}}))]);
    assert_eq!(
        everyone.isolated.len(),
        1,
        "pods of other nodes and namespaces are not ours to isolate"
    );
    for (types, ingress, egress) in [
        (json!(["Ingress"]), true, false),
        (json!(["Egress"]), false, true),
        (json!(["Ingress", "Egress"]), true, true),
        (json!([]), true, false),
    ] {
        let spec = json!({"policyTypes": types});
        assert_eq!(allowed(spec.clone(), Ingress).is_some(), ingress, "{types}");
        assert_eq!(allowed(spec, Egress).is_some(), egress, "{types}");
    }
    assert_eq!(
        allowed(json!({"policyTypes": ["Ingress"]}), Ingress),
        Some(vec![]),
        "no rule allows nothing"
    );
}

#[test]
fn peers_and_ports_are_resolved() {
    let one = |rule: Value| {
        allowed(
            json!({"policyTypes": ["Ingress"], "ingress": [rule]}),
            Direction::Ingress,
        )
        .unwrap()
    };
    let client = json!({"matchLabels": {"app": "client"}});
    for (rule, expected) in [
        (json!({}), &["any: any"][..]),
        (json!({"from": [{"podSelector": client}]}), &["10.244.2.2: any"]),
        (
            json!({"from": [{"namespaceSelector": {}, "podSelector": client}]}),
            &["10.244.2.2,10.244.2.3: any"],
        ),
        (
            json!({"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}}]}),
            &["10.244.2.3: any"],
        ),
        (
            json!({"from": [{"ipBlock": {"cidr": "192.0.2.7/24", "except": ["192.0.2.0/28"]}}]}),
            &["192.0.2.0/24 but [192.0.2.0/28]: any"],
        ),
        (
            json!({"ports": [{"port": 80}, {"protocol": "UDP"}]}),
            &["any: tcp 80-80", "any: udp 0-65535"],
        ),
        (json!({"ports": [{"port": 80, "endPort": 90}]}), &["any: tcp 80-90"]),
        (json!({"ports": [{"port": "http"}]}), &["any: tcp 8080-8080"]),
        (json!({"ports": [{"port": "nope"}]}), &[]),
    ] {
        assert_eq!(one(rule.clone()), expected, "{rule}");
    }
    let egress =
        |rule: Value| allowed(json!({"policyTypes": ["Egress"], "egress": [rule]}), Direction::Egress).unwrap();
    assert_eq!(
        egress(json!({"to": [{"podSelector": client}], "ports": [{"port": "http"}]})),
        ["10.244.2.2: tcp 8080-8080"]
    );
}

#[test]
fn several_policies_add_up() {
    let from = |name: &str| {
        let mut one = NetworkPolicy::clone(&policy(
            json!({"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": name}}}]}]}),
        ));
        one.metadata.name = Some(name.to_string());
        Arc::new(one)
    };
    let (a, b) = (
        planned(&[from("web"), from("client")]),
        planned(&[from("client"), from("web")]),
    );
    assert_eq!(a, b, "in whatever order");
    assert_eq!(a.chains.values().next().unwrap().1.len(), 2);
}

#[test]
fn a_pod_that_comes_changes_one_element() {
    let selecting = policy(json!({"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]}));
    let before = plan(std::slice::from_ref(&selecting), &pods(), &namespaces(), "n1");
    let mut more = pods();
    more.push(pod("default", "client", "10.244.2.9", "n2"));
    let after = plan(&[selecting], &more, &namespaces(), "n1");
    let text = update(&before, &after, &Family::ALL);
    let name = before.peers.keys().next().unwrap();
    assert_eq!(text, format!("add element ip keelson-policy {name} {{ 10.244.2.9 }}\n"));
    assert_eq!(update(&after, &after, &Family::ALL), "");
}
