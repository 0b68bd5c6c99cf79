//! Bootstrap tokens: Secrets of type `bootstrap.kubernetes.io/token` in `kube-system`, with which a machine without credentials asks for some.
//! Source: `plugin/pkg/auth/authenticator/token/bootstrap`.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::field::text;
use crate::registry::access::UserInfo;
use crate::store::{ReadAt, Store};

const TYPE: &str = "bootstrap.kubernetes.io/token";
const USER: &str = "system:bootstrap:";
const GROUP: &str = "system:bootstrappers";

/// Looks tokens up in the store.
pub struct BootstrapTokens(Arc<dyn Store>);

impl BootstrapTokens {
    /// Secrets are read from this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }

    /// The user of a token; `None` for what is none, or no good any more.
    pub async fn find(&self, token: &str) -> Option<UserInfo> {
        let (id, secret) = parts(token)?;
        let key = format!("core/secrets/kube-system/bootstrap-token-{id}");
        let entry = match self.0.get(&key, ReadAt::Any).await {
            Ok(Some(entry)) => Some(entry),
            _ => self.0.get(&key, ReadAt::Latest).await.ok().flatten(),
        }?;
        let info = api::resources::find("", "v1", "secrets")?;
        let object = api::codec::proto_to_value(info.message, &entry.value).ok()?;
        match judge(&object, id, secret, Timestamp::now()) {
            Ok(user) => Some(user),
            Err(why) => {
                tracing::info!(id, why, "refused a bootstrap token");
                None
            }
        }
    }
}

/// `abcdef.0123456789abcdef`
fn parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain =
        |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (plain(id, 6) && plain(secret, 16)).then_some((id, secret))
}

fn judge(object: &Value, id: &str, secret: &str, now: Timestamp) -> Result<UserInfo, &'static str> {
    let data = |field: &str| {
        let bytes = STANDARD
            .decode(text(&object["data"], &format!("/{field}")))
            .unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    };
    if text(object, "/type") != TYPE {
        return Err("the secret has another type");
    }
    if object["metadata"].get("deletionTimestamp").is_some() {
        return Err("the secret is being deleted");
    }
    let stored = data("token-secret");
    if !same(stored.as_bytes(), secret.as_bytes()) || data("token-id") != id {
        return Err("the secret part is wrong");
    }
    let expiration = data("expiration");
    if !expiration.is_empty() && expiration.parse::<Timestamp>().map_or(true, |at| at <= now) {
        return Err("it has expired");
    }
    if data("usage-bootstrap-authentication") != "true" {
        return Err("it is not for authentication");
    }
    let mut groups = vec![GROUP.to_owned()];
    for group in data("auth-extra-groups").split(',').filter(|g| !g.is_empty()) {
        let rest = group.strip_prefix("system:bootstrappers:").unwrap_or_default();
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let good = rest.len() <= 256
            && rest.bytes().last().is_some_and(allowed)
            && rest.bytes().all(|b| allowed(b) || b == b':' || b == b'-');
        if !good {
            return Err("it names a group that is no bootstrap group");
        }
        groups.push(group.to_owned());
    }
    Ok(UserInfo {
        name: format!("{USER}{id}"),
        groups,
        ..UserInfo::default()
    })
}

/// Compares in a time that tells nothing of where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (x, y)| all | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tokens_are_judged() {
        let secret = |changes: &[(&str, &str)]| {
            let mut data = json!({});
            let usual = [
                ("token-id", "abcdef"),
                ("token-secret", "0123456789abcdef"),
                ("usage-bootstrap-authentication", "true"),
                ("auth-extra-groups", "system:bootstrappers:a:b"),
                ("expiration", "2100-01-01T00:00:00Z"),
            ];
            for (key, value) in usual.iter().chain(changes) {
                data[*key] = STANDARD.encode(value).into();
            }
            json!({"metadata": {}, "type": TYPE, "data": data})
        };
        let ask = |object: &Value| judge(object, "abcdef", "0123456789abcdef", Timestamp::UNIX_EPOCH);
        let user = ask(&secret(&[])).unwrap_or_default();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups, ["system:bootstrappers", "system:bootstrappers:a:b"]);
        for (change, why) in [
            (("token-secret", "0123456789abcdee"), "the secret part is wrong"),
            (("expiration", "1960-01-01T00:00:00Z"), "it has expired"),
            (("expiration", "never"), "it has expired"),
            (
                ("usage-bootstrap-authentication", "yes"),
                "it is not for authentication",
            ),
            (
                ("auth-extra-groups", "system:masters"),
                "it names a group that is no bootstrap group",
            ),
        ] {
            assert_eq!(ask(&secret(&[change])), Err(why), "{change:?}");
        }
        assert_eq!(parts("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        assert_eq!(parts("ABCDEF.0123456789abcdef"), None);
    }
}
