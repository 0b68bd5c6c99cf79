//! [`FieldError`]: one fault of one field, worded as upstream's validation words it.

use crate::meta::StatusCause;
use serde_json::Value;
use std::fmt;

/// What is wrong with the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldErrorKind {
    /// It must be given.
    Required,
    /// Its value is malformed or out of range.
    Invalid,
    /// Its value is not one of the known ones.
    NotSupported,
    /// It may not be set here.
    Forbidden,
    /// Its value appears twice.
    Duplicate,
    /// Its text is too long; the value is not repeated in the message.
    TooLong,
    /// It has too many items; `bad_value` is their number.
    TooMany,
    /// Its value names something that does not exist.
    NotFound,
    /// Its value has the wrong type.
    TypeInvalid,
    /// The check itself failed.
    Internal,
}

impl FieldErrorKind {
    /// The text at the start of the message.
    pub fn text(self) -> &'static str {
        match self {
            FieldErrorKind::Required => "Required value",
            FieldErrorKind::Invalid | FieldErrorKind::TypeInvalid => "Invalid value",
            FieldErrorKind::NotSupported => "Unsupported value",
            FieldErrorKind::Forbidden => "Forbidden",
            FieldErrorKind::Duplicate => "Duplicate value",
            FieldErrorKind::TooLong => "Too long",
            FieldErrorKind::TooMany => "Too many",
            FieldErrorKind::NotFound => "Not found",
            FieldErrorKind::Internal => "Internal error",
        }
    }

    /// The `reason` of the cause in a Status.
    pub fn reason(self) -> &'static str {
        match self {
            FieldErrorKind::Required => "FieldValueRequired",
            FieldErrorKind::Invalid => "FieldValueInvalid",
            FieldErrorKind::NotSupported => "FieldValueNotSupported",
            FieldErrorKind::Forbidden => "FieldValueForbidden",
            FieldErrorKind::Duplicate => "FieldValueDuplicate",
            FieldErrorKind::TooLong => "FieldValueTooLong",
            FieldErrorKind::TooMany => "FieldValueTooMany",
            FieldErrorKind::NotFound => "FieldValueNotFound",
            FieldErrorKind::TypeInvalid => "FieldValueTypeInvalid",
            FieldErrorKind::Internal => "InternalError",
        }
    }

    fn shows_value(self) -> bool {
        use FieldErrorKind::*;
        !matches!(self, Required | Forbidden | TooLong | Internal)
    }
}

/// One fault of one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: FieldErrorKind,
    /// The path, as `spec.containers[0].image`.
    pub field: String,
    /// The value found, if it is to be shown.
    pub bad_value: Option<Value>,
    /// What was expected; may be empty.
    pub detail: String,
}

impl FieldError {
    fn new(
        kind: FieldErrorKind,
        field: impl Into<String>,
        bad_value: Option<Value>,
        detail: impl Into<String>,
    ) -> Self {
        FieldError {
            kind,
            field: field.into(),
            bad_value,
            detail: detail.into(),
        }
    }

    /// The field must be given.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Required, field, None, detail)
    }

    /// The value is malformed or out of range.
    pub fn invalid(field: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Invalid, field, Some(value.into()), detail)
    }

    /// The value has the wrong type.
    pub fn type_invalid(field: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::TypeInvalid, field, Some(value.into()), detail)
    }

    /// The value is not one of `supported`, which the message lists in the order given.
    pub fn not_supported(field: impl Into<String>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let detail = match supported {
            [] => String::new(),
            _ => {
                let quoted: Vec<_> = supported.iter().map(|value| format!("{value:?}")).collect();
                format!("supported values: {}", quoted.join(", "))
            }
        };
        Self::new(FieldErrorKind::NotSupported, field, Some(value.into()), detail)
    }

    /// The field may not be set here.
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Forbidden, field, None, detail)
    }

    /// The value appears twice.
    pub fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::Duplicate, field, Some(value.into()), "")
    }

    /// The text is longer than `max` bytes.
    pub fn too_long(field: impl Into<String>, max: usize) -> Self {
        Self::new(
            FieldErrorKind::TooLong,
            field,
            None,
            format!("may not be more than {max} bytes"),
        )
    }

    /// There are more than `max` items.
    pub fn too_many(field: impl Into<String>, actual: usize, max: usize) -> Self {
        let items = if max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {max} {items}");
        Self::new(FieldErrorKind::TooMany, field, Some(actual.into()), detail)
    }

    /// The value names something that does not exist.
    pub fn not_found(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::NotFound, field, Some(value.into()), "")
    }

    /// The check itself failed.
    pub fn internal(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Internal, field, None, detail)
    }

    /// The message without the path.
    pub fn body(&self) -> String {
        let mut body = self.kind.text().to_string();
        if let Some(value) = self.bad_value.as_ref().filter(|_| self.kind.shows_value()) {
            body.push_str(&format!(": {value}"));
        }
        if !self.detail.is_empty() {
            body.push_str(": ");
            body.push_str(&self.detail);
        }
        body
    }

    /// The cause that a Status carries for it.
    pub fn cause(&self) -> StatusCause {
        StatusCause {
            reason: Some(self.kind.reason().to_string()),
            message: Some(self.body()),
            field: Some(self.field.clone()),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for FieldError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_upstreams() {
        let table = [
            (FieldError::required("spec.name", ""), "spec.name: Required value"),
            (
                FieldError::required("spec.name", "must be set"),
                "spec.name: Required value: must be set",
            ),
            (
                FieldError::invalid("a", "x\"y", "bad"),
                r#"a: Invalid value: "x\"y": bad"#,
            ),
            (
                FieldError::invalid("a", 5, "must be less"),
                "a: Invalid value: 5: must be less",
            ),
            (
                FieldError::not_supported("p", "U", &["A", "B"]),
                r#"p: Unsupported value: "U": supported values: "A", "B""#,
            ),
            (FieldError::forbidden("f", "no"), "f: Forbidden: no"),
            (
                FieldError::too_long("f", 253),
                "f: Too long: may not be more than 253 bytes",
            ),
            (
                FieldError::too_many("f", 5, 3),
                "f: Too many: 5: must have at most 3 items",
            ),
            (FieldError::duplicate("f", "v"), r#"f: Duplicate value: "v""#),
        ];
        for (error, text) in table {
            assert_eq!(error.to_string(), text);
        }
    }
}
