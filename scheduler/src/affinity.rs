//! Pod affinity terms in a form that is quick to match.

use std::collections::BTreeMap;

use api::core::v1::{Pod, PodAffinityTerm, PodSpec, WeightedPodAffinityTerm};
use api::labels::Selector;
use api::meta::LabelSelector;
use api::{Object, labels};

use crate::cluster::Cluster;
use crate::model::PodInfo;

/// A term: pods that it means, and the label by which nodes count as one place.
#[derive(Debug)]
pub struct Term {
    /// Label key of the topology.
    pub topology_key: String,
    selector: Selector,
    namespaces: Vec<String>,
    namespace_selector: Option<Selector>,
}

/// The affinity of a pod to others.
#[derive(Debug, Default)]
pub struct PodAffinity {
    /// Places to be in.
    pub required: Vec<Term>,
    /// Places not to be in.
    pub forbidden: Vec<Term>,
    /// Places to prefer, or with a negative weight to avoid.
    pub preferred: Vec<(Term, i64)>,
}

impl PodAffinity {
    /// Reads a pod's affinity; `None` when it has none. A selector that cannot be read, which validation does not let in, matches nothing.
    pub fn of(pod: &Pod, spec: &PodSpec) -> Option<Self> {
        let affinity = spec.affinity.as_ref()?;
        let mut all = Self::default();
        let term = |term: &PodAffinityTerm| Term::new(term, pod);
        let weighted = |list: &Option<Vec<WeightedPodAffinityTerm>>, sign: i64| -> Vec<(Term, i64)> {
            list.iter()
                .flatten()
                .map(|w| (Term::new(&w.pod_affinity_term, pod), sign * i64::from(w.weight)))
                .collect()
        };
        if let Some(affinity) = &affinity.pod_affinity {
            let required = affinity
                .required_during_scheduling_ignored_during_execution
                .iter()
                .flatten();
            all.required = required.map(term).collect();
            all.preferred.extend(weighted(
                &affinity.preferred_during_scheduling_ignored_during_execution,
                1,
            ));
        }
        if let Some(anti) = &affinity.pod_anti_affinity {
            let required = anti
                .required_during_scheduling_ignored_during_execution
                .iter()
                .flatten();
            all.forbidden = required.map(term).collect();
            all.preferred
                .extend(weighted(&anti.preferred_during_scheduling_ignored_during_execution, -1));
        }
        (!(all.required.is_empty() && all.forbidden.is_empty() && all.preferred.is_empty())).then_some(all)
    }
}

/// A selector that also demands, or rules out, the pod's own values of some labels (KEP-3633, and `matchLabelKeys` of KEP-3243).
pub(crate) fn selector_with_own(
    selector: Option<&LabelSelector>,
    same: &[String],
    different: &[String],
    own: &BTreeMap<String, String>,
) -> Option<Selector> {
    let mut selector = selector?.clone();
    let expressions = selector.match_expressions.get_or_insert_default();
    for (keys, operator) in [(same, "In"), (different, "NotIn")] {
        for key in keys {
            let Some(value) = own.get(key) else { continue };
            expressions.push(api::meta::LabelSelectorRequirement {
                key: key.clone(),
                operator: operator.to_owned(),
                values: Some(vec![value.clone()]),
            });
        }
    }
    labels::Selector::from_label_selector(&selector).ok()
}

impl Term {
    fn new(term: &PodAffinityTerm, pod: &Pod) -> Self {
        let keys = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let selector = selector_with_own(
            term.label_selector.as_ref(),
            &keys(&term.match_label_keys),
            &keys(&term.mismatch_label_keys),
            pod.labels(),
        );
        let mut namespaces = keys(&term.namespaces);
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(pod.namespace().to_owned());
        }
        Self {
            topology_key: term.topology_key.clone(),
            selector: selector.unwrap_or_else(Selector::nothing),
            namespaces,
            namespace_selector: term
                .namespace_selector
                .as_ref()
                .map(|selector| Selector::from_label_selector(selector).unwrap_or_else(|_| Selector::nothing())),
        }
    }

    /// Whether the term means this pod.
    pub fn means(&self, pod: &PodInfo, cluster: &Cluster) -> bool {
        let namespace = &pod.key.namespace;
        let here = self.namespaces.contains(namespace)
            || self
                .namespace_selector
                .as_ref()
                .is_some_and(|selector| selector.matches(cluster.namespace_labels(namespace)));
        here && self.selector.matches(pod.pod.labels())
    }
}
