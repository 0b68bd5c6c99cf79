//! Pods attached by the real CNI plugins with the configuration that the daemon writes, reaching each other through a service.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use api::core::v1::Service;
use api::discovery::v1::EndpointSlice;
use kube_proxy::cni;
use kube_proxy::rules::{Applier, Family, Node, plan};
use serde_json::{Value, json};

use crate::support::Host;

/// Debian's folder, or everybody else's.
fn plugins() -> PathBuf {
    ["/usr/lib/cni", "/opt/cni/bin"]
        .map(PathBuf::from)
        .into_iter()
        .find(|dir| dir.join("ptp").exists())
        .unwrap()
}

/// Runs the first plugin of the list, as a container runtime does; its result.
fn attach(node: &Host, pod: &Host, id: &'static str, data: &Path, verb: &'static str) -> Value {
    let list = cni::conflist(&["10.244.1.0/24".parse().unwrap()], None);
    let mut plugin = list["plugins"][0].clone();
    plugin["cniVersion"] = list["cniVersion"].clone();
    plugin["name"] = list["name"].clone();
    plugin["ipam"]["dataDir"] = json!(data);
    let namespace = pod.path().to_string();
    node.run(move || {
        let mut child = Command::new(plugins().join("ptp"))
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", namespace)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", plugins())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        serde_json::to_writer(child.stdin.take().unwrap(), &plugin).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{verb}: {text}");
        serde_json::from_str(&text).unwrap_or_default()
    })
}

fn address(result: &Value) -> IpAddr {
    let text = result["ips"][0]["address"].as_str().unwrap();
    text.split('/').next().unwrap().parse().unwrap()
}

#[test]
fn pods_of_one_node_reach_each_other_through_a_service() {
    let (node, a, b) = (Host::new(), Host::new(), Host::new());
    let data = tempfile::tempdir().unwrap();
    let (ip_a, ip_b) = (
        address(&attach(&node, &a, "a", data.path(), "ADD")),
        address(&attach(&node, &b, "b", data.path(), "ADD")),
    );
    assert_ne!(ip_a, ip_b);
    a.serve_tcp("0.0.0.0:8080", "a");
    b.serve_tcp("0.0.0.0:8080", "b");
    assert_eq!(a.ask(&format!("{ip_b}:8080")), Ok(("b".to_string(), ip_a)));

    let service = json!({"metadata": {"namespace": "default", "name": "web"},
        "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}});
    let slice = json!({"metadata": {"namespace": "default", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"port": 8080}],
        "endpoints": [{"addresses": [ip_b.to_string()], "nodeName": "n1"}]});
    let service: Arc<Service> = Arc::new(serde_json::from_value(service).unwrap());
    let slice: Arc<EndpointSlice> = Arc::new(serde_json::from_value(slice).unwrap());
    let this = Node {
        name: "n1".to_string(),
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        masquerade_mark: 0x4000,
        ..Node::default()
    };
    node.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut applier = Applier::new(Family::ALL.to_vec(), 0x4000);
        runtime
            .block_on(applier.apply(plan(&[service], &[slice], &this)))
            .unwrap();
    });
    let through_service = a.ask("10.96.0.7:80");
    assert_eq!(
        through_service,
        Ok(("b".to_string(), ip_a)),
        "replies pass the node, which puts the service's address back"
    );

    attach(&node, &a, "a", data.path(), "DEL");
    assert!(a.ask(&format!("{ip_b}:8080")).is_err());
}
