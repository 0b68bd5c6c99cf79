//! May the node run this pod? The same questions that the scheduler asked, asked again when the pod arrives: pure.

use crate::runtime::resources::{Amounts, is_sidecar, milli, pod_request_milli};
use api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod};
use std::collections::{BTreeMap, BTreeSet};

/// A refusal: the pod's phase becomes Failed with these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `OutOfcpu`, `NodeAffinity`, ...
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Decides for `pod` beside the pods that are here already.
pub fn admit<'a>(
    pod: &Pod,
    others: impl IntoIterator<Item = &'a Pod>,
    node: &Node,
    allocatable: &Amounts,
) -> Result<(), Refusal> {
    check_os(pod)?;
    check_affinity(pod, node)?;
    check_ports_and_resources(pod, others, allocatable)?;
    check_taints(pod, node)
}

fn check_os(pod: &Pod) -> Result<(), Refusal> {
    let wanted = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.os.as_ref())
        .map(|os| os.name.as_str());
    match wanted {
        Some(os) if os != "linux" => Err(Refusal {
            reason: "PodOSNotSupported".into(),
            message: "Failed to admit pod as the OS field doesn't match node OS".into(),
        }),
        _ => Ok(()),
    }
}

fn check_affinity(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    let spec = pod.spec.as_ref();
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let selected = spec
        .and_then(|spec| spec.node_selector.as_ref())
        .is_none_or(|wanted| wanted.iter().all(|(key, value)| labels.get(key) == Some(value)));
    let required = spec
        .and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let affine = required.is_none_or(|selector| {
        selector
            .node_selector_terms
            .iter()
            .any(|term| term_matches(term, labels, name))
    });
    if selected && affine {
        return Ok(());
    }
    let message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
    Err(Refusal {
        reason: "NodeAffinity".into(),
        message: message.into(),
    })
}

fn term_matches(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label =
        |requirement: &NodeSelectorRequirement| matches(requirement, labels.get(&requirement.key).map(String::as_str));
    let field = |requirement: &NodeSelectorRequirement| {
        matches(requirement, (requirement.key == "metadata.name").then_some(name))
    };
    expressions.iter().all(label) && fields.iter().all(field)
}

fn matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|wanted| wanted == value));
    let compare = |greater: bool| {
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
        match (number(value), number(values.first().map(String::as_str))) {
            (Some(have), Some(bound)) => {
                if greater {
                    have > bound
                } else {
                    have < bound
                }
            }
            _ => false,
        }
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(true),
        "Lt" => compare(false),
        _ => false,
    }
}

fn check_ports_and_resources<'a>(
    pod: &Pod,
    others: impl IntoIterator<Item = &'a Pod>,
    allocatable: &Amounts,
) -> Result<(), Refusal> {
    let mut wanted = resource_names(pod);
    wanted.retain(|name| pod_request_milli(pod, name) > 0);
    let mut used: BTreeMap<&str, i64> = BTreeMap::new();
    let mut taken_ports = BTreeSet::new();
    let mut count = 0_i64;
    for other in others {
        count += 1;
        taken_ports.extend(host_ports(other));
        for name in &wanted {
            *used.entry(name).or_default() += pod_request_milli(other, name);
        }
    }
    let max_pods = milli(Some(allocatable), "pods").unwrap_or(i64::MAX) / 1000;
    if count + 1 > max_pods {
        return Err(out_of("pods", 1, count, max_pods));
    }
    for name in &wanted {
        let (request, capacity) = (
            pod_request_milli(pod, name),
            milli(Some(allocatable), name).unwrap_or(0),
        );
        let used = used.get(name.as_str()).copied().unwrap_or(0);
        if request + used > capacity {
            let shown = |amount: i64| if name == "cpu" { amount } else { amount / 1000 };
            return Err(out_of(name, shown(request), shown(used), shown(capacity)));
        }
    }
    if host_ports(pod).any(|port| taken_ports.contains(&port)) {
        let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return Err(Refusal {
            reason: "NodePorts".into(),
            message: message.into(),
        });
    }
    Ok(())
}

fn out_of(resource: &str, requested: i64, used: i64, capacity: i64) -> Refusal {
    Refusal {
        reason: format!("OutOf{resource}"),
        message: format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        ),
    }
}

fn resource_names(pod: &Pod) -> BTreeSet<String> {
    let containers = crate::runtime::resources::all_containers(pod);
    let requests = containers.filter_map(|container| container.resources.as_ref());
    requests
        .flat_map(|r| r.requests.iter().chain(&r.limits).flatten())
        .map(|(name, _)| name.clone())
        .collect()
}

fn host_ports(pod: &Pod) -> impl Iterator<Item = (i32, String)> {
    let spec = pod.spec.as_ref();
    let sidecars = spec
        .into_iter()
        .flat_map(|spec| spec.init_containers.iter().flatten().filter(|c| is_sidecar(c)));
    let containers = spec.into_iter().flat_map(|spec| &spec.containers);
    containers
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            Some((number, port.protocol.clone().unwrap_or_else(|| "TCP".into())))
        })
}

