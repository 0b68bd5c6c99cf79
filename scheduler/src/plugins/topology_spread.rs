//! Spreads pods over zones, hosts or whatever a label tells apart (KEP-895, KEP-1258, KEP-3094, KEP-3243).
//!
//! A pod without constraints of its own is spread, as a preference, over hosts and zones together with the other pods of its controller.
//! (Upstream takes the selectors of the Services and controllers of the pod there, which mean the same pods in all but odd cases.)

use std::collections::HashMap;

use api::Object;
use api::core::v1::TopologySpreadConstraint;
use api::labels::Selector;

use crate::affinity::selector_with_own;
use crate::cluster::Cluster;
use crate::framework::{Change, Filter, MAX_SCORE, NodeCheck, NodeScore, Scorer, Verdict};
use crate::model::{NodeInfo, PodInfo};
use crate::plugins::node_affinity::Required;
use crate::plugins::taint_toleration::tolerates;

/// Preferences of a pod without constraints: label key and skew (upstream's values).
const DEFAULTS: [(&str, i64); 2] = [("kubernetes.io/hostname", 3), ("topology.kubernetes.io/zone", 5)];

/// See the module.
#[derive(Debug)]
pub struct TopologySpread;

/// The pods that are spread together.
enum Group<'a> {
    Labels(Selector),
    Controller(&'a str),
}

impl Group<'_> {
    fn has(&self, pod: &PodInfo) -> bool {
        match self {
            Self::Labels(selector) => selector.matches(pod.pod.labels()),
            Self::Controller(uid) => pod.pod.controller().is_some_and(|owner| owner.uid == *uid),
        }
    }
}

struct Constraint<'a> {
    key: &'a str,
    max_skew: i64,
    min_domains: i64,
    group: Group<'a>,
    honor_affinity: bool,
    honor_taints: bool,
}

impl<'a> Constraint<'a> {
    fn new(constraint: &'a TopologySpreadConstraint, pod: &'a PodInfo) -> Self {
        let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
        let selector = selector_with_own(constraint.label_selector.as_ref(), keys, &[], pod.pod.labels());
        let honors = |policy: &Option<String>, default: &str| policy.as_deref().unwrap_or(default) == "Honor";
        Self {
            key: &constraint.topology_key,
            max_skew: constraint.max_skew.into(),
            min_domains: constraint.min_domains.unwrap_or(1).into(),
            group: Group::Labels(selector.unwrap_or_else(Selector::nothing)),
            honor_affinity: honors(&constraint.node_affinity_policy, "Honor"),
            honor_taints: honors(&constraint.node_taints_policy, "Ignore"),
        }
    }

    /// Whether the pods on a node count.
    fn counts(&self, node: &NodeInfo, pod: &PodInfo) -> bool {
        let accepted = !self.honor_affinity || Required::of(pod).is_none_or(|required| required.accepts(node));
        let tolerated = !self.honor_taints
            || node
                .taints()
                .iter()
                .filter(|taint| taint.effect != "PreferNoSchedule")
                .all(|taint| {
                    pod.spec()
                        .tolerations
                        .iter()
                        .flatten()
                        .any(|toleration| tolerates(toleration, taint))
                });
        accepted && tolerated
    }

    fn members_on(&self, node: &NodeInfo, namespace: &str) -> i64 {
        let member = |pod: &&std::sync::Arc<PodInfo>| {
            pod.key.namespace == namespace && !pod.pod.is_deleting() && self.group.has(pod)
        };
        node.pods.iter().filter(member).count() as i64
    }

    /// Members in each domain, over these nodes.
    fn domains<'n>(&self, nodes: impl Iterator<Item = &'n NodeInfo>, pod: &PodInfo) -> HashMap<&'n str, i64>
    where
        'a: 'n,
    {
        let mut domains = HashMap::new();
        for node in nodes {
            let Some(domain) = node.label(self.key) else { continue };
            if self.counts(node, pod) {
                *domains.entry(domain).or_default() += self.members_on(node, &pod.key.namespace);
            }
        }
        domains
    }
}

