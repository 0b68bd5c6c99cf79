//! Mutating and validating webhooks, asked over TLS by the server in this process.

use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::aggregation::eventually;
use super::tls_server::{self, TlsServer};
use crate::{Client, MAPS, Server, map};

const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

/// A webhook server whose answers a function makes from the path and the request; remembers what it was asked.
struct Hooks {
    server: TlsServer,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Hooks {
    async fn start(answer: impl Fn(&str, &Value) -> Value + Send + Sync + 'static) -> Self {
        let asked: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let seen = asked.clone();
        let server = tls_server::serve(&["localhost", "127.0.0.1"], move |request| {
            assert_eq!(
                (&request.method, &request.headers["content-type"]),
                (&Method::POST, &HeaderValue::from_static("application/json"))
            );
            let review: Value = serde_json::from_slice(&request.body).unwrap();
            let path = request.path.split('?').next().unwrap().to_owned();
            let mut response = answer(&path, &review["request"]);
            response["uid"] = review["request"]["uid"].clone();
            seen.lock().unwrap().push((request.path, review["request"].clone()));
            let body = json!({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response});
            (StatusCode::OK, Vec::new(), body.to_string().into())
        })
        .await;
        Self { server, asked }
    }

    /// A webhook at this path, for writes of these resources of the core group in namespaces without the label `skip`.
    fn hook(&self, path: &str, resources: &[&str], more: Value) -> Value {
        let mut hook = json!({
            "name": format!("{}.test.io", path.trim_start_matches('/').replace('/', ".") + ".x"),
            "clientConfig": {"url": format!("https://{}{path}", self.server.address), "caBundle": self.server.bundle},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": resources}],
            "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 5,
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            hook[key] = value.clone();
        }
        hook
    }

    fn take(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

async fn configure(admin: &Client, path: &str, name: &str, hooks: Value) {
    let kind = if path == MUTATING {
        "MutatingWebhookConfiguration"
    } else {
        "ValidatingWebhookConfiguration"
    };
    let object = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "webhooks": hooks});
    let (code, made) = admin.create(path, object).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
}

fn patch(operations: Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(operations.to_string())})
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_change_in_order_and_then_refuse() {
    let (server, admin) = Server::start().await;
    let hooks = Hooks::start(|path, request| {
        let trace = request
            .pointer("/object/data/trace")
            .and_then(Value::as_str)
            .unwrap_or("");
        match path {
            "/validate" if request.pointer("/object/data/bad").is_some() => json!({"allowed": false,
                "status": {"code": 418, "reason": "Teapot", "message": "no coffee"}, "warnings": ["mind the gap"]}),
            "/validate" => json!({"allowed": true, "warnings": ["first", "second"], "auditAnnotations": {"k": "v"}}),
            _ if request["operation"] != "CREATE" => json!({"allowed": true}),
            // Says its name once.
            path if trace.contains(path) => json!({"allowed": true}),
            path => patch(json!([{"op": "add", "path": "/data/trace", "value": format!("{trace}{path}")}])),
        }
    })
    .await;
    let maps = &["configmaps"];
    configure(&admin, MUTATING, "b", json!([hooks.hook("/two", maps, Value::Null)])).await;
    let if_needed = json!({"reinvocationPolicy": "IfNeeded"});
    let first = json!([
        hooks.hook("/zero", maps, if_needed),
        hooks.hook("/one", maps, Value::Null)
    ]);
    configure(&admin, MUTATING, "a", first).await;
    configure(
        &admin,
        VALIDATING,
        "v",
        json!([hooks.hook("/validate", maps, Value::Null)]),
    )
    .await;

    let response = admin
        .send(
            Method::POST,
            &format!("{MAPS}?fieldManager=me"),
            "application/json",
            map("m"),
        )
        .await;
    let warnings: Vec<_> = response
        .headers()
        .get_all("warning")
        .iter()
        .map(|w| w.to_str().unwrap().to_owned())
        .collect();
    assert_eq!(warnings, ["299 - \"first\"", "299 - \"second\""]);
    assert_eq!(response.status(), StatusCode::CREATED);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let made: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(made["data"]["trace"], "/zero/one/two");
    let asked = hooks.take();
    let paths: Vec<&str> = asked.iter().map(|(path, _)| path.as_str()).collect();
    // The first one once more, since others changed the object after it.
    assert_eq!(
        paths,
        [
            "/zero?timeout=5s",
            "/one?timeout=5s",
            "/two?timeout=5s",
            "/zero?timeout=5s",
            "/validate?timeout=5s"
        ]
    );
    let request = &asked[0].1;
    assert_eq!(
        request["kind"],
        json!({"group": "", "version": "v1", "kind": "ConfigMap"})
    );
    assert_eq!(
        request["requestResource"],
        json!({"group": "", "version": "v1", "resource": "configmaps"})
    );
    assert_eq!(
        (&request["name"], &request["namespace"], &request["operation"]),
        (&json!("m"), &json!("default"), &json!("CREATE"))
    );
    assert_eq!(request["userInfo"]["username"], "admin");
    assert_eq!(
        (&request["dryRun"], &request["oldObject"]),
        (&json!(false), &Value::Null)
    );
    assert_eq!(request["options"]["kind"], "CreateOptions");
    assert_eq!(request["options"]["fieldManager"], "me");
    assert_eq!(request["object"]["data"], json!({"a": "1"}));

    let mut bad = map("n");
    bad["data"]["bad"] = json!("x");
    let response = admin.send(Method::POST, MAPS, "application/json", bad).await;
    assert_eq!(response.headers()["warning"], "299 - \"mind the gap\"");
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let refused: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (code, &refused["reason"], &refused["message"]),
        (
            418,
            &json!("Teapot"),
            &json!("admission webhook \"validate.x.test.io\" denied the request: no coffee")
        )
    );

