//! FlowSchemas and PriorityLevelConfigurations as they are matched: read from their objects, without I/O.

use serde_json::Value;

use super::dispatch::Policy;
use super::shares::Share;
use crate::registry::access::{Attributes, UserInfo};

/// A FlowSchema.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowSchema {
    /// metadata.name
    pub name: String,
    /// metadata.uid, for the header of answers.
    pub uid: String,
    /// The PriorityLevelConfiguration that it names.
    pub level: String,
    /// Lower is asked first.
    pub precedence: i64,
    distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Distinguisher {
    None,
    User,
    Namespace,
}

#[derive(Debug, Clone, PartialEq)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

#[derive(Debug, Clone, PartialEq)]
enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

#[derive(Debug, Clone, PartialEq)]
struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct PathRule {
    verbs: Vec<String>,
    paths: Vec<String>,
}

fn text(value: &Value, pointer: &str) -> String {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    list(value, field)
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

impl FlowSchema {
    /// Reads an object that validation has let through.
    pub fn read(object: &Value) -> Self {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        Self {
            name: text(object, "/metadata/name"),
            uid: text(object, "/metadata/uid"),
            level: text(spec, "/priorityLevelConfiguration/name"),
            precedence: spec.get("matchingPrecedence").and_then(Value::as_i64).unwrap_or(1000),
            distinguisher: match text(spec, "/distinguisherMethod/type").as_str() {
                "ByUser" => Distinguisher::User,
                "ByNamespace" => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: list(spec, "rules").map(Rule::read).collect(),
        }
    }

    /// Whether a request is of this schema.
    pub fn matches(&self, user: &UserInfo, attributes: &Attributes) -> bool {
        self.rules.iter().any(|rule| rule.matches(user, attributes))
    }

    /// What tells the flows of this schema apart.
    pub fn distinguisher<'a>(&self, user: &'a UserInfo, attributes: &'a Attributes) -> &'a str {
        match self.distinguisher {
            Distinguisher::None => "",
            Distinguisher::User => &user.name,
            Distinguisher::Namespace => &attributes.namespace,
        }
    }
}

impl Rule {
    fn read(value: &Value) -> Self {
        let subject = |value: &Value| match text(value, "/kind").as_str() {
            "User" => Some(Subject::User(text(value, "/user/name"))),
            "Group" => Some(Subject::Group(text(value, "/group/name"))),
            "ServiceAccount" => Some(Subject::ServiceAccount {
                namespace: text(value, "/serviceAccount/namespace"),
                name: text(value, "/serviceAccount/name"),
            }),
            _ => None,
        };
        let resource = |value: &Value| ResourceRule {
            verbs: texts(value, "verbs"),
            groups: texts(value, "apiGroups"),
            resources: texts(value, "resources"),
            namespaces: texts(value, "namespaces"),
            cluster: value.get("clusterScope") == Some(&Value::Bool(true)),
        };
        let path = |value: &Value| PathRule {
            verbs: texts(value, "verbs"),
            paths: texts(value, "nonResourceURLs"),
        };
        Self {
            subjects: list(value, "subjects").filter_map(subject).collect(),
            resources: list(value, "resourceRules").map(resource).collect(),
            paths: list(value, "nonResourceRules").map(path).collect(),
        }
    }

    fn matches(&self, user: &UserInfo, attributes: &Attributes) -> bool {
        self.subjects.iter().any(|subject| subject.matches(user))
            && if attributes.is_resource {
                self.resources.iter().any(|rule| rule.matches(attributes))
            } else {
                self.paths.iter().any(|rule| rule.matches(attributes))
            }
    }
}

impl Subject {
    fn matches(&self, user: &UserInfo) -> bool {
        match self {
            Self::User(name) => name == "*" || *name == user.name,
            Self::Group(name) => name == "*" || user.in_group(name),
            Self::ServiceAccount { namespace, name } => {
                let account = user
                    .name
                    .strip_prefix("system:serviceaccount:")
                    .and_then(|rest| rest.split_once(':'));
                account.is_some_and(|(ns, n)| ns == namespace && (name == "*" || n == name))
            }
        }
    }
}

fn names(list: &[String], word: &str) -> bool {
    list.iter().any(|item| item == "*" || item == word)
}

impl ResourceRule {
    fn matches(&self, a: &Attributes) -> bool {
        let place = if a.namespace.is_empty() {
            self.cluster
        } else {
            names(&self.namespaces, &a.namespace)
        };
        let resource = || match a.subresource.as_str() {
            "" => names(&self.resources, &a.resource),
            sub => names(&self.resources, &format!("{}/{sub}", a.resource)),
        };
        place && names(&self.verbs, &a.verb) && names(&self.groups, &a.group) && resource()
    }
}

impl PathRule {
    fn matches(&self, a: &Attributes) -> bool {
        let path = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => a.path.starts_with(start),
            None => *pattern == a.path,
        };
        names(&self.verbs, &a.verb) && self.paths.iter().any(path)
    }
}

/// A PriorityLevelConfiguration.
#[derive(Debug, Clone, PartialEq)]
pub struct LevelConfig {
    /// metadata.name
    pub name: String,
    /// metadata.uid, for the header of answers.
    pub uid: String,
    /// Its requests begin at once, whatever happens.
    pub exempt: bool,
    /// See there.
    pub share: Share,
    /// What becomes of requests that find no seat.
    pub policy: Policy,
}

impl LevelConfig {
    /// Reads an object that validation has let through.
    pub fn read(object: &Value) -> Self {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let exempt = text(spec, "/type") == "Exempt";
        let body = spec
            .get(if exempt { "exempt" } else { "limited" })
            .unwrap_or(&Value::Null);
        let number = |pointer: &str, default: u32| {
            let number = body.pointer(pointer).and_then(Value::as_i64);
            number.map_or(default, |number| u32::try_from(number).unwrap_or(default))
        };
        let size = |field: &str, default: u32| number(&format!("/limitResponse/queuing/{field}"), default) as usize;
        let policy = match text(body, "/limitResponse/type").as_str() {
            "Queue" => Policy::Queue {
                queues: size("queues", 64).max(1),
                hand: size("handSize", 8).max(1),
                length: size("queueLengthLimit", 50),
            },
            _ => Policy::Reject,
        };
        Self {
            name: text(object, "/metadata/name"),
            uid: text(object, "/metadata/uid"),
            exempt,
            share: Share {
                shares: number("/nominalConcurrencyShares", if exempt { 0 } else { 30 }),
                lendable: number("/lendablePercent", 0),
                borrowing: body
                    .get("borrowingLimitPercent")
                    .and_then(Value::as_u64)
                    .and_then(|p| u32::try_from(p).ok()),
            },
            policy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::defaults;
    use super::*;

    fn user(name: &str, groups: &[&str]) -> UserInfo {
        UserInfo {
            name: name.into(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..UserInfo::default()
        }
    }

    fn resource(verb: &str, group: &str, resource: &str, namespace: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb: verb.into(),
            is_resource: true,
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            ..Attributes::default()
        }
    }

    fn path(path: &str) -> Attributes {
        Attributes {
            verb: "get".into(),
            path: path.into(),
            ..Attributes::default()
        }
    }

    /// The default schema that a request falls under.
    fn schema(user: &UserInfo, attributes: &Attributes) -> String {
        let mut schemas: Vec<FlowSchema> = defaults::flow_schemas().iter().map(FlowSchema::read).collect();
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        schemas
            .into_iter()
            .find(|schema| schema.matches(user, attributes))
            .unwrap()
            .name
    }

    #[test]
    fn requests_fall_under_the_schema_that_upstream_puts_them_under() {
        let known = "system:authenticated";
        let admin = user("kubernetes-admin", &["system:masters", known]);
        let node = user("system:node:n1", &["system:nodes", known]);
        let manager = user("system:kube-controller-manager", &[known]);
        let scheduler = user("system:kube-scheduler", &[known]);
        let own = user(
            "system:serviceaccount:kube-system:x",
            &["system:serviceaccounts", known],
        );
        let foreign = user("system:serviceaccount:default:x", &["system:serviceaccounts", known]);
        let bob = user("bob", &["dev", known]);
        let nobody = user("system:anonymous", &["system:unauthenticated"]);
        for (user, attributes, expected) in [
            (&admin, resource("list", "", "pods", ""), "exempt"),
            (&nobody, path("/livez"), "probes"),
            (&nobody, path("/livez/ping"), "global-default"),
            (
                &node,
                resource("update", "coordination.k8s.io", "leases", "kube-node-lease"),
                "system-node-high",
            ),
            (&node, resource("patch", "", "nodes/status", ""), "system-node-high"),
            (&node, resource("list", "", "pods", ""), "system-nodes"),
            (
                &manager,
                resource("update", "coordination.k8s.io", "leases", "kube-system"),
                "system-leader-election",
            ),
            (
                &manager,
                resource("update", "", "endpoints", "default"),
                "endpoint-controller",
            ),
            (
                &manager,
                resource("create", "", "pods", "default"),
                "kube-controller-manager",
            ),
            (
                &scheduler,
                resource("create", "", "pods/binding", "default"),
                "kube-scheduler",
            ),
            (&own, resource("list", "", "pods", ""), "kube-system-service-accounts"),
            (&foreign, resource("list", "", "pods", ""), "service-accounts"),
            (&bob, resource("list", "", "pods", ""), "global-default"),
            (&bob, path("/version"), "global-default"),
        ] {
            assert_eq!(schema(user, &attributes), expected, "{} {attributes:?}", user.name);
        }
    }

    #[test]
    fn flows_are_told_apart_by_user_or_namespace() {
        let find = |name: &str| {
            let object = defaults::flow_schemas()
                .into_iter()
                .find(|schema| schema["metadata"]["name"] == name)
                .unwrap();
            FlowSchema::read(&object)
        };
        let (bob, pods) = (user("bob", &[]), resource("list", "", "pods", "shop"));
        assert_eq!(find("global-default").distinguisher(&bob, &pods), "bob");
        assert_eq!(find("kube-scheduler").distinguisher(&bob, &pods), "shop");
        assert_eq!(find("exempt").distinguisher(&bob, &pods), "");
    }

    #[test]
    fn levels_are_read() {
        let levels: Vec<LevelConfig> = defaults::levels().iter().map(LevelConfig::read).collect();
        let find = |name: &str| levels.iter().find(|level| level.name == name).unwrap();
        assert!(find("exempt").exempt);
        assert_eq!(find("catch-all").policy, Policy::Reject);
        assert_eq!(
            find("leader-election").policy,
            Policy::Queue {
                queues: 16,
                hand: 4,
                length: 50
            }
        );
        assert_eq!(
            find("workload-low").share,
            Share {
                shares: 100,
                lendable: 90,
                borrowing: None
            }
        );
    }
}
