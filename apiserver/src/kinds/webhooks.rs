//! MutatingWebhookConfiguration and ValidatingWebhookConfiguration, and the parts of them that other kinds share: rules, the address of a
//! webhook, match conditions.

use serde_json::{Value, json};

use super::common::label_selector;
use super::field::{Errors, Field, default, each, list};
use super::rules::Rules;
use crate::admission::policy::validation;
use crate::registry::table::{self, Column};

const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
const MAX_CONDITIONS: usize = 64;

/// Rules of `validatingwebhookconfigurations.admissionregistration.k8s.io`.
pub static VALIDATING: Rules = Rules {
    generation: true,
    default: |object| each(object, "webhooks").for_each(hook_defaults),
    validate: |root, errors| hooks(root, errors),
    columns: &[Column::NAME, Column::integer("Webhooks"), Column::AGE],
    row: |object, now| {
        vec![
            table::name(object),
            json!(list(object, "/webhooks").len()),
            table::age(object, now),
        ]
    },
    unconditional_update: false,
    ..Rules::NONE
};

/// Rules of `mutatingwebhookconfigurations.admissionregistration.k8s.io`.
pub static MUTATING: Rules = Rules {
    default: |object| {
        for hook in each(object, "webhooks") {
            hook_defaults(hook);
            default(hook, "reinvocationPolicy", "Never");
        }
    },
    validate: |root, errors| {
        hooks(root, errors);
        for hook in root.get("webhooks").items() {
            let policy = hook.get("reinvocationPolicy");
            if policy.exists() {
                policy.one_of(errors, &["IfNeeded", "Never"]);
            }
        }
    },
    ..VALIDATING
};

fn hook_defaults(hook: &mut Value) {
    default(hook, "failurePolicy", "Fail");
    default(hook, "matchPolicy", "Equivalent");
    default(hook, "namespaceSelector", json!({}));
    default(hook, "objectSelector", json!({}));
    default(hook, "timeoutSeconds", 10);
    for rule in each(hook, "rules") {
        default(rule, "scope", "*");
    }
    if let Some(service) = hook
        .pointer_mut("/clientConfig/service")
        .filter(|service| service.is_object())
    {
        default(service, "port", 443);
    }
}

fn hooks(root: &Field<'_>, errors: &mut Errors) {
    let hooks = root.get("webhooks");
    for hook in hooks.items() {
        one_hook(&hook, errors);
        review_versions(&hook.get("admissionReviewVersions"), errors);
    }
    hooks.unique(errors, "name");
}

fn one_hook(hook: &Field<'_>, errors: &mut Errors) {
    fully_qualified_name(&hook.get("name"), errors);
    for rule in hook.get("rules").items() {
        rule_with_operations(&rule, errors);
    }
    for (field, supported) in [
        ("failurePolicy", ["Fail", "Ignore"]),
        ("matchPolicy", ["Equivalent", "Exact"]),
    ] {
        let field = hook.get(field);
        if field.exists() {
            field.one_of(errors, &supported);
        }
    }
    let effects = hook.get("sideEffects");
    if effects.exists() {
        effects.one_of(errors, &["None", "NoneOnDryRun"])
    } else {
        effects.required(errors, "must specify one of None, NoneOnDryRun")
    }
    let seconds = hook.get("timeoutSeconds");
    if seconds.int().is_some_and(|n| !(1..=30).contains(&n)) {
        seconds.invalid(errors, "the timeout value must be between 1 and 30 seconds");
    }
    for selector in ["namespaceSelector", "objectSelector"] {
        let selector = hook.get(selector);
        if selector.exists() {
            label_selector(&selector, errors);
        }
    }
    client_config(&hook.get("clientConfig"), errors);
    match_conditions(&hook.get("matchConditions"), false, errors);
}

/// A domain name of three labels or more.
fn fully_qualified_name(name: &Field<'_>, errors: &mut Errors) {
    if name.is_empty() {
        return name.required(errors, "");
    }
    let faults = api::names::dns1123_subdomain(name.str());
    if !faults.is_empty() {
        name.invalid(errors, faults.join(","));
    } else if name.str().split('.').count() < 3 {
        name.invalid(
            errors,
            "should be a domain with at least three segments separated by dots",
        );
    }
}

