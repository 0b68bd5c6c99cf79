//! Rules that many kinds share: selectors, labels, annotations, references, quantities, conditions, and the cells of their tables.

use api::names;
use api::quantity::Quantity;
use serde_json::{Value, json};

use super::field::{Errors, Field, list, text};

/// Keys and values of a label map.
pub fn labels(field: &Field<'_>, errors: &mut Errors) {
    for (key, entry) in field.entries() {
        for message in names::qualified_name(key) {
            let key_value = json!(key);
            field.showing(&key_value).invalid(errors, message);
        }
        let value = entry.str();
        for message in names::label_value(value) {
            field.showing(entry.value).invalid(errors, message);
        }
    }
}

/// A `metav1.LabelSelector`.
pub fn label_selector(field: &Field<'_>, errors: &mut Errors) {
    labels(&field.get("matchLabels"), errors);
    for requirement in field.get("matchExpressions").items() {
        let values = requirement.get("values");
        match requirement.get("operator").str() {
            "In" | "NotIn" if values.is_empty() => {
                values.required(errors, "must be specified when `operator` is 'In' or 'NotIn'")
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => values.forbidden(
                errors,
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => requirement
                .get("operator")
                .invalid(errors, "not a valid selector operator"),
        }
        let key = requirement.get("key");
        key.invalid_all(errors, names::qualified_name(key.str()));
        for value in values.items() {
            value.invalid_all(errors, names::label_value(value.str()));
        }
    }
}

/// Whether a LabelSelector (an object) selects a label map. A selector that cannot be read selects nothing.
pub fn selector_matches(selector: &Value, labels: &Value) -> bool {
    let label = |key: &str| labels.get(key).and_then(Value::as_str);
    let equal = |(key, value): (&String, &Value)| label(key) == value.as_str() && value.is_string();
    let expression = |e: &Value| {
        let key = text(e, "/key");
        let contains = || label(key).is_some_and(|v| list(e, "/values").iter().any(|x| x.as_str() == Some(v)));
        match text(e, "/operator") {
            "In" => contains(),
            "NotIn" => !contains(),
            "Exists" => label(key).is_some(),
            "DoesNotExist" => label(key).is_none(),
            _ => false,
        }
    };
    selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .is_none_or(|map| map.iter().all(equal))
        && list(selector, "/matchExpressions").iter().all(expression)
}

/// `example.com/path`, as controllers are named.
pub fn domain_prefixed_path(field: &Field<'_>, errors: &mut Errors) {
    let text = field.str();
    if text.is_empty() {
        return field.required(errors, "");
    }
    let Some((host, path)) = text
        .split_once('/')
        .filter(|(host, path)| !host.is_empty() && !path.is_empty())
    else {
        return field.invalid(errors, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    };
    for detail in names::dns1123_subdomain(host) {
        field.invalid_as(errors, host, detail);
    }
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !path.bytes().all(letter) {
        field.invalid_as(
            errors,
            path,
            "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')",
        );
    }
}

/// The conditions of a status in their common form.
pub fn conditions(list: &Field<'_>, errors: &mut Errors) {
    const REASON: usize = 1 << 10;
    const MESSAGE: usize = 32 << 10;
    const FORM: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
    list.unique(errors, "type");
    for condition in list.items() {
        condition.get("type").check(errors, names::qualified_name);
        condition.get("status").one_of(errors, &["False", "True", "Unknown"]);
        let generation = condition.get("observedGeneration");
        if generation.number() < 0 {
            generation.invalid(errors, "must be greater than or equal to zero");
        }
        if condition.get("lastTransitionTime").is_empty() {
            condition.get("lastTransitionTime").required(errors, "must be set");
        }
        let (reason, message) = (condition.get("reason"), condition.get("message"));
        let bytes = reason.str().as_bytes();
        let fine = bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"_,:".contains(b))
            && bytes.first().is_some_and(u8::is_ascii_alphabetic)
            && bytes.last().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
        if bytes.is_empty() {
            reason.required(errors, "must be set");
        } else if !fine {
            reason.invalid(errors, FORM);
        }
        for (field, limit) in [(reason, REASON), (message, MESSAGE)] {
            if field.str().len() > limit {
                field.too_long(errors, limit);
            }
        }
    }
}

/// A quantity that must not be negative.
pub fn quantity(field: &Field<'_>, errors: &mut Errors) -> Option<Quantity> {
    let parsed = parse_quantity(field.value)?;
    if parsed < Quantity::milli(0) {
        field.invalid(errors, "must be greater than or equal to 0");
    }
    Some(parsed)
}

/// Reads a quantity from text or a number.
pub fn parse_quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(s) => s.parse().ok(),
        Value::Number(n) => n.to_string().parse().ok(),
        _ => None,
    }
}

/// `a=1,b=2`, or `<none>`.
pub fn format_labels(map: Option<&Value>) -> String {
    let entries = map.and_then(Value::as_object);
    let pairs: Vec<String> = entries
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() {
        "<none>".to_owned()
    } else {
        pairs.join(",")
    }
}

/// A LabelSelector as `kubectl get -o wide` prints it.
pub fn format_selector(selector: Option<&Value>) -> String {
    let Some(selector) = selector.filter(|s| s.is_object()) else {
        return "<none>".to_owned();
    };
    let mut parts: Vec<(String, String)> = Vec::new();
    for (k, v) in selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        parts.push((k.clone(), format!("{k}={}", v.as_str().unwrap_or_default())));
    }
    for e in list(selector, "/matchExpressions") {
        let key = text(e, "/key");
        let mut values: Vec<&str> = list(e, "/values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let shown = match text(e, "/operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        parts.push((key.to_owned(), shown));
    }
    parts.sort();
    let shown: Vec<String> = parts.into_iter().map(|(_, s)| s).collect();
    if shown.is_empty() {
        "<none>".to_owned()
    } else {
        shown.join(",")
    }
}

/// Names and images of a pod template's containers, comma-separated: the two wide columns of every workload.
pub fn containers_and_images(template_spec: Option<&Value>) -> [Value; 2] {
    let containers = template_spec
        .and_then(|s| s.get("containers"))
        .and_then(Value::as_array);
    let join = |field: &str| {
        let items: Vec<&str> = containers
            .into_iter()
            .flatten()
            .map(|c| c.get(field).and_then(Value::as_str).unwrap_or_default())
            .collect();
        json!(items.join(","))
    };
    [join("name"), join("image")]
}

/// The condition of that type in `status.conditions`.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(object, "/status/conditions")
        .iter()
        .find(|c| text(c, "/type") == kind)
}

/// Text, or `<none>` when it is empty.
pub fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

/// An int-or-string as text.
pub fn int_or_string(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors() {
        let selector = json!({"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["b", "a"]}, {"key": "x", "operator": "DoesNotExist"}]});
        assert!(selector_matches(&selector, &json!({"app": "web", "tier": "a"})));
        assert!(!selector_matches(&selector, &json!({"app": "web", "tier": "c"})));
        assert!(!selector_matches(
            &selector,
            &json!({"app": "web", "tier": "a", "x": ""})
        ));
        assert_eq!(format_selector(Some(&selector)), "app=web,tier in (a,b),!x");
        assert_eq!(format_selector(Some(&json!({}))), "<none>");
        assert_eq!(format_labels(Some(&json!({"b": "2", "a": "1"}))), "a=1,b=2");
    }
}
