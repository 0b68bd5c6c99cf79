//! Values: borrowed from JSON wherever they can be, so that an object of a megabyte costs nothing until an expression looks into it.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::rc::Rc;

use serde_json::Value as Json;

use api::quantity::Quantity;
use jiff::Timestamp;

use crate::authorizer::{Answer, Check};
use crate::error::Error;
use crate::fuel::Fuel;
use crate::json;
use crate::types::{ListKind, ObjectType, Type};

/// Text, borrowed or shared.
#[derive(Debug, Clone)]
pub enum Text<'a> {
    /// Of the expression or of the data.
    Borrowed(&'a str),
    /// Computed.
    Shared(Rc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Shared(text) => text,
        }
    }
}

impl From<String> for Text<'_> {
    fn from(text: String) -> Self {
        Text::Shared(text.into())
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Text::Borrowed(text)
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

/// Values made of values are never deeper than this, so that they can be dropped, compared and written.
const MAX_DEPTH: u16 = 300;

/// Something made of values, and how deep it is.
pub struct Nested<T> {
    inner: T,
    depth: u16,
}

impl<T> Deref for Nested<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> Nested<T> {
    fn new<'a: 'a>(
        inner: T,
        values: impl Fn(&T) -> Box<dyn Iterator<Item = &Value<'a>> + '_>,
    ) -> Result<Rc<Self>, Error> {
        let depth = 1 + values(&inner).map(Value::depth).max().unwrap_or(0);
        if depth > MAX_DEPTH {
            return Err(Error::Resources);
        }
        Ok(Rc::new(Nested { inner, depth }))
    }
}

/// A value of the language.
#[derive(Clone)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// A truth value.
    Bool(bool),
    /// With sign.
    Int(i64),
    /// Without sign.
    Uint(u64),
    /// A float.
    Double(f64),
    /// Text.
    String(Text<'a>),
    /// Bytes.
    Bytes(Rc<[u8]>),
    /// A point in time.
    Timestamp(Timestamp),
    /// Nanoseconds.
    Duration(i64),
    /// A list.
    List(List<'a>),
    /// A map or a message.
    Map(Map<'a>),
    /// An optional value.
    Optional(Option<Rc<Nested<Value<'a>>>>),
    /// A type, by its name.
    Type(Text<'a>),
    /// A value of a library.
    Opaque(Rc<Opaque>),
    /// A message whose fields are computed when they are asked for.
    Lazy(Rc<dyn Lazy<'a> + 'a>),
}

/// A message whose fields are computed when they are asked for.
pub trait Lazy<'a> {
    /// The field; `None` if there is no such field.
    ///
    /// # Errors
    /// Those of its computation.
    fn field(&self, name: &str, fuel: &mut Fuel<'_>) -> Result<Option<Value<'a>>, Error>;
}

/// A value of a library.
#[derive(Debug, Clone, PartialEq)]
pub enum Opaque {
    /// `kubernetes.Quantity`.
    Quantity(Quantity),
    /// `kubernetes.URL`.
    Url(crate::functions::url::Url),
    /// `kubernetes.Semver`.
    Semver(crate::functions::semver::Semver),
    /// `kubernetes.NamedFormat`, by its name.
    Format(&'static str),
    /// `net.IP`.
    Ip(IpAddr),
    /// `net.CIDR`.
    Cidr(IpAddr, u8),
    /// The authorizer, for the service account that the check names.
    Authorizer(Check),
    /// A check of a path.
    PathCheck(Check),
    /// A check of a group.
    GroupCheck(Check),
    /// A check of a resource.
    ResourceCheck(Check),
    /// An authorizer's answer.
    Decision(Answer),
}

impl Opaque {
    /// The type's name.
    pub fn type_name(&self) -> &'static str {
        match self {
            Opaque::Quantity(_) => "kubernetes.Quantity",
            Opaque::Url(_) => "kubernetes.URL",
            Opaque::Semver(_) => "kubernetes.Semver",
            Opaque::Format(_) => "kubernetes.NamedFormat",
            Opaque::Ip(_) => "net.IP",
            Opaque::Cidr(..) => "net.CIDR",
            Opaque::Authorizer(_) => "kubernetes.authorization.Authorizer",
            Opaque::PathCheck(_) => "kubernetes.authorization.PathCheck",
            Opaque::GroupCheck(_) => "kubernetes.authorization.GroupCheck",
            Opaque::ResourceCheck(_) => "kubernetes.authorization.ResourceCheck",
            Opaque::Decision(_) => "kubernetes.authorization.Decision",
        }
    }
}

/// A list.
#[derive(Clone)]
pub enum List<'a> {
    /// Of the data.
    Json {
        /// The items.
        items: &'a [Json],
        /// Their type.
        item: &'a Type,
        /// How such lists compare.
        kind: &'a ListKind,
    },
    /// Computed.
    Owned(Rc<Nested<Vec<Value<'a>>>>),
}

impl<'a> List<'a> {
    /// How many items there are.
    pub fn len(&self) -> usize {
        match self {
            List::Json { items, .. } => items.len(),
            List::Owned(items) => items.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The item at an index.
    pub fn get(&self, index: usize) -> Option<Result<Value<'a>, Error>> {
        match self {
            List::Json { items, item, .. } => items.get(index).map(|json| json::value(json, item)),
            List::Owned(items) => items.get(index).cloned().map(Ok),
        }
    }

    /// All items in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<Value<'a>, Error>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

/// A key of a map; numbers of both kinds compare as numbers.
#[derive(Debug, Clone)]
pub enum Key<'a> {
    /// A truth value.
    Bool(bool),
    /// With sign.
    Int(i64),
    /// Without sign.
    Uint(u64),
    /// Text.
    String(Text<'a>),
}

impl<'a> Key<'a> {
    /// The key that finds what the value names; a float finds an integer.
    pub fn of(value: &Value<'a>) -> Option<Key<'a>> {
        Some(match value {
            Value::Bool(b) => Key::Bool(*b),
            Value::Int(n) => Key::Int(*n),
            Value::Uint(n) => Key::Uint(*n),
            Value::Double(d) if d.fract() == 0.0 && d.abs() < 9e18 => Key::Int(*d as i64),
            Value::String(text) => Key::String(text.clone()),
            _ => return None,
        })
    }

    /// The key as a value.
    pub fn value(&self) -> Value<'a> {
        match self {
            Key::Bool(b) => Value::Bool(*b),
            Key::Int(n) => Value::Int(*n),
            Key::Uint(n) => Value::Uint(*n),
            Key::String(text) => Value::String(text.clone()),
        }
    }

    fn number(&self) -> Option<i128> {
        match self {
            Key::Int(n) => Some(i128::from(*n)),
            Key::Uint(n) => Some(i128::from(*n)),
            _ => None,
        }
    }
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key<'_> {}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |key: &Key<'_>| match key {
            Key::Bool(_) => 0,
            Key::Int(_) | Key::Uint(_) => 1,
            Key::String(_) => 2,
        };
        match (self, other) {
            (Key::Bool(a), Key::Bool(b)) => a.cmp(b),
            (Key::String(a), Key::String(b)) => a.as_bytes().cmp(b.as_bytes()),
            _ => rank(self)
                .cmp(&rank(other))
                .then_with(|| self.number().cmp(&other.number())),
        }
    }
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Bool(b) => write!(f, "{b}"),
            Key::Int(n) => write!(f, "{n}"),
            Key::Uint(n) => write!(f, "{n}"),
            Key::String(text) => f.write_str(text),
        }
    }
}

/// What the values of a map of the data are.
#[derive(Debug, Clone, Copy)]
pub enum Shape<'a> {
    /// All of one type.
    Values(&'a Type),
    /// Declared fields.
    Object(&'a ObjectType),
}

/// The entries of a computed map.
pub type Entries<'a> = BTreeMap<Key<'a>, Value<'a>>;

/// A map or a message.
#[derive(Clone)]
pub enum Map<'a> {
    /// Of the data.
    Json {
        /// The entries.
        entries: &'a serde_json::Map<String, Json>,
        /// What they are.
        shape: Shape<'a>,
    },
    /// Computed.
    Owned(Rc<Nested<Entries<'a>>>),
    /// A message literal, by its type's name.
    Message(Rc<str>, Rc<Nested<Entries<'a>>>),
}

impl<'a> Map<'a> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        match self {
            Map::Json { entries, .. } => entries.len(),
            Map::Owned(entries) | Map::Message(_, entries) => entries.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key.
    pub fn get(&self, key: &Key<'a>) -> Option<Result<Value<'a>, Error>> {
        match (self, key) {
            (Map::Json { .. }, Key::String(name)) => self.field(name),
            (Map::Json { .. }, _) => None,
            (Map::Owned(entries) | Map::Message(_, entries), key) => entries.get(key).cloned().map(Ok),
        }
    }

    /// The value of a text key, or of the field that an expression names so.
    pub fn field(&self, name: &str) -> Option<Result<Value<'a>, Error>> {
        match self {
            Map::Json { entries, shape } => match shape {
                Shape::Values(ty) => entries.get(name).map(|json| json::value(json, ty)),
                Shape::Object(object) => {
                    let field = object.declared(name)?;
                    entries.get(&field.json).map(|json| json::value(json, &field.ty))
                }
            },
            Map::Owned(entries) | Map::Message(_, entries) => {
                let key = Key::String(Text::Shared(name.into()));
                entries.get(&key).cloned().map(Ok)
            }
        }
    }

    /// All entries, ordered by key.
    pub fn iter(&self) -> Box<dyn Iterator<Item = (Key<'a>, Result<Value<'a>, Error>)> + '_> {
        match self {
            Map::Json { entries, shape } => {
                let (entries, shape): (&'a serde_json::Map<String, Json>, Shape<'a>) = (entries, *shape);
                Box::new(entries.iter().filter_map(move |(name, json)| {
                    let ty = match shape {
                        Shape::Values(ty) => ty,
                        Shape::Object(object) => &object.by_json(name)?.ty,
                    };
                    Some((Key::String(Text::Borrowed(name)), json::value(json, ty)))
                }))
            }
            Map::Owned(entries) | Map::Message(_, entries) => {
                Box::new(entries.iter().map(|(key, value)| (key.clone(), Ok(value.clone()))))
            }
        }
    }
}

static DYN: Type = Type::Dyn;

impl<'a> Value<'a> {
    /// JSON without a schema.
    pub fn from_json(json: &'a Json) -> Value<'a> {
        // Without a schema nothing can fail.
        json::value(json, &DYN).unwrap_or(Value::Null)
    }

    /// JSON with a schema.
    ///
    /// # Errors
    /// Where the data is not what the schema says.
    pub fn typed(json: &'a Json, ty: &'a Type) -> Result<Value<'a>, Error> {
        json::value(json, ty)
    }

    /// Text.
    pub fn string(text: impl Into<Text<'a>>) -> Value<'a> {
        Value::String(text.into())
    }

    /// A computed list.
    pub(crate) fn list(items: Vec<Value<'a>>, fuel: &mut Fuel<'_>) -> Result<Value<'a>, Error> {
        fuel.allocate(items.len() * size_of::<Value<'a>>())?;
        let items = Nested::new(items, |items| Box::new(items.iter()))?;
        Ok(Value::List(List::Owned(items)))
    }

    /// A computed map.
    pub(crate) fn map(entries: Entries<'a>, fuel: &mut Fuel<'_>) -> Result<Value<'a>, Error> {
        fuel.allocate(entries.len() * (size_of::<Key<'a>>() + size_of::<Value<'a>>()))?;
        let entries = Nested::new(entries, |entries| Box::new(entries.values()))?;
        Ok(Value::Map(Map::Owned(entries)))
    }

    /// A message literal.
    pub(crate) fn message(name: &str, fields: Entries<'a>, fuel: &mut Fuel<'_>) -> Result<Value<'a>, Error> {
        fuel.allocate(name.len() + fields.len() * (size_of::<Key<'a>>() + size_of::<Value<'a>>()))?;
        let fields = Nested::new(fields, |fields| Box::new(fields.values()))?;
        Ok(Value::Map(Map::Message(name.into(), fields)))
    }

    /// A present optional value.
    pub(crate) fn some(value: Value<'a>) -> Result<Value<'a>, Error> {
        let inner = Nested::new(value, |value| Box::new(std::iter::once(value)))?;
        Ok(Value::Optional(Some(inner)))
    }

    /// An optional value.
    ///
    /// # Errors
    /// When it nests too deeply.
    pub fn optional(value: Option<Value<'a>>) -> Result<Value<'a>, Error> {
        match value {
            Some(value) => Value::some(value),
            None => Ok(Value::Optional(None)),
        }
    }

    fn depth(&self) -> u16 {
        match self {
            Value::List(List::Owned(items)) => items.depth,
            Value::Map(Map::Owned(entries) | Map::Message(_, entries)) => entries.depth,
            Value::Optional(Some(inner)) => inner.depth,
            _ => 0,
        }
    }

    /// The authorizer, as the variable of that name.
    pub fn authorizer() -> Value<'a> {
        Value::Opaque(Rc::new(Opaque::Authorizer(Check::default())))
    }

    /// The check of a resource, as the variable `authorizer.requestResource`.
    pub fn resource_check(check: Check) -> Value<'a> {
        Value::Opaque(Rc::new(Opaque::ResourceCheck(check)))
    }

    /// The name of the value's type.
    pub fn type_name(&self) -> Text<'a> {
        Text::Borrowed(match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::List(_) => "list",
            Value::Map(Map::Message(name, _)) => return Text::Shared(name.clone()),
            Value::Map(_) | Value::Lazy(_) => "map",
            Value::Optional(_) => "optional_type",
            Value::Type(_) => "type",
            Value::Opaque(opaque) => opaque.type_name(),
        })
    }

    /// `size()` for those that have one, in characters, bytes or items.
    pub(crate) fn size(&self, fuel: &mut Fuel<'_>) -> Result<Option<u64>, Error> {
        Ok(Some(match self {
            Value::String(text) => count(text, fuel)?,
            Value::Bytes(bytes) => bytes.len() as u64,
            Value::List(list) => list.len() as u64,
            Value::Map(map) => map.len() as u64,
            _ => return Ok(None),
        }))
    }

    /// The size that upstream's cost model sees.
    pub(crate) fn cost_size(&self, fuel: &mut Fuel<'_>) -> Result<u64, Error> {
        if let Value::Opaque(opaque) = self {
            return Ok(match **opaque {
                Opaque::Ip(IpAddr::V4(_)) | Opaque::Cidr(IpAddr::V4(_), _) => 4,
                Opaque::Ip(IpAddr::V6(_)) | Opaque::Cidr(IpAddr::V6(_), _) => 16,
                _ => 1,
            });
        }
        Ok(self.size(fuel)?.unwrap_or(1))
    }
}

/// Characters of a text.
fn count(text: &str, fuel: &mut Fuel<'_>) -> Result<u64, Error> {
    fuel.work(text.len() as u64 / 64)?;
    Ok(text.chars().count() as u64)
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(b) => write!(f, "{b}"),
            Value::Int(n) => write!(f, "{n}"),
            Value::Uint(n) => write!(f, "{n}u"),
            Value::Double(d) => write!(f, "{d:?}"),
            Value::String(text) => write!(f, "{:?}", &**text),
            Value::Bytes(bytes) => write!(f, "b{bytes:?}"),
            Value::Timestamp(t) => write!(f, "timestamp({t})"),
            Value::Duration(d) => write!(f, "duration({d}ns)"),
            Value::Type(name) => write!(f, "type({})", &**name),
            Value::Optional(None) => f.write_str("optional.none()"),
            Value::Optional(Some(_)) => f.write_str("optional.of(..)"),
            Value::List(list) => write!(f, "list of {}", list.len()),
            Value::Map(map) => write!(f, "map of {}", map.len()),
            Value::Opaque(opaque) => write!(f, "{opaque:?}"),
            Value::Lazy(_) => f.write_str("lazy"),
        }
    }
}
