//! The schema table: every message of Kubernetes 1.35 with the JSON name, protobuf tag, type, list semantics and zero-value
//! rules of its fields. `table.rs` is generated; `cargo run -p api --example generate_schema` writes it anew.

#[rustfmt::skip]
mod table;

use std::fmt;

/// One message type.
pub struct Message {
    /// The full protobuf name, as `k8s.io.api.core.v1.Pod`.
    pub name: &'static str,
    /// In the order of upstream's structs, which is the order of its JSON.
    pub fields: &'static [Field],
    /// Server-side apply treats the whole as one value wherever it is used.
    pub atomic: bool,
}

/// One field of a message.
pub struct Field {
    /// Empty if [`Field::inlined`].
    pub json: &'static str,
    /// The protobuf field number.
    pub tag: u32,
    /// Of the value, of each item of a list, or of a whole map.
    pub ty: FieldType,
    /// Whether it is a list.
    pub repeated: bool,
    /// The value's fields stand in the parent's JSON object.
    pub inlined: bool,
    /// The OpenAPI schema requires it.
    pub required: bool,
    /// What JSON shows when the message does not have it.
    pub absent: Absent,
    /// JSON shows an explicit zero: the field is a pointer in Go.
    pub keeps_zero: bool,
    /// How patches and apply merge it.
    pub merge: &'static Merge,
}

/// The type of a field's value.
#[derive(Clone, Copy)]
pub enum FieldType {
    /// `bool`.
    Bool,
    /// `int32`.
    Int32,
    /// `int64`.
    Int64,
    /// `double`.
    Double,
    /// `string`.
    String,
    /// `bytes`, base64 in JSON.
    Bytes,
    /// A quantity's text inside a message.
    Quantity,
    /// A number or a text in JSON.
    IntOrString,
    /// RFC 3339 to the second.
    Time,
    /// RFC 3339 to the microsecond.
    MicroTime,
    /// Any JSON, carried as text.
    RawJson,
    /// A list of strings inside a message of its own.
    StringList,
    /// `JSONSchemaPropsOrBool`.
    SchemaOrBool(&'static Message),
    /// `JSONSchemaPropsOrArray`.
    SchemaOrArray(&'static Message),
    /// `JSONSchemaPropsOrStringArray`.
    SchemaOrStrings(&'static Message),
    /// A message.
    Message(&'static Message),
    /// A map from strings.
    Map(&'static FieldType),
}

/// What JSON shows for a field that the message does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// Nothing.
    Skip,
    /// The zero value: `""`, `0`, `false`, `{}` with its own absent fields.
    Zero,
    /// `null`.
    Null,
    /// `[]`: the items of a list object.
    Empty,
}

/// How patches and server-side apply merge a field.
#[derive(Debug, PartialEq, Eq)]
pub struct Merge {
    /// Of a list.
    pub list_type: ListType,
    /// A map or struct that server-side apply treats as one value.
    pub atomic: bool,
    /// Strategic merge goes into it.
    pub patch_merge: bool,
    /// Strategic merge drops the keys that `$retainKeys` does not name.
    pub patch_retain_keys: bool,
    /// The key by which strategic merge finds a list's items.
    pub patch_merge_key: Option<&'static str>,
    /// The default of a field that is a key of its list, as JSON text.
    pub default: Option<&'static str>,
}

/// Server-side apply's view of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    /// One value.
    Atomic,
    /// Unique scalars.
    Set,
    /// Objects told apart by these fields.
    Map {
        /// JSON names.
        keys: &'static [&'static str],
    },
}

const PLAIN: &Merge = &Merge {
    list_type: ListType::Atomic,
    atomic: false,
    patch_merge: false,
    patch_retain_keys: false,
    patch_merge_key: None,
    default: None,
};

/// The message with this full protobuf name, as `k8s.io.api.core.v1.Pod`.
pub fn message(full_proto_name: &str) -> Option<&'static Message> {
    let messages = table::MESSAGES;
    messages
        .binary_search_by(|message| message.name.cmp(full_proto_name))
        .ok()
        .map(|index| messages[index])
}

/// The message of a kind; lists (`PodList`) and the kinds of `meta/v1` (`Status`, `DeleteOptions`; group empty) are kinds too.
pub fn for_kind(group: &str, version: &str, kind: &str) -> Option<&'static Message> {
    let kinds = table::KINDS;
    let found = kinds.binary_search_by(|(g, v, k, _)| (*g, *v, *k).cmp(&(group, version, kind)));
    found.ok().map(|index| kinds[index].3)
}

