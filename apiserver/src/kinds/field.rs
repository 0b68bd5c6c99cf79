//! A cursor over a JSON object that knows the path it took, so that validation reads declaratively and reports upstream's field paths.
//! Paths are put together only when there is something to report. Also the few edits that defaulting needs.

use std::fmt;

use api::{FieldError, FieldErrorKind};
use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// What validation found.
pub type Errors = Vec<FieldError>;

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root(&'a str),
    Name(&'a str),
    Index(usize),
    Key(&'a str),
}

/// A value and where it is. A missing field is a cursor on null, so that reading never fails.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    parent: Option<&'a Field<'a>>,
    step: Step<'a>,
    /// The value there; null when there is none.
    pub value: &'a Value,
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        let dot = if self.parent.is_some_and(|p| !p.is_nameless()) {
            "."
        } else {
            ""
        };
        match self.step {
            Step::Root(name) => f.write_str(name),
            Step::Name(name) => write!(f, "{dot}{name}"),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

impl<'a> Field<'a> {
    /// The object itself, whose fields have no prefix, or a part of one at a known path (`spec.template`).
    pub fn root(path: &'a str, value: &'a Value) -> Field<'a> {
        Field {
            parent: None,
            step: Step::Root(path),
            value,
        }
    }

    /// The same place with another value to report: the key of an entry, or a text in place of a secret.
    pub fn showing(self, value: &'a Value) -> Field<'a> {
        Field { value, ..self }
    }

    fn is_nameless(&self) -> bool {
        matches!(self.step, Step::Root(""))
    }

    /// The field of that name.
    pub fn get(&'a self, name: &'a str) -> Field<'a> {
        Field {
            parent: Some(self),
            step: Step::Name(name),
            value: self.value.get(name).unwrap_or(&NULL),
        }
    }

    /// The elements of a list.
    pub fn items(&'a self) -> impl Iterator<Item = Field<'a>> {
        let list = self.value.as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().enumerate().map(|(i, value)| Field {
            parent: Some(self),
            step: Step::Index(i),
            value,
        })
    }

    /// The entries of a map, each with its key.
    pub fn entries(&'a self) -> impl Iterator<Item = (&'a str, Field<'a>)> {
        let map = self.value.as_object();
        map.into_iter().flatten().map(|(key, value)| {
            (
                key.as_str(),
                Field {
                    parent: Some(self),
                    step: Step::Key(key),
                    value,
                },
            )
        })
    }

    /// The entry of a map, printed as `[key]`.
    pub fn key(&'a self, key: &'a str) -> Field<'a> {
        Field {
            parent: Some(self),
            step: Step::Key(key),
            value: self.value.get(key).unwrap_or(&NULL),
        }
    }

    /// Whether there is a value.
    pub fn exists(&self) -> bool {
        !self.value.is_null()
    }

    /// Missing, empty text, an empty list or an empty map.
    pub fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(s) => s.is_empty(),
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
            _ => false,
        }
    }

    /// The text, or empty.
    pub fn str(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    /// The number, if there is one.
    pub fn int(&self) -> Option<i64> {
        self.value.as_i64()
    }

    /// The truth value; missing is false.
    pub fn bool(&self) -> bool {
        self.value.as_bool().unwrap_or(false)
    }

    /// The number, or 0.
    pub fn number(&self) -> i64 {
        self.int().unwrap_or(0)
    }

    /// Number of elements or entries.
    pub fn len(&self) -> usize {
        match self.value {
            Value::Array(a) => a.len(),
            Value::Object(o) => o.len(),
            _ => 0,
        }
    }

    fn report(&self, errors: &mut Errors, kind: FieldErrorKind, bad: Option<Value>, detail: String) {
        errors.push(FieldError {
            kind,
            field: self.to_string(),
            bad_value: bad,
            detail,
        });
    }

    /// `Required value[: detail]`
    pub fn required(&self, errors: &mut Errors, detail: &str) {
        self.report(errors, FieldErrorKind::Required, None, detail.to_owned());
    }

    /// `Invalid value: <value>: detail`
    pub fn invalid(&self, errors: &mut Errors, detail: impl Into<String>) {
        let bad = if self.value.is_null() {
            Value::String(String::new())
        } else {
            self.value.clone()
        };
        self.report(errors, FieldErrorKind::Invalid, Some(bad), detail.into());
    }

    /// One `Invalid value` a message.
    pub fn invalid_all(&self, errors: &mut Errors, details: Vec<String>) {
        for detail in details {
            self.invalid(errors, detail);
        }
    }

    /// `Forbidden: detail`
    pub fn forbidden(&self, errors: &mut Errors, detail: &str) {
        self.report(errors, FieldErrorKind::Forbidden, None, detail.to_owned());
    }

    /// `Duplicate value: <value>`
    pub fn duplicate(&self, errors: &mut Errors) {
        self.report(
            errors,
            FieldErrorKind::Duplicate,
            Some(self.value.clone()),
            String::new(),
        );
    }

    /// `Duplicate value: <value>: detail`, the value being one that stands for the place.
    pub fn duplicate_of(&self, errors: &mut Errors, value: impl Into<Value>, detail: &str) {
        self.report(errors, FieldErrorKind::Duplicate, Some(value.into()), detail.to_owned());
    }

    /// `Invalid value: <value>: detail` with another value than the one here.
    pub fn invalid_as(&self, errors: &mut Errors, value: impl Into<Value>, detail: impl Into<String>) {
        self.report(errors, FieldErrorKind::Invalid, Some(value.into()), detail.into());
    }

    /// `Not found: <value>`
    pub fn not_found(&self, errors: &mut Errors) {
        self.report(
            errors,
            FieldErrorKind::NotFound,
            Some(self.value.clone()),
            String::new(),
        );
    }

    /// `Too long: may not be more than <n> bytes`
    pub fn too_long(&self, errors: &mut Errors, max: usize) {
        self.report(
            errors,
            FieldErrorKind::TooLong,
            Some(Value::String(String::new())),
            format!("may not be more than {max} bytes"),
        );
    }

    /// `Unsupported value: <value>: supported values: "A", "B"`
    pub fn not_supported(&self, errors: &mut Errors, supported: &[&str]) {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let bad = if self.value.is_null() {
            Value::String(String::new())
        } else {
            self.value.clone()
        };
        self.report(
            errors,
            FieldErrorKind::NotSupported,
            Some(bad),
            format!("supported values: {}", list.join(", ")),
        );
    }

    /// Reports each of the fields that is missing or empty.
    pub fn require(&self, errors: &mut Errors, names: &[&str]) {
        for name in names {
            let field = self.get(name);
            if field.is_empty() {
                field.required(errors, "");
            }
        }
    }

    /// Reports what a check says of the text.
    pub fn check(&self, errors: &mut Errors, check: fn(&str) -> Vec<String>) {
        for detail in check(self.str()) {
            self.invalid_as(errors, self.str(), detail);
        }
    }

    /// The same, if there is text.
    pub fn check_if_set(&self, errors: &mut Errors, check: fn(&str) -> Vec<String>) {
        if !self.is_empty() {
            self.check(errors, check);
        }
    }

    /// Missing text is required, other text is checked.
    pub fn required_check(&self, errors: &mut Errors, check: fn(&str) -> Vec<String>) {
        if self.is_empty() {
            self.required(errors, "");
        } else {
            self.check(errors, check);
        }
    }

    /// Reports a number outside of a range; missing counts as 0.
    pub fn in_range(&self, errors: &mut Errors, low: i64, high: i64) {
        let number = self.number();
        for detail in api::names::in_range(number, low, high) {
            self.invalid_as(errors, number, detail);
        }
    }

    /// The same, if there is a number.
    pub fn in_range_if_set(&self, errors: &mut Errors, low: i64, high: i64) {
        if self.exists() {
            self.in_range(errors, low, high);
        }
    }

    /// Reports a list or map with more than so many entries.
    pub fn too_many(&self, errors: &mut Errors, max: usize) {
        if self.len() > max {
            errors.push(FieldError::too_many(self.to_string(), self.len(), max));
        }
    }

    /// Reports text, if there is some, that is not one of the supported values.
    pub fn one_of_if_set(&self, errors: &mut Errors, supported: &[&str]) {
        if self.exists() {
            self.one_of(errors, supported);
        }
    }

    /// Reports text that is not one of the supported values.
    pub fn one_of(&self, errors: &mut Errors, supported: &[&str]) {
        if !supported.contains(&self.str()) {
            self.not_supported(errors, supported);
        }
    }

    /// Reports missing text as required, other text that is not supported.
    pub fn required_one_of(&self, errors: &mut Errors, supported: &[&str]) {
        if self.is_empty() {
            self.required(errors, "")
        } else {
            self.one_of(errors, supported)
        }
    }

    /// Reports a negative number; missing is fine.
    pub fn non_negative(&self, errors: &mut Errors) {
        if self.int().is_some_and(|n| n < 0) {
            self.invalid(errors, "must be greater than or equal to 0");
        }
    }

    /// Reports a change against the value at the same place in the old object.
    pub fn immutable(&self, errors: &mut Errors, old: &Value) {
        if !same(self.value, old) {
            let shown = match (self.value, old) {
                // What Go prints for a pointer to nothing.
                (Value::Null, Value::String(_) | Value::Number(_) | Value::Bool(_)) => "null".into(),
                (value, _) => value.clone(),
            };
            self.invalid_as(errors, shown, IMMUTABLE);
        }
    }

    /// Reports each text of the list, or the text at `name` of each element, that came before.
    pub fn unique(&self, errors: &mut Errors, name: &str) {
        let mut seen = std::collections::HashSet::new();
        for item in self.items() {
            let field = if name.is_empty() { item } else { item.get(name) };
            if !field.is_empty() && !seen.insert(field.value.to_string()) {
                field.duplicate(errors);
            }
        }
    }
}

/// What is said of a change that may not be.
pub const IMMUTABLE: &str = "field is immutable";

/// Whether two values mean the same: an empty list, an empty map and nothing at all are one.
pub fn same(one: &Value, other: &Value) -> bool {
    let empty = |v: &Value| match v {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            let covered = |a: &Map<String, Value>, b: &Map<String, Value>| {
                a.iter().all(|(key, value)| same(value, b.get(key).unwrap_or(&NULL)))
            };
            covered(a, b) && covered(b, a)
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (a, b) => a == b || (empty(a) && empty(b)),
    }
}

/// Port numbers.
pub fn port_number(field: &Field<'_>, errors: &mut Errors) {
    field.in_range(errors, 1, 65535);
}

/// A port by number or by name.
pub fn port_number_or_name(field: &Field<'_>, errors: &mut Errors) {
    match field.value {
        Value::String(_) => field.check(errors, api::names::port_name),
        _ => port_number(field, errors),
    }
}

/// A percentage or a whole number that is not negative (`maxSurge`, `minAvailable`).
pub fn int_or_percent(field: &Field<'_>, errors: &mut Errors) {
    match field.value {
        Value::Null => {}
        Value::Number(_) => field.non_negative(errors),
        _ if percent(field.value).is_none() => {
            field.invalid(errors, "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')");
        }
        _ => {}
    }
}

/// The number of `25%`.
pub fn percent(value: &Value) -> Option<i64> {
    let digits = value.as_str()?.strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// Whether a value counts as unset for a field that is no pointer in upstream's types.
fn is_zero(value: &Value) -> bool {
    matches!(value, Value::Null) || value.as_str() == Some("") || value.as_i64() == Some(0)
}

/// Sets a field that is missing.
pub fn default(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut()
        && map.get(field).is_none_or(Value::is_null)
    {
        map.insert(field.to_owned(), value.into());
    }
}

/// Sets a field that is missing, empty text or zero: upstream's rule for fields that are no pointers.
pub fn default_zero(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut()
        && map.get(field).is_none_or(is_zero)
    {
        map.insert(field.to_owned(), value.into());
    }
}

/// The elements of a list field, to be changed.
pub fn each<'a>(object: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    object
        .get_mut(field)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

/// The object at a field, made if it is missing; `None` only if the parent is no object.
pub fn ensure<'a>(object: &'a mut Value, field: &str) -> Option<&'a mut Value> {
    let entry = object.as_object_mut()?.entry(field).or_insert(Value::Null);
    if entry.is_null() {
        *entry = Value::Object(Map::new());
    }
    Some(entry)
}

