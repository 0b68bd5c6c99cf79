//! Where the fields of a protobuf message lie, found in one pass, so that readers can take them in the schema's order however
//! the writer ordered or interleaved them.

use super::Error;
use super::wire::{self, Payload, Reader};
use crate::schema::{Field, FieldType, Message};

/// The most fields a message has; the schema's generator refuses more.
const MOST_FIELDS: usize = 64;
/// The deepest nesting read; upstream's JSON decoder stops at 10000, protobuf's at 100.
pub(super) const DEEPEST: usize = 100;

/// Where a field first stands and how often.
#[derive(Clone, Copy, Default)]
struct Slot {
    start: u32,
    count: u32,
}

/// The fields of one message.
pub(super) struct Slots<'a> {
    message: &'static Message,
    bytes: &'a [u8],
    slots: [Slot; MOST_FIELDS],
}

impl<'a> Slots<'a> {
    /// Unknown fields are passed over, as proto2 readers do.
    pub(super) fn read(message: &'static Message, bytes: &'a [u8]) -> Result<Self, Error> {
        let mut found = Slots {
            message,
            bytes,
            slots: [Slot::default(); MOST_FIELDS],
        };
        let fail = |reason| Error::Proto {
            message: message.name,
            reason,
        };
        if u32::try_from(bytes.len()).is_err() {
            return Err(fail("too large"));
        }
        let mut reader = Reader::new(bytes);
        loop {
            let start = reader.position() as u32;
            let Some((tag, _)) = reader.next().map_err(fail)? else {
                return Ok(found);
            };
            let Some((index, _)) = message.field_by_tag(tag) else {
                continue;
            };
            let slot = &mut found.slots[index];
            if slot.count == 0 {
                slot.start = start;
            }
            slot.count += 1;
        }
    }

    /// Whether the field at this index is there.
    pub(super) fn has(&self, index: usize) -> bool {
        self.slots[index].count > 0
    }

    /// All occurrences of the field at this index.
    pub(super) fn all(&self, index: usize) -> Occurrences<'a> {
        let Slot { start, count } = self.slots[index];
        let reader = Reader::at(self.bytes, start as usize);
        Occurrences {
            message: self.message,
            reader,
            tag: self.message.fields[index].tag,
            left: count,
        }
    }

    /// The last occurrence of the field at this index, which is the one that counts for a single value.
    pub(super) fn last(&self, index: usize) -> Option<Payload<'a>> {
        self.all(index).last()
    }

    /// The content of a single message; empty if it is not there. Fails with [`Error::Split`] if it came in several parts.
    pub(super) fn single(&self, index: usize) -> Result<&'a [u8], Error> {
        if self.slots[index].count > 1 {
            return Err(Error::Split);
        }
        match self.last(index) {
            None => Ok(&[]),
            Some(Payload::Bytes(bytes)) => Ok(bytes),
            Some(_) => Err(wrong_type(self.message)),
        }
    }
}

/// The occurrences of one field. [`Slots::read`] has seen them, so none of them is malformed.
#[derive(Clone)]
pub(super) struct Occurrences<'a> {
    message: &'static Message,
    reader: Reader<'a>,
    tag: u32,
    left: u32,
}

impl<'a> Occurrences<'a> {
    /// The message whose field this is.
    pub(super) fn message(&self) -> &'static Message {
        self.message
    }
}

impl<'a> Iterator for Occurrences<'a> {
    type Item = Payload<'a>;

    fn next(&mut self) -> Option<Payload<'a>> {
        while self.left > 0 {
            let (tag, payload) = self.reader.next().ok()??;
            if tag == self.tag {
                self.left -= 1;
                return Some(payload);
            }
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

pub(super) fn wrong_type(message: &'static Message) -> Error {
    Error::Proto {
        message: message.name,
        reason: "wrong wire type",
    }
}

/// Runs a reader; if it meets a single message in several parts, which a writer may do and none does, joins the parts and runs
/// it again.
pub(super) fn joining<T>(
    message: &'static Message,
    bytes: &[u8],
    mut read: impl FnMut(&[u8]) -> Result<T, Error>,
) -> Result<T, Error> {
    match read(bytes) {
        Err(Error::Split) => {
            let mut joined = Vec::with_capacity(bytes.len());
            join(message, bytes, &mut joined, DEEPEST)?;
            read(&joined)
        }
        result => result,
    }
}

fn join(message: &'static Message, bytes: &[u8], out: &mut Vec<u8>, depth: usize) -> Result<(), Error> {
    let depth = depth.checked_sub(1).ok_or(Error::Proto {
        message: message.name,
        reason: "nested too deep",
    })?;
    let slots = Slots::read(message, bytes)?;
    for (index, field) in message.fields.iter().enumerate() {
        match single_message(field) {
            Some(inner) if slots.has(index) => {
                let parts: Vec<&[u8]> = slots.all(index).filter_map(bytes_of).collect();
                let start = wire::begin_nested(out, field.tag);
                join(inner, &parts.concat(), out, depth)?;
                wire::end_nested(out, start);
            }
            _ => slots
                .all(index)
                .try_for_each(|payload| copy(field, payload, out, depth))?,
        }
    }
    Ok(())
}

fn single_message(field: &Field) -> Option<&'static Message> {
    if field.repeated { None } else { field.ty.message() }
}

fn bytes_of(payload: Payload<'_>) -> Option<&[u8]> {
    match payload {
        Payload::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

fn copy(field: &Field, payload: Payload<'_>, out: &mut Vec<u8>, depth: usize) -> Result<(), Error> {
    match (payload, field.ty) {
        (Payload::Bytes(bytes), FieldType::Message(inner)) => {
            let start = wire::begin_nested(out, field.tag);
            join(inner, bytes, out, depth)?;
            wire::end_nested(out, start);
        }
        (Payload::Bytes(bytes), _) => wire::put_bytes(out, field.tag, bytes),
        (Payload::Varint(value), _) => wire::put_integer(out, field.tag, value),
        (Payload::Fixed64(value), _) => wire::put_double(out, field.tag, f64::from_bits(value)),
        (Payload::Fixed32(_), _) => {}
    }
    Ok(())
}
