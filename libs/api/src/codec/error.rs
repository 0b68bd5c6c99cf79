//! [`Error`]: why bytes or a value are not the object they should be.

/// Why bytes or a value are not the object they should be. The texts are those upstream's decoders give, because the API
/// server puts them into its answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The JSON text is malformed or too deep.
    #[error("{0}")]
    Json(String),
    /// The YAML text is malformed, too deep or too large.
    #[error("yaml: {0}")]
    Yaml(String),
    /// The protobuf message is malformed.
    #[error("proto: {message}: {reason}")]
    Proto {
        /// The message's name.
        message: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// A value has another type than its field.
    #[error("json: cannot unmarshal {found} into Go struct field {field} of type {expected}")]
    Type {
        /// The JSON type found.
        found: String,
        /// The struct and the path of the field, as `Pod.spec.containers`.
        field: String,
        /// The Go type expected.
        expected: String,
    },
    /// A value of the right type that means nothing, as a time or quantity that cannot be read.
    #[error("{0}")]
    Value(String),
    /// The bytes do not start as Kubernetes' protobuf does.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NotProtobuf,
    /// A single message came in several parts; readers join them and start again.
    #[error("proto: a message in several parts")]
    #[doc(hidden)]
    Split,
}

impl serde::de::Error for Error {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Error::Value(message.to_string())
    }
}

impl serde::ser::Error for Error {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Error::Value(message.to_string())
    }
}
