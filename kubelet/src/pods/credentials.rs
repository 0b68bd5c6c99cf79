//! Registry credentials from a pod's imagePullSecrets.

use crate::runtime::images;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::cri;
use serde_json::Value;

/// Credentials for `image` in a docker configuration (`.dockerconfigjson` or the older `.dockercfg`); the longest match of a registry path first.
pub fn for_image(image: &str, docker_config: &[u8]) -> Vec<cri::AuthConfig> {
    let Ok(config) = serde_json::from_slice::<Value>(docker_config) else {
        return Vec::new();
    };
    let entries = config.get("auths").unwrap_or(&config);
    let registry = images::registry(image);
    let full = if image.starts_with(registry) {
        image.to_owned()
    } else {
        format!("{registry}/{image}")
    };
    let mut found: Vec<(usize, cri::AuthConfig)> = Vec::new();
    for (key, entry) in entries.as_object().into_iter().flatten() {
        let key = key.trim_start_matches("https://").trim_start_matches("http://");
        let key = key
            .trim_end_matches('/')
            .trim_end_matches("/v1")
            .trim_end_matches("/v2");
        let key = if key == "index.docker.io" { "docker.io" } else { key };
        let covers = full == key || full.strip_prefix(key).is_some_and(|rest| rest.starts_with('/'));
        if covers || wildcard(key, registry) {
            found.extend(auth(registry, entry).map(|auth| (key.len(), auth)));
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, auth)| auth).collect()
}

fn wildcard(key: &str, registry: &str) -> bool {
    key.strip_prefix("*.").is_some_and(|suffix| {
        registry
            .strip_suffix(suffix)
            .is_some_and(|head| head.ends_with('.') && !head.trim_end_matches('.').contains('.'))
    })
}

fn auth(registry: &str, entry: &Value) -> Option<cri::AuthConfig> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
    let (username, password) = match (text("username"), text("password"), text("auth")) {
        (Some(username), Some(password), _) => (username, password),
        (_, _, Some(auth)) => {
            let decoded = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
            let (username, password) = decoded.split_once(':')?;
            (username.to_owned(), password.to_owned())
        }
        _ => return None,
    };
    Some(cri::AuthConfig {
        username,
        password,
        server_address: registry.to_owned(),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_matching_path_comes_first() {
        let config = br#"{"auths":{"reg.io":{"username":"a","password":"1"},"https://reg.io/team":{"auth":"YjoyOjM="},"*.corp.io":{"username":"c","password":"3"}}}"#;
        let names =
            |image: &str| -> Vec<String> { for_image(image, config).into_iter().map(|auth| auth.username).collect() };
        assert_eq!(names("reg.io/team/app:1"), ["b", "a"]);
        assert_eq!(names("reg.io/teammate/app"), ["a"]);
        assert_eq!(names("x.corp.io/app"), ["c"]);
        assert!(names("x.y.corp.io/app").is_empty());
        assert!(names("busybox").is_empty());
        assert!(for_image("a", b"rubbish").is_empty());
    }
}
