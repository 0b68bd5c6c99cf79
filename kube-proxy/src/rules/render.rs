//! The nft text: declarations and base chains once, then only elements that changed.
//!
//! Names and layout are described in the module above. Every function returns text for one `nft -f -`, which the kernel
//! applies as one transaction or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Write as _};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::{Balance, Frontend, Protocol, Refusal, RuleSet, Slot, StickyKey};

/// The table, one for each address family.
pub const TABLE: &str = "keelson-proxy";
/// Elements in one statement: bounds the length of a line, not of the transaction.
const BATCH: usize = 500;

/// An address family; each has a table of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// Both, in the order in which they are written.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    fn of(ip: &IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// nft's name of the family, which is its name of the protocol header too.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }
}

/// Text that makes the tables of `families` contain exactly `rules`, whatever was in them. Session affinity that the
/// kernel remembers survives if `keep_affinity`; that fails if another version's tables are there.
pub fn reload(rules: &RuleSet, families: &[Family], mark: u32, keep_affinity: bool) -> String {
    let mut text = String::new();
    for family in families.iter().copied() {
        let (name, replace) = (family.name(), !keep_affinity);
        _ = writeln!(text, "add table {name} {TABLE}");
        if replace {
            _ = writeln!(text, "delete table {name} {TABLE}\nadd table {name} {TABLE}");
        } else {
            _ = writeln!(text, "flush table {name} {TABLE}");
        }
        declare(&mut text, family);
        if !replace {
            for (_, set, _) in SETS.iter().filter(|(_, set, _)| *set != "affinity") {
                let kind = if is_map(set) { "map" } else { "set" };
                _ = writeln!(text, "flush {kind} {name} {TABLE} {set}");
            }
        }
        base_chains(&mut text, family, mark);
    }
    text.push_str(&update(&RuleSet::default(), rules, families));
    text
}

/// Text that turns tables containing `old` into tables containing `new`; empty if there is no difference.
pub fn update(old: &RuleSet, new: &RuleSet, families: &[Family]) -> String {
    let mut text = String::new();
    for family in families.iter().copied() {
        balance_chains(&mut text, family, old, new);
        let mut elements = Elements {
            family,
            added: String::new(),
            deleted: String::new(),
        };
        elements.difference("services", &old.services, &new.services);
        elements.difference("internal", &old.internal, &new.internal);
        for protocol in Protocol::ALL {
            let set = format!("endpoints-{}", protocol.name());
            let own = |slot: &&Slot| slot.frontend.protocol == protocol;
            elements.difference_of(&set, &old.endpoints, &new.endpoints, own, |slot| {
                format!("{} . {} . {}", slot.frontend.ip, slot.frontend.port, slot.index)
            });
        }
        elements.difference("sticky-slots", &old.sticky_slots, &new.sticky_slots);
        elements.difference("sticky-endpoints", &old.sticky_endpoints, &new.sticky_endpoints);
        elements.difference("refused", &old.refused, &new.refused);
        elements.difference("masqueraded", &old.masquerade, &new.masquerade);
        elements.difference("cluster-ips", &old.cluster_ips, &new.cluster_ips);
        elements.difference("hairpin", &hairpin(old), &hairpin(new));
        elements.difference("restricted", &old.restricted, &new.restricted);
        elements.difference("allowed", &old.allowed, &new.allowed);
        elements.difference("pod-network", &old.pod_network, &new.pod_network);
        elements.difference("local-pods", &old.local_pods, &new.local_pods);
        text.push_str(&elements.deleted);
        text.push_str(&elements.added);
    }
    text
}

/// Text that removes the tables of `families`, also when they are not there.
pub fn remove(families: &[Family]) -> String {
    families.iter().fold(String::new(), |mut text, family| {
        let name = family.name();
        _ = writeln!(text, "add table {name} {TABLE}\ndelete table {name} {TABLE}");
        text
    })
}

