//! The first machine's list of machines, beside the cluster's authority.

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::bundle::{Bundle, Machine};
use crate::configuration::{DOMAIN, SERVICE_CIDR};
use crate::pki;

/// The machines of a cluster.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Register {
    machines: Vec<Machine>,
    /// Store members' numbers are never used again.
    last_raft_id: u64,
    #[serde(skip)]
    folder: PathBuf,
}

impl Register {
    /// The register in `folder`; an empty one where there is none.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("machines.json");
        let mut register: Self = match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).with_context(|| format!("{}: not a list of machines", path.display()))?
            }
            Err(e) if e.kind() == ErrorKind::NotFound => Self::default(),
            Err(e) => return Err(e).with_context(|| format!("read {}", path.display())),
        };
        folder.clone_into(&mut register.folder);
        Ok(register)
    }

    /// Whether no machine is in it.
    pub fn is_empty(&self) -> bool {
        self.machines.is_empty()
    }

    /// Enters a machine, or finds it as it is, and issues its credentials.
    pub fn add(&mut self, name: &str, address: IpAddr, control_plane: bool) -> Result<Bundle> {
        let known = self.machines.iter().find(|machine| machine.name == name);
        if let Some(known) = known {
            let same = known.address == address && known.raft_id.is_some() == control_plane;
            ensure!(
                same,
                "{name} is in the cluster already, with another address or another role"
            );
        }
        let machine = known
            .cloned()
            .unwrap_or_else(|| self.enter(name, address, control_plane));
        let pki = self.folder.join("pki");
        pki::ensure_cluster(&pki, &self.cluster(), OffsetDateTime::now_utc())?;
        let text = serde_json::to_vec_pretty(self)?;
        pki::write_private(&self.folder.join("machines.json"), &text)?;
        Bundle::collect(machine, &pki.join(name))
    }

    fn enter(&mut self, name: &str, address: IpAddr, control_plane: bool) -> Machine {
        let first = self.machines.iter().find(|machine| machine.raft_id.is_some());
        let machine = Machine {
            name: name.to_owned(),
            address,
            raft_id: control_plane.then_some(self.last_raft_id + 1),
            raft_join: first
                .filter(|_| control_plane)
                .map(|first| std::net::SocketAddr::new(first.address, 6443).to_string()),
        };
        self.last_raft_id += u64::from(control_plane);
        self.machines.push(machine.clone());
        machine
    }

    fn cluster(&self) -> pki::Cluster {
        let node = |machine: &Machine| pki::Node {
            name: machine.name.clone(),
            addresses: vec![machine.address],
            control_plane: machine.raft_id.is_some(),
        };
        pki::Cluster {
            nodes: self.machines.iter().map(node).collect(),
            domain: DOMAIN.into(),
            kubernetes_address: pki::first_address(SERVICE_CIDR.parse().unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_store_members_and_remembers_them() {
        let folder = tempfile::tempdir().expect("folder");
        let mut register = Register::load(folder.path()).expect("empty");
        assert!(register.is_empty());
        let first = register.add("one", [10, 0, 0, 1].into(), true).expect("added");
        assert_eq!((first.machine.raft_id, first.machine.raft_join), (Some(1), None));
        register.add("two", [10, 0, 0, 2].into(), false).expect("added");

        let mut register = Register::load(folder.path()).expect("loaded");
        let third = register.add("three", [10, 0, 0, 3].into(), true).expect("added");
        assert_eq!(
            (third.machine.raft_id, third.machine.raft_join.as_deref()),
            (Some(2), Some("10.0.0.1:6443"))
        );
        let again = register.add("three", [10, 0, 0, 3].into(), true).expect("known");
        assert_eq!(again.machine, third.machine);
        let other = register
            .add("two", [10, 0, 0, 9].into(), false)
            .err()
            .expect("it moved")
            .to_string();
        assert!(other.contains("two is in the cluster already"), "{other}");
    }
}
