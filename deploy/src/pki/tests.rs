use std::os::unix::fs::PermissionsExt;

use super::*;

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_790_000_000).expect("a valid time")
}

fn cluster() -> Cluster {
    let node = |name: &str, last: u8, control_plane| Node {
        name: name.into(),
        addresses: vec![[10, 0, 0, last].into()],
        control_plane,
    };
    Cluster {
        nodes: vec![node("one", 11, true), node("two", 12, false)],
        domain: "cluster.local".into(),
        kubernetes_address: [10, 96, 0, 1].into(),
    }
}

fn outcomes(dir: &Path, specs: &[Spec], now: OffsetDateTime) -> Vec<Outcome> {
    ensure(dir, specs, now)
        .expect("certificates")
        .into_iter()
        .map(|(_, outcome)| outcome)
        .collect()
}

#[test]
fn plans_one_certificate_for_each_component_on_each_node() {
    let specs = cluster().certificates();
    let identities: Vec<_> = specs
        .iter()
        .map(|s| (s.file.as_str(), s.common_name.as_str(), s.organization.as_deref()))
        .collect();
    assert_eq!(
        identities,
        [
            ("admin", "kubernetes-admin", Some("system:masters")),
            ("prometheus", "prometheus", Some("system:monitoring")),
            ("one/kube-apiserver", "kube-apiserver", Some("keelson:apiservers")),
            ("one/kube-scheduler", "system:kube-scheduler", None),
            ("one/kube-controller-manager", "system:kube-controller-manager", None),
            ("one/front-proxy-client", "front-proxy-client", None),
            ("one/kubelet", "system:node:one", Some("system:nodes")),
            ("one/kube-proxy", "system:kube-proxy", Some("system:node-proxier")),
            ("two/kubelet", "system:node:two", Some("system:nodes")),
            ("two/kube-proxy", "system:kube-proxy", Some("system:node-proxier")),
        ]
    );
    let apiserver = &specs[2];
    for name in [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ] {
        assert!(apiserver.dns_names.iter().any(|n| n == name), "{name} is missing");
    }
    let expected: [IpAddr; 3] = [[10, 0, 0, 11].into(), [127, 0, 0, 1].into(), [10, 96, 0, 1].into()];
    assert_eq!(apiserver.addresses, expected);
}

#[test]
fn keeps_what_is_good() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let specs = cluster().certificates();
    assert!(
        outcomes(dir.path(), &specs, now())
            .iter()
            .all(|o| *o == Outcome::Issued)
    );
    let sa = std::fs::read(dir.path().join("sa.key")).expect("key");
    assert!(outcomes(dir.path(), &specs, now()).iter().all(|o| *o == Outcome::Kept));
    assert_eq!(std::fs::read(dir.path().join("sa.key")).expect("key"), sa);
}

#[test]
fn issues_again_what_expires_or_changed() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let mut specs = cluster().certificates();
    ensure(dir.path(), &specs, now()).expect("certificates");
    assert!(
        outcomes(dir.path(), &specs, now() + Duration::days(340))
            .iter()
            .all(|o| *o == Outcome::Issued),
        "about to expire"
    );

    let later = now() + Duration::days(340);
    specs[2].addresses.push([192, 0, 2, 1].into());
    std::fs::remove_file(dir.path().join("two/kubelet.key")).expect("remove");
    std::fs::copy(
        dir.path().join("one/kubelet.key"),
        dir.path().join("two/kube-proxy.key"),
    )
    .expect("copy");
    let issued: Vec<_> = ensure(dir.path(), &specs, later)
        .expect("certificates")
        .into_iter()
        .filter(|(_, o)| *o == Outcome::Issued)
        .collect();
    let names: Vec<_> = issued
        .iter()
        .map(|(path, _)| path.strip_prefix(dir.path()).expect("prefix").to_str().expect("text"))
        .collect();
    assert_eq!(
        names,
        ["one/kube-apiserver.crt", "two/kubelet.crt", "two/kube-proxy.crt"]
    );
}

#[test]
fn issues_again_what_another_authority_signed() {
    let (ours, theirs) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    let specs = cluster().certificates();
    ensure(ours.path(), &specs, now()).expect("certificates");
    ensure(theirs.path(), &specs, now()).expect("certificates");
    for extension in ["crt", "key"] {
        let file = format!("one/kubelet.{extension}");
        std::fs::copy(theirs.path().join(&file), ours.path().join(&file)).expect("copy");
    }
    let issued = outcomes(ours.path(), &specs, now())
        .iter()
        .filter(|o| **o == Outcome::Issued)
        .count();
    assert_eq!(issued, 1);
}

