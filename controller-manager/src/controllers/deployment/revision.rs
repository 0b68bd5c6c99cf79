//! Revisions of a Deployment: the ReplicaSet of a template, its hash and the annotations that number it.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Object;
use api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use api::core::v1::{PodTemplate, PodTemplateSpec};
use api::meta::{LabelSelector, ObjectMeta};

use crate::semantic;

/// The number of a template in the order of roll-outs.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier numbers of a template that was rolled out again, joined by commas.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the Deployment when the ReplicaSet was last sized.
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// That, plus the surge: the size that proportional scaling starts from.
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// The label that tells the pods of different templates apart.
pub const TEMPLATE_HASH: &str = "pod-template-hash";

/// Annotations of a Deployment that are about the Deployment itself.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
];

/// The revision an object carries, 0 if none.
pub fn revision_of(object: &impl Object) -> i64 {
    object
        .annotations()
        .get(REVISION)
        .and_then(|revision| revision.parse().ok())
        .unwrap_or(0)
}

/// The ReplicaSet whose template is the Deployment's. Of several, which only a race can make, the oldest.
pub fn find_new(deployment: &Deployment, replica_sets: &[Arc<ReplicaSet>]) -> Option<Arc<ReplicaSet>> {
    let template = deployment.spec.as_ref().map(|spec| without_hash(&spec.template))?;
    let mut by_age: Vec<_> = replica_sets.iter().collect();
    by_age.sort_by_key(|set| age_key(set));
    let same = |set: &&&Arc<ReplicaSet>| {
        let its = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        its.is_some_and(|its| semantic::equal_templates(&without_hash(its), &template))
    };
    by_age.iter().find(same).map(|set| (**set).clone())
}

/// Sorts older ReplicaSets first, by name where the second of creation is the same.
pub fn age_key(set: &ReplicaSet) -> (Option<jiff::Timestamp>, String) {
    (
        set.metadata.creation_timestamp.as_ref().map(|time| time.0),
        set.name().to_owned(),
    )
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let meta = template.metadata.get_or_insert_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(TEMPLATE_HASH);
        if labels.is_empty() {
            meta.labels = None;
        }
    }
    template
}

/// The hash in the name and the label. `collisions` gives another one to a template whose name is taken.
///
/// Upstream hashes a dump of Go structures; nothing but equality over time depends on the value, so this hashes the JSON text, whose fields are sorted.
pub fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let holder = PodTemplate {
        template: Some(template.clone()),
        ..Default::default()
    };
    let mut text = holder.to_value()["template"].to_string().into_bytes();
    if let Some(collisions) = collisions {
        text.extend(collisions.to_le_bytes());
    }
    safe_encode(&fnv1a(&text).to_string())
}

fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// Digits in upstream's alphabet without vowels and look-alikes, so that no hash spells a word.
fn safe_encode(digits: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    digits
        .bytes()
        .map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]))
        .collect()
}

/// The ReplicaSet for the Deployment's present template, of this size and revision.
pub fn new_replica_set(deployment: &Deployment, replicas: i32, max_replicas: i32, revision: i64) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = template_hash(&spec.template, collisions);

    let mut template = spec.template;
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(TEMPLATE_HASH.into(), hash.clone());
    let labels = labels.clone();
    let mut selector: LabelSelector = spec.selector;
    selector
        .match_labels
        .get_or_insert_default()
        .insert(TEMPLATE_HASH.into(), hash.clone());

    let mut annotations = BTreeMap::new();
    copy_annotations(deployment, &mut annotations);
    annotations.insert(REVISION.into(), revision.to_string());
    set_sizes(&mut annotations, spec.replicas.unwrap_or(1), max_replicas);
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name())),
            namespace: Some(deployment.namespace().to_owned()),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![deployment.owner_reference(true)]),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// The ReplicaSet as it must be while its template is the Deployment's, or nothing if it is so already: at least this revision,
