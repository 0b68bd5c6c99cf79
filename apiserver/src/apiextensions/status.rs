//! What the status of a definition says: which names it got, whether it is established, that its objects are being removed. Pure decisions;
//! [`super::feed`] writes them.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::definition::{list, texts};
use crate::registry::meta;

/// Keeps a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// Says that the API reviewers of the Kubernetes community have agreed to a group of theirs.
pub const APPROVED: &str = "api-approved.kubernetes.io";

/// The names in use by other definitions of the same group.
struct Used<'a> {
    resources: HashSet<&'a str>,
    kinds: HashSet<&'a str>,
}

impl<'a> Used<'a> {
    fn by(others: &[&'a Value]) -> Self {
        let mut used = Self {
            resources: HashSet::new(),
            kinds: HashSet::new(),
        };
        for names in others.iter().filter_map(|crd| crd.pointer("/status/acceptedNames")) {
            let text = |key: &str| names.get(key).and_then(Value::as_str).filter(|name| !name.is_empty());
            used.resources
                .extend(text("plural").into_iter().chain(text("singular")));
            used.resources
                .extend(list(names, "/shortNames").iter().filter_map(Value::as_str));
            used.kinds.extend(text("kind").into_iter().chain(text("listKind")));
        }
        used
    }
}

/// Whether a definition has all the names it wants and is established, as most have most of the time.
pub fn is_settled(crd: &Value) -> bool {
    use super::definition::condition;
    let (wanted, accepted) = (crd.pointer("/spec/names"), crd.pointer("/status/acceptedNames"));
    let group = crd.pointer("/spec/group").and_then(Value::as_str).unwrap_or("");
    wanted == accepted
        && condition(crd, "NamesAccepted") == Some("True")
        && condition(crd, "Established") == Some("True")
        && !is_protected(group)
}

/// The definition with the status it ought to have, given the other definitions of its group; `None` if it has that already.
pub fn settle(crd: &Value, others: &[&Value], now: Timestamp) -> Option<Value> {
    let mut new = crd.clone();
    let (accepted, conflict) = accept(crd, &Used::by(others));
    new["status"]["acceptedNames"] = accepted;
    match &conflict {
        None => set_condition(
            &mut new,
            "NamesAccepted",
            true,
            "NoConflicts",
            "no conflicts found",
            now,
        ),
        Some((reason, why)) => set_condition(&mut new, "NamesAccepted", false, reason, why, now),
    }
    if super::definition::condition(crd, "Established") != Some("True") {
        match conflict {
            None => set_condition(
                &mut new,
                "Established",
                true,
                "InitialNamesAccepted",
                "the initial names have been accepted",
                now,
            ),
            Some(_) => set_condition(
                &mut new,
                "Established",
                false,
                "NotAccepted",
                "not all names are accepted",
                now,
            ),
        }
    }
    approval(&mut new, now);
    (new != *crd).then_some(new)
}

/// The names it gets, and the last one it does not get.
fn accept(crd: &Value, used: &Used<'_>) -> (Value, Option<(&'static str, String)>) {
    let wanted = crd.pointer("/spec/names").cloned().unwrap_or_default();
    let mut accepted = crd
        .pointer("/status/acceptedNames")
        .cloned()
        .unwrap_or_else(|| json!({}));
    let mut conflict = None;
    for (field, reason, taken) in [
        ("plural", "PluralConflict", &used.resources),
        ("singular", "SingularConflict", &used.resources),
        ("shortNames", "ShortNamesConflict", &used.resources),
        ("kind", "KindConflict", &used.kinds),
        ("listKind", "ListKindConflict", &used.kinds),
    ] {
        let names = match wanted.get(field) {
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(name)) => vec![name.as_str()],
            _ => Vec::new(),
        };
        let lost: Vec<String> = names
            .iter()
            .filter(|name| taken.contains(**name))
            .map(|name| format!("{name:?} is already in use"))
            .collect();
        match lost.as_slice() {
            [] => copy(&wanted, &mut accepted, field),
            [one] => conflict = Some((reason, one.clone())),
            many => conflict = Some((reason, format!("[{}]", many.join(", ")))),
        }
    }
    copy(&wanted, &mut accepted, "categories");
    (accepted, conflict)
}

fn copy(from: &Value, to: &mut Value, field: &str) {
    match from.get(field) {
        Some(value) => to[field] = value.clone(),
        None => drop(meta::map(to).remove(field)),
    }
}

/// Whether a group is one that the Kubernetes community keeps for itself.
pub fn is_protected(group: &str) -> bool {
    let of = |domain: &str| group == domain || group.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    of("k8s.io") || of("kubernetes.io")
}

/// Whether the annotation approves: the state, its reason and its message.
pub fn approval_state(crd: &Value) -> (Option<bool>, &'static str, String) {
    let annotation = crd
        .pointer("/metadata/annotations")
        .and_then(|annotations| annotations.get(APPROVED))
        .and_then(Value::as_str)
        .unwrap_or("");
    if annotation.is_empty() {
        let why = format!(
            "protected groups must have approval annotation {APPROVED:?}, see https://github.com/kubernetes/enhancements/pull/1111"
        );
        return (None, "MissingAnnotation", why);
    }
    if annotation.starts_with("unapproved") {
        return (
            Some(true),
            "UnapprovedAnnotation",
            format!("not approved: {annotation:?}"),
        );
    }
    if annotation.starts_with("https://") || annotation.starts_with("http://") {
        return (Some(true), "ApprovedAnnotation", format!("approved in {annotation}"));
    }
    let why = format!(
        "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111"
    );
    (Some(false), "InvalidAnnotation", why)
}

