//! What a client sees of get, list and watch: encodings, forms, revisions, pages, selectors, streams.

use std::io::Read;
use std::path::PathBuf;

use ::http::response::Parts;
use ::http::{Method, StatusCode};
use bytes::Bytes;
use serde_json::{Value, json};

use super::http::send_bytes;
use crate::{MAPS, Server, map, pod};

/// An administrator who sends and reads bytes.
pub struct Admin<'a> {
    server: &'a Server,
    identity: PathBuf,
}

impl<'a> Admin<'a> {
    pub fn new(server: &'a Server) -> Self {
        let identity = server.dir.path().join("admin");
        Self { server, identity }
    }

    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> (Parts, Bytes) {
        send_bytes(self.server, Some(&self.identity), method, path, headers, body.into()).await
    }

    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> (Parts, Bytes) {
        self.ask(Method::GET, path, headers, Bytes::new()).await
    }

    /// Code and body of a GET in JSON.
    pub async fn read(&self, path: &str) -> (u16, Value) {
        let (parts, body) = self.get(path, &[]).await;
        (parts.status.as_u16(), value(&body))
    }

    /// Code and body of a request with a body of that type.
    pub async fn write(&self, method: Method, path: &str, content_type: &str, body: impl Into<Bytes>) -> (u16, Value) {
        let (parts, body) = self.ask(method, path, &[("content-type", content_type)], body).await;
        (parts.status.as_u16(), value(&body))
    }
}

pub fn value(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or(Value::Null)
}

/// The events of a watch that has ended.
fn events(body: &[u8]) -> Vec<Value> {
    body.split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(value)
        .collect()
}

