//! The RBAC authorizer: an index of roles and bindings in memory, by subject, and what it answers. Synchronous and pure; `feed` keeps it
//! up to date.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::RwLock;
use serde_json::Value;

use super::rules::{Action, Rule};
use crate::kinds::field::{list, text};
use crate::registry::access::{Attributes, Authorizer, Decision, UserInfo};

/// Who a binding is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

impl Subject {
    /// The subject and how reasons name it. A service account is the user it authenticates as; one of a RoleBinding that names no namespace
    /// has the binding's.
    fn read(value: &Value, namespace: &str) -> Option<(Subject, String)> {
        let (kind, name) = (text(value, "/kind"), text(value, "/name"));
        let described = format!("{kind} {name:?}");
        match kind {
            "User" => Some((Subject::User(name.to_owned()), described)),
            "Group" => Some((Subject::Group(name.to_owned()), described)),
            "ServiceAccount" => {
                let own = text(value, "/namespace");
                let namespace = if own.is_empty() { namespace } else { own };
                let user = Subject::User(format!("system:serviceaccount:{namespace}:{name}"));
                (!namespace.is_empty()).then(|| (user, format!("{kind} {:?}", format!("{name}/{namespace}"))))
            }
            _ => None,
        }
    }
}

/// The role a binding refers to; an empty namespace is a ClusterRole.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RoleKey {
    namespace: String,
    name: String,
}

/// What a binding gives to one of its subjects.
#[derive(Clone, Debug)]
struct Binding {
    name: String,
    role: RoleKey,
    /// `ClusterRoleBinding "x" of ClusterRole "y" to Group "z"`
    described: String,
}

/// Bindings of one scope, by subject. A binding that is not for anybody is still known by its name.
#[derive(Debug, Default)]
struct Bindings {
    by_subject: HashMap<Subject, Vec<Arc<Binding>>>,
    subjects: HashMap<String, Vec<Subject>>,
}

impl Bindings {
    fn set(&mut self, name: &str, object: Option<(&Value, &str)>) {
        for subject in self.subjects.remove(name).unwrap_or_default() {
            if let Some(list) = self.by_subject.get_mut(&subject) {
                list.retain(|b| b.name != name);
                if list.is_empty() {
                    self.by_subject.remove(&subject);
                }
            }
        }
        let Some((object, namespace)) = object else { return };
        let role_namespace = if text(object, "/roleRef/kind") == "Role" {
            namespace
        } else {
            ""
        };
        let role = RoleKey {
            namespace: role_namespace.to_owned(),
            name: text(object, "/roleRef/name").to_owned(),
        };
        let shown = if namespace.is_empty() {
            format!("ClusterRoleBinding {name:?}")
        } else {
            format!("RoleBinding {:?}", format!("{name}/{namespace}"))
        };
        let shown = format!("{shown} of {} {:?}", text(object, "/roleRef/kind"), role.name);
        let mut subjects = Vec::new();
        for (subject, to) in list(object, "/subjects")
            .iter()
            .filter_map(|s| Subject::read(s, namespace))
        {
            let binding = Binding {
                name: name.to_owned(),
                role: role.clone(),
                described: format!("{shown} to {to}"),
            };
            self.by_subject
                .entry(subject.clone())
                .or_default()
                .push(Arc::new(binding));
            subjects.push(subject);
        }
        self.subjects.insert(name.to_owned(), subjects);
    }

    fn of<'a>(&'a self, user: &'a UserInfo) -> impl Iterator<Item = &'a Arc<Binding>> {
        let subjects =
            std::iter::once(Subject::User(user.name.clone())).chain(user.groups.iter().cloned().map(Subject::Group));
        subjects.flat_map(|subject| self.by_subject.get(&subject).map(Vec::as_slice).unwrap_or_default())
    }
}

/// All roles and bindings.
#[derive(Debug, Default)]
pub struct Index {
    roles: HashMap<RoleKey, Arc<[Rule]>>,
    cluster: Bindings,
    namespaced: HashMap<String, Bindings>,
}

