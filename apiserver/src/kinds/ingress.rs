//! Ingresses and their classes.

use api::names;
use serde_json::{Value, json};

use super::common::domain_prefixed_path;
use super::field::{Errors, Field, default, list, port_number, same, text};
use super::ip;
use super::rules::Rules;
use super::service::validate::host_name;
use crate::registry::table::{self, Column};

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const CONTROLLER_LIMIT: usize = 250;
/// What a path of a definite type may not have in it, and at its end.
const NOT_INSIDE: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const NOT_AT_END: [&str; 2] = ["/..", "/."];

/// Rules of `ingresses.networking.k8s.io`.
pub static INGRESS: Rules = Rules {
    generation: true,
    validate,
    validate_update: update,
    validate_status: status,
    warnings,
    columns: &[
        Column::NAME,
        Column::text("Class"),
        Column::text("Hosts"),
        Column::text("Address"),
        Column::text("Ports"),
        Column::AGE,
    ],
    row: |object, now| {
        let class = match text(object, "/spec/ingressClassName") {
            "" => text(object, "/metadata/annotations/kubernetes.io~1ingress.class"),
            class => class,
        };
        vec![
            table::name(object),
            json!(super::common::or_none(class)),
            json!(hosts(object)),
            json!(addresses(object)),
            json!(if list(object, "/spec/tls").is_empty() {
                "80"
            } else {
                "80, 443"
            }),
            table::age(object, now),
        ]
    },
    ..Rules::NONE
};

/// Rules of `ingressclasses.networking.k8s.io`.
pub static INGRESS_CLASS: Rules = Rules {
    generation: true,
    default: |object| {
        if let Some(parameters) = object.pointer_mut("/spec/parameters").filter(|p| p.is_object()) {
            default(parameters, "scope", "Cluster");
        }
    },
    validate: class,
    validate_update: |root, old, errors| {
        root.get("spec")
            .get("controller")
            .immutable(errors, &old["spec"]["controller"])
    },
    columns: &[
        Column::NAME,
        Column::text("Controller"),
        Column::text("Parameters"),
        Column::AGE,
    ],
    row: |object, now| {
        let parameters = object
            .pointer("/spec/parameters")
            .filter(|p| p.is_object())
            .map_or_else(
                || "<none>".to_owned(),
                |p| match text(p, "/apiGroup") {
                    "" => format!("{}/{}", text(p, "/kind"), text(p, "/name")),
                    group => format!("{}.{group}/{}", text(p, "/kind"), text(p, "/name")),
                },
            );
        vec![
            table::name(object),
            json!(text(object, "/spec/controller")),
            json!(parameters),
            table::age(object, now),
        ]
    },
    ..Rules::NONE
};

fn hosts(object: &Value) -> String {
    let hosts: Vec<&str> = list(object, "/spec/rules")
        .iter()
        .map(|r| text(r, "/host"))
        .filter(|h| !h.is_empty())
        .collect();
    match hosts.len() {
        0 => "*".to_owned(),
        n if n > 3 => format!("{} + {} more...", hosts[..3].join(","), n - 3),
        _ => hosts.join(","),
    }
}

fn addresses(object: &Value) -> String {
    let shown = list(object, "/status/loadBalancer/ingress").iter().map(|i| {
        if text(i, "/ip").is_empty() {
            text(i, "/hostname")
        } else {
            text(i, "/ip")
        }
    });
    shown.filter(|s| !s.is_empty()).collect::<Vec<_>>().join(",")
}

