//! Structural schemas: what a CustomResourceDefinition says of its objects, read once from `openAPIV3Schema`.
//!
//! The tree is the schema as it stands; pruning, defaulting, validation and the rest walk it. It is not judged here: a definition with a
//! schema that is not structural never gets as far (see `validation`).

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::Regex;
use serde_json::Value;

pub mod default;
pub mod format;
pub mod lists;
pub mod metadata;
pub mod prune;
pub mod validate;

/// The fields of an object that are not the schema's to describe.
pub const META_FIELDS: &[&str] = &["apiVersion", "kind", "metadata"];
/// The memory that one compiled pattern may take, bytes.
const PATTERN_MEMORY: usize = 1 << 20;

/// The basic type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// `object`
    Object,
    /// `array`
    Array,
    /// `string`
    String,
    /// `integer`
    Integer,
    /// `number`
    Number,
    /// `boolean`
    Boolean,
}

impl Type {
    /// As the schema writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }

    /// `None` for the empty text and for what is no type.
    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::Object,
            Self::Array,
            Self::String,
            Self::Integer,
            Self::Number,
            Self::Boolean,
        ]
        .into_iter()
        .find(|ty| ty.name() == text)
    }
}

/// How a list's items are told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// Nothing is said: as atomic, but items are compared with those at the same place before a change.
    #[default]
    Unset,
    /// They are not: the list is one value.
    Atomic,
    /// Unique scalars.
    Set,
    /// Objects told apart by these fields.
    Map(Vec<String>),
}

/// What may stand in an object besides the named properties.
#[derive(Clone, Debug, Default)]
pub enum Additional {
    /// Nothing is said.
    #[default]
    Unset,
    /// Anything or nothing.
    Any(bool),
    /// Values of this schema.
    Schema(Box<Schema>),
}

impl Additional {
    /// The schema of the values, if there is one.
    pub fn schema(&self) -> Option<&Schema> {
        match self {
            Self::Schema(schema) => Some(schema),
            _ => None,
        }
    }
}

/// A bound on a number.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// The number as it is written.
    pub value: serde_json::Number,
    /// The number itself is not allowed.
    pub exclusive: bool,
}

/// What a value must satisfy besides its type.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    /// See [`format`].
    pub format: String,
    /// Lower bound.
    pub minimum: Option<Bound>,
    /// Upper bound.
    pub maximum: Option<Bound>,
    /// The number is a multiple of it.
    pub multiple_of: Option<serde_json::Number>,
    /// Characters.
    pub min_length: Option<u64>,
    /// Characters.
    pub max_length: Option<u64>,
    /// The text and what is made of it; `None` for one that does not compile.
    pub pattern: Option<(String, Option<Arc<Regex>>)>,
    /// Items of a list.
    pub min_items: Option<u64>,
    /// Items of a list.
    pub max_items: Option<u64>,
    /// Members of an object.
    pub min_properties: Option<u64>,
    /// Members of an object.
    pub max_properties: Option<u64>,
    /// Members that must be there.
    pub required: Vec<String>,
    /// The only values allowed; empty allows all.
    pub allowed: Vec<Value>,
    /// All of these hold.
    pub all_of: Vec<Schema>,
    /// One of these holds at least.
    pub any_of: Vec<Schema>,
    /// Exactly one of these holds.
    pub one_of: Vec<Schema>,
    /// This does not hold.
    pub not: Option<Box<Schema>>,
}

/// A schema, or a part of one.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// `None` when any type will do.
    pub ty: Option<Type>,
    /// Members of an object.
    pub properties: BTreeMap<String, Schema>,
    /// Other members of an object.
    pub additional: Additional,
    /// Items of a list.
    pub items: Option<Box<Schema>>,
    /// Null is a value.
    pub nullable: bool,
    /// Stands in for a value that is missing.
    pub default: Option<Value>,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub preserve_unknown: bool,
    /// `x-kubernetes-embedded-resource`.
    pub embedded: bool,
    /// `x-kubernetes-int-or-string`.
    pub int_or_string: bool,
    /// `x-kubernetes-list-type` with `x-kubernetes-list-map-keys`.
    pub list_type: ListType,
    /// `x-kubernetes-map-type: atomic`.
    pub atomic: bool,
    /// See there.
    pub checks: Checks,
}

