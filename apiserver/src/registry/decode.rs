//! Bodies into objects: JSON, YAML and protobuf, with the schema's types enforced and unknown fields treated as the caller asked.

use api::codec::{self, Encoding};
use api::schema::Message;
use api::{Error, FieldError, GroupKind, resources};
use serde_json::Value;

use super::meta;
use super::options::FieldValidation;
use crate::apiextensions::custom::Custom;

/// What a body must be.
#[derive(Clone, Copy)]
pub struct Expected<'a> {
    /// `v1`, `apps/v1`.
    pub api_version: &'a str,
    /// `Pod`.
    pub kind: &'a str,
    /// Its schema.
    pub message: &'static Message,
    /// Its definition, if it is a custom kind.
    pub custom: Option<&'a Custom>,
}

/// Reads one object. It comes back with `apiVersion` and `kind`, without nulls and unknown fields, and with warnings about those.
///
/// # Errors
/// 400 with upstream's text.
pub fn decode(
    expected: Expected<'_>,
    encoding: Encoding,
    body: &[u8],
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Error> {
    if encoding == Encoding::Protobuf {
        if expected.custom.is_some() {
            return Err(Error::unsupported_media_type(&["application/json", "application/yaml"]));
        }
        let (api_version, kind, raw) = codec::unwrap(body).map_err(|error| unrecognized(expected, error, body))?;
        check_type(expected, api_version, kind)?;
        return Ok((from_message(expected, raw)?, Vec::new()));
    }
    let strict = validation != FieldValidation::Ignore;
    let read = match encoding {
        Encoding::Yaml => codec::parse_yaml(body).map(|value| {
            let faults = if strict {
                yaml_faults(expected, body, &value)
            } else {
                Vec::new()
            };
            (value, faults)
        }),
        _ if strict && expected.custom.is_some() => codec::parse_json_strict(body).map(|(value, mut faults)| {
            faults.extend(unknown_fields(expected, &value));
            (value, faults)
        }),
        _ if strict => codec::parse_json_checked(expected.message, body),
        _ => codec::parse_json(body).map(|value| (value, Vec::new())),
    };
    let (value, faults) = read.map_err(|error| match encoding {
        Encoding::Yaml => unrecognized(expected, format!("error converting YAML to JSON: {error}"), body),
        _ => unrecognized(
            expected,
            format!("couldn't get version/kind; json parse error: {error}"),
            body,
        ),
    })?;
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or("");
    match expected.custom {
        Some(custom) => check_custom_type(expected, custom, &value)?,
        None => check_type(expected, text("apiVersion"), text("kind"))?,
    }
    let object = normalize(expected, &value)?;
    if validation == FieldValidation::Strict && !faults.is_empty() {
        return Err(unreadable(expected, strict_error(&faults, encoding == Encoding::Yaml)));
    }
    Ok((object, faults))
}

fn yaml_faults(expected: Expected<'_>, body: &[u8], value: &Value) -> Vec<String> {
    let mut faults: Vec<String> = codec::yaml_duplicate(body).into_iter().collect();
    faults.extend(unknown_fields(expected, value));
    faults
}

/// The fields that the schema does not know: `unknown field "spec.foo"`.
pub fn unknown_fields(expected: Expected<'_>, value: &Value) -> Vec<String> {
    let Some(custom) = expected.custom else {
        return codec::unknown_fields(expected.message, value);
    };
    let found = custom.normalize(&mut value.clone()).unwrap_or_default();
    found
        .into_iter()
        .map(|path| format!("unknown field {path:?}"))
        .collect()
}

/// Nothing but the body itself tells what it is; what it says has to be right.
fn check_custom_type(expected: Expected<'_>, custom: &Custom, value: &Value) -> Result<(), Error> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or("");
    if text("kind").is_empty() {
        return Err(Error::bad_request(format!("Object 'Kind' is missing in '{value}'")));
    }
    if text("apiVersion") != expected.api_version {
        return Err(Error::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            text("apiVersion"),
            expected.api_version
        )));
    }
    if text("kind") != expected.kind {
        let fault = FieldError::invalid("kind", text("kind"), format!("must be {}", expected.kind));
        let kind = GroupKind::new(&*custom.definition.group, &*custom.definition.kind);
        return Err(Error::invalid(&kind, meta::text(value, "name"), vec![fault]));
    }
    Ok(())
}

/// All faults in one text; those of a YAML reader stand in lines of their own.
pub fn strict_error(faults: &[String], yaml: bool) -> String {
    let lines = if yaml && faults.first().is_some_and(|fault| fault.starts_with("line ")) {
        "yaml: unmarshal errors:\n  "
    } else {
        ""
    };
    format!("strict decoding error: {lines}{}", faults.join(", "))
}

/// Enforces the schema on a value: types are checked, nulls and unknown fields dropped.
///
/// # Errors
/// 400 naming the field.
pub fn normalize(expected: Expected<'_>, value: &Value) -> Result<Value, Error> {
    normalized(expected, value).map_err(|error| unreadable(expected, error))
}

/// The same with the fault alone.
///
/// # Errors
/// What does not fit the schema.
pub fn normalized(expected: Expected<'_>, value: &Value) -> Result<Value, codec::Error> {
    if let Some(custom) = expected.custom {
        let mut object = value.clone();
        custom.normalize(&mut object)?;
        set_type(expected, &mut object);
        return Ok(object);
    }
    let message = codec::value_to_proto(expected.message, value)?;
    typed(expected, &message)
}

