use serde_json::json;

use super::*;

fn standard(text: &str) -> LevelVersion {
    let (level, version) = text.split_once(':').unwrap();
    let labels =
        json!({"pod-security.kubernetes.io/enforce": level, "pod-security.kubernetes.io/enforce-version": version});
    let config = Policy::from_config(&Value::Null).unwrap();
    let (policy, faults) = Policy::of_labels(Some(&labels), config);
    assert!(faults.is_empty());
    policy.enforce
}

fn said(level: &str, spec: Value) -> String {
    details(&evaluate(standard(level), &json!({}), &spec))
}

#[test]
fn a_plain_pod_is_not_restricted() {
    let want = "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
        unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
        runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
        seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")";
    let plain = json!({"containers": [{"name": "c"}]});
    assert_eq!(said("restricted:latest", plain.clone()), want);
    assert_eq!(said("baseline:latest", plain.clone()), "");
    assert_eq!(said("privileged:latest", json!({"hostNetwork": true})), "");
    // Before 1.8 there was no such field, before 1.19 no such profile, before 1.22 nothing had to be dropped.
    let old = "runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true)";
    assert_eq!(said("restricted:v1.7", plain), old);
    let good = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}, "containers": [{"name": "c",
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}]});
    assert_eq!(said("restricted:latest", good), "");
}

#[test]
fn each_check_says_what_is_wrong() {
    let one = |context: Value| json!({"containers": [{"name": "a", "securityContext": context}]});
    for (level, spec, want) in [
        (
            "baseline:latest",
            json!({"hostPID": true, "hostNetwork": true}),
            "host namespaces (hostNetwork=true, hostPID=true)",
        ),
        (
            "baseline:latest",
            json!({"volumes": [{"name": "v", "hostPath": {}}]}),
            "hostPath volumes (volume \"v\")",
        ),
        (
            "baseline:latest",
            json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 0}]}, {"name": "b", "ports": [{"hostPort": 443}]}]}),
            "hostPort (containers \"a\", \"b\" use hostPorts 443, 80)",
        ),
        (
            "baseline:latest",
            json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "x"}}}]}),
            "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"x\")",
        ),
        (
            "baseline:v1.33",
            json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "x"}}}]}),
            "",
        ),
        (
            "baseline:latest",
            one(json!({"privileged": true})),
            "privileged (container \"a\" must not set securityContext.privileged=true)",
        ),
        (
            "baseline:latest",
            one(json!({"procMount": "Unmasked"})),
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            "baseline:latest",
            one(json!({"capabilities": {"add": ["NET_RAW", "CHOWN"]}})),
            "non-default capabilities (container \"a\" must not include \"NET_RAW\" in securityContext.capabilities.add)",
        ),
        (
            "baseline:latest",
            one(json!({"seLinuxOptions": {"type": "x", "user": "u"}})),
            "seLinuxOptions (container \"a\" set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set)",
        ),
        (
            "baseline:latest",
            one(json!({"seccompProfile": {"type": "Unconfined"}})),
            "seccompProfile (container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            "baseline:latest",
            json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}),
            "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\")",
        ),
        (
            "baseline:v1.26",
            json!({"securityContext": {"sysctls": [{"name": "net.ipv4.ip_local_reserved_ports"}]}}),
            "forbidden sysctls (net.ipv4.ip_local_reserved_ports)",
        ),
        (
            "baseline:v1.27",
            json!({"securityContext": {"sysctls": [{"name": "net.ipv4.ip_local_reserved_ports"}]}}),
            "",
        ),
        (
            "baseline:latest",
            json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        (
            "restricted:latest",
            json!({"volumes": [{"name": "v", "hostPath": {}}, {"name": "n", "nfs": {}}, {"name": "e", "emptyDir": {}}]}),
            "restricted volume types (volumes \"v\", \"n\" use restricted volume types \"hostPath\", \"nfs\")",
        ),
        (
            "restricted:latest",
            json!({"securityContext": {"runAsUser": 0, "runAsNonRoot": false}}),
            "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false), runAsUser=0 (pod must not set runAsUser=0)",
        ),
        (
            "restricted:latest",
            json!({"hostUsers": false, "securityContext": {"runAsUser": 0}}),
            "",
        ),
    ] {
        assert_eq!(said(level, spec.clone()), want, "{level} {spec}");
    }
}

#[test]
fn labels_make_the_policy() {
    let defaults = Policy::from_config(&json!({"audit": "baseline"})).unwrap();
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "v1.30"});
    let (policy, faults) = Policy::of_labels(Some(&labels), defaults);
    assert!(faults.is_empty());
    assert_eq!(policy.enforce.to_string(), "restricted:v1.30");
    assert_eq!(policy.audit.to_string(), "baseline:latest");
    assert_eq!(policy.warn.to_string(), "restricted:v1.30");
    assert_eq!(policy.labelled(Some(&labels)), "enforce=restricted:v1.30");
    let labels =
        json!({"pod-security.kubernetes.io/enforce": "strict", "pod-security.kubernetes.io/warn-version": "1.2"});
    let (policy, faults) = Policy::of_labels(Some(&labels), defaults);
    assert_eq!(policy.enforce.level, Level::Restricted);
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        faults,
        [
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted",
            "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"1.2\": must be \"latest\" or \"v1.x\"",
        ]
    );
    assert!(Policy::from_config(&json!({"enforce": "strict"})).is_err());
}

#[test]
fn pods_with_one_fault_share_a_warning() {
    assert_eq!(one_warning("privileged", vec!["b"]), "b: privileged");
    assert_eq!(
        one_warning("privileged", vec!["b", "a"]),
        "a (and 1 other pod): privileged"
    );
    assert_eq!(
        one_warning("privileged", vec!["b", "a", "c"]),
        "a (and 2 other pods): privileged"
    );
}

#[test]
fn only_images_and_new_containers_matter_in_an_update() {
    let old = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
    let mut new = old.clone();
    new["metadata"]["labels"]["a"] = json!("c");
    assert!(!is_significant(&new, &old));
    new["spec"]["ephemeralContainers"] = json!([{"name": "e", "image": "y"}]);
    assert!(is_significant(&new, &old));
}
