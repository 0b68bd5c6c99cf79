//! `MutatingAdmissionWebhook` and `ValidatingAdmissionWebhook`: asks the webhooks that are configured for a request. Owns who is asked, in
//! which version and order, and what failures mean. Connections are [`crate::outgoing`]'s; the pipeline around it is the registry's.

pub(super) mod form;
mod hooks;
mod metrics;
pub(super) mod review;
pub mod rules;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use api::Error;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Value, json};

use super::policy::expressions::Input;
use super::{Context, Plugin};
use crate::outgoing::{CallError, Limits, Outgoing};
use crate::registry::access::{AdmissionRequest, UserInfo};
use form::Form;
use hooks::{Hook, Hooks, Phase};
use metrics::{Ending, Metrics};
use review::Answer;

const GROUP: &str = "admissionregistration.k8s.io";
/// What nobody may be asked about, or a broken hook could never be removed.
const EXEMPT: &[&str] = &[
    "validatingwebhookconfigurations",
    "mutatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
];
const USER_AGENT: HeaderValue = HeaderValue::from_static("kube-apiserver-admission");
/// Under which the mutating hooks keep a [`Round`] for their second pass.
const MUTATING: &str = "MutatingAdmissionWebhook";

/// All webhooks.
pub struct Webhooks {
    outgoing: Outgoing,
    metrics: Metrics,
    mutating: Hooks,
    validating: Hooks,
}

impl Webhooks {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When a name is registered twice.
    pub fn new(outgoing: Outgoing, registry: &prometheus::Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            outgoing,
            metrics: Metrics::new(registry)?,
            mutating: Hooks::new(Phase::Mutating),
            validating: Hooks::new(Phase::Validating),
        })
    }
}

/// One call that is to be made: whom, and how they see the request.
struct Invocation {
    hook: Arc<Hook>,
    form: Form,
}

/// How a call failed.
enum Failure {
    /// The hook denies the request.
    Denied(Error),
    /// The hook could not be asked, or gave no proper answer: its failurePolicy decides.
    Call { why: String, code: u16 },
    /// The request fails whatever the policy says.
    Server(Error),
}

/// What the first pass of mutating hooks leaves for the second.
#[derive(Default)]
struct Round {
    /// Hooks that may be called again.
    eligible: BTreeSet<(String, String)>,
    /// Those that somebody has changed the object after.
    again: BTreeSet<(String, String)>,
    /// The object as the last hook left it.
    left: Value,
}

impl Round {
    /// Somebody changed the object: all hooks so far have not seen that.
    fn changed(&mut self) {
        self.again.append(&mut self.eligible);
    }
}

fn key(hook: &Hook) -> (String, String) {
    let (configuration, name) = hook.id();
    (configuration.to_owned(), name.to_owned())
}

fn exempt(request: &AdmissionRequest<'_>) -> bool {
    let resource = &request.resource;
    // The server's own writes must succeed for there to be an API in which to repair a hook.
    resource.group == GROUP && EXEMPT.contains(&&*resource.resource) || *request.user == UserInfo::apiserver()
}

impl Webhooks {
    /// Whether a hook is to be asked, and in which form.
    async fn invocation(
        &self,
        cx: &Context,
        request: &AdmissionRequest<'_>,
        asked: &Form,
        object: &Value,
        hook: &Arc<Hook>,
    ) -> Result<Option<Invocation>, Error> {
        let Some(form) = hook.scope.form(cx, request, asked, object).await? else {
            return Ok(None);
        };
        let invocation = Invocation {
            hook: hook.clone(),
            form,
        };
        match self.conditions_hold(cx, request, asked, &invocation, object).await {
            Ok(true) => Ok(Some(invocation)),
            Ok(false) => Ok(None),
            Err(why) if hook.ignores_failure => {
                tracing::info!(hook = hook.name, %why, "match conditions failed, hook left out");
                Ok(None)
            }
            Err(why) => {
                let a = request.attributes;
                Err(Error::forbidden(&a.group_resource(), &a.name, why))
            }
        }
    }

