//! ValidatingAdmissionPolicy: decides, warns and tells the audit log what its expressions say.

use std::collections::BTreeMap;

use api::Error;
use api::meta::StatusCause;
use async_trait::async_trait;
use cel::{Check, Decisions, Value as Cel};
use serde_json::{Value, json};

use super::compiled::{Binding, ValidatingPolicy, Validation};
use super::expressions::{BUDGET, Evaluation, Failure, Input, decided};
use super::watched::Watched;
use super::{EXEMPT, GROUP, params};
use crate::admission::scope::namespace;
use crate::admission::webhook::form::Form;
use crate::admission::webhook::review;
use crate::admission::{Context, Plugin, forbidden};
use crate::registry::access::{AdmissionRequest, UserInfo};

/// The largest message of a `messageExpression`, bytes.
const MAX_MESSAGE: usize = 5 * 1024;
/// The largest value of an audit annotation, bytes.
const MAX_ANNOTATION: usize = 10 * 1024;

/// See the module.
pub(in crate::admission) struct ValidatingAdmissionPolicies {
    policies: Watched<ValidatingPolicy>,
    bindings: Watched<Binding>,
}

impl ValidatingAdmissionPolicies {
    pub(in crate::admission) fn new() -> Self {
        Self {
            policies: Watched::new("v1", "validatingadmissionpolicies", ValidatingPolicy::new),
            bindings: Watched::new("v1", "validatingadmissionpolicybindings", Binding::new),
        }
    }
}

/// Whether policies are asked about a request.
pub(super) fn applies(request: &AdmissionRequest<'_>) -> bool {
    let resource = &request.resource;
    let exempt = resource.group == GROUP && EXEMPT.contains(&&*resource.resource);
    // The server's own writes must succeed for there to be an API in which to repair a policy.
    !exempt && *request.user != UserInfo::apiserver()
}

/// One refusal.
struct Denial {
    message: String,
    /// Empty: Invalid.
    reason: String,
}

/// What one evaluation of a policy says.
#[derive(Default)]
struct Outcome {
    /// With the place of the validation.
    denials: Vec<(usize, Denial)>,
    annotations: Vec<(String, String)>,
    /// Annotations that failed, which refuses whatever the binding's actions are.
    faults: Vec<String>,
}

#[async_trait]
impl Plugin for ValidatingAdmissionPolicies {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        applies(request)
    }

    async fn validate(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
        let bindings = self.bindings.load(&*cx.store).await?;
        if bindings.is_empty() {
            return Ok(());
        }
        let policies = self.policies.load(&*cx.store).await?;
        let Some(asked) = Form::requested(request) else {
            return Ok(());
        };
        let mut first = None;
        for policy in policies.iter() {
            let bound: Vec<&Binding> = bindings
                .iter()
                .map(|binding| &**binding)
                .filter(|binding| binding.policy == policy.common.name)
                .collect();
            if bound.is_empty() {
                continue;
            }
            let round = Round {
                cx,
                request,
                asked: &asked,
                object,
                policy,
            };
            let denied = round.policy(&bound).await?;
            first = first.or(denied);
        }
        match first {
            Some((text, reason)) => Err(denial(request, text, &reason)),
            None => Ok(()),
        }
    }
}

/// The error of the first refusal.
fn denial(request: &AdmissionRequest<'_>, text: String, reason: &str) -> Error {
    let reason = if reason.is_empty() { "Invalid" } else { reason };
    let mut error = forbidden(request, &text);
    error.code = match reason {
        "Unauthorized" => 401,
        "Forbidden" => 403,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    };
    reason.clone_into(&mut error.reason);
    if let Some(details) = &mut error.details {
        details.causes.get_or_insert_default().push(StatusCause {
            message: Some(text),
            ..StatusCause::default()
        });
    }
    error
}

/// One policy over one request.
struct Round<'r> {
    cx: &'r Context,
    request: &'r AdmissionRequest<'r>,
    asked: &'r Form,
    object: &'r Value,
    policy: &'r ValidatingPolicy,
}

