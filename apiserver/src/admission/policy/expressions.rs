//! The expressions of admission: their variables and types, compiling, and evaluation under a budget with the authorizer's answers learned on
//! the way. Evaluation itself is synchronous; [`decided`] is the thin layer that waits.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use cel::{Answer, Check, Decisions, Env, Error, Fuel, Lazy, ObjectType, PER_CALL_LIMIT, Program, Type, Value as Cel};
use serde_json::Value;

use crate::admission::Context;
use crate::admission::scope::namespace;
use crate::registry::access::{AdmissionRequest, Attributes, Authorizer, Decision, UserInfo};

/// Cost of all expressions of a policy together, for one binding and one parameter.
pub const BUDGET: u64 = 10_000_000;
/// Cost of all match conditions of a webhook or policy together.
pub const CONDITIONS_BUDGET: u64 = 2_500_000;
/// Height of all variables' trees that are evaluated inside of each other: it bounds the stack.
const MAX_HEIGHT: usize = 128;

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// What an expression may name besides the request and its objects.
#[derive(Debug, Clone, Default)]
pub struct Uses {
    /// `params`.
    pub params: bool,
    /// `authorizer`.
    pub authorizer: bool,
    /// `variables`, with the types of those declared so far.
    pub variables: Option<Vec<(String, Type)>>,
    /// The messages of mutations.
    pub patches: bool,
    /// The type of `object` and `oldObject`, and of `params`, when they are to be checked.
    pub types: Option<(Type, Type)>,
}

impl Uses {
    fn env(&self) -> Env {
        let (object, params) = self.types.clone().unwrap_or_default();
        let mut env = Env::new()
            .with("object", object.clone())
            .with("oldObject", object)
            .with("request", request_type())
            .with("namespaceObject", namespace_type());
        if self.params {
            env = env.with("params", params);
        }
        if self.authorizer {
            env = env
                .with("authorizer", Type::Opaque("kubernetes.authorization.Authorizer"))
                .with(
                    "authorizer.requestResource",
                    Type::Opaque("kubernetes.authorization.ResourceCheck"),
                );
        }
        if let Some(variables) = &self.variables {
            let fields = variables.iter().cloned();
            env = env.with(
                "variables",
                Type::object(ObjectType::new("kubernetes.variables", fields)),
            );
        }
        if self.patches { env.with_patches() } else { env }
    }

    /// The values of the variables in the order of the environment.
    fn values<'a>(&self, input: &Input<'a>, variables: Option<Cel<'a>>) -> Vec<Cel<'a>> {
        let mut out: Vec<Cel<'a>> = [input.object, input.old, input.about, input.namespace]
            .into_iter()
            .map(Cel::from_json)
            .collect();
        if self.params {
            out.push(Cel::from_json(input.params));
        }
        if self.authorizer {
            out.push(Cel::authorizer());
            out.push(Cel::resource_check(input.check.clone()));
        }
        out.extend(variables);
        out
    }
}

/// An expression, compiled, or why it cannot be.
pub struct Expression {
    /// As it is written.
    pub source: String,
    program: Result<Program, String>,
    uses: Uses,
}

impl Expression {
    /// Compiles an expression whose value must be of one of these types; none for any.
    pub fn new(source: &str, uses: &Uses, wanted: &[&str]) -> Self {
        Self {
            source: source.to_owned(),
            program: compile(source, uses, wanted),
            uses: uses.clone(),
        }
    }

    /// Why it cannot be evaluated.
    pub fn fault(&self) -> Option<&str> {
        self.program.as_ref().err().map(String::as_str)
    }

    /// The type of its value.
    pub fn output(&self) -> Type {
        self.program
            .as_ref()
            .map_or(Type::Dyn, |program| program.output().clone())
    }
}

/// Compiles an expression.
///
/// # Errors
/// As validation shows it.
pub fn compile(source: &str, uses: &Uses, wanted: &[&str]) -> Result<Program, String> {
    let program = uses
        .env()
        .compile(source)
        .map_err(|error| format!("compilation failed: {error}"))?;
    let output = program.output();
    let found = output.to_string();
    if wanted.is_empty() || wanted.contains(&found.as_str()) {
        return Ok(program);
    }
    Err(match wanted {
        [one] => format!("must evaluate to {one} but got {found}"),
        _ => format!("must evaluate to one of [{}] but got {found}", wanted.join(" ")),
    })
}

/// What expressions see of a request.
pub struct Input<'a> {
    /// The object, or null.
    pub object: &'a Value,
    /// The object before, or null.
    pub old: &'a Value,
    /// The request without the objects.
    pub about: &'a Value,
    /// The namespace, or null.
    pub namespace: &'a Value,
    /// The parameter, or null.
    pub params: &'a Value,
    check: Check,
}

