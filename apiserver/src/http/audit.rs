//! Records requests: a layer above authentication, so that refusals are recorded too.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use api::Error;
use api::codec;
use bytes::Bytes;
use daemon::http::Peer;
use futures_util::{FutureExt, StreamExt, stream};
use http::{StatusCode, header};
use http_body::Frame;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use super::State;
use super::body::{Body, BodyError, Request, Response};
use super::guard::AuditId;
use super::layer::Next;
use super::router::{info, is_grpc};
use crate::audit::policy::Level;
use crate::audit::{MAX_OBJECT, Record, Start};

/// Makes the request's record the current one and completes it.
pub async fn record(state: Arc<State>, request: Request, next: Next) -> Result<Response, Error> {
    let Some(auditor) = &state.auditor else {
        return next.oneshot(request).await;
    };
    let (grpc, info) = (is_grpc(&request), info(&request));
    let attributes = (!grpc).then(|| info.attributes.clone());
    let record = Record::new(auditor, start(&request), attributes);
    let outcome = record
        .scope(AssertUnwindSafe(next.oneshot(request)).catch_unwind())
        .await;
    match outcome {
        Ok(Ok(response)) if grpc || info.is_long_running() => Ok(lasting(record, response)),
        Ok(Ok(response)) => Ok(finished(&record, response).await),
        Ok(Err(error)) => {
            record.refused(&error);
            Err(error)
        }
        Err(panic) => {
            record.panicked();
            resume_unwind(panic)
        }
    }
}

fn start(request: &Request) -> Start {
    let text = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
    let mut source_ips: Vec<String> = Vec::new();
    let peer = request.extensions().get::<Peer>().map(|p| p.address.ip().to_string());
    let claimed = text("x-forwarded-for").split(',').chain([text("x-real-ip")]);
    let claimed = claimed.filter_map(|ip| ip.trim().parse::<std::net::IpAddr>().ok().map(|ip| ip.to_string()));
    for ip in claimed.chain(peer) {
        if !source_ips.contains(&ip) {
            source_ips.push(ip);
        }
    }
    Start {
        id: request
            .extensions()
            .get::<AuditId>()
            .map(|id| id.0.clone())
            .unwrap_or_default(),
        uri: request
            .uri()
            .path_and_query()
            .map(ToString::to_string)
            .unwrap_or_default(),
        source_ips,
        user_agent: text(header::USER_AGENT.as_str()).to_owned(),
    }
}

/// An answer that is complete, but for reading its object where the policy wants it.
async fn finished(record: &Record, response: Response) -> Response {
    let code = response.status().as_u16();
    if record.level() < Level::RequestResponse || response.status() == StatusCode::SWITCHING_PROTOCOLS {
        record.complete(code);
        return response;
    }
    let (parts, mut body) = response.into_parts();
    let (mut seen, mut size) = (Vec::new(), 0);
    let mut broken = None;
    while size <= MAX_OBJECT {
        match body.frame().await.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => {
                size += data.len();
                seen.push(data);
            }
            Some(Ok(Err(_trailers))) => {}
            Some(Err(error)) => {
                broken = Some(error);
                break;
            }
            None => break,
        }
    }
    let content_type = parts
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    if size > MAX_OBJECT {
        record.truncated();
    } else if let Some(object) = object(content_type, &seen.concat()) {
        record.response_object(object);
    }
    record.complete(code);
    let seen = stream::iter(seen.into_iter().map(Ok).chain(broken.map(Err)));
    let body = super::body::stream(seen.chain(body.into_data_stream()));
    Response::from_parts(parts, body)
}

/// A body as a value; `None` for what is no API object.
pub fn object(content_type: &str, body: &[u8]) -> Option<Value> {
    let media = content_type.split(';').next().unwrap_or("").trim();
    match media {
        "application/vnd.kubernetes.protobuf" => {
            let (api_version, kind, message) = codec::unwrap(body).ok()?;
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            let schema = api::schema::for_kind(group, version, kind)?;
            let mut value = codec::proto_to_value(schema, message).ok()?;
            value["apiVersion"] = api_version.into();
            value["kind"] = kind.into();
            Some(value)
        }
        "application/yaml" | "application/apply-patch+yaml" => codec::parse_yaml(body).ok(),
        _ => serde_json::from_slice(body).ok(),
    }
}

/// An answer whose end is recorded when its body ends.
fn lasting(record: Arc<Record>, response: Response) -> Response {
    let code = response.status().as_u16();
    let (parts, body) = response.into_parts();
    if record.is_long_running() {
        record.started(code);
    }
    Response::from_parts(parts, Recorded { body, record, code }.boxed_unsync())
}

/// Completes the record when the body has been sent or is given up.
struct Recorded {
    body: Body,
    record: Arc<Record>,
    code: u16,
}

impl http_body::Body for Recorded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.record.complete(self.code);
    }
}
