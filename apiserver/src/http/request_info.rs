//! What a method, path and query ask for: the one parser behind authorization, routing and metrics.

use http::Method;

use super::query::{Query, decode};
use crate::registry::access::Attributes;

/// A parsed request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// For authorizers.
    pub attributes: Attributes,
    /// The query.
    pub query: Query,
    /// What follows the subresource (`proxy/<rest>`), with its slashes.
    pub rest: String,
}

impl RequestInfo {
    /// Parses any request; what is no resource request is a path request.
    pub fn parse(method: &Method, path: &str, query: &str) -> Self {
        let path = decode(path).into_owned();
        let query = Query::parse(query);
        let mut info = Self {
            query,
            ..Self::default()
        };
        info.attributes.verb = method.as_str().to_ascii_lowercase();
        info.parse_resource(method, &path);
        info.attributes.path = path;
        info
    }

    /// True for requests that may last as long as they like.
    pub fn is_long_running(&self) -> bool {
        self.attributes.is_long_running()
    }

    fn parse_resource(&mut self, method: &Method, path: &str) {
        let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let a = &mut self.attributes;
        match parts.as_slice() {
            ["api", version, _, ..] => {
                a.version = (*version).to_owned();
                parts.drain(..2);
            }
            ["apis", group, version, _, ..] => {
                (a.group, a.version) = ((*group).to_owned(), (*version).to_owned());
                parts.drain(..3);
            }
            _ => return,
        }
        let watch_prefix = parts.len() > 1 && parts[0] == "watch";
        if watch_prefix {
            parts.remove(0);
        }
        a.is_resource = true;
        if let ["namespaces", namespace, rest @ ..] = parts.as_slice() {
            a.namespace = (*namespace).to_owned();
            // `status` and `finalize` belong to the namespace itself.
            if !matches!(rest, [] | ["status" | "finalize", ..]) {
                parts.drain(..2);
            }
        }
        let mut parts = parts.into_iter();
        let mut next = || parts.next().unwrap_or_default().to_owned();
        (a.resource, a.name, a.subresource) = (next(), next(), next());
        self.rest = parts.map(|part| format!("/{part}")).collect();
        self.attributes.verb = self.verb(method, watch_prefix).to_owned();
        if matches!(self.attributes.verb.as_str(), "list" | "watch" | "deletecollection") {
            self.attributes.field_selector = self.query.get("fieldSelector").to_owned();
            self.attributes.label_selector = self.query.get("labelSelector").to_owned();
        }
        if a_collection(&self.attributes)
            && let Some(name) = named_by_selector(self.query.get("fieldSelector"))
        {
            // A watch of one object may be allowed by name.
            self.attributes.name = name;
        }
    }

    fn verb(&self, method: &Method, watch_prefix: bool) -> &'static str {
        let collection = self.attributes.name.is_empty();
        let watch = self.query.flag("watch") == Some(true);
        match method.as_str() {
            _ if watch_prefix => "watch",
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" if collection => "deletecollection",
            "DELETE" => "delete",
            "GET" | "HEAD" if collection && watch => "watch",
            "GET" | "HEAD" if collection => "list",
            "GET" | "HEAD" => "get",
            _ => "",
        }
    }
}

fn a_collection(attributes: &Attributes) -> bool {
    attributes.name.is_empty() && matches!(attributes.verb.as_str(), "list" | "watch")
}

