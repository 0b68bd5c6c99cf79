//! Volumes and claims in use are not removed: a claim waits for its pods, a volume for its claim.

use std::sync::Arc;

use api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use api::meta::ObjectMeta;
use api::{Object, ObjectKey};
use client::{Cache, Client};
use controller::{Action, Error};

use crate::pods;
use crate::setup::{NAMESPACE, Setup, enqueue};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";

/// The finalizers that an object should have, if those are other ones: with `finalizer` as long as it stays, without it once it goes
/// and is not in use.
pub fn plan(metadata: &ObjectMeta, finalizer: &str, in_use: bool) -> Option<Vec<String>> {
    let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
    let has = finalizers.iter().any(|f| f == finalizer);
    match (metadata.deletion_timestamp.is_some(), has) {
        (false, false) => finalizers.push(finalizer.to_owned()),
        (true, true) if !in_use => finalizers.retain(|f| f != finalizer),
        _ => return None,
    }
    Some(finalizers)
}

/// Names of the claims that a pod uses, those made for its ephemeral volumes included.
fn claims(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(_)) => Some(format!("{}-{}", pod.name(), volume.name)),
            (None, None) => None,
        })
        .collect()
}

/// Whether a pod keeps a claim: it is on a node, and has not ended there.
fn uses(pod: &Pod, claim: &str) -> bool {
    !pods::node(pod).is_empty() && !pods::is_terminated(pod) && claims(pod).iter().any(|name| name == claim)
}

/// Adds the controller of claims.
pub fn start_claims(setup: &mut Setup) {
    let queue = setup.queue("pvcprotection");
    setup.informers.persistent_volume_claims.on_event(enqueue(&queue));
    let waking = queue.clone();
    setup.informers.pods.on_event(move |event| {
        let pod = event.object();
        if matches!(event, client::Event::Deleted(_)) || pods::is_terminated(pod) {
            claims(pod)
                .iter()
                .for_each(|claim| waking.add(ObjectKey::new(pod.namespace(), claim.as_str())));
        }
    });
    let client = setup.client.clone();
    setup.run("pvcprotection", queue, 2, move |caches| {
        let keeper = Arc::new(Claims {
            client,
            claims: caches.persistent_volume_claims,
            pods: caches.pods,
        });
        move |key| {
            let keeper = keeper.clone();
            async move { keeper.reconcile(key).await }
        }
    });
}

struct Claims {
    client: Client,
    claims: Cache<PersistentVolumeClaim>,
    pods: Cache<Pod>,
}

impl Claims {
    async fn reconcile(&self, key: ObjectKey) -> Result<Action, Error> {
        let Some(claim) = self.claims.get(&key) else {
            return Ok(Action::Done);
        };
        let pods = self.pods.by_index(NAMESPACE, &key.namespace);
        let in_use = pods.iter().any(|pod| uses(pod, &key.name));
        if let Some(finalizers) = plan(&claim.metadata, CLAIM, in_use) {
            let mut written = PersistentVolumeClaim::clone(&claim);
            written.metadata.finalizers = Some(finalizers);
            let doing = format!("protect PersistentVolumeClaim {key}");
            let api = self.client.api::<PersistentVolumeClaim>();
            api.update(&written).await.map_err(Error::client(doing))?;
        }
        Ok(Action::Done)
    }
}

/// Adds the controller of volumes.
pub fn start_volumes(setup: &mut Setup) {
    let queue = setup.queue("pvprotection");
    setup.informers.persistent_volumes.on_event(enqueue(&queue));
    let client = setup.client.clone();
    setup.run("pvprotection", queue, 1, move |caches| {
        let volumes = caches.persistent_volumes;
        move |key| {
            let (client, volumes) = (client.clone(), volumes.clone());
            async move { reconcile_volume(&client, &volumes, key).await }
        }
    });
}

async fn reconcile_volume(client: &Client, volumes: &Cache<PersistentVolume>, key: ObjectKey) -> Result<Action, Error> {
    let Some(volume) = volumes.get(&key) else {
        return Ok(Action::Done);
    };
    let in_use = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    if let Some(finalizers) = plan(&volume.metadata, VOLUME, in_use) {
        let mut written = PersistentVolume::clone(&volume);
        written.metadata.finalizers = Some(finalizers);
        let doing = format!("protect PersistentVolume {key}");
        let api = client.api::<PersistentVolume>();
        api.update(&written).await.map_err(Error::client(doing))?;
    }
    Ok(Action::Done)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_in_use_stays() {
        let metadata = |value| serde_json::from_value::<ObjectMeta>(value).unwrap();
        let new = metadata(json!({}));
        let kept = metadata(json!({"finalizers": ["x", CLAIM]}));
        let going = metadata(json!({"finalizers": ["x", CLAIM], "deletionTimestamp": "2026-01-01T00:00:00Z"}));
        assert_eq!(plan(&new, CLAIM, false), Some(vec![CLAIM.to_owned()]));
        assert_eq!(plan(&kept, CLAIM, false), None);
        assert_eq!(plan(&going, CLAIM, true), None);
        assert_eq!(plan(&going, CLAIM, false), Some(vec!["x".to_owned()]));
    }

    #[test]
    fn pods_on_nodes_use_claims() {
        let pod = |patch: serde_json::Value| {
            let mut pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [], "volumes": [
                {"name": "a", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "b", "ephemeral": {}}]}});
            for (key, value) in patch.as_object().unwrap() {
                pod[key] = value.clone();
            }
            Pod::from_value(pod).unwrap()
        };
        assert!(uses(&pod(json!({})), "data") && uses(&pod(json!({})), "p-b") && !uses(&pod(json!({})), "other"));
        assert!(!uses(&pod(json!({"status": {"phase": "Succeeded"}})), "data"));
    }
}
