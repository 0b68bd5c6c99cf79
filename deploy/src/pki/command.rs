//! The command line of `keelson pki`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, ensure};
use ipnet::IpNet;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Certificate, Cluster, Node, Outcome, ensure_cluster, first_address, list, renew};
use crate::console;

/// Where the certificates of a machine lie.
const DEFAULT_DIR: &str = "/etc/kubernetes/pki";

/// The cluster's certificates.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Make the authority, the service-account keys and every certificate that is missing, about to expire or made for other names.
    Init {
        #[command(flatten)]
        dir: Dir,
        /// A node that runs the control plane: its name and addresses.
        #[arg(long = "control-plane", value_name = "NAME=IP[,IP...]", required = true)]
        control_planes: Vec<Machine>,
        /// A node that runs pods only: its name and addresses.
        #[arg(long = "node", value_name = "NAME=IP[,IP...]")]
        nodes: Vec<Machine>,
        /// The network that service addresses come from.
        #[arg(long, default_value = "10.96.0.0/16", value_name = "CIDR")]
        service_cluster_ip_range: IpNet,
        /// The domain of service names.
        #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
        cluster_domain: String,
    },
    /// Issue every certificate again, with new keys and the same names. The authority and the service-account keys stay.
    Renew {
        #[command(flatten)]
        dir: Dir,
    },
    /// Show every certificate: whose, for which names, until when.
    Show {
        #[command(flatten)]
        dir: Dir,
    },
}

/// The folder of certificates.
#[derive(clap::Args)]
pub struct Dir {
    /// The folder of certificates.
    #[arg(long, default_value = DEFAULT_DIR)]
    dir: PathBuf,
}

/// A machine, as named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    name: String,
    addresses: Vec<IpAddr>,
}

impl FromStr for Machine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, addresses) = text.split_once('=').ok_or("expected NAME=IP[,IP...]")?;
        let name = node_name(name)?;
        let address = |text: &str| text.parse().map_err(|_| format!("{text:?} is not an IP address"));
        let addresses = addresses.split(',').map(address).collect::<Result<_, _>>()?;
        Ok(Self { name, addresses })
    }
}

/// Reads a name that a Node object may have.
pub fn node_name(name: &str) -> Result<String, String> {
    let is_label = |part: &str| !part.is_empty() && !part.starts_with('-') && !part.ends_with('-');
    let is_name = name.split('.').all(is_label) && name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-' | '.'));
    if !is_name || name.len() > 253 {
        return Err(format!(
            "{name:?} is not a node name: expected lower-case letters, digits, '-' and '.'"
        ));
    }
    Ok(name.to_owned())
}

/// Does what the command says.
pub fn run(command: Command) -> Result<()> {
    let now = OffsetDateTime::now_utc();
    match command {
        Command::Init {
            dir,
            control_planes,
            nodes,
            service_cluster_ip_range,
            cluster_domain,
        } => {
            let cluster = Cluster {
                nodes: machines(control_planes, true).chain(machines(nodes, false)).collect(),
                domain: cluster_domain,
                kubernetes_address: first_address(service_cluster_ip_range),
            };
            let mut names: Vec<_> = cluster.nodes.iter().map(|node| &node.name).collect();
            names.sort_unstable();
            names.dedup();
            ensure!(names.len() == cluster.nodes.len(), "a node is named twice");
            for (path, outcome) in ensure_cluster(&dir.dir, &cluster, now)? {
                let outcome = if outcome == Outcome::Issued { "issued" } else { "kept" };
                console::line(format_args!("{outcome:<6} {}", path.display()));
            }
        }
        Command::Renew { dir } => {
            for path in renew(&dir.dir, now)? {
                console::line(format_args!("issued {}", path.display()));
            }
        }
        Command::Show { dir } => {
            for (path, certificate) in list(&dir.dir)? {
                show(
                    &path.strip_prefix(&dir.dir).unwrap_or(&path).display().to_string(),
                    &certificate,
                    now,
                );
            }
        }
    }
    Ok(())
}

fn machines(machines: Vec<Machine>, control_plane: bool) -> impl Iterator<Item = Node> {
    machines.into_iter().map(move |machine| Node {
        name: machine.name,
        addresses: machine.addresses,
        control_plane,
    })
}

fn show(file: &str, certificate: &Certificate, now: OffsetDateTime) {
    let group = certificate
        .organization
        .as_ref()
        .map_or(String::new(), |group| format!(", group {group}"));
    console::line(format_args!("{file}\n  user {}{group}", certificate.common_name));
    let names = certificate
        .dns_names
        .iter()
        .cloned()
        .chain(certificate.addresses.iter().map(IpAddr::to_string));
    let names: Vec<String> = names.collect();
    if !names.is_empty() {
        console::line(format_args!("  serves {}", names.join(" ")));
    }
    let until = certificate.not_after.format(&Rfc3339).unwrap_or_default();
    let left = (certificate.not_after - now).whole_days();
    console::line(format_args!(
        "  {} {until}, {left} days left",
        if left < 0 { "EXPIRED" } else { "valid until" }
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_machine() {
        let machine: Machine = "cp-1.example=10.0.0.1,fd00::1".parse().expect("a machine");
        assert_eq!(
            machine.addresses,
            [
                IpAddr::from([10, 0, 0, 1]),
                "fd00::1".parse::<IpAddr>().expect("address")
            ]
        );
        for wrong in [
            "cp",
            "=10.0.0.1",
            "../x=10.0.0.1",
            "A=10.0.0.1",
            "a=",
            "a=10.0.0",
            "a..b=10.0.0.1",
            "-a=10.0.0.1",
        ] {
            assert!(wrong.parse::<Machine>().is_err(), "{wrong}");
        }
    }
}