/// (kind, name, definition) with `ADDR` for the family's address type and `IP` for its header.
const SETS: &[(&str, &str, &str)] = &[
    ("map", "services", "type ADDR . inet_proto . inet_service : verdict;"),
    ("map", "internal", "type ADDR . inet_proto . inet_service : verdict;"),
    // The type of a drawn number can be written only by example (the modulus in it has no meaning), and nft 1.0.6 takes a
    // port in the example of a value for a condition on its protocol; hence a map a protocol.
    (
        "map",
        "endpoints-tcp",
        "typeof IP daddr . tcp dport . numgen random mod 2 : IP daddr . tcp dport;",
    ),
    (
        "map",
        "endpoints-udp",
        "typeof IP daddr . udp dport . numgen random mod 2 : IP daddr . udp dport;",
    ),
    (
        "map",
        "endpoints-sctp",
        "typeof IP daddr . sctp dport . numgen random mod 2 : IP daddr . sctp dport;",
    ),
    (
        "map",
        "sticky-slots",
        "typeof IP daddr . meta l4proto . th dport . numgen random mod 2 : meta mark;",
    ),
    (
        "map",
        "sticky-endpoints",
        "type ADDR . inet_proto . inet_service . mark : ADDR . inet_service;",
    ),
    (
        "map",
        "affinity",
        "type ADDR . ADDR . inet_proto . inet_service : mark; flags dynamic, timeout; size 262144;",
    ),
    ("map", "refused", "type ADDR . inet_proto . inet_service : verdict;"),
    ("set", "masqueraded", "type ADDR . inet_proto . inet_service;"),
    ("set", "cluster-ips", "type ADDR;"),
    ("set", "hairpin", "type ADDR . ADDR;"),
    ("set", "restricted", "type ADDR . inet_proto . inet_service;"),
    (
        "set",
        "allowed",
        "type ADDR . inet_proto . inet_service . ADDR; flags interval;",
    ),
    ("set", "pod-network", "type ADDR; flags interval;"),
    ("set", "local-pods", "type ADDR; flags interval;"),
];

fn is_map(name: &str) -> bool {
    SETS.iter().any(|(kind, set, _)| *set == name && *kind == "map")
}

fn declare(text: &mut String, family: Family) {
    let (ip, address) = match family {
        Family::V4 => ("ip", "ipv4_addr"),
        Family::V6 => ("ip6", "ipv6_addr"),
    };
    for (kind, name, definition) in SETS {
        let definition = definition.replace("ADDR", address).replace("IP ", &format!("{ip} "));
        _ = writeln!(text, "add {kind} {ip} {TABLE} {name} {{ {definition} }}");
    }
}

/// (chain, hook, rules) with `IP` for the family's header, `FRONTEND` for the key of a frontend and `MARK` for the
/// masquerade mark. A chain without hook is jumped to.
const BASE_CHAINS: &[(&str, &str, &[&str])] = &[
    ("answer-reject", "", &["reject"]),
    (
        "dispatch",
        "",
        &[
            "FRONTEND @masqueraded meta mark set meta mark | MARK",
            "IP saddr @pod-network FRONTEND vmap @internal",
            "fib saddr type local FRONTEND vmap @internal",
            "FRONTEND vmap @services",
        ],
    ),
    (
        "restrict",
        "",
        &["FRONTEND @restricted FRONTEND . IP saddr != @allowed drop"],
    ),
    (
        "refuse",
        "",
        &[
            "FRONTEND vmap @refused",
            "meta l4proto { tcp, udp, sctp } IP daddr @cluster-ips reject",
        ],
    ),
    // Before destination translation, while packets still carry the frontend's address.
    (
        "restrict-prerouting",
        "type filter hook prerouting priority -110;",
        &["jump restrict"],
    ),
    (
        "restrict-output",
        "type filter hook output priority -110;",
        &["jump restrict"],
    ),
    (
        "nat-prerouting",
        "type nat hook prerouting priority -100;",
        &["jump dispatch"],
    ),
    ("nat-output", "type nat hook output priority -100;", &["jump dispatch"]),
    // After it: what is still addressed to a frontend has no endpoint.
    (
        "refuse-input",
        "type filter hook input priority 0;",
        &["ct state new jump refuse"],
    ),
    (
        "refuse-forward",
        "type filter hook forward priority 0;",
        &["ct state new jump refuse"],
    ),
    (
        "refuse-output",
        "type filter hook output priority 0;",
        &["ct state new jump refuse"],
    ),
    (
        "nat-postrouting",
        "type nat hook postrouting priority 100;",
        &[
            "meta mark & MARK == MARK masquerade fully-random",
            "ct status & dnat == dnat IP saddr . IP daddr @hairpin masquerade fully-random",
            "ct status & dnat == dnat fib saddr type local masquerade fully-random",
            "ct status & dnat == dnat IP saddr != @pod-network ct original IP daddr @cluster-ips masquerade fully-random",
            "IP saddr @local-pods IP daddr != @pod-network fib daddr type != local masquerade fully-random",
        ],
    ),
];

