//! Objects as server-side apply sees them: trees whose inner nodes are structs, maps and keyed lists, and whose leaves are scalars and what
//! the schema calls atomic.

use super::Error;
use super::set::{self, Set};
use crate::codec;
use crate::schema::{Field, FieldType, ListType, Message};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// What the schema says of a place in the tree.
#[derive(Clone, Copy)]
pub(super) enum Node {
    Leaf,
    Struct(&'static Message),
    /// A map of scalars: maps of messages stand nowhere in the API but as leaves.
    Map(FieldType),
    Set,
    Keyed(&'static [&'static str], &'static Message),
}

impl Node {
    fn of_field(field: &'static Field) -> Node {
        if field.repeated {
            return match (field.merge.list_type, field.ty) {
                (ListType::Set, _) => Node::Set,
                (ListType::Map { keys }, FieldType::Message(message)) => Node::Keyed(keys, message),
                _ => Node::Leaf,
            };
        }
        match field.ty {
            _ if field.merge.atomic => Node::Leaf,
            ty => Node::of_type(ty),
        }
    }

    fn of_type(ty: FieldType) -> Node {
        match ty {
            FieldType::Message(message) if !message.atomic => Node::Struct(message),
            FieldType::Map(value) => Node::Map(*value),
            _ => Node::Leaf,
        }
    }

    fn child(self, key: &str) -> Node {
        match self {
            Node::Struct(message) => message.field(key).map_or(Node::Leaf, Node::of_field),
            Node::Map(ty) => Node::of_type(ty),
            _ => Node::Leaf,
        }
    }

    /// Whether the keys at this place are a struct's fields rather than a map's keys.
    fn has_fields(self, key: &str) -> bool {
        matches!(self, Node::Struct(message) if message.field(key).is_some())
    }
}

/// The items of a list with the steps that lead to them.
fn items(node: Node, list: &[Value]) -> Result<Vec<(String, Node, &Value)>, Error> {
    list.iter()
        .map(|item| match node {
            Node::Keyed(keys, message) => Ok((keyed_step(keys, message, item)?, Node::Struct(message), item)),
            _ => Ok((set::item(item), Node::Leaf, item)),
        })
        .collect()
}

fn keyed_step(keys: &[&str], message: &'static Message, item: &Value) -> Result<String, Error> {
    let mut found = Map::new();
    for key in keys {
        let default = || {
            let text = message.field(key)?.merge.default?;
            serde_json::from_str(text).ok()
        };
        let value = item
            .get(*key)
            .filter(|value| !value.is_null())
            .cloned()
            .or_else(default);
        found.extend(value.map(|value| (key.to_string(), value)));
    }
    if found.is_empty() {
        return Err(Error::Malformed(format!(
            "associative list with keys has an element that omits all key fields {keys:?} (and doesn't have default values \
             for any key fields)"
        )));
    }
    Ok(set::keyed(found))
}

fn members(value: &Value) -> Option<&Map<String, Value>> {
    value.as_object()
}

/// The fields that a configuration sets.
pub(super) fn field_set(node: Node, value: &Value) -> Result<Set, Error> {
    let mut found = Set::default();
    add_fields(node, value, &mut Vec::new(), &mut found)?;
    Ok(found)
}

fn add_fields(node: Node, value: &Value, path: &mut Vec<String>, found: &mut Set) -> Result<(), Error> {
    match (node, value) {
        (Node::Struct(_) | Node::Map(_), Value::Object(children)) => {
            for (key, child) in children {
                path.push(set::field(key));
                add_fields(node.child(key), child, path, found)?;
                let is_empty = child.is_null() || members(child).is_some_and(Map::is_empty);
                if is_empty || !node.has_fields(key) {
                    found.insert(path);
                }
                path.pop();
            }
        }
        (Node::Set | Node::Keyed(..), Value::Array(list)) => {
            for (step, node, item) in items(node, list)? {
                path.push(step);
                add_fields(node, item, path, found)?;
                found.insert(path);
                path.pop();
            }
        }
        (Node::Leaf, _) => found.insert(path),
        // A null or a value of the wrong type in a place of structs and lists.
        _ => {}
    }
    Ok(())
}

/// Where a configuration is not what the schema says: fields that it does not know, items of lists that come twice.
pub(super) fn undeclared(node: Node, value: &Value, path: &str, faults: &mut Vec<String>) {
    match (node, value) {
        (Node::Struct(_) | Node::Map(_), Value::Object(children)) => {
            for (key, child) in children {
                let path = format!("{path}.{key}");
                if matches!(node, Node::Struct(message) if !codec::is_known(message, key)) {
                    faults.push(format!("{path}: field not declared in schema"));
                } else {
                    undeclared(node.child(key), child, &path, faults);
                }
            }
        }
        (Node::Set | Node::Keyed(..), Value::Array(list)) => {
            let items = match items(node, list) {
                Ok(items) => items,
                Err(error) => return faults.push(format!("{path}: {error}")),
            };
            let mut seen = BTreeSet::new();
            for (step, node, item) in items {
                let step_path = set::shown(&step);
                if !seen.insert(step) {
                    faults.push(format!("{path}: duplicate entries for key {step_path}"));
                }
                undeclared(node, item, &format!("{path}{step_path}"), faults);
            }
        }
        _ => {}
    }
}

/// What differs between two objects.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) added: Set,
    pub(super) modified: Set,
    pub(super) removed: Set,
}

