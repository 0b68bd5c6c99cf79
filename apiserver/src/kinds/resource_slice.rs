//! ResourceSlices: the devices that a driver offers.

use api::names;
use api::quantity::Quantity;
use serde_json::{Value, json};

use super::common::parse_quantity;
use super::field::{Errors, Field, default, each, text};
use super::pod::placement::node_selector;
use super::resource::{attribute_name, binding_conditions, effect, pool_name, unique, within};
use super::rules::Rules;
use super::volume_source::driver_name;
use crate::registry::table::{self, Column};

/// How many devices a slice has, and how many if they have taints or share something.
const DEVICES: usize = 128;
const ELABORATE_DEVICES: usize = 64;
const PROPERTIES: usize = 32;
const COUNTER_SETS: usize = 8;
const COUNTERS: usize = 32;
const CONSUMED_SETS: usize = 2;
const TAINTS: usize = 16;
const OPTIONS: usize = 10;
const VALUE: usize = 64;

/// Rules of `resourceslices.resource.k8s.io`.
pub static SLICE: Rules = Rules {
    generation: true,
    default: |object| {
        let now = json!(jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let Some(spec) = object.get_mut("spec") else { return };
        for device in each(spec, "devices") {
            for taint in each(device, "taints") {
                default(taint, "timeAdded", now.clone());
            }
        }
    },
    validate,
    validate_update: |root, old, errors| {
        let spec = root.get("spec");
        let pool = spec.get("pool");
        for (field, before) in [
            (pool.get("name"), &old["spec"]["pool"]["name"]),
            (spec.get("driver"), &old["spec"]["driver"]),
            (spec.get("nodeName"), &old["spec"]["nodeName"]),
        ] {
            field.immutable(errors, before);
        }
    },
    columns: &[
        Column::NAME,
        Column::text("Node"),
        Column::text("Driver"),
        Column::text("Pool"),
        Column::AGE,
    ],
    row: |object, now| {
        let all = object.pointer("/spec/allNodes").and_then(Value::as_bool) == Some(true);
        let node = match text(object, "/spec/nodeName") {
            "" if all => "<all>",
            "" => "<selected>",
            name => name,
        };
        vec![
            table::name(object),
            json!(node),
            json!(text(object, "/spec/driver")),
            json!(text(object, "/spec/pool/name")),
            table::age(object, now),
        ]
    },
    fields: &["spec.nodeName", "spec.driver"],
    ..Rules::NONE
};

fn validate(root: &Field<'_>, errors: &mut Errors) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let spec = root.get("spec");
    driver_name(&spec.get("driver"), errors);
    let pool = spec.get("pool");
    pool_name(&pool.get("name"), errors);
    let (count, generation) = (pool.get("resourceSliceCount"), pool.get("generation"));
    if count.number() <= 0 {
        count.invalid_as(errors, count.number(), "must be greater than zero");
    }
    if generation.number() < 0 {
        generation.invalid(errors, "must be greater than or equal to zero");
    }
    let mut given = node(&spec, "must be either unset or set to a non-empty string", errors);
    let selector = spec.get("nodeSelector");
    let terms = selector.get("nodeSelectorTerms");
    if selector.exists() && terms.len() != 1 {
        terms.invalid_as(errors, terms.value.clone(), "must have exactly one node selector term");
    }
    given.extend(truth(
        &spec.get("perDeviceNodeSelection"),
        "`perDeviceNodeSelection`",
        errors,
    ));
    match given.as_slice() {
        [] => spec.required(errors, ONE),
        [_] => {}
        many => spec.invalid_as(
            errors,
            format!("{{{}}}", many.join(", ")),
            format!("{ONE}, but multiple fields are set"),
        ),
    }
    let (devices, counters) = (spec.get("devices"), spec.get("sharedCounters"));
    if !devices.is_empty() && !counters.is_empty() {
        spec.invalid_as(errors, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let elaborate = |device: Field<'_>| !device.get("taints").is_empty() || !device.get("consumesCounters").is_empty();
    let most = if devices.items().any(elaborate) {
        ELABORATE_DEVICES
    } else {
        DEVICES
    };
    if within(&devices, most, errors) {
        let own_nodes = spec.get("perDeviceNodeSelection").bool();
        devices.items().for_each(|one| device(&one, own_nodes, errors));
        unique(&devices, errors);
    }
    if within(&counters, COUNTER_SETS, errors) {
        for set in counters.items() {
            set.get("name").required_check(errors, names::dns1123_label);
            counter_names(&set.get("counters"), errors);
        }
        unique(&counters, errors);
    }
}

/// Where the devices are, and which fields say so.
fn node(place: &Field<'_>, empty: &str, errors: &mut Errors) -> Vec<&'static str> {
    let mut given = Vec::new();
    let (name, selector) = (place.get("nodeName"), place.get("nodeSelector"));
    if name.exists() {
        if name.is_empty() {
            name.invalid(errors, empty);
        } else {
            given.push("`nodeName`");
            name.check(errors, names::dns1123_subdomain);
        }
    }
    if selector.exists() {
        given.push("`nodeSelector`");
        node_selector(&selector, errors);
    }
    given.extend(truth(&place.get("allNodes"), "`allNodes`", errors));
    given
}

/// A field that is true or not there.
fn truth(field: &Field<'_>, name: &'static str, errors: &mut Errors) -> Option<&'static str> {
    if field.exists() && !field.bool() {
        field.invalid(errors, "must be either unset or set to true");
    }
    field.bool().then_some(name)
}

fn counter_names(counters: &Field<'_>, errors: &mut Errors) {
    if counters.is_empty() {
        return counters.required(errors, "");
    }
    if within(counters, COUNTERS, errors) {
        for (name, entry) in counters.entries() {
            for fault in names::dns1123_label(name) {
                entry.invalid_as(errors, name, fault);
            }
        }
    }
}

fn device(device: &Field<'_>, own_nodes: bool, errors: &mut Errors) {
    const NODES: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    device.get("name").check(errors, names::dns1123_label);
    let (attributes, capacity) = (device.get("attributes"), device.get("capacity"));
    let properties = attributes.len() + capacity.len();
    if properties > PROPERTIES {
        device.invalid_as(
            errors,
            properties,
            format!("the total number of attributes and capacities must not exceed {PROPERTIES}"),
        );
    }
    for (name, entry) in attributes.entries() {
        attribute_name(&entry, name, errors);
        attribute(&entry, errors);
    }
    let shared = device.get("allowMultipleAllocations").bool();
    for (name, entry) in capacity.entries() {
        attribute_name(&entry, name, errors);
        let policy = entry.get("requestPolicy");
        if policy.exists() && shared {
            request_policy(&policy, parse_quantity(&entry.value["value"]), errors);
        } else if policy.exists() {
            policy.forbidden(errors, "allowMultipleAllocations must be true");
        }
    }
    let taints = device.get("taints");
    if within(&taints, TAINTS, errors) {
        for taint in taints.items() {
            taint.get("key").check(errors, names::qualified_name);
            taint.get("value").check_if_set(errors, names::label_value);
            if taint.get("effect").is_empty() {
                taint.get("effect").required(errors, "");
            } else {
                effect(&taint.get("effect"), errors);
            }
        }
    }
    consumed(&device.get("consumesCounters"), errors);
    if own_nodes {
        match node(device, "must not be empty", errors).as_slice() {
            [] => device.required(errors, NODES),
            [_] => {}
            many => device.invalid_as(errors, format!("{{{}}}", many.join(", ")), NODES),
        }
    } else if ["nodeName", "nodeSelector", "allNodes"]
        .iter()
        .any(|name| device.get(name).exists())
    {
        device.invalid_as(
            errors,
            Value::Null,
            "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec",
        );
    }
    binding_conditions(device, errors);
}

fn consumed(sets: &Field<'_>, errors: &mut Errors) {
    if !within(sets, CONSUMED_SETS, errors) {
        return;
    }
    let mut seen = std::collections::HashSet::new();
    for set in sets.items() {
        set.get("counterSet").required_check(errors, names::dns1123_label);
        counter_names(&set.get("counters"), errors);
        let name = text(set.value, "/counterSet");
        if !seen.insert(name.to_owned()) {
            set.duplicate_of(errors, name, "");
        }
    }
}

fn attribute(attribute: &Field<'_>, errors: &mut Errors) {
    let (string, version) = (attribute.get("string"), attribute.get("version"));
    if string.str().len() > VALUE {
        string.too_long(errors, VALUE);
    }
    if version.exists() {
        if !is_version(version.str()) {
            version.invalid(errors, "must be a string compatible with semver.org spec 2.0.0");
        }
        if version.str().len() > VALUE {
            version.too_long(errors, VALUE);
        }
    }
    let kinds = ["bool", "int", "string", "version"];
    match kinds.iter().filter(|kind| attribute.get(kind).exists()).count() {
        0 => attribute.invalid_as(errors, "", "exactly one value must be specified"),
        1 => {}
        _ => attribute.invalid(errors, "exactly one value must be specified"),
    }
}

/// A version as semver.org has it.
fn is_version(text: &str) -> bool {
    let (text, build) = text.split_once('+').map_or((text, None), |(a, b)| (a, Some(b)));
    let (core, early) = text.split_once('-').map_or((text, None), |(a, b)| (a, Some(b)));
    let number = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'))
    };
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let early_word = |part: &str| word(part) && (number(part) || !part.bytes().all(|b| b.is_ascii_digit()));
    core.split('.').count() == 3
        && core.split('.').all(number)
        && early.is_none_or(|early| early.split('.').all(early_word))
        && build.is_none_or(|build| build.split('.').all(word))
}

/// How much of a capacity one request may have.
fn request_policy(policy: &Field<'_>, most: Option<Quantity>, errors: &mut Errors) {
    let (values, range, preset) = (
        policy.get("validValues"),
        policy.get("validRange"),
        policy.get("default"),
    );
    if !values.is_empty() && range.exists() {
        return policy.forbidden(
            errors,
            "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time",
        );
    }
    let (Some(most), Some(usual)) = (most, parse_quantity(preset.value)) else {
        if !values.is_empty() {
            preset.required(errors, "required when validValues is defined");
        } else if range.exists() {
            preset.required(errors, "required when validRange is defined");
        }
        return;
    };
    if !values.is_empty() {
        valid_values(&values, usual, most, errors);
    } else if range.exists() {
        valid_range(&range, usual, most, errors);
    }
}

fn valid_values(values: &Field<'_>, usual: Quantity, most: Quantity, errors: &mut Errors) {
    let amounts: Vec<Quantity> = values.items().filter_map(|value| parse_quantity(value.value)).collect();
    for (index, value) in values.items().enumerate().skip(1) {
        if let Some([before, amount]) = amounts.get(index - 1..=index)
            && before > amount
        {
            value.invalid_as(errors, amount.to_string(), "values must be sorted in ascending order");
        }
    }
    if within(values, OPTIONS, errors) {
        for (value, amount) in values.items().zip(&amounts) {
            if *amount > most {
                value.invalid_as(
                    errors,
                    amount.to_string(),
                    format!("option is larger than capacity value: {most}"),
                );
            }
        }
        values.unique(errors, "");
    }
    if !amounts.contains(&usual) {
        values.invalid_as(
            errors,
            usual.to_string(),
            "default value is not valid according to the requestPolicy",
        );
    }
}

fn valid_range(range: &Field<'_>, usual: Quantity, most: Quantity, errors: &mut Errors) {
    let of = |name: &str| parse_quantity(&range.value[name]);
    let Some(least) = of("min") else {
        return range.get("min").required(errors, "required when validRange is defined");
    };
    let mut say = |name: &str, shown: Quantity, detail: String| {
        range.get(name).invalid_as(errors, shown.to_string(), detail);
    };
    if least > most {
        say("min", least, format!("min is larger than capacity value: {most}"));
    }
    if usual < least {
        say("min", usual, format!("default is less than min: {least}"));
    }
    let highest = of("max");
    if let Some(highest) = highest {
        if least > highest {
            say("max", least, format!("min is larger than max: {highest}"));
        }
        if highest > most {
            say("max", highest, format!("max is larger than capacity value: {most}"));
        }
        if usual > highest {
            say("max", usual, format!("default is more than max: {highest}"));
        }
    }
    if let Some(step) = of("step") {
        let one = least + step;
        if one > most {
            say(
                "step",
                step,
                format!("one step {one} is larger than capacity value: {most}"),
            );
        }
        for value in [Some(usual), highest].into_iter().flatten() {
            let over = value.as_i64().saturating_sub(least.as_i64());
            if over.checked_rem(step.as_i64()) != Some(0) {
                say(
                    "step",
                    value,
                    format!("value is not a multiple of a given step ({step}) from ({least})"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, fine) in [
            ("1.2.3", true),
            ("1.2.3-alpha.1+b.7", true),
            ("1.2", false),
            ("01.2.3", false),
            ("1.2.3-01", false),
            ("1.2.3-", false),
        ] {
            assert_eq!(is_version(text), fine, "{text}");
        }
    }

    #[test]
    fn faults() {
        let check = |spec: Value| {
            let object = json!({"spec": spec});
            let mut errors = Errors::new();
            validate(&Field::root("", &object), &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let pool = json!({"name": "p", "resourceSliceCount": 1});
        assert_eq!(
            check(
                json!({"driver": "d.example.com", "pool": pool, "nodeName": "n", "devices": [
                {"name": "a", "attributes": {"model": {"string": "x"}}, "capacity": {"memory": {"value": "1Gi"}}}]})
            ),
            Vec::<String>::new()
        );
        assert_eq!(
            check(
                json!({"driver": "d.example.com", "pool": {"name": "p"}, "allNodes": true, "nodeName": "n", "devices": [
                {"name": "a", "attributes": {"m-x": {}}, "nodeName": "n"}, {"name": "a"}]})
            ),
            [
                "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
                "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set",
                "spec.devices[0].attributes[m-x]: Invalid value: \"m-x\": a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')",
                "spec.devices[0].attributes[m-x]: Invalid value: \"\": exactly one value must be specified",
                "spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec",
                "spec.devices[1]: Duplicate value: \"a\""
            ]
        );
    }
}
