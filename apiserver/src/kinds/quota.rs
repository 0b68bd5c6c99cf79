//! LimitRanges and ResourceQuotas.

use api::quantity::Quantity;
use serde_json::{Value, json};

use super::common::{int_or_string, parse_quantity};
use super::field::{Errors, Field, IMMUTABLE, default, each, ensure, text};
use super::rbac::created_row;
use super::resource_names as resources;
use super::rules::Rules;
use crate::registry::table::{self, Column};

const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];
/// Scopes that a selector can only ask for.
const PLAIN_SCOPES: [&str; 5] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "Terminating",
];
const COMPUTE: [&str; 6] = [
    "cpu",
    "memory",
    "limits.cpu",
    "limits.memory",
    "requests.cpu",
    "requests.memory",
];
const ONLY_EXISTS: &str = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";

/// Rules of `limitranges`.
pub static LIMIT_RANGE: Rules = Rules {
    create_on_update: true,
    default: fill_limits,
    validate: validate_limits,
    columns: &[
        Column::NAME,
        Column {
            kind: "date",
            ..Column::text("Created At")
        },
    ],
    row: created_row,
    ..Rules::NONE
};

/// Rules of `resourcequotas`.
pub static RESOURCE_QUOTA: Rules = Rules {
    validate: |root, errors| {
        let spec = root.get("spec");
        resources::amounts(&spec.get("hard"), resources::quota, errors);
        scopes(&spec, errors);
        scope_selector(&spec, errors);
    },
    validate_update: |root, old, errors| {
        let set = |quota: &Value| -> std::collections::BTreeSet<String> {
            let scopes = quota["spec"]["scopes"].as_array();
            scopes.into_iter().flatten().map(ToString::to_string).collect()
        };
        if set(root.value) != set(old) {
            root.get("spec").get("scopes").invalid(errors, IMMUTABLE);
        }
    },
    validate_status: |root, _, errors| {
        let status = root.get("status");
        for map in ["hard", "used"] {
            resources::amounts(&status.get(map), resources::quota, errors);
        }
    },
    columns: &[
        Column::NAME,
        Column::text("Request"),
        Column::text("Limit"),
        Column::AGE,
    ],
    row: |object, now| {
        let hard = object.pointer("/status/hard").and_then(Value::as_object);
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, most) in hard.into_iter().flatten() {
            let used = object["status"]["used"]
                .get(name)
                .map(int_or_string)
                .unwrap_or_default();
            let shown = format!("{name}: {used}/{}", int_or_string(most));
            if name.starts_with("limits") {
                limits.push(shown)
            } else {
                requests.push(shown)
            }
        }
        vec![
            table::name(object),
            json!(requests.join(", ")),
            json!(limits.join(", ")),
            table::age(object, now),
        ]
    },
    ..Rules::NONE
};

/// A Container limit's `max` is its `default`, which is its `defaultRequest`, unless they are given.
fn fill_limits(object: &mut Value) {
    for limit in object.get_mut("spec").into_iter().flat_map(|s| each(s, "limits")) {
        if text(limit, "/type") != "Container" {
            continue;
        }
        for (from, to) in [
            ("max", "default"),
            ("default", "defaultRequest"),
            ("min", "defaultRequest"),
        ] {
            let values = limit.get(from).and_then(Value::as_object).cloned().unwrap_or_default();
            if values.is_empty() {
                continue;
            }
            if let Some(target) = ensure(limit, to) {
                values
                    .into_iter()
                    .for_each(|(name, value)| default(target, &name, value));
            }
        }
    }
}

fn limit_type(kind: &Field<'_>, errors: &mut Errors) {
    kind.check(errors, api::names::qualified_name);
    if !kind.str().contains('/') && !matches!(kind.str(), "Pod" | "Container" | "PersistentVolumeClaim") {
        kind.invalid_as(errors, kind.str(), "must be a standard limit type or fully qualified");
    }
}

fn limit_names(kind: &str, map: &Field<'_>, errors: &mut Errors) {
    for (name, entry) in map.entries() {
        if matches!(kind, "Pod" | "Container") {
            resources::container(&entry, name, errors);
        } else {
            resources::name(&entry, name, errors);
        }
    }
}

