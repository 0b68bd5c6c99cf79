//! The types of the language, and of declared variables with what is known of their sizes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use api::schema::Message;

use crate::schema;

/// The most items, characters or bytes that a value may have.
pub type Size = u64;

/// Nothing is known of the size.
pub const UNBOUNDED: Size = u64::MAX;

/// How lists compare.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ListKind {
    /// In order.
    #[default]
    Atomic,
    /// Without order.
    Set,
    /// Without order; items with the same values of these fields correspond.
    Map(Vec<String>),
}

/// A type. Sizes do not count in comparisons of types.
#[derive(Debug, Clone, Default)]
pub enum Type {
    /// Checked when it is evaluated.
    #[default]
    Dyn,
    /// `null`.
    Null,
    /// `bool`.
    Bool,
    /// 64 bits with sign.
    Int,
    /// 64 bits without sign.
    Uint,
    /// A 64-bit float.
    Double,
    /// Text with at most so many characters.
    String(Size),
    /// At most so many bytes.
    Bytes(Size),
    /// A point in time.
    Timestamp,
    /// A length of time.
    Duration,
    /// A list with at most so many items.
    List(Arc<Type>, Size, ListKind),
    /// A map with at most so many entries.
    Map(Arc<Type>, Arc<Type>, Size),
    /// `optional_type(T)`.
    Optional(Arc<Type>),
    /// A message with declared fields.
    Object(Arc<ObjectType>),
    /// A type of a library, such as `kubernetes.Quantity`.
    Opaque(&'static str),
    /// The type of a type.
    TypeOf(Arc<Type>),
    /// A variable of a function's declaration, or of one use of it.
    Param(u32),
}

/// A message type.
#[derive(Debug)]
pub struct ObjectType {
    /// As error messages name it.
    pub name: String,
    fields: Fields,
}

#[derive(Debug)]
enum Fields {
    Declared(BTreeMap<String, Field>),
    /// A built-in kind or a part of one.
    Message(&'static Message),
    /// Anything: the messages that apply configurations are written with.
    Open,
}

/// A declared field.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its name in JSON.
    pub json: String,
    /// Its type.
    pub ty: Type,
}

impl ObjectType {
    /// A message with these fields by their JSON names. Fields that no expression can name are left out.
    pub fn new(name: impl Into<String>, fields: impl IntoIterator<Item = (String, Type)>) -> Self {
        let fields = fields.into_iter().filter_map(|(json, ty)| {
            let name = crate::names::escape(&json)?;
            Some((name, Field { json, ty }))
        });
        ObjectType {
            name: name.into(),
            fields: Fields::Declared(fields.collect()),
        }
    }

    /// With one more field, which expressions name as it is.
    pub fn with(mut self, name: &str, ty: Type) -> Self {
        if let Fields::Declared(fields) = &mut self.fields {
            let json = name.to_owned();
            fields.insert(name.to_owned(), Field { json, ty });
        }
        self
    }

    pub(crate) fn of_message(message: &'static Message) -> Self {
        ObjectType {
            name: message.name.to_owned(),
            fields: Fields::Message(message),
        }
    }

    pub(crate) fn open(name: &str) -> Self {
        ObjectType {
            name: name.to_owned(),
            fields: Fields::Open,
        }
    }

    /// The field that an expression names so.
    pub fn field(&self, name: &str) -> Option<Field> {
        match &self.fields {
            Fields::Declared(fields) => fields.get(name).cloned(),
            Fields::Message(message) => schema::field(message, name),
            Fields::Open => Some(Field {
                json: name.to_owned(),
                ty: Type::Dyn,
            }),
        }
    }

    /// A declared field; `None` also for messages whose fields are not listed here.
    pub(crate) fn declared(&self, name: &str) -> Option<&Field> {
        match &self.fields {
            Fields::Declared(fields) => fields.get(name),
            _ => None,
        }
    }

