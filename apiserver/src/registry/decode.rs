//! Bodies into objects: JSON, YAML and protobuf, with the schema's types enforced and unknown fields treated as the caller asked.

use api::Error;
use api::codec::{self, Encoding};
use api::schema::Message;
use serde_json::Value;

use super::options::FieldValidation;

/// What a body must be.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// `v1`, `apps/v1`.
    pub api_version: &'a str,
    /// `Pod`.
    pub kind: &'a str,
    /// Its schema.
    pub message: &'static Message,
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
        let (api_version, kind, raw) = codec::unwrap(body).map_err(|error| unreadable(expected, error))?;
        check_type(expected, api_version, kind)?;
        return Ok((from_message(expected, raw)?, Vec::new()));
    }
    let (value, duplicates) = match encoding {
        Encoding::Yaml => (
            codec::parse_yaml(body).map_err(|error| unreadable(expected, error))?,
            Vec::new(),
        ),
        _ if validation == FieldValidation::Ignore => (
            codec::parse_json(body).map_err(|error| unreadable(expected, error))?,
            Vec::new(),
        ),
        _ => codec::parse_json_strict(body).map_err(|error| unreadable(expected, error))?,
    };
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or("");
    check_type(expected, text("apiVersion"), text("kind"))?;
    let warnings = unknown(expected, &value, validation, duplicates)?;
    Ok((normalize(expected, &value)?, warnings))
}

/// Enforces the schema on a value: types are checked, nulls and unknown fields dropped.
///
/// # Errors
/// 400 naming the field.
pub fn normalize(expected: Expected<'_>, value: &Value) -> Result<Value, Error> {
    let message = codec::value_to_proto(expected.message, value).map_err(|error| unreadable(expected, error))?;
    from_message(expected, &message)
}

/// Names unknown fields, as an error or as warnings.
///
/// # Errors
/// 400 with all of them if the caller wants it strict.
pub fn unknown(
    expected: Expected<'_>,
    value: &Value,
    validation: FieldValidation,
    mut faults: Vec<String>,
) -> Result<Vec<String>, Error> {
    if validation == FieldValidation::Ignore {
        return Ok(Vec::new());
    }
    faults.extend(codec::unknown_fields(expected.message, value));
    if validation == FieldValidation::Strict && !faults.is_empty() {
        return Err(unreadable(
            expected,
            format!("strict decoding error: {}", faults.join(", ")),
        ));
    }
    Ok(faults)
}

/// An object from its message without envelope.
///
/// # Errors
/// 400 for bytes that are not the message.
pub fn from_message(expected: Expected<'_>, message: &[u8]) -> Result<Value, Error> {
    let mut value = codec::proto_to_value(expected.message, message).map_err(|error| unreadable(expected, error))?;
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".into(), expected.api_version.into());
        map.insert("kind".into(), expected.kind.into());
    }
    Ok(value)
}

/// The body's own word about its type may be missing, but not wrong.
fn check_type(expected: Expected<'_>, api_version: &str, kind: &str) -> Result<(), Error> {
    if !api_version.is_empty() && api_version != expected.api_version {
        let want = expected.api_version;
        return Err(Error::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({want})"
        )));
    }
    if !kind.is_empty() && kind != expected.kind {
        let want = expected.kind;
        return Err(Error::bad_request(format!(
            "the object provided is unrecognized (must be of type {want}): {kind} in version {:?} cannot be handled as a {want}",
            version(expected.api_version)
        )));
    }
    Ok(())
}

fn unreadable(expected: Expected<'_>, why: impl std::fmt::Display) -> Error {
    let kind = expected.kind;
    Error::bad_request(format!(
        "{kind} in version {:?} cannot be handled as a {kind}: {why}",
        version(expected.api_version)
    ))
}

fn version(api_version: &str) -> &str {
    api_version.rsplit('/').next().unwrap_or(api_version)
}
