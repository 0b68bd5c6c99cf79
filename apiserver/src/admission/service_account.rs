//! Every pod runs as a service account of its namespace and finds a token, the cluster's CA and its namespace in a volume.

use std::time::Duration;

use api::Error;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Context, Plugin, creates, forbidden};
use crate::kinds::field::{each, ensure, list, set, text};
use crate::registry::access::{AdmissionRequest, Operation};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
const DEFAULT: &str = "default";
const ENFORCE: &str = "/metadata/annotations/kubernetes.io~1enforce-mountable-secrets";
const MIRROR: &str = "/metadata/annotations/kubernetes.io~1config.mirror";
/// Seconds; the odd seven tells these tokens from ones somebody asked for.
const TOKEN_LIFETIME: i64 = 3607;
/// How often, and with which pause, a pod waits for the account that its namespace is about to get.
const ATTEMPTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct ServiceAccount;

#[async_trait]
impl Plugin for ServiceAccount {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        let adds = request.attributes.subresource == "ephemeralcontainers" && request.resource.resource == "pods";
        creates(request, "", "pods") || adds && request.operation == Operation::Update
    }

    async fn mutate(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Error> {
        if request.operation != Operation::Create || object.pointer(MIRROR).is_some() {
            return Ok(());
        }
        let Some(spec) = ensure(object, "spec") else {
            return Ok(());
        };
        let name = match text(spec, "/serviceAccountName") {
            "" => DEFAULT.to_owned(),
            name => name.to_owned(),
        };
        set(spec, "serviceAccountName", name.clone());
        set(spec, "serviceAccount", name.clone());
        let account = account(cx, request, &name).await?;
        let wanted = |object: &Value| object.get("automountServiceAccountToken").and_then(Value::as_bool);
        if wanted(spec).or_else(|| wanted(&account)).unwrap_or(true) {
            mount_token(spec);
        }
        if list(spec, "/imagePullSecrets").is_empty() && !list(&account, "/imagePullSecrets").is_empty() {
            set(spec, "imagePullSecrets", account["imagePullSecrets"].clone());
        }
        Ok(())
    }

    async fn validate(&self, cx: &Context, request: &AdmissionRequest<'_>, pod: &Value) -> Result<(), Error> {
        if pod.pointer(MIRROR).is_some() {
            return check_mirror(request, pod);
        }
        let name = text(pod, "/spec/serviceAccountName");
        if name.is_empty() {
            let a = request.attributes;
            let why = format!("no service account specified for pod {}/{}", a.namespace, a.name);
            return Err(forbidden(request, why));
        }
        let account = account(cx, request, name).await?;
        if text(&account, ENFORCE).parse() != Ok(true) {
            return Ok(());
        }
        let kinds: &[_] = match request.operation {
            Operation::Create => &[("containers", "container"), ("initContainers", "init container")],
            _ => &[("ephemeralContainers", "ephemeral container")],
        };
        check_secrets(&account, pod, kinds).map_err(|why| forbidden(request, why))
    }
}

/// The account. The `default` one of a new namespace is waited for: its controller is at work.
async fn account(cx: &Context, request: &AdmissionRequest<'_>, name: &str) -> Result<Value, Error> {
    let namespace = &request.attributes.namespace;
    let attempts = if name == DEFAULT { ATTEMPTS } else { 1 };
    for attempt in 0..attempts {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        if let Some(account) = cx.get("", "serviceaccounts", namespace, name).await? {
            return Ok(account);
        }
    }
    let why = format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
    Err(forbidden(request, why))
}

/// A mirror pod shows what a node runs by itself; it must not open the cluster's secrets to the node.
fn check_mirror(request: &AdmissionRequest<'_>, pod: &Value) -> Result<(), Error> {
    let sources = || {
        list(pod, "/spec/volumes")
            .iter()
            .flat_map(|v| list(v, "/projected/sources"))
    };
    let env = |c: &Value| {
        list(c, "/env")
            .iter()
            .any(|e| e.pointer("/valueFrom/secretKeyRef").is_some())
    };
    let env_from = |c: &Value| list(c, "/envFrom").iter().any(|e| e.get("secretRef").is_some());
    let mut containers = list(pod, "/spec/containers")
        .iter()
        .chain(list(pod, "/spec/initContainers"));
    let secrets = list(pod, "/spec/volumes").iter().any(|v| v.get("secret").is_some())
        || sources().any(|source| source.get("secret").is_some())
        || !list(pod, "/spec/imagePullSecrets").is_empty()
        || containers.any(|c| env(c) || env_from(c));
    let why = if !text(pod, "/spec/serviceAccountName").is_empty() {
        "a mirror pod may not reference service accounts"
    } else if secrets {
        "a mirror pod may not reference secrets"
    } else if sources().any(|source| source.get("serviceAccountToken").is_some()) {
        "a mirror pod may not use ServiceAccountToken volume projections"
    } else {
        return Ok(());
    };
    Err(forbidden(request, why))
}

