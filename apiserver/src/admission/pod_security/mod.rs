//! PodSecurity: pods keep to the level of the Pod Security Standards that their namespace's labels ask for. Workloads are only warned
//! about; a namespace that tightens its level is told which of its pods would no longer be let in.

mod checks;
mod policy;

use std::collections::{BTreeMap, BTreeSet};

use api::{Error, GroupKind};
use async_trait::async_trait;
use serde_json::Value;

use super::{Context, Plugin, forbidden, writes};
use crate::kinds::field::{list, text};
use crate::registry::access::{AdmissionRequest, Operation};
use checks::{Violation, evaluate};
use policy::{Level, LevelVersion, Policy};

/// How many pods of a namespace are looked at when its level changes.
const MOST_PODS: usize = 3000;
const AUDIT: &str = "pod-security.kubernetes.io/";

/// Pod subresources that do not change the pod's spec.
const IGNORED: [&str; 8] = [
    "exec",
    "attach",
    "binding",
    "eviction",
    "log",
    "portforward",
    "proxy",
    "status",
];

pub(super) struct PodSecurity {
    defaults: Policy,
    exempt_namespaces: BTreeSet<String>,
    exempt_users: BTreeSet<String>,
    exempt_classes: BTreeSet<String>,
}

impl PodSecurity {
    pub(super) fn new(config: &Value) -> Result<Self, String> {
        let names = |field: &str| {
            let names = list(config, &format!("/exemptions/{field}")).iter();
            names.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Ok(Self {
            defaults: Policy::from_config(config.get("defaults").unwrap_or(&Value::Null))?,
            exempt_namespaces: names("namespaces"),
            exempt_users: names("usernames"),
            exempt_classes: names("runtimeClasses"),
        })
    }
}

/// Where the pod template of a workload is.
fn template(group: &str, resource: &str) -> Option<&'static str> {
    match (group, resource) {
        ("", "podtemplates") => Some("/template"),
        ("", "replicationcontrollers") | ("batch", "jobs") => Some("/spec/template"),
        ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets") => Some("/spec/template"),
        ("batch", "cronjobs") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

/// `reason (detail), reason (detail)`.
fn details(violations: &[Violation]) -> String {
    let parts: Vec<String> = violations
        .iter()
        .map(|v| format!("{} ({})", v.reason, v.detail))
        .collect();
    parts.join(", ")
}

#[async_trait]
impl Plugin for PodSecurity {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        let (group, resource, sub) = (
            &*request.resource.group,
            &*request.resource.resource,
            request.attributes.subresource.as_str(),
        );
        writes(request)
            && match (group, resource) {
                ("", "namespaces") => sub.is_empty(),
                ("", "pods") => !IGNORED.contains(&sub),
                _ => sub.is_empty() && template(group, resource).is_some(),
            }
    }

    async fn validate(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
        match (&*request.resource.group, &*request.resource.resource) {
            ("", "namespaces") => self.namespace(cx, request, object).await,
            ("", "pods") => self.pod(cx, request, object).await,
            (group, resource) => {
                let template = template(group, resource).and_then(|path| object.pointer(path));
                match template {
                    Some(template) => self.evaluate(cx, request, template, false).await,
                    None => Ok(()),
                }
            }
        }
    }
}

impl PodSecurity {
    async fn pod(&self, cx: &Context, request: &AdmissionRequest<'_>, pod: &Value) -> Result<(), Error> {
        match request.old {
            Some(old) if request.operation == Operation::Update && !is_significant(pod, old) => Ok(()),
            _ => self.evaluate(cx, request, pod, true).await,
        }
    }

