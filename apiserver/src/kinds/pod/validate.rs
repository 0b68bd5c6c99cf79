//! Validation of a pod's spec as a whole, shared by pods and every pod template. Containers and volumes have files of their own.
//! Source: `pkg/apis/core/validation/validation.go`.

use std::collections::HashSet;

use api::names;
use serde_json::Value;

use super::{containers, volumes};
use crate::kinds::common::{labels, quantity};
use crate::kinds::field::{Errors, Field};

const DNS_POLICIES: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];

/// A `PodSpec`.
pub fn pod_spec(spec: &Field<'_>, errors: &mut Errors) {
    let volume_names = volumes::volumes(&spec.get("volumes"), errors);
    containers::all(spec, &volume_names, errors);
    spec.get("restartPolicy")
        .required_one_of(errors, &["Always", "OnFailure", "Never"]);
    spec.get("dnsPolicy").required_one_of(errors, DNS_POLICIES);
    dns_config(spec, errors);
    labels(&spec.get("nodeSelector"), errors);
    let security = spec.get("securityContext");
    security_context(spec, &security, errors);
    simple_names(spec, errors);
    pull_secrets(&spec.get("imagePullSecrets"), errors);
    affinity(&spec.get("affinity"), errors);
    for toleration in spec.get("tolerations").items() {
        self::toleration(&toleration, errors);
    }
    host_aliases(&spec.get("hostAliases"), errors);
    spread(&spec.get("topologySpreadConstraints"), errors);
    gates(spec, errors);
    let deadline = spec.get("activeDeadlineSeconds");
    if deadline.int().is_some_and(|n| !(1..=i64::from(i32::MAX)).contains(&n)) {
        deadline.invalid(errors, "must be between 1 and 2147483647, inclusive");
    }
    for (_, amount) in spec.get("overhead").entries() {
        quantity(&amount, errors);
    }
}

