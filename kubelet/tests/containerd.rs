//! Pods on a real containerd, with an API server in memory. Skipped, with the reason printed, where root or containerd is missing.

mod support;

use api::Object as _;
use api::core::v1::{ConfigMap, Pod};
use std::sync::Arc;
use support::{Containerd, Memory, Node, missing};

const IMAGE: &str = "keelson.dev/test-busybox:1";

fn pod(name: &str, spec: serde_json::Value) -> anyhow::Result<Pod> {
    let mut value = serde_json::json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"),
        "generation": 1, "labels": {"app": name}}, "spec": spec});
    if let Some(containers) = value
        .pointer_mut("/spec/containers")
        .and_then(serde_json::Value::as_array_mut)
    {
        for container in containers {
            container["image"] = IMAGE.into();
            container["imagePullPolicy"] = "IfNotPresent".into();
        }
    }
    Ok(Pod::from_value(value)?)
}

fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

fn ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn message(pod: &Pod) -> Option<String> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    containers.first()?.state.as_ref()?.terminated.as_ref()?.message.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_live_and_die_on_containerd() -> anyhow::Result<()> {
    if let Some(reason) = missing() {
        eprintln!("skipped: {reason}");
        return Ok(());
    }
    let containerd = Containerd::start()?;
    containerd.import_busybox(IMAGE)?;
    let root = containerd.folder.path().join("kubelet");
    let memory = Arc::new(Memory::default());
    let map = ConfigMap {
        data: Some([("greeting".to_owned(), "hello".to_owned())].into()),
        ..Default::default()
    };
    memory.config_maps.lock().insert("settings".into(), map);
    let node = Node::start(&containerd, memory.clone(), &root).await?;

    runs_to_completion(&node).await?;
    serves_until_deleted(&containerd, &node, &root).await?;
    crashes_and_is_held_back(&node).await?;
    waits_for_a_missing_image(&node).await?;
    Ok(())
}

/// Init container, environment, volumes, limits and the termination message, in one finished pod.
async fn runs_to_completion(node: &Node) -> anyhow::Result<()> {
    let script = "set -e; cat /shared/from-init; test \"$GREETING\" = hello; test \"$(cat /etc/settings/greeting)\" = hello; \
        test \"$POD_NAME\" = once; test \"$(cat /labels/labels)\" = 'app=\"once\"'; test \"$(cat /sub)\" = hello; \
        test \"$(cat /token/token)\" = token-of-default; test \"$(hostname)\" = once; echo -n \"$GREETING from $POD_IP\" > /dev/termination-log";
    let spec = serde_json::json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "init", "image": IMAGE, "command": ["sh", "-c", "echo made > /shared/from-init"],
            "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}],
        "containers": [{"name": "main", "command": ["sh", "-c", script],
            "env": [
                {"name": "GREETING", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "greeting"}}},
                {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
            "volumeMounts": [
                {"name": "shared", "mountPath": "/shared"},
                {"name": "settings", "mountPath": "/etc/settings", "readOnly": true},
                {"name": "settings", "mountPath": "/sub", "subPath": "greeting"},
                {"name": "labels", "mountPath": "/labels"},
                {"name": "token", "mountPath": "/token"}]}],
        "volumes": [
            {"name": "shared", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "settings", "configMap": {"name": "settings"}},
            {"name": "labels", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
    });
    node.apply(pod("once", spec)?);
    let done = node
        .until("uid-once", "end", |pod| matches!(phase(pod), "Succeeded" | "Failed"))
        .await?;
    let status = done.status.clone().unwrap_or_default();
    assert_eq!(phase(&done), "Succeeded", "{status:#?}");
    assert_eq!(
        message(&done),
        Some(format!("hello from {}", status.pod_ip.unwrap_or_default()))
    );
    assert_eq!(status.qos_class.as_deref(), Some("Burstable"));
    node.delete("uid-once", 5).await
}