    /// Why nothing is checked.
    fn exemption(&self, request: &AdmissionRequest<'_>, pod: &Value) -> Option<&'static str> {
        if self.exempt_namespaces.contains(&request.attributes.namespace) {
            Some("namespace")
        } else if self.exempt_users.contains(&request.user.name) {
            Some("user")
        } else if self.exempt_classes.contains(text(pod, "/spec/runtimeClassName")) {
            Some("runtimeClass")
        } else {
            None
        }
    }

    async fn evaluate(
        &self,
        cx: &Context,
        request: &AdmissionRequest<'_>,
        pod: &Value,
        enforce: bool,
    ) -> Result<(), Error> {
        if let Some(reason) = self.exemption(request, pod) {
            request.annotate(format!("{AUDIT}exempt"), reason);
            return Ok(());
        }
        let name = &request.attributes.namespace;
        let Some(namespace) = cx.get("", "namespaces", "", name).await? else {
            return Err(Error::internal(format!("failed to lookup namespace {name:?}")));
        };
        let (policy, faults) = Policy::of_labels(namespace.pointer("/metadata/labels"), self.defaults);
        if let Some(fault) = faults.first() {
            let why = format!("Failed to parse policy: {fault}");
            request.annotate(format!("{AUDIT}error"), why);
        }
        if enforce {
            request.annotate(format!("{AUDIT}enforce-policy"), policy.enforce.to_string());
        }
        if faults.is_empty() && policy.is_privileged() {
            return Ok(());
        }
        let empty = Value::Null;
        let (metadata, spec) = (pod.get("metadata").unwrap_or(&empty), pod.get("spec").unwrap_or(&empty));
        let check = |standard: LevelVersion| details(&evaluate(standard, metadata, spec));
        let audited = check(policy.audit);
        if !audited.is_empty() {
            let why = format!("would violate PodSecurity \"{}\": {audited}", policy.audit);
            request.annotate(format!("{AUDIT}audit-violations"), why);
        }
        let enforced = if enforce { check(policy.enforce) } else { String::new() };
        if !enforced.is_empty() {
            let why = format!("violates PodSecurity \"{}\": {enforced}", policy.enforce);
            return Err(forbidden(request, why));
        }
        let warned = check(policy.warn);
        if !warned.is_empty() {
            request.warn(format!("would violate PodSecurity \"{}\": {warned}", policy.warn));
        }
        Ok(())
    }

    async fn namespace(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
        let name = &request.attributes.name;
        let labels = object.pointer("/metadata/labels");
        let (policy, faults) = Policy::of_labels(labels, self.defaults);
        let old = request.old.filter(|_| request.operation == Operation::Update);
        let before = old.map(|old| Policy::of_labels(old.pointer("/metadata/labels"), self.defaults));
        let same_faults = before.as_ref().is_some_and(|(_, old)| *old == faults);
        if !faults.is_empty() && !same_faults {
            return Err(Error::invalid(&GroupKind::new("", "Namespace"), name, faults));
        }
        let changed = before.as_ref().is_none_or(|(old, _)| *old != policy);
        if self.exempt_namespaces.contains(name) {
            let labelled = policy.labelled(labels);
            if changed && !labelled.is_empty() {
                request.warn(format!(
                    "namespace {name:?} is exempt from Pod Security, and the policy ({labelled}) will be ignored"
                ));
            }
            return Ok(());
        }
        let Some((before, _)) = before else { return Ok(()) };
        let (new, old) = (policy.enforce, before.enforce);
        let relaxed = new.version == old.version && new.level <= old.level;
        if new == old || new.level == Level::Privileged || relaxed {
            return Ok(());
        }
        for warning in self.offending(cx, name, new).await? {
            request.warn(warning);
        }
        Ok(())
    }

    /// Warnings about the pods of a namespace that a level refuses, one for all pods with the same faults.
    async fn offending(&self, cx: &Context, namespace: &str, standard: LevelVersion) -> Result<Vec<String>, Error> {
        let pods = cx.list("", "pods", namespace).await?;
        let mut by_fault: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for pod in pods.iter().take(MOST_PODS) {
            if self.exempt_classes.contains(text(pod, "/spec/runtimeClassName")) {
                continue;
            }
            let reasons: Vec<String> = evaluate(standard, &pod["metadata"], &pod["spec"])
                .into_iter()
                .map(|v| v.reason)
                .collect();
            if !reasons.is_empty() {
                by_fault
                    .entry(reasons.join(", "))
                    .or_default()
                    .push(text(pod, "/metadata/name"));
            }
        }
        let mut out = Vec::new();
        if pods.len() > MOST_PODS {
            out.push(format!(
                "new PodSecurity enforce level only checked against the first {MOST_PODS} of {} existing pods",
                pods.len()
            ));
        }
        if !by_fault.is_empty() {
            out.push(format!(
                "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{standard}\""
            ));
        }
        let mut pods: Vec<String> = by_fault
            .into_iter()
            .map(|(fault, pods)| one_warning(&fault, pods))
            .collect();
        pods.sort();
        out.extend(pods);
        Ok(out)
    }
}

fn one_warning(fault: &str, mut pods: Vec<&str>) -> String {
    pods.sort_unstable();
    let first = pods.first().copied().unwrap_or_default();
    match pods.len() {
        0 | 1 => format!("{first}: {fault}"),
        2 => format!("{first} (and 1 other pod): {fault}"),
        count => format!("{first} (and {} other pods): {fault}", count - 1),
    }
}

/// Whether an update of a pod changes anything that the checks look at: images, seccomp annotations, or containers that are added.
fn is_significant(pod: &Value, old: &Value) -> bool {
    let seccomp = |object: &Value| {
        let annotations = object.pointer("/metadata/annotations").and_then(Value::as_object);
        let mut found: Vec<(String, Value)> = annotations
            .into_iter()
            .flatten()
            .filter(|(key, _)| key.contains("seccomp.security.alpha.kubernetes.io/"))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    };
    let images = |object: &Value, path: &str| {
        let containers = list(object, path).iter();
        let images: Vec<(String, String)> = containers
            .map(|c| (text(c, "/name").to_owned(), text(c, "/image").to_owned()))
            .collect();
        images
    };
    seccomp(pod) != seccomp(old)
        || ["/spec/containers", "/spec/initContainers", "/spec/ephemeralContainers"]
            .iter()
            .any(|path| images(pod, path) != images(old, path))
}

#[cfg(test)]
mod tests;