/// An object from its message without envelope.
///
/// # Errors
/// 400 for bytes that are not the message.
pub fn from_message(expected: Expected<'_>, message: &[u8]) -> Result<Value, Error> {
    if let Some(custom) = expected.custom {
        return custom.value(message);
    }
    typed(expected, message).map_err(|error| unreadable(expected, error))
}

/// The object with its type.
fn typed(expected: Expected<'_>, message: &[u8]) -> Result<Value, codec::Error> {
    let mut value = codec::proto_to_value(expected.message, message)?;
    set_type(expected, &mut value);
    Ok(value)
}

fn set_type(expected: Expected<'_>, object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".into(), expected.api_version.into());
        map.insert("kind".into(), expected.kind.into());
    }
}

/// The body's own word about its type may be missing, but not wrong.
fn check_type(expected: Expected<'_>, api_version: &str, kind: &str) -> Result<(), Error> {
    let found_kind = if kind.is_empty() { expected.kind } else { kind };
    let found = if api_version.is_empty() {
        expected.api_version
    } else {
        api_version
    };
    if (found, found_kind) == (expected.api_version, expected.kind) {
        return Ok(());
    }
    let ((group, wanted), version) = (split(found), split(expected.api_version));
    if found_kind == expected.kind && group == version.0 && resources::find_kind(group, wanted, found_kind).is_some() {
        let want = expected.api_version;
        return Err(Error::bad_request(format!(
            "the API version in the data ({found}) does not match the expected API version ({want})"
        )));
    }
    let why = if resources::find_kind(group, wanted, found_kind).is_some() {
        let (from, into) = (package(group), package(version.0));
        let from = if from == "core" { wanted } else { from };
        format!(
            "converting ({from}.{found_kind}) to ({into}.{}): unknown conversion",
            expected.kind
        )
    } else {
        format!(
            "no kind {found_kind:?} is registered for version {found:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
        )
    };
    Err(Error::bad_request(format!(
        "{found_kind} in version {wanted:?} cannot be handled as a {}: {why}",
        expected.kind
    )))
}

/// Group and version.
fn split(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// The package that upstream's messages name for a group.
fn package(group: &str) -> &str {
    match group.split('.').next() {
        None | Some("") => "core",
        Some(first) => first,
    }
}

/// A body whose type could not be read.
fn unrecognized(expected: Expected<'_>, why: impl std::fmt::Display, body: &[u8]) -> Error {
    let kind = expected.kind;
    Error::bad_request(format!(
        "the object provided is unrecognized (must be of type {kind}): {why} ({})",
        summary(body)
    ))
}

/// The start of a body, as hexadecimal digits unless it looks like JSON.
fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    let start = body.get(..SHOWN).unwrap_or(body);
    let dots = if body.len() > SHOWN { " ..." } else { "" };
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{dots}", String::from_utf8_lossy(start)),
        Some(_) => start.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + dots,
    }
}

fn unreadable(expected: Expected<'_>, why: impl std::fmt::Display) -> Error {
    let kind = expected.kind;
    Error::bad_request(format!(
        "{kind} in version {:?} cannot be handled as a {kind}: {why}",
        split(expected.api_version).1
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(encoding: Encoding, body: &str, validation: FieldValidation) -> Result<(Value, Vec<String>), String> {
        let message = api::schema::for_kind("", "v1", "ConfigMap").unwrap();
        let expected = Expected {
            api_version: "v1",
            kind: "ConfigMap",
            message,
            custom: None,
        };
        decode(expected, encoding, body.as_bytes(), validation).map_err(|error| error.message)
    }

    #[test]
    fn what_cannot_be_read_is_told_as_upstream_tells_it() {
        for (encoding, body, message) in [
            (
                Encoding::Json,
                r#"{"kind":"Pod","apiVersion":"v1"}"#,
                "Pod in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Pod) to (core.ConfigMap): unknown conversion",
            ),
            (
                Encoding::Json,
                r#"{"kind":"Nope","apiVersion":"v1"}"#,
                "Nope in version \"v1\" cannot be handled as a ConfigMap: no kind \"Nope\" is registered for version \"v1\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
            ),
            (
                Encoding::Json,
                "<html>",
                "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: invalid character '<' looking for beginning of value (3c68746d6c3e)",
            ),
            (
                Encoding::Json,
                "",
                "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)",
            ),
            (
                Encoding::Json,
                r#"{"data":{"a":1}}"#,
                "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
            ),
        ] {
            assert_eq!(map(encoding, body, FieldValidation::Warn).unwrap_err(), message);
        }
    }

    #[test]
    fn strangers_are_refused_told_or_dropped() {
        let body = r#"{"zz":1,"data":{"a":"1","a":"2"},"nope":{}}"#;
        let faults = [
            "unknown field \"zz\"",
            "duplicate field \"data.a\"",
            "unknown field \"nope\"",
        ];
        let (object, warnings) = map(Encoding::Json, body, FieldValidation::Warn).unwrap();
        assert_eq!(
            (object["data"]["a"].as_str(), &warnings[..]),
            (Some("2"), &faults.map(str::to_owned)[..])
        );
        assert_eq!(
            map(Encoding::Json, body, FieldValidation::Ignore).unwrap().1,
            Vec::<String>::new()
        );
        assert_eq!(
            map(Encoding::Json, body, FieldValidation::Strict).unwrap_err(),
            format!(
                "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: {}",
                faults.join(", ")
            )
        );
        assert_eq!(
            map(
                Encoding::Yaml,
                "data:\n  a: x\n  a: z\nzz: 1\n",
                FieldValidation::Strict
            )
            .unwrap_err(),
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: yaml: unmarshal errors:\n  line 3: key \"a\" already set in map, unknown field \"zz\""
        );
    }
}
