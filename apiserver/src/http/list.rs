//! A collection as an answer: concatenated from the encoded objects, made while it is sent, compressed when it is large.

use std::io::Write;
use std::sync::Arc;
use std::vec::IntoIter;

use api::Error;
use api::codec::{self, Encoding};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::body::{Body, BodyError, Response, answer, full, json as json_answer, stream};
use super::negotiate::{Form, Format};
use super::render::{self, GZIP_FROM, mark_compressed};
use crate::registry::table::IncludeObject;
use crate::registry::{Kind, Page, no_protobuf, wire};
use crate::store::Entry;

/// Bytes made at a time.
const CHUNK: usize = 64 << 10;

/// A page of a collection as an answer.
///
/// # Errors
/// When a stored object cannot be encoded.
pub fn list(
    kind: Arc<Kind>,
    page: Page,
    format: Format,
    include: IncludeObject,
    gzip: bool,
) -> Result<Response, Error> {
    let maker = Maker::new(kind, page, format, include)?;
    let (body, zipped) = send(maker, gzip)?;
    let mut response = answer(StatusCode::OK, format.content_type(), body);
    if zipped {
        mark_compressed(&mut response);
    }
    Ok(response)
}

/// 410 for a continue token whose snapshot is gone, with one that goes on at the latest state.
pub fn expired(error: &Error, token: &str, format: Format) -> Response {
    let mut status = error.to_value();
    status["metadata"]["continue"] = token.into();
    // Errors that cannot be encoded as asked are told in JSON.
    render::value(
        &status,
        api::schema::for_kind("", "v1", "Status"),
        format,
        StatusCode::GONE,
    )
    .unwrap_or_else(|_| json_answer(StatusCode::GONE, &status))
}

/// Small answers at once, large ones piece by piece. True if compressed.
fn send(mut maker: Maker, gzip: bool) -> Result<(Body, bool), Error> {
    let whole = maker.format.pretty || maker.format.encoding == Encoding::Yaml;
    if whole {
        let format = maker.format;
        let mut json = Vec::new();
        for chunk in maker {
            json.extend_from_slice(&chunk?);
        }
        return Ok((full(format.text(json.into())?), false));
    }
    let mut first = Vec::new();
    while first.len() < GZIP_FROM {
        match maker.next() {
            Some(chunk) => first.extend_from_slice(&chunk?),
            None => return Ok((full(first), false)),
        }
    }
    let chunks = std::iter::once(Ok(Bytes::from(first)))
        .chain(maker)
        .map(|chunk| chunk.map_err(BodyError::from));
    if !gzip {
        return Ok((stream(futures_util::stream::iter(chunks)), false));
    }
    let zipped = Gzip {
        chunks,
        encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())),
    };
    Ok((stream(futures_util::stream::iter(zipped)), true))
}

/// Compresses an iterator of chunks.
struct Gzip<I> {
    chunks: I,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl<I: Iterator<Item = Result<Bytes, BodyError>>> Iterator for Gzip<I> {
    type Item = Result<Bytes, BodyError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let encoder = self.encoder.as_mut()?;
            let Some(chunk) = self.chunks.next() else {
                return self
                    .encoder
                    .take()
                    .map(|encoder| encoder.finish().map(Bytes::from).map_err(BodyError::from));
            };
            if let Err(error) = chunk.and_then(|chunk| encoder.write_all(&chunk).map_err(BodyError::from)) {
                self.encoder = None;
                return Some(Err(error));
            }
            let out = encoder.get_mut();
            if out.len() >= CHUNK / 4 {
                return Some(Ok(std::mem::take(out).into()));
            }
        }
    }
}

/// Makes the text or bytes of a list.
struct Maker {
    kind: Arc<Kind>,
    entries: IntoIter<Arc<Entry>>,
    format: Format,
    include: IncludeObject,
    now: Timestamp,
    head: Option<Vec<u8>>,
    tail: &'static [u8],
    first: bool,
    done: bool,
}

impl Maker {
    fn new(kind: Arc<Kind>, page: Page, format: Format, include: IncludeObject) -> Result<Self, Error> {
        let mut metadata = json!({"resourceVersion": page.revision.to_string()});
        if !page.continue_.is_empty() {
            metadata["continue"] = page.continue_.into();
        }
        if let Some(remaining) = page.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        let (head, tail): (Vec<u8>, &'static [u8]) = match format.encoding {
            Encoding::Protobuf => (proto_head(&kind, format.form, &page.entries, &metadata)?, b""),
            _ => (json_head(&kind, format.form, &metadata), b"]}"),
        };
        let entries = page.entries.into_iter();
        Ok(Self {
            kind,
            entries,
            format,
            include,
            now: Timestamp::now(),
            head: Some(head),
            tail,
            first: true,
            done: false,
        })
    }

