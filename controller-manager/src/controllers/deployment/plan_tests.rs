//! Tables and a simulated roll-out for `plan`.

use api::meta::IntOrString;

use super::super::revision;
use super::super::testing::{deployment, replica_set, with_image};
use super::*;
use crate::pods::testing::now;

fn planned(deployment: &Deployment, sets: &[ReplicaSet]) -> Vec<Change> {
    plan(&observed(deployment, sets), now())
}

fn observed(deployment: &Deployment, sets: &[ReplicaSet]) -> Observed {
    Observed {
        deployment: Arc::new(deployment.clone()),
        replica_sets: sets.iter().cloned().map(Arc::new).collect(),
        old_pods_running: false,
    }
}

/// What changes, without statuses: `+2` a new set of two, `web:1 3>2` a size, `web:1 #4` a number, `-web:1` a deletion.
fn summary(changes: &[Change]) -> Vec<String> {
    let image = |set: &ReplicaSet| {
        let spec = set
            .spec
            .as_ref()
            .unwrap()
            .template
            .as_ref()
            .unwrap()
            .spec
            .as_ref()
            .unwrap();
        spec.containers[0].image.clone().unwrap()
    };
    let line = |change: &Change| match change {
        Change::Number(revision) => Some(format!("#{revision}")),
        Change::Create(set) => Some(format!("+{} {}", image(set), size(set))),
        Change::Update(set) => Some(format!("{} #{}", image(set), revision_of(&**set))),
        Change::Scale { from, set } => Some(format!("{} {from}>{}", image(set), size(set))),
        Change::Delete(set) => Some(format!("-{}", image(set))),
        Change::Status(_) | Change::LookAgain(_) => None,
    };
    changes.iter().filter_map(line).collect()
}

fn with_fences(mut deployment: Deployment, surge: IntOrString, unavailable: IntOrString) -> Deployment {
    let strategy = deployment.spec.as_mut().unwrap().strategy.as_mut().unwrap();
    let rolling = strategy.rolling_update.as_mut().unwrap();
    (rolling.max_surge, rolling.max_unavailable) = (Some(surge), Some(unavailable));
    deployment
}

fn recreate(mut deployment: Deployment) -> Deployment {
    let strategy = deployment.spec.as_mut().unwrap().strategy.as_mut().unwrap();
    (strategy.type_, strategy.rolling_update) = (Some("Recreate".into()), None);
    deployment
}

fn paused(mut deployment: Deployment) -> Deployment {
    deployment.spec.as_mut().unwrap().paused = Some(true);
    deployment
}

#[test]
fn fences_are_resolved_against_the_desired_count() {
    let text = |text: &str| IntOrString::String(text.into());
    let cases = [
        (10, text("25%"), text("25%"), (3, 2)),
        (1, text("25%"), text("25%"), (1, 0)),
        (3, IntOrString::Int(0), text("10%"), (0, 1)),
        (2, IntOrString::Int(0), IntOrString::Int(5), (0, 2)),
        (0, text("25%"), text("25%"), (0, 0)),
    ];
    for (replicas, surge, unavailable, expected) in cases {
        let fences = Fences::of(&with_fences(deployment(replicas), surge, unavailable));
        assert_eq!((fences.surge, fences.unavailable), expected, "{replicas}");
    }
}

#[test]
fn the_first_pass_creates_the_whole_replica_set() {
    let changes = planned(&deployment(3), &[]);
    assert_eq!(summary(&changes), ["#1", "+web:1 3"]);
    assert!(matches!(changes[2], Change::Status(_)));
}