pub(super) fn compare(node: Node, old: &Value, new: &Value) -> Result<Comparison, Error> {
    let found = compare_at(node, Some(old), Some(new))?;
    Ok(Comparison {
        added: found.added.children,
        modified: found.modified.children,
        removed: found.removed.children,
    })
}

/// What differs at and below one place.
#[derive(Default)]
struct Differences {
    added: set::Node,
    modified: set::Node,
    removed: set::Node,
}

fn compare_at(node: Node, old: Option<&Value>, new: Option<&Value>) -> Result<Differences, Error> {
    let mut found = Differences::default();
    if old == new {
        return Ok(found);
    }
    let children = children(node, old, new)?;
    match (old, new) {
        (None, _) => found.added.member = true,
        (_, None) => found.removed.member = true,
        _ => found.modified.member = children.is_none(),
    }
    for (step, node, old, new) in children.into_iter().flatten() {
        let below = compare_at(node, old, new)?;
        found.added.children.put(&step, below.added);
        found.modified.children.put(&step, below.modified);
        found.removed.children.put(&step, below.removed);
    }
    Ok(found)
}

type Pair<'v> = (String, Node, Option<&'v Value>, Option<&'v Value>);

/// The children of either value by their steps, those of the old one first; `None` if the place is a leaf. Two empty values are a leaf, so
/// that empty and absent stay apart.
fn children<'v>(node: Node, old: Option<&'v Value>, new: Option<&'v Value>) -> Result<Option<Vec<Pair<'v>>>, Error> {
    let pairs = match node {
        Node::Leaf => None,
        Node::Struct(_) | Node::Map(_) => member_pairs(node, old, new),
        Node::Set | Node::Keyed(..) => item_pairs(node, old, new)?,
    };
    Ok(pairs.filter(|pairs| !pairs.is_empty()))
}

fn member_pairs<'v>(node: Node, old: Option<&'v Value>, new: Option<&'v Value>) -> Option<Vec<Pair<'v>>> {
    let members = |value: Option<&'v Value>| match value {
        None | Some(Value::Null) => Some(None),
        Some(Value::Object(members)) => Some(Some(members)),
        Some(_) => None,
    };
    let (old, new) = (members(old)?, members(new)?);
    let kept = old.into_iter().flatten().map(|(key, value)| {
        let after = new.and_then(|new| new.get(key));
        (set::field(key), node.child(key), Some(value), after)
    });
    let is_new = |key: &str| old.is_none_or(|old| !old.contains_key(key));
    let added = new.into_iter().flatten().filter(|(key, _)| is_new(key));
    Some(
        kept.chain(added.map(|(key, value)| (set::field(key), node.child(key), None, Some(value))))
            .collect(),
    )
}

