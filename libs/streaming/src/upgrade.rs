//! The HTTP/1.1 upgrade before the streams: what a client offers, what we take, and the answer.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// SPDY's list of protocols, one a header.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("accepted-stream-protocol-versions");

/// How the streams travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// SPDY/3.1 on the connection itself.
    Spdy,
    /// WebSocket messages.
    WebSocket,
}

/// An upgrade that we take.
#[derive(Debug)]
pub struct Accepted {
    /// How the streams travel.
    pub transport: Transport,
    /// The protocol on top, as the client names it.
    pub protocol: &'static str,
    headers: HeaderMap,
}

impl Accepted {
    /// The `101 Switching Protocols` to answer.
    pub fn response<B: Default>(&self) -> Response<B> {
        let mut response = Response::new(B::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = self.headers.clone();
        response
    }
}

/// Why a request is no upgrade that we take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It asks for no upgrade, or for one that we do not know: 400.
    #[error("unable to upgrade: missing upgrade headers in request")]
    NotAnUpgrade,
    /// It offers no protocol that we speak: 403.
    #[error("unable to upgrade: no supported protocol among {0:?}")]
    Protocol(Vec<String>),
}

fn tokens(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(|token| token.trim().to_owned())
        .filter(|t| !t.is_empty())
        .collect()
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name)
        .iter()
        .any(|found| found.eq_ignore_ascii_case(token))
}

/// Judges a request. The protocols are ours, the best first.
///
/// # Errors
/// [`Refused`].
pub fn accept(headers: &HeaderMap, spdy: &[&'static str], websocket: &[&'static str]) -> Result<Accepted, Refused> {
    if !has_token(headers, &header::CONNECTION, "upgrade") {
        return Err(Refused::NotAnUpgrade);
    }
    let mut answer = HeaderMap::new();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if has_token(headers, &header::UPGRADE, "websocket") {
        let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or(Refused::NotAnUpgrade)?;
        let protocol = choose(websocket, tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL))?;
        answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| Refused::NotAnUpgrade)?;
        answer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        return Ok(Accepted {
            transport: Transport::WebSocket,
            protocol,
            headers: answer,
        });
    }
    if has_token(headers, &header::UPGRADE, "SPDY/3.1") {
        let protocol = choose(spdy, tokens(headers, &STREAM_PROTOCOL))?;
        answer.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        answer.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
        return Ok(Accepted {
            transport: Transport::Spdy,
            protocol,
            headers: answer,
        });
    }
    Err(Refused::NotAnUpgrade)
}

fn choose(ours: &[&'static str], offered: Vec<String>) -> Result<&'static str, Refused> {
    ours.iter()
        .find(|protocol| offered.iter().any(|offer| offer == **protocol))
        .copied()
        .ok_or(Refused::Protocol(offered))
}

/// Whether a request asks for an upgrade at all.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    has_token(headers, &header::CONNECTION, "upgrade") && headers.contains_key(header::UPGRADE)
}

/// Why a server did not upgrade.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is not one of a streaming server.
    #[error("streaming address {0:?}: expected http://host:port/path")]
    Address(String),
    /// The server could not be reached.
    #[error("streaming server {address} not reached")]
    Connect {
        /// Its address.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// HTTP went wrong.
    #[error("upgrade at streaming server failed")]
    Http(#[from] hyper::Error),
    /// It answered something else than 101.
    #[error("streaming server answered {status}: {body}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// The beginning of the body.
        body: String,
    },
}

/// Upgrades a connection to a streaming server of the container runtime to SPDY/3.1.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect_spdy(url: &str, protocol: &'static str) -> Result<TokioIo<Upgraded>, ConnectError> {
    let bad_address = || ConnectError::Address(url.to_owned());
    let uri: http::Uri = url.parse().map_err(|_| bad_address())?;
    let host = uri.host().ok_or_else(bad_address)?;
    let address = format!("{host}:{}", uri.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(&address)
        .await
        .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
        .map_err(|source| ConnectError::Connect {
            address: address.clone(),
            source,
        })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::post(path)
        .header(header::HOST, &address)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "SPDY/3.1")
        .header(STREAM_PROTOCOL, protocol)
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .map_err(|_| bad_address())?;
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        use http_body_util::BodyExt;
        let status = response.status();
        let accepted = tokens(response.headers(), &ACCEPTED_PROTOCOLS).join(", ");
        let body = http_body_util::Limited::new(response.into_body(), 4096).collect().await;
        let body = body
            .map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned())
            .unwrap_or(accepted);
        return Err(ConnectError::Refused { status, body });
    }
    Ok(TokioIo::new(hyper::upgrade::on(response).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn chooses_our_best_of_what_is_offered() {
        let spdy = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v3.channel.k8s.io"),
        ]);
        let accepted = accept(&spdy, &["v4.channel.k8s.io", "v3.channel.k8s.io"], &[]).unwrap();
        assert_eq!(
            (accepted.transport, accepted.protocol),
            (Transport::Spdy, "v3.channel.k8s.io")
        );
        let response: Response<()> = accepted.response();
        assert_eq!(response.headers()[STREAM_PROTOCOL], "v3.channel.k8s.io");

        let websocket = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "v4.channel.k8s.io, v5.channel.k8s.io"),
        ]);
        let accepted = accept(&websocket, &[], &["v5.channel.k8s.io", "v4.channel.k8s.io"]).unwrap();
        assert_eq!(
            (accepted.transport, accepted.protocol),
            (Transport::WebSocket, "v5.channel.k8s.io")
        );
        let response: Response<()> = accepted.response();
        assert_eq!(
            response.headers()[header::SEC_WEBSOCKET_ACCEPT],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn refuses_the_rest() {
        assert_eq!(accept(&HeaderMap::new(), &[], &[]).unwrap_err(), Refused::NotAnUpgrade);
        let other = headers(&[("connection", "Upgrade"), ("upgrade", "h2c")]);
        assert_eq!(accept(&other, &[], &[]).unwrap_err(), Refused::NotAnUpgrade);
        let old = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v9.channel.k8s.io"),
        ]);
        let refused = accept(&old, &["v4.channel.k8s.io"], &[]).unwrap_err();
        assert_eq!(refused, Refused::Protocol(vec!["v9.channel.k8s.io".to_owned()]));
    }
}
