//! What makes a policy or a binding invalid, expressions included. Source of the rules: upstream's `admissionregistration/validation`.

use api::FieldError;

use super::compiled::{ANNOTATION, OBJECT, PATCHES, declare, for_messages, for_mutations};
use super::expressions::{Expression, Uses, compile};
use crate::kinds::common::label_selector;
use crate::kinds::field::{Errors, Field};
use crate::kinds::webhooks::{match_conditions, rule_with_operations};

const MAX_ANNOTATIONS: usize = 20;
/// Bytes of a `valueExpression`.
const MAX_VALUE_EXPRESSION: usize = 5 * 1024;
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];

/// Faults of a ValidatingAdmissionPolicy.
pub fn validating_policy(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.get("spec");
    let mut uses = common(&spec, errors);
    variables(&spec, &mut uses, errors);
    let (validations, annotations) = (spec.get("validations"), spec.get("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let why = "validations or auditAnnotations must contain at least one item";
        validations.required(errors, why);
        annotations.required(errors, why);
        return;
    }
    for one in validations.items() {
        validation(&one, &uses, errors);
    }
    if annotations.len() > MAX_ANNOTATIONS {
        annotations.invalid(
            errors,
            format!("must not have more than {MAX_ANNOTATIONS} auditAnnotations"),
        );
    }
    let metadata = root.get("metadata");
    let name = metadata.get("name");
    for one in annotations.items() {
        annotation(&one, name.str(), &uses, errors);
    }
    annotations.unique(errors, "key");
}

/// What all kinds of policies have; the uses of their expressions.
fn common(spec: &Field<'_>, errors: &mut Errors) -> Uses {
    let failure = spec.get("failurePolicy");
    failure.required_one_of(errors, &["Fail", "Ignore"]);
    let kind = spec.get("paramKind");
    if kind.exists() {
        param_kind(&kind, errors);
    }
    let constraints = spec.get("matchConstraints");
    if constraints.exists() {
        match_resources(&constraints, errors);
        let rules = constraints.get("resourceRules");
        if rules.is_empty() {
            rules.required(errors, "");
        }
    } else {
        constraints.required(errors, "");
    }
    match_conditions(&spec.get("matchConditions"), kind.exists(), errors);
    Uses {
        params: kind.exists(),
        authorizer: true,
        variables: Some(Vec::new()),
        ..Uses::default()
    }
}

fn variables(spec: &Field<'_>, uses: &mut Uses, errors: &mut Errors) {
    let variables = spec.get("variables");
    for variable in variables.items() {
        let (name, source) = (variable.get("name"), variable.get("expression"));
        if name.str().trim().is_empty() {
            name.required(errors, "name is not specified");
        } else if !is_identifier(name.str()) {
            name.invalid(errors, "name is not a valid CEL identifier");
        }
        if source.str().trim().is_empty() {
            source.required(errors, "expression is not specified");
            continue;
        }
        let expression = Expression::new(source.str(), uses, &[]);
        if let Some(why) = expression.fault() {
            source.invalid(errors, why);
        }
        declare(uses, name.str(), &expression);
    }
}

/// Faults of a MutatingAdmissionPolicy.
pub fn mutating_policy(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.get("spec");
    let mut uses = common(&spec, errors);
    variables(&spec, &mut uses, errors);
    let uses = for_mutations(&uses);
    let mutations = spec.get("mutations");
    if mutations.is_empty() {
        mutations.required(errors, "mutations must contain at least one item");
    }
    for one in mutations.items() {
        mutation(&one, &uses, errors);
    }
    let again = spec.get("reinvocationPolicy");
    again.required_one_of(errors, &["IfNeeded", "Never"]);
}

fn mutation(one: &Field<'_>, uses: &Uses, errors: &mut Errors) {
    let kind = one.get("patchType");
    let (apply, patch) = (one.get("applyConfiguration"), one.get("jsonPatch"));
    let (wanted, other, types, name) = match kind.str() {
        "ApplyConfiguration" => (&apply, &patch, OBJECT, "applyConfiguration"),
        "JSONPatch" => (&patch, &apply, PATCHES, "jsonPatch"),
        _ => return kind.required_one_of(errors, &["ApplyConfiguration", "JSONPatch"]),
    };
    if other.exists() {
        other.invalid(errors, format!("must be unset when patchType is {}", kind.str()));
    }
    if !wanted.exists() {
        return wanted.required(errors, &format!("must specify {name} when patchType is {}", kind.str()));
    }
    let source = wanted.get("expression");
    if source.str().trim().is_empty() {
        return source.required(errors, "expression is not specified");
    }
    expression(&source, source.str(), uses, types, errors);
}

/// Faults of a MutatingAdmissionPolicyBinding.
pub fn mutating_binding(root: &Field<'_>, errors: &mut Errors) {
    binding(&root.get("spec"), errors);
}

fn is_identifier(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c == '_' || c.is_ascii_alphabetic())
        && chars.all(|c| c == '_' || c.is_ascii_alphanumeric())
        && cel::names::escape(name).as_deref() == Some(name)
}

/// An expression that must compile to one of these types.
fn expression(field: &Field<'_>, source: &str, uses: &Uses, wanted: &[&str], errors: &mut Errors) {
    if let Err(why) = compile(source, uses, wanted) {
        field.invalid(errors, why);
    }
}