impl Index {
    /// Takes in one object (or its removal) of `clusterroles`, `roles`, `clusterrolebindings` or `rolebindings`.
    pub fn apply(&mut self, resource: &str, namespace: &str, name: &str, object: Option<&Value>) {
        match resource {
            "clusterroles" | "roles" => {
                let key = RoleKey {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                };
                match object {
                    Some(object) => self
                        .roles
                        .insert(key, list(object, "/rules").iter().map(Rule::from_value).collect()),
                    None => self.roles.remove(&key),
                };
            }
            "clusterrolebindings" => self.cluster.set(name, object.map(|o| (o, ""))),
            _ => self
                .namespaced
                .entry(namespace.to_owned())
                .or_default()
                .set(name, object.map(|o| (o, namespace))),
        }
    }

    /// Visits the rules that hold for the user in the namespace (empty: cluster-wide ones only) until `visit` says stop. Answers the roles
    /// that are bound and do not exist.
    fn visit(&self, user: &UserInfo, namespace: &str, visit: &mut dyn FnMut(&Rule, &Binding) -> bool) -> Vec<String> {
        let mut missing = Vec::new();
        let local = self.namespaced.get(namespace).filter(|_| !namespace.is_empty());
        for binding in self.cluster.of(user).chain(local.into_iter().flat_map(|b| b.of(user))) {
            match self.roles.get(&binding.role) {
                Some(rules) if rules.iter().any(|rule| visit(rule, binding)) => return missing,
                Some(_) => {}
                None => missing.push(not_found(&binding.role)),
            }
        }
        missing
    }

    /// All rules that hold for the user in the namespace.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let mut out = Vec::new();
        let missing = self.visit(user, namespace, &mut |rule, _| {
            out.push(rule.clone());
            false
        });
        (out, missing)
    }

    /// The rules of a role; `None` if it does not exist.
    pub fn role(&self, namespace: &str, name: &str) -> Option<Arc<[Rule]>> {
        self.roles
            .get(&RoleKey {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            })
            .cloned()
    }

    fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        let action = action(attributes);
        let mut by = None;
        let namespace = if attributes.is_resource {
            attributes.namespace.as_str()
        } else {
            ""
        };
        let missing = self.visit(user, namespace, &mut |rule, binding| {
            let allowed = rule.allows(&action);
            if allowed {
                by = Some(format!("RBAC: allowed by {}", binding.described));
            }
            allowed
        });
        match (by, missing.as_slice()) {
            (Some(reason), _) => Decision::Allow(reason),
            (None, []) => Decision::NoOpinion(String::new()),
            (None, [one]) => Decision::NoOpinion(format!("RBAC: {one}")),
            (None, many) => Decision::NoOpinion(format!("RBAC: [{}]", many.join(", "))),
        }
    }
}

fn not_found(role: &RoleKey) -> String {
    let kind = if role.namespace.is_empty() {
        "clusterrole"
    } else {
        "role"
    };
    format!("{kind}.rbac.authorization.k8s.io {:?} not found", role.name)
}

/// What RBAC looks at of a request.
pub fn action(attributes: &Attributes) -> Action<'_> {
    if attributes.is_resource {
        Action::Resource {
            verb: &attributes.verb,
            group: &attributes.group,
            resource: &attributes.resource,
            subresource: &attributes.subresource,
            name: &attributes.name,
        }
    } else {
        Action::Url {
            verb: &attributes.verb,
            path: &attributes.path,
        }
    }
}

/// The index behind a lock, as authorizer.
#[derive(Debug, Default)]
pub struct Rbac {
    index: RwLock<Index>,
}

impl Rbac {
    /// See [`Index::apply`].
    pub fn apply(&self, resource: &str, namespace: &str, name: &str, object: Option<&Value>) {
        self.index.write().apply(resource, namespace, name, object);
    }

