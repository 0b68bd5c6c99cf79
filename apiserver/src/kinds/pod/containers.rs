//! Validation of containers: what all three lists share, and what each may not have.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use api::names;
use serde_json::Value;

use super::{env, handlers, mounts, resources, security};
use crate::kinds::field::{Errors, Field};

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const RESTART_RULES: usize = 20;
const EXIT_CODES: usize = 255;
/// The fields of an ephemeral container that upstream's allow list leaves out, in the order of its type.
const NOT_EPHEMERAL: [&str; 9] = [
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

/// What containers refer to in their pod.
pub struct Surroundings<'a> {
    /// The pod's valid volumes by name.
    pub volumes: &'a BTreeMap<&'a str, &'a Value>,
    /// The names of its resource claims.
    pub claims: &'a BTreeSet<&'a str>,
    /// `terminationGracePeriodSeconds`.
    pub grace: Option<i64>,
    /// The pod's restart policy.
    pub restart_policy: &'a str,
    /// The pod has no user namespace of its own.
    pub host_users: bool,
}

/// Visits every container: init, regular, ephemeral.
pub fn each(spec: &Field<'_>, visit: &mut dyn FnMut(&Field<'_>)) {
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        spec.get(list).items().for_each(|c| visit(&c));
    }
}

/// An init container that runs beside the others.
pub fn is_sidecar(container: &Value) -> bool {
    container.get("restartPolicy").is_some_and(|p| p == "Always")
}

/// All three lists of a pod's spec.
pub fn all(spec: &Field<'_>, around: &Surroundings<'_>, errors: &mut Errors) {
    let containers = spec.get("containers");
    if containers.is_empty() {
        containers.required(errors, "");
    }
    let mut names = HashSet::new();
    for c in containers.items() {
        common(&c, around, errors);
        unique(&c, &mut names, errors);
        handlers::lifecycle(&c.get("lifecycle"), around.grace, errors);
        handlers::probes(&c, around.grace, errors);
        restart(&c, errors);
    }
    host_ports(&containers, containers.items(), errors);
    let mut others = names.clone();
    let init = spec.get("initContainers");
    for c in init.items() {
        common(&c, around, errors);
        restart(&c, errors);
        unique(&c, &mut others, errors);
        host_ports(&init, std::iter::once(c), errors);
        init_only(&c, around.grace, errors);
    }
    ephemeral(spec, others, around, errors);
}

fn unique(c: &Field<'_>, seen: &mut HashSet<String>, errors: &mut Errors) {
    let name = c.get("name");
    let text = name.str().to_owned();
    if !text.is_empty() && !seen.insert(text) {
        name.duplicate(errors);
    }
}

fn init_only(c: &Field<'_>, grace: Option<i64>, errors: &mut Errors) {
    if is_sidecar(c.value) {
        handlers::lifecycle(&c.get("lifecycle"), grace, errors);
        return handlers::probes(c, grace, errors);
    }
    for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if c.get(name).exists() {
            c.get(name).forbidden(
                errors,
                "may not be set for init containers without restartPolicy=Always",
            );
        }
    }
}

fn ephemeral(spec: &Field<'_>, others: HashSet<String>, around: &Surroundings<'_>, errors: &mut Errors) {
    const FORBIDDEN: &str = "cannot be set for an Ephemeral Container";
    let mut names = others.clone();
    for c in spec.get("ephemeralContainers").items() {
        common(&c, around, errors);
        no_padding(&c.get("image"), errors);
        unique(&c, &mut names, errors);
        let target = c.get("targetContainerName");
        if !target.is_empty() && !others.contains(target.str()) {
            target.not_found(errors);
        }
        for name in NOT_EPHEMERAL {
            if !c.get(name).is_empty() {
                c.get(name).forbidden(errors, FORBIDDEN);
            }
        }
        let mounts = c.get("volumeMounts");
        for mount in mounts.items() {
            for name in ["subPath", "subPathExpr"] {
                if !mount.get(name).is_empty() {
                    mount.get(name).forbidden(errors, FORBIDDEN);
                }
            }
        }
    }
}

/// An image's name as a pod must have it; templates are more lenient.
pub fn no_padding(image: &Field<'_>, errors: &mut Errors) {
    if image.str().trim() != image.str() {
        image.invalid(errors, "must not have leading or trailing whitespace");
    }
}

fn common(c: &Field<'_>, around: &Surroundings<'_>, errors: &mut Errors) {
    c.get("name").required_check(errors, names::dns1123_label);
    c.require(errors, &["image"]);
    c.get("terminationMessagePolicy")
        .required_one_of(errors, &["File", "FallbackToLogsOnError"]);
    ports(&c.get("ports"), errors);
    env::variables(&c.get("env"), around, errors);
    env::sources(&c.get("envFrom"), errors);
    mounts::mounts(c, around, errors);
    mounts::devices(c, around, errors);
    pull_policy(&c.get("imagePullPolicy"), errors);
    resources::container(&c.get("resources"), Some(around.claims), errors);
    resources::resize_policy(&c.get("resizePolicy"), around.restart_policy, errors);
    security::container(&c.get("securityContext"), around.host_users, errors);
}

/// When to fetch an image.
pub fn pull_policy(policy: &Field<'_>, errors: &mut Errors) {
    policy.required_one_of(errors, PULL_POLICIES);
}

/// A container's own restart policy and the rules that make exceptions from it.
fn restart(c: &Field<'_>, errors: &mut Errors) {
    let (policy, rules) = (c.get("restartPolicy"), c.get("restartPolicyRules"));
    policy.one_of_if_set(errors, &["Always", "Never", "OnFailure"]);
    if !rules.is_empty() && !policy.exists() {
        policy.required(errors, "must specify restartPolicy when restart rules are used");
    }
    rules.too_many(errors, RESTART_RULES);
    for rule in rules.items() {
        rule.get("action").one_of(errors, &["Restart"]);
        let codes = rule.get("exitCodes");
        if !codes.exists() {
            codes.required(errors, "must be specified");
            continue;
        }
        codes.get("operator").one_of(errors, &["In", "NotIn"]);
        codes.get("values").too_many(errors, EXIT_CODES);
    }
}

fn ports(ports: &Field<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for port in ports.items() {
        let name = port.get("name");
        if !name.is_empty() {
            let faults = names::port_name(name.str());
            if faults.is_empty() && !seen.insert(name.str().to_owned()) {
                name.duplicate(errors);
            }
            name.invalid_all(errors, faults);
        }
        let (number, host) = (port.get("containerPort"), port.get("hostPort"));
        if number.number() == 0 {
            number.required(errors, "");
        } else {
            number.in_range(errors, 1, 65535);
        }
        if host.number() != 0 {
            host.in_range(errors, 1, 65535);
        }
        port.get("protocol").required_one_of(errors, &["SCTP", "TCP", "UDP"]);
    }
}

/// Two containers of a pod cannot take the same port of the node. Paths count from the start of what is checked, as upstream's do.
fn host_ports<'a>(list: &Field<'_>, containers: impl Iterator<Item = Field<'a>>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (index, c) in containers.enumerate() {
        for (place, port) in c.get("ports").items().enumerate() {
            let number = port.get("hostPort").number();
            let shown = format!("{}/{}/{number}", port.get("protocol").str(), port.get("hostIP").str());
            if number != 0 && !seen.insert(shown.clone()) {
                let path = format!("{list}[{index}].ports[{place}].hostPort");
                errors.push(api::FieldError::duplicate(path, shown));
            }
        }
    }
}