    /// Evaluates `matchConditions`.
    async fn conditions_hold(
        &self,
        cx: &Context,
        request: &AdmissionRequest<'_>,
        asked: &Form,
        invocation: &Invocation,
        object: &Value,
    ) -> Result<bool, String> {
        let conditions = &invocation.hook.conditions;
        if conditions.is_empty() {
            return Ok(true);
        }
        let form = &invocation.form;
        let (shown, old) = (form.show(object), form.show(request.old.unwrap_or(&Value::Null)));
        let about = review::about(request, asked, form);
        let input = Input::new(request, (&shown, &old), &about);
        conditions.hold(cx, request, &input).await
    }

    /// Asks one hook.
    async fn call(
        &self,
        request: &AdmissionRequest<'_>,
        asked: &Form,
        invocation: &Invocation,
        (object, old): (&Value, &Value),
        phase: Phase,
    ) -> Result<Answer, Failure> {
        let hook = &invocation.hook;
        if request.dry_run() && !hook.dry_runs {
            let why = format!("admission webhook {:?} does not support dry run", hook.name);
            return Err(Failure::Server(Error::bad_request(why)));
        }
        let failed = |why: String, code: u16| Failure::Call { why, code };
        let version = review::version(&hook.versions)
            .map_err(|why| failed(format!("could not create admission objects: {why}"), 400))?;
        let caller = hook
            .caller
            .as_ref()
            .map_err(|why| failed(format!("could not get REST client: {why}"), 500))?;
        let uid = uuid::Uuid::new_v4().to_string();
        let question = review::question(request, (version, &uid), (asked, &invocation.form), (object, old));
        let headers = HeaderMap::from_iter([(header::USER_AGENT, USER_AGENT)]);
        let body = Bytes::from(question.to_string());
        let query = format!("timeout={}s", hook.time.as_secs());
        let called = caller.post(&query, headers, body, Limits::within(hook.time)).await;
        let body = called.map_err(|error| {
            let code = match error {
                CallError::Status { code, .. } => code,
                _ => 503,
            };
            failed(format!("failed to call webhook: {error}"), code)
        })?;
        let answer = review::answer(&body, (version, &uid), phase)
            .map_err(|why| failed(format!("received invalid webhook response: {why}"), 503))?;
        for (key, value) in &answer.audit {
            request.annotate(format!("{}/{key}", hook.name), value.clone());
        }
        for warning in &answer.warnings {
            request.warn(warning.clone());
        }
        match answer.allowed {
            true => Ok(answer),
            false => Err(Failure::Denied(review::denial(&hook.name, answer.result.as_ref()))),
        }
    }

    /// What a failed call means: an error, or nothing. `note` is the audit annotation for a hook that was left out.
    fn fails(
        &self,
        request: &AdmissionRequest<'_>,
        hook: &Hook,
        phase: Phase,
        started: Instant,
        failure: Failure,
        note: String,
    ) -> Result<(), Error> {
        let what = (hook, phase, request.operation);
        let (ending, outcome) = match failure {
            Failure::Denied(error) => (Ending::Answered(error.code), Err(error)),
            Failure::Server(error) => (Ending::Unusable, Err(error)),
            Failure::Call { why, code } if hook.ignores_failure => {
                tracing::warn!(hook = hook.name, configuration = hook.configuration, %why, "webhook failed, failing open");
                self.metrics.failed_open(hook, phase);
                request.annotate(note, hook.name.clone());
                (Ending::Unreachable(code), Ok(()))
            }
            Failure::Call { why, code } => {
                tracing::warn!(hook = hook.name, configuration = hook.configuration, %why, "webhook failed, failing closed");
                let error = Error::internal(format!("failed calling webhook {:?}: {why}", hook.name));
                (Ending::Unreachable(code), Err(error))
            }
        };
        self.metrics.observe(what, started.elapsed(), ending, outcome.is_err());
        outcome
    }

