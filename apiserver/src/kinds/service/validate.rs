//! Validation of services. Source: `ValidateService` of core and the families' rules of `pkg/registry/core/service/storage/alloc.go`.

use std::collections::HashSet;

use api::{FieldError, names};
use serde_json::{Value, json};

use super::{has_cluster_ip, is_headless, is_headless_without_selector, needs_health_port};
use crate::kinds::common::labels;
use crate::kinds::field::{Errors, Field, port_number, port_number_or_name, same, text};
use crate::kinds::ip;

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const ONLY_BALANCERS: &str = "may only be used when `type` is 'LoadBalancer'";
const ONCE: &str = "may not change once set";
const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameZone", "PreferSameNode"];
/// The longest that a client stays with one endpoint, seconds.
const AFFINITY_LIMIT: i64 = 86400;

/// A service however it is written.
pub fn service(root: &Field<'_>, errors: &mut Errors) {
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    let kind = spec.get("type").str();
    let annotations = metadata.get("annotations");
    let (hints, mode) = (annotations.key(HINTS), annotations.key(MODE));
    if hints.exists() && mode.exists() && hints.value != mode.value {
        mode.invalid(
            errors,
            format!("must match annotations[{HINTS}] when both are specified"),
        );
    }
    if spec.get("ports").is_empty() && !is_headless(spec.value) && kind != "ExternalName" {
        spec.get("ports").required(errors, "");
    }
    if is_headless(spec.value) && matches!(kind, "LoadBalancer" | "NodePort") {
        let path = format!("{}[0]", spec.get("clusterIPs"));
        let detail = format!("may not be set to 'None' for {kind} services");
        errors.push(FieldError::invalid(path, "None", detail));
    }
    if kind == "ExternalName" {
        external_name(&spec, errors);
    }
    ports(&spec.get("ports"), errors);
    labels(&spec.get("selector"), errors);
    affinity(&spec, errors);
    if kind != "ExternalName" {
        addresses(&spec, errors);
    }
    for address in spec.get("externalIPs").items() {
        if ip::parse(address.str()).is_none() {
            ip::ip(&address, errors);
        } else {
            ip::not_special(&address, errors);
        }
    }
    spec.get("type").required_one_of(errors, TYPES);
    distinct_ports(&spec, errors);
    source_ranges(&spec, &annotations, errors);
    balancer(&spec, errors);
    traffic(&spec, errors);
}

fn external_name(spec: &Field<'_>, errors: &mut Errors) {
    for name in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if !spec.get(name).is_empty() {
            spec.get(name)
                .forbidden(errors, "may not be set for ExternalName services");
        }
    }
    let name = spec.get("externalName");
    let bare = json!(name.str().strip_suffix('.').unwrap_or(name.str()));
    name.showing(&bare).required_check(errors, names::dns1123_subdomain);
}

fn ports(ports: &Field<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for port in ports.items() {
        let name = port.get("name");
        if name.is_empty() {
            if ports.len() > 1 {
                name.required(errors, "");
            }
        } else {
            name.check(errors, names::dns1123_label);
            if !seen.insert(name.str().to_owned()) {
                name.duplicate(errors);
            }
        }
        port_number(&port.get("port"), errors);
        port.get("protocol").required_one_of(errors, &["SCTP", "TCP", "UDP"]);
        port_number_or_name(&port.get("targetPort"), errors);
        let application = port.get("appProtocol");
        if application.exists() {
            application.check(errors, names::qualified_name);
        }
    }
}

/// Node ports where there are such, and no two alike.
fn distinct_ports(spec: &Field<'_>, errors: &mut Errors) {
    let ports = spec.get("ports");
    if spec.get("type").str() == "ClusterIP" {
        for port in ports.items().filter(|p| p.get("nodePort").number() != 0) {
            port.get("nodePort")
                .forbidden(errors, "may not be used when `type` is 'ClusterIP'");
        }
    }
    for (name, whole) in [("nodePort", false), ("port", true)] {
        let mut seen = HashSet::new();
        for port in ports.items() {
            let number = port.get(name).number();
            let protocol = port.get("protocol").str();
            if (number == 0 && !whole) || seen.insert((protocol.to_owned(), number)) {
                continue;
            }
            if whole {
                let shown = json!({"Name": "", "Protocol": protocol, "AppProtocol": null, "Port": number, "TargetPort": 0, "NodePort": 0});
                port.duplicate_of(errors, shown, "");
            } else {
                port.get(name).duplicate(errors);
            }
        }
    }
}

