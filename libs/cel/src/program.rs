//! Environments and programs: the crate's face.

use std::collections::HashMap;
use std::sync::Arc;

use regex::Regex;

use crate::ast::{Ast, Literal, Node};
use crate::check;
use crate::error::{CompileError, Error};
use crate::estimate::{self, Estimate};
use crate::eval;
use crate::fuel::Fuel;
use crate::functions::compile_pattern;
use crate::parser;
use crate::types::Type;
use crate::value::Value;

/// Declared types nest no deeper than this; what is deeper is checked when it is evaluated.
const MAX_DECLARED_DEPTH: usize = 64;

/// The variables and functions that an expression may use.
#[derive(Debug, Clone, Default)]
pub struct Env {
    variables: Vec<(String, Type)>,
    patches: bool,
}

/// A message type that literals may make.
#[derive(Debug, Clone, Copy)]
pub(crate) enum MessageName {
    /// `Object` and `Object.spec.template`: any field.
    Object,
    /// `JSONPatch`.
    JsonPatch,
}

impl MessageName {
    /// The type of a field.
    pub fn field(self, name: &str) -> Option<Type> {
        match (self, name) {
            (MessageName::Object, _) => Some(Type::Dyn),
            (MessageName::JsonPatch, "op" | "path" | "from") => Some(Type::STRING),
            (MessageName::JsonPatch, "value") => Some(Type::Dyn),
            _ => None,
        }
    }
}

impl Env {
    /// The language and Kubernetes' libraries, without variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more variable; its value is the next of those that [`Program::run`] gets. A name may have dots.
    pub fn with(mut self, name: impl Into<String>, ty: Type) -> Self {
        let ty = if fits(&ty, MAX_DECLARED_DEPTH) { ty } else { Type::Dyn };
        self.variables.push((name.into(), ty));
        self
    }

    /// With the messages and functions that mutations are written with.
    pub fn with_patches(mut self) -> Self {
        self.patches = true;
        self
    }

    pub(crate) fn variable(&self, name: &str) -> Option<(usize, &Type)> {
        let at = self.variables.iter().position(|(known, _)| known == name)?;
        Some((at, &self.variables[at].1))
    }

    /// Whether a function of the table is there for the expression.
    pub(crate) fn has(&self, function: &str) -> bool {
        self.patches || function != "jsonpatch.escapeKey"
    }

    pub(crate) fn message(&self, name: &str) -> Option<MessageName> {
        match name {
            _ if !self.patches => None,
            "JSONPatch" => Some(MessageName::JsonPatch),
            "Object" => Some(MessageName::Object),
            _ => name.starts_with("Object.").then_some(MessageName::Object),
        }
    }

    /// Reads and checks an expression.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn compile(&self, source: &str) -> Result<Program, CompileError> {
        let mut ast = parser::parse(source).map_err(|issue| CompileError::new(source, vec![issue]))?;
        let checked = check::check(&mut ast, self);
        if !checked.issues.is_empty() {
            return Err(CompileError::new(source, checked.issues));
        }
        let patterns = patterns(&ast);
        Ok(Program {
            ast,
            types: checked.types,
            patterns,
        })
    }
}

fn fits(ty: &Type, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else {
        return false;
    };
    match ty {
        Type::List(inner, ..) | Type::Optional(inner) | Type::TypeOf(inner) => fits(inner, depth),
        Type::Map(key, value, _) => fits(key, depth) && fits(value, depth),
        _ => true,
    }
}

/// The constant patterns of the expression, compiled.
fn patterns(ast: &Ast) -> HashMap<Arc<str>, Regex> {
    let mut out = HashMap::new();
    for id in 0..ast.len() {
        let Ok(id) = u32::try_from(id) else { break };
        let Node::Call { function, args, .. } = ast.node(id) else {
            continue;
        };
        if !matches!(&**function, "matches" | "find" | "findAll") {
            continue;
        }
        for arg in args {
            if let Node::Literal(Literal::String(text)) = ast.node(*arg)
                && let Ok(regex) = compile_pattern(text)
            {
                out.insert(text.clone(), regex);
            }
        }
    }
    out
}

/// An expression ready to run, any number of times.
#[derive(Debug, Clone)]
pub struct Program {
    pub(crate) ast: Ast,
    pub(crate) types: Vec<Type>,
    pub(crate) patterns: HashMap<Arc<str>, Regex>,
}

impl Program {
    /// The type of its value.
    pub fn output(&self) -> &Type {
        &self.types[self.ast.root as usize]
    }

    /// What it may cost at most and must cost at least, by the declared sizes.
    pub fn estimate(&self) -> Estimate {
        estimate::estimate(self)
    }

    /// How deep the evaluation nests: what evaluates one program inside of another bounds the sum.
    pub fn height(&self) -> usize {
        usize::from(self.ast.height())
    }

    /// Whether it mentions the n-th variable.
    pub fn mentions(&self, variable: usize) -> bool {
        (0..self.ast.len()).any(|id| {
            let node = self.ast.node(u32::try_from(id).unwrap_or(u32::MAX));
            matches!(node, Node::Ident { slot: crate::ast::Slot::Root(at), .. } if *at == variable)
        })
    }

    /// The value, with the variables in the order of their declaration. A variable that is not given is an error when it is used.
    ///
    /// # Errors
    /// What went wrong, see [`Error`].
    pub fn run<'a>(&'a self, variables: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<Value<'a>, Error> {
        eval::run(self, variables, fuel)
    }
}