/// Readiness, a restarted kubelet that disturbs nothing, and a graceful end with preStop.
async fn serves_until_deleted(containerd: &Containerd, node: &Node, root: &std::path::Path) -> anyhow::Result<()> {
    let spec = serde_json::json!({
        "terminationGracePeriodSeconds": 10,
        "containers": [{"name": "web", "command": ["sh", "-c", "trap 'exit 0' TERM; echo ok > /index.html; httpd -f -p 8080 & wait"],
            "readinessProbe": {"httpGet": {"path": "/index.html", "port": 8080}, "periodSeconds": 1},
            "livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1},
            "lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", "echo started > /host/post-start"]}},
                          "preStop": {"exec": {"command": ["sh", "-c", "echo stopping > /host/pre-stop"]}}},
            "volumeMounts": [{"name": "host", "mountPath": "/host"}]}],
        "volumes": [{"name": "host", "hostPath": {"path": root.join("host"), "type": "DirectoryOrCreate"}}],
    });
    node.apply(pod("web", spec)?);
    let before = node.until("uid-web", "readiness", ready).await?;
    assert_eq!(std::fs::read_to_string(root.join("host/post-start"))?, "started\n");
    let id = |pod: &Pod| {
        pod.status
            .as_ref()?
            .container_statuses
            .as_ref()?
            .first()?
            .container_id
            .clone()
    };

    node.stop();
    let second = Node::start(containerd, node.memory.clone(), root).await?;
    second.apply(node.memory.pod("uid-web"));
    tokio::time::timeout(std::time::Duration::from_secs(10), async {
        while second.context.admitted.lock().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await?;
    let after = second.until("uid-web", "readiness", ready).await?;
    assert_eq!(id(&before), id(&after));
    let observed = second.context.runtime.observe("uid-web", &Default::default()).await?;
    assert_eq!((observed.containers.len(), observed.sandboxes.len()), (1, 1));

    second.delete("uid-web", 10).await?;
    assert_eq!(std::fs::read_to_string(root.join("host/pre-stop"))?, "stopping\n");
    let observed = second.context.runtime.observe("uid-web", &Default::default()).await?;
    assert_eq!(observed, Default::default());
    assert!(!root.join("pods/uid-web").exists());
    Ok(())
}

async fn crashes_and_is_held_back(node: &Node) -> anyhow::Result<()> {
    let containerd = kubelet_again(node).await?;
    let spec = serde_json::json!({"restartPolicy": "Always",
        "containers": [{"name": "bad", "command": ["sh", "-c", "echo last words; exit 3"], "terminationMessagePolicy": "FallbackToLogsOnError"}]});
    containerd.apply(pod("crash", spec)?);
    let first = |pod: &Pod| {
        pod.status
            .as_ref()
            .and_then(|s| s.container_statuses.as_ref()?.first().cloned())
    };
    let held = |pod: &Pod| {
        let waiting = first(pod).and_then(|container| container.state?.waiting?.reason);
        waiting.as_deref() == Some("CrashLoopBackOff")
    };
    let pod = containerd.until("uid-crash", "CrashLoopBackOff", held).await?;
    let container = first(&pod).unwrap_or_default();
    let last = container.last_state.and_then(|state| state.terminated);
    assert_eq!(last.as_ref().map(|ended| ended.exit_code), Some(3));
    assert_eq!(last.and_then(|ended| ended.message).as_deref(), Some("last words\n"));
    assert_eq!(container.restart_count, 1);
    assert_eq!(phase(&pod), "Running");
    containerd.delete("uid-crash", 1).await
}

async fn waits_for_a_missing_image(node: &Node) -> anyhow::Result<()> {
    let node = kubelet_again(node).await?;
    let mut pod = pod("absent", serde_json::json!({"containers": [{"name": "a"}]}))?;
    if let Some(container) = pod.spec.as_mut().and_then(|spec| spec.containers.first_mut()) {
        container.image = Some("keelson.dev/nothing:1".into());
        container.image_pull_policy = Some("Never".into());
    }
    node.apply(pod);
    let waiting = |pod: &Pod| {
        let first = pod.status.as_ref()?.container_statuses.as_ref()?.first()?.clone();
        first.state?.waiting
    };
    let pod = node
        .until("uid-absent", "ErrImageNeverPull", |pod| {
            waiting(pod).and_then(|w| w.reason).as_deref() == Some("ErrImageNeverPull")
        })
        .await?;
    let message = waiting(&pod).and_then(|waiting| waiting.message);
    assert_eq!(
        message.as_deref(),
        Some("Container image \"keelson.dev/nothing:1\" is not present with pull policy of Never")
    );
    node.delete("uid-absent", 1).await
}

/// Another kubelet over the same runtime and API.
async fn kubelet_again(node: &Node) -> anyhow::Result<Node> {
    let socket = node.context.runtime.socket().to_owned();
    Node::over(&socket, node.memory.clone(), &node.context.node.root).await
}
