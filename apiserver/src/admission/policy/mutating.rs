//! MutatingAdmissionPolicy: changes objects by apply configurations and JSON patches that its expressions make.

use std::collections::BTreeMap;

use api::Error;
use api::meta::StatusCause;
use async_trait::async_trait;
use cel::{Check, Decisions, Fuel, Key, List, Map, PER_CALL_LIMIT, Value as Cel, to_json};
use serde_json::Value;

use super::compiled::{Binding, MutatingPolicy, Mutation};
use super::expressions::{BUDGET, Evaluation, Failure, Input, decided};
use super::params;
use super::validating::{applies, namespace_object};
use super::watched::Watched;
use crate::admission::webhook::form::Form;
use crate::admission::webhook::review;
use crate::admission::{Context, Plugin, forbidden};
use crate::registry::access::{AdmissionRequest, Operation};

/// Under which the plugin keeps the object as each policy left it, from the first pass to the second.
const NOTE: &str = "MutatingAdmissionPolicy";

/// See the module.
pub(in crate::admission) struct MutatingAdmissionPolicies {
    policies: Watched<MutatingPolicy>,
    bindings: Watched<Binding>,
}

impl MutatingAdmissionPolicies {
    pub(in crate::admission) fn new() -> Self {
        Self {
            policies: Watched::new("v1beta1", "mutatingadmissionpolicies", MutatingPolicy::new),
            bindings: Watched::new("v1beta1", "mutatingadmissionpolicybindings", Binding::new),
        }
    }
}

#[async_trait]
impl Plugin for MutatingAdmissionPolicies {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update) && applies(request)
    }

    async fn mutate(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Error> {
        let bindings = self.bindings.load(&*cx.store).await?;
        let Some(asked) = Form::requested(request).filter(|_| !bindings.is_empty() && object.is_object()) else {
            return Ok(());
        };
        let policies = self.policies.load(&*cx.store).await?;
        let second = request.is_reinvocation();
        let mut left: BTreeMap<String, Value> = request.take_kept(NOTE).unwrap_or_default();
        let mut faults = Vec::new();
        for policy in policies.iter() {
            let name = &policy.common.name;
            // In the second pass, those that want it and have not seen the object as it is now.
            if second && (!policy.if_needed || left.get(name) == Some(object)) {
                continue;
            }
            let bound = bindings.iter().map(|binding| &**binding);
            let bound: Vec<&Binding> = bound.filter(|binding| binding.policy == *name).collect();
            let round = Round {
                cx,
                request,
                asked: &asked,
                policy,
            };
            let before = object.clone();
            round.run(&bound, object, &mut faults).await?;
            if before != *object {
                request.want_reinvocation();
            }
            if policy.if_needed {
                left.insert(name.clone(), object.clone());
            }
        }
        if !second {
            request.keep(NOTE, left);
        }
        match faults.is_empty() {
            true => Ok(()),
            false => Err(refused(request, faults)),
        }
    }
}

fn refused(request: &AdmissionRequest<'_>, faults: Vec<String>) -> Error {
    let mut error = forbidden(request, "admission request denied by policy");
    if let Some(first) = faults.first() {
        error.message.clone_from(first);
    }
    if let Some(details) = &mut error.details {
        details.causes = Some(
            faults
                .into_iter()
                .map(|message| StatusCause {
                    message: Some(message),
                    ..StatusCause::default()
                })
                .collect(),
        );
    }
    error
}

/// One policy over one request.
struct Round<'r> {
    cx: &'r Context,
    request: &'r AdmissionRequest<'r>,
    asked: &'r Form,
    policy: &'r MutatingPolicy,
}

/// What one mutation wants.
enum Change {
    Apply(Value),
    Patch(Value),
}