fn frontend_key(family: Family) -> String {
    format!("{} daddr . meta l4proto . th dport", family.name())
}

fn base_chains(text: &mut String, family: Family, mark: u32) {
    let ip = family.name();
    for (chain, hook, _) in BASE_CHAINS {
        match *hook {
            "" => _ = writeln!(text, "add chain {ip} {TABLE} {chain}"),
            hook => _ = writeln!(text, "add chain {ip} {TABLE} {chain} {{ {hook} }}"),
        }
    }
    let (key, mark) = (frontend_key(family), format!("{mark:#x}"));
    for (chain, _, rules) in BASE_CHAINS {
        for rule in *rules {
            let rule = rule
                .replace("FRONTEND", &key)
                .replace("IP ", &format!("{ip} "))
                .replace("MARK", &mark);
            _ = writeln!(text, "add rule {ip} {TABLE} {chain} {rule}");
        }
    }
}

impl Display for Balance {
    /// The name of the chain.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.affinity.is_some() { "sticky" } else { "lb" })?;
        f.write_str(if self.local { "-local" } else { "" })?;
        write!(f, "-{}", self.endpoints)?;
        self.affinity.map_or(Ok(()), |seconds| write!(f, "-{seconds}s"))
    }
}

/// Adds the balancing chains that `new` needs and `old` had not. Chains that nothing uses any more stay until the next
/// reload: there are only as many as there are distinct numbers of endpoints.
fn balance_chains(text: &mut String, family: Family, old: &RuleSet, new: &RuleSet) {
    let used = |rules: &RuleSet| -> BTreeSet<Balance> {
        let of_family =
            |(frontend, balance): (&Frontend, &Balance)| (Family::of(&frontend.ip) == family).then_some(*balance);
        rules
            .services
            .iter()
            .chain(&rules.internal)
            .filter_map(of_family)
            .collect()
    };
    let (old, new) = (used(old), used(new));
    let ip = family.name();
    for balance in new.difference(&old) {
        // Emptied, because it may be left from before.
        _ = writeln!(
            text,
            "add chain {ip} {TABLE} {balance}\nflush chain {ip} {TABLE} {balance}"
        );
        for rule in balance_rules(family, balance) {
            _ = writeln!(text, "add rule {ip} {TABLE} {balance} {rule}");
        }
    }
}

fn balance_rules(family: Family, balance: &Balance) -> Vec<String> {
    let (ip, key) = (family.name(), frontend_key(family));
    let offset = if balance.local {
        format!(" offset {}", super::LOCAL_SLOTS)
    } else {
        String::new()
    };
    let draw = format!("numgen random mod {}{offset}", balance.endpoints);
    let Some(seconds) = balance.affinity else {
        let rule = |p: Protocol| {
            format!(
                "dnat {ip} to {ip} daddr . {0} dport . {draw} map @endpoints-{0}",
                p.name()
            )
        };
        return Protocol::ALL.map(rule).to_vec();
    };
    let client = format!("{ip} saddr . {key}");
    let remember = format!("update @affinity {{ {client} timeout {seconds}s : meta mark }}");
    let go = format!("dnat {ip} to {key} . meta mark map @sticky-endpoints");
    vec![
        format!("meta mark set {client} map @affinity {remember}"),
        go.clone(),
        // The remembered endpoint is gone: an update would not replace it.
        format!("delete @affinity {{ {client} : meta mark }}"),
        format!("meta mark set {key} . {draw} map @sticky-slots"),
        remember,
        go,
    ]
}

