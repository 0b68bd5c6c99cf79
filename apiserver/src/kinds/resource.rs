//! Dynamic resource allocation: claims, their templates, classes of devices. The slices are in `resource_slice`.

use std::collections::BTreeMap;

use api::names;
use serde_json::{Value, json};

use super::certificates::{signer_name, trust_bundle_name};
use super::common::{self, conditions};
use super::field::{Errors, Field, default_zero, each, list, same, text};
use super::resource_names::is_extended;
use super::rules::Rules;
use super::volume_source::driver_name;
use crate::registry::table::{self, Column};

/// Rules of `resourceclaims.resource.k8s.io`.
pub static CLAIM: Rules = Rules {
    default: |object| {
        if let Some(spec) = object.get_mut("spec") {
            fill(spec);
        }
    },
    validate: |root, errors| {
        let spec = root.get("spec");
        claim(&spec.get("devices"), errors);
    },
    validate_update: |root, old, errors| {
        // What may not change needs no other look.
        errors.clear();
        root.get("spec").immutable(errors, &old["spec"]);
    },
    validate_status: status,
    columns: &[Column::NAME, Column::text("State"), Column::AGE],
    row: |object, now| vec![table::name(object), json!(state(object)), table::age(object, now)],
    ..Rules::NONE
};

/// Rules of `resourceclaimtemplates.resource.k8s.io`.
pub static CLAIM_TEMPLATE: Rules = Rules {
    default: |object| {
        if let Some(spec) = object.pointer_mut("/spec/spec") {
            fill(spec);
        }
    },
    validate: |root, errors| {
        let outer = root.get("spec");
        let metadata = outer.get("metadata");
        common::labels(&metadata.get("labels"), errors);
        super::pod::annotations::keys(&metadata.get("annotations"), errors);
        let spec = outer.get("spec");
        claim(&spec.get("devices"), errors);
    },
    validate_update: |root, old, errors| {
        // What may not change needs no other look.
        errors.clear();
        root.get("spec").immutable(errors, &old["spec"]);
    },
    ..Rules::NONE
};

/// Rules of `deviceclasses.resource.k8s.io`.
pub static DEVICE_CLASS: Rules = Rules {
    generation: true,
    validate: |root, errors| {
        let spec = root.get("spec");
        selectors(&spec.get("selectors"), errors);
        let configs = spec.get("config");
        if within(&configs, MOST, errors) {
            configs.items().for_each(|one| configuration(&one, errors));
        }
        let name = spec.get("extendedResourceName");
        if name.exists() && !is_extended(name.str()) {
            name.invalid(errors, "must be a valid extended resource name");
        }
    },
    ..Rules::NONE
};

/// Rules of `clustertrustbundles.certificates.k8s.io`.
pub static TRUST_BUNDLE: Rules = Rules {
    name: |_| Vec::new(),
    validate: |root, errors| {
        let (metadata, spec) = (root.get("metadata"), root.get("spec"));
        let (name, signer) = (metadata.get("name"), spec.get("signerName"));
        for fault in trust_bundle_name(name.str(), Some(signer.str())) {
            name.invalid(errors, fault);
        }
        if !signer.is_empty() {
            signer_name(&signer, errors);
        }
        let bundle = spec.get("trustBundle");
        if !bundle.str().contains("-----BEGIN CERTIFICATE-----") {
            bundle.invalid_as(errors, "<value omitted>", "at least one trust anchor must be provided");
        }
    },
    validate_update: |root, old, errors| {
        let spec = root.get("spec");
        let before = text(old, "/spec/signerName");
        if spec.get("signerName").str() != before {
            spec.get("signerName").immutable(errors, &json!(before));
        }
    },
    columns: &[Column::NAME, Column::text("SignerName")],
    row: |object, _| {
        vec![
            table::name(object),
            json!(super::common::or_none(text(object, "/spec/signerName"))),
        ]
    },
    fields: &["spec.signerName"],
    ..Rules::NONE
};

/// `allocated,reserved` and its like.
fn state(object: &Value) -> String {
    let mut states = Vec::new();
    if object
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(Value::is_string)
    {
        states.push("deleted");
    }
    match object.pointer("/status/allocation").is_some_and(Value::is_object) {
        false => states.push("pending"),
        true => {
            states.push("allocated");
            if !list(object, "/status/reservedFor").is_empty() {
                states.push("reserved");
            }
        }
    }
    states.join(",")
}

