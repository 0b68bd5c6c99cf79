//! The rules over an object and, on an update, over what it was before.

use api::FieldError;
use cel::{Fuel, PER_CALL_LIMIT, Program, Value as Cel};
use serde_json::Value;

use super::declare::keys;
use super::tree::{Node, Rule, Rules};
use super::{BUDGET, MAX_MESSAGE};

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

impl Rules {
    /// What the rules say against an object. A value that an update does not touch may stay as it is.
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut run = Run {
            remaining: BUDGET,
            errors: Vec::new(),
        };
        if let Some(root) = &self.root {
            run.visit(root, "", object, old);
        }
        run.errors
    }
}

struct Run {
    remaining: u64,
    errors: Vec<FieldError>,
}

/// Nothing more is to be evaluated.
struct Stop;

fn place(path: &str) -> String {
    if path.is_empty() {
        "<nil>".to_owned()
    } else {
        path.to_owned()
    }
}

impl Run {
    fn visit(&mut self, node: &Node, path: &str, value: &Value, old: Option<&Value>) -> Option<Stop> {
        if value.is_null() {
            return None;
        }
        let old = old.filter(|old| !old.is_null());
        if !node.rules.is_empty() && self.rules(node, path, value, old).is_err() {
            return Some(Stop);
        }
        for part in &node.all_of {
            if let Some(stop) = self.visit(part, path, value, old) {
                return Some(stop);
            }
        }
        match value {
            Value::Object(members) => self.members(node, path, members, old),
            Value::Array(items) => self.items(node, path, items, old),
            _ => None,
        }
    }

    fn members(
        &mut self,
        node: &Node,
        path: &str,
        members: &serde_json::Map<String, Value>,
        old: Option<&Value>,
    ) -> Option<Stop> {
        for (name, value) in members {
            let (child, path) = match (node.properties.get(name), &node.additional) {
                (Some(child), _) if path.is_empty() => (child, name.clone()),
                (Some(child), _) => (child, format!("{path}.{name}")),
                (None, Some(child)) => (&**child, format!("{path}[{name}]")),
                (None, None) => continue,
            };
            let before = old.filter(|_| !node.atomic).and_then(|old| old.get(name));
            if let Some(stop) = self.visit(child, &path, value, before) {
                return Some(stop);
            }
        }
        None
    }

    fn items(&mut self, node: &Node, path: &str, items: &[Value], old: Option<&Value>) -> Option<Stop> {
        let child = node.items.as_ref()?;
        let before = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for (index, value) in items.iter().enumerate() {
            // Only the items of lists with keys can be told from one write to the next.
            let same = |keys: &[String]| {
                let key = |item: &Value| keys.iter().map(|key| item.get(key).cloned()).collect::<Vec<_>>();
                let wanted = key(value);
                before.iter().find(|item| key(item) == wanted)
            };
            let old = keys(&node.list).and_then(same);
            if let Some(stop) = self.visit(child, &format!("{path}[{index}]"), value, old) {
                return Some(stop);
            }
        }
        None
    }

    fn rules(&mut self, node: &Node, path: &str, value: &Value, old: Option<&Value>) -> Result<(), Stop> {
        let unchanged = old == Some(value);
        for rule in &node.rules {
            if rule.transition && old.is_none() && !rule.optional_old {
                continue;
            }
            let fault = |detail: String| FieldError::invalid(place(path), node.name.as_str(), detail);
            if self.remaining == 0 {
                self.errors.push(fault(OUT_OF_BUDGET.into()));
                return Err(Stop);
            }
            let program = match &rule.program {
                Ok(program) => program,
                Err(why) => {
                    self.errors
                        .push(fault(format!("rule compile error: compilation failed: {why}")));
                    continue;
                }
            };
            let (outcome, cost) = evaluate(program, node, rule, value, old);
            let Some(left) = self.remaining.checked_sub(cost) else {
                self.errors.push(fault(OUT_OF_BUDGET.into()));
                return Err(Stop);
            };
            self.remaining = left;
            match outcome {
                Ok(true) => {}
                Ok(false) => {
                    let error = self.refusal(node, rule, path, value, old)?;
                    if !unchanged || rule.transition {
                        self.errors.push(error);
                    }
                }
                Err(why) => self.failed(rule, why, fault)?,
            }
        }
        Ok(())
    }

