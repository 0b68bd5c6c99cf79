//! Strategic merge patch: a merge patch that knows from the schema which lists are merged, and by which key, and that carries
//! directives: `$patch` (replace, delete), `$retainKeys`, `$deleteFromPrimitiveList/<field>`, `$setElementOrder/<field>`.

use super::Error;
use crate::schema::{Field, FieldType, Message};
use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

type Members = Map<String, Value>;

/// The object with the patch merged in.
pub fn strategic_merge(message: &'static Message, original: &Value, patch: &Value) -> Result<Value, Error> {
    let (Value::Object(original), Value::Object(patch)) = (original, patch) else {
        return Err(Error::Malformed("a strategic merge patch must be an object".into()));
    };
    merge_object(Some(message), original.clone(), patch.clone()).map(Value::Object)
}

/// `message` is none inside of maps and of JSON without schema.
fn merge_object(
    message: Option<&'static Message>,
    mut original: Members,
    mut patch: Members,
) -> Result<Members, Error> {
    match patch.remove(DIRECTIVE) {
        None => {}
        Some(Value::String(directive)) if directive == "replace" => return Ok(without_directives(patch)),
        Some(Value::String(directive)) if directive == "delete" => return Ok(Members::new()),
        Some(directive) => return Err(unknown_directive(&directive, &patch)),
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(message, &mut original, &mut patch)?;
    for (key, change) in patch {
        if let Some(list) = key.strip_prefix(DELETE_FROM_LIST) {
            delete_from_list(&mut original, list, change)?;
            continue;
        }
        let field = message.and_then(|message| message.field(&key));
        let merged = match (original.remove(&key), change) {
            (_, Value::Null) => continue,
            (Some(Value::Object(original)), Value::Object(change)) => Value::Object(merge_object(
                field.and_then(|field| field.ty.message()),
                original,
                change,
            )?),
            (Some(Value::Array(original)), Value::Array(change)) => Value::Array(merge_list(field, original, change)?),
            (_, change) => clean(change),
        };
        original.insert(key, merged);
    }
    Ok(original)
}

fn unknown_directive(directive: &Value, patch: &Members) -> Error {
    let directive = directive.as_str().map_or_else(|| directive.to_string(), str::to_string);
    Error::Malformed(format!(
        "unknown patch type: {directive} in map: {}",
        Value::Object(patch.clone())
    ))
}

fn no_merge_key(item: &Value, key: &str) -> Error {
    Error::Malformed(format!("map: {item} does not contain declared merge key: {key}"))
}

/// `$retainKeys`: drops what the list does not name; the patch may set nothing else.
fn retain_keys(original: &mut Members, patch: &mut Members) -> Result<(), Error> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let malformed = || Error::Malformed("invalid patch format of retainKeys".into());
    let keys = keys.as_array().ok_or_else(malformed)?;
    let names = |key: &str| keys.iter().any(|name| name == key);
    let is_directive = |key: &str| key.starts_with(DELETE_FROM_LIST) || key.starts_with(SET_ORDER);
    if patch
        .iter()
        .any(|(key, change)| !change.is_null() && !is_directive(key) && !names(key))
    {
        return Err(malformed());
    }
    original.retain(|key, _| names(key));
    Ok(())
}

/// `$setElementOrder/<field>`: merges the list and brings it into the order given; items it does not name keep their places among
/// each other.
fn merge_ordered_lists(
    message: Option<&'static Message>,
    original: &mut Members,
    patch: &mut Members,
) -> Result<(), Error> {
    let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let malformed = || Error::Malformed("invalid patch format of setElementOrder list".into());
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(malformed());
        };
        let key = &directive[SET_ORDER.len()..];
        let field = message.and_then(|message| message.field(key));
        let merge_key = field.and_then(|field| field.merge.patch_merge_key);
        let list = |value: Option<Value>| match value {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(_) => Err(malformed()),
        };
        let changes = match patch.remove(key) {
            // A list that is removed has no order.
            Some(Value::Null) => {
                original.remove(key);
                continue;
            }
            changes => list(changes)?,
        };
        let items = list(original.remove(key))?;
        check_order(changes.as_deref().unwrap_or_default(), &order, merge_key)?;
        let server_order = items.clone().unwrap_or_default();
        let merged = match (items, changes) {
            (None, None) => continue,
            (Some(items), None) => items,
            (None, Some(changes)) => clean_list(changes),
            (Some(items), Some(changes)) => merge_list(field, items, changes)?,
        };
        original.insert(
            key.to_string(),
            Value::Array(in_order(merged, &order, &server_order, merge_key)?),
        );
    }
    Ok(())
}

