//! ConfigMaps, Secrets and ServiceAccounts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::field::{Errors, Field, default_zero, ensure, list, same, set, text};
use super::rules::Rules;
use crate::registry::table::{self, Column};

/// Bytes of all keys and values together.
const MAX_SIZE: usize = 1 << 20;
const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";
const IMMUTABLE: &str = "field is immutable when `immutable` is set";

/// Rules of `configmaps`.
pub static CONFIG_MAP: Rules = Rules {
    validate: |root, errors| {
        let (data, binary) = (root.get("data"), root.get("binaryData"));
        for (key, entry) in data.entries() {
            config_key(key, &entry, errors);
            if binary.key(key).exists() {
                entry.invalid_as(errors, key, "duplicate of key present in binaryData");
            }
        }
        for (key, entry) in binary.entries() {
            config_key(key, &entry, errors);
        }
        let plain: usize = data.entries().map(|(_, entry)| entry.str().len()).sum();
        if plain + decoded_size(&binary) > MAX_SIZE {
            // The whole object, as a path prints it.
            Field::root("[]", root.value).too_long(errors, MAX_SIZE);
        }
    },
    validate_update: |root, old, errors| frozen(root, old, &["data", "binaryData"], errors),
    columns: &[Column::NAME, Column::text("Data"), Column::AGE],
    row: |object, now| {
        let count = |field: &str| {
            object
                .get(field)
                .and_then(Value::as_object)
                .map_or(0, serde_json::Map::len)
        };
        vec![
            table::name(object),
            json!(count("data") + count("binaryData")),
            table::age(object, now),
        ]
    },
    ..Rules::NONE
};

/// Rules of `secrets`.
pub static SECRET: Rules = Rules {
    default: |object| {
        default_zero(object, "type", "Opaque");
        merge_string_data(object);
    },
    validate: validate_secret,
    validate_update: |root, old, errors| {
        root.get("type").immutable(errors, &old["type"]);
        frozen(root, old, &["data"], errors);
    },
    warnings: |root, _| {
        if root.get("type").str() == "kubernetes.io/tls" {
            key_pair_warnings(root)
        } else {
            Vec::new()
        }
    },
    columns: &[Column::NAME, Column::text("Type"), Column::text("Data"), Column::AGE],
    row: |object, now| {
        let count = object
            .get("data")
            .and_then(Value::as_object)
            .map_or(0, serde_json::Map::len);
        vec![
            table::name(object),
            json!(text(object, "/type")),
            json!(count),
            table::age(object, now),
        ]
    },
    fields: &["type"],
    ..Rules::NONE
};

/// Rules of `serviceaccounts`.
pub static SERVICE_ACCOUNT: Rules = Rules {
    warnings: |root, old| {
        let set = |object: &Value| !object["metadata"]["annotations"][MOUNTABLE].is_null();
        if set(root.value) && !old.is_some_and(set) {
            vec![format!(
                "metadata.annotations[{MOUNTABLE}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
            )]
        } else {
            Vec::new()
        }
    },
    columns: &[Column::NAME, Column::text("Secrets"), Column::AGE],
    row: |object, now| {
        vec![
            table::name(object),
            json!(list(object, "/secrets").len()),
            table::age(object, now),
        ]
    },
    ..Rules::NONE
};

/// Bytes of the values of a map in base64.
fn decoded_size(map: &Field<'_>) -> usize {
    let size = |text: &str| {
        let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
        (text.len() / 4 * 3).saturating_sub(padding)
    };
    map.entries().map(|(_, entry)| size(entry.str())).sum()
}

/// `stringData` is a way to write `data`, and is never read back.
fn merge_string_data(object: &mut Value) {
    let Some(Value::Object(plain)) = object.as_object_mut().and_then(|map| map.remove("stringData")) else {
        return;
    };
    if let Some(data) = ensure(object, "data") {
        for (key, value) in plain {
            set(data, &key, BASE64.encode(value.as_str().unwrap_or_default()));
        }
    }
}

fn frozen(root: &Field<'_>, old: &Value, fields: &[&str], errors: &mut Errors) {
    if old["immutable"] != true {
        return;
    }
    if !root.get("immutable").bool() {
        root.get("immutable").forbidden(errors, IMMUTABLE);
    }
    for name in fields {
        if !same(root.get(name).value, &old[*name]) {
            root.get(name).forbidden(errors, IMMUTABLE);
        }
    }
}

fn config_key(key: &str, entry: &Field<'_>, errors: &mut Errors) {
    for detail in api::names::config_map_key(key) {
        entry.invalid_as(errors, key, detail);
    }
}

