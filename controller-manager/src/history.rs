//! The history of a pod template as ControllerRevisions, for the kinds that make their pods themselves.
//!
//! `kubectl rollout history` and `undo` read it: the data of a revision is a strategic merge patch that brings its template back.

use std::sync::Arc;

use api::Object;
use api::apps::v1::ControllerRevision;
use api::core::v1::{PodTemplate, PodTemplateSpec};
use api::meta::{ObjectMeta, RawExtension};
use client::{Client, DeleteParams};
use controller::Error;
use serde_json::{Value, json};

use crate::controllers::deployment::template_hash;

/// The label that ties a pod to the revision it was made from.
pub const REVISION_HASH: &str = "controller-revision-hash";

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Create this revision.
    Create(Box<ControllerRevision>),
    /// Write this revision: an old template is the present one again.
    Update(Box<ControllerRevision>),
    /// Delete this revision, beyond the limit.
    Delete(Arc<ControllerRevision>),
}

/// What the history needs, and the revision of the present template.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The revision of the present template, as it is or will be.
    pub current: ControllerRevision,
    /// What to write.
    pub changes: Vec<Change>,
}

/// Finds or makes the revision of `template` and drops the oldest beyond `limit` that are not in use.
pub fn plan<K: Object>(
    owner: &K,
    template: &PodTemplateSpec,
    existing: &[Arc<ControllerRevision>],
    in_use: impl Fn(&ControllerRevision) -> bool,
    limit: i32,
) -> Plan {
    let data = data(template);
    let highest = existing.iter().map(|revision| revision.revision).max().unwrap_or(0);
    let mut changes = Vec::new();
    let found = existing
        .iter()
        .find(|revision| revision.data.as_ref().is_some_and(|found| found.0 == data));
    let current = match found {
        Some(found) if found.revision == highest => (**found).clone(),
        Some(found) => {
            let renewed = ControllerRevision {
                revision: highest + 1,
                ..(**found).clone()
            };
            changes.push(Change::Update(Box::new(renewed.clone())));
            renewed
        }
        None => {
            let created = create(owner, template, data, existing, highest + 1);
            changes.push(Change::Create(Box::new(created.clone())));
            created
        }
    };
    let mut spare: Vec<_> = existing
        .iter()
        .filter(|it| it.name() != current.name() && !in_use(it))
        .collect();
    spare.sort_by_key(|revision| revision.revision);
    let surplus = spare.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    changes.extend(spare.into_iter().take(surplus).cloned().map(Change::Delete));
    Plan { current, changes }
}

/// The hash label of a revision.
pub fn hash(revision: &ControllerRevision) -> &str {
    revision.labels().get(REVISION_HASH).map_or("", String::as_str)
}

/// The template that a revision keeps; nothing if it cannot be read.
pub fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut data = revision.data.as_ref()?.0.clone();
    let mut template = data.get_mut("spec")?.get_mut("template")?.take();
    template.as_object_mut()?.remove("$patch");
    PodTemplate::from_value(json!({"template": template})).ok()?.template
}

fn data(template: &PodTemplateSpec) -> Value {
    let holder = PodTemplate {
        template: Some(template.clone()),
        ..Default::default()
    };
    let mut template = holder.to_value()["template"].take();
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

fn create<K: Object>(
    owner: &K,
    template: &PodTemplateSpec,
    data: Value,
    existing: &[Arc<ControllerRevision>],
    revision: i64,
) -> ControllerRevision {
    // A hash that another template of this owner has is tried with the next count.
    let hashes = (0..).map(|collisions| template_hash(template, (collisions > 0).then_some(collisions)));
    let name = |hash: &str| format!("{}-{hash}", owner.name());
    let free = |hash: &String| !existing.iter().any(|other| other.name() == name(hash));
    let hash = hashes.into_iter().find(free).unwrap_or_default();
    let mut labels = template
        .metadata
        .as_ref()
        .and_then(|meta| meta.labels.clone())
        .unwrap_or_default();
    labels.insert(REVISION_HASH.into(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name(&hash)),
            namespace: Some(owner.namespace().to_owned()),
            labels: Some(labels),
            annotations: owner.metadata().annotations.clone(),
            owner_references: Some(vec![owner.owner_reference(true)]),
            ..Default::default()
        },
        data: Some(RawExtension(data)),
        revision,
    }
}

/// Applies what a plan says. Names follow from templates, so a create that a lagging cache repeats is no failure.
pub async fn apply(client: &Client, changes: Vec<Change>) -> Result<(), Error> {
    let api = client.api::<ControllerRevision>();
    for change in changes {
        let (name, outcome) = match change {
            Change::Create(revision) => (revision.key(), api.create(&revision).await.map(drop)),
            Change::Update(revision) => (revision.key(), api.update(&revision).await.map(drop)),
            Change::Delete(revision) => {
                let only = DeleteParams::default().uid(revision.uid());
                (
                    revision.key(),
                    api.delete(revision.namespace(), revision.name(), &only).await,
                )
            }
        };
        match outcome {
            Err(error) if error.is_already_exists() || error.is_not_found() || error.is_namespace_terminating() => {}
            outcome => outcome.map_err(Error::client(format!("write ControllerRevision {name}")))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use api::apps::v1::DaemonSet;
    use api::core::v1::PodSpec;

    use super::*;
    use crate::semantic;

    fn template(hostname: &str) -> PodTemplateSpec {
        let spec = PodSpec {
            hostname: Some(hostname.into()),
            ..Default::default()
        };
        PodTemplateSpec {
            metadata: None,
            spec: Some(spec),
        }
    }

    fn planned(hostname: &str, existing: &[Arc<ControllerRevision>], limit: i32) -> Plan {
        let mut owner = DaemonSet::default();
        owner.metadata.name = Some("agent".into());
        plan(&owner, &template(hostname), existing, |_| false, limit)
    }

    #[test]
    fn a_template_has_one_revision_and_comes_back_with_a_new_number() {
        let first = Arc::new(planned("a", &[], 10).current);
        assert_eq!((first.revision, first.name()), (1, &*format!("agent-{}", hash(&first))));
        let back = super::template(&first).unwrap();
        assert!(
            semantic::equal_templates(&back, &template("a")),
            "a revision gives its template back"
        );
        assert_eq!(planned("a", std::slice::from_ref(&first), 10).changes, []);
        let second = Arc::new(planned("b", std::slice::from_ref(&first), 10).current);
        assert_eq!(second.revision, 2);
        let back = planned("a", &[first.clone(), second], 10);
        assert_eq!((back.current.name(), back.current.revision), (first.name(), 3));
        assert_eq!(back.changes, [Change::Update(Box::new(back.current))]);
    }

    #[test]
    fn the_oldest_beyond_the_limit_go() {
        let first = Arc::new(planned("a", &[], 10).current);
        let second = Arc::new(planned("b", std::slice::from_ref(&first), 10).current);
        let third = planned("c", &[first.clone(), second], 1);
        assert!(third.changes.contains(&Change::Delete(first)));
        assert_eq!(third.changes.len(), 2);
    }
}
