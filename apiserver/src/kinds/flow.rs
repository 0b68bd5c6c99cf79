//! FlowSchemas and PriorityLevelConfigurations: which requests share how much of the server.

use serde_json::{Value, json};

use super::common::condition;
use super::field::{Errors, Field, default, default_zero, ensure, number, same, text};
use super::rules::Rules;
use crate::registry::table::{self, Column};

const VERBS: [&str; 9] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];
const MAX_PRECEDENCE: i64 = 10_000;
const MAX_QUEUES: i64 = 10_000_000;
/// Bits of the hash that deals hands of queues.
const HASH_BITS: f64 = 60.0;

/// Rules of `flowschemas.flowcontrol.apiserver.k8s.io`.
pub static FLOW_SCHEMA: Rules = Rules {
    generation: true,
    default: |object| {
        if let Some(spec) = ensure(object, "spec") {
            default_zero(spec, "matchingPrecedence", 1000);
        }
    },
    validate: schema,
    validate_status: |root, _, errors| status(root, errors),
    columns: &[
        Column::NAME,
        Column::text("PriorityLevel"),
        Column::text("MatchingPrecedence"),
        Column::text("DistinguisherMethod"),
        Column::AGE,
        Column::text("MissingPL"),
    ],
    row: |object, now| {
        let dangling = condition(object, "Dangling").map_or("?", |c| text(c, "/status"));
        vec![
            table::name(object),
            json!(text(object, "/spec/priorityLevelConfiguration/name")),
            json!(number(object, "/spec/matchingPrecedence")),
            json!(super::common::or_none(text(object, "/spec/distinguisherMethod/type"))),
            table::age(object, now),
            json!(dangling),
        ]
    },
    ..Rules::NONE
};

/// Rules of `prioritylevelconfigurations.flowcontrol.apiserver.k8s.io`.
pub static PRIORITY_LEVEL: Rules = Rules {
    generation: true,
    default: |object| {
        let Some(spec) = object.get_mut("spec") else { return };
        for (kind, shares) in [("limited", 30), ("exempt", 0)] {
            if let Some(level) = spec.get_mut(kind).filter(|level| level.is_object()) {
                default(level, "nominalConcurrencyShares", shares);
                default(level, "lendablePercent", 0);
            }
        }
        let queuing = spec.pointer_mut("/limited/limitResponse/queuing");
        if let Some(queuing) = queuing.filter(|queuing| queuing.is_object()) {
            default_zero(queuing, "handSize", 8);
            default_zero(queuing, "queues", 64);
            default_zero(queuing, "queueLengthLimit", 50);
        }
    },
    validate: level,
    validate_status: |root, _, errors| status(root, errors),
    columns: &[
        Column::NAME,
        Column::text("Type"),
        Column::text("NominalConcurrencyShares"),
        Column::text("Queues"),
        Column::text("HandSize"),
        Column::text("QueueLengthLimit"),
        Column::AGE,
    ],
    row: |object, now| {
        let cell = |pointer: &str| {
            object
                .pointer(pointer)
                .and_then(Value::as_i64)
                .map_or_else(|| json!("<none>"), |n| json!(n))
        };
        let queuing = "/spec/limited/limitResponse/queuing";
        vec![
            table::name(object),
            json!(text(object, "/spec/type")),
            cell("/spec/limited/nominalConcurrencyShares"),
            cell(&format!("{queuing}/queues")),
            cell(&format!("{queuing}/handSize")),
            cell(&format!("{queuing}/queueLengthLimit")),
            table::age(object, now),
        ]
    },
    ..Rules::NONE
};

/// The schemas that are what they are.
fn fixed_schema(name: &str) -> Option<Value> {
    let rule = |groups: &[&str]| {
        let subjects: Vec<Value> = groups
            .iter()
            .map(|group| json!({"kind": "Group", "group": {"name": group}}))
            .collect();
        json!([{
            "subjects": subjects,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }])
    };
    match name {
        "exempt" => Some(json!({
            "priorityLevelConfiguration": {"name": "exempt"},
            "matchingPrecedence": 1,
            "rules": rule(&["system:masters"]),
        })),
        "catch-all" => Some(json!({
            "priorityLevelConfiguration": {"name": "catch-all"},
            "matchingPrecedence": MAX_PRECEDENCE,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": rule(&["system:unauthenticated", "system:authenticated"]),
        })),
        _ => None,
    }
}

