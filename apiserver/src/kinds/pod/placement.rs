//! Where a pod may run: node and pod affinity, spreading, tolerations.

use std::collections::BTreeSet;

use api::names;
use serde_json::Value;

use crate::kinds::common::label_selector;
use crate::kinds::field::{Errors, Field};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const IN_BOTH: &str = "exists in both matchLabelKeys and labelSelector";
const NO_SELECTOR: &str = "must not be specified when labelSelector is not set";
const NOT_POSITIVE: &str = "must be greater than zero";

/// All three kinds of affinity.
pub fn affinity(affinity: &Field<'_>, errors: &mut Errors) {
    let node = affinity.get("nodeAffinity");
    let required = node.get(REQUIRED);
    if required.exists() {
        node_selector(&required, errors);
    }
    let preferred = node.get(PREFERRED);
    for term in preferred.items() {
        weight(&term.get("weight"), errors);
        node_selector_term(&term.get("preference"), false, errors);
    }
    for name in ["podAffinity", "podAntiAffinity"] {
        let pods = affinity.get(name);
        let (required, preferred) = (pods.get(REQUIRED), pods.get(PREFERRED));
        required.items().for_each(|term| pod_affinity_term(&term, errors));
        for term in preferred.items() {
            weight(&term.get("weight"), errors);
            pod_affinity_term(&term.get("podAffinityTerm"), errors);
        }
    }
}

fn weight(field: &Field<'_>, errors: &mut Errors) {
    if !(1..=100).contains(&field.number()) {
        field.invalid_as(errors, field.number(), "must be in the range 1-100");
    }
}

/// A node selector: at least one term.
pub fn node_selector(selector: &Field<'_>, errors: &mut Errors) {
    let terms = selector.get("nodeSelectorTerms");
    if terms.is_empty() {
        return terms.required(errors, "must have at least one node selector term");
    }
    terms.items().for_each(|term| node_selector_term(&term, true, errors));
}

/// One term of a node selector. Preferences may name values that no label can have: they simply match nothing.
pub fn node_selector_term(term: &Field<'_>, check_values: bool, errors: &mut Errors) {
    let (expressions, fields) = (term.get("matchExpressions"), term.get("matchFields"));
    for requirement in expressions.items() {
        node_requirement(&requirement, check_values, errors);
    }
    for requirement in fields.items() {
        node_field_requirement(&requirement, errors);
    }
}

fn node_requirement(requirement: &Field<'_>, check_values: bool, errors: &mut Errors) {
    let (key, operator, values) = (
        requirement.get("key"),
        requirement.get("operator"),
        requirement.get("values"),
    );
    match operator.str() {
        "In" | "NotIn" if values.is_empty() => {
            values.required(errors, "must be specified when `operator` is 'In' or 'NotIn'")
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => values.forbidden(
            errors,
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        ),
        "Gt" | "Lt" if values.len() != 1 => {
            values.required(errors, "must be specified single value when `operator` is 'Lt' or 'Gt'")
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => operator.invalid_as(errors, other, "not a valid selector operator"),
    }
    key.check(errors, names::qualified_name);
    if check_values {
        values.items().for_each(|value| value.check(errors, names::label_value));
    }
}

fn node_field_requirement(requirement: &Field<'_>, errors: &mut Errors) {
    let (key, operator, values) = (
        requirement.get("key"),
        requirement.get("operator"),
        requirement.get("values"),
    );
    match operator.str() {
        "In" | "NotIn" if values.len() != 1 => values.required(
            errors,
            "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
        ),
        "In" | "NotIn" => {}
        other => operator.invalid_as(errors, other, "not a valid selector operator"),
    }
    if key.str() == "metadata.name" {
        values
            .items()
            .for_each(|value| value.check(errors, names::dns1123_subdomain));
    } else {
        key.invalid_as(errors, key.str(), "not a valid field selector key");
    }
}

fn pod_affinity_term(term: &Field<'_>, errors: &mut Errors) {
    let selector = term.get("labelSelector");
    label_selector(&selector, errors);
    label_selector(&term.get("namespaceSelector"), errors);
    let (namespaces, namespace) = (term.get("namespaces"), term.get("namespace"));
    for name in namespaces.items() {
        namespace.showing(name.value).check(errors, names::dns1123_label);
    }
    label_keys(term, &selector, errors);
    let key = term.get("topologyKey");
    if key.is_empty() {
        key.required(errors, "can not be empty");
    }
    key.check(errors, names::qualified_name);
}

/// `matchLabelKeys` and `mismatchLabelKeys`. The server has put the former into the selector by now, so that a key is there once.
fn label_keys(term: &Field<'_>, selector: &Field<'_>, errors: &mut Errors) {
    let (matched, mismatched) = (term.get("matchLabelKeys"), term.get("mismatchLabelKeys"));
    for keys in [matched, mismatched] {
        if !keys.is_empty() && !selector.exists() {
            keys.forbidden(errors, NO_SELECTOR);
            continue;
        }
        keys.items().for_each(|key| key.check(errors, names::qualified_name));
    }
    let plain = selector.get("matchLabels");
    let mut seen: BTreeSet<&str> = plain.entries().map(|(key, _)| key).collect();
    let expressions = selector.get("matchExpressions");
    for expression in expressions.items() {
        let key = expression.value.get("key").and_then(Value::as_str).unwrap_or_default();
        let at = matched.items().position(|k| k.str() == key);
        if let Some(index) = at.filter(|_| seen.contains(key)) {
            errors.push(api::FieldError::invalid(format!("{term}[{index}]"), key, IN_BOTH));
        }
        seen.insert(key);
    }
    for key in matched.items() {
        if mismatched.items().any(|other| other.str() == key.str()) {
            key.invalid(errors, "exists in both matchLabelKeys and mismatchLabelKeys");
        }
    }
}

/// Topology spread constraints.
pub fn spread(constraints: &Field<'_>, is_pod: bool, errors: &mut Errors) {
    for (index, constraint) in constraints.items().enumerate() {
        let (skew, key, when) = (
            constraint.get("maxSkew"),
            constraint.get("topologyKey"),
            constraint.get("whenUnsatisfiable"),
        );
        if skew.number() <= 0 {
            skew.invalid_as(errors, skew.number(), NOT_POSITIVE);
        }
        if key.is_empty() {
            key.required(errors, "can not be empty");
        }
        when.one_of(errors, &["DoNotSchedule", "ScheduleAnyway"]);
        let pair = |c: &Field<'_>| {
            (
                c.get("topologyKey").str().to_owned(),
                c.get("whenUnsatisfiable").str().to_owned(),
            )
        };
        if constraints
            .items()
            .skip(index + 1)
            .any(|other| pair(&other) == pair(&constraint))
        {
            let shown = format!("{{{}, {}}}", key.str(), when.str());
            constraint
                .get("{topologyKey, whenUnsatisfiable}")
                .duplicate_of(errors, shown, "");
        }
        min_domains(&constraint.get("minDomains"), when.str(), errors);
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            constraint.get(policy).one_of_if_set(errors, &["Honor", "Ignore"]);
        }
        let selector = constraint.get("labelSelector");
        spread_keys(&constraint.get("matchLabelKeys"), &selector, is_pod, errors);
        label_selector(&selector, errors);
    }
}

