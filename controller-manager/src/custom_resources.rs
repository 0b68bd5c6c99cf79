//! The kinds that CustomResourceDefinitions add to the API, as controllers that work on objects of every kind need them.

use api::apiextensions::v1::CustomResourceDefinition;
use api::resources::{ALL_VERBS, ResourceInfo, Text};

/// The resource that an established definition serves, in one of its versions: the stored one if it is served. `None` when there is none.
pub fn resource(definition: &CustomResourceDefinition) -> Option<ResourceInfo> {
    let status = definition.status.as_ref()?;
    let conditions = status.conditions.iter().flatten();
    let established = conditions
        .into_iter()
        .any(|c| c.type_ == "Established" && c.status == "True");
    let names = status.accepted_names.as_ref().filter(|_| established)?;
    let spec = &definition.spec;
    let served = |stored: bool| {
        spec.versions
            .iter()
            .find(|version| version.served && (version.storage || !stored))
    };
    let version = served(true).or_else(|| served(false))?;
    let owned = |text: &str| Text::Owned(text.to_owned());
    Some(ResourceInfo {
        group: owned(&spec.group),
        version: owned(&version.name),
        resource: owned(&names.plural),
        singular: owned(names.singular.as_deref().unwrap_or_default()),
        kind: owned(&names.kind),
        list_kind: owned(names.list_kind.as_deref().unwrap_or_default()),
        namespaced: spec.scope == "Namespaced",
        short_names: Vec::new(),
        categories: Vec::new(),
        verbs: ALL_VERBS,
        subresources: Vec::new(),
        storage_group: owned(&spec.group),
        storage_version: owned(&version.name),
        message: api::resources::custom_message()?,
    })
}

#[cfg(test)]
mod tests {
    use api::Object;
    use serde_json::json;

    use super::*;

    fn definition(established: &str, versions: serde_json::Value) -> CustomResourceDefinition {
        CustomResourceDefinition::from_value(json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "foos.a.example"},
            "spec": {"group": "a.example", "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo"}, "versions": versions},
            "status": {"acceptedNames": {"plural": "foos", "kind": "Foo"}, "conditions": [{"type": "Established", "status": established}]}}))
        .unwrap()
    }

    #[test]
    fn an_established_definition_has_a_resource() {
        let versions =
            json!([{"name": "v1", "served": true, "storage": false}, {"name": "v2", "served": true, "storage": true}]);
        let info = resource(&definition("True", versions.clone())).unwrap();
        assert_eq!((&*info.resource, &*info.version, info.namespaced), ("foos", "v2", true));
        assert!(resource(&definition("False", versions)).is_none());
        let old =
            json!([{"name": "v1", "served": true, "storage": false}, {"name": "v2", "served": false, "storage": true}]);
        assert_eq!(resource(&definition("True", old)).unwrap().version, "v1");
    }
}
