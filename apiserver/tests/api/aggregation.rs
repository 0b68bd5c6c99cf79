//! An extension API server behind this one: availability, requests passed on, discovery.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::tls_server::{self, Asked, Said};
use crate::{Client, Server};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// The extension API server: one resource, whose objects are what it was asked.
fn extension(asked: Asked) -> Said {
    let path = asked.path.split('?').next().unwrap();
    let header = |name: &str| -> Vec<String> {
        asked
            .headers
            .get_all(name)
            .iter()
            .map(|v| v.to_str().unwrap().to_owned())
            .collect()
    };
    let answer = match path {
        "/apis/ext.test.io/v1" => {
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "ext.test.io/v1", "resources": [
            {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get", "list", "create"]},
            {"name": "things/status", "singularName": "", "namespaced": true, "kind": "Thing", "verbs": ["get"]}]})
        }
        "/openapi/v3" => {
            json!({"paths": {"apis/ext.test.io/v1": {"serverRelativeURL": "/openapi/v3/apis/ext.test.io/v1?hash=1"}}})
        }
        "/openapi/v3/apis/ext.test.io/v1" => json!({"openapi": "3.0.0"}),
        _ => {
            json!({"kind": "Thing", "path": asked.path, "method": asked.method.as_str(), "user": header("x-remote-user"),
            "groups": header("x-remote-group"), "authorization": header("authorization"), "body": String::from_utf8_lossy(&asked.body)})
        }
    };
    (
        StatusCode::OK,
        vec![("content-type", "application/json".into())],
        Bytes::from(answer.to_string()),
    )
}

/// Reads until it is as wanted.
pub async fn eventually(admin: &Client, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        let (_, found) = admin.get(path).await;
        if wanted(&found) {
            return found;
        }
        assert!(Instant::now() < patience, "{path}: {found}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn condition(object: &Value) -> (&str, &str) {
    let condition = &object["status"]["conditions"][0];
    let text = |field: &str| condition[field].as_str().unwrap_or("");
    (text("status"), text("reason"))
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_serves_a_group() {
    let (server, admin) = Server::start().await;
    let backend = tls_server::serve(&["ext.default.svc"], extension).await;
    let service = json!({"group": "ext.test.io", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10,
        "caBundle": backend.bundle, "service": {"namespace": "default", "name": "ext", "port": backend.address.port()}});
    let object = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.ext.test.io"}, "spec": service});
    let (code, made) = admin.create(SERVICES, object).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    let one = format!("{SERVICES}/v1.ext.test.io");
    eventually(&admin, &one, |object| condition(object) == ("False", "ServiceNotFound")).await;
    let things = "/apis/ext.test.io/v1/namespaces/default/things";
    assert_eq!(admin.get(things).await.0, StatusCode::SERVICE_UNAVAILABLE);

    let target = json!({"metadata": {"name": "ext"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    let (code, made) = admin.create("/api/v1/namespaces/default/services", target).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    eventually(&admin, &one, |object| condition(object) == ("True", "Passed")).await;

    let (code, answer) = admin
        .call(
            Method::POST,
            &format!("{things}?a=b"),
            "application/json",
            json!({"x": 1}),
        )
        .await;
    assert_eq!(
        (code, &answer["method"], &answer["path"], &answer["body"]),
        (
            StatusCode::OK,
            &json!("POST"),
            &json!(format!("{things}?a=b")),
            &json!("{\"x\":1}")
        ),
        "{answer}"
    );
    assert_eq!(
        (&answer["user"], &answer["authorization"]),
        (&json!(["admin"]), &json!([]))
    );
    assert!(
        answer["groups"].as_array().unwrap().contains(&json!("system:masters")),
        "{answer}"
    );
    let (code, refused) = server.client("bob").get(things).await;
    assert_eq!((code, &refused["reason"]), (StatusCode::FORBIDDEN, &json!("Forbidden")));

    let (_, groups) = admin.get("/apis").await;
    let found = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .find(|group| group["name"] == "ext.test.io")
        .unwrap();
    assert_eq!(found["preferredVersion"]["groupVersion"], "ext.test.io/v1");
    assert_eq!(admin.get("/apis/ext.test.io").await.1["kind"], "APIGroup");
    assert_eq!(
        admin.get("/apis/ext.test.io/v1").await.1["resources"][0]["name"],
        "things"
    );
    let documents = admin.get("/openapi/v3").await.1;
    assert_eq!(
        documents["paths"]["apis/ext.test.io/v1"]["serverRelativeURL"],
        "/openapi/v3/apis/ext.test.io/v1?hash=1"
    );
    assert_eq!(
        admin.get("/openapi/v3/apis/ext.test.io/v1?hash=1").await.1["openapi"],
        "3.0.0"
    );

    admin.call(Method::DELETE, &one, "", Value::Null).await;
    eventually(&admin, "/apis/ext.test.io", |answer| answer["code"] == 404).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn own_groups_have_local_services() {
    let (server, admin) = Server::start().await;
    let apps = eventually(&admin, &format!("{SERVICES}/v1.apps"), |object| {
        condition(object) == ("True", "Local")
    })
    .await;
    assert_eq!(apps["spec"]["group"], "apps");
    eventually(&admin, &format!("{SERVICES}/v1."), |object| {
        condition(object) == ("True", "Local")
    })
    .await;
    let map = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let map = eventually(&admin, map, |object| object["data"].is_object()).await;
    assert!(
        map["data"]["client-ca-file"]
            .as_str()
            .unwrap()
            .contains("BEGIN CERTIFICATE")
    );
    server.stop().await;
}
