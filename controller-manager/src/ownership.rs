//! Which objects belong to a controller: claims by selector, adoption and release.
//!
//! An object with a controller reference to us is ours; if its labels left our selector we let it go. An object without any controller whose
//! labels match is adopted. An object of another controller is not looked at, whatever its labels say.

use std::sync::Arc;

use api::Object;
use api::labels::Selector;
use api::meta::OwnerReference;
use client::{Api, Patch};
use controller::Error;
use serde_json::{Value, json};

/// What a selector and the owner references say about a set of objects.
#[derive(Debug, PartialEq)]
pub struct Claims<K> {
    /// Ours, by reference and selector.
    pub owned: Vec<Arc<K>>,
    /// Orphans that match.
    pub adopt: Vec<Arc<K>>,
    /// Ours by reference, but they do not match any more.
    pub release: Vec<Arc<K>>,
}

/// Sorts `objects` for the owner with this uid. An owner that is being deleted adopts and releases nothing.
pub fn claim<K: Object>(
    owner: &impl Object,
    selector: &Selector,
    objects: impl IntoIterator<Item = Arc<K>>,
) -> Claims<K> {
    let mut claims = Claims {
        owned: Vec::new(),
        adopt: Vec::new(),
        release: Vec::new(),
    };
    for object in objects {
        let matches = selector.matches(object.labels());
        match object.controller() {
            Some(reference) if reference.uid != owner.uid() => {}
            Some(_) if matches => claims.owned.push(object),
            Some(_) if !owner.is_deleting() => claims.release.push(object),
            None if matches && !owner.is_deleting() && !object.is_deleting() => claims.adopt.push(object),
            _ => {}
        }
    }
    claims
}

/// Makes `owner` the controller of an object; `false` if the object is gone or was taken.
pub async fn apply_adoption<K: Object>(api: &Api<K>, owner: &OwnerReference, object: &K) -> Result<bool, Error> {
    let patch = Patch::Strategic(adoption(owner, object.uid()));
    applied(
        api.patch(object.namespace(), object.name(), "", &patch).await,
        "adopt",
        object,
    )
}

/// Takes the reference to an owner out of an object; `false` if the object is gone already.
pub async fn apply_release<K: Object>(api: &Api<K>, owner_uid: &str, object: &K) -> Result<bool, Error> {
    let patch = Patch::Strategic(release(owner_uid, object.uid()));
    applied(
        api.patch(object.namespace(), object.name(), "", &patch).await,
        "release",
        object,
    )
}

fn applied<K: Object>(outcome: client::Result<K>, verb: &str, object: &K) -> Result<bool, Error> {
    match outcome {
        Ok(_) => Ok(true),
        // The uid in the patch made it a conflict when another object has the name by now.
        Err(error) if error.is_not_found() || error.is_invalid() || error.is_conflict() => Ok(false),
        Err(error) => Err(Error::client(format!("{verb} {} {}", K::KIND, object.key()))(error)),
    }
}

/// Asks the API server whether an object is still there and not on its way out.
pub async fn is_current<K: Object>(api: &Api<K>, object: &K) -> Result<bool, Error> {
    match api.get(object.namespace(), object.name()).await {
        Ok(fresh) => Ok(fresh.uid() == object.uid() && !fresh.is_deleting()),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(Error::client(format!("read {} {}", K::KIND, object.key()))(error)),
    }
}

/// The patch that makes `owner` the controller of an object, if it is still the object that was seen.
fn adoption(owner: &OwnerReference, uid: &str) -> Value {
    json!({"metadata": {"uid": uid, "ownerReferences": [{
        "apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid,
        "controller": true, "blockOwnerDeletion": true,
    }]}})
}

/// The patch that takes the reference to `owner` out of an object.
fn release(owner_uid: &str, uid: &str) -> Value {
    json!({"metadata": {"uid": uid, "ownerReferences": [{"$patch": "delete", "uid": owner_uid}]}})
}

/// Index values for a cache: the uid of an object's controller, or for an orphan its namespace as [`orphans`] writes it.
pub fn index<K: Object>(object: &K) -> Vec<String> {
    match object.controller() {
        Some(reference) => vec![reference.uid.clone()],
        None => vec![orphans(object.namespace())],
    }
}

/// The index value under which a namespace's objects without a controller stand.
pub fn orphans(namespace: &str) -> String {
    format!("orphan/{namespace}")
}

#[cfg(test)]
mod tests {
    use api::apps::v1::ReplicaSet;

    use super::*;
    use crate::pods::testing::{deleting, owned_by, pod};

    #[test]
    fn sorts_by_reference_first_and_labels_second() {
        let mut owner = ReplicaSet::default();
        owner.metadata.uid = Some("ours".into());
        let selector = Selector::parse("app=web").unwrap();
        let other_label = |mut object: api::core::v1::Pod| {
            object.metadata.labels = Some([("app".to_owned(), "db".to_owned())].into());
            object
        };
        let objects = [
            owned_by(pod("owned", "Running"), "ReplicaSet", "ours"),
            owned_by(other_label(pod("stray", "Running")), "ReplicaSet", "ours"),
            owned_by(pod("foreign", "Running"), "ReplicaSet", "theirs"),
            pod("orphan", "Running"),
            deleting(pod("dying", "Running")),
            other_label(pod("unrelated", "Running")),
        ];
        let names = |objects: &[Arc<api::core::v1::Pod>]| -> Vec<String> {
            objects.iter().map(|object| object.name().to_owned()).collect()
        };
        let claims = claim(&owner, &selector, objects.clone().map(Arc::new));
        assert_eq!(names(&claims.owned), ["owned"]);
        assert_eq!(names(&claims.adopt), ["orphan"]);
        assert_eq!(names(&claims.release), ["stray"]);

        owner.metadata.deletion_timestamp = Some(crate::pods::testing::ago(1));
        let claims = claim(&owner, &selector, objects.map(Arc::new));
        assert_eq!(
            (claims.adopt.len(), claims.release.len()),
            (0, 0),
            "an owner on its way out leaves all as it is"
        );
    }
}
