//! `fieldRef` and `resourceFieldRef`: what a container may know about its pod and itself.

use crate::runtime::resources::{Amounts, milli};
use api::core::v1::{Container, Pod, ResourceFieldSelector};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A reference that points nowhere.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// Not one of the fields that may be referred to.
    #[error("unsupported fieldPath: {0}")]
    Path(String),
    /// Not a resource that may be referred to.
    #[error("unsupported container resource : {0}")]
    Resource(String),
    /// No such container.
    #[error("container {0} not found")]
    Container(String),
    /// The divisor does not parse or is zero.
    #[error("invalid divisor {0:?}")]
    Divisor(String),
}

/// What is known of the pod beyond its object.
#[derive(Clone, Debug, Default)]
pub struct PodFacts {
    /// The node's address.
    pub host_ips: Vec<String>,
    /// The sandbox's addresses.
    pub pod_ips: Vec<String>,
    /// The node's name.
    pub node_name: String,
    /// What the node may give to pods: stands in for limits that are not set.
    pub allocatable: Amounts,
}

/// The value of `fieldRef.fieldPath`.
pub fn field(pod: &Pod, facts: &PodFacts, path: &str) -> Result<String, FieldError> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let map = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(FieldError::Path(path.to_owned())),
        };
        return Ok(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => pairs(meta.labels.as_ref()),
        "metadata.annotations" => pairs(meta.annotations.as_ref()),
        "spec.nodeName" => facts.node_name.clone(),
        "spec.serviceAccountName" => spec
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(FieldError::Path(path.to_owned())),
    })
}

/// Labels or annotations as a file: `key="value"` a line, sorted, the value quoted as Go quotes.
fn pairs(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", quoted(value)))
        .collect();
    lines.join("\n")
}

/// Go's `%q`.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            c if c.is_control() && (c as u32) < 0x80 => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The value of a `resourceFieldRef`; `own` is the container it stands in, for a reference without a name.
pub fn resource(
    pod: &Pod,
    own: Option<&Container>,
    facts: &PodFacts,
    selector: &ResourceFieldSelector,
) -> Result<String, FieldError> {
    let container = match selector.container_name.as_deref().filter(|name| !name.is_empty()) {
        None => own.ok_or_else(|| FieldError::Container(String::new()))?,
        Some(name) => {
            let mut all = pod
                .spec
                .iter()
                .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
            all.find(|container| container.name == name)
                .ok_or_else(|| FieldError::Container(name.to_owned()))?
        }
    };
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let path = selector.resource.as_str();
    let (kind, name) = path
        .split_once('.')
        .ok_or_else(|| FieldError::Resource(path.to_owned()))?;
    if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !name.starts_with("hugepages-") {
        return Err(FieldError::Resource(path.to_owned()));
    }
    let amount = match kind {
        "limits" => milli(limits, name)
            .filter(|amount| *amount > 0)
            .or_else(|| milli(Some(&facts.allocatable), name)),
        "requests" => milli(requests, name),
        _ => return Err(FieldError::Resource(path.to_owned())),
    };
    divided(
        amount.unwrap_or(0),
        selector.divisor.as_ref().map(|divisor| divisor.0.as_str()),
    )
}

/// Amount by divisor (default 1), rounded up.
fn divided(amount_milli: i64, divisor: Option<&str>) -> Result<String, FieldError> {
    let text = divisor.filter(|text| !text.is_empty() && *text != "0").unwrap_or("1");
    let divisor = api::quantity::Quantity::parse(text).map_err(|_| FieldError::Divisor(text.to_owned()))?;
    let divisor = divisor.as_milli();
    if divisor <= 0 {
        return Err(FieldError::Divisor(text.to_owned()));
    }
    let whole = amount_milli.div_euclid(divisor) + i64::from(amount_milli.rem_euclid(divisor) > 0);
    Ok(whole.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::core::v1::{PodSpec, ResourceRequirements};
    use api::meta::{ObjectMeta, Quantity};

    fn pod() -> Pod {
        let limits: Amounts = [("memory".to_owned(), Quantity("64Mi".into()))].into();
        let requests: Amounts = [("cpu".to_owned(), Quantity("250m".into()))].into();
        let resources = ResourceRequirements {
            limits: Some(limits),
            requests: Some(requests),
            ..Default::default()
        };
        let container = Container {
            name: "c".into(),
            resources: Some(resources),
            ..Default::default()
        };
        Pod {
            metadata: ObjectMeta {
                name: Some("p".into()),
                labels: Some(
                    [
                        ("b".to_owned(), "2\n\"x\"".to_owned()),
                        ("a".to_owned(), "1".to_owned()),
                    ]
                    .into(),
                ),
                ..Default::default()
            },
            spec: Some(PodSpec {
                containers: vec![container],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn fields_read_the_pod() {
        let facts = PodFacts {
            pod_ips: vec!["10.0.0.1".into(), "fd00::1".into()],
            ..Default::default()
        };
        assert_eq!(field(&pod(), &facts, "metadata.name").as_deref(), Ok("p"));
        assert_eq!(
            field(&pod(), &facts, "metadata.labels").as_deref(),
            Ok("a=\"1\"\nb=\"2\\n\\\"x\\\"\"")
        );
        assert_eq!(field(&pod(), &facts, "metadata.labels['a']").as_deref(), Ok("1"));
        assert_eq!(
            field(&pod(), &facts, "status.podIPs").as_deref(),
            Ok("10.0.0.1,fd00::1")
        );
        assert_eq!(
            field(&pod(), &facts, "spec.volumes"),
            Err(FieldError::Path("spec.volumes".into()))
        );
    }

    #[test]
    fn resources_are_rounded_up_and_fall_back_to_the_node() {
        let facts = PodFacts {
            allocatable: [("cpu".to_owned(), Quantity("2".into()))].into(),
            ..Default::default()
        };
        let read = |resource_name: &str, divisor: Option<&str>| {
            let selector = ResourceFieldSelector {
                container_name: Some("c".into()),
                resource: resource_name.into(),
                divisor: divisor.map(|text| Quantity(text.into())),
            };
            resource(&pod(), None, &facts, &selector)
        };
        assert_eq!(read("limits.memory", None).as_deref(), Ok("67108864"));
        assert_eq!(read("limits.memory", Some("1Mi")).as_deref(), Ok("64"));
        assert_eq!(read("requests.cpu", None).as_deref(), Ok("1"));
        assert_eq!(read("requests.cpu", Some("1m")).as_deref(), Ok("250"));
        assert_eq!(read("limits.cpu", None).as_deref(), Ok("2"));
        assert!(read("limits.gpu", None).is_err());
    }
}