fn validate(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.get("spec");
    let (rules, backend, tls) = (spec.get("rules"), spec.get("defaultBackend"), spec.get("tls"));
    if rules.is_empty() && !backend.exists() {
        spec.invalid_as(
            errors,
            rules.value.clone(),
            "either `defaultBackend` or `rules` must be specified",
        );
    }
    if backend.exists() {
        self::backend(&backend, errors);
    }
    rules.items().for_each(|rule| self::rule(&rule, errors));
    for entry in tls.items() {
        entry.get("hosts").items().for_each(|host| dns_name(&host, errors));
        entry.get("secretName").check_if_set(errors, names::dns1123_subdomain);
    }
    let class = spec.get("ingressClassName");
    if class.exists() {
        class.check(errors, names::dns1123_subdomain);
    }
    let said = text(root.value, "/metadata/annotations/kubernetes.io~1ingress.class");
    let is_new = text(root.value, "/metadata/resourceVersion").is_empty();
    if is_new && !said.is_empty() && class.exists() && said != class.str() {
        errors.push(api::FieldError::invalid(
            format!("annotations.{CLASS_ANNOTATION}"),
            said,
            "must match `ingressClassName` when both are specified",
        ));
    }
}

/// What was tolerated before stays so.
fn update(_root: &Field<'_>, old: &Value, errors: &mut Errors) {
    let secret = |tls: &Value| text(tls, "/secretName").to_owned();
    let broken = |name: String| !name.is_empty() && !names::dns1123_subdomain(&name).is_empty();
    if list(old, "/spec/tls").iter().map(secret).any(broken) {
        errors.retain(|e| !(e.field.starts_with("spec.tls[") && e.field.ends_with("].secretName")));
    }
}

fn dns_name(host: &Field<'_>, errors: &mut Errors) {
    if host.str().contains('*') {
        host.check(errors, names::wildcard_dns1123_subdomain);
    } else {
        host.check(errors, names::dns1123_subdomain);
    }
}

fn rule(rule: &Field<'_>, errors: &mut Errors) {
    let (host, http) = (rule.get("host"), rule.get("http"));
    if !host.is_empty() {
        if ip::parse(host.str()).is_some() {
            host.invalid(errors, "must be a DNS name, not an IP address");
        }
        dns_name(&host, errors);
    }
    if !http.exists() {
        return;
    }
    http.require(errors, &["paths"]);
    http.get("paths").items().for_each(|path| self::path(&path, errors));
}

