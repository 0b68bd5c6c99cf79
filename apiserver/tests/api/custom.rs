//! Custom resources: the life of a definition and of its objects, as clients see them.

use std::time::{Duration, Instant};

use ::http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::tls_server;
use crate::{Client, Server};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const FOOS: &str = "/apis/a.example/v1/namespaces/default/foos";

fn schema() -> Value {
    json!({"type": "object", "required": ["spec"], "properties": {
        "spec": {"type": "object", "properties": {
            "replicas": {"type": "integer", "minimum": 0, "default": 1},
            "color": {"type": "string", "enum": ["red", "green"]},
            "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": {
                "type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "port": {"type": "integer"}}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"},
            "conditions": {"type": "array", "items": {"type": "object", "properties": {"type": {"type": "string"}, "status": {"type": "string"}}}}}}}})
}

fn crd() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "foos.a.example"},
        "spec": {
            "group": "a.example", "scope": "Namespaced",
            "names": {"plural": "foos", "kind": "Foo", "shortNames": ["fo"], "categories": ["all"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema()},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "additionalPrinterColumns": [
                    {"name": "Color", "type": "string", "jsonPath": ".spec.color"},
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
                    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status", "priority": 1}],
            }],
        },
    })
}

fn foo(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "a.example/v1", "kind": "Foo", "metadata": {"name": name}, "spec": spec})
}

