//! Policies and bindings as they are evaluated.

use serde_json::Value;

use super::conditions::Conditions;
use super::expressions::{Expression, Uses};
use crate::admission::scope::Scope;
use crate::kinds::field::{list, text};

/// The types that a `messageExpression` and a `valueExpression` may have.
pub const ANNOTATION: &[&str] = &["string", "null"];

/// What a policy and all kinds of policies have in common.
pub(in crate::admission) struct Common {
    /// The policy's name.
    pub(super) name: String,
    /// `failurePolicy: Ignore`.
    pub(super) ignores_failure: bool,
    /// `apiVersion` and `kind` of parameters.
    pub(super) param_kind: Option<(String, String)>,
    pub(super) scope: Scope,
    pub(super) conditions: Conditions,
    pub(super) variables: Vec<(String, Expression)>,
}

impl Common {
    /// Reads what policies share, and what their expressions may name.
    pub(super) fn new(policy: &Value) -> (Self, Uses) {
        let spec = policy.get("spec").unwrap_or(&Value::Null);
        let param_kind = spec
            .get("paramKind")
            .filter(|kind| kind.is_object())
            .map(|kind| (text(kind, "/apiVersion").to_owned(), text(kind, "/kind").to_owned()));
        let mut uses = Uses {
            params: param_kind.is_some(),
            authorizer: true,
            variables: Some(Vec::new()),
            ..Uses::default()
        };
        let variables = list(spec, "/variables")
            .iter()
            .map(|variable| {
                let (name, source) = (text(variable, "/name"), text(variable, "/expression"));
                let expression = Expression::new(source, &uses, &[]);
                declare(&mut uses, name, &expression);
                (name.to_owned(), expression)
            })
            .collect();
        let common = Self {
            name: text(policy, "/metadata/name").to_owned(),
            ignores_failure: text(spec, "/failurePolicy") == "Ignore",
            scope: Scope::of_constraints(spec.get("matchConstraints").unwrap_or(&Value::Null)),
            conditions: Conditions::new(list(spec, "/matchConditions"), param_kind.is_some()),
            param_kind,
            variables,
        };
        (common, uses)
    }
}

/// Adds a variable to those that the next expressions may name.
pub fn declare(uses: &mut Uses, name: &str, expression: &Expression) {
    if let Some(variables) = &mut uses.variables {
        variables.push((name.to_owned(), expression.output()));
    }
}

/// The same without the authorizer, for messages.
pub fn for_messages(uses: &Uses) -> Uses {
    Uses {
        authorizer: false,
        ..uses.clone()
    }
}

/// One of `validations`.
pub(super) struct Validation {
    pub(super) expression: Expression,
    pub(super) message: String,
    pub(super) message_expression: Option<Expression>,
    /// Empty: Invalid.
    pub(super) reason: String,
}

/// A ValidatingAdmissionPolicy.
pub(super) struct ValidatingPolicy {
    pub(super) common: Common,
    pub(super) validations: Vec<Validation>,
    /// Key and value.
    pub(super) annotations: Vec<(String, Expression)>,
}

impl ValidatingPolicy {
    pub(super) fn new(policy: &Value) -> Self {
        let (common, uses) = Common::new(policy);
        let messages = for_messages(&uses);
        let validations = list(policy, "/spec/validations").iter().map(|validation| Validation {
            expression: Expression::new(text(validation, "/expression"), &uses, &["bool"]),
            message: text(validation, "/message").trim().to_owned(),
            message_expression: Some(text(validation, "/messageExpression"))
                .filter(|source| !source.trim().is_empty())
                .map(|source| Expression::new(source, &messages, &["string"])),
            reason: text(validation, "/reason").to_owned(),
        });
        let annotations = list(policy, "/spec/auditAnnotations").iter().map(|annotation| {
            let source = text(annotation, "/valueExpression").trim();
            let expression = Expression::new(source, &uses, ANNOTATION);
            (text(annotation, "/key").to_owned(), expression)
        });
        Self {
            validations: validations.collect(),
            annotations: annotations.collect(),
            common,
        }
    }
}

/// How a mutation changes the object.
pub(super) enum Mutation {
    /// An object that is laid over it.
    Apply(Expression),
    /// JSON patches.
    Patch(Expression),
}

/// A MutatingAdmissionPolicy.
pub(super) struct MutatingPolicy {
    pub(super) common: Common,
    pub(super) mutations: Vec<Mutation>,
    /// `reinvocationPolicy: IfNeeded`.
    pub(super) if_needed: bool,
}

/// The types of mutations' values.
pub const OBJECT: &[&str] = &["Object"];
/// See [`OBJECT`].
pub const PATCHES: &[&str] = &["list(JSONPatch)"];

/// The uses of mutations' expressions.
pub fn for_mutations(uses: &Uses) -> Uses {
    Uses {
        patches: true,
        ..uses.clone()
    }
}

impl MutatingPolicy {
    pub(super) fn new(policy: &Value) -> Self {
        let (common, uses) = Common::new(policy);
        let uses = for_mutations(&uses);
        let mutations = list(policy, "/spec/mutations")
            .iter()
            .map(|mutation| match text(mutation, "/patchType") {
                "JSONPatch" => {
                    Mutation::Patch(Expression::new(text(mutation, "/jsonPatch/expression"), &uses, PATCHES))
                }
                _ => {
                    let source = text(mutation, "/applyConfiguration/expression");
                    Mutation::Apply(Expression::new(source, &uses, OBJECT))
                }
            });
        Self {
            mutations: mutations.collect(),
            if_needed: text(policy, "/spec/reinvocationPolicy") == "IfNeeded",
            common,
        }
    }
}

/// A binding of either kind.
pub(super) struct Binding {
    pub(super) name: String,
    pub(super) policy: String,
    /// Null if there is none.
    pub(super) param_ref: Value,
    pub(super) scope: Scope,
    /// `Deny`, `Warn`, `Audit`.
    pub(super) actions: Vec<String>,
}

impl Binding {
    pub(super) fn new(binding: &Value) -> Self {
        let spec = binding.get("spec").unwrap_or(&Value::Null);
        let actions = list(spec, "/validationActions").iter().filter_map(Value::as_str);
        Self {
            name: text(binding, "/metadata/name").to_owned(),
            policy: text(spec, "/policyName").to_owned(),
            param_ref: spec.get("paramRef").cloned().unwrap_or_default(),
            scope: Scope::of_binding(spec.get("matchResources").unwrap_or(&Value::Null)),
            actions: actions.map(str::to_owned).collect(),
        }
    }
}
