//! Patches: JSON patch, JSON merge patch, strategic merge patch.

use api::codec;
use api::{Error, FieldError, GroupKind};
use serde_json::Value;

use super::create::Written;
use super::decode::{self, Expected};
use super::options::{FieldValidation, WriteOptions};
use super::update::Rules;
use super::{Access, Registry, convert, meta};

/// The content types of patches of custom objects: without a schema in Go there is no strategic merge.
pub const CUSTOM_PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
];

/// How a patch is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7396.
    Merge,
    /// Kubernetes' own, with list semantics from the schema.
    Strategic,
}

/// A parsed patch.
pub struct Patch {
    form: Form,
    text: Vec<u8>,
    /// Fields that come twice, and fields of JSON patch operations that do not exist.
    faults: Vec<String>,
}

enum Form {
    Json,
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    /// Parses the body; a JSON patch is parsed when it is applied.
    ///
    /// # Errors
    /// 400 for a body that is no such patch.
    pub fn parse(kind: PatchType, body: &[u8]) -> Result<Self, Error> {
        let unreadable = |why: String| match kind {
            PatchType::Strategic => Error::bad_request(why),
            _ => Error::bad_request(format!("error decoding patch: {why}")),
        };
        let (value, mut faults) = codec::parse_json_strict(body).map_err(|error| unreadable(error.to_string()))?;
        let (fits, go_type) = match kind {
            PatchType::Json => (value.is_array(), "[]handlers.jsonPatchOp"),
            PatchType::Merge | PatchType::Strategic => (value.is_object(), "map[string]interface {}"),
        };
        if !fits {
            let found = json_type(&value);
            return Err(unreadable(format!(
                "json: cannot unmarshal {found} into Go value of type {go_type}"
            )));
        }
        if kind == PatchType::Json {
            faults = operation_faults(&value, &faults);
        }
        let form = match kind {
            PatchType::Json => Form::Json,
            PatchType::Merge => Form::Merge(value),
            PatchType::Strategic => Form::Strategic(value),
        };
        Ok(Self {
            form,
            text: body.to_vec(),
            faults,
        })
    }

    /// The patched value; it may have unknown fields and wrong types.
    ///
    /// # Errors
    /// 400 or 422 when the patch does not fit.
    pub fn apply(&self, expected: Expected<'_>, object: &Value) -> Result<Value, Error> {
        match &self.form {
            Form::Json => api::patch::json_patch(object, &self.text).map_err(refused),
            Form::Merge(patch) => {
                let mut patched = object.clone();
                api::patch::merge_patch(&mut patched, patch);
                Ok(patched)
            }
            Form::Strategic(_) if expected.custom.is_some() => Err(Error::unsupported_media_type(CUSTOM_PATCHES)),
            Form::Strategic(patch) => api::patch::strategic_merge(expected.message, object, patch).map_err(refused),
        }
    }

    /// The patched object, checked against the schema.
    ///
    /// # Errors
    /// As [`Patch::apply`]; 422 naming the patch when its result is not the kind's object.
    pub fn apply_checked(
        &self,
        expected: Expected<'_>,
        object: &Value,
        validation: FieldValidation,
    ) -> Result<(Value, Vec<String>), Error> {
        let patched = self.apply(expected, object)?;
        let blame = |why: String| {
            let shown = match &self.form {
                Form::Strategic(patch) => go_text(patch),
                _ => patched.to_string(),
            };
            let fault = FieldError::invalid("patch", shown, why);
            Error::invalid(&GroupKind::new("", ""), "", vec![fault])
        };
        let normal = decode::normalized(expected, &patched).map_err(|error| blame(error.to_string()))?;
        if validation == FieldValidation::Ignore {
            return Ok((normal, Vec::new()));
        }
        let mut faults = self.faults.clone();
        faults.extend(decode::unknown_fields(expected, &patched));
        if validation == FieldValidation::Strict && !faults.is_empty() {
            return Err(blame(decode::strict_error(&faults, false)));
        }
        Ok((normal, faults))
    }
}

/// A value's type as Go's messages name it.
fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A value as Go prints it (`map[spec:map[replicas:1]]`), which is how upstream shows a strategic merge patch.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(members) => {
            let members: Vec<String> = members
                .iter()
                .map(|(key, value)| format!("{key}:{}", go_text(value)))
                .collect();
            format!("map[{}]", members.join(" "))
        }
        other => other.to_string(),
    }
}

/// What is strange about the operations of a JSON patch.
fn operation_faults(patch: &Value, duplicates: &[String]) -> Vec<String> {
    let operations = patch.as_array().into_iter().flatten().enumerate();
    let strangers = operations.flat_map(|(index, operation)| {
        let fields = operation.as_object().into_iter().flatten();
        let strange = fields.filter(|(field, _)| !matches!(field.as_str(), "op" | "path" | "from" | "value"));
        strange.map(move |(field, _)| format!("json patch unknown field \"[{index}].{field}\""))
    });
    duplicates
        .iter()
        .map(|fault| format!("json patch {fault}"))
        .chain(strangers)
        .collect()
}

fn refused(error: api::patch::Error) -> Error {
    match error {
        api::patch::Error::Malformed(why) => Error::bad_request(why),
        api::patch::Error::TooManyOperations(_) => Error::too_large(error),
        // What did not fit, upstream does not tell.
        api::patch::Error::Inapplicable(why) => {
            tracing::debug!(%why, "patch does not apply");
            Error {
                code: 422,
                reason: "Invalid".into(),
                message: "the server rejected our request due to an error in our request".into(),
                details: Some(Box::default()),
            }
        }
    }
}

impl Registry {
    /// Changes an object, its status or another part of it by a patch; lost races are run again.
    ///
    /// # Errors
    /// As [`Registry::update`] and [`Patch::apply_checked`].
    pub async fn patch(&self, access: &Access, patch: &Patch, options: &WriteOptions) -> Result<Written, Error> {
        let kind = &access.kind;
        let api_version = kind.api_version();
        let expected = kind.expected(&api_version);
        let unknown = parking_lot::Mutex::new(Vec::new());
        let change = |old: &Value| {
            let patched = if kind.is_storage_version() {
                patch.apply_checked(expected, old, options.field_validation)
            } else {
                patch.apply_checked(
                    expected,
                    &convert::from_storage(kind, old.clone()),
                    options.field_validation,
                )
            };
            let (new, warnings) = patched?;
            *unknown.lock() = warnings;
            let (is, wanted) = (meta::text(&new, "name"), &access.attributes.name);
            if is != wanted {
                return Err(Error::bad_request(format!(
                    "the name of the object ({is}) does not match the name on the URL ({wanted})"
                )));
            }
            Ok(convert::to_storage(kind, new))
        };
        let mut written = self
            .change(
                access,
                &change,
                Rules {
                    retry: true,
                    unconditional: true,
                    trusted: false,
                },
                options,
            )
            .await?;
        written.warnings.extend(unknown.into_inner());
        Ok(written)
    }
}
