//! `x-kubernetes-validations`: the rules of a schema, compiled once with it, and asked about objects under a budget.
//!
//! Owns what the rules mean: their types, what a transition rule compares with, messages, reasons and places. [`check`] says what is wrong
//! with the rules of a definition and what they may cost.

pub mod check;
pub mod declare;
mod run;
mod tree;

pub use tree::Rules;

/// Cost of all rules over one object.
const BUDGET: u64 = 10_000_000;
/// The largest message that an expression makes, bytes.
const MAX_MESSAGE: usize = 5 * 1024;