fn schema(root: &Field<'_>, errors: &mut Errors) {
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    let name = metadata.get("name");
    let precedence = spec.get("matchingPrecedence");
    if precedence.number() <= 0 {
        precedence.invalid_as(errors, precedence.number(), "must be a positive value");
    }
    if precedence.number() > MAX_PRECEDENCE {
        precedence.invalid(errors, format!("must not be greater than {MAX_PRECEDENCE}"));
    }
    if precedence.number() == 1 && name.str() != "exempt" {
        precedence.invalid(errors, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    let method = spec.get("distinguisherMethod");
    if method.exists() && !matches!(text(method.value, "/type"), "ByNamespace" | "ByUser") {
        method
            .get("type")
            .showing(method.value)
            .not_supported(errors, &["ByNamespace", "ByUser"]);
    }
    let reference = spec.get("priorityLevelConfiguration");
    let level = reference.get("name");
    if level.is_empty() {
        level.required(errors, "must reference a priority level");
    } else {
        level.check(errors, api::names::dns1123_subdomain);
    }
    spec.get("rules").items().for_each(|rule| schema_rule(&rule, errors));
    if fixed_schema(name.str()).is_some_and(|fixed| !same(&fixed, spec.value)) {
        spec.invalid(errors, format!("spec of '{}' must equal the fixed value", name.str()));
    }
    status(root, errors);
}

fn schema_rule(rule: &Field<'_>, errors: &mut Errors) {
    let (subjects, resources, urls) = (
        rule.get("subjects"),
        rule.get("resourceRules"),
        rule.get("nonResourceRules"),
    );
    if subjects.is_empty() {
        subjects.required(errors, "subjects must contain at least one value");
    }
    subjects.items().for_each(|one| subject(&one, errors));
    if resources.is_empty() && urls.is_empty() {
        rule.required(
            errors,
            "at least one of resourceRules and nonResourceRules has to be non-empty",
        );
    }
    resources.items().for_each(|one| resource_rule(&one, errors));
    for one in urls.items() {
        verbs(&one.get("verbs"), errors);
        let paths = one.get("nonResourceURLs");
        if wildcard(
            &paths,
            "nonResourceURLs must contain at least one value",
            "non-resource URLs",
            errors,
        ) {
            paths.items().for_each(|path| url(&path, errors));
        }
    }
}

const SUBJECTS: [(&str, &str); 3] = [
    ("ServiceAccount", "serviceAccount"),
    ("User", "user"),
    ("Group", "group"),
];

fn subject(subject: &Field<'_>, errors: &mut Errors) {
    let kind = subject.get("kind");
    let Some((kind, own)) = SUBJECTS.iter().find(|(known, _)| *known == kind.str()) else {
        return kind.not_supported(errors, &["Group", "ServiceAccount", "User"]);
    };
    let part = subject.get(own);
    if part.exists() {
        let (name, namespace) = (part.get("name"), part.get("namespace"));
        if name.is_empty() {
            name.required(errors, "");
        } else if *own == "serviceAccount" && name.str() != "*" {
            name.check(errors, api::names::dns1123_subdomain);
        }
        if *own == "serviceAccount" {
            if namespace.is_empty() {
                namespace.required(errors, "must specify namespace for service account");
            } else {
                namespace.check(errors, api::names::dns1123_label);
            }
        }
    } else {
        part.required(errors, &format!("{own} is required when subject kind is '{kind}'"));
    }
    for (other_kind, other) in SUBJECTS.iter().filter(|(_, other)| other != own) {
        let part = subject.get(other);
        if part.exists() {
            let detail = format!("{other} is forbidden when subject kind is not '{other_kind}'");
            part.forbidden(errors, &detail);
        }
    }
}

/// Whether the list has to be looked at any further: it is neither empty nor everything.
fn wildcard(list: &Field<'_>, missing: &str, things: &str, errors: &mut Errors) -> bool {
    let all = list.items().any(|item| item.str() == "*");
    if list.is_empty() {
        list.required(errors, missing);
    } else if all && list.len() > 1 {
        list.invalid(errors, format!("if '*' is present, must not specify other {things}"));
    }
    !all && !list.is_empty()
}

fn verbs(verbs: &Field<'_>, errors: &mut Errors) {
    let further = wildcard(verbs, "verbs must contain at least one value", "verbs", errors);
    if further && verbs.items().any(|verb| !VERBS.contains(&verb.str())) {
        verbs.not_supported(errors, &VERBS);
    }
}

fn resource_rule(rule: &Field<'_>, errors: &mut Errors) {
    verbs(&rule.get("verbs"), errors);
    let one_group = "resource rules must supply at least one api group";
    wildcard(&rule.get("apiGroups"), one_group, "api groups", errors);
    let one_resource = "resource rules must supply at least one resource";
    wildcard(&rule.get("resources"), one_resource, "resources", errors);
    let namespaces = rule.get("namespaces");
    if namespaces.is_empty() && rule.get("clusterScope").bool() {
        return;
    }
    let none = "resource rules that are not cluster scoped must supply at least one namespace";
    if wildcard(&namespaces, none, "namespaces", errors) {
        for namespace in namespaces.items() {
            for fault in api::names::dns1123_label(namespace.str()) {
                namespace.invalid(
                    errors,
                    format!("each member of this list must be '*' or a DNS-1123 label; {fault}"),
                );
            }
        }
    }
}

fn url(path: &Field<'_>, errors: &mut Errors) {
    let text = path.str();
    let stars = text.matches('*').count();
    let fault = if text.is_empty() {
        "must not be empty"
    } else if text == "/" {
        return;
    } else if !text.starts_with('/') {
        "must start with slash"
    } else if text.contains(' ') {
        "must not contain white-space"
    } else if text.contains("//") {
        "must not contain double slash"
    } else if stars > 1 || (stars == 1 && !text.ends_with("/*")) {
        "wildcard can only do suffix matching"
    } else {
        return;
    };
    path.invalid(errors, fault);
}

fn level(root: &Field<'_>, errors: &mut Errors) {
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    let name = metadata.get("name");
    let (kind, limited, exempt) = (spec.get("type"), spec.get("limited"), spec.get("exempt"));
    if (name.str() == "exempt") != (kind.str() == "Exempt") {
        kind.invalid(errors, "type must be 'Exempt' if and only if name is 'exempt'");
    }
    match kind.str() {
        "Exempt" => {
            if limited.exists() {
                limited.forbidden(errors, "must be nil if the type is not Limited");
            }
            shares(&exempt, errors);
        }
        "Limited" => {
            if exempt.exists() {
                exempt.forbidden(errors, "must be nil if the type is Limited");
            }
            if limited.exists() {
                limits(&limited, errors);
            } else {
                limited.required(errors, "must not be empty when type is Limited");
            }
        }
        _ => kind.not_supported(errors, &["Exempt", "Limited"]),
    }
    let mut bare = spec.value.clone();
    if let Some(bare) = bare.as_object_mut() {
        bare.remove("exempt");
    }
    if name.str() == "exempt" && !same(&bare, &json!({"type": "Exempt"})) {
        spec.invalid(
            errors,
            "spec of 'exempt' except the 'spec.exempt' field must equal the fixed value",
        );
    }
    let catch_all = json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}}});
    if name.str() == "catch-all" && !same(spec.value, &catch_all) {
        spec.invalid(errors, "spec of 'catch-all' must equal the fixed value");
    }
    status(root, errors);
}

