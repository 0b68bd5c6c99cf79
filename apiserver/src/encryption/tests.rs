use super::*;
use config::Source;

const ONE: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const TWO: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

fn source(providers: &str) -> Result<Source, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("encryption.yaml");
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n";
    std::fs::write(
        &path,
        format!("{head}- resources: [secrets, \"*.apps\"]\n  providers: [{providers}]\n"),
    )
    .unwrap();
    Source::read(Some(path.clone()), false, dir.path().join("key"))
        .map_err(|e| e.to_string().replace(&path.display().to_string(), "F"))
}

fn keys(providers: &str) -> Arc<Keys> {
    let source = source(providers).unwrap_or_else(|e| panic!("{e}"));
    Keys::new(&source.config, &prometheus::Registry::new()).unwrap()
}

fn key(kind: &str, name: &str, secret: &str) -> String {
    format!("{{{kind}: {{keys: [{{name: {name}, secret: \"{secret}\"}}]}}}}")
}

#[test]
fn what_one_key_sealed_the_next_order_of_keys_opens() {
    let (old, new) = (key("aesgcm", "one", ONE), key("secretbox", "two", TWO));
    let before = keys(&old);
    let sealed = before.seal("core/secrets/a/b", b"c", b"plain text").unwrap();
    assert!(!sealed.windows(5).any(|w| w == b"plain"));
    assert_eq!(before.open(b"c", &sealed).as_deref(), Ok(&b"plain text"[..]));
    assert!(!before.take_stale());

    let rotated = keys(&format!("{new}, {old}"));
    assert_eq!(rotated.open(b"c", &sealed).as_deref(), Ok(&b"plain text"[..]));
    assert!(rotated.take_stale(), "it should be written with the new key");
    let again = rotated.seal("core/secrets/a/b", b"c", b"plain text").unwrap();
    assert_eq!(keys(&new).open(b"c", &again).as_deref(), Ok(&b"plain text"[..]));
    assert_eq!(
        keys(&new).open(b"c", &sealed).unwrap_err(),
        "cannot decrypt stored data: it was encrypted by aesgcm \"one\", which is not among the configured providers"
    );
    let wrong = keys(&key("aesgcm", "one", TWO));
    assert_eq!(
        wrong.open(b"c", &sealed).unwrap_err(),
        "cannot decrypt stored data: aesgcm \"one\": the key does not fit"
    );
}

#[test]
fn changed_data_is_refused() {
    let keys = keys(&key("aesgcm", "one", ONE));
    let sealed = keys.seal("core/secrets/a/b", b"c", b"plain").unwrap();
    assert!(keys.open(b"another place", &sealed).is_err());
    for i in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[i] ^= 1;
        assert!(keys.open(b"c", &changed).is_err(), "byte {i}");
        assert!(keys.open(b"c", &sealed[..i]).is_err(), "cut at {i}");
    }
}

#[test]
fn only_the_named_resources_are_sealed() {
    let all = keys(&key("aesgcm", "one", ONE));
    let sealed = |key: &str| (all.protects(key), all.seal(key, b"", b"x").is_some());
    for (key, expected) in [
        ("core/secrets/a/b", true),
        ("core/configmaps/a/b", false),
        ("apps/deployments/a/b", true),
        ("core/apps/a/b", false),
        ("secrets", false),
    ] {
        assert_eq!(sealed(key), (expected, expected), "{key}");
    }
    let open = keys("{identity: {}}");
    assert!(!open.protects("core/secrets/a/b"));
}

#[test]
fn a_wrong_configuration_is_refused_in_one_line_without_its_secrets() {
    for (providers, expected) in [
        (
            key("aesgcm", "one", "c2hvcnQ="),
            "F: resources[0].providers[0].aesgcm.keys[0].secret: expected 16 or 32 bytes in base64",
        ),
        (
            key("secretbox", "one", "c2hvcnQ="),
            "F: resources[0].providers[0].secretbox.keys[0].secret: expected 32 bytes in base64",
        ),
        (
            key("aescbc", "one", ONE),
            "F: resources[0].providers[0].aescbc: this provider does not authenticate what it encrypts and is not offered; use secretbox or aesgcm",
        ),
        (
            "{}".into(),
            "F: resources[0].providers[0].expected exactly one of aesgcm, secretbox, kms and identity",
        ),
        (
            "{kms: {apiVersion: v1, name: k, endpoint: \"unix:///s\"}}".into(),
            "F: resources[0].providers[0].kms.apiVersion: expected v2, found \"v1\"",
        ),
        (
            "{kms: {apiVersion: v2, name: k, endpoint: \"https://s\"}}".into(),
            "F: resources[0].providers[0].kms.endpoint: expected unix://<path>, found \"https://s\"",
        ),
    ] {
        assert_eq!(source(&providers).unwrap_err(), expected);
    }
}

