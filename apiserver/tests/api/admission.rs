//! What clients see of built-in admission and of allocation.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{Client, Server};

const MERGE: &str = "application/merge-patch+json";

/// A namespace in which pods can be made: nobody but a controller makes the account.
async fn namespace(admin: &Client, name: &str, labels: Value) -> String {
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    let (code, made) = admin.create("/api/v1/namespaces", body).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    let path = format!("/api/v1/namespaces/{name}");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    admin.create(&format!("{path}/serviceaccounts"), account).await;
    path
}

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}]}});
    for (field, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    pod
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn message(body: &Value) -> &str {
    body["message"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_pods_at_once_do_not_pass_a_quota_of_ten() {
    let (server, admin) = Server::start().await;
    let path = namespace(&admin, "team", json!({})).await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "10"}}});
    let (_, mut quota) = admin.create(&format!("{path}/resourcequotas"), quota).await;
    // What the controller does.
    quota["status"] = json!({"hard": {"pods": "10"}, "used": {"pods": "0"}});
    let at = format!("{path}/resourcequotas/q");
    let (code, _) = admin
        .call(Method::PUT, &format!("{at}/status"), "application/json", quota)
        .await;
    assert_eq!(code, StatusCode::OK);
    let admin = Arc::new(admin);
    let creations = (0..50).map(|i| {
        let (admin, path) = (admin.clone(), format!("{path}/pods"));
        tokio::spawn(async move { admin.create(&path, pod(&format!("p{i}"), json!({}))).await })
    });
    let mut made = 0;
    for creation in creations.collect::<Vec<_>>() {
        match creation.await.unwrap() {
            (StatusCode::CREATED, _) => made += 1,
            (code, body) => {
                assert_eq!(code, StatusCode::FORBIDDEN, "{body}");
                let want = "exceeded quota: q, requested: pods=1, used: pods=10, limited: pods=10";
                assert!(message(&body).ends_with(want), "{body}");
            }
        }
    }
    assert_eq!(made, 10);
    let (_, quota) = admin.get(&at).await;
    assert_eq!(quota["status"]["used"], json!({"pods": "10"}));
    let (_, pods) = admin.get(&format!("{path}/pods")).await;
    assert_eq!(pods["items"].as_array().map(Vec::len), Some(10));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_addresses_go_to_one_service_each() {
    // Fourteen addresses, two of which the server's own services have.
    let (server, admin) = Server::start_with(|_, settings| {
        settings.service_cluster_ip_range = Some("10.96.0.0/28".parse().unwrap());
        settings.service_node_port_range = Some("30000-30019".to_owned());
    })
    .await;
    let path = "/api/v1/namespaces/default/services";
    let ports = json!([{"port": 80}]);
    let dry = admin
        .create(&format!("{path}?dryRun=All"), service("dry", json!({"ports": ports})))
        .await;
    assert_eq!(dry.0, StatusCode::CREATED);
    let admin = Arc::new(admin);
    let creations = (0..20).map(|i| {
        let (admin, spec) = (admin.clone(), json!({"type": "NodePort", "ports": [{"port": 80}]}));
        tokio::spawn(async move { admin.create(path, service(&format!("s{i}"), spec)).await })
    });
    let (mut ips, mut node_ports) = (BTreeSet::new(), BTreeSet::new());
    for creation in creations.collect::<Vec<_>>() {
        match creation.await.unwrap() {
            (StatusCode::CREATED, body) => {
                assert!(ips.insert(body["spec"]["clusterIP"].to_string()), "{body}");
                assert!(
                    node_ports.insert(body["spec"]["ports"][0]["nodePort"].to_string()),
                    "{body}"
                );
            }
            (code, body) => {
                assert_eq!(code, StatusCode::INTERNAL_SERVER_ERROR, "{body}");
                assert!(
                    message(&body).ends_with("failed to allocate a serviceIP: range is full"),
                    "{body}"
                );
            }
        }
    }
    assert_eq!(ips.len(), 12);
    let (_, addresses) = admin.get("/apis/networking.k8s.io/v1/ipaddresses").await;
    assert_eq!(addresses["items"].as_array().map(Vec::len), Some(14));
    // A service that goes frees its address for the next one.
    let (_, services) = admin.get(path).await;
    let gone = services["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["metadata"]["name"] != "kubernetes")
        .unwrap();
    let name = gone["metadata"]["name"].as_str().unwrap();
    assert_eq!(
        admin
            .call(Method::DELETE, &format!("{path}/{name}"), "", Value::Null)
            .await
            .0,
        StatusCode::OK
    );
    let (code, made) = admin.create(path, service("again", json!({"ports": ports}))).await;
    assert_eq!(
        (code, &made["spec"]["clusterIP"]),
        (StatusCode::CREATED, &gone["spec"]["clusterIP"])
    );
    // An address that is deleted under its service comes back.
    let address = format!(
        "/apis/networking.k8s.io/v1/ipaddresses/{}",
        made["spec"]["clusterIP"].as_str().unwrap()
    );
    let (_, before) = admin.get(&address).await;
    assert_eq!(before["spec"]["parentRef"]["name"], "again");
    admin.call(Method::DELETE, &address, "", Value::Null).await;
    let patience = Instant::now() + Duration::from_secs(30);
    while admin.get(&address).await.0 != StatusCode::OK {
        assert!(Instant::now() < patience, "the address does not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let taken = service("taken", json!({"ports": ports, "clusterIP": made["spec"]["clusterIP"]}));
    let (code, refused) = admin.create(path, taken).await;
    let ip = made["spec"]["clusterIP"].as_str().unwrap();
    let want = format!(
        "Service \"taken\" is invalid: spec.clusterIPs: Invalid value: [\"{ip}\"]: failed to allocate IP {ip}: provided IP is already allocated"
    );
    assert_eq!(
        (code, message(&refused)),
        (StatusCode::UNPROCESSABLE_ENTITY, want.as_str())
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_keep_to_the_level_of_their_namespace() {
    let (server, admin) = Server::start().await;
    let path = namespace(
        &admin,
        "safe",
        json!({"pod-security.kubernetes.io/enforce": "baseline"}),
    )
    .await;
    let privileged = pod("bad", json!({"hostNetwork": true}));
    let (code, refused) = admin.create(&format!("{path}/pods"), privileged.clone()).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert_eq!(
        message(&refused),
        "pods \"bad\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
    );
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": privileged["spec"]}}});
    let answer = admin
        .send(
            Method::POST,
            "/apis/apps/v1/namespaces/safe/deployments",
            "application/json",
            deployment,
        )
        .await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    let warning = answer.headers().get("warning").unwrap().to_str().unwrap().to_owned();
    assert!(warning.contains("would violate PodSecurity"), "{warning}");
    assert_eq!(
        admin.create(&format!("{path}/pods"), pod("good", json!({}))).await.0,
        StatusCode::CREATED
    );
    let tighter = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    let answer = admin.send(Method::PATCH, &path, MERGE, tighter).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let warnings: Vec<&str> = answer
        .headers()
        .get_all("warning")
        .iter()
        .map(|w| w.to_str().unwrap())
        .collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("existing pods in namespace"), "{warnings:?}");
    assert!(
        warnings[1].contains("good: allowPrivilegeEscalation != false, unrestricted capabilities"),
        "{warnings:?}"
    );
    let unknown = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "strict"}}});
    let (code, refused) = admin.call(Method::PATCH, &path, MERGE, unknown).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        message(&refused).ends_with("must be one of privileged, baseline, restricted"),
        "{refused}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_accounts_and_namespaces() {
    let (server, admin) = Server::start_with(|dir, settings| {
        let file = dir.join("admission.yaml");
        let config = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n- name: PodSecurity\n  configuration: {defaults: {enforce: baseline}, exemptions: {namespaces: [free]}}\n";
        std::fs::write(&file, config).unwrap();
        settings.admission_control_config_file = Some(file);
        settings.enable_admission_plugins = vec!["AlwaysPullImages".to_owned()];
    })
    .await;
    let path = namespace(&admin, "free", json!({})).await;
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "200m"}, "max": {"cpu": "1"}}]}});
    assert_eq!(
        admin.create(&format!("{path}/limitranges"), range).await.0,
        StatusCode::CREATED
    );
    let (code, made) = admin
        .create(&format!("{path}/pods"), pod("a", json!({"hostNetwork": true})))
        .await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    let container = &made["spec"]["containers"][0];
    assert_eq!(
        container["resources"],
        json!({"limits": {"cpu": "200m"}, "requests": {"cpu": "200m"}})
    );
    assert_eq!(container["imagePullPolicy"], "Always");
    let keys: Vec<&Value> = made["spec"]["tolerations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| &t["key"])
        .collect();
    assert_eq!(keys, ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]);
    let greedy = json!({"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "2"}}}]});
    let (code, refused) = admin.create(&format!("{path}/pods"), pod("b", greedy)).await;
    assert_eq!(
        (code, message(&refused)),
        (
            StatusCode::FORBIDDEN,
            "pods \"b\" is forbidden: maximum cpu usage per Container is 1, but limit is 2"
        )
    );
    let robot = pod("c", json!({"serviceAccountName": "robot"}));
    let (_, refused) = admin.create(&format!("{path}/pods"), robot).await;
    assert_eq!(
        message(&refused),
        "pods \"c\" is forbidden: error looking up service account free/robot: serviceaccount \"robot\" not found"
    );
    let (code, refused) = admin
        .create("/api/v1/namespaces/none/configmaps", crate::map("m"))
        .await;
    assert_eq!(
        (code, message(&refused)),
        (StatusCode::NOT_FOUND, "namespaces \"none\" not found")
    );
    let (code, _) = admin
        .call(Method::DELETE, "/api/v1/namespaces/default", "", Value::Null)
        .await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    // Nobody empties it here: it stays terminating.
    assert_eq!(
        admin.call(Method::DELETE, &path, "", Value::Null).await.0,
        StatusCode::OK
    );
    let (code, refused) = admin.create(&format!("{path}/configmaps"), crate::map("m")).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert_eq!(
        message(&refused),
        "configmaps \"m\" is forbidden: unable to create new content in namespace free because it is being terminated"
    );
    assert_eq!(refused["details"]["causes"][0]["reason"], "NamespaceTerminating");
    server.stop().await;
}
