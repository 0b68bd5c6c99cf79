//! What a client sees of server-side apply.

use ::http::Method;
use serde_json::{Value, json};

use super::reads::Admin;
use crate::{MAPS, Server};

const APPLY: &str = "application/apply-patch+yaml";

/// The entry of a manager.
fn entry<'a>(object: &'a Value, manager: &str, operation: &str) -> &'a Value {
    let all = object["metadata"]["managedFields"].as_array().unwrap();
    all.iter()
        .find(|entry| entry["manager"] == manager && entry["operation"] == operation)
        .unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_configurations_are_told_as_upstream_tells_them() {
    let (server, _) = Server::start().await;
    let http = Admin::new(&server);
    let one = format!("{MAPS}/one");
    let good = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"a": "1"}});
    let with = |pointer: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(pointer).unwrap() = value;
        body.to_string()
    };
    for (query, body, code, message) in [
        (
            "",
            good.to_string(),
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ),
        (
            "?fieldManager=m",
            with("/apiVersion", json!("v2")),
            400,
            "Incorrect version specified in apply patch. Specified patch version: v2, expected: v1",
        ),
        (
            "?fieldManager=m",
            with("/metadata", json!({"managedFields": [{}]})),
            400,
            "metadata.managedFields must be nil",
        ),
        (
            "?fieldManager=m",
            with("/metadata", json!({"name": "two"})),
            400,
            "the name of the object (two) does not match the name on the URL (one)",
        ),
        (
            "?fieldManager=m",
            with("/metadata", json!({"uid": "x"})),
            409,
            "Operation cannot be fulfilled on configmaps \"one\": uid mismatch: the provided object specified uid x, and no existing object was found",
        ),
        (
            "?fieldManager=m",
            with("/data", json!({"a": "1"})).replace("\"data\"", "\"dataa\""),
            500,
            "failed to create typed patch object (default/one; v1, Kind=ConfigMap): .dataa: field not declared in schema",
        ),
        (
            "?fieldManager=m&fieldValidation=Strict",
            "apiVersion: v1\nkind: ConfigMap\ndata:\n  a: x\n  a: y\n".into(),
            400,
            "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 5: key \"a\" already set in map",
        ),
    ] {
        let (got, status) = http.write(Method::PATCH, &format!("{one}{query}"), APPLY, body).await;
        assert_eq!(
            (got, status["message"].as_str().unwrap_or("")),
            (code, message),
            "{query}"
        );
    }
    assert_eq!(http.read(&one).await.0, 404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_applied_through_scale() {
    let (server, admin) = Server::start().await;
    let http = Admin::new(&server);
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let labels = json!({"app": "w"});
    let body = json!({"metadata": {"name": "w"}, "spec": {"replicas": 1, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    admin.create(&format!("{deployments}?fieldManager=owner"), body).await;
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "spec": {"replicas": 3}}).to_string();
    let path = format!("{deployments}/w/scale?fieldManager=scaler");
    let (code, status) = http.write(Method::PATCH, &path, APPLY, scale.clone()).await;
    assert_eq!(
        (code, status["message"].as_str().unwrap_or("")),
        (
            409,
            "Apply failed with 1 conflict: conflict with \"owner\" using apps/v1: .spec.replicas"
        )
    );
    assert_eq!(status["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let (code, view) = http
        .write(Method::PATCH, &format!("{path}&force=true"), APPLY, scale)
        .await;
    assert_eq!(
        (code, &view["kind"], &view["spec"]["replicas"]),
        (200, &json!("Scale"), &json!(3)),
        "{view}"
    );
    let (_, object) = http.read(&format!("{deployments}/w")).await;
    let own = entry(&object, "scaler", "Apply");
    assert_eq!(
        (&own["subresource"], &own["apiVersion"], &own["fieldsV1"]),
        (
            &json!("scale"),
            &json!("apps/v1"),
            &json!({"f:spec": {"f:replicas": {}}})
        )
    );
    assert_eq!(
        entry(&object, "owner", "Update")["fieldsV1"]["f:spec"].get("f:replicas"),
        None
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_autoscaler_is_managed_in_the_version_it_was_written_in() {
    let (server, _) = Server::start().await;
    let http = Admin::new(&server);
    let path = |version: &str, manager: &str| {
        format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers/h?fieldManager={manager}")
    };
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "w"});
    let v1 = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler",
        "spec": {"maxReplicas": 3, "minReplicas": 1, "scaleTargetRef": target, "targetCPUUtilizationPercentage": 80}});
    let (code, made) = http
        .write(Method::PATCH, &path("v1", "one"), APPLY, v1.to_string())
        .await;
    assert_eq!(code, 201, "{made}");
    let own = entry(&made, "one", "Apply");
    assert_eq!(
        (
            &own["apiVersion"],
            &own["fieldsV1"]["f:spec"]["f:targetCPUUtilizationPercentage"]
        ),
        (&json!("autoscaling/v1"), &json!({}))
    );
    // Through the other version the same fields are in conflict, under their names of the first.
    let v2 = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "spec": {"maxReplicas": 5, "scaleTargetRef": target}});
    let (code, status) = http
        .write(Method::PATCH, &path("v2", "two"), APPLY, v2.to_string())
        .await;
    assert_eq!(
        (code, status["message"].as_str().unwrap_or("")),
        (
            409,
            "Apply failed with 1 conflict: conflict with \"one\": .spec.maxReplicas"
        )
    );
    let (code, forced) = http
        .write(
            Method::PATCH,
            &format!("{}&force=true", path("v2", "two")),
            APPLY,
            v2.to_string(),
        )
        .await;
    assert_eq!((code, &forced["spec"]["maxReplicas"]), (200, &json!(5)), "{forced}");
    assert_eq!(entry(&forced, "two", "Apply")["apiVersion"], "autoscaling/v2");
    assert_eq!(
        entry(&forced, "one", "Apply")["fieldsV1"]["f:spec"].get("f:maxReplicas"),
        None
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn managers_come_share_and_go() {
    let (server, _) = Server::start().await;
    let http = Admin::new(&server);
    let one = format!("{MAPS}/m");
    let apply = |manager: &str, data: Value| {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data}).to_string();
        let path = format!("{one}?fieldManager={manager}");
        let http = &http;
        async move { http.write(Method::PATCH, &path, APPLY, body).await }
    };
    let (code, made) = apply("a", json!({"x": "1", "y": "1"})).await;
    assert_eq!(code, 201, "{made}");
    let (code, same) = apply("a", json!({"x": "1", "y": "1"})).await;
    assert_eq!(
        (code, &same),
        (200, &made),
        "an apply that changes nothing changes nothing"
    );
    apply("b", json!({"x": "1"})).await;
    let (_, shared) = apply("a", json!({"y": "1"})).await;
    assert_eq!(shared["data"], json!({"x": "1", "y": "1"}), "b has x still");
    let (_, left) = apply("b", json!({})).await;
    assert_eq!(left["data"], json!({"y": "1"}));
    let (code, conflict) = apply("c", json!({"y": "2"})).await;
    assert_eq!((code, &conflict["reason"]), (409, &json!("Conflict")));
    assert_eq!(
        conflict["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"a\"", "field": ".data.y"}])
    );
    // An update takes what it changes; an empty list forgets everybody.
    let merge = "application/merge-patch+json";
    let (_, updated) = http
        .write(
            Method::PATCH,
            &format!("{one}?fieldManager=u"),
            merge,
            r#"{"data":{"y":"3"}}"#,
        )
        .await;
    assert_eq!(
        entry(&updated, "u", "Update")["fieldsV1"],
        json!({"f:data": {"f:y": {}}})
    );
    assert_eq!(entry(&updated, "a", "Apply"), &Value::Null);
    let (_, reset) = http
        .write(Method::PATCH, &one, merge, r#"{"metadata":{"managedFields":[{}]}}"#)
        .await;
    assert_eq!(reset["metadata"].get("managedFields"), None);
    // With nobody tracked, what is there belongs to those before the first apply.
    let (code, conflict) = apply("a", json!({"y": "4"})).await;
    assert_eq!(
        (code, &conflict["message"]),
        (
            409,
            &json!("Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.y")
        )
    );
    // A stale resourceVersion is told, and nothing applied.
    let stale =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"resourceVersion": "1"}, "data": {"q": "1"}});
    let (code, status) = http
        .write(
            Method::PATCH,
            &format!("{one}?fieldManager=a"),
            APPLY,
            stale.to_string(),
        )
        .await;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")), "{status}");
    server.stop().await;
}
