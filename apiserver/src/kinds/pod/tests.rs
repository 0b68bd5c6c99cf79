//! Tables: an object or a change, and what upstream says of it.

use serde_json::{Value, json};

use super::*;
use crate::kinds::field::Field;

/// A small pod with a part of it replaced, defaulted.
fn pod(pointer: &str, value: Value) -> Value {
    let mut pod = json!({"metadata": {"name": "p", "namespace": "default"},
        "spec": {"serviceAccountName": "default", "containers": [{"name": "a", "image": "b"}]}});
    put(&mut pod, pointer, value);
    Pod.default(&mut pod);
    pod
}

fn put(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    for part in pointer.split('/').skip(1) {
        at = match part.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[part],
        };
    }
    *at = value;
}

fn shown(errors: Errors) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn created(pointer: &str, value: Value) -> Vec<String> {
    let mut errors = Errors::new();
    validate::pod_create(&Field::root("", &pod(pointer, value)), &mut errors);
    shown(errors)
}

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

#[test]
fn containers_are_checked() {
    let c = "/spec/containers";
    let cases: Vec<(&str, Value, Vec<String>)> = vec![
        (c, json!([]), vec!["spec.containers: Required value".into()]),
        (
            c,
            json!([{"name": "A", "image": ""}]),
            vec![
                format!("spec.containers[0].name: Invalid value: \"A\": {LABEL}"),
                "spec.containers[0].image: Required value".into(),
            ],
        ),
        (
            c,
            json!([{"name": "a", "image": "b"}, {"name": "a", "image": "b"}]),
            vec!["spec.containers[1].name: Duplicate value: \"a\"".into()],
        ),
        (
            c,
            json!([{"name": "a", "image": " b"}]),
            vec!["spec.containers[0].image: Invalid value: \" b\": must not have leading or trailing whitespace".into()],
        ),
        (
            c,
            json!([{"name": "a", "image": "b", "volumeMounts": [{"name": "v", "mountPath": "/x", "subPath": "/y"}]}]),
            vec![
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\"".into(),
                "spec.containers[0].volumeMounts.subPath: Invalid value: \"/y\": must be a relative path".into(),
            ],
        ),
        (
            c,
            json!([{"name": "a", "image": "b", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}, "ports": [{"containerPort": 99999}]}]),
            vec![
                "spec.containers[0].ports[0].containerPort: Invalid value: 99999: must be between 1 and 65535, inclusive".into(),
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1".into(),
            ],
        ),
        (
            c,
            json!([{"name": "a", "image": "b", "livenessProbe": {}}]),
            vec!["spec.containers[0].livenessProbe: Required value: must specify a handler type".into()],
        ),
        (
            c,
            json!([{"name": "a", "image": "b", "readinessProbe": {"exec": {"command": ["x"]}, "terminationGracePeriodSeconds": 5}}]),
            vec!["spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 5: must not be set for readinessProbes".into()],
        ),
        (
            c,
            json!([{"name": "a", "image": "b", "env": [{"name": "", "value": "x"}, {"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels"}}}]}]),
            vec![
                "spec.containers[0].env[0].name: Required value".into(),
                "spec.containers[0].env[1].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty".into(),
                "spec.containers[0].env[2].valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"".into(),
            ],
        ),
        (
            c,
            json!([{"name": "a", "image": "b", "imagePullPolicy": "Sometimes"}]),
            vec!["spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"".into()],
        ),
        (
            c,
            json!([{"name": "a", "image": "b", "resources": {"limits": {"hugepages-2Mi": "1Mi", "example.com/gpu": "500m"}}}]),
            vec![
                "spec.containers[0].resources.limits[example.com/gpu]: Invalid value: \"500m\": must be an integer".into(),
                "spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: \"1Mi\": 1Mi is not positive integer multiple of hugepages-2Mi".into(),
                "spec.containers[0].resources.requests[example.com/gpu]: Invalid value: \"500m\": must be an integer".into(),
                "spec.containers[0].resources.requests[hugepages-2Mi]: Invalid value: \"1Mi\": 1Mi is not positive integer multiple of hugepages-2Mi".into(),
                "spec.containers[0].resources: Forbidden: HugePages require cpu or memory".into(),
            ],
        ),
        (
            c,
            json!([{"name": "a", "image": "b", "resources": {"requests": {"gpu": "1"}}}]),
            vec![
                "spec.containers[0].resources.requests[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified".into(),
                "spec.containers[0].resources.requests[gpu]: Invalid value: \"gpu\": must be a standard resource for containers".into(),
            ],
        ),
        (
            c,
            json!([{"name": "a", "image": "b", "lifecycle": {"preStop": {"sleep": {"seconds": 31}}}}]),
            vec!["spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)".into()],
        ),
        (
            "/spec/initContainers",
            json!([{"name": "i", "image": "b", "livenessProbe": {"exec": {"command": ["x"]}}}, {"name": "a", "image": "b", "restartPolicy": "Maybe"}]),
            vec![
                "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always".into(),
                "spec.initContainers[1].restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"Never\", \"OnFailure\"".into(),
                "spec.initContainers[1].name: Duplicate value: \"a\"".into(),
            ],
        ),
    ];
    for (pointer, value, want) in cases {
        assert_eq!(created(pointer, value.clone()), want, "{value}");
    }
}