/// `x` of the selector `metadata.name=x`.
fn named_by_selector(selector: &str) -> Option<String> {
    selector.split(',').find_map(|term| {
        let name = term.strip_prefix("metadata.name=")?.trim_start_matches('=');
        (!name.is_empty() && !name.contains(['!', '\\', '/'])).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(method: &str, path: &str, query: &str) -> RequestInfo {
        RequestInfo::parse(&method.parse().unwrap(), path, query)
    }

    #[test]
    fn paths_are_read_as_upstream_reads_them() {
        // method, path, query -> verb, group, version, namespace, resource, name, subresource
        for (method, path, query, expected) in [
            ("GET", "/api/v1/pods", "", ["list", "", "v1", "", "pods", "", ""]),
            (
                "GET",
                "/api/v1/pods",
                "watch=true",
                ["watch", "", "v1", "", "pods", "", ""],
            ),
            ("GET", "/api/v1/watch/pods", "", ["watch", "", "v1", "", "pods", "", ""]),
            (
                "POST",
                "/api/v1/namespaces",
                "",
                ["create", "", "v1", "", "namespaces", "", ""],
            ),
            (
                "GET",
                "/api/v1/namespaces/a",
                "",
                ["get", "", "v1", "a", "namespaces", "a", ""],
            ),
            (
                "PUT",
                "/api/v1/namespaces/a/finalize",
                "",
                ["update", "", "v1", "a", "namespaces", "a", "finalize"],
            ),
            (
                "GET",
                "/api/v1/namespaces/a/pods/b",
                "",
                ["get", "", "v1", "a", "pods", "b", ""],
            ),
            (
                "GET",
                "/api/v1/namespaces/a/pods/b/log",
                "",
                ["get", "", "v1", "a", "pods", "b", "log"],
            ),
            (
                "DELETE",
                "/apis/apps/v1/namespaces/a/deployments",
                "",
                ["deletecollection", "apps", "v1", "a", "deployments", "", ""],
            ),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                "",
                ["patch", "apps", "v1", "a", "deployments", "d", "scale"],
            ),
            (
                "GET",
                "/api/v1/nodes",
                "watch=1&fieldSelector=metadata.name%3Dn1",
                ["watch", "", "v1", "", "nodes", "n1", ""],
            ),
            (
                "GET",
                "/api/v1/nodes/system%3Anode",
                "",
                ["get", "", "v1", "", "nodes", "system:node", ""],
            ),
        ] {
            let a = parse(method, path, query).attributes;
            assert!(a.is_resource, "{path}");
            assert_eq!(
                [
                    a.verb,
                    a.group,
                    a.version,
                    a.namespace,
                    a.resource,
                    a.name,
                    a.subresource
                ],
                expected.map(str::to_owned),
                "{path}"
            );
        }
    }

    #[test]
    fn what_is_no_resource_is_a_path() {
        for path in [
            "/",
            "/api",
            "/api/v1",
            "/apis",
            "/apis/apps",
            "/apis/apps/v1",
            "/healthz",
            "/openapi/v3",
            "/version",
            "",
        ] {
            let info = parse("GET", path, "");
            assert!(!info.attributes.is_resource, "{path}");
            assert_eq!(
                (info.attributes.verb.as_str(), info.attributes.path.as_str()),
                ("get", path)
            );
        }
    }

    #[test]
    fn proxies_keep_what_follows() {
        let info = parse("GET", "/api/v1/namespaces/a/services/s:80/proxy/x/y", "");
        assert_eq!(
            (
                info.attributes.name.as_str(),
                info.attributes.subresource.as_str(),
                info.rest.as_str()
            ),
            ("s:80", "proxy", "/x/y")
        );
        assert!(info.is_long_running());
    }

    proptest! {
        #[test]
        fn any_path_is_read_without_panic(path in "/(api|apis)?(/[a-z%0-9:.]{0,6}){0,9}/?", query in "[a-z=&%+.A-Z]{0,40}", method in "GET|PUT|POST|PATCH|DELETE|HEAD|OPTIONS") {
            let info = parse(&method, &path, &query);
            if info.attributes.is_resource {
                prop_assert!(!info.attributes.resource.contains('/') || path.contains("%2"));
                prop_assert!(path.starts_with("/api"));
            }
        }

        #[test]
        fn a_written_path_is_read_back(group in "[a-z]{1,8}", namespace in "[a-z]{1,8}", resource in "[a-z]{1,8}s", name in "[a-z0-9-]{1,12}") {
            prop_assume!(resource != "namespaces");
            let a = parse("GET", &format!("/apis/{group}/v1/namespaces/{namespace}/{resource}/{name}"), "").attributes;
            if resource != "status" {
                prop_assert_eq!((a.group, a.namespace, a.resource, a.name), (group, namespace, resource, name));
            }
        }
    }
}
