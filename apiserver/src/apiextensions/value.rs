//! The stored form of a custom object: a protobuf message of the object's metadata (field 1, as in every kind, so that the store and all
//! selectors read it as it is), the rest of the object as JSON text (2), the version it was written in (3) and the fingerprint of the schema
//! it has been pruned by and defaulted from (4).

use api::Error;
use api::schema::{self, Message};
use bytes::Bytes;
use serde_json::{Map, Value};

use crate::registry::wire::{self, Raw};

use super::schema::META_FIELDS;

const REST: u32 = 2;
const VERSION: u32 = 3;
const FINGERPRINT: u32 = 4;

/// A stored object, not yet decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored<'a> {
    message: &'a [u8],
    /// `{"spec": ..}`: everything but type and metadata.
    rest: &'a [u8],
    /// As `v1`.
    pub version: &'a str,
    /// Of the schema; see [`fingerprint`].
    pub fingerprint: u64,
}

impl<'a> Stored<'a> {
    /// Reads the message of an object.
    pub fn read(message: &'a [u8]) -> Self {
        let mut stored = Self {
            message,
            rest: b"{}",
            version: "",
            fingerprint: 0,
        };
        for (tag, raw) in wire::fields(message) {
            match (tag, raw) {
                (REST, Raw::Bytes(rest)) => stored.rest = rest,
                (VERSION, Raw::Bytes(version)) => stored.version = std::str::from_utf8(version).unwrap_or(""),
                (FINGERPRINT, Raw::Number(number)) => stored.fingerprint = number,
                _ => {}
            }
        }
        stored
    }

    /// The object as JSON text under a type, as it is stored.
    ///
    /// # Errors
    /// When the metadata cannot be read.
    pub fn text(&self, api_version: &str, kind: &str) -> Result<Bytes, Error> {
        let mut out = Vec::with_capacity(self.message.len() * 2 + 64);
        api::codec::proto_to_json(root()?, api_version, kind, self.message, &mut out).map_err(Error::internal)?;
        // The members of both objects, one after the other.
        if let [b'{', rest @ ..] = self.rest
            && rest != b"}"
        {
            out.pop();
            out.push(b',');
            out.extend_from_slice(rest);
        }
        Ok(out.into())
    }

    /// The object as a value under a type, as it is stored.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn value(&self, api_version: &str, kind: &str) -> Result<Value, Error> {
        let mut whole = api::codec::proto_to_value(root()?, self.message).map_err(Error::internal)?;
        let mut object: Map<String, Value> = serde_json::from_slice(self.rest).map_err(Error::internal)?;
        object.insert("apiVersion".into(), api_version.into());
        object.insert("kind".into(), kind.into());
        let metadata = whole.get_mut("metadata").map(Value::take).unwrap_or_default();
        object.insert("metadata".into(), metadata);
        Ok(Value::Object(object))
    }
}

fn root() -> Result<&'static Message, Error> {
    api::resources::custom_message().ok_or_else(|| Error::internal("no schema for PartialObjectMetadata"))
}

/// The stored form of an object.
///
/// # Errors
/// 400 for metadata that is none.
pub fn encode(object: &Value, version: &str, fingerprint: u64) -> Result<Bytes, Error> {
    let meta = schema::message("k8s.io.apimachinery.pkg.apis.meta.v1.ObjectMeta")
        .ok_or_else(|| Error::internal("no schema for ObjectMeta"))?;
    let empty = Value::Object(Map::new());
    let metadata = api::codec::value_to_proto(meta, object.get("metadata").unwrap_or(&empty))
        .map_err(|error| Error::bad_request(error.to_string()))?;
    let mut out = Vec::with_capacity(metadata.len() + 256);
    wire::put_bytes(&mut out, wire::METADATA, &metadata);
    wire::put_bytes(&mut out, REST, &rest(object)?);
    wire::put_bytes(&mut out, VERSION, version.as_bytes());
    wire::put_varint(&mut out, u64::from(FINGERPRINT << 3));
    wire::put_varint(&mut out, fingerprint);
    Ok(out.into())
}

fn rest(object: &Value) -> Result<Vec<u8>, Error> {
    let mut out = vec![b'{'];
    let members = object.as_object().into_iter().flatten();
    for (key, value) in members.filter(|(key, _)| !META_FIELDS.contains(&key.as_str())) {
        if out.len() > 1 {
            out.push(b',');
        }
        serde_json::to_writer(&mut out, key).map_err(Error::internal)?;
        out.push(b':');
        serde_json::to_writer(&mut out, value).map_err(Error::internal)?;
    }
    out.push(b'}');
    Ok(out)
}

/// Tells schemas apart: the first bytes of the hash of their canonical text. The same on every server.
pub fn fingerprint(schema: &Value) -> u64 {
    use sha2::{Digest, Sha256};
    let hash = Sha256::digest(schema.to_string());
    hash.iter()
        .take(8)
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    proptest! {
        #[test]
        fn an_object_comes_back(name in "[a-z]{1,8}", fields in proptest::collection::btree_map("[a-z\"\\\\]{0,6}", "[ -~]{0,9}", 0..5), fingerprint: u64) {
            let mut object = json!({"apiVersion": "a.example/v1", "kind": "K", "metadata": {"name": name, "labels": {"a": "b"}}});
            for (key, value) in fields {
                object[&key] = json!({"x": [value, null, 1.5]});
            }
            let bytes = encode(&object, "v1", fingerprint).unwrap();
            let stored = Stored::read(&bytes);
            prop_assert_eq!((stored.version, stored.fingerprint), ("v1", fingerprint));
            prop_assert_eq!(&stored.value("a.example/v1", "K").unwrap(), &object);
            let text = stored.text("a.example/v1", "K").unwrap();
            prop_assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), object);
            let stamped = api::codec::set_resource_version(&bytes, 7);
            let value = Stored::read(&stamped).value("a.example/v1", "K").unwrap();
            prop_assert_eq!(&value["metadata"]["resourceVersion"], "7");
            prop_assert_eq!(Stored::read(&stamped).fingerprint, fingerprint);
        }
    }
}
