//! A real cluster of one node, used as a person uses it: with the stock kubectl.
//!
//! One cluster serves all phases, since making one is what takes time; each phase works in a namespace of its own.

mod access;
mod inspect;
mod objects;
mod restarts;
mod streams;
mod workloads;

use integration_tests::{Cluster, poll};

#[test]
fn a_cluster_serves_kubectl() {
    let cluster = Cluster::start(1, 1);
    let phases: [(&str, fn(&Cluster)); 13] = [
        ("discovery and versions", inspect::discovery),
        ("a node as people see it", inspect::node),
        ("output formats and selectors", inspect::formats),
        (
            "create, apply, replace, patch, label, annotate, delete",
            objects::change,
        ),
        ("errors as upstream words them", objects::errors),
        ("watch", objects::watch),
        ("rollouts", workloads::rollouts),
        ("pods: environment, volumes, probes, init containers", workloads::pods),
        ("services and names", workloads::services),
        ("logs, exec, cp, port-forward", streams::streams),
        ("who may", access::access),
        ("restarts disturb nothing", restarts::daemons),
        ("a node is drained, within disruption budgets", workloads::drain),
    ];
    // A phase that fails does not hide what the later ones have to say.
    let failed: Vec<&str> = phases
        .into_iter()
        .filter(|(title, phase)| {
            eprintln!("phase: {title}");
            std::panic::catch_unwind(|| phase(&cluster)).is_err()
        })
        .map(|(title, _)| title)
        .collect();
    assert!(failed.is_empty(), "failed: {failed:?}");
}

/// A namespace for a phase, with its default service account.
fn namespace(cluster: &Cluster, name: &str) -> String {
    let kubectl = cluster.kubectl();
    kubectl.run(&format!("create namespace {name}"));
    poll("the default service account", || {
        let answer = kubectl.call(&format!("get serviceaccount default -n {name}"));
        if answer.code == 0 { Ok(()) } else { Err(answer.err) }
    });
    name.to_owned()
}

/// Checks that a text has all these parts, in any order.
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "expected {part:?} in:\n{text}");
    }
}
