//! What the kinds that make pods from a template share: the template, the selector that selects it, the numbers of their status.

use serde_json::Value;

use super::common::{label_selector, selector_matches};
use super::field::{Errors, Field, int_or_percent, percent};
use super::pod::{validate, warnings};

const MISMATCH: &str = "`selector` does not match template `labels`";

/// A selector that must be there and select something; `kind` names it in a message.
pub fn selector(spec: &Field<'_>, kind: &str, errors: &mut Errors) {
    let selector = spec.get("selector");
    if !selector.exists() {
        return selector.required(errors, "");
    }
    label_selector(&selector, errors);
    not_empty(&selector, kind, errors);
}

/// A selector that is there names labels.
pub fn not_empty(selector: &Field<'_>, kind: &str, errors: &mut Errors) {
    if selector.exists() && selector.get("matchLabels").is_empty() && selector.get("matchExpressions").is_empty() {
        selector.invalid(errors, format!("empty selector is invalid for {kind}"));
    }
}

/// The template's labels are among those that the selector wants.
pub fn selected(template: &Field<'_>, selector: &Value, errors: &mut Errors) {
    let metadata = template.get("metadata");
    let labels = metadata.get("labels");
    let part = |name: &str| Field::root(name, selector.get(name).unwrap_or(&Value::Null)).is_empty();
    if (part("matchLabels") && part("matchExpressions")) || selector_matches(selector, labels.value) {
        return;
    }
    labels.invalid_as(errors, labels.value.clone(), MISMATCH);
}

/// A template whose pods run for as long as they are wanted. `kind` is who cannot have a deadline.
pub fn template(template: &Field<'_>, selector: &Value, kind: &str, errors: &mut Errors) {
    selected(template, selector, errors);
    validate::template(template, errors);
    runs_forever(template, kind, errors);
}

/// Pods that are always restarted and have no deadline.
pub fn runs_forever(template: &Field<'_>, kind: &str, errors: &mut Errors) {
    let pod = template.get("spec");
    pod.get("restartPolicy").one_of(errors, &["Always"]);
    let deadline = pod.get("activeDeadlineSeconds");
    if deadline.exists() {
        deadline.forbidden(errors, &format!("activeDeadlineSeconds in {kind} is not Supported"));
    }
}

/// A number or a percentage, neither negative nor more than all.
pub fn share(field: &Field<'_>, errors: &mut Errors) {
    int_or_percent(field, errors);
    at_most_all(field, errors);
}

/// No more than 100%.
pub fn at_most_all(field: &Field<'_>, errors: &mut Errors) {
    if percent(field.value).is_some_and(|n| n > 100) {
        field.invalid(errors, "must not be greater than 100%");
    }
}

/// Whether a number or a percentage is more than nothing.
pub fn is_some(field: &Field<'_>) -> bool {
    field.number() != 0 || percent(field.value).is_some_and(|n| n != 0)
}

/// What is doubtful in a new name, which becomes part of the names and host names of pods.
pub fn warn_name(root: &Field<'_>, warnings: &mut Vec<String>) {
    let metadata = root.get("metadata");
    let faults = api::names::dns1123_label(metadata.get("name").str());
    if !faults.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
            faults.join(" ")
        ));
    }
}

/// The warnings of a kind with a template whose name pods inherit.
pub fn named_warnings(root: &Field<'_>, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.is_none() {
        warn_name(root, &mut warnings);
    }
    warnings.extend(template_warnings(root, old));
    warnings
}

/// The warnings of a kind with a template.
pub fn template_warnings(root: &Field<'_>, old: Option<&Value>) -> Vec<String> {
    let spec = root.get("spec");
    warn(&spec.get("template"), old)
}

/// What is doubtful in a template, unless it was so before.
pub fn warn(template: &Field<'_>, old: Option<&Value>) -> Vec<String> {
    let pointer = format!("/{}", template.to_string().replace('.', "/"));
    let unchanged = old
        .and_then(|old| old.pointer(&pointer))
        .is_some_and(|before| super::field::same(before, template.value));
    if unchanged || !template.exists() {
        return Vec::new();
    }
    warnings::warnings(template, true)
}

/// The numbers of a status: none negative, and some no greater than another.
pub fn counts(status: &Field<'_>, all: &[&str], within: &[(&str, &str, &str)], errors: &mut Errors) {
    for name in all {
        status.get(name).non_negative(errors);
    }
    for (name, whole, detail) in within {
        let part = status.get(name);
        if part.number() > status.get(whole).number() {
            part.invalid_as(errors, part.number(), *detail);
        }
    }
}

/// A count of collisions never goes back.
pub fn collisions(status: &Field<'_>, old: &Value, errors: &mut Errors) {
    let count = status.get("collisionCount");
    let before = old.pointer("/status/collisionCount").and_then(Value::as_i64);
    if before.is_some_and(|before| count.int().is_none_or(|now| now < before)) {
        count.invalid_as(errors, count.number(), "cannot be decremented");
    }
}

/// What parts of a status may not exceed.
pub const MORE_THAN_REPLICAS: &str = "cannot be greater than status.replicas";
/// The same, of those that are available.
pub const MORE_THAN_READY: &str = "cannot be greater than readyReplicas";
