//! Real clusters, used as a person uses them: with the stock kubectl.
//!
//! One cluster serves many phases, since making one is what takes time; each phase works in a namespace of its own.

mod access;
mod inspect;
mod members;
mod objects;
mod restarts;
mod streams;
mod workloads;

use integration_tests::{Cluster, Tools, poll};

type Phase = (&'static str, fn(&Cluster));

#[test]
fn a_cluster_serves_kubectl() {
    let phases: [Phase; 15] = [
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
        ("StatefulSets, DaemonSets, Jobs", workloads::sets),
        ("pods: environment, volumes, probes, init containers", workloads::pods),
        ("services and names", workloads::services),
        ("logs, exec, cp, port-forward", streams::streams),
        ("logs of the run before", streams::previous),
        ("who may", access::access),
        ("restarts disturb nothing", restarts::daemons),
        ("a node is drained, within disruption budgets", workloads::drain),
    ];
    run(&Cluster::start(1, 1), &phases);
}

/// Debian's, of Kubernetes 1.20: it validates with OpenAPI v2 and streams over SPDY.
#[test]
fn an_old_kubectl_works_as_well() {
    let old = Tools::new(env!("CARGO_TARGET_TMPDIR"))
        .debian("kubernetes-client")
        .join("usr/bin/kubectl");
    let phases: [Phase; 7] = [
        ("discovery and versions", inspect::discovery),
        ("a node as people see it", inspect::node),
        ("output formats and selectors", inspect::formats),
        (
            "create, apply, replace, patch, label, annotate, delete",
            objects::change,
        ),
        ("errors as upstream words them", objects::errors),
        ("rollouts", workloads::rollouts),
        ("logs, exec, cp, port-forward", streams::streams),
    ];
    run(&Cluster::start(1, 1).with_kubectl(old), &phases);
}

#[test]
fn three_machines_are_one_cluster() {
    let phases: [Phase; 3] = [
        ("pods and services across nodes", members::network),
        ("any API server may be lost", members::lose_each_api_server),
        ("a node may be lost", members::lose_a_node),
    ];
    run(&Cluster::start(3, 3), &phases);
}

/// Runs all phases on one cluster. One that fails does not hide what the later ones have to say.
fn run(cluster: &Cluster, phases: &[Phase]) {
    let failed: Vec<&str> = phases
        .iter()
        .filter(|(title, phase)| {
            eprintln!("phase: {title}");
            std::panic::catch_unwind(|| phase(cluster)).is_err()
        })
        .map(|(title, _)| *title)
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
