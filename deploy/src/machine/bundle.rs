//! What a machine gets from the first one: its description and its credentials, as one tar file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::pki;

/// The file of the description in a bundle.
const DESCRIPTION: &str = "machine.json";
/// Credentials are small; a bundle that holds more is none.
const MAX_FILE: u64 = 1 << 20;
const MAX_FILES: usize = 64;

/// A machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Machine {
    /// Its name as a Node object.
    pub name: String,
    /// The address that others reach it at.
    pub address: IpAddr,
    /// Its number as a member of the store, if it runs the control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raft_id: Option<u64>,
    /// The API server through which it joins the store; the first machine starts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raft_join: Option<String>,
}

/// A machine and the files of its `/etc/kubernetes/pki`.
pub struct Bundle {
    /// The machine.
    pub machine: Machine,
    /// Its credentials, by file name.
    pub credentials: BTreeMap<String, Vec<u8>>,
}

impl Bundle {
    /// The bundle of `machine`, whose credentials lie in `folder`.
    pub fn collect(machine: Machine, folder: &Path) -> Result<Self> {
        let mut credentials = BTreeMap::new();
        for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .context("a file name")?
                .to_owned();
            credentials.insert(
                name,
                fs::read(&path).with_context(|| format!("read {}", path.display()))?,
            );
        }
        Ok(Self { machine, credentials })
    }

    /// Writes it to a file that only its owner can read.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut archive = tar::Builder::new(Vec::new());
        let description = serde_json::to_vec_pretty(&self.machine)?;
        let files = self.credentials.iter().map(|(name, content)| (name.as_str(), content));
        for (name, content) in files.chain([(DESCRIPTION, &description)]) {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o600);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, name, content.as_slice())?;
        }
        Ok(pki::write_private(path, &archive.into_inner()?)?)
    }

    /// Reads the bundle in the file `path`.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        Self::parse(file).with_context(|| format!("{}: not a bundle of `keelson node add`", path.display()))
    }

    fn parse(input: impl Read) -> Result<Self> {
        let mut credentials = BTreeMap::new();
        for entry in tar::Archive::new(input).entries()? {
            let mut entry = entry?;
            let name = entry.path()?.to_str().context("a file name")?.to_owned();
            let is_plain = name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
                && !name.starts_with('.');
            ensure!(
                is_plain && entry.header().entry_type().is_file(),
                "{name:?}: not a plain file"
            );
            ensure!(
                entry.size() <= MAX_FILE && credentials.len() < MAX_FILES,
                "{name:?}: too much"
            );
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            credentials.insert(name, content);
        }
        let description = credentials
            .remove(DESCRIPTION)
            .context("no description of the machine")?;
        Ok(Self {
            machine: serde_json::from_slice(&description)?,
            credentials,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_wrote() {
        let folder = tempfile::tempdir().expect("folder");
        fs::write(folder.path().join("ca.crt"), "CA").expect("write");
        let machine = Machine {
            name: "n".into(),
            address: [10, 0, 0, 1].into(),
            raft_id: Some(3),
            raft_join: Some("a:6443".into()),
        };
        let path = folder.path().join("bundle.tar");
        Bundle::collect(machine.clone(), folder.path())
            .expect("collected")
            .write(&path)
            .expect("written");
        let bundle = Bundle::read(&path).expect("read");
        assert_eq!(bundle.machine, machine);
        assert_eq!(bundle.credentials["ca.crt"], b"CA");
    }

    #[test]
    fn refuses_files_that_would_lie_elsewhere() {
        for name in ["a/b", ".ssh", "/etc/passwd"] {
            let mut archive = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            archive.append(&header, &b"x"[..]).expect("append");
            assert!(
                Bundle::parse(archive.into_inner().expect("archive").as_slice()).is_err(),
                "{name}"
            );
        }
        assert!(Bundle::parse(&b"no tar file"[..]).is_err());
    }
}
