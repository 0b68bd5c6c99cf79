//! Roles and bindings of RBAC.

use serde_json::{Value, json};

use super::field::{Errors, Field, default_zero, each, list, text};
use super::rules::Rules;
use crate::registry::table::{self, Column};

const GROUP: &str = "rbac.authorization.k8s.io";
const ROLE_COLUMNS: &[Column] = &[
    Column::NAME,
    Column {
        kind: "date",
        ..Column::text("Created At")
    },
];
const BINDING_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Role"),
    Column::AGE,
    Column::text("Users").wide(),
    Column::text("Groups").wide(),
    Column::text("ServiceAccounts").wide(),
];

/// Rules of `roles.rbac.authorization.k8s.io`.
pub static ROLE: Rules = Rules {
    validate: |root, errors| rules(&root.get("rules"), false, errors),
    ..ROLE_TABLE
};

/// Rules of `clusterroles.rbac.authorization.k8s.io`.
pub static CLUSTER_ROLE: Rules = Rules {
    validate: |root, errors| {
        rules(&root.get("rules"), true, errors);
        let aggregation = root.get("aggregationRule");
        let selectors = aggregation.get("clusterRoleSelectors");
        if aggregation.exists() && selectors.is_empty() {
            selectors.required(
                errors,
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            );
        }
        for selector in selectors.items() {
            super::common::label_selector(&selector, errors);
        }
    },
    ..ROLE_TABLE
};

const ROLE_TABLE: Rules = Rules {
    create_on_update: true,
    columns: ROLE_COLUMNS,
    row: created_row,
    name: api::names::path_segment,
    ..Rules::NONE
};

/// Rules of `rolebindings.rbac.authorization.k8s.io`.
pub static ROLE_BINDING: Rules = Rules {
    validate: |root, errors| binding(root, true, errors),
    ..BINDING
};

/// Rules of `clusterrolebindings.rbac.authorization.k8s.io`.
pub static CLUSTER_ROLE_BINDING: Rules = Rules {
    validate: |root, errors| binding(root, false, errors),
    ..BINDING
};

const BINDING: Rules = Rules {
    create_on_update: true,
    default: |object| {
        if let Some(role) = object.get_mut("roleRef") {
            default_zero(role, "apiGroup", GROUP);
        }
        for subject in each(object, "subjects") {
            if matches!(text(subject, "/kind"), "User" | "Group") {
                default_zero(subject, "apiGroup", GROUP);
            }
        }
    },
    validate_update: |root, old, errors| {
        let role = root.get("roleRef");
        if role.value != &old["roleRef"] {
            role.invalid(errors, "cannot change roleRef");
        }
    },
    columns: BINDING_COLUMNS,
    row: |object, now| {
        let of = |kind: &str| {
            list(object, "/subjects")
                .iter()
                .filter(|s| text(s, "/kind") == kind)
                .map(subject_name)
                .collect::<Vec<_>>()
                .join(", ")
        };
        vec![
            table::name(object),
            json!(format!(
                "{}/{}",
                text(object, "/roleRef/kind"),
                text(object, "/roleRef/name")
            )),
            table::age(object, now),
            json!(of("User")),
            json!(of("Group")),
            json!(of("ServiceAccount")),
        ]
    },
    name: api::names::path_segment,
    ..Rules::NONE
};

fn subject_name(subject: &Value) -> String {
    match text(subject, "/namespace") {
        "" => text(subject, "/name").to_owned(),
        namespace => format!("{namespace}/{}", text(subject, "/name")),
    }
}

/// Name and the creation time as it is: what a few kinds show instead of an age.
pub fn created_row(object: &Value, _now: jiff::Timestamp) -> Vec<Value> {
    vec![table::name(object), json!(text(object, "/metadata/creationTimestamp"))]
}

fn rules(rules: &Field<'_>, cluster: bool, errors: &mut Errors) {
    for rule in rules.items() {
        let (verbs, urls, groups, resources) = (
            rule.get("verbs"),
            rule.get("nonResourceURLs"),
            rule.get("apiGroups"),
            rule.get("resources"),
        );
        if verbs.is_empty() {
            verbs.required(errors, "verbs must contain at least one value");
        }
        if !urls.is_empty() {
            if !cluster {
                urls.invalid(errors, "namespaced rules cannot apply to non-resource URLs");
            }
            if !groups.is_empty() || !resources.is_empty() || !rule.get("resourceNames").is_empty() {
                urls.invalid(
                    errors,
                    "rules cannot apply to both regular resources and non-resource URLs",
                );
            }
            continue;
        }
        if groups.is_empty() {
            groups.required(errors, "resource rules must supply at least one api group");
        }
        if resources.is_empty() {
            resources.required(errors, "resource rules must supply at least one resource");
        }
    }
}

fn binding(root: &Field<'_>, namespaced: bool, errors: &mut Errors) {
    let role = root.get("roleRef");
    let (group, kind, name) = (role.get("apiGroup"), role.get("kind"), role.get("name"));
    if group.str() != GROUP {
        group.not_supported(errors, &[GROUP]);
    }
    kind.one_of(
        errors,
        if namespaced {
            &["Role", "ClusterRole"]
        } else {
            &["ClusterRole"]
        },
    );
    if name.is_empty() {
        name.required(errors, "")
    } else {
        name.invalid_all(errors, api::names::path_segment(name.str()))
    }
    for subject in root.get("subjects").items() {
        let (kind, group, name, namespace) = (
            subject.get("kind"),
            subject.get("apiGroup"),
            subject.get("name"),
            subject.get("namespace"),
        );
        if name.is_empty() {
            name.required(errors, "");
        }
        match kind.str() {
            "ServiceAccount" => {
                if !name.is_empty() {
                    name.invalid_all(errors, api::names::dns1123_subdomain(name.str()));
                }
                if !group.is_empty() {
                    group.not_supported(errors, &[""]);
                }
                if !namespaced && namespace.is_empty() {
                    namespace.required(errors, "");
                }
            }
            "User" | "Group" if group.str() != GROUP => group.not_supported(errors, &[GROUP]),
            "User" | "Group" => {}
            _ => kind.not_supported(errors, &["ServiceAccount", "User", "Group"]),
        }
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
        assert_eq!(
            check(&ROLE, json!({"rules": [{"verbs": ["get"], "resources": ["pods"]}]})),
            ["rules[0].apiGroups: Required value: resource rules must supply at least one api group"]
        );
        let good =
            json!({"roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [{"kind": "User", "name": "amy"}]});
        assert_eq!(check(&CLUSTER_ROLE_BINDING, good), Vec::<String>::new());
        let bad = json!({"roleRef": {"kind": "Role", "name": "view"}, "subjects": [{"kind": "ServiceAccount", "name": "amy"}]});
        assert_eq!(
            check(&CLUSTER_ROLE_BINDING, bad),
            [
                "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
                "subjects[0].namespace: Required value"
            ]
        );
    }
}
