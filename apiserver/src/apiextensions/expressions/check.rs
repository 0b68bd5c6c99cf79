//! What is wrong with the rules of a schema: what does not compile, what cannot be evaluated on an update, and what may cost too much.

use api::FieldError;
use cel::Program;
use serde_json::Value;

use super::declare::{Declared, MAX_REQUEST, declare};
use super::tree::{array, env, flag, list_kind, number, text};

/// The cost that one expression may reach over the largest object.
const RULE_LIMIT: u64 = 10_000_000;
/// The cost that all expressions of a schema may reach.
const SCHEMA_LIMIT: u64 = 100_000_000;
/// How many expressions are named when the schema as a whole is too expensive.
const NAMED: usize = 4;

const REASONS: &[&str] = &[
    "FieldValueDuplicate",
    "FieldValueForbidden",
    "FieldValueInvalid",
    "FieldValueRequired",
];

/// The faults of the rules of `openAPIV3Schema`, which stands at that path.
pub fn check(document: &Value, path: &str) -> Vec<FieldError> {
    let mut checker = Checker {
        faults: Vec::new(),
        total: 0,
        expensive: Vec::new(),
    };
    let root = Place {
        path: path.to_owned(),
        resource: true,
        count: Some(1),
        uncorrelatable: None,
    };
    checker.schema(document, &root);
    checker.finish(path)
}

/// A place in the schema.
struct Place {
    path: String,
    resource: bool,
    /// How often a rule here is evaluated at most; `None` when nothing but the size of the request bounds it.
    count: Option<u64>,
    /// The place above that makes old values unknown.
    uncorrelatable: Option<String>,
}

struct Checker {
    faults: Vec<FieldError>,
    total: u64,
    expensive: Vec<(u64, String)>,
}