fn constraints<'a>(pod: &'a PodInfo, when: &str) -> Vec<Constraint<'a>> {
    let all = pod.spec().topology_spread_constraints.iter().flatten();
    all.filter(|constraint| constraint.when_unsatisfiable == when)
        .map(|constraint| Constraint::new(constraint, pod))
        .collect()
}

struct Check<'a> {
    /// With the members of each domain, the fewest in any, and 1 if the pod itself is a member.
    constraints: Vec<(Constraint<'a>, HashMap<&'a str, i64>, i64, i64)>,
}

impl Filter for TopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn prepare<'a>(&'a self, pod: &'a PodInfo, cluster: &'a Cluster) -> Option<Box<dyn NodeCheck + 'a>> {
        let constraints = constraints(pod, "DoNotSchedule");
        if constraints.is_empty() {
            return None;
        }
        let keys: Vec<&str> = constraints.iter().map(|constraint| constraint.key).collect();
        let prepared = constraints.into_iter().map(|constraint| {
            let whole = cluster
                .nodes()
                .iter()
                .filter(|node| keys.iter().all(|key| node.label(key).is_some()));
            let domains = constraint.domains(whole, pod);
            let enough = domains.len() as i64 >= constraint.min_domains;
            let fewest = if enough {
                domains.values().copied().min().unwrap_or(0)
            } else {
                0
            };
            let own = i64::from(constraint.group.has(pod));
            (constraint, domains, fewest, own)
        });
        Some(Box::new(Check {
            constraints: prepared.collect(),
        }))
    }

    fn retry_after(&self) -> &'static [Change] {
        &[Change::PodPlaced, Change::PodRemoved, Change::Node]
    }
}

impl NodeCheck for Check<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        for (constraint, domains, fewest, own) in &self.constraints {
            let Some(domain) = node.label(constraint.key) else {
                let what = "node(s) didn't match pod topology spread constraints (missing required label)";
                return Verdict::Unresolvable(what.into());
            };
            let members = domains.get(domain).copied().unwrap_or(0);
            if members + own - fewest > constraint.max_skew {
                return Verdict::Unschedulable("node(s) didn't match pod topology spread constraints".into());
            }
        }
        Verdict::Fits
    }
}

struct Ratings<'a> {
    /// With the members of each domain and the weight of one member.
    constraints: Vec<(Constraint<'a>, HashMap<&'a str, i64>, f64)>,
    /// The pod asked for it: a node without the labels is the worst.
    strict: bool,
}

/// What a node without the labels gets before normalizing.
const UNLABELLED: i64 = -1;

impl Scorer for TopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn prepare<'a>(
        &'a self,
        pod: &'a PodInfo,
        cluster: &'a Cluster,
        _: &[&'a NodeInfo],
    ) -> Option<Box<dyn NodeScore + 'a>> {
        let mut wanted = constraints(pod, "ScheduleAnyway");
        let strict = pod
            .spec()
            .topology_spread_constraints
            .as_ref()
            .is_some_and(|all| !all.is_empty());
        if !strict {
            let owner = pod.pod.controller()?;
            wanted = DEFAULTS
                .iter()
                .map(|(key, max_skew)| Constraint {
                    key,
                    max_skew: *max_skew,
                    min_domains: 1,
                    group: Group::Controller(&owner.uid),
                    honor_affinity: true,
                    honor_taints: false,
                })
                .collect();
        }
        let constraints: Vec<_> = wanted
            .into_iter()
            .map(|constraint| {
                let domains = constraint.domains(cluster.nodes().iter(), pod);
                let weight = (domains.len() as f64 + 2.0).ln();
                (constraint, domains, weight)
            })
            .filter(|(_, domains, _)| strict || !domains.is_empty())
            .collect();
        (!constraints.is_empty()).then(|| Box::new(Ratings { constraints, strict }) as Box<dyn NodeScore>)
    }
}

