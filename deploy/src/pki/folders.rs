//! What each machine and the administrator get beside certificates: kubeconfigs, and copies of what all share.

use std::path::Path;

use serde_json::Value;
use time::OffsetDateTime;

use super::files::{read, read_optional, update_private};
use super::plan::{CONTROL_PLANE_CLIENTS, NODE_CLIENTS};
use super::{Cluster, Error, Node, Outcome, ensure};
use crate::kubeconfig;

/// The name of the cluster in kubeconfigs.
const CLUSTER: &str = "keelson";
const ADMIN: &str = "kubernetes-admin";

/// Makes sure that `dir` holds all that `cluster` needs, as [`ensure`] does for certificates.
pub fn ensure_cluster(
    dir: &Path,
    cluster: &Cluster,
    now: OffsetDateTime,
) -> Result<Vec<(std::path::PathBuf, Outcome)>, Error> {
    let outcomes = ensure(dir, &cluster.certificates(), now)?;
    for node in &cluster.nodes {
        fill_folder(dir, cluster, node)?;
    }
    let [authority, certificate, key] = admin_material(dir)?;
    let servers = cluster.servers(None);
    write(
        &dir.join("admin.kubeconfig"),
        &kubeconfig::embedded(CLUSTER, &servers, ADMIN, &authority, &certificate, &key),
    )?;
    Ok(outcomes)
}

fn fill_folder(dir: &Path, cluster: &Cluster, node: &Node) -> Result<(), Error> {
    let folder = dir.join(&node.name);
    let shared: &[&str] = if node.control_plane {
        &["ca.crt", "front-proxy-ca.crt", "sa.key", "sa.pub", "encryption.key"]
    } else {
        &["ca.crt"]
    };
    for file in shared {
        update_private(&folder.join(file), read(&dir.join(file))?.as_bytes())?;
    }
    let servers = cluster.servers(Some(node));
    let of_control_plane = CONTROL_PLANE_CLIENTS.iter().filter(|_| node.control_plane);
    for component in of_control_plane.chain(&NODE_CLIENTS) {
        write(
            &folder.join(format!("{component}.kubeconfig")),
            &kubeconfig::referencing(CLUSTER, &servers, component),
        )?;
    }
    Ok(())
}

/// Puts the administrator's current certificate into the kubeconfig, if there is one.
pub(super) fn update_admin_kubeconfig(dir: &Path) -> Result<(), Error> {
    let path = dir.join("admin.kubeconfig");
    let Some(text) = read_optional(&path)? else {
        return Ok(());
    };
    let mut config: Value = serde_json::from_str(&text).map_err(|source| Error::Kubeconfig {
        path: path.clone(),
        source,
    })?;
    let [_, certificate, key] = admin_material(dir)?;
    config["users"][0]["user"] = kubeconfig::embedded_credentials(&certificate, &key);
    write(&path, &config)
}

fn admin_material(dir: &Path) -> Result<[String; 3], Error> {
    Ok([
        read(&dir.join("ca.crt"))?,
        read(&dir.join("admin.crt"))?,
        read(&dir.join("admin.key"))?,
    ])
}

fn write(path: &Path, config: &Value) -> Result<(), Error> {
    update_private(path, format!("{config:#}\n").as_bytes())
}
