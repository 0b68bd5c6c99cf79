//! Pods that want to be near other pods, or away from them.

use std::collections::{HashMap, HashSet};

use crate::affinity::{PodAffinity, Term};
use crate::cluster::Cluster;
use crate::framework::{Change, Filter, MAX_SCORE, NodeCheck, NodeScore, Scorer, Verdict};
use crate::model::{NodeInfo, PodInfo};

/// What a required affinity of a pod that is placed adds to the score of a pod that it means (upstream's `hardPodAffinityWeight`).
const REQUIRED_WEIGHT: i64 = 1;

/// See the module.
#[derive(Debug)]
pub struct InterPodAffinity;

type Place<'a> = (&'a str, &'a str);

fn place<'a>(node: &'a NodeInfo, term: &'a Term) -> Option<Place<'a>> {
    Some((term.topology_key.as_str(), node.label(&term.topology_key)?))
}

#[derive(Default)]
struct Check<'a> {
    affinity: Option<&'a PodAffinity>,
    /// Places that pods there keep this pod out of.
    closed: HashSet<Place<'a>>,
    /// Places with pods that this pod wants to be with; per topology key.
    wanted: HashSet<Place<'a>>,
    /// Places with pods that this pod wants to be away from.
    avoided: HashSet<Place<'a>>,
    /// Nobody matches yet and the pod would match itself: it may be the first.
    may_be_first: bool,
}

impl Filter for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn prepare<'a>(&'a self, pod: &'a PodInfo, cluster: &'a Cluster) -> Option<Box<dyn NodeCheck + 'a>> {
        let mut check = Check {
            affinity: pod.affinity.as_ref(),
            ..Check::default()
        };
        for node in cluster.nodes() {
            for term in node.affine_pods().flat_map(|(_, affinity)| &affinity.forbidden) {
                if term.means(pod, cluster) {
                    check.closed.extend(place(node, term));
                }
            }
        }
        let Some(affinity) = check.affinity else {
            return (!check.closed.is_empty()).then(|| Box::new(check) as Box<dyn NodeCheck>);
        };
        if !affinity.required.is_empty() || !affinity.forbidden.is_empty() {
            for node in cluster.nodes() {
                for other in &node.pods {
                    // A pod counts towards the required terms only if all of them mean it.
                    if !affinity.required.is_empty() && affinity.required.iter().all(|term| term.means(other, cluster))
                    {
                        check
                            .wanted
                            .extend(affinity.required.iter().filter_map(|term| place(node, term)));
                    }
                    let avoided = affinity.forbidden.iter().filter(|term| term.means(other, cluster));
                    check.avoided.extend(avoided.filter_map(|term| place(node, term)));
                }
            }
        }
        check.may_be_first = check.wanted.is_empty() && affinity.required.iter().all(|term| term.means(pod, cluster));
        Some(Box::new(check))
    }

    fn retry_after(&self) -> &'static [Change] {
        &[Change::PodPlaced, Change::PodRemoved, Change::Node]
    }
}

impl NodeCheck for Check<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        if let Some(affinity) = self.affinity {
            for term in &affinity.required {
                let satisfied =
                    place(node, term).is_some_and(|place| self.may_be_first || self.wanted.contains(&place));
                if !satisfied {
                    return Verdict::Unresolvable("node(s) didn't match pod affinity rules".into());
                }
            }
            if affinity
                .forbidden
                .iter()
                .filter_map(|term| place(node, term))
                .any(|place| self.avoided.contains(&place))
            {
                return Verdict::Unschedulable("node(s) didn't match pod anti-affinity rules".into());
            }
        }
        if self.closed.iter().any(|(key, value)| node.label(key) == Some(value)) {
            return Verdict::Unschedulable("node(s) didn't satisfy existing pods anti-affinity rules".into());
        }
        Verdict::Fits
    }
}

struct Ratings<'a>(HashMap<Place<'a>, i64>);

