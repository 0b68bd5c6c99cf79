//! Defaults of a pod's spec, which are those of every pod template too. Source: `pkg/apis/core/v1/defaults.go`.

use api::quantity::Quantity;
use serde_json::{Value, json};

use crate::kinds::common::parse_quantity;
use crate::kinds::field::{default, default_zero, each, ensure, set};
use crate::kinds::resource_names;

/// 0644, the mode of projected files.
const FILE_MODE: i64 = 0o644;

/// Fills in a `PodSpec`.
pub fn pod_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    default_zero(spec, "dnsPolicy", "ClusterFirst");
    default_zero(spec, "restartPolicy", "Always");
    default_zero(spec, "schedulerName", "default-scheduler");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "securityContext", json!({}));
    mirror_service_account(spec);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        each(spec, list).for_each(container);
    }
    if let Some(overhead) = spec.get_mut("overhead") {
        round_up(overhead);
    }
    for v in each(spec, "volumes") {
        volume(v);
    }
}

/// What only a pod itself gets, never a template.
pub fn pod_only(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    default(spec, "enableServiceLinks", true);
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool).unwrap_or(false);
    for list in ["initContainers", "containers"] {
        for c in each(spec, list) {
            requests_from_limits(c);
            if host_network {
                host_ports(c);
            }
        }
    }
    pod_requests(spec);
}

/// A pod with limits of its own requests what its containers do, or else as much as the limits.
fn pod_requests(spec: &mut Value) {
    let limits = super::resources::amounts(spec, "limits");
    if limits.is_empty() {
        return;
    }
    let sums = super::resources::container_requests(spec);
    let Some(requests) = spec.get_mut("resources").and_then(|r| ensure(r, "requests")) else {
        return;
    };
    let known = |name: &String| resource_names::is_pod_level(name);
    for (name, sum) in sums
        .iter()
        .filter(|(n, _)| known(n) && resource_names::may_overcommit(n))
    {
        default(requests, name, sum.to_string());
    }
    for (name, limit) in limits.iter().filter(|(n, _)| known(n)) {
        default(requests, name, limit.to_string());
    }
}

/// Amounts are kept in thousandths at the finest.
pub fn round_up(amounts: &mut Value) {
    for (_, amount) in amounts.as_object_mut().into_iter().flatten() {
        let Some(exact) = parse_quantity(amount) else { continue };
        let rounded = Quantity::milli(exact.as_milli());
        if exact.as_milli().abs() < i64::MAX && rounded != exact {
            *amount = rounded.to_string().into();
        }
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both always say the same.
fn mirror_service_account(spec: &mut Value) {
    let name = |field: &str| {
        spec.get(field)
            .and_then(Value::as_str)
            .filter(|s| !s.is_empty())
            .map(str::to_owned)
    };
    if let Some(account) = name("serviceAccountName").or_else(|| name("serviceAccount")) {
        set(spec, "serviceAccountName", account.clone());
        set(spec, "serviceAccount", account);
    }
}

fn container(c: &mut Value) {
    let policy = pull_policy(c.get("image").and_then(Value::as_str).unwrap_or_default());
    default_zero(c, "imagePullPolicy", policy);
    default_zero(c, "terminationMessagePath", "/dev/termination-log");
    default_zero(c, "terminationMessagePolicy", "File");
    default(c, "resources", json!({}));
    for which in ["/resources/limits", "/resources/requests"] {
        if let Some(amounts) = c.pointer_mut(which) {
            round_up(amounts);
        }
    }
    for port in each(c, "ports") {
        default_zero(port, "protocol", "TCP");
    }
    for env in each(c, "env") {
        if let Some(reference) = env.pointer_mut("/valueFrom/fieldRef") {
            default_zero(reference, "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(p) = c.get_mut(name).filter(|p| p.is_object()) {
            probe(p);
        }
    }
    for hook in ["/lifecycle/postStart/httpGet", "/lifecycle/preStop/httpGet"] {
        if let Some(action) = c.pointer_mut(hook) {
            http_get(action);
        }
    }
}

fn pull_policy(image: &str) -> &'static str {
    match image_tag(image) {
        Some("latest") => "Always",
        _ => "IfNotPresent",
    }
}

fn probe(p: &mut Value) {
    for (field, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        default_zero(p, field, value);
    }
    if let Some(action) = p.get_mut("httpGet") {
        http_get(action);
    }
    if let Some(grpc) = p.get_mut("grpc") {
        default(grpc, "service", "");
    }
}

fn http_get(action: &mut Value) {
    default_zero(action, "path", "/");
    default_zero(action, "scheme", "HTTP");
}

fn host_ports(c: &mut Value) {
    for port in each(c, "ports") {
        if let Some(number) = port.get("containerPort").and_then(Value::as_i64) {
            default_zero(port, "hostPort", number);
        }
    }
}

fn requests_from_limits(c: &mut Value) {
    let Some(limits) = c.pointer("/resources/limits").and_then(Value::as_object).cloned() else {
        return;
    };
    let Some(requests) = c.get_mut("resources").and_then(|r| ensure(r, "requests")) else {
        return;
    };
    for (name, limit) in limits {
        default(requests, &name, limit);
    }
}

/// The tag of an image reference: `latest` when there is neither tag nor digest, nothing when there is only a digest.
pub fn image_tag(image: &str) -> Option<&str> {
    let (name, digest) = image.split_once('@').map_or((image, None), |(n, d)| (n, Some(d)));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, tag)) => Some(tag),
        None if digest.is_none() => Some("latest"),
        None => None,
    }
}

