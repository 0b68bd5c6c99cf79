//! [`Set`]: a set of field paths, and its JSON form `FieldsV1`.

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// A set of paths into an object. A step of a path is kept as `FieldsV1` writes it: `f:name` for a field or a map's key, `k:{..}` for an
/// item told apart by keys, `v:value` for an item of a set, `i:0` for an index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    nodes: BTreeMap<String, Node>,
}

/// What a set has at and below one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// The path that ends here is in the set.
    pub(super) member: bool,
    /// The paths that go on.
    pub(super) children: Set,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

/// The step to a field or a map's key.
pub(super) fn field(name: &str) -> String {
    format!("f:{name}")
}

/// The step to an item of a set.
pub(super) fn item(value: &Value) -> String {
    format!("v:{value}")
}

/// The step to an item told apart by keys.
pub(super) fn keyed(keys: Map<String, Value>) -> String {
    format!("k:{}", Value::Object(keys))
}

impl Set {
    /// Whether there is no path in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.values().all(Node::is_empty)
    }

    /// From dotted paths of fields, as `metadata.name`.
    pub fn of_fields(paths: &[&str]) -> Self {
        let mut set = Set::default();
        for path in paths {
            set.insert(&path.split('.').map(field).collect::<Vec<_>>());
        }
        set
    }

    /// Adds a path.
    pub(super) fn insert(&mut self, path: &[String]) {
        let Some((last, before)) = path.split_last() else {
            return;
        };
        let parent = before.iter().fold(self, |set, step| {
            &mut set.nodes.entry(step.clone()).or_default().children
        });
        parent.nodes.entry(last.clone()).or_default().member = true;
    }

    /// Puts something at and below a step that is not in it yet.
    pub(super) fn put(&mut self, step: &str, node: Node) {
        if !node.is_empty() {
            self.nodes.insert(step.to_owned(), node);
        }
    }

    /// Whether the path of one step is in it.
    pub(super) fn has(&self, step: &str) -> bool {
        self.nodes.get(step).is_some_and(|node| node.member)
    }

    /// What follows this step.
    pub(super) fn below(&self, step: &str) -> Option<&Set> {
        self.nodes
            .get(step)
            .map(|node| &node.children)
            .filter(|set| !set.is_empty())
    }

    /// Paths in either.
    pub fn union(mut self, other: &Set) -> Set {
        for (step, node) in &other.nodes {
            match self.nodes.get_mut(step) {
                Some(into) => {
                    into.member |= node.member;
                    into.children = std::mem::take(&mut into.children).union(&node.children);
                }
                None => {
                    self.nodes.insert(step.clone(), node.clone());
                }
            }
        }
        self
    }

    /// Paths in both.
    pub fn intersection(mut self, other: &Set) -> Set {
        self.nodes.retain(|step, node| {
            let Some(there) = other.nodes.get(step) else {
                return false;
            };
            node.member &= there.member;
            node.children = std::mem::take(&mut node.children).intersection(&there.children);
            !node.is_empty()
        });
        self
    }

    /// Paths that are not in the other.
    pub fn difference(mut self, other: &Set) -> Set {
        self.nodes.retain(|step, node| {
            if let Some(there) = other.nodes.get(step) {
                node.member &= !there.member;
                node.children = std::mem::take(&mut node.children).difference(&there.children);
            }
            !node.is_empty()
        });
        self
    }

    /// Paths that are neither in the other nor below one that is.
    pub fn outside(mut self, other: &Set) -> Set {
        self.nodes.retain(|step, node| {
            if let Some(below) = other.below(step) {
                node.children = std::mem::take(&mut node.children).outside(below);
            }
            !other.has(step) && !node.is_empty()
        });
        self
    }

    /// With the fields on the way to each path: who owns all that is in a struct owns the struct.
    pub(super) fn with_parents(&self) -> Set {
        let nodes = self.nodes.iter().map(|(step, node)| {
            let children = node.children.with_parents();
            let member = node.member || (step.starts_with("f:") && !children.is_empty());
            (step.clone(), Node { member, children })
        });
        Set { nodes: nodes.collect() }
    }

    /// All paths, in order, as upstream prints them: `.spec.containers[name="web"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths("", &mut paths);
        paths
    }

    fn collect_paths(&self, prefix: &str, paths: &mut Vec<String>) {
        for (step, node) in &self.nodes {
            let path = format!("{prefix}{}", Step(step));
            if node.member {
                paths.push(path.clone());
            }
            node.children.collect_paths(&path, paths);
        }
    }

    /// As `fieldsV1`.
    pub fn to_value(&self) -> Value {
        let mut members = Map::new();
        for (step, node) in self.nodes.iter().filter(|(_, node)| !node.is_empty()) {
            let mut value = node.children.to_value();
            if let Some(children) = value
                .as_object_mut()
                .filter(|children| node.member && !children.is_empty())
            {
                children.insert(".".into(), Value::Object(Map::new()));
            }
            members.insert(step.clone(), value);
        }
        members.into()
    }

    /// From `fieldsV1`; `None` if it is none.
    pub fn from_value(value: &Value) -> Option<Self> {
        let mut set = Set::default();
        for (step, value) in value.as_object()?.iter().filter(|(step, _)| *step != ".") {
            let members = value.as_object()?;
            let member = members.is_empty() || members.contains_key(".");
            set.nodes.insert(
                canonical(step)?,
                Node {
                    member,
                    children: Set::from_value(value)?,
                },
            );
        }
        Some(set)
    }
}