/// The items that the patch sets must stand in it in the order that its directive gives.
fn check_order(changes: &[Value], order: &[Value], merge_key: Option<&str>) -> Result<(), Error> {
    if order.is_empty() {
        return Ok(());
    }
    let mut places = order.iter();
    for change in changes.iter().filter(|change| change.get(DIRECTIVE).is_none()) {
        if !places.any(|place| same_item(place, change, merge_key)) {
            let (changes, order) = (Value::from(changes.to_vec()), Value::from(order.to_vec()));
            return Err(Error::Malformed(format!(
                "The order in patch list:\n{changes}\n doesn't match $setElementOrder list:\n{order}\n"
            )));
        }
    }
    Ok(())
}

fn same_item(a: &Value, b: &Value, merge_key: Option<&str>) -> bool {
    match merge_key {
        Some(key) => a.get(key).is_some_and(|value| Some(value) == b.get(key)),
        None => a == b,
    }
}

fn delete_from_list(original: &mut Members, key: &str, deleted: Value) -> Result<(), Error> {
    let Value::Array(deleted) = deleted else {
        return Err(Error::Malformed("invalid patch format of primitive list".into()));
    };
    if let Some(Value::Array(items)) = original.get_mut(key) {
        items.retain(|item| !deleted.contains(item));
    }
    Ok(())
}

fn merge_list(field: Option<&'static Field>, original: Vec<Value>, patch: Vec<Value>) -> Result<Vec<Value>, Error> {
    let Some(field) = field.filter(|field| field.merge.patch_merge) else {
        return Ok(clean_list(patch));
    };
    match (field.ty, field.merge.patch_merge_key) {
        (FieldType::Message(message), Some(key)) => merge_list_of_objects(message, key, original, patch),
        (FieldType::Message(message), None) => Err(Error::Malformed(format!(
            "cannot merge lists without merge key for {}",
            message.short_name()
        ))),
        _ => {
            let server_order = original.clone();
            let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
            for item in original.into_iter().chain(patch.iter().cloned()) {
                if !merged.contains(&item) {
                    merged.push(item);
                }
            }
            in_order(merged, &patch, &server_order, None)
        }
    }
}

fn merge_list_of_objects(
    message: &'static Message,
    key: &str,
    mut original: Vec<Value>,
    patch: Vec<Value>,
) -> Result<Vec<Value>, Error> {
    let mut replaced = false;
    let mut changes = Vec::with_capacity(patch.len());
    for item in patch {
        match item.get(DIRECTIVE).cloned() {
            None => changes.push(item),
            Some(Value::String(directive)) if directive == "delete" => {
                let value = item.get(key).ok_or_else(|| no_merge_key(&item, key))?;
                original.retain(|other| other.get(key) != Some(value));
            }
            Some(Value::String(directive)) if directive == "replace" => replaced = true,
            Some(Value::String(directive)) if directive == "merge" => {
                return Err(Error::Malformed(
                    "merging lists cannot yet be specified in the patch".into(),
                ));
            }
            Some(directive) => {
                return Err(unknown_directive(
                    &directive,
                    item.as_object().unwrap_or(&Members::new()),
                ));
            }
        }
    }
    if replaced {
        return Ok(clean_list(changes));
    }
    let mut merged = original.clone();
    for change in &changes {
        let value = change.get(key).ok_or_else(|| no_merge_key(change, key))?;
        match (merged.iter_mut().find(|item| item.get(key) == Some(value)), change) {
            (Some(Value::Object(item)), Value::Object(change)) => {
                *item = merge_object(Some(message), std::mem::take(item), change.clone())?;
            }
            _ => merged.push(clean(change.clone())),
        }
    }
    in_order(merged, &changes, &original, Some(key))
}

