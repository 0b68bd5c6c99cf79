//! What is said of objects against the rules of their kind, what is filled in, and what is warned of.

use ::http::Method;
use serde_json::{Value, json};

use super::reads::{Admin, value};
use crate::Server;

const JSON: &str = "application/json";
const CORE: &str = "/api/v1/namespaces/default";

fn named(name: &str, rest: Value) -> Value {
    let mut object = rest;
    object["metadata"]["name"] = name.into();
    object
}

/// A server where pods can be made.
async fn start() -> (Server, crate::Client) {
    let (server, admin) = Server::start().await;
    let path = format!("{CORE}/serviceaccounts");
    let (code, made) = admin.create(&path, named("default", json!({}))).await;
    assert_eq!(code, 201, "{made}");
    (server, admin)
}

fn pod(name: &str, container: Value) -> Value {
    let mut container = container;
    container["name"] = "c".into();
    if container["image"].is_null() {
        container["image"] = "app:1".into();
    }
    named(name, json!({"spec": {"containers": [container]}}))
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_have_their_words_and_their_causes() {
    let (server, _) = start().await;
    let http = Admin::new(&server);
    for (path, body, message) in [
        (
            format!("{CORE}/pods"),
            named("p", json!({"spec": {"containers": []}})),
            "Pod \"p\" is invalid: spec.containers: Required value",
        ),
        (
            format!("{CORE}/pods"),
            pod(
                "p",
                json!({"imagePullPolicy": "Sometimes", "ports": [{"containerPort": 0}]}),
            ),
            "Pod \"p\" is invalid: [spec.containers[0].ports[0].containerPort: Required value, spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"]",
        ),
        (
            format!("{CORE}/services"),
            named("s", json!({"spec": {"ports": [{"port": 80}, {"port": 81}]}})),
            "Service \"s\" is invalid: [spec.ports[0].name: Required value, spec.ports[1].name: Required value]",
        ),
        (
            format!("{CORE}/secrets"),
            named("s", json!({"type": "kubernetes.io/tls"})),
            "Secret \"s\" is invalid: [data[tls.crt]: Required value, data[tls.key]: Required value]",
        ),
        (
            "/apis/apps/v1/namespaces/default/deployments".into(),
            named(
                "d",
                json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}}),
            ),
            "Deployment.apps \"d\" is invalid: spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`",
        ),
        (
            "/apis/batch/v1/namespaces/default/cronjobs".into(),
            named(
                "c",
                json!({"spec": {"schedule": "61 * * * *", "jobTemplate": {"spec": {"template": {"spec": {
                "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}}}),
            ),
            "CronJob.batch \"c\" is invalid: spec.schedule: Invalid value: \"61 * * * *\": end of range (61) above maximum (59): 61",
        ),
        (
            "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations".into(),
            named("l", json!({"spec": {"type": "Limited"}})),
            "PriorityLevelConfiguration.flowcontrol.apiserver.k8s.io \"l\" is invalid: spec.limited: Required value: must not be empty when type is Limited",
        ),
        (
            "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims".into(),
            named("r", json!({"spec": {"devices": {"requests": [{"name": "a"}]}}})),
            "ResourceClaim.resource.k8s.io \"r\" is invalid: spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
        ),
        (
            "/apis/events.k8s.io/v1/namespaces/default/events".into(),
            named("e", json!({"regarding": {"namespace": "default"}, "type": "Normal"})),
            "Event.events.k8s.io \"e\" is invalid: eventTime: Required value",
        ),
        (
            "/apis/policy/v1/namespaces/default/poddisruptionbudgets".into(),
            named("b", json!({"spec": {"minAvailable": -1}})),
            "PodDisruptionBudget.policy \"b\" is invalid: spec.minAvailable: Invalid value: -1: must be greater than or equal to 0",
        ),
    ] {
        let (code, status) = http.write(Method::POST, &path, JSON, body.to_string()).await;
        assert_eq!(
            (code, status["message"].as_str().unwrap_or("")),
            (422, message),
            "{path}"
        );
        let causes = status["details"]["causes"].as_array().unwrap();
        for cause in causes {
            let told = format!(
                "{}: {}",
                cause["field"].as_str().unwrap(),
                cause["message"].as_str().unwrap()
            );
            assert!(message.contains(&told), "{told}");
        }
    }
    // The core group is content with less of an event.
    let event = named("e", json!({"involvedObject": {"namespace": "default"}}));
    let (code, _) = http
        .write(Method::POST, &format!("{CORE}/events"), JSON, event.to_string())
        .await;
    assert_eq!(code, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_change_stays() {
    let (server, admin) = start().await;
    let http = Admin::new(&server);
    for (path, body, pointer, new, message) in [
        (
            format!("{CORE}/pods"),
            pod("p", json!({})),
            "/spec/hostNetwork",
            json!(true),
            "Pod \"p\" is invalid: spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        ),
        (
            format!("{CORE}/configmaps"),
            named("m", json!({"immutable": true, "data": {"a": "1"}})),
            "/data/a",
            json!("2"),
            "ConfigMap \"m\" is invalid: data: Forbidden: field is immutable when `immutable` is set",
        ),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings".into(),
            named("b", json!({"roleRef": {"kind": "ClusterRole", "name": "view"}})),
            "/roleRef/name",
            json!("edit"),
            "ClusterRoleBinding.rbac.authorization.k8s.io \"b\" is invalid: roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\"name\":\"edit\"}: cannot change roleRef",
        ),
        (
            "/apis/scheduling.k8s.io/v1/priorityclasses".into(),
            named("c", json!({"value": 5})),
            "/value",
            json!(6),
            "PriorityClass.scheduling.k8s.io \"c\" is invalid: value: Forbidden: may not be changed in an update.",
        ),
        (
            "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims".into(),
            named(
                "r",
                json!({"spec": {"devices": {"requests": [{"name": "a", "exactly": {"deviceClassName": "g"}}]}}}),
            ),
            "/spec/devices/requests/0/exactly/deviceClassName",
            json!("h"),
            "ResourceClaim.resource.k8s.io \"r\" is invalid: spec: Invalid value: {\"devices\":{\"requests\":[{\"exactly\":{\"allocationMode\":\"ExactCount\",\"count\":1,\"deviceClassName\":\"h\"},\"name\":\"a\"}]}}: field is immutable",
        ),
    ] {
        let (code, mut object) = admin.create(&path, body).await;
        assert_eq!(code, 201, "{object}");
        let path = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap());
        match object.pointer_mut(pointer) {
            Some(place) => *place = new,
            None => object["spec"]["hostNetwork"] = new,
        }
        let (code, status) = http.write(Method::PUT, &path, JSON, object.to_string()).await;
        let told = status["message"].as_str().unwrap_or("");
        assert_eq!((code, told.split('\n').next().unwrap_or("")), (422, message), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_is_filled_in() {
    let (_server, admin) = Server::start().await;
    for (path, body, pointer, expected) in [
        (
            "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims".to_owned(),
            named(
                "r",
                json!({"spec": {"devices": {"requests": [{"name": "a", "exactly": {"deviceClassName": "g"}}]}}}),
            ),
            "/spec/devices/requests/0/exactly",
            json!({"deviceClassName": "g", "allocationMode": "ExactCount", "count": 1}),
        ),
        (
            "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations".into(),
            named(
                "l",
                json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}}),
            ),
            "/spec/limited",
            json!({"nominalConcurrencyShares": 30, "lendablePercent": 0,
                "limitResponse": {"type": "Queue", "queuing": {"queues": 64, "handSize": 8, "queueLengthLimit": 50}}}),
        ),
        (
            format!("{CORE}/limitranges"),
            named(
                "l",
                json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}}]}}),
            ),
            "/spec/limits/0",
            json!({"type": "Container", "max": {"cpu": "2"}, "default": {"cpu": "2"}, "defaultRequest": {"cpu": "2"}}),
        ),
        (
            "/api/v1/nodes".into(),
            named(
                "n",
                json!({"spec": {"podCIDR": "10.0.0.0/24"}, "status": {"capacity": {"cpu": "4"}}}),
            ),
            "/status/allocatable",
            json!({"cpu": "4"}),
        ),
        (
            "/apis/batch/v1/namespaces/default/jobs".into(),
            named(
                "j",
                json!({"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}),
            ),
            "/spec/podReplacementPolicy",
            json!("TerminatingOrFailed"),
        ),
    ] {
        let (code, object) = admin.create(&path, body).await;
        assert_eq!(code, 201, "{object}");
        assert_eq!(object.pointer(pointer), Some(&expected), "{object}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doubtful_things_are_warned_of() {
    let (server, _) = start().await;
    let http = Admin::new(&server);
    for (path, body, warning) in [
        (
            format!("{CORE}/endpoints"),
            named("e", json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}]}]})),
            "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"",
        ),
        (
            format!("{CORE}/pods"),
            pod(
                "p",
                json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}),
            ),
            "299 - \"spec.containers[0].env[1]: hides previous definition of \\\"A\\\", which may be dropped when using apply\"",
        ),
        (
            format!("{CORE}/serviceaccounts"),
            named(
                "s",
                json!({"metadata": {"annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}}),
            ),
            "299 - \"metadata.annotations[kubernetes.io/enforce-mountable-secrets]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets\"",
        ),
    ] {
        let (parts, body) = http
            .ask(Method::POST, &path, &[("content-type", JSON)], body.to_string())
            .await;
        assert_eq!(parts.status.as_u16(), 201, "{}", value(&body));
        let warnings: Vec<_> = parts.headers.get_all("warning").iter().collect();
        assert_eq!(warnings, [warning]);
    }
    let (parts, _) = http.get(&format!("{CORE}/endpoints"), &[]).await;
    assert_eq!(parts.headers.get_all("warning").iter().count(), 1);
}
