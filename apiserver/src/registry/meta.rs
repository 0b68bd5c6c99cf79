//! Metadata: what the server sets, what callers may not change, and whether it is well-formed.

use std::collections::BTreeMap;

use api::resources::ResourceInfo;
use api::{FieldError, names};
use jiff::Timestamp;
use rand::RngCore;
use serde_json::{Map, Value};

use super::strategy::Strategy;

/// Upstream's limit on all annotations of one object, bytes.
const ANNOTATIONS_LIMIT: usize = 256 << 10;

/// The longest prefix of a generated name; five characters are added.
const GENERATED_PREFIX_LIMIT: usize = 58;

/// The object's metadata, made if it is missing.
pub fn of(object: &mut Value) -> &mut Map<String, Value> {
    child(map(object), "metadata")
}

/// A field of the object as a map, made if it is missing.
pub fn child<'a>(object: &'a mut Map<String, Value>, field: &str) -> &'a mut Map<String, Value> {
    map(object.entry(field).or_insert(Value::Null))
}

/// The value as a map; anything else becomes an empty one.
pub fn map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

/// A text field of the metadata, empty if it is not there.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|m| m.get(field))
        .and_then(Value::as_str)
        .unwrap_or("")
}

/// The finalizers.
pub fn finalizers(object: &Value) -> Vec<&str> {
    let list = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The labels.
pub fn labels(object: &Value) -> BTreeMap<String, String> {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// True once deletion has been asked for.
pub fn is_deleting(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}

/// `metadata.generation`, 0 if it is not counted.
pub fn generation(object: &Value) -> i64 {
    object
        .pointer("/metadata/generation")
        .and_then(Value::as_i64)
        .unwrap_or(0)
}

/// A time as `metav1.Time` prints it.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A name from a prefix.
pub fn generate_name(prefix: &str) -> String {
    let mut random = [0u8; 5];
    rand::rng().fill_bytes(&mut random);
    let mut end = prefix.len().min(GENERATED_PREFIX_LIMIT);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &prefix[..end], names::generate_suffix(&random))
}

/// Sets what the server owns on a new object.
pub fn begin(object: &mut Value, generation: bool, now: Timestamp) {
    let metadata = of(object);
    for field in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "resourceVersion",
        "generation",
    ] {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), time(now).into());
    if generation {
        metadata.insert("generation".into(), 1.into());
    }
}

/// Restores what a write cannot change. What it may not even try to change is left for [`validate_update`].
pub fn carry_over(new: &mut Value, old: &Value) {
    let old_metadata = old.get("metadata").and_then(Value::as_object);
    let metadata = of(new);
    for field in ["creationTimestamp", "generation", "selfLink"] {
        match old_metadata.and_then(|m| m.get(field)) {
            Some(value) => metadata.insert(field.into(), value.clone()),
            None => metadata.remove(field),
        };
    }
    let kept = |field: &str| old_metadata.and_then(|m| m.get(field)).filter(|value| !value.is_null());
    if let Some(value) = kept("deletionTimestamp") {
        metadata.insert("deletionTimestamp".into(), value.clone());
    }
    for field in ["uid", "namespace", "deletionGracePeriodSeconds"] {
        let missing = |value: Option<&Value>| value.is_none_or(|v| v.is_null() || v.as_str() == Some(""));
        if missing(metadata.get(field))
            && let Some(value) = kept(field)
        {
            metadata.insert(field.into(), value.clone());
        }
    }
}

/// Drops owner references that come twice; names the uids of those that went.
pub fn deduplicate_owners(object: &mut Value) -> Option<String> {
    let references = object.pointer_mut("/metadata/ownerReferences")?.as_array_mut()?;
    let mut kept: Vec<Value> = Vec::with_capacity(references.len());
    let mut dropped = Vec::new();
    for reference in references.drain(..) {
        if kept.contains(&reference) {
            dropped.push(reference.get("uid").and_then(Value::as_str).unwrap_or("").to_owned());
        } else {
            kept.push(reference);
        }
    }
    *references = kept;
    (!dropped.is_empty()).then(|| {
        format!(
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            dropped.join(", ")
        )
    })
}

/// Counts the generation if anything but metadata and status differs.
pub fn count_generation(new: &mut Value, old: &Value, is_desired: &dyn Fn(&str) -> bool) {
    if has_other_desires(new, old, is_desired) || has_other_desires(old, new, is_desired) {
        let next = generation(old) + 1;
        of(new).insert("generation".into(), next.into());
    }
}

