//! Selectors of requests as authorization sees them: lists of requirements, from and to the texts of requests. Pure. What cannot be read
//! restricts nothing, so a selector can only ever make an authorizer allow more than it would without one if it was understood.

use serde_json::{Value, json};

fn requirement(key: &str, operator: &str, values: &[&str]) -> Value {
    match values {
        [] => json!({"key": key, "operator": operator}),
        values => json!({"key": key, "operator": operator, "values": values}),
    }
}

/// The requirements of a field selector.
pub fn of_fields(text: &str) -> Vec<Value> {
    let selector = api::fields::Selector::parse(text).unwrap_or_default();
    let requirements = selector.requirements().iter();
    requirements
        .map(|r| requirement(&r.field, if r.equal { "In" } else { "NotIn" }, &[&r.value]))
        .collect()
}

/// The requirements of a label selector.
pub fn of_labels(text: &str) -> Vec<Value> {
    if api::labels::Selector::parse(text).is_err() {
        return Vec::new();
    }
    terms(text).into_iter().filter_map(of_label).collect()
}

/// The terms of a label selector that has been checked: commas inside of parentheses do not part them.
fn terms(text: &str) -> Vec<&str> {
    let (mut out, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                out.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    out.push(text[start..].trim());
    out.retain(|term| !term.is_empty());
    out
}

fn of_label(term: &str) -> Option<Value> {
    if let Some((head, list)) = term.split_once('(') {
        let mut words = head.split_whitespace();
        let (key, operator) = (words.next()?, words.next()?);
        let mut values: Vec<&str> = list.trim_end_matches(')').split(',').map(str::trim).collect();
        values.sort_unstable();
        let operator = if operator == "in" { "In" } else { "NotIn" };
        return Some(requirement(key, operator, &values));
    }
    if let Some((key, value)) = term.split_once("!=") {
        return Some(requirement(key.trim(), "NotIn", &[value.trim()]));
    }
    if let Some((key, value)) = term.split_once('=') {
        return Some(requirement(key.trim(), "In", &[value.trim_start_matches('=').trim()]));
    }
    if term.contains(['<', '>']) {
        // Upstream has no such requirement in authorization.
        return None;
    }
    Some(match term.strip_prefix('!') {
        Some(key) => requirement(key.trim(), "DoesNotExist", &[]),
        None => requirement(term, "Exists", &[]),
    })
}

/// The text of a field selector of an access review: raw, or made of those requirements that a request could have had.
pub fn field_text(selector: &Value) -> String {
    text(selector, |key, operator, values| match (operator, values) {
        ("In", [value]) => Some(format!("{key}={}", escape(value))),
        ("NotIn", [value]) => Some(format!("{key}!={}", escape(value))),
        _ => None,
    })
}

/// The same of a label selector.
pub fn label_text(selector: &Value) -> String {
    text(selector, |key, operator, values| match operator {
        "In" => Some(format!("{key} in ({})", values.join(","))),
        "NotIn" => Some(format!("{key} notin ({})", values.join(","))),
        "Exists" => Some(key.to_owned()),
        "DoesNotExist" => Some(format!("!{key}")),
        _ => None,
    })
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

fn text(selector: &Value, term: impl Fn(&str, &str, &[&str]) -> Option<String>) -> String {
    let raw = selector["rawSelector"].as_str().unwrap_or_default();
    if !raw.is_empty() {
        return raw.to_owned();
    }
    let requirements = selector["requirements"].as_array().into_iter().flatten();
    let terms = requirements.filter_map(|requirement| {
        let values = requirement["values"].as_array().into_iter().flatten();
        let values: Vec<&str> = values.filter_map(Value::as_str).collect();
        term(requirement["key"].as_str()?, requirement["operator"].as_str()?, &values)
    });
    terms.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for text in ["a in (b,c)", "a notin (x)", "a", "!a"] {
            let selector = json!({"requirements": of_labels(text)});
            assert_eq!(label_text(&selector), text);
        }
        assert_eq!(
            of_labels("a=b, c!=d"),
            [requirement("a", "In", &["b"]), requirement("c", "NotIn", &["d"])]
        );
        assert_eq!(of_labels("not a ( selector"), Vec::<Value>::new());
        for text in ["spec.nodeName=n", "a!=b\\,c"] {
            assert_eq!(field_text(&json!({"requirements": of_fields(text)})), text);
        }
        assert_eq!(field_text(&json!({"rawSelector": "a=b"})), "a=b");
    }
}