/// the Deployment's annotations and minimum of readiness.
pub fn renewed(deployment: &Deployment, set: &ReplicaSet, revision: i64) -> Option<ReplicaSet> {
    let mut renewed = set.clone();
    let annotations = renewed.metadata.annotations.get_or_insert_default();
    copy_annotations(deployment, annotations);
    if revision_of(set) < revision {
        let previous = annotations.insert(REVISION.into(), revision.to_string());
        if let Some(previous) = previous {
            let history = annotations.entry(REVISION_HISTORY.into()).or_default();
            if !history.is_empty() {
                history.push(',');
            }
            history.push_str(&previous);
        }
    }
    if annotations.is_empty() {
        renewed.metadata.annotations = None;
    }
    let minimum = deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
    if let Some(spec) = &mut renewed.spec
        && spec.min_ready_seconds.unwrap_or(0) != minimum.unwrap_or(0)
    {
        spec.min_ready_seconds = minimum;
    }
    (renewed != *set).then_some(renewed)
}

/// Writes the two annotations that remember what a ReplicaSet was sized for; returns whether they changed.
pub fn set_sizes(annotations: &mut BTreeMap<String, String>, desired: i32, max: i32) -> bool {
    let mut changed = false;
    for (key, value) in [(DESIRED_REPLICAS, desired.to_string()), (MAX_REPLICAS, max.to_string())] {
        changed |= annotations.get(key) != Some(&value);
        annotations.insert(key.into(), value);
    }
    changed
}

fn copy_annotations(deployment: &Deployment, annotations: &mut BTreeMap<String, String>) {
    for (key, value) in deployment.annotations() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{deployment, replica_set};
    use super::*;

    #[test]
    fn the_hash_depends_on_template_and_collisions_only() {
        let one = deployment(3);
        let mut other = deployment(5);
        other.metadata.name = Some("other".into());
        let template = |deployment: &Deployment| deployment.spec.as_ref().unwrap().template.clone();
        let hash = template_hash(&template(&one), None);
        assert_eq!(hash, template_hash(&template(&other), None));
        assert_ne!(hash, template_hash(&template(&one), Some(1)));
        let mut changed = template(&one);
        changed.spec.as_mut().unwrap().host_network = Some(true);
        assert_ne!(hash, template_hash(&changed, None));
        assert!(hash.len() <= 10 && api::names::dns1123_label(&hash).is_empty());
    }

    #[test]
    fn a_new_set_selects_only_pods_of_its_template() {
        let mut deployment = deployment(3);
        deployment.metadata.annotations = Some(BTreeMap::from([
            ("kubernetes.io/change-cause".to_owned(), "v1".to_owned()),
            (REVISION.to_owned(), "9".to_owned()),
        ]));
        let set = new_replica_set(&deployment, 3, 4, 7);
        let spec = set.spec.as_ref().unwrap();
        let hash = &set.labels()[TEMPLATE_HASH];
        assert_eq!(set.name(), format!("web-{hash}"));
        assert_eq!(spec.selector.match_labels.as_ref().unwrap()[TEMPLATE_HASH], *hash);
        assert_eq!(
            spec.template
                .as_ref()
                .unwrap()
                .metadata
                .as_ref()
                .unwrap()
                .labels
                .as_ref()
                .unwrap()[TEMPLATE_HASH],
            *hash
        );
        assert_eq!(set.annotations()[REVISION], "7");
        assert_eq!(set.annotations()[MAX_REPLICAS], "4");
        assert_eq!(set.annotations()["kubernetes.io/change-cause"], "v1");
        assert_eq!(set.controller().unwrap().uid, deployment.uid());
        assert_eq!(find_new(&deployment, &[Arc::new(set.clone())]).as_deref(), Some(&set));
    }

    #[test]
    fn a_template_rolled_out_again_gets_a_new_number_and_keeps_the_old_in_its_history() {
        let deployment = deployment(3);
        let mut set = replica_set(&deployment, 3, 3, 1);
        for (revision, history) in [(4, "1"), (6, "1,4")] {
            set = renewed(&deployment, &set, revision).unwrap();
            assert_eq!(revision_of(&set), revision);
            assert_eq!(set.annotations()[REVISION_HISTORY], history);
        }
        assert_eq!(renewed(&deployment, &set, 6), None);
        assert_eq!(renewed(&deployment, &set, 2), None, "a number never goes down");
    }

    #[test]
    fn the_minimum_of_readiness_follows_the_deployment() {
        let mut deployment = deployment(3);
        let set = replica_set(&deployment, 3, 3, 1);
        deployment.spec.as_mut().unwrap().min_ready_seconds = Some(5);
        let renewed = renewed(&deployment, &set, 1).unwrap();
        assert_eq!(renewed.spec.unwrap().min_ready_seconds, Some(5));
    }
}