fn validation(one: &Field<'_>, uses: &Uses, errors: &mut Errors) {
    let (source, made, message) = (one.get("expression"), one.get("messageExpression"), one.get("message"));
    if source.str().trim().is_empty() {
        source.required(errors, "expression is not specified");
    } else {
        expression(&source, source.str(), uses, &["bool"], errors);
    }
    if !made.str().is_empty() {
        if made.str().trim().is_empty() {
            made.invalid(errors, "must be non-empty if specified");
        } else {
            expression(&made, made.str(), &for_messages(uses), &["string"], errors);
        }
    }
    let text = message.str().trim();
    if !message.str().is_empty() && text.is_empty() {
        message.invalid(errors, "message must be non-empty if specified");
    } else if text.contains(['\n', '\r']) {
        message.invalid(errors, "message must not contain line breaks");
    }
    let reason = one.get("reason");
    if reason.exists() {
        reason.one_of(errors, REASONS);
    }
}

fn annotation(one: &Field<'_>, policy: &str, uses: &Uses, errors: &mut Errors) {
    let (key, value) = (one.get("key"), one.get("valueExpression"));
    if policy.is_empty() {
        key.invalid(errors, "requires metadata.name be non-empty");
    } else {
        let whole = format!("{policy}/{}", key.str());
        for fault in api::names::qualified_name(&whole) {
            key.invalid_as(errors, whole.clone(), fault);
        }
    }
    let source = value.str().trim();
    if source.is_empty() {
        value.required(errors, "valueExpression is not specified");
    } else if source.len() > MAX_VALUE_EXPRESSION {
        value.required(
            errors,
            &format!("must not exceed {MAX_VALUE_EXPRESSION} bytes in length"),
        );
    } else {
        expression(&value, source, uses, ANNOTATION, errors);
    }
}

fn param_kind(kind: &Field<'_>, errors: &mut Errors) {
    let (version, name) = (kind.get("apiVersion"), kind.get("kind"));
    if version.is_empty() {
        version.required(errors, "");
    } else if version.str().matches('/').count() > 1 {
        version.invalid(errors, format!("unexpected GroupVersion string: {}", version.str()));
    } else {
        let (group, number) = api::split_api_version(version.str());
        if !group.is_empty() {
            let faults = api::names::dns1123_subdomain(group);
            if !faults.is_empty() {
                version.invalid_as(errors, group, faults.join(","));
            }
        }
        let faults = api::names::dns1035_label(number);
        if number.is_empty() {
            version.invalid(errors, "version must be specified");
        } else if !faults.is_empty() {
            version.invalid_as(errors, number, faults.join(","));
        }
    }
    if name.is_empty() {
        return name.required(errors, "");
    }
    let faults = api::names::dns1035_label(&name.str().to_lowercase());
    if !faults.is_empty() {
        let why = format!("may have mixed case, but should otherwise match: {}", faults.join(","));
        name.invalid(errors, why);
    }
}

fn match_resources(resources: &Field<'_>, errors: &mut Errors) {
    resources
        .get("matchPolicy")
        .required_one_of(errors, &["Equivalent", "Exact"]);
    for name in ["namespaceSelector", "objectSelector"] {
        let selector = resources.get(name);
        match selector.exists() {
            true => label_selector(&selector, errors),
            false => selector.required(errors, ""),
        }
    }
    for name in ["resourceRules", "excludeResourceRules"] {
        for rule in resources.get(name).items() {
            let names = rule.get("resourceNames");
            let mut seen = Vec::new();
            for item in names.items() {
                item.invalid_all(errors, api::names::path_segment(item.str()));
                if seen.contains(&item.str()) {
                    item.duplicate(errors);
                }
                seen.push(item.str());
            }
            rule_with_operations(&rule, errors);
        }
    }
}

/// Faults of a ValidatingAdmissionPolicyBinding.
pub fn validating_binding(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.get("spec");
    binding(&spec, errors);
    let actions = spec.get("validationActions");
    let mut seen: Vec<&str> = Vec::new();
    for action in actions.items() {
        action.one_of(errors, ACTIONS);
        if seen.contains(&action.str()) {
            action.duplicate(errors);
        }
        seen.push(action.str());
    }
    if seen.contains(&"Deny") && seen.contains(&"Warn") {
        actions.invalid(
            errors,
            "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers \
             serves no purpose)",
        );
    }
    if seen.is_empty() {
        actions.required(errors, "at least one validation action is required");
    }
}

fn binding(spec: &Field<'_>, errors: &mut Errors) {
    let policy = spec.get("policyName");
    if policy.is_empty() {
        policy.required(errors, "");
    } else {
        policy.invalid_all(errors, api::names::dns1123_subdomain(policy.str()));
    }
    let param = spec.get("paramRef");
    if param.exists() {
        param_ref(&param, errors);
    }
    let resources = spec.get("matchResources");
    if resources.exists() {
        match_resources(&resources, errors);
    }
}

fn param_ref(param: &Field<'_>, errors: &mut Errors) {
    const EXCLUSIVE: &str = "name and selector are mutually exclusive";
    let (name, selector) = (param.get("name"), param.get("selector"));
    if !name.is_empty() {
        name.invalid_all(errors, api::names::path_segment(name.str()));
        if selector.exists() {
            name.forbidden(errors, EXCLUSIVE);
        }
    }
    if selector.exists() {
        label_selector(&selector, errors);
        if !name.is_empty() {
            selector.forbidden(errors, EXCLUSIVE);
        }
    }
    if name.is_empty() && !selector.exists() {
        param.required(errors, "one of name or selector must be specified");
    }
    let action = param.get("parameterNotFoundAction");
    action.required_one_of(errors, &["Allow", "Deny"]);
}

/// The fault of a match condition's expression.
pub fn condition(field: &Field<'_>, source: &str, params: bool) -> Option<FieldError> {
    let uses = Uses {
        params,
        authorizer: true,
        ..Uses::default()
    };
    let why = compile(source, &uses, &["bool"]).err()?;
    Some(FieldError::invalid(field.to_string(), source, why))
}
