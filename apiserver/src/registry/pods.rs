//! Binding and eviction.

use api::meta::StatusCause;
use api::{Error, GroupResource};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::options::{DeleteOptions, ListOptions, WriteOptions};
use super::update::Rules;
use super::{Access, Registry, meta};
use crate::registry::access::{Attributes, Operation, Options};

/// The resource of disruption budgets.
const BUDGETS: (&str, &str, &str) = ("policy", "v1", "poddisruptionbudgets");

/// Where a pod goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// The node.
    pub node: String,
    /// Only the pod with this uid; empty is not checked.
    pub uid: String,
    /// Merged into the pod's.
    pub annotations: Map<String, Value>,
    /// Merged into the pod's.
    pub labels: Map<String, Value>,
}

impl Target {
    /// Reads a `v1 Binding`.
    ///
    /// # Errors
    /// 422 without a node as target.
    pub fn from_binding(binding: &Value) -> Result<Self, Error> {
        let text = |pointer: &str| {
            binding
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or("")
                .to_owned()
        };
        let mut faults = Vec::new();
        if !matches!(text("/target/kind").as_str(), "" | "Node") {
            faults.push(api::FieldError::not_supported(
                "target.kind",
                text("/target/kind"),
                &["Node", "<empty>"],
            ));
        }
        if text("/target/name").is_empty() {
            faults.push(api::FieldError::required("target.name", ""));
        }
        if !faults.is_empty() {
            return Err(Error::invalid(
                &api::GroupKind::new("", "Binding"),
                &text("/metadata/name"),
                faults,
            ));
        }
        let map = |pointer: &str| {
            let map = binding.pointer(pointer).and_then(Value::as_object);
            map.cloned().unwrap_or_default()
        };
        Ok(Self {
            node: text("/target/name"),
            uid: text("/metadata/uid"),
            annotations: map("/metadata/annotations"),
            labels: map("/metadata/labels"),
        })
    }

    /// The `v1 Binding` that says the same.
    fn to_binding(&self, access: &Access) -> Value {
        let mut metadata = json!({"name": access.attributes.name, "namespace": access.attributes.namespace});
        for (field, map) in [("annotations", &self.annotations), ("labels", &self.labels)] {
            if !map.is_empty() {
                metadata[field] = json!(map);
            }
        }
        if !self.uid.is_empty() {
            metadata["uid"] = json!(self.uid);
        }
        json!({"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": {"kind": "Node", "name": self.node}})
    }
}

/// Writes the node into a pod.
fn bind(pod: &Value, target: &Target, name: &str, now: Timestamp) -> Result<Value, Error> {
    let conflict = |why: String| Error::conflict(&GroupResource::new("", "pods/binding"), name, why);
    if !target.uid.is_empty() && target.uid != meta::text(pod, "uid") {
        let is = meta::text(pod, "uid");
        return Err(conflict(format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {is}",
            target.uid
        )));
    }
    if meta::is_deleting(pod) {
        return Err(conflict(format!(
            "pod {name} is being deleted, cannot be assigned to a host"
        )));
    }
    match pod.pointer("/spec/nodeName").and_then(Value::as_str) {
        None | Some("") => {}
        Some(node) => return Err(conflict(format!("pod {name} is already assigned to node {node:?}"))),
    }
    if pod
        .pointer("/spec/schedulingGates")
        .and_then(Value::as_array)
        .is_some_and(|gates| !gates.is_empty())
    {
        return Err(conflict(format!("pod {name} has non-empty .spec.schedulingGates")));
    }
    let mut new = pod.clone();
    meta::child(meta::map(&mut new), "spec").insert("nodeName".into(), target.node.as_str().into());
    for (field, map) in [("annotations", &target.annotations), ("labels", &target.labels)] {
        if !map.is_empty() {
            meta::child(meta::of(&mut new), field).extend(map.clone());
        }
    }
    let status = meta::child(meta::map(&mut new), "status");
    let mut conditions = status
        .get("conditions")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let scheduled = |c: &Value| c.get("type").and_then(Value::as_str) == Some("PodScheduled");
    if !conditions
        .iter()
        .any(|c| scheduled(c) && c.get("status").and_then(Value::as_str) == Some("True"))
    {
        conditions.retain(|c| !scheduled(c));
        conditions.push(json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": meta::time(now)}));
        status.insert("conditions".into(), conditions.into());
    }
    Ok(new)
}

