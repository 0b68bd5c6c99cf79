//! Protobuf to typed objects: the one serde `Deserializer` that the object types are compiled for.

use super::Error;
use super::scalar::{self, IntOrStr};
use super::slots::{self, Occurrences, Slots, wrong_type};
use super::time;
use super::wire::Payload;
use crate::schema::{Field, FieldType, Message};
use base64::Engine as _;
use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

/// Reads an object of the kind `message` describes.
pub(crate) fn read<T: DeserializeOwned>(message: &'static Message, bytes: &[u8]) -> Result<T, Error> {
    slots::joining(message, bytes, |bytes| {
        let value = ValueReader {
            message,
            ty: FieldType::Message(message),
            payload: Payload::Bytes(bytes),
            depth: slots::DEEPEST,
        };
        T::deserialize(value)
    })
}

/// Reads one value.
struct ValueReader<'a> {
    /// The message it stands in, for the errors.
    message: &'static Message,
    ty: FieldType,
    payload: Payload<'a>,
    depth: usize,
}

impl<'a> ValueReader<'a> {
    fn members(&self, message: &'static Message, payload: Payload<'a>) -> Result<MessageReader<'a>, Error> {
        let depth = self.depth.checked_sub(1).ok_or(Error::Proto {
            message: message.name,
            reason: "nested too deep",
        })?;
        MessageReader::new(message, scalar::bytes(self.message, payload)?, depth)
    }

    fn list(
        &self,
        tag: u32,
        ty: FieldType,
    ) -> Result<ItemsReader<'a, impl Iterator<Item = Payload<'a>> + use<'a>>, Error> {
        let items = scalar::members(self.message, self.payload, tag)?;
        Ok(ItemsReader {
            message: self.message,
            ty,
            items,
            depth: self.depth,
        })
    }

    fn is_unset_time(&self) -> Result<bool, Error> {
        let is_time = matches!(self.ty, FieldType::Time | FieldType::MicroTime);
        Ok(is_time && scalar::instant(self.message, self.payload)?.is_none())
    }

    fn visit_text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.ty {
            FieldType::String => visitor.visit_str(scalar::text(self.message, self.payload)?),
            FieldType::Quantity => visitor.visit_str(scalar::wrapped_text(self.message, self.payload)?),
            FieldType::Bytes => {
                let bytes = scalar::bytes(self.message, self.payload)?;
                visitor.visit_str(&base64::engine::general_purpose::STANDARD.encode(bytes))
            }
            FieldType::Time | FieldType::MicroTime => {
                let instant = scalar::instant(self.message, self.payload)?.unwrap_or_default();
                let mut text = Vec::with_capacity(32);
                let fault = Error::Proto {
                    message: self.message.name,
                    reason: "year outside of range [0,9999]",
                };
                if !time::write(instant, true, &mut text) {
                    return Err(fault);
                }
                visitor.visit_str(std::str::from_utf8(&text).map_err(|_| fault)?)
            }
            _ => Err(wrong_type(self.message)),
        }
    }
}

