//! Several machines: three of them with a control plane.

use integration_tests::{Cluster, Kubectl, poll};

use crate::{has, namespace};

/// Every API server answers for the cluster, and the loss of any is not noticed.
pub fn lose_each_api_server(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let n = namespace(cluster, "members");
    kubectl.run(&format!(
        "create deployment web -n {n} --image=keelson.dev/web:1 --replicas=3"
    ));
    kubectl.run(&format!("rollout status deployment/web -n {n} --timeout=90s"));
    let nodes = kubectl.run(&format!(
        "get pods -n {n} -o 'jsonpath={{range .items[*]}}{{.spec.nodeName}} {{end}}'"
    ));
    has(&nodes, &["node-1", "node-2", "node-3"]);
    let members = addresses(&kubectl);
    assert_eq!(members.len(), 3);
    for (i, (lost, _)) in members.iter().enumerate() {
        cluster.kill(lost, "kube-apiserver");
        let (_, left) = &members[(i + 1) % 3];
        let ask = |line: &str| {
            kubectl.call(&format!(
                "--server=https://{left}:6443 --request-timeout=10s -n {n} {line}"
            ))
        };
        poll("the others go on without it", || {
            let answer = ask(&format!("create configmap without-{lost}"));
            if answer.code == 0 { Ok(()) } else { Err(answer.err) }
        });
        let scaled = ask(&format!("scale deployment/web --replicas={}", 4 + i));
        assert_eq!(scaled.code, 0, "{}", scaled.err);
        let rolled = kubectl.call(&format!(
            "--server=https://{left}:6443 -n {n} rollout status deployment/web --timeout=90s"
        ));
        assert_eq!(
            rolled.code, 0,
            "controllers, scheduler and kubelets found another server: {}",
            rolled.err
        );
        cluster.keelson(&["up"]);
        poll("it is back with what it missed", || {
            let (_, address) = &members[i];
            let answer = kubectl.call(&format!(
                "--server=https://{address}:6443 --request-timeout=10s -n {n} get configmap without-{lost}"
            ));
            if answer.code == 0 { Ok(()) } else { Err(answer.err) }
        });
    }
}

/// Pods of different nodes reach each other, and services reach pods of any node.
pub fn network(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let n = namespace(cluster, "network");
    let k = |line: &str| kubectl.run(&format!("{line} -n {n}"));
    k("create deployment web --image=keelson.dev/web:1 --replicas=3 --port=8080");
    k("expose deployment web --port=80 --target-port=8080");
    k("rollout status deployment/web --timeout=90s");
    let all = "jsonpath={range .items[*]}{.metadata.name} {.status.podIP}{\"\\n\"}{end}";
    let pods = k(&format!("get pods -o '{all}'"));
    let pods: Vec<_> = pods.lines().filter_map(|line| line.split_once(' ')).collect();
    assert_eq!(pods.len(), 3);
    for (from, _) in &pods {
        for host in pods
            .iter()
            .map(|(_, ip)| format!("{ip}:8080"))
            .chain(["web".to_owned()])
        {
            poll("a page of another node", || {
                let answer = kubectl.call(&format!("exec {from} -n {n} -- timeout 5 wget -q -O - http://{host}/"));
                if answer.out.contains("Hello") {
                    Ok(())
                } else {
                    Err(format!("{from} -> {host}: {}", answer.err))
                }
            });
        }
    }
}

/// A node whose kubelet is silent is not ready, and its pods go elsewhere when they tolerate it no longer.
pub fn lose_a_node(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let n = namespace(cluster, "lost");
    let pod = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec:\n      tolerations:\n      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}\n      containers: [{name: web, image: 'keelson.dev/web:1'}]\n";
    kubectl.run_with(&format!("apply -n {n} -f -"), pod);
    kubectl.run(&format!("rollout status deployment/web -n {n} --timeout=90s"));
    let node = || {
        kubectl.run(&format!(
            "get pods -n {n} --field-selector=status.phase=Running -o 'jsonpath={{.items[0].spec.nodeName}}'"
        ))
    };
    let lost = node();
    cluster.kill(&lost, "kubelet");
    poll("the node is not ready", || {
        let said = kubectl.run(&format!("get node {lost}"));
        said.contains("NotReady").then_some(()).ok_or(said)
    });
    poll("the pod runs on another node", || {
        let pods = kubectl.run(&format!("get pods -n {n} -o wide"));
        let moved = pods
            .lines()
            .any(|line| line.contains("Running") && !line.contains(&lost));
        moved.then_some(()).ok_or(pods)
    });
    cluster.keelson(&["up"]);
    kubectl.run(&format!("wait --for=condition=Ready node/{lost} --timeout=90s"));
}

/// Names and addresses of the nodes.
fn addresses(kubectl: &Kubectl) -> Vec<(String, String)> {
    let path = "jsonpath={range .items[*]}{.metadata.name} {.status.addresses[0].address}{\"\\n\"}{end}";
    let nodes = kubectl.run(&format!("get nodes -o '{path}'"));
    let pairs = nodes.lines().filter_map(|line| line.split_once(' '));
    pairs
        .map(|(name, address)| (name.to_owned(), address.to_owned()))
        .collect()
}
