//! The audit policy (`audit.k8s.io/v1 Policy`): which requests are recorded, how much of them, and at which stages. Pure.
//! Source: `k8s.io/apiserver/pkg/audit/policy`.

use std::path::Path;

use daemon::config::ConfigError;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::registry::access::{Attributes, UserInfo};

/// How much of a request is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who asked for what and what came of it.
    Metadata,
    /// The request's object too.
    Request,
    /// The answer's object too.
    RequestResponse,
}

/// When a record is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// The user is known; nothing has been decided.
    RequestReceived,
    /// The head of an answer that lasts (a watch, a log) has been sent.
    ResponseStarted,
    /// The answer is complete.
    ResponseComplete,
    /// The handler panicked.
    Panic,
}

/// Resources of one API group.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    level: Level,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

/// The policy: the first rule that matches decides.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    #[serde(rename = "metadata")]
    _metadata: Value,
    rules: Vec<Rule>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: bool,
}

/// What the policy says of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How much is recorded.
    pub level: Level,
    /// Stages at which nothing is written.
    pub omitted: Vec<Stage>,
    /// Objects are recorded without `metadata.managedFields`.
    pub omit_managed_fields: bool,
}

impl Policy {
    /// Reads and checks a policy file.
    ///
    /// # Errors
    /// One line that names the file and what is wrong with it.
    pub fn load(path: &Path) -> Result<Policy, ConfigError> {
        let policy: Policy = daemon::config::load(path, "audit.k8s.io/v1", "Policy")?;
        policy.check().map_err(|what| ConfigError::Content {
            path: path.to_owned(),
            what,
        })?;
        Ok(policy)
    }

    fn check(&self) -> Result<(), String> {
        if self.rules.is_empty() {
            return Err("rules: expected at least one rule".into());
        }
        for (i, rule) in self.rules.iter().enumerate() {
            rule.check().map_err(|what| format!("rules[{i}].{what}"))?;
        }
        Ok(())
    }

    /// What is recorded of a request. What carries credentials in its body is never recorded with its objects, whatever the policy says.
    pub fn judge(&self, user: &UserInfo, attributes: &Attributes) -> Verdict {
        let Some(rule) = self.rules.iter().find(|rule| rule.matches(user, attributes)) else {
            return Verdict::default();
        };
        let level = if carries_credentials(attributes) {
            rule.level.min(Level::Metadata)
        } else {
            rule.level
        };
        let mut omitted = self.omit_stages.clone();
        omitted.extend(&rule.omit_stages);
        Verdict {
            level,
            omitted,
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        }
    }
}

fn carries_credentials(a: &Attributes) -> bool {
    matches!(
        (a.group.as_str(), a.resource.as_str(), a.subresource.as_str()),
        ("", "secrets", _) | ("", "serviceaccounts", "token") | ("authentication.k8s.io", "tokenreviews", _)
    )
}

fn any_or_has(list: &[String], wanted: &str) -> bool {
    list.is_empty() || list.iter().any(|item| item == "*" || item == wanted)
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        if !self.resources.is_empty() && !self.non_resource_urls.is_empty() {
            return Err("nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs".into());
        }
        if !self.namespaces.is_empty() && !self.non_resource_urls.is_empty() {
            return Err("nonResourceURLs: rules cannot apply to both namespaces and non-resource URLs".into());
        }
        for url in &self.non_resource_urls {
            if url != "*" && (!url.starts_with('/') || url.trim_end_matches('*').contains('*')) {
                return Err(format!(
                    "nonResourceURLs: expected \"*\" or a path that begins with '/' and may end with '*', found {url:?}"
                ));
            }
        }
        for resource in &self.resources {
            if !resource.resource_names.is_empty() && resource.resources.is_empty() {
                return Err("resources: using resourceNames requires at least one resource".into());
            }
        }
        Ok(())
    }

    fn matches(&self, user: &UserInfo, a: &Attributes) -> bool {
        let who = any_or_has(&self.users, &user.name)
            && (self.user_groups.is_empty() || user.groups.iter().any(|g| any_or_has(&self.user_groups, g)));
        if !who || !any_or_has(&self.verbs, &a.verb) {
            return false;
        }
        if self.resources.is_empty() && self.non_resource_urls.is_empty() && self.namespaces.is_empty() {
            return true;
        }
        if a.is_resource {
            self.matches_resource(a)
        } else {
            self.non_resource_urls.iter().any(|spec| url_matches(spec, &a.path))
        }
    }

    fn matches_resource(&self, a: &Attributes) -> bool {
        if !self.namespaces.is_empty() && !self.namespaces.contains(&a.namespace) {
            return false;
        }
        if self.resources.is_empty() {
            return self.non_resource_urls.is_empty();
        }
        self.resources
            .iter()
            .filter(|group| group.group == a.group)
            .any(|group| {
                let named = group.resource_names.is_empty() || group.resource_names.contains(&a.name);
                group.resources.is_empty()
                    || named && group.resources.iter().any(|pattern| resource_matches(pattern, a))
            })
    }
}