fn affinity(spec: &Field<'_>, errors: &mut Errors) {
    const WHEN: &str = "when session affinity type is ClientIP";
    let (affinity, config) = (spec.get("sessionAffinity"), spec.get("sessionAffinityConfig"));
    affinity.required_one_of(errors, &["ClientIP", "None"]);
    let client = config.get("clientIP");
    let seconds = client.get("timeoutSeconds");
    match affinity.str() {
        "ClientIP" => {
            if let Some(missing) = [config, client, seconds].iter().find(|f| !f.exists()) {
                missing.required(errors, WHEN);
            } else if !(1..=AFFINITY_LIMIT).contains(&seconds.number()) {
                seconds.invalid(errors, format!("must be greater than 0 and less than {AFFINITY_LIMIT}"));
            }
        }
        "None" if config.exists() => config.forbidden(errors, "must not be set when session affinity is None"),
        _ => {}
    }
}

/// Cluster IPs and their families.
fn addresses(spec: &Field<'_>, errors: &mut Errors) {
    let (single, many, families) = (spec.get("clusterIP"), spec.get("clusterIPs"), spec.get("ipFamilies"));
    let first = many.items().next().map(|ip| ip.str().to_owned());
    match (single.is_empty(), first) {
        (false, None) => many.required(errors, ""),
        (false, Some(first)) if first != single.str() => many.invalid(errors, "first value must match `clusterIP`"),
        (true, Some(_)) => many.invalid(errors, "must be empty when `clusterIP` is not specified"),
        _ => {}
    }
    for family in families.items() {
        family.one_of(errors, &["IPv4", "IPv6"]);
    }
    families.unique(errors, "");
    spec.get("ipFamilyPolicy")
        .one_of_if_set(errors, &["PreferDualStack", "RequireDualStack", "SingleStack"]);
    let mut broken = false;
    for (index, address) in many.items().enumerate() {
        if index == 0 && address.str() == "None" {
            if many.len() > 1 {
                broken = true;
                many.invalid(errors, "'None' must be the first and only value");
            }
        } else if ip::parse(address.str()).is_none() {
            broken = true;
            ip::ip(&address, errors);
        }
    }
    if many.len() > 2 {
        many.invalid(errors, "may only hold up to 2 values");
    }
    if broken {
        return;
    }
    let is_v4: Vec<bool> = many
        .items()
        .filter_map(|ip| ip::parse(ip.str()))
        .map(|ip| ip.is_ipv4())
        .collect();
    if is_v4.len() > 1 && is_v4.iter().collect::<HashSet<_>>().len() < 2 {
        many.invalid(errors, "may specify no more than one IP for each IP family");
    }
    for ((index, family), (address, v4)) in families.items().enumerate().zip(many.items().zip(&is_v4)) {
        let expected = family.str();
        if matches!((expected, v4), ("IPv4", false) | ("IPv6", true)) {
            address.invalid(
                errors,
                format!("expected an {expected} value as indicated by `ipFamilies[{index}]`"),
            );
        }
    }
    configured(spec, errors);
}

/// What this cluster, whose service addresses are of one family, can give.
fn configured(spec: &Field<'_>, errors: &mut Errors) {
    let (policy, families, many) = (
        spec.get("ipFamilyPolicy"),
        spec.get("ipFamilies"),
        spec.get("clusterIPs"),
    );
    if policy.str() == "SingleStack" {
        for (list, what) in [(many, "clusterIPs"), (families, "ipFamilies")] {
            if list.len() > 1 {
                policy.invalid(
                    errors,
                    format!("must be RequireDualStack or PreferDualStack when multiple {what} are specified"),
                );
            }
        }
    }
    if is_headless_without_selector(spec.value) || !has_cluster_ip(spec.value) {
        return;
    }
    for family in families.items().filter(|f| f.str() == "IPv6") {
        family.invalid_as(errors, families.value.clone(), "not configured on this cluster");
    }
    if policy.str() == "RequireDualStack" {
        policy.invalid(errors, "this cluster is not configured for dual-stack services");
    }
}