    fn failed(&mut self, rule: &Rule, why: cel::Error, fault: impl Fn(String) -> FieldError) -> Result<(), Stop> {
        let shown = rule.shown();
        let text = why.to_string();
        if why.is_limit() {
            self.errors.push(fault(format!(
                "'{text}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}"
            )));
            return Err(Stop);
        }
        let detail = if text.starts_with("no such overload") {
            format!(
                "'{text}': call arguments did not match a supported operator, function or macro signature for rule: {shown}"
            )
        } else {
            format!("{text} evaluating rule: {shown}")
        };
        self.errors.push(fault(detail));
        Ok(())
    }

    /// The error of a rule that is false.
    fn refusal(
        &mut self,
        node: &Node,
        rule: &Rule,
        path: &str,
        value: &Value,
        old: Option<&Value>,
    ) -> Result<FieldError, Stop> {
        let place = match (path, rule.field.as_str()) {
            (path, "") => place(path),
            ("", field) => field.to_owned(),
            (path, field) => format!("{path}.{field}"),
        };
        let mut detail = rule.default_message();
        if let Some(program) = &rule.message_expression {
            let (made, cost) = run(program, node, rule, value, old, |value| match value {
                Cel::String(text) => Some(text.trim().to_owned()),
                _ => None,
            });
            let Some(left) = self.remaining.checked_sub(cost) else {
                let why = "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run";
                self.errors.push(FieldError::invalid(place, node.name.as_str(), why));
                return Err(Stop);
            };
            self.remaining = left;
            if let Ok(Some(text)) = made
                && !text.is_empty()
                && text.len() <= MAX_MESSAGE
                && !text.contains(['\n', '\r'])
            {
                detail = text;
            }
        }
        let shown = node.name.as_str();
        Ok(match rule.reason.as_str() {
            "FieldValueForbidden" => FieldError::forbidden(place, detail),
            "FieldValueRequired" => FieldError::required(place, detail),
            "FieldValueDuplicate" => FieldError::duplicate(place, shown),
            _ => FieldError::invalid(place, shown, detail),
        })
    }
}

/// Whether the rule holds, and what finding out cost.
fn evaluate(
    program: &Program,
    node: &Node,
    rule: &Rule,
    value: &Value,
    old: Option<&Value>,
) -> (Result<bool, cel::Error>, u64) {
    run(program, node, rule, value, old, |value| {
        matches!(value, Cel::Bool(true))
    })
}

