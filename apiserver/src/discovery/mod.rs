//! What is served, for clients that ask: legacy and aggregated discovery, the version. Made from the kinds that the registry serves, never from a list of its own.

use std::cmp::Reverse;
use std::sync::Arc;

use api::resources::{ResourceInfo, Subresource};
use serde_json::{Value, json};

use crate::registry::Kind;

pub mod openapi;

/// A version of aggregated discovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregated {
    /// `apidiscovery.k8s.io/v2`.
    V2,
    /// `apidiscovery.k8s.io/v2beta1`, asked for by clients of 1.26 to 1.29.
    V2beta1,
}

impl Aggregated {
    /// The first one in an `Accept` header, unless plain JSON stands before it.
    pub fn accepted(accept: &str) -> Option<Self> {
        accept.split(',').find_map(|clause| {
            let clause: Vec<&str> = clause.split(';').map(str::trim).collect();
            match (
                clause.contains(&"as=APIGroupDiscoveryList"),
                clause.contains(&"v=v2"),
                clause.contains(&"v=v2beta1"),
            ) {
                (true, true, _) => Some(Self::V2),
                (true, _, true) => Some(Self::V2beta1),
                _ => None,
            }
        })
    }

    /// For `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            Self::V2beta1 => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        }
    }

    fn api_version(self) -> &'static str {
        match self {
            Self::V2 => "apidiscovery.k8s.io/v2",
            Self::V2beta1 => "apidiscovery.k8s.io/v2beta1",
        }
    }
}

/// `/version`.
pub fn version() -> Value {
    json!({
        "major": "1", "minor": "35", "gitVersion": concat!("v1.35.0+keelson-", env!("CARGO_PKG_VERSION")), "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc", "platform": "linux/amd64",
    })
}

/// Named groups with their versions, the preferred one first.
fn group_versions(kinds: &[Arc<Kind>]) -> Vec<(&str, Vec<&str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for info in kinds.iter().map(|kind| &kind.info) {
        match groups.iter_mut().find(|(group, _)| *group == info.group) {
            Some((_, versions)) if versions.contains(&&*info.version) => {}
            Some((_, versions)) => versions.push(&info.version),
            None => groups.push((&info.group, vec![&info.version])),
        }
    }
    for (_, versions) in &mut groups {
        versions.sort_by_key(|version| Reverse(priority(version)));
    }
    groups
}

/// The order of versions: stable before beta before alpha, then the larger number.
fn priority(version: &str) -> (u8, u32, u32) {
    let text = version.trim_start_matches('v');
    let (major, stage) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let major = major.parse().unwrap_or(0);
    let minor = |stage: &str, word: &str| stage.trim_start_matches(word).parse().unwrap_or(0);
    match stage {
        "" => (2, major, 0),
        s if s.starts_with("beta") => (1, major, minor(s, "beta")),
        s => (0, major, minor(s, "alpha")),
    }
}

/// `/api` for clients without aggregated discovery.
pub fn core_versions(address: &str) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]})
}