    fn put(&mut self, entry: &Entry, out: &mut Vec<u8>) -> Result<(), Error> {
        if self.format.encoding == Encoding::Protobuf {
            wire::put_bytes(out, 2, &proto_item(&self.kind, self.format.form, entry)?);
            return Ok(());
        }
        if !std::mem::take(&mut self.first) {
            out.push(b',');
        }
        match self.format.form {
            Form::Object => out.extend_from_slice(&self.kind.json(entry)?),
            Form::Metadata(api_version) => {
                out.extend_from_slice(&render::metadata(entry, api_version, Encoding::Json)?)
            }
            Form::Table(api_version) => {
                let row = render::row(&self.kind, entry, self.include, api_version, self.now)?;
                serde_json::to_writer(out, &row).map_err(Error::internal)?;
            }
        }
        Ok(())
    }
}

impl Iterator for Maker {
    type Item = Result<Bytes, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let mut out = self.head.take().unwrap_or_default();
        out.reserve(CHUNK + CHUNK / 4);
        while out.len() < CHUNK {
            let Some(entry) = self.entries.next() else {
                self.done = true;
                out.extend_from_slice(self.tail);
                return Some(Ok(out.into()));
            };
            if let Err(error) = self.put(&entry, &mut out) {
                self.done = true;
                return Some(Err(error));
            }
        }
        Some(Ok(out.into()))
    }
}

fn json_head(kind: &Kind, form: Form, metadata: &Value) -> Vec<u8> {
    match form {
        Form::Object => format!(r#"{{"kind":"{}","apiVersion":"{}","metadata":{metadata},"items":["#, kind.info.list_kind, kind.api_version()),
        Form::Metadata(api_version) => {
            format!(r#"{{"kind":"PartialObjectMetadataList","apiVersion":"{api_version}","metadata":{metadata},"items":["#)
        }
        Form::Table(api_version) => {
            let columns = kind.column_definitions();
            format!(r#"{{"kind":"Table","apiVersion":"{api_version}","metadata":{metadata},"columnDefinitions":{columns},"rows":["#)
        }
    }
    .into_bytes()
}

/// The envelope up to the first item. Its length field covers everything that follows, so the sizes of all items are needed first.
fn proto_head(kind: &Kind, form: Form, entries: &[Arc<Entry>], metadata: &Value) -> Result<Vec<u8>, Error> {
    if kind.strategy.custom().is_some() && !matches!(form, Form::Metadata(_)) {
        return Err(no_protobuf());
    }
    let (api_version, list_kind) = match form {
        Form::Metadata(api_version) => (api_version.to_owned(), "PartialObjectMetadataList".to_owned()),
        _ => (kind.api_version(), kind.info.list_kind.to_string()),
    };
    let list_meta = api::schema::message("k8s.io.apimachinery.pkg.apis.meta.v1.ListMeta")
        .ok_or_else(|| Error::internal("no schema for ListMeta"))?;
    let mut list = Vec::new();
    wire::put_bytes(
        &mut list,
        1,
        &codec::value_to_proto(list_meta, metadata).map_err(Error::internal)?,
    );
    let mut length = list.len();
    for entry in entries {
        let item = proto_item(kind, form, entry)?.len();
        length += 1 + varint_length(item) + item;
    }
    // runtime.Unknown: typeMeta = 1 {apiVersion = 1, kind = 2}, raw = 2.
    let mut type_meta = Vec::new();
    wire::put_bytes(&mut type_meta, 1, api_version.as_bytes());
    wire::put_bytes(&mut type_meta, 2, list_kind.as_bytes());
    let mut head = b"k8s\0".to_vec();
    wire::put_bytes(&mut head, 1, &type_meta);
    wire::put_varint(&mut head, 2 << 3 | 2);
    wire::put_varint(&mut head, length as u64);
    head.extend_from_slice(&list);
    Ok(head)
}

fn proto_item(kind: &Kind, form: Form, entry: &Entry) -> Result<Bytes, Error> {
    if !matches!(form, Form::Metadata(_)) {
        return match kind.strategy.custom() {
            Some(_) => Err(no_protobuf()),
            None => kind.proto(entry),
        };
    }
    let mut message = Vec::new();
    wire::put_bytes(
        &mut message,
        wire::METADATA,
        wire::bytes(&entry.value, wire::METADATA).unwrap_or_default(),
    );
    Ok(message.into())
}

fn varint_length(value: usize) -> usize {
    let bits = (usize::BITS - value.leading_zeros()).max(1) as usize;
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_written() {
        for value in [0usize, 1, 127, 128, 16383, 16384, 1 << 30] {
            let mut out = Vec::new();
            wire::put_varint(&mut out, value as u64);
            assert_eq!(out.len(), varint_length(value), "{value}");
        }
    }

    #[test]
    fn gzip_comes_back_whole() {
        let chunks: Vec<Result<Bytes, BodyError>> = (0..40).map(|i| Ok(Bytes::from(vec![i as u8; 10_000]))).collect();
        let zipped: Vec<u8> = Gzip {
            chunks: chunks.into_iter(),
            encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())),
        }
        .flat_map(|chunk| chunk.unwrap().to_vec())
        .collect();
        let mut back = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&zipped[..]), &mut back).unwrap();
        assert_eq!(back.len(), 400_000);
    }
}
