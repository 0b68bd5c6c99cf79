//! What is deprecated or doubtful in a pod or a pod template. Source: `pkg/api/pod/warnings.go`.

use std::collections::{BTreeMap, HashSet};

use api::names;
use serde_json::Value;

use super::annotations::{APP_ARMOR, SECCOMP_CONTAINER, SECCOMP_POD};
use super::containers::each;
use crate::kinds::claim;
use crate::kinds::common::parse_quantity;
use crate::kinds::field::{Field, text};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
/// JSON name, name in the warning, what is said.
const VOLUMES: [(&str, &str, &str); 9] = [
    (
        "photonPersistentDisk",
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    ),
    (
        "gitRepo",
        "gitRepo",
        "deprecated in v1.11, and disabled by default in v1.33+",
    ),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    (
        "storageos",
        "storageOS",
        "deprecated in v1.22, non-functional in v1.25+",
    ),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    (
        "glusterfs",
        "glusterfs",
        "deprecated in v1.25, non-functional in v1.26+",
    ),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// The old name of a node's label, and what to use.
pub fn node_label(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
        "beta.kubernetes.io/os" => "deprecated since v1.14; use \"kubernetes.io/os\" instead",
        "failure-domain.beta.kubernetes.io/region" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"
        }
        "beta.kubernetes.io/instance-type" => {
            "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"
        }
        _ => return None,
    })
}

/// The doubtful parts of one term of a node selector.
pub fn node_selector_term(term: &Field<'_>, check_values: bool, warnings: &mut Vec<String>) {
    for expression in term.get("matchExpressions").items() {
        let (key, values) = (expression.get("key"), expression.get("values"));
        if let Some(message) = node_label(key.str()) {
            warnings.push(format!("{key}: {} is {message}", key.str()));
        }
        for value in values.items().filter(|_| check_values) {
            for message in names::label_value(value.str()) {
                warnings.push(format!("{value}: {} is invalid, {message}", value.str()));
            }
        }
    }
}