fn validate_limits(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.get("spec");
    let mut seen = std::collections::HashSet::new();
    for limit in spec.get("limits").items() {
        let kind = limit.get("type");
        limit_type(&kind, errors);
        if !seen.insert(kind.str().to_owned()) {
            kind.duplicate(errors);
        }
        for map in ["max", "min"] {
            limit_names(kind.str(), &limit.get(map), errors);
        }
        for map in ["default", "defaultRequest"] {
            let values = limit.get(map);
            if kind.str() != "Pod" {
                limit_names(kind.str(), &values, errors);
            } else if !values.is_empty() {
                values.forbidden(errors, "may not be specified when `type` is 'Pod'");
            }
        }
        let storage = |map: &str| limit.value[map]["storage"].is_null();
        if kind.str() == "PersistentVolumeClaim" && storage("min") && storage("max") {
            limit.get("limits").required(
                errors,
                "either minimum or maximum storage value is required, but neither was provided",
            );
        }
        limit_names(kind.str(), &limit.get("maxLimitRequestRatio"), errors);
        let maps = ["min", "max", "default", "defaultRequest", "maxLimitRequestRatio"];
        let keys = maps.iter().filter_map(|map| limit.value[*map].as_object());
        let names: std::collections::BTreeSet<&String> = keys.flat_map(|map| map.keys()).collect();
        for name in names {
            limit_order(&limit, name, errors);
        }
    }
}

/// Least ≤ default request ≤ default ≤ most, as far as they are given.
fn limit_order(limit: &Field<'_>, name: &str, errors: &mut Errors) {
    let of = |map: &str| parse_quantity(&limit.value[map][name]);
    let [least, most, given, request, ratio] =
        ["min", "max", "default", "defaultRequest", "maxLimitRequestRatio"].map(of);
    let mut say = |map: &str, shown: Quantity, detail: String| {
        limit.get(map).key(name).invalid_as(errors, shown.to_string(), detail);
    };
    let above = |a: Option<Quantity>, b: Option<Quantity>| a.zip(b).filter(|(a, b)| a > b);
    if let Some((a, b)) = above(least, most) {
        say("min", a, format!("min value {a} is greater than max value {b}"));
    }
    if let Some((a, b)) = above(least, request) {
        say(
            "defaultRequest",
            b,
            format!("min value {a} is greater than default request value {b}"),
        );
    }
    if let Some((a, b)) = above(request, most) {
        say(
            "defaultRequest",
            a,
            format!("default request value {a} is greater than max value {b}"),
        );
    }
    if let Some((a, b)) = above(request, given) {
        say(
            "defaultRequest",
            a,
            format!("default request value {a} is greater than default limit value {b}"),
        );
    }
    if let Some((a, b)) = above(least, given) {
        say("default", a, format!("min value {a} is greater than default value {b}"));
    }
    if let Some((a, b)) = above(given, most) {
        say("default", b, format!("default value {a} is greater than max value {b}"));
    }
    if let Some(ratio) = ratio {
        if ratio < Quantity::units(1) {
            say("maxLimitRequestRatio", ratio, format!("ratio {ratio} is less than 1"));
        }
        if let Some((a, b)) = least.zip(most) {
            let widest = b.as_f64() / a.as_f64();
            if ratio.as_f64() > widest {
                say(
                    "maxLimitRequestRatio",
                    ratio,
                    format!("ratio {ratio} is greater than max/min = {widest:.6}"),
                );
            }
        }
    }
    if let Some((a, b)) = given.zip(request).filter(|(a, b)| a != b)
        && !resources::may_overcommit(name)
    {
        say(
            "defaultRequest",
            b,
            format!("default value {a} must equal to defaultRequest value {b} in {name}"),
        );
    }
}

