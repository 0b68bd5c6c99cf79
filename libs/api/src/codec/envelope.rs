//! The envelope of Kubernetes' protobuf (`k8s\0` and a `runtime.Unknown`) and the parts of an object that are read or changed without
//! decoding the rest.

use super::slots::Slots;
use super::wire::{self, Payload, Reader};
use super::{Error, typed_de};
use crate::meta::ObjectMeta;
use crate::schema;

/// The four bytes before the envelope.
const MAGIC: &[u8] = b"k8s\0";
/// `runtime.Unknown`: 1 typeMeta {1 apiVersion, 2 kind}, 2 raw, 3 contentEncoding, 4 contentType.
const UNKNOWN: &str = "k8s.io.apimachinery.pkg.runtime.Unknown";
/// `metadata` of every kind, and `resourceVersion` in it.
const METADATA: u32 = 1;
const RESOURCE_VERSION: u32 = 6;

/// Puts a message into the envelope that goes over the wire.
pub fn wrap(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + api_version.len() + kind.len() + 24);
    out.extend_from_slice(MAGIC);
    let start = wire::begin_nested(&mut out, 1);
    wire::put_bytes(&mut out, 1, api_version.as_bytes());
    wire::put_bytes(&mut out, 2, kind.as_bytes());
    wire::end_nested(&mut out, start);
    wire::put_bytes(&mut out, 2, message);
    wire::put_bytes(&mut out, 3, b"");
    wire::put_bytes(&mut out, 4, b"");
    out
}

/// Opens the envelope: `apiVersion`, `kind` and the message inside.
pub fn unwrap(bytes: &[u8]) -> Result<(&str, &str, &[u8]), Error> {
    let envelope = bytes.strip_prefix(MAGIC).ok_or(Error::NotProtobuf)?;
    let (mut api_version, mut kind, mut content) = ("", "", &[][..]);
    let mut reader = Reader::new(envelope);
    while let Some((tag, payload)) = reader.next().map_err(fault)? {
        match (tag, payload) {
            (1, Payload::Bytes(type_meta)) => {
                let mut reader = Reader::new(type_meta);
                while let Some((tag, payload)) = reader.next().map_err(fault)? {
                    match (tag, payload) {
                        (1, Payload::Bytes(text)) => api_version = utf8(text)?,
                        (2, Payload::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Payload::Bytes(message)) => content = message,
            _ => {}
        }
    }
    Ok((api_version, kind, content))
}

fn fault(reason: &'static str) -> Error {
    Error::Proto {
        message: UNKNOWN,
        reason,
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(bytes).map_err(|_| fault("string is not UTF-8"))
}

/// Decodes only the metadata of an object of any kind.
pub fn object_meta(message: &[u8]) -> Result<ObjectMeta, Error> {
    let partial = partial_message()?;
    super::slots::joining(partial, message, |message| {
        let metadata = Slots::read(partial, message)?.single(0)?;
        let schema = partial
            .fields
            .first()
            .and_then(|field| field.ty.message())
            .unwrap_or(partial);
        typed_de::read(schema, metadata)
    })
}

/// The message that has nothing but what all kinds have.
fn partial_message() -> Result<&'static schema::Message, Error> {
    schema::for_kind("", "v1", "PartialObjectMetadata").ok_or(fault("no schema"))
}

/// The object with another `metadata.resourceVersion`. Everything else stays as it lies; a message that cannot be read is returned
/// unchanged.
pub fn set_resource_version(message: &[u8], revision: u64) -> Vec<u8> {
    let mut digits = [0u8; 20];
    let text = decimal(revision, &mut digits);
    let mut out = Vec::with_capacity(message.len() + text.len() + 8);
    match stamp(message, text, &mut out) {
        Ok(()) => out,
        Err(_) => message.to_vec(),
    }
}

fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

fn stamp(message: &[u8], version: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    let mut reader = Reader::new(message);
    let mut stamped = false;
    loop {
        let start = reader.position();
        let Some((tag, payload)) = reader.next()? else { break };
        match (tag, payload) {
            (METADATA, Payload::Bytes(metadata)) => {
                let nested = wire::begin_nested(out, METADATA);
                stamp_metadata(metadata, (!stamped).then_some(version), out)?;
                wire::end_nested(out, nested);
                stamped = true;
            }
            _ => out.extend_from_slice(&message[start..reader.position()]),
        }
    }
    if !stamped {
        let nested = wire::begin_nested(out, METADATA);
        stamp_metadata(&[], Some(version), out)?;
        wire::end_nested(out, nested);
    }
    Ok(())
}

/// Copies metadata without its version, then adds the new one.
fn stamp_metadata(metadata: &[u8], version: Option<&[u8]>, out: &mut Vec<u8>) -> Result<(), &'static str> {
    let mut reader = Reader::new(metadata);
    loop {
        let start = reader.position();
        let Some((tag, _)) = reader.next()? else { break };
        if tag != RESOURCE_VERSION {
            out.extend_from_slice(&metadata[start..reader.position()]);
        }
    }
    if let Some(version) = version {
        wire::put_bytes(out, RESOURCE_VERSION, version);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Object;
    use crate::core::v1::Pod;

    fn pod() -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some("web".into());
        pod.metadata.resource_version = Some("7".into());
        pod.metadata.labels = Some([("a".to_string(), "b".to_string())].into());
        pod
    }

    #[test]
    fn envelopes_open_again() {
        let wrapped = wrap("apps/v1", "Deployment", b"content");
        assert_eq!(unwrap(&wrapped), Ok(("apps/v1", "Deployment", &b"content"[..])));
        assert_eq!(unwrap(b"{}"), Err(Error::NotProtobuf));
        assert!(unwrap(&wrapped[..wrapped.len() - 3]).is_err());
    }

    #[test]
    fn the_version_is_replaced_and_the_rest_kept() {
        let mut expected = pod();
        for revision in [0, 9, 123_456, u64::MAX] {
            let stamped = set_resource_version(&pod().encode(), revision);
            expected.metadata.resource_version = Some(revision.to_string());
            assert_eq!(Pod::decode(&stamped), Ok(expected.clone()));
            assert_eq!(object_meta(&stamped).as_ref(), Ok(&expected.metadata));
        }
        let bare = set_resource_version(b"", 5);
        assert_eq!(
            Pod::decode(&bare).unwrap().metadata.resource_version.as_deref(),
            Some("5")
        );
    }

    #[test]
    fn metadata_in_parts_is_joined() {
        let mut split = vec![];
        wire::put_bytes(&mut split, 1, b"\x0a\x03web");
        wire::put_bytes(&mut split, 1, b"\x1a\x02ns");
        let meta = object_meta(&split).unwrap();
        assert_eq!(
            (meta.name.as_deref(), meta.namespace.as_deref()),
            (Some("web"), Some("ns"))
        );
        assert_eq!(Pod::decode(&split).unwrap().metadata, meta);
        assert_eq!(
            Pod::decode(&set_resource_version(&split, 3))
                .unwrap()
                .metadata
                .resource_version
                .as_deref(),
            Some("3")
        );
    }
}