/// Of a pod, or of a template at a path.
pub fn warnings(holder: &Field<'_>, is_template: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    let (metadata, spec) = (holder.get("metadata"), holder.get("spec"));
    node_choice(&spec, &mut warnings);
    let notes = metadata.get("annotations");
    for (key, message) in ANNOTATIONS {
        if notes.key(key).exists() {
            warnings.push(format!("{}: {message}", notes.key(key)));
        }
    }
    volumes(&spec.get("volumes"), &mut warnings);
    duplicates(&spec, &mut warnings);
    fractions(&spec.get("overhead"), &mut warnings);
    let context = spec.get("securityContext");
    if notes.key(SECCOMP_POD).exists() && !context.get("seccompProfile").exists() {
        seccomp(&notes, SECCOMP_POD, &mut warnings);
    }
    let pod_profile = context.get("appArmorProfile").exists();
    each(&spec, &mut |c| {
        let own = c.get("securityContext");
        let key = format!("{SECCOMP_CONTAINER}{}", c.get("name").str());
        if notes.key(&key).exists() && !own.get("seccompProfile").exists() {
            seccomp(&notes, &key, &mut warnings);
        }
        let key = format!("{APP_ARMOR}{}", c.get("name").str());
        if is_template && !pod_profile && !own.get("appArmorProfile").exists() && notes.key(&key).exists() {
            warnings.push(format!(
                "{}: deprecated since v1.30; use the \"appArmorProfile\" field instead",
                notes.key(&key)
            ));
        }
        let resources = c.get("resources");
        fractions(&resources.get("limits"), &mut warnings);
        fractions(&resources.get("requests"), &mut warnings);
        variables(&c.get("env"), &mut warnings);
    });
    ports(&spec, &mut warnings);
    let grace = spec.get("terminationGracePeriodSeconds");
    if grace.number() < 0 {
        warnings.push(format!(
            "{grace}: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    pod_affinity(&spec.get("affinity"), &mut warnings);
    warnings
}

fn seccomp(notes: &Field<'_>, key: &str, warnings: &mut Vec<String>) {
    warnings.push(format!(
        "{}: non-functional in v1.27+; use the \"seccompProfile\" field instead",
        notes.key(key)
    ));
}

fn node_choice(spec: &Field<'_>, warnings: &mut Vec<String>) {
    for (key, entry) in spec.get("nodeSelector").entries() {
        if let Some(message) = node_label(key) {
            warnings.push(format!("{entry}: {message}"));
        }
    }
    let affinity = spec.get("affinity");
    let node = affinity.get("nodeAffinity");
    let (required, preferred) = (node.get(REQUIRED), node.get(PREFERRED));
    for term in required.get("nodeSelectorTerms").items() {
        node_selector_term(&term, false, warnings);
    }
    for term in preferred.items() {
        node_selector_term(&term.get("preference"), true, warnings);
    }
    for constraint in spec.get("topologySpreadConstraints").items() {
        let (key, selector) = (constraint.get("topologyKey"), constraint.get("labelSelector"));
        if let Some(message) = node_label(key.str()) {
            warnings.push(format!("{key}: {} is {message}", key.str()));
        }
        no_selector(&selector, warnings);
    }
}

fn no_selector(selector: &Field<'_>, warnings: &mut Vec<String>) {
    if !selector.exists() {
        warnings.push(format!("{selector}: a null labelSelector results in matching no pod"));
    }
}

fn pod_affinity(affinity: &Field<'_>, warnings: &mut Vec<String>) {
    for name in ["podAffinity", "podAntiAffinity"] {
        let pods = affinity.get(name);
        let (required, preferred) = (pods.get(REQUIRED), pods.get(PREFERRED));
        for term in required.items() {
            no_selector(&term.get("labelSelector"), warnings);
        }
        for term in preferred.items() {
            let term = term.get("podAffinityTerm");
            no_selector(&term.get("labelSelector"), warnings);
        }
    }
}

fn volumes(volumes: &Field<'_>, warnings: &mut Vec<String>) {
    for volume in volumes.items() {
        for (name, shown, message) in VOLUMES {
            if volume.get(name).exists() {
                warnings.push(format!("{}: {message}", volume.get(shown)));
            }
        }
        let ephemeral = volume.get("ephemeral");
        let template = ephemeral.get("volumeClaimTemplate");
        claim::warn_spec(&template.get("spec"), warnings);
    }
    token_paths(volumes, warnings);
}

/// Files that hide a service account's token.
fn token_paths(volumes: &Field<'_>, warnings: &mut Vec<String>) {
    let sources = || {
        volumes.items().flat_map(|volume| {
            let sources = volume.value.pointer("/projected/sources").and_then(Value::as_array);
            let path = volume.to_string();
            sources.into_iter().flatten().map(move |source| (path.clone(), source))
        })
    };
    let tokens: HashSet<&str> = sources()
        .map(|(_, source)| text(source, "/serviceAccountToken/path"))
        .filter(|path| !path.is_empty())
        .collect();
    let mut warn = |path: &str, place: String| {
        if tokens.contains(path) {
            warnings.push(format!(
                "{place}: has duplicated path with ServiceAccountToken {path:?}"
            ));
        }
    };
    for (volume, source) in sources() {
        for (name, shown) in [
            ("configMap", "configMap"),
            ("secret", "secrets"),
            ("downwardAPI", "downwardAPI"),
        ] {
            let items = source.pointer(&format!("/{name}/items")).and_then(Value::as_array);
            for (index, item) in items.into_iter().flatten().enumerate() {
                warn(
                    text(item, "/path"),
                    format!("{volume}.projected.sources.{shown}[{index}]"),
                );
            }
        }
        if source.get("clusterTrustBundle").is_some() {
            warn(
                text(source, "/clusterTrustBundle/path"),
                format!("{volume}.projected.sources.ClusterTrustBundle"),
            );
        }
    }
}

fn duplicates(spec: &Field<'_>, warnings: &mut Vec<String>) {
    for (list, name) in [("hostAliases", "ip"), ("imagePullSecrets", "name")] {
        let mut seen = HashSet::new();
        for item in spec.get(list).items() {
            let field = item.get(name);
            if !seen.insert(field.str().to_owned()) {
                warnings.push(format!("{field}: duplicate {name} {:?}", field.str()));
            }
        }
    }
    for secret in spec.get("imagePullSecrets").items() {
        let name = secret.get("name");
        if name.is_empty() {
            warnings.push(format!("{name}: invalid empty name \"\""));
        }
    }
}

/// A part of a byte cannot be had.
pub fn fractions(amounts: &Field<'_>, warnings: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        let entry = amounts.key(name);
        if let Some(amount) = parse_quantity(entry.value).filter(|q| q.as_milli() % 1000 != 0) {
            warnings.push(format!(
                "{entry}: fractional byte value \"{amount}\" is invalid, must be an integer"
            ));
        }
    }
}

fn variables(env: &Field<'_>, warnings: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for variable in env.items() {
        let (name, value) = (variable.get("name"), variable.get("value"));
        if seen.insert(name.str().to_owned()) {
            continue;
        }
        let reference = format!("$({})", name.str());
        let extends = value.str().contains(&reference) && value.str() != reference;
        if variable.get("valueFrom").exists() || !extends {
            warnings.push(format!(
                "{variable}: hides previous definition of {:?}, which may be dropped when using apply",
                name.str()
            ));
        }
    }
}

/// A container's port and where it was said.
struct Place {
    path: String,
    host_ip: String,
    host_port: i64,
}

fn ports(spec: &Field<'_>, warnings: &mut Vec<String>) {
    let mut all: BTreeMap<(i64, String), Vec<Place>> = BTreeMap::new();
    each(spec, &mut |c| {
        for port in c.get("ports").items() {
            let place = Place {
                path: port.to_string(),
                host_ip: port.get("hostIP").str().to_owned(),
                host_port: port.get("hostPort").number(),
            };
            if !place.host_ip.is_empty() && place.host_port == 0 {
                warnings.push(format!(
                    "{port}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{}}}",
                    port.get("name").str(),
                    port.get("containerPort").number(),
                    port.get("protocol").str(),
                    place.host_ip
                ));
            }
            let key = (
                port.get("containerPort").number(),
                port.get("protocol").str().to_owned(),
            );
            let others = all.entry(key).or_default();
            warnings.extend(others.iter().filter_map(|other| overlap(&place, other)));
            others.push(place);
        }
    });
}

fn overlap(one: &Place, other: &Place) -> Option<String> {
    let how = if one.host_ip == other.host_ip && one.host_port == other.host_port {
        "duplicate"
    } else if one.host_port == 0 || other.host_port == 0 {
        "overlapping"
    } else if one.host_port == other.host_port && one.host_ip.is_empty() != other.host_ip.is_empty() {
        "dangerously ambiguous"
    } else {
        return None;
    };
    Some(format!("{}: {how} port definition with {}", one.path, other.path))
}
