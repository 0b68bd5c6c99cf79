//! Requests, limits, resize policies and resource claims of containers and pods.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use api::names;
use api::quantity::Quantity;
use api::{FieldError, FieldErrorKind};
use serde_json::Value;

use super::containers::is_sidecar;
use crate::kinds::common::parse_quantity;
use crate::kinds::field::{Errors, Field, list};
use crate::kinds::resource_names as resources;

type Names = fn(&Field<'_>, &str, &mut Errors);
type Amounts = BTreeMap<String, Quantity>;

/// The requirements of a container, or of anything else that has such.
pub fn container(requirements: &Field<'_>, claims: Option<&BTreeSet<&str>>, errors: &mut Errors) {
    check(requirements, resources::container, errors);
    claim_names(&requirements.get("claims"), claims, errors);
}

/// What a runtime class adds to each pod.
pub fn overhead(overhead: &Field<'_>, errors: &mut Errors) {
    // Upstream checks it as if it were the limits of a container, and says so in the path.
    let path = format!("{overhead}.limits");
    limits(&Field::root(&path, overhead.value), resources::container, errors);
}

fn check(requirements: &Field<'_>, names: Names, errors: &mut Errors) {
    let (most, least) = (requirements.get("limits"), requirements.get("requests"));
    let limit_kinds = limits(&most, names, errors);
    let mut kinds = Kinds::default();
    for (name, entry) in least.entries() {
        names(&entry, name, errors);
        let Some(requested) = resources::amount(&entry, name, errors) else {
            continue;
        };
        against_limit(&most, &least, name, requested, errors);
        kinds.see(&entry, name, requested, errors);
    }
    let any = |f: fn(&Kinds) -> bool| f(&kinds) || f(&limit_kinds);
    if any(|k| k.huge) && !any(|k| k.compute) {
        requirements.forbidden(errors, "HugePages require cpu or memory");
    }
}

fn against_limit(most: &Field<'_>, least: &Field<'_>, name: &str, requested: Quantity, errors: &mut Errors) {
    let overcommit = resources::may_overcommit(name);
    match parse_quantity(most.key(name).value) {
        Some(limit) if !overcommit && limit != requested => least.invalid_as(
            errors,
            requested.to_string(),
            format!("must be equal to {name} limit of {limit}"),
        ),
        Some(limit) if requested > limit => least.invalid_as(
            errors,
            requested.to_string(),
            format!("must be less than or equal to {name} limit of {limit}"),
        ),
        None if !overcommit => most.required(errors, "Limit must be set for non overcommitable resources"),
        _ => {}
    }
}

/// What a list of amounts contains.
#[derive(Default)]
struct Kinds {
    compute: bool,
    huge: bool,
}

impl Kinds {
    fn see(&mut self, entry: &Field<'_>, name: &str, amount: Quantity, errors: &mut Errors) {
        self.compute |= matches!(name, "cpu" | "memory");
        let Some(size) = name.strip_prefix("hugepages-") else {
            return;
        };
        self.huge = true;
        let size = size.parse::<Quantity>().map_or(0, |q| q.as_i64());
        if size <= 0 || amount.as_i64() % size != 0 {
            entry.invalid_as(
                errors,
                amount.to_string(),
                format!("{amount} is not positive integer multiple of {name}"),
            );
        }
    }
}

fn limits(map: &Field<'_>, names: Names, errors: &mut Errors) -> Kinds {
    let mut kinds = Kinds::default();
    for (name, entry) in map.entries() {
        names(&entry, name, errors);
        if let Some(amount) = resources::amount(&entry, name, errors) {
            kinds.see(&entry, name, amount, errors);
        }
    }
    kinds
}

/// The claims that a container uses are the pod's.
fn claim_names(list: &Field<'_>, known: Option<&BTreeSet<&str>>, errors: &mut Errors) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for claim in list.items() {
        let (name, request) = (claim.get("name").str().to_owned(), claim.get("request"));
        if name.is_empty() {
            claim.required(errors, "");
            continue;
        }
        let key = if request.is_empty() {
            name.clone()
        } else {
            request.check(errors, names::dns1123_label);
            format!("{name}/{}", request.str())
        };
        let overlaps = request.is_empty() && seen.iter().any(|s| s.split('/').next() == Some(&name));
        if seen.contains(&name) || overlaps {
            claim.duplicate_of(errors, name.as_str(), "");
        } else if seen.contains(&key) {
            claim.duplicate_of(errors, key.as_str(), "");
        }
        seen.insert(key);
        let known = known.cloned().unwrap_or_default();
        if !known.contains(name.as_str()) {
            let all: Vec<&str> = known.into_iter().collect();
            let rest = if all.is_empty() {
                " which is empty".to_owned()
            } else {
                format!(": {}", all.join(", "))
            };
            errors.push(FieldError {
                kind: FieldErrorKind::NotFound,
                field: claim.to_string(),
                bad_value: Some(name.into()),
                detail: format!("must be one of the names in pod.spec.resourceClaims{rest}"),
            });
        }
    }
}

