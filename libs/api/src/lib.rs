//! Kubernetes objects without I/O.
//!
//! Owns the object types (re-exported from `k8s-openapi`, grouped as the API is), the schema table, the JSON, YAML and protobuf
//! codecs, and the small languages of the API: quantities, selectors, names, patches, errors. Never talks to a network, a disk
//! or a clock.

pub mod apply;
pub mod codec;
mod error;
mod field_error;
pub mod fields;
mod groups;
mod gvk;
pub mod labels;
pub mod names;
mod object;
pub mod patch;
pub mod quantity;
pub mod quota;
pub mod resources;
pub mod schema;

pub use error::Error;
pub use field_error::{FieldError, FieldErrorKind};
pub use groups::*;
pub use gvk::{GroupKind, GroupResource, GroupVersionKind, GroupVersionResource, join_api_version, split_api_version};
pub use k8s_openapi;
pub use k8s_openapi::{ByteString, List, ListableResource, Metadata, Resource};
pub use object::{Object, ObjectKey};