/// An account that says so lets its pods use only the secrets that it names.
fn check_secrets(account: &Value, pod: &Value, kinds: &[(&str, &str)]) -> Result<(), String> {
    let named = |field: &str, name: &str| list(account, field).iter().any(|secret| text(secret, "/name") == name);
    let of = text(account, "/metadata/name");
    let check = |what: String, secret: &str| match named("/secrets", secret) {
        true => Ok(()),
        false => Err(format!(
            "{what} secret.secretName=\"{secret}\" is not allowed because service account {of} does not reference that secret"
        )),
    };
    let creates = kinds.iter().any(|(field, _)| *field == "containers");
    for volume in list(pod, "/spec/volumes")
        .iter()
        .filter(|v| creates && v.get("secret").is_some())
    {
        check("volume with".to_owned(), text(volume, "/secret/secretName"))?;
    }
    for (field, what) in kinds {
        for container in list(pod, &format!("/spec/{field}")) {
            let name = text(container, "/name");
            for env in list(container, "/env") {
                if let Some(secret) = env.pointer("/valueFrom/secretKeyRef") {
                    let what = format!("{what} {name} with envVar {} referencing", text(env, "/name"));
                    check(what, text(secret, "/name"))?;
                }
            }
            for secret in list(container, "/envFrom")
                .iter()
                .filter_map(|env| env.get("secretRef"))
            {
                check(format!("{what} {name} with envFrom referencing"), text(secret, "/name"))?;
            }
        }
    }
    for (i, secret) in list(pod, "/spec/imagePullSecrets")
        .iter()
        .enumerate()
        .filter(|_| creates)
    {
        let name = text(secret, "/name");
        if !named("/imagePullSecrets", name) {
            return Err(format!(
                "imagePullSecrets[{i}].name=\"{name}\" is not allowed because service account {of} does not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
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

    #[test]
    fn only_named_secrets() {
        let account =
            json!({"metadata": {"name": "web"}, "secrets": [{"name": "ok"}], "imagePullSecrets": [{"name": "pull"}]});
        let kinds = [("containers", "container"), ("initContainers", "init container")];
        let env = |secret: &str| json!([{"name": "E", "valueFrom": {"secretKeyRef": {"name": secret}}}]);
        for (spec, want) in [
            (
                json!({"volumes": [{"secret": {"secretName": "ok"}}], "imagePullSecrets": [{"name": "pull"}]}),
                "",
            ),
            (
                json!({"volumes": [{"secret": {"secretName": "no"}}]}),
                "volume with secret.secretName=\"no\" is not allowed because service account web does not reference that secret",
            ),
            (
                json!({"containers": [{"name": "c", "env": env("no")}]}),
                "container c with envVar E referencing secret.secretName=\"no\" is not allowed because service account web does not reference that secret",
            ),
            (
                json!({"initContainers": [{"name": "c", "envFrom": [{"secretRef": {"name": "no"}}]}]}),
                "init container c with envFrom referencing secret.secretName=\"no\" is not allowed because service account web does not reference that secret",
            ),
            (
                json!({"imagePullSecrets": [{"name": "no"}]}),
                "imagePullSecrets[0].name=\"no\" is not allowed because service account web does not reference that imagePullSecret",
            ),
        ] {
            let said = check_secrets(&account, &json!({"spec": spec}), &kinds)
                .err()
                .unwrap_or_default();
            assert_eq!(said, want);
        }
    }

    #[tokio::test]
    async fn an_account_must_exist() {
        let fixture = crate::admission::testing::Fixture::default();
        let pod = json!({"spec": {"serviceAccountName": "robot", "containers": [{"name": "c"}]}});
        let run = async || {
            fixture
                .mutate(&ServiceAccount, Operation::Create, "", "pods", pod.clone(), None)
                .await
        };
        assert_eq!(
            run().await.unwrap_err().message,
            "pods \"x\" is forbidden: error looking up service account dev/robot: serviceaccount \"robot\" not found"
        );
        let account = json!({"metadata": {"name": "robot", "namespace": "dev"}, "automountServiceAccountToken": false, "imagePullSecrets": [{"name": "pull"}]});
        fixture.put("", "serviceaccounts", account).await;
        let made = run().await.unwrap();
        assert_eq!(made["spec"]["imagePullSecrets"], json!([{"name": "pull"}]));
        assert!(made["spec"].get("volumes").is_none());
    }
}
