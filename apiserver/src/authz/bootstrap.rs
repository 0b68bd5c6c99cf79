//! The default roles and bindings (`bootstrap.txt`) as objects, and how an existing one is brought up to date at start.
//! Reconciliation adds what is missing and never takes away what an operator added, as upstream does.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::rules::{Rule, compact, uncovered};

const TEXT: &str = include_str!("bootstrap.txt");
const API_VERSION: &str = "rbac.authorization.k8s.io/v1";
const GROUP: &str = "rbac.authorization.k8s.io";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const CONTROLLER: &str = "system:controller:";

/// A role or binding to create; `namespace` is empty for the cluster-wide kinds.
#[derive(Clone, Debug)]
pub struct BootstrapObject {
    /// `clusterroles`, `clusterrolebindings`, `roles` or `rolebindings`.
    pub resource: &'static str,
    /// Empty for cluster-wide kinds.
    pub namespace: String,
    /// metadata.name
    pub name: String,
    /// The whole object, with apiVersion and kind.
    pub object: Value,
}

/// Every default object, roles first.
pub fn defaults() -> Vec<BootstrapObject> {
    let mut roles: Vec<(String, Role)> = Vec::new();
    let mut bindings: Vec<(String, String, Vec<String>)> = Vec::new();
    for line in TEXT.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            ["role", name, labels @ ..] => roles.push(((*name).to_owned(), Role::labelled(labels))),
            ["bind", name, role, subjects @ ..] => bindings.push((
                (*name).to_owned(),
                (*role).to_owned(),
                subjects.iter().map(|s| (*s).to_owned()).collect(),
            )),
            rule => {
                if let Some((_, role)) = roles.last_mut() {
                    role.add(rule);
                }
            }
        }
    }
    add_controllers(&mut roles, &mut bindings);
    aggregate(&mut roles);
    let mut out: Vec<BootstrapObject> = roles.into_iter().map(|(name, role)| role.object(&name)).collect();
    out.extend(
        bindings
            .into_iter()
            .map(|(name, role, subjects)| binding(&name, &role, &subjects)),
    );
    out
}

/// Binds each `system:controller:x` to its service account, and the sum of them to the one identity our kube-controller-manager has.
fn add_controllers(roles: &mut Vec<(String, Role)>, bindings: &mut Vec<(String, String, Vec<String>)>) {
    let mut all = Role::default();
    for (name, role) in roles.iter() {
        if let Some(account) = name.strip_prefix(CONTROLLER) {
            bindings.push((name.clone(), name.clone(), vec![format!("sa:kube-system/{account}")]));
            all.rules.extend(
                role.rules
                    .iter()
                    .filter(|r| !all.rules.contains(r))
                    .cloned()
                    .collect::<Vec<_>>(),
            );
        }
    }
    let name = "keelson:controllers".to_owned();
    roles.push((name.clone(), all));
    bindings.push((
        name.clone(),
        name,
        vec!["user:system:kube-controller-manager".to_owned()],
    ));
}

