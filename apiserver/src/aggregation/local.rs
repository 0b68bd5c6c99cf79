//! The APIServices of what this server serves itself: one for each version of each group, built in or custom. Pure.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::kinds::field::text;
use crate::registry::Kind;

/// Marks APIServices that are kept by this server: `onstart` for built-in groups, `true` for those that come and go.
pub const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Group and version priority of custom groups.
const CUSTOM: (i64, i64) = (1000, 100);
/// Group priorities. Source: upstream's `cmd/kube-apiserver/app` aggregator.
const GROUPS: &[(&str, i64)] = &[
    ("", 18000),
    ("apps", 17800),
    ("events.k8s.io", 17750),
    ("authentication.k8s.io", 17700),
    ("authorization.k8s.io", 17600),
    ("autoscaling", 17500),
    ("batch", 17400),
    ("certificates.k8s.io", 17300),
    ("networking.k8s.io", 17200),
    ("policy", 17100),
    ("rbac.authorization.k8s.io", 17000),
    ("storage.k8s.io", 16800),
    ("apiextensions.k8s.io", 16700),
    ("admissionregistration.k8s.io", 16700),
    ("scheduling.k8s.io", 16600),
    ("coordination.k8s.io", 16500),
    ("node.k8s.io", 16300),
    ("discovery.k8s.io", 16200),
    ("flowcontrol.apiserver.k8s.io", 16100),
    ("internal.apiserver.k8s.io", 16000),
    ("resource.k8s.io", 15900),
    ("storagemigration.k8s.io", 15800),
];
/// The group of APIServices themselves, which upstream's table does not have.
const OWN: &str = "apiregistration.k8s.io";

fn priorities(group: &str, version: &str, custom: bool) -> (i64, i64) {
    let found = GROUPS.iter().find(|(name, _)| *name == group);
    match found {
        _ if custom => CUSTOM,
        Some((_, priority)) if (group, version) == ("autoscaling", "v2") => (*priority, 30),
        Some((_, priority)) if group.is_empty() => (*priority, 1),
        Some((_, priority)) => (*priority, 15),
        None => CUSTOM,
    }
}

/// The APIServices that there should be for these kinds.
pub fn wanted<'a>(kinds: impl Iterator<Item = &'a Kind>) -> Vec<Value> {
    let versions: BTreeSet<(&str, &str, bool)> = kinds
        .map(|kind| (&*kind.info.group, &*kind.info.version, kind.info.is_custom()))
        .filter(|(group, ..)| *group != OWN)
        .collect();
    versions
        .into_iter()
        .map(|(group, version, custom)| one(group, version, custom))
        .collect()
}

fn one(group: &str, version: &str, custom: bool) -> Value {
    let (group_priority, version_priority) = priorities(group, version, custom);
    let mut spec =
        json!({"version": version, "groupPriorityMinimum": group_priority, "versionPriority": version_priority});
    if !group.is_empty() {
        spec["group"] = json!(group);
    }
    json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": format!("{version}.{group}"), "labels": {MANAGED: if custom { "true" } else { "onstart" }}},
        "spec": spec,
    })
}

/// What is to be done about one APIService.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// It is missing.
    Create(Value),
    /// It has another spec; this is what it should be.
    Update(Value),
    /// Its group is not served any more.
    Delete(String),
}

/// Compares what there should be with what there is.
pub fn plan(wanted: &[Value], existing: &[Value]) -> Vec<Step> {
    let name = |object: &Value| text(object, "/metadata/name").to_owned();
    let mark = |object: &Value| {
        object
            .pointer("/metadata/labels")
            .and_then(|l| l.get(MANAGED)?.as_str().map(str::to_owned))
    };
    let mut steps = Vec::new();
    for object in wanted {
        match existing.iter().find(|other| name(other) == name(object)) {
            None => steps.push(Step::Create(object.clone())),
            Some(other) if mark(other).is_some() && other.get("spec") != object.get("spec") => {
                let mut new = other.clone();
                new["spec"] = object["spec"].clone();
                steps.push(Step::Update(new));
            }
            Some(_) => {}
        }
    }
    for object in existing {
        let gone = !wanted.iter().any(|other| name(other) == name(object));
        if gone && mark(object).as_deref() == Some("true") {
            steps.push(Step::Delete(name(object)));
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_served_version_has_one() {
        let all = wanted(crate::registry::kinds().iter().map(|kind| &**kind));
        let names: Vec<&str> = all.iter().map(|object| text(object, "/metadata/name")).collect();
        for name in ["v1.", "v1.apps", "v2.autoscaling", "v1.rbac.authorization.k8s.io"] {
            assert!(names.contains(&name), "{name}");
        }
        assert!(!names.contains(&"v1.apiregistration.k8s.io"));
    }

    #[test]
    fn only_managed_ones_are_touched() {
        let (apps, gone) = (one("apps", "v1", false), one("x.io", "v1", true));
        assert_eq!(plan(std::slice::from_ref(&apps), &[]), [Step::Create(apps.clone())]);
        assert_eq!(plan(&[], &[apps.clone(), gone]), [Step::Delete("v1.x.io".into())]);
        let mut changed = apps.clone();
        changed["spec"]["versionPriority"] = json!(1);
        assert_eq!(
            plan(std::slice::from_ref(&apps), &[changed.clone()]),
            [Step::Update(apps.clone())]
        );
        changed["metadata"]["labels"] = json!({});
        assert!(plan(&[apps], &[changed]).is_empty());
    }
}
