//! What can go wrong with a call.

use std::time::Duration;

/// The outcome of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server answered with a Status.
    #[error(transparent)]
    Api(#[from] api::Error),
    /// No API server could be reached, or the connection broke; whether a write took effect is unknown.
    #[error("API server not reached: {0}")]
    Transport(String),
    /// The API server's answer could not be understood.
    #[error("answer of the API server not understood")]
    Decode(#[from] api::codec::Error),
}

impl Error {
    fn api(&self) -> Option<&api::Error> {
        match self {
            Self::Api(error) => Some(error),
            Self::Transport(_) | Self::Decode(_) => None,
        }
    }

    /// The object is not there.
    pub fn is_not_found(&self) -> bool {
        self.api().is_some_and(api::Error::is_not_found)
    }

    /// The object changed since it was read, or a precondition does not hold.
    pub fn is_conflict(&self) -> bool {
        self.api().is_some_and(api::Error::is_conflict)
    }

    /// An object of that name is there already.
    pub fn is_already_exists(&self) -> bool {
        self.api().is_some_and(api::Error::is_already_exists)
    }

    /// The object, or the change of it, is not valid.
    pub fn is_invalid(&self) -> bool {
        self.api().is_some_and(|error| error.reason == "Invalid")
    }

    /// The caller may not do that.
    pub fn is_forbidden(&self) -> bool {
        self.api().is_some_and(|error| error.reason == "Forbidden")
    }

    /// The revision asked for is no longer kept: list again.
    pub fn is_expired(&self) -> bool {
        self.api().is_some_and(|error| error.code == 410)
    }

    /// The namespace is being deleted, so nothing can be created in it.
    pub fn is_namespace_terminating(&self) -> bool {
        self.api().is_some_and(|error| {
            error.details.as_ref().is_some_and(|details| {
                details
                    .causes
                    .iter()
                    .flatten()
                    .any(|cause| cause.reason.as_deref() == Some("NamespaceTerminating"))
            })
        })
    }

    /// How long the API server asks to wait before the next try.
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.api()?.details.as_ref()?.retry_after_seconds?;
        u64::try_from(seconds).ok().filter(|s| *s > 0).map(Duration::from_secs)
    }

    /// Whether the call never reached an API server that could answer it.
    pub fn is_transport(&self) -> bool {
        matches!(self, Self::Transport(_))
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        if !status.details().is_empty() {
            match api::Error::decode(status.details()) {
                Ok(error) => return Self::Api(error),
                Err(error) => return Self::Decode(error),
            }
        }
        Self::Transport(format!("{:?}: {}", status.code(), status.message()))
    }
}
