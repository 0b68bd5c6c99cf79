//! Typed objects to protobuf: the one serde `Serializer` that the object types are compiled for.

use super::Error;
use super::scalar::{self, IntOrStr};
use super::time;
use super::wire;
use crate::schema::{Field, FieldType, Message};
use base64::Engine as _;
use serde::ser::{self, Impossible, Serialize};

/// The protobuf form of an object of the kind `message` describes.
pub(crate) fn write<T: Serialize>(message: &'static Message, object: &T) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(256);
    object.serialize(ValueWriter {
        out: &mut out,
        ty: FieldType::Message(message),
        tag: ROOT,
    })?;
    Ok(out)
}

/// Stands for the message itself, which has no tag.
const ROOT: u32 = 0;

/// Writes one value under a tag.
struct ValueWriter<'a> {
    out: &'a mut Vec<u8>,
    ty: FieldType,
    tag: u32,
}

impl<'a> ValueWriter<'a> {
    fn mismatch(&self) -> Error {
        Error::Value(format!("a value is not of the type {}", self.ty.go_name()))
    }

    fn begin(self, message: &'static Message) -> MessageWriter<'a> {
        let start = (self.tag != ROOT).then(|| wire::begin_nested(self.out, self.tag));
        MessageWriter {
            out: self.out,
            message,
            starts: [start, None],
            inlined: Default::default(),
        }
    }

    /// A schema among the choices of `JSONSchemaPropsOr*`.
    fn begin_choice(self, schema: &'static Message, tag: u32) -> MessageWriter<'a> {
        let outer = wire::begin_nested(self.out, self.tag);
        if tag == 2 {
            wire::put_integer(self.out, 1, 1);
        }
        let inner = wire::begin_nested(self.out, tag);
        MessageWriter {
            out: self.out,
            message: schema,
            starts: [Some(inner), Some(outer)],
            inlined: Default::default(),
        }
    }
}

impl<'a> ser::Serializer for ValueWriter<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = ListWriter<'a>;
    type SerializeTuple = Impossible<(), Error>;
    type SerializeTupleStruct = Impossible<(), Error>;
    type SerializeTupleVariant = Impossible<(), Error>;
    type SerializeMap = MapWriter<'a>;
    type SerializeStruct = MessageWriter<'a>;
    type SerializeStructVariant = Impossible<(), Error>;

    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        match self.ty {
            FieldType::Bool => wire::put_integer(self.out, self.tag, u64::from(value)),
            FieldType::SchemaOrBool(_) => {
                scalar::put_wrapped(self.out, self.tag, |out| wire::put_integer(out, 1, u64::from(value)));
            }
            _ => return Err(self.mismatch()),
        }
        Ok(())
    }

    fn serialize_i32(self, value: i32) -> Result<(), Error> {
        match self.ty {
            FieldType::IntOrString => scalar::put_int_or_string(self.out, self.tag, IntOrStr::Int(value)),
            _ => return self.serialize_i64(value.into()),
        }
        Ok(())
    }

    fn serialize_i64(self, value: i64) -> Result<(), Error> {
        match self.ty {
            FieldType::Int32 | FieldType::Int64 => wire::put_integer(self.out, self.tag, value as u64),
            _ => return Err(self.mismatch()),
        }
        Ok(())
    }

    fn serialize_f64(self, value: f64) -> Result<(), Error> {
        match self.ty {
            FieldType::Double => wire::put_double(self.out, self.tag, value),
            _ => return Err(self.mismatch()),
        }
        Ok(())
    }