#[test]
fn without_a_file_a_key_is_made_once_for_secrets() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("encryption.key");
    let read = || Source::read(None, false, path.clone()).unwrap();
    let made = Keys::new(&read().config, &prometheus::Registry::new()).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let sealed = made.seal("core/secrets/a/b", b"", b"plain").unwrap();
    assert!(made.seal("core/configmaps/a/b", b"", b"plain").is_none());
    let again = Keys::new(&read().config, &prometheus::Registry::new()).unwrap();
    assert_eq!(again.open(b"", &sealed).as_deref(), Ok(&b"plain"[..]));
}

/// A plugin with two keys, of which the second one may be switched to; it can be told to be ill.
#[derive(Clone, Default)]
struct Plugin {
    second: Arc<AtomicBool>,
    ill: Arc<AtomicBool>,
    decryptions: Arc<AtomicU64>,
}

impl Plugin {
    fn key_id(&self) -> String {
        if self.second.load(Ordering::Relaxed) {
            "second"
        } else {
            "first"
        }
        .to_owned()
    }
}

fn turned(bytes: &[u8], key_id: &str) -> Vec<u8> {
    bytes.iter().map(|b| b ^ key_id.as_bytes()[0]).collect()
}

#[tonic::async_trait]
impl proto::kms::key_management_service_server::KeyManagementService for Plugin {
    async fn status(
        &self,
        _: tonic::Request<proto::kms::StatusRequest>,
    ) -> Result<tonic::Response<proto::kms::StatusResponse>, tonic::Status> {
        let healthz = if self.ill.load(Ordering::Relaxed) { "ill" } else { "ok" };
        Ok(tonic::Response::new(proto::kms::StatusResponse {
            version: "v2".into(),
            healthz: healthz.into(),
            key_id: self.key_id(),
        }))
    }

    async fn encrypt(
        &self,
        request: tonic::Request<proto::kms::EncryptRequest>,
    ) -> Result<tonic::Response<proto::kms::EncryptResponse>, tonic::Status> {
        let key_id = self.key_id();
        Ok(tonic::Response::new(proto::kms::EncryptResponse {
            ciphertext: turned(&request.into_inner().plaintext, &key_id),
            annotations: [("a.example.com".to_owned(), b"1".to_vec())].into(),
            key_id,
        }))
    }

    async fn decrypt(
        &self,
        request: tonic::Request<proto::kms::DecryptRequest>,
    ) -> Result<tonic::Response<proto::kms::DecryptResponse>, tonic::Status> {
        self.decryptions.fetch_add(1, Ordering::Relaxed);
        let request = request.into_inner();
        if request.annotations.get("a.example.com").map(Vec::as_slice) != Some(b"1") {
            return Err(tonic::Status::invalid_argument("the annotation is missing"));
        }
        Ok(tonic::Response::new(proto::kms::DecryptResponse {
            plaintext: turned(&request.ciphertext, &request.key_id),
        }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kms_plugin_wraps_data_keys_and_rotates_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("kms.sock");
    let plugin = Plugin::default();
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let service = proto::kms::key_management_service_server::KeyManagementServiceServer::new(plugin.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper_util::service::TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                let executor = hyper_util::rt::TokioExecutor::new();
                hyper::server::conn::http2::Builder::new(executor)
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                    .await
            });
        }
    });
    let providers = format!(
        "{{kms: {{apiVersion: v2, name: k, endpoint: \"unix://{}\"}}}}",
        socket.display()
    );
    let work = move || {
        let source = source(&providers).unwrap();
        let keys = Keys::new(&source.config, &prometheus::Registry::new()).unwrap();
        let asked = plugin.decryptions.load(Ordering::Relaxed);
        let sealed = keys.seal("core/secrets/a/b", b"", b"plain").unwrap();
        for _ in 0..10 {
            assert_eq!(keys.open(b"", &sealed).as_deref(), Ok(&b"plain"[..]));
        }
        assert_eq!(
            plugin.decryptions.load(Ordering::Relaxed),
            asked + 1,
            "the data key is remembered"
        );
        assert_eq!(keys.check(&source.config), Ok(()));
        assert!(!keys.take_stale());

        plugin.second.store(true, Ordering::Relaxed);
        assert_eq!(keys.check(&source.config), Ok(()));
        assert!(keys.take_stale(), "there is a new data key");
        let again = keys.seal("core/secrets/a/b", b"", b"plain").unwrap();
        assert!(again.windows(6).any(|w| w == b"second"));
        assert_eq!(
            keys.open(b"", &sealed).as_deref(),
            Ok(&b"plain"[..]),
            "the old one is still good"
        );

        plugin.ill.store(true, Ordering::Relaxed);
        assert_eq!(
            keys.check(&source.config).unwrap_err(),
            "unexpected healthz status: ill"
        );
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}
