//! Every pod runs as a service account of its namespace and finds a token, the cluster's CA and its namespace in a volume.

use api::Error;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Context, Plugin, creates, forbidden};
use crate::kinds::field::{each, ensure, list, set, text};
use crate::registry::access::AdmissionRequest;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MIRROR: &str = "/metadata/annotations/kubernetes.io~1config.mirror";
/// Seconds; the odd seven tells these tokens from ones somebody asked for.
const TOKEN_LIFETIME: i64 = 3607;
pub(super) struct ServiceAccount;

#[async_trait]
impl Plugin for ServiceAccount {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        creates(request, "", "pods")
    }

    async fn mutate(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Error> {
        if object.pointer(MIRROR).is_some() {
            return check_mirror(request, object);
        }
        let Some(spec) = ensure(object, "spec") else {
            return Ok(());
        };
        let name = match text(spec, "/serviceAccountName") {
            "" => "default".to_owned(),
            name => name.to_owned(),
        };
        set(spec, "serviceAccountName", name.clone());
        set(spec, "serviceAccount", name.clone());
        let Some(account) = cx
            .get("", "serviceaccounts", &request.attributes.namespace, &name)
            .await?
        else {
            let namespace = &request.attributes.namespace;
            return Err(forbidden(
                request,
                format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"),
            ));
        };
        let wanted = |object: &Value| object.get("automountServiceAccountToken").and_then(Value::as_bool);
        if wanted(spec).or_else(|| wanted(&account)).unwrap_or(true) {
            mount_token(spec);
        }
        if list(spec, "/imagePullSecrets").is_empty() && !list(&account, "/imagePullSecrets").is_empty() {
            set(spec, "imagePullSecrets", account["imagePullSecrets"].clone());
        }
        Ok(())
    }
}

fn check_mirror(request: &AdmissionRequest<'_>, pod: &Value) -> Result<(), Error> {
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        return Err(forbidden(request, "a mirror pod may not reference service accounts"));
    }
    let uses_secrets = list(pod, "/spec/volumes").iter().any(|v| v.get("secret").is_some());
    if uses_secrets {
        Err(forbidden(request, "a mirror pod may not reference secrets"))
    } else {
        Ok(())
    }
}

/// Adds the token volume and mounts it in each container that has nothing at that path.
fn mount_token(spec: &mut Value) {
    let existing = list(spec, "/volumes")
        .iter()
        .map(|v| text(v, "/name"))
        .find(|n| n.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let name = existing.clone().unwrap_or_else(|| {
        format!(
            "{VOLUME_PREFIX}{}",
            api::names::generate_suffix(&rand::random::<[u8; 5]>())
        )
    });
    let mut used = false;
    for kind in ["initContainers", "containers"] {
        for container in each(spec, kind) {
            if list(container, "/volumeMounts")
                .iter()
                .any(|m| text(m, "/mountPath") == MOUNT_PATH)
            {
                continue;
            }
            used = true;
            let mounts = container
                .as_object_mut()
                .map(|c| c.entry("volumeMounts").or_insert(json!([])))
                .and_then(Value::as_array_mut);
            if let Some(mounts) = mounts {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
            }
        }
    }
    if used && existing.is_none() {
        let volumes = spec
            .as_object_mut()
            .map(|s| s.entry("volumes").or_insert(json!([])))
            .and_then(Value::as_array_mut);
        if let Some(volumes) = volumes {
            volumes.push(token_volume(&name));
        }
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_LIFETIME, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_volume_mounted_everywhere() {
        let mut spec = json!({"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}], "initContainers": [{"name": "i"}]});
        mount_token(&mut spec);
        let name = text(&spec, "/volumes/0/name").to_owned();
        assert_eq!(
            (name.len(), name.starts_with(VOLUME_PREFIX)),
            (VOLUME_PREFIX.len() + 5, true)
        );
        assert_eq!(
            spec["containers"][0]["volumeMounts"],
            json!([{"name": name, "readOnly": true, "mountPath": MOUNT_PATH}])
        );
        assert_eq!(spec["containers"][1]["volumeMounts"][0]["name"], "own");
        assert_eq!(spec["initContainers"][0]["volumeMounts"][0]["name"], name.as_str());
        let once = spec.clone();
        mount_token(&mut spec);
        assert_eq!(spec, once);
    }
}
