//! Content types: what a client sends and what it accepts.

use api::Error;
use api::codec::Encoding;
use http::{HeaderMap, HeaderValue, header};

use crate::registry::table::IncludeObject;

/// Media type of Kubernetes protobuf.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const ACCEPTED: &[&str] = &["application/json", "application/yaml", PROTOBUF];

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
}

impl Format {
    /// The first form and encoding of `Accept` that is served; JSON if the client does not say.
    ///
    /// # Errors
    /// 406 if nothing it accepts is served.
    pub fn of(headers: &HeaderMap) -> Result<Self, Error> {
        let json = Self {
            form: Form::Object,
            encoding: Encoding::Json,
        };
        let mut any = false;
        for value in headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()) {
            for clause in value.split(',').map(str::trim).filter(|c| !c.is_empty()) {
                any = true;
                if let Some(format) = parse(clause) {
                    return Ok(format);
                }
            }
        }
        if any {
            Err(Error::not_acceptable(ACCEPTED))
        } else {
            Ok(json)
        }
    }

    /// For `Content-Type`.
    pub fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self.encoding {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
            Encoding::Protobuf => PROTOBUF,
        })
    }

    /// For `Content-Type` of a watch.
    pub fn watch_content_type(self) -> HeaderValue {
        match self.encoding {
            Encoding::Protobuf => HeaderValue::from_static("application/vnd.kubernetes.protobuf;stream=watch"),
            _ => HeaderValue::from_static("application/json"),
        }
    }
}

fn parse(clause: &str) -> Option<Format> {
    let mut parts = clause.split(';').map(str::trim);
    let encoding = match parts.next()? {
        "application/json" | "*/*" | "application/*" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        PROTOBUF => Encoding::Protobuf,
        _ => return None,
    };
    let (mut kind, mut group, mut version) = ("", "", "");
    for (name, value) in parts.filter_map(|p| p.split_once('=')) {
        match name {
            "as" => kind = value,
            "g" => group = value,
            "v" => version = value,
            _ => {}
        }
    }
    if kind.is_empty() {
        return Some(Format {
            form: Form::Object,
            encoding,
        });
    }
    let api_version = match (group, version) {
        ("meta.k8s.io", "v1") => "meta.k8s.io/v1",
        ("meta.k8s.io", "v1beta1") => "meta.k8s.io/v1beta1",
        _ => return None,
    };
    match (kind, encoding) {
        ("Table", Encoding::Json | Encoding::Yaml) => Some(Format {
            form: Form::Table(api_version),
            encoding,
        }),
        ("PartialObjectMetadata" | "PartialObjectMetadataList", _) => Some(Format {
            form: Form::Metadata(api_version),
            encoding,
        }),
        _ => None,
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

/// True if the client takes gzip.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    let value = headers
        .get(header::ACCEPT_ENCODING)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    value
        .split(',')
        .any(|e| e.split(';').next().is_some_and(|name| name.trim() == "gzip") && !e.replace(' ', "").ends_with(";q=0"))
}

/// The `includeObject` parameter of tables.
///
/// # Errors
/// 400 for another word.
pub fn include_object(text: &str) -> Result<IncludeObject, Error> {
    match text {
        "" | "Metadata" => Ok(IncludeObject::Metadata),
        "None" => Ok(IncludeObject::None),
        "Object" => Ok(IncludeObject::Object),
        other => Err(Error::bad_request(format!(
            "unrecognized includeObject value: {other:?}"
        ))),
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
    fn the_first_served_clause_wins() {
        for (value, form, encoding) in [
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
                Form::Table("meta.k8s.io/v1"),
                Encoding::Json,
            ),
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
        ] {
            assert_eq!(accept(value).unwrap(), Format { form, encoding }, "{value}");
        }
        assert_eq!(accept("text/html").unwrap_err().code, 406);
        assert_eq!(Format::of(&HeaderMap::new()).unwrap().encoding, Encoding::Json);
    }
}
