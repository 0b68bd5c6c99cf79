//! Objects as server-side apply sees them: trees whose inner nodes are structs, maps and keyed lists, and whose leaves are scalars and what
//! the schema calls atomic.

use super::Error;
use super::set::{self, Set};
use super::shape::{Schema, Shape};
use crate::codec;
use crate::schema::{Field, FieldType, ListType, Message};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// What the schema says of a place in the tree.
#[derive(Clone, Copy)]
pub(super) enum Node<'s> {
    Leaf,
    Struct(&'static Message),
    /// A map of scalars: maps of messages stand nowhere in the API but as leaves.
    Map(FieldType),
    Set,
    Keyed(&'static [&'static str], &'static Message),
    /// The same for custom resources.
    Fields(&'s BTreeMap<String, Shape>, bool),
    Entries(&'s Shape),
    Items(&'s [(String, Option<Value>)], &'s Shape),
    Deduced,
}

impl<'s> Node<'s> {
    pub(super) fn of_schema(schema: Schema<'s>) -> Self {
        match schema {
            Schema::Message(message) => Node::Struct(message),
            Schema::Shape(shape) => Node::of_shape(shape),
        }
    }

    fn of_shape(shape: &'s Shape) -> Self {
        match shape {
            Shape::Atomic => Node::Leaf,
            Shape::Fields { fields, open } => Node::Fields(fields, *open),
            Shape::Entries(inner) => Node::Entries(inner),
            Shape::Set => Node::Set,
            Shape::Keyed { keys, item } => Node::Items(keys, item),
            Shape::Deduced => Node::Deduced,
            Shape::Message(message) => Node::Struct(message),
        }
    }

    fn of_field(field: &'static Field) -> Self {
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

    fn of_type(ty: FieldType) -> Self {
        match ty {
            FieldType::Message(message) if !message.atomic => Node::Struct(message),
            FieldType::Map(value) => Node::Map(*value),
            _ => Node::Leaf,
        }
    }

    fn child(self, key: &str) -> Self {
        match self {
            Node::Struct(message) => message.field(key).map_or(Node::Leaf, Node::of_field),
            Node::Map(ty) => Node::of_type(ty),
            Node::Fields(fields, open) => match fields.get(key) {
                Some(shape) => Node::of_shape(shape),
                None if open => Node::Deduced,
                None => Node::Leaf,
            },
            Node::Entries(shape) => Node::of_shape(shape),
            Node::Deduced => Node::Deduced,
            _ => Node::Leaf,
        }
    }

    /// The node of a value in this place: what is deduced is a leaf unless it is an object.
    fn holding(self, value: &Value) -> Self {
        match self {
            Node::Deduced if !value.is_object() => Node::Leaf,
            node => node,
        }
    }

    /// Whether the keys at this place are a struct's fields rather than a map's keys.
    fn has_fields(self, key: &str) -> bool {
        match self {
            Node::Struct(message) => message.field(key).is_some(),
            Node::Fields(fields, _) => fields.contains_key(key),
            _ => false,
        }
    }

    /// Whether something may stand under this key.
    fn knows(self, key: &str) -> bool {
        match self {
            Node::Struct(message) => codec::is_known(message, key),
            Node::Fields(fields, open) => open || fields.contains_key(key) || key == "apiVersion" || key == "kind",
            _ => true,
        }
    }

    fn is_list(self) -> bool {
        matches!(self, Node::Set | Node::Keyed(..) | Node::Items(..))
    }
}

/// The items of a list with the steps that lead to them.
fn items<'s, 'v>(node: Node<'s>, list: &'v [Value]) -> Result<Vec<(String, Node<'s>, &'v Value)>, Error> {
    list.iter()
        .map(|item| match node {
            Node::Keyed(keys, message) => {
                let default = |key: &str| serde_json::from_str(message.field(key)?.merge.default?).ok();
                let keys = keys.iter().map(|key| (*key, default(key)));
                Ok((keyed_step(keys, item)?, Node::Struct(message), item))
            }
            Node::Items(keys, shape) => {
                let keys = keys.iter().map(|(key, default)| (key.as_str(), default.clone()));
                Ok((keyed_step(keys, item)?, Node::of_shape(shape), item))
            }
            _ => Ok((set::item(item), Node::Leaf, item)),
        })
        .collect()
}

fn keyed_step<'k>(keys: impl Iterator<Item = (&'k str, Option<Value>)>, item: &Value) -> Result<String, Error> {
    let mut found = Map::new();
    let mut names = Vec::new();
    for (key, default) in keys {
        let value = item.get(key).filter(|value| !value.is_null()).cloned().or(default);
        found.extend(value.map(|value| (key.to_string(), value)));
        names.push(key);
    }
    if found.is_empty() {
        return Err(Error::Malformed(format!(
            "associative list with keys has an element that omits all key fields {names:?} (and doesn't have default values \
             for any key fields)"
        )));
    }
    Ok(set::keyed(found))
}

fn members(value: &Value) -> Option<&Map<String, Value>> {
    value.as_object()
}

/// The fields that a configuration sets.
pub(super) fn field_set(node: Node<'_>, value: &Value) -> Result<Set, Error> {
    let mut found = Set::default();
    add_fields(node, value, &mut Vec::new(), &mut found)?;
    Ok(found)
}

fn add_fields(node: Node<'_>, value: &Value, path: &mut Vec<String>, found: &mut Set) -> Result<(), Error> {
    match (node.holding(value), value) {
        (Node::Leaf, _) => found.insert(path),
        (node, Value::Object(children)) if !node.is_list() => {
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
        (node, Value::Array(list)) if node.is_list() => {
            for (step, node, item) in items(node, list)? {
                path.push(step);
                add_fields(node, item, path, found)?;
                found.insert(path);
                path.pop();
            }
        }
        // A null or a value of the wrong type in a place of structs and lists.
        _ => {}
    }
    Ok(())
}

/// Where a configuration is not what the schema says: fields that it does not know, items of lists that come twice.
pub(super) fn undeclared(node: Node<'_>, value: &Value, path: &str, faults: &mut Vec<String>) {
    match (node.holding(value), value) {
        (Node::Leaf, _) => {}
        (node, Value::Object(children)) if !node.is_list() => {
            for (key, child) in children {
                let path = format!("{path}.{key}");
                if node.knows(key) {
                    undeclared(node.child(key), child, &path, faults);
                } else {
                    faults.push(format!("{path}: field not declared in schema"));
                }
            }
        }
        (node, Value::Array(list)) if node.is_list() => {
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

impl Comparison {
    /// What is new or otherwise.
    pub(super) fn taken(&self) -> Set {
        self.added.clone().union(&self.modified)
    }

    /// All that differs.
    pub(super) fn all(&self) -> Set {
        self.taken().union(&self.removed)
    }
}

pub(super) fn compare(node: Node<'_>, old: &Value, new: &Value) -> Result<Comparison, Error> {
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

fn compare_at(node: Node<'_>, old: Option<&Value>, new: Option<&Value>) -> Result<Differences, Error> {
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

type Pair<'s, 'v> = (String, Node<'s>, Option<&'v Value>, Option<&'v Value>);

/// The children of either value by their steps, those of the old one first; `None` if the place is a leaf. Two empty values are a leaf, so
/// that empty and absent stay apart.
fn children<'s, 'v>(
    node: Node<'s>,
    old: Option<&'v Value>,
    new: Option<&'v Value>,
) -> Result<Option<Vec<Pair<'s, 'v>>>, Error> {
    let pairs = match node {
        Node::Leaf => None,
        node if node.is_list() => item_pairs(node, old, new)?,
        node => member_pairs(node, old, new),
    };
    Ok(pairs.filter(|pairs| !pairs.is_empty()))
}

fn member_pairs<'s, 'v>(node: Node<'s>, old: Option<&'v Value>, new: Option<&'v Value>) -> Option<Vec<Pair<'s, 'v>>> {
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
fn item_pairs<'s, 'v>(
    node: Node<'s>,
    old: Option<&'v Value>,
    new: Option<&'v Value>,
) -> Result<Option<Vec<Pair<'s, 'v>>>, Error> {
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
    let mut pairs: Vec<Pair<'s, 'v>> = Vec::with_capacity(old.len() + new.len());
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

/// The places where a configuration sets a list, map or struct as one value.
pub(super) fn atomics(node: Node<'_>, config: &Value, path: &str, found: &mut Vec<String>) -> Result<(), Error> {
    match children(node, None, Some(config))? {
        Some(children) => {
            for (step, node, _, config) in children {
                let path = match step.strip_prefix("f:") {
                    Some(field) => format!("{path}.{field}"),
                    None => format!("{path}[{}]", step.get(2..).unwrap_or("")),
                };
                if let Some(config) = config {
                    atomics(node, config, &path, found)?;
                }
            }
        }
        None if matches!(config, Value::Array(list) if !list.is_empty()) => found.push(path.to_string()),
        None if matches!(config, Value::Object(members) if !members.is_empty()) => found.push(path.to_string()),
        None => {}
    }
    Ok(())
}

/// The live object with the configuration laid over it.
pub(super) fn merge(node: Node<'_>, live: Option<&Value>, config: Option<&Value>) -> Result<Option<Value>, Error> {
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

fn refuse_duplicates(node: Node<'_>, config: Option<&Value>) -> Result<(), Error> {
    let (true, Some(Value::Array(list))) = (node.is_list(), config) else {
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
fn rebuilt(node: Node<'_>, children: Vec<(String, Value)>) -> Option<Value> {
    if children.is_empty() {
        return None;
    }
    Some(if node.is_list() {
        children.into_iter().map(|(_, value)| value).collect()
    } else {
        let named = |(step, value): (String, Value)| (step.strip_prefix("f:").unwrap_or(&step).to_string(), value);
        children.into_iter().map(named).collect()
    })
}

/// The object without the paths of the set; what is empty then goes too.
pub(super) fn remove(node: Node<'_>, value: &Value, removed: &Set) -> Result<Option<Value>, Error> {
    let steps: Vec<(String, Node<'_>, &Value)> = match (node.holding(value), value) {
        (Node::Leaf, _) => return Ok(Some(value.clone())),
        (node, Value::Object(children)) if !node.is_list() => children
            .iter()
            .map(|(key, value)| (set::field(key), node.child(key), value))
            .collect(),
        (node, Value::Array(list)) if node.is_list() => items(node, list)?,
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