    fn serialize_str(self, value: &str) -> Result<(), Error> {
        match self.ty {
            FieldType::String => wire::put_bytes(self.out, self.tag, value.as_bytes()),
            FieldType::Quantity => scalar::put_text(self.out, self.tag, value),
            FieldType::IntOrString => scalar::put_int_or_string(self.out, self.tag, IntOrStr::Str(value)),
            FieldType::Time | FieldType::MicroTime => match time::parse(value) {
                Some(instant) => scalar::put_instant(self.out, self.tag, instant),
                None => return Err(self.mismatch()),
            },
            FieldType::Bytes => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(value);
                wire::put_bytes(self.out, self.tag, &bytes.map_err(|_| self.mismatch())?);
            }
            _ => return Err(self.mismatch()),
        }
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_some<T: ?Sized + Serialize>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_newtype_struct<T: ?Sized + Serialize>(self, _name: &'static str, value: &T) -> Result<(), Error> {
        match self.ty {
            FieldType::RawJson => {
                let json = serde_json::to_vec(value).map_err(|error| Error::Json(error.to_string()))?;
                scalar::put_raw(self.out, self.tag, &json);
                Ok(())
            }
            // A kind without fields, which k8s-openapi holds as any value.
            FieldType::Message(message) if message.fields.is_empty() => {
                wire::put_bytes(self.out, self.tag, b"");
                Ok(())
            }
            _ => value.serialize(self),
        }
    }

    fn serialize_seq(self, _len: Option<usize>) -> Result<ListWriter<'a>, Error> {
        // The list's own wrapper message, if it has one, and what its items are in there.
        let (wrapped, ty, tag) = match self.ty {
            FieldType::StringList => (true, FieldType::String, 1),
            FieldType::SchemaOrArray(schema) => (true, FieldType::Message(schema), 2),
            FieldType::SchemaOrStrings(_) => (true, FieldType::String, 2),
            ty => (false, ty, self.tag),
        };
        let start = wrapped.then(|| wire::begin_nested(self.out, self.tag));
        Ok(ListWriter {
            out: self.out,
            ty,
            tag,
            start,
        })
    }

    fn serialize_map(self, _len: Option<usize>) -> Result<MapWriter<'a>, Error> {
        match self.ty {
            FieldType::Map(ty) => Ok(MapWriter {
                out: self.out,
                ty: *ty,
                tag: self.tag,
                start: 0,
            }),
            _ => Err(self.mismatch()),
        }
    }

    fn serialize_struct(self, _name: &'static str, _len: usize) -> Result<MessageWriter<'a>, Error> {
        match self.ty {
            FieldType::Message(message) => Ok(self.begin(message)),
            FieldType::SchemaOrBool(schema) => Ok(self.begin_choice(schema, 2)),
            FieldType::SchemaOrArray(schema) | FieldType::SchemaOrStrings(schema) => Ok(self.begin_choice(schema, 1)),
            _ => Err(self.mismatch()),
        }
    }

    // No object type holds what follows.

    fn serialize_i8(self, value: i8) -> Result<(), Error> {
        self.serialize_i64(value.into())
    }

    fn serialize_i16(self, value: i16) -> Result<(), Error> {
        self.serialize_i64(value.into())
    }

    fn serialize_u8(self, value: u8) -> Result<(), Error> {
        self.serialize_i64(value.into())
    }

    fn serialize_u16(self, value: u16) -> Result<(), Error> {
        self.serialize_i64(value.into())
    }

    fn serialize_u32(self, value: u32) -> Result<(), Error> {
        self.serialize_i64(value.into())
    }

    fn serialize_u64(self, _value: u64) -> Result<(), Error> {
        Err(self.mismatch())
    }

    fn serialize_f32(self, value: f32) -> Result<(), Error> {
        self.serialize_f64(value.into())
    }

    fn serialize_char(self, _value: char) -> Result<(), Error> {
        Err(self.mismatch())
    }

    fn serialize_bytes(self, _value: &[u8]) -> Result<(), Error> {
        Err(self.mismatch())
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), Error> {
        Err(self.mismatch())
    }

    fn serialize_unit_variant(self, _name: &'static str, _index: u32, _variant: &'static str) -> Result<(), Error> {
        Err(self.mismatch())
    }

    fn serialize_newtype_variant<T: ?Sized + Serialize>(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _value: &T,
    ) -> Result<(), Error> {
        Err(self.mismatch())
    }

    fn serialize_tuple(self, _len: usize) -> Result<Self::SerializeTuple, Error> {
        Err(self.mismatch())
    }

    fn serialize_tuple_struct(self, _name: &'static str, _len: usize) -> Result<Self::SerializeTupleStruct, Error> {
        Err(self.mismatch())
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Self::SerializeTupleVariant, Error> {
        Err(self.mismatch())
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Self::SerializeStructVariant, Error> {
        Err(self.mismatch())
    }
}

struct ListWriter<'a> {
    out: &'a mut Vec<u8>,
    ty: FieldType,
    tag: u32,
    start: Option<usize>,
}

impl ser::SerializeSeq for ListWriter<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Error> {
        value.serialize(ValueWriter {
            out: self.out,
            ty: self.ty,
            tag: self.tag,
        })
    }

    fn end(self) -> Result<(), Error> {
        if let Some(start) = self.start {
            wire::end_nested(self.out, start);
        }
        Ok(())
    }
}

