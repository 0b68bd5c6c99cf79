//! Who is asking: what a client sees of authentication.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ::http::{Method, StatusCode};
use kube_apiserver::authn::jwt::{PublicKey, Signer};
use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};
use serde_json::{Value, json};

use super::http::send;
use super::remote::Remote;
use crate::{Pki, Server};

const WHO_AM_I: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// A client certificate for these years.
fn for_years(server: &Server, pki: &Pki<'_>, name: &str, from: i32, to: i32) -> PathBuf {
    let mut leaf = CertificateParams::new(Vec::<String>::new()).unwrap();
    leaf.distinguished_name.push(DnType::CommonName, name);
    (leaf.not_before, leaf.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
    let key = KeyPair::generate().unwrap();
    let path = server.dir.path().join(name);
    std::fs::write(
        path.with_extension("crt"),
        leaf.signed_by(&key, &pki.issuer).unwrap().pem(),
    )
    .unwrap();
    std::fs::write(path.with_extension("key"), key.serialize_pem()).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_certificate_is_answered_and_a_good_token_beside_it_counts() {
    let (server, admin) = Server::start().await;
    let dir = server.dir.path().to_owned();
    let strangers = Pki::new(&dir, "strangers");
    strangers.issue("stranger", "system:masters");
    let ours = Pki::again(&dir);
    let expired = for_years(&server, &ours, "expired", 2020, 2021);
    let early = for_years(&server, &ours, "early", 4000, 4001);
    for identity in [dir.join("stranger"), expired, early.clone()] {
        let answer = send(&server, Some(&identity), Method::GET, "/version", &[], Value::Null).await;
        assert_eq!(answer.code, StatusCode::UNAUTHORIZED, "{}", identity.display());
        assert_eq!(answer.message(), "Unauthorized");
        assert_eq!(
            (&answer.body["kind"], &answer.body["reason"]),
            (&json!("Status"), &json!("Unauthorized"))
        );
    }
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    admin.create(accounts, json!({"metadata": {"name": "a"}})).await;
    let (_, issued) = admin.create(&format!("{accounts}/a/token"), json!({})).await;
    let bearer = format!("Bearer {}", issued["status"]["token"].as_str().unwrap());
    let answer = send(
        &server,
        Some(&early),
        Method::POST,
        WHO_AM_I,
        &[("authorization", &bearer)],
        json!({}),
    )
    .await;
    assert_eq!(
        answer.body["status"]["userInfo"]["username"], "system:serviceaccount:default:a",
        "{}",
        answer.body
    );
    server.stop().await;
}

async fn who(server: &Server, token: &str) -> super::http::Answer {
    let bearer = format!("Bearer {token}");
    send(
        server,
        None,
        Method::POST,
        WHO_AM_I,
        &[("authorization", &bearer)],
        json!({}),
    )
    .await
}

/// The name that a token gives, or nothing if it is refused.
async fn name(server: &Server, token: &str) -> String {
    let answer = who(server, token).await;
    answer.body["status"]["userInfo"]["username"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !check().await {
        assert!(Instant::now() < patience, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn signer() -> Arc<Signer> {
    Arc::new(Signer::from_pem(KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn oidc_issuers_are_configured_by_file_and_followed() {
    let keys = Arc::new(Mutex::new(signer()));
    let (published, url) = (keys.clone(), Arc::new(Mutex::new(String::new())));
    let issuer = {
        let url = url.clone();
        Remote::start(move |path, _| match path {
            "/.well-known/openid-configuration" => {
                let url = url.lock().unwrap().clone();
                (200, json!({"issuer": url, "jwks_uri": format!("{url}/keys")}))
            }
            "/keys" => (200, json!({"keys": [published.lock().unwrap().public().jwk()]})),
            _ => (404, Value::Null),
        })
    };
    *url.lock().unwrap() = issuer.url();
    let file = |prefix: &str| {
        json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "jwt": [{"issuer": {"url": issuer.url(), "certificateAuthority": issuer.authority(), "audiences": ["keelson"]},
                "claimMappings": {"username": {"claim": "sub", "prefix": prefix}, "groups": {"expression": "claims.roles"}},
                "userValidationRules": [{"expression": "!user.username.startsWith('system:')", "message": "reserved"}]}],
            "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]}})
        .to_string()
    };
    let (server, _admin) = Server::start_with(|dir, settings| {
        let path = dir.join("authn.json");
        std::fs::write(&path, file("idp:")).unwrap();
        settings.authentication.authentication_config = Some(path);
    })
    .await;
    let claims = |sub: &str, audience: &str, lives: u64| json!({"iss": issuer.url(), "aud": audience, "sub": sub, "exp": now() + lives, "roles": ["dev"]});
    let sign = |claims: Value| keys.lock().unwrap().sign(&claims).unwrap();

    let answer = who(&server, &sign(claims("amy", "keelson", 60))).await;
    assert_eq!(
        answer.body["status"]["userInfo"],
        json!({"username": "idp:amy", "groups": ["dev", "system:authenticated"]}),
        "{}",
        answer.body
    );
    for bad in [claims("amy", "other", 60), claims("amy", "keelson", 0)] {
        assert_eq!(who(&server, &sign(bad)).await.code, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(
        who(&server, &signer().sign(&claims("amy", "keelson", 60)).unwrap())
            .await
            .code,
        StatusCode::UNAUTHORIZED
    );

    // The issuer's new key is fetched, and the old one believed no more.
    let old = sign(claims("amy", "keelson", 60));
    *keys.lock().unwrap() = signer();
    eventually("the new key is not taken", async || {
        name(&server, &sign(claims("amy", "keelson", 60))).await == "idp:amy"
    })
    .await;
    assert_eq!(who(&server, &old).await.code, StatusCode::UNAUTHORIZED);

    // Without credentials only where the file says.
    for (path, code) in [
        ("/livez", StatusCode::OK),
        ("/readyz", StatusCode::UNAUTHORIZED),
        ("/version", StatusCode::UNAUTHORIZED),
    ] {
        assert_eq!(
            send(&server, None, Method::GET, path, &[], Value::Null).await.code,
            code,
            "{path}"
        );
    }

    // The file is followed; a broken one is not.
    std::fs::write(server.dir.path().join("authn.json"), file("new:")).unwrap();
    eventually("the file is not read again", async || {
        name(&server, &sign(claims("amy", "keelson", 60))).await == "new:amy"
    })
    .await;
    assert_eq!(
        who(&server, &sign(claims("amy", "keelson", 60))).await.code,
        StatusCode::CREATED
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_asked_about_tokens_and_believed_for_a_while() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    let remote = Remote::start(move |_, review| {
        log.lock().unwrap().push(review.clone());
        let status = match review["spec"]["token"].as_str() {
            Some("good") => {
                json!({"authenticated": true, "user": {"username": "remote-amy", "uid": "7", "groups": ["r"], "extra": {"k": ["v"]}}})
            }
            _ => json!({"authenticated": false, "error": "no such token"}),
        };
        (
            200,
            json!({"apiVersion": review["apiVersion"], "kind": "TokenReview", "status": status}),
        )
    });
    let (server, admin) = Server::start_with(|dir, settings| {
        let tokens = dir.join("tokens.csv");
        std::fs::write(&tokens, "static-token,static-amy,42,\"a,b\"\n").unwrap();
        settings.token_auth_file = Some(tokens);
        settings.authentication.authentication_token_webhook_config_file = Some(remote.kubeconfig());
        settings.authentication.authentication_token_webhook_version = Some("v1".into());
    })
    .await;
    for _ in 0..3 {
        let answer = who(&server, "good").await;
        let user = json!({"username": "remote-amy", "uid": "7", "groups": ["r", "system:authenticated"], "extra": {"k": ["v"]}});
        assert_eq!(answer.body["status"]["userInfo"], user, "{}", answer.body);
    }
    assert_eq!(asked.lock().unwrap().len(), 1, "the answer is remembered");
    assert_eq!(asked.lock().unwrap()[0]["apiVersion"], "authentication.k8s.io/v1");
    assert_eq!(name(&server, "static-token").await, "static-amy");
    assert_eq!(who(&server, "bad").await.code, StatusCode::UNAUTHORIZED);
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (_, review) = admin.create(reviews, json!({"spec": {"token": "bad"}})).await;
    assert_eq!(
        review["status"],
        json!({"user": {}, "error": "[invalid bearer token, no such token]"})
    );
    let (_, review) = admin
        .create(reviews, json!({"spec": {"token": "static-token", "audiences": ["x"]}}))
        .await;
    assert_eq!(
        review["status"],
        json!({"authenticated": true, "audiences": ["x"],
        "user": {"username": "static-amy", "uid": "42", "groups": ["a", "b", "system:authenticated"]}})
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bootstrap_tokens_live_as_long_as_their_secret() {
    let (server, admin) = Server::start().await;
    let token = "abcdef.0123456789abcdef";
    assert_eq!(who(&server, token).await.code, StatusCode::UNAUTHORIZED);
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    let secret = json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token",
        "stringData": {"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true", "auth-extra-groups": "system:bootstrappers:x"}});
    let (code, made) = admin.create(secrets, secret).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    let answer = who(&server, token).await;
    let groups = json!(["system:bootstrappers", "system:bootstrappers:x", "system:authenticated"]);
    assert_eq!(
        answer.body["status"]["userInfo"],
        json!({"username": "system:bootstrap:abcdef", "groups": groups}),
        "{}",
        answer.body
    );
    admin
        .call(
            Method::DELETE,
            &format!("{secrets}/bootstrap-token-abcdef"),
            "",
            Value::Null,
        )
        .await;
    assert_eq!(who(&server, token).await.code, StatusCode::UNAUTHORIZED);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn account_tokens_go_with_what_they_are_bound_to() {
    let (server, admin) = Server::start().await;
    let (accounts, pods) = (
        "/api/v1/namespaces/default/serviceaccounts",
        "/api/v1/namespaces/default/pods",
    );
    admin.create(accounts, json!({"metadata": {"name": "a"}})).await;
    let mut pod = crate::pod("p");
    pod["spec"]["serviceAccountName"] = "a".into();
    let (code, pod) = admin.create(pods, pod).await;
    assert_eq!(code, StatusCode::CREATED, "{pod}");
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": pod["metadata"]["uid"]});
    let request = |spec: Value| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let issue = async |spec: Value| admin.create(&format!("{accounts}/a/token"), request(spec)).await;
    let (code, issued) = issue(json!({"boundObjectRef": bound, "expirationSeconds": 600})).await;
    assert_eq!(code, StatusCode::CREATED, "{issued}");
    let token = issued["status"]["token"].as_str().unwrap().to_owned();
    let user = who(&server, &token).await.body["status"]["userInfo"].clone();
    assert_eq!(user["username"], "system:serviceaccount:default:a", "{user}");
    let extra = &user["extra"];
    assert_eq!(
        (
            &extra["authentication.kubernetes.io/pod-name"],
            &extra["authentication.kubernetes.io/pod-uid"]
        ),
        (&json!(["p"]), &json!([pod["metadata"]["uid"]]))
    );
    assert!(
        extra["authentication.kubernetes.io/credential-id"][0]
            .as_str()
            .unwrap()
            .starts_with("JTI=")
    );

    // Bounds and other audiences.
    let (code, refused) = issue(json!({"expirationSeconds": 5})).await;
    assert_eq!(
        (code, &refused["details"]["causes"][0]["field"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("spec.expirationSeconds"))
    );
    let (code, _) =
        issue(json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "other"}})).await;
    assert_eq!(code, StatusCode::CONFLICT);
    let (_, other) = issue(json!({"audiences": ["elsewhere"]})).await;
    let other = other["status"]["token"].as_str().unwrap().to_owned();
    assert_eq!(who(&server, &other).await.code, StatusCode::UNAUTHORIZED);
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (_, review) = admin
        .create(
            reviews,
            json!({"spec": {"token": other, "audiences": ["elsewhere", "x"]}}),
        )
        .await;
    assert_eq!(
        (&review["status"]["authenticated"], &review["status"]["audiences"]),
        (&json!(true), &json!(["elsewhere"]))
    );
    let (_, review) = admin.create(reviews, json!({"spec": {"token": other}})).await;
    let error = review["status"]["error"].as_str().unwrap();
    assert!(
        error.starts_with("[invalid bearer token, token audiences [\"elsewhere\"] is invalid for the target audiences"),
        "{error}"
    );

    admin
        .call(
            Method::DELETE,
            &format!("{pods}/p?gracePeriodSeconds=0"),
            "",
            Value::Null,
        )
        .await;
    assert_eq!(who(&server, &token).await.code, StatusCode::UNAUTHORIZED);

    // Others can check the tokens themselves.
    let as_admin = server.dir.path().join("admin");
    let get = async |path: &str| send(&server, Some(&as_admin), Method::GET, path, &[], Value::Null).await;
    let document = get("/.well-known/openid-configuration").await;
    assert_eq!(document.headers["content-type"], "application/json");
    assert_eq!(document.body["issuer"], "https://kubernetes.default.svc.cluster.local");
    let keys = get("/openid/v1/jwks").await;
    assert_eq!(
        (&keys.headers["content-type"], &keys.headers["cache-control"]),
        (
            &"application/jwk-set+json".parse().unwrap(),
            &"public, max-age=3600".parse().unwrap()
        )
    );
    let key = PublicKey::from_jwk(&keys.body["keys"][0]).unwrap();
    assert!(kube_apiserver::authn::jwt::verify(&other, &[key]).is_ok());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_front_proxy_speaks_for_others_and_nobody_else_does() {
    let proxies = tempfile::tempdir().unwrap();
    let pki = Pki::new(proxies.path(), "ca");
    pki.issue("aggregator", "proxies");
    pki.issue("impostor", "proxies");
    let (server, _) = Server::start_with(|_, settings| {
        settings.authentication.requestheader_client_ca_file = Some(proxies.path().join("ca.crt"));
        settings.authentication.requestheader_allowed_names = vec!["aggregator".into()];
    })
    .await;
    let headers = [
        ("x-remote-user", "amy"),
        ("x-remote-group", "dev"),
        ("x-remote-group", "ops"),
        ("x-remote-uid", "9"),
        ("x-remote-extra-acme.io%2ftenant", "t"),
    ];
    let ask =
        async |identity: PathBuf| send(&server, Some(&identity), Method::POST, WHO_AM_I, &headers, json!({})).await;
    let answer = ask(proxies.path().join("aggregator")).await;
    let user = json!({"username": "amy", "uid": "9", "groups": ["dev", "ops", "system:authenticated"], "extra": {"acme.io/tenant": ["t"]}});
    assert_eq!(answer.body["status"]["userInfo"], user, "{}", answer.body);
    assert_eq!(
        ask(proxies.path().join("impostor")).await.code,
        StatusCode::UNAUTHORIZED
    );
    let answer = ask(server.dir.path().join("bob")).await;
    assert_eq!(
        answer.body["status"]["userInfo"]["username"], "bob",
        "an ordinary client's headers say nothing"
    );
    server.stop().await;
}
