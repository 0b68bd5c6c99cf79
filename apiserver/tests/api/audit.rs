//! The audit log of a running server.

use std::path::Path;
use std::time::{Duration, Instant};

use ::http::{Method, StatusCode};
use kube_apiserver::config::Settings;
use proto::cluster::{BindRequest, Binding, GetRequest, Resource};
use serde_json::{Value, json};

use super::http::{get_with_token, send};
use crate::{MAPS, Server, map};

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, users: ["system:apiserver"]}
- {level: None, nonResourceURLs: ["/readyz*"]}
- {level: RequestResponse, resources: [{group: "", resources: [configmaps, secrets, pods, pods/binding, serviceaccounts/token]}]}
- {level: Metadata}
"#;

fn with_audit(dir: &Path, settings: &mut Settings) {
    let policy = dir.join("audit.yaml");
    std::fs::write(&policy, POLICY).unwrap();
    settings.audit.audit_policy_file = Some(policy);
    settings.audit.audit_log_path = Some(dir.join("audit.log"));
}

fn events(server: &Server) -> Vec<Value> {
    let text = std::fs::read_to_string(server.dir.path().join("audit.log")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn find(events: &[Value], verb: &str, resource: &str, stage: &str) -> Value {
    let wanted = |e: &&Value| e["verb"] == verb && e["objectRef"]["resource"] == resource && e["stage"] == stage;
    events
        .iter()
        .rfind(wanted)
        .cloned()
        .unwrap_or_else(|| panic!("no {verb} {resource} {stage} in {events:#?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_recorded_as_upstream_records_them() {
    let (server, admin) = Server::start_with(with_audit).await;
    let dir = server.dir.path();
    let (as_admin, as_bob) = (dir.join("admin"), dir.join("bob"));
    let headers = [
        ("audit-id", "my-id"),
        ("user-agent", "tester/1"),
        ("x-forwarded-for", "10.1.2.3, nonsense"),
    ];
    let made = send(
        &server,
        Some(&as_admin),
        Method::POST,
        &format!("{MAPS}?fieldManager=t"),
        &headers,
        map("m"),
    )
    .await;
    assert_eq!(
        (made.code, &made.headers["audit-id"]),
        (StatusCode::CREATED, &"my-id".parse().unwrap())
    );
    let event = find(&events(&server), "create", "configmaps", "ResponseComplete");
    assert_eq!(event["auditID"], "my-id");
    assert_eq!(
        event["requestURI"],
        "/api/v1/namespaces/default/configmaps?fieldManager=t"
    );
    assert_eq!(event["sourceIPs"], json!(["10.1.2.3", "127.0.0.1"]));
    assert_eq!(event["userAgent"], "tester/1");
    assert_eq!(
        (&event["objectRef"]["name"], &event["objectRef"]["namespace"]),
        (&json!("m"), &json!("default"))
    );
    assert_eq!(
        (
            &event["requestObject"]["data"]["a"],
            &event["responseObject"]["data"]["a"]
        ),
        (&json!("1"), &json!("1"))
    );
    assert_eq!(event["responseObject"]["metadata"].get("managedFields"), None);
    assert_eq!(event["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "allow");

    // Refused: by the authorizer, and for credentials.
    let refused = send(&server, Some(&as_bob), Method::GET, MAPS, &[], Value::Null).await;
    assert_eq!(refused.code, StatusCode::FORBIDDEN);
    let event = find(&events(&server), "list", "configmaps", "ResponseComplete");
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(
        (&event["responseStatus"]["code"], &event["responseStatus"]["reason"]),
        (&json!(403), &json!("Forbidden"))
    );
    assert_eq!(
        (&event["user"]["username"], &event["user"]["groups"][0]),
        (&json!("bob"), &json!("dev"))
    );
    let token = "very-secret-token";
    assert_eq!(
        get_with_token(&server, token, MAPS).await.code,
        StatusCode::UNAUTHORIZED
    );
    let event = find(&events(&server), "list", "configmaps", "ResponseStarted");
    assert_eq!(
        event["responseStatus"]["message"],
        "Authentication failed, attempted: bearer"
    );

    // As somebody else.
    let as_eve = [("impersonate-user", "eve")];
    let seen = send(
        &server,
        Some(&as_admin),
        Method::GET,
        "/api/v1/nodes",
        &as_eve,
        Value::Null,
    )
    .await;
    assert_eq!(seen.code, StatusCode::FORBIDDEN);
    let event = find(&events(&server), "list", "nodes", "ResponseComplete");
    assert_eq!(
        (&event["user"]["username"], &event["impersonatedUser"]["username"]),
        (&json!("admin"), &json!("eve"))
    );

    // Never what is secret.
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "plain-password"}});
    admin.create("/api/v1/namespaces/default/secrets", secret).await;
    admin
        .create(
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"metadata": {"name": "a"}}),
        )
        .await;
    let (_, issued) = admin
        .create("/api/v1/namespaces/default/serviceaccounts/a/token", json!({}))
        .await;
    let all = std::fs::read_to_string(dir.join("audit.log")).unwrap();
    assert_eq!(
        find(&events(&server), "create", "secrets", "ResponseComplete")["level"],
        "Metadata"
    );
    for secret in [token, "plain-password", issued["status"]["token"].as_str().unwrap()] {
        assert!(!all.contains(secret), "{secret}");
    }

    // A watch starts, and completes when it ends.
    admin.get(&format!("{MAPS}?watch=true&timeoutSeconds=1")).await;
    let stages = |wanted: &str| {
        let all = events(&server);
        all.iter()
            .filter(|e| e["verb"] == "watch" && e["stage"] == wanted && e["objectRef"]["resource"] == "configmaps")
            .count()
    };
    let patience = Instant::now() + Duration::from_secs(20);
    while (stages("ResponseStarted"), stages("ResponseComplete")) != (1, 1) {
        assert!(Instant::now() < patience, "the watch does not end in the log");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // Over gRPC it is the same.
    let pods = Resource {
        group: String::new(),
        version: "v1".into(),
        resource: "configmaps".into(),
    };
    let get = GetRequest {
        resource: Some(pods),
        namespace: "default".into(),
        name: "none".into(),
        ..GetRequest::default()
    };
    admin.grpc().get(get).await.unwrap_err();
    let event = find(&events(&server), "get", "configmaps", "ResponseComplete");
    assert_eq!(
        (&event["responseStatus"]["code"], &event["objectRef"]["name"]),
        (&json!(404), &json!("none"))
    );
    let bindings = ["p", "q"].map(|name| Binding {
        namespace: "default".into(),
        name: name.into(),
        node: "n".into(),
        ..Binding::default()
    });
    admin
        .grpc()
        .bind(BindRequest {
            bindings: bindings.into(),
        })
        .await
        .unwrap();
    let all = events(&server);
    let bound: Vec<&Value> = all
        .iter()
        .filter(|e| e["objectRef"]["subresource"] == "binding")
        .collect();
    assert_eq!(bound.len(), 2, "{bound:#?}");
    assert_eq!(
        (&bound[0]["responseStatus"]["code"], &bound[0]["requestURI"]),
        (&json!(404), &json!("/keelson.cluster.v1.Cluster/Bind"))
    );
    server.stop().await;
}
