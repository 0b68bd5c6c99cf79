//! Which next hop each pod CIDR gets.

use super::*;
use crate::config::NetworkMode;

fn peer(address: &str, cidr: &str) -> Peer {
    Peer {
        addresses: vec![address.parse().unwrap()],
        pod_cidrs: vec![cidr.parse().unwrap()],
    }
}

#[test]
fn nodes_on_the_same_link_get_plain_routes_and_others_a_tunnel() {
    let links = [Link {
        device: 2,
        network: "192.0.2.1/24".parse().unwrap(),
    }];
    let peers = [
        peer("192.0.2.2", "10.244.2.0/24"),
        peer("198.51.100.2", "10.244.3.0/24"),
        // An address of our own: somebody's mistake, not a gateway.
        peer("192.0.2.1", "10.244.4.0/24"),
        peer("2001:db8::1", "10.244.5.0/24"),
        // The CIDR of another node.
        peer("192.0.2.9", "10.244.2.0/24"),
    ];
    let routes = plan(&peers, &links, NetworkMode::Auto);
    let hop = |cidr: &str| routes.get(&cidr.parse().unwrap()).copied();
    let tunnel = |node: &str, inner: &str| {
        Hop::Vxlan(Vxlan {
            node: node.parse().unwrap(),
            inner: inner.parse().unwrap(),
        })
    };
    assert_eq!(
        hop("10.244.2.0/24"),
        Some(Hop::Direct {
            gateway: "192.0.2.2".parse().unwrap(),
            device: 2
        })
    );
    assert_eq!(hop("10.244.3.0/24"), Some(tunnel("198.51.100.2", "10.244.3.0")));
    assert_eq!(hop("10.244.5.0/24"), None, "no address that a tunnel could go to");
    assert_eq!(routes.len(), 3);
    let all = plan(&peers[..2], &links, NetworkMode::Vxlan);
    assert_eq!(
        all.get(&"10.244.2.0/24".parse().unwrap()),
        Some(&tunnel("192.0.2.2", "10.244.2.0"))
    );
    assert!(plan(&peers, &links, NetworkMode::None).is_empty());
}
