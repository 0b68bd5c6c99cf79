//! Admission policies: what their expressions decide, warn and refuse at creation; match conditions of webhooks.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{Client, MAPS, Server, map};

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
const GROUP: &str = "admissionregistration.k8s.io/v1";

/// A policy over ConfigMaps.
fn policy(name: &str, more: Value) -> Value {
    let mut spec = json!({
        "matchConstraints": {"resourceRules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}]},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"apiVersion": GROUP, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name}, "spec": spec})
}

fn binding(name: &str, policy: &str, more: Value) -> Value {
    let mut spec = json!({"policyName": policy, "validationActions": ["Deny"]});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"apiVersion": GROUP, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name}, "spec": spec})
}

async fn made(admin: &Client, path: &str, object: Value) {
    let (code, answer) = admin.create(path, object).await;
    assert_eq!(code, StatusCode::CREATED, "{answer}");
}

fn labelled(name: &str, labels: Value) -> Value {
    let mut object = map(name);
    object["metadata"]["labels"] = labels;
    object
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_denies_with_message_and_reason() {
    let (server, admin) = Server::start().await;
    let spec = json!({
        "variables": [
            {"name": "team", "expression": "object.metadata.?labels.?team.orValue('')"},
            {"name": "long", "expression": "variables.team.size() > 3"},
        ],
        "matchConditions": [{"name": "not-skipped", "expression": "!object.metadata.name.startsWith('skip')"}],
        "validations": [
            {"expression": "variables.team != ''", "message": " a team is needed "},
            {"expression": "!variables.long", "messageExpression": "'team ' + variables.team + ' is too long'", "reason": "Forbidden"},
            {"expression": "request.userInfo.username != 'nobody' && namespaceObject.metadata.name == 'default'"},
            {"expression": "authorizer.group('').resource('configmaps').namespace('default').check('create').allowed()"},
        ],
    });
    made(&admin, POLICIES, policy("teams", spec)).await;
    // Without a binding it says nothing.
    made(&admin, MAPS, map("before")).await;
    made(&admin, BINDINGS, binding("everywhere", "teams", json!({}))).await;

    let (code, status) = admin.create(MAPS, map("a")).await;
    let text = "ValidatingAdmissionPolicy 'teams' with binding 'everywhere' denied request: a team is needed";
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{status}");
    assert_eq!(status["reason"], "Invalid");
    assert_eq!(status["message"], format!("configmaps \"a\" is forbidden: {text}"));
    assert_eq!(status["details"]["causes"], json!([{"message": text}]));

    let (code, status) = admin.create(MAPS, labelled("a", json!({"team": "blue-green"}))).await;
    assert_eq!(
        (code, &status["reason"]),
        (StatusCode::FORBIDDEN, &json!("Forbidden")),
        "{status}"
    );
    let message = status["message"].as_str().unwrap();
    assert!(
        message.ends_with("denied request: team blue-green is too long"),
        "{message}"
    );

    made(&admin, MAPS, labelled("a", json!({"team": "red"}))).await;
    made(&admin, MAPS, map("skip-me")).await;
    let (code, _) = admin
        .call(Method::DELETE, &format!("{MAPS}/before"), "", Value::Null)
        .await;
    assert_eq!(code, StatusCode::OK, "deletion is not its business");

    let (code, _) = admin
        .call(Method::DELETE, &format!("{BINDINGS}/everywhere"), "", Value::Null)
        .await;
    assert_eq!(code, StatusCode::OK);
    made(&admin, MAPS, map("after")).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_follow_the_failure_policy_and_actions_warn() {
    let (server, admin) = Server::start().await;
    let broken = json!([{"expression": "object.data.absent == 'x'"}]);
    made(&admin, POLICIES, policy("strict", json!({"validations": broken}))).await;
    made(&admin, BINDINGS, binding("strict", "strict", json!({}))).await;
    let (code, status) = admin.create(MAPS, map("a")).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    let message = status["message"].as_str().unwrap();
    assert!(
        message.ends_with("expression 'object.data.absent == 'x'' resulted in error: no such key: absent"),
        "{message}"
    );
    // A dry run is asked about, too.
    let (code, _) = admin.create(&format!("{MAPS}?dryRun=All"), map("a")).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    let (code, _) = admin
        .call(Method::DELETE, &format!("{BINDINGS}/strict"), "", Value::Null)
        .await;
    assert_eq!(code, StatusCode::OK);

    let lenient = json!({"failurePolicy": "Ignore", "validations": broken});
    made(&admin, POLICIES, policy("lenient", lenient)).await;
    made(&admin, BINDINGS, binding("lenient", "lenient", json!({}))).await;
    made(&admin, MAPS, map("a")).await;

    made(
        &admin,
        POLICIES,
        policy("warns", json!({"validations": [{"expression": "false"}]})),
    )
    .await;
    made(
        &admin,
        BINDINGS,
        binding("warns", "warns", json!({"validationActions": ["Warn", "Audit"]})),
    )
    .await;
    let response = admin.send(Method::POST, MAPS, "application/json", map("b")).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    let warning = response.headers()["warning"].to_str().unwrap();
    assert!(
        warning.contains(
            "Validation failed for ValidatingAdmissionPolicy 'warns' with binding 'warns': failed expression: false"
        ),
        "{warning}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_come_from_the_binding() {
    let (server, admin) = Server::start().await;
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConditions": [{"name": "not-a-limit", "expression": "!has(object.metadata.labels)"}],
        "validations": [{"expression": "object.metadata.name.size() <= int(params.data.max)", "messageExpression": "'at most ' + params.data.max"}],
    });
    made(&admin, POLICIES, policy("limit", spec)).await;
    let by_name = json!({"paramRef": {"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"}});
    made(&admin, BINDINGS, binding("limit", "limit", by_name)).await;
    let (code, status) = admin.create(MAPS, map("abc")).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    let message = status["message"].as_str().unwrap();
    assert!(
        message.ends_with(
            "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
        ),
        "{message}"
    );
    let (code, _) = admin
        .call(Method::DELETE, &format!("{BINDINGS}/limit"), "", Value::Null)
        .await;
    assert_eq!(code, StatusCode::OK);
    let mut limits = labelled("limits", json!({"limit": "yes"}));
    limits["data"] = json!({"max": "3"});
    made(&admin, MAPS, limits).await;
    let by_label = json!({"paramRef": {"selector": {"matchLabels": {"limit": "yes"}}}});
    made(&admin, BINDINGS, binding("limit", "limit", by_label)).await;
    made(&admin, MAPS, map("abc")).await;
    let (_, status) = admin.create(MAPS, map("abcd")).await;
    assert!(status["message"].as_str().unwrap().ends_with("at most 3"), "{status}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_compile_is_refused() {
    let (server, admin) = Server::start().await;
    let spec = json!({
        "variables": [{"name": "v", "expression": "1 +"}],
        "validations": [{"expression": "object.x +"}, {"expression": "'text'"}, {"expression": "params.x"}],
        "auditAnnotations": [{"key": "k", "valueExpression": "1"}],
    });
    let (code, status) = admin.create(POLICIES, policy("bad", spec)).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    let causes: Vec<(&str, &str)> = status["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| (cause["field"].as_str().unwrap(), cause["message"].as_str().unwrap()))
        .collect();
    let find = |field: &str| {
        causes
            .iter()
            .find(|(found, _)| *found == field)
            .map_or("", |(_, message)| message)
    };
    assert!(
        find("spec.variables[0].expression").contains("compilation failed: ERROR: <input>:1:4: Syntax error"),
        "{status}"
    );
    assert!(
        find("spec.validations[0].expression").contains("compilation failed: ERROR: <input>:1:11: Syntax error"),
        "{status}"
    );
    assert!(
        find("spec.validations[1].expression").ends_with("must evaluate to bool but got string"),
        "{status}"
    );
    assert!(
        find("spec.validations[2].expression").contains("undeclared reference to 'params'"),
        "{status}"
    );
    assert!(
        find("spec.auditAnnotations[0].valueExpression").ends_with("must evaluate to one of [string null] but got int"),
        "{status}"
    );

    let (code, status) = admin
        .create(
            BINDINGS,
            binding(
                "bad",
                "p",
                json!({"validationActions": ["Deny", "Warn"], "paramRef": {}}),
            ),
        )
        .await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    let text = status["message"].as_str().unwrap();
    assert!(
        text.contains("must not contain both Deny and Warn")
            && text.contains("one of name or selector must be specified"),
        "{text}"
    );

    let hook = json!({"apiVersion": GROUP, "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "bad"}, "webhooks": [{
        "name": "a.b.io", "clientConfig": {"url": "https://localhost:1/"}, "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "matchConditions": [{"name": "c", "expression": "object.metadata.name == "}],
    }]});
    let (code, status) = admin
        .create(
            "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
            hook,
        )
        .await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        status["details"]["causes"][0]["field"],
        "webhooks[0].matchConditions[0].expression"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_asked_only_if_its_conditions_hold() {
    let (server, admin) = Server::start().await;
    // Nobody listens there: whoever is asked about, fails.
    let hook = json!({"apiVersion": GROUP, "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "w"}, "webhooks": [{
        "name": "a.b.io", "clientConfig": {"url": "https://127.0.0.1:1/"}, "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
        "matchConditions": [
            {"name": "asked", "expression": "has(object.metadata.labels) && object.metadata.labels['ask'] == 'yes'"},
            {"name": "by-user", "expression": "request.userInfo.groups.exists(g, g == 'system:masters')"},
        ],
    }]});
    made(
        &admin,
        "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
        hook,
    )
    .await;
    made(&admin, MAPS, map("plain")).await;
    let (code, status) = admin.create(MAPS, labelled("asked", json!({"ask": "yes"}))).await;
    assert_eq!(code, StatusCode::INTERNAL_SERVER_ERROR, "{status}");
    // An error decides as the failure policy says.
    let (code, status) = admin.create(MAPS, labelled("odd", json!({"other": "x"}))).await;
    assert_eq!(code, StatusCode::FORBIDDEN, "{status}");
    assert!(
        status["message"].as_str().unwrap().contains("no such key: ask"),
        "{status}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn types_are_checked_and_told_in_the_status() {
    let (server, admin) = Server::start().await;
    let mut typed = policy(
        "typed",
        json!({"validations": [{"expression": "object.data.foo > 1"}, {"expression": "object.data.size() > 1"}, {"expression": "object.spec.x == 1", "messageExpression": "'x' + object.metadata.nam"}]}),
    );
    typed["spec"]["matchConstraints"]["resourceRules"][0]["apiVersions"] = json!(["v1"]);
    made(&admin, POLICIES, typed).await;
    let patience = Instant::now() + Duration::from_secs(30);
    let status = loop {
        let (_, found) = admin.get(&format!("{POLICIES}/typed")).await;
        if found["status"]["observedGeneration"] == found["metadata"]["generation"] {
            break found["status"].clone();
        }
        assert!(Instant::now() < patience, "{found}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let warnings = status["typeChecking"]["expressionWarnings"].as_array().unwrap();
    let places: Vec<&str> = warnings
        .iter()
        .map(|warning| warning["fieldRef"].as_str().unwrap())
        .collect();
    assert_eq!(
        places,
        [
            "spec.validations[0].expression",
            "spec.validations[2].expression",
            "spec.validations[2].messageExpression"
        ]
    );
    let text = warnings[0]["warning"].as_str().unwrap();
    assert!(
        text.starts_with(
            "/v1, Kind=ConfigMap: ERROR: <input>:1:17: found no matching overload for '_>_' applied to '(string, int)'"
        ),
        "{text}"
    );
    assert!(
        warnings[1]["warning"]
            .as_str()
            .unwrap()
            .contains("undefined field 'spec'")
    );
    server.stop().await;
}

const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1beta1/mutatingadmissionpolicies";
const MUTATING_BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1beta1/mutatingadmissionpolicybindings";

fn mutating(name: &str, resource: (&str, &str), mutations: Value) -> Value {
    json!({"apiVersion": "admissionregistration.k8s.io/v1beta1", "kind": "MutatingAdmissionPolicy", "metadata": {"name": name}, "spec": {
        "matchConstraints": {"resourceRules": [
            {"apiGroups": [resource.0], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource.1]}]},
        "failurePolicy": "Fail", "reinvocationPolicy": "IfNeeded", "mutations": mutations,
    }})
}

fn mutating_binding(name: &str) -> Value {
    json!({"apiVersion": "admissionregistration.k8s.io/v1beta1", "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": name},
        "spec": {"policyName": name}})
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_change_objects() {
    let (server, admin) = Server::start().await;
    let labels = json!([
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{metadata: Object.metadata{labels: {'applied': object.metadata.name}}}"}},
        {"patchType": "JSONPatch", "jsonPatch": {"expression":
            "[JSONPatch{op: 'test', path: '/metadata/labels/applied', value: 'm'}, JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey('a/b'), value: string(object.data.size())}]"}},
    ]);
    made(&admin, MUTATING, mutating("labels", ("", "configmaps"), labels)).await;
    made(&admin, MUTATING_BINDINGS, mutating_binding("labels")).await;
    let (code, object) = admin.create(MAPS, labelled("m", json!({"own": "x"}))).await;
    assert_eq!(
        code,
        StatusCode::UNPROCESSABLE_ENTITY,
        "a key of data has no slash: {object}"
    );
    let (code, _) = admin
        .call(Method::DELETE, &format!("{MUTATING_BINDINGS}/labels"), "", Value::Null)
        .await;
    assert_eq!(code, StatusCode::OK);

    let good = json!([
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{metadata: Object.metadata{labels: {'applied': object.metadata.name}}}"}},
        {"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'add', path: '/data/added', value: string(object.data.size())}]"}},
    ]);
    made(&admin, MUTATING, mutating("good", ("", "configmaps"), good)).await;
    made(&admin, MUTATING_BINDINGS, mutating_binding("good")).await;
    let (code, object) = admin.create(MAPS, labelled("m", json!({"own": "x"}))).await;
    assert_eq!(code, StatusCode::CREATED, "{object}");
    assert_eq!(object["metadata"]["labels"], json!({"own": "x", "applied": "m"}));
    assert_eq!(object["data"]["added"], "1");

    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    made(&admin, "/api/v1/namespaces/default/serviceaccounts", account).await;
    // Containers are a map by name: the other fields stay.
    let env = json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
        "Object{spec: Object.spec{containers: object.spec.containers.map(c, Object.spec.containers{name: c.name, env: [Object.spec.containers.env{name: 'A', value: 'b'}]})}}"}}]);
    made(&admin, MUTATING, mutating("env", ("", "pods"), env)).await;
    made(&admin, MUTATING_BINDINGS, mutating_binding("env")).await;
    let (code, object) = admin.create("/api/v1/namespaces/default/pods", crate::pod("p")).await;
    assert_eq!(code, StatusCode::CREATED, "{object}");
    let container = &object["spec"]["containers"][0];
    assert_eq!(
        (&container["image"], &container["env"]),
        (&json!("i"), &json!([{"name": "A", "value": "b"}]))
    );

    let odd = json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{metadata: Object.spec{labels: {}}}"}}]);
    made(&admin, MUTATING, mutating("odd", ("", "secrets"), odd)).await;
    made(&admin, MUTATING_BINDINGS, mutating_binding("odd")).await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    let (code, status) = admin.create("/api/v1/namespaces/default/secrets", secret).await;
    assert_eq!(code, StatusCode::FORBIDDEN, "{status}");
    let message = status["message"].as_str().unwrap();
    assert!(
        message.starts_with("policy 'odd' with binding 'odd' denied request: unexpected type name \"Object.spec\""),
        "{message}"
    );

    let atomic = json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{spec: Object.spec{nodeSelector: {'a': 'b'}}}"}}]);
    made(&admin, MUTATING, mutating("env-atomic", ("", "pods"), atomic)).await;
    made(&admin, MUTATING_BINDINGS, mutating_binding("env-atomic")).await;
    let (code, status) = admin.create("/api/v1/namespaces/default/pods", crate::pod("q")).await;
    assert_eq!(code, StatusCode::FORBIDDEN, "{status}");
    let message = status["message"].as_str().unwrap();
    assert!(
        message.ends_with("may not mutate atomic arrays, maps or structs: .spec.nodeSelector"),
        "{message}"
    );

    let untyped = json!([{"patchType": "JSONPatch", "jsonPatch": {"expression": "{}"}}]);
    let (code, status) = admin.create(MUTATING, mutating("untyped", ("", "pods"), untyped)).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        status["details"]["causes"][0]["field"],
        "spec.mutations[0].jsonPatch.expression"
    );
    server.stop().await;
}