/// Items that the patch names in its order, the others in the server's, merged: where both know two items, the server's order
/// counts; else those of the patch come first.
fn in_order(
    merged: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    merge_key: Option<&str>,
) -> Result<Vec<Value>, Error> {
    if let Some(key) = merge_key
        && let Some(item) = merged.iter().find(|item| item.get(key).is_none())
    {
        return Err(no_merge_key(item, key));
    }
    let place = |order: &[Value], item: &Value| order.iter().position(|other| same_item(other, item, merge_key));
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| place(patch_order, item).is_some());
    named.sort_by_key(|item| place(patch_order, item));
    others.sort_by_key(|item| place(server_order, item));
    let mut ordered = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let next = match (others.peek(), named.peek()) {
            (Some(other), Some(name)) => match (place(server_order, other), place(server_order, name)) {
                (Some(other), Some(name)) if other < name => others.next(),
                _ => named.next(),
            },
            (Some(_), None) => others.next(),
            (None, _) => named.next(),
        };
        match next {
            Some(item) => ordered.push(item),
            None => return Ok(ordered),
        }
    }
}

/// A value that the patch adds: without the nulls and directives, which have nothing to work on there.
fn clean(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(without_directives(members)),
        Value::Array(items) => Value::Array(clean_list(items)),
        value => value,
    }
}

fn clean_list(items: Vec<Value>) -> Vec<Value> {
    items
        .into_iter()
        .filter(|item| item.get(DIRECTIVE).is_none_or(|name| name != "delete"))
        .map(clean)
        .collect()
}