fn min_domains(domains: &Field<'_>, when: &str, errors: &mut Errors) {
    if !domains.exists() {
        return;
    }
    if domains.number() <= 0 {
        domains.invalid(errors, NOT_POSITIVE);
    }
    if when != "DoNotSchedule" {
        domains.invalid(
            errors,
            format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}"),
        );
    }
}

/// In a pod the server has put each key into the selector by now.
fn spread_keys(keys: &Field<'_>, selector: &Field<'_>, is_pod: bool, errors: &mut Errors) {
    if keys.is_empty() {
        return;
    }
    if !selector.exists() {
        keys.forbidden(errors, NO_SELECTOR);
    }
    let (plain, expressions) = (selector.get("matchLabels"), selector.get("matchExpressions"));
    for key in keys.items() {
        key.check(errors, names::qualified_name);
        let times = usize::from(plain.key(key.str()).exists())
            + expressions.items().filter(|e| e.get("key").str() == key.str()).count();
        if times > usize::from(is_pod) {
            key.invalid(errors, IN_BOTH);
        }
    }
}

/// A toleration.
pub fn toleration(toleration: &Field<'_>, errors: &mut Errors) {
    let (key, operator, value, effect) = (
        toleration.get("key"),
        toleration.get("operator"),
        toleration.get("value"),
        toleration.get("effect"),
    );
    key.check_if_set(errors, names::qualified_name);
    if key.is_empty() && operator.str() != "Exists" {
        operator.invalid_as(
            errors,
            operator.str(),
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        );
    }
    if toleration.get("tolerationSeconds").exists() && effect.str() != "NoExecute" {
        effect.invalid_as(
            errors,
            effect.str(),
            "effect must be 'NoExecute' when `tolerationSeconds` is set",
        );
    }
    match operator.str() {
        "Equal" | "" => {
            let faults = names::label_value(value.str());
            if !faults.is_empty() {
                operator.invalid_as(errors, value.str(), faults.join(";"));
            }
        }
        "Exists" if !value.is_empty() => {
            operator.invalid_as(errors, value.str(), "value must be empty when `operator` is 'Exists'")
        }
        "Exists" => {}
        _ => operator.not_supported(errors, &["Equal", "Exists"]),
    }
    if !effect.is_empty() {
        taint_effect(&effect, errors);
    }
}

/// The effect of a taint.
pub fn taint_effect(effect: &Field<'_>, errors: &mut Errors) {
    effect.one_of(errors, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
}
