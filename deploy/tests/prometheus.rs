//! The metrics of the alerts, as the daemons name them. That Prometheus reads its configuration is for integration-tests/tests/clients to say.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .to_owned()
}

fn file(name: &str) -> String {
    fs::read_to_string(workspace().join("deploy/prometheus").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Words of the rules' expressions that begin as the suite's metrics do.
fn metrics_in_rules() -> BTreeSet<String> {
    let rules = file("alerts.yaml");
    let words = rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let prefixes = [
        "keelson_",
        "apiserver_",
        "workqueue_",
        "scheduler_",
        "kubelet_",
        "kubeproxy_",
        "process_",
    ];
    words
        .filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_metric_of_a_rule_is_one_that_a_daemon_has() {
    let metrics = metrics_in_rules();
    assert!(metrics.len() > 8, "{metrics:?}");
    let mut sources = String::new();
    for folder in [
        "libs",
        "apiserver",
        "scheduler",
        "controller-manager",
        "kubelet",
        "kube-proxy",
    ] {
        collect(&workspace().join(folder), &mut sources);
    }
    let missing: Vec<&String> = metrics
        .iter()
        .filter(|metric| {
            let family = metric.trim_end_matches("_bucket");
            // kube-proxy writes its prefix once.
            let names = [family, family.trim_start_matches("kubeproxy_")];
            !names.iter().any(|name| sources.contains(&format!("\"{name}\"")))
        })
        .collect();
    assert_eq!(missing, Vec::<&String>::new());
}

/// The text of every Rust file below `folder`.
fn collect(folder: &Path, sources: &mut String) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&fs::read_to_string(&path).expect("a source file"));
        }
    }
}
