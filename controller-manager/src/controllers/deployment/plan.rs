//! What a Deployment needs next: which ReplicaSets to make, size and remove, and the status that says so.
//!
//! A pass does one step and its status; the ReplicaSets' own progress wakes the next. It never touches a pod.

use std::sync::Arc;
use std::time::Duration;

use api::Object;
use api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use jiff::Timestamp;

use super::revision::{
    DESIRED_REPLICAS, MAX_REPLICAS, age_key, find_new, new_replica_set, renewed, revision_of, set_sizes,
};
use super::status::{self, NewSet};
use crate::intstr::{Round, scaled};
use crate::semantic;

/// What a pass looks at.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The Deployment.
    pub deployment: Arc<Deployment>,
    /// The ReplicaSets it owns.
    pub replica_sets: Vec<Arc<ReplicaSet>>,
    /// Whether a pod of another template than the present one has not ended.
    pub old_pods_running: bool,
}

/// One thing to do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Write annotation `deployment.kubernetes.io/revision` of the Deployment.
    Number(i64),
    /// Create the ReplicaSet of the present template.
    Create(Box<ReplicaSet>),
    /// Write a ReplicaSet; its size stays.
    Update(Box<ReplicaSet>),
    /// Write a ReplicaSet whose size was `from`.
    Scale {
        /// Its size until now.
        from: i32,
        /// The whole object, resized.
        set: Box<ReplicaSet>,
    },
    /// Delete a ReplicaSet beyond the history limit.
    Delete(Arc<ReplicaSet>),
    /// Write the status of the Deployment.
    Status(Box<DeploymentStatus>),
    /// Look again at the progress deadline.
    LookAgain(Duration),
}

/// How far a roll-out may leave the desired count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fences {
    /// Pods above it.
    pub surge: i32,
    /// Pods below it.
    pub unavailable: i32,
}