impl NodeScore for Ratings<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let mut sum = 0.0;
        for (constraint, domains, weight) in &self.constraints {
            match node.label(constraint.key) {
                Some(domain) => {
                    let members = domains.get(domain).copied().unwrap_or(0) as f64;
                    sum += members * weight + (constraint.max_skew - 1) as f64;
                }
                None if self.strict => return UNLABELLED,
                None => {}
            }
        }
        sum.round() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        let rated = || scores.iter().copied().filter(|score| *score != UNLABELLED);
        let (low, high) = (rated().min().unwrap_or(0), rated().max().unwrap_or(0));
        for score in scores {
            *score = match (*score, high) {
                (UNLABELLED, _) => 0,
                (_, 0) => MAX_SCORE,
                (members, high) => MAX_SCORE * (high + low - members) / high,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PodBuilder, node, pod};

    fn cluster(members: [usize; 3]) -> Cluster {
        let mut cluster = Cluster::default();
        for (zone, count) in ["a", "b", "c"].iter().zip(members) {
            let name = format!("node-{zone}");
            cluster.put_node(node(&name).label("zone", zone).build());
            for i in 0..count {
                cluster.place(pod(&format!("{zone}{i}")).label("app", "web").owner("rs").info(), &name);
            }
        }
        cluster
    }

    fn spread(builder: PodBuilder, when: &str, min_domains: Option<i32>) -> PodBuilder {
        let labels = [("app".to_owned(), "web".to_owned())].into();
        let constraint = TopologySpreadConstraint {
            topology_key: "zone".into(),
            max_skew: 1,
            min_domains,
            when_unsatisfiable: when.into(),
            label_selector: Some(api::meta::LabelSelector {
                match_labels: Some(labels),
                ..Default::default()
            }),
            ..TopologySpreadConstraint::default()
        };
        builder
            .label("app", "web")
            .spec(|spec| spec.topology_spread_constraints = Some(vec![constraint]))
    }

    fn fitting(cluster: &Cluster, pod: &PodInfo) -> Vec<String> {
        let check = Filter::prepare(&TopologySpread, pod, cluster).unwrap();
        let fits = cluster.nodes().iter().filter(|node| check.check(node) == Verdict::Fits);
        fits.map(|node| node.name().to_owned()).collect()
    }

    #[test]
    fn keeps_the_skew_of_hard_constraints() {
        let wanted = spread(pod("p"), "DoNotSchedule", None).info();
        assert_eq!(fitting(&cluster([1, 1, 0]), &wanted), ["node-c"]);
        assert_eq!(fitting(&cluster([1, 1, 1]), &wanted).len(), 3);
        let four_zones = spread(pod("p"), "DoNotSchedule", Some(4)).info();
        assert_eq!(fitting(&cluster([1, 1, 1]), &four_zones), Vec::<String>::new());
        assert_eq!(fitting(&cluster([0, 1, 1]), &four_zones), ["node-a"]);
    }

    #[test]
    fn a_node_without_the_label_is_out() {
        let mut cluster = cluster([0, 0, 0]);
        cluster.put_node(node("bare").build());
        assert_eq!(
            fitting(&cluster, &spread(pod("p"), "DoNotSchedule", None).info()).len(),
            3
        );
    }

    #[test]
    fn prefers_empty_places() {
        let cluster = cluster([2, 1, 0]);
        for wanted in [
            spread(pod("p"), "ScheduleAnyway", None).info(),
            pod("p").owner("rs").info(),
        ] {
            let scorer = Scorer::prepare(&TopologySpread, &wanted, &cluster, &[]).unwrap();
            let mut scores: Vec<i64> = cluster.nodes().iter().map(|node| scorer.score(node)).collect();
            scorer.normalize(&mut scores);
            assert!(scores[0] < scores[1] && scores[1] < scores[2], "{scores:?}");
            assert_eq!(scores[2], 100);
        }
    }
}
