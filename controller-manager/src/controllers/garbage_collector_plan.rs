//! What becomes of one object, given its owners and its dependants.
//!
//! An object lives while one of its owners does. When the last is gone it is deleted in the background; while the last is being deleted in the
//! foreground, the object goes first and keeps its owner waiting if it asks for that.

use api::meta::{ObjectMeta, OwnerReference};

/// The finalizer of an object whose dependants go before it.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an object whose dependants stay.
pub const ORPHAN: &str = "orphan";

/// What is known of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerState {
    /// It is there, or cannot be known to be gone.
    Solid,
    /// No object of that name has that uid.
    Absent,
    /// It is being deleted and waits for its dependants.
    Waiting,
}

/// How an object is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// At once; its dependants follow.
    Background,
    /// After its dependants.
    Foreground,
    /// At once; its dependants stay.
    Orphan,
}

/// Something that has the object among its owners.
#[derive(Clone, Debug, PartialEq)]
pub struct Dependent<I> {
    /// Its place.
    pub id: I,
    /// Whether its reference to the object blocks the object's deletion in the foreground.
    pub blocks: bool,
    /// Whether it is itself being deleted in the foreground.
    pub waiting: bool,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Change<I> {
    /// Delete the object.
    Delete(Policy),
    /// Take the references to these uids out of the object.
    DropOwners(Vec<String>),
    /// Say in every reference of the object that it does not block: two objects would wait for each other.
    Unblock,
    /// Take the reference to the object out of a dependant.
    Release(I),
    /// Remove a finalizer of the object.
    RemoveFinalizer(&'static str),
    /// Look at a dependant.
    Visit(I),
}

/// Whether the object is being deleted and waits for its dependants.
pub fn is_waiting(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some() && has_finalizer(meta, FOREGROUND)
}

/// Whether a finalizer is there.
pub fn has_finalizer(meta: &ObjectMeta, name: &str) -> bool {
    meta.finalizers.iter().flatten().any(|finalizer| finalizer == name)
}

/// What to do with an object. `owners` has the state of each of its owner references.
pub fn plan<I: Clone>(
    meta: &ObjectMeta,
    owners: &[(OwnerReference, OwnerState)],
    dependents: &[Dependent<I>],
) -> Vec<Change<I>> {
    if meta.deletion_timestamp.is_some() {
        return finish(meta, dependents);
    }
    let in_state = |wanted: OwnerState| owners.iter().filter(move |(_, state)| *state == wanted);
    let (solid, waiting) = (
        in_state(OwnerState::Solid).count(),
        in_state(OwnerState::Waiting).count(),
    );
    if owners.is_empty() || (solid > 0 && solid == owners.len()) {
        return Vec::new();
    }
    if solid > 0 {
        let gone = owners.iter().filter(|(_, state)| *state != OwnerState::Solid);
        return vec![Change::DropOwners(gone.map(|(owner, _)| owner.uid.clone()).collect())];
    }
    if waiting > 0 && !dependents.is_empty() {
        let mut changes = Vec::new();
        if dependents.iter().any(|dependent| dependent.waiting) {
            changes.push(Change::Unblock);
        }
        changes.push(Change::Delete(Policy::Foreground));
        return changes;
    }
    let policy = match () {
        () if has_finalizer(meta, ORPHAN) => Policy::Orphan,
        () if has_finalizer(meta, FOREGROUND) => Policy::Foreground,
        () => Policy::Background,
    };
    vec![Change::Delete(policy)]
}

/// The end of an object that is being deleted already.
fn finish<I: Clone>(meta: &ObjectMeta, dependents: &[Dependent<I>]) -> Vec<Change<I>> {
    if has_finalizer(meta, ORPHAN) {
        let released = dependents.iter().map(|dependent| Change::Release(dependent.id.clone()));
        return released.chain([Change::RemoveFinalizer(ORPHAN)]).collect();
    }
    if !has_finalizer(meta, FOREGROUND) {
        return Vec::new();
    }
    if dependents.iter().any(|dependent| dependent.blocks) {
        return dependents
            .iter()
            .map(|dependent| Change::Visit(dependent.id.clone()))
            .collect();
    }
    let visits = dependents.iter().map(|dependent| Change::Visit(dependent.id.clone()));
    visits.chain([Change::RemoveFinalizer(FOREGROUND)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::testing::ago;

    fn object(deleting: bool, finalizers: &[&str]) -> ObjectMeta {
        ObjectMeta {
            deletion_timestamp: deleting.then(|| ago(1)),
            finalizers: Some(finalizers.iter().map(|finalizer| (*finalizer).to_owned()).collect()),
            ..Default::default()
        }
    }

    fn owners(states: &[OwnerState]) -> Vec<(OwnerReference, OwnerState)> {
        let owner = |n: usize| OwnerReference {
            uid: format!("owner-{n}"),
            ..Default::default()
        };
        states.iter().enumerate().map(|(n, state)| (owner(n), *state)).collect()
    }

    fn dependent(id: u8, blocks: bool, waiting: bool) -> Dependent<u8> {
        Dependent { id, blocks, waiting }
    }

    #[test]
    fn an_object_lives_with_its_owners() {
        use OwnerState::{Absent, Solid, Waiting};
        let drop = |uids: &[&str]| vec![Change::DropOwners(uids.iter().map(|uid| (*uid).to_owned()).collect())];
        let cases = [
            (vec![], vec![]),
            (vec![Solid], vec![]),
            (vec![Solid, Absent, Waiting], drop(&["owner-1", "owner-2"])),
            (vec![Absent, Absent], vec![Change::Delete(Policy::Background)]),
            (vec![Waiting], vec![Change::Delete(Policy::Background)]),
        ];
        for (states, expected) in cases {
            assert_eq!(
                plan::<u8>(&object(false, &[]), &owners(&states), &[]),
                expected,
                "{states:?}"
            );
        }
    }

    #[test]
    fn finalizers_of_an_object_choose_how_it_goes() {
        let gone = owners(&[OwnerState::Absent]);
        assert_eq!(
            plan::<u8>(&object(false, &[ORPHAN]), &gone, &[]),
            [Change::Delete(Policy::Orphan)]
        );
        assert_eq!(
            plan::<u8>(&object(false, &[FOREGROUND]), &gone, &[]),
            [Change::Delete(Policy::Foreground)]
        );
    }

    #[test]
    fn a_foreground_deletion_goes_down_the_tree_and_breaks_circles() {
        let waiting = owners(&[OwnerState::Waiting]);
        let down = plan(&object(false, &[]), &waiting, &[dependent(1, true, false)]);
        assert_eq!(down, [Change::Delete(Policy::Foreground)]);
        let circle = plan(&object(false, &[]), &waiting, &[dependent(1, true, true)]);
        assert_eq!(circle, [Change::Unblock, Change::Delete(Policy::Foreground)]);
    }

    #[test]
    fn an_object_in_the_foreground_waits_for_those_that_block() {
        let object = object(true, &[FOREGROUND]);
        let blocked = plan(&object, &[], &[dependent(1, true, false), dependent(2, false, false)]);
        assert_eq!(blocked, [Change::Visit(1), Change::Visit(2)]);
        let free = plan(&object, &[], &[dependent(2, false, false)]);
        assert_eq!(free, [Change::Visit(2), Change::RemoveFinalizer(FOREGROUND)]);
    }

    #[test]
    fn orphans_are_released_before_their_owner_goes() {
        let changes = plan(
            &object(true, &[ORPHAN]),
            &[],
            &[dependent(1, true, false), dependent(2, false, false)],
        );
        assert_eq!(
            changes,
            [Change::Release(1), Change::Release(2), Change::RemoveFinalizer(ORPHAN)]
        );
    }

    #[test]
    fn an_ordinary_deletion_is_left_to_its_course() {
        assert_eq!(
            plan(
                &object(true, &["example.com/x"]),
                &owners(&[OwnerState::Absent]),
                &[dependent(1, true, false)]
            ),
            []
        );
    }
}