    /// Puts a new index in place of the old one.
    pub fn replace(&self, index: Index) {
        *self.index.write() = index;
    }

    /// See [`Index::rules_for`].
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        self.index.read().rules_for(user, namespace)
    }

    /// See [`Index::role`].
    pub fn role(&self, namespace: &str, name: &str) -> Option<Arc<[Rule]>> {
        self.index.read().role(namespace, name)
    }

    /// Decides at once: nothing here waits.
    pub fn decide(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        self.index.read().authorize(user, attributes)
    }
}

#[async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        self.decide(user, attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn index() -> Index {
        let mut index = Index::default();
        for d in super::super::bootstrap::defaults() {
            index.apply(d.resource, &d.namespace, &d.name, Some(&d.object));
        }
        index.apply(
            "roles",
            "dev",
            "reader",
            Some(&json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]})),
        );
        index.apply("rolebindings", "dev", "readers", Some(&json!({"roleRef": {"kind": "Role", "name": "reader"}, "subjects": [{"kind": "ServiceAccount", "name": "bot"}, {"kind": "User", "name": "amy"}]})));
        index.apply(
            "rolebindings",
            "dev",
            "broken",
            Some(&json!({"roleRef": {"kind": "Role", "name": "gone"}, "subjects": [{"kind": "User", "name": "bob"}]})),
        );
        index
    }

    fn user(name: &str, groups: &[&str]) -> UserInfo {
        UserInfo {
            name: name.to_owned(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..UserInfo::default()
        }
    }

    fn on(verb: &str, group: &str, resource: &str, namespace: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb: verb.to_owned(),
            is_resource: true,
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            ..Attributes::default()
        }
    }

    #[test]
    fn decisions() {
        let index = index();
        let allow = |u: &UserInfo, a: Attributes| index.authorize(u, &a).is_allowed();
        assert!(allow(
            &user("root", &["system:masters"]),
            on("delete", "x.io", "things/status", "dev")
        ));
        assert!(allow(&user("amy", &[]), on("get", "", "pods", "dev")));
        assert!(!allow(&user("amy", &[]), on("get", "", "pods", "prod")));
        assert!(!allow(&user("amy", &[]), on("get", "", "pods", "")));
        assert!(allow(
            &user("system:serviceaccount:dev:bot", &[]),
            on("get", "", "pods", "dev")
        ));
        let kcm = user("system:kube-controller-manager", &["system:authenticated"]);
        for (verb, group, resource) in [
            ("create", "", "pods"),
            ("update", "apps", "replicasets/status"),
            ("delete", "", "namespaces"),
            ("patch", "", "nodes"),
            ("update", "discovery.k8s.io", "endpointslices"),
        ] {
            assert!(allow(&kcm, on(verb, group, resource, "dev")), "{verb} {resource}");
        }
        assert!(allow(
            &user("system:kube-scheduler", &[]),
            on("create", "", "pods/binding", "dev")
        ));
        assert!(allow(
            &user("system:kube-proxy", &[]),
            on("watch", "networking.k8s.io", "networkpolicies", "")
        ));
        let version = Attributes {
            verb: "get".into(),
            path: "/version".into(),
            ..Attributes::default()
        };
        assert!(allow(&UserInfo::anonymous(), version));
        assert!(!allow(&UserInfo::anonymous(), on("list", "", "pods", "dev")));
    }

    #[test]
    fn missing_roles_are_named_and_bindings_go() {
        let mut index = index();
        assert_eq!(
            index.authorize(&user("bob", &[]), &on("get", "", "pods", "dev")),
            Decision::NoOpinion("RBAC: role.rbac.authorization.k8s.io \"gone\" not found".into())
        );
        index.apply("rolebindings", "dev", "readers", None);
        assert_eq!(
            index.authorize(&user("amy", &[]), &on("get", "", "pods", "dev")),
            Decision::NoOpinion(String::new())
        );
    }
}
