//! Addresses and routes in a real kernel: two nodes with a pod each, on one link and over VXLAN.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::support::Host;
use ipnet::IpNet;
use kube_proxy::config::NetworkMode;
use kube_proxy::network::{Hop, Kernel, Peer, Vxlan, plan};

/// Runs a netlink task in the host's namespace.
fn with_kernel<T: Send + 'static, F: Future<Output = T>>(
    host: &Host,
    task: impl FnOnce(Kernel) -> F + Send + 'static,
) -> T {
    host.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { task(Kernel::open().unwrap()).await })
    })
}

/// Node 192.0.2.`n` with a pod 10.244.`n`.2 that tells its name.
fn node(n: u8, name: &str) -> (Host, Host) {
    let (node, pod) = (Host::new(), Host::new());
    node.sh("sysctl -qw net.ipv4.ip_forward=1");
    node.link("veth-pod", &pod, "eth0");
    node.sh(&format!(
        "ip addr add 10.244.{n}.1/32 dev veth-pod; ip route add 10.244.{n}.2/32 dev veth-pod"
    ));
    pod.sh(&format!(
        "ip addr add 10.244.{n}.2/32 dev eth0; ip route add 10.244.{n}.1 dev eth0 scope link; \
         ip route add default via 10.244.{n}.1"
    ));
    pod.serve_tcp("0.0.0.0:8080", name);
    (node, pod)
}

/// Makes the routes of node `n` to the other one.
fn route(host: &Host, n: u8, mode: NetworkMode) -> BTreeMap<IpNet, Hop> {
    let other = 3 - n;
    let peers = vec![Peer {
        addresses: vec![IpAddr::from([192, 0, 2, other])],
        pod_cidrs: vec![format!("10.244.{other}.0/24").parse().unwrap()],
    }];
    with_kernel(host, move |kernel| async move {
        let routes = plan(&peers, &kernel.links().await.unwrap(), mode);
        let own = Vxlan {
            node: [192, 0, 2, n].into(),
            inner: [10, 244, n, 0].into(),
        };
        for _ in 0..2 {
            kernel.apply_routes(&routes, Some(own), 4789).await.unwrap();
        }
        routes
    })
}

#[test]
fn pods_of_two_nodes_reach_each_other_on_one_link_and_through_tunnels() {
    let ((one, pod_one), (two, pod_two)) = (node(1, "one"), node(2, "two"));
    one.link("eth0", &two, "eth0");
    one.sh("ip addr add 192.0.2.1/24 dev eth0");
    two.sh("ip addr add 192.0.2.2/24 dev eth0");
    assert!(pod_one.ask("10.244.2.2:8080").is_err(), "nothing leads there yet");

    for (mode, device) in [
        (NetworkMode::Auto, "eth0"),
        (NetworkMode::Vxlan, "keelson-vxlan"),
        (NetworkMode::Auto, "eth0"),
    ] {
        for (host, n) in [(&one, 1), (&two, 2)] {
            assert_eq!(route(host, n, mode).len(), 1);
        }
        let table = one.sh("ip route show 10.244.2.0/24");
        assert!(
            table.contains(device) && table.lines().count() == 1,
            "{mode:?}: {table}"
        );
        let (name, source) = pod_one.ask("10.244.2.2:8080").unwrap();
        assert_eq!(
            (name.as_str(), source),
            ("two", IpAddr::from([10, 244, 1, 2])),
            "{mode:?}"
        );
        assert_eq!(pod_two.ask("10.244.1.2:8080").unwrap().0, "one");
        assert_eq!(one.ask("10.244.2.2:8080").unwrap().0, "two", "and from the node itself");
    }

    one.sh("ip route add 10.9.0.0/16 via 192.0.2.2");
    with_kernel(&one, |kernel| async move { kernel.remove_routes().await.unwrap() });
    assert_eq!(one.sh("ip route show 10.244.2.0/24"), "", "ours are gone with the node");
    assert_ne!(one.sh("ip route show 10.9.0.0/16"), "", "others' stay");
    assert!(!one.sh("ip link").contains("vxlan"));
}

#[test]
fn own_addresses_come_and_go_any_number_of_times() {
    let host = Host::new();
    with_kernel(&host, |kernel| async move {
        let addresses: Vec<IpAddr> = vec!["10.96.0.10".parse().unwrap(), "fd00::10".parse().unwrap()];
        for _ in 0..2 {
            kernel.add_own_addresses(&addresses).await.unwrap();
        }
        assert!(std::net::UdpSocket::bind(("10.96.0.10", 53)).is_ok());
        assert!(
            kernel
                .links()
                .await
                .unwrap()
                .iter()
                .all(|link| !link.network.addr().is_loopback())
        );
        for _ in 0..2 {
            kernel.remove_own_addresses(&addresses).await.unwrap();
        }
        assert!(std::net::UdpSocket::bind(("10.96.0.10", 53)).is_err());
    });
}
