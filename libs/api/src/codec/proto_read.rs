//! Protobuf to JSON, driven by the schema: one walk over a message that tells a [`Sink`] what its JSON is.

use super::Error;
use super::json::{JsonSink, ValueSink};
use super::scalar::{self, IntOrStr};
use super::slots::{self, Occurrences, Slots, wrong_type};
use super::time;
use super::wire::Payload;
use crate::schema::{Absent, Field, FieldType, Message};
use base64::Engine as _;
use serde_json::Value;

/// Takes JSON piece by piece.
pub(super) trait Sink {
    fn begin_object(&mut self);
    fn key(&mut self, key: &str);
    fn end_object(&mut self);
    fn begin_array(&mut self);
    fn end_array(&mut self);
    fn null(&mut self);
    fn boolean(&mut self, value: bool);
    fn integer(&mut self, value: i64);
    fn double(&mut self, value: f64);
    fn string(&mut self, value: &str);
    /// JSON text; fails if it is none.
    fn raw(&mut self, json: &[u8]) -> Result<(), Error>;
}

/// The JSON form of a message, without `apiVersion` and `kind`.
pub fn proto_to_value(message: &'static Message, bytes: &[u8]) -> Result<Value, Error> {
    slots::joining(message, bytes, |bytes| {
        let mut sink = ValueSink::default();
        object(message, bytes, &mut sink, None, slots::DEEPEST)?;
        Ok(sink.finish())
    })
}

