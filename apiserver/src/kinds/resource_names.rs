//! The names of resources that are counted or measured, and the amounts they may have. Source: `pkg/apis/core/helper/helpers.go`.

use api::names;
use api::quantity::Quantity;

use super::common::parse_quantity;
use super::field::{Errors, Field};

const COMPUTE: [&str; 9] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
const COUNTED: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
const NOT_STANDARD: &str = "must be a standard resource type or fully qualified";

/// Pages of memory of one size.
pub fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// One of Kubernetes' own.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A device or the like that somebody else advertises.
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// More may be promised than there is, so that requests may be below limits.
pub fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

fn is_whole(name: &str) -> bool {
    COUNTED.contains(&name) || is_extended(name)
}

/// Without a prefix, a name that a quota can have.
pub fn is_quota(name: &str) -> bool {
    COMPUTE.contains(&name)
        || COUNTED.contains(&name)
        || name == "requests.storage"
        || is_huge_page(name)
        || name.starts_with("requests.hugepages-")
}

/// A resource's name, at the place of its entry.
pub fn name(entry: &Field<'_>, name: &str, errors: &mut Errors) -> bool {
    let faults = names::qualified_name(name);
    let standard = COMPUTE.contains(&name)
        || COUNTED.contains(&name)
        || matches!(name, "storage" | "requests.storage")
        || is_huge_page(name);
    if faults.is_empty() && !name.contains('/') && !standard {
        entry.invalid_as(errors, name, NOT_STANDARD);
        return false;
    }
    let fine = faults.is_empty();
    faults
        .into_iter()
        .for_each(|detail| entry.invalid_as(errors, name, detail));
    fine
}

/// The name of a resource that a container can have.
pub fn container(entry: &Field<'_>, text: &str, errors: &mut Errors) {
    name(entry, text, errors);
    if !text.contains('/') {
        if !matches!(text, "cpu" | "memory" | "ephemeral-storage") && !is_huge_page(text) {
            entry.invalid_as(errors, text, "must be a standard resource for containers");
        }
    } else if !is_native(text) && !is_extended(text) {
        entry.invalid_as(errors, text, "doesn't follow extended resource name standard");
    }
}

/// The name of a resource that a whole pod can have.
pub fn pod(entry: &Field<'_>, text: &str, errors: &mut Errors) {
    if name(entry, text, errors) && !is_pod_level(text) {
        let shown = serde_json::Value::from(text);
        entry
            .showing(&shown)
            .not_supported(errors, &["cpu", "hugepages-", "memory"]);
    }
}

/// Whether requests and limits of a whole pod can name it.
pub fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge_page(name)
}

/// The name of a resource that a quota can limit.
pub fn quota(entry: &Field<'_>, text: &str, errors: &mut Errors) {
    name(entry, text, errors);
    if !text.contains('/') && !is_quota(text) {
        entry.invalid_as(errors, text, "must be a standard resource for quota");
    }
}

/// An amount of a resource: not negative, and whole where the resource is counted.
pub fn amount(entry: &Field<'_>, name: &str, errors: &mut Errors) -> Option<Quantity> {
    let amount = parse_quantity(entry.value)?;
    if amount.is_negative() {
        entry.invalid_as(errors, amount.to_string(), "must be greater than or equal to 0");
    }
    if is_whole(name) && amount.as_milli() % 1000 != 0 {
        entry.invalid_as(errors, amount.to_string(), "must be an integer");
    }
    Some(amount)
}

/// A map of amounts, the names checked by a function from here.
pub fn amounts(map: &Field<'_>, check: fn(&Field<'_>, &str, &mut Errors), errors: &mut Errors) {
    for (name, entry) in map.entries() {
        check(&entry, name, errors);
        amount(&entry, name, errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_names() {
        for (name, native, extended, overcommit) in [
            ("cpu", true, false, true),
            ("hugepages-2Mi", true, false, false),
            ("example.com/gpu", false, true, false),
            ("kubernetes.io/batch-cpu", true, false, true),
            ("requests.example.com/gpu", false, false, false),
        ] {
            assert_eq!(
                (is_native(name), is_extended(name), may_overcommit(name)),
                (native, extended, overcommit),
                "{name}"
            );
        }
    }
}