#[test]
fn steps_of_a_rolling_update() {
    let first = deployment(3);
    let second = with_image(deployment(3), "web:2");
    let old = |size, available| replica_set(&first, size, available, 1);
    let new = |size, available| replica_set(&second, size, available, 2);
    let mut numbered = second.clone();
    numbered.metadata.annotations = Some([(revision::REVISION.to_owned(), "2".to_owned())].into());
    let cases = [
        ("the surge starts it", vec![old(3, 3)], vec!["#2", "+web:2 1"]),
        (
            "nothing while the new is not available",
            vec![old(3, 3), new(1, 0)],
            vec![],
        ),
        (
            "an available new frees an old",
            vec![old(3, 3), new(1, 1)],
            vec!["web:1 3>2"],
        ),
        (
            "a freed old makes room for a new",
            vec![old(2, 2), new(1, 1)],
            vec!["web:2 1>2"],
        ),
        ("broken old pods wait for a new one", vec![old(3, 0), new(1, 0)], vec![]),
        (
            "broken old pods go although few are available",
            vec![old(3, 0), new(1, 1)],
            vec!["web:1 3>2"],
        ),
        ("a new that is too large shrinks", vec![new(5, 3)], vec!["web:2 5>3"]),
        ("the last old goes", vec![old(1, 1), new(3, 3)], vec!["web:1 1>0"]),
    ];
    for (case, sets, expected) in cases {
        let deployment = if expected.first() == Some(&"#2") {
            &second
        } else {
            &numbered
        };
        assert_eq!(summary(&planned(deployment, &sets)), expected, "{case}");
    }
}

#[test]
fn a_roll_back_numbers_the_old_replica_set_anew() {
    let first = deployment(3);
    let sets = [
        replica_set(&first, 0, 0, 1),
        replica_set(&with_image(deployment(3), "web:2"), 3, 3, 2),
    ];
    let changes = planned(&first, &sets);
    assert_eq!(summary(&changes), ["#3", "web:1 0>1"]);
    let Change::Scale { set, .. } = &changes[1] else {
        panic!("{changes:?}")
    };
    assert_eq!(set.annotations()[revision::REVISION], "3");
    assert_eq!(set.annotations()[revision::REVISION_HISTORY], "1");
}

#[test]
fn recreation_waits_for_the_old_pods() {
    let first = recreate(deployment(3));
    let second = with_image(first.clone(), "web:2");
    let old = |size| replica_set(&first, size, size, 1);
    assert_eq!(summary(&planned(&second, &[old(3)])), ["web:1 3>0"]);
    let waiting = Observed {
        old_pods_running: true,
        ..observed(&second, &[old(0)])
    };
    assert_eq!(summary(&plan(&waiting, now())), [""; 0]);
    assert_eq!(summary(&planned(&second, &[old(0)])), ["#2", "+web:2 3"]);
}

#[test]
fn a_paused_deployment_scales_but_starts_nothing() {
    let first = deployment(3);
    let old = replica_set(&first, 3, 3, 1);
    let changed = paused(with_image(deployment(3), "web:2"));
    assert_eq!(summary(&planned(&changed, std::slice::from_ref(&old))), [""; 0]);
    let larger = paused(with_image(deployment(5), "web:2"));
    assert_eq!(summary(&planned(&larger, &[old])), ["web:1 3>5"]);
}

#[test]
fn scaling_in_the_middle_of_a_roll_out_keeps_the_shares() {
    let fences = |deployment| with_fences(deployment, IntOrString::Int(3), IntOrString::Int(2));
    let first = fences(deployment(10));
    let second = with_image(first.clone(), "web:2");
    let sets = [replica_set(&first, 8, 8, 1), replica_set(&second, 5, 0, 2)];
    let mut larger = second.clone();
    larger.spec.as_mut().unwrap().replicas = Some(15);
    assert_eq!(summary(&planned(&larger, &sets)), ["#2", "web:1 8>11", "web:2 5>7"]);
    let mut none = second.clone();
    none.spec.as_mut().unwrap().replicas = Some(0);
    assert_eq!(summary(&planned(&none, &sets)), ["#2", "web:1 8>0", "web:2 5>0"]);
}