impl<'a> Input<'a> {
    /// Without namespace and parameter.
    pub fn new(request: &AdmissionRequest<'_>, (object, old): (&'a Value, &'a Value), about: &'a Value) -> Self {
        let a = request.attributes;
        Self {
            object,
            old,
            about,
            namespace: &Value::Null,
            params: &Value::Null,
            check: Check {
                group: a.group.clone(),
                resource: a.resource.clone(),
                subresource: a.subresource.clone(),
                namespace: namespace(request).to_owned(),
                name: a.name.clone(),
                ..Check::default()
            },
        }
    }
}

/// Why an evaluation gives no value.
#[derive(Debug)]
pub enum Failure {
    /// Of this expression alone.
    Expression(String),
    /// Of all that follow, too.
    Budget(String),
    /// The authorizer's answer is missing: everything is to be evaluated again with it.
    Undecided(Box<Check>),
}

/// One evaluation of several expressions over the same request: budget, answers, and the values of variables.
pub struct Evaluation<'a> {
    input: &'a Input<'a>,
    shared: Rc<Shared<'a>>,
}

struct Shared<'a> {
    remaining: Cell<u64>,
    decisions: &'a Decisions,
    input: &'a Input<'a>,
    names: &'a [(String, Expression)],
    cache: RefCell<HashMap<usize, Result<Cel<'a>, Error>>>,
    height: Cell<usize>,
    this: Weak<Shared<'a>>,
}

impl<'a> Evaluation<'a> {
    /// With these variables.
    pub fn new(input: &'a Input<'a>, names: &'a [(String, Expression)], decisions: &'a Decisions, budget: u64) -> Self {
        let shared = Rc::new_cyclic(|this| Shared {
            remaining: Cell::new(budget),
            decisions,
            input,
            names,
            cache: RefCell::default(),
            height: Cell::new(0),
            this: this.clone(),
        });
        Self { input, shared }
    }

    /// The value of one expression.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run(&self, expression: &'a Expression) -> Result<Cel<'a>, Failure> {
        let program = match &expression.program {
            Ok(program) => program,
            Err(why) => return Err(Failure::Expression(why.clone())),
        };
        let variables = expression
            .uses
            .variables
            .as_ref()
            .map(|_| Cel::Lazy(self.shared.clone() as Rc<dyn Lazy<'a> + 'a>));
        let values = expression.uses.values(self.input, variables);
        let mut fuel = Fuel::with_decisions(PER_CALL_LIMIT, self.shared.decisions);
        let outcome = program.run(&values, &mut fuel);
        if let Err(Error::Undecided(check)) = outcome {
            return Err(Failure::Undecided(check));
        }
        if !self.shared.spend(fuel.cost()) {
            return Err(Failure::Budget(OUT_OF_BUDGET.into()));
        }
        outcome.map_err(|error| {
            Failure::Expression(format!("expression '{}' resulted in error: {error}", expression.source))
        })
    }
}

impl Shared<'_> {
    /// Takes cost from the budget; false when that is more than there is.
    fn spend(&self, cost: u64) -> bool {
        let left = self.remaining.get().checked_sub(cost);
        self.remaining.set(left.unwrap_or(0));
        left.is_some()
    }
}

impl<'a> Lazy<'a> for Shared<'a> {
    fn field(&self, name: &str, _fuel: &mut Fuel<'_>) -> Result<Option<Cel<'a>>, Error> {
        let Some(index) = self.names.iter().position(|(known, _)| known == name) else {
            return Ok(None);
        };
        if let Some(known) = self.cache.borrow().get(&index) {
            return known.clone().map(Some);
        }
        let expression = &self.names[index].1;
        let program = match &expression.program {
            Ok(program) => program,
            Err(why) => return Err(Error::value(why.clone())),
        };
        let height = self.height.get() + program.height();
        if height > MAX_HEIGHT {
            return Err(Error::Resources);
        }
        let Some(this) = self.this.upgrade() else {
            return Ok(None);
        };
        let values = expression.uses.values(self.input, Some(Cel::Lazy(this)));
        let before = self.height.replace(height);
        let mut fuel = Fuel::with_decisions(PER_CALL_LIMIT, self.decisions);
        let outcome = program.run(&values, &mut fuel);
        self.height.set(before);
        let outcome = match outcome {
            Err(error @ Error::Undecided(_)) => return Err(error),
            _ if !self.spend(fuel.cost()) => Err(Error::Cost),
            Err(Error::Value(text)) => Err(Error::value(format!(
                "composited variable {name:?} fails to evaluate: {text}"
            ))),
            other => other,
        };
        self.cache.borrow_mut().insert(index, outcome.clone());
        outcome.map(Some)
    }
}