struct MapWriter<'a> {
    out: &'a mut Vec<u8>,
    ty: FieldType,
    tag: u32,
    /// Of the entry being written.
    start: usize,
}

impl ser::SerializeMap for MapWriter<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: ?Sized + Serialize>(&mut self, key: &T) -> Result<(), Error> {
        self.start = wire::begin_nested(self.out, self.tag);
        key.serialize(ValueWriter {
            out: self.out,
            ty: FieldType::String,
            tag: 1,
        })
    }

    fn serialize_value<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Error> {
        value.serialize(ValueWriter {
            out: self.out,
            ty: self.ty,
            tag: 2,
        })?;
        wire::end_nested(self.out, self.start);
        Ok(())
    }

    fn end(self) -> Result<(), Error> {
        Ok(())
    }
}

/// Writes the fields of a message. Those of inlined messages gather apart until its end: serde brings them mixed with its own.
struct MessageWriter<'a> {
    out: &'a mut Vec<u8>,
    message: &'static Message,
    /// Of this message and of the wrapper around it; none for the root.
    starts: [Option<usize>; 2],
    /// Tag and content of the inlined message, and of the one inlined into that.
    inlined: [(u32, Vec<u8>); 2],
}

impl MessageWriter<'_> {
    fn own(&self, key: &str) -> Option<&'static Field> {
        self.message
            .fields
            .iter()
            .find(|field| !field.inlined && field.json == key)
    }

    /// The inlined messages that lead to a field (at most two, as the schema has them), and the field.
    fn inlined(&self, key: &str) -> Option<(&'static Field, Option<&'static Field>, &'static Field)> {
        let inlined = |message: &'static Message| message.fields.iter().filter(|field| field.inlined);
        let own = |message: &'static Message| message.fields.iter().find(|field| !field.inlined && field.json == key);
        inlined(self.message).find_map(|outer| {
            let message = outer.ty.message()?;
            let direct = own(message).map(|field| (outer, None, field));
            direct.or_else(|| inlined(message).find_map(|inner| Some((outer, Some(inner), own(inner.ty.message()?)?))))
        })
    }
}

impl ser::SerializeStruct for MessageWriter<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: ?Sized + Serialize>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
        if let Some(field) = self.own(key) {
            return value.serialize(ValueWriter {
                out: self.out,
                ty: field.ty,
                tag: field.tag,
            });
        }
        let Some((outer, inner, field)) = self.inlined(key) else {
            // The envelope has them.
            let type_meta = key == "apiVersion" || key == "kind";
            let missing = || Error::Value(format!("{} has no field {key}", self.message.name));
            return if type_meta { Ok(()) } else { Err(missing()) };
        };
        self.inlined[0].0 = outer.tag;
        let out = match inner {
            None => &mut self.inlined[0].1,
            Some(inner) => {
                self.inlined[1].0 = inner.tag;
                &mut self.inlined[1].1
            }
        };
        value.serialize(ValueWriter {
            out,
            ty: field.ty,
            tag: field.tag,
        })
    }

    fn end(self) -> Result<(), Error> {
        let [(outer, mut content), (inner, inner_content)] = self.inlined;
        if inner != 0 {
            wire::put_bytes(&mut content, inner, &inner_content);
        }
        if outer != 0 {
            wire::put_bytes(self.out, outer, &content);
        }
        for start in self.starts.into_iter().flatten() {
            wire::end_nested(self.out, start);
        }
        Ok(())
    }
}
