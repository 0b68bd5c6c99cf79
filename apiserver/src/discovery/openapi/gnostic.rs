//! Documents as protobuf: the messages of gnostic's `openapi.v2` and `openapi.v3`, as tables that one encoder reads.

use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::Value;

/// A message: its fields, and where everything else goes.
pub struct Message {
    fields: &'static [(&'static str, u32, Type)],
    /// The tag of `x-` words.
    extensions: u32,
    /// For messages that are maps themselves: the tag and value of their entries.
    entries: Option<(u32, Choice)>,
}

/// Which message a value is, and the tags of the wrappers around it, outermost first.
pub type Choice = fn(&Value) -> (&'static [u32], &'static Message);

enum Type {
    Text,
    Texts,
    Flag,
    Number,
    Integer,
    /// Any JSON, as YAML text.
    Any,
    Anys,
    One(Choice),
    Many(Choice),
    /// A message that holds name-value pairs.
    Pairs(Choice),
    /// A message that holds a list of texts.
    TextList,
    /// A message that holds a list of one.
    Items(Choice),
    /// A schema or a flag.
    SchemaOrFlag(Choice),
    /// A number, flag or text.
    Scalar,
}

use Type::{Any, Anys, Flag, Integer, Items, Many, Number, One, Pairs, Scalar, SchemaOrFlag, Text, TextList, Texts};

impl Message {
    /// Appends an object as a message of this kind.
    pub fn encode(&self, value: &Value, out: &mut Vec<u8>) {
        for (name, value) in value.as_object().into_iter().flatten() {
            if let Some((_, tag, ty)) = self.fields.iter().find(|(field, ..)| field == name) {
                ty.encode(*tag, value, out);
            } else if name.starts_with("x-") {
                let mut pair = Vec::new();
                text(1, name, &mut pair);
                nested(2, &any(value), &mut pair);
                nested(self.extensions, &pair, out);
            } else if let Some((tag, choice)) = self.entries {
                nested(tag, &pair(name, value, choice), out);
            }
        }
    }
}

impl Type {
    fn encode(&self, tag: u32, value: &Value, out: &mut Vec<u8>) {
        match self {
            Text => text(tag, value.as_str().unwrap_or_default(), out),
            Texts => value
                .as_array()
                .into_iter()
                .flatten()
                .for_each(|item| text(tag, item.as_str().unwrap_or_default(), out)),
            Flag => varint(tag, u64::from(value.as_bool().unwrap_or_default()), out),
            Number => double(tag, value.as_f64().unwrap_or_default(), out),
            // Negative numbers are ten bytes long, as protobuf has it.
            Integer => varint(tag, value.as_i64().unwrap_or_default().cast_unsigned(), out),
            Any => nested(tag, &any(value), out),
            Anys => value
                .as_array()
                .into_iter()
                .flatten()
                .for_each(|item| nested(tag, &any(item), out)),
            One(choice) => nested(tag, &chosen(value, *choice), out),
            Many(choice) => value
                .as_array()
                .into_iter()
                .flatten()
                .for_each(|item| nested(tag, &chosen(item, *choice), out)),
            Pairs(choice) => {
                let mut pairs = Vec::new();
                for (name, value) in value.as_object().into_iter().flatten() {
                    nested(1, &pair(name, value, *choice), &mut pairs);
                }
                nested(tag, &pairs, out);
            }
            TextList => {
                let mut list = Vec::new();
                match value {
                    Value::Array(items) => items
                        .iter()
                        .for_each(|item| text(1, item.as_str().unwrap_or_default(), &mut list)),
                    one => text(1, one.as_str().unwrap_or_default(), &mut list),
                }
                nested(tag, &list, out);
            }
            Items(choice) => {
                let mut list = Vec::new();
                nested(1, &chosen(value, *choice), &mut list);
                nested(tag, &list, out);
            }
            SchemaOrFlag(choice) => {
                let mut either = Vec::new();
                match value {
                    Value::Bool(flag) => varint(2, u64::from(*flag), &mut either),
                    schema => nested(1, &chosen(schema, *choice), &mut either),
                }
                nested(tag, &either, out);
            }
            Scalar => {
                let mut scalar = Vec::new();
                match value {
                    Value::Number(number) => double(1, number.as_f64().unwrap_or_default(), &mut scalar),
                    Value::Bool(flag) => varint(2, u64::from(*flag), &mut scalar),
                    Value::String(string) => text(3, string, &mut scalar),
                    // The message has no room for objects.
                    _ => return,
                }
                nested(tag, &scalar, out);
            }
        }
    }
}