fn hairpin(rules: &RuleSet) -> BTreeMap<(IpAddr, IpAddr), ()> {
    rules.hairpin.keys().map(|ip| ((*ip, *ip), ())).collect()
}

/// Collects the element statements of one family.
struct Elements {
    family: Family,
    added: String,
    deleted: String,
}

impl Elements {
    fn difference<K: Key, V: Value>(&mut self, set: &str, old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) {
        self.difference_of(set, old, new, |_| true, K::text);
    }

    /// The part of the difference whose keys are `own`, written as `text` says.
    fn difference_of<K: Key, V: Value>(
        &mut self,
        set: &str,
        old: &BTreeMap<K, V>,
        new: &BTreeMap<K, V>,
        own: impl Fn(&&K) -> bool,
        text: impl Fn(&K) -> String,
    ) {
        let family = self.family;
        let own = |key: &&K| key.family() == family && own(key);
        let gone = old
            .iter()
            .filter(|(key, value)| own(key) && new.get(*key) != Some(*value));
        let come = new
            .iter()
            .filter(|(key, value)| own(key) && old.get(*key) != Some(*value));
        statements(&mut self.deleted, "delete", family, set, gone.map(|(key, _)| text(key)));
        statements(
            &mut self.added,
            "add",
            family,
            set,
            come.map(|(key, value)| text(key) + &value.text()),
        );
    }
}

fn statements(text: &mut String, verb: &str, family: Family, set: &str, elements: impl Iterator<Item = String>) {
    for (index, element) in elements.enumerate() {
        match index % BATCH {
            0 if index == 0 => _ = write!(text, "{verb} element {} {TABLE} {set} {{ {element}", family.name()),
            0 => _ = write!(text, " }}\n{verb} element {} {TABLE} {set} {{ {element}", family.name()),
            _ => _ = write!(text, ", {element}"),
        }
    }
    if text.ends_with('\n') || text.is_empty() {
        return;
    }
    text.push_str(" }\n");
}

/// The key of a set or map.
trait Key: Ord {
    fn family(&self) -> Family;
    fn text(&self) -> String;
}

/// The value of a map, with the colon; nothing for a set.
trait Value: PartialEq {
    fn text(&self) -> String;
}

impl Key for Frontend {
    fn family(&self) -> Family {
        Family::of(&self.ip)
    }
    fn text(&self) -> String {
        format!("{} . {} . {}", self.ip, self.protocol.name(), self.port)
    }
}

impl Key for Slot {
    fn family(&self) -> Family {
        self.frontend.family()
    }
    fn text(&self) -> String {
        format!("{} . {}", self.frontend.text(), self.index)
    }
}

impl Key for StickyKey {
    fn family(&self) -> Family {
        self.frontend.family()
    }
    fn text(&self) -> String {
        format!("{} . {:#010x}", self.frontend.text(), self.id)
    }
}

impl Key for (Frontend, IpNet) {
    fn family(&self) -> Family {
        self.0.family()
    }
    fn text(&self) -> String {
        format!("{} . {}", self.0.text(), self.1)
    }
}

impl Key for IpAddr {
    fn family(&self) -> Family {
        Family::of(self)
    }
    fn text(&self) -> String {
        self.to_string()
    }
}

impl Key for (IpAddr, IpAddr) {
    fn family(&self) -> Family {
        Family::of(&self.0)
    }
    fn text(&self) -> String {
        format!("{} . {}", self.0, self.1)
    }
}

impl Key for IpNet {
    fn family(&self) -> Family {
        Family::of(&self.addr())
    }
    fn text(&self) -> String {
        self.to_string()
    }
}

impl Value for () {
    fn text(&self) -> String {
        String::new()
    }
}

impl Value for Balance {
    fn text(&self) -> String {
        format!(" : goto {self}")
    }
}

impl Value for Refusal {
    fn text(&self) -> String {
        match self {
            Self::Reject => " : goto answer-reject".to_string(),
            Self::Drop => " : drop".to_string(),
        }
    }
}

impl Value for SocketAddr {
    fn text(&self) -> String {
        format!(" : {} . {}", self.ip(), self.port())
    }
}

impl Value for u32 {
    fn text(&self) -> String {
        format!(" : {self:#010x}")
    }
}
