//! The values that protobuf wraps into small messages and JSON does not.

use super::Error;
use super::slots::wrong_type;
use super::time::Instant;
use super::wire::{self, Payload, Reader};
use crate::schema::Message;

/// An `IntOrString`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IntOrStr<'a> {
    Int(i32),
    Str(&'a str),
}

pub(super) fn integer(message: &'static Message, payload: Payload<'_>) -> Result<i64, Error> {
    match payload {
        Payload::Varint(value) => Ok(value as i64),
        _ => Err(wrong_type(message)),
    }
}

pub(super) fn double(message: &'static Message, payload: Payload<'_>) -> Result<f64, Error> {
    match payload {
        Payload::Fixed64(bits) => Ok(f64::from_bits(bits)),
        _ => Err(wrong_type(message)),
    }
}

pub(super) fn bytes<'a>(message: &'static Message, payload: Payload<'a>) -> Result<&'a [u8], Error> {
    match payload {
        Payload::Bytes(bytes) => Ok(bytes),
        _ => Err(wrong_type(message)),
    }
}

pub(super) fn text<'a>(message: &'static Message, payload: Payload<'a>) -> Result<&'a str, Error> {
    let bytes = bytes(message, payload)?;
    std::str::from_utf8(bytes).map_err(|_| Error::Proto {
        message: message.name,
        reason: "string is not UTF-8",
    })
}

/// The last payload of each of the fields 1 to 3.
fn fields<'a>(message: &'static Message, payload: Payload<'a>) -> Result<[Option<Payload<'a>>; 3], Error> {
    let mut found = [None; 3];
    let mut reader = Reader::new(bytes(message, payload)?);
    while let Some((tag, payload)) = reader.next().map_err(|reason| Error::Proto {
        message: message.name,
        reason,
    })? {
        if let Some(slot) = found.get_mut(tag as usize - 1) {
            *slot = Some(payload);
        }
    }
    Ok(found)
}

/// `{1: text}`: a quantity.
pub(super) fn wrapped_text<'a>(message: &'static Message, payload: Payload<'a>) -> Result<&'a str, Error> {
    fields(message, payload)?[0].map_or(Ok(""), |payload| text(message, payload))
}

/// `{1: bytes}`: JSON text.
pub(super) fn wrapped_bytes<'a>(message: &'static Message, payload: Payload<'a>) -> Result<&'a [u8], Error> {
    fields(message, payload)?[0].map_or(Ok(&[]), |payload| bytes(message, payload))
}

/// `{1: 0 or 1, 2: int, 3: text}`.
pub(super) fn int_or_string<'a>(message: &'static Message, payload: Payload<'a>) -> Result<IntOrStr<'a>, Error> {
    let [kind, int, string] = fields(message, payload)?;
    match kind.map_or(Ok(0), |payload| integer(message, payload))? {
        0 => Ok(IntOrStr::Int(
            int.map_or(Ok(0), |payload| integer(message, payload))? as i32
        )),
        _ => Ok(IntOrStr::Str(string.map_or(Ok(""), |payload| text(message, payload))?)),
    }
}

/// `{1: seconds, 2: nanos}`; an empty message is no time, as Go writes an unset one.
pub(super) fn instant(message: &'static Message, payload: Payload<'_>) -> Result<Option<Instant>, Error> {
    if bytes(message, payload)?.is_empty() {
        return Ok(None);
    }
    let [seconds, nanos, _] = fields(message, payload)?;
    let seconds = seconds.map_or(Ok(0), |payload| integer(message, payload))?;
    let nanos = nanos.map_or(Ok(0), |payload| integer(message, payload))?;
    Ok(Some(Instant {
        seconds,
        nanos: nanos.clamp(0, 999_999_999) as u32,
    }))
}

/// `{1: key, 2: value}` of a map's entry.
pub(super) fn entry<'a>(
    message: &'static Message,
    payload: Payload<'a>,
) -> Result<(&'a str, Option<Payload<'a>>), Error> {
    let [key, value, _] = fields(message, payload)?;
    Ok((key.map_or(Ok(""), |payload| text(message, payload))?, value))
}

/// The choices of `JSONSchemaPropsOr*`: `{1: .., 2: ..}` as they lie.
pub(super) fn choice<'a>(message: &'static Message, payload: Payload<'a>) -> Result<[Option<Payload<'a>>; 2], Error> {
    let [first, second, _] = fields(message, payload)?;
    Ok([first, second])
}

/// The texts or messages under one tag of a wrapper message.
pub(super) fn members<'a>(
    message: &'static Message,
    payload: Payload<'a>,
    tag: u32,
) -> Result<impl ExactSizeIterator<Item = Payload<'a>>, Error> {
    let mut found = Vec::new();
    let mut reader = Reader::new(bytes(message, payload)?);
    while let Some((number, payload)) = reader.next().map_err(|reason| Error::Proto {
        message: message.name,
        reason,
    })? {
        if number == tag {
            found.push(payload);
        }
    }
    Ok(found.into_iter())
}

pub(super) fn put_text(out: &mut Vec<u8>, tag: u32, text: &str) {
    put_wrapped(out, tag, |out| wire::put_bytes(out, 1, text.as_bytes()));
}

pub(super) fn put_raw(out: &mut Vec<u8>, tag: u32, json: &[u8]) {
    put_wrapped(out, tag, |out| wire::put_bytes(out, 1, json));
}

pub(super) fn put_int_or_string(out: &mut Vec<u8>, tag: u32, value: IntOrStr<'_>) {
    put_wrapped(out, tag, |out| match value {
        IntOrStr::Int(int) => {
            wire::put_integer(out, 1, 0);
            wire::put_integer(out, 2, i64::from(int) as u64);
        }
        IntOrStr::Str(text) => {
            wire::put_integer(out, 1, 1);
            wire::put_bytes(out, 3, text.as_bytes());
        }
    });
}

pub(super) fn put_instant(out: &mut Vec<u8>, tag: u32, instant: Instant) {
    put_wrapped(out, tag, |out| {
        wire::put_integer(out, 1, instant.seconds as u64);
        wire::put_integer(out, 2, u64::from(instant.nanos));
    });
}

pub(super) fn put_wrapped(out: &mut Vec<u8>, tag: u32, content: impl FnOnce(&mut Vec<u8>)) {
    let start = wire::begin_nested(out, tag);
    content(out);
    wire::end_nested(out, start);
}
