//! What a client sees of create, update, patch and delete: identities, preconditions, options, warnings.

use ::http::Method;
use serde_json::{Value, json};

use super::reads::Admin;
use crate::{MAPS, Server, map};

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_the_one_that_its_path_names() {
    let (server, admin) = Server::start().await;
    let (_, made) = admin.create(MAPS, map("one")).await;
    let http = Admin::new(&server);
    let one = format!("{MAPS}/one");
    let uid = made["metadata"]["uid"].as_str().unwrap();
    let with = |field: &str, value: Value| {
        let mut body = map("one");
        body["metadata"][field] = value;
        body
    };
    for (method, path, body, code, message) in [
        (Method::POST, MAPS, with("resourceVersion", json!("5")), 400, "resourceVersion should not be set on objects to be created".to_owned()),
        (Method::POST, MAPS, with("namespace", json!("other")), 400, "the namespace of the provided object does not match the namespace sent on the request".into()),
        (Method::PUT, &one, with("namespace", json!("other")), 400, "the namespace of the object (other) does not match the namespace on the request (default)".into()),
        (Method::PUT, &one, with("name", json!("two")), 400, "the name of the object (two) does not match the name on the URL (one)".into()),
        (Method::PUT, &one, json!({}), 400, "the name of the object (one based on URL) was undeterminable: name must be provided".into()),
        (Method::PUT, &one, with("uid", json!("x")), 409, format!("Operation cannot be fulfilled on configmaps \"one\": StorageError: invalid object, Code: 4, Key: /registry/configmaps/default/one, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: x, UID in object meta: {uid}")),
        (Method::PUT, &one, with("resourceVersion", json!("1")), 409, "Operation cannot be fulfilled on configmaps \"one\": the object has been modified; please apply your changes to the latest version and try again".into()),
        (Method::PUT, &one, with("deletionTimestamp", json!("2026-01-01T00:00:00Z")), 422, "ConfigMap \"one\" is invalid: metadata.deletionTimestamp: Invalid value: \"2026-01-01T00:00:00Z\": field is immutable".into()),
        (Method::PUT, &format!("{MAPS}/none"), map("none"), 404, "configmaps \"none\" not found".into()),
    ] {
        let (got, status) = http.write(method.clone(), path, JSON, body.to_string()).await;
        assert_eq!((got, status["message"].as_str().unwrap_or("")), (code, message.as_str()), "{method} {path} {body}");
    }
    // These a PUT creates.
    let role = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles/r";
    let (code, _) = http
        .write(
            Method::PUT,
            role,
            JSON,
            json!({"metadata": {"name": "r"}, "rules": []}).to_string(),
        )
        .await;
    assert_eq!(code, 201);
    // What the server owns stays as it is.
    let mut changed = with("creationTimestamp", json!("2020-01-01T00:00:00Z"));
    changed["metadata"]["generation"] = 7.into();
    changed["metadata"]["selfLink"] = "/x".into();
    let (code, kept) = http.write(Method::PUT, &one, JSON, changed.to_string()).await;
    assert_eq!(code, 200, "{kept}");
    assert_eq!(
        kept["metadata"]["creationTimestamp"],
        made["metadata"]["creationTimestamp"]
    );
    assert_eq!(
        (kept["metadata"].get("generation"), kept["metadata"].get("selfLink")),
        (None, None)
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn options_of_writes_are_checked() {
    let (server, admin) = Server::start().await;
    admin.create(MAPS, map("one")).await;
    let http = Admin::new(&server);
    let one = format!("{MAPS}/one");
    let long = "x".repeat(129);
    for (method, query, kind, message) in [
        (Method::POST, "dryRun=Some".to_owned(), "CreateOptions", "dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"".to_owned()),
        (Method::PUT, format!("fieldManager={long}"), "UpdateOptions", "fieldManager: Too long: may not be more than 128 bytes".into()),
        (Method::PUT, "fieldManager=a%0Ab".into(), "UpdateOptions", "fieldManager: Invalid value: \"a\\nb\": invalid character U+000A (at position 1)".into()),
        (Method::POST, "fieldValidation=Some".into(), "CreateOptions", "fieldValidation: Unsupported value: \"Some\": supported values: \"Ignore\", \"Strict\", \"Warn\"".into()),
        (Method::PATCH, "force=true".into(), "PatchOptions", "force: Forbidden: may not be specified for non-apply patch".into()),
        (Method::DELETE, "propagationPolicy=Later".into(), "DeleteOptions", "propagationPolicy: Unsupported value: \"Later\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"".into()),
        (Method::DELETE, "orphanDependents=true&propagationPolicy=Orphan".into(), "DeleteOptions", "propagationPolicy: Invalid value: \"Orphan\": orphanDependents and deletionPropagation cannot be both set".into()),
        (Method::DELETE, "dryRun=x".into(), "DeleteOptions", "dryRun: Unsupported value: [\"x\"]: supported values: \"All\"".into()),
    ] {
        let path = if method == Method::POST { MAPS } else { &one };
        let (content_type, body) = match method {
            Method::PATCH => (MERGE, "{}".to_owned()),
            Method::DELETE => (JSON, String::new()),
            _ => (JSON, map("one").to_string()),
        };
        let (code, status) = http.write(method.clone(), &format!("{path}?{query}"), content_type, body).await;
        let message = format!("{kind}.meta.k8s.io \"\" is invalid: {message}");
        assert_eq!((code, status["message"].as_str().unwrap_or("")), (422, message.as_str()), "{method} {query}");
    }
    let (code, status) = http
        .write(Method::DELETE, &format!("{one}?gracePeriodSeconds=x"), JSON, "")
        .await;
    assert_eq!(
        (code, &status["message"]),
        (400, &json!("strconv.ParseInt: parsing \"x\": invalid syntax"))
    );
    let (code, _) = http
        .write(
            Method::DELETE,
            &one,
            JSON,
            json!({"kind": "Pod", "apiVersion": "v1"}).to_string(),
        )
        .await;
    assert_eq!(code, 400);
    for (wanted, message) in [
        (
            json!({"uid": "x"}),
            "the UID in the precondition (x) does not match the UID in record (",
        ),
        (
            json!({"resourceVersion": "1"}),
            "the ResourceVersion in the precondition (1) does not match the ResourceVersion in record (",
        ),
    ] {
        let (code, status) = http
            .write(Method::DELETE, &one, JSON, json!({"preconditions": wanted}).to_string())
            .await;
        let text = status["message"].as_str().unwrap_or("");
        assert_eq!(code, 409);
        assert!(
            text.starts_with(&format!(
                "Operation cannot be fulfilled on ConfigMap \"one\": {message}"
            )),
            "{text}"
        );
    }
    let (code, _) = http.write(Method::DELETE, &format!("{one}?dryRun=All"), JSON, "").await;
    assert_eq!((code, http.read(&one).await.0), (200, 200));
    let (code, list) = http
        .write(Method::DELETE, &format!("{MAPS}?labelSelector=a%3Db"), JSON, "")
        .await;
    assert_eq!(
        (code, &list["kind"], &list["items"]),
        (200, &json!("ConfigMapList"), &json!([]))
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_in_a_body_are_told() {
    let (server, _) = Server::start().await;
    let http = Admin::new(&server);
    let body = r#"{"metadata":{"name":"s"},"data":{"a":"1","a":"2"},"dataa":{}}"#;
    let (parts, _) = http
        .ask(
            Method::POST,
            &format!("{MAPS}?dryRun=All"),
            &[("content-type", JSON)],
            body,
        )
        .await;
    let warnings: Vec<_> = parts.headers.get_all("warning").iter().collect();
    assert_eq!(
        warnings,
        [
            r#"299 - "duplicate field \"data.a\"""#,
            r#"299 - "unknown field \"dataa\"""#
        ]
    );
    let (parts, _) = http
        .ask(
            Method::POST,
            &format!("{MAPS}?dryRun=All&fieldValidation=Ignore"),
            &[("content-type", JSON)],
            body,
        )
        .await;
    assert_eq!((parts.status.as_u16(), parts.headers.get("warning")), (201, None));
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let (code, status) = http.write(Method::POST, &strict, JSON, body).await;
    assert_eq!(
        (code, status["message"].as_str().unwrap_or("")),
        (
            400,
            r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: duplicate field "data.a", unknown field "dataa""#
        )
    );
    let (code, status) = http
        .write(
            Method::POST,
            &strict,
            "application/yaml",
            "metadata: {name: s}\ndataa: {}\n",
        )
        .await;
    assert_eq!(
        (code, status["message"].as_str().unwrap_or("")),
        (
            400,
            r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "dataa""#
        )
    );
    let (code, _) = http.write(Method::POST, MAPS, JSON, map("s").to_string()).await;
    assert_eq!(code, 201);
    for (content_type, patch, shown) in [
        (MERGE, r#"{"dataa":{"x":"y"}}"#, ""),
        (
            "application/strategic-merge-patch+json",
            r#"{"dataa":{"x":"y"}}"#,
            " \"\" is invalid: patch: Invalid value: \"map[dataa:map[x:y]]\": strict decoding error: unknown field \"dataa\"",
        ),
        (
            "application/json-patch+json",
            r#"[{"op":"add","path":"/dataa","value":{}}]"#,
            "",
        ),
    ] {
        let (code, status) = http
            .write(
                Method::PATCH,
                &format!("{MAPS}/s?fieldValidation=Strict"),
                content_type,
                patch,
            )
            .await;
        let text = status["message"].as_str().unwrap_or("");
        assert_eq!(code, 422, "{content_type}: {status}");
        assert!(
            text.ends_with("strict decoding error: unknown field \"dataa\"")
                && text.starts_with(" \"\" is invalid: patch: Invalid value: "),
            "{text}"
        );
        assert!(shown.is_empty() || shown == text, "{text}");
        let (parts, _) = http
            .ask(
                Method::PATCH,
                &format!("{MAPS}/s"),
                &[("content-type", content_type)],
                patch,
            )
            .await;
        assert_eq!(parts.headers["warning"], r#"299 - "unknown field \"dataa\"""#);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_that_do_not_fit_are_refused() {
    let (server, admin) = Server::start().await;
    let (_, made) = admin.create(MAPS, map("one")).await;
    let http = Admin::new(&server);
    let one = format!("{MAPS}/one");
    let json_patch = "application/json-patch+json";
    let many = Value::Array(vec![json!({"op": "test", "path": "/data/a", "value": "1"}); 10_001]).to_string();
    let rejected = "the server rejected our request due to an error in our request";
    for (content_type, body, code, message) in [
        (
            json_patch,
            r#"[{"op":"test","path":"/data/a","value":"2"}]"#.to_owned(),
            422,
            rejected,
        ),
        (
            json_patch,
            r#"[{"op":"remove","path":"/data/zz"}]"#.into(),
            422,
            rejected,
        ),
        (
            json_patch,
            many,
            413,
            "Request entity is too large: The allowed maximum operations in a JSON patch is 10000, got 10001",
        ),
        (
            MERGE,
            r#"{"metadata":{"name":"two"}}"#.into(),
            400,
            "the name of the object (two) does not match the name on the URL (one)",
        ),
        (
            MERGE,
            r#"{"metadata":{"resourceVersion":"1"}}"#.into(),
            409,
            "Operation cannot be fulfilled on configmaps \"one\": the object has been modified; please apply your changes to the latest version and try again",
        ),
        (
            MERGE,
            "{bad".into(),
            400,
            "error decoding patch: invalid character 'b' looking for beginning of object key string",
        ),
        (
            MERGE,
            "[]".into(),
            400,
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}",
        ),
        (
            json_patch,
            "{}".into(),
            400,
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
        ),
        (
            JSON,
            "{}".into(),
            415,
            "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml",
        ),
    ] {
        let (got, status) = http.write(Method::PATCH, &one, content_type, body).await;
        assert_eq!((got, status["message"].as_str().unwrap_or("")), (code, message));
    }
    let (code, same) = http.write(Method::PATCH, &one, MERGE, r#"{"data":{"a":"1"}}"#).await;
    assert_eq!((code, &same["metadata"]), (200, &made["metadata"]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_are_checked_and_told_once() {
    let (server, _) = Server::start().await;
    let http = Admin::new(&server);
    let owner = |name: &str, controller: bool| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": name, "controller": controller});
    let mut body = map("o");
    body["metadata"]["ownerReferences"] = json!([owner("a", false), owner("a", false)]);
    let (parts, made) = http
        .ask(Method::POST, MAPS, &[("content-type", JSON)], body.to_string())
        .await;
    assert!(
        parts.headers["warning"]
            .to_str()
            .unwrap()
            .contains("duplicate UID(s) observed: a")
    );
    assert_eq!(
        super::reads::value(&made)["metadata"]["ownerReferences"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    body["metadata"]["ownerReferences"] = json!([owner("a", true), owner("b", true)]);
    let (code, status) = http.write(Method::POST, MAPS, JSON, body.to_string()).await;
    assert_eq!(code, 422);
    assert!(status["message"].as_str().unwrap().contains("Only one reference can have Controller set to true. Found \"true\" in references for ConfigMap/a and ConfigMap/b"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_takes_the_time_that_it_needs() {
    let (server, admin) = Server::start().await;
    let http = Admin::new(&server);
    let one = format!("{MAPS}/one");
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        admin.create(MAPS, map("one")).await;
        let (code, marked) = http
            .write(
                Method::DELETE,
                &one,
                JSON,
                json!({"propagationPolicy": policy}).to_string(),
            )
            .await;
        assert_eq!(
            (code, &marked["metadata"]["finalizers"]),
            (200, &json!([finalizer])),
            "{marked}"
        );
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
        // Nothing new may hold it, and the last finalizer that goes takes it along.
        let add = json!({"metadata": {"finalizers": [finalizer, "example.com/new"]}}).to_string();
        let (code, status) = http.write(Method::PATCH, &one, MERGE, add).await;
        assert_eq!(code, 422);
        assert!(
            status["message"]
                .as_str()
                .unwrap()
                .contains("no new finalizers can be added if the object is being deleted")
        );
        let (code, status) = http.write(Method::POST, MAPS, JSON, map("one").to_string()).await;
        assert_eq!(
            (code, &status["message"]),
            (
                409,
                &json!("object is being deleted: configmaps \"one\" already exists")
            )
        );
        let free = r#"{"metadata":{"finalizers":null}}"#;
        let (code, _) = http
            .write(Method::PATCH, &format!("{one}?dryRun=All"), MERGE, free)
            .await;
        assert_eq!((code, http.read(&one).await.0), (200, 200));
        let (code, last) = http.write(Method::PATCH, &one, MERGE, free).await;
        assert_eq!((code, http.read(&one).await.0), (200, 404));
        assert_eq!(last["metadata"].get("finalizers"), None, "{last}");
    }
    let mut held = map("one");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    admin.create(MAPS, held).await;
    let (code, _) = http
        .write(Method::DELETE, &format!("{one}?orphanDependents=false"), JSON, "")
        .await;
    assert_eq!(code, 202);
    let (code, _) = http.write(Method::DELETE, &one, JSON, "").await;
    assert_eq!(code, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_has_two_names() {
    let (server, _) = Server::start().await;
    let http = Admin::new(&server);
    let (old, new) = (
        "/api/v1/namespaces/default/events",
        "/apis/events.k8s.io/v1/namespaces/default/events",
    );
    let event = json!({"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "namespace": "default", "name": "p"}, "reason": "Tested", "note": "text",
        "type": "Normal", "action": "Do", "reportingController": "c", "reportingInstance": "c-1", "eventTime": "2026-01-01T00:00:00.000000Z"});
    let (code, made) = http.write(Method::POST, new, JSON, event.to_string()).await;
    assert_eq!((code, &made["note"]), (201, &json!("text")), "{made}");
    let (_, read) = http.read(&format!("{old}/e")).await;
    assert_eq!(
        (
            &read["apiVersion"],
            &read["message"],
            &read["involvedObject"]["name"],
            &read["reportingComponent"]
        ),
        (&json!("v1"), &json!("text"), &json!("p"), &json!("c"))
    );
    assert_eq!(read["metadata"]["uid"], made["metadata"]["uid"]);
    for path in [
        format!("{new}?fieldSelector=regarding.name%3Dp,reportingController%3Dc"),
        format!("{old}?fieldSelector=involvedObject.name%3Dp,reason%3DTested,type%3DNormal"),
    ] {
        let (_, list) = http.read(&path).await;
        assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{path}");
    }
    let more = r#"{"series":{"count":2,"lastObservedTime":"2026-01-01T00:00:01.000000Z"}}"#;
    let (code, patched) = http.write(Method::PATCH, &format!("{new}/e"), MERGE, more).await;
    assert_eq!((code, &patched["series"]["count"]), (200, &json!(2)), "{patched}");
    assert_eq!(http.read(&format!("{old}/e")).await.1["series"]["count"], 2);
    let fields = &patched["metadata"]["managedFields"];
    assert!(
        fields
            .as_array()
            .unwrap()
            .iter()
            .all(|entry| entry["apiVersion"] == "events.k8s.io/v1"),
        "{fields}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_spec_are_written_apart() {
    let (server, admin) = Server::start().await;
    let http = Admin::new(&server);
    admin
        .create(
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"metadata": {"name": "default"}}),
        )
        .await;
    let pods = "/api/v1/namespaces/default/pods";
    let (code, made) = admin.create(pods, crate::pod("p")).await;
    assert_eq!(code.as_u16(), 201, "{made}");
    let both = r#"{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"other"}]},"status":{"phase":"Running"}}"#;
    let strategic = "application/strategic-merge-patch+json";
    let (code, pod) = http
        .write(Method::PATCH, &format!("{pods}/p/status"), strategic, both)
        .await;
    assert_eq!(
        (code, &pod["status"]["phase"], &pod["spec"]["containers"][0]["image"]),
        (200, &json!("Running"), &json!("i")),
        "{pod}"
    );
    let (code, pod) = http
        .write(
            Method::PATCH,
            &format!("{pods}/p"),
            strategic,
            both.replace("Running", "Failed"),
        )
        .await;
    assert_eq!(
        (code, &pod["status"]["phase"], &pod["spec"]["containers"][0]["image"]),
        (200, &json!("Running"), &json!("other")),
        "{pod}"
    );
    let entry = |subresource: &Value| {
        let all = pod["metadata"]["managedFields"].as_array().unwrap();
        all.iter()
            .find(|e| e.get("subresource").unwrap_or(&Value::Null) == subresource)
            .cloned()
            .unwrap_or_default()
    };
    assert_eq!(entry(&json!("status"))["fieldsV1"].get("f:spec"), None);
    assert_eq!(entry(&json!("status"))["fieldsV1"]["f:status"]["f:phase"], json!({}));
    assert_eq!(entry(&Value::Null)["fieldsV1"].get("f:status"), None);
    let debug = r#"{"spec":{"ephemeralContainers":[{"name":"d","image":"x"}]}}"#;
    let (code, pod) = http
        .write(
            Method::PATCH,
            &format!("{pods}/p/ephemeralcontainers"),
            strategic,
            debug,
        )
        .await;
    assert_eq!(
        (code, &pod["spec"]["ephemeralContainers"][0]["name"]),
        (200, &json!("d")),
        "{pod}"
    );
    let (code, status) = http
        .write(
            Method::PATCH,
            &format!("{pods}/p"),
            strategic,
            r#"{"spec":{"ephemeralContainers":[{"name":"e","image":"x"}]}}"#,
        )
        .await;
    assert_eq!(code, 422, "{status}");
    assert_eq!(http.read(&format!("{pods}/p/status/extra")).await.0, 404);
    server.stop().await;
}
