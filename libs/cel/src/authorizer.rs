//! The seam between expressions, which never wait, and authorizers, which do: a check whose answer is not known stops the evaluation with the
//! question; the caller learns the answer and evaluates again. The cost of a check bounds how often.

use std::collections::HashMap;

/// What an expression asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Check {
    /// The service account (namespace, name) to ask for instead of the request's user.
    pub service_account: Option<(String, String)>,
    /// The path, for a request that is not on a resource.
    pub path: Option<String>,
    /// API group.
    pub group: String,
    /// Plural; empty with a path.
    pub resource: String,
    /// Subresource.
    pub subresource: String,
    /// Namespace; empty for all.
    pub namespace: String,
    /// Object name; empty for all.
    pub name: String,
    /// Field selector as given.
    pub field_selector: String,
    /// Label selector as given.
    pub label_selector: String,
    /// Verb.
    pub verb: String,
}

/// An authorizer's answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The user may.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// The authorizer could not decide.
    pub error: String,
}

/// The answers known so far.
#[derive(Debug, Default)]
pub struct Decisions(HashMap<Check, Answer>);

impl Decisions {
    /// Remembers an answer.
    pub fn learn(&mut self, check: Check, answer: Answer) {
        self.0.insert(check, answer);
    }

    /// The answer, if it is known.
    pub fn get(&self, check: &Check) -> Option<&Answer> {
        self.0.get(check)
    }
}