fn check_taints(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    let tolerated = |taint: &api::core::v1::Taint| {
        tolerations.iter().any(|toleration| {
            let effect = toleration.effect.as_deref().unwrap_or_default();
            let key = toleration.key.as_deref().unwrap_or_default();
            let same_key = key == taint.key || (key.is_empty() && toleration.operator.as_deref() == Some("Exists"));
            let same_value = toleration.operator.as_deref() == Some("Exists")
                || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
            (effect.is_empty() || effect == taint.effect) && same_key && same_value
        })
    };
    match taints
        .iter()
        .find(|taint| taint.effect == "NoExecute" && !tolerated(taint))
    {
        None => Ok(()),
        Some(_) => Err(Refusal {
            reason: "TaintToleration".into(),
            message: "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::core::v1::{Container, ContainerPort, NodeSpec, PodSpec, ResourceRequirements, Taint, Toleration};
    use api::meta::{ObjectMeta, Quantity};

    fn pod(cpu: &str, host_port: Option<i32>) -> Pod {
        let requests = [("cpu".to_owned(), Quantity(cpu.into()))].into();
        let container = Container {
            resources: Some(ResourceRequirements {
                requests: Some(requests),
                ..Default::default()
            }),
            ports: host_port.map(|port| {
                vec![ContainerPort {
                    host_port: Some(port),
                    ..Default::default()
                }]
            }),
            ..Default::default()
        };
        Pod {
            spec: Some(PodSpec {
                containers: vec![container],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn node() -> Node {
        let labels = [
            ("disk".to_owned(), "ssd".to_owned()),
            ("gen".to_owned(), "7".to_owned()),
        ]
        .into();
        Node {
            metadata: ObjectMeta {
                labels: Some(labels),
                name: Some("n".into()),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    fn allocatable() -> Amounts {
        [
            ("cpu".to_owned(), Quantity("1".into())),
            ("pods".to_owned(), Quantity("3".into())),
        ]
        .into()
    }

    fn refused(pod: &Pod, others: &[Pod]) -> Option<String> {
        admit(pod, others, &node(), &allocatable())
            .err()
            .map(|refusal| refusal.reason)
    }

    #[test]
    fn resources_ports_and_count_have_to_fit() {
        assert_eq!(refused(&pod("600m", None), &[]), None);
        assert_eq!(
            refused(&pod("600m", None), &[pod("600m", None)]).as_deref(),
            Some("OutOfcpu")
        );
        assert_eq!(
            refused(&pod("0", None), &[pod("0", None), pod("0", None), pod("0", None)]).as_deref(),
            Some("OutOfpods")
        );
        assert_eq!(
            refused(&pod("0", Some(80)), &[pod("0", Some(80))]).as_deref(),
            Some("NodePorts")
        );
        let message = admit(&pod("600m", None), &[pod("600m", None)], &node(), &allocatable())
            .err()
            .map(|r| r.message);
        let expected = "Node didn't have enough resource: cpu, requested: 600, used: 600, capacity: 1000";
        assert_eq!(message.as_deref(), Some(expected));
    }

    #[test]
    fn selectors_and_affinity_have_to_match() {
        let with = |key: &str, operator: &str, value: &str| {
            let requirement = NodeSelectorRequirement {
                key: key.into(),
                operator: operator.into(),
                values: Some(vec![value.into()]),
            };
            let term = NodeSelectorTerm {
                match_expressions: Some(vec![requirement]),
                ..Default::default()
            };
            let mut pod = pod("0", None);
            if let Some(spec) = pod.spec.as_mut() {
                let selector = api::core::v1::NodeSelector {
                    node_selector_terms: vec![term],
                };
                let affinity = api::core::v1::NodeAffinity {
                    required_during_scheduling_ignored_during_execution: Some(selector),
                    ..Default::default()
                };
                spec.affinity = Some(api::core::v1::Affinity {
                    node_affinity: Some(affinity),
                    ..Default::default()
                });
            }
            refused(&pod, &[])
        };
        assert_eq!(with("disk", "In", "ssd"), None);
        assert_eq!(with("disk", "NotIn", "ssd").as_deref(), Some("NodeAffinity"));
        assert_eq!(with("gen", "Gt", "6"), None);
        assert_eq!(with("gen", "Lt", "6").as_deref(), Some("NodeAffinity"));
        assert_eq!(with("other", "Exists", "").as_deref(), Some("NodeAffinity"));
    }

    #[test]
    fn no_execute_taints_have_to_be_tolerated() {
        let taint = Taint {
            key: "k".into(),
            value: Some("v".into()),
            effect: "NoExecute".into(),
            ..Default::default()
        };
        let node = Node {
            spec: Some(NodeSpec {
                taints: Some(vec![taint]),
                ..Default::default()
            }),
            ..node()
        };
        let mut pod = pod("0", None);
        assert!(admit(&pod, [], &node, &allocatable()).is_err());
        let toleration = Toleration {
            key: Some("k".into()),
            value: Some("v".into()),
            ..Default::default()
        };
        if let Some(spec) = pod.spec.as_mut() {
            spec.tolerations = Some(vec![toleration]);
        }
        assert!(admit(&pod, [], &node, &allocatable()).is_ok());
    }
}