impl Checker {
    fn schema(&mut self, schema: &Value, place: &Place) {
        let below = |step: String, count: Option<u64>, uncorrelatable: Option<String>| Place {
            path: format!("{}{step}", place.path),
            resource: false,
            count,
            uncorrelatable: place.uncorrelatable.clone().or(uncorrelatable),
        };
        let rules = array(schema, "x-kubernetes-validations");
        if !rules.is_empty() {
            self.rules(schema, rules, place);
        }
        let times = |most: Option<u64>| Some(place.count?.saturating_mul(most?));
        let atomic = text(schema, "x-kubernetes-map-type") == "atomic";
        for (name, property) in schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let lost = atomic.then(|| place.path.clone());
            self.schema(property, &below(format!(".properties[{name}]"), place.count, lost));
        }
        if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
            let lost = atomic.then(|| place.path.clone());
            let count = times(number(schema, "maxProperties"));
            self.schema(values, &below(".additionalProperties".into(), count, lost));
        }
        if let Some(items) = schema.get("items").filter(|items| items.is_object()) {
            let keyed = matches!(list_kind(schema), cel::ListKind::Map(_));
            let lost = (!keyed).then(|| place.path.clone());
            let count = times(number(schema, "maxItems"));
            self.schema(items, &below(".items".into(), count, lost));
        }
        for (index, part) in array(schema, "allOf").iter().enumerate() {
            self.schema(part, &below(format!(".allOf[{index}]"), place.count, None));
        }
    }

    fn rules(&mut self, schema: &Value, rules: &[Value], place: &Place) {
        let at = format!("{}.x-kubernetes-validations", place.path);
        let Some(declared) = declare(schema, place.resource) else {
            let (name, preserve) = (
                text(schema, "type"),
                flag(schema, "x-kubernetes-preserve-unknown-fields"),
            );
            let why = format!(
                "rule declared on schema that does not support validation rules type: '{name}' x-kubernetes-preserve-unknown-fields: '{preserve}'"
            );
            self.faults
                .push(FieldError::invalid(at, Value::from(rules.to_vec()), why));
            return;
        };
        for (index, rule) in rules.iter().enumerate() {
            self.rule(rule, &declared, place, &format!("{at}[{index}]"), schema);
        }
    }

    fn rule(&mut self, rule: &Value, declared: &Declared, place: &Place, at: &str, schema: &Value) {
        let (source, made) = (text(rule, "rule"), text(rule, "messageExpression"));
        self.texts(rule, at);
        let field = text(rule, "fieldPath");
        if !field.is_empty()
            && let Err(why) = follow(schema, field)
        {
            let why = format!("fieldPath must be a valid path: {why}");
            self.faults
                .push(FieldError::invalid(format!("{at}.fieldPath"), field, why));
        }
        let env = env(&declared.ty, flag(rule, "optionalOldSelf"));
        if !source.trim().is_empty() {
            let path = format!("{at}.rule");
            match env.compile(source) {
                Err(error) => {
                    let why = format!("compilation failed: {error}");
                    self.faults.push(FieldError::invalid(path, rule.clone(), why));
                }
                Ok(program) if program.output() != &cel::Type::Bool => {
                    let why = "cel expression must evaluate to a bool";
                    self.faults.push(FieldError::invalid(path, rule.clone(), why));
                }
                Ok(program) => {
                    if let (true, Some(lost)) = (program.mentions(1), &place.uncorrelatable) {
                        let why =
                            format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {lost}");
                        self.faults.push(FieldError::invalid(path.clone(), rule.clone(), why));
                    }
                    self.cost(&program, declared, place, path, "estimated rule cost");
                }
            }
        }
        if !made.trim().is_empty() {
            let path = format!("{at}.messageExpression");
            match env.compile(made) {
                Err(error) => {
                    let why = format!("messageExpression compilation failed: {error}");
                    self.faults.push(FieldError::invalid(path, rule.clone(), why));
                }
                Ok(program) if !matches!(program.output(), cel::Type::String(_)) => {
                    let why = "messageExpression must evaluate to a string";
                    self.faults.push(FieldError::invalid(path, rule.clone(), why));
                }
                Ok(program) => self.cost(&program, declared, place, path, "estimated messageExpression cost"),
            }
        }
    }

    /// Faults that need no compiler.
    fn texts(&mut self, rule: &Value, at: &str) {
        let (source, message, made) = (
            text(rule, "rule"),
            text(rule, "message"),
            text(rule, "messageExpression"),
        );
        let breaks = |text: &str| text.trim().contains(['\n', '\r']);
        if source.trim().is_empty() {
            self.faults
                .push(FieldError::required(format!("{at}.rule"), "rule is not specified"));
        }
        if !made.is_empty() && made.trim().is_empty() {
            let why = "messageExpression must be non-empty if specified";
            self.faults
                .push(FieldError::required(format!("{at}.messageExpression"), why));
        }
        let place = format!("{at}.message");
        if !message.is_empty() && message.trim().is_empty() {
            let why = "message must be non-empty if specified";
            self.faults.push(FieldError::invalid(place, message, why));
        } else if breaks(message) {
            let why = "message must not contain line breaks";
            self.faults.push(FieldError::invalid(place, message, why));
        } else if breaks(source) && message.trim().is_empty() {
            let why = "message must be specified if rule contains line breaks";
            self.faults.push(FieldError::required(place, why));
        }
        let reason = text(rule, "reason");
        if !reason.is_empty() && !REASONS.contains(&reason) {
            self.faults
                .push(FieldError::not_supported(format!("{at}.reason"), reason, REASONS));
        }
    }

    fn cost(&mut self, program: &Program, declared: &Declared, place: &Place, path: String, what: &str) {
        // As many as fit into a request.
        let most = MAX_REQUEST / (declared.least + 1);
        let cost = program.estimate().max.saturating_mul(place.count.unwrap_or(most));
        if cost > RULE_LIMIT {
            self.faults
                .push(FieldError::forbidden(path.clone(), exceeds(what, cost, RULE_LIMIT)));
        }
        self.total = self.total.saturating_add(cost);
        if cost >= SCHEMA_LIMIT / 100 {
            self.expensive.push((cost, path));
            self.expensive.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
            self.expensive.truncate(NAMED);
        }
    }

    fn finish(mut self, path: &str) -> Vec<FieldError> {
        if self.total > SCHEMA_LIMIT {
            for (_, place) in std::mem::take(&mut self.expensive) {
                let why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
                self.faults.push(FieldError::forbidden(place, why));
            }
            let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
            let why = exceeds(what, self.total, SCHEMA_LIMIT);
            self.faults.push(FieldError::forbidden(path, why));
        }
        self.faults
    }
}

fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where \
         arrays, maps, and strings are declared)"
    )
}