fn source_ranges(spec: &Field<'_>, annotations: &Field<'_>, errors: &mut Errors) {
    let (ranges, shown) = (
        spec.get("loadBalancerSourceRanges"),
        spec.get("LoadBalancerSourceRanges"),
    );
    let balanced = spec.get("type").str() == "LoadBalancer";
    let annotation = annotations.key(SOURCE_RANGES);
    let trimmed = |text: &str| json!(text.trim());
    if !ranges.is_empty() {
        if !balanced {
            shown.forbidden(errors, ONLY_BALANCERS);
        }
        for range in shown.showing(ranges.value).items() {
            ip::cidr(&range.showing(&trimmed(range.str())), errors);
        }
    } else if annotation.exists() {
        if !balanced {
            annotation.forbidden(errors, ONLY_BALANCERS);
        }
        for range in annotation
            .str()
            .split(',')
            .filter(|_| !annotation.str().trim().is_empty())
        {
            ip::cidr(&annotation.showing(&trimmed(range)), errors);
        }
    }
}

fn balancer(spec: &Field<'_>, errors: &mut Errors) {
    let balanced = spec.get("type").str() == "LoadBalancer";
    let (allocate, class) = (spec.get("allocateLoadBalancerNodePorts"), spec.get("loadBalancerClass"));
    if allocate.exists() && !balanced {
        allocate.forbidden(errors, ONLY_BALANCERS);
    }
    if !class.exists() {
        return;
    }
    if balanced {
        class.check(errors, names::qualified_name);
    } else {
        class.forbidden(errors, ONLY_BALANCERS);
    }
}

fn traffic(spec: &Field<'_>, errors: &mut Errors) {
    let kind = spec.get("type").str();
    let (external, internal) = (spec.get("externalTrafficPolicy"), spec.get("internalTrafficPolicy"));
    if super::is_reachable(spec.value) {
        external.required_one_of(errors, &["Cluster", "Local"]);
    } else if !external.is_empty() {
        external.invalid(errors, "may only be set for externally-accessible services");
    }
    let check = spec.get("healthCheckNodePort");
    if needs_health_port(spec.value) {
        // None yet: it is allocated after validation.
        if check.number() != 0 {
            port_number(&check, errors);
        }
    } else if check.number() != 0 {
        check.invalid(
            errors,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        );
    }
    if !internal.exists() && matches!(kind, "NodePort" | "LoadBalancer" | "ClusterIP") {
        internal.required(errors, "");
    }
    internal.one_of_if_set(errors, &["Cluster", "Local"]);
    spec.get("trafficDistribution").one_of_if_set(errors, DISTRIBUTIONS);
}

/// What may not change of a service.
pub fn update(spec: &Field<'_>, old: &Value, errors: &mut Errors) {
    let external = |spec: &Value| text(spec, "/type") == "ExternalName";
    if !external(spec.value) && !external(old) {
        cluster_ips_update(spec, old, errors);
        families_update(spec, old, errors);
    }
    let (class, balanced) = (spec.get("loadBalancerClass"), |spec: &Value| {
        text(spec, "/type") == "LoadBalancer"
    });
    if balanced(spec.value) && balanced(old) && !same(class.value, &old["loadBalancerClass"]) {
        let shown = if class.exists() {
            class.value.clone()
        } else {
            json!("null")
        };
        class.invalid_as(errors, shown, ONCE);
    }
    let check = spec.get("healthCheckNodePort");
    if needs_health_port(spec.value) && needs_health_port(old) && check.value != &old["healthCheckNodePort"] {
        check.forbidden(errors, "field is immutable");
    }
}

/// A second address may come and go; the first stays.
fn cluster_ips_update(spec: &Field<'_>, old: &Value, errors: &mut Errors) {
    if is_headless(spec.value) && is_headless(old) {
        return;
    }
    let many = spec.get("clusterIPs");
    let before = crate::kinds::field::list(old, "/clusterIPs");
    let fault =
        |index: usize, detail: &str| FieldError::invalid(format!("{many}[{index}]"), many.value.clone(), detail);
    if many.len() == before.len() {
        let changed = many
            .items()
            .zip(before)
            .enumerate()
            .filter(|(_, (now, was))| now.value != *was);
        return errors.extend(changed.map(|(index, _)| fault(index, ONCE)));
    }
    if many.is_empty() {
        return errors.push(fault(0, "primary clusterIP can not be unset"));
    }
    if before
        .first()
        .is_some_and(|was| many.items().next().is_some_and(|now| now.value != was))
    {
        errors.push(fault(0, ONCE));
    }
    released(spec, before.len(), many.len(), "clusterIP", errors);
}

