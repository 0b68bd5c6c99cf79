//! `matchConditions`, of webhooks and of policies.

use cel::{Check, Decisions, Value as Cel};
use serde_json::Value;

use super::expressions::{CONDITIONS_BUDGET, Evaluation, Expression, Failure, Input, Uses, decided};
use crate::admission::Context;
use crate::kinds::field::text;
use crate::registry::access::AdmissionRequest;

/// Conditions that must all hold.
pub struct Conditions {
    expressions: Vec<Expression>,
}

impl Conditions {
    /// Compiles the list `matchConditions`; what does not compile fails when it is evaluated.
    pub fn new(conditions: &[Value], params: bool) -> Self {
        let uses = Uses {
            params,
            authorizer: true,
            ..Uses::default()
        };
        let compile = |condition: &Value| Expression::new(text(condition, "/expression").trim(), &uses, &["bool"]);
        Self {
            expressions: conditions.iter().map(compile).collect(),
        }
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.expressions.is_empty()
    }

    /// Whether all hold: one that does not decides, errors or not.
    ///
    /// # Errors
    /// What went wrong, if none is false; the failure policy decides then.
    pub async fn hold(&self, cx: &Context, request: &AdmissionRequest<'_>, input: &Input<'_>) -> Result<bool, String> {
        decided(cx, request, |decisions| self.evaluate(input, decisions)).await
    }

    fn evaluate(&self, input: &Input<'_>, decisions: &Decisions) -> Result<Result<bool, String>, Box<Check>> {
        let evaluation = Evaluation::new(input, &[], decisions, CONDITIONS_BUDGET);
        let mut faults = Vec::new();
        for expression in &self.expressions {
            match evaluation.run(expression) {
                Ok(Cel::Bool(true)) => {}
                Ok(_) => return Ok(Ok(false)),
                Err(Failure::Undecided(check)) => return Err(check),
                Err(Failure::Budget(why)) => return Ok(Err(why)),
                Err(Failure::Expression(why)) => faults.push(why),
            }
        }
        Ok(match &faults[..] {
            [] => Ok(true),
            [one] => Err(one.clone()),
            _ => Err(format!("[{}]", faults.join(", "))),
        })
    }
}