fn volume(v: &mut Value) {
    if v.as_object().is_some_and(|map| map.keys().all(|key| key == "name")) {
        set(v, "emptyDir", json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(s) = v.get_mut(source).filter(|s| s.is_object()) {
            default(s, "defaultMode", FILE_MODE);
        }
    }
    crate::kinds::claim::fill_ephemeral(v);
    plugins(v);
    if let Some(image) = v.get_mut("image").filter(|s| s.is_object()) {
        let policy = pull_policy(image.get("reference").and_then(Value::as_str).unwrap_or_default());
        default_zero(image, "pullPolicy", policy);
    }
    if let Some(downward) = v.get_mut("downwardAPI") {
        downward_items(downward);
    }
    for source in v.get_mut("projected").into_iter().flat_map(|p| each(p, "sources")) {
        if let Some(token) = source.get_mut("serviceAccountToken") {
            default(token, "expirationSeconds", 3600);
        }
        if let Some(downward) = source.get_mut("downwardAPI") {
            downward_items(downward);
        }
    }
}

/// The sources that pods and PersistentVolumes name alike.
pub fn plugins(holder: &mut Value) {
    if let Some(path) = holder.get_mut("hostPath").filter(|s| s.is_object()) {
        default(path, "type", "");
    }
    let texts: [(&str, &[(&str, &str)]); 4] = [
        ("iscsi", &[("iscsiInterface", "default")]),
        (
            "rbd",
            &[("pool", "rbd"), ("user", "admin"), ("keyring", "/etc/ceph/keyring")],
        ),
        (
            "azureDisk",
            &[("cachingMode", "ReadWrite"), ("kind", "Shared"), ("fsType", "ext4")],
        ),
        ("scaleIO", &[("storageMode", "ThinProvisioned"), ("fsType", "xfs")]),
    ];
    for (kind, fields) in texts {
        if let Some(source) = holder.get_mut(kind).filter(|s| s.is_object()) {
            fields
                .iter()
                .for_each(|(name, value)| default_zero(source, name, *value));
        }
    }
    if let Some(disk) = holder.get_mut("azureDisk").filter(|s| s.is_object()) {
        default(disk, "readOnly", false);
    }
}

fn downward_items(source: &mut Value) {
    for item in each(source, "items") {
        if let Some(reference) = item.get_mut("fieldRef") {
            default_zero(reference, "apiVersion", "v1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags() {
        for (image, tag) in [
            ("busybox", Some("latest")),
            ("busybox:1.36", Some("1.36")),
            ("localhost:5000/busybox", Some("latest")),
            ("localhost:5000/a/busybox:latest", Some("latest")),
            ("busybox@sha256:abc", None),
            ("busybox:1@sha256:abc", Some("1")),
        ] {
            assert_eq!(image_tag(image), tag, "{image}");
        }
    }

    #[test]
    fn a_small_pod() {
        let mut spec = json!({"containers": [{"name": "a", "image": "nginx", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1"}}, "readinessProbe": {"httpGet": {"port": 80}}}], "volumes": [{"name": "v"}]});
        pod_spec(&mut spec);
        pod_only(&mut spec);
        let once = spec.clone();
        pod_spec(&mut spec);
        pod_only(&mut spec);
        assert_eq!(spec, once, "defaulting is idempotent");
        assert_eq!(
            spec,
            json!({
                "containers": [{"name": "a", "image": "nginx", "imagePullPolicy": "Always", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                    "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler", "terminationGracePeriodSeconds": 30,
                "securityContext": {}, "enableServiceLinks": true, "volumes": [{"name": "v", "emptyDir": {}}],
            })
        );
    }
}
