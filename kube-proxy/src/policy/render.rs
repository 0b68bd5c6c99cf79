//! The nft text of the policies.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Allowed, Direction, Peers, PolicySet, Ports};
use crate::rules::Family;

const TABLE: &str = "keelson-policy";

/// Text that makes the tables contain exactly `policies`, whatever was in them. Pods always reach the node at `exempt` (DNS).
pub fn reload(policies: &PolicySet, families: &[Family], exempt: &[IpAddr]) -> String {
    let mut text = remove(families);
    for family in families {
        let (ip, address) = match family {
            Family::V4 => ("ip", "ipv4_addr"),
            Family::V6 => ("ip6", "ipv6_addr"),
        };
        _ = writeln!(text, "add table {ip} {TABLE}");
        for map in ["ingress", "egress"] {
            _ = writeln!(text, "add map {ip} {TABLE} {map} {{ type {address} : verdict; }}");
        }
        let mut chain = |name: &str, hook: &str, rules: &[String]| {
            _ = writeln!(
                text,
                "add chain {ip} {TABLE} {name} {{ type filter hook {hook} priority 10; }}"
            );
            for rule in rules {
                _ = writeln!(text, "add rule {ip} {TABLE} {name} {rule}");
            }
        };
        let known = "ct state established,related accept".to_string();
        let (from, to) = (format!("{ip} saddr vmap @egress"), format!("{ip} daddr vmap @ingress"));
        chain("forward", "forward", &[known.clone(), from.clone(), to]);
        let mut input = vec![known];
        // Without neighbour discovery there is no IPv6 at all.
        input.extend((*family == Family::V6).then(|| "meta l4proto ipv6-icmp accept".to_string()));
        let exempt = exempt.iter().filter(|e| e.is_ipv6() == (*family == Family::V6));
        input.extend(exempt.map(|e| format!("{ip} daddr {e} meta l4proto {{ tcp, udp }} th dport 53 accept")));
        input.push(from);
        chain("input", "input", &input);
    }
    text + &update(&PolicySet::default(), policies, families)
}

/// Text that removes the tables, also when they are not there.
pub fn remove(families: &[Family]) -> String {
    families.iter().fold(String::new(), |mut text, family| {
        let ip = family.name();
        _ = writeln!(text, "add table {ip} {TABLE}\ndelete table {ip} {TABLE}");
        text
    })
}

/// Text that turns tables containing `old` into tables containing `new`; empty if there is no difference.
pub fn update(old: &PolicySet, new: &PolicySet, families: &[Family]) -> String {
    let mut text = String::new();
    for family in families.iter().copied() {
        let ip = family.name();
        let none = BTreeSet::new();
        for (name, members) in &new.peers {
            if !old.peers.contains_key(name) {
                let address = if family == Family::V4 { "ipv4_addr" } else { "ipv6_addr" };
                _ = writeln!(text, "add set {ip} {TABLE} {name} {{ type {address}; }}");
            }
            let before = old.peers.get(name).unwrap_or(&none);
            elements(
                &mut text,
                "delete",
                family,
                name,
                before.difference(members).map(|ip| (ip, ip.to_string())),
            );
            elements(
                &mut text,
                "add",
                family,
                name,
                members.difference(before).map(|ip| (ip, ip.to_string())),
            );
        }
        for (name, (direction, allowed)) in new.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name)) {
            _ = writeln!(text, "add chain {ip} {TABLE} {name}");
            for rule in allowed.iter().filter_map(|one| rule(family, *direction, one)) {
                _ = writeln!(text, "add rule {ip} {TABLE} {name} {rule} return");
            }
            _ = writeln!(text, "add rule {ip} {TABLE} {name} drop");
        }
        isolated(&mut text, "delete", family, &old.isolated, &new.isolated);
        isolated(&mut text, "add", family, &new.isolated, &old.isolated);
        for name in old.chains.keys().filter(|name| !new.chains.contains_key(*name)) {
            _ = writeln!(
                text,
                "flush chain {ip} {TABLE} {name}\ndelete chain {ip} {TABLE} {name}"
            );
        }
        for name in old.peers.keys().filter(|name| !new.peers.contains_key(*name)) {
            _ = writeln!(text, "delete set {ip} {TABLE} {name}");
        }
    }
    text
}

type Isolated = BTreeMap<(Direction, IpAddr), String>;

/// The entries of `these` that `others` lacks or has otherwise.
fn isolated(text: &mut String, verb: &str, family: Family, these: &Isolated, others: &Isolated) {
    for (map, wanted) in [("ingress", Direction::Ingress), ("egress", Direction::Egress)] {
        let differing = these
            .iter()
            .filter(|(key, chain)| key.0 == wanted && others.get(*key) != Some(*chain));
        let written = differing.map(|((_, ip), chain)| match verb {
            "add" => (ip, format!("{ip} : jump {chain}")),
            _ => (ip, ip.to_string()),
        });
        elements(text, verb, family, map, written);
    }
}

fn elements<'a>(
    text: &mut String,
    verb: &str,
    family: Family,
    set: &str,
    all: impl Iterator<Item = (&'a IpAddr, String)>,
) {
    let own: Vec<String> = all
        .filter(|(ip, _)| ip.is_ipv6() == (family == Family::V6))
        .map(|(_, text)| text)
        .collect();
    for batch in own.chunks(500) {
        _ = writeln!(
            text,
            "{verb} element {} {TABLE} {set} {{ {} }}",
            family.name(),
            batch.join(", ")
        );
    }
}

/// The condition of one kind of connection; None if it cannot occur in the family.
fn rule(family: Family, direction: Direction, allowed: &Allowed) -> Option<String> {
    let ip = family.name();
    let field = if direction == Direction::Ingress {
        "saddr"
    } else {
        "daddr"
    };
    let of_family = |net: &IpNet| net.addr().is_ipv6() == (family == Family::V6);
    let peers = match &allowed.peers {
        Peers::Any => String::new(),
        Peers::Set(name) => format!("{ip} {field} @{name} "),
        Peers::Block { network, .. } if !of_family(network) => return None,
        Peers::Block { network, except } => {
            let except: Vec<_> = IpNet::aggregate(except)
                .iter()
                .filter(|e| of_family(e))
                .map(ToString::to_string)
                .collect();
            let inside = match network.prefix_len() {
                // nft has no way to write the network of everything.
                0 => String::new(),
                _ => format!("{ip} {field} {network} "),
            };
            match except.as_slice() {
                [] => inside,
                _ => format!("{inside}{ip} {field} != {{ {} }} ", except.join(", ")),
            }
        }
    };
    let ports = match &allowed.ports {
        Ports::Any => String::new(),
        Ports::Range {
            protocol,
            first: 0,
            last: u16::MAX,
        } => format!("meta l4proto {}", protocol.name()),
        Ports::Range { protocol, first, last } if first == last => format!("{} dport {first}", protocol.name()),
        Ports::Range { protocol, first, last } => format!("{} dport {first}-{last}", protocol.name()),
    };
    Some(format!("{peers}{ports}").trim().to_string())
}
