//! The FlowSchemas and PriorityLevelConfigurations of every cluster: upstream's mandatory and suggested ones.

use serde_json::{Value, json};

/// Annotation of objects that follow the defaults until somebody says `false`.
pub const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
/// The kinds' group and version.
pub const API_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";

/// True for objects that are put right whatever their annotation says.
pub fn is_mandatory(name: &str) -> bool {
    matches!(name, "exempt" | "catch-all")
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name, "annotations": {AUTOUPDATE: "true"}}, "spec": spec})
}

/// Every default PriorityLevelConfiguration.
pub fn levels() -> Vec<Value> {
    let queuing = |name: &str, shares: u32, lendable: u32, queues: u32, hand: u32| {
        let response =
            json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": 50}});
        let limited =
            json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
        object(
            "PriorityLevelConfiguration",
            name,
            json!({"type": "Limited", "limited": limited}),
        )
    };
    let last = json!({"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}});
    vec![
        object(
            "PriorityLevelConfiguration",
            "exempt",
            json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}),
        ),
        object(
            "PriorityLevelConfiguration",
            "catch-all",
            json!({"type": "Limited", "limited": last}),
        ),
        queuing("system", 30, 33, 64, 6),
        queuing("node-high", 40, 25, 64, 6),
        queuing("leader-election", 10, 0, 16, 4),
        queuing("workload-high", 40, 50, 128, 6),
        queuing("workload-low", 100, 90, 128, 6),
        queuing("global-default", 20, 50, 128, 6),
    ]
}

fn group(name: &str) -> Value {
    json!({"kind": "Group", "group": {"name": name}})
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

fn account(name: &str) -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"name": name, "namespace": "kube-system"}})
}

fn resources(verbs: &[&str], group: &str, resources: &[&str], namespaces: &[&str], cluster: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": namespaces});
    if cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

fn schema(name: &str, level: &str, precedence: u32, distinguisher: &str, rule: Value) -> Value {
    let mut spec =
        json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [rule]});
    if !distinguisher.is_empty() {
        spec["distinguisherMethod"] = json!({"type": distinguisher});
    }
    object("FlowSchema", name, spec)
}

/// Whatever these subjects ask for.
fn all_of(subjects: &[Value]) -> Value {
    json!({
        "subjects": subjects, "resourceRules": [resources(&["*"], "*", &["*"], &["*"], true)],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    })
}

/// Every default FlowSchema.
pub fn flow_schemas() -> Vec<Value> {
    const LEASES: &str = "coordination.k8s.io";
    let everybody = [group("system:unauthenticated"), group("system:authenticated")];
    let (manager, scheduler) = (user("system:kube-controller-manager"), user("system:kube-scheduler"));
    let change = &["get", "create", "update"];
    let leases = resources(change, LEASES, &["leases"], &["*"], false);
    let probes = json!({"subjects": everybody, "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]});
    let nodes = json!({"subjects": [group("system:nodes")], "resourceRules": [
        resources(&["*"], "", &["nodes", "nodes/status"], &["*"], true), resources(&["*"], LEASES, &["leases"], &["kube-node-lease"], false),
    ]});
    let endpoints = json!({
        "subjects": [manager, account("endpoint-controller"), account("endpointslicemirroring-controller")],
        "resourceRules": [resources(change, "", &["endpoints"], &["*"], false)],
    });
    vec![
        schema("exempt", "exempt", 1, "", all_of(&[group("system:masters")])),
        schema("probes", "exempt", 2, "", probes),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            "ByUser",
            json!({"subjects": [manager, scheduler, account("*")], "resourceRules": [leases]}),
        ),
        schema("endpoint-controller", "workload-high", 150, "ByUser", endpoints),
        schema(
            "workload-leader-election",
            "leader-election",
            200,
            "ByUser",
            json!({"subjects": [account("*")], "resourceRules": [leases]}),
        ),
        schema("system-node-high", "node-high", 400, "ByUser", nodes),
        schema(
            "system-nodes",
            "system",
            500,
            "ByUser",
            all_of(&[group("system:nodes")]),
        ),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            "ByNamespace",
            all_of(std::slice::from_ref(&manager)),
        ),
        schema(
            "kube-scheduler",
            "workload-high",
            800,
            "ByNamespace",
            all_of(std::slice::from_ref(&scheduler)),
        ),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            "ByNamespace",
            all_of(&[account("*")]),
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            "ByUser",
            all_of(&[group("system:serviceaccounts")]),
        ),
        schema("global-default", "global-default", 9900, "ByUser", all_of(&everybody)),
        schema("catch-all", "catch-all", 10000, "ByUser", all_of(&everybody)),
    ]
}