/// How many requests, constraints, selectors and the like there may be.
const MOST: usize = 32;
const MOST_ALTERNATIVES: usize = 8;
const MOST_CONSUMERS: usize = 256;
const MOST_CONDITIONS: usize = 8;
const POOL_NAME: usize = 253;
/// Bytes of an expression, and of a driver's own parameters.
const EXPRESSION: usize = 10 << 10;
const NETWORK_NAME: usize = 256;
const NETWORK_ADDRESS: usize = 128;
const NO_REQUEST: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

type Requests<'a> = BTreeMap<&'a str, Vec<&'a str>>;

/// How many devices, unless it says so.
fn fill(spec: &mut Value) {
    let Some(devices) = spec.get_mut("devices") else { return };
    for request in each(devices, "requests") {
        if let Some(exactly) = request.get_mut("exactly").filter(|e| e.is_object()) {
            fill_request(exactly);
        }
        each(request, "firstAvailable").for_each(fill_request);
    }
}

fn fill_request(request: &mut Value) {
    default_zero(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" {
        default_zero(request, "count", 1);
    }
    for toleration in each(request, "tolerations") {
        default_zero(toleration, "operator", "Equal");
    }
}

/// Whether the list is short enough to be looked at.
pub fn within(list: &Field<'_>, most: usize, errors: &mut Errors) -> bool {
    list.too_many(errors, most);
    list.len() <= most
}

fn claim(devices: &Field<'_>, errors: &mut Errors) {
    let known = requests(devices.value);
    let all = devices.get("requests");
    if within(&all, MOST, errors) {
        all.items().for_each(|one| request(&one, errors));
        unique(&all, errors);
    }
    let constraints = devices.get("constraints");
    if within(&constraints, MOST, errors) {
        constraints.items().for_each(|one| constraint(&one, &known, errors));
    }
    let configs = devices.get("config");
    if within(&configs, MOST, errors) {
        for one in configs.items() {
            references(&one.get("requests"), &known, errors);
            configuration(&one, errors);
        }
    }
}

/// The names of the requests, and of the alternatives of each.
fn requests(devices: &Value) -> Requests<'_> {
    list(devices, "/requests")
        .iter()
        .map(|one| {
            let alternatives = list(one, "/firstAvailable");
            let names = alternatives.iter().map(|a| text(a, "/name")).collect();
            (text(one, "/name"), names)
        })
        .collect()
}

/// Reports elements whose name came before.
pub fn unique(list: &Field<'_>, errors: &mut Errors) {
    let mut seen = std::collections::HashSet::new();
    for item in list.items() {
        let name = text(item.value, "/name");
        if !seen.insert(name.to_owned()) {
            item.duplicate_of(errors, name, "");
        }
    }
}

fn request(request: &Field<'_>, errors: &mut Errors) {
    const ONE: &str = "exactly one of `exactly` or `firstAvailable` is required";
    request.get("name").check(errors, names::dns1123_label);
    let (exactly, alternatives) = (request.get("exactly"), request.get("firstAvailable"));
    match (exactly.exists(), !alternatives.is_empty()) {
        (false, false) => request.required(errors, ONE),
        (true, true) => request.invalid_as(errors, Value::Null, format!("{ONE}, but multiple fields are set")),
        (true, false) => exact_request(&exactly, errors),
        (false, true) => {
            if !within(&alternatives, MOST_ALTERNATIVES, errors) {
                return;
            }
            for one in alternatives.items() {
                one.get("name").check(errors, names::dns1123_label);
                exact_request(&one, errors);
            }
            unique(&alternatives, errors);
        }
    }
}

fn exact_request(request: &Field<'_>, errors: &mut Errors) {
    request
        .get("deviceClassName")
        .required_check(errors, names::dns1123_subdomain);
    selectors(&request.get("selectors"), errors);
    let (mode, count) = (request.get("allocationMode"), request.get("count"));
    match mode.str() {
        "All" if count.number() != 0 => {
            count.invalid(errors, "must not be specified when allocationMode is 'All'");
        }
        "All" => {}
        "ExactCount" if count.number() <= 0 => {
            count.invalid_as(errors, count.number(), "must be greater than zero");
        }
        "ExactCount" => {}
        _ => mode.not_supported(errors, &["All", "ExactCount"]),
    }
    for toleration in request.get("tolerations").items() {
        device_toleration(&toleration, errors);
    }
}