/// Goes along `.a['b'].c` through the schema.
fn follow(schema: &Value, path: &str) -> Result<(), String> {
    let mut at = schema;
    let mut rest = path;
    while !rest.is_empty() {
        let name;
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            (name, rest) = after.split_at(end);
        } else if let Some(after) = rest.strip_prefix("['") {
            let Some(end) = after.find("']") else {
                return Err("unexpected end of JSON path".into());
            };
            (name, rest) = (&after[..end], &after[end + 2..]);
        } else {
            let token: String = rest.chars().take_while(|c| !matches!(c, '.' | '[' | ']')).collect();
            return Err(format!("expected [ or . but got: {token}"));
        }
        let next = at.get("properties").and_then(|properties| properties.get(name));
        let values = at.get("additionalProperties").filter(|values| values.is_object());
        match next.or(values) {
            Some(next) => at = next,
            None => return Err("does not refer to a valid field".into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(properties: Value) -> Vec<String> {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}});
        let faults = check(&schema, "schema");
        faults
            .iter()
            .map(|fault| format!("{}: {}: {}", fault.field, fault.kind.text(), fault.detail))
            .collect()
    }

    #[test]
    fn rules_are_compiled_against_the_schema() {
        let rules = json!([
            {"rule": "self.x > 1"}, {"rule": "size(self)"}, {"rule": ""}, {"rule": "true", "reason": "Odd", "fieldPath": ".y", "message": "a\nb"},
            {"rule": "true", "messageExpression": "1"},
        ]);
        let properties = json!({"a": {"type": "object", "properties": {"b": {"type": "integer"}}, "x-kubernetes-validations": rules}});
        let at = "schema.properties[spec].properties[a].x-kubernetes-validations";
        let faults = found(properties);
        assert_eq!(
            faults[0],
            format!(
                "{at}[0].rule: Invalid value: compilation failed: ERROR: <input>:1:5: undefined field 'x'\n | self.x > 1\n | ....^"
            )
        );
        for (index, (place, text)) in [
            (
                "[1].rule",
                "found no matching overload for 'size' applied to '(object)'",
            ),
            ("[2].rule", "rule is not specified"),
            ("[3].message", "message must not contain line breaks"),
            ("[3].reason", "Unsupported value"),
            ("[3].fieldPath", "does not refer to a valid field"),
            ("[4].messageExpression", "messageExpression must evaluate to a string"),
        ]
        .iter()
        .enumerate()
        {
            let fault = &faults[index + 1];
            assert!(
                fault.starts_with(&format!("{at}{place}: ")) && fault.contains(text),
                "{fault}"
            );
        }
    }

    #[test]
    fn cost_is_bounded_by_the_sizes_of_the_schema() {
        // The largest maxItems that upstream accepts for each maxLength.
        for (length, items) in [(16, 909_090), (63, 333_333), (253, 94_339), (1024, 24_154)] {
            let tags = |items: u64| {
                json!({"tags": {"type": "array", "maxItems": items, "items": {"type": "string", "maxLength": length},
                    "x-kubernetes-validations": [{"rule": "self.all(x, x.contains('gpu'))"}]}})
            };
            assert_eq!(found(tags(items)), Vec::<String>::new(), "{length}");
            assert!(!found(tags(items + items / 50)).is_empty(), "{length}");
        }
        let unbounded = json!({"tags": {"type": "array", "items": {"type": "string"},
            "x-kubernetes-validations": [{"rule": "self.all(x, x.contains('gpu'))"}]}});
        let faults = found(unbounded);
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(
            faults[0].contains("Forbidden: estimated rule cost exceeds budget by factor of more than 100x"),
            "{faults:?}"
        );
        assert!(
            faults[1].contains("contributed to estimated rule cost total"),
            "{faults:?}"
        );
        assert!(
            faults[2].starts_with("schema: Forbidden: x-kubernetes-validations estimated rule cost total"),
            "{faults:?}"
        );
    }

    #[test]
    fn old_values_must_be_known() {
        let items = |kind: &str| {
            json!({"l": {"type": "array", "maxItems": 5, "x-kubernetes-list-type": kind, "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string", "maxLength": 5}},
                    "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}})
        };
        assert_eq!(found(items("map")), Vec::<String>::new());
        let faults = found(items("atomic"));
        assert!(
            faults[0].contains("oldSelf cannot be used on the uncorrelatable portion of the schema within schema.properties[spec].properties[l]"),
            "{faults:?}"
        );
    }
}