/// True if such a field of `one` is different or missing in `other`.
fn has_other_desires(one: &Value, other: &Value, is_desired: &dyn Fn(&str) -> bool) -> bool {
    let mut fields = one.as_object().into_iter().flatten();
    fields.any(|(field, value)| is_desired(field) && other.get(field) != Some(value))
}

/// Faults of a new object's metadata.
pub fn validate(object: &Value, namespaced: bool, strategy: &dyn Strategy) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (name, prefix, namespace) = (
        text(object, "name"),
        text(object, "generateName"),
        text(object, "namespace"),
    );
    if !prefix.is_empty() {
        errors.extend(
            strategy
                .validate_name(prefix, true)
                .into_iter()
                .map(|why| FieldError::invalid("metadata.generateName", prefix, why)),
        );
    }
    if name.is_empty() {
        errors.push(FieldError::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else {
        errors.extend(
            strategy
                .validate_name(name, false)
                .into_iter()
                .map(|why| FieldError::invalid("metadata.name", name, why)),
        );
    }
    match (namespaced, namespace) {
        (true, "") => errors.push(FieldError::required("metadata.namespace", "")),
        (true, namespace) => {
            errors.extend(
                names::dns1123_label(namespace)
                    .into_iter()
                    .map(|why| FieldError::invalid("metadata.namespace", namespace, why)),
            );
        }
        (false, "") => {}
        (false, _) => errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type")),
    }
    errors.extend(validate_maps(object));
    errors.extend(validate_references(object));
    errors.extend(validate_finalizers(object));
    errors
}

/// Faults of a change of metadata.
pub fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if is_deleting(old) {
        let before = finalizers(old);
        let mut added: Vec<&str> = finalizers(new).into_iter().filter(|f| !before.contains(f)).collect();
        added.sort_unstable();
        added.dedup();
        if !added.is_empty() {
            let list = added.iter().map(|f| format!("{f:?}")).collect::<Vec<_>>().join(", ");
            errors.push(FieldError::forbidden(
                "metadata.finalizers",
                format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{{{list}}}"),
            ));
        }
    }
    for field in ["name", "namespace", "uid", "deletionTimestamp"] {
        let (is, was) = (text(new, field), text(old, field));
        if is != was {
            errors.push(FieldError::invalid(
                format!("metadata.{field}"),
                is,
                "field is immutable",
            ));
        }
    }
    let grace = |object: &Value| {
        object
            .pointer("/metadata/deletionGracePeriodSeconds")
            .and_then(Value::as_i64)
    };
    if grace(new) != grace(old) {
        let field = "metadata.deletionGracePeriodSeconds";
        errors.push(FieldError::invalid(field, grace(new), "field is immutable"));
    }
    errors.extend(validate_maps(new));
    errors.extend(validate_references(new));
    errors
}

fn validate_maps(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let entries = |field: &str| {
        let map = object.get("metadata").and_then(|metadata| metadata.get(field));
        map.and_then(Value::as_object).into_iter().flatten()
    };
    for (key, value) in entries("labels") {
        let value = value.as_str().unwrap_or("");
        let wrong_key = names::qualified_name(key).into_iter().map(|why| (key.as_str(), why));
        let wrong_value = names::label_value(value).into_iter().map(|why| (value, why));
        let faults = wrong_key.chain(wrong_value);
        errors.extend(faults.map(|(shown, why)| FieldError::invalid("metadata.labels", shown, why)));
    }
    let mut size = 0;
    for (key, value) in entries("annotations") {
        let faults = names::qualified_name(&key.to_lowercase()).into_iter();
        errors.extend(faults.map(|why| FieldError::invalid("metadata.annotations", key.as_str(), why)));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_LIMIT {
        errors.push(FieldError::too_long("metadata.annotations", ANNOTATIONS_LIMIT));
    }
    errors
}

fn validate_finalizers(object: &Value) -> Vec<FieldError> {
    const FIELD: &str = "metadata.finalizers";
    let mut errors = Vec::new();
    let all = finalizers(object);
    for finalizer in &all {
        let faults = names::qualified_name(finalizer).into_iter();
        errors.extend(faults.map(|why| FieldError::invalid(FIELD, *finalizer, why)));
    }
    if all.contains(&"orphan") && all.contains(&"foregroundDeletion") {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(FIELD, all, why));
    }
    errors
}

