//! Kubernetes objects without I/O.
//!
//! Owns the object types (re-exported from `k8s-openapi`, grouped as the API is), the schema table, the JSON, YAML and protobuf
//! codecs, and the small languages of the API: quantities, selectors, names, patches, errors. Never talks to a network, a disk
//! or a clock.

pub mod codec;
mod error;
mod field_error;
mod groups;
mod gvk;
mod object;
pub mod quantity;
pub mod schema;

pub use error::Error;
pub use field_error::{FieldError, FieldErrorKind};
pub use groups::*;
pub use gvk::{GroupKind, GroupResource, GroupVersionKind, GroupVersionResource};
pub use k8s_openapi;
pub use k8s_openapi::{ByteString, List, ListableResource, Metadata, Resource};
pub use object::{Object, ObjectKey};