#[test]
fn renews_with_new_keys_and_the_same_names() {
    let dir = tempfile::tempdir().expect("temporary folder");
    ensure(dir.path(), &cluster().certificates(), now()).expect("certificates");
    let before = list(dir.path()).expect("list");
    let later = now() + Duration::days(100);
    assert_eq!(renew(dir.path(), later).expect("renewed").len(), before.len() - 2);
    for ((path, old), (_, new)) in before.iter().zip(list(dir.path()).expect("list")) {
        assert_eq!(old.spec("x"), new.spec("x"), "{}", path.display());
        assert_eq!(old.public_key == new.public_key, old.is_authority, "{}", path.display());
        assert_eq!(
            new.not_after - old.not_after,
            if old.is_authority {
                Duration::ZERO
            } else {
                Duration::days(100)
            }
        );
    }
}

#[test]
fn is_readable_by_its_owner_only() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let pki = dir.path().join("pki");
    ensure(&pki, &cluster().certificates(), now()).expect("certificates");
    for folder in [pki.clone(), pki.join("one")] {
        assert_eq!(
            std::fs::metadata(&folder).expect("folder").permissions().mode() & 0o777,
            0o700
        );
        for file in files::entries(&folder)
            .expect("entries")
            .iter()
            .filter(|path| path.is_file())
        {
            assert_eq!(
                std::fs::metadata(file).expect("file").permissions().mode() & 0o777,
                0o600,
                "{}",
                file.display()
            );
        }
    }
}

#[test]
fn refuses_half_an_authority_and_names_the_file() {
    let dir = tempfile::tempdir().expect("temporary folder");
    ensure(dir.path(), &[], now()).expect("authority");
    std::fs::remove_file(dir.path().join("ca.key")).expect("remove");
    let error = ensure(dir.path(), &[], now())
        .expect_err("half an authority")
        .to_string();
    assert!(error.contains("ca.key: missing"), "{error}");
    std::fs::write(dir.path().join("ca.key"), "no key").expect("write");
    let error = ensure(dir.path(), &[], now()).expect_err("no key").to_string();
    assert!(error.contains("ca.key: expected a private key"), "{error}");
}

#[test]
fn gives_each_machine_all_that_it_needs_in_one_folder() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let mut cluster = cluster();
    cluster.nodes[1].control_plane = true;
    ensure_cluster(dir.path(), &cluster, now()).expect("certificates");
    for file in [
        "ca.crt",
        "sa.key",
        "sa.pub",
        "encryption.key",
        "kube-apiserver.crt",
        "kube-scheduler.kubeconfig",
        "kube-controller-manager.kubeconfig",
    ] {
        assert!(dir.path().join("two").join(file).exists(), "{file}");
    }
    let text = std::fs::read(dir.path().join("two/kubelet.kubeconfig")).expect("kubeconfig");
    let config: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(
        config["clusters"][0]["cluster"]["server"], "https://10.0.0.12:6443",
        "its own server comes first"
    );
    assert_eq!(
        config["clusters"][0]["cluster"]["extensions"][0]["extension"]["servers"][1],
        "https://10.0.0.11:6443"
    );
    assert_eq!(config["users"][0]["user"]["client-certificate"], "kubelet.crt");
}

#[test]
fn renewal_reaches_the_administrators_kubeconfig() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let read = || -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(dir.path().join("admin.kubeconfig")).expect("kubeconfig")).expect("JSON")
    };
    ensure_cluster(dir.path(), &cluster(), now()).expect("certificates");
    let before = read();
    ensure_cluster(dir.path(), &cluster(), now()).expect("certificates");
    assert_eq!(read(), before);
    renew(dir.path(), now()).expect("renewed");
    let after = read();
    assert_ne!(after["users"], before["users"]);
    assert_eq!(after["clusters"], before["clusters"]);
}

#[test]
fn the_front_proxy_has_an_authority_of_its_own() {
    let dir = tempfile::tempdir().expect("temporary folder");
    ensure(dir.path(), &cluster().certificates(), now()).expect("certificates");
    renew(dir.path(), now()).expect("renewed");
    let certificate = Certificate::read(&dir.path().join("one/front-proxy-client.crt")).expect("certificate");
    let load = |name| Authority::load(dir.path(), name).expect("authority");
    assert!(load(Name::FrontProxy).issued(&certificate));
    assert!(!load(Name::Cluster).issued(&certificate));
}