/// Built-in kinds, save those of the API server's own extension, take only finalizers that say whose they are, or that Kubernetes knows.
pub fn unqualified_finalizers(object: &Value, resource: &ResourceInfo) -> Vec<FieldError> {
    const KNOWN: &[&str] = &["kubernetes", "orphan", "foregroundDeletion"];
    const OTHERS: &[&str] = &[
        "admissionregistration.k8s.io",
        "apiextensions.k8s.io",
        "apiregistration.k8s.io",
    ];
    if resource.is_custom() || OTHERS.contains(&&*resource.group) {
        return Vec::new();
    }
    let all = finalizers(object).into_iter().enumerate();
    let strange = all.filter(|(_, name)| !name.contains('/') && !KNOWN.contains(name));
    let fault = |(index, name): (usize, &str)| {
        let why = "name is neither a standard finalizer name nor is it fully qualified";
        FieldError::invalid(format!("metadata.finalizers[{index}]"), name, why)
    };
    strange.map(fault).collect()
}

fn validate_references(object: &Value) -> Vec<FieldError> {
    const FIELD: &str = "metadata.ownerReferences";
    let mut errors = Vec::new();
    let references = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let mut controller: Option<String> = None;
    for reference in references.into_iter().flatten() {
        let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or("");
        // As upstream, the path does not say which one it is.
        for (field, what) in [
            ("apiVersion", "version"),
            ("kind", "kind"),
            ("name", "name"),
            ("uid", "uid"),
        ] {
            let value = text(field);
            if value.is_empty() {
                let why = format!("{what} must not be empty");
                errors.push(FieldError::invalid(format!("{FIELD}.{field}"), value, why));
            }
        }
        if (text("apiVersion"), text("kind")) == ("v1", "Event") {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(FIELD, reference.clone(), why));
        }
        if reference.get("controller").and_then(Value::as_bool) == Some(true) {
            let name = format!("{}/{}", text("kind"), text("name"));
            let Some(first) = &controller else {
                controller = Some(name);
                continue;
            };
            let all = object.pointer("/metadata/ownerReferences").cloned().unwrap_or_default();
            let why = format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
            );
            errors.push(FieldError::invalid(FIELD, all, why));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::strategy::Generic;

    fn info(resource: &str) -> &'static ResourceInfo {
        api::resources::find("", "v1", resource).unwrap()
    }

    #[test]
    fn finalizers_say_whose_they_are() {
        let faults = |list: Value| -> Vec<String> {
            let object = json!({"metadata": {"name": "a", "namespace": "b", "finalizers": list}});
            let mut faults = validate(&object, true, &Generic { generation: false });
            faults.extend(unqualified_finalizers(&object, info("pods")));
            faults.iter().map(ToString::to_string).collect()
        };
        assert!(faults(json!(["example.com/x", "orphan", "kubernetes"])).is_empty());
        assert_eq!(
            faults(json!(["x"])),
            [
                "metadata.finalizers[0]: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified"
            ]
        );
        assert_eq!(
            faults(json!(["orphan", "foregroundDeletion"])),
            [
                "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set"
            ]
        );
    }

    #[test]
    fn bad_metadata_is_named_by_path() {
        let object = json!({"metadata": {"name": "Web", "namespace": "default", "labels": {"a b": "x"},
            "ownerReferences": [{"kind": "Pod", "name": "p", "uid": "u"}]}});
        let fields: Vec<String> = validate(&object, true, &Generic { generation: false })
            .into_iter()
            .map(|e| e.field)
            .collect();
        assert_eq!(
            fields,
            [
                "metadata.name",
                "metadata.labels",
                "metadata.ownerReferences.apiVersion"
            ]
        );
    }

    #[test]
    fn no_finalizer_joins_a_dying_object() {
        let old =
            json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/a"]}});
        let new = json!({"metadata": {"name": "a", "finalizers": ["x/a", "x/b"]}});
        assert_eq!(validate_update(&new, &old)[0].field, "metadata.finalizers");
    }

    #[test]
    fn generation_counts_what_is_desired_only() {
        let old = json!({"metadata": {"generation": 3}, "spec": {"a": 1}, "status": {}});
        let mut new =
            json!({"metadata": {"generation": 3, "labels": {"x": "y"}}, "spec": {"a": 1}, "status": {"b": 1}});
        let is_desired = |field: &str| field != "metadata" && field != "status";
        count_generation(&mut new, &old, &is_desired);
        assert_eq!(generation(&new), 3);
        new["spec"]["a"] = 2.into();
        count_generation(&mut new, &old, &is_desired);
        assert_eq!(generation(&new), 4);
    }

    #[test]
    fn generated_names_fit() {
        assert_eq!(generate_name(&"a".repeat(100)).len(), 63);
        assert!(generate_name("web-").starts_with("web-"));
    }
}
