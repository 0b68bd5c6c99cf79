//! The bodies that the benchmark sends, of the size that clients' have.

use bytes::Bytes;
use serde_json::{Value, json};

fn bytes(value: &Value) -> Bytes {
    value.to_string().into()
}

/// The namespace of the benchmark.
pub fn namespace() -> Bytes {
    bytes(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}}))
}

/// What pods there run as.
pub fn service_account() -> Bytes {
    bytes(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}))
}

/// A small configuration.
pub fn config_map(name: &str) -> Bytes {
    bytes(&json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"app": "bench", "tier": "backend"}},
        "data": {"settings.yaml": "listen: 0.0.0.0:8080\nworkers: 4\nlog: info\n", "mode": "production", "region": "north"},
    }))
}

/// A node's lease.
pub fn lease(name: &str) -> Bytes {
    bytes(&json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": "2026-01-01T00:00:00.000000Z"},
    }))
}

/// The `number`th renewal of a lease.
pub fn renewal(number: usize) -> Bytes {
    bytes(
        &json!({"spec": {"renewTime": format!("2026-01-01T00:{:02}:{:02}.{:06}Z", number / 60 % 60, number % 60, number)}}),
    )
}

/// A pod as a Deployment makes them. A gated one is left alone by the scheduler.
pub fn pod(name: &str, gated: bool) -> Bytes {
    let container = |name: &str, port: u16| {
        json!({
            "name": name, "image": format!("registry.example.com/shop/{name}:1.4.2"),
            "ports": [{"name": "http", "containerPort": port}],
            "env": [{"name": "MODE", "value": "production"}, {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 5},
            "volumeMounts": [{"name": "settings", "mountPath": "/etc/shop"}],
        })
    };
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"app": "shop", "tier": "backend", "pod-template-hash": "5d9c7b8f6d"},
            "annotations": {"prometheus.io/scrape": "true"},
        },
        "spec": {
            "containers": [container("web", 8080), container("cache", 6379)],
            "volumes": [{"name": "settings", "configMap": {"name": "settings"}}],
        },
    });
    if gated {
        pod["spec"]["schedulingGates"] = json!([{"name": "bench.keelson.dev/never"}]);
    }
    bytes(&pod)
}
