//! Kinds that extend the API: admission policies.

use serde_json::{Value, json};

use super::field::{default, each, ensure, list, text};
use super::rules::Rules;
use crate::admission::policy::validation;
use crate::registry::table::{self, Column};

/// Rules of `validatingadmissionpolicies` and, with their own count, `mutatingadmissionpolicies`.
pub static VALIDATING_POLICY: Rules = Rules {
    generation: true,
    default: |object| policy_defaults(object),
    validate: validation::validating_policy,
    columns: &[
        Column::NAME,
        Column::integer("Validations"),
        Column::text("ParamKind"),
        Column::AGE,
    ],
    row: |object, now| policy_row(object, now, "/spec/validations"),
    unconditional_update: false,
    ..Rules::NONE
};

/// Rules of `mutatingadmissionpolicies.admissionregistration.k8s.io`.
pub static MUTATING_POLICY: Rules = Rules {
    generation: true,
    default: |object| {
        policy_defaults(object);
        if let Some(spec) = ensure(object, "spec") {
            default(spec, "reinvocationPolicy", "Never");
        }
    },
    validate: validation::mutating_policy,
    columns: &[
        Column::NAME,
        Column::integer("Mutations"),
        Column::text("ParamKind"),
        Column::AGE,
    ],
    row: |object, now| policy_row(object, now, "/spec/mutations"),
    unconditional_update: false,
    ..Rules::NONE
};

/// Rules of `mutatingadmissionpolicybindings.admissionregistration.k8s.io`.
pub static MUTATING_BINDING: Rules = Rules {
    validate: validation::mutating_binding,
    ..POLICY_BINDING
};

/// Rules of `validatingadmissionpolicybindings.admissionregistration.k8s.io`.
pub static POLICY_BINDING: Rules = Rules {
    generation: true,
    default: binding_defaults,
    validate: validation::validating_binding,
    columns: &[
        Column::NAME,
        Column::text("PolicyName"),
        Column::text("ParamRef"),
        Column::AGE,
    ],
    row: |object, now| {
        let parameter = object.pointer("/spec/paramRef").filter(|p| p.is_object()).map_or_else(
            || "<unset>".to_owned(),
            |p| match (text(p, "/namespace"), text(p, "/name")) {
                (_, "") => "*".to_owned(),
                ("", name) => name.to_owned(),
                (namespace, name) => format!("{namespace}/{name}"),
            },
        );
        vec![
            table::name(object),
            json!(text(object, "/spec/policyName")),
            json!(parameter),
            table::age(object, now),
        ]
    },
    unconditional_update: false,
    ..Rules::NONE
};

fn policy_defaults(object: &mut Value) {
    let Some(spec) = ensure(object, "spec") else { return };
    default(spec, "failurePolicy", "Fail");
    match_defaults(spec, "matchConstraints");
}

fn binding_defaults(object: &mut Value) {
    let Some(spec) = ensure(object, "spec") else { return };
    match_defaults(spec, "matchResources");
    if let Some(param) = spec.get_mut("paramRef").filter(|param| param.is_object()) {
        default(param, "parameterNotFoundAction", "Deny");
    }
}

fn match_defaults(spec: &mut Value, field: &str) {
    let Some(resources) = spec.get_mut(field).filter(|resources| resources.is_object()) else {
        return;
    };
    default(resources, "matchPolicy", "Equivalent");
    default(resources, "namespaceSelector", json!({}));
    default(resources, "objectSelector", json!({}));
    for rules in ["resourceRules", "excludeResourceRules"] {
        for rule in each(resources, rules) {
            default(rule, "scope", "*");
        }
    }
}

fn policy_row(object: &Value, now: jiff::Timestamp, counted: &str) -> Vec<Value> {
    let parameter = object.pointer("/spec/paramKind").filter(|p| p.is_object());
    let shown = parameter.map_or_else(
        || "<unset>".to_owned(),
        |p| format!("{}/{}", text(p, "/apiVersion"), text(p, "/kind")),
    );
    vec![
        table::name(object),
        json!(list(object, counted).len()),
        json!(shown),
        table::age(object, now),
    ]
}