/// The text of a refusal, and its reason.
type Refused = Option<(String, String)>;

impl Round<'_> {
    fn refusal(&self, binding: Option<&Binding>, denial: Denial) -> Refused {
        let (name, why) = (&self.policy.common.name, denial.message);
        let text = match binding {
            Some(binding) => {
                let binding = &binding.name;
                format!("ValidatingAdmissionPolicy '{name}' with binding '{binding}' denied request: {why}")
            }
            None => format!("ValidatingAdmissionPolicy '{name}' denied request: {why}"),
        };
        Some((text, denial.reason))
    }

    /// Something that is wrong with the policy or the binding, as the failure policy has it.
    fn misconfigured(&self, binding: Option<&Binding>, why: &str) -> Refused {
        if self.policy.common.ignores_failure {
            return None;
        }
        let what = if binding.is_some() { "binding" } else { "policy" };
        let message = format!("failed to configure {what}: {why}");
        let reason = String::new();
        self.refusal(binding, Denial { message, reason })
    }

    async fn policy(&self, bindings: &[&Binding]) -> Result<Refused, Error> {
        let common = &self.policy.common;
        let form = match common.scope.form(self.cx, self.request, self.asked, self.object).await {
            Ok(Some(form)) => form,
            Ok(None) => return Ok(None),
            Err(error) => return Ok(self.misconfigured(None, &error.message)),
        };
        let (object, old) = (
            form.show(self.object),
            form.show(self.request.old.unwrap_or(&Value::Null)),
        );
        let about = review::about(self.request, self.asked, &form);
        let mut first: Refused = None;
        let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut namespace = None;
        for binding in bindings {
            match binding.scope.form(self.cx, self.request, self.asked, self.object).await {
                Ok(Some(_)) => {}
                Ok(None) => continue,
                Err(error) => {
                    first = first.or_else(|| self.misconfigured(Some(binding), &error.message));
                    continue;
                }
            }
            let params = match params::collect(self.cx, self.request, common, binding).await {
                Ok(params) => params,
                Err(why) => {
                    first = first.or_else(|| self.misconfigured(Some(binding), &why));
                    continue;
                }
            };
            if namespace.is_none() {
                namespace = Some(namespace_object(self.cx, self.request).await?);
            }
            for param in &params {
                let mut input = Input::new(self.request, (&object, &old), &about);
                input.namespace = namespace.as_ref().unwrap_or(&Value::Null);
                input.params = param;
                let outcome = self.outcome(&input).await;
                let denied = self.publish(binding, outcome, &mut annotations);
                first = first.or(denied);
            }
        }
        for (key, values) in annotations {
            let key = format!("{}/{key}", common.name);
            self.request.annotate(key, values.join(", "));
        }
        Ok(first)
    }

    /// Does what the binding says about an outcome. The first refusal.
    fn publish(&self, binding: &Binding, outcome: Outcome, annotations: &mut BTreeMap<String, Vec<String>>) -> Refused {
        let mut first = None;
        for (index, denial) in outcome.denials {
            for action in &binding.actions {
                match action.as_str() {
                    "Warn" => self.request.warn(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                        self.policy.common.name, binding.name, denial.message
                    )),
                    "Audit" => {
                        let failure = json!([{
                            "message": denial.message, "policy": binding.policy, "binding": binding.name,
                            "expressionIndex": index, "validationActions": binding.actions,
                        }]);
                        let key = "validation.policy.admission.k8s.io/validation_failure";
                        self.request.annotate(key, failure.to_string());
                    }
                    _ => {}
                }
            }
            if binding.actions.iter().any(|action| action == "Deny") {
                first = first.or_else(|| self.refusal(Some(binding), denial));
            }
        }
        for (key, value) in outcome.annotations {
            let values = annotations.entry(key).or_default();
            if !values.contains(&value) {
                values.push(value);
            }
        }
        for message in outcome.faults {
            let reason = String::new();
            first = first.or_else(|| self.refusal(Some(binding), Denial { message, reason }));
        }
        first
    }

    async fn outcome(&self, input: &Input<'_>) -> Outcome {
        let common = &self.policy.common;
        match common.conditions.hold(self.cx, self.request, input).await {
            Ok(true) => decided(self.cx, self.request, |decisions| self.evaluate(input, decisions)).await,
            Ok(false) => Outcome::default(),
            Err(why) => self.failed(why),
        }
    }

    /// One refusal for everything, as the failure policy has it.
    fn failed(&self, message: String) -> Outcome {
        let mut outcome = Outcome::default();
        if !self.policy.common.ignores_failure {
            let reason = String::new();
            outcome.denials.push((0, Denial { message, reason }));
        }
        outcome
    }

    fn evaluate(&self, input: &Input<'_>, decisions: &Decisions) -> Result<Outcome, Box<Check>> {
        let evaluation = Evaluation::new(input, &self.policy.common.variables, decisions, BUDGET);
        let fails = !self.policy.common.ignores_failure;
        let mut outcome = Outcome::default();
        for (index, validation) in self.policy.validations.iter().enumerate() {
            match evaluation.run(&validation.expression) {
                Ok(Cel::Bool(true)) => {}
                Ok(_) => {
                    let denial = Denial {
                        message: message(validation, &evaluation)?,
                        reason: validation.reason.clone(),
                    };
                    outcome.denials.push((index, denial));
                }
                Err(Failure::Undecided(check)) => return Err(check),
                Err(Failure::Budget(why)) => return Ok(self.failed(why)),
                Err(Failure::Expression(message)) if fails => {
                    let reason = String::new();
                    outcome.denials.push((index, Denial { message, reason }));
                }
                Err(Failure::Expression(_)) => {}
            }
        }
        let annotations = Evaluation::new(input, &self.policy.common.variables, decisions, BUDGET);
        for (key, expression) in &self.policy.annotations {
            let fault = match annotations.run(expression) {
                Ok(Cel::String(text)) => {
                    let text = truncated(text.trim());
                    if !text.is_empty() {
                        outcome.annotations.push((key.clone(), text.to_owned()));
                    }
                    continue;
                }
                Ok(Cel::Null) => continue,
                Ok(other) => format!(
                    "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either string or null.",
                    expression.source,
                    &*other.type_name()
                ),
                Err(Failure::Undecided(check)) => return Err(check),
                Err(Failure::Budget(why) | Failure::Expression(why)) => why,
            };
            if fails {
                outcome.faults.push(fault);
            }
        }
        Ok(outcome)
    }
}