#[test]
fn specs_are_checked() {
    let cases: Vec<(&str, Value, Vec<&str>)> = vec![
        (
            "/spec/restartPolicy",
            json!("Sometimes"),
            vec![
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ],
        ),
        (
            "/spec/dnsPolicy",
            json!("None"),
            vec!["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
        ),
        (
            "/spec/tolerations",
            json!([{"value": "x"}, {"key": "a", "operator": "In"}]),
            vec![
                "spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
                "spec.tolerations[1].operator: Unsupported value: \"In\": supported values: \"Equal\", \"Exists\"",
            ],
        ),
        (
            "/spec/activeDeadlineSeconds",
            json!(0),
            vec!["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
        ),
        (
            "/spec/hostAliases",
            json!([{"ip": "1.2.3", "hostnames": ["x"]}]),
            vec![
                "spec.hostAliases[0].ip: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ],
        ),
        (
            "/spec/topologySpreadConstraints",
            json!([{"maxSkew": 0, "whenUnsatisfiable": "No", "labelSelector": {}}]),
            vec![
                "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
                "spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty",
                "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"No\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
            ],
        ),
        (
            "/spec/schedulingGates",
            json!([{"name": "x/a"}, {"name": "x/a"}]),
            vec!["spec.schedulingGates[1]: Duplicate value: \"x/a\""],
        ),
        (
            "/spec/securityContext",
            json!({"runAsUser": -1, "sysctls": [{"name": "a..b", "value": "x"}], "seccompProfile": {"type": "Localhost"}}),
            vec![
                "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                "spec.securityContext.sysctls[0].name: Invalid value: \"a..b\": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
                "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
            ],
        ),
        (
            "/spec/affinity",
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}},
                "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 101, "podAffinityTerm": {"topologyKey": "a", "labelSelector": {}}}]}}),
            vec![
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term",
                "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100",
            ],
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "hostPath": {"path": "/a/../b"}}, {"name": "w", "configMap": {}}, {"name": "x", "emptyDir": {}, "secret": {"secretName": "s"}}]),
            vec![
                "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                "spec.volumes[1].configMap.name: Required value",
                "spec.volumes[2].secret: Forbidden: may not specify more than 1 volume type",
            ],
        ),
        (
            "/spec/os",
            json!({"name": "plan9"}),
            vec!["spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\""],
        ),
        (
            "/spec/ephemeralContainers",
            json!([{"name": "d", "image": "b"}]),
            vec!["spec.ephemeralContainers: Forbidden: cannot be set on create"],
        ),
        (
            "/spec/hostname",
            json!("a.b"),
            vec!["spec.hostname: Invalid value: \"a.b\": must not contain dots"],
        ),
    ];
    for (pointer, value, want) in cases {
        assert_eq!(created(pointer, value), want, "{pointer}");
    }
}

#[test]
fn only_a_few_fields_of_a_running_pod_change() {
    let old = pod("/spec/tolerations", json!([{"key": "a", "operator": "Exists"}]));
    let changed = |pointer: &str, value: Value| {
        let mut new = old.clone();
        put(&mut new, pointer, value);
        let mut errors = Errors::new();
        update::pod(&Field::root("", &new), &old, &mut errors);
        shown(errors)
    };
    let fine = Vec::<String>::new();
    assert_eq!(changed("/spec/containers/0/image", json!("b:2")), fine);
    assert_eq!(changed("/spec/activeDeadlineSeconds", json!(5)), fine);
    let more = json!([{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}]);
    assert_eq!(changed("/spec/tolerations", more), fine);
    assert_eq!(
        changed("/spec/tolerations", json!([])),
        ["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"]
    );
    assert_eq!(
        changed("/spec/nodeName", json!("n")),
        [
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
        ]
    );
    assert_eq!(
        changed("/spec/containers", json!([])),
        [
            "spec.containers: Required value",
            "spec.containers: Forbidden: pod updates may not add or remove containers"
        ]
    );
    assert_eq!(
        changed("/spec/schedulingGates", json!([{"name": "x/y"}])),
        ["spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'x/y'"]
    );
    assert_eq!(
        changed("/metadata/annotations", json!({"kubernetes.io/config.mirror": "x"}))[1],
        "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation"
    );
}

