//! Discovery, documents, health and metrics as clients ask for them.

use std::io::Read;

use ::http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::{Client, Server};

/// A GET with these headers; the body as it came.
async fn get(client: &Client, path: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, Vec<u8>) {
    let response = client.send_with(Method::GET, path, headers, Value::Null).await;
    let (parts, body) = response.into_parts();
    (
        parts.status,
        parts.headers,
        body.collect().await.unwrap().to_bytes().to_vec(),
    )
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

#[tokio::test(flavor = "multi_thread")]
async fn swagger_is_negotiated_compressed_and_cached() {
    let (server, admin) = Server::start().await;
    let (code, headers, body) = get(&admin, "/openapi/v2", &[]).await;
    assert_eq!(
        (code, header(&headers, "content-type")),
        (StatusCode::OK, "application/json")
    );
    let document: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(document["swagger"], "2.0");
    let pod = &document["definitions"]["io.k8s.api.core.v1.Pod"];
    assert_eq!(
        pod["x-kubernetes-group-version-kind"],
        json!([{"group": "", "version": "v1", "kind": "Pod"}])
    );
    assert!(
        pod["description"]
            .as_str()
            .unwrap()
            .starts_with("Pod is a collection of containers")
    );

    let etag = header(&headers, "etag").to_owned();
    assert!(etag.starts_with('"') && etag.len() == 130, "{etag}");
    let (code, headers, body) = get(&admin, "/openapi/v2", &[("if-none-match", &etag)]).await;
    assert_eq!(
        (code, header(&headers, "etag"), body.len()),
        (StatusCode::NOT_MODIFIED, etag.as_str(), 0)
    );
    let (code, ..) = get(&admin, "/openapi/v2", &[("if-none-match", "\"other\"")]).await;
    assert_eq!(code, StatusCode::OK);

    let (_, headers, packed) = get(&admin, "/openapi/v2", &[("accept-encoding", "gzip")]).await;
    assert_eq!(header(&headers, "content-encoding"), "gzip");
    let mut plain = String::new();
    flate2::read::GzDecoder::new(&packed[..])
        .read_to_string(&mut plain)
        .unwrap();
    assert_eq!(serde_json::from_str::<Value>(&plain).unwrap(), document);

    let (code, headers, _) = get(&admin, "/openapi/v2", &[("accept", V2_PROTOBUF)]).await;
    assert_eq!(code, StatusCode::OK);
    assert_eq!(
        header(&headers, "content-type"),
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    );
    assert_eq!(header(&headers, "etag"), etag);
    let (code, ..) = get(&admin, "/openapi/v2", &[("accept", "text/html")]).await;
    assert_eq!(code, StatusCode::NOT_ACCEPTABLE);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_has_a_document_under_its_hash() {
    let (server, admin) = Server::start().await;
    let (code, index) = admin.get("/openapi/v3").await;
    assert_eq!(code, StatusCode::OK);
    let (_, groups) = admin.get("/apis").await;
    let versions = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["versions"].as_array().unwrap());
    let mut roots: Vec<String> = versions
        .map(|version| format!("apis/{}", version["groupVersion"].as_str().unwrap()))
        .collect();
    roots.push("api/v1".into());
    for root in &roots {
        let url = index["paths"][root]["serverRelativeURL"]
            .as_str()
            .unwrap_or_else(|| panic!("{root}"));
        let (code, headers, body) = get(&admin, url, &[]).await;
        assert_eq!(code, StatusCode::OK, "{url}");
        assert_eq!(header(&headers, "cache-control"), "public, immutable");
        assert!(header(&headers, "expires").ends_with(" GMT"), "{headers:?}");
        let document: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(document["openapi"], "3.0.0");
        assert!(document["paths"].get(format!("/{root}/")).is_some(), "{root}");
        assert!(url.ends_with(header(&headers, "etag").trim_matches('"')));
    }
    let (code, headers, _) = get(&admin, "/openapi/v3/api/v1?hash=0123", &[]).await;
    assert_eq!(code, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(
        header(&headers, "location"),
        index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap()
    );
    let (code, headers, _) = get(&admin, "/openapi/v3/apis/apps/v1", &[]).await;
    assert_eq!((code, header(&headers, "cache-control")), (StatusCode::OK, ""));
    assert_eq!(admin.get("/openapi/v3/apis/apps/v9").await.0, StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_answers_every_generation_of_clients() {
    let (server, admin) = Server::start().await;
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
    let (code, headers, body) = get(
        &admin,
        "/apis",
        &[("accept", &format!("{aggregated},{beta},application/json"))],
    )
    .await;
    assert_eq!(
        (code, header(&headers, "content-type"), header(&headers, "vary")),
        (StatusCode::OK, aggregated, "Accept")
    );
    let list: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&json!("APIGroupDiscoveryList"), &json!("apidiscovery.k8s.io/v2"))
    );
    let apps = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|group| group["metadata"]["name"] == "apps")
        .unwrap();
    let resources = apps["versions"][0]["resources"].as_array().unwrap();
    let deployments = resources
        .iter()
        .find(|resource| resource["resource"] == "deployments")
        .unwrap();
    assert_eq!(
        deployments["responseKind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    assert_eq!(deployments["subresources"][0]["responseKind"]["kind"], "Scale");
    let etag = header(&headers, "etag").to_owned();
    let (code, ..) = get(&admin, "/apis", &[("accept", aggregated), ("if-none-match", &etag)]).await;
    assert_eq!(code, StatusCode::NOT_MODIFIED);

    let (_, headers, _) = get(&admin, "/api", &[("accept", beta)]).await;
    assert_eq!(header(&headers, "content-type"), beta);
    let (_, headers, body) = get(
        &admin,
        "/api",
        &[(
            "accept",
            "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        )],
    )
    .await;
    assert!(
        header(&headers, "content-type").starts_with("application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2")
    );
    assert!(body.starts_with(b"k8s\0"));
    // A form that is not served falls back to the next clause.
    let (_, headers, body) = get(
        &admin,
        "/apis",
        &[(
            "accept",
            "application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList,application/json",
        )],
    )
    .await;
    assert_eq!(header(&headers, "content-type"), "application/json");
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["kind"], "APIGroupList");
    let (_, headers, body) = get(&admin, "/apis", &[("accept", "application/vnd.kubernetes.protobuf")]).await;
    assert_eq!(header(&headers, "content-type"), "application/vnd.kubernetes.protobuf");
    assert!(body.starts_with(b"k8s\0"));

    let (_, core) = admin.get("/api/v1").await;
    let resources = core["resources"].as_array().unwrap();
    let pods = resources.iter().find(|resource| resource["name"] == "pods").unwrap();
    assert_eq!(pods["storageVersionHash"], "xPOwRZ+Yhw8=");
    let eviction = resources
        .iter()
        .find(|resource| resource["name"] == "pods/eviction")
        .unwrap();
    assert_eq!(
        (&eviction["group"], &eviction["version"]),
        (&json!("policy"), &json!("v1"))
    );
    let (_, versions) = admin.get("/api").await;
    assert_eq!(
        (&versions["kind"], &versions["versions"]),
        (&json!("APIVersions"), &json!(["v1"]))
    );
    assert!(
        versions["serverAddressByClientCIDRs"][0]["serverAddress"]
            .as_str()
            .unwrap()
            .contains(':')
    );
    let (_, autoscaling) = admin.get("/apis/autoscaling").await;
    assert_eq!(autoscaling["preferredVersion"]["version"], "v2");
    let (_, version) = admin.get("/version").await;
    assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("35")));
    let (_, root) = admin.get("/").await;
    for path in [
        "/api",
        "/apis/apps/v1",
        "/healthz/ping",
        "/openapi/v2",
        "/readyz/shutdown",
        "/version",
    ] {
        assert!(root["paths"].as_array().unwrap().contains(&json!(path)), "{path}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_check_by_check() {
    let (server, admin) = Server::start().await;
    let text = |body: Vec<u8>| String::from_utf8(body).unwrap();
    let (code, headers, body) = get(&admin, "/livez", &[]).await;
    assert_eq!((code, text(body).as_str()), (StatusCode::OK, "ok"));
    assert_eq!(header(&headers, "x-content-type-options"), "nosniff");
    let (_, _, body) = get(&admin, "/readyz?verbose", &[]).await;
    let body = text(body);
    for line in [
        "[+]ping ok\n",
        "[+]log ok\n",
        "[+]poststarthook/rbac/bootstrap-roles ok\n",
        "[+]shutdown ok\n",
    ] {
        assert!(body.contains(line), "{body}");
    }
    assert!(body.ends_with("readyz check passed\n"), "{body}");
    let (_, _, body) = get(&admin, "/livez?verbose&exclude=log", &[]).await;
    assert!(text(body).contains("[+]log excluded: ok\n"));
    let (code, _, body) = get(&admin, "/readyz/poststarthook/rbac/bootstrap-roles", &[]).await;
    assert_eq!((code, text(body).as_str()), (StatusCode::OK, "ok"));
    assert_eq!(get(&admin, "/livez/nothing", &[]).await.0, StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_upstreams_names() {
    let (server, admin) = Server::start().await;
    admin.get("/api/v1/namespaces/default/pods").await;
    admin.get("/api/v1/namespaces/default/pods/nothing").await;
    let (_, _, body) = get(&admin, "/metrics", &[]).await;
    let text = String::from_utf8(body).unwrap();
    for line in [
        "apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"namespace\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 1",
        "apiserver_request_total{code=\"404\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"GET\",version=\"v1\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}");
    }
    for name in [
        "apiserver_request_duration_seconds_bucket",
        "apiserver_request_sli_duration_seconds_bucket",
        "apiserver_response_sizes_bucket",
        "apiserver_current_inflight_requests",
        "authentication_attempts",
        "authenticated_user_requests",
        "authentication_duration_seconds_count",
        "authorization_attempts_total",
        "kubernetes_build_info",
        "process_start_time_seconds",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name}");
    }
    server.stop().await;
}