/// The claims of a pod; answers their names.
pub fn pod_claims<'a>(claims: &Field<'a>, errors: &mut Errors) -> BTreeSet<&'a str> {
    const NAMES: [&str; 2] = ["resourceClaimName", "resourceClaimTemplateName"];
    let mut seen = HashSet::new();
    for claim in claims.items() {
        let name = claim.get("name");
        if name.is_empty() {
            name.required(errors, "");
        } else if seen.insert(name.str().to_owned()) {
            name.check(errors, names::dns1123_label);
        } else {
            name.duplicate(errors);
        }
        match NAMES.iter().filter(|n| claim.get(n).exists()).count() {
            0 => claim.invalid(
                errors,
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            ),
            1 => {}
            _ => claim.invalid(
                errors,
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
        }
        for name in NAMES.into_iter().filter(|n| claim.get(n).exists()) {
            claim.get(name).check(errors, names::dns1123_subdomain);
        }
    }
    let all = claims.value.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter()
        .filter_map(|claim| claim.get("name")?.as_str())
        .filter(|name| !name.is_empty())
        .collect()
}

/// `resizePolicy` of a container.
pub fn resize_policy(policies: &Field<'_>, restart: &str, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for policy in policies.items() {
        let (name, action) = (policy.get("resourceName"), policy.get("restartPolicy"));
        if !seen.insert(name.str().to_owned()) {
            policy.duplicate_of(errors, name.str(), "");
        }
        policies.showing(name.value).required_one_of(errors, &["cpu", "memory"]);
        policies
            .showing(action.value)
            .required_one_of(errors, &["NotRequired", "RestartContainer"]);
        if restart == "Never" && action.str() != "NotRequired" {
            policies.invalid_as(
                errors,
                action.str(),
                "must be 'NotRequired' when `restartPolicy` is 'Never'",
            );
        }
    }
}

/// Requests and limits of the pod as a whole, which those of its containers fit into.
pub fn pod_level(spec: &Field<'_>, errors: &mut Errors) {
    let requirements = spec.get("resources");
    if !requirements.exists() {
        return;
    }
    let claims = requirements.get("claims");
    if claims.exists() {
        claims.forbidden(errors, "claims cannot be set for Resources at pod-level");
    }
    check(&requirements, resources::pod, errors);
    let requests = requirements.get("requests");
    for (name, sum) in container_requests(spec.value) {
        let entry = requests.key(&name);
        let own = parse_quantity(entry.value).unwrap_or(Quantity::ZERO);
        if sum > own {
            entry.invalid_as(
                errors,
                own.to_string(),
                format!("must be greater than or equal to aggregate container requests of {sum}"),
            );
        }
    }
    let limits = requirements.get("limits");
    for (index, c) in list(spec.value, "/containers").iter().enumerate() {
        for (name, amount) in amounts(c, "limits") {
            if let Some(most) = parse_quantity(limits.key(&name).value).filter(|most| amount > *most) {
                errors.push(FieldError::invalid(
                    format!("{requirements}.containers[{index}][{name}].limits"),
                    amount.to_string(),
                    format!("must be less than or equal to pod limits of {most}"),
                ));
            }
        }
    }
}

/// One of a container's two maps, read.
pub fn amounts(container: &Value, which: &str) -> Amounts {
    let map = container
        .pointer(&format!("/resources/{which}"))
        .and_then(Value::as_object);
    map.into_iter()
        .flatten()
        .filter_map(|(name, amount)| Some((name.clone(), parse_quantity(amount)?)))
        .collect()
}

/// What the containers of a pod ask for together: the regular ones and sidecars at once, or an init container beside the sidecars that
/// started before it, whichever is more.
pub fn container_requests(spec: &Value) -> Amounts {
    let mut running = Amounts::new();
    for c in list(spec, "/containers") {
        add(&mut running, &amounts(c, "requests"));
    }
    let (mut sidecars, mut starting) = (Amounts::new(), Amounts::new());
    for c in list(spec, "/initContainers") {
        let mut at_once = amounts(c, "requests");
        if is_sidecar(c) {
            add(&mut running, &at_once);
            add(&mut sidecars, &at_once);
            at_once = sidecars.clone();
        } else {
            add(&mut at_once, &sidecars);
        }
        raise(&mut starting, &at_once);
    }
    raise(&mut running, &starting);
    running
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *sum.entry(name.clone()).or_insert(Quantity::ZERO) += *amount;
    }
}

fn raise(most: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let entry = most.entry(name.clone()).or_insert(*amount);
        *entry = (*entry).max(*amount);
    }
}
