//! What several plugins do with tolerations. Source: `pkg/util/tolerations`.

use serde_json::Value;

use crate::kinds::field::{ensure, list, set, text};

/// The tolerations of both lists without those that another one makes redundant.
pub(super) fn merge(first: &[Value], second: &[Value]) -> Vec<Value> {
    let all: Vec<&Value> = first.iter().chain(second).collect();
    let mut merged: Vec<Value> = Vec::new();
    for (i, toleration) in all.iter().enumerate() {
        let covered = merged.iter().any(|other| covers(other, toleration));
        let later = all.iter().skip(i + 1);
        if !covered
            && !later
                .into_iter()
                .any(|other| other != toleration && covers(other, toleration))
        {
            merged.push((*toleration).clone());
        }
    }
    merged
}

/// Whether `wide` tolerates all that `narrow` does.
pub(super) fn covers(wide: &Value, narrow: &Value) -> bool {
    if wide == narrow {
        return true;
    }
    let (operator, key) = (text(wide, "/operator"), text(wide, "/key"));
    let any_key = key.is_empty() && operator == "Exists";
    if text(narrow, "/key") != key && !any_key {
        return false;
    }
    let effect = text(wide, "/effect");
    if text(narrow, "/effect") != effect && !effect.is_empty() {
        return false;
    }
    let seconds = |toleration: &Value| toleration.get("tolerationSeconds").and_then(Value::as_i64);
    if let (true, Some(limit)) = (effect == "NoExecute", seconds(wide))
        && seconds(narrow).is_none_or(|seconds| seconds > limit)
    {
        return false;
    }
    match operator {
        "Exists" => true,
        "Equal" | "" => text(narrow, "/operator") == "Equal" && text(narrow, "/value") == text(wide, "/value"),
        _ => false,
    }
}

/// Merges tolerations into those of a pod.
pub(super) fn add(pod: &mut Value, more: &[Value]) {
    let merged = merge(list(pod, "/spec/tolerations"), more);
    if let (false, Some(spec)) = (merged.is_empty(), ensure(pod, "spec")) {
        set(spec, "tolerations", merged);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_wider_one_stays() {
        let exists = json!({"key": "a", "operator": "Exists"});
        let equal = json!({"key": "a", "operator": "Equal", "value": "1", "effect": "NoSchedule"});
        let other = json!({"key": "b", "operator": "Exists"});
        let (equal, exists, other) = ([equal], [exists], [other]);
        assert_eq!(merge(&equal, &exists), exists);
        assert_eq!(merge(&exists, &[&equal[..], &exists[..]].concat()), exists);
        assert_eq!(merge(&equal, &other), [&equal[..], &other[..]].concat());
        let everything = json!({"operator": "Exists"});
        assert!(covers(&everything, &equal[0]) && !covers(&equal[0], &everything));
        let short = json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
        let long = json!({"key": "a", "operator": "Exists", "effect": "NoExecute"});
        assert!(covers(&long, &short) && !covers(&short, &long));
    }
}