/// Appends the JSON text of a message: `kind` and `apiVersion` first (left out if empty), then the fields in upstream's order, map
/// keys sorted. Appends nothing on an error.
pub fn proto_to_json(
    message: &'static Message,
    api_version: &str,
    kind: &str,
    bytes: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let start = out.len();
    let type_meta = (!kind.is_empty()).then_some((api_version, kind));
    let result = slots::joining(message, bytes, |bytes| {
        out.truncate(start);
        object(message, bytes, &mut JsonSink::new(out), type_meta, slots::DEEPEST)
    });
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn object(
    message: &'static Message,
    bytes: &[u8],
    sink: &mut impl Sink,
    type_meta: Option<(&str, &str)>,
    depth: usize,
) -> Result<(), Error> {
    let depth = depth.checked_sub(1).ok_or(Error::Proto {
        message: message.name,
        reason: "nested too deep",
    })?;
    sink.begin_object();
    if let Some((api_version, kind)) = type_meta {
        sink.key("kind");
        sink.string(kind);
        sink.key("apiVersion");
        sink.string(api_version);
    }
    members(message, bytes, sink, depth)?;
    sink.end_object();
    Ok(())
}

fn members(message: &'static Message, bytes: &[u8], sink: &mut impl Sink, depth: usize) -> Result<(), Error> {
    let slots = Slots::read(message, bytes)?;
    for (index, field) in message.fields.iter().enumerate() {
        match field.ty {
            FieldType::Message(inner) if field.inlined => members(inner, slots.single(index)?, sink, depth)?,
            _ if !slots.has(index) => absent(field, sink)?,
            FieldType::Message(inner) if !field.repeated => {
                let content = slots.single(index)?;
                sink.key(field.json);
                object(inner, content, sink, None, depth)?;
            }
            _ => present(field, slots.all(index), sink, depth)?,
        }
    }
    Ok(())
}

fn absent(field: &Field, sink: &mut impl Sink) -> Result<(), Error> {
    match field.absent {
        Absent::Skip => return Ok(()),
        Absent::Zero => {
            sink.key(field.json);
            zero(field.ty, sink)?;
        }
        Absent::Null => {
            sink.key(field.json);
            sink.null();
        }
        Absent::Empty => {
            sink.key(field.json);
            sink.begin_array();
            sink.end_array();
        }
    }
    Ok(())
}

fn zero(ty: FieldType, sink: &mut impl Sink) -> Result<(), Error> {
    match ty {
        FieldType::Bool => sink.boolean(false),
        FieldType::Int32 | FieldType::Int64 | FieldType::Double | FieldType::IntOrString => sink.integer(0),
        FieldType::String => sink.string(""),
        FieldType::Quantity => sink.string("0"),
        FieldType::Message(message) => object(message, &[], sink, None, slots::DEEPEST)?,
        _ => sink.null(),
    }
    Ok(())
}

fn present(field: &Field, mut occurrences: Occurrences<'_>, sink: &mut impl Sink, depth: usize) -> Result<(), Error> {
    let message = occurrences.message();
    if let FieldType::Map(value) = field.ty {
        sink.key(field.json);
        return map(message, *value, occurrences, sink, depth);
    }
    if field.repeated {
        sink.key(field.json);
        sink.begin_array();
        occurrences.try_for_each(|payload| value(message, field.ty, payload, sink, depth))?;
        sink.end_array();
        return Ok(());
    }
    let Some(payload) = occurrences.last() else {
        return Ok(());
    };
    if is_unset(message, field, payload)? {
        return absent(field, sink);
    }
    sink.key(field.json);
    value(message, field.ty, payload, sink, depth)
}

/// Whether Go, reading this payload, is left with a zero value that its JSON does not show.
fn is_unset(message: &'static Message, field: &Field, payload: Payload<'_>) -> Result<bool, Error> {
    Ok(match field.ty {
        FieldType::Time | FieldType::MicroTime => scalar::instant(message, payload)?.is_none(),
        FieldType::Bytes => !field.keeps_zero && scalar::bytes(message, payload)?.is_empty(),
        _ if field.keeps_zero || field.absent == Absent::Zero => false,
        _ => matches!(payload, Payload::Varint(0) | Payload::Bytes([]) | Payload::Fixed64(0)),
    })
}

fn map(
    message: &'static Message,
    ty: FieldType,
    occurrences: Occurrences<'_>,
    sink: &mut impl Sink,
    depth: usize,
) -> Result<(), Error> {
    sink.begin_object();
    if is_sorted(message, occurrences.clone())? {
        for payload in occurrences {
            let (key, payload) = scalar::entry(message, payload)?;
            map_entry(message, ty, key, payload, sink, depth)?;
        }
    } else {
        let mut entries = occurrences
            .map(|payload| scalar::entry(message, payload))
            .collect::<Result<Vec<_>, _>>()?;
        // Of several entries with one key the last counts: stable sort, then keep the last of each run.
        entries.sort_by_key(|(key, _)| *key);
        for (index, (key, payload)) in entries.iter().enumerate() {
            if entries.get(index + 1).is_none_or(|(next, _)| next != key) {
                map_entry(message, ty, key, *payload, sink, depth)?;
            }
        }
    }
    sink.end_object();
    Ok(())
}

fn is_sorted(message: &'static Message, occurrences: Occurrences<'_>) -> Result<bool, Error> {
    let mut previous: Option<&str> = None;
    for payload in occurrences {
        let (key, _) = scalar::entry(message, payload)?;
        if previous.is_some_and(|previous| previous >= key) {
            return Ok(false);
        }
        previous = Some(key);
    }
    Ok(true)
}

fn map_entry(
    message: &'static Message,
    ty: FieldType,
    key: &str,
    payload: Option<Payload<'_>>,
    sink: &mut impl Sink,
    depth: usize,
) -> Result<(), Error> {
    sink.key(key);
    match payload {
        Some(payload) => value(message, ty, payload, sink, depth),
        None => zero(ty, sink),
    }
}

fn value(
    message: &'static Message,
    ty: FieldType,
    payload: Payload<'_>,
    sink: &mut impl Sink,
    depth: usize,
) -> Result<(), Error> {
    match ty {
        FieldType::Bool => sink.boolean(scalar::integer(message, payload)? != 0),
        FieldType::Int32 => sink.integer(scalar::integer(message, payload)? as i32 as i64),
        FieldType::Int64 => sink.integer(scalar::integer(message, payload)?),
        FieldType::Double => sink.double(scalar::double(message, payload)?),
        FieldType::String => sink.string(scalar::text(message, payload)?),
        FieldType::Bytes => {
            let bytes = scalar::bytes(message, payload)?;
            sink.string(&base64::engine::general_purpose::STANDARD.encode(bytes));
        }
        FieldType::Quantity => match scalar::wrapped_text(message, payload)? {
            "" => sink.string("0"),
            text => sink.string(text),
        },
        FieldType::IntOrString => match scalar::int_or_string(message, payload)? {
            IntOrStr::Int(int) => sink.integer(int.into()),
            IntOrStr::Str(text) => sink.string(text),
        },
        FieldType::Time | FieldType::MicroTime => instant(message, ty, payload, sink)?,
        FieldType::RawJson => match scalar::wrapped_bytes(message, payload)? {
            [] => sink.null(),
            json => sink.raw(json)?,
        },
        FieldType::StringList => {
            sink.begin_array();
            for item in scalar::members(message, payload, 1)? {
                sink.string(scalar::text(message, item)?);
            }
            sink.end_array();
        }
        FieldType::SchemaOrBool(schema) => match scalar::choice(message, payload)? {
            [_, Some(payload)] => value(message, FieldType::Message(schema), payload, sink, depth)?,
            [allows, None] => sink.boolean(allows.map_or(Ok(0), |allows| scalar::integer(message, allows))? != 0),
        },
        FieldType::SchemaOrArray(schema) => {
            schema_or_list(message, (schema, FieldType::Message(schema)), payload, sink, depth)?;
        }
        FieldType::SchemaOrStrings(schema) => {
            schema_or_list(message, (schema, FieldType::String), payload, sink, depth)?;
        }
        FieldType::Message(inner) => object(inner, scalar::bytes(message, payload)?, sink, None, depth)?,
        FieldType::Map(_) => return Err(wrong_type(message)),
    }
    Ok(())
}

fn instant(message: &'static Message, ty: FieldType, payload: Payload<'_>, sink: &mut impl Sink) -> Result<(), Error> {
    let Some(instant) = scalar::instant(message, payload)? else {
        sink.null();
        return Ok(());
    };
    let mut text = Vec::with_capacity(32);
    if !time::write(instant, matches!(ty, FieldType::MicroTime), &mut text) {
        return Err(Error::Proto {
            message: message.name,
            reason: "year outside of range [0,9999]",
        });
    }
    sink.string(&String::from_utf8_lossy(&text));
    Ok(())
}

fn schema_or_list(
    message: &'static Message,
    (schema, item): (&'static Message, FieldType),
    payload: Payload<'_>,
    sink: &mut impl Sink,
    depth: usize,
) -> Result<(), Error> {
    if let [Some(payload), None] = scalar::choice(message, payload)? {
        return value(message, FieldType::Message(schema), payload, sink, depth);
    }
    sink.begin_array();
    for payload in scalar::members(message, payload, 2)? {
        value(message, item, payload, sink, depth)?;
    }
    sink.end_array();
    Ok(())
}
