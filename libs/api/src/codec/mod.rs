//! Encodings of objects: JSON, YAML and Kubernetes' protobuf, all of them driven by the [`schema`](crate::schema) and none of them
//! generic over the kind.
//!
//! Protobuf is the form in which objects are stored and travel between the daemons; [`serde_json::Value`] is the form in which
//! they are patched and validated; the typed form is the one that controllers work on.

mod envelope;
mod error;
mod json;
mod proto_read;
mod proto_write;
mod scalar;
mod slots;
mod time;
pub(crate) mod typed_de;
pub(crate) mod typed_ser;
mod unknown;
mod wire;
mod yaml;

pub use envelope::{object_meta, set_resource_version, unwrap, wrap};
pub use error::Error;
pub use json::{parse_json, parse_json_checked, parse_json_strict};
pub use proto_read::{proto_to_json, proto_to_value};
pub use proto_write::value_to_proto;
pub(crate) use unknown::is_known;
pub use unknown::{prune_unknown, unknown_fields};
pub use yaml::{parse_yaml, to_yaml, yaml_duplicate};

/// How an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

impl Encoding {
    /// The media type, without parameters.
    pub fn media_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }

    /// The encoding of a media type; parameters after a semicolon do not count.
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        let name = media_type.split(';').next().unwrap_or_default().trim();
        [Encoding::Json, Encoding::Yaml, Encoding::Protobuf]
            .into_iter()
            .find(|encoding| name.eq_ignore_ascii_case(encoding.media_type()))
    }
}
