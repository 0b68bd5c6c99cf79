//! Which requests a rule names: operations, groups, versions, resources with subresources, scope. Pure; shared with admission policies.

use serde_json::Value;

use crate::kinds::field::{list, text};

/// A request as rules see it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// `CREATE`, ...
    pub operation: &'a str,
    /// API group.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Plural.
    pub resource: &'a str,
    /// Empty, `status`, ...
    pub subresource: &'a str,
    /// The request's namespace, for a namespace its own name; empty at cluster scope.
    pub namespace: &'a str,
}

/// A `RuleWithOperations`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
}

impl Rule {
    /// Reads a rule; what is missing matches nothing.
    pub fn from_value(rule: &Value) -> Self {
        let texts = |field: &str| {
            let items = list(rule, field).iter().filter_map(Value::as_str);
            items.map(str::to_owned).collect()
        };
        Self {
            operations: texts("/operations"),
            groups: texts("/apiGroups"),
            versions: texts("/apiVersions"),
            resources: texts("/resources"),
            scope: text(rule, "/scope").to_owned(),
        }
    }

    /// Whether the request is one of those that the rule names.
    pub fn matches(&self, asked: &Asked<'_>) -> bool {
        self.scope(asked)
            && one_of(&self.operations, asked.operation)
            && one_of(&self.groups, asked.group)
            && one_of(&self.versions, asked.version)
            && self.resource(asked)
    }

    /// A namespace counts as cluster-scoped, although a request for one has it as its namespace.
    fn scope(&self, asked: &Asked<'_>) -> bool {
        let is_namespace = (asked.group, asked.resource) == ("", "namespaces");
        match self.scope.as_str() {
            "Namespaced" => !is_namespace && !asked.namespace.is_empty(),
            "Cluster" => is_namespace || asked.namespace.is_empty(),
            _ => true,
        }
    }

    fn resource(&self, asked: &Asked<'_>) -> bool {
        self.resources.iter().any(|wanted| {
            let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
            (resource == "*" || resource == asked.resource) && (subresource == "*" || subresource == asked.subresource)
        })
    }
}

fn one_of(wanted: &[String], is: &str) -> bool {
    wanted.iter().any(|wanted| wanted == "*" || wanted == is)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_name_requests_as_upstream_reads_them() {
        let rule = |resources: &[&str], scope: &str| {
            Rule::from_value(
                &json!({"operations": ["CREATE", "UPDATE"], "apiGroups": ["", "apps"], "apiVersions": ["v1"],
                "resources": resources, "scope": scope}),
            )
        };
        let asked = |resource, subresource, namespace| Asked {
            operation: "CREATE",
            group: "",
            version: "v1",
            resource,
            subresource,
            namespace,
        };
        // resources, scope, (resource, subresource, namespace) -> matches
        for (resources, scope, (resource, subresource, namespace), expected) in [
            (&["pods"][..], "*", ("pods", "", "a"), true),
            (&["pods"], "*", ("pods", "status", "a"), false),
            (&["pods/*"], "*", ("pods", "status", "a"), true),
            (&["pods/*"], "*", ("pods", "", "a"), true),
            (&["*/status"], "*", ("pods", "status", "a"), true),
            (&["*"], "*", ("pods", "", "a"), true),
            (&["*"], "*", ("pods", "exec", "a"), false),
            (&["*/*"], "*", ("pods", "exec", "a"), true),
            (&["services", "pods"], "*", ("pods", "", "a"), true),
            (&["*"], "Cluster", ("pods", "", "a"), false),
            (&["*"], "Cluster", ("nodes", "", ""), true),
            (&["*"], "Cluster", ("namespaces", "", "a"), true),
            (&["*"], "Namespaced", ("namespaces", "", "a"), false),
            (&["*"], "Namespaced", ("pods", "", "a"), true),
            (&["*"], "Namespaced", ("nodes", "", ""), false),
            (&["*"], "", ("nodes", "", ""), true),
        ] {
            let outcome = rule(resources, scope).matches(&asked(resource, subresource, namespace));
            assert_eq!(outcome, expected, "{resources:?} {scope} {resource}/{subresource}");
        }
        let pods = rule(&["pods"], "*");
        for (operation, group, version, expected) in [
            ("UPDATE", "", "v1", true),
            ("DELETE", "", "v1", false),
            ("CREATE", "batch", "v1", false),
            ("CREATE", "", "v2", false),
        ] {
            let other = Asked {
                operation,
                group,
                version,
                ..asked("pods", "", "a")
            };
            assert_eq!(pods.matches(&other), expected, "{operation} {group} {version}");
        }
        let all = json!({"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]});
        assert!(Rule::from_value(&all).matches(&asked("pods", "", "")));
        assert!(!Rule::default().matches(&asked("pods", "", "")));
    }
}