/// Every kind: group, version, kind, message; sorted.
pub fn kinds() -> &'static [(&'static str, &'static str, &'static str, &'static Message)] {
    table::KINDS
}

/// Every message, sorted by name.
pub fn messages() -> &'static [&'static Message] {
    table::MESSAGES
}

impl Message {
    /// The field with this protobuf number.
    pub fn field_by_tag(&self, tag: u32) -> Option<(usize, &'static Field)> {
        // Most messages number their fields in order.
        let guess = (tag as usize).wrapping_sub(1);
        match self.fields.get(guess) {
            Some(field) if field.tag == tag => Some((guess, field)),
            _ => self.fields.iter().enumerate().find(|(_, field)| field.tag == tag),
        }
    }

    /// The field that JSON calls so, looking into inlined messages.
    pub fn field(&self, json: &str) -> Option<&'static Field> {
        self.fields.iter().find_map(|field| match field.ty {
            FieldType::Message(inner) if field.inlined => inner.field(json),
            _ => (field.json == json).then_some(field),
        })
    }

    /// The fields that the JSON object shows, inlined ones included.
    pub fn json_fields(&self) -> Box<dyn Iterator<Item = &'static Field>> {
        Box::new(self.fields.iter().flat_map(|field| match field.ty {
            FieldType::Message(inner) if field.inlined => inner.json_fields(),
            _ => Box::new(std::iter::once(field)),
        }))
    }

    /// The name without its package, as `Pod`.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// As Go prints the type: `v1.Pod`.
    pub fn go_name(&self) -> &'static str {
        let mut dots = self.name.rmatch_indices('.').skip(1);
        dots.next().map_or(self.name, |(at, _)| &self.name[at + 1..])
    }
}

impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl FieldType {
    /// The message whose fields the JSON object has, if it is one.
    pub fn message(self) -> Option<&'static Message> {
        match self {
            FieldType::Message(message) => Some(message),
            _ => None,
        }
    }

    /// As Go prints the type of one value: `int32`, `v1.PodSpec`, `map[string]string`.
    pub fn go_name(self) -> String {
        match self {
            FieldType::Bool => "bool".into(),
            FieldType::Int32 => "int32".into(),
            FieldType::Int64 => "int64".into(),
            FieldType::Double => "float64".into(),
            FieldType::String => "string".into(),
            FieldType::Bytes => "[]uint8".into(),
            FieldType::Quantity => "resource.Quantity".into(),
            FieldType::IntOrString => "intstr.IntOrString".into(),
            FieldType::Time => "v1.Time".into(),
            FieldType::MicroTime => "v1.MicroTime".into(),
            FieldType::RawJson => "runtime.RawExtension".into(),
            FieldType::StringList => "[]string".into(),
            FieldType::SchemaOrBool(_) => "v1.JSONSchemaPropsOrBool".into(),
            FieldType::SchemaOrArray(_) => "v1.JSONSchemaPropsOrArray".into(),
            FieldType::SchemaOrStrings(_) => "v1.JSONSchemaPropsOrStringArray".into(),
            FieldType::Message(message) => message.go_name().into(),
            FieldType::Map(value) => format!("map[string]{}", value.go_name()),
        }
    }
}

impl Field {
    /// As Go prints the type of the field: `[]v1.Container`.
    pub fn go_type(&self) -> String {
        let list = if self.repeated { "[]" } else { "" };
        format!("{list}{}", self.ty.go_name())
    }
}

/// A field as the generated table writes it.
const fn f(json: &'static str, tag: u32, ty: FieldType) -> Field {
    let absent = Absent::Skip;
    Field {
        json,
        tag,
        ty,
        repeated: false,
        inlined: false,
        required: false,
        absent,
        keeps_zero: true,
        merge: PLAIN,
    }
}

impl Field {
    const fn list(self) -> Field {
        Field { repeated: true, ..self }
    }

    const fn inline(self) -> Field {
        Field { inlined: true, ..self }
    }

    const fn required(self) -> Field {
        Field { required: true, ..self }
    }

    const fn always(self) -> Field {
        Field {
            absent: Absent::Zero,
            ..self
        }
    }

    const fn null(self) -> Field {
        Field {
            absent: Absent::Null,
            ..self
        }
    }

    const fn empty(self) -> Field {
        Field {
            absent: Absent::Empty,
            ..self
        }
    }

    const fn drops_zero(self) -> Field {
        Field {
            keeps_zero: false,
            ..self
        }
    }

    const fn merge(self, merge: &'static Merge) -> Field {
        Field { merge, ..self }
    }
}
