//! Request and response bodies: bounded reading, lazily made answers.

use api::Error;
use api::codec::{self, Encoding};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use http::{HeaderValue, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::Incoming;
use serde_json::Value;

use super::negotiate::Format;

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

/// A `Status` as an answer in JSON.
pub fn failure(error: &Error) -> Response {
    failure_as(error, Format::JSON)
}

/// A `Status` as an answer, in the encoding that the client asked for.
pub fn failure_as(error: &Error, format: Format) -> Response {
    let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let value = error.to_value();
    let mut response = match format.encoding {
        Encoding::Protobuf => answer(
            status,
            format.content_type(),
            full(codec::wrap("v1", "Status", &error.encode())),
        ),
        _ => match format.text(value.to_string().into()) {
            Ok(text) => answer(status, format.content_type(), full(text)),
            Err(_) => json(status, &value),
        },
    };
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
