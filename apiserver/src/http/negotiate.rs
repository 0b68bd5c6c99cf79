//! Content types: what a client sends and what it accepts.

use api::codec::{self, Encoding};
use api::{Error, FieldError};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use serde_json::Value;

use crate::registry::table::IncludeObject;

/// Media type of Kubernetes protobuf.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const ACCEPTED: &[&str] = &["application/json", "application/yaml", PROTOBUF];

/// What a watch can be sent as.
const STREAMED: &[&str] = &[
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];

/// In which form an object, list or watch is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Object,
    /// `meta.k8s.io` Table, with this `apiVersion`.
    Table(&'static str),
    /// `meta.k8s.io` PartialObjectMetadata or its list, with this `apiVersion`.
    Metadata(&'static str),
}

/// The form and encoding of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// See there.
    pub form: Form,
    /// See there.
    pub encoding: Encoding,
    /// JSON is indented, for people.
    pub pretty: bool,
    /// The list form of metadata was named; true where the form has no two names.
    list: bool,
}

impl Format {
    /// JSON as it comes.
    pub const JSON: Self = Self {
        form: Form::Object,
        encoding: Encoding::Json,
        pretty: false,
        list: true,
    };

    /// The best form and encoding of `Accept` that is served; JSON if the client does not say.
    ///
    /// # Errors
    /// 406 if nothing it accepts is served.
    pub fn of(headers: &HeaderMap) -> Result<Self, Error> {
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
        let mut clauses: Vec<Clause<'_>> = values
            .flat_map(|value| value.split(','))
            .filter_map(Clause::parse)
            .collect();
        if clauses.is_empty() {
            return Ok(Self::JSON);
        }
        clauses.sort_by(Clause::order);
        clauses
            .iter()
            .find_map(Clause::format)
            .ok_or_else(|| Error::not_acceptable(ACCEPTED))
    }

    /// The same, with what the query and the kind of client say about indentation.
    ///
    /// # Errors
    /// As [`Format::of`].
    pub fn asked(headers: &HeaderMap, pretty: &str) -> Result<Self, Error> {
        let agent = headers
            .get(header::USER_AGENT)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("");
        let wanted = match pretty {
            "" => ["curl", "Wget", "Mozilla/5.0"]
                .iter()
                .any(|tool| agent.starts_with(tool)),
            value => matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"),
        };
        let format = Self::of(headers)?;
        Ok(Self {
            pretty: format.pretty || wanted,
            ..format
        })
    }

    /// Checks that the form suits an answer that is a list, or is none.
    ///
    /// # Errors
    /// 406 for a list where one object was asked for and the other way round.
    pub fn check(self, list: bool) -> Result<(), Error> {
        let message = match (self.form, self.list, list) {
            (Form::Metadata(_), false, true) => {
                "you requested PartialObjectMetadata, but the requested object is a list"
            }
            (Form::Metadata(_), true, false) => {
                "you requested PartialObjectMetadataList, but the requested object is not a list"
            }
            _ => return Ok(()),
        };
        Err(Error {
            message: message.into(),
            ..Error::not_acceptable(ACCEPTED)
        })
    }

    /// Checks that events can be sent in this format.
    ///
    /// # Errors
    /// 406 for YAML.
    pub fn check_stream(self) -> Result<(), Error> {
        match self.encoding {
            Encoding::Yaml => Err(Error::not_acceptable(STREAMED)),
            _ => Ok(()),
        }
    }

    /// JSON text in this format's encoding.
    ///
    /// # Errors
    /// When the text is no JSON.
    pub fn text(self, json: Bytes) -> Result<Bytes, Error> {
        if self.encoding != Encoding::Yaml && !self.pretty {
            return Ok(json);
        }
        let value: Value = serde_json::from_slice(&json).map_err(Error::internal)?;
        if self.encoding == Encoding::Yaml {
            return Ok(codec::to_yaml(&value).into());
        }
        serde_json::to_vec_pretty(&value)
            .map(Bytes::from)
            .map_err(Error::internal)
    }

    /// For `Content-Type`.
    pub fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(self.encoding.media_type())
    }

    /// For `Content-Type` of a watch.
    pub fn watch_content_type(self) -> HeaderValue {
        match self.encoding {
            Encoding::Protobuf => HeaderValue::from_static("application/vnd.kubernetes.protobuf;stream=watch"),
            _ => HeaderValue::from_static("application/json"),
        }
    }
}

/// Whether one alternative of an `Accept` header names a form and encoding of objects that is served.
pub fn is_served(clause: &str) -> bool {
    Clause::parse(clause).is_some_and(|clause| clause.format().is_some())
}