fn simple_names(spec: &Field<'_>, errors: &mut Errors) {
    let checks: [(&str, fn(&str) -> Vec<String>); 6] = [
        ("serviceAccountName", names::dns1123_subdomain),
        ("nodeName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
        ("priorityClassName", names::dns1123_subdomain),
        ("runtimeClassName", names::dns1123_subdomain),
    ];
    for (name, check) in checks {
        let field = spec.get(name);
        if !field.is_empty() {
            field.invalid_all(errors, check(field.str()));
        }
    }
    let preemption = spec.get("preemptionPolicy");
    if preemption.exists() {
        preemption.one_of(errors, &["Never", "PreemptLowerPriority"]);
    }
    let os = spec.get("os");
    if os.exists() {
        os.get("name").required_one_of(errors, &["linux", "windows"]);
    }
}

fn pull_secrets(secrets: &Field<'_>, errors: &mut Errors) {
    for secret in secrets.items() {
        let name = secret.get("name");
        if name.is_empty() {
            name.required(errors, "");
        }
    }
}

fn dns_config(spec: &Field<'_>, errors: &mut Errors) {
    let config = spec.get("dnsConfig");
    let nameservers = config.get("nameservers");
    if spec.get("dnsPolicy").str() == "None" && nameservers.is_empty() {
        let detail = if config.exists() {
            "must provide at least one DNS nameserver when `dnsPolicy` is None"
        } else {
            "must provide `dnsConfig` when `dnsPolicy` is None"
        };
        if config.exists() {
            nameservers.required(errors, detail)
        } else {
            config.required(errors, detail)
        }
    }
    if nameservers.len() > 3 {
        nameservers.invalid(errors, "must not have more than 3 nameservers");
    }
    for server in nameservers.items() {
        server.invalid_all(errors, names::ip(server.str()));
    }
    let searches = config.get("searches");
    if searches.len() > 32 {
        searches.invalid(errors, "must not have more than 32 search paths");
    }
    for option in config.get("options").items() {
        let name = option.get("name");
        if name.is_empty() {
            name.required(errors, "must not be empty");
        }
    }
}

fn security_context(spec: &Field<'_>, security: &Field<'_>, errors: &mut Errors) {
    for name in ["runAsUser", "runAsGroup", "fsGroup"] {
        id_range(&security.get(name), errors);
    }
    for group in security.get("supplementalGroups").items() {
        id_range(&group, errors);
    }
    let change = security.get("fsGroupChangePolicy");
    if change.exists() {
        change.one_of(errors, &["Always", "OnRootMismatch"]);
    }
    let sysctls = security.get("sysctls");
    sysctls.unique(errors, "name");
    for sysctl in sysctls.items() {
        let name = sysctl.get("name");
        if name.is_empty() {
            name.required(errors, "");
        }
    }
    let share = spec.get("shareProcessNamespace");
    if share.bool() && spec.get("hostPID").bool() {
        security
            .get("shareProcessNamespace")
            .invalid(errors, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    seccomp(&security.get("seccompProfile"), errors);
}

/// A user or group id.
pub fn id_range(field: &Field<'_>, errors: &mut Errors) {
    if field.int().is_some_and(|n| !(0..=i64::from(i32::MAX)).contains(&n)) {
        field.invalid(errors, "must be between 0 and 2147483647, inclusive");
    }
}

/// A seccomp profile; missing is fine.
pub fn seccomp(profile: &Field<'_>, errors: &mut Errors) {
    if !profile.exists() {
        return;
    }
    let kind = profile.get("type");
    let local = profile.get("localhostProfile");
    kind.required_one_of(errors, &["Localhost", "RuntimeDefault", "Unconfined"]);
    if kind.str() == "Localhost" && local.is_empty() {
        local.required(errors, "must be set when seccomp type is Localhost");
    } else if kind.str() != "Localhost" && local.exists() {
        local.invalid(errors, "can only be set when seccomp type is Localhost");
    }
}

/// A toleration.
pub fn toleration(toleration: &Field<'_>, errors: &mut Errors) {
    let (key, operator, value, effect) = (
        toleration.get("key"),
        toleration.get("operator"),
        toleration.get("value"),
        toleration.get("effect"),
    );
    if !key.is_empty() {
        key.invalid_all(errors, names::qualified_name(key.str()));
    }
    if key.is_empty() && operator.str() != "Exists" {
        operator.invalid(
            errors,
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        );
    }
    let seconds = toleration.get("tolerationSeconds");
    if seconds.exists() && effect.str() != "NoExecute" {
        effect.invalid(errors, "effect must be 'NoExecute' when `tolerationSeconds` is set");
    }
    match operator.str() {
        "Equal" | "" => operator_value(&value, errors),
        "Exists" if !value.is_empty() => operator.invalid(errors, "value must be empty when `operator` is 'Exists'"),
        "Exists" => {}
        _ => operator.not_supported(errors, &["Equal", "Exists"]),
    }
    if !effect.is_empty() {
        effect.one_of(errors, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
    }
}

fn operator_value(value: &Field<'_>, errors: &mut Errors) {
    let messages = names::label_value(value.str());
    if !messages.is_empty() {
        value.invalid(errors, messages.join(";"));
    }
}

fn host_aliases(aliases: &Field<'_>, errors: &mut Errors) {
    for alias in aliases.items() {
        let ip = alias.get("ip");
        ip.invalid_all(errors, names::ip(ip.str()));
        for hostname in alias.get("hostnames").items() {
            hostname.invalid_all(errors, names::dns1123_subdomain(hostname.str()));
        }
    }
}

fn spread(constraints: &Field<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for constraint in constraints.items() {
        let skew = constraint.get("maxSkew");
        if skew.int().unwrap_or(0) <= 0 {
            skew.invalid(errors, "must be greater than zero");
        }
        let key = constraint.get("topologyKey");
        if key.is_empty() {
            key.required(errors, "can not be empty")
        } else {
            key.invalid_all(errors, names::qualified_name(key.str()))
        }
        let when = constraint.get("whenUnsatisfiable");
        when.required_one_of(errors, &["DoNotSchedule", "ScheduleAnyway"]);
        if !seen.insert((key.str().to_owned(), when.str().to_owned())) {
            constraint.duplicate(errors);
        }
        let domains = constraint.get("minDomains");
        if domains.int().is_some_and(|n| n <= 0) {
            domains.invalid(errors, "must be greater than zero");
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            let policy = constraint.get(policy);
            if policy.exists() {
                policy.one_of(errors, &["Honor", "Ignore"]);
            }
        }
        crate::kinds::common::label_selector(&constraint.get("labelSelector"), errors);
    }
}

fn gates(spec: &Field<'_>, errors: &mut Errors) {
    let scheduling = spec.get("schedulingGates");
    scheduling.unique(errors, "name");
    for gate in scheduling.items() {
        let name = gate.get("name");
        name.invalid_all(errors, names::qualified_name(name.str()));
    }
    for gate in spec.get("readinessGates").items() {
        let kind = gate.get("conditionType");
        kind.invalid_all(errors, names::qualified_name(kind.str()));
    }
}

fn affinity(affinity: &Field<'_>, errors: &mut Errors) {
    let node = affinity.get("nodeAffinity");
    let required = node.get("requiredDuringSchedulingIgnoredDuringExecution");
    if required.exists() {
        let terms = required.get("nodeSelectorTerms");
        if terms.is_empty() {
            terms.required(errors, "must have at least one node selector term");
        }
        terms.items().for_each(|term| node_selector_term(&term, errors));
    }
    for preferred in node.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
        weight(&preferred.get("weight"), errors);
        node_selector_term(&preferred.get("preference"), errors);
    }
    for name in ["podAffinity", "podAntiAffinity"] {
        let pods = affinity.get(name);
        pods.get("requiredDuringSchedulingIgnoredDuringExecution")
            .items()
            .for_each(|term| pod_affinity_term(&term, errors));
        for preferred in pods.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
            weight(&preferred.get("weight"), errors);
            pod_affinity_term(&preferred.get("podAffinityTerm"), errors);
        }
    }
}

fn weight(field: &Field<'_>, errors: &mut Errors) {
    if !(1..=100).contains(&field.int().unwrap_or(0)) {
        field.invalid(errors, "must be in the range 1-100");
    }
}

fn pod_affinity_term(term: &Field<'_>, errors: &mut Errors) {
    crate::kinds::common::label_selector(&term.get("labelSelector"), errors);
    crate::kinds::common::label_selector(&term.get("namespaceSelector"), errors);
    for namespace in term.get("namespaces").items() {
        namespace.invalid_all(errors, names::dns1123_label(namespace.str()));
    }
    let key = term.get("topologyKey");
    if key.is_empty() {
        key.required(errors, "can not be empty")
    } else {
        key.invalid_all(errors, names::qualified_name(key.str()))
    }
}

/// One term of a node selector (also used by volumes).
pub fn node_selector_term(term: &Field<'_>, errors: &mut Errors) {
    for list in ["matchExpressions", "matchFields"] {
        for requirement in term.get(list).items() {
            let values = requirement.get("values");
            match requirement.get("operator").str() {
                "In" | "NotIn" if values.is_empty() => {
                    values.required(errors, "must be specified when `operator` is 'In' or 'NotIn'")
                }
                "Exists" | "DoesNotExist" if !values.is_empty() => values.forbidden(
                    errors,
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ),
                "Gt" | "Lt" if values.len() != 1 => {
                    values.required(errors, "must be specified single value when `operator` is 'Lt' or 'Gt'")
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
                _ => requirement
                    .get("operator")
                    .invalid(errors, "not a valid selector operator"),
            }
            let key = requirement.get("key");
            if list == "matchExpressions" {
                key.invalid_all(errors, names::qualified_name(key.str()));
            } else if key.str() != "metadata.name" {
                key.invalid(errors, "not a valid field selector key");
            }
        }
    }
}

/// A pod template of a workload: labels, annotations' sizes are the registry's; here its labels and spec.
pub fn template(template: &Field<'_>, errors: &mut Errors) {
    let metadata = template.get("metadata");
    labels(&metadata.get("labels"), errors);
    let spec = template.get("spec");
    pod_spec(&spec, errors);
    let ephemeral = spec.get("ephemeralContainers");
    if !ephemeral.is_empty() {
        ephemeral.forbidden(errors, "ephemeral containers not allowed in pod template");
    }
}

/// What may change in a pod's spec after its creation; everything else is put back before the two are compared.
pub fn spec_update(new: &Field<'_>, old: &Value, errors: &mut Errors) {
    for list in ["containers", "initContainers"] {
        if new.get(list).len() != old.get(list).and_then(Value::as_array).map_or(0, Vec::len) {
            return new
                .get(list)
                .forbidden(errors, "pod updates may not add or remove containers");
        }
        for container in new.get(list).items() {
            let image = container.get("image");
            if image.is_empty() {
                image.required(errors, "");
            } else if image.str().trim() != image.str() {
                image.invalid(errors, "must not have leading or trailing whitespace");
            }
        }
    }
    deadline_update(&new.get("activeDeadlineSeconds"), &old["activeDeadlineSeconds"], errors);
    if !only_adds_tolerations(new.value, old) {
        new.get("tolerations").forbidden(
            errors,
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
    if !only_removes_gates(new.value, old) {
        new.get("schedulingGates")
            .forbidden(errors, "only deletion is allowed, but found new scheduling gates");
    }
    if !errors.is_empty() {
        return;
    }
    if munged(new.value, old) != *old {
        new.forbidden(errors, UPDATE);
    }
}

const UPDATE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

fn deadline_update(new: &Field<'_>, old: &Value, errors: &mut Errors) {
    match (new.int(), old.as_i64()) {
        (Some(n), Some(o)) if n > o => new.invalid(errors, format!("must be less than or equal to previous value {o}")),
        (None, Some(_)) => new.invalid(errors, "must not update from a positive integer to nil value"),
        _ => {}
    }
}

fn without_seconds(toleration: &Value) -> Value {
    let mut t = toleration.clone();
    if let Some(map) = t.as_object_mut() {
        map.remove("tolerationSeconds");
    }
    t
}

fn only_adds_tolerations(new: &Value, old: &Value) -> bool {
    let list = |v: &Value| {
        v.get("tolerations")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let new: Vec<Value> = list(new).iter().map(without_seconds).collect();
    list(old).iter().all(|t| new.contains(&without_seconds(t)))
}

fn only_removes_gates(new: &Value, old: &Value) -> bool {
    let list = |v: &Value| {
        v.get("schedulingGates")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let before = list(old);
    list(new).iter().all(|gate| before.contains(gate))
}

/// The new spec with everything that may change put back to what it was.
fn munged(new: &Value, old: &Value) -> Value {
    let mut out = new.clone();
    for list in ["containers", "initContainers"] {
        let before = old
            .get(list)
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        for (container, was) in crate::kinds::field::each(&mut out, list).zip(before) {
            container["image"] = was["image"].clone();
        }
    }
    let mut mutable = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    if old["terminationGracePeriodSeconds"].as_i64().is_some_and(|n| n < 0) && new["terminationGracePeriodSeconds"] == 1
    {
        mutable.push("terminationGracePeriodSeconds");
    }
    if old["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
        mutable.extend(["nodeSelector", "affinity"]);
    }
    for field in mutable {
        crate::registry::strategy::restore(&mut out, old, field);
    }
    out
}