impl Fences {
    /// The limits of a Deployment's strategy; none when it recreates. When both round to nothing, one pod may be missing: otherwise
    /// no step would be possible.
    pub fn of(deployment: &Deployment) -> Fences {
        let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
        let replicas = desired(deployment);
        if is_recreate(deployment) {
            return Fences {
                surge: 0,
                unavailable: 0,
            };
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let limit = |value: Option<&_>, round| value.and_then(|value| scaled(value, replicas, round)).unwrap_or(0);
        let surge = limit(rolling.and_then(|rolling| rolling.max_surge.as_ref()), Round::Up);
        let unavailable = limit(
            rolling.and_then(|rolling| rolling.max_unavailable.as_ref()),
            Round::Down,
        );
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        Fences {
            surge,
            unavailable: unavailable.min(replicas),
        }
    }
}

/// `spec.replicas` of a Deployment.
pub fn desired(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// `spec.replicas` of a ReplicaSet.
pub fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// The next step of a Deployment.
pub fn plan(observed: &Observed, now: Timestamp) -> Vec<Change> {
    let deployment = &*observed.deployment;
    let sets = &observed.replica_sets;
    let new = find_new(deployment, sets);
    let new_uid = new.as_ref().map(|set| set.uid().to_owned());
    let mut old: Vec<_> = sets
        .iter()
        .filter(|set| Some(set.uid()) != new_uid.as_deref())
        .cloned()
        .collect();
    old.sort_by_key(|set| age_key(set));

    let mut pass = Pass {
        deployment,
        new,
        old,
        created: None,
        changes: Vec::new(),
    };
    if !deployment.is_deleting() {
        pass.step(observed.old_pods_running);
    }
    let shown = match (&pass.new, &pass.created) {
        (Some(set), _) => NewSet::Found(set),
        (None, Some(name)) => NewSet::Created(name),
        (None, None) => NewSet::None,
    };
    let mut status = status::status(deployment, sets, shown, now);
    status::note_pause(deployment, &mut status, now);
    let wait = status::until_deadline(deployment, &status, now);
    let mut changes = pass.changes;
    let after = Deployment {
        status: Some(status),
        ..deployment.clone()
    };
    if !semantic::equal(deployment, &after) {
        changes.extend(after.status.map(|status| Change::Status(Box::new(status))));
    }
    changes.extend(wait.map(Change::LookAgain));
    changes
}

/// A pass in progress.
struct Pass<'a> {
    deployment: &'a Deployment,
    new: Option<Arc<ReplicaSet>>,
    /// Oldest first.
    old: Vec<Arc<ReplicaSet>>,
    /// The name of the ReplicaSet that this pass makes.
    created: Option<String>,
    changes: Vec<Change>,
}

impl Pass<'_> {
    fn step(&mut self, old_pods_running: bool) {
        let paused = self
            .deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.paused)
            .unwrap_or(false);
        if paused {
            self.number(false);
            self.resize();
            self.trim_history();
            return;
        }
        if self.is_resized() {
            self.number(false);
            return self.resize();
        }
        if is_recreate(self.deployment) {
            self.recreate(old_pods_running);
        } else {
            self.number(true);
            self.roll();
        }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new)
    }

    fn total(&self) -> i32 {
        self.all().map(|set| size(set)).sum()
    }

    /// The size of the largest allowed whole: desired plus surge.
    fn ceiling(&self) -> i32 {
        desired(self.deployment) + Fences::of(self.deployment).surge
    }

    /// Numbers the ReplicaSet of the present template, and makes it if it is not there and may be.
    fn number(&mut self, create: bool) {
        let next = self.old.iter().map(|set| revision_of(&**set)).max().unwrap_or(0) + 1;
        let revision = match &self.new {
            Some(set) => {
                let renewed = renewed(self.deployment, set, next);
                let revision = renewed.as_ref().map_or_else(|| revision_of(&**set), revision_of);
                if let Some(renewed) = renewed {
                    // What is sized later in this pass must carry the number too.
                    self.new = Some(Arc::new(renewed.clone()));
                    self.changes.push(Change::Update(Box::new(renewed)));
                }
                revision
            }
            None if create => {
                let replicas = (self.ceiling() - self.total()).clamp(0, desired(self.deployment));
                let set = new_replica_set(self.deployment, replicas, self.ceiling(), next);
                self.created = Some(set.name().to_owned());
                self.changes.push(Change::Create(Box::new(set)));
                next
            }
            None => return,
        };
        if revision_of(self.deployment) != revision {
            self.changes.insert(0, Change::Number(revision));
        }
    }

    /// Sizes a ReplicaSet and writes down for which size of the Deployment.
    fn scale(&mut self, set: &Arc<ReplicaSet>, replicas: i32) -> bool {
        let from = size(set);
        let mut resized = (**set).clone();
        let annotations = resized.metadata.annotations.get_or_insert_default();
        let renoted = set_sizes(annotations, desired(self.deployment), self.ceiling());
        if from == replicas && !renoted {
            return false;
        }
        resized.spec.get_or_insert_default().replicas = Some(replicas);
        // One write for a ReplicaSet in a pass: the numbering that came before travels with the size.
        self.changes
            .retain(|change| !matches!(change, Change::Update(update) if update.uid() == set.uid()));
        self.changes.push(Change::Scale {
            from,
            set: Box::new(resized),
        });
        from != replicas
    }

    /// One step of a rolling update: grow the new, or shrink the old, or clear up.
    fn roll(&mut self) {
        let Some(new) = self.new.clone() else { return };
        let grown = self.new_size(&new);
        if size(&new) != grown {
            self.scale(&new, grown);
            return;
        }
        if self.shrink_old(&new) {
            return;
        }
        if self.is_rolled_out() {
            self.trim_history();
        }
    }

    fn new_size(&self, new: &ReplicaSet) -> i32 {
        let wanted = desired(self.deployment);
        let room = self.ceiling() - self.total();
        match size(new) {
            have if have > wanted => wanted,
            have if room > 0 => have + room.min(wanted - have),
            have => have,
        }
    }

    /// Takes pods from the old ReplicaSets as far as availability allows: the unhealthy first, they cost nothing.
    fn shrink_old(&mut self, new: &ReplicaSet) -> bool {
        let old: Vec<_> = self.old.iter().filter(|set| size(set) > 0).cloned().collect();
        if old.is_empty() {
            return false;
        }
        let minimum = desired(self.deployment) - Fences::of(self.deployment).unavailable;
        let most = self.total() - minimum - (size(new) - available(new));
        if most <= 0 {
            return false;
        }
        let mut sizes: Vec<i32> = old.iter().map(|set| size(set)).collect();
        let mut unhealthy = 0;
        for (set, size) in old.iter().zip(&mut sizes) {
            let cut = (*size - available(set)).clamp(0, most - unhealthy);
            *size -= cut;
            unhealthy += cut;
        }
        let all_available: i32 = self.all().map(|set| available(set)).sum();
        let mut healthy = (all_available - minimum).max(0);
        for size in &mut sizes {
            let cut = (*size).min(healthy);
            *size -= cut;
            healthy -= cut;
        }
        let mut shrunk = false;
        for (set, new_size) in old.iter().zip(sizes) {
            if new_size != size(set) {
                shrunk |= self.scale(set, new_size);
            }
        }
        shrunk
    }

    /// One step of a recreation: no new pod before the last old one has ended.
    fn recreate(&mut self, old_pods_running: bool) {
        let old: Vec<_> = self.old.iter().filter(|set| size(set) > 0).cloned().collect();
        if !old.is_empty() {
            self.number(false);
            for set in &old {
                self.scale(set, 0);
            }
            return;
        }
        if old_pods_running {
            return self.number(false);
        }
        self.number(true);
        if let Some(new) = self.new.clone() {
            self.scale(&new, desired(self.deployment));
            if self.is_rolled_out() {
                self.trim_history();
            }
        }
    }

    /// Whether `spec.replicas` changed since the ReplicaSets were sized.
    fn is_resized(&self) -> bool {
        self.all().filter(|set| size(set) > 0).any(|set| {
            let noted = set
                .annotations()
                .get(DESIRED_REPLICAS)
                .and_then(|noted| noted.parse().ok());
            noted.is_some_and(|noted: i32| noted != desired(self.deployment))
        })
    }

    /// Follows a change of `spec.replicas`: the only ReplicaSet takes all of it; in the middle of a roll-out each takes its share,
    /// so that a bad new template does not take over because someone scaled up.
    fn resize(&mut self) {
        let active: Vec<_> = self.all().filter(|set| size(set) > 0).cloned().collect();
        let wanted = desired(self.deployment);
        let single = match &active[..] {
            [] => self
                .new
                .clone()
                .or_else(|| self.old.iter().max_by_key(|set| revision_of(&***set)).cloned()),
            [only] => Some(only.clone()),
            _ => None,
        };
        if let Some(set) = single {
            self.scale(&set, wanted);
            return;
        }
        if self.new.as_ref().is_some_and(|new| self.is_saturated(new)) {
            for set in self.old.clone().iter().filter(|set| size(set) > 0) {
                self.scale(set, 0);
            }
            return;
        }
        if !is_recreate(self.deployment) {
            self.resize_proportionally(active);
        }
    }

    /// Whether the new ReplicaSet has everything by itself.
    fn is_saturated(&self, new: &ReplicaSet) -> bool {
        let wanted = desired(self.deployment);
        let noted = new
            .annotations()
            .get(DESIRED_REPLICAS)
            .and_then(|noted| noted.parse::<i32>().ok());
        size(new) == wanted && noted == Some(wanted) && available(new) == wanted
    }

    fn resize_proportionally(&mut self, mut active: Vec<Arc<ReplicaSet>>) {
        let allowed = if desired(self.deployment) > 0 {
            self.ceiling()
        } else {
            0
        };
        let to_add = allowed - self.total();
        // The largest first; of equal ones the newest when growing, the oldest when shrinking.
        active.sort_by_key(|set| age_key(set));
        if to_add > 0 {
            active.reverse();
        }
        active.sort_by_key(|set| std::cmp::Reverse(size(set)));
        let mut sizes: Vec<i32> = active.iter().map(|set| size(set)).collect();
        let mut added = 0;
        if to_add != 0 {
            for (set, size) in active.iter().zip(&mut sizes) {
                let left = to_add - added;
                let share = self.share(set).clamp(left.min(0), left.max(0));
                *size += share;
                added += share;
            }
            if let Some(first) = sizes.first_mut() {
                *first = (*first + to_add - added).max(0);
            }
        }
        for (set, size) in active.iter().zip(sizes) {
            self.scale(set, size);
        }
    }

    /// What a ReplicaSet gains or loses for its share of the whole to stay as it was when it was last sized.
    fn share(&self, set: &ReplicaSet) -> i32 {
        if desired(self.deployment) == 0 {
            return -size(set);
        }
        let noted = set.annotations().get(MAX_REPLICAS).and_then(|noted| noted.parse().ok());
        let before: f64 = noted
            .filter(|before: &i32| *before > 0)
            .unwrap_or_else(|| {
                self.deployment
                    .status
                    .as_ref()
                    .and_then(|status| status.replicas)
                    .unwrap_or(1)
                    .max(1)
            })
            .into();
        let share = f64::from(size(set)) * f64::from(self.ceiling()) / before;
        share.round() as i32 - size(set)
    }

    fn is_rolled_out(&self) -> bool {
        self.deployment
            .status
            .as_ref()
            .is_some_and(|status| status::is_complete(self.deployment, status))
    }

    /// Deletes the oldest revisions beyond `spec.revisionHistoryLimit` that hold no pod.
    fn trim_history(&mut self) {
        let limit = self
            .deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.revision_history_limit);
        let Some(limit) = limit.filter(|limit| *limit != i32::MAX) else {
            return;
        };
        let mut old: Vec<_> = self.old.iter().filter(|set| !set.is_deleting()).cloned().collect();
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_key(|set| revision_of(&**set));
        let spent = |set: &&Arc<ReplicaSet>| {
            let status = set.status.clone().unwrap_or_default();
            let observed = status.observed_generation.unwrap_or(0);
            status.replicas == 0 && size(set) == 0 && set.metadata.generation.unwrap_or(0) <= observed
        };
        self.changes
            .extend(old.iter().take(surplus).filter(spent).cloned().map(Change::Delete));
    }
}

fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

fn available(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|status| status.available_replicas)
        .unwrap_or(0)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
