//! One RBAC rule: what it matches, and whether a set of rules covers another (the escalation check). Pure; knows no store.

use serde_json::{Value, json};

/// The rule parts of a `PolicyRule`, as the API names them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Verbs, or `*`.
    pub verbs: Vec<String>,
    /// API groups, or `*`; the core group is empty text.
    pub groups: Vec<String>,
    /// `pods`, `pods/status`, `*/scale` or `*`.
    pub resources: Vec<String>,
    /// Names; empty means every name.
    pub names: Vec<String>,
    /// Paths without a resource, with one optional `*` at the end.
    pub urls: Vec<String>,
}

/// What a request wants, as much of it as RBAC looks at.
#[derive(Clone, Copy, Debug)]
pub enum Action<'a> {
    /// A request on an API resource.
    Resource {
        /// `get`, `list`, ...
        verb: &'a str,
        /// Empty for the core group.
        group: &'a str,
        /// Lower-case plural.
        resource: &'a str,
        /// May be empty.
        subresource: &'a str,
        /// Empty for a collection.
        name: &'a str,
    },
    /// A request on any other path.
    Url {
        /// Lower-case HTTP method.
        verb: &'a str,
        /// The request's path.
        path: &'a str,
    },
}

fn strings(value: &Value, field: &str) -> Vec<String> {
    let list = value.get(field).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect()
}

impl Rule {
    /// Reads a `rbac.authorization.k8s.io/v1` PolicyRule.
    pub fn from_value(value: &Value) -> Rule {
        Rule {
            verbs: strings(value, "verbs"),
            groups: strings(value, "apiGroups"),
            resources: strings(value, "resources"),
            names: strings(value, "resourceNames"),
            urls: strings(value, "nonResourceURLs"),
        }
    }

    /// The PolicyRule; empty lists are left out, as Go leaves them out.
    pub fn to_value(&self) -> Value {
        let mut out = json!({"verbs": self.verbs});
        let lists = [
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ];
        for (key, list) in lists {
            if !list.is_empty() {
                out[key] = json!(list);
            }
        }
        out
    }

    /// Whether this rule alone allows the action.
    pub fn allows(&self, action: &Action<'_>) -> bool {
        match *action {
            Action::Resource {
                verb,
                group,
                resource,
                subresource,
                name,
            } => {
                has(&self.verbs, verb)
                    && has(&self.groups, group)
                    && self
                        .resources
                        .iter()
                        .any(|pattern| resource_matches(pattern, resource, subresource))
                    && (self.names.is_empty() || self.names.iter().any(|n| n == name))
            }
            Action::Url { verb, path } => {
                has(&self.verbs, verb) && self.urls.iter().any(|pattern| url_matches(pattern, path))
            }
        }
    }

    /// The rule cut into pieces of one verb, one resource (or path) and one name each.
    fn atoms(&self) -> Vec<Rule> {
        let one = |s: &String| vec![s.clone()];
        let mut out = Vec::new();
        for verb in &self.verbs {
            for url in &self.urls {
                out.push(Rule {
                    verbs: one(verb),
                    urls: one(url),
                    ..Rule::default()
                });
            }
            for group in &self.groups {
                for resource in &self.resources {
                    let atom = Rule {
                        verbs: one(verb),
                        groups: one(group),
                        resources: one(resource),
                        ..Rule::default()
                    };
                    match self.names.as_slice() {
                        [] => out.push(atom),
                        names => out.extend(names.iter().map(|name| Rule {
                            names: one(name),
                            ..atom.clone()
                        })),
                    }
                }
            }
        }
        out
    }