fn approval(crd: &mut Value, now: Timestamp) {
    let group = crd.pointer("/spec/group").and_then(Value::as_str).unwrap_or("");
    if !is_protected(group) {
        return;
    }
    let (_, reason, message) = approval_state(crd);
    let approved = reason == "ApprovedAnnotation";
    set_condition(
        crd,
        "KubernetesAPIApprovalPolicyConformant",
        approved,
        reason,
        &message,
        now,
    );
}

/// Sets a condition; its time changes with its status only.
pub fn set_condition(crd: &mut Value, ty: &str, holds: bool, reason: &str, message: &str, now: Timestamp) {
    let status = if holds { "True" } else { "False" };
    let mut wanted = json!({"type": ty, "status": status, "reason": reason, "message": message, "lastTransitionTime": meta::time(now)});
    let status_of = meta::child(meta::map(crd), "status");
    let conditions = status_of.entry("conditions").or_insert_with(|| json!([]));
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(conditions) = conditions.as_array_mut() else {
        return;
    };
    match conditions.iter_mut().find(|condition| condition["type"] == ty) {
        Some(condition) => {
            if condition["status"] == status {
                wanted["lastTransitionTime"] = condition["lastTransitionTime"].take();
            }
            *condition = wanted;
        }
        None => conditions.push(wanted),
    }
}

/// Marks a definition whose deletion was asked for: it stays until its objects are gone.
pub fn begin_deletion(crd: &mut Value, now: Timestamp) {
    let mut finalizers = texts(crd, "/metadata/finalizers");
    if !finalizers.iter().any(|finalizer| finalizer == CLEANUP) {
        finalizers.push(CLEANUP.to_owned());
        meta::of(crd).insert("finalizers".into(), json!(finalizers));
    }
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    set_condition(crd, "Terminating", true, "InstanceDeletionPending", message, now);
}

/// The definition once its objects are gone: without our finalizer.
pub fn end_deletion(crd: &Value, now: Timestamp) -> Value {
    let mut new = crd.clone();
    let rest: Vec<String> = texts(crd, "/metadata/finalizers")
        .into_iter()
        .filter(|name| name != CLEANUP)
        .collect();
    if rest.is_empty() {
        meta::of(&mut new).remove("finalizers");
    } else {
        meta::of(&mut new).insert("finalizers".into(), json!(rest));
    }
    set_condition(
        &mut new,
        "Terminating",
        false,
        "InstanceDeletionCompleted",
        "removed all instances",
        now,
    );
    new
}

#[cfg(test)]
mod tests {
    use super::super::definition::condition;
    use super::*;

    fn crd(plural: &str, kind: &str, short: &[&str]) -> Value {
        json!({"metadata": {"name": format!("{plural}.a.example")}, "spec": {"group": "a.example", "names": {
            "plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List"), "shortNames": short}}})
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn names_that_are_free_are_accepted() {
        let settled = settle(&crd("foos", "Foo", &["f"]), &[], now()).unwrap();
        assert_eq!(condition(&settled, "NamesAccepted"), Some("True"));
        assert_eq!(condition(&settled, "Established"), Some("True"));
        assert_eq!(settled["status"]["acceptedNames"]["shortNames"], json!(["f"]));
        assert!(settle(&settled, &[], now()).is_none(), "settled once and for all");
        assert!(is_settled(&settled) && !is_settled(&crd("foos", "Foo", &["f"])));
    }

    #[test]
    fn a_name_in_use_is_refused_until_it_is_free() {
        let first = settle(&crd("foos", "Foo", &["f"]), &[], now()).unwrap();
        let second = settle(&crd("bars", "Foo", &["f"]), &[&first], now()).unwrap();
        let conditions = second["status"]["conditions"].as_array().unwrap();
        assert_eq!(conditions[0]["reason"], "ListKindConflict");
        assert_eq!(conditions[0]["message"], "\"FooList\" is already in use");
        assert_eq!(
            (condition(&second, "NamesAccepted"), condition(&second, "Established")),
            (Some("False"), Some("False"))
        );
        assert_eq!(second["status"]["acceptedNames"]["plural"], "bars");
        let later = settle(&second, &[], now()).unwrap();
        assert_eq!(
            (condition(&later, "NamesAccepted"), condition(&later, "Established")),
            (Some("True"), Some("True"))
        );
    }

    #[test]
    fn deletion_begins_and_ends_with_our_finalizer() {
        let mut dying = crd("foos", "Foo", &[]);
        begin_deletion(&mut dying, now());
        assert_eq!(meta::finalizers(&dying), [CLEANUP]);
        assert_eq!(condition(&dying, "Terminating"), Some("True"));
        let dead = end_deletion(&dying, now());
        assert!(meta::finalizers(&dead).is_empty());
        assert_eq!(condition(&dead, "Terminating"), Some("False"));
    }

    #[test]
    fn groups_of_the_community_are_protected() {
        for (group, protected) in [
            ("x.k8s.io", true),
            ("k8s.io", true),
            ("a.kubernetes.io", true),
            ("notk8s.io", false),
            ("k8s.io.example", false),
        ] {
            assert_eq!(is_protected(group), protected, "{group}");
        }
    }
}