fn validate_secret(root: &Field<'_>, errors: &mut Errors) {
    let data = root.get("data");
    for (key, entry) in data.entries() {
        config_key(key, &entry, errors);
    }
    if decoded_size(&data) > MAX_SIZE {
        data.too_long(errors, MAX_SIZE);
    }
    let need = |key: &str, errors: &mut Errors| {
        let entry = data.key(key);
        if !entry.exists() {
            entry.required(errors, "");
        }
    };
    match root.get("type").str() {
        "kubernetes.io/tls" => {
            need("tls.crt", errors);
            need("tls.key", errors);
        }
        "kubernetes.io/ssh-auth" if data.key("ssh-privatekey").is_empty() => {
            data.key("ssh-privatekey").required(errors, "");
        }
        "kubernetes.io/basic-auth" if data.value.get("username").is_none() && data.value.get("password").is_none() => {
            need("username", errors);
            need("password", errors);
        }
        "kubernetes.io/dockerconfigjson" => docker_config(&data.key(".dockerconfigjson"), errors),
        "kubernetes.io/dockercfg" => docker_config(&data.key(".dockercfg"), errors),
        "kubernetes.io/service-account-token" => {
            let metadata = root.get("metadata");
            let annotations = metadata.get("annotations");
            let account = annotations.key("kubernetes.io/service-account.name");
            if account.is_empty() {
                account.required(errors, "");
            }
        }
        _ => {}
    }
}

fn docker_config(entry: &Field<'_>, errors: &mut Errors) {
    if !entry.exists() {
        return entry.required(errors, "");
    }
    let bytes = BASE64.decode(entry.str()).unwrap_or_default();
    if let Some(fault) = no_json_object(&bytes) {
        entry.invalid_as(errors, "<secret contents redacted>", fault);
    }
}

/// What Go's JSON decoder says of text that is no object.
fn no_json_object(bytes: &[u8]) -> Option<String> {
    let kind = match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(_) | Value::Null) => return None,
        Ok(Value::Array(_)) => "array",
        Ok(Value::String(_)) => "string",
        Ok(Value::Bool(_)) => "bool",
        Ok(Value::Number(_)) => "number",
        Err(error) if error.is_eof() => return Some("unexpected end of JSON input".to_owned()),
        Err(error) => {
            let line = bytes.split(|b| *b == b'\n').nth(error.line().saturating_sub(1));
            let found = line.and_then(|line| line.get(error.column().saturating_sub(1)));
            let shown = char::from(found.copied().unwrap_or(b' '));
            return Some(format!("invalid character '{shown}' looking for beginning of value"));
        }
    };
    Some(format!(
        "json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
    ))
}

/// What a TLS server would say of the pair.
fn key_pair_warnings(secret: &Field<'_>) -> Vec<String> {
    let data = secret.get("data");
    let missing = |key: &str| {
        let bytes = BASE64.decode(data.key(key).str()).unwrap_or_default();
        !String::from_utf8_lossy(&bytes).contains("-----BEGIN ")
    };
    let name = match (missing("tls.crt"), missing("tls.key")) {
        (true, _) => "certificate",
        (_, true) => "key",
        _ => return Vec::new(),
    };
    vec![format!("tls: failed to find any PEM data in {name} input")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn string_data_becomes_data() {
        let mut secret = json!({"stringData": {"a": "x"}, "data": {"b": "eQ=="}});
        (SECRET.default)(&mut secret);
        assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "eA==", "b": "eQ=="}}));
    }

    #[test]
    fn faults() {
        let check = |rules: &Rules, object: Value| {
            let mut errors = Errors::new();
            (rules.validate)(&Field::root("", &object), &mut errors);
            errors.iter().map(|e| e.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            check(&CONFIG_MAP, json!({"data": {"ok.key": "x"}})),
            Vec::<String>::new()
        );
        assert!(
            check(&CONFIG_MAP, json!({"data": {"a b": "x"}}))[0]
                .starts_with("data[a b]: Invalid value: \"a b\": a valid config key")
        );
        assert_eq!(
            check(&SECRET, json!({"type": "kubernetes.io/tls"})),
            ["data[tls.crt]: Required value", "data[tls.key]: Required value"]
        );
        assert_eq!(
            check(
                &SECRET,
                json!({"type": "kubernetes.io/dockercfg", "data": {".dockercfg": "W10="}})
            ),
            [
                "data[.dockercfg]: Invalid value: \"<secret contents redacted>\": json: cannot unmarshal array into Go value of type map[string]interface {}"
            ]
        );
        assert_eq!(
            check(&CONFIG_MAP, json!({"data": {"a": "x".repeat(MAX_SIZE + 1)}})),
            ["[]: Too long: may not be more than 1048576 bytes"]
        );
        assert_eq!(
            check(&CONFIG_MAP, json!({"data": {"a": ""}, "binaryData": {"a": ""}})),
            ["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"]
        );
        let old = json!({"immutable": true, "data": {"a": "1"}});
        let mut errors = Errors::new();
        (CONFIG_MAP.validate_update)(&Field::root("", &json!({"data": {"a": "2"}})), &old, &mut errors);
        assert_eq!(errors.len(), 2);
    }
}