fn content_type(parts: &Parts) -> &str {
    parts.headers["content-type"].to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_in_the_encoding_that_was_asked_for() {
    let (server, admin) = Server::start().await;
    admin.create(MAPS, map("one")).await;
    let http = Admin::new(&server);
    let one = format!("{MAPS}/one");

    let (parts, yaml) = http.get(&one, &[("accept", "application/yaml")]).await;
    let text = std::str::from_utf8(&yaml).unwrap();
    assert_eq!(content_type(&parts), "application/yaml");
    assert!(
        text.starts_with("apiVersion: v1\ndata:\n  a: \"1\"\nkind: ConfigMap\nmetadata:\n"),
        "{text}"
    );
    let (_, yaml) = http
        .get(MAPS, &[("accept", "application/yaml;q=0.9,application/json;q=0.1")])
        .await;
    assert!(
        yaml.starts_with(b"apiVersion: v1\nitems:\n- apiVersion: v1\n"),
        "{yaml:?}"
    );

    let (parts, proto) = http
        .get(&one, &[("accept", "application/vnd.kubernetes.protobuf")])
        .await;
    assert_eq!(content_type(&parts), "application/vnd.kubernetes.protobuf");
    assert!(proto.starts_with(b"k8s\0"));
    // Errors too.
    let (parts, status) = http
        .get(
            &format!("{MAPS}/none"),
            &[("accept", "application/vnd.kubernetes.protobuf,application/json")],
        )
        .await;
    assert_eq!(
        (parts.status.as_u16(), content_type(&parts)),
        (404, "application/vnd.kubernetes.protobuf")
    );
    let (_, kind, raw) = api::codec::unwrap(&status).unwrap();
    assert_eq!(
        (kind, api::Error::decode(raw).unwrap().message.as_str()),
        ("Status", "configmaps \"none\" not found")
    );
    let (_, status) = http
        .get(&format!("{MAPS}/none"), &[("accept", "application/yaml")])
        .await;
    assert!(status.starts_with(b"apiVersion: v1\ncode: 404\n"));

    // What was read can be written back in each.
    for (accept, name) in [
        ("application/yaml", "yaml"),
        ("application/vnd.kubernetes.protobuf", "proto"),
    ] {
        let (_, body) = http.get(&one, &[("accept", accept)]).await;
        let (parts, back) = http
            .ask(
                Method::PUT,
                &one,
                &[("content-type", accept), ("accept", accept)],
                body.clone(),
            )
            .await;
        assert_eq!((parts.status, back), (StatusCode::OK, body), "{name}");
    }

    let (_, pretty) = http.get(&format!("{one}?pretty=true"), &[]).await;
    assert!(pretty.starts_with(b"{\n  \"apiVersion\""), "{pretty:?}");
    let (_, plain) = http.get(&one, &[]).await;
    assert!(!plain.contains(&b'\n'));

    for (accept, message) in [
        (
            "text/html",
            "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        ),
        (
            "application/cbor",
            "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        ),
        (
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            "you requested PartialObjectMetadataList, but the requested object is not a list",
        ),
    ] {
        let (parts, body) = http.get(&one, &[("accept", accept)]).await;
        assert_eq!(parts.status.as_u16(), 406, "{accept}");
        assert_eq!(
            (&value(&body)["reason"], &value(&body)["message"]),
            (&json!("NotAcceptable"), &json!(message))
        );
    }
    let (parts, body) = http
        .get(&format!("{MAPS}?watch=1"), &[("accept", "application/yaml")])
        .await;
    assert_eq!(parts.status.as_u16(), 406);
    assert_eq!(
        api::codec::parse_yaml(&body).unwrap()["message"],
        "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
    );
    let (parts, _) = http.ask(Method::HEAD, &one, &[], "").await;
    assert_eq!(parts.status.as_u16(), 405);
    let (parts, body) = http.ask(Method::OPTIONS, &one, &[], "").await;
    assert_eq!((parts.status.as_u16(), &value(&body)["details"]), (405, &json!({})));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_are_compressed_for_those_who_can_read_it() {
    let (server, admin) = Server::start().await;
    let large = json!({"metadata": {"name": "large"}, "data": {"a": "x".repeat(200_000)}});
    admin.create(MAPS, large).await;
    let http = Admin::new(&server);
    for path in [MAPS.to_owned(), format!("{MAPS}/large")] {
        let (parts, body) = http.get(&path, &[("accept-encoding", "deflate, gzip")]).await;
        assert_eq!(parts.headers["content-encoding"], "gzip", "{path}");
        assert_eq!(parts.headers["vary"], "Accept-Encoding");
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut text).unwrap();
        assert!(text.len() > 200_000 && body.len() < 20_000);
        let (parts, _) = http.get(&path, &[]).await;
        assert!(!parts.headers.contains_key("content-encoding"));
    }
    admin.create(MAPS, map("small")).await;
    let (parts, _) = http.get(&format!("{MAPS}/small"), &[("accept-encoding", "gzip")]).await;
    assert!(!parts.headers.contains_key("content-encoding"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_questions_are_told_apart() {
    let (server, _) = Server::start().await;
    let http = Admin::new(&server);
    let options = "ListOptions.meta.k8s.io \"\" is invalid: ";
    for (path, code, message) in [
        ("/api/v1/pods?resourceVersion=abc", 400, "invalid resource version: resourceVersion: Invalid value: \"abc\": strconv.ParseUint: parsing \"abc\": invalid syntax".to_owned()),
        ("/api/v1/pods?limit=x", 400, "strconv.ParseInt: parsing \"x\": invalid syntax".into()),
        ("/api/v1/pods?timeoutSeconds=x", 400, "strconv.ParseInt: parsing \"x\": invalid syntax".into()),
        ("/api/v1/pods?continue=e30", 400, "invalid continue token: continue key is not valid: server does not recognize this encoded version ".into()),
        ("/api/v1/pods?resourceVersionMatch=Exact", 422, format!("{options}resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided")),
        ("/api/v1/pods?resourceVersionMatch=Exact&resourceVersion=0", 422, format!("{options}resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"")),
        ("/api/v1/pods?sendInitialEvents=true", 422, format!("{options}sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list")),
        ("/api/v1/pods?watch=1&sendInitialEvents=true", 422, format!("{options}resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")),
        ("/api/v1/pods?watch=1&resourceVersionMatch=NotOlderThan", 422, format!("{options}resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")),
        ("/api/v1/pods?labelSelector=a%3D%3D%3Db", 400, "unable to parse requirement: found '==='".into()),
        ("/api/v1/pods?fieldSelector=spec.foo%3Db", 400, "field label not supported: spec.foo".into()),
        ("/api/v1/configmaps?fieldSelector=data%3Db", 400, "\"data\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"".into()),
        ("/apis/batch/v1/jobs?fieldSelector=x%3Db", 400, "field label \"x\" not supported for batchv1.Job".into()),
        ("/api/v1/pods?fieldSelector=nonsense", 400, "invalid selector: 'nonsense'; can't understand 'nonsense'".into()),
    ] {
        let (got, status) = http.read(path).await;
        assert_eq!(got, code, "{path}: {status}");
        assert!(status["message"].as_str().unwrap_or("").starts_with(&message), "{path}: {status}");
    }
    let (code, _) = http.read("/api/v1/pods?unknown=1&limit=-5").await;
    assert_eq!(code, 200);
    let table = ("accept", "application/json;as=Table;g=meta.k8s.io;v=v1");
    let (parts, body) = http.get("/api/v1/pods?includeObject=Half", &[table]).await;
    assert_eq!(parts.status.as_u16(), 400);
    assert_eq!(
        value(&body)["message"],
        "Unable to convert to Table as requested: includeObject: Invalid value: \"Half\": must be 'Metadata', 'Object', 'None', or empty"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_begins_and_ends_as_asked() {
    let (server, admin) = Server::start().await;
    for name in ["a", "b"] {
        admin.create(MAPS, map(name)).await;
    }
    let http = Admin::new(&server);
    let (_, list) = http.read(MAPS).await;
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let kinds = |events: &[Value]| -> Vec<String> {
        let one = |e: &Value| {
            format!(
                "{} {}",
                e["type"].as_str().unwrap(),
                e["object"]["metadata"]["name"].as_str().unwrap_or("-")
            )
        };
        events.iter().map(one).collect()
    };

    // From now on: nothing but a bookmark shortly before the end.
    let path = format!("{MAPS}?watch=1&resourceVersion={revision}&allowWatchBookmarks=true&timeoutSeconds=3");
    let (_, body) = http.get(&path, &[]).await;
    let seen = events(&body);
    assert_eq!(kinds(&seen), ["BOOKMARK -"], "{seen:?}");
    assert_eq!(seen[0]["object"]["kind"], "ConfigMap");

    // The state first, closed by a bookmark that says so.
    let path = format!(
        "{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1"
    );
    let (_, body) = http.get(&path, &[]).await;
    let seen = events(&body);
    assert_eq!(kinds(&seen)[..3], ["ADDED a", "ADDED b", "BOOKMARK -"], "{seen:?}");
    assert_eq!(
        seen[2]["object"]["metadata"]["annotations"],
        json!({"k8s.io/initial-events-end": "true"})
    );

    // One object, by selector and on the old path.
    for path in [
        format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Db&timeoutSeconds=1"),
        "/api/v1/watch/namespaces/default/configmaps/b?timeoutSeconds=1".to_owned(),
    ] {
        let (_, body) = http.get(&path, &[]).await;
        assert_eq!(kinds(&events(&body)), ["ADDED b"], "{path}");
    }

    // A table has its columns in the first event only.
    let table = ("accept", "application/json;as=Table;g=meta.k8s.io;v=v1");
    let (_, body) = http.get(&format!("{MAPS}?watch=1&timeoutSeconds=1"), &[table]).await;
    let seen = events(&body);
    assert_eq!(seen[0]["object"]["columnDefinitions"][0]["name"], "Name");
    assert_eq!(seen[1]["object"]["columnDefinitions"], Value::Null);
    assert_eq!(seen[1]["object"]["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_metadata_of_every_kind() {
    let (server, admin) = Server::start().await;
    admin.create(MAPS, map("one")).await;
    let http = Admin::new(&server);
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    admin.create(accounts, json!({"metadata": {"name": "default"}})).await;
    admin.create("/api/v1/namespaces/default/pods", pod("p")).await;
    for kind in api::resources::all() {
        if !kind.verbs.contains(&"list") {
            continue;
        }
        let path = match &*kind.group {
            "" => format!("/api/{}/{}", kind.version, kind.resource),
            group => format!("/apis/{group}/{}/{}", kind.version, kind.resource),
        };
        for (form, list_kind) in [
            ("Table", "Table"),
            ("PartialObjectMetadataList", "PartialObjectMetadataList"),
        ] {
            let accept = format!("application/json;as={form};g=meta.k8s.io;v=v1");
            let (parts, body) = http.get(&path, &[("accept", &accept)]).await;
            let body = value(&body);
            assert_eq!(
                (parts.status.as_u16(), &body["kind"]),
                (200, &json!(list_kind)),
                "{path}: {body}"
            );
            if form == "Table" {
                let columns = body["columnDefinitions"].as_array().unwrap();
                assert!(columns.iter().any(|column| column["format"] == "name"), "{path}");
                for row in body["rows"].as_array().unwrap() {
                    assert_eq!(row["cells"].as_array().unwrap().len(), columns.len(), "{path}");
                }
            }
        }
    }
    for (include, kind) in [
        ("None", Value::Null),
        ("Metadata", json!("PartialObjectMetadata")),
        ("Object", json!("ConfigMap")),
    ] {
        let (_, body) = http
            .get(
                &format!("{MAPS}/one?includeObject={include}"),
                &[("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")],
            )
            .await;
        assert_eq!(value(&body)["rows"][0]["object"]["kind"], kind, "{include}");
    }
    let (_, proto) = http
        .get(
            &format!("{MAPS}/one"),
            &[(
                "accept",
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
            )],
        )
        .await;
    let (version, kind, _) = api::codec::unwrap(&proto).unwrap();
    assert_eq!((version, kind), ("meta.k8s.io/v1", "PartialObjectMetadata"));
    server.stop().await;
}
