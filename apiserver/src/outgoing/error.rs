//! What goes wrong on the way out, in the words that Kubernetes' own clients use, since they reach users in messages.

use std::error::Error as StdError;

use http::Method;

use super::connect::ConnectError;

/// Why a target cannot be called at all.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Neither a URL nor a service.
    #[error("either service or url must be specified")]
    NoPlace,
    /// Not an absolute URL.
    #[error("{0:?} is not an absolute URL")]
    Url(String),
    /// `caBundle` is no base64, or holds no certificate.
    #[error("unable to load root certificates: unable to parse bytes as PEM block")]
    Bundle,
    /// Something that rustls refuses.
    #[error("TLS configuration: {0}")]
    Tls(#[from] rustls::Error),
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The request itself cannot be written.
    #[error("{0}")]
    Request(String),
    /// No connection, or none that is to be trusted.
    #[error("{verb} {url:?}: {source}")]
    Connect {
        /// `Get`, `Post`, ...
        verb: String,
        /// Where to.
        url: String,
        /// Why.
        source: ConnectError,
    },
    /// The connection broke before the answer was complete.
    #[error("{verb} {url:?}: {why}")]
    Broken {
        /// `Get`, `Post`, ...
        verb: String,
        /// Where to.
        url: String,
        /// Why.
        why: String,
    },
    /// No answer in time.
    #[error("{verb} {url:?}: context deadline exceeded")]
    Timeout {
        /// `Get`, `Post`, ...
        verb: String,
        /// Where to.
        url: String,
    },
    /// The answer is larger than it may be.
    #[error("the answer is larger than {limit} bytes")]
    TooLarge {
        /// Bytes.
        limit: usize,
    },
    /// The answer is no success.
    #[error("{message}")]
    Status {
        /// The status code.
        code: u16,
        /// What a client of the API makes of it.
        message: String,
    },
}

/// `Post` for `POST`.
fn verb(method: &Method) -> String {
    let (first, rest) = method.as_str().split_at(1.min(method.as_str().len()));
    format!("{first}{}", rest.to_ascii_lowercase())
}

impl CallError {
    pub(super) fn request(error: http::Error) -> Self {
        Self::Request(error.to_string())
    }

    pub(super) fn timeout(method: Method, url: &str) -> Self {
        Self::Timeout {
            verb: verb(&method),
            url: url.to_owned(),
        }
    }

    pub(super) fn broken(method: Method, url: &str, error: &(dyn StdError + 'static)) -> Self {
        let incomplete = chain(error)
            .filter_map(|cause| cause.downcast_ref::<hyper::Error>())
            .any(hyper::Error::is_incomplete_message);
        let last = chain(error).last().map(ToString::to_string);
        Self::Broken {
            verb: verb(&method),
            url: url.to_owned(),
            why: match incomplete {
                true => "EOF".to_owned(),
                false => last.unwrap_or_default(),
            },
        }
    }

    /// An error of the HTTP client: our connector's own, or a connection that broke.
    pub(super) fn sent(method: Method, url: &str, error: &(dyn StdError + 'static)) -> Self {
        match chain(error).find_map(|cause| cause.downcast_ref::<ConnectError>()) {
            Some(connect) => Self::Connect {
                verb: verb(&method),
                url: url.to_owned(),
                source: connect.clone(),
            },
            None => Self::broken(method, url, error),
        }
    }

    /// What clients of the API make of a status and a body that is no `Status` object.
    pub(super) fn status(code: u16, body: &[u8]) -> Self {
        if let Ok(value) = serde_json::from_slice::<serde_json::Value>(body)
            && value.get("kind").and_then(|kind| kind.as_str()) == Some("Status")
            && let Some(message) = value.get("message").and_then(|message| message.as_str())
        {
            return Self::Status {
                code,
                message: message.to_owned(),
            };
        }
        let text: String = String::from_utf8_lossy(body).trim().chars().take(2048).collect();
        let message = match code {
            400 => "the server rejected our request for an unknown reason".to_owned(),
            401 => "the server has asked for the client to provide credentials".to_owned(),
            403 => format!("unknown ({text})"),
            404 => "the server could not find the requested resource".to_owned(),
            405 => "the server does not allow this method on the requested resource".to_owned(),
            406 => "the server was unable to respond with a content type that the client supports".to_owned(),
            413 => "the server responded with the status code 413 but did not return more information".to_owned(),
            415 => "the body of the request was in an unknown format".to_owned(),
            429 => "the server has received too many requests and has asked us to try again later".to_owned(),
            503 => "the server is currently unable to handle the request".to_owned(),
            504 => "the server was unable to return a response in the time allotted, but may still be processing the request".to_owned(),
            500.. => format!("an error on the server ({text:?}) has prevented the request from succeeding"),
            _ => format!("the server responded with the status code {code} but did not return more information"),
        };
        Self::Status { code, message }
    }

    /// True when another attempt may do better.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Broken { .. } | Self::Timeout { .. } => true,
            Self::Status { code, .. } => *code == 429 || *code >= 500,
            Self::Request(_) | Self::TooLarge { .. } => false,
        }
    }

    /// What went wrong, without saying again what was asked.
    pub fn cause(&self) -> String {
        match self {
            Self::Connect { source, .. } => source.to_string(),
            Self::Broken { why, .. } => why.clone(),
            Self::Timeout { .. } => "context deadline exceeded".to_owned(),
            other => other.to_string(),
        }
    }

    /// True when the target took too long.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Status { code: 504, .. })
    }
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |cause| (**cause).source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_told_as_clients_tell_them() {
        let of = |code, body: &str| CallError::status(code, body.as_bytes()).to_string();
        assert_eq!(
            of(500, "boom\n"),
            "an error on the server (\"boom\") has prevented the request from succeeding"
        );
        assert_eq!(of(404, "x"), "the server could not find the requested resource");
        assert_eq!(of(400, r#"{"kind":"Status","message":"no"}"#), "no");
        assert_eq!(
            CallError::timeout(Method::POST, "https://a/").to_string(),
            "Post \"https://a/\": context deadline exceeded"
        );
    }
}