#[test]
fn history_beyond_the_limit_goes_oldest_first() {
    let mut present = with_image(deployment(1), "web:5");
    present.spec.as_mut().unwrap().revision_history_limit = Some(1);
    present.metadata.annotations = Some([(revision::REVISION.to_owned(), "5".to_owned())].into());
    let mut sets: Vec<_> = (1..=4)
        .map(|n| replica_set(&with_image(deployment(1), &format!("web:{n}")), 0, 0, n))
        .collect();
    sets.push(replica_set(&present, 1, 1, 5));
    present.status = Some(status::status(
        &present,
        &[Arc::new(sets[4].clone())],
        NewSet::Found(&sets[4]),
        now(),
    ));
    assert_eq!(summary(&planned(&present, &sets)), ["-web:1", "-web:2", "-web:3"]);
    sets[0].status.as_mut().unwrap().replicas = 1;
    assert_eq!(
        summary(&planned(&present, &sets)),
        ["-web:2", "-web:3"],
        "one that still has a pod stays"
    );
}

#[test]
fn a_deleted_deployment_only_reports() {
    let mut gone = deployment(3);
    gone.metadata.deletion_timestamp = Some(crate::pods::testing::ago(1));
    assert_eq!(summary(&planned(&gone, &[])), [""; 0]);
}

/// Plays the API server and the ReplicaSet controller: every pod becomes available one pass after it was asked for.
#[test]
fn every_roll_out_ends_within_its_fences() {
    let text = |text: &str| IntOrString::String(text.into());
    let fences = [
        (IntOrString::Int(1), IntOrString::Int(0)),
        (IntOrString::Int(0), IntOrString::Int(1)),
        (text("25%"), text("25%")),
        (text("100%"), text("100%")),
        (IntOrString::Int(0), IntOrString::Int(0)),
    ];
    for replicas in [0, 1, 2, 3, 10, 17] {
        for (surge, unavailable) in &fences {
            let first = with_fences(deployment(replicas), surge.clone(), unavailable.clone());
            let mut deployment = with_image(first.clone(), "web:2");
            let mut sets = vec![replica_set(&first, replicas, replicas, 1)];
            let limits = Fences::of(&deployment);
            let mut passes = 0;
            loop {
                let changes = planned(&deployment, &sets);
                let settled = !changes.iter().any(|change| !matches!(change, Change::LookAgain(_)));
                changes
                    .into_iter()
                    .for_each(|change| apply(change, &mut deployment, &mut sets));
                let total: i32 = sets.iter().map(size).sum();
                let up: i32 = sets.iter().map(|set| available(set).min(size(set))).sum();
                assert!(
                    total <= replicas + limits.surge,
                    "{total} pods of {replicas} {limits:?}"
                );
                assert!(
                    up >= replicas - limits.unavailable,
                    "{up} available of {replicas} {limits:?}"
                );
                sets.iter_mut().for_each(follow);
                if settled && status::is_complete(&deployment, deployment.status.as_ref().unwrap()) {
                    break;
                }
                passes += 1;
                assert!(passes < 100, "no end: {replicas} {limits:?} {sets:?}");
            }
            assert_eq!(sets.iter().map(size).collect::<Vec<_>>(), [0, replicas]);
            assert_eq!(revision_of(&deployment), 2);
        }
    }
}

fn apply(change: Change, deployment: &mut Deployment, sets: &mut Vec<ReplicaSet>) {
    match change {
        Change::Number(revision) => {
            let annotations = deployment.metadata.annotations.get_or_insert_default();
            annotations.insert(revision::REVISION.into(), revision.to_string());
        }
        Change::Create(set) => {
            let mut set = *set;
            set.metadata.uid = Some(format!("{}-uid", set.name()));
            sets.push(set);
        }
        Change::Update(set) | Change::Scale { set, .. } => {
            let place = sets.iter_mut().find(|other| other.uid() == set.uid()).unwrap();
            *place = *set;
        }
        Change::Delete(set) => sets.retain(|other| other.uid() != set.uid()),
        Change::Status(status) => deployment.status = Some(*status),
        Change::LookAgain(_) => {}
    }
}

fn follow(set: &mut ReplicaSet) {
    let size = size(set);
    let status = set.status.get_or_insert_default();
    (status.replicas, status.ready_replicas, status.available_replicas) = (size, Some(size), Some(size));
}
