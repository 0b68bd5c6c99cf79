//! Changing objects, and what happens when that goes wrong.

use std::io::{BufRead, BufReader};

use integration_tests::{Cluster, poll};

use crate::{has, namespace};

const CONFIG: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: '1', b: '2'}\n";

pub fn change(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let n = namespace(cluster, "objects");
    let data = || kubectl.run(&format!("get configmap c -n {n} -o jsonpath={{.data}}"));
    assert_eq!(
        kubectl.run_with(&format!("apply -n {n} -f -"), CONFIG),
        "configmap/c created\n"
    );
    assert_eq!(
        kubectl.run_with(&format!("apply -n {n} -f -"), CONFIG),
        "configmap/c unchanged\n"
    );
    let less = CONFIG.replace(", b: '2'", ", c: '3'");
    assert_eq!(
        kubectl.run_with(&format!("apply -n {n} -f -"), &less),
        "configmap/c configured\n"
    );
    assert_eq!(data(), r#"{"a":"1","c":"3"}"#, "apply removes what is no longer there");
    kubectl.run_with(&format!("replace -n {n} -f -"), CONFIG);
    kubectl.run(&format!(
        "patch configmap c -n {n} --type=merge -p '{{\"data\":{{\"b\":null}}}}'"
    ));
    kubectl.run(&format!(
        "patch configmap c -n {n} --type=json -p '[{{\"op\":\"add\",\"path\":\"/data/d\",\"value\":\"4\"}}]'"
    ));
    kubectl.run(&format!("patch configmap c -n {n} -p '{{\"data\":{{\"e\":\"5\"}}}}'"));
    assert_eq!(data(), r#"{"a":"1","d":"4","e":"5"}"#);
    kubectl.run(&format!("annotate configmap c -n {n} note=x"));
    kubectl.run(&format!("label configmap c -n {n} k=v"));
    let meta = kubectl.run(&format!(
        "get configmap c -n {n} -o jsonpath={{.metadata.annotations.note}}{{.metadata.labels.k}}"
    ));
    assert_eq!(meta, "xv");
    let mut edit = kubectl.command(&format!("edit configmap c -n {n}"));
    edit.env("KUBE_EDITOR", "sed -i s/'\"5\"'/'\"6\"'/");
    let edited = edit.output().expect("run kubectl");
    has(&String::from_utf8_lossy(&edited.stdout), &["configmap/c edited"]);
    assert_eq!(data(), r#"{"a":"1","d":"4","e":"6"}"#);
    assert_eq!(
        kubectl.run_with(
            &format!("apply -n {n} --server-side --field-manager=other -f -"),
            &CONFIG.replace("name: c", "name: s")
        ),
        "configmap/s serverside-applied\n"
    );
    assert_eq!(
        kubectl.run(&format!("delete configmap c -n {n}")),
        format!("configmap \"c\" deleted{}\n", suffix(&kubectl, &n))
    );
    has(
        &kubectl.run(&format!(
            "create deployment d -n {n} --image=keelson.dev/web:1 --replicas=0 --dry-run=server -o name"
        )),
        &["deployment.apps/d"],
    );
    has(&kubectl.fail(&format!("get deployment d -n {n}")), &["NotFound"]);
    kubectl.run(&format!("delete namespace {n}"));
    has(&kubectl.fail(&format!("get namespace {n}")), &["NotFound"]);
}

/// Newer kubectls name the namespace.
fn suffix(kubectl: &integration_tests::Kubectl, namespace: &str) -> String {
    let name = "kube-root-ca.crt";
    let said = kubectl.run(&format!("delete configmap {name} -n {namespace}"));
    said.trim_end()
        .trim_start_matches(&format!("configmap \"{name}\" deleted"))
        .to_owned()
}

pub fn errors(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let n = namespace(cluster, "errors");
    kubectl.run_with(&format!("create -n {n} -f -"), CONFIG);
    let again = kubectl.call_with(&format!("create -n {n} -f -"), CONFIG);
    has(
        &again.err,
        &["Error from server (AlreadyExists)", "configmaps \"c\" already exists"],
    );
    has(
        &kubectl.fail(&format!("get configmap none -n {n}")),
        &["Error from server (NotFound): configmaps \"none\" not found"],
    );
    has(
        &kubectl.fail("get gadgets"),
        &["the server doesn't have a resource type \"gadgets\""],
    );
    let invalid = kubectl.call_with(
        &format!("create -n {n} -f -"),
        &CONFIG.replace("name: c", "name: Not_Valid"),
    );
    has(
        &invalid.err,
        &[
            "metadata.name: Invalid value: \"Not_Valid\"",
            "lowercase RFC 1123 subdomain",
        ],
    );
    let unknown = kubectl.call_with(
        &format!("create -n {n} -f -"),
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: u}\ndatum: {}\n",
    );
    has(&unknown.err, &["unknown field \"datum\""]);
    let stale = CONFIG.replace("{name: c}", "{name: c, resourceVersion: '1'}");
    has(
        &kubectl.call_with(&format!("replace -n {n} -f -"), &stale).err,
        &["(Conflict)", "the object has been modified"],
    );
    has(&kubectl.fail("get --raw /apis/none/v1"), &["NotFound"]);
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: x}}, spec: {containers: []}}}\n";
    let refused = kubectl.call_with(&format!("create -n {n} -f -"), deployment).err;
    has(
        &refused,
        &[
            "spec.template.spec.containers: Required value",
            "`selector` does not match template `labels`",
        ],
    );
    // It is the server that is asked here.
    let wrong = kubectl.call_with(
        &format!("create --validate=false -n {n} -f -"),
        &CONFIG.replace("{a: '1', b: '2'}", "7"),
    );
    assert!(wrong.code != 0 && wrong.err.contains("(BadRequest)"), "{}", wrong.err);
}

pub fn watch(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let n = namespace(cluster, "watching");
    let mut watch = kubectl.start(&format!(
        "get configmaps -n {n} -w --output-watch-events --no-headers -l w=1"
    ));
    let mut lines = BufReader::new(watch.stdout.take().expect("its output")).lines();
    let mut next = |expected: [&str; 2]| {
        let line = lines.next().expect("a line").expect("text");
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(&words[..2], expected, "{line}");
    };
    // Whether the watch or the object came first does not matter.
    kubectl.run_with(
        &format!("create -n {n} -f -"),
        &CONFIG.replace("{name: c}", "{name: c, labels: {w: '1'}}"),
    );
    next(["ADDED", "c"]);
    kubectl.run(&format!("patch configmap c -n {n} -p '{{\"data\":{{\"e\":\"5\"}}}}'"));
    next(["MODIFIED", "c"]);
    kubectl.run(&format!("label configmap c -n {n} w-"));
    next(["DELETED", "c"]);
    watch.kill().expect("end kubectl");
    watch.wait().expect("wait for kubectl");
    kubectl.run(&format!(
        "wait configmap/c -n {n} --for=jsonpath={{.data.e}}=5 --timeout=10s"
    ));
    poll("events of the namespace", || {
        let events = kubectl.call("events -A");
        if events.code == 0 { Ok(()) } else { Err(events.err) }
    });
}