fn without_directives(members: Members) -> Members {
    let is_directive = |key: &str| {
        key == DIRECTIVE || key == RETAIN_KEYS || key.starts_with(DELETE_FROM_LIST) || key.starts_with(SET_ORDER)
    };
    let kept = members
        .into_iter()
        .filter(|(key, value)| !value.is_null() && !is_directive(key));
    kept.map(|(key, value)| (key, clean(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;
    use serde_json::json;

    fn pod(original: Value, patch: Value) -> Result<Value, Error> {
        let message = schema::for_kind("", "v1", "Pod").unwrap();
        let (original, patch) = (json!({ "spec": original }), json!({ "spec": patch }));
        strategic_merge(message, &original, &patch).map(|mut merged| merged["spec"].take())
    }

    #[test]
    fn merges_lists_by_their_keys() {
        let table = [
            // Containers by name; what the patch names comes first where the server does not know both.
            (
                json!({"containers": [{"name": "a", "image": "1"}, {"name": "b"}]}),
                json!({"containers": [{"name": "b", "image": "2"}, {"name": "c"}]}),
                json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c"}]}),
            ),
            // Ports by containerPort alone, although apply uses the protocol too.
            (
                json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}),
                json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "web"}]}]}),
                json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP", "name": "web"}]}]}),
            ),
            // Atomic lists are replaced.
            (
                json!({"containers": [{"name": "a", "args": ["x"]}], "tolerations": [{"key": "a"}]}),
                json!({"containers": [{"name": "a", "args": ["y"]}], "tolerations": [{"key": "b"}]}),
                json!({"containers": [{"name": "a", "args": ["y"]}], "tolerations": [{"key": "b"}]}),
            ),
            // Maps are merged, null removes.
            (
                json!({"nodeSelector": {"a": "1", "b": "2"}, "hostname": "x"}),
                json!({"nodeSelector": {"b": null, "c": "3"}, "hostname": null}),
                json!({"nodeSelector": {"a": "1", "c": "3"}}),
            ),
            // Nulls in what is added go.
            (
                json!({}),
                json!({"securityContext": {"runAsUser": null, "runAsGroup": 1}}),
                json!({"securityContext": {"runAsGroup": 1}}),
            ),
        ];
        for (original, patch, expected) in table {
            assert_eq!(pod(original, patch.clone()), Ok(expected), "{patch}");
        }
    }

    #[test]
    fn follows_directives() {
        let volumes = json!({"volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "hostPath": {"path": "/"}}]});
        let table = [
            (
                volumes.clone(),
                json!({"volumes": [{"name": "v", "$patch": "delete"}]}),
                json!({"volumes": [{"name": "w", "hostPath": {"path": "/"}}]}),
            ),
            (
                volumes.clone(),
                json!({"volumes": [{"name": "x", "emptyDir": {}}, {"$patch": "replace"}]}),
                json!({"volumes": [{"name": "x", "emptyDir": {}}]}),
            ),
            (
                volumes.clone(),
                json!({"volumes": [{"name": "w", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}}]}),
                json!({"volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {}}]}),
            ),
            (
                volumes.clone(),
                json!({"$setElementOrder/volumes": [{"name": "w"}, {"name": "n"}, {"name": "v"}], "volumes": [{"name": "n", "emptyDir": {}}]}),
                json!({"volumes": [{"name": "w", "hostPath": {"path": "/"}}, {"name": "n", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]}),
            ),
            (
                json!({"securityContext": {"runAsUser": 1}}),
                json!({"securityContext": {"$patch": "replace", "runAsGroup": 2}}),
                json!({"securityContext": {"runAsGroup": 2}}),
            ),
            (
                json!({"securityContext": {"runAsUser": 1}}),
                json!({"securityContext": {"$patch": "delete"}}),
                json!({"securityContext": {}}),
            ),
            (
                json!({"containers": [{"name": "a"}]}),
                json!({"containers": [{"name": "b", "$patch": "delete"}, {"name": "c", "env": [{"name": "x", "$patch": "delete"}]}]}),
                json!({"containers": [{"name": "c", "env": []}, {"name": "a"}]}),
            ),
        ];
        for (original, patch, expected) in table {
            assert_eq!(pod(original, patch.clone()), Ok(expected), "{patch}");
        }
    }

    #[test]
    fn merges_lists_of_scalars() {
        let message = schema::for_kind("", "v1", "Pod").unwrap();
        let table = [
            (json!({"finalizers": ["c"]}), json!(["a", "b", "c"])),
            (json!({"$deleteFromPrimitiveList/finalizers": ["a"]}), json!(["b"])),
            (json!({"$setElementOrder/finalizers": ["b", "a"]}), json!(["b", "a"])),
            (
                json!({"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"]}),
                json!(["c", "b"]),
            ),
        ];
        for (patch, expected) in table {
            let original = json!({"metadata": {"finalizers": ["a", "b"]}});
            let merged = strategic_merge(message, &original, &json!({"metadata": patch})).unwrap();
            let mut found: Vec<_> = merged["metadata"]["finalizers"].as_array().unwrap().clone();
            let mut expected: Vec<_> = expected.as_array().unwrap().clone();
            if !patch.as_object().unwrap().keys().any(|key| key.starts_with(SET_ORDER)) {
                found.sort_by_key(Value::to_string);
                expected.sort_by_key(Value::to_string);
            }
            assert_eq!(found, expected, "{patch}");
        }
    }

    #[test]
    fn refuses() {
        let table = [
            json!({"containers": [{"image": "no name"}]}),
            json!({"securityContext": {"$patch": "frob"}}),
            json!({"containers": [{"name": "a", "$patch": "merge"}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name"], "emptyDir": {}}]}),
            json!({"$setElementOrder/volumes": [{"name": "a"}], "volumes": [{"name": "b"}]}),
            json!({"$setElementOrder/volumes": 1}),
        ];
        for patch in table {
            let original = json!({"containers": [{"name": "a"}], "volumes": [{"name": "v"}], "securityContext": {}});
            assert!(
                matches!(pod(original, patch.clone()), Err(Error::Malformed(_))),
                "{patch}"
            );
        }
    }
}
