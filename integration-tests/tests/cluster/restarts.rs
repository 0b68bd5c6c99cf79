//! Daemons that are killed and started again: containers and connections go on.

use integration_tests::{Cluster, poll};

use crate::namespace;

pub fn daemons(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let n = namespace(cluster, "restarts");
    let k = |line: &str| kubectl.run(&format!("{line} -n {n}"));
    k("create deployment web --image=keelson.dev/web:1 --replicas=2");
    k("rollout status deployment/web --timeout=90s");
    let range = "{range .items[*]}{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}\n{end}";
    let containers = || {
        kubectl.run(&format!(
            "get pods -n {n} --sort-by=.metadata.name -o 'jsonpath={range}'"
        ))
    };
    let before = containers();
    for daemon in [
        "kube-apiserver",
        "kube-scheduler",
        "kube-controller-manager",
        "kubelet",
        "kube-proxy",
    ] {
        cluster.kill("node-1", daemon);
    }
    cluster.keelson(&["up"]);
    poll("the API answers with everything that it had", || {
        let answer = kubectl.call(&format!("get deployment web -n {n}"));
        if answer.code == 0 { Ok(()) } else { Err(answer.err) }
    });
    assert_eq!(containers(), before, "the same containers run on");
    k("scale deployment/web --replicas=3");
    k("wait --for=jsonpath={.status.readyReplicas}=3 deployment/web --timeout=90s");
}