fn not_negative(field: &Field<'_>, detail: &str, errors: &mut Errors) {
    if field.number() < 0 {
        field.invalid(errors, detail);
    }
}

fn shares(level: &Field<'_>, errors: &mut Errors) {
    let nominal = level.get("nominalConcurrencyShares");
    not_negative(&nominal, "must be a non-negative integer", errors);
    lendable(level, errors);
}

fn lendable(level: &Field<'_>, errors: &mut Errors) {
    let percent = level.get("lendablePercent");
    if !(0..=100).contains(&percent.number()) {
        percent.invalid(errors, "must be between 0 and 100, inclusive");
    }
}

fn limits(limited: &Field<'_>, errors: &mut Errors) {
    let nominal = limited.get("nominalConcurrencyShares");
    not_negative(&nominal, "must be a non-negative integer", errors);
    let response = limited.get("limitResponse");
    let (kind, queuing) = (response.get("type"), response.get("queuing"));
    match kind.str() {
        "Reject" if queuing.exists() => {
            queuing.forbidden(errors, "must be nil if limited.limitResponse.type is not Limited");
        }
        "Reject" => {}
        "Queue" if !queuing.exists() => {
            queuing.required(errors, "must not be empty if limited.limitResponse.type is Limited");
        }
        "Queue" => queues(&queuing, errors),
        _ => kind.not_supported(errors, &["Queue", "Reject"]),
    }
    lendable(limited, errors);
    let borrowing = limited.get("borrowingLimitPercent");
    not_negative(&borrowing, "if specified, must be a non-negative integer", errors);
}