/// Sets a field of an object.
pub fn set(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        map.insert(field.to_owned(), value.into());
    }
}

/// Text at a JSON pointer, or empty.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Number at a JSON pointer, or 0.
pub fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// List at a JSON pointer, or none.
pub fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths() {
        let object = json!({"spec": {"containers": [{"env": [{"name": "A"}]}], "labels": {"a.b/c": "x"}}});
        let root = Field::root("", &object);
        let spec = root.get("spec");
        let containers = spec.get("containers");
        let first = containers.items().next().unwrap_or(root);
        assert_eq!(first.get("env").to_string(), "spec.containers[0].env");
        let labels = spec.get("labels");
        assert_eq!(labels.key("a.b/c").to_string(), "spec.labels[a.b/c]");
        assert_eq!(
            Field::root("spec.template", &object).get("spec").to_string(),
            "spec.template.spec"
        );
        assert!(!spec.get("missing").get("deeper").exists());
    }

    #[test]
    fn defaults_keep_what_is_there() {
        let mut object = json!({"a": "", "b": 0, "c": null, "d": "x"});
        default(&mut object, "a", "set");
        default_zero(&mut object, "b", 5);
        default(&mut object, "c", true);
        default_zero(&mut object, "d", "y");
        default_zero(&mut object, "e", "new");
        assert_eq!(object, json!({"a": "", "b": 5, "c": true, "d": "x", "e": "new"}));
    }
}