/// Evaluates until every question to the authorizer is answered.
pub async fn decided<T>(
    cx: &Context,
    request: &AdmissionRequest<'_>,
    evaluate: impl Fn(&Decisions) -> Result<T, Box<Check>>,
) -> T {
    let mut decisions = Decisions::default();
    loop {
        match evaluate(&decisions) {
            Ok(outcome) => return outcome,
            Err(check) => {
                let answer = ask(cx, request.user, &check).await;
                decisions.learn(*check, answer);
            }
        }
    }
}

async fn ask(cx: &Context, user: &UserInfo, check: &Check) -> Answer {
    let account = check.service_account.as_ref().map(|(namespace, name)| UserInfo {
        name: format!("system:serviceaccount:{namespace}:{name}"),
        groups: vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".into(),
        ],
        ..UserInfo::default()
    });
    let attributes = Attributes {
        verb: check.verb.clone(),
        is_resource: check.path.is_none(),
        path: check.path.clone().unwrap_or_default(),
        group: check.group.clone(),
        version: if check.path.is_none() {
            "*".into()
        } else {
            String::new()
        },
        resource: check.resource.clone(),
        subresource: check.subresource.clone(),
        namespace: check.namespace.clone(),
        name: check.name.clone(),
        field_selector: check.field_selector.clone(),
        label_selector: check.label_selector.clone(),
    };
    let decision = cx
        .authorizers
        .authorize(account.as_ref().unwrap_or(user), &attributes)
        .await;
    let allowed = decision.is_allowed();
    let (Decision::Allow(reason) | Decision::Deny(reason) | Decision::NoOpinion(reason)) = decision;
    Answer {
        allowed,
        reason,
        error: String::new(),
    }
}

fn object(name: &str, fields: &[(&str, Type)]) -> Type {
    let fields = fields.iter().map(|(name, ty)| ((*name).to_owned(), ty.clone()));
    Type::object(ObjectType::new(name, fields))
}

fn request_type() -> Type {
    let text = Type::STRING;
    let texts = Type::list(Type::STRING);
    let kind = object(
        "kubernetes.GroupVersionKind",
        &[
            ("group", text.clone()),
            ("version", text.clone()),
            ("kind", text.clone()),
        ],
    );
    let resource = object(
        "kubernetes.GroupVersionResource",
        &[
            ("group", text.clone()),
            ("version", text.clone()),
            ("resource", text.clone()),
        ],
    );
    let user = object(
        "kubernetes.UserInfo",
        &[
            ("username", text.clone()),
            ("uid", text.clone()),
            ("groups", texts.clone()),
            ("extra", Type::map(Type::STRING, texts)),
        ],
    );
    let mut fields = vec![
        ("kind", kind.clone()),
        ("resource", resource.clone()),
        ("subResource", text.clone()),
        ("requestKind", kind),
        ("requestResource", resource),
        ("requestSubResource", text.clone()),
        ("name", text.clone()),
        ("operation", text.clone()),
        ("userInfo", user),
        ("dryRun", Type::Bool),
        ("options", Type::Dyn),
    ];
    let names = fields.drain(..).map(|(name, ty)| (name.to_owned(), ty));
    // Upstream leaves this one name as it is, although it is a word of the language.
    Type::object(ObjectType::new("kubernetes.AdmissionRequest", names).with("namespace", text))
}

fn namespace_type() -> Type {
    let text = Type::STRING;
    let texts = Type::list(Type::STRING);
    let labels = Type::map(Type::STRING, Type::STRING);
    let condition = object(
        "kubernetes.NamespaceCondition",
        &[
            ("status", text.clone()),
            ("type", text.clone()),
            ("lastTransitionTime", Type::Timestamp),
            ("message", text.clone()),
            ("reason", text.clone()),
        ],
    );
    let metadata = [
        ("name", text.clone()),
        ("generateName", text.clone()),
        ("labels", labels.clone()),
        ("annotations", labels),
        ("UID", text.clone()),
        ("creationTimestamp", Type::Timestamp),
        ("deletionGracePeriodSeconds", Type::Int),
        ("deletionTimestamp", Type::Timestamp),
        ("generation", Type::Int),
        ("resourceVersion", text.clone()),
        ("finalizers", texts.clone()),
    ];
    let metadata = metadata.map(|(name, ty)| (name.to_owned(), ty));
    let metadata =
        Type::object(ObjectType::new("kubernetes.NamespaceMetadata", metadata).with("namespace", text.clone()));
    let spec = object("kubernetes.NamespaceSpec", &[("finalizers", texts)]);
    let status = object(
        "kubernetes.NamespaceStatus",
        &[("conditions", Type::list(condition)), ("phase", text)],
    );
    object(
        "kubernetes.Namespace",
        &[("metadata", metadata), ("spec", spec), ("status", status)],
    )
}
