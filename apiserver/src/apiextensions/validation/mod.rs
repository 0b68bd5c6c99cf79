//! What a CustomResourceDefinition must be, in the words of upstream. What all versions share (their schema, subresources, columns) is
//! reported once, under the place where upstream keeps it (`spec.validation`).

use std::collections::HashSet;

use api::{FieldError, names};
use serde_json::Value;

use super::definition::{condition, list};
use super::expressions;
use super::schema::Schema;
use super::status::{approval_state, is_protected};
use crate::kinds::field::{Errors, Field};

mod openapi;
mod parts;
mod structural;

/// The most versions of a definition.
const MOST_VERSIONS: usize = 100;

/// The faults of a definition; `old` is what it was before an update.
pub fn validate(crd: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let root = Field::root("", crd);
    let (spec, metadata) = (root.get("spec"), root.get("metadata"));
    check_name(&metadata.get("name"), &spec, &mut errors);
    check_group(&spec.get("group"), &mut errors);
    spec.get("scope")
        .required_one_of(&mut errors, &["Cluster", "Namespaced"]);
    check_versions(&spec, &mut errors);
    check_shared(&spec, &mut errors);
    check_names(&spec.get("names"), true, &mut errors);
    parts::conversion(&spec.get("conversion"), &mut errors);
    if let Some(old) = old {
        check_update(&spec, old, &mut errors);
    }
    errors.extend(validate_status(crd));
    check_stored_versions(&root, &mut errors);
    check_approval(crd, old, &mut errors);
    let preserve = spec.get("preserveUnknownFields");
    if preserve.bool() && !old.is_some_and(|old| old.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true)))
    {
        preserve.invalid(
            &mut errors,
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        );
    }
    errors
}

/// The faults of a definition's status.
pub fn validate_status(crd: &Value) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let root = Field::root("", crd);
    let status = root.get("status");
    check_names(&status.get("acceptedNames"), false, &mut errors);
    errors
}

fn check_name(name: &Field<'_>, spec: &Field<'_>, errors: &mut Errors) {
    let text = |pointer: &str| spec.value.pointer(pointer).and_then(Value::as_str).unwrap_or("");
    if name.str() != format!("{}.{}", text("/names/plural"), text("/group")) {
        name.invalid(errors, "must be spec.names.plural+\".\"+spec.group");
    }
}

fn check_group(group: &Field<'_>, errors: &mut Errors) {
    if group.is_empty() {
        return group.required(errors, "");
    }
    let faults = names::dns1123_subdomain(group.str());
    if !faults.is_empty() {
        group.invalid(errors, faults.join(","));
    } else if !group.str().contains('.') {
        group.invalid(errors, "should be a domain with at least one dot");
    }
}

fn check_versions(spec: &Field<'_>, errors: &mut Errors) {
    let versions = spec.get("versions");
    if versions.len() > MOST_VERSIONS {
        errors.push(FieldError::too_many("spec.versions", versions.len(), MOST_VERSIONS));
        return;
    }
    for version in versions.items() {
        let name = version.get("name");
        let faults = names::dns1035_label(name.str());
        if !faults.is_empty() {
            name.invalid(errors, faults.join(","));
        }
        if !version
            .value
            .pointer("/schema/openAPIV3Schema")
            .is_some_and(Value::is_object)
        {
            let schema = version.get("schema");
            schema.get("openAPIV3Schema").required(errors, "schemas are required");
        }
        parts::deprecation(&version, errors);
    }
    let mut seen = HashSet::new();
    if !versions
        .items()
        .all(|version| seen.insert(version.get("name").str().to_owned()))
    {
        versions.invalid(errors, "must contain unique version names");
    }
    if versions.items().filter(|version| version.get("storage").bool()).count() != 1 {
        versions.invalid(errors, "must have exactly one version marked as storage version");
    }
}

/// The parts that may differ from version to version: each where it stands, or once if all versions have the same.
fn check_shared(spec: &Field<'_>, errors: &mut Errors) {
    let versions = list(spec.value, "/versions");
    let any_status = versions
        .iter()
        .any(|version| version.pointer("/subresources/status").is_some());
    each(versions, "schema", "validation", |path, part, index| {
        let status = match index {
            Some(index) => versions[index].pointer("/subresources/status").is_some(),
            None => any_status,
        };
        if let Some(schema) = part.get("openAPIV3Schema") {
            check_schema(&Field::root(&format!("{path}.openAPIV3Schema"), schema), status, errors);
        }
    });
    each(versions, "subresources", "subresources", |path, part, _| {
        parts::subresources(&Field::root(path, part), errors);
    });
    each(
        versions,
        "additionalPrinterColumns",
        "additionalPrinterColumns",
        |path, part, _| {
            for column in Field::root(path, part).items() {
                parts::column(&column, errors);
            }
        },
    );
    each(versions, "selectableFields", "selectableFields", |path, part, index| {
        let version = &versions[index.unwrap_or(0)];
        let schema = version.pointer("/schema/openAPIV3Schema").unwrap_or(&Value::Null);
        parts::selectable_fields(&Field::root(path, part), &Schema::parse(schema), errors);
    });
}

