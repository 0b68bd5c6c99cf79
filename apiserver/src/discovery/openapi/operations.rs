//! Paths: what can be asked of each resource, with its parameters, bodies and answers, in both dialects.

use api::resources::{ResourceInfo, Subresource};
use serde_json::{Map, Value, json};

use super::custom;
use crate::discovery::{returns_deleted, root};

use super::schemas::{self, DELETE_OPTIONS, Dialect, PATCH, STATUS, WATCH_EVENT};

const OBJECT_TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];
const LIST_TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const CUSTOM_TYPES: &[&str] = &["application/json", "application/yaml"];
const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// Name, type, meaning.
type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = (
    "pretty",
    "string",
    "If 'true', the answer is indented for people to read.",
);
const DRY_RUN: Parameter = (
    "dryRun",
    "string",
    "With 'All' the request is processed in full and nothing is stored.",
);
const FIELD_MANAGER: Parameter = (
    "fieldManager",
    "string",
    "The name under which changed fields are recorded: at most 128 printable characters. Required for apply patches.",
);
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What becomes of unknown and duplicate fields: Ignore drops them, Warn (the default) drops them with a warning, Strict refuses the request.",
);
const FORCE: Parameter = (
    "force",
    "boolean",
    "Take over fields that other managers own. Only for apply patches.",
);
const DELETION: &[Parameter] = &[
    DRY_RUN,
    (
        "gracePeriodSeconds",
        "integer",
        "Seconds until the object is removed; zero removes it at once. The kind's default if absent.",
    ),
    (
        "ignoreStoreReadErrorWithClusterBreakingPotential",
        "boolean",
        "Also delete an object that cannot be read from the store.",
    ),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    (
        "propagationPolicy",
        "string",
        "What becomes of dependents: Orphan, Background or Foreground.",
    ),
];
const SELECTION: &[Parameter] = &[
    (
        "allowWatchBookmarks",
        "boolean",
        "A watch may send events of type BOOKMARK.",
    ),
    ("continue", "string", "The token of the previous page of a list."),
    ("fieldSelector", "string", "Only objects whose fields match."),
    ("labelSelector", "string", "Only objects whose labels match."),
    (
        "limit",
        "integer",
        "The largest number of objects in one answer; the rest follows with 'continue'.",
    ),
    (
        "resourceVersion",
        "string",
        "Which state is wanted: see the API concepts.",
    ),
    (
        "resourceVersionMatch",
        "string",
        "How resourceVersion is applied to a list: see the API concepts.",
    ),
    (
        "sendInitialEvents",
        "boolean",
        "A watch begins with the objects that are there, and a bookmark after them.",
    ),
    ("timeoutSeconds", "integer", "Ends a list or watch after this time."),
    ("watch", "boolean", "Send changes as they happen instead of a list."),
];

/// What an operation does, by the words of `x-kubernetes-action`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    List,
    Post,
    DeleteCollection,
    Get,
    Put,
    Patch,
    Delete,
    Watch,
    WatchList,
    Connect(&'static str),
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Post => "post",
            Self::DeleteCollection => "deletecollection",
            Self::Get => "get",
            Self::Put => "put",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::Watch => "watch",
            Self::WatchList => "watchlist",
            Self::Connect(_) => "connect",
        }
    }

    fn method(self) -> &'static str {
        match self {
            Self::List | Self::Get | Self::Watch | Self::WatchList => "get",
            Self::Post => "post",
            Self::Put => "put",
            Self::Patch => "patch",
            Self::Delete | Self::DeleteCollection => "delete",
            Self::Connect(method) => method,
        }
    }

    /// The first word of the operation's id.
    fn id(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Post => "create",
            Self::Get => "read",
            Self::Put => "replace",
            Self::Patch => "patch",
            Self::Delete | Self::DeleteCollection => "delete",
            Self::Watch | Self::WatchList => "watch",
            Self::Connect(_) => "connect",
        }
    }

    fn parameters(self) -> Vec<Parameter> {
        match self {
            Self::List => SELECTION.to_vec(),
            Self::Post | Self::Put => vec![DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION],
            Self::Patch => vec![DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE],
            Self::Delete => DELETION.to_vec(),
            Self::DeleteCollection => {
                let watches = ["allowWatchBookmarks", "watch"];
                DELETION
                    .iter()
                    .chain(SELECTION)
                    .filter(|(name, ..)| !watches.contains(name))
                    .copied()
                    .collect()
            }
            Self::Get | Self::Watch | Self::WatchList | Self::Connect(_) => Vec::new(),
        }
    }

    /// Status codes of success.
    fn codes(self) -> &'static [&'static str] {
        match self {
            Self::Post => &["200", "201", "202"],
            Self::Put | Self::Patch => &["200", "201"],
            Self::Delete => &["200", "202"],
            _ => &["200"],
        }
    }
}

