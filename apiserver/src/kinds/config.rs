//! ConfigMaps, Secrets and ServiceAccounts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::field::{Errors, Field, default_zero, ensure, list, set, text};
use super::rules::Rules;
use crate::registry::table::{self, Column};

/// Bytes of all keys and values together.
const MAX_SIZE: usize = 1 << 20;
const IMMUTABLE: &str = "field is immutable when `immutable` is set";

/// Rules of `configmaps`.
pub static CONFIG_MAP: Rules = Rules {
    validate: |root, errors| {
        let (data, binary) = (root.get("data"), root.get("binaryData"));
        for (key, entry) in data.entries().chain(binary.entries()) {
            config_key(key, &entry, errors);
        }
        for (key, entry) in binary.entries() {
            if data.value.get(key).is_some() {
                let key = json!(key);
                entry.showing(&key).invalid(errors, "duplicate of key present in data");
            }
        }
        if size(&data) + size(&binary) > MAX_SIZE {
            root.too_long(errors, MAX_SIZE);
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

fn size(map: &Field<'_>) -> usize {
    map.entries().map(|(key, entry)| key.len() + entry.str().len()).sum()
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
        if root.get(name).value != &old[*name] {
            root.get(name).forbidden(errors, IMMUTABLE);
        }
    }
}

fn config_key(key: &str, entry: &Field<'_>, errors: &mut Errors) {
    let shown = json!(key);
    entry
        .showing(&shown)
        .invalid_all(errors, api::names::config_map_key(key));
}

fn validate_secret(root: &Field<'_>, errors: &mut Errors) {
    let data = root.get("data");
    let mut total = 0;
    for (key, entry) in data.entries() {
        config_key(key, &entry, errors);
        total += entry.str().len() / 4 * 3;
    }
    if total > MAX_SIZE {
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
        "kubernetes.io/ssh-auth" => need("ssh-privatekey", errors),
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
    let parsed = BASE64
        .decode(entry.str())
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    if parsed.is_none() {
        let hidden = json!("<secret contents redacted>");
        entry
            .showing(&hidden)
            .invalid(errors, "invalid character in the JSON text");
    }
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
        let old = json!({"immutable": true, "data": {"a": "1"}});
        let mut errors = Errors::new();
        (CONFIG_MAP.validate_update)(&Field::root("", &json!({"data": {"a": "2"}})), &old, &mut errors);
        assert_eq!(errors.len(), 2);
    }
}