/// Calls for a part of every version that has it, or once under its shared path if all have the same.
fn each(versions: &[Value], part: &str, shared: &str, mut check: impl FnMut(&str, &Value, Option<usize>)) {
    let parts: Vec<Option<&Value>> = versions.iter().map(|version| version.get(part)).collect();
    let Some(first) = parts.first() else { return };
    if let (Some(first), true) = (first, parts.iter().all(|part| part == first)) {
        return check(&format!("spec.{shared}"), first, None);
    }
    for (index, value) in parts.iter().enumerate() {
        if let Some(value) = value {
            check(&format!("spec.versions[{index}].{part}"), value, Some(index));
        }
    }
}

fn check_schema(schema: &Field<'_>, status: bool, errors: &mut Errors) {
    if structural::is_too_deep(schema.value) {
        return schema
            .showing(&Value::Null)
            .invalid(errors, "must not be nested so deeply");
    }
    if status {
        openapi::check_root(schema, errors);
    }
    if schema.get("nullable").bool() {
        schema
            .get("nullable")
            .forbidden(errors, "nullable cannot be true at the root");
    }
    let mut found = structural::faults(schema);
    if found.is_empty() {
        found = structural::default_faults(schema);
        // Rules have types only over a structural schema.
        found.extend(expressions::check::check(schema.value, &schema.to_string()));
    }
    errors.extend(found);
    openapi::check(schema, &openapi::Place::ROOT, errors);
}

fn check_names(names: &Field<'_>, required: bool, errors: &mut Errors) {
    if required {
        for name in ["plural", "singular", "kind", "listKind"] {
            if names.get(name).is_empty() {
                names.get(name).required(errors, "");
            }
        }
    }
    for (name, mixed) in [
        ("plural", false),
        ("singular", false),
        ("kind", true),
        ("listKind", true),
    ] {
        let field = names.get(name);
        if field.is_empty() {
            continue;
        }
        let faults = api::names::dns1035_label(&if mixed {
            field.str().to_lowercase()
        } else {
            field.str().to_owned()
        });
        if !faults.is_empty() {
            let hint = if mixed {
                "may have mixed case, but should otherwise match: "
            } else {
                ""
            };
            field.invalid(errors, format!("{hint}{}", faults.join(",")));
        }
    }
    for list in ["shortNames", "categories"] {
        for name in names.get(list).items() {
            let faults = api::names::dns1035_label(name.str());
            if !faults.is_empty() {
                name.invalid(errors, faults.join(","));
            }
        }
    }
    let (kind, list_kind) = (names.get("kind"), names.get("listKind"));
    if !kind.is_empty() && kind.str() == list_kind.str() {
        list_kind.invalid(errors, "kind and listKind may not be the same");
    }
}

fn check_update(spec: &Field<'_>, old: &Value, errors: &mut Errors) {
    let mut immutable: Vec<&[&str]> = vec![&["group"], &["names", "plural"]];
    if condition(old, "Established") == Some("True") {
        immutable.extend([&["scope"] as &[&str], &["names", "kind"]]);
    }
    for path in immutable {
        let pointer = format!("/{}", path.join("/"));
        let (is, was) = (spec.value.pointer(&pointer), old.pointer(&format!("/spec{pointer}")));
        if is != was {
            let field = format!("spec.{}", path.join("."));
            errors.push(FieldError::invalid(
                field,
                is.cloned().unwrap_or_default(),
                "field is immutable",
            ));
        }
    }
}

fn check_stored_versions(root: &Field<'_>, errors: &mut Errors) {
    let (status, versions) = (root.get("status"), list(root.value, "/spec/versions"));
    let stored = status.get("storedVersions");
    if stored.is_empty() {
        return stored
            .showing(&Value::Array(Vec::new()))
            .invalid(errors, "must have at least one stored version");
    }
    let name = |version: &Value| version.get("name").and_then(Value::as_str).unwrap_or("").to_owned();
    for version in versions
        .iter()
        .filter(|version| version.get("storage") == Some(&Value::Bool(true)))
    {
        if !stored.items().any(|stored| stored.str() == name(version)) {
            stored.invalid(errors, format!("must have the storage version {}", name(version)));
        }
    }
    for version in stored.items() {
        let v = version.str();
        if !versions.iter().any(|known| name(known) == v) {
            version.invalid(errors, format!("missing from spec.versions; {v} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {v} and removes {v} from status.storedVersions"));
        }
    }
}