/// Whether objects of that scope have something of the resource.
fn applies(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        "CrossNamespacePodAffinity" | "NotBestEffort" | "NotTerminating" | "PriorityClass" | "Terminating" => {
            resource == "pods" || COMPUTE.contains(&resource)
        }
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

/// The scope at fault and the place to report it are the caller's.
fn misapplied(spec: &Field<'_>, scope: &str) -> usize {
    let hard = spec.get("hard");
    hard.entries()
        .filter(|(name, _)| resources::is_quota(name) && !applies(scope, name))
        .count()
}

fn conflicts<'a>(scopes: impl Iterator<Item = &'a str>) -> usize {
    let scopes: Vec<&str> = scopes.collect();
    [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]]
        .iter()
        .filter(|pair| pair.iter().all(|scope| scopes.contains(scope)))
        .count()
}

fn scopes(spec: &Field<'_>, errors: &mut Errors) {
    let scopes = spec.get("scopes");
    for scope in scopes.items() {
        if !SCOPES.contains(&scope.str()) {
            scopes.invalid(errors, "unsupported scope");
        }
        for _ in 0..misapplied(spec, scope.str()) {
            scopes.invalid(errors, "unsupported scope applied to resource");
        }
    }
    for _ in 0..conflicts(scopes.items().map(|scope| scope.str())) {
        scopes.invalid(errors, "conflicting scopes");
    }
}

fn scope_selector(spec: &Field<'_>, errors: &mut Errors) {
    let selector = spec.get("scopeSelector");
    // Upstream says where in the list nothing is.
    let place = Field::root("spec.matchExpressions", selector.value);
    let list = selector.get("matchExpressions");
    for requirement in list.items() {
        let scope = text(requirement.value, "/scopeName");
        let operator = text(requirement.value, "/operator");
        let values = &requirement.value["values"];
        let empty = values.as_array().is_none_or(Vec::is_empty);
        if !SCOPES.contains(&scope) {
            place.get("scopeName").invalid_as(errors, scope, "unsupported scope");
        }
        for _ in 0..misapplied(spec, scope) {
            place.invalid(errors, "unsupported scope applied to resource");
        }
        if PLAIN_SCOPES.contains(&scope) && operator != "Exists" {
            place.get("operator").invalid_as(errors, operator, ONLY_EXISTS);
        }
        match operator {
            "In" | "NotIn" if empty => place.get("values").required(
                errors,
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ),
            "Exists" | "DoesNotExist" if !empty => place.get("values").invalid_as(
                errors,
                values.clone(),
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => place
                .get("operator")
                .invalid_as(errors, operator, "not a valid selector operator"),
        }
    }
    let scopes = list.items().map(|requirement| text(requirement.value, "/scopeName"));
    for _ in 0..conflicts(scopes) {
        place.invalid_as(errors, spec.get("scopes").value.clone(), "conflicting scopes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults() {
        let check = |rules: &Rules, mut object: Value| {
            (rules.default)(&mut object);
            let mut errors = Errors::new();
            (rules.validate)(&Field::root("", &object), &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        for (rules, spec, expected) in [
            (
                &LIMIT_RANGE,
                json!({"limits": [{"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}, "default": {"cpu": "1"}, "defaultRequest": {"cpu": "1"}}]}),
                vec![
                    "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
                    "spec.limits[0].defaultRequest[cpu]: Invalid value: \"1\": min value 2 is greater than default request value 1",
                    "spec.limits[0].default[cpu]: Invalid value: \"2\": min value 2 is greater than default value 1",
                ],
            ),
            (
                &LIMIT_RANGE,
                json!({"limits": [{"type": "Pod", "default": {"cpu": "1"}}, {"type": "PersistentVolumeClaim"}, {"type": "x"}]}),
                vec![
                    "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
                    "spec.limits[1].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
                    "spec.limits[2].type: Invalid value: \"x\": must be a standard limit type or fully qualified",
                ],
            ),
            (
                &RESOURCE_QUOTA,
                json!({"hard": {"services": "1", "foo": "1"}, "scopes": ["BestEffort"]}),
                vec![
                    "spec.hard[foo]: Invalid value: \"foo\": must be a standard resource type or fully qualified",
                    "spec.hard[foo]: Invalid value: \"foo\": must be a standard resource for quota",
                    "spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource",
                ],
            ),
            (
                &RESOURCE_QUOTA,
                json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}}),
                vec![
                    "spec.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
                ],
            ),
        ] {
            assert_eq!(check(rules, json!({"spec": spec})), expected);
        }
    }
}