/// One alternative of an `Accept` header.
struct Clause<'a> {
    media_type: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next().filter(|name| !name.is_empty())?;
        let mut quality = 1.0;
        let mut parameters = Vec::new();
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name {
                "q" => quality = value.parse().unwrap_or(1.0),
                _ => parameters.push((name, value)),
            }
        }
        Some(Self {
            media_type,
            parameters,
            quality,
        })
    }

    /// The wanted ones first, wildcards last; otherwise as they stand.
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        let wildcards = |clause: &Self| clause.media_type.matches('*').count();
        let quality = other.quality.partial_cmp(&self.quality);
        quality
            .unwrap_or(std::cmp::Ordering::Equal)
            .then_with(|| wildcards(self).cmp(&wildcards(other)))
    }

    fn format(&self) -> Option<Format> {
        let encodings: &[Encoding] = match self.media_type {
            "*/*" | "application/*" => &[Encoding::Json, Encoding::Yaml, Encoding::Protobuf],
            name => match Encoding::from_media_type(name)? {
                Encoding::Json => &[Encoding::Json],
                Encoding::Yaml => &[Encoding::Yaml],
                Encoding::Protobuf => &[Encoding::Protobuf],
            },
        };
        encodings.iter().find_map(|encoding| self.with(*encoding))
    }

    fn with(&self, encoding: Encoding) -> Option<Format> {
        let value = |wanted: &str| {
            self.parameters
                .iter()
                .find(|(name, _)| *name == wanted)
                .map(|(_, value)| *value)
        };
        match value("stream") {
            Some("watch") if encoding == Encoding::Yaml => return None,
            None | Some("" | "watch") => {}
            Some(_) => return None,
        }
        let api_version = match (value("g").unwrap_or(""), value("v").unwrap_or("")) {
            ("meta.k8s.io", "v1") => "meta.k8s.io/v1",
            ("meta.k8s.io", "v1beta1") => "meta.k8s.io/v1beta1",
            _ => "",
        };
        let (form, list) = match (value("as"), encoding) {
            (None, _) => (Form::Object, true),
            (Some(_), _) if api_version.is_empty() => return None,
            (Some("Table"), Encoding::Json | Encoding::Yaml) => (Form::Table(api_version), true),
            (Some("PartialObjectMetadata"), _) => (Form::Metadata(api_version), false),
            (Some("PartialObjectMetadataList"), _) => (Form::Metadata(api_version), true),
            _ => return None,
        };
        Some(Format {
            form,
            encoding,
            pretty: value("pretty") == Some("1"),
            list,
        })
    }
}

/// The encoding of a request's body.
///
/// # Errors
/// 415 for a type that is not served.
pub fn body_encoding(headers: &HeaderMap) -> Result<Encoding, Error> {
    match media_type(headers) {
        "" | "application/json" => Ok(Encoding::Json),
        "application/yaml" => Ok(Encoding::Yaml),
        PROTOBUF => Ok(Encoding::Protobuf),
        _ => Err(Error::unsupported_media_type(ACCEPTED)),
    }
}

/// `Content-Type` without parameters.
pub fn media_type(headers: &HeaderMap) -> &str {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    value.split(';').next().unwrap_or("").trim()
}

/// True if the client takes gzip. As upstream, a word with a weight does not count.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|v| v.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|encoding| encoding.trim() == "gzip")
}

/// The `includeObject` parameter, which only tables have.
///
/// # Errors
/// 400 for another word.
pub fn include_object(form: Form, text: &str) -> Result<IncludeObject, Error> {
    match (form, text) {
        (Form::Object | Form::Metadata(_), _) | (_, "" | "Metadata") => Ok(IncludeObject::Metadata),
        (_, "None") => Ok(IncludeObject::None),
        (_, "Object") => Ok(IncludeObject::Object),
        (_, other) => {
            let fault = FieldError::invalid("includeObject", other, "must be 'Metadata', 'Object', 'None', or empty");
            Err(Error::bad_request(format!(
                "Unable to convert to Table as requested: {fault}"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &'static str) -> Result<Format, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(value));
        Format::of(&headers)
    }

    #[test]
    fn the_best_served_clause_wins() {
        const TABLE: Form = Form::Table("meta.k8s.io/v1");
        for (value, form, encoding) in [
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
                TABLE,
                Encoding::Json,
            ),
            ("application/yaml;as=Table;v=v1;g=meta.k8s.io", TABLE, Encoding::Yaml),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                Form::Object,
                Encoding::Protobuf,
            ),
            (
                "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json",
                Form::Object,
                Encoding::Json,
            ),
            (
                "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
                Form::Metadata("meta.k8s.io/v1"),
                Encoding::Json,
            ),
            ("text/html, */*", Form::Object, Encoding::Json),
            ("application/json;q=0.5,application/yaml", Form::Object, Encoding::Yaml),
            ("*/*,application/yaml", Form::Object, Encoding::Yaml),
            ("application/yaml;q=0.9, */*;q=0.8", Form::Object, Encoding::Yaml),
            ("application/cbor, application/json", Form::Object, Encoding::Json),
            ("application/json;stream=watch", Form::Object, Encoding::Json),
            ("application/json;charset=utf-8", Form::Object, Encoding::Json),
            ("*/*;as=Table;g=meta.k8s.io;v=v1", TABLE, Encoding::Json),
        ] {
            let format = accept(value).unwrap();
            assert_eq!((format.form, format.encoding), (form, encoding), "{value}");
        }
        for value in [
            "text/html",
            "application/cbor",
            "application/json;as=Table;g=meta.k8s.io;v=v2",
            "application/json;stream=other",
        ] {
            assert_eq!(accept(value).unwrap_err().code, 406, "{value}");
        }
        assert_eq!(Format::of(&HeaderMap::new()), Ok(Format::JSON));
    }

    #[test]
    fn people_get_indented_text() {
        let mut headers = HeaderMap::new();
        assert!(!Format::asked(&headers, "").unwrap().pretty);
        assert!(Format::asked(&headers, "true").unwrap().pretty);
        headers.insert(header::USER_AGENT, HeaderValue::from_static("curl/8.1"));
        assert!(Format::asked(&headers, "").unwrap().pretty);
        assert!(!Format::asked(&headers, "false").unwrap().pretty);
    }
}