fn review_versions(versions: &Field<'_>, errors: &mut Errors) {
    let known = REVIEW_VERSIONS.join(", ");
    if versions.is_empty() {
        return versions.required(errors, &format!("must specify one of {known}"));
    }
    let mut seen = Vec::new();
    for version in versions.items() {
        if seen.contains(&version.str()) {
            version.invalid(errors, "duplicate version");
            continue;
        }
        seen.push(version.str());
        version.invalid_all(errors, api::names::dns1035_label(version.str()));
    }
    if !seen.iter().any(|version| REVIEW_VERSIONS.contains(version)) {
        versions.invalid(errors, format!("must include at least one of {known}"));
    }
}

/// A `RuleWithOperations`, of webhooks and admission policies.
pub fn rule_with_operations(rule: &Field<'_>, errors: &mut Errors) {
    let operations = rule.get("operations");
    if operations.is_empty() {
        operations.required(errors, "");
    }
    wildcard_alone(&operations, errors, "operations");
    for operation in operations.items() {
        operation.one_of(errors, &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"]);
    }
    let (groups, versions) = (rule.get("apiGroups"), rule.get("apiVersions"));
    if groups.is_empty() {
        groups.required(errors, "");
    }
    wildcard_alone(&groups, errors, "API groups");
    if versions.is_empty() {
        versions.required(errors, "");
    }
    wildcard_alone(&versions, errors, "API versions");
    for version in versions.items().filter(Field::is_empty) {
        version.required(errors, "");
    }
    resources(&rule.get("resources"), errors);
    let scope = rule.get("scope");
    if scope.exists() {
        scope.one_of(errors, &["*", "Cluster", "Namespaced"]);
    }
}

fn wildcard_alone(field: &Field<'_>, errors: &mut Errors, what: &str) {
    if field.len() > 1 && field.items().any(|item| item.str() == "*") {
        field.invalid(errors, format!("if '*' is present, must not specify other {what}"));
    }
}

fn resources(field: &Field<'_>, errors: &mut Errors) {
    if field.is_empty() {
        field.required(errors, "");
    }
    let (mut whole, mut of_all) = (Vec::new(), Vec::new());
    let (mut everything, mut all, mut plain) = (false, false, false);
    for item in field.items() {
        let name = item.str();
        if name.is_empty() {
            item.required(errors, "");
            continue;
        }
        everything |= name == "*/*";
        all |= name == "*";
        let Some((resource, sub)) = name.split_once('/') else {
            plain = name != "*";
            continue;
        };
        if whole.contains(&resource) {
            item.invalid(errors, format!("if '{resource}/*' is present, must not specify {name}"));
        }
        if of_all.contains(&sub) {
            item.invalid(errors, format!("if '*/{sub}' is present, must not specify {name}"));
        }
        if sub == "*" {
            whole.push(resource);
        }
        if resource == "*" {
            of_all.push(sub);
        }
    }
    if field.len() > 1 && everything {
        field.invalid(errors, "if '*/*' is present, must not specify other resources");
    }
    if all && plain {
        field.invalid(
            errors,
            "if '*' is present, must not specify other resources without subresources",
        );
    }
}

/// The address of a webhook: a URL or a service.
pub fn client_config(config: &Field<'_>, errors: &mut Errors) {
    let (url, service) = (config.get("url"), config.get("service"));
    match (url.exists(), service.exists()) {
        (true, false) => webhook_url(&url, errors),
        (false, true) => webhook_service(&service, errors),
        _ => config.required(errors, "exactly one of url or service is required"),
    }
}

fn webhook_url(field: &Field<'_>, errors: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = field.str().split_once("://").unwrap_or(("", field.str()));
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = match scheme {
        "" => "",
        _ => rest.split('/').next().unwrap_or(""),
    };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let mut fault = |shown: &str, why: &str| field.showing(&json!(shown)).invalid(errors, why);
    if scheme != "https" {
        fault(scheme, &format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if host.is_empty() {
        fault(host, &format!("host must be specified{FORM}"));
    }
    if !user.is_empty() {
        fault(user, "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        fault(fragment, "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        fault(query, "query parameters are not permitted in the URL");
    }
}

fn webhook_service(service: &Field<'_>, errors: &mut Errors) {
    for (field, why) in [
        ("name", "service name is required"),
        ("namespace", "service namespace is required"),
    ] {
        let field = service.get(field);
        if field.is_empty() {
            field.required(errors, why);
        }
    }
    let port = service.get("port");
    if port.int().is_some_and(|n| !(1..=65535).contains(&n)) {
        port.invalid(errors, "port is not valid: must be between 1 and 65535, inclusive");
    }
    let path = service.get("path");
    let text = path.str();
    if matches!(text, "" | "/") {
        return;
    }
    if text == "//" {
        return path.invalid(errors, "segment[0] may not be empty");
    }
    let Some(steps) = text.strip_prefix('/') else {
        return path.invalid(errors, "must start with a '/'");
    };
    for (i, step) in steps.strip_suffix('/').unwrap_or(steps).split('/').enumerate() {
        if step.is_empty() {
            path.invalid(errors, format!("segment[{i}] may not be empty"));
        }
        for fault in api::names::dns1123_subdomain(step)
            .into_iter()
            .filter(|_| !step.is_empty())
        {
            path.invalid(errors, format!("segment[{i}]: {fault}"));
        }
    }
}

/// `matchConditions` of webhooks and admission policies; `params` when expressions may name a parameter.
pub fn match_conditions(conditions: &Field<'_>, params: bool, errors: &mut Errors) {
    if conditions.len() > MAX_CONDITIONS {
        errors.push(api::FieldError::too_many(
            conditions.to_string(),
            conditions.len(),
            MAX_CONDITIONS,
        ));
    }
    for condition in conditions.items() {
        let (name, expression) = (condition.get("name"), condition.get("expression"));
        match expression.str().trim() {
            "" => expression.required(errors, ""),
            source => errors.extend(validation::condition(&expression, source, params)),
        }
        if name.is_empty() {
            name.required(errors, "");
        } else {
            name.invalid_all(errors, api::names::qualified_name(name.str()));
        }
    }
    conditions.unique(errors, "name");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(change: impl Fn(&mut Value)) -> Vec<String> {
        let mut object = json!({"metadata": {"name": "c"}, "webhooks": [{"name": "a.b.c", "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "clientConfig": {"service": {"name": "s", "namespace": "n"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}]});
        change(&mut object["webhooks"][0]);
        (MUTATING.default)(&mut object);
        let mut errors = Errors::new();
        (MUTATING.validate)(&Field::root("", &object), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_bundle_is_not_needed() {
        assert!(faults(|_| {}).is_empty());
    }

    #[test]
    fn faults_are_named_as_upstream_names_them() {
        for (pointer, value, expected) in [
            (
                "/name",
                json!("a.b"),
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
            ),
            ("/name", json!(""), "webhooks[0].name: Required value"),
            (
                "/sideEffects",
                json!("Some"),
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
            ),
            (
                "/timeoutSeconds",
                json!(31),
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
            ),
            (
                "/failurePolicy",
                json!("X"),
                "webhooks[0].failurePolicy: Unsupported value: \"X\": supported values: \"Fail\", \"Ignore\"",
            ),
            (
                "/clientConfig",
                json!({}),
                "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
            ),
            (
                "/clientConfig",
                json!({"url": "http://x/"}),
                "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
            ),
            (
                "/clientConfig",
                json!({"url": "https://x/?a=b"}),
                "webhooks[0].clientConfig.url: Invalid value: \"a=b\": query parameters are not permitted in the URL",
            ),
            (
                "/admissionReviewVersions",
                json!(["v7"]),
                "webhooks[0].admissionReviewVersions: Invalid value: [\"v7\"]: must include at least one of v1, v1beta1",
            ),
            (
                "/matchConditions",
                json!([{"name": "a", "expression": " "}]),
                "webhooks[0].matchConditions[0].expression: Required value",
            ),
            (
                "/reinvocationPolicy",
                json!("x"),
                "webhooks[0].reinvocationPolicy: Unsupported value: \"x\": supported values: \"IfNeeded\", \"Never\"",
            ),
        ] {
            let found = faults(|hook| hook[&pointer[1..]] = value.clone());
            assert_eq!(found, [expected], "{pointer} {value}");
        }
        for (field, value, expected) in [
            (
                "operations",
                json!(["*", "CREATE"]),
                "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
            ),
            (
                "resources",
                json!(["*/*", "a"]),
                "webhooks[0].rules[0].resources: Invalid value: [\"*/*\",\"a\"]: if '*/*' is present, must not specify other resources",
            ),
            (
                "resources",
                json!(["a/*", "a/b"]),
                "webhooks[0].rules[0].resources[1]: Invalid value: \"a/b\": if 'a/*' is present, must not specify a/b",
            ),
            (
                "scope",
                json!("x"),
                "webhooks[0].rules[0].scope: Unsupported value: \"x\": supported values: \"*\", \"Cluster\", \"Namespaced\"",
            ),
        ] {
            let found = faults(|hook| hook["rules"][0][field] = value.clone());
            assert_eq!(found, [expected], "{field} {value}");
        }
    }
}
