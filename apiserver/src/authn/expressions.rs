//! CEL in configuration files of authentication and authorization: compiled once with its types checked, run with a budget.

use cel::{Env, Fuel, PER_CALL_LIMIT, Program, Type, to_json};
use serde_json::Value;

/// What an expression must give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// True or false.
    Bool,
    /// Text.
    String,
    /// Text, a list of texts, or null.
    Strings,
}

/// A compiled expression over one variable.
#[derive(Clone, Debug)]
pub struct Expression {
    program: std::sync::Arc<Program>,
    text: String,
}

impl Expression {
    /// Compiles an expression over `variable`.
    ///
    /// # Errors
    /// All that is wrong with it, in one line.
    pub fn new(text: &str, variable: &str, ty: Type, output: Output) -> Result<Expression, String> {
        let program = Env::new().with(variable, ty).compile(text);
        let program = program.map_err(|error| error.to_string().split_whitespace().collect::<Vec<_>>().join(" "))?;
        let fits = match (program.output(), output) {
            (Type::Dyn, _)
            | (Type::Bool, Output::Bool)
            | (Type::String(_), Output::String | Output::Strings)
            | (Type::List(..) | Type::Null, Output::Strings) => true,
            // An optional or mixed type is judged when it is run.
            (Type::Optional(_), _) => true,
            _ => false,
        };
        if !fits {
            return Err(match output {
                Output::Bool => "must evaluate to bool".into(),
                Output::String => "must evaluate to string".into(),
                Output::Strings => "must evaluate to a string or a list of strings".into(),
            });
        }
        Ok(Expression {
            program: program.into(),
            text: text.to_owned(),
        })
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Runs it over the variable's value.
    ///
    /// # Errors
    /// What went wrong, with the expression.
    pub fn run(&self, variable: &Value) -> Result<Value, String> {
        let mut fuel = Fuel::new(PER_CALL_LIMIT);
        let failed = |error: cel::Error| format!("expression {:?}: {error}", self.text);
        let variables = [cel::Value::from_json(variable)];
        let value = self.program.run(&variables, &mut fuel).map_err(failed)?;
        to_json(&value, &mut fuel).map_err(failed)
    }

    /// Runs one that says yes or no.
    ///
    /// # Errors
    /// What went wrong.
    pub fn holds(&self, variable: &Value) -> Result<bool, String> {
        let value = self.run(variable)?;
        value
            .as_bool()
            .ok_or_else(|| format!("expression {:?} did not give true or false", self.text))
    }
}
