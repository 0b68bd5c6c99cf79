//! What objects count for against a `ResourceQuota`, and which quotas cover them. Pure: admission charges with it, the controller counts
//! with it, so both agree. Source of the rules: upstream's `pkg/quota/v1/evaluator/core` and `apiserver/pkg/quota/v1`.

mod pods;

pub use pods::of_pod;

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::quantity::Quantity;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

const BY_CLASS: &str = ".storageclass.storage.k8s.io/";
const DEVICES: &str = ".deviceclass.resource.k8s.io/devices";
/// How many devices a request for all of them may get; upstream's `AllocationResultsMaxSize`.
const MOST_DEVICES: i64 = 32;

/// One scope of a quota, with what its operator compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// As `PriorityClass`.
    pub name: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`.
    pub operator: String,
    /// For `In` and `NotIn`.
    pub values: Vec<String>,
}

/// A kind of object that quotas count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted<'a> {
    /// API group, empty for the core group.
    pub group: &'a str,
    /// Lower-case plural.
    pub resource: &'a str,
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// A map of quantities, as `spec.hard`; what is no quantity is left out.
pub fn amounts(map: Option<&Value>) -> Amounts {
    let entries = map.and_then(Value::as_object).into_iter().flatten();
    entries
        .filter_map(|(name, amount)| Some((name.clone(), quantity(amount)?)))
        .collect()
}

/// Amounts as an object holds them.
pub fn to_value(amounts: &Amounts) -> Value {
    let map = amounts
        .iter()
        .map(|(name, amount)| (name.clone(), amount.to_string().into()));
    Value::Object(map.collect())
}

fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

/// The scopes of a quota: those of `spec.scopes`, which must exist, and those of `spec.scopeSelector`.
pub fn scopes(quota: &Value) -> Vec<Scope> {
    let plain = list(quota, "/spec/scopes")
        .iter()
        .filter_map(Value::as_str)
        .map(|name| Scope {
            name: name.to_owned(),
            operator: "Exists".to_owned(),
            values: Vec::new(),
        });
    let selected = list(quota, "/spec/scopeSelector/matchExpressions").iter().map(scope);
    plain.chain(selected).collect()
}

/// A `ScopedResourceSelectorRequirement`.
pub fn scope(requirement: &Value) -> Scope {
    let values = list(requirement, "/values").iter().filter_map(Value::as_str);
    Scope {
        name: text(requirement, "/scopeName").to_owned(),
        operator: text(requirement, "/operator").to_owned(),
        values: values.map(str::to_owned).collect(),
    }
}

impl Scope {
    /// Whether one of the names fits the operator; no name is the absence of one.
    fn selects(&self, names: &[&str]) -> bool {
        let named = || names.iter().any(|name| self.values.iter().any(|value| value == name));
        match self.operator.as_str() {
            "In" => named(),
            "NotIn" => names.is_empty() || names.iter().any(|name| !self.values.iter().any(|value| value == name)),
            "Exists" => !names.is_empty(),
            "DoesNotExist" => names.is_empty(),
            _ => false,
        }
    }
}

impl Counted<'_> {
    fn core(&self, resource: &str) -> bool {
        self.group.is_empty() && self.resource == resource
    }

    /// `count/pods`, `count/deployments.apps`.
    pub fn count_name(&self) -> String {
        match self.group {
            "" => format!("count/{}", self.resource),
            group => format!("count/{}.{group}", self.resource),
        }
    }

    /// The name that counts objects of this kind from before there was `count/`.
    fn plain_name(&self) -> Option<&str> {
        let counted = [
            "configmaps",
            "replicationcontrollers",
            "resourcequotas",
            "secrets",
            "services",
        ];
        (self.group.is_empty() && counted.contains(&self.resource)).then_some(self.resource)
    }

    /// Whether a quota's name of a resource is about objects of this kind.
    pub fn matches_name(&self, name: &str) -> bool {
        if name == self.count_name() || self.plain_name() == Some(name) {
            return true;
        }
        if self.core("pods") {
            return pods::matches_name(name);
        }
        if self.core("services") {
            return matches!(name, "services.nodeports" | "services.loadbalancers");
        }
        if self.core("persistentvolumeclaims") {
            let plain = name.split_once(BY_CLASS).map_or(name, |(_, plain)| plain);
            return matches!(plain, "persistentvolumeclaims" | "requests.storage");
        }
        self.group == "resource.k8s.io" && self.resource == "resourceclaims" && name.ends_with(DEVICES)
    }

    /// Whether the object is in a scope.
    pub fn in_scope(&self, object: &Value, scope: &Scope) -> bool {
        if self.core("pods") {
            pods::in_scope(object, scope)
        } else if self.core("persistentvolumeclaims") && scope.name == "VolumeAttributesClass" {
            let classes = [
                "/spec/volumeAttributesClassName",
                "/status/currentVolumeAttributesClassName",
                "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
            ];
            let names: Vec<&str> = classes
                .iter()
                .map(|path| text(object, path))
                .filter(|n| !n.is_empty())
                .collect();
            scope.selects(&names)
        } else {
            false
        }
    }

    /// Whether a quota that limits these names in these scopes covers the object.
    pub fn covered(&self, object: &Value, hard: &Amounts, scopes: &[Scope]) -> bool {
        hard.keys().any(|name| self.matches_name(name)) && scopes.iter().all(|scope| self.in_scope(object, scope))
    }

    /// What the object uses.
    pub fn usage(&self, object: &Value, now: Timestamp) -> Amounts {
        let mut out = Amounts::from([(self.count_name(), Quantity::units(1))]);
        if let Some(name) = self.plain_name() {
            out.insert(name.to_owned(), Quantity::units(1));
        }
        if self.core("pods") {
            out.extend(pods::usage(object, now));
        } else if self.core("services") {
            out.extend(service(object));
        } else if self.core("persistentvolumeclaims") {
            out.extend(claim(object));
        } else if self.group == "resource.k8s.io" && self.resource == "resourceclaims" {
            out.extend(devices(object));
        }
        out
    }

    /// The cause why a quota that limits these names cannot take the object: pods must say what they ask for where CPU or memory is
    /// limited.
    ///
    /// # Errors
    /// `must specify cpu for: web; memory for: web`.
    pub fn constraints(&self, object: &Value, hard: &Amounts) -> Result<(), String> {
        if self.core("pods") {
            pods::constraints(object, hard)
        } else {
            Ok(())
        }
    }
}

fn service(object: &Value) -> Amounts {
    let ports = list(object, "/spec/ports");
    let explicit = || {
        ports
            .iter()
            .filter(|p| p.get("nodePort").and_then(Value::as_i64).unwrap_or(0) != 0)
            .count()
    };
    let suppressed = object.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
    let (node_ports, balancers) = match text(object, "/spec/type") {
        "NodePort" => (ports.len(), 0),
        "LoadBalancer" if suppressed => (explicit(), 1),
        "LoadBalancer" => (ports.len(), 1),
        _ => (0, 0),
    };
    let count = |n: usize| Quantity::units(i64::try_from(n).unwrap_or(i64::MAX));
    Amounts::from([
        ("services.nodeports".to_owned(), count(node_ports)),
        ("services.loadbalancers".to_owned(), count(balancers)),
    ])
}

fn claim(object: &Value) -> Amounts {
    let storage = |path: &str| object.pointer(path).and_then(quantity);
    let asked = storage("/spec/resources/requests/storage");
    // A claim that shrinks again after a failed expansion still holds what was set aside.
    let storage = asked.map(|asked| match storage("/status/allocatedResources/storage") {
        Some(allocated) if allocated > asked => allocated,
        _ => asked,
    });
    let mut out = Amounts::from([("persistentvolumeclaims".to_owned(), Quantity::units(1))]);
    out.extend(storage.map(|storage| ("requests.storage".to_owned(), storage)));
    let class = match text(object, "/metadata/annotations/volume.beta.kubernetes.io~1storage-class") {
        "" => text(object, "/spec/storageClassName"),
        class => class,
    };
    if !class.is_empty() {
        let by_class: Amounts = out
            .iter()
            .map(|(name, amount)| (format!("{class}{BY_CLASS}{name}"), *amount))
            .collect();
        out.extend(by_class);
    }
    out
}

fn devices(object: &Value) -> Amounts {
    let mut out = Amounts::new();
    let wanted = |request: &Value| match text(request, "/allocationMode") {
        "All" => MOST_DEVICES,
        _ => request.get("count").and_then(Value::as_i64).unwrap_or(1),
    };
    for request in list(object, "/spec/devices/requests") {
        // Of alternatives, each class is charged with the most it may have to give.
        let mut most: BTreeMap<&str, i64> = BTreeMap::new();
        for one in request
            .get("exactly")
            .into_iter()
            .chain(list(request, "/firstAvailable"))
        {
            let entry = most.entry(text(one, "/deviceClassName")).or_default();
            *entry = wanted(one).max(*entry);
        }
        for (class, count) in most {
            add(
                &mut out,
                &Amounts::from([(format!("{class}{DEVICES}"), Quantity::units(count))]),
            );
        }
    }
    out
}

/// Adds amounts by name.
pub fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = total.get(name).map_or(*amount, |have| *have + *amount);
        total.insert(name.clone(), sum);
    }
}

/// What `new` has more than `old`, by name; nothing is below zero.
pub fn growth(new: &Amounts, old: &Amounts) -> Amounts {
    let grown = |(name, amount): (&String, &Quantity)| {
        let more = old.get(name).map_or(*amount, |before| *amount - *before);
        (name.clone(), if more.is_negative() { Quantity::ZERO } else { more })
    };
    new.iter().map(grown).collect()
}

/// `a=1,b=2`.
pub fn describe(amounts: &Amounts) -> String {
    let parts: Vec<String> = amounts
        .iter()
        .map(|(name, amount)| format!("{name}={amount}"))
        .collect();
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn used(group: &str, resource: &str, object: Value) -> String {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        describe(&Counted { group, resource }.usage(&object, now))
    }

    #[test]
    fn what_objects_use() {
        let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
        let balancer =
            json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2, "nodePort": 30000}]}});
        let mut quiet = balancer.clone();
        quiet["spec"]["allocateLoadBalancerNodePorts"] = json!(false);
        let pod = json!({"spec": {"overhead": {"cpu": "10m"}, "containers": [
            {"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "1Gi", "example.com/gpu": "1"}, "limits": {"cpu": "200m"}}},
            {"name": "b", "resources": {"requests": {"cpu": "100m"}}}],
            "initContainers": [{"name": "i", "resources": {"requests": {"memory": "2Gi"}}}]}});
        let mut done = pod.clone();
        done["status"]["phase"] = json!("Succeeded");
        let devices = json!({"spec": {"devices": {"requests": [{"exactly": {"deviceClassName": "gpu", "count": 2}},
            {"firstAvailable": [{"deviceClassName": "gpu"}, {"deviceClassName": "nic", "allocationMode": "All"}]}]}}});
        for (group, resource, object, want) in [
            ("apps", "deployments", json!({}), "count/deployments.apps=1"),
            ("", "secrets", json!({}), "count/secrets=1,secrets=1"),
            (
                "",
                "services",
                balancer,
                "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2",
            ),
            (
                "",
                "services",
                quiet,
                "count/services=1,services=1,services.loadbalancers=1,services.nodeports=1",
            ),
            (
                "",
                "persistentvolumeclaims",
                claim,
                "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/requests.storage=1Gi,persistentvolumeclaims=1,requests.storage=1Gi",
            ),
            (
                "",
                "pods",
                pod,
                "count/pods=1,cpu=210m,limits.cpu=210m,memory=2Gi,pods=1,requests.cpu=210m,requests.example.com/gpu=1,requests.memory=2Gi",
            ),
            ("", "pods", done, "count/pods=1"),
            (
                "resource.k8s.io",
                "resourceclaims",
                devices,
                "count/resourceclaims.resource.k8s.io=1,gpu.deviceclass.resource.k8s.io/devices=3,nic.deviceclass.resource.k8s.io/devices=32",
            ),
        ] {
            assert_eq!(used(group, resource, object), want);
        }
    }

    #[test]
    fn scopes_and_names() {
        let pods = Counted {
            group: "",
            resource: "pods",
        };
        let quota = json!({"spec": {"scopes": ["NotTerminating"], "scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}}});
        let hard = Amounts::from([("pods".to_owned(), Quantity::units(1))]);
        let pod = json!({"spec": {"priorityClassName": "high"}});
        assert!(pods.covered(&pod, &hard, &scopes(&quota)));
        assert!(!pods.covered(&json!({"spec": {"priorityClassName": "low"}}), &hard, &scopes(&quota)));
        let soon = json!({"spec": {"priorityClassName": "high", "activeDeadlineSeconds": 5}});
        assert!(!pods.covered(&soon, &hard, &scopes(&quota)));
        let services = Counted {
            group: "",
            resource: "services",
        };
        assert!(!services.covered(&json!({}), &hard, &[]));
        for (name, want) in [
            ("requests.example.com/gpu", true),
            ("hugepages-2Mi", true),
            ("requests.storage", false),
            ("count/pods", true),
        ] {
            assert_eq!(pods.matches_name(name), want, "{name}");
        }
    }

    #[test]
    fn a_limited_resource_must_be_asked_for() {
        let pods = Counted {
            group: "",
            resource: "pods",
        };
        let hard = amounts(Some(&json!({"cpu": "1", "limits.memory": "1", "pods": "1"})));
        let pod =
            json!({"spec": {"containers": [{"name": "b"}, {"name": "a", "resources": {"requests": {"cpu": "1"}}}]}});
        let why = pods.constraints(&pod, &hard).unwrap_err();
        assert_eq!(why, "must specify cpu for: b; limits.memory for: a,b");
    }
}