fn selectors(selectors: &Field<'_>, errors: &mut Errors) {
    if !within(selectors, MOST, errors) {
        return;
    }
    for selector in selectors.items() {
        let cel = selector.get("cel");
        if !cel.exists() {
            cel.required(errors, "");
        } else if cel.get("expression").str().len() > EXPRESSION {
            cel.get("expression").too_long(errors, EXPRESSION);
        }
    }
}

/// The effect of a taint on a device.
pub fn effect(effect: &Field<'_>, errors: &mut Errors) {
    effect.one_of(errors, &["NoExecute", "NoSchedule", "None"]);
}

fn device_toleration(toleration: &Field<'_>, errors: &mut Errors) {
    let (operator, value) = (toleration.get("operator"), toleration.get("value"));
    toleration.get("key").check_if_set(errors, names::qualified_name);
    match operator.str() {
        "Exists" if !value.is_empty() => value.invalid(errors, "must be empty for operator `Exists`"),
        "Exists" => {}
        "Equal" => value.check(errors, names::label_value),
        "" => operator.required(errors, ""),
        _ => operator.not_supported(errors, &["Equal", "Exists"]),
    }
    if !toleration.get("effect").is_empty() {
        effect(&toleration.get("effect"), errors);
    }
}

fn constraint(constraint: &Field<'_>, known: &Requests<'_>, errors: &mut Errors) {
    references(&constraint.get("requests"), known, errors);
    let (matching, distinct) = (constraint.get("matchAttribute"), constraint.get("distinctAttribute"));
    let attribute = if matching.exists() { matching } else { distinct };
    if !attribute.exists() {
        return matching.required(errors, "");
    }
    attribute_name(&attribute, attribute.str(), errors);
    if !attribute.str().contains('/') {
        attribute.invalid(
            errors,
            "a fully qualified name must be a domain and a name separated by a slash",
        );
    }
}

/// The name of an attribute or a capacity: an identifier, maybe after a domain.
pub fn attribute_name(place: &Field<'_>, name: &str, errors: &mut Errors) {
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        [id] => identifier(place, id, errors),
        [domain, id] => {
            if domain.is_empty() {
                place.invalid_as(errors, "", "the domain must not be empty");
            } else {
                let shown = json!(domain);
                driver_name(&place.showing(&shown), errors);
            }
            if id.is_empty() {
                place.invalid_as(errors, "", "the name must not be empty");
            } else {
                identifier(place, id, errors);
            }
        }
        _ => {}
    }
}

fn identifier(place: &Field<'_>, id: &str, errors: &mut Errors) {
    const LIMIT: usize = 32;
    if id.len() > LIMIT {
        place.too_long(errors, LIMIT);
    }
    let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if !id.bytes().all(letter) || id.bytes().next().is_none_or(|b| b.is_ascii_digit()) {
        place.invalid_as(errors, id, "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')");
    }
}

fn references(list: &Field<'_>, known: &Requests<'_>, errors: &mut Errors) {
    if within(list, MOST, errors) {
        list.items().for_each(|one| reference(&one, known, errors));
        list.unique(errors, "");
    }
}

fn reference(name: &Field<'_>, known: &Requests<'_>, errors: &mut Errors) {
    let parts: Vec<&str> = name.str().split('/').collect();
    if parts.len() <= 2 {
        for part in &parts {
            for fault in names::dns1123_label(part) {
                name.invalid_as(errors, *part, fault);
            }
        }
    }
    let found = match parts.as_slice() {
        [one] => known.contains_key(one),
        [one, other] => known.get(one).is_some_and(|names| names.contains(other)),
        _ => false,
    };
    if !found {
        name.invalid(errors, NO_REQUEST);
    }
}

fn configuration(config: &Field<'_>, errors: &mut Errors) {
    let opaque = config.get("opaque");
    if !opaque.exists() {
        return opaque.required(errors, "");
    }
    driver_name(&opaque.get("driver"), errors);
    raw(&opaque.get("parameters"), errors);
}