/// What a budget says to the eviction of one of its pods.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// Without counting: the pod does not contribute.
    Free,
    /// This is the budget afterwards.
    Counted(Value),
    /// Not now.
    Refused(String),
}

fn consult(budget: &Value, pod: &Value, now: Timestamp) -> Verdict {
    let number = |path: &str| budget.pointer(path).and_then(Value::as_i64).unwrap_or(0);
    let (current, desired) = (number("/status/currentHealthy"), number("/status/desiredHealthy"));
    let name = meta::text(budget, "name");
    if !is_ready(pod) {
        match budget
            .pointer("/spec/unhealthyPodEvictionPolicy")
            .and_then(Value::as_str)
        {
            Some("AlwaysAllow") => return Verdict::Free,
            _ if current >= desired && desired > 0 => return Verdict::Free,
            _ => {}
        }
    }
    if number("/status/observedGeneration") < meta::generation(budget) {
        return Verdict::Refused(format!(
            "The disruption budget {name} is still being processed by the server."
        ));
    }
    let allowed = number("/status/disruptionsAllowed");
    if allowed <= 0 {
        return Verdict::Refused(format!(
            "The disruption budget {name} needs {desired} healthy pods and has {current} currently"
        ));
    }
    let mut new = budget.clone();
    let status = meta::child(meta::map(&mut new), "status");
    status.insert("disruptionsAllowed".into(), (allowed - 1).into());
    meta::child(status, "disruptedPods").insert(meta::text(pod, "name").into(), meta::time(now).into());
    Verdict::Counted(new)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let text = |c: &Value, field: &str| c.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
    conditions.is_some_and(|all| {
        all.iter()
            .any(|c| text(c, "type") == "Ready" && text(c, "status") == "True")
    })
}

fn too_disruptive(why: String) -> Error {
    let mut error = Error::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", 0);
    let cause = StatusCause {
        reason: Some("DisruptionBudget".into()),
        message: Some(why),
        field: None,
    };
    error.details.get_or_insert_default().causes = Some(vec![cause]);
    error
}

impl Registry {
    /// Assigns a pod to a node. `access` is for `pods/binding`.
    ///
    /// # Errors
    /// 404; 409 if the pod has a node, is being deleted or is another one.
    pub async fn bind(&self, access: &Access, target: &Target, dry_run: bool) -> Result<(), Error> {
        let options = WriteOptions {
            dry_run,
            ..WriteOptions::default()
        };
        let mut binding = target.to_binding(access);
        self.admit(access, Operation::Create, Options::Write(&options), &mut binding)
            .await?;
        let target = Target::from_binding(&binding)?;
        let change = |pod: &Value| bind(pod, &target, &access.attributes.name, Timestamp::now());
        self.change(
            access,
            &change,
            Rules {
                retry: true,
                unconditional: true,
                trusted: true,
            },
            &options,
        )
        .await
        .map(drop)
    }

    /// Deletes a pod if the disruption budgets that cover it allow. `access` is for `pods/eviction`.
    ///
    /// # Errors
    /// 404; 429 if a budget is used up; 500 if more than one covers the pod.
    pub async fn evict(&self, access: &Access, options: &DeleteOptions) -> Result<(), Error> {
        let write = WriteOptions {
            dry_run: options.dry_run,
            ..WriteOptions::default()
        };
        let a = &access.attributes;
        let mut eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": a.name, "namespace": a.namespace}, "deleteOptions": options.to_value()});
        self.admit(access, Operation::Create, Options::Write(&write), &mut eviction)
            .await?;
        let mut access = access.clone();
        access.attributes.subresource.clear();
        let pod = access.kind.stored_value(&*self.get(&access, "").await?)?;
        let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or("");
        let mut options = options.clone();
        if !matches!(phase, "Succeeded" | "Failed" | "Pending") && !meta::is_deleting(&pod) {
            self.count_disruption(&access, &pod, options.dry_run).await?;
            options.uid.get_or_insert_with(|| meta::text(&pod, "uid").to_owned());
        }
        self.remove(&access, &options, true).await.map(drop)
    }