fn text(tag: u32, text: &str, out: &mut Vec<u8>) {
    nested(tag, text.as_bytes(), out);
}

fn varint(tag: u32, value: u64, out: &mut Vec<u8>) {
    encode_key(tag, WireType::Varint, out);
    encode_varint(value, out);
}

fn double(tag: u32, value: f64, out: &mut Vec<u8>) {
    encode_key(tag, WireType::SixtyFourBit, out);
    out.extend(value.to_le_bytes());
}

/// Appends a length-delimited field.
pub fn nested(tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn any(value: &Value) -> Vec<u8> {
    let mut any = Vec::new();
    // JSON is YAML.
    text(2, &format!("{value}\n"), &mut any);
    any
}

fn chosen(value: &Value, choice: Choice) -> Vec<u8> {
    let (wrappers, message) = choice(value);
    let mut bytes = Vec::new();
    message.encode(value, &mut bytes);
    for tag in wrappers.iter().rev() {
        let inner = std::mem::take(&mut bytes);
        nested(*tag, &inner, &mut bytes);
    }
    bytes
}

/// A name and its value: an entry of a map.
pub fn pair(name: &str, value: &Value, choice: Choice) -> Vec<u8> {
    let mut pair = Vec::new();
    text(1, name, &mut pair);
    nested(2, &chosen(value, choice), &mut pair);
    pair
}

/// `openapi.v2`.
pub mod v2 {
    use super::*;

    /// The tags of `Document` that parts of a document are appended to.
    pub const PATHS: u32 = 8;
    /// See [`PATHS`].
    pub const DEFINITIONS: u32 = 9;
    /// Of `Paths`.
    pub const PATH: u32 = 2;

    /// What of the document is neither path nor definition.
    pub static DOCUMENT: Message = Message {
        fields: &[
            ("swagger", 1, Text),
            ("info", 2, One(|_| (&[], &INFO))),
            ("security", 12, Many(|_| (&[], &REQUIREMENT))),
            ("securityDefinitions", 13, Pairs(|_| (&[2], &API_KEY))),
        ],
        extensions: 16,
        entries: None,
    };
    static INFO: Message = Message {
        fields: &[("title", 1, Text), ("version", 2, Text)],
        extensions: 7,
        entries: None,
    };
    /// `{"BearerToken": []}`.
    static REQUIREMENT: Message = Message {
        fields: &[],
        extensions: 15,
        entries: Some((1, |_| (&[], &EMPTY))),
    };
    static EMPTY: Message = Message {
        fields: &[],
        extensions: 15,
        entries: None,
    };
    static API_KEY: Message = Message {
        fields: &[
            ("type", 1, Text),
            ("name", 2, Text),
            ("in", 3, Text),
            ("description", 4, Text),
        ],
        extensions: 5,
        entries: None,
    };

    /// A definition.
    pub fn schema(_: &Value) -> (&'static [u32], &'static Message) {
        (&[], &SCHEMA)
    }

    /// A path.
    pub fn item(_: &Value) -> (&'static [u32], &'static Message) {
        (&[], &ITEM)
    }

    static SCHEMA: Message = Message {
        fields: &[
            ("$ref", 1, Text),
            ("format", 2, Text),
            ("title", 3, Text),
            ("description", 4, Text),
            ("default", 5, Any),
            ("multipleOf", 6, Number),
            ("maximum", 7, Number),
            ("exclusiveMaximum", 8, Flag),
            ("minimum", 9, Number),
            ("exclusiveMinimum", 10, Flag),
            ("maxLength", 11, Integer),
            ("minLength", 12, Integer),
            ("pattern", 13, Text),
            ("maxItems", 14, Integer),
            ("minItems", 15, Integer),
            ("uniqueItems", 16, Flag),
            ("maxProperties", 17, Integer),
            ("minProperties", 18, Integer),
            ("required", 19, Texts),
            ("enum", 20, Anys),
            ("additionalProperties", 21, SchemaOrFlag(schema)),
            ("type", 22, TextList),
            ("items", 23, Items(schema)),
            ("allOf", 24, Many(schema)),
            ("properties", 25, Pairs(schema)),
            ("example", 30, Any),
        ],
        extensions: 31,
        entries: None,
    };
    static ITEM: Message = Message {
        fields: &[
            ("get", 2, One(operation)),
            ("put", 3, One(operation)),
            ("post", 4, One(operation)),
            ("delete", 5, One(operation)),
            ("options", 6, One(operation)),
            ("head", 7, One(operation)),
            ("patch", 8, One(operation)),
            ("parameters", 9, Many(parameter)),
        ],
        extensions: 10,
        entries: None,
    };

    fn operation(_: &Value) -> (&'static [u32], &'static Message) {
        (&[], &OPERATION)
    }

    static OPERATION: Message = Message {
        fields: &[
            ("tags", 1, Texts),
            ("description", 3, Text),
            ("operationId", 5, Text),
            ("produces", 6, Texts),
            ("consumes", 7, Texts),
            ("parameters", 8, Many(parameter)),
            ("responses", 9, One(|_| (&[], &RESPONSES))),
            ("schemes", 10, Texts),
            ("deprecated", 11, Flag),
        ],
        extensions: 13,
        entries: None,
    };
    static RESPONSES: Message = Message {
        fields: &[],
        extensions: 2,
        entries: Some((1, |_| (&[1], &RESPONSE))),
    };
    static RESPONSE: Message = Message {
        fields: &[("description", 1, Text), ("schema", 2, One(|_| (&[1], &SCHEMA)))],
        extensions: 5,
        entries: None,
    };

    fn parameter(value: &Value) -> (&'static [u32], &'static Message) {
        match value.get("in").and_then(Value::as_str) {
            Some("body") => (&[1, 1], &BODY),
            Some("path") => (&[1, 2, 4], &PATH_PARAMETER),
            _ => (&[1, 2, 3], &QUERY_PARAMETER),
        }
    }

    static BODY: Message = Message {
        fields: &[
            ("description", 1, Text),
            ("name", 2, Text),
            ("in", 3, Text),
            ("required", 4, Flag),
            ("schema", 5, One(schema)),
        ],
        extensions: 6,
        entries: None,
    };
    static QUERY_PARAMETER: Message = Message {
        fields: &[
            ("required", 1, Flag),
            ("in", 2, Text),
            ("description", 3, Text),
            ("name", 4, Text),
            ("type", 6, Text),
            ("format", 7, Text),
            ("uniqueItems", 20, Flag),
        ],
        extensions: 23,
        entries: None,
    };
    static PATH_PARAMETER: Message = Message {
        fields: &[
            ("required", 1, Flag),
            ("in", 2, Text),
            ("description", 3, Text),
            ("name", 4, Text),
            ("type", 5, Text),
            ("format", 6, Text),
            ("uniqueItems", 19, Flag),
        ],
        extensions: 22,
        entries: None,
    };
}

/// `openapi.v3`.
pub mod v3 {
    use super::*;

    /// The tags of `Document` that parts of a document are appended to.
    pub const PATHS: u32 = 4;
    /// See [`PATHS`].
    pub const COMPONENTS: u32 = 5;
    /// Of `Components`.
    pub const SCHEMAS: u32 = 1;
    /// Of `Paths`.
    pub const PATH: u32 = 1;

    /// What of the document is neither path nor schema.
    pub static DOCUMENT: Message = Message {
        fields: &[("openapi", 1, Text), ("info", 2, One(|_| (&[], &INFO)))],
        extensions: 9,
        entries: None,
    };
    static INFO: Message = Message {
        fields: &[("title", 1, Text), ("version", 6, Text)],
        extensions: 7,
        entries: None,
    };

    /// A schema, or a reference to one.
    pub fn schema(value: &Value) -> (&'static [u32], &'static Message) {
        if value.get("$ref").is_some() {
            (&[2], &REFERENCE)
        } else {
            (&[1], &SCHEMA)
        }
    }

    /// A path.
    pub fn item(_: &Value) -> (&'static [u32], &'static Message) {
        (&[], &ITEM)
    }

    static REFERENCE: Message = Message {
        fields: &[("$ref", 1, Text), ("description", 3, Text)],
        extensions: 15,
        entries: None,
    };
    static SCHEMA: Message = Message {
        fields: &[
            ("nullable", 1, Flag),
            ("example", 7, Any),
            ("title", 9, Text),
            ("multipleOf", 10, Number),
            ("maximum", 11, Number),
            ("exclusiveMaximum", 12, Flag),
            ("minimum", 13, Number),
            ("exclusiveMinimum", 14, Flag),
            ("maxLength", 15, Integer),
            ("minLength", 16, Integer),
            ("pattern", 17, Text),
            ("maxItems", 18, Integer),
            ("minItems", 19, Integer),
            ("uniqueItems", 20, Flag),
            ("maxProperties", 21, Integer),
            ("minProperties", 22, Integer),
            ("required", 23, Texts),
            ("enum", 24, Anys),
            ("type", 25, Text),
            ("allOf", 26, Many(schema)),
            ("oneOf", 27, Many(schema)),
            ("anyOf", 28, Many(schema)),
            ("not", 29, One(|_| (&[], &SCHEMA))),
            ("items", 30, Items(schema)),
            ("properties", 31, Pairs(schema)),
            ("additionalProperties", 32, SchemaOrFlag(schema)),
            ("default", 33, Scalar),
            ("description", 34, Text),
            ("format", 35, Text),
        ],
        extensions: 36,
        entries: None,
    };
    static ITEM: Message = Message {
        fields: &[
            ("get", 4, One(operation)),
            ("put", 5, One(operation)),
            ("post", 6, One(operation)),
            ("delete", 7, One(operation)),
            ("options", 8, One(operation)),
            ("head", 9, One(operation)),
            ("patch", 10, One(operation)),
            ("parameters", 13, Many(|_| (&[1], &PARAMETER))),
        ],
        extensions: 14,
        entries: None,
    };

    fn operation(_: &Value) -> (&'static [u32], &'static Message) {
        (&[], &OPERATION)
    }

    static OPERATION: Message = Message {
        fields: &[
            ("tags", 1, Texts),
            ("description", 3, Text),
            ("operationId", 5, Text),
            ("parameters", 6, Many(|_| (&[1], &PARAMETER))),
            ("requestBody", 7, One(|_| (&[1], &BODY))),
            ("responses", 8, One(|_| (&[], &RESPONSES))),
            ("deprecated", 10, Flag),
        ],
        extensions: 13,
        entries: None,
    };
    static PARAMETER: Message = Message {
        fields: &[
            ("name", 1, Text),
            ("in", 2, Text),
            ("description", 3, Text),
            ("required", 4, Flag),
            ("schema", 10, One(schema)),
        ],
        extensions: 14,
        entries: None,
    };
    static BODY: Message = Message {
        fields: &[("content", 2, Pairs(|_| (&[], &MEDIA))), ("required", 3, Flag)],
        extensions: 4,
        entries: None,
    };
    static MEDIA: Message = Message {
        fields: &[("schema", 1, One(schema))],
        extensions: 5,
        entries: None,
    };
    static RESPONSES: Message = Message {
        fields: &[],
        extensions: 3,
        entries: Some((2, |_| (&[1], &RESPONSE))),
    };
    static RESPONSE: Message = Message {
        fields: &[("description", 1, Text), ("content", 3, Pairs(|_| (&[], &MEDIA)))],
        extensions: 5,
        entries: None,
    };
}