/// What a refusal says: the message expression's text, the message, or the expression.
fn message<'a>(validation: &'a Validation, evaluation: &Evaluation<'a>) -> Result<String, Box<Check>> {
    let made = match &validation.message_expression {
        Some(expression) => match evaluation.run(expression) {
            Ok(Cel::String(text)) => text.trim().to_owned(),
            Err(Failure::Undecided(check)) => return Err(check),
            _ => String::new(),
        },
        None => String::new(),
    };
    if !made.is_empty() && made.len() <= MAX_MESSAGE && !made.contains('\n') {
        return Ok(made);
    }
    if !validation.message.is_empty() {
        return Ok(validation.message.clone());
    }
    Ok(format!("failed expression: {}", validation.expression.source.trim()))
}

fn truncated(text: &str) -> &str {
    let mut end = text.len().min(MAX_ANNOTATION);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The namespace as expressions see it; null at cluster scope and for namespaces themselves.
pub(super) async fn namespace_object(cx: &Context, request: &AdmissionRequest<'_>) -> Result<Value, Error> {
    let a = request.attributes;
    let name = namespace(request);
    if name.is_empty() || (a.group.as_str(), a.resource.as_str()) == ("", "namespaces") {
        return Ok(Value::Null);
    }
    let missing = || Error::not_found(&api::GroupResource::new("", "namespaces"), name);
    let mut found = cx.get("", "namespaces", "", name).await?.ok_or_else(missing)?;
    if let Some(metadata) = found.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        metadata.remove("ownerReferences");
    }
    Ok(found)
}
