//! What is served, for clients that ask: legacy and aggregated discovery, the version. Made from the kinds that the registry serves, never from a list of its own.

use std::cmp::Reverse;
use std::sync::Arc;

use api::resources::{ResourceInfo, Subresource};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use daemon::health::Health;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

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
    /// The version that a clause of `Accept` asks for, with whether it wants protobuf.
    pub fn parse(clause: &str) -> Option<(Self, bool)> {
        let words: Vec<&str> = clause.split(';').map(str::trim).collect();
        let protobuf = match *words.first()? {
            "application/json" => false,
            "application/vnd.kubernetes.protobuf" => true,
            _ => return None,
        };
        if !words.contains(&"as=APIGroupDiscoveryList") || !words.contains(&"g=apidiscovery.k8s.io") {
            return None;
        }
        match (words.contains(&"v=v2"), words.contains(&"v=v2beta1")) {
            (true, _) => Some((Self::V2, protobuf)),
            (_, true) => Some((Self::V2beta1, protobuf)),
            _ => None,
        }
    }

    /// The word for the version.
    pub fn version(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V2beta1 => "v2beta1",
        }
    }
}

/// The version as clients compare it.
pub const GIT_VERSION: &str = concat!("v1.35.0+keelson-", env!("CARGO_PKG_VERSION"));

/// `/version`.
pub fn version() -> Value {
    json!({
        "major": "1", "minor": "35", "emulationMajor": "1", "emulationMinor": "35", "minCompatibilityMajor": "1", "minCompatibilityMinor": "34",
        "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "",
        "compiler": "rustc", "platform": "linux/amd64",
    })
}

/// `api/v1` or `apis/<group>/<version>`.
pub fn root(info: &ResourceInfo) -> String {
    if info.group.is_empty() {
        format!("api/{}", info.version)
    } else {
        format!("apis/{}/{}", info.group, info.version)
    }
}

/// Whether the deletion of an object answers with the object instead of a `Status`, as upstream does for some kinds.
pub fn returns_deleted(info: &ResourceInfo) -> bool {
    const RETURNED: &[&str] = &[
        "pods",
        "podtemplates",
        "persistentvolumes",
        "persistentvolumeclaims",
        "resourcequotas",
        "serviceaccounts",
        "services",
        "storageclasses",
        "csidrivers",
        "csinodes",
        "volumeattachments",
        "volumeattributesclasses",
        "resourceclaims",
        "resourceclaimtemplates",
        "deviceclasses",
        "resourceslices",
    ];
    !info.is_custom() && RETURNED.contains(&&*info.resource)
}

/// Differs between two versions of the stored form of a kind; `None` for what is not stored. Upstream's clients know the hashes.
fn storage_version_hash(info: &ResourceInfo) -> Option<String> {
    let stored = info.allows("watch");
    let digest = Sha256::digest(format!("{}/{}/{}", info.storage_group, info.storage_version, info.kind));
    stored.then(|| STANDARD.encode(&digest[..8]))
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
    // Built-in groups have their order, custom ones follow by name.
    let built_in = groups.iter().take_while(|(group, _)| !is_custom(kinds, group)).count();
    groups[built_in..].sort_unstable_by_key(|(group, _)| *group);
    for (_, versions) in &mut groups {
        versions.sort_by_key(|version| Reverse(priority(version)));
    }
    groups
}

fn is_custom(kinds: &[Arc<Kind>], group: &str) -> bool {
    kinds
        .iter()
        .any(|kind| kind.info.group == group && kind.info.is_custom())
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
    if let Some(hash) = storage_version_hash(info) {
        value["storageVersionHash"] = hash.into();
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
            let metadata = if group.is_empty() {
                json!({})
            } else {
                json!({"name": group})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{}", form.version()), "metadata": {}, "items": items})
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
pub fn root_paths(kinds: &[Arc<Kind>], health: &Health) -> Vec<String> {
    let mut paths = health.paths();
    let fixed = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/apis/",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/",
        "/openid/v1/jwks",
        "/version",
    ];
    paths.extend(fixed.map(str::to_owned));
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
    fn the_new_form_is_found_in_a_clause() {
        for (clause, expected) in [
            (
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                Some((Aggregated::V2, false)),
            ),
            (
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList;profile=nopeer",
                Some((Aggregated::V2, false)),
            ),
            (
                "application/json; as=APIGroupDiscoveryList; v=v2beta1; g=apidiscovery.k8s.io",
                Some((Aggregated::V2beta1, false)),
            ),
            (
                "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                Some((Aggregated::V2, true)),
            ),
            (
                "application/json;g=apidiscovery.k8s.io;v=v1;as=APIGroupDiscoveryList",
                None,
            ),
            ("application/json;v=v2;as=APIGroupDiscoveryList", None),
            ("application/json", None),
        ] {
            assert_eq!(Aggregated::parse(clause), expected, "{clause}");
        }
    }

    #[test]
    fn hashes_of_stored_versions_are_those_of_upstream() {
        for (group, version, resource, hash) in [
            ("", "v1", "pods", Some("xPOwRZ+Yhw8=")),
            ("", "v1", "services", Some("0/CO1lhkEBI=")),
            ("apps", "v1", "deployments", Some("8aSe+NMegvE=")),
            ("", "v1", "bindings", None),
            ("authorization.k8s.io", "v1", "subjectaccessreviews", None),
        ] {
            let info = api::resources::find(group, version, resource).unwrap();
            assert_eq!(storage_version_hash(info).as_deref(), hash, "{resource}");
        }
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
