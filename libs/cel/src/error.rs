//! What can be wrong with a text, and what can go wrong when it is evaluated.

use std::fmt;

use crate::authorizer::Check;

/// One fault of a text and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Issue {
    /// Byte offset in the text.
    pub at: u32,
    pub message: String,
}

/// All faults of a text. Displays as upstream does: `ERROR: <input>:1:3: message`, the line, and a caret below it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct CompileError {
    text: String,
}

impl CompileError {
    pub(crate) fn new(source: &str, mut issues: Vec<Issue>) -> Self {
        issues.sort_by_key(|issue| issue.at);
        let shown: Vec<String> = issues.iter().map(|issue| show(source, issue)).collect();
        CompileError { text: shown.join("\n") }
    }
}

fn show(source: &str, issue: &Issue) -> String {
    let mut at = (issue.at as usize).min(source.len());
    while !source.is_char_boundary(at) {
        at -= 1;
    }
    let before = &source[..at];
    let start = before.rfind('\n').map_or(0, |n| n + 1);
    let line = source[start..].split('\n').next().unwrap_or("");
    let number = before.matches('\n').count() + 1;
    let column = source[start..at].chars().count();
    format!(
        "ERROR: <input>:{number}:{}: {}\n | {}\n | {}^",
        column + 1,
        issue.message,
        line.replace('\t', " "),
        ".".repeat(column)
    )
}

/// Why an evaluation has no value. The texts are cel-go's, for clients see them.
#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// An error of the language, such as `no such key: x`. `&&`, `||` and the macros made of them may absorb it.
    Value(String),
    /// The cost limit is exceeded.
    Cost,
    /// The evaluation works or allocates more than its cost would allow.
    Resources,
    /// The authorizer's answer to this is not known yet: learn it and run again.
    Undecided(Box<Check>),
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Value(text) => f.write_str(text),
            Error::Cost | Error::Resources => f.write_str("operation cancelled: actual cost limit exceeded"),
            Error::Undecided(_) => f.write_str("authorization check not answered"),
        }
    }
}

impl Error {
    /// An error of the language.
    pub fn value(text: impl Into<String>) -> Self {
        Error::Value(text.into())
    }

    pub(crate) fn no_such_key(key: impl fmt::Display) -> Self {
        Error::Value(format!("no such key: {key}"))
    }

    pub(crate) fn no_such_overload() -> Self {
        Error::Value("no such overload".into())
    }

    /// Whether `&&`, `||` and the macros may absorb it.
    pub(crate) fn is_absorbable(&self) -> bool {
        matches!(self, Error::Value(_))
    }

    /// Whether a limit was hit: later expressions of the same request fail too.
    pub fn is_limit(&self) -> bool {
        matches!(self, Error::Cost | Error::Resources)
    }
}
