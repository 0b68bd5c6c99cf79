//! Looking at a cluster.

use integration_tests::Cluster;

use crate::{has, namespace};

pub fn discovery(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    has(&kubectl.run("version -o json"), &["serverVersion", "\"v1.35"]);
    has(&kubectl.run("cluster-info"), &["control plane", "https://"]);
    has(
        &kubectl.run("api-versions"),
        &["v1\n", "apps/v1\n", "batch/v1\n", "rbac.authorization.k8s.io/v1\n"],
    );
    let resources = kubectl.run("api-resources");
    for kind in [
        "Pod",
        "Deployment",
        "Service",
        "EndpointSlice",
        "ClusterRole",
        "CronJob",
        "NetworkPolicy",
        "Lease",
    ] {
        assert!(
            resources.lines().any(|line| line.trim_end().ends_with(kind)),
            "{kind} in:\n{resources}"
        );
    }
    has(&resources, &["po ", "deploy ", "svc "]);
    assert_eq!(kubectl.run("get --raw /readyz"), "ok");
}

pub fn node(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let nodes = kubectl.run("get nodes -o wide");
    has(
        &nodes,
        &[
            "NAME",
            "STATUS",
            "ROLES",
            "AGE",
            "VERSION",
            "INTERNAL-IP",
            "node-1",
            "Ready",
            "containerd://",
        ],
    );
    let described = kubectl.run("describe node node-1");
    has(
        &described,
        &[
            "Conditions:",
            "MemoryPressure",
            "KubeletReady",
            "Capacity:",
            "Allocatable:",
            "System Info:",
            "Container Runtime Version:",
            "PodCIDR:",
            "Non-terminated Pods:",
            "Allocated resources:",
            "kube-node-lease",
        ]
        .map(|part| if part == "kube-node-lease" { "Lease:" } else { part }),
    );
    kubectl.run("cordon node-1");
    has(&kubectl.run("get node node-1"), &["Ready,SchedulingDisabled"]);
    kubectl.run("uncordon node-1");
    kubectl.run("taint node node-1 team=a:PreferNoSchedule");
    has(&kubectl.run("describe node node-1"), &["team=a:PreferNoSchedule"]);
    kubectl.run("taint node node-1 team-");
}

pub fn formats(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let namespace = namespace(cluster, "formats");
    for (name, tier) in [("a", "front"), ("b", "back")] {
        kubectl.run(&format!(
            "create configmap {name} -n {namespace} --from-literal=key={name}"
        ));
        kubectl.run(&format!("label configmap {name} -n {namespace} tier={tier}"));
    }
    let get = |rest: &str| kubectl.run(&format!("get configmaps -n {namespace} {rest}"));
    assert_eq!(get("-l tier=front -o name"), "configmap/a\n");
    assert_eq!(get("-l 'tier in (back)' -o jsonpath={.items[*].data.key}"), "b");
    assert_eq!(get("--field-selector metadata.name=b -o name"), "configmap/b\n");
    assert_eq!(get("-o custom-columns=N:.metadata.name --no-headers -l tier"), "a\nb\n");
    assert_eq!(
        get("-l tier -o go-template='{{range .items}}{{.metadata.name}}{{end}}'"),
        "ab"
    );
    has(&get("-o yaml"), &["apiVersion: v1", "kind: List", "key: a"]);
    has(&get("a -o json"), &["\"kind\": \"ConfigMap\"", "\"resourceVersion\""]);
    has(&get("--show-labels"), &["LABELS", "tier=front"]);
    has(&get("-L tier"), &["TIER", "front"]);
    has(
        &kubectl.run("get configmaps -A"),
        &["NAMESPACE", "kube-root-ca.crt", "kube-system"],
    );
    has(
        &kubectl.run("get namespaces --sort-by=.metadata.name"),
        &["default", "kube-node-lease", "kube-public"],
    );
}
