//! The Common Expression Language as Kubernetes 1.35 speaks it: parser, type checker, cost estimate and evaluator, without I/O.
//!
//! An [`Env`] declares the variables; [`Env::compile`] makes a [`Program`] of a text; [`Program::run`] evaluates it over borrowed JSON.
//! Nothing here trusts the text or the data. The parser bounds length and depth, so that no recursion over the tree can overflow a
//! stack, and the evaluator charges every step to a [`Fuel`]: upstream's cost model decides what a caller may ask for, and two counters
//! of our own bound the real work and the memory where that model looks away (nested equality, patterns, repeated doubling).
//!
//! The parser is our own. The crate `cel` has one, but its tree keeps no positions by line and column in upstream's form, expands macros
//! into general folds that are expensive to evaluate and to type, and links an ANTLR runtime with known panics and a depth underflow; the
//! grammar itself is a page.

mod ast;
mod authorizer;
mod check;
mod compare;
mod error;
mod estimate;
mod eval;
mod fuel;
mod functions;
mod json;
mod lexer;
pub mod names;
mod parser;
mod program;
mod schema;
mod types;
mod value;

pub use authorizer::{Answer, Check, Decisions};
pub use error::{CompileError, Error};
pub use estimate::Estimate;
pub use fuel::{Fuel, PER_CALL_LIMIT};
pub use json::to_json;
pub use program::{Env, Program};
pub use schema::message_type;
pub use types::{Field, ListKind, ObjectType, Size, Type};
pub use value::{Entries, Key, Lazy, List, Map, Nested, Opaque, Text, Value};