    /// Whether this rule covers an atom (see `atoms`).
    fn covers(&self, atom: &Rule) -> bool {
        let verbs = atom.verbs.iter().all(|v| has(&self.verbs, v));
        if let Some(url) = atom.urls.first() {
            return verbs && self.urls.iter().any(|pattern| url_matches(pattern, url));
        }
        let groups = atom.groups.iter().all(|g| has(&self.groups, g));
        let resources = atom.resources.iter().all(|wanted| {
            let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
            self.resources
                .iter()
                .any(|pattern| pattern == wanted || resource_matches(pattern, resource, subresource))
        });
        let names =
            self.names.is_empty() || (!atom.names.is_empty() && atom.names.iter().all(|n| self.names.contains(n)));
        verbs && groups && resources && names
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

/// `*` is every resource and subresource, `*/scale` that subresource of every resource.
fn resource_matches(pattern: &str, resource: &str, subresource: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    match pattern.split_once('/') {
        None => subresource.is_empty() && pattern == resource,
        Some((left, right)) => !subresource.is_empty() && right == subresource && (left == "*" || left == resource),
    }
}

fn url_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

/// The atoms of `wanted` that no rule of `owned` covers: empty when granting `wanted` is no escalation.
pub fn uncovered(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted
        .iter()
        .flat_map(Rule::atoms)
        .filter(|atom| !owned.iter().any(|rule| rule.covers(atom)))
        .collect()
}

/// Joins atoms that differ in their verb only, in a stable order: how upstream prints missing permissions.
pub fn compact(atoms: Vec<Rule>) -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::new();
    for atom in atoms {
        let same = |r: &&mut Rule| {
            r.groups == atom.groups && r.resources == atom.resources && r.names == atom.names && r.urls == atom.urls
        };
        match out.iter_mut().find(same) {
            Some(rule) => rule.verbs.extend(
                atom.verbs
                    .into_iter()
                    .filter(|v| !rule.verbs.contains(v))
                    .collect::<Vec<_>>(),
            ),
            None => out.push(atom),
        }
    }
    for rule in &mut out {
        rule.verbs.sort();
    }
    out.sort_by_key(describe);
    out
}

/// `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`: how upstream's escalation message prints a rule.
pub fn describe(rule: &Rule) -> String {
    let lists = [
        ("APIGroups", &rule.groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.names),
        ("NonResourceURLs", &rule.urls),
        ("Verbs", &rule.verbs),
    ];
    let parts: Vec<String> = lists
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| format!("{name}:{}", quoted(list)))
        .collect();
    format!("{{{}}}", parts.join(", "))
}

fn quoted(list: &[String]) -> String {
    let items: Vec<String> = list.iter().map(|s| format!("{s:?}")).collect();
    format!("[{}]", items.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> Rule {
        let list = |s: &str| {
            if s.is_empty() {
                Vec::new()
            } else {
                s.split(',').map(|x| x.replace("core", "")).collect()
            }
        };
        Rule {
            verbs: list(verbs),
            groups: list(groups),
            resources: list(resources),
            names: list(names),
            urls: Vec::new(),
        }
    }

    #[test]
    fn resource_rules() {
        let cases = [
            (rule("get,list", "core", "pods", ""), "get", "", "pods", "", "", true),
            (
                rule("get,list", "core", "pods", ""),
                "get",
                "",
                "pods",
                "log",
                "",
                false,
            ),
            (rule("get", "core", "pods/log", ""), "get", "", "pods", "log", "a", true),
            (
                rule("get", "*", "*/scale", ""),
                "get",
                "apps",
                "deployments",
                "scale",
                "a",
                true,
            ),
            (
                rule("get", "*", "*/scale", ""),
                "get",
                "apps",
                "deployments",
                "",
                "a",
                false,
            ),
            (rule("*", "*", "*", ""), "patch", "x.io", "things", "status", "a", true),
            (
                rule("get", "core", "configmaps", "a,b"),
                "get",
                "",
                "configmaps",
                "",
                "b",
                true,
            ),
            (
                rule("get", "core", "configmaps", "a,b"),
                "get",
                "",
                "configmaps",
                "",
                "c",
                false,
            ),
            (
                rule("list", "core", "configmaps", "a"),
                "list",
                "",
                "configmaps",
                "",
                "",
                false,
            ),
        ];
        for (r, verb, group, resource, subresource, name, want) in cases {
            let action = Action::Resource {
                verb,
                group,
                resource,
                subresource,
                name,
            };
            assert_eq!(r.allows(&action), want, "{r:?} {action:?}");
        }
    }

    #[test]
    fn url_rules() {
        let r = Rule {
            verbs: vec!["get".into()],
            urls: vec!["/healthz".into(), "/api/*".into()],
            ..Rule::default()
        };
        for (verb, path, want) in [
            ("get", "/healthz", true),
            ("get", "/healthz/x", false),
            ("get", "/api/v1", true),
            ("get", "/api", false),
            ("post", "/healthz", false),
        ] {
            assert_eq!(r.allows(&Action::Url { verb, path }), want, "{verb} {path}");
        }
    }

    #[test]
    fn escalation() {
        let owned = [
            rule("get,list", "core", "pods", ""),
            rule("update", "core", "configmaps", "a"),
            rule("*", "apps", "*", ""),
        ];
        assert!(
            uncovered(
                &owned,
                &[
                    rule("get", "core", "pods", "x"),
                    rule("delete", "apps", "deployments/scale", "")
                ]
            )
            .is_empty()
        );
        let missing = compact(uncovered(
            &owned,
            &[
                rule("watch,get,delete", "core", "pods", ""),
                rule("update", "core", "configmaps", ""),
            ],
        ));
        let text: Vec<String> = missing.iter().map(describe).collect();
        assert_eq!(
            text,
            [
                r#"{APIGroups:[""], Resources:["configmaps"], Verbs:["update"]}"#,
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete" "watch"]}"#
            ]
        );
    }
}
