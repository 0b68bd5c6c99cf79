//! The files of configMap, secret, downwardAPI and projected volumes.

use super::VolumeError;
use super::atomic::{FileContent, Payload};
use super::tokens::Tokens;
use crate::cluster::Cluster;
use crate::env::field::{self, PodFacts};
use api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret, ServiceAccountTokenProjection,
    Volume, VolumeProjection,
};
use std::collections::BTreeMap;
use std::sync::Arc;

const DEFAULT_MODE: i32 = 0o644;

/// What the collector needs.
pub(super) struct Collector<'a> {
    pub cluster: &'a dyn Cluster,
    pub tokens: &'a Tokens,
    pub pod: &'a Pod,
    pub facts: &'a PodFacts,
}

impl Collector<'_> {
    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// The files of a volume; nothing when the volume is of another type.
    pub async fn collect(&self, volume: &Volume) -> Result<Option<Payload>, VolumeError> {
        let mut out = Payload::new();
        if let Some(source) = &volume.config_map {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            let optional = source.optional == Some(true);
            self.config_map(&source.name, source.items.as_deref(), mode, optional, &mut out)
                .await?;
        } else if let Some(source) = &volume.secret {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            let name = source.secret_name.as_deref().unwrap_or_default();
            self.secret(
                name,
                source.items.as_deref(),
                mode,
                source.optional == Some(true),
                &mut out,
            )
            .await?;
        } else if let Some(source) = &volume.downward_api {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            self.downward(source.items.as_deref().unwrap_or_default(), mode, &mut out)?;
        } else if let Some(source) = &volume.projected {
            self.projected(source, &mut out).await?;
        } else {
            return Ok(None);
        }
        Ok(Some(out))
    }

    async fn projected(&self, source: &ProjectedVolumeSource, out: &mut Payload) -> Result<(), VolumeError> {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        for part in source.sources.iter().flatten() {
            self.projection(part, mode, out).await?;
        }
        Ok(())
    }

    async fn projection(&self, part: &VolumeProjection, mode: i32, out: &mut Payload) -> Result<(), VolumeError> {
        if let Some(source) = &part.config_map {
            let optional = source.optional == Some(true);
            self.config_map(&source.name, source.items.as_deref(), mode, optional, out)
                .await?;
        }
        if let Some(source) = &part.secret {
            let optional = source.optional == Some(true);
            self.secret(&source.name, source.items.as_deref(), mode, optional, out)
                .await?;
        }
        if let Some(source) = &part.downward_api {
            self.downward(source.items.as_deref().unwrap_or_default(), mode, out)?;
        }
        if let Some(source) = &part.service_account_token {
            self.token(source, mode, out).await?;
        }
        if part.cluster_trust_bundle.is_some() {
            return Err(VolumeError::Unsupported("clusterTrustBundle projection"));
        }
        Ok(())
    }

    async fn config_map(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        mode: i32,
        optional: bool,
        out: &mut Payload,
    ) -> Result<(), VolumeError> {
        let Some(map) = self.cluster.config_map(self.namespace(), name).await? else {
            if optional {
                return Ok(());
            }
            return Err(VolumeError::Missing {
                kind: "configmap",
                name: name.to_owned(),
            });
        };
        let map: Arc<ConfigMap> = map;
        let text = map
            .data
            .iter()
            .flatten()
            .map(|(key, value)| (key.as_str(), value.as_bytes()));
        let binary = map
            .binary_data
            .iter()
            .flatten()
            .map(|(key, value)| (key.as_str(), value.0.as_slice()));
        let all: BTreeMap<&str, &[u8]> = text.chain(binary).collect();
        pick(&all, items, mode, optional, "configmap", name, out)
    }

    async fn secret(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        mode: i32,
        optional: bool,
        out: &mut Payload,
    ) -> Result<(), VolumeError> {
        let Some(secret) = self.cluster.secret(self.namespace(), name).await? else {
            if optional {
                return Ok(());
            }
            return Err(VolumeError::Missing {
                kind: "secret",
                name: name.to_owned(),
            });
        };
        let secret: Arc<Secret> = secret;
        let all: BTreeMap<&str, &[u8]> = secret
            .data
            .iter()
            .flatten()
            .map(|(key, value)| (key.as_str(), value.0.as_slice()))
            .collect();
        pick(&all, items, mode, optional, "secret", name, out)
    }

    fn downward(&self, items: &[DownwardAPIVolumeFile], mode: i32, out: &mut Payload) -> Result<(), VolumeError> {
        for item in items {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(reference), _) => field::field(self.pod, self.facts, &reference.field_path)?,
                (None, Some(selector)) => field::resource(self.pod, None, self.facts, selector)?,
                (None, None) => continue,
            };
            insert(out, &item.path, text.into_bytes(), item.mode.unwrap_or(mode), None);
        }
        Ok(())
    }

    async fn token(
        &self,
        source: &ServiceAccountTokenProjection,
        mode: i32,
        out: &mut Payload,
    ) -> Result<(), VolumeError> {
        let token = self.tokens.get(self.cluster, self.pod, source).await?;
        let context = self.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let group = context.and_then(|context| context.fs_group);
        let owner = common_user(self.pod);
        // Only the one user (or group) that needs it may read a token, where that can be told.
        let mode = if owner.is_some() || group.is_some() {
            0o600
        } else {
            mode
        };
        insert(out, &source.path, token.into_bytes(), mode, owner);
        Ok(())
    }
}

/// The user that all containers run as, if they all name the same.
fn common_user(pod: &Pod) -> Option<u32> {
    let mut users = crate::runtime::resources::all_containers(pod)
        .map(|container| crate::runtime::security::run_as_user(pod, container));
    let first = users.next()??;
    users
        .all(|user| user == Some(first))
        .then(|| u32::try_from(first).ok())
        .flatten()
}

fn insert(out: &mut Payload, path: &str, data: Vec<u8>, mode: i32, owner: Option<u32>) {
    let mode = u32::try_from(mode).unwrap_or(0o644) & 0o777;
    out.insert(path.to_owned(), FileContent { data, mode, owner });
}

fn pick(
    all: &BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
    kind: &'static str,
    name: &str,
    out: &mut Payload,
) -> Result<(), VolumeError> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for (key, data) in all {
            insert(out, key, data.to_vec(), mode, None);
        }
        return Ok(());
    };
    for item in items {
        match all.get(item.key.as_str()) {
            Some(data) => insert(out, &item.path, data.to_vec(), item.mode.unwrap_or(mode), None),
            None if optional => {}
            None => {
                return Err(VolumeError::Key {
                    kind,
                    name: name.to_owned(),
                    key: item.key.clone(),
                });
            }
        }
    }
    Ok(())
}
