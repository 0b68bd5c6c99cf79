//! The cluster's network: a bridge on the host, and for each node a network namespace with one cable to it.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};
use serde_json::Value;

use super::cluster::{Cluster, Node};
use crate::host::{mounts_below, run, run_with_input};

/// Where `ip netns` keeps namespaces by name.
pub const NAMESPACES: &str = "/run/netns";

/// Keeps other clusters of this machine from choosing a network, or tidying up the folder of namespaces, at the same time.
pub fn lock() -> Result<Flock<File>> {
    let folder = File::open("/run").context("open /run")?;
    Flock::lock(folder, FlockArg::LockExclusive)
        .map_err(|(_, e)| e)
        .context("lock /run")
}

/// A /24 of 172.30.0.0/16 that no route of this machine goes to. `seed` spreads clusters that are made at the same time.
pub fn choose(seed: u8) -> Result<Ipv4Net> {
    let routes: Value = serde_json::from_str(&run("ip", &["-json", "-4", "route", "show", "table", "all"])?)
        .context("read the routes")?;
    let taken = |route: &Value| route["dst"].as_str().and_then(parse_destination);
    let taken: Vec<Ipv4Net> = routes.as_array().into_iter().flatten().filter_map(taken).collect();
    free_network(seed, &taken).context("every network of 172.30.0.0/16 is in use on this machine")
}

fn free_network(seed: u8, taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    let networks = (0..=u8::MAX).map(|i| Ipv4Net::new_assert([172, 30, seed.wrapping_add(i), 0].into(), 24));
    networks.into_iter().find(|network| {
        !taken
            .iter()
            .any(|other| other.contains(network) || network.contains(other))
    })
}

/// A route's destination; the default route takes nothing away.
fn parse_destination(text: &str) -> Option<Ipv4Net> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<Ipv4Addr>().ok().map(Ipv4Net::from))
}

/// Makes what is missing of the bridge and the nodes' namespaces.
pub fn ensure(cluster: &Cluster) -> Result<()> {
    let bridge = cluster.bridge();
    if !interface_exists(&bridge) {
        let (address, length) = (cluster.host_address(), cluster.shape.network.prefix_len());
        batch(
            &[],
            &format!(
                "link add {bridge} type bridge\naddress add {address}/{length} dev {bridge}\nlink set {bridge} up\n"
            ),
        )?;
    }
    for node in cluster.nodes() {
        if !interface_exists(&cluster.cable(&node)) || !Path::new(NAMESPACES).join(&node.namespace).exists() {
            connect(cluster, &node).with_context(|| format!("{}: make its network", node.name))?;
        }
    }
    Ok(())
}

fn connect(cluster: &Cluster, node: &Node) -> Result<()> {
    let (bridge, cable, namespace) = (cluster.bridge(), cluster.cable(node), &node.namespace);
    // Left of an attempt that was cut off.
    if interface_exists(&cable) {
        run("ip", &["link", "delete", &cable])?;
    }
    if !Path::new(NAMESPACES).join(namespace).exists() {
        run("ip", &["netns", "add", namespace])?;
    }
    batch(
        &[],
        &format!(
            "link add {cable} type veth peer name eth0 netns {namespace}\nlink set {cable} master {bridge}\nlink set {cable} up\n"
        ),
    )?;
    let (address, length, gateway) = (node.address, cluster.shape.network.prefix_len(), cluster.host_address());
    batch(
        &["-netns", namespace],
        &format!(
            "link set lo up\naddress add {address}/{length} dev eth0\nlink set eth0 up\nroute add default via {gateway}\n"
        ),
    )
}

fn batch(options: &[&str], commands: &str) -> Result<()> {
    let arguments = [options, &["-batch", "-"]].concat();
    run_with_input("ip", &arguments, commands).map(drop)
}

fn interface_exists(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

/// Removes the bridge and every namespace of the cluster `id`, whatever of them there is.
pub fn remove(id: &str) -> Result<()> {
    let prefix = format!("keelson-{id}-");
    for namespace in names_in(NAMESPACES).iter().filter(|name| name.starts_with(&prefix)) {
        // Its end of the cable goes with it, and so do its firewall tables.
        run("ip", &["netns", "delete", namespace])?;
    }
    let cables = format!("kl-{id}");
    for interface in names_in("/sys/class/net")
        .iter()
        .filter(|name| name.starts_with(&cables))
    {
        // A cable whose namespace is being torn down may be gone by now.
        if let Err(e) = run("ip", &["link", "delete", interface])
            && interface_exists(interface)
        {
            return Err(e);
        }
    }
    Ok(())
}

/// Whether no cluster is left on this machine.
pub fn is_last() -> bool {
    !names_in(NAMESPACES).iter().any(|name| name.starts_with("keelson-"))
}

/// Undoes the mount that `ip netns` makes on its folder, once nobody needs it.
pub fn tidy_up() -> Result<()> {
    let folder = File::open(NAMESPACES).with_context(|| format!("open {NAMESPACES}"))?;
    // The lock that `ip netns add` takes.
    let _lock = Flock::lock(folder, FlockArg::LockExclusive)
        .map_err(|(_, e)| e)
        .with_context(|| format!("lock {NAMESPACES}"))?;
    if names_in(NAMESPACES).is_empty() {
        for mount in mounts_below(Path::new(NAMESPACES))? {
            umount2(&mount, MntFlags::MNT_DETACH).with_context(|| format!("unmount {}", mount.display()))?;
        }
    }
    Ok(())
}

fn names_in(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_a_network_that_overlaps_nothing() {
        let taken: Vec<Ipv4Net> = ["172.30.7.0/24", "172.30.8.1", "10.0.0.0/8"]
            .iter()
            .filter_map(|text| parse_destination(text))
            .collect();
        assert_eq!(taken.len(), 3);
        assert_eq!(free_network(7, &taken).expect("network").to_string(), "172.30.9.0/24");
        assert_eq!(
            free_network(255, &["172.30.255.128/25".parse().expect("network")])
                .expect("network")
                .to_string(),
            "172.30.0.0/24"
        );
        assert!(free_network(0, &["172.16.0.0/12".parse().expect("network")]).is_none());
        assert!(parse_destination("default").is_none());
    }
}