/// Asks again until the answer is as wanted.
async fn until(admin: &Client, path: &str, wanted: impl Fn(StatusCode, &Value) -> bool) -> Value {
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        let (code, body) = admin.get(path).await;
        if wanted(code, &body) {
            return body;
        }
        assert!(Instant::now() < patience, "{path} stays {code} {body}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn condition<'a>(crd: &'a Value, ty: &str) -> &'a Value {
    let conditions = crd["status"]["conditions"].as_array().into_iter().flatten();
    conditions
        .into_iter()
        .find(|c| c["type"] == ty)
        .map_or(&Value::Null, |c| &c["status"])
}

async fn establish(admin: &Client, crd: Value) -> Value {
    let path = format!("{CRDS}/{}", crd["metadata"]["name"].as_str().unwrap());
    let (code, made) = admin.create(CRDS, crd).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    assert_eq!(made["metadata"]["generation"], 1);
    until(admin, &path, |_, crd| condition(crd, "Established") == "True").await
}

async fn patch(admin: &Client, path: &str, content_type: &str, body: Value) -> (StatusCode, Value) {
    admin.call(Method::PATCH, path, content_type, body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_makes_a_kind() {
    let (server, admin) = Server::start().await;
    let made = establish(&admin, crd()).await;
    assert_eq!(made["spec"]["names"]["singular"], "foo");
    assert_eq!(made["status"]["acceptedNames"], made["spec"]["names"]);
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));

    let (_, groups) = admin.get("/apis").await;
    assert!(
        groups["groups"]
            .as_array()
            .unwrap()
            .iter()
            .any(|g| g["name"] == "a.example")
    );
    let (_, list) = admin.get("/apis/a.example/v1").await;
    let names: Vec<&str> = list["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["foos", "foos/scale", "foos/status"]);
    assert_eq!(list["resources"][0]["shortNames"], json!(["fo"]));

    // Defaults, pruning, generation.
    let (code, one) = admin
        .create(
            FOOS,
            foo("one", json!({"color": "red", "unknown": 1, "free": {"any": [1]}})),
        )
        .await;
    assert_eq!(code, StatusCode::CREATED, "{one}");
    assert_eq!(
        one["spec"],
        json!({"color": "red", "replicas": 1, "free": {"any": [1]}})
    );
    assert_eq!(
        (&one["metadata"]["generation"], &one["metadata"]["namespace"]),
        (&json!(1), &json!("default"))
    );

    // Validation names fields.
    let (code, refused) = admin
        .create(FOOS, foo("two", json!({"replicas": -1, "color": "blue"})))
        .await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    let message = refused["message"].as_str().unwrap();
    assert!(message.starts_with("Foo.a.example \"two\" is invalid: "), "{message}");
    assert!(
        message
            .contains("spec.replicas: Invalid value: -1: spec.replicas in body should be greater than or equal to 0"),
        "{message}"
    );
    assert!(
        message.contains("spec.color: Unsupported value: \"blue\": supported values: \"red\", \"green\""),
        "{message}"
    );
    let fields: Vec<&str> = refused["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["field"].as_str().unwrap())
        .collect();
    assert_eq!(fields, ["spec.color", "spec.replicas", ".spec.replicas"]);
    let (code, refused) = admin
        .create(
            &format!("{FOOS}?fieldValidation=Strict"),
            foo("two", json!({"unknown": 1})),
        )
        .await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("strict decoding error: unknown field \"spec.unknown\""),
        "{refused}"
    );

    // A list, a table, a selectable field.
    admin.create(FOOS, foo("two", json!({"color": "green"}))).await;
    let (_, list) = admin.get(FOOS).await;
    assert_eq!(
        (&list["kind"], list["items"].as_array().unwrap().len()),
        (&json!("FooList"), 2)
    );
    let (_, green) = admin.get(&format!("{FOOS}?fieldSelector=spec.color%3Dgreen")).await;
    assert_eq!(green["items"][0]["metadata"]["name"], "two");
    let (code, _) = admin.get(&format!("{FOOS}?fieldSelector=spec.replicas%3D1")).await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
    let answer = super::http::send(
        &server,
        Some(&server.dir.path().join("admin")),
        Method::GET,
        FOOS,
        &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")],
        Value::Null,
    )
    .await;
    assert_eq!(answer.body["rows"][0]["cells"], json!(["one", "red", 1, null]));
    assert_eq!(answer.body["columnDefinitions"][3]["priority"], 1);
    let answer = super::http::send(
        &server,
        Some(&server.dir.path().join("admin")),
        Method::GET,
        FOOS,
        &[("accept", "application/vnd.kubernetes.protobuf")],
        Value::Null,
    )
    .await;
    assert_eq!(answer.code, StatusCode::NOT_ACCEPTABLE);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_written_in_every_way() {
    let (server, admin) = Server::start().await;
    establish(&admin, crd()).await;
    let one = format!("{FOOS}/one");
    let (_, made) = admin.create(FOOS, foo("one", json!({"color": "red"}))).await;

    // An update needs a resourceVersion and does not touch the status.
    let mut changed = made.clone();
    changed["spec"]["replicas"] = 3.into();
    changed["status"] = json!({"replicas": 9});
    let mut blind = changed.clone();
    blind["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let (code, refused) = admin.call(Method::PUT, &one, "application/json", blind).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{refused}");
    let (code, now) = admin.call(Method::PUT, &one, "application/json", changed).await;
    assert_eq!(
        (code, &now["metadata"]["generation"], now.get("status")),
        (StatusCode::OK, &json!(2), None),
        "{now}"
    );

    // The status is written alone.
    let mut status = now.clone();
    status["spec"]["replicas"] = 7.into();
    status["status"] = json!({"replicas": 3, "selector": "app=x", "conditions": [{"type": "Ready", "status": "True"}]});
    let (code, now) = admin
        .call(Method::PUT, &format!("{one}/status"), "application/json", status)
        .await;
    assert_eq!(
        (code, &now["spec"]["replicas"], &now["metadata"]["generation"]),
        (StatusCode::OK, &json!(3), &json!(2)),
        "{now}"
    );

    // Scale.
    let (_, scale) = admin.get(&format!("{one}/scale")).await;
    assert_eq!(
        (&scale["spec"]["replicas"], &scale["status"]),
        (&json!(3), &json!({"replicas": 3, "selector": "app=x"}))
    );
    let (code, scale) = patch(
        &admin,
        &format!("{one}/scale"),
        "application/merge-patch+json",
        json!({"spec": {"replicas": 5}}),
    )
    .await;
    assert_eq!(
        (code, &scale["spec"]["replicas"]),
        (StatusCode::OK, &json!(5)),
        "{scale}"
    );
    let (_, now) = admin.get(&one).await;
    assert_eq!(
        (
            &now["spec"]["replicas"],
            &now["metadata"]["generation"],
            &now["status"]["replicas"]
        ),
        (&json!(5), &json!(3), &json!(3))
    );

    // Patches.
    let (code, now) = patch(
        &admin,
        &one,
        "application/merge-patch+json",
        json!({"spec": {"color": null}}),
    )
    .await;
    assert_eq!((code, now["spec"].get("color")), (StatusCode::OK, None));
    let (code, _) = patch(
        &admin,
        &one,
        "application/json-patch+json",
        json!([{"op": "replace", "path": "/spec/replicas", "value": 6}]),
    )
    .await;
    assert_eq!(code, StatusCode::OK);
    let (code, refused) = patch(&admin, &one, "application/strategic-merge-patch+json", json!({})).await;
    assert_eq!(code, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .ends_with("application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"),
        "{refused}"
    );

    // Server-side apply knows the keys of lists.
    let apply = |ports: Value| json!({"apiVersion": "a.example/v1", "kind": "Foo", "metadata": {"name": "one"}, "spec": {"ports": ports}});
    let (code, now) = patch(
        &admin,
        &format!("{one}?fieldManager=a"),
        "application/apply-patch+yaml",
        apply(json!([{"name": "x", "port": 1}])),
    )
    .await;
    assert_eq!(code, StatusCode::OK, "{now}");
    let (code, now) = patch(
        &admin,
        &format!("{one}?fieldManager=b"),
        "application/apply-patch+yaml",
        apply(json!([{"name": "y", "port": 2}])),
    )
    .await;
    assert_eq!(
        (code, now["spec"]["ports"].as_array().unwrap().len()),
        (StatusCode::OK, 2),
        "{now}"
    );
    let (code, conflict) = patch(
        &admin,
        &format!("{one}?fieldManager=b"),
        "application/apply-patch+yaml",
        apply(json!([{"name": "x", "port": 3}])),
    )
    .await;
    assert_eq!(code, StatusCode::CONFLICT);
    assert_eq!(
        conflict["details"]["causes"][0]["field"],
        ".spec.ports[name=\"x\"].port"
    );
    let (code, now) = patch(
        &admin,
        &format!("{one}?fieldManager=a"),
        "application/apply-patch+yaml",
        apply(json!([])),
    )
    .await;
    assert_eq!(
        (code, &now["spec"]["ports"]),
        (StatusCode::OK, &json!([{"name": "y", "port": 2}])),
        "{now}"
    );
    let fresh = json!({"apiVersion": "a.example/v1", "kind": "Foo", "metadata": {"name": "new"}, "spec": {}});
    let (code, _) = patch(
        &admin,
        &format!("{FOOS}/new?fieldManager=a"),
        "application/apply-patch+yaml",
        fresh,
    )
    .await;
    assert_eq!(code, StatusCode::CREATED);
    server.stop().await;
}

/// Reads events as they come.
struct Events {
    body: Incoming,
    text: String,
}

impl Events {
    async fn watch(admin: &Client, path: &str) -> Self {
        let response = admin.send(Method::GET, path, "", Value::Null).await;
        assert_eq!(response.status(), StatusCode::OK);
        Self {
            body: response.into_body(),
            text: String::new(),
        }
    }

    /// The next event; `None` once the watch has ended.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((line, rest)) = self.text.split_once('\n') {
                let event = serde_json::from_str(line).unwrap();
                self.text = rest.to_owned();
                return Some(event);
            }
            let frame = tokio::time::timeout(Duration::from_secs(20), self.body.frame())
                .await
                .expect("no event");
            let data = frame?.ok()?.into_data().ok()?;
            self.text.push_str(std::str::from_utf8(&data).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_schema_takes_effect_at_once() {
    let (server, admin) = Server::start().await;
    let made = establish(&admin, crd()).await;
    admin.create(FOOS, foo("one", json!({"color": "red"}))).await;
    let mut events = Events::watch(&admin, &format!("{FOOS}?watch=true")).await;
    assert_eq!(events.next().await.unwrap()["object"]["metadata"]["name"], "one");

    let mut wider = made.clone();
    wider["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["size"] =
        json!({"type": "string", "default": "M"});
    let (code, wider) = admin
        .call(
            Method::PUT,
            &format!("{CRDS}/foos.a.example"),
            "application/json",
            wider,
        )
        .await;
    assert_eq!(code, StatusCode::OK, "{wider}");
    // Clients of the old kind come again; what was stored before gets the new default.
    assert!(events.next().await.is_none());
    until(&admin, &format!("{FOOS}/one"), |_, one| one["spec"]["size"] == "M").await;
    let (_, two) = admin.create(FOOS, foo("two", json!({}))).await;
    assert_eq!(two["spec"]["size"], "M");

    // Names may change too, save those that name objects.
    let mut renamed = wider.clone();
    renamed["spec"]["names"]["plural"] = "bars".into();
    let (code, refused) = admin
        .call(
            Method::PUT,
            &format!("{CRDS}/foos.a.example"),
            "application/json",
            renamed,
        )
        .await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{refused}");

    // A version that is served no more.
    let (_, current) = admin.get(&format!("{CRDS}/foos.a.example")).await;
    let mut silent = current.clone();
    silent["spec"]["versions"][0]["served"] = false.into();
    let (code, _) = admin
        .call(
            Method::PUT,
            &format!("{CRDS}/foos.a.example"),
            "application/json",
            silent,
        )
        .await;
    assert_eq!(code, StatusCode::OK);
    until(&admin, FOOS, |code, _| code == StatusCode::NOT_FOUND).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_differ_in_name_and_schema() {
    let (server, admin) = Server::start().await;
    let mut two = crd();
    let mut v2 = two["spec"]["versions"][0].clone();
    v2["name"] = "v2".into();
    v2["storage"] = false.into();
    v2["deprecated"] = true.into();
    v2["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        .as_object_mut()
        .unwrap()
        .remove("free");
    two["spec"]["versions"].as_array_mut().unwrap().push(v2);
    establish(&admin, two).await;
    let (code, _) = admin
        .create(FOOS, foo("one", json!({"color": "red", "free": {"x": 1}})))
        .await;
    assert_eq!(code, StatusCode::CREATED);
    let response = admin
        .send(
            Method::GET,
            "/apis/a.example/v2/namespaces/default/foos/one",
            "",
            Value::Null,
        )
        .await;
    assert_eq!(
        response.headers()["warning"],
        "299 - \"a.example/v2 Foo is deprecated\""
    );
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let shown: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(
        (&shown["apiVersion"], &shown["spec"]),
        (&json!("a.example/v2"), &json!({"color": "red", "replicas": 1}))
    );
    let (_, group) = admin.get("/apis/a.example").await;
    assert_eq!(group["preferredVersion"]["version"], "v2");
    let (code, refused) = admin
        .create("/apis/a.example/v2/namespaces/default/foos", foo("two", json!({})))
        .await;
    assert_eq!(code, StatusCode::BAD_REQUEST, "{refused}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_given_once() {
    let (server, admin) = Server::start().await;
    establish(&admin, crd()).await;
    let mut rival = crd();
    rival["metadata"]["name"] = "bars.a.example".into();
    rival["spec"]["names"] = json!({"plural": "bars", "kind": "Foo", "shortNames": ["fo"]});
    let (code, _) = admin.create(CRDS, rival).await;
    assert_eq!(code, StatusCode::CREATED);
    let path = format!("{CRDS}/bars.a.example");
    let refused = until(&admin, &path, |_, crd| condition(crd, "NamesAccepted") == "False").await;
    assert_eq!(condition(&refused, "Established"), "False");
    assert_eq!(admin.get("/apis/a.example/v1/bars").await.0, StatusCode::NOT_FOUND);
    admin
        .call(Method::DELETE, &format!("{CRDS}/foos.a.example"), "", Value::Null)
        .await;
    until(&admin, &path, |_, crd| condition(crd, "Established") == "True").await;
    assert_eq!(admin.get("/apis/a.example/v1/bars").await.0, StatusCode::OK);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_go_with_their_definition() {
    let (server, admin) = Server::start().await;
    establish(&admin, crd()).await;
    admin.create(FOOS, foo("plain", json!({}))).await;
    let mut held = foo("held", json!({}));
    held["metadata"]["finalizers"] = json!(["a.example/hold"]);
    admin.create(FOOS, held).await;
    let mut events = Events::watch(&admin, &format!("{FOOS}?watch=true")).await;
    for _ in 0..2 {
        assert_eq!(events.next().await.unwrap()["type"], "ADDED");
    }

    let path = format!("{CRDS}/foos.a.example");
    let (code, dying) = admin.call(Method::DELETE, &path, "", Value::Null).await;
    assert_eq!(
        (code, condition(&dying, "Terminating")),
        (StatusCode::OK, &json!("True")),
        "{dying}"
    );
    assert_eq!(
        dying["metadata"]["finalizers"],
        json!(["customresourcecleanup.apiextensions.k8s.io"])
    );
    until(&admin, &format!("{FOOS}/plain"), |code, _| {
        code == StatusCode::NOT_FOUND
    })
    .await;
    let (code, refused) = admin.create(FOOS, foo("late", json!({}))).await;
    assert_eq!(code, StatusCode::METHOD_NOT_ALLOWED, "{refused}");
    assert_eq!(
        refused["message"],
        "create not allowed while custom resource definition is terminating"
    );

    let (code, _) = patch(
        &admin,
        &format!("{FOOS}/held"),
        "application/merge-patch+json",
        json!({"metadata": {"finalizers": null}}),
    )
    .await;
    assert_eq!(code, StatusCode::OK);
    until(&admin, &path, |code, _| code == StatusCode::NOT_FOUND).await;
    until(&admin, FOOS, |code, _| code == StatusCode::NOT_FOUND).await;
    let (_, groups) = admin.get("/apis").await;
    assert!(
        !groups["groups"]
            .as_array()
            .unwrap()
            .iter()
            .any(|g| g["name"] == "a.example")
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_checked_with_the_definition_and_with_every_object() {
    let (server, admin) = Server::start().await;
    let with = |rules: Value| {
        let mut crd = crd();
        let spec = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        spec["x-kubernetes-validations"] = rules;
        spec["properties"]["min"] = json!({"type": "integer"});
        spec["properties"]["max"] = json!({"type": "integer"});
        spec["properties"]["names"] = json!({"type": "array", "items": {"type": "string"}});
        spec["properties"]["fixed"] = json!({"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "is immutable"}]});
        crd
    };
    let (code, status) = admin
        .create(
            CRDS,
            with(json!([{"rule": "self.minimum > 1"}, {"rule": "self.names.all(a, self.names.all(b, a == b))"}])),
        )
        .await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{status}");
    let at = "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations";
    let causes = status["details"]["causes"].as_array().unwrap();
    let cause = |field: String| {
        causes
            .iter()
            .find(|cause| cause["field"] == json!(field))
            .map_or("", |cause| cause["message"].as_str().unwrap())
    };
    let compile = cause(format!("{at}[0].rule"));
    assert!(
        compile.contains("compilation failed: ERROR: <input>:1:5: undefined field 'minimum'"),
        "{status}"
    );
    let cost = cause(format!("{at}[1].rule"));
    assert!(
        cost.starts_with("Forbidden: estimated rule cost exceeds budget by factor of more than 100x"),
        "{status}"
    );

    let rule = json!([{"rule": "!has(self.max) || self.min <= self.max", "messageExpression": "'min %d > max'.format([self.min])", "fieldPath": ".max"}]);
    establish(&admin, with(rule)).await;
    let (code, status) = admin.create(FOOS, foo("a", json!({"min": 2, "max": 1}))).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{status}");
    assert_eq!(status["details"]["causes"][0]["field"], "spec.max");
    assert_eq!(status["details"]["causes"][0]["reason"], "FieldValueInvalid");
    assert_eq!(
        status["details"]["causes"][0]["message"],
        "Invalid value: \"object\": min 2 > max"
    );
    let (code, made) = admin.create(FOOS, foo("a", json!({"min": 2, "fixed": "x"}))).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    let change = json!({"spec": {"fixed": "y"}});
    let (code, status) = patch(&admin, &format!("{FOOS}/a"), "application/merge-patch+json", change).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{status}");
    assert_eq!(
        status["details"]["causes"][0]["message"],
        "Invalid value: \"string\": is immutable"
    );
    let (code, _) = patch(
        &admin,
        &format!("{FOOS}/a"),
        "application/merge-patch+json",
        json!({"spec": {"min": 3}}),
    )
    .await;
    assert_eq!(code, StatusCode::OK);
    server.stop().await;
}

/// A webhook between v1 (`spec.color`) and v2 (`spec.paint`).
fn convert(asked: &[u8]) -> Value {
    let review: Value = serde_json::from_slice(asked).unwrap();
    let request = &review["request"];
    let to = request["desiredAPIVersion"].as_str().unwrap();
    let (from, into) = match to {
        "a.example/v2" => ("color", "paint"),
        _ => ("paint", "color"),
    };
    let objects = request["objects"].as_array().unwrap().iter().cloned();
    let converted: Vec<Value> = objects
        .map(|mut object| {
            object["apiVersion"] = to.into();
            if let Some(value) = object["spec"].as_object_mut().unwrap().remove(from) {
                object["spec"][into] = value;
            }
            object["metadata"]["annotations"]["a.example/converted"] = to.into();
            object
        })
        .collect();
    json!({"apiVersion": review["apiVersion"], "kind": "ConversionReview",
        "response": {"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": converted}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_converts_between_versions() {
    let (server, admin) = Server::start().await;
    let hook = tls_server::serve(&["localhost", "127.0.0.1"], |asked| {
        (StatusCode::OK, Vec::new(), convert(&asked.body).to_string().into())
    })
    .await;
    let mut crd = crd();
    let mut v2 = crd["spec"]["versions"][0].clone();
    v2["name"] = "v2".into();
    v2["storage"] = false.into();
    v2["selectableFields"] = json!([{"jsonPath": ".spec.paint"}]);
    v2["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"] =
        json!({"paint": {"type": "string"}, "replicas": {"type": "integer"}});
    crd["spec"]["versions"].as_array_mut().unwrap().push(v2);
    crd["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("https://localhost:{}/convert", hook.address.port()), "caBundle": hook.bundle}}});
    establish(&admin, crd).await;

    let foos2 = "/apis/a.example/v2/namespaces/default/foos";
    let two =
        json!({"apiVersion": "a.example/v2", "kind": "Foo", "metadata": {"name": "two"}, "spec": {"paint": "green"}});
    let (code, made) = admin.create(foos2, two).await;
    assert_eq!(
        (code, &made["apiVersion"], &made["spec"]["paint"]),
        (StatusCode::CREATED, &json!("a.example/v2"), &json!("green")),
        "{made}"
    );
    let (_, stored) = admin.get(&format!("{FOOS}/two")).await;
    assert_eq!(stored["spec"], json!({"color": "green"}), "{stored}");
    let (code, _) = admin.create(FOOS, foo("one", json!({"color": "red"}))).await;
    assert_eq!(code, StatusCode::CREATED);

    let (_, list) = admin.get(foos2).await;
    let paints: Vec<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|foo| foo["spec"]["paint"].as_str().unwrap())
        .collect();
    assert_eq!(paints, ["red", "green"]);
    let (_, red) = admin.get(&format!("{foos2}?fieldSelector=spec.paint%3Dred")).await;
    assert_eq!(
        (
            red["items"].as_array().unwrap().len(),
            &red["items"][0]["metadata"]["name"]
        ),
        (1, &json!("one"))
    );
    let (code, now) = patch(
        &admin,
        &format!("{foos2}/one"),
        "application/merge-patch+json",
        json!({"spec": {"paint": "green"}}),
    )
    .await;
    assert_eq!(
        (code, &now["spec"]["paint"]),
        (StatusCode::OK, &json!("green")),
        "{now}"
    );
    let mut events = Events::watch(&admin, &format!("{foos2}?watch=true")).await;
    for name in ["one", "two"] {
        let event = events.next().await.unwrap();
        assert_eq!(
            (&event["object"]["metadata"]["name"], &event["object"]["spec"]["paint"]),
            (&json!(name), &json!("green"))
        );
    }
    patch(
        &admin,
        &format!("{FOOS}/one"),
        "application/merge-patch+json",
        json!({"spec": {"color": "red"}}),
    )
    .await;
    assert_eq!(events.next().await.unwrap()["object"]["spec"]["paint"], "red");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_fails_is_told() {
    let (server, admin) = Server::start().await;
    let hook = tls_server::serve(&["localhost", "127.0.0.1"], |asked| {
        let review: Value = serde_json::from_slice(&asked.body).unwrap();
        let answer = json!({"apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": {
            "uid": review["request"]["uid"], "result": {"status": "Failed", "message": "no such paint"}}});
        (StatusCode::OK, Vec::new(), answer.to_string().into())
    })
    .await;
    let mut crd = crd();
    let mut v2 = crd["spec"]["versions"][0].clone();
    v2["name"] = "v2".into();
    v2["storage"] = false.into();
    crd["spec"]["versions"].as_array_mut().unwrap().push(v2);
    crd["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("https://localhost:{}/convert", hook.address.port()), "caBundle": hook.bundle}}});
    establish(&admin, crd).await;
    admin.create(FOOS, foo("one", json!({}))).await;
    let (code, failed) = admin.get("/apis/a.example/v2/namespaces/default/foos/one").await;
    assert_eq!(code, StatusCode::INTERNAL_SERVER_ERROR);
    let message = failed["message"].as_str().unwrap();
    assert!(
        message.ends_with("conversion webhook for a.example/v1, Kind=Foo failed: no such paint"),
        "{message}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_and_metadata_know_custom_kinds() {
    let (server, admin) = Server::start().await;
    establish(&admin, crd()).await;
    admin.create(FOOS, foo("one", json!({}))).await;
    let (code, document) = admin.get("/openapi/v3/apis/a.example/v1").await;
    assert_eq!(code, StatusCode::OK);
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let foo = schemas.get("example.a.v1.Foo").expect("a schema");
    assert_eq!(foo["properties"]["spec"]["properties"]["replicas"]["default"], 1);
    assert!(document["paths"]["/apis/a.example/v1/namespaces/{namespace}/foos/{name}/scale"].is_object());

    let as_admin = server.dir.path().join("admin");
    let accept = [(
        "accept",
        "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    )];
    let answer = super::http::send(&server, Some(&as_admin), Method::GET, FOOS, &accept, Value::Null).await;
    assert_eq!(
        (&answer.body["kind"], &answer.body["items"][0]["metadata"]["name"]),
        (&json!("PartialObjectMetadataList"), &json!("one"))
    );

    let resource = proto::cluster::Resource {
        group: "a.example".into(),
        version: "v1".into(),
        resource: "foos".into(),
    };
    let get = proto::cluster::GetRequest {
        resource: Some(resource),
        namespace: "default".into(),
        name: "one".into(),
        ..Default::default()
    };
    let object = admin.grpc().get(get).await.unwrap().into_inner().object;
    assert_eq!(api::codec::object_meta(&object).unwrap().name.as_deref(), Some("one"));
    server.stop().await;
}