fn check_approval(crd: &Value, old: Option<&Value>, errors: &mut Errors) {
    let group = crd.pointer("/spec/group").and_then(Value::as_str).unwrap_or("");
    let (state, reason, why) = approval_state(crd);
    if !is_protected(group) || old.is_some_and(|old| approval_state(old).1 == reason) {
        return;
    }
    let path = format!("metadata.annotations[{}]", super::status::APPROVED);
    match state {
        None => errors.push(FieldError::required(path, why)),
        Some(false) => {
            let annotations = crd.pointer("/metadata/annotations");
            let is = annotations.and_then(|annotations| annotations.get(super::status::APPROVED));
            errors.push(FieldError::invalid(path, is.cloned().unwrap_or_default(), why));
        }
        Some(true) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A definition without a fault.
    fn crd() -> Value {
        json!({
            "metadata": {"name": "foos.a.example"},
            "spec": {
                "group": "a.example", "scope": "Namespaced", "conversion": {"strategy": "None"},
                "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {"a": {"type": "string"}}}}}}}],
            },
            "status": {"storedVersions": ["v1"]},
        })
    }

    fn with(pointer: &str, value: Value) -> Value {
        let mut crd = crd();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        crd.pointer_mut(parent).unwrap()[key] = value;
        crd
    }

    fn texts(crd: &Value, old: Option<&Value>) -> Vec<String> {
        validate(crd, old).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn faults_are_named_as_upstream_names_them() {
        assert_eq!(texts(&crd(), None), [""; 0]);
        let schema = "/spec/versions/0/schema/openAPIV3Schema";
        for (crd, expected) in [
            (
                with("/metadata/name", json!("x")),
                r#"metadata.name: Invalid value: "x": must be spec.names.plural+"."+spec.group"#,
            ),
            (with("/spec/scope", json!("")), "spec.scope: Required value"),
            (
                with("/spec/scope", json!("World")),
                r#"spec.scope: Unsupported value: "World": supported values: "Cluster", "Namespaced""#,
            ),
            (
                with("/spec/names/listKind", json!("Foo")),
                r#"spec.names.listKind: Invalid value: "Foo": kind and listKind may not be the same"#,
            ),
            (
                with("/spec/preserveUnknownFields", json!(true)),
                "spec.preserveUnknownFields: Invalid value: true: cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
            ),
            (
                with("/status/storedVersions", json!(["v0", "v1"])),
                "status.storedVersions[0]: Invalid value: \"v0\": missing from spec.versions; v0 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v0 and removes v0 from status.storedVersions",
            ),
            (
                with(&format!("{schema}/properties/spec/properties"), json!({"a": {}})),
                "spec.validation.openAPIV3Schema.properties[spec].properties[a].type: Required value: must not be empty for specified object fields",
            ),
            (
                with(schema, json!({})),
                "spec.validation.openAPIV3Schema.type: Required value: must not be empty at the root",
            ),
            (
                with(
                    "/spec/versions/0/subresources",
                    json!({"scale": {"specReplicasPath": ".status.x", "statusReplicasPath": ".status.x"}}),
                ),
                r#"spec.subresources.scale.specReplicasPath: Invalid value: ".status.x": should be a json path under .spec"#,
            ),
            (
                with(
                    "/spec/versions/0/additionalPrinterColumns",
                    json!([{"name": "A", "type": "text", "jsonPath": ".a"}]),
                ),
                r#"spec.additionalPrinterColumns[0].type: Invalid value: "text": must be one of boolean,date,integer,number,string"#,
            ),
            (
                with("/spec/conversion", json!({"strategy": "Webhook"})),
                "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
            ),
            (
                with("/spec/versions/0/selectableFields", json!([{"jsonPath": ".spec"}])),
                r#"spec.selectableFields[0].jsonPath: Invalid value: ".spec": must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."#,
            ),
        ] {
            assert!(
                texts(&crd, None).contains(&expected.to_owned()),
                "{expected}\n{:#?}",
                texts(&crd, None)
            );
        }
    }

    #[test]
    fn what_names_objects_does_not_change() {
        let mut old = crd();
        old["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
        let mut new = old.clone();
        new["spec"]["scope"] = json!("Cluster");
        new["spec"]["names"]["kind"] = json!("Bar");
        assert_eq!(
            texts(&new, Some(&old)),
            [
                r#"spec.scope: Invalid value: "Cluster": field is immutable"#,
                r#"spec.names.kind: Invalid value: "Bar": field is immutable"#
            ]
        );
    }

    #[test]
    fn a_group_of_the_community_wants_approval() {
        let mut crd = with("/spec/group", json!("x.k8s.io"));
        crd["metadata"]["name"] = json!("foos.x.k8s.io");
        assert!(texts(&crd, None)[0].starts_with("metadata.annotations[api-approved.kubernetes.io]: Required value"));
        crd["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": "https://example.com/1"});
        assert_eq!(texts(&crd, None), [""; 0]);
    }

    #[test]
    fn versions_that_differ_are_reported_apart() {
        let mut crd = crd();
        let mut second = crd["spec"]["versions"][0].clone();
        second["name"] = json!("v2");
        second["storage"] = json!(false);
        second["schema"]["openAPIV3Schema"]["properties"]["spec"] = json!({"type": "array"});
        crd["spec"]["versions"].as_array_mut().unwrap().push(second);
        assert_eq!(
            texts(&crd, None),
            ["spec.versions[1].schema.openAPIV3Schema.properties[spec].items: Required value: must be specified"]
        );
    }
}