/// `pods`, `pods/log`, `pods/*`, `*/scale` or `*`.
fn resource_matches(pattern: &str, a: &Attributes) -> bool {
    match pattern.split_once('/') {
        None => pattern == "*" || (a.subresource.is_empty() && pattern == a.resource),
        Some(("*", subresource)) => !a.subresource.is_empty() && subresource == a.subresource,
        Some((resource, "*")) => resource == a.resource,
        Some((resource, subresource)) => resource == a.resource && subresource == a.subresource,
    }
}

fn url_matches(spec: &str, path: &str) -> bool {
    match spec.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => spec == path,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::audit) fn policy(text: &str) -> Result<Policy, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let path = dir.path().join("policy.yaml");
        std::fs::write(&path, format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{text}"))
            .map_err(|e| e.to_string())?;
        Policy::load(&path).map_err(|e| e.to_string().replace(&path.display().to_string(), "F"))
    }

    fn on(verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb: verb.into(),
            is_resource: true,
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn the_first_rule_decides() {
        let policy = policy(
            r#"
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, users: ["system:kube-proxy"], verbs: [watch]}
- {level: None, nonResourceURLs: ["/healthz*", "/version"]}
- {level: RequestResponse, resources: [{group: "", resources: [pods, "services/*"], resourceNames: [a]}], omitManagedFields: false}
- {level: RequestResponse, resources: [{resources: [secrets]}, {group: authentication.k8s.io}]}
- {level: Request, namespaces: [kube-system], resources: [{group: apps}]}
- {level: Metadata, userGroups: [dev], resources: [{group: "", resources: ["*/scale", "*"]}], omitStages: [ResponseStarted]}
"#,
        )
        .unwrap_or_else(|e| panic!("{e}"));
        let user = |name: &str, groups: &[&str]| UserInfo {
            name: name.into(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..UserInfo::default()
        };
        let level = |u: &UserInfo, a: Attributes| policy.judge(u, &a).level;
        let amy = user("amy", &["dev"]);
        let proxy = user("system:kube-proxy", &["dev"]);
        for (user, attributes, expected) in [
            (&proxy, on("watch", "", "pods", "", ""), Level::None),
            (&proxy, on("get", "", "pods", "d", "a"), Level::RequestResponse),
            (&amy, on("get", "", "pods", "d", "a"), Level::RequestResponse),
            (&amy, on("get", "", "pods", "d", "b"), Level::Metadata),
            (&amy, on("get", "", "services/status", "d", "a"), Level::RequestResponse),
            (&amy, on("get", "", "secrets", "d", "a"), Level::Metadata),
            (
                &amy,
                on("create", "authentication.k8s.io", "tokenreviews", "", ""),
                Level::Metadata,
            ),
            (
                &amy,
                on("get", "apps", "deployments", "kube-system", "a"),
                Level::Request,
            ),
            (&amy, on("get", "apps", "deployments", "d", "a"), Level::None),
            (&user("bob", &[]), on("get", "", "nodes", "", "a"), Level::None),
        ] {
            assert_eq!(
                level(user, attributes.clone()),
                expected,
                "{} {attributes:?}",
                user.name
            );
        }
        let path = |p: &str| Attributes {
            verb: "get".into(),
            path: p.into(),
            ..Attributes::default()
        };
        assert_eq!(level(&amy, path("/healthz/etcd")), Level::None);
        let verdict = policy.judge(&amy, &on("get", "", "pods", "d", "b"));
        assert_eq!(verdict.omitted, [Stage::RequestReceived, Stage::ResponseStarted]);
        assert!(verdict.omit_managed_fields);
        assert!(!policy.judge(&amy, &on("get", "", "pods", "d", "a")).omit_managed_fields);
    }

    #[test]
    fn a_wrong_policy_is_refused() {
        for (text, expected) in [
            ("rules: []", "F: rules: expected at least one rule"),
            (
                "rules: [{level: Everything}]",
                "F: rules[0].level: unknown variant `Everything`, expected one of `None`, `Metadata`, `Request`, `RequestResponse`",
            ),
            (
                "rules: [{level: None, nonResourceURLs: [healthz]}]",
                "F: rules[0].nonResourceURLs: expected \"*\" or a path that begins with '/' and may end with '*', found \"healthz\"",
            ),
            ("rules: [{level: None, user: [a]}]", "F: rules.0.user: unknown key"),
        ] {
            assert_eq!(policy(text).err().as_deref(), Some(expected));
        }
    }
}
