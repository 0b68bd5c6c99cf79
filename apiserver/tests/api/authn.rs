//! Who is asking: what a client sees of authentication.

use std::path::PathBuf;

use ::http::{Method, StatusCode};
use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};
use serde_json::{Value, json};

use super::http::send;
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