fn run<T>(
    program: &Program,
    node: &Node,
    rule: &Rule,
    value: &Value,
    old: Option<&Value>,
    take: impl Fn(&Cel<'_>) -> T,
) -> (Result<T, cel::Error>, u64) {
    let mut fuel = Fuel::new(PER_CALL_LIMIT);
    let outcome = values(node, rule, value, old)
        .and_then(|values| program.run(&values, &mut fuel))
        .map(|value| take(&value));
    (outcome, fuel.cost())
}

/// `self` and `oldSelf`.
fn values<'a>(
    node: &'a Node,
    rule: &Rule,
    value: &'a Value,
    old: Option<&'a Value>,
) -> Result<Vec<Cel<'a>>, cel::Error> {
    let mut values = vec![Cel::typed(value, &node.ty)?];
    let old = old.map(|old| Cel::typed(old, &node.ty)).transpose()?;
    values.extend(match rule.optional_old {
        true => Some(Cel::optional(old)?),
        false => old,
    });
    Ok(values)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(schema: Value, object: Value, old: Option<Value>) -> Vec<String> {
        let faults = Rules::new(&schema).validate(&object, old.as_ref());
        faults.iter().map(ToString::to_string).collect()
    }

    fn spec(rules: Value, properties: Value) -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties, "x-kubernetes-validations": rules}}})
    }

    #[test]
    fn rules_name_the_place_the_type_and_the_message() {
        let ports = json!({"min": {"type": "integer"}, "max": {"type": "integer"}, "name": {"type": "string"}});
        let object = json!({"spec": {"min": 3, "max": 2, "name": "x"}});
        let rule = |more: Value| {
            let mut rule = json!({"rule": "self.min <= self.max"});
            for (key, value) in more.as_object().into_iter().flatten() {
                rule[key] = value.clone();
            }
            faults(spec(json!([rule]), ports.clone()), object.clone(), None)
        };
        assert_eq!(
            rule(json!({})),
            ["spec: Invalid value: \"object\": failed rule: self.min <= self.max"]
        );
        assert_eq!(
            rule(json!({"message": "too small"})),
            ["spec: Invalid value: \"object\": too small"]
        );
        assert_eq!(
            rule(json!({"messageExpression": "'min ' + string(self.min)", "fieldPath": ".max"})),
            ["spec.max: Invalid value: \"object\": min 3"]
        );
        assert_eq!(
            rule(json!({"reason": "FieldValueForbidden", "message": "no"})),
            ["spec: Forbidden: no"]
        );
        let broken = json!([{"rule": "self.name == 'x' && 1 / (self.min - 3) == 1"}]);
        assert_eq!(
            faults(spec(broken, ports.clone()), object, None),
            [
                "spec: Invalid value: \"object\": division by zero evaluating rule: self.name == 'x' && 1 / (self.min - 3) == 1"
            ]
        );
        let root = json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.metadata.name == 'a'"}]});
        assert_eq!(
            faults(root, json!({"metadata": {"name": "b"}}), None),
            ["<nil>: Invalid value: \"object\": failed rule: self.metadata.name == 'a'"]
        );
    }

    #[test]
    fn transition_rules_compare_what_corresponds() {
        let items = json!({"list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}},
                "x-kubernetes-validations": [{"rule": "self.v >= oldSelf.v", "message": "shrinks"}]}},
            "fixed": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "immutable"}]},
            "once": {"type": "integer", "x-kubernetes-validations": [{"rule": "oldSelf.hasValue() || self == 1", "optionalOldSelf": true, "message": "starts at 1"}]}});
        let schema = spec(json!([]), items);
        let old = json!({"spec": {"list": [{"k": "a", "v": 1}, {"k": "b", "v": 5}], "fixed": "x"}});
        let new = json!({"spec": {"list": [{"k": "b", "v": 4}, {"k": "c", "v": 0}, {"k": "a", "v": 1}], "fixed": "y", "once": 2}});
        assert_eq!(
            faults(schema.clone(), new.clone(), Some(old)),
            [
                "spec.fixed: Invalid value: \"string\": immutable",
                "spec.list[0]: Invalid value: \"object\": shrinks",
                "spec.once: Invalid value: \"integer\": starts at 1",
            ]
        );
        assert_eq!(
            faults(schema, new, None),
            ["spec.once: Invalid value: \"integer\": starts at 1"]
        );
    }

    #[test]
    fn what_an_update_does_not_touch_may_stay() {
        let schema = spec(json!([{"rule": "self.a > 1"}]), json!({"a": {"type": "integer"}}));
        let rules = Rules::new(&schema);
        let old = json!({"spec": {"a": 1}});
        assert!(rules.validate(&old, Some(&old)).is_empty());
        assert_eq!(rules.validate(&json!({"spec": {"a": 0}}), Some(&old)).len(), 1);
    }

    #[test]
    fn the_budget_ends_a_validation() {
        let rule = json!([{"rule": "self.l.all(x, self.l.all(y, self.l.all(z, x + y + z >= 0)))"}]);
        let schema = spec(rule, json!({"l": {"type": "array", "items": {"type": "integer"}}}));
        let long: Vec<u32> = (0..500).collect();
        let found = faults(schema, json!({"spec": {"l": long}}), None);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].contains("no further validation rules will be run due to call cost exceeds limit for rule"),
            "{found:?}"
        );
    }
}