    /// The declared field with this JSON name.
    pub(crate) fn by_json(&self, json: &str) -> Option<&Field> {
        self.declared(&crate::names::escape(json)?)
    }
}

impl Type {
    /// Text of any length.
    pub const STRING: Type = Type::String(UNBOUNDED);
    /// Any number of bytes.
    pub const BYTES: Type = Type::Bytes(UNBOUNDED);

    /// A list of any length.
    pub fn list(item: Type) -> Type {
        Type::List(Arc::new(item), UNBOUNDED, ListKind::Atomic)
    }

    /// A map of any size.
    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new(key), Arc::new(value), UNBOUNDED)
    }

    /// An optional value.
    pub fn optional(inner: Type) -> Type {
        Type::Optional(Arc::new(inner))
    }

    /// A message.
    pub fn object(object: ObjectType) -> Type {
        Type::Object(Arc::new(object))
    }

    /// Whether values of it are checked when they are evaluated.
    pub fn is_dyn(&self) -> bool {
        matches!(self, Type::Dyn)
    }

    /// The type that an identifier names.
    pub(crate) fn named(name: &str) -> Option<Type> {
        Some(match name {
            "bool" => Type::Bool,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "string" => Type::STRING,
            "bytes" => Type::BYTES,
            "list" => Type::list(Type::Dyn),
            "map" => Type::map(Type::Dyn, Type::Dyn),
            "null_type" => Type::Null,
            "type" => Type::TypeOf(Arc::new(Type::Dyn)),
            "optional_type" => Type::optional(Type::Dyn),
            "google.protobuf.Timestamp" => Type::Timestamp,
            "google.protobuf.Duration" => Type::Duration,
            _ => Type::Opaque(OPAQUE.iter().find(|opaque| **opaque == name)?),
        })
    }
}

/// The types of the libraries.
pub(crate) const OPAQUE: &[&str] = &[
    "kubernetes.URL",
    "kubernetes.Quantity",
    "kubernetes.Semver",
    "kubernetes.NamedFormat",
    "net.IP",
    "net.CIDR",
    "kubernetes.authorization.Authorizer",
    "kubernetes.authorization.PathCheck",
    "kubernetes.authorization.GroupCheck",
    "kubernetes.authorization.ResourceCheck",
    "kubernetes.authorization.Decision",
];

impl PartialEq for Type {
    fn eq(&self, other: &Self) -> bool {
        use Type::*;
        match (self, other) {
            (Dyn, Dyn) | (Null, Null) | (Bool, Bool) | (Int, Int) | (Uint, Uint) | (Double, Double) => true,
            (String(_), String(_)) | (Bytes(_), Bytes(_)) | (Timestamp, Timestamp) | (Duration, Duration) => true,
            (List(a, ..), List(b, ..)) => a == b,
            (Map(ak, av, _), Map(bk, bv, _)) => ak == bk && av == bv,
            (Optional(a), Optional(b)) | (TypeOf(a), TypeOf(b)) => a == b,
            (Object(a), Object(b)) => a.name == b.name,
            (Opaque(a), Opaque(b)) => a == b,
            (Param(a), Param(b)) => a == b,
            _ => false,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Dyn => f.write_str("dyn"),
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::String(_) => f.write_str("string"),
            Type::Bytes(_) => f.write_str("bytes"),
            Type::Timestamp => f.write_str("google.protobuf.Timestamp"),
            Type::Duration => f.write_str("google.protobuf.Duration"),
            Type::List(item, ..) => write!(f, "list({item})"),
            Type::Map(key, value, _) => write!(f, "map({key}, {value})"),
            Type::Optional(inner) => write!(f, "optional_type({inner})"),
            Type::Object(object) => f.write_str(&object.name),
            Type::Opaque(name) => f.write_str(name),
            Type::TypeOf(inner) => write!(f, "type({inner})"),
            Type::Param(_) => f.write_str("dyn"),
        }
    }
}