    async fn count_disruption(&self, access: &Access, pod: &Value, dry_run: bool) -> Result<(), Error> {
        let (group, version, resource) = BUDGETS;
        // The server's own look and count: the caller was authorized to evict, not to read or write budgets.
        let Some(kind) = super::find(group, version, resource) else {
            return Ok(());
        };
        let attributes = Attributes {
            is_resource: true,
            group: group.into(),
            version: version.into(),
            resource: resource.into(),
            subresource: "status".into(),
            namespace: access.attributes.namespace.clone(),
            ..Attributes::default()
        };
        let mut budgets = Access {
            user: access.user.clone(),
            attributes,
            kind: kind.clone(),
            _sealed: super::Sealed,
        };
        let labels = meta::labels(pod);
        let mut covering = Vec::new();
        for entry in self.list(&budgets, &ListOptions::default()).await?.entries {
            let budget = kind.stored_value(&entry)?;
            if covers(&budget, &labels) {
                covering.push(meta::text(&budget, "name").to_owned());
            }
        }
        match covering.as_slice() {
            [] => return Ok(()),
            [one] => budgets.attributes.name = one.clone(),
            _ => {
                let why =
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(Error {
                    code: 500,
                    reason: "InternalError".into(),
                    message: why.into(),
                    details: None,
                });
            }
        }
        let change = |budget: &Value| match consult(budget, pod, Timestamp::now()) {
            Verdict::Free => Ok(budget.clone()),
            Verdict::Counted(new) => Ok(new),
            Verdict::Refused(why) => Err(too_disruptive(why)),
        };
        let options = WriteOptions {
            dry_run,
            ..WriteOptions::default()
        };
        self.change(
            &budgets,
            &change,
            Rules {
                retry: true,
                unconditional: true,
                trusted: true,
            },
            &options,
        )
        .await
        .map(drop)
    }
}

/// Whether a budget's selector names a pod with these labels; a budget without selector names none.
fn covers(budget: &Value, labels: &std::collections::BTreeMap<String, String>) -> bool {
    budget
        .pointer("/spec/selector")
        .and_then(|selector| serde_json::from_value::<api::meta::LabelSelector>(selector.clone()).ok())
        .and_then(|selector| api::labels::Selector::from_label_selector(&selector).ok())
        .is_some_and(|selector| selector.matches(labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_pod_is_bound_once() {
        let pod = json!({"metadata": {"name": "p", "uid": "1"}, "spec": {}});
        let target = Target {
            node: "n1".into(),
            uid: "1".into(),
            ..Target::default()
        };
        let bound = bind(&pod, &target, "p", now()).unwrap();
        assert_eq!(bound["spec"]["nodeName"], "n1");
        assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
        let error = bind(&bound, &target, "p", now()).unwrap_err();
        assert_eq!(
            error.message,
            "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""
        );
        let other = Target {
            uid: "2".into(),
            ..target
        };
        assert!(bind(&pod, &other, "p", now()).unwrap_err().is_conflict());
    }

    #[test]
    fn a_budget_is_counted_down() {
        let ready = json!({"metadata": {"name": "p"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let sick = json!({"metadata": {"name": "p"}, "status": {}});
        let budget = json!({"metadata": {"name": "b", "generation": 1}, "spec": {},
            "status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1}});
        let Verdict::Counted(after) = consult(&budget, &ready, now()) else {
            panic!("not counted")
        };
        assert_eq!(after["status"]["disruptionsAllowed"], 0);
        assert_eq!(after["status"]["disruptedPods"]["p"], "2026-01-01T00:00:00Z");
        assert!(matches!(consult(&after, &ready, now()), Verdict::Refused(_)));
        assert_eq!(consult(&after, &sick, now()), Verdict::Free);
    }
}