/// Gives the aggregated roles the rules that they have as long as nobody adds to them; the aggregation controller does that.
fn aggregate(roles: &mut [(String, Role)]) {
    fn rules(roles: &[(String, Role)], label: &str) -> Vec<Rule> {
        let chosen = roles
            .iter()
            .map(|(_, role)| role)
            .filter(|role| role.labels.contains_key(label));
        let own = |role: &Role| {
            role.aggregate
                .as_ref()
                .map_or_else(|| role.rules.clone(), |label| rules(roles, label))
        };
        chosen.flat_map(own).collect()
    }
    let all = roles.to_vec();
    for (_, role) in roles {
        if let Some(label) = &role.aggregate {
            role.rules = rules(&all, label);
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Role {
    labels: BTreeMap<String, String>,
    rules: Vec<Rule>,
    aggregate: Option<String>,
}

impl Role {
    fn labelled(labels: &[&str]) -> Role {
        let pairs = labels
            .iter()
            .filter_map(|l| l.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()));
        Role {
            labels: pairs.collect(),
            ..Role::default()
        }
    }

    fn add(&mut self, words: &[&str]) {
        match *words {
            ["aggregate", label] => self.aggregate = Some(label.to_owned()),
            [verb_list, "url", paths] => self.rules.push(Rule {
                verbs: verbs(verb_list),
                urls: list(paths),
                ..Rule::default()
            }),
            [verb_list, groups, resources, ref names @ ..] => {
                let groups = list(groups)
                    .into_iter()
                    .map(|g| if g == "core" { String::new() } else { g })
                    .collect();
                let names = names.first().map(|n| list(n)).unwrap_or_default();
                self.rules.push(Rule {
                    verbs: verbs(verb_list),
                    groups,
                    resources: list(resources),
                    names,
                    urls: Vec::new(),
                });
            }
            _ => {}
        }
    }

    fn object(self, qualified: &str) -> BootstrapObject {
        let (namespace, name) = split(qualified);
        let (kind, resource) = if namespace.is_empty() {
            ("ClusterRole", "clusterroles")
        } else {
            ("Role", "roles")
        };
        let mut object = json!({
            "apiVersion": API_VERSION, "kind": kind, "metadata": metadata(&namespace, &name, &self.labels),
            "rules": self.rules.iter().map(Rule::to_value).collect::<Vec<_>>(),
        });
        if let Some(label) = self.aggregate {
            object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
        }
        BootstrapObject {
            resource,
            namespace,
            name,
            object,
        }
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

fn verbs(text: &str) -> Vec<String> {
    list(match text {
        "rw" => "create,delete,deletecollection,get,list,patch,update,watch",
        "write" => "create,delete,deletecollection,patch,update",
        "read" => "get,list,watch",
        other => other,
    })
}

fn split(qualified: &str) -> (String, String) {
    match qualified.split_once('/') {
        Some((namespace, name)) => (namespace.to_owned(), name.to_owned()),
        None => (String::new(), qualified.to_owned()),
    }
}

fn metadata(namespace: &str, name: &str, labels: &BTreeMap<String, String>) -> Value {
    let mut labels = labels.clone();
    labels.insert("kubernetes.io/bootstrapping".to_owned(), "rbac-defaults".to_owned());
    let mut meta = json!({"name": name, "labels": labels, "annotations": {AUTOUPDATE: "true"}});
    if !namespace.is_empty() {
        meta["namespace"] = json!(namespace);
    }
    meta
}

fn binding(qualified: &str, role: &str, subjects: &[String]) -> BootstrapObject {
    let (namespace, name) = split(qualified);
    let (kind, role_kind, resource) = if namespace.is_empty() {
        ("ClusterRoleBinding", "ClusterRole", "clusterrolebindings")
    } else {
        ("RoleBinding", "Role", "rolebindings")
    };
    let subjects: Vec<Value> = subjects.iter().filter_map(|s| subject(s)).collect();
    let mut object = json!({
        "apiVersion": API_VERSION, "kind": kind, "metadata": metadata(&namespace, &name, &BTreeMap::new()),
        "roleRef": {"apiGroup": GROUP, "kind": role_kind, "name": role},
    });
    if !subjects.is_empty() {
        object["subjects"] = json!(subjects);
    }
    BootstrapObject {
        resource,
        namespace,
        name,
        object,
    }
}

fn subject(text: &str) -> Option<Value> {
    match text.split_once(':')? {
        ("user", name) => Some(json!({"apiGroup": GROUP, "kind": "User", "name": name})),
        ("group", name) => Some(json!({"apiGroup": GROUP, "kind": "Group", "name": name})),
        ("sa", name) => {
            let (namespace, name) = name.split_once('/')?;
            Some(json!({"kind": "ServiceAccount", "name": name, "namespace": namespace}))
        }
        _ => None,
    }
}

/// The object to write so that `existing` holds everything `wanted` has, or nothing when it does already or must be left alone.
pub fn reconciled(existing: &Value, wanted: &Value) -> Option<Value> {
    let meta = &existing["metadata"];
    if meta["annotations"][AUTOUPDATE].as_str() == Some("false") {
        return None;
    }
    let mut out = existing.clone();
    for map in ["labels", "annotations"] {
        for (key, value) in wanted["metadata"][map].as_object().into_iter().flatten() {
            if meta[map].get(key).is_none() {
                out["metadata"][map][key] = value.clone();
            }
        }
    }
    if wanted.get("aggregationRule").is_some() {
        out["aggregationRule"] = wanted["aggregationRule"].clone();
    } else if let Some(rules) = wanted["rules"].as_array() {
        add_rules(&mut out, rules);
    }
    add_subjects(&mut out, wanted);
    (out != *existing).then_some(out)
}

fn add_rules(out: &mut Value, wanted: &[Value]) {
    let parse = |list: &[Value]| list.iter().map(Rule::from_value).collect::<Vec<_>>();
    let mut rules = out["rules"].as_array().cloned().unwrap_or_default();
    let missing = compact(uncovered(&parse(&rules), &parse(wanted)));
    if !missing.is_empty() {
        rules.extend(missing.iter().map(Rule::to_value));
        out["rules"] = Value::Array(rules);
    }
}

fn add_subjects(out: &mut Value, wanted: &Value) {
    let mut subjects = out["subjects"].as_array().cloned().unwrap_or_default();
    let missing: Vec<Value> = wanted["subjects"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|s| !subjects.contains(s))
        .cloned()
        .collect();
    if !missing.is_empty() {
        subjects.extend(missing);
        out["subjects"] = Value::Array(subjects);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(all: &'a [BootstrapObject], resource: &str, name: &str) -> &'a Value {
        &all.iter()
            .find(|d| d.resource == resource && d.name == name)
            .unwrap_or_else(|| panic!("{resource} {name}"))
            .object
    }

    #[test]
    fn every_line_is_understood() {
        let all = defaults();
        let rules = TEXT
            .lines()
            .filter(|l| l.starts_with("  ") && !l.contains("aggregate "))
            .count();
        let parsed: usize = all
            .iter()
            .filter(|d| d.name != "keelson:controllers" && d.object.get("aggregationRule").is_none())
            .filter_map(|d| d.object["rules"].as_array().map(Vec::len))
            .sum();
        assert_eq!(parsed, rules);
        let bound: Vec<&BootstrapObject> = all.iter().filter(|d| d.resource.ends_with("bindings")).collect();
        for b in bound {
            let kind = if b.namespace.is_empty() {
                "clusterroles"
            } else {
                "roles"
            };
            let role = b.object["roleRef"]["name"].as_str().unwrap_or_default();
            assert!(
                all.iter()
                    .any(|d| d.resource == kind && d.namespace == b.namespace && d.name == role),
                "{}: no role {role}",
                b.name
            );
        }
    }

    #[test]
    fn known_objects() {
        let all = defaults();
        assert_eq!(
            find(&all, "clusterroles", "cluster-admin")["rules"],
            json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}, {"verbs": ["*"], "nonResourceURLs": ["*"]}])
        );
        assert_eq!(
            find(&all, "clusterroles", "admin")["aggregationRule"]["clusterRoleSelectors"][0]["matchLabels"]["rbac.authorization.k8s.io/aggregate-to-admin"],
            "true"
        );
        assert_eq!(
            find(&all, "clusterrolebindings", "system:controller:job-controller")["subjects"],
            json!([{"kind": "ServiceAccount", "name": "job-controller", "namespace": "kube-system"}])
        );
    }

    #[test]
    fn reconciliation_adds_and_keeps() {
        let all = defaults();
        let wanted = find(&all, "clusterroles", "system:kube-dns");
        assert_eq!(reconciled(wanted, wanted), None);
        let mut edited = wanted.clone();
        edited["rules"] = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["nodes"]}]);
        let fixed = reconciled(&edited, wanted).unwrap_or_default();
        assert_eq!(fixed["rules"][0]["resources"][0], "nodes");
        assert_eq!(fixed["rules"].as_array().map(Vec::len), Some(3));
        edited["metadata"]["annotations"][AUTOUPDATE] = json!("false");
        assert_eq!(reconciled(&edited, wanted), None);
    }
}