impl Schema {
    /// Reads `openAPIV3Schema`, or a part of it. What has the wrong type counts as not given: the definition's own schema has checked types.
    pub fn parse(value: &Value) -> Self {
        let flag = |key: &str| value.get(key).and_then(Value::as_bool).unwrap_or(false);
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or("");
        let list_type = match text("x-kubernetes-list-type") {
            "set" => ListType::Set,
            "map" => ListType::Map(strings(value, "x-kubernetes-list-map-keys")),
            "atomic" => ListType::Atomic,
            _ => ListType::Unset,
        };
        Self {
            ty: Type::parse(text("type")),
            properties: members(value, "properties"),
            additional: match value.get("additionalProperties") {
                Some(Value::Bool(any)) => Additional::Any(*any),
                Some(schema @ Value::Object(_)) => Additional::Schema(Box::new(Self::parse(schema))),
                _ => Additional::Unset,
            },
            items: value
                .get("items")
                .filter(|items| items.is_object())
                .map(|items| Box::new(Self::parse(items))),
            nullable: flag("nullable"),
            default: value.get("default").filter(|default| !default.is_null()).cloned(),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            list_type,
            atomic: text("x-kubernetes-map-type") == "atomic",
            checks: Checks::parse(value),
        }
    }

    /// The schema of a member of an object.
    pub fn member(&self, key: &str) -> Option<&Schema> {
        self.properties.get(key).or_else(|| self.additional.schema())
    }

    /// Whether anything in it satisfies the test.
    pub fn any(&self, test: &dyn Fn(&Schema) -> bool) -> bool {
        test(self)
            || self.properties.values().any(|schema| schema.any(test))
            || self.additional.schema().is_some_and(|schema| schema.any(test))
            || self.items.as_ref().is_some_and(|schema| schema.any(test))
    }
}

impl Checks {
    fn parse(value: &Value) -> Self {
        let number = |key: &str| value.get(key).and_then(Value::as_u64);
        let bound = |key: &str, exclusive: &str| {
            let Some(Value::Number(bound)) = value.get(key) else {
                return None;
            };
            Some(Bound {
                value: bound.clone(),
                exclusive: value.get(exclusive).and_then(Value::as_bool).unwrap_or(false),
            })
        };
        let schemas = |key: &str| array(value, key).iter().map(Schema::parse).collect();
        Self {
            format: value.get("format").and_then(Value::as_str).unwrap_or("").to_owned(),
            minimum: bound("minimum", "exclusiveMinimum"),
            maximum: bound("maximum", "exclusiveMaximum"),
            multiple_of: match value.get("multipleOf") {
                Some(Value::Number(factor)) => Some(factor.clone()),
                _ => None,
            },
            min_length: number("minLength"),
            max_length: number("maxLength"),
            pattern: value
                .get("pattern")
                .and_then(Value::as_str)
                .filter(|pattern| !pattern.is_empty())
                .map(|pattern| (pattern.to_owned(), compile(pattern).ok().map(Arc::new))),
            min_items: number("minItems"),
            max_items: number("maxItems"),
            min_properties: number("minProperties"),
            max_properties: number("maxProperties"),
            required: strings(value, "required"),
            allowed: array(value, "enum").to_vec(),
            all_of: schemas("allOf"),
            any_of: schemas("anyOf"),
            one_of: schemas("oneOf"),
            not: value
                .get("not")
                .filter(|not| not.is_object())
                .map(|not| Box::new(Schema::parse(not))),
        }
    }
}

/// A pattern as Go's `regexp` would read it, within a bound on memory.
///
/// # Errors
/// The engine's words.
pub fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    regex::RegexBuilder::new(pattern).size_limit(PATTERN_MEMORY).build()
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn strings(value: &Value, key: &str) -> Vec<String> {
    let texts = array(value, key).iter().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

fn members(value: &Value, key: &str) -> BTreeMap<String, Schema> {
    let members = value.get(key).and_then(Value::as_object);
    members
        .into_iter()
        .flatten()
        .map(|(name, schema)| (name.clone(), Schema::parse(schema)))
        .collect()
}
