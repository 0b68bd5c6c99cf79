//! A pod's volumes on the node: set up before its containers, kept up to date while they run, taken down after them.
//!
//! Owns `pods/<uid>/volumes` and `pods/<uid>/volume-subpaths` under the root folder. Never decides when: that is the pod's worker.

pub mod atomic;
mod local;
mod payload;
mod subpath;
pub mod tokens;

use crate::cluster::{Cluster, ClusterError};
use crate::env::field::{FieldError, PodFacts};
use api::core::v1::{EmptyDirVolumeSource, PersistentVolumeClaim, Pod, Volume, VolumeMount};
use local::failed;
use nix::mount::{MntFlags, umount2};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A volume that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A ConfigMap or Secret that is not there.
    #[error("{kind} \"{name}\" not found")]
    Missing {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A key that the object does not have.
    #[error("{kind} references non-existent config key: {key} (in {name})")]
    Key {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// The object's name.
        name: String,
        /// The key.
        key: String,
    },
    /// No token.
    #[error("failed to fetch token: {source}")]
    Token {
        /// The service account.
        account: String,
        /// Why.
        source: ClusterError,
    },
    /// A downward API field that is none.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The API server did not answer.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A hostPath of the wrong type.
    #[error("hostPath type check failed: {0}")]
    HostPath(String),
    /// A claim without a volume.
    #[error("persistentvolumeclaim \"{0}\" is not bound")]
    Unbound(String),
    /// A sub path that leaves its volume.
    #[error("subPath {0:?} leaves its volume")]
    SubPath(String),
    /// A mount of a volume that the pod does not have.
    #[error("volume \"{0}\" is not among the pod's volumes")]
    NoVolume(String),
    /// A type of volume that this kubelet does not have.
    #[error("unsupported volume type: {0}")]
    Unsupported(&'static str),
    /// Files that could not be written.
    #[error("{}", chain(.0))]
    Write(#[from] atomic::WriteError),
    /// The file system refused.
    #[error("{operation} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

fn chain(error: &atomic::WriteError) -> String {
    match error {
        atomic::WriteError::Io { source, .. } => format!("{error}: {source}"),
        atomic::WriteError::Path(_) => error.to_string(),
    }
}

/// A volume that failed, by its name.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {source}")]
pub struct SetUpError {
    /// The volume's name in the pod.
    pub volume: String,
    /// Why.
    pub source: VolumeError,
}

/// Where a pod's volumes are on the node, by name.
pub type Places = BTreeMap<String, PathBuf>;

/// The volumes of this node's pods.
pub struct Volumes {
    root: PathBuf,
    cluster: Arc<dyn Cluster>,
    tokens: tokens::Tokens,
}

impl Volumes {
    /// `root` is the kubelet's root folder.
    pub fn new(root: &Path, cluster: Arc<dyn Cluster>) -> Self {
        Self {
            root: root.to_path_buf(),
            cluster,
            tokens: tokens::Tokens::default(),
        }
    }

    /// A pod's folder.
    pub fn pod_folder(&self, uid: &str) -> PathBuf {
        self.root.join("pods").join(uid)
    }

    /// Tokens, for their renewal times.
    pub fn tokens(&self) -> &tokens::Tokens {
        &self.tokens
    }

    /// Sets up or refreshes every volume of a pod. Doing it again changes only what changed.
    pub async fn set_up(&self, pod: &Pod, facts: &PodFacts) -> Result<Places, SetUpError> {
        let mut places = Places::new();
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let place = self.one(pod, facts, volume).await;
            let place = place.map_err(|source| SetUpError {
                volume: volume.name.clone(),
                source,
            })?;
            places.insert(volume.name.clone(), place);
        }
        Ok(places)
    }

    async fn one(&self, pod: &Pod, facts: &PodFacts, volume: &Volume) -> Result<PathBuf, VolumeError> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let group = fs_group(pod);
        let folder = |kind: &str| {
            self.pod_folder(uid)
                .join("volumes")
                .join(format!("kubernetes.io~{kind}"))
                .join(&volume.name)
        };
        let collector = payload::Collector {
            cluster: self.cluster.as_ref(),
            tokens: &self.tokens,
            pod,
            facts,
        };
        if let Some(payload) = collector.collect(volume).await? {
            let (kind, in_memory) = match volume {
                Volume {
                    config_map: Some(_), ..
                } => ("configmap", false),
                Volume { secret: Some(_), .. } => ("secret", true),
                Volume {
                    downward_api: Some(_), ..
                } => ("downward-api", false),
                _ => ("projected", true),
            };
            let place = folder(kind);
            let target = place.clone();
            blocking(move || {
                local::create_dir(&target, 0o777)?;
                if in_memory {
                    local::tmpfs(&target, None, 0o777)?;
                }
                atomic::write(&target, &payload, group)?;
                Ok(())
            })
            .await?;
            return Ok(place);
        }
        match volume {
            Volume {
                empty_dir: Some(source),
                ..
            } => {
                let place = folder("empty-dir");
                self.empty_dir(place.clone(), source.clone(), facts, group).await?;
                Ok(place)
            }
            Volume {
                host_path: Some(source),
                ..
            } => {
                let (path, kind) = (PathBuf::from(&source.path), source.type_.clone().unwrap_or_default());
                let checked = path.clone();
                blocking(move || local::host_path(&checked, &kind)).await?;
                Ok(path)
            }
            Volume {
                persistent_volume_claim: Some(source),
                ..
            } => self.claim(pod, &source.claim_name).await,
            Volume { ephemeral: Some(_), .. } => {
                let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
                self.claim(pod, &format!("{pod_name}-{}", volume.name)).await
            }
            Volume { nfs: Some(_), .. } => Err(VolumeError::Unsupported("nfs")),
            Volume { csi: Some(_), .. } => Err(VolumeError::Unsupported("csi")),
            Volume { image: Some(_), .. } => Err(VolumeError::Unsupported("image")),
            _ => Err(VolumeError::Unsupported("this volume source")),
        }
    }

    async fn empty_dir(
        &self,
        place: PathBuf,
        source: EmptyDirVolumeSource,
        facts: &PodFacts,
        group: Option<u32>,
    ) -> Result<(), VolumeError> {
        let limit = source
            .size_limit
            .as_ref()
            .and_then(|limit| api::quantity::Quantity::parse(&limit.0).ok());
        let limit = limit.map(|limit| limit.as_i64()).filter(|limit| *limit > 0);
        let node_memory = crate::runtime::resources::units(Some(&facts.allocatable), "memory");
        let memory = (source.medium.as_deref() == Some("Memory")).then(|| limit.or(node_memory).unwrap_or(0).max(4096));
        blocking(move || {
            let fresh = !place.exists();
            local::empty_dir(&place, memory)?;
            match group.filter(|_| fresh) {
                Some(group) => local::give_to_group(&place, group, false),
                None => Ok(()),
            }
        })
        .await
    }

    /// A claim that is bound to a folder of this node.
    async fn claim(&self, pod: &Pod, name: &str) -> Result<PathBuf, VolumeError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let found = self.cluster.claim(namespace, name).await?;
        let (claim, volume) = found.ok_or_else(|| VolumeError::Missing {
            kind: "persistentvolumeclaim",
            name: name.to_owned(),
        })?;
        let spec = volume.and_then(|volume| volume.spec).filter(|_| is_bound(&claim));
        let spec = spec.ok_or_else(|| VolumeError::Unbound(name.to_owned()))?;
        let (path, kind) = match (spec.host_path, spec.local) {
            (Some(source), _) => (PathBuf::from(source.path), source.type_.unwrap_or_default()),
            (None, Some(source)) => (PathBuf::from(source.path), "Directory".to_owned()),
            (None, None) => {
                return Err(VolumeError::Unsupported(
                    "a persistent volume that is not hostPath or local",
                ));
            }
        };
        let (checked, group) = (path.clone(), fs_group(pod));
        blocking(move || {
            local::host_path(&checked, &kind)?;
            match group {
                Some(group) if kind == "Directory" => local::give_to_group(&checked, group, false),
                _ => Ok(()),
            }
        })
        .await?;
        Ok(path)
    }

    /// The path on the node that a container's mount shows: the volume, or a part of it.
    pub async fn mount_source(
        &self,
        pod: &Pod,
        container: &str,
        index: usize,
        mount: &VolumeMount,
        places: &Places,
        sub_path: Option<String>,
    ) -> Result<PathBuf, VolumeError> {
        let volume = places
            .get(&mount.name)
            .ok_or_else(|| VolumeError::NoVolume(mount.name.clone()))?
            .clone();
        let Some(sub_path) = sub_path.filter(|path| !path.is_empty()) else {
            return Ok(volume);
        };
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let place = self
            .pod_folder(uid)
            .join("volume-subpaths")
            .join(&mount.name)
            .join(container)
            .join(index.to_string());
        blocking(move || subpath::bind(&volume, &sub_path, place)).await
    }

    /// Forgets the bound sub paths of a container that is to be made anew.
    pub async fn release_sub_paths(&self, pod_uid: &str, container: &str) -> Result<(), VolumeError> {
        let base = self.pod_folder(pod_uid).join("volume-subpaths");
        let container = container.to_owned();
        blocking(move || {
            let Ok(volumes) = std::fs::read_dir(&base) else {
                return Ok(());
            };
            for volume in volumes.flatten() {
                unmount_below(&volume.path().join(&container))?;
            }
            Ok(())
        })
        .await
    }

    /// Unmounts and removes the volumes of a pod that has ended; termination messages stay.
    pub async fn release(&self, uid: &str) -> Result<(), VolumeError> {
        self.tokens.forget(uid);
        let folder = self.pod_folder(uid);
        blocking(move || {
            unmount_below(&folder)?;
            for part in ["volumes", "volume-subpaths"] {
                let part = folder.join(part);
                // Nothing is mounted below any more, so only the pod's own files go.
                if part.exists() {
                    std::fs::remove_dir_all(&part).map_err(failed("remove", &part))?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Unmounts and removes everything of a pod, its folder included.
    pub async fn tear_down(&self, uid: &str) -> Result<(), VolumeError> {
        self.tokens.forget(uid);
        let folder = self.pod_folder(uid);
        blocking(move || {
            if !folder.exists() {
                return Ok(());
            }
            unmount_below(&folder)?;
            std::fs::remove_dir_all(&folder).map_err(failed("remove", &folder))
        })
        .await
    }

    /// Uids of pods that have a folder.
    pub fn pods(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.join("pods"))
            .into_iter()
            .flatten()
            .flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

fn unmount_below(folder: &Path) -> Result<(), VolumeError> {
    let table = Path::new("/proc/self/mountinfo");
    let table = std::fs::read_to_string(table).map_err(failed("read", table))?;
    let points: Vec<String> = local::mount_points(&table)
        .filter(|point| Path::new(point).starts_with(folder))
        .collect();
    for point in points.iter().rev() {
        umount2(point.as_str(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .map_err(|errno| failed("unmount", Path::new(point))(errno.into()))?;
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, VolumeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(failed("work on", Path::new(""))(std::io::Error::other(error))),
    }
}
