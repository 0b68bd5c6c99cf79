//! Priority and fairness, bounds and the way out, as clients meet them.

use std::time::{Duration, Instant};

use ::http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::http::send;
use crate::Server;

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";

#[tokio::test(flavor = "multi_thread")]
async fn default_objects_are_there_and_answers_name_them() {
    let (server, admin) = Server::start().await;
    let patience = Instant::now() + Duration::from_secs(30);
    // They are made in the background, right after the server has become ready.
    loop {
        let (_, schemas) = admin.get(SCHEMAS).await;
        let items = schemas["items"].as_array().unwrap();
        let settled = items
            .iter()
            .all(|item| item["status"]["conditions"][0]["status"] == "False");
        if items.len() == 13 && settled {
            let (_, levels) = admin.get(LEVELS).await;
            assert_eq!(levels["items"].as_array().unwrap().len(), 8);
            break;
        }
        assert!(Instant::now() < patience, "{schemas}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let uid = |object: Value| object["metadata"]["uid"].as_str().unwrap().to_owned();
    let (_, schema) = admin.get(&format!("{SCHEMAS}/exempt")).await;
    assert_eq!(
        schema["metadata"]["annotations"]["apf.kubernetes.io/autoupdate-spec"],
        "true"
    );
    let (_, level) = admin.get(&format!("{LEVELS}/exempt")).await;
    let (schema, level) = (uid(schema), uid(level));
    // An error is told under which objects it fell, too.
    for path in ["/api/v1/pods", "/api/v1/namespaces/default/pods/nothing"] {
        loop {
            let response = admin.send(Method::GET, path, "", Value::Null).await;
            let header = |name: &str| {
                response
                    .headers()
                    .get(name)
                    .map(|value| value.to_str().unwrap().to_owned())
            };
            if header("x-kubernetes-pf-flowschema-uid").as_ref() == Some(&schema) {
                assert_eq!(header("x-kubernetes-pf-prioritylevel-uid").as_ref(), Some(&level));
                break;
            }
            assert!(Instant::now() < patience, "{:?}", response.headers());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let metrics = admin.send(Method::GET, "/metrics", "", Value::Null).await;
    let text = metrics.into_body().collect().await.unwrap().to_bytes();
    let text = std::str::from_utf8(&text).unwrap();
    for name in [
        "apiserver_flowcontrol_dispatched_requests_total{flow_schema=\"exempt\",priority_level=\"exempt\"}",
        "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"workload-low\"} 245",
        "apiserver_flowcontrol_current_executing_seats{",
        "apiserver_flowcontrol_request_wait_duration_seconds_bucket{",
    ] {
        assert!(text.contains(name), "{name}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_without_its_level_is_told() {
    let (server, admin) = Server::start().await;
    let schema = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": "lost"},
        "spec": {"priorityLevelConfiguration": {"name": "nowhere"}, "matchingPrecedence": 500, "rules": []}});
    let (code, made) = admin.create(SCHEMAS, schema).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        let (_, schema) = admin.get(&format!("{SCHEMAS}/lost")).await;
        let condition = &schema["status"]["conditions"][0];
        if condition["type"] == "Dangling" {
            assert_eq!(
                (&condition["status"], &condition["reason"]),
                (&json!("True"), &json!("NotFound"))
            );
            break;
        }
        assert!(Instant::now() < patience, "{schema}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A default that is deleted comes back.
    assert_eq!(
        admin
            .call(Method::DELETE, &format!("{LEVELS}/catch-all"), "", Value::Null)
            .await
            .0,
        StatusCode::OK
    );
    while admin.get(&format!("{LEVELS}/catch-all")).await.0 != StatusCode::OK {
        assert!(Instant::now() < patience);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_are_told_to_come_back() {
    let (server, admin) = Server::start_with(|_, settings| {
        settings.enable_priority_and_fairness = Some(false);
        settings.max_requests_inflight = Some(1);
    })
    .await;
    for number in 0..40 {
        let data = "x".repeat(200_000);
        let map = json!({"metadata": {"name": format!("m{number}")}, "data": {"a": data}});
        assert_eq!(
            admin.create("/api/v1/namespaces/default/configmaps", map).await.0,
            StatusCode::CREATED
        );
    }
    let bind = json!({"metadata": {"name": "view"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": "bob", "apiGroup": "rbac.authorization.k8s.io"}]});
    assert_eq!(
        admin
            .create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", bind)
            .await
            .0,
        StatusCode::CREATED
    );
    let bob = server.client("bob");
    let list = "/api/v1/namespaces/default/configmaps";
    let patience = Instant::now() + Duration::from_secs(30);
    while admin.get(list).await.0 != StatusCode::OK || bob.get(list).await.0 != StatusCode::OK {
        assert!(Instant::now() < patience);
    }
    // A list of eight megabytes that its reader does not read keeps its seat.
    let held = bob.send(Method::GET, list, "", Value::Null).await;
    let refused = bob
        .send(Method::GET, "/api/v1/namespaces/default/pods", "", Value::Null)
        .await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "1");
    let text = refused.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(text, "Too many requests, please try again later.\n");
    // The administrator is not bound, and neither is what has been asked for nothing.
    assert_eq!(admin.get(list).await.0, StatusCode::OK);
    drop(held);
    while bob.get("/api/v1/namespaces/default/pods").await.0 != StatusCode::OK {
        assert!(Instant::now() < patience);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_keep_no_seat() {
    let (server, admin) = Server::start_with(|_, settings| {
        settings.enable_priority_and_fairness = Some(false);
        settings.max_requests_inflight = Some(1);
    })
    .await;
    let bind = json!({"metadata": {"name": "view"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": "bob", "apiGroup": "rbac.authorization.k8s.io"}]});
    assert_eq!(
        admin
            .create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", bind)
            .await
            .0,
        StatusCode::CREATED
    );
    let bob = server.client("bob");
    let patience = Instant::now() + Duration::from_secs(30);
    let mut watches = Vec::new();
    while watches.len() < 3 {
        let watch = bob
            .send(
                Method::GET,
                "/api/v1/namespaces/default/pods?watch=true",
                "",
                Value::Null,
            )
            .await;
        if watch.status() == StatusCode::OK {
            watches.push(watch);
        }
        assert!(Instant::now() < patience);
    }
    assert_eq!(bob.get("/api/v1/namespaces/default/pods").await.0, StatusCode::OK);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused() {
    let (server, admin) = Server::start().await;
    let large = json!({"metadata": {"name": "large"}, "data": {"a": "x".repeat(3 << 20)}});
    let (code, status) = admin.create("/api/v1/namespaces/default/configmaps", large).await;
    assert_eq!(
        (code, &status["reason"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &json!("RequestEntityTooLarge")),
        "{status}"
    );
    let answer = send(
        &server,
        None,
        Method::GET,
        "/version",
        &[("x-large", &"x".repeat(2 << 20))],
        Value::Null,
    )
    .await;
    assert_eq!(answer.code, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let operations: Vec<Value> = (0..10_001)
        .map(|_| json!({"op": "add", "path": "/data/a", "value": "b"}))
        .collect();
    admin
        .create(
            "/api/v1/namespaces/default/configmaps",
            json!({"metadata": {"name": "m"}}),
        )
        .await;
    let path = "/api/v1/namespaces/default/configmaps/m";
    let (code, status) = admin
        .call(Method::PATCH, path, "application/json-patch+json", operations.into())
        .await;
    assert_eq!(
        (code, &status["kind"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &json!("Status")),
        "{status}"
    );
    for query in ["labelSelector=", "continue="] {
        let path = format!("/api/v1/pods?{query}{}", "x".repeat(60_000));
        let (code, status) = admin.get(&path).await;
        assert_eq!(
            (code, &status["kind"]),
            (StatusCode::BAD_REQUEST, &json!("Status")),
            "{query}: {status}"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_ends_watches_cleanly() {
    let (server, admin) = Server::start().await;
    let watch = admin
        .send(Method::GET, "/api/v1/pods?watch=true", "", Value::Null)
        .await;
    assert_eq!(watch.status(), StatusCode::OK);
    server.shutdown.request();
    // The end of the stream, not an error: the client watches on elsewhere.
    watch.into_body().collect().await.expect("a clean end");
    server.task.await.unwrap().unwrap();
}
