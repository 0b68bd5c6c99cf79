//! What extension API servers serve, added to this server's own discovery documents. Pure: works on the documents.

use std::cmp::Reverse;

use serde_json::{Value, json};

use super::{Remote, Table};
use crate::kinds::field::{list, text};

/// The versions of one group, in the order of their priority.
struct Group<'a> {
    name: &'a str,
    remotes: Vec<&'a Remote>,
}

fn groups(table: &Table) -> Vec<Group<'_>> {
    let mut out: Vec<Group<'_>> = Vec::new();
    for remote in table.remotes() {
        match out.iter_mut().find(|group| group.name == remote.group) {
            Some(group) => group.remotes.push(remote),
            None => out.push(Group {
                name: &remote.group,
                remotes: vec![remote],
            }),
        }
    }
    for group in &mut out {
        group.remotes.sort_by_key(|remote| Reverse(remote.version_priority));
    }
    out
}

fn entry(group: &str, version: &str) -> Value {
    json!({"groupVersion": format!("{group}/{version}"), "version": version})
}

impl Group<'_> {
    /// An `APIGroup`, with the versions that are there already.
    fn document(&self, existing: Option<&Value>) -> Value {
        let mut versions: Vec<Value> = existing
            .map(|group| list(group, "/versions").to_vec())
            .unwrap_or_default();
        for remote in &self.remotes {
            if !versions
                .iter()
                .any(|version| text(version, "/version") == remote.version)
            {
                versions.push(entry(self.name, &remote.version));
            }
        }
        let preferred = existing.and_then(|group| group.get("preferredVersion").cloned());
        json!({"name": self.name, "preferredVersion": preferred.unwrap_or_else(|| versions.first().cloned().unwrap_or_default()), "versions": versions})
    }
}

/// Adds to an `APIGroupList`.
pub fn add_groups(table: &Table, document: &mut Value) {
    let Some(items) = document.get_mut("groups").and_then(Value::as_array_mut) else {
        return;
    };
    for group in groups(table) {
        match items.iter_mut().find(|item| text(item, "/name") == group.name) {
            Some(item) => *item = group.document(Some(item)),
            None => items.push(group.document(None)),
        }
    }
}

/// The `APIGroup` of this name, added to what there is of it.
pub fn group(table: &Table, name: &str, existing: Option<Value>) -> Option<Value> {
    let Some(group) = groups(table).into_iter().find(|group| group.name == name) else {
        return existing;
    };
    let mut document = group.document(existing.as_ref());
    document["kind"] = "APIGroup".into();
    document["apiVersion"] = "v1".into();
    Some(document)
}

/// Adds to the paths of `/`.
pub fn add_paths(table: &Table, paths: &mut Vec<String>) {
    for remote in table.remotes() {
        paths.push(format!("/apis/{}", remote.group));
        paths.push(format!("/apis/{}/{}", remote.group, remote.version));
    }
    paths.sort();
    paths.dedup();
}

/// Adds to an `APIGroupDiscoveryList` what is known of each version; one that does not answer is stale.
pub fn add_aggregated(table: &Table, document: &mut Value) {
    let Some(items) = document.get_mut("items").and_then(Value::as_array_mut) else {
        return;
    };
    for group in groups(table) {
        let versions = group.remotes.iter().map(|remote| version(remote));
        match items.iter_mut().find(|item| text(item, "/metadata/name") == group.name) {
            Some(item) => {
                if let Some(all) = item.get_mut("versions").and_then(Value::as_array_mut) {
                    all.extend(versions);
                }
            }
            None => items.push(json!({
                "metadata": {"name": group.name, "creationTimestamp": null}, "versions": versions.collect::<Vec<_>>(),
            })),
        }
    }
}

fn version(remote: &Remote) -> Value {
    match remote.found() {
        Some(found) => {
            json!({"version": remote.version, "freshness": "Current", "resources": resources(remote, &found.resources)})
        }
        None => json!({"version": remote.version, "freshness": "Stale"}),
    }
}

/// The resources of an `APIResourceList` in the aggregated form.
fn resources(remote: &Remote, legacy: &Value) -> Vec<Value> {
    let kind = |resource: &Value| {
        let of = |field: &str, default: &str| match text(resource, field) {
            "" => default.to_owned(),
            value => value.to_owned(),
        };
        json!({"group": of("/group", &remote.group), "version": of("/version", &remote.version), "kind": text(resource, "/kind")})
    };
    let mut out: Vec<Value> = Vec::new();
    let all = list(legacy, "/resources");
    for resource in all.iter().filter(|resource| !text(resource, "/name").contains('/')) {
        let name = text(resource, "/name");
        let namespaced = resource.get("namespaced").and_then(Value::as_bool) == Some(true);
        let mut one = json!({
            "resource": name, "responseKind": kind(resource), "scope": if namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": text(resource, "/singularName"), "verbs": list(resource, "/verbs"),
        });
        for field in ["shortNames", "categories"] {
            if let Some(values) = resource.get(field) {
                one[field] = values.clone();
            }
        }
        let subs = all
            .iter()
            .filter_map(|sub| Some((text(sub, "/name").strip_prefix(name)?.strip_prefix('/')?, sub)));
        let subs: Vec<Value> = subs
            .map(|(sub_name, sub)| json!({"subresource": sub_name, "responseKind": kind(sub), "verbs": list(sub, "/verbs")}))
            .collect();
        if !subs.is_empty() {
            one["subresources"] = json!(subs);
        }
        out.push(one);
    }
    out
}

/// Adds to `/openapi/v3`.
pub fn add_openapi(table: &Table, document: &mut Value) {
    let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) else {
        return;
    };
    for remote in table.remotes() {
        if let Some(line) = remote
            .found()
            .map(|found| found.openapi.clone())
            .filter(Value::is_object)
        {
            paths.insert(format!("apis/{}/{}", remote.group, remote.version), line);
        }
    }
}
