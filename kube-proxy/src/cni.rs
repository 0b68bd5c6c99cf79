//! The container runtime's network configuration: a CNI list for this node's pod CIDRs.
//!
//! Pods are attached with the `ptp` plugin: each has a veth pair of its own and everything it sends is routed by the node. On a common bridge, packets
//! between two pods of a node would never meet the service rules and network policies unless the module br_netfilter were there.

use std::io::Write;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde_json::{Value, json};

/// Sorts before what most others call theirs.
const FILE: &str = "10-keelson.conflist";

/// Why the configuration could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot be written", path.display())]
pub struct CniError {
    path: PathBuf,
    source: std::io::Error,
}

/// What became of the configuration.
#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    /// It is new or changed.
    Now,
    /// It was right already.
    Before,
    /// Another configuration is there; ours is not needed.
    Foreign(PathBuf),
}

/// The list of plugins for pods with addresses from `pod_cidrs`; `mtu` of their devices, if not the kernel's choice.
pub fn conflist(pod_cidrs: &[IpNet], mtu: Option<u32>) -> Value {
    let ranges: Vec<_> = pod_cidrs
        .iter()
        .map(|cidr| json!([{ "subnet": cidr.trunc().to_string() }]))
        .collect();
    let has = |ipv6| pod_cidrs.iter().any(|cidr| cidr.addr().is_ipv6() == ipv6);
    let routes = [(false, "0.0.0.0/0"), (true, "::/0")];
    let routes: Vec<_> = routes
        .iter()
        .filter(|(ipv6, _)| has(*ipv6))
        .map(|(_, dst)| json!({ "dst": dst }))
        .collect();
    let mut attach = json!({
        "type": "ptp",
        // Ours is in the proxy's own table.
        "ipMasq": false,
        "ipam": { "type": "host-local", "ranges": ranges, "routes": routes },
    });
    if let Some(mtu) = mtu {
        attach["mtu"] = json!(mtu);
    }
    let host_ports = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    json!({ "cniVersion": "0.4.0", "name": "keelson", "plugins": [attach, host_ports] })
}

/// Puts the configuration into `dir`, whole or not at all, unless an operator's own is there.
pub fn write(dir: &Path, conflist: &Value) -> Result<Written, CniError> {
    let path = dir.join(FILE);
    let text = format!("{conflist:#}\n");
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| CniError { path, source }
    };
    std::fs::create_dir_all(dir).map_err(fail(dir))?;
    if let Some(other) = foreign(dir).map_err(fail(dir))? {
        return Ok(Written::Foreign(other));
    }
    if std::fs::read_to_string(&path).is_ok_and(|found| found == text) {
        return Ok(Written::Before);
    }
    let replace = || {
        // The runtime reads only files whose names end as configurations do.
        let temporary = dir.join(format!(".{FILE}.new"));
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)
    };
    replace().map_err(fail(&path))?;
    Ok(Written::Now)
}

/// A configuration in `dir` that is not ours.
fn foreign(dir: &Path) -> std::io::Result<Option<PathBuf>> {
    let mut others = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let is_configuration = path
            .extension()
            .and_then(|e| e.to_str())
            .is_some_and(|e| matches!(e, "conf" | "conflist" | "json"));
        if is_configuration && path.file_name().is_some_and(|name| name != FILE) {
            others.push(path);
        }
    }
    Ok(others.into_iter().min())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidrs(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn every_pod_cidr_is_a_range_with_its_default_route() {
        let list = conflist(&cidrs(&["10.244.1.0/24", "fd00:1::/64"]), Some(1450));
        let attach = &list["plugins"][0];
        assert_eq!(
            attach["ipam"]["ranges"],
            json!([[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:1::/64"}]])
        );
        assert_eq!(attach["ipam"]["routes"], json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]));
        assert_eq!(attach["mtu"], 1450);
        assert!(
            conflist(&cidrs(&["10.244.1.0/24"]), None)["plugins"][0]
                .get("mtu")
                .is_none()
        );
    }

    #[test]
    fn the_file_is_written_once_and_again_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("net.d");
        let (one, two) = (
            conflist(&cidrs(&["10.244.1.0/24"]), None),
            conflist(&cidrs(&["10.244.2.0/24"]), None),
        );
        assert_eq!(write(&dir, &one).unwrap(), Written::Now);
        assert_eq!(write(&dir, &one).unwrap(), Written::Before);
        assert_eq!(write(&dir, &two).unwrap(), Written::Now);
        let found: Value = serde_json::from_slice(&std::fs::read(dir.join(FILE)).unwrap()).unwrap();
        assert_eq!(found, two);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn an_operators_configuration_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("notes.txt"), "x").unwrap();
        let own = dir.path().join("99-own.conf");
        std::fs::write(&own, "{}").unwrap();
        let list = conflist(&cidrs(&["10.244.1.0/24"]), None);
        assert_eq!(write(dir.path(), &list).unwrap(), Written::Foreign(own.clone()));
        assert!(!dir.path().join(FILE).exists());
        std::fs::remove_file(own).unwrap();
        assert_eq!(write(dir.path(), &list).unwrap(), Written::Now);
    }

    #[test]
    fn errors_name_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = write(&file.path().join("x"), &json!({})).unwrap_err();
        assert!(error.to_string().contains(file.path().to_str().unwrap()), "{error}");
    }
}