/// A step as we write it: JSON without spaces, its keys sorted.
fn canonical(step: &str) -> Option<String> {
    let (kind, content) = step.split_once(':')?;
    match kind {
        "f" | "i" => Some(step.to_string()),
        "k" | "v" => Some(format!("{kind}:{}", serde_json::from_str::<Value>(content).ok()?)),
        _ => None,
    }
}

/// A step as messages show it: `.spec`, `[name="web"]`.
pub(super) fn shown(step: &str) -> String {
    Step(step).to_string()
}

struct Step<'a>(&'a str);

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_once(':') {
            Some(("f", name)) => write!(f, ".{name}"),
            Some(("v", value)) => write!(f, "[={value}]"),
            Some(("k", keys)) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let keys: Vec<_> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                write!(f, "[{}]", keys.join(","))
            }
            _ => write!(f, "[{}]", self.0.trim_start_matches("i:")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn arbitrary() -> impl Strategy<Value = Set> {
        let step = prop_oneof![Just("f:a"), Just("f:b"), Just("k:{\"name\":\"x\"}"), Just("v:1")];
        let path = prop::collection::vec(step.prop_map(str::to_string), 1..4);
        prop::collection::vec(path, 0..8).prop_map(|paths| {
            let mut set = Set::default();
            paths.iter().for_each(|path| set.insert(path));
            set
        })
    }

    #[test]
    fn prints_and_reads_fields_v1() {
        let value = json!({"f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}}}}, "f:x": {"v:\"a\"": {}}});
        let set = Set::from_value(&value).unwrap();
        assert_eq!(set.to_value(), value);
        assert_eq!(
            set.paths(),
            [
                ".spec.containers[name=\"web\"]",
                ".spec.containers[name=\"web\"].image",
                ".x[=\"a\"]"
            ]
        );
        assert_eq!(
            Set::from_value(&json!({"k:{ \"b\": 1, \"a\": 2 }": {}})),
            Set::from_value(&json!({"k:{\"a\":2,\"b\":1}": {}}))
        );
        for broken in [json!([]), json!({"f:a": 1}), json!({"x:a": {}}), json!({"k:{": {}})] {
            assert_eq!(Set::from_value(&broken), None);
        }
    }

    proptest! {
        #[test]
        fn sets_behave_as_sets(a in arbitrary(), b in arbitrary()) {
            let paths = |set: &Set| set.paths();
            let union = a.clone().union(&b);
            prop_assert!(paths(&union).iter().all(|path| paths(&a).contains(path) || paths(&b).contains(path)));
            prop_assert_eq!(a.clone().difference(&b).union(&a.clone().intersection(&b)).paths(), paths(&a));
            prop_assert!(a.clone().difference(&b).intersection(&b).is_empty());
            prop_assert_eq!(Set::from_value(&a.to_value()).unwrap().paths(), paths(&a));
            prop_assert!(a.clone().outside(&b).intersection(&b).is_empty());
        }
    }
}