/// `/apis`.
pub fn groups(kinds: &[Arc<Kind>]) -> Value {
    let groups: Vec<Value> = group_versions(kinds)
        .into_iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| group_value(group, &versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`.
pub fn group(kinds: &[Arc<Kind>], name: &str) -> Option<Value> {
    let (group, versions) = group_versions(kinds)
        .into_iter()
        .find(|(group, _)| *group == name && !group.is_empty())?;
    let mut value = group_value(group, &versions);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

fn group_value(group: &str, versions: &[&str]) -> Value {
    let entry = |version: &str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let all: Vec<Value> = versions.iter().map(|version| entry(version)).collect();
    json!({"name": group, "versions": all, "preferredVersion": versions.first().map(|version| entry(version))})
}

/// `/api/v1` and `/apis/<group>/<version>`.
pub fn resources(kinds: &[Arc<Kind>], group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for info in of_version(kinds, group, version) {
        list.push(resource(info));
        list.extend(info.subresources.iter().map(|sub| subresource(info, sub)));
    }
    let served = !list.is_empty();
    served.then(|| json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api::join_api_version(group, version), "resources": list}))
}

fn of_version<'a>(kinds: &'a [Arc<Kind>], group: &str, version: &str) -> impl Iterator<Item = &'a ResourceInfo> {
    let infos = kinds.iter().map(|kind| &*kind.info);
    infos.filter(move |info| info.group == group && info.version == version)
}

fn resource(info: &ResourceInfo) -> Value {
    let mut value = json!({"name": info.resource, "singularName": info.singular, "namespaced": info.namespaced, "kind": info.kind, "verbs": info.verbs});
    if !info.short_names.is_empty() {
        value["shortNames"] = json!(info.short_names);
    }
    if !info.categories.is_empty() {
        value["categories"] = json!(info.categories);
    }
    value
}

fn subresource(info: &ResourceInfo, sub: &Subresource) -> Value {
    let name = format!("{}/{}", info.resource, sub.name);
    let mut value =
        json!({"name": name, "singularName": "", "namespaced": info.namespaced, "kind": sub.kind, "verbs": sub.verbs});
    if (&sub.group, &sub.version) != (&info.group, &info.version) {
        if !sub.group.is_empty() {
            value["group"] = json!(sub.group);
        }
        value["version"] = json!(sub.version);
    }
    value
}

/// `/api` and `/apis` in one answer each.
pub fn aggregated(kinds: &[Arc<Kind>], core: bool, form: Aggregated) -> Value {
    let items: Vec<Value> = group_versions(kinds)
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .into_iter()
                .map(|version| aggregated_version(kinds, group, version))
                .collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": form.api_version(), "metadata": {}, "items": items})
}

fn aggregated_version(kinds: &[Arc<Kind>], group: &str, version: &str) -> Value {
    let list: Vec<Value> = of_version(kinds, group, version).map(aggregated_resource).collect();
    json!({"version": version, "freshness": "Current", "resources": list})
}

fn aggregated_resource(info: &ResourceInfo) -> Value {
    let mut value = json!({
        "resource": info.resource, "singularResource": info.singular, "scope": if info.namespaced { "Namespaced" } else { "Cluster" },
        "responseKind": {"group": info.group, "version": info.version, "kind": info.kind}, "verbs": info.verbs,
    });
    if !info.short_names.is_empty() {
        value["shortNames"] = json!(info.short_names);
    }
    if !info.categories.is_empty() {
        value["categories"] = json!(info.categories);
    }
    let subs: Vec<Value> = info
        .subresources
        .iter()
        .map(|sub| json!({"subresource": sub.name, "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind}, "verbs": sub.verbs}))
        .collect();
    if !subs.is_empty() {
        value["subresources"] = subs.into();
    }
    value
}

/// `/`.
pub fn root_paths(kinds: &[Arc<Kind>]) -> Vec<String> {
    let mut paths: Vec<String> = [
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v3",
        "/readyz",
        "/version",
    ]
    .map(str::to_owned)
    .into();
    for (group, versions) in group_versions(kinds) {
        if !group.is_empty() {
            paths.push(format!("/apis/{group}"));
            paths.extend(versions.into_iter().map(|version| format!("/apis/{group}/{version}")));
        }
    }
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_versions_come_first() {
        let mut versions = vec!["v1alpha1", "v1", "v2beta1", "v2", "v1beta2"];
        versions.sort_by_key(|version| Reverse(priority(version)));
        assert_eq!(versions, ["v2", "v1", "v2beta1", "v1beta2", "v1alpha1"]);
    }

    #[test]
    fn the_new_form_is_found_in_accept() {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(Aggregated::accepted(accept), Some(Aggregated::V2));
        assert_eq!(Aggregated::accepted("application/json"), None);
    }

    #[test]
    fn pods_have_their_subresources() {
        let list = resources(crate::registry::kinds(), "", "v1").unwrap();
        let names: Vec<&str> = list["resources"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|r| r["name"].as_str())
            .collect();
        for name in [
            "pods",
            "pods/log",
            "pods/status",
            "pods/binding",
            "pods/eviction",
            "namespaces/finalize",
            "serviceaccounts/token",
        ] {
            assert!(names.contains(&name), "{name}");
        }
        assert!(resources(crate::registry::kinds(), "", "v2").is_none());
    }
}
