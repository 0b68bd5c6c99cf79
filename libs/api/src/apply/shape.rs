//! What server-side apply has to know of a schema: of a built-in kind's message, or of a custom resource's own schema.

use crate::schema::Message;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A schema outside of the table: that of a custom resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// One value, whatever is in it: scalars, atomic lists, maps and structs.
    Atomic,
    /// A struct.
    Fields {
        /// By name.
        fields: BTreeMap<String, Shape>,
        /// It may have other fields too, of which nothing is known.
        open: bool,
    },
    /// A map of this.
    Entries(Box<Shape>),
    /// A list of unique scalars.
    Set,
    /// A list of objects that are told apart by some of their fields.
    Keyed {
        /// Those fields, with their defaults.
        keys: Vec<(String, Option<Value>)>,
        /// The objects.
        item: Box<Shape>,
    },
    /// Nothing is known: objects are maps, lists are one value.
    Deduced,
    /// A message of the table, as `metadata` is everywhere.
    Message(&'static Message),
}

/// The schema of a kind in one version.
#[derive(Clone, Copy, Debug)]
pub enum Schema<'s> {
    /// Of a built-in kind.
    Message(&'static Message),
    /// Of a custom one.
    Shape(&'s Shape),
}

/// The versions in which a kind is served: whoever manages fields does so in the version in which they wrote them.
pub trait Versions {
    /// The schema of one; `None` for a version that is not served.
    fn schema(&self, api_version: &str) -> Option<Schema<'_>>;

    /// An object in that version; `None` where there is no way to it.
    fn convert<'v>(&self, object: &'v Value, api_version: &str) -> Option<Cow<'v, Value>>;
}

/// A kind with one version.
impl Versions for &'static Message {
    fn schema(&self, _: &str) -> Option<Schema<'_>> {
        Some(Schema::Message(self))
    }

    fn convert<'v>(&self, object: &'v Value, _: &str) -> Option<Cow<'v, Value>> {
        Some(Cow::Borrowed(object))
    }
}
