//! Whether a node is one that a pod asks for: node selector, required node affinity and taints, as DaemonSets need them.

use api::Object;
use api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration};

/// Whether labels and name of the node are what the pod requires.
pub fn selects(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.labels();
    let by_labels = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    let affinity = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref());
    let by_name = spec
        .node_name
        .as_deref()
        .is_none_or(|name| name.is_empty() || name == node.name());
    by_name && by_labels && required.is_none_or(|it| it.node_selector_terms.iter().any(|term| matches(term, node)))
}

/// A term without requirements matches nothing.
fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    let value = |key: &str| node.labels().get(key).map(String::as_str);
    let field = |key: &str| (key == "metadata.name").then(|| node.name());
    let count = expressions.clone().count() + fields.clone().count();
    count > 0
        && expressions.into_iter().all(|it| meets(it, value(&it.key)))
        && fields.into_iter().all(|it| meets(it, field(&it.key)))
}

fn meets(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|value| values.iter().any(|listed| listed == value));
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

/// Whether a toleration covers a taint. An empty key covers every key, an empty effect every effect.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match text(&toleration.operator).as_str() {
        "Exists" => true,
        "" | "Equal" => text(&toleration.value) == text(&taint.value) && !key.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use api::core::v1::{Affinity, NodeAffinity, NodeSelector};

    use super::*;

    fn node() -> Node {
        let mut node = Node::default();
        node.metadata.name = Some("n1".into());
        node.metadata.labels = Some(
            [("disk", "ssd"), ("cores", "8")]
                .map(|(k, v)| (k.into(), v.into()))
                .into(),
        );
        node
    }

    fn requirement(key: &str, operator: &str, values: &[&str]) -> NodeSelectorRequirement {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        NodeSelectorRequirement {
            key: key.into(),
            operator: operator.into(),
            values: Some(values),
        }
    }

    fn requiring(term: NodeSelectorTerm) -> PodSpec {
        let selector = NodeSelector {
            node_selector_terms: vec![term],
        };
        let affinity = NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(selector),
            ..Default::default()
        };
        let affinity = Affinity {
            node_affinity: Some(affinity),
            ..Default::default()
        };
        PodSpec {
            affinity: Some(affinity),
            ..Default::default()
        }
    }

    #[test]
    fn requirements_on_labels() {
        let cases = [
            (requirement("disk", "In", &["ssd", "nvme"]), true),
            (requirement("disk", "NotIn", &["ssd"]), false),
            (requirement("gpu", "NotIn", &["a"]), true),
            (requirement("disk", "Exists", &[]), true),
            (requirement("gpu", "DoesNotExist", &[]), true),
            (requirement("cores", "Gt", &["4"]), true),
            (requirement("cores", "Lt", &["8"]), false),
            (requirement("disk", "Gt", &["4"]), false),
        ];
        for (requirement, expected) in cases {
            let term = NodeSelectorTerm {
                match_expressions: Some(vec![requirement.clone()]),
                ..Default::default()
            };
            assert_eq!(selects(&requiring(term), &node()), expected, "{requirement:?}");
        }
    }

    #[test]
    fn names_selectors_and_empty_terms() {
        let named = |name| NodeSelectorTerm {
            match_fields: Some(vec![requirement("metadata.name", "In", &[name])]),
            ..Default::default()
        };
        assert!(selects(&requiring(named("n1")), &node()));
        assert!(!selects(&requiring(named("n2")), &node()));
        assert!(!selects(&requiring(NodeSelectorTerm::default()), &node()));
        let by_label = |value: &str| PodSpec {
            node_selector: Some([("disk".to_owned(), value.to_owned())].into()),
            ..Default::default()
        };
        assert!(selects(&by_label("ssd"), &node()) && !selects(&by_label("hdd"), &node()));
    }

    #[test]
    fn equal_compares_values() {
        let toleration = |value: &str| Toleration {
            key: Some("team".into()),
            value: Some(value.into()),
            effect: Some("NoExecute".into()),
            ..Default::default()
        };
        let taint = Taint {
            key: "team".into(),
            value: Some("blue".into()),
            effect: "NoExecute".into(),
            ..Default::default()
        };
        assert!(tolerates(&toleration("blue"), &taint));
        assert!(!tolerates(&toleration("red"), &taint));
    }
}
