//! Impersonation headers: acting as somebody else, where RBAC allows it. Source: `k8s.io/apiserver/pkg/endpoints/filters/impersonation.go`.

use std::collections::BTreeMap;

use api::Error;
use http::HeaderMap;

use super::service_account::{USER_PREFIX, groups};
use crate::registry::access::{Attributes, Authorizer, UserInfo};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// The user to act as; `None` when no header asks for another than `user`.
///
/// # Errors
/// 403 for each wish that the authorizer does not allow, 400 for headers that do not belong together.
pub async fn impersonate(
    headers: &HeaderMap,
    user: &UserInfo,
    authorizer: &dyn Authorizer,
) -> Result<Option<UserInfo>, Error> {
    let value = |name: &str| {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let (name, uid) = (value(USER), value(UID));
    let wanted: Vec<String> = headers
        .get_all(GROUP)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .map(str::to_owned)
        .collect();
    let extra = extras(headers);
    if name.is_empty() {
        if wanted.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        let why = format!("requested {{Groups:{wanted:?} UID:{uid:?}}} without impersonating a user");
        return Err(Error::bad_request(why));
    }
    let account = name.strip_prefix(USER_PREFIX).and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, account)) => allow(authorizer, user, "serviceaccounts", namespace, account, "").await?,
        None => allow(authorizer, user, "users", "", &name, "").await?,
    }
    for group in &wanted {
        allow(authorizer, user, "groups", "", group, "").await?;
    }
    if !uid.is_empty() {
        allow(authorizer, user, "uids", "", &uid, "").await?;
    }
    for (key, values) in &extra {
        for value in values {
            allow(authorizer, user, "userextras", "", value, key).await?;
        }
    }
    let mut all = wanted;
    if all.is_empty()
        && let Some((namespace, _)) = account
    {
        all = groups(namespace);
    }
    let anonymous = name == "system:anonymous";
    let implied = if anonymous {
        "system:unauthenticated"
    } else {
        "system:authenticated"
    };
    if !all.iter().any(|g| g == implied || g == "system:unauthenticated") {
        all.push(implied.to_owned());
    }
    Ok(Some(UserInfo {
        name,
        uid,
        groups: all,
        extra,
    }))
}

fn extras(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, value) in headers {
        if let (Some(key), Ok(value)) = (header.as_str().strip_prefix(EXTRA), value.to_str()) {
            out.entry(unescape(key)).or_default().push(value.to_owned());
        }
    }
    out
}

/// Percent-decoding, which leaves what is no escape as it is.
pub(super) fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let escaped = (bytes[i] == b'%')
            .then(|| text.get(i + 1..i + 3))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(escaped.unwrap_or(bytes[i]));
        i += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

async fn allow(
    authorizer: &dyn Authorizer,
    user: &UserInfo,
    resource: &str,
    namespace: &str,
    name: &str,
    subresource: &str,
) -> Result<(), Error> {
    let group = if matches!(resource, "uids" | "userextras") {
        "authentication.k8s.io"
    } else {
        ""
    };
    let attributes = Attributes {
        verb: "impersonate".into(),
        is_resource: true,
        group: group.into(),
        version: "v1".into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..Attributes::default()
    };
    if authorizer.authorize(user, &attributes).await.is_allowed() {
        return Ok(());
    }
    let scope = if namespace.is_empty() {
        " at the cluster scope".to_owned()
    } else {
        format!(" in the namespace {namespace:?}")
    };
    let shown = if subresource.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}/{subresource}")
    };
    let why = format!(
        "User {:?} cannot impersonate resource {shown:?} in API group {group:?}{scope}",
        user.name
    );
    Err(Error::forbidden(&attributes.group_resource(), name, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::rbac::Rbac;
    use serde_json::json;

    #[tokio::test]
    async fn only_what_rbac_allows() {
        let rbac = Rbac::default();
        rbac.apply("clusterroles", "", "imp", Some(&json!({"rules": [{"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users", "groups"], "resourceNames": ["bob", "devs"]}]})));
        rbac.apply("clusterrolebindings", "", "b", Some(&json!({"roleRef": {"kind": "ClusterRole", "name": "imp"}, "subjects": [{"kind": "User", "name": "amy"}]})));
        let amy = UserInfo {
            name: "amy".into(),
            ..UserInfo::default()
        };
        let headers = |pairs: &[(&'static str, &str)]| {
            let mut map = HeaderMap::new();
            for (k, v) in pairs {
                if let Ok(value) = v.parse() {
                    map.append(*k, value);
                }
            }
            map
        };
        let run = |pairs: &[(&'static str, &str)]| {
            let (map, amy, rbac) = (headers(pairs), amy.clone(), &rbac);
            async move { impersonate(&map, &amy, rbac).await }
        };
        assert_eq!(run(&[]).await.ok(), Some(None));
        let bob = run(&[(USER, "bob"), (GROUP, "devs")])
            .await
            .ok()
            .flatten()
            .unwrap_or_default();
        assert_eq!(
            (bob.name.as_str(), bob.groups),
            ("bob", vec!["devs".to_owned(), "system:authenticated".to_owned()])
        );
        let refused = run(&[(USER, "eve")]).await.err().map(|e| e.message);
        assert_eq!(
            refused.as_deref(),
            Some(
                "users \"eve\" is forbidden: User \"amy\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
            )
        );
        assert!(run(&[(USER, "bob"), (GROUP, "system:masters")]).await.is_err());
        assert!(run(&[(GROUP, "devs")]).await.is_err());
        assert_eq!(unescape("example.com%2fscope%"), "example.com/scope%");
    }
}