impl Scorer for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn prepare<'a>(
        &'a self,
        pod: &'a PodInfo,
        cluster: &'a Cluster,
        _: &[&'a NodeInfo],
    ) -> Option<Box<dyn NodeScore + 'a>> {
        let mut ratings: HashMap<Place<'a>, i64> = HashMap::new();
        let mut rate = |node: &'a NodeInfo, term: &'a Term, weight: i64| {
            if let Some(place) = place(node, term) {
                *ratings.entry(place).or_default() += weight;
            }
        };
        for node in cluster.nodes() {
            for (_, theirs) in node.affine_pods() {
                for term in theirs.required.iter().filter(|term| term.means(pod, cluster)) {
                    rate(node, term, REQUIRED_WEIGHT);
                }
                for (term, weight) in theirs.preferred.iter().filter(|(term, _)| term.means(pod, cluster)) {
                    rate(node, term, *weight);
                }
            }
            let Some(ours) = pod.affinity.as_ref().filter(|ours| !ours.preferred.is_empty()) else {
                continue;
            };
            for other in &node.pods {
                for (term, weight) in ours.preferred.iter().filter(|(term, _)| term.means(other, cluster)) {
                    rate(node, term, *weight);
                }
            }
        }
        (!ratings.is_empty()).then(|| Box::new(Ratings(ratings)) as Box<dyn NodeScore>)
    }
}

impl NodeScore for Ratings<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        self.0
            .iter()
            .filter(|((key, value), _)| node.label(key) == Some(value))
            .map(|(_, weight)| weight)
            .sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        let (low, high) = scores
            .iter()
            .fold((i64::MAX, i64::MIN), |(low, high), s| (low.min(*s), high.max(*s)));
        for score in scores {
            *score = if high > low {
                MAX_SCORE * (*score - low) / (high - low)
            } else {
                0
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use api::core::v1::{Affinity, PodAffinityTerm, PodAntiAffinity};
    use api::meta::LabelSelector;

    use super::*;
    use crate::testing::{PodBuilder, node, pod};

    fn term(app: &str) -> PodAffinityTerm {
        let labels = [("app".to_owned(), app.to_owned())].into();
        PodAffinityTerm {
            label_selector: Some(LabelSelector {
                match_labels: Some(labels),
                ..LabelSelector::default()
            }),
            topology_key: "zone".into(),
            ..PodAffinityTerm::default()
        }
    }

    fn near(builder: PodBuilder, app: &str) -> PodBuilder {
        let required = Some(vec![term(app)]);
        builder.spec(|spec| {
            spec.affinity
                .get_or_insert_default()
                .pod_affinity
                .get_or_insert_default()
                .required_during_scheduling_ignored_during_execution = required;
        })
    }

    fn away(builder: PodBuilder, app: &str) -> PodBuilder {
        let anti = PodAntiAffinity {
            required_during_scheduling_ignored_during_execution: Some(vec![term(app)]),
            ..PodAntiAffinity::default()
        };
        builder.spec(|spec| {
            spec.affinity = Some(Affinity {
                pod_anti_affinity: Some(anti),
                ..Affinity::default()
            })
        })
    }

    fn cluster() -> Cluster {
        let mut cluster = Cluster::default();
        for (name, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
            cluster.put_node(node(name).label("zone", zone).build());
        }
        cluster
    }

    fn fitting(cluster: &Cluster, pod: &PodInfo) -> Vec<String> {
        let check = Filter::prepare(&InterPodAffinity, pod, cluster);
        let fits = |node: &&NodeInfo| check.as_ref().is_none_or(|check| check.check(node) == Verdict::Fits);
        cluster
            .nodes()
            .iter()
            .filter(fits)
            .map(|node| node.name().to_owned())
            .collect()
    }

    #[test]
    fn near_and_away_by_zone() {
        let mut cluster = cluster();
        cluster.place(pod("db").label("app", "db").info(), "a1");
        assert_eq!(fitting(&cluster, &near(pod("web"), "db").info()), ["a1", "a2"]);
        assert_eq!(fitting(&cluster, &away(pod("web"), "db").info()), ["b1"]);
        assert_eq!(
            fitting(&cluster, &near(pod("web"), "cache").info()),
            Vec::<String>::new()
        );
    }

    #[test]
    fn the_first_of_a_group_may_go_anywhere() {
        let first = near(pod("web").label("app", "web"), "web").info();
        assert_eq!(fitting(&cluster(), &first).len(), 3);
    }

    #[test]
    fn placed_pods_keep_others_away() {
        let mut cluster = cluster();
        cluster.place(away(pod("hermit").label("app", "hermit"), "web").info(), "b1");
        assert_eq!(fitting(&cluster, &pod("web").label("app", "web").info()), ["a1", "a2"]);
        assert_eq!(fitting(&cluster, &pod("other").info()).len(), 3);
    }
}
