//! Nobody grants what they do not hold: the checks on writes of roles and bindings. Part of admission, on top of RBAC's own index.

use api::Error;
use serde_json::Value;

use super::rbac::Rbac;
use super::rules::{Rule, compact, describe, uncovered};
use super::{Authorizers, SUPERUSERS};
use crate::kinds::field::{list, text};
use crate::registry::access::{Attributes, Authorizer, UserInfo};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Checks a create or update of a role or binding.
///
/// # Errors
/// 403 in upstream's words.
pub async fn check(
    authorizers: &Authorizers,
    user: &UserInfo,
    attributes: &Attributes,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Error> {
    if attributes.group != GROUP || !attributes.subresource.is_empty() || user.in_group(SUPERUSERS) {
        return Ok(());
    }
    match attributes.resource.as_str() {
        "roles" | "clusterroles" => role(authorizers, user, attributes, object, old).await,
        "rolebindings" | "clusterrolebindings" => binding(authorizers, user, attributes, object, old).await,
        _ => Ok(()),
    }
}

fn rules_of(object: &Value) -> Vec<Rule> {
    list(object, "/rules").iter().map(Rule::from_value).collect()
}

async fn may(
    authorizers: &Authorizers,
    user: &UserInfo,
    attributes: &Attributes,
    verb: &str,
    resource: &str,
    namespace: &str,
    name: &str,
) -> bool {
    let wanted = Attributes {
        verb: verb.to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..attributes.clone()
    };
    authorizers.authorize(user, &wanted).await.is_allowed()
}

async fn role(
    authorizers: &Authorizers,
    user: &UserInfo,
    attributes: &Attributes,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Error> {
    let name = text(object, "/metadata/name");
    let unchanged =
        old.is_some_and(|old| old["rules"] == object["rules"] && old["aggregationRule"] == object["aggregationRule"]);
    if unchanged
        || may(
            authorizers,
            user,
            attributes,
            "escalate",
            &attributes.resource,
            &attributes.namespace,
            name,
        )
        .await
    {
        return Ok(());
    }
    if object.get("aggregationRule").is_some() {
        let all = Rule {
            verbs: vec!["*".into()],
            groups: vec!["*".into()],
            resources: vec!["*".into()],
            ..Rule::default()
        };
        refuse(&authorizers.rbac, user, attributes, name, &[all])?;
    }
    refuse(&authorizers.rbac, user, attributes, name, &rules_of(object))
}

async fn binding(
    authorizers: &Authorizers,
    user: &UserInfo,
    attributes: &Attributes,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Error> {
    if old.is_some_and(|old| old["roleRef"] == object["roleRef"] && old["subjects"] == object["subjects"]) {
        return Ok(());
    }
    let local = text(object, "/roleRef/kind") == "Role";
    let (resource, namespace) = if local {
        ("roles", attributes.namespace.as_str())
    } else {
        ("clusterroles", "")
    };
    let role = text(object, "/roleRef/name");
    if may(
        authorizers,
        user,
        attributes,
        "bind",
        resource,
        &attributes.namespace,
        role,
    )
    .await
    {
        return Ok(());
    }
    let Some(rules) = authorizers.rbac.role(namespace, role) else {
        return Err(Error::not_found(&api::GroupResource::new(GROUP, resource), role));
    };
    refuse(
        &authorizers.rbac,
        user,
        attributes,
        text(object, "/metadata/name"),
        &rules,
    )
}

fn refuse(rbac: &Rbac, user: &UserInfo, attributes: &Attributes, name: &str, wanted: &[Rule]) -> Result<(), Error> {
    let (owned, missing_roles) = rbac.rules_for(user, &attributes.namespace);
    let missing = compact(uncovered(&owned, wanted));
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = missing.iter().map(describe).collect();
    let mut why = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        serde_json::to_string(&user.groups)
            .unwrap_or_default()
            .replace("\",\"", "\" \""),
        lines.join("\n")
    );
    if !missing_roles.is_empty() {
        why.push_str(&format!("; resolution errors: [{}]", missing_roles.join(", ")));
    }
    Err(Error::forbidden(&attributes.group_resource(), name, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn nobody_grants_what_they_lack() {
        let authorizers = Authorizers::default();
        authorizers.rbac.apply(
            "clusterroles",
            "",
            "pods",
            Some(&json!({"rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]})),
        );
        authorizers.rbac.apply("clusterrolebindings", "", "b", Some(&json!({"roleRef": {"kind": "ClusterRole", "name": "pods"}, "subjects": [{"kind": "User", "name": "amy"}]})));
        let amy = UserInfo {
            name: "amy".into(),
            groups: vec!["g1".into(), "g2".into()],
            ..UserInfo::default()
        };
        let attributes = Attributes {
            verb: "create".into(),
            is_resource: true,
            group: GROUP.into(),
            resource: "roles".into(),
            namespace: "dev".into(),
            ..Attributes::default()
        };
        let role = |verb: &str| json!({"metadata": {"name": "r"}, "rules": [{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]});
        assert!(check(&authorizers, &amy, &attributes, &role("get"), None).await.is_ok());
        let refused = check(&authorizers, &amy, &attributes, &role("delete"), None)
            .await
            .err()
            .map(|e| e.message);
        assert_eq!(
            refused.as_deref(),
            Some(
                "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"amy\" (groups=[\"g1\" \"g2\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"
            )
        );
        let binding = Attributes {
            resource: "rolebindings".into(),
            ..attributes
        };
        let bind = |name: &str| json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": name}});
        assert!(check(&authorizers, &amy, &binding, &bind("pods"), None).await.is_ok());
        assert!(
            check(&authorizers, &amy, &binding, &bind("none"), None)
                .await
                .is_err_and(|e| e.is_not_found())
        );
    }
}
