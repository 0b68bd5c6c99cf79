//! Validation of objects against a schema, in the words of upstream's validator. A part of an object that an update leaves as it was is
//! not held against it: its faults were there before (ratcheting).

use std::fmt;

use api::FieldError;
use serde_json::{Number, Value};

use super::{Additional, Bound, Checks, ListType, Schema, Type, format};

/// More faults than this are not reported.
const MOST: usize = 500;
/// As upstream prints the path of nothing.
pub const NOWHERE: &str = "<nil>";

/// The faults of a value at a path (empty for a whole object); `old` is what was there before an update.
pub fn validate(path: &str, value: &Value, old: Option<&Value>, schema: &Schema) -> Vec<FieldError> {
    let root = Path {
        parent: None,
        step: Step::Root(path),
    };
    let mut faults = check(&root, value, old, schema).faults;
    faults.truncate(MOST);
    faults
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root(&'a str),
    Field(&'a str),
    Index(usize),
}

/// Where a value is; written out only when there is something to report.
#[derive(Clone, Copy)]
struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nameless = self.parent.is_none_or(|parent| matches!(parent.step, Step::Root("")));
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root(path) => f.write_str(path),
            Step::Field(name) if nameless => f.write_str(name),
            Step::Field(name) => write!(f, ".{name}"),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

impl<'a> Path<'a> {
    fn field(&'a self, name: &'a str) -> Self {
        Self {
            parent: Some(self),
            step: Step::Field(name),
        }
    }

    fn index(&'a self, index: usize) -> Self {
        Self {
            parent: Some(self),
            step: Step::Index(index),
        }
    }

    /// As the path of a `FieldError`: upstream prints a path of nothing so.
    fn name(&self) -> String {
        match self.to_string() {
            path if path.is_empty() => NOWHERE.to_owned(),
            path => path,
        }
    }

    fn invalid(&self, value: &Value, why: impl fmt::Display) -> FieldError {
        FieldError::invalid(self.name(), value.clone(), format!("{self} in body {why}"))
    }
}

/// What a check found, and how much of the schema it got to: of several alternatives the one that got farthest is reported.
#[derive(Default)]
struct Outcome {
    faults: Vec<FieldError>,
    reached: usize,
}

impl Outcome {
    fn add(&mut self, fault: FieldError) {
        self.faults.push(fault);
    }

    fn merge(&mut self, other: Outcome) {
        self.faults.extend(other.faults);
        self.reached += other.reached;
    }
}

fn check(path: &Path<'_>, value: &Value, old: Option<&Value>, schema: &Schema) -> Outcome {
    let mut found = Outcome {
        reached: 1,
        ..Outcome::default()
    };
    check_type(path, value, schema, &mut found);
    if !value.is_null() {
        alternatives(path, value, old, &schema.checks, &mut found);
    }
    match value {
        Value::String(text) => {
            found.faults.extend(check_text(path, value, text, &schema.checks));
            let name = schema.checks.format.as_str();
            if format::is_known(name) && !format::holds(name, text) {
                let why = format!("{path} in body must be of type {name}: {text:?}");
                found.add(FieldError::type_invalid(path.name(), text.as_str(), why));
            }
        }
        Value::Number(number) => check_number(path, value, number, &schema.checks, &mut found),
        Value::Array(items) => check_items(path, items, old, schema, &mut found),
        _ => {}
    }
    if !schema.checks.allowed.is_empty() && !schema.checks.allowed.iter().any(|allowed| same(allowed, value)) {
        found.add(unsupported(path, value, &schema.checks.allowed));
    }
    if let Value::Object(members) = value {
        check_members(path, members, old, schema, &mut found);
    }
    // What was there before may stay.
    if !found.faults.is_empty() && old == Some(value) {
        found.faults.clear();
    }
    found
}

/// The name of a value's type.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn check_type(path: &Path<'_>, value: &Value, schema: &Schema, found: &mut Outcome) {
    let wanted: &[Type] = match (schema.int_or_string, &schema.ty) {
        (true, _) => &[Type::Integer, Type::String],
        (false, Some(ty)) => std::slice::from_ref(ty),
        (false, None) => return,
    };
    let is = type_name(value);
    let whole = value.as_f64().is_some_and(|number| number.fract() == 0.0);
    let fits = wanted.iter().any(|ty| match ty {
        Type::Integer => is == "integer" || (is == "number" && whole),
        Type::Number => value.is_number(),
        ty => ty.name() == is,
    });
    if fits || (value.is_null() && schema.nullable) {
        return;
    }
    let wanted: Vec<&str> = wanted.iter().map(|ty| ty.name()).collect();
    let why = format!("{path} in body must be of type {}: {is:?}", wanted.join(","));
    found.add(FieldError::type_invalid(path.name(), is, why));
}

/// `allOf`, `anyOf`, `oneOf` and `not`.
fn alternatives(path: &Path<'_>, value: &Value, old: Option<&Value>, checks: &Checks, found: &mut Outcome) {
    // Upstream keeps the path of these in the message only.
    let say = |why: String| FieldError::invalid(NOWHERE, "", format!("{:?} {why}", path.to_string()));
    let try_all = |schemas: &[Schema]| -> Vec<Outcome> {
        let outcomes = schemas.iter().map(|schema| check(path, value, old, schema));
        outcomes.collect()
    };
    let farthest = |outcomes: Vec<Outcome>| {
        let mut best: Option<Outcome> = None;
        for outcome in outcomes {
            if best.as_ref().is_none_or(|best| outcome.reached > best.reached) {
                best = Some(outcome);
            }
        }
        best.unwrap_or_default()
    };
    if !checks.any_of.is_empty() {
        let outcomes = try_all(&checks.any_of);
        if outcomes.iter().all(|outcome| !outcome.faults.is_empty()) {
            found.add(say("must validate at least one schema (anyOf)".into()));
            found.merge(farthest(outcomes));
        }
    }
    if !checks.one_of.is_empty() {
        let outcomes = try_all(&checks.one_of);
        match outcomes.iter().filter(|outcome| outcome.faults.is_empty()).count() {
            1 => {}
            0 => {
                found.add(say(
                    "must validate one and only one schema (oneOf). Found none valid".into()
                ));
                found.merge(farthest(outcomes));
            }
            many => found.add(say(format!(
                "must validate one and only one schema (oneOf). Found {many} valid alternatives"
            ))),
        }
    }
    if !checks.all_of.is_empty() {
        let outcomes = try_all(&checks.all_of);
        let valid = outcomes.iter().filter(|outcome| outcome.faults.is_empty()).count();
        let all = outcomes.len();
        outcomes.into_iter().for_each(|outcome| found.merge(outcome));
        if valid < all {
            let none = if valid == 0 { ". None validated" } else { "" };
            found.add(say(format!("must validate all the schemas (allOf){none}")));
        }
    }
    if let Some(not) = &checks.not
        && check(path, value, old, not).faults.is_empty()
    {
        found.add(say("must not validate the schema (not)".into()));
    }
}

/// The first fault of a text.
fn check_text(path: &Path<'_>, value: &Value, text: &str, checks: &Checks) -> Option<FieldError> {
    let length = || text.chars().count() as u64;
    if let Some(max) = checks.max_length
        && length() > max
    {
        return Some(FieldError::too_long(
            path.name(),
            usize::try_from(max).unwrap_or(usize::MAX),
        ));
    }
    if let Some(min) = checks.min_length
        && length() < min
    {
        return Some(path.invalid(value, format_args!("should be at least {min} chars long")));
    }
    match &checks.pattern {
        Some((pattern, Some(regex))) if !regex.is_match(text) => {
            Some(path.invalid(value, format_args!("should match '{pattern}'")))
        }
        _ => None,
    }
}

fn check_number(path: &Path<'_>, value: &Value, number: &Number, checks: &Checks, found: &mut Outcome) {
    if let Some(factor) = &checks.multiple_of
        && !is_multiple(number, factor)
    {
        let why = format!("should be a multiple of {}", shown(factor, number));
        found.add(path.invalid(value, why));
    }
    let beyond = |bound: &Bound, beyond: std::cmp::Ordering| {
        let order = compare(number, &bound.value);
        order == Some(beyond) || (bound.exclusive && order == Some(std::cmp::Ordering::Equal))
    };
    if let Some(max) = &checks.maximum
        && beyond(max, std::cmp::Ordering::Greater)
    {
        let or_equal = if max.exclusive { "" } else { " or equal to" };
        let why = format!("should be less than{or_equal} {}", shown(&max.value, number));
        found.add(path.invalid(value, why));
    }
    if let Some(min) = &checks.minimum
        && beyond(min, std::cmp::Ordering::Less)
    {
        let or_equal = if min.exclusive { "" } else { " or equal to" };
        let why = format!("should be greater than{or_equal} {}", shown(&min.value, number));
        found.add(path.invalid(value, why));
    }
}

fn compare(a: &Number, b: &Number) -> Option<std::cmp::Ordering> {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

fn is_multiple(number: &Number, factor: &Number) -> bool {
    if let (Some(number), Some(factor)) = (number.as_i64(), factor.as_i64()) {
        return factor == 0 || number % factor == 0;
    }
    let (Some(number), Some(factor)) = (number.as_f64(), factor.as_f64()) else {
        return true;
    };
    let quotient = number / factor;
    !quotient.is_finite() || (quotient - quotient.round()).abs() <= f64::EPSILON * quotient.abs().max(1.0)
}

/// A bound as Go prints it: like the value it bounds, whole or not.
fn shown(bound: &Number, value: &Number) -> String {
    match (bound.as_i64(), bound.as_f64()) {
        (Some(whole), _) if !value.is_f64() => whole.to_string(),
        (_, Some(float)) => go_float(float),
        _ => bound.to_string(),
    }
}

/// `%v` of a `float64`.
fn go_float(float: f64) -> String {
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..21).contains(&exponent) {
        return float.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

fn check_items(path: &Path<'_>, items: &[Value], old: Option<&Value>, schema: &Schema, found: &mut Outcome) {
    if let Some(item) = &schema.items {
        let before = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for (index, value) in items.iter().enumerate() {
            if found.faults.len() >= MOST {
                return;
            }
            let old = correlated(before, index, value, &schema.list_type);
            found.merge(check(&path.index(index), value, old, item));
        }
    }
    let count = items.len() as u64;
    if let Some(min) = schema.checks.min_items
        && count < min
    {
        found.add(path.invalid(&count.into(), format_args!("should have at least {min} items")));
    }
    if let Some(max) = schema.checks.max_items
        && count > max
    {
        found.add(too_many(path, items.len(), max));
    }
}

fn too_many(path: &Path<'_>, count: usize, max: u64) -> FieldError {
    FieldError::too_many(path.name(), count, usize::try_from(max).unwrap_or(usize::MAX))
}

/// What an item was before an update.
fn correlated<'a>(before: &'a [Value], index: usize, item: &Value, list_type: &ListType) -> Option<&'a Value> {
    match list_type {
        ListType::Unset => before.get(index),
        ListType::Atomic | ListType::Set => None,
        ListType::Map(keys) => before
            .iter()
            .find(|old| keys.iter().all(|key| old.get(key) == item.get(key))),
    }
}

fn check_members(
    path: &Path<'_>,
    members: &serde_json::Map<String, Value>,
    old: Option<&Value>,
    schema: &Schema,
    found: &mut Outcome,
) {
    let count = members.len() as u64;
    if let Some(min) = schema.checks.min_properties
        && count < min
    {
        found.add(path.invalid(&count.into(), format_args!("should have at least {min} properties")));
        return;
    }
    if let Some(max) = schema.checks.max_properties
        && count > max
    {
        found.add(too_many(path, members.len(), max));
        return;
    }
    for name in schema
        .checks
        .required
        .iter()
        .filter(|name| !members.contains_key(*name))
    {
        found.add(FieldError::required(path.field(name).name(), ""));
    }
    for (key, member) in members {
        if found.faults.len() >= MOST {
            return;
        }
        let old = old.and_then(|old| old.get(key));
        match (schema.properties.get(key), &schema.additional) {
            (Some(property), _) => found.merge(check(&path.field(key), member, old, property)),
            (None, Additional::Schema(other)) => found.merge(check(&path.field(key), member, old, other)),
            (None, Additional::Any(false)) if !schema.preserve_unknown => {
                let why = format!("{path}.{key} in body is a forbidden property");
                found.add(FieldError::invalid(path.name(), key.as_str(), why));
            }
            _ => {}
        }
    }
}

/// Equality of JSON values, numbers by value.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare(a, b) == Some(std::cmp::Ordering::Equal),
        _ => a == b,
    }
}

