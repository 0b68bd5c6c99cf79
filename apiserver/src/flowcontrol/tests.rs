use std::sync::Arc;

use futures_util::FutureExt;
use serde_json::json;

use super::*;

fn user(name: &str, group: &str) -> UserInfo {
    UserInfo {
        name: name.into(),
        groups: vec![group.into(), "system:authenticated".into()],
        ..UserInfo::default()
    }
}

fn pods() -> Attributes {
    Attributes {
        verb: "list".into(),
        is_resource: true,
        version: "v1".into(),
        resource: "pods".into(),
        namespace: "a".into(),
        ..Attributes::default()
    }
}

fn control(limits: Limits) -> Arc<FlowControl> {
    Arc::new(FlowControl::new(limits, &prometheus::Registry::new()).unwrap())
}

/// Twelve seats, of which the level of ordinary users has two.
fn small() -> Arc<FlowControl> {
    let control = control(Limits {
        reads: 8,
        writes: 4,
        fair: true,
    });
    let schemas = defaults::flow_schemas().iter().map(FlowSchema::read).collect();
    let levels = defaults::levels().into_iter().map(|mut level| {
        if level["metadata"]["name"] == "global-default" {
            level["spec"]["limited"]["borrowingLimitPercent"] = json!(0);
        }
        LevelConfig::read(&level)
    });
    control.configure(schemas, levels.collect());
    control
}

#[tokio::test]
async fn a_flood_waits_and_the_components_do_not() {
    let control = small();
    let bob = user("bob", "dev");
    let mut held = Vec::new();
    let seats = control.levels.lock()["global-default"].nominal();
    for _ in 0..seats {
        held.push(control.admit(&bob, &pods(), |_| 1).await.unwrap());
    }
    let late = tokio::spawn({
        let (control, bob) = (control.clone(), bob.clone());
        async move { control.admit(&bob, &pods(), |_| 1).await.map(|permit| permit.waited) }
    });
    tokio::task::yield_now().await;
    assert!(!late.is_finished());
    for (name, group) in [
        ("system:kube-scheduler", "x"),
        ("system:node:n", "system:nodes"),
        ("kubernetes-admin", "system:masters"),
    ] {
        let user = user(name, group);
        let at_once = control.admit(&user, &pods(), |_| 1).now_or_never();
        assert!(matches!(at_once, Some(Ok(_))), "{name}");
    }
    drop(held.pop());
    late.await.unwrap().unwrap();
}

#[tokio::test]
async fn who_goes_away_leaves_no_trace() {
    let control = small();
    let bob = user("bob", "dev");
    let seats = control.levels.lock()["global-default"].nominal();
    let mut held = Vec::new();
    for _ in 0..seats {
        held.push(control.admit(&bob, &pods(), |_| 1).await.unwrap());
    }
    for _ in 0..3 {
        assert!(control.admit(&bob, &pods(), |_| 1).now_or_never().is_none());
    }
    drop(held);
    let again: Vec<_> = (0..seats)
        .map(|_| control.admit(&bob, &pods(), |_| 1).now_or_never())
        .collect();
    assert!(again.iter().all(|seat| matches!(seat, Some(Ok(_)))));
}

#[tokio::test]
async fn seats_that_nobody_uses_are_lent() {
    let control = control(Limits {
        reads: 8,
        writes: 4,
        fair: true,
    });
    let account = user("system:serviceaccount:a:b", "system:serviceaccounts");
    let pods = pods();
    let nominal = control.levels.lock()["workload-low"].nominal();
    let mut requests: Vec<_> = (0..nominal + 2)
        .map(|_| control.admit(&account, &pods, |_| 1).boxed())
        .collect();
    let held: Vec<_> = requests.iter_mut().map(FutureExt::now_or_never).collect();
    assert_eq!(held.iter().filter(|seat| seat.is_some()).count(), nominal as usize);
    control.adjust();
    for request in requests.into_iter().skip(nominal as usize) {
        assert!(matches!(request.now_or_never(), Some(Ok(_))));
    }
}

#[tokio::test]
async fn without_fairness_the_flags_bound() {
    let control = control(Limits {
        reads: 1,
        writes: 0,
        fair: false,
    });
    let bob = user("bob", "dev");
    let first = control.admit(&bob, &pods(), |_| 1).await.unwrap();
    assert_eq!(
        control.admit(&bob, &pods(), |_| 1).await.err(),
        Some(TooMany(Uids::default()))
    );
    assert!(control.admit(&user("root", MASTERS), &pods(), |_| 1).await.is_ok());
    let create = Attributes {
        verb: "create".into(),
        ..pods()
    };
    assert!(control.admit(&bob, &create, |_| 1).await.is_ok());
    drop(first);
    assert!(control.admit(&bob, &pods(), |_| 1).await.is_ok());
}

#[tokio::test]
async fn a_call_takes_one_seat_for_all_that_it_asks() {
    let control = control(Limits {
        reads: 1,
        writes: 0,
        fair: false,
    });
    let (bob, other) = (user("bob", "dev"), control.clone());
    call::scope(control.clone(), async {
        call::enter(&bob, &pods()).await.unwrap();
        call::enter(&bob, &pods()).await.unwrap();
        let refused = call::scope(other, call::enter(&bob, &pods())).await.unwrap_err();
        assert_eq!((refused.code, refused.retry_after_seconds()), (429, Some(1)));
    })
    .await;
    assert!(control.admit(&bob, &pods(), |_| 1).await.is_ok());
}
