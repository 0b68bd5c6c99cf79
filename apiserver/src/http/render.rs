//! One object as an answer, in the form and encoding that were negotiated.

use std::io::Write;

use api::Error;
use api::codec::{self, Encoding};
use api::schema::{self, Message};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::body::{Response, answer, full};
use super::negotiate::{Form, Format};
use crate::registry::Kind;
use crate::registry::table::{self, IncludeObject};
use crate::registry::wire;
use crate::store::Entry;

/// Smaller answers are not compressed, as upstream.
pub const GZIP_FROM: usize = 128 << 10;

/// A stored object as the answer to a read.
///
/// # Errors
/// When the stored bytes are not the kind's message.
pub fn object(
    kind: &Kind,
    entry: &Entry,
    format: Format,
    include: IncludeObject,
    gzip: bool,
) -> Result<Response, Error> {
    if format.form == Form::Object && format.encoding != Encoding::Protobuf && kind.is_storage_version() {
        // Kept for those who read it next.
        kind.json(entry)?;
    }
    let body = encoded(kind, entry, format, include)?;
    if gzip && body.len() > GZIP_FROM {
        let mut response = answer(
            StatusCode::OK,
            format.content_type(),
            full(compressed(&body).map_err(Error::internal)?),
        );
        mark_compressed(&mut response);
        return Ok(response);
    }
    Ok(answer(StatusCode::OK, format.content_type(), full(body)))
}

fn compressed(body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}

/// Tells the client that the body is compressed.
pub fn mark_compressed(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// A stored object as the answer to a write.
///
/// # Errors
/// When the stored bytes are not the kind's message.
pub fn written(
    kind: &Kind,
    entry: &Entry,
    format: Format,
    include: IncludeObject,
    status: StatusCode,
) -> Result<Response, Error> {
    let body = encoded(kind, entry, format, include)?;
    Ok(answer(status, format.content_type(), full(body)))
}

fn encoded(kind: &Kind, entry: &Entry, format: Format, include: IncludeObject) -> Result<Bytes, Error> {
    let text = match format.form {
        Form::Object if format.encoding == Encoding::Protobuf => {
            return kind.envelope(entry).map(Bytes::from);
        }
        Form::Metadata(api_version) if format.encoding == Encoding::Protobuf => {
            return metadata(entry, api_version, format.encoding);
        }
        Form::Object => kind.json_once(entry)?,
        Form::Metadata(api_version) => metadata(entry, api_version, Encoding::Json)?,
        Form::Table(api_version) => {
            let row = row(kind, entry, include, api_version, Timestamp::now())?;
            let table = json!({
                "kind": "Table", "apiVersion": api_version, "metadata": {"resourceVersion": entry.revision.to_string()},
                "columnDefinitions": kind.column_definitions(), "rows": [row],
            });
            table.to_string().into()
        }
    };
    format.text(text)
}

/// A row of a table.
///
/// # Errors
/// When the stored bytes are not the kind's message.
pub fn row(
    kind: &Kind,
    entry: &Entry,
    include: IncludeObject,
    api_version: &str,
    now: Timestamp,
) -> Result<Value, Error> {
    let stored = kind.stored_value(entry)?;
    let cells = kind.strategy.row(&stored, now);
    let object = match include {
        IncludeObject::Object => kind.value(entry)?,
        _ => stored,
    };
    let mut row = table::row(cells, &object, include);
    if include == IncludeObject::Metadata {
        row["object"]["apiVersion"] = api_version.into();
    }
    Ok(row)
}

/// An object's `PartialObjectMetadata`.
///
/// # Errors
/// When the stored bytes have no readable metadata.
pub fn metadata(entry: &Entry, api_version: &str, encoding: Encoding) -> Result<Bytes, Error> {
    let raw = wire::bytes(&entry.value, wire::METADATA).unwrap_or_default();
    if encoding == Encoding::Protobuf {
        let mut message = Vec::with_capacity(raw.len() + 8);
        wire::put_bytes(&mut message, wire::METADATA, raw);
        return Ok(codec::wrap(api_version, "PartialObjectMetadata", &message).into());
    }
    let value = codec::proto_to_value(object_meta()?, raw).map_err(Error::internal)?;
    let partial = json!({"kind": "PartialObjectMetadata", "apiVersion": api_version, "metadata": value});
    Ok(partial.to_string().into())
}

fn object_meta() -> Result<&'static Message, Error> {
    schema::message("k8s.io.apimachinery.pkg.apis.meta.v1.ObjectMeta")
        .ok_or_else(|| Error::internal("no schema for ObjectMeta"))
}

/// A value that is not stored (a Scale, a review, a token), with its schema for protobuf.
///
/// # Errors
/// When the value does not fit the schema.
pub fn value(
    value: &Value,
    message: Option<&'static Message>,
    format: Format,
    status: StatusCode,
) -> Result<Response, Error> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or("");
    if let (Encoding::Protobuf, Some(message)) = (format.encoding, message) {
        let raw = codec::value_to_proto(message, value).map_err(Error::internal)?;
        let body = codec::wrap(text("apiVersion"), text("kind"), &raw);
        return Ok(answer(status, format.content_type(), full(body)));
    }
    let format = match format.encoding {
        Encoding::Protobuf => Format::JSON,
        _ => format,
    };
    let body = format.text(value.to_string().into())?;
    Ok(answer(status, format.content_type(), full(body)))
}

/// A `Status` that tells of a success.
///
/// # Errors
/// When it cannot be encoded.
pub fn success(details: Value, format: Format, status: StatusCode) -> Result<Response, Error> {
    let mut object = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if !details.is_null() {
        object["details"] = details;
    }
    value(&object, schema::for_kind("", "v1", "Status"), format, status)
}
