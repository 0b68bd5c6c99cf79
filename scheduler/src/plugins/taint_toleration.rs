//! Taints keep pods away that do not tolerate them; `PreferNoSchedule` ones only ask to.

use api::core::v1::{Taint, Toleration};

use crate::cluster::Cluster;
use crate::framework::{Change, Filter, NodeCheck, NodeScore, Scorer, Verdict, normalize_to_highest};
use crate::model::{NodeInfo, PodInfo};

/// See the module.
#[derive(Debug)]
pub struct TaintToleration;

/// Whether a toleration covers a taint, as core/v1 defines it.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    if !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "" | "Equal" => !key.is_empty() && text(&toleration.value) == text(&taint.value),
        "Exists" => true,
        _ => false,
    }
}

struct Tolerations<'a>(&'a [Toleration]);

impl Tolerations<'_> {
    fn cover(&self, taint: &Taint) -> bool {
        self.0.iter().any(|toleration| tolerates(toleration, taint))
    }
}

fn tolerations(pod: &PodInfo) -> Tolerations<'_> {
    Tolerations(pod.spec().tolerations.as_deref().unwrap_or_default())
}

impl Filter for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn prepare<'a>(&'a self, pod: &'a PodInfo, _: &'a Cluster) -> Option<Box<dyn NodeCheck + 'a>> {
        Some(Box::new(tolerations(pod)))
    }

    fn retry_after(&self) -> &'static [Change] {
        &[Change::Node]
    }
}

impl NodeCheck for Tolerations<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        let repels = |taint: &&Taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute";
        match node.taints().iter().filter(repels).find(|taint| !self.cover(taint)) {
            None => Verdict::Fits,
            Some(taint) => Verdict::Unresolvable(format!(
                "node(s) had untolerated taint {{{}: {}}}",
                taint.key,
                taint.value.as_deref().unwrap_or("")
            )),
        }
    }
}

impl Scorer for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn prepare<'a>(
        &'a self,
        pod: &'a PodInfo,
        _: &'a Cluster,
        feasible: &[&'a NodeInfo],
    ) -> Option<Box<dyn NodeScore + 'a>> {
        let any = feasible
            .iter()
            .any(|node| node.taints().iter().any(|taint| taint.effect == "PreferNoSchedule"));
        any.then(|| Box::new(tolerations(pod)) as Box<dyn NodeScore>)
    }
}

impl NodeScore for Tolerations<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let unwanted = |taint: &&Taint| taint.effect == "PreferNoSchedule" && !self.cover(taint);
        node.taints().iter().filter(unwanted).count() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize_to_highest(scores, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
        Toleration {
            key: text(key),
            operator: text(operator),
            value: text(value),
            effect: text(effect),
            toleration_seconds: None,
        }
    }

    #[test]
    fn tolerations_cover_taints() {
        let taint = Taint {
            key: "gpu".into(),
            value: Some("yes".into()),
            effect: "NoSchedule".into(),
            time_added: None,
        };
        for (toleration, expected) in [
            (toleration("gpu", "Equal", "yes", "NoSchedule"), true),
            (toleration("gpu", "", "yes", ""), true),
            (toleration("gpu", "Equal", "no", ""), false),
            (toleration("gpu", "Exists", "", ""), true),
            (toleration("", "Exists", "", ""), true),
            (toleration("", "Exists", "", "NoExecute"), false),
            (toleration("other", "Exists", "", ""), false),
            (toleration("gpu", "Wrong", "yes", ""), false),
        ] {
            assert_eq!(tolerates(&toleration, &taint), expected, "{toleration:?}");
        }
    }

    #[test]
    fn filters_hard_taints_and_scores_soft_ones() {
        let cluster = Cluster::default();
        let pod = pod("web").info();
        let check = Filter::prepare(&TaintToleration, &pod, &cluster).unwrap();
        let hard = crate::model::NodeInfo::new(node("a").taint("gpu", "yes", "NoSchedule").build());
        assert_eq!(
            check.check(&hard),
            Verdict::Unresolvable("node(s) had untolerated taint {gpu: yes}".into())
        );
        let soft = crate::model::NodeInfo::new(node("b").taint("old", "", "PreferNoSchedule").build());
        assert_eq!(check.check(&soft), Verdict::Fits);
        let plain = crate::model::NodeInfo::new(node("c").build());
        let scorer = Scorer::prepare(&TaintToleration, &pod, &cluster, &[&soft, &plain]).unwrap();
        let mut scores = [scorer.score(&soft), scorer.score(&plain)];
        scorer.normalize(&mut scores);
        assert_eq!(scores, [0, 100]);
    }
}