/// An object of a driver's own form.
fn raw(object: &Field<'_>, errors: &mut Errors) {
    if !object.exists() {
        object.required(errors, "");
    } else if object.value.to_string().len() > EXPRESSION {
        object.too_long(errors, EXPRESSION);
    } else if !object.value.is_object() {
        object.invalid_as(errors, "<value omitted>", "must be a valid JSON object");
    }
}

/// The name of a pool of devices.
pub fn pool_name(name: &Field<'_>, errors: &mut Errors) {
    if name.is_empty() {
        return name.required(errors, "");
    }
    if name.str().len() > POOL_NAME {
        name.too_long(errors, POOL_NAME);
    }
    for part in name.str().split('/') {
        for fault in names::dns1123_subdomain(part) {
            name.invalid_as(errors, part, fault);
        }
    }
}

/// What tells a device, or a share of one, from all others.
fn device_id(device: &Value) -> String {
    let parts = ["/driver", "/pool", "/device", "/shareID"].map(|part| text(device, part));
    let id = parts[..3].join("/");
    if parts[3].is_empty() {
        id
    } else {
        format!("{id}/{}", parts[3])
    }
}

fn share_id(id: &Field<'_>, errors: &mut Errors) {
    let parts: Vec<&str> = id.str().split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let fine = lengths == [8, 4, 4, 4, 12] && parts.iter().all(|part| part.bytes().all(digit));
    if id.exists() && !fine {
        id.invalid(errors, "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters");
    }
}

fn status(root: &Field<'_>, old: &Value, errors: &mut Errors) {
    let (spec, status) = (root.get("spec"), root.get("status"));
    let known = requests(&spec.value["devices"]);
    let (consumers, allocation) = (status.get("reservedFor"), status.get("allocation"));
    if within(&consumers, MOST_CONSUMERS, errors) {
        for one in consumers.items() {
            one.require(errors, &["resource", "name", "uid"]);
        }
        let mut seen = std::collections::HashSet::new();
        for one in consumers.items() {
            let uid = text(one.value, "/uid");
            if !seen.insert(uid.to_owned()) {
                one.duplicate_of(errors, uid, "");
            }
        }
    }
    let allocated: Vec<String> = list(allocation.value, "/devices/results")
        .iter()
        .map(device_id)
        .collect();
    let mut seen = std::collections::HashSet::new();
    let devices = status.get("devices");
    for device in devices.items() {
        device_status(&device, &allocated, errors);
        let id = device_id(device.value);
        if !seen.insert(id.clone()) {
            device.duplicate_of(errors, id, "");
        }
    }
    if !consumers.is_empty() {
        let before = list(old, "/status/reservedFor");
        if !allocation.exists() {
            consumers.forbidden(errors, "may not be specified when `allocated` is not set");
        } else if !text(root.value, "/metadata/deletionTimestamp").is_empty()
            && consumers.items().any(|one| !before.contains(one.value))
        {
            consumers.forbidden(
                errors,
                "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set",
            );
        }
    }
    let before = &old["status"]["allocation"];
    if allocation.exists() && !before.is_null() {
        if !same(allocation.value, before) {
            allocation.immutable(errors, before);
        }
    } else if allocation.exists() {
        allocation_result(&allocation, &known, errors);
    }
}

fn device_status(device: &Field<'_>, allocated: &[String], errors: &mut Errors) {
    driver_name(&device.get("driver"), errors);
    pool_name(&device.get("pool"), errors);
    device.get("device").check(errors, names::dns1123_label);
    share_id(&device.get("shareID"), errors);
    let id = device_id(device.value);
    if !allocated.contains(&id) {
        device.invalid_as(errors, id, "must be an allocated device in the claim");
    }
    let list = device.get("conditions");
    list.too_many(errors, MOST_CONDITIONS);
    conditions(&list, errors);
    if device.get("data").exists() {
        raw(&device.get("data"), errors);
    }
    let network = device.get("networkData");
    for (name, limit) in [("interfaceName", NETWORK_NAME), ("hardwareAddress", NETWORK_ADDRESS)] {
        if network.get(name).str().len() > limit {
            network.get(name).too_long(errors, limit);
        }
    }
    let addresses = network.get("ips");
    if within(&addresses, 16, errors) {
        addresses.items().for_each(|address| super::ip::cidr(&address, errors));
        addresses.unique(errors, "");
    }
}