fn unsupported(path: &Path<'_>, value: &Value, allowed: &[Value]) -> FieldError {
    let texts: Vec<String> = allowed
        .iter()
        .map(|value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    FieldError::not_supported(path.name(), value.clone(), &texts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn faults(schema: Value, object: Value) -> Vec<String> {
        let schema = Schema::parse(&schema);
        let found = validate("", &object, None, &schema);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn faults_are_worded_as_upstream_words_them() {
        let of = |property: Value| json!({"type": "object", "properties": {"a": property}});
        for (property, value, expected) in [
            (
                json!({"type": "integer"}),
                json!("x"),
                r#"a: Invalid value: "string": a in body must be of type integer: "string""#,
            ),
            (
                json!({"type": "string"}),
                json!(null),
                r#"a: Invalid value: "null": a in body must be of type string: "null""#,
            ),
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!(true),
                r#"a: Invalid value: "boolean": a in body must be of type integer,string: "boolean""#,
            ),
            (
                json!({"type": "integer", "minimum": 1}),
                json!(0),
                "a: Invalid value: 0: a in body should be greater than or equal to 1",
            ),
            (
                json!({"type": "integer", "minimum": 1, "exclusiveMinimum": true}),
                json!(1),
                "a: Invalid value: 1: a in body should be greater than 1",
            ),
            (
                json!({"type": "number", "maximum": 1.5}),
                json!(2.5),
                "a: Invalid value: 2.5: a in body should be less than or equal to 1.5",
            ),
            (
                json!({"type": "integer", "multipleOf": 3}),
                json!(4),
                "a: Invalid value: 4: a in body should be a multiple of 3",
            ),
            (
                json!({"type": "string", "minLength": 3}),
                json!("ab"),
                r#"a: Invalid value: "ab": a in body should be at least 3 chars long"#,
            ),
            (
                json!({"type": "string", "maxLength": 1}),
                json!("ab"),
                "a: Too long: may not be more than 1 bytes",
            ),
            (
                json!({"type": "string", "pattern": "^x+$"}),
                json!("y"),
                r#"a: Invalid value: "y": a in body should match '^x+$'"#,
            ),
            (
                json!({"type": "string", "enum": ["x", "y"]}),
                json!("z"),
                r#"a: Unsupported value: "z": supported values: "x", "y""#,
            ),
            (
                json!({"type": "string", "format": "date-time"}),
                json!("z"),
                r#"a: Invalid value: "z": a in body must be of type date-time: "z""#,
            ),
            (
                json!({"type": "array", "maxItems": 1, "items": {"type": "string"}}),
                json!(["x", "y"]),
                "a: Too many: 2: must have at most 1 item",
            ),
            (
                json!({"type": "array", "minItems": 1, "items": {"type": "string"}}),
                json!([]),
                "a: Invalid value: 0: a in body should have at least 1 items",
            ),
            (
                json!({"type": "object", "required": ["b"]}),
                json!({}),
                "a.b: Required value",
            ),
            (
                json!({"type": "object", "minProperties": 1}),
                json!({}),
                "a: Invalid value: 0: a in body should have at least 1 properties",
            ),
            (
                json!({"type": "array", "items": {"type": "object", "additionalProperties": {"type": "string"}}}),
                json!([{"k": 1}]),
                r#"a[0].k: Invalid value: "integer": a[0].k in body must be of type string: "integer""#,
            ),
            (
                json!({"type": "string", "not": {"enum": ["x"]}}),
                json!("x"),
                r#"<nil>: Invalid value: "": "a" must not validate the schema (not)"#,
            ),
            (
                json!({"type": "string", "oneOf": [{"enum": ["x"]}, {"minLength": 1}]}),
                json!("x"),
                r#"<nil>: Invalid value: "": "a" must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
            ),
        ] {
            assert_eq!(faults(of(property), json!({"a": value})), [expected]);
        }
        assert!(faults(of(json!({"type": "integer"})), json!({"a": 1.0})).is_empty());
        assert!(faults(of(json!({"type": "string", "nullable": true})), json!({"a": null})).is_empty());
        assert!(
            faults(
                of(json!({"anyOf": [{"type": "string"}, {"type": "integer"}]})),
                json!({"a": 1})
            )
            .is_empty()
        );
    }

    #[test]
    fn alternatives_tell_what_came_nearest() {
        let schema = json!({"type": "object", "oneOf": [{"required": ["x"]}, {"required": ["y"]}]});
        assert_eq!(
            faults(schema, json!({})),
            [
                r#"<nil>: Invalid value: "": "" must validate one and only one schema (oneOf). Found none valid"#,
                "x: Required value"
            ]
        );
    }

    #[test]
    fn what_was_there_may_stay() {
        let schema = Schema::parse(&json!({"type": "object", "properties": {
            "a": {"type": "string", "maxLength": 1},
            "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"], "items": {"type": "object", "properties": {
                "n": {"type": "string"}, "v": {"type": "string", "maxLength": 1}}}}}}));
        let old = json!({"a": "long", "list": [{"n": "x", "v": "long"}, {"n": "y"}]});
        let moved = json!({"a": "long", "b": 1, "list": [{"n": "y"}, {"n": "x", "v": "long"}]});
        assert!(validate("", &moved, Some(&old), &schema).is_empty());
        let worse = json!({"a": "longer", "list": [{"n": "x", "v": "longer"}]});
        assert_eq!(validate("", &worse, Some(&old), &schema).len(), 2);
        assert_eq!(validate("", &old, None, &schema).len(), 2);
    }

    #[test]
    fn floats_are_printed_as_go_prints_them() {
        for (float, text) in [(1.5, "1.5"), (10.0, "10"), (1e21, "1e+21"), (1e-7, "1e-07")] {
            assert_eq!(go_float(float), text);
        }
    }

    proptest! {
        #[test]
        fn an_unchanged_object_has_no_faults(numbers in proptest::collection::vec(any::<i64>(), 0..5), text in "[a-z]{0,9}") {
            let schema = Schema::parse(&json!({"type": "object", "properties": {"n": {"type": "array", "maxItems": 2, "items": {"type": "integer", "maximum": 7}}, "t": {"type": "string", "maxLength": 3}}}));
            let object = json!({"n": numbers, "t": text});
            prop_assert!(validate("", &object, Some(&object), &schema).is_empty());
        }
    }
}
