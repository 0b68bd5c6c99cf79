//! The types of built-in kinds, read from the schema table field by field: a kind's type may contain itself.

use std::sync::Arc;

use api::schema::{FieldType, Message};

use crate::names;
use crate::types::{Field, ObjectType, Type};

/// The type of objects of a built-in kind.
pub fn message_type(message: &'static Message) -> Type {
    Type::object(ObjectType::of_message(message))
}

/// The field of a message that an expression names so. The kind's own `apiVersion` and `kind` are fields of every message that has metadata.
pub(crate) fn field(message: &'static Message, name: &str) -> Option<Field> {
    let json = names::unescape(name).unwrap_or_else(|| name.to_owned());
    if matches!(&*json, "apiVersion" | "kind") && message.field("metadata").is_some() {
        return Some(Field { json, ty: Type::STRING });
    }
    let field = message.field(&json)?;
    let one = field_type(field.ty);
    let ty = if field.repeated { Type::list(one) } else { one };
    Some(Field { json, ty })
}

fn field_type(ty: FieldType) -> Type {
    match ty {
        FieldType::Bool => Type::Bool,
        FieldType::Int32 | FieldType::Int64 => Type::Int,
        FieldType::Double => Type::Double,
        FieldType::String | FieldType::Quantity => Type::STRING,
        FieldType::Bytes => Type::BYTES,
        FieldType::Time | FieldType::MicroTime => Type::Timestamp,
        FieldType::StringList => Type::list(Type::STRING),
        FieldType::Message(message) => Type::Object(Arc::new(ObjectType::of_message(message))),
        FieldType::Map(value) => Type::map(Type::STRING, field_type(*value)),
        FieldType::IntOrString
        | FieldType::RawJson
        | FieldType::SchemaOrBool(_)
        | FieldType::SchemaOrArray(_)
        | FieldType::SchemaOrStrings(_) => Type::Dyn,
    }
}