/// Of several items with one step the first counts.
fn item_pairs<'v>(node: Node, old: Option<&'v Value>, new: Option<&'v Value>) -> Result<Option<Vec<Pair<'v>>>, Error> {
    let steps = |value: Option<&'v Value>| match value {
        None | Some(Value::Null) => Ok(Some(Vec::new())),
        Some(Value::Array(list)) => items(node, list).map(Some),
        Some(_) => Ok(None),
    };
    let (Some(old), Some(new)) = (steps(old)?, steps(new)?) else {
        return Ok(None);
    };
    let places: BTreeMap<&str, &'v Value> = new.iter().rev().map(|(step, _, value)| (&**step, *value)).collect();
    let mut seen = BTreeSet::new();
    let mut pairs: Vec<Pair<'v>> = Vec::with_capacity(old.len() + new.len());
    for (step, node, value) in &old {
        if seen.insert(&**step) {
            pairs.push((step.clone(), *node, Some(value), places.get(&**step).copied()));
        }
    }
    for (step, node, value) in &new {
        if seen.insert(&**step) {
            pairs.push((step.clone(), *node, None, Some(value)));
        }
    }
    Ok(Some(pairs))
}

/// The live object with the configuration laid over it.
pub(super) fn merge(node: Node, live: Option<&Value>, config: Option<&Value>) -> Result<Option<Value>, Error> {
    refuse_duplicates(node, config)?;
    let Some(children) = children(node, live, config)? else {
        return Ok(config.or(live).cloned());
    };
    let mut merged = Vec::with_capacity(children.len());
    for (step, node, live, config) in children {
        if let Some(value) = merge(node, live, config)? {
            merged.push((step, value));
        }
    }
    Ok(rebuilt(node, merged))
}

fn refuse_duplicates(node: Node, config: Option<&Value>) -> Result<(), Error> {
    let (Node::Set | Node::Keyed(..), Some(Value::Array(list))) = (node, config) else {
        return Ok(());
    };
    let mut seen = BTreeSet::new();
    for (step, _, _) in items(node, list)? {
        if !seen.insert(step.clone()) {
            let mut one = Set::default();
            one.insert(&[step]);
            return Err(Error::Malformed(format!(
                "duplicate entries for key {}",
                one.paths().concat()
            )));
        }
    }
    Ok(())
}

/// An object or list of its children; nothing if it has none.
fn rebuilt(node: Node, children: Vec<(String, Value)>) -> Option<Value> {
    if children.is_empty() {
        return None;
    }
    Some(match node {
        Node::Struct(_) | Node::Map(_) => children
            .into_iter()
            .map(|(step, value)| (step.trim_start_matches("f:").to_string(), value))
            .collect(),
        _ => children.into_iter().map(|(_, value)| value).collect(),
    })
}

/// The object without the paths of the set; what is empty then goes too.
pub(super) fn remove(node: Node, value: &Value, removed: &Set) -> Result<Option<Value>, Error> {
    let steps: Vec<(String, Node, &Value)> = match (node, value) {
        (Node::Struct(_) | Node::Map(_), Value::Object(children)) => children
            .iter()
            .map(|(key, value)| (set::field(key), node.child(key), value))
            .collect(),
        (Node::Set | Node::Keyed(..), Value::Array(list)) => items(node, list)?,
        _ => return Ok(Some(value.clone())),
    };
    let mut kept = Vec::with_capacity(steps.len());
    for (step, node, value) in steps.into_iter().filter(|(step, _, _)| !removed.has(step)) {
        let rest = match removed.below(&step) {
            Some(below) => remove(node, value, below)?,
            None => Some(value.clone()),
        };
        kept.extend(rest.map(|value| (step, value)));
    }
    Ok(rebuilt(node, kept))
}
