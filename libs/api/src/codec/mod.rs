//! Encodings of objects: JSON, YAML and Kubernetes' protobuf.

mod error;

pub use error::Error;