    async fn mutate(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Error> {
        let hooks = self.mutating.load(&*cx.store, &self.outgoing).await?;
        let (false, Some(asked)) = (hooks.is_empty(), Form::requested(request)) else {
            return Ok(());
        };
        let second = request.is_reinvocation();
        let mut round: Round = request.take_kept(MUTATING).unwrap_or_default();
        if second && round.left != *object {
            round.changed();
        }
        for (index, hook) in hooks.iter().enumerate() {
            let Some(invocation) = self.invocation(cx, request, &asked, object, hook).await? else {
                continue;
            };
            if second && !round.again.contains(&key(hook)) {
                continue;
            }
            let (started, place) = (Instant::now(), format!("round_{}_index_{index}", u8::from(second)));
            match self.mutate_by(request, &asked, &invocation, object).await {
                Ok(changed) => {
                    let what = (&**hook, Phase::Mutating, request.operation);
                    self.metrics
                        .observe(what, started.elapsed(), Ending::Answered(200), false);
                    let mutation =
                        json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": changed});
                    request.annotate(
                        format!("mutation.webhook.admission.k8s.io/{place}"),
                        mutation.to_string(),
                    );
                    if changed {
                        round.changed();
                        request.want_reinvocation();
                    }
                }
                Err(failure) => {
                    let note = format!("failed-open.mutation.webhook.admission.k8s.io/{place}");
                    self.fails(request, hook, Phase::Mutating, started, failure, note)?;
                }
            }
            if hook.if_needed {
                round.eligible.insert(key(hook));
            }
        }
        if !second {
            round.left = object.clone();
            request.keep(MUTATING, round);
        }
        Ok(())
    }

    /// Asks one mutating hook and applies its patch. True when the object is another one now.
    async fn mutate_by(
        &self,
        request: &AdmissionRequest<'_>,
        asked: &Form,
        invocation: &Invocation,
        object: &mut Value,
    ) -> Result<bool, Failure> {
        let form = &invocation.form;
        let shown = form.show(object);
        let old = form.show(request.old.unwrap_or(&Value::Null));
        let answer = self
            .call(request, asked, invocation, (&shown, &old), Phase::Mutating)
            .await?;
        let is_empty = |patch: &[u8]| matches!(patch.trim_ascii(), b"" | b"[]" | b"null");
        if is_empty(&answer.patch) {
            return Ok(false);
        }
        let server = |why: String| Failure::Server(Error::internal(why));
        if shown.is_null() {
            let name = &invocation.hook.name;
            let why = "attempted to modify the object, which is not supported for this operation";
            return Err(server(format!("admission webhook {name:?} {why}")));
        }
        let patched = api::patch::json_patch(&shown, &answer.patch).map_err(|error| server(error.to_string()))?;
        if patched == shown {
            return Ok(false);
        }
        let new = form.take(&patched, object).map_err(|error| server(error.message))?;
        let changed = new != *object;
        *object = new;
        Ok(changed)
    }

    async fn validate(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
        let hooks = self.validating.load(&*cx.store, &self.outgoing).await?;
        let (false, Some(asked)) = (hooks.is_empty(), Form::requested(request)) else {
            return Ok(());
        };
        let mut calls = Vec::new();
        for (index, hook) in hooks.iter().enumerate() {
            if let Some(invocation) = self.invocation(cx, request, &asked, object, hook).await? {
                calls.push(self.validate_by(request, &asked, invocation, object, index));
            }
        }
        join_all(calls).await.into_iter().collect()
    }

    async fn validate_by(
        &self,
        request: &AdmissionRequest<'_>,
        asked: &Form,
        invocation: Invocation,
        object: &Value,
        index: usize,
    ) -> Result<(), Error> {
        let (form, hook) = (&invocation.form, &invocation.hook);
        let (shown, old) = (form.show(object), form.show(request.old.unwrap_or(&Value::Null)));
        let started = Instant::now();
        match self
            .call(request, asked, &invocation, (&shown, &old), Phase::Validating)
            .await
        {
            Ok(_) => {
                let what = (&**hook, Phase::Validating, request.operation);
                self.metrics
                    .observe(what, started.elapsed(), Ending::Answered(200), false);
                Ok(())
            }
            Err(failure) => {
                let note = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{index}");
                self.fails(request, hook, Phase::Validating, started, failure, note)
            }
        }
    }
}

/// Whether a plugin of webhooks has anything to do with a request.
fn applies(request: &AdmissionRequest<'_>) -> bool {
    !exempt(request)
}

/// See the module.
pub(super) struct MutatingAdmissionWebhook;

#[async_trait]
impl Plugin for MutatingAdmissionWebhook {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        applies(request)
    }

    async fn mutate(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Error> {
        cx.webhooks.mutate(cx, request, object).await
    }
}

/// See the module.
pub(super) struct ValidatingAdmissionWebhook;

#[async_trait]
impl Plugin for ValidatingAdmissionWebhook {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        applies(request)
    }

    async fn validate(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
        cx.webhooks.validate(cx, request, object).await
    }
}
