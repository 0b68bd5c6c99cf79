//! Label and field selectors, compiled once for a request and asked of stored bytes.

use std::sync::Arc;

use api::resources::ResourceInfo;
use api::{Error, fields, labels};

use super::wire::{self, Path};
use super::{Access, Kind};

/// Which objects a list, watch or collection deletion is about.
pub struct Filter {
    labels: labels::Selector,
    fields: Vec<Requirement>,
    kind: Arc<Kind>,
    /// `metadata.name=x` was asked for: at most one object.
    name: Option<String>,
}

struct Requirement {
    source: Source,
    value: String,
    equal: bool,
}

enum Source {
    Name,
    Namespace,
    Path(Path),
    /// The kind computes it.
    Strategy(String),
}

impl Filter {
    /// Parses both selectors.
    ///
    /// # Errors
    /// 400 for bad syntax and for fields that the kind does not offer.
    pub fn parse(kind: &Arc<Kind>, label_selector: &str, field_selector: &str) -> Result<Self, Error> {
        let labels = labels::Selector::parse(label_selector).map_err(|error| Error::bad_request(error.to_string()))?;
        let parsed = fields::Selector::parse(field_selector).map_err(|error| Error::bad_request(error.to_string()))?;
        let mut filter = Self {
            labels,
            fields: Vec::new(),
            kind: kind.clone(),
            name: None,
        };
        for requirement in parsed.requirements() {
            let source = filter.source(&requirement.field)?;
            if let (Source::Name, true) = (&source, requirement.equal) {
                filter.name = Some(requirement.value.clone());
            }
            filter.fields.push(Requirement {
                source,
                value: requirement.value.clone(),
                equal: requirement.equal,
            });
        }
        Ok(filter)
    }

    fn source(&self, field: &str) -> Result<Source, Error> {
        let path = match field {
            "metadata.name" => return Ok(Source::Name),
            "metadata.namespace" if self.kind.info.namespaced || has_plain_fields(&self.kind.info) => {
                return Ok(Source::Namespace);
            }
            _ => stored_field(&self.kind.info, field),
        };
        if !self.kind.strategy.selects(path) {
            return Err(Error::bad_request(unknown_field(&self.kind.info, field)));
        }
        Ok(Path::resolve(self.kind.message(), path).map_or_else(|| Source::Strategy(path.to_owned()), Source::Path))
    }

    /// True when every object passes.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Start of the keys of everything that can pass: of one object where a name is selected and its namespace is known.
    pub fn prefix(&self, access: &Access) -> String {
        match &self.name {
            Some(name) if !self.kind.info.namespaced || !access.namespace().is_empty() => {
                self.kind.key(access.namespace(), name)
            }
            _ => access.prefix(),
        }
    }

    /// Whether a stored object passes.
    pub fn matches(&self, object: &[u8]) -> bool {
        self.fields.iter().all(|requirement| self.holds(requirement, object))
            && (self.labels.is_empty() || self.labels.matches(&wire::labels(object)))
    }

    fn holds(&self, requirement: &Requirement, object: &[u8]) -> bool {
        let metadata = |tag| wire::text(wire::bytes(object, wire::METADATA).unwrap_or_default(), tag);
        let equal = match &requirement.source {
            Source::Name => metadata(wire::NAME) == requirement.value,
            Source::Namespace => metadata(wire::NAMESPACE) == requirement.value,
            Source::Path(path) => path.read(object) == requirement.value,
            Source::Strategy(field) => self.computed(field, object) == requirement.value,
        };
        equal == requirement.equal
    }

    fn computed(&self, field: &str, object: &[u8]) -> String {
        self.kind
            .decode_stored(object)
            .ok()
            .and_then(|value| self.kind.strategy.field(&value, field))
            .unwrap_or_default()
    }
}

/// Whether the kind offers name and namespace and nothing else: then also where it has no namespaces.
fn has_plain_fields(info: &ResourceInfo) -> bool {
    unknown_field(info, "").contains("known")
}

/// Upstream's words for a field that the kind does not offer, which differ with who converts its selectors.
fn unknown_field(info: &ResourceInfo, field: &str) -> String {
    match (&*info.group, &*info.resource) {
        ("", "pods" | "nodes" | "namespaces" | "secrets" | "services" | "replicationcontrollers" | "events")
        | ("events.k8s.io", _)
        | ("certificates.k8s.io", "certificatesigningrequests") => format!("field label not supported: {field}"),
        ("batch", "jobs") => format!("field label {field:?} not supported for batchv1.Job"),
        ("resource.k8s.io", "resourceslices") => {
            let version = &info.version;
            format!("field label not supported for resource.k8s.io/{version}, Kind=ResourceSlice: {field}")
        }
        _ if info.is_custom() => format!("field label not supported: {field}"),
        _ => format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""),
    }
}

/// The stored field behind a selectable field: events.k8s.io names some fields of the one stored Event otherwise.
fn stored_field<'a>(info: &ResourceInfo, field: &'a str) -> &'a str {
    if info.group != "events.k8s.io" {
        return field;
    }
    match field {
        "regarding.kind" => "involvedObject.kind",
        "regarding.namespace" => "involvedObject.namespace",
        "regarding.name" => "involvedObject.name",
        "regarding.uid" => "involvedObject.uid",
        "regarding.apiVersion" => "involvedObject.apiVersion",
        "regarding.resourceVersion" => "involvedObject.resourceVersion",
        "regarding.fieldPath" => "involvedObject.fieldPath",
        "reportingController" => "reportingComponent",
        other => other,
    }
}