fn queues(queuing: &Field<'_>, errors: &mut Errors) {
    let (length, queues, hand) = (
        queuing.get("queueLengthLimit"),
        queuing.get("queues"),
        queuing.get("handSize"),
    );
    for field in [length, queues] {
        if field.number() <= 0 {
            field.invalid_as(errors, field.number(), "must be positive");
        }
    }
    if queues.number() > MAX_QUEUES {
        queues.invalid(errors, format!("must not be greater than {MAX_QUEUES}"));
    }
    let (deck, size) = (queues.number(), hand.number());
    if size <= 0 {
        hand.invalid_as(errors, size, "must be positive");
    } else if size > deck {
        hand.invalid(errors, format!("should not be greater than queues ({deck})"));
    } else if (f64::from(i32::try_from(deck).unwrap_or(i32::MAX)).log2()
        * f64::from(i32::try_from(size).unwrap_or(i32::MAX)))
    .ceil()
        > HASH_BITS
    {
        hand.invalid(
            errors,
            format!(
                "required entropy bits of deckSize {deck} and handSize {size} should not be greater than {HASH_BITS}"
            ),
        );
    }
}

fn status(root: &Field<'_>, errors: &mut Errors) {
    let status = root.get("status");
    let conditions = status.get("conditions");
    let mut seen = std::collections::HashSet::new();
    for condition in conditions.items() {
        let kind = condition.get("type");
        if !seen.insert(kind.str().to_owned()) {
            kind.duplicate_of(errors, kind.str(), "");
        }
        if kind.is_empty() {
            kind.required(errors, "must not be empty");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rules: &Rules, mut object: Value) -> Vec<String> {
        (rules.default)(&mut object);
        let mut errors = Errors::new();
        (rules.validate)(&Field::root("", &object), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn schemas() {
        let fixed = fixed_schema("catch-all").unwrap_or_default();
        let object = json!({"metadata": {"name": "catch-all"}, "spec": fixed});
        assert_eq!(check(&FLOW_SCHEMA, object), Vec::<String>::new());
        let object = json!({"metadata": {"name": "a"}, "spec": {"matchingPrecedence": 1, "rules": [
            {"subjects": [{"kind": "User", "group": {"name": "g"}}],
             "resourceRules": [{"verbs": ["*", "get"], "apiGroups": ["*"], "resources": ["pods"]}],
             "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["a", "/b*"]}]}]}});
        assert_eq!(
            check(&FLOW_SCHEMA, object),
            [
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
                "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
                "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
                "spec.rules[0].resourceRules[0].verbs: Invalid value: [\"*\",\"get\"]: if '*' is present, must not specify other verbs",
                "spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"a\": must start with slash",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"/b*\": wildcard can only do suffix matching"
            ]
        );
    }

    #[test]
    fn levels() {
        let object = json!({"metadata": {"name": "a"}, "spec": {"type": "Limited", "limited": {
            "lendablePercent": 101, "limitResponse": {"type": "Queue", "queuing": {"handSize": 30}}}}});
        assert_eq!(
            check(&PRIORITY_LEVEL, object),
            [
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 30: required entropy bits of deckSize 64 and handSize 30 should not be greater than 60",
                "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive"
            ]
        );
        let object = json!({"metadata": {"name": "exempt"}, "spec": {"type": "Exempt", "exempt": {}}});
        assert_eq!(check(&PRIORITY_LEVEL, object), Vec::<String>::new());
        let object = json!({"metadata": {"name": "catch-all"}, "spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}});
        assert_eq!(check(&PRIORITY_LEVEL, object).len(), 1);
    }
}