#[test]
fn a_gated_pod_may_only_narrow_its_choice() {
    let mut old = pod("/spec/schedulingGates", json!([{"name": "x/y"}]));
    put(&mut old, "/spec/nodeSelector", json!({"a": "1"}));
    let changed = |value: Value| {
        let mut new = old.clone();
        put(&mut new, "/spec/nodeSelector", value);
        let mut errors = Errors::new();
        update::pod(&Field::root("", &new), &old, &mut errors);
        shown(errors)
    };
    assert_eq!(changed(json!({"a": "1", "b": "2"})), Vec::<String>::new());
    assert_eq!(
        changed(json!({"b": "2"})),
        [
            "spec.nodeSelector: Invalid value: {\"b\":\"2\"}: only additions to spec.nodeSelector are allowed (no mutations or deletions)"
        ]
    );
}

#[test]
fn resizing() {
    let mut old = pod(
        "/spec/containers/0/resources",
        json!({"requests": {"cpu": "1", "memory": "1Gi"}}),
    );
    put(&mut old, "/status/qosClass", json!("Burstable"));
    let resized = |resources: Value| {
        let mut new = old.clone();
        put(&mut new, "/spec/containers/0/resources", resources);
        let mut errors = Errors::new();
        update::resize(&Field::root("", &new), &old, &mut errors);
        shown(errors)
    };
    assert_eq!(
        resized(json!({"requests": {"cpu": "2", "memory": "1Gi"}})),
        Vec::<String>::new()
    );
    assert_eq!(
        resized(json!({"requests": {"cpu": "2"}})),
        ["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"]
    );
    assert_eq!(
        resized(json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}})),
        ["spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing"]
    );
    assert_eq!(
        resized(json!({"requests": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"}})),
        ["spec: Forbidden: only cpu and memory resources are mutable"]
    );
}

#[test]
fn containers_that_ended_stay_ended() {
    let ended = json!([{"name": "a", "state": {"terminated": {"exitCode": 0}}}]);
    let runs = json!([{"name": "a", "state": {"running": {}}}]);
    let change = |policy: &str| {
        let mut old = pod("/spec/restartPolicy", json!(policy));
        put(
            &mut old,
            "/status",
            json!({"containerStatuses": ended, "qosClass": "BestEffort"}),
        );
        let mut new = old.clone();
        put(&mut new, "/status/containerStatuses", runs.clone());
        let mut errors = Errors::new();
        status::update(&Field::root("", &new), &old, &mut errors);
        shown(errors)
    };
    assert_eq!(change("Always"), Vec::<String>::new());
    for policy in ["Never", "OnFailure"] {
        assert_eq!(
            change(policy),
            ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"]
        );
    }
}

#[test]
fn doubtful_pods_are_warned_of() {
    let warned = |pointer: &str, value: Value| Pod.warnings(&pod(pointer, value), None);
    assert_eq!(
        warned(
            "/spec/containers/0/env",
            json!([{"name": "A", "value": "x"}, {"name": "A", "value": "y"}])
        ),
        ["spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply"]
    );
    assert_eq!(
        warned(
            "/spec/containers/0/ports",
            json!([{"containerPort": 80}, {"containerPort": 80}])
        ),
        ["spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]"]
    );
    assert_eq!(
        warned("/spec/nodeSelector", json!({"beta.kubernetes.io/os": "linux"})),
        ["spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead"]
    );
    assert_eq!(
        warned("/spec/containers/0/resources", json!({"limits": {"memory": "1500m"}})),
        [
            "spec.containers[0].resources.limits[memory]: fractional byte value \"1500m\" is invalid, must be an integer",
            "spec.containers[0].resources.requests[memory]: fractional byte value \"1500m\" is invalid, must be an integer"
        ]
    );
    assert_eq!(
        warned("/spec/terminationGracePeriodSeconds", json!(-1)),
        ["spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"]
    );
}

#[test]
fn quality_of_service() {
    let class = |requests: Value, limits: Value| {
        qos_class(&json!({"spec": {"containers": [{"resources": {"requests": requests, "limits": limits}}]}}))
    };
    let both = json!({"cpu": "1", "memory": "1Gi"});
    assert_eq!(class(json!({}), json!({})), "BestEffort");
    assert_eq!(class(both.clone(), both.clone()), "Guaranteed");
    assert_eq!(class(json!({"cpu": "500m", "memory": "1Gi"}), both), "Burstable");
    assert_eq!(class(json!({"cpu": "1"}), json!({})), "Burstable");
}

#[test]
fn label_keys_join_the_selector() {
    let mut pod = json!({"metadata": {"labels": {"v": "1"}}, "spec": {"topologySpreadConstraints": [{"labelSelector": {}, "matchLabelKeys": ["v", "w"]}]}});
    merge_label_keys(&mut pod);
    assert_eq!(
        pod["spec"]["topologySpreadConstraints"][0]["labelSelector"],
        json!({"matchExpressions": [{"key": "v", "operator": "In", "values": ["1"]}]})
    );
}
