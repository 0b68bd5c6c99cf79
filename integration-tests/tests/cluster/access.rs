//! Who may do what.

use integration_tests::{Cluster, program};

use crate::{has, namespace};

pub fn access(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let n = namespace(cluster, "access");
    assert_eq!(kubectl.run("auth can-i '*' '*' --all-namespaces"), "yes\n");
    let as_account = format!("--as=system:serviceaccount:{n}:default");
    assert_eq!(
        kubectl
            .call(&format!("auth can-i list secrets -n {n} {as_account}"))
            .out,
        "no\n"
    );
    has(
        &kubectl.fail(&format!("get secrets -n {n} {as_account}")),
        &[
            "(Forbidden)",
            "secrets is forbidden",
            "cannot list resource \"secrets\" in API group \"\" in the namespace \"access\"",
        ],
    );
    kubectl.run(&format!("create role reader -n {n} --verb=get,list --resource=secrets"));
    kubectl.run(&format!(
        "create rolebinding reader -n {n} --role=reader --serviceaccount={n}:default"
    ));
    integration_tests::eventually("the role takes effect", || {
        kubectl.call(&format!("get secrets -n {n} {as_account}")).code == 0
    });
    let token = kubectl.run(&format!("create token default -n {n}"));
    let server = kubectl.run("config view -o jsonpath={.clusters[0].cluster.server}");
    let empty = cluster.dir().join("empty.kubeconfig");
    let config = format!(
        "apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{server: '{server}', insecure-skip-tls-verify: true}}}}]\nusers: [{{name: u, user: {{token: '{}'}}}}]\ncontexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n",
        token.trim()
    );
    std::fs::write(&empty, config).expect("write a kubeconfig");
    let with_token = |line: &str| {
        let output = std::process::Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(&empty)
            .args(line.split(' '))
            .output();
        let output = output.expect("run kubectl");
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    assert!(
        with_token(&format!("get secrets -n {n}")).0,
        "a token of the account lists secrets"
    );
    assert!(!with_token(&format!("get pods -n {n}")).0, "and nothing else");
    has(&with_token("auth whoami").1, &["system:serviceaccount:access:default"]);

    for daemon in [
        "kube-apiserver",
        "kube-scheduler",
        "kube-controller-manager",
        "kubelet",
        "kube-proxy",
    ] {
        let wrong = std::process::Command::new(program(daemon))
            .arg("--no-such-flag")
            .output()
            .expect("run it");
        let complaint = String::from_utf8_lossy(&wrong.stderr);
        assert_eq!(wrong.status.code(), Some(2), "{daemon}: {complaint}");
        assert_eq!(complaint.trim_end().lines().count(), 1, "{daemon}: {complaint}");
        assert!(complaint.contains("--no-such-flag"), "{daemon}: {complaint}");
        let help = std::process::Command::new(program(daemon))
            .arg("--help")
            .output()
            .expect("run it");
        assert!(help.status.success() && help.stdout.len() > 500, "{daemon} --help");
    }
}