fn families_update(spec: &Field<'_>, old: &Value, errors: &mut Errors) {
    if is_headless(spec.value) || is_headless(old) {
        return;
    }
    let families = spec.get("ipFamilies");
    let before = crate::kinds::field::list(old, "/ipFamilies");
    let fault = |detail: &str| FieldError::invalid(format!("{families}[0]"), families.value.clone(), detail);
    if families.is_empty() && !before.is_empty() {
        return errors.push(fault("primary ipFamily can not be unset"));
    }
    let changed = families
        .items()
        .zip(before)
        .filter(|(now, was)| now.value != *was)
        .count();
    errors.extend((0..changed).map(|_| fault(ONCE)));
    released(spec, before.len(), families.len(), "ipFamily", errors);
}

fn released(spec: &Field<'_>, before: usize, now: usize, what: &str, errors: &mut Errors) {
    let policy = spec.get("ipFamilyPolicy");
    if before > now && now == 1 && policy.str() != "SingleStack" {
        policy.invalid(
            errors,
            format!("must be set to 'SingleStack' when releasing the secondary {what}"),
        );
    }
}

/// Where a load balancer takes its traffic.
pub fn balancer_status(status: &Field<'_>, errors: &mut Errors) {
    let ingress = status.get("ingress");
    for entry in ingress.items() {
        let (address, mode, host) = (entry.get("ip"), entry.get("ipMode"), entry.get("hostname"));
        if !address.is_empty() {
            ip::ip(&address, errors);
        }
        match (mode.exists(), address.is_empty()) {
            (false, false) => mode.required(errors, "must be specified when `ip` is set"),
            (true, true) => mode.forbidden(errors, "may not be specified when `ip` is not set"),
            (true, false) => mode.one_of(errors, &["Proxy", "VIP"]),
            (false, true) => {}
        }
        host_name(&host, errors);
    }
}

/// A name that is no address; missing is fine.
pub fn host_name(host: &Field<'_>, errors: &mut Errors) {
    host.check_if_set(errors, names::dns1123_subdomain);
    if ip::parse(host.str()).is_some() {
        host.invalid(errors, "must be a DNS name, not an IP address");
    }
}

/// A write of `status`.
pub fn status(root: &Field<'_>, errors: &mut Errors) {
    let (spec, status) = (root.get("spec"), root.get("status"));
    let balancer = status.get("loadBalancer");
    let ingress = balancer.get("ingress");
    if spec.get("type").str() != "LoadBalancer" && !ingress.is_empty() {
        return ingress.forbidden(errors, "may only be used when `spec.type` is 'LoadBalancer'");
    }
    balancer_status(&balancer, errors);
}

/// What is deprecated or without effect.
pub fn warnings(root: &Field<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    let (kind, external) = (spec.get("type").str(), spec.get("externalIPs"));
    if metadata.get("annotations").key(HINTS).exists() {
        warnings.push(format!("annotation {HINTS} is deprecated, please use {MODE} instead"));
    }
    let single = spec.get("clusterIP").str();
    if kind != "ExternalName" && !single.is_empty() && single != "None" {
        spec.get("clusterIPs")
            .items()
            .for_each(|ip| ip::warn_ip(&ip, &mut warnings));
    }
    let headless = kind == "ClusterIP" && single == "None";
    let ignored = [
        (!spec.get("loadBalancerIP").is_empty(), "spec.loadBalancerIP"),
        (!external.is_empty(), "spec.externalIPs"),
        (spec.get("sessionAffinity").str() != "None", "spec.SessionAffinity"),
    ];
    for (_, name) in ignored.iter().filter(|(set, _)| headless && *set) {
        warnings.push(format!("{name} is ignored for headless services"));
    }
    external.items().for_each(|ip| ip::warn_ip(&ip, &mut warnings));
    if !spec.get("loadBalancerIP").is_empty() {
        ip::warn_ip(&spec.get("loadBalancerIP"), &mut warnings);
    }
    spec.get("loadBalancerSourceRanges")
        .items()
        .for_each(|range| ip::warn_cidr(&range, &mut warnings));
    if kind == "ExternalName" && !external.is_empty() {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if kind != "ExternalName" && !spec.get("externalName").is_empty() {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.get("trafficDistribution").str() == "PreferClose" {
        warnings.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    warnings
}