/// A resource's own words.
struct Resource<'a> {
    info: &'a ResourceInfo,
    dialect: Dialect,
    /// Definition of the object.
    object: String,
    /// Definition of its list.
    list: String,
    types: &'static [&'static str],
    list_types: &'static [&'static str],
}

/// The paths of a resource.
pub fn paths(dialect: Dialect, info: &ResourceInfo) -> Vec<(String, Value)> {
    let (object, list, types, list_types) = if info.is_custom() {
        let (object, list) = (custom::name(info, &info.kind), custom::name(info, &info.list_kind));
        (object, list, CUSTOM_TYPES, CUSTOM_TYPES)
    } else {
        let object = schemas::name(info.message);
        (object.clone(), format!("{object}List"), OBJECT_TYPES, LIST_TYPES)
    };
    let resource = Resource {
        info,
        dialect,
        object,
        list,
        types,
        list_types,
    };
    resource.paths()
}

impl Resource<'_> {
    fn paths(&self) -> Vec<(String, Value)> {
        let s = self.info;
        let base = format!("/{}", root(s));
        let place = if s.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{place}/{}", s.resource);
        let one = format!("{collection}/{{name}}");
        let mut all = Vec::new();
        let mut add = |path: String, actions: Vec<(Action, &Subresource)>| {
            if let Some(item) = self.item(&path, &actions) {
                all.push((path, item));
            }
        };
        let whole = Subresource {
            name: "",
            group: s.group.clone(),
            version: s.version.clone(),
            kind: s.kind.clone(),
            verbs: s.verbs,
        };
        let having = |pairs: &[(&str, Action)]| -> Vec<(Action, &Subresource)> {
            pairs
                .iter()
                .filter(|(verb, _)| s.allows(verb))
                .map(|(_, action)| (*action, &whole))
                .collect()
        };
        if s.namespaced {
            add(format!("{base}/{}", s.resource), having(&[("list", Action::List)]));
            add(
                format!("{base}/watch/{}", s.resource),
                having(&[("watch", Action::WatchList)]),
            );
        }
        let of_many = [
            ("list", Action::List),
            ("create", Action::Post),
            ("deletecollection", Action::DeleteCollection),
        ];
        add(format!("{base}{collection}"), having(&of_many));
        add(
            format!("{base}/watch{collection}"),
            having(&[("watch", Action::WatchList)]),
        );
        let of_one = [
            ("get", Action::Get),
            ("update", Action::Put),
            ("patch", Action::Patch),
            ("delete", Action::Delete),
        ];
        add(format!("{base}{one}"), having(&of_one));
        add(format!("{base}/watch{one}"), having(&[("watch", Action::Watch)]));
        for sub in &s.subresources {
            let path = format!("{base}{one}/{}", sub.name);
            if matches!(sub.name, "attach" | "exec" | "portforward" | "proxy") {
                let methods: &[&str] = if sub.name == "proxy" {
                    &["get", "put", "post", "delete", "options", "head", "patch"]
                } else {
                    &["get", "post"]
                };
                let connects: Vec<_> = methods.iter().map(|method| (Action::Connect(method), sub)).collect();
                add(path.clone(), connects.clone());
                if sub.name == "proxy" {
                    add(format!("{path}/{{path}}"), connects);
                }
                continue;
            }
            let verbs = [
                ("create", Action::Post),
                ("get", Action::Get),
                ("update", Action::Put),
                ("patch", Action::Patch),
            ];
            let offered = verbs.iter().filter(|(verb, _)| sub.verbs.contains(verb));
            add(path, offered.map(|(_, action)| (*action, sub)).collect());
        }
        all
    }

    /// One path with its operations; nothing if there are none.
    fn item(&self, path: &str, actions: &[(Action, &Subresource)]) -> Option<Value> {
        let (first, _) = actions.first()?;
        let mut item = Map::new();
        for (action, sub) in actions {
            item.insert(action.method().to_owned(), self.operation(path, *action, sub));
        }
        let mut parameters: Vec<Value> = [
            ("name", "The name of the object."),
            ("namespace", "The namespace of the object."),
            ("path", "The path behind the proxy."),
        ]
        .iter()
        .filter(|(name, _)| path.contains(&format!("{{{name}}}")))
        .map(|(name, text)| self.parameter((name, "string", text), "path"))
        .collect();
        if matches!(first, Action::Watch | Action::WatchList) {
            parameters.extend(SELECTION.iter().map(|p| self.parameter(*p, "query")));
        }
        if !matches!(first, Action::Connect(_)) {
            parameters.push(self.parameter(PRETTY, "query"));
        }
        item.insert("parameters".into(), parameters.into());
        Some(item.into())
    }

    fn parameter(&self, (name, ty, text): Parameter, place: &str) -> Value {
        let mut parameter = json!({"name": name, "in": place, "description": text});
        if place == "path" {
            parameter["required"] = true.into();
        }
        let ty = json!({"type": ty, "uniqueItems": true});
        match (self.dialect, &mut parameter) {
            (Dialect::V2, Value::Object(map)) => map.extend(ty.as_object().cloned().unwrap_or_default()),
            (_, parameter) => parameter["schema"] = ty,
        }
        parameter
    }

    fn operation(&self, path: &str, action: Action, sub: &Subresource) -> Value {
        let s = self.info;
        let answers = self.answers(action, sub);
        let types = if matches!(action, Action::List | Action::Watch | Action::WatchList) {
            self.list_types
        } else {
            self.types
        };
        let parameters: Vec<Value> = action
            .parameters()
            .into_iter()
            .map(|p| self.parameter(p, "query"))
            .collect();
        let mut operation = json!({
            "description": self.description(action, sub),
            "operationId": self.id(path, action, sub),
            "tags": [tag(&s.group, &s.version)],
            "x-kubernetes-action": action.word(),
            "x-kubernetes-group-version-kind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
        });
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if matches!(action, Action::Watch | Action::WatchList) {
            operation["deprecated"] = true.into();
        }
        let mut responses = Map::new();
        for code in action.codes() {
            let text = match *code {
                "201" => "Created",
                "202" => "Accepted",
                _ => "OK",
            };
            responses.insert((*code).into(), self.response(text, &answers, action, types));
        }
        responses.insert("401".into(), json!({"description": "Unauthorized"}));
        operation["responses"] = responses.into();
        self.body(&mut operation, action, sub, types);
        operation
    }

    fn response(&self, text: &str, schema: &Value, action: Action, types: &[&str]) -> Value {
        if self.dialect == Dialect::V2 {
            return json!({"description": text, "schema": schema});
        }
        let types = if matches!(action, Action::Connect(_)) {
            &["*/*"]
        } else {
            types
        };
        let content: Map<String, Value> = types
            .iter()
            .map(|ty| ((*ty).to_owned(), json!({"schema": schema})))
            .collect();
        json!({"description": text, "content": content})
    }

    /// The schema of what is answered.
    fn answers(&self, action: Action, sub: &Subresource) -> Value {
        let s = self.info;
        let reference = |name: &str| self.dialect.reference(name);
        match action {
            Action::Connect(_) => json!({"type": "string"}),
            Action::List => reference(&self.list),
            Action::Watch | Action::WatchList => reference(WATCH_EVENT),
            Action::DeleteCollection => reference(STATUS),
            Action::Delete if !returns_deleted(s) => reference(STATUS),
            Action::Get if sub.name == "log" => json!({"type": "string"}),
            _ => self.subject(sub),
        }
    }

    /// The object itself, or what its subresource is made of.
    fn subject(&self, sub: &Subresource) -> Value {
        let s = self.info;
        if (&sub.group, &sub.version, &sub.kind) == (&s.group, &s.version, &s.kind) {
            return self.dialect.reference(&self.object);
        }
        match api::schema::for_kind(&sub.group, &sub.version, &sub.kind) {
            Some(message) => self.dialect.reference(&schemas::name(message)),
            None => json!({"type": "object"}),
        }
    }

    fn body(&self, operation: &mut Value, action: Action, sub: &Subresource, types: &[&str]) {
        let (schema, consumed): (Value, &[&str]) = match action {
            Action::Post | Action::Put => (self.subject(sub), &["*/*"]),
            Action::Patch => (
                self.dialect.reference(PATCH),
                match self.info.is_custom() {
                    false => PATCH_TYPES,
                    // Strategic merge needs merge keys, which custom kinds do not have.
                    true => &[
                        "application/json-patch+json",
                        "application/merge-patch+json",
                        "application/apply-patch+yaml",
                    ],
                },
            ),
            Action::Delete | Action::DeleteCollection => (self.dialect.reference(DELETE_OPTIONS), &["*/*"]),
            _ => (Value::Null, &["*/*"]),
        };
        let required = matches!(action, Action::Post | Action::Put | Action::Patch);
        if self.dialect == Dialect::V2 {
            operation["consumes"] = json!(consumed);
            operation["produces"] = if matches!(action, Action::Connect(_)) {
                json!(["*/*"])
            } else {
                json!(types)
            };
            operation["schemes"] = json!(["https"]);
            if schema.is_null() {
                return;
            }
            let mut body = json!({"in": "body", "name": "body", "schema": schema});
            if required {
                body["required"] = true.into();
            }
            match operation.get_mut("parameters").and_then(Value::as_array_mut) {
                Some(parameters) => parameters.insert(0, body),
                None => operation["parameters"] = json!([body]),
            }
        } else if !schema.is_null() {
            let content: Map<String, Value> = consumed
                .iter()
                .map(|ty| ((*ty).to_owned(), json!({"schema": schema})))
                .collect();
            operation["requestBody"] = json!({"content": content});
            if required {
                operation["requestBody"]["required"] = true.into();
            }
        }
    }

    fn description(&self, action: Action, sub: &Subresource) -> String {
        let kind = &self.info.kind;
        let of = if sub.name.is_empty() {
            String::new()
        } else {
            format!("{} of ", sub.name)
        };
        match action {
            Action::List => format!("list or watch objects of kind {kind}"),
            Action::Post if sub.name.is_empty() => format!("create {} {kind}", article(kind)),
            Action::Post => format!("create {of}{} {kind}", article(kind)),
            Action::DeleteCollection => format!("delete collection of {kind}"),
            Action::Get if sub.name.is_empty() => format!("read the specified {kind}"),
            Action::Get => format!("read {of}the specified {kind}"),
            Action::Put => format!("replace {of}the specified {kind}"),
            Action::Patch if sub.name.is_empty() => format!("partially update the specified {kind}"),
            Action::Patch => format!("partially update {of}the specified {kind}"),
            Action::Delete => format!("delete {} {kind}", article(kind)),
            Action::Watch => format!(
                "watch changes to an object of kind {kind}. deprecated: use the 'watch' parameter with a list operation instead, filtered to a single item with the 'fieldSelector' parameter."
            ),
            Action::WatchList => format!(
                "watch individual changes to a list of {kind}. deprecated: use the 'watch' parameter with a list operation instead."
            ),
            Action::Connect(method) => format!("connect {} requests to {} of {kind}", method.to_uppercase(), sub.name),
        }
    }

    /// As `listCoreV1NamespacedPod`.
    fn id(&self, path: &str, action: Action, sub: &Subresource) -> String {
        let s = self.info;
        let mut id = format!("{}{}{}", action.id(), group_word(&s.group), capitalized(&s.version));
        if let Action::Connect(method) = action {
            id.push_str(&capitalized(method));
        }
        if action == Action::DeleteCollection {
            id.push_str("Collection");
        }
        if path.contains("{namespace}") {
            id.push_str("Namespaced");
        }
        id.push_str(&s.kind);
        id.push_str(&capitalized(sub.name));
        if action == Action::WatchList {
            id.push_str("List");
        }
        if s.namespaced && !path.contains("{namespace}") {
            id.push_str("ForAllNamespaces");
        }
        if path.ends_with("{path}") {
            id.push_str("WithPath");
        }
        id
    }
}

/// As `getCoreV1APIResources`.
pub fn resources_id(served: &ResourceInfo) -> String {
    format!(
        "get{}{}APIResources",
        group_word(&served.group),
        capitalized(&served.version)
    )
}

fn article(kind: &str) -> &'static str {
    if kind.starts_with(['A', 'E', 'I', 'O', 'U']) {
        "an"
    } else {
        "a"
    }
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// `RbacAuthorization` of `rbac.authorization.k8s.io`, `Core` of the core group, `ComExample` style is for custom groups.
fn group_word(group: &str) -> String {
    match group.strip_suffix(".k8s.io").unwrap_or(group) {
        "" => "Core".into(),
        own if own.len() == group.len() && group.contains('.') => group.rsplit('.').map(capitalized).collect(),
        own => own.split('.').map(capitalized).collect(),
    }
}

/// `rbacAuthorization_v1`, `core_v1`.
pub fn tag(group: &str, version: &str) -> String {
    let word = group_word(group);
    let mut letters = word.chars();
    let lower: String = letters
        .next()
        .map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect());
    format!("{lower}_{version}")
}
