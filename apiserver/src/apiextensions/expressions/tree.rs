//! The rules of a schema as a tree of the same form, without the branches that have none.

use std::collections::BTreeMap;

use cel::{Env, ListKind, Program, Type};
use serde_json::Value;

use super::declare::declare;

/// The rules of a version.
#[derive(Default)]
pub struct Rules {
    pub(super) root: Option<Node>,
}

/// One place of the schema that has rules, or under which there are some.
pub(super) struct Node {
    /// The schema's type as messages name it.
    pub name: String,
    /// The type of `self`.
    pub ty: Type,
    pub rules: Vec<Rule>,
    pub properties: BTreeMap<String, Node>,
    pub additional: Option<Box<Node>>,
    pub items: Option<Box<Node>>,
    pub all_of: Vec<Node>,
    pub list: ListKind,
    /// The members of the map cannot be told apart from one write to the next.
    pub atomic: bool,
}

/// One rule.
pub(super) struct Rule {
    pub source: String,
    pub message: String,
    pub reason: String,
    /// Relative, as `spec.x`; empty for the rule's own place.
    pub field: String,
    pub optional_old: bool,
    pub program: Result<Program, String>,
    pub message_expression: Option<Program>,
    /// The rule names `oldSelf`.
    pub transition: bool,
}

impl Rules {
    /// Reads `openAPIV3Schema`.
    pub fn new(document: &Value) -> Self {
        Self {
            root: Node::new(document, true),
        }
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }
}

impl Node {
    fn new(schema: &Value, resource: bool) -> Option<Self> {
        let child = |name: &str| {
            let schema = schema.get(name).filter(|schema| schema.is_object())?;
            Node::new(schema, false).map(Box::new)
        };
        let properties: BTreeMap<String, Node> = schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(name, schema)| Some((name.clone(), Node::new(schema, false)?)))
            .collect();
        let all_of: Vec<Node> = array(schema, "allOf")
            .iter()
            .filter_map(|schema| Node::new(schema, false))
            .collect();
        let (additional, items) = (child("additionalProperties"), child("items"));
        let written = array(schema, "x-kubernetes-validations");
        let empty = written.is_empty() && properties.is_empty() && all_of.is_empty();
        if empty && additional.is_none() && items.is_none() {
            return None;
        }
        let ty = declare(schema, resource).map_or(Type::Dyn, |declared| declared.ty);
        Some(Self {
            name: text(schema, "type").to_owned(),
            rules: written.iter().map(|rule| Rule::new(rule, &ty)).collect(),
            ty,
            properties,
            additional,
            items,
            all_of,
            list: list_kind(schema),
            atomic: text(schema, "x-kubernetes-map-type") == "atomic",
        })
    }
}

impl Rule {
    fn new(rule: &Value, ty: &Type) -> Self {
        let optional_old = flag(rule, "optionalOldSelf");
        let env = env(ty, optional_old);
        let source = text(rule, "rule").to_owned();
        let program = env.compile(&source).map_err(|error| error.to_string());
        let made = text(rule, "messageExpression");
        Self {
            transition: program.as_ref().is_ok_and(|program| program.mentions(1)),
            message_expression: if made.is_empty() { None } else { env.compile(made).ok() },
            message: text(rule, "message").trim().to_owned(),
            reason: text(rule, "reason").to_owned(),
            field: normalized(text(rule, "fieldPath")),
            source,
            optional_old,
            program,
        }
    }

    /// What identifies the rule in messages.
    pub fn shown(&self) -> &str {
        if self.message.is_empty() {
            self.source.trim()
        } else {
            &self.message
        }
    }

    /// What a value that the rule refuses is told, unless an expression says it.
    pub fn default_message(&self) -> String {
        if self.message.is_empty() {
            format!("failed rule: {}", self.source.trim())
        } else {
            self.message.clone()
        }
    }
}

/// `self` and `oldSelf`.
pub(super) fn env(ty: &Type, optional_old: bool) -> Env {
    let old = if optional_old {
        Type::optional(ty.clone())
    } else {
        ty.clone()
    };
    Env::new().with("self", ty.clone()).with("oldSelf", old)
}

/// `.spec['a.b'].c` as messages write it: `spec[a.b].c`.
fn normalized(path: &str) -> String {
    path.trim_start_matches('.').replace("['", "[").replace("']", "]")
}

pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or("")
}

pub(super) fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or(false)
}

pub(super) fn number(value: &Value, key: &str) -> Option<u64> {
    value.get(key).and_then(Value::as_u64)
}

pub(super) fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// How lists of the schema compare.
pub(super) fn list_kind(schema: &Value) -> ListKind {
    match text(schema, "x-kubernetes-list-type") {
        "set" => ListKind::Set,
        "map" => {
            let keys = array(schema, "x-kubernetes-list-map-keys")
                .iter()
                .filter_map(Value::as_str);
            ListKind::Map(keys.map(str::to_owned).collect())
        }
        _ => ListKind::Atomic,
    }
}