impl<'de> Deserializer<'de> for ValueReader<'_> {
    type Error = Error;

    /// For the values whose type only their content tells.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.ty {
            FieldType::IntOrString => match scalar::int_or_string(self.message, self.payload)? {
                IntOrStr::Int(int) => visitor.visit_i32(int),
                IntOrStr::Str(text) => visitor.visit_str(text),
            },
            FieldType::SchemaOrBool(schema) => match scalar::choice(self.message, self.payload)? {
                [_, Some(payload)] => visitor.visit_map(self.members(schema, payload)?),
                [allows, None] => {
                    visitor.visit_bool(allows.map_or(Ok(0), |allows| scalar::integer(self.message, allows))? != 0)
                }
            },
            FieldType::SchemaOrArray(schema) => match scalar::choice(self.message, self.payload)? {
                [Some(payload), None] => visitor.visit_map(self.members(schema, payload)?),
                _ => visitor.visit_seq(self.list(2, FieldType::Message(schema))?),
            },
            FieldType::SchemaOrStrings(schema) => match scalar::choice(self.message, self.payload)? {
                [Some(payload), None] => visitor.visit_map(self.members(schema, payload)?),
                _ => visitor.visit_seq(self.list(2, FieldType::String)?),
            },
            FieldType::Message(message) => visitor.visit_map(self.members(message, self.payload)?),
            _ => self.visit_text(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(scalar::integer(self.message, self.payload)? != 0)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i32(scalar::integer(self.message, self.payload)? as i32)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i64(scalar::integer(self.message, self.payload)?)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_f64(scalar::double(self.message, self.payload)?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.visit_text(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.visit_text(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_unset_time()? {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Error> {
        match self.ty {
            FieldType::RawJson => {
                let json = scalar::wrapped_bytes(self.message, self.payload)?;
                visitor.visit_newtype_struct(RawReader(if json.is_empty() { b"null" } else { json }))
            }
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.ty {
            FieldType::StringList => visitor.visit_seq(self.list(1, FieldType::String)?),
            _ => Err(wrong_type(self.message)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.ty {
            FieldType::Message(message) => visitor.visit_map(self.members(message, self.payload)?),
            _ => Err(wrong_type(self.message)),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u32 u64 u128 f32 char bytes byte_buf unit unit_struct map tuple tuple_struct enum identifier
        ignored_any
    }
}

/// Reads the JSON text that a message carries. Only newtypes over [`serde_json::Value`] meet it, so that serde_json's reader is not
/// compiled for every type.
struct RawReader<'a>(&'a [u8]);

impl<'de> Deserializer<'de> for RawReader<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let value = super::json::parse_json(self.0)?;
        value
            .deserialize_any(visitor)
            .map_err(|error| Error::Json(error.to_string()))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// Reads a field with all its occurrences: a list, a map or a single value.
struct FieldReader<'a> {
    field: &'static Field,
    occurrences: Occurrences<'a>,
    depth: usize,
}

impl<'a> FieldReader<'a> {
    fn single(self) -> Result<ValueReader<'a>, Error> {
        let message = self.occurrences.message();
        let is_message = matches!(self.field.ty, FieldType::Message(_));
        let (count, _) = self.occurrences.size_hint();
        if is_message && count > 1 {
            return Err(Error::Split);
        }
        // Only a time that the type requires comes without occurrence: the types have no unset time, so it is read as 1970.
        let payload = self.occurrences.last().unwrap_or(Payload::Bytes(&[]));
        Ok(ValueReader {
            message,
            ty: self.field.ty,
            payload,
            depth: self.depth,
        })
    }

    fn is_many(&self) -> bool {
        self.field.repeated || matches!(self.field.ty, FieldType::Map(_))
    }
}

macro_rules! single {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.single()?.$method(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for FieldReader<'_> {
    type Error = Error;

    single! {
        deserialize_any deserialize_bool deserialize_i32 deserialize_i64 deserialize_f64 deserialize_str deserialize_string
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_many() {
            visitor.visit_some(self)
        } else {
            self.single()?.deserialize_option(visitor)
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.single()?.deserialize_newtype_struct(name, visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if !self.field.repeated {
            return self.single()?.deserialize_seq(visitor);
        }
        let message = self.occurrences.message();
        visitor.visit_seq(ItemsReader {
            message,
            ty: self.field.ty,
            items: self.occurrences,
            depth: self.depth,
        })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.field.ty {
            FieldType::Map(ty) => visitor.visit_map(EntriesReader {
                occurrences: self.occurrences,
                ty: *ty,
                value: None,
                depth: self.depth,
            }),
            _ => self.single()?.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.single()?.deserialize_struct(name, fields, visitor)
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u32 u64 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier ignored_any
    }
}

struct ItemsReader<'a, I: Iterator<Item = Payload<'a>>> {
    message: &'static Message,
    ty: FieldType,
    items: I,
    depth: usize,
}

impl<'de, 'a, I: Iterator<Item = Payload<'a>>> SeqAccess<'de> for ItemsReader<'a, I> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(payload) = self.items.next() else {
            return Ok(None);
        };
        let reader = ValueReader {
            message: self.message,
            ty: self.ty,
            payload,
            depth: self.depth,
        };
        seed.deserialize(reader).map(Some)
    }
}

struct EntriesReader<'a> {
    occurrences: Occurrences<'a>,
    ty: FieldType,
    value: Option<Payload<'a>>,
    depth: usize,
}

impl<'de> MapAccess<'de> for EntriesReader<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(payload) = self.occurrences.next() else {
            return Ok(None);
        };
        let (key, value) = scalar::entry(self.occurrences.message(), payload)?;
        self.value = value;
        seed.deserialize(StrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        // An entry without a value has the zero value: an empty text, message or bytes.
        let payload = self.value.take().unwrap_or(Payload::Bytes(&[]));
        seed.deserialize(ValueReader {
            message: self.occurrences.message(),
            ty: self.ty,
            payload,
            depth: self.depth,
        })
    }
}

/// Reads the fields of a message, those of inlined messages among them.
struct MessageReader<'a> {
    fields: std::vec::IntoIter<(&'static Field, Occurrences<'a>)>,
    value: Option<FieldReader<'a>>,
    depth: usize,
}

impl<'a> MessageReader<'a> {
    fn new(message: &'static Message, bytes: &'a [u8], depth: usize) -> Result<Self, Error> {
        let mut fields = Vec::with_capacity(16);
        collect(message, bytes, &mut fields)?;
        Ok(MessageReader {
            fields: fields.into_iter(),
            value: None,
            depth,
        })
    }
}

fn collect<'a>(
    message: &'static Message,
    bytes: &'a [u8],
    fields: &mut Vec<(&'static Field, Occurrences<'a>)>,
) -> Result<(), Error> {
    let slots = Slots::read(message, bytes)?;
    for (index, field) in message.fields.iter().enumerate() {
        let required_time = field.required && matches!(field.ty, FieldType::Time | FieldType::MicroTime);
        match field.ty {
            _ if !slots.has(index) && !required_time => {}
            FieldType::Message(inner) if field.inlined => collect(inner, slots.single(index)?, fields)?,
            _ => fields.push((field, slots.all(index))),
        }
    }
    Ok(())
}

impl<'de> MapAccess<'de> for MessageReader<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((field, occurrences)) = self.fields.next() else {
            return Ok(None);
        };
        self.value = Some(FieldReader {
            field,
            occurrences,
            depth: self.depth,
        });
        seed.deserialize(BorrowedStrDeserializer::new(field.json)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        match self.value.take() {
            Some(value) => seed.deserialize(value),
            None => Err(Error::Value("a value was asked for before its key".into())),
        }
    }
}
