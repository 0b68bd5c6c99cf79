//! Kernel settings that the node's network needs.

use std::path::Path;

use crate::config::Conntrack;

/// Makes the node a router, for the families it has pods of, and sets connection tracking's timeouts.
pub fn prepare(ipv4: bool, ipv6: bool, conntrack: &Conntrack) {
    if ipv4 {
        set("net/ipv4/ip_forward", 1);
    }
    if ipv6 {
        set("net/ipv6/conf/all/forwarding", 1);
    }
    let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    for (name, value) in conntrack.sysctls(cores) {
        let name = format!("net/netfilter/{name}");
        // The table's size is raised, never lowered.
        if name.ends_with("_max") && get(&name).is_some_and(|now| now >= value) {
            continue;
        }
        set(&name, value);
    }
}

fn get(name: &str) -> Option<u64> {
    std::fs::read_to_string(Path::new("/proc/sys").join(name))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// A setting that cannot be made is told and no more: in a container or network namespace some are the host's alone.
fn set(name: &str, value: u64) {
    if get(name) == Some(value) {
        return;
    }
    match std::fs::write(Path::new("/proc/sys").join(name), value.to_string()) {
        Ok(()) => tracing::info!(setting = name, value, "set"),
        Err(error) => tracing::warn!(setting = name, value, %error, "cannot be set"),
    }
}