    hooks.take();
    let (code, _) = admin
        .call(Method::DELETE, &format!("{MAPS}/m?dryRun=All"), "", Value::Null)
        .await;
    assert_eq!(code, StatusCode::OK);
    let asked = hooks.take();
    let request = &asked.last().unwrap().1;
    assert_eq!(
        (&request["operation"], &request["dryRun"]),
        (&json!("DELETE"), &json!(true))
    );
    assert_eq!(
        (&request["object"], &request["oldObject"]["metadata"]["name"]),
        (&Value::Null, &json!("m"))
    );
    assert_eq!(request["options"]["kind"], "DeleteOptions");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_or_passed_over() {
    let (server, admin) = Server::start().await;
    let hooks = Hooks::start(|path, _| match path {
        "/kind" => patch(json!([{"op": "add", "path": "/data", "value": 5}])),
        "/patch" => patch(json!([{"op": "remove", "path": "/nothing"}])),
        _ => json!({"allowed": true, "patch": STANDARD.encode("[]")}),
    })
    .await;
    // Takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let slow = format!("https://{}/slow", silent.local_addr().unwrap());
    for (path, more, code, message) in [
        ("/none", json!({"clientConfig": {"url": "https://127.0.0.1:1/none"}}), 500,
            "Internal error occurred: failed calling webhook \"none.x.test.io\": failed to call webhook: Post \"https://127.0.0.1:1/none?timeout=5s\": dial tcp 127.0.0.1:1: connect: connection refused".to_owned()),
        ("/service", json!({"clientConfig": {"service": {"namespace": "default", "name": "absent"}}}), 500,
            "Internal error occurred: failed calling webhook \"service.x.test.io\": failed to call webhook: Post \"https://absent.default.svc:443/?timeout=5s\": service \"absent\" not found".to_owned()),
        ("/none", json!({"clientConfig": {"url": "https://127.0.0.1:1/none"}, "failurePolicy": "Ignore"}), 201, String::new()),
        ("/slow", json!({"timeoutSeconds": 1, "clientConfig": {"url": slow}}), 500,
            format!("Internal error occurred: failed calling webhook \"slow.x.test.io\": failed to call webhook: Post \"{slow}?timeout=1s\": context deadline exceeded")),
        ("/half", Value::Null, 500,
            "Internal error occurred: failed calling webhook \"half.x.test.io\": received invalid webhook response: webhook returned response.patch but not response.patchType".to_owned()),
        ("/kind", json!({"failurePolicy": "Ignore"}), 500, "Internal error occurred: ".to_owned()),
        ("/patch", json!({"failurePolicy": "Ignore"}), 500, "Internal error occurred: ".to_owned()),
    ] {
        configure(&admin, MUTATING, "c", json!([hooks.hook(path, &["configmaps"], more)])).await;
        let (got, answer) = admin.create(&format!("{MAPS}?dryRun=All"), map("m")).await;
        assert_eq!(got.as_u16(), code, "{path}: {answer}");
        let told = answer["message"].as_str().unwrap_or("");
        assert!(told == message || message.ends_with(": ") && told.starts_with(&message), "{path}: {told}");
        // The configuration itself is nobody's to refuse.
        let (code, _) = admin.call(Method::DELETE, &format!("{MUTATING}/c"), "", Value::Null).await;
        assert_eq!(code, StatusCode::OK);
    }
    let metrics = admin.send(Method::GET, "/metrics", "", Value::Null).await.into_body();
    let text = metrics.collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&text);
    for line in [
        "apiserver_admission_webhook_rejection_count{error_type=\"calling_webhook_error\",name=\"none.x.test.io\",operation=\"CREATE\",rejection_code=\"0\",type=\"admit\"} 1",
        "apiserver_admission_webhook_fail_open_count{name=\"none.x.test.io\",type=\"admit\"} 1",
        "apiserver_admission_webhook_request_total{code=\"503\",name=\"slow.x.test.io\",operation=\"CREATE\",rejected=\"true\",type=\"admit\"} 1",
    ] {
        assert!(text.contains(line), "{line}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_see_what_their_rules_name() {
    let (server, admin) = Server::start().await;
    let hooks = Hooks::start(|_, _| json!({"allowed": true})).await;
    for (name, labels) in [("loud", json!({"hear": "yes"})), ("quiet", json!({}))] {
        admin
            .create(
                "/api/v1/namespaces",
                json!({"metadata": {"name": name, "labels": labels}}),
            )
            .await;
    }
    let scalers =
        json!([{"operations": ["CREATE"], "apiGroups": ["autoscaling"], "apiVersions": ["v2"], "resources": ["*"]}]);
    let scale = json!([{"operations": ["UPDATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments/scale"]}]);
    configure(&admin, VALIDATING, "v", json!([
        hooks.hook("/labels", &["configmaps"], json!({"namespaceSelector": {"matchLabels": {"hear": "yes"}}, "objectSelector": {"matchLabels": {"o": "1"}}})),
        hooks.hook("/equivalent", &[], json!({"rules": scalers, "matchPolicy": "Equivalent"})),
        hooks.hook("/exact", &[], json!({"rules": scalers, "matchPolicy": "Exact"})),
        hooks.hook("/scale", &[], json!({"rules": scale})),
        hooks.hook("/sub", &["pods/*", "namespaces"], Value::Null),
    ])).await;
    let paths = |asked: &[(String, Value)]| -> Vec<String> {
        asked
            .iter()
            .map(|(path, _)| path.split('?').next().unwrap().to_owned())
            .collect()
    };

    for (namespace, labels) in [
        ("loud", json!({"o": "1"})),
        ("loud", json!({"o": "2"})),
        ("quiet", json!({"o": "1"})),
    ] {
        let mut map = map("m");
        map["metadata"]["labels"] = labels.clone();
        admin
            .create(&format!("/api/v1/namespaces/{namespace}/configmaps?dryRun=All"), map)
            .await;
        let expected: &[&str] = if namespace == "loud" && labels["o"] == "1" {
            &["/labels"]
        } else {
            &[]
        };
        assert_eq!(paths(&hooks.take()), expected, "{namespace} {labels}");
    }

    let scaler = json!({"metadata": {"name": "s"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50,
        "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}}});
    let (code, made) = admin
        .create("/apis/autoscaling/v1/namespaces/loud/horizontalpodautoscalers", scaler)
        .await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    let asked = hooks.take();
    assert_eq!(paths(&asked), ["/equivalent"]);
    let request = &asked[0].1;
    assert_eq!(
        (&request["kind"]["version"], &request["requestKind"]["version"]),
        (&json!("v2"), &json!("v1"))
    );
    assert_eq!(
        request["object"]["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"],
        50
    );

    let labels = json!({"app": "w"});
    let deployment = json!({"metadata": {"name": "w"}, "spec": {"selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    admin
        .create("/apis/apps/v1/namespaces/loud/deployments", deployment)
        .await;
    let scale = "/apis/apps/v1/namespaces/loud/deployments/w/scale";
    admin
        .call(
            Method::PATCH,
            scale,
            "application/merge-patch+json",
            json!({"spec": {"replicas": 4}}),
        )
        .await;
    let asked = hooks.take();
    assert_eq!(paths(&asked), ["/scale"]);
    let request = &asked[0].1;
    assert_eq!(
        (&request["kind"]["kind"], &request["subResource"]),
        (&json!("Scale"), &json!("scale"))
    );
    assert_eq!(
        (
            &request["object"]["spec"]["replicas"],
            &request["oldObject"]["spec"]["replicas"]
        ),
        (&json!(4), &json!(1))
    );

    admin
        .create("/api/v1/namespaces", json!({"metadata": {"name": "third"}}))
        .await;
    let asked = hooks.take();
    assert_eq!(
        (paths(&asked), &asked[0].1["namespace"]),
        (vec!["/sub".to_owned()], &json!("third"))
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_objects_are_pruned_and_seen_in_the_rules_version() {
    let (server, admin) = Server::start().await;
    let hooks = Hooks::start(|_, request| match request["operation"].as_str() {
        Some("CREATE") => patch(json!([
            {"op": "add", "path": "/spec/seen", "value": request["kind"]["version"]},
            {"op": "add", "path": "/spec/unknown", "value": 1},
        ])),
        _ => json!({"allowed": true}),
    })
    .await;
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object",
        "properties": {"a": {"type": "string"}, "seen": {"type": "string"}}}}}});
    let version = |name: &str| json!({"name": name, "served": true, "storage": name == "v2", "schema": schema});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "toys.hooks.test.io"}, "spec": {"group": "hooks.test.io", "scope": "Namespaced",
            "names": {"plural": "toys", "kind": "Toy"}, "versions": [version("v1"), version("v2")]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (code, made) = admin.create(definitions, definition).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    let toys = |version: &str| format!("/apis/hooks.test.io/{version}/namespaces/default/toys");
    eventually(&admin, &toys("v1"), |list| list["kind"] == "ToyList").await;
    let rules =
        json!([{"operations": ["*"], "apiGroups": ["hooks.test.io"], "apiVersions": ["v2"], "resources": ["toys"]}]);
    let hook = hooks.hook("/toys", &[], json!({"rules": rules}));
    configure(&admin, MUTATING, "toys", json!([hook])).await;
    for version in ["v1", "v2"] {
        let toy = json!({"apiVersion": format!("hooks.test.io/{version}"), "kind": "Toy", "metadata": {"name": version}, "spec": {"a": "b"}});
        let (code, made) = admin.create(&toys(version), toy).await;
        assert_eq!(code, StatusCode::CREATED, "{made}");
        assert_eq!(made["apiVersion"], format!("hooks.test.io/{version}"));
        assert_eq!(made["spec"], json!({"a": "b", "seen": "v2"}), "{version}");
        let (_, asked) = hooks.take().pop().unwrap();
        assert_eq!(
            (&asked["object"]["apiVersion"], &asked["requestKind"]["version"]),
            (&json!("hooks.test.io/v2"), &json!(version))
        );
    }
    server.stop().await;
}
