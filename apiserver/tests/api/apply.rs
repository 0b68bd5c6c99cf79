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