fn path(entry: &Field<'_>, errors: &mut Errors) {
    let (kind, path) = (entry.get("pathType"), entry.get("path"));
    if !kind.exists() {
        return kind.required(errors, "pathType must be specified");
    }
    let relative = !path.str().starts_with('/');
    match kind.str() {
        "Exact" | "Prefix" => {
            if relative {
                path.invalid_as(errors, path.str(), "must be an absolute path");
            }
            for part in NOT_INSIDE.iter().filter(|part| path.str().contains(**part)) {
                path.invalid(errors, format!("must not contain '{part}'"));
            }
            for end in NOT_AT_END.iter().filter(|end| path.str().ends_with(**end)) {
                path.invalid(errors, format!("cannot end with '{end}'"));
            }
        }
        "ImplementationSpecific" => {
            if relative && !path.is_empty() {
                path.invalid(errors, "must be an absolute path");
            }
        }
        _ => kind.not_supported(errors, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
    backend(&entry.get("backend"), errors);
}

fn backend(backend: &Field<'_>, errors: &mut Errors) {
    let (service, resource) = (backend.get("service"), backend.get("resource"));
    match (service.exists(), resource.exists()) {
        (true, true) => backend.invalid_as(errors, "", "cannot set both resource and service backends"),
        (false, true) => reference(&resource, errors),
        (false, false) => backend.invalid_as(errors, "", "resource or service backend is required"),
        (true, false) => {
            service.get("name").required_check(errors, names::dns1035_label);
            let port = service.get("port");
            let (name, number) = (port.get("name"), port.get("number"));
            match (name.is_empty(), number.number() == 0) {
                (false, false) => backend.invalid_as(errors, "", "cannot set both port name & port number"),
                (false, true) => name.check(errors, names::port_name),
                (true, false) => port_number(&number, errors),
                (true, true) => backend.required(errors, "port name or number is required"),
            }
        }
    }
}

/// An object of some kind in the same namespace.
fn reference(target: &Field<'_>, errors: &mut Errors) {
    let group = target.get("apiGroup");
    if group.exists() {
        group.check(errors, names::dns1123_subdomain);
    }
    for name in ["kind", "name"] {
        let field = target.get(name);
        if field.is_empty() {
            field.required(errors, &format!("{name} is required"));
        } else {
            field.check(errors, names::path_segment);
        }
    }
}

fn class(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.get("spec");
    let (controller, parameters) = (spec.get("controller"), spec.get("parameters"));
    if controller.str().len() > CONTROLLER_LIMIT {
        controller.too_long(errors, CONTROLLER_LIMIT);
    }
    domain_prefixed_path(&controller, errors);
    if !parameters.exists() {
        return;
    }
    reference(&parameters, errors);
    let (scope, namespace) = (parameters.get("scope"), parameters.get("namespace"));
    match (scope.str(), namespace.exists()) {
        _ if !scope.exists() => scope.required(errors, ""),
        ("Namespace", false) => namespace.required(errors, "`parameters.scope` is set to 'Namespace'"),
        ("Namespace", true) => namespace.check(errors, names::dns1123_label),
        ("Cluster", true) => namespace.forbidden(errors, "`parameters.scope` is set to 'Cluster'"),
        ("Cluster", false) => {}
        _ => scope.not_supported(errors, &["Cluster", "Namespace"]),
    }
}

fn status(root: &Field<'_>, old: &Value, errors: &mut Errors) {
    let status = root.get("status");
    if same(status.value, &old["status"]) {
        return;
    }
    let balancer = status.get("loadBalancer");
    for entry in balancer.get("ingress").items() {
        let address = entry.get("ip");
        if !address.is_empty() {
            ip::ip(&address, errors);
        }
        host_name(&entry.get("hostname"), errors);
    }
}

fn warnings(root: &Field<'_>, old: Option<&Value>) -> Vec<String> {
    let annotation = "/metadata/annotations/kubernetes.io~1ingress.class";
    let mut warnings = Vec::new();
    if old.is_none() && root.value.pointer(annotation).is_some() {
        warnings.push(format!(
            "annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead"
        ));
    }
    let status = root.get("status");
    let balancer = status.get("loadBalancer");
    for entry in balancer.get("ingress").items().filter(|e| !e.get("ip").is_empty()) {
        ip::warn_ip(&entry.get("ip"), &mut warnings);
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults() {
        let created = |rules: &Rules, spec: Value| {
            let mut object = json!({"metadata": {"name": "i"}, "spec": spec});
            (rules.default)(&mut object);
            let mut errors = Errors::new();
            (rules.validate)(&Field::root("", &object), &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let to = |path: Value| json!({"rules": [{"http": {"paths": [path]}}]});
        let web = json!({"service": {"name": "web", "port": {"number": 80}}});
        let cases: [(Value, &[&str]); 6] = [
            (
                json!({}),
                &["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"],
            ),
            (
                to(json!({"backend": web})),
                &["spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"],
            ),
            (
                to(json!({"pathType": "Prefix", "path": "a//b", "backend": web})),
                &[
                    "spec.rules[0].http.paths[0].path: Invalid value: \"a//b\": must be an absolute path",
                    "spec.rules[0].http.paths[0].path: Invalid value: \"a//b\": must not contain '//'",
                ],
            ),
            (
                to(json!({"pathType": "Prefix", "path": "/", "backend": {"service": {"name": "web", "port": {}}}})),
                &["spec.rules[0].http.paths[0].backend: Required value: port name or number is required"],
            ),
            (
                json!({"rules": [{"host": "1.2.3.4"}]}),
                &["spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address"],
            ),
            (json!({"defaultBackend": web, "ingressClassName": "nginx"}), &[]),
        ];
        for (spec, want) in cases {
            assert_eq!(created(&INGRESS, spec.clone()), want, "{spec}");
        }
        assert_eq!(
            created(
                &INGRESS_CLASS,
                json!({"controller": "nope", "parameters": {"kind": "K", "name": "n", "scope": "Namespace"}})
            ),
            [
                "spec.controller: Invalid value: \"nope\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
            ]
        );
    }
}