fn allocation_result(allocation: &Field<'_>, known: &Requests<'_>, errors: &mut Errors) {
    let devices = allocation.get("devices");
    let (results, configs) = (devices.get("results"), devices.get("config"));
    if within(&results, MOST, errors) {
        for result in results.items() {
            reference(&result.get("request"), known, errors);
            driver_name(&result.get("driver"), errors);
            pool_name(&result.get("pool"), errors);
            result.get("device").check(errors, names::dns1123_label);
            binding_conditions(&result, errors);
            share_id(&result.get("shareID"), errors);
        }
    }
    if within(&configs, 2 * MOST, errors) {
        for config in configs.items() {
            config
                .get("source")
                .required_one_of(errors, &["FromClaim", "FromClass"]);
            references(&config.get("requests"), known, errors);
            configuration(&config, errors);
        }
    }
    let selector = allocation.get("nodeSelector");
    if selector.exists() {
        super::pod::placement::node_selector(&selector, errors);
    }
}

/// The conditions that a device has to meet before a pod is bound, and those that say it never will.
pub fn binding_conditions(device: &Field<'_>, errors: &mut Errors) {
    const LIMIT: usize = 4;
    let (good, bad) = (device.get("bindingConditions"), device.get("bindingFailureConditions"));
    for list in [good, bad] {
        if within(&list, LIMIT, errors) {
            for name in list.items() {
                name.check(errors, names::qualified_name);
            }
        }
    }
    good.unique(errors, "");
    bad.unique(errors, "");
    for name in bad.items() {
        if good.items().any(|other| other.value == name.value) {
            name.invalid(
                errors,
                "bindingFailureConditions must not overlap with bindingConditions",
            );
        }
    }
    for (one, other, detail) in [
        (
            &good,
            &bad,
            "bindingConditions are required to use bindingFailureConditions",
        ),
        (
            &bad,
            &good,
            "bindingFailureConditions are required to use bindingConditions",
        ),
    ] {
        if one.is_empty() && !other.is_empty() {
            one.invalid_as(errors, Value::Null, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims() {
        let check = |devices: Value| {
            let mut object = json!({"spec": {"devices": devices}});
            (CLAIM.default)(&mut object);
            let mut errors = Errors::new();
            (CLAIM.validate)(&Field::root("", &object), &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            check(
                json!({"requests": [{"name": "a", "exactly": {"deviceClassName": "gpu"}}],
                "constraints": [{"requests": ["a"], "matchAttribute": "gpu.example.com/model"}]})
            ),
            Vec::<String>::new()
        );
        assert_eq!(
            check(
                json!({"requests": [{"name": "a", "exactly": {"deviceClassName": "gpu", "allocationMode": "All", "count": 2}}, {"name": "a"}],
                "constraints": [{"requests": ["b"], "matchAttribute": "model"}],
                "config": [{"opaque": {"driver": "d.example.com", "parameters": [1]}}]})
            ),
            [
                "spec.devices.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'",
                "spec.devices.requests[1]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                "spec.devices.requests[1]: Duplicate value: \"a\"",
                "spec.devices.constraints[0].requests[0]: Invalid value: \"b\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
                "spec.devices.constraints[0].matchAttribute: Invalid value: \"model\": a fully qualified name must be a domain and a name separated by a slash",
                "spec.devices.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object"
            ]
        );
    }

    #[test]
    fn statuses() {
        let check = |new: Value, old: Value| {
            let new = json!({"spec": {"devices": {"requests": [{"name": "a"}]}}, "status": new});
            let mut errors = Errors::new();
            status(&Field::root("", &new), &json!({"status": old}), &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let consumer = json!([{"resource": "pods", "name": "p", "uid": "1"}]);
        assert_eq!(
            check(json!({"reservedFor": consumer}), json!({})),
            ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]
        );
        let result = json!({"request": "a", "driver": "d.example.com", "pool": "n", "device": "x"});
        let allocation = json!({"devices": {"results": [result]}});
        assert_eq!(
            check(json!({"allocation": allocation, "reservedFor": consumer}), json!({})),
            Vec::<String>::new()
        );
        assert_eq!(
            check(
                json!({"allocation": {"devices": {}}}),
                json!({"allocation": allocation})
            ),
            ["status.allocation: Invalid value: {\"devices\":{}}: field is immutable"]
        );
    }
}
