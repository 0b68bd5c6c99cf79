//! The generic registry: one pipeline for every resource, behind REST and gRPC alike: authorize, admit, validate, store.
//!
//! What is special to a kind is in its [`strategy::Strategy`]. Nothing here knows of HTTP or gRPC.

use std::collections::HashMap;
use std::sync::OnceLock;

use api::resources::{self, ResourceInfo};
use api::schema::Message;

pub mod access;
pub mod strategy;
pub mod table;

use strategy::{Generic, Strategy};

/// One served resource in one version.
pub struct Kind {
    /// The resource as it is asked for.
    pub info: &'static ResourceInfo,
    /// The resource in the group and version it is stored in.
    pub storage: &'static ResourceInfo,
    /// The kind's rules.
    pub strategy: &'static dyn Strategy,
    /// Start of the store keys of all its objects: `core/pods/`.
    pub prefix: String,
}

impl Kind {
    /// The store key of an object; `namespace` is empty for cluster-scoped kinds.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        format!("{}{namespace}/{name}", self.prefix)
    }

    /// `v1` or `apps/v1` as asked for.
    pub fn api_version(&self) -> String {
        api_version(self.info)
    }

    /// `v1` or `apps/v1` as stored.
    pub fn storage_api_version(&self) -> String {
        api_version(self.storage)
    }

    /// True when stored objects are served as they are.
    pub fn is_storage_version(&self) -> bool {
        std::ptr::eq(self.info, self.storage)
    }

    /// The schema of the stored form.
    pub fn message(&self) -> &'static Message {
        self.storage.message
    }

    /// The resource as error messages name it.
    pub fn group_resource(&self) -> api::GroupResource {
        api::GroupResource { group: self.info.group.into(), resource: self.info.resource.into() }
    }

    /// The kind as validation errors name it.
    pub fn group_kind(&self) -> api::GroupKind {
        api::GroupKind { group: self.info.group.into(), kind: self.info.kind.into() }
    }
}

fn api_version(info: &ResourceInfo) -> String {
    if info.group.is_empty() { info.version.to_owned() } else { format!("{}/{}", info.group, info.version) }
}

/// Every served resource, in the order of `api::resources::all`.
pub fn kinds() -> &'static [Kind] {
    static KINDS: OnceLock<Vec<Kind>> = OnceLock::new();
    KINDS.get_or_init(|| resources::all().iter().map(register).collect())
}

/// A served resource by group, version and plural.
pub fn find(group: &str, version: &str, resource: &str) -> Option<&'static Kind> {
    static INDEX: OnceLock<HashMap<(&str, &str), Vec<&'static Kind>>> = OnceLock::new();
    let index = INDEX.get_or_init(|| {
        let mut index: HashMap<_, Vec<_>> = HashMap::new();
        for kind in kinds() {
            index.entry((kind.info.group, kind.info.resource)).or_default().push(kind);
        }
        index
    });
    index.get(&(group, resource))?.iter().copied().find(|k| k.info.version == version)
}

fn register(info: &'static ResourceInfo) -> Kind {
    static PLAIN: Generic = Generic { generation: false };
    // Events are one object under two groups.
    let (group, version) = match (info.group, info.resource) {
        ("events.k8s.io", "events") => ("", "v1"),
        _ => (info.group, info.storage_version),
    };
    let storage = resources::find(group, version, info.resource).unwrap_or(info);
    let strategy = crate::kinds::STRATEGIES
        .iter()
        .find(|(g, r, _)| *g == storage.group && *r == storage.resource)
        .map_or(&PLAIN as &dyn Strategy, |(_, _, strategy)| *strategy);
    let group = if storage.group.is_empty() { "core" } else { storage.group };
    Kind { info, storage, strategy, prefix: format!("{group}/{}/", storage.resource) }
}