impl Round<'_> {
    /// Notes a fault, as the failure policy has it.
    fn fault(&self, binding: Option<&Binding>, why: &str, faults: &mut Vec<String>) {
        if self.policy.common.ignores_failure {
            return;
        }
        let name = &self.policy.common.name;
        faults.push(match binding {
            Some(binding) => format!("policy '{name}' with binding '{}' denied request: {why}", binding.name),
            None => format!("policy {name:?} denied request: {why}"),
        });
    }

    async fn run(&self, bindings: &[&Binding], object: &mut Value, faults: &mut Vec<String>) -> Result<(), Error> {
        let common = &self.policy.common;
        if bindings.is_empty() {
            return Ok(());
        }
        let form = match common.scope.form(self.cx, self.request, self.asked, object).await {
            Ok(Some(form)) => form,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.fault(None, &error.message, faults);
                return Ok(());
            }
        };
        for binding in bindings {
            match binding.scope.form(self.cx, self.request, self.asked, object).await {
                Ok(Some(_)) => {}
                Ok(None) => continue,
                Err(error) => {
                    self.fault(Some(binding), &error.message, faults);
                    continue;
                }
            }
            let params = match params::collect(self.cx, self.request, common, binding).await {
                Ok(params) => params,
                Err(why) => {
                    self.fault(Some(binding), &format!("failed to configure binding: {why}"), faults);
                    continue;
                }
            };
            let namespace = namespace_object(self.cx, self.request).await?;
            for param in &params {
                if let Err(why) = self.one(&form, &namespace, param, object).await {
                    self.fault(Some(binding), &why, faults);
                }
            }
        }
        Ok(())
    }

    /// All mutations, each over what the one before it left.
    async fn one(&self, form: &Form, namespace: &Value, params: &Value, object: &mut Value) -> Result<(), String> {
        let old = form.show(self.request.old.unwrap_or(&Value::Null));
        let about = review::about(self.request, self.asked, form);
        let mut shown = form.show(object);
        for (index, mutation) in self.policy.mutations.iter().enumerate() {
            let changed = {
                let mut input = Input::new(self.request, (&shown, &old), &about);
                input.namespace = namespace;
                input.params = params;
                if index == 0
                    && !self
                        .policy
                        .common
                        .conditions
                        .hold(self.cx, self.request, &input)
                        .await?
                {
                    return Ok(());
                }
                let evaluate = |decisions: &Decisions| self.evaluate(mutation, &input, decisions);
                let change = decided(self.cx, self.request, evaluate).await?;
                patched(form, &shown, change)?
            };
            shown = changed;
        }
        *object = form.take(&shown, object).map_err(|error| error.message)?;
        Ok(())
    }

    fn evaluate(
        &self,
        mutation: &Mutation,
        input: &Input<'_>,
        decisions: &Decisions,
    ) -> Result<Result<Change, String>, Box<Check>> {
        let evaluation = Evaluation::new(input, &self.policy.common.variables, decisions, BUDGET);
        let (Mutation::Apply(expression) | Mutation::Patch(expression)) = mutation;
        let value = match evaluation.run(expression) {
            Ok(value) => value,
            Err(Failure::Undecided(check)) => return Err(check),
            Err(Failure::Budget(why) | Failure::Expression(why)) => return Ok(Err(why)),
        };
        let made = match mutation {
            Mutation::Apply(_) => named(&value, "Object"),
            Mutation::Patch(_) => Ok(()),
        };
        let mut fuel = Fuel::new(PER_CALL_LIMIT);
        let json = made.and_then(|()| to_json(&value, &mut fuel).map_err(|error| error.to_string()));
        Ok(json.map(|json| match mutation {
            Mutation::Apply(_) => Change::Apply(json),
            Mutation::Patch(_) => Change::Patch(json),
        }))
    }
}

/// The object after a change.
fn patched(form: &Form, object: &Value, change: Change) -> Result<Value, String> {
    match change {
        Change::Patch(patch) => {
            api::patch::json_patch(object, patch.to_string().as_bytes()).map_err(|error| format!("JSON Patch: {error}"))
        }
        Change::Apply(mut config) => {
            for field in ["apiVersion", "kind"] {
                if let (Some(value), Some(config)) = (object.get(field), config.as_object_mut()) {
                    config.insert(field.to_owned(), value.clone());
                }
            }
            form.merge(object, &config)
        }
    }
}

/// Checks that messages are called by their places: `Object.spec` stands in the field `spec` of `Object`.
fn named(value: &Cel<'_>, place: &str) -> Result<(), String> {
    match value {
        Cel::Map(Map::Message(name, fields)) => {
            if **name != *place {
                return Err(format!(
                    "unexpected type name \"{name}\", expected \"{place}\", which matches field name path from root Object type"
                ));
            }
            for (key, value) in fields.iter() {
                if let Key::String(field) = key {
                    named(value, &format!("{place}.{}", &**field))?;
                }
            }
            Ok(())
        }
        Cel::List(List::Owned(items)) => items.iter().try_for_each(|item| named(item, place)),
        _ => Ok(()),
    }
}
