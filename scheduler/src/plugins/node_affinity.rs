//! Node selectors and node affinity.

use api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PreferredSchedulingTerm};
use std::collections::BTreeMap;

use crate::cluster::Cluster;
use crate::framework::{Change, Filter, NodeCheck, NodeScore, Scorer, Verdict, normalize_to_highest};
use crate::model::{NodeInfo, PodInfo};

/// See the module.
#[derive(Debug)]
pub struct NodeAffinity;

/// The nodes that a pod accepts.
pub(crate) struct Required<'a> {
    selector: Option<&'a BTreeMap<String, String>>,
    terms: Option<&'a [NodeSelectorTerm]>,
}

impl<'a> Required<'a> {
    /// `None` when the pod accepts every node.
    pub(crate) fn of(pod: &'a PodInfo) -> Option<Self> {
        let spec = pod.spec();
        let selector = spec.node_selector.as_ref().filter(|selector| !selector.is_empty());
        let affinity = spec
            .affinity
            .as_ref()
            .and_then(|affinity| affinity.node_affinity.as_ref());
        let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let terms = required.map(|required| required.node_selector_terms.as_slice());
        (selector.is_some() || terms.is_some()).then_some(Self { selector, terms })
    }

    /// Whether the pod accepts this node.
    pub(crate) fn accepts(&self, node: &NodeInfo) -> bool {
        let selected = self
            .selector
            .is_none_or(|selector| selector.iter().all(|(key, value)| node.label(key) == Some(value)));
        // One matching term is enough; no term at all matches nothing.
        selected
            && self
                .terms
                .is_none_or(|terms| terms.iter().any(|term| matches(term, node)))
    }
}

/// An empty term matches nothing.
fn matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|wanted| meets(wanted, node.label(&wanted.key)))
        && fields
            .iter()
            .all(|wanted| wanted.key == "metadata.name" && meets(wanted, Some(node.name())))
}

fn meets(wanted: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let listed = |value: &str| values.iter().any(|candidate| candidate == value);
    let ordered = |test: fn(i64, i64) -> bool| {
        let numbers = value
            .and_then(|value| value.parse().ok())
            .zip(values.first().and_then(|limit| limit.parse().ok()));
        numbers.is_some_and(|(value, limit)| test(value, limit))
    };
    match wanted.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => ordered(|value, limit| value > limit),
        "Lt" => ordered(|value, limit| value < limit),
        _ => false,
    }
}

impl Filter for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn prepare<'a>(&'a self, pod: &'a PodInfo, _: &'a Cluster) -> Option<Box<dyn NodeCheck + 'a>> {
        Required::of(pod).map(|required| Box::new(required) as Box<dyn NodeCheck>)
    }

    fn retry_after(&self) -> &'static [Change] {
        &[Change::Node]
    }
}

impl NodeCheck for Required<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        match self.accepts(node) {
            true => Verdict::Fits,
            false => Verdict::Unresolvable("node(s) didn't match Pod's node affinity/selector".into()),
        }
    }
}

struct Preferred<'a>(&'a [PreferredSchedulingTerm]);

impl Scorer for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn prepare<'a>(&'a self, pod: &'a PodInfo, _: &'a Cluster, _: &[&'a NodeInfo]) -> Option<Box<dyn NodeScore + 'a>> {
        let affinity = pod.spec().affinity.as_ref()?.node_affinity.as_ref()?;
        let terms = affinity
            .preferred_during_scheduling_ignored_during_execution
            .as_deref()?;
        (!terms.is_empty()).then(|| Box::new(Preferred(terms)) as Box<dyn NodeScore>)
    }
}

impl NodeScore for Preferred<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let wanted = self.0.iter().filter(|term| matches(&term.preference, node));
        wanted.map(|term| i64::from(term.weight)).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize_to_highest(scores, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};

    fn requirement(key: &str, operator: &str, values: &[&str]) -> NodeSelectorRequirement {
        let values = values.iter().map(ToString::to_string).collect();
        NodeSelectorRequirement {
            key: key.into(),
            operator: operator.into(),
            values: Some(values),
        }
    }

    #[test]
    fn requirements_on_labels() {
        for (operator, values, label, expected) in [
            ("In", &["a", "b"][..], Some("a"), true),
            ("In", &["a"], None, false),
            ("NotIn", &["a"], Some("b"), true),
            ("NotIn", &["a"], None, true),
            ("NotIn", &["a"], Some("a"), false),
            ("Exists", &[], Some(""), true),
            ("Exists", &[], None, false),
            ("DoesNotExist", &[], None, true),
            ("Gt", &["3"], Some("4"), true),
            ("Gt", &["3"], Some("3"), false),
            ("Lt", &["3"], Some("2"), true),
            ("Lt", &["3"], Some("two"), false),
            ("Lt", &["3"], None, false),
            ("Unknown", &["3"], Some("3"), false),
        ] {
            assert_eq!(
                meets(&requirement("k", operator, values), label),
                expected,
                "{operator} {values:?} {label:?}"
            );
        }
    }

    #[test]
    fn an_empty_term_matches_nothing() {
        let node = NodeInfo::new(node("a").build());
        assert!(!matches(&NodeSelectorTerm::default(), &node));
        let by_name = NodeSelectorTerm {
            match_fields: Some(vec![requirement("metadata.name", "In", &["a"])]),
            ..NodeSelectorTerm::default()
        };
        assert!(matches(&by_name, &node));
    }

    #[test]
    fn a_node_selector_needs_every_label() {
        let pod = pod("web").node_selector("disk", "ssd").info();
        let required = Required::of(&pod).unwrap();
        assert!(required.accepts(&NodeInfo::new(node("a").label("disk", "ssd").build())));
        assert!(!required.accepts(&NodeInfo::new(node("a").label("disk", "hdd").build())));
    }
}
