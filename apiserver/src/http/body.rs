//! Request and response bodies: bounded reading, lazily made answers.

use api::Error;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use http::{HeaderValue, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::Incoming;
use serde_json::Value;

/// Why a body broke off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// Any answer's body.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;
/// A request as it comes from the connection.
pub type Request = http::Request<Incoming>;
/// An answer.
pub type Response = http::Response<Body>;

/// The largest request body, bytes.
pub const LIMIT: usize = 3 << 20;

/// `application/json`.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Plain text.
pub const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// A body that is there already.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body made while it is sent.
pub fn stream(chunks: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static) -> Body {
    StreamBody::new(chunks.map_ok(http_body::Frame::data)).boxed_unsync()
}

/// An answer with a content type.
pub fn answer(status: StatusCode, content_type: HeaderValue, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// An answer in JSON.
pub fn json(status: StatusCode, value: &Value) -> Response {
    answer(status, JSON, full(value.to_string()))
}

/// A `Status` as an answer.
pub fn failure(error: &Error) -> Response {
    let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, &error.to_value());
    if let Some(seconds) = error.retry_after_seconds() {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Reads a request's body.
///
/// # Errors
/// 413 beyond [`LIMIT`], 400 when the client breaks off.
pub async fn read(body: Incoming) -> Result<Bytes, Error> {
    match Limited::new(body, LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Error::too_large(format!("limit is {LIMIT}")))
        }
        Err(error) => Err(Error::bad_request(format!("error reading the request body: {error}"))),
    }
}
