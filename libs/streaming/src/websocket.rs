//! Kubernetes' channels over WebSocket: the first byte of each message, or the first digit in the base64 variants, is the channel.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

/// The longest message to accept, in bytes.
const MAX_MESSAGE: usize = 1 << 20;
/// In version 5, a message on this channel closes the channel that it names (KEP-4006).
const CLOSE: u8 = 255;

/// How channels are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Binary messages.
    Binary,
    /// Binary messages, and single channels can be closed.
    BinaryWithClose,
    /// Text messages with base64.
    Base64,
}

impl Coding {
    /// The coding of a sub-protocol.
    pub fn of(protocol: &str) -> Self {
        match protocol {
            "v5.channel.k8s.io" => Self::BinaryWithClose,
            name if name.contains("base64") => Self::Base64,
            _ => Self::Binary,
        }
    }
}

/// What came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// Bytes on a channel.
    Data(u8, Bytes),
    /// Nothing more comes on a channel.
    Closed(u8),
}

/// Takes the server's side of an upgraded connection.
pub async fn server<S: AsyncRead + AsyncWrite + Unpin>(connection: S) -> WebSocketStream<S> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await
}

/// Reads a message; `None` for one that carries nothing. The coding says what is in it, not whether it came as text: some clients send text with a
/// binary coding.
pub(crate) fn decode(coding: Coding, message: Message) -> Option<Incoming> {
    let mut data = match message {
        Message::Binary(data) => data,
        Message::Text(text) => text.into(),
        _ => return None,
    };
    let first = *data.first()?;
    let _ = data.split_to(1);
    match (coding, first) {
        (Coding::Base64, b'0'..=b'9') => Some(Incoming::Data(first - b'0', STANDARD.decode(&data).ok()?.into())),
        (Coding::Base64, _) => None,
        (Coding::BinaryWithClose, CLOSE) => data.first().map(|closed| Incoming::Closed(*closed)),
        (_, channel) => Some(Incoming::Data(channel, data)),
    }
}

/// Writes a message.
pub(crate) fn encode(coding: Coding, channel: u8, data: &[u8]) -> Message {
    match coding {
        Coding::Base64 => Message::text(format!("{channel}{}", STANDARD.encode(data))),
        Coding::Binary | Coding::BinaryWithClose => {
            let mut message = Vec::with_capacity(1 + data.len());
            message.push(channel);
            message.extend_from_slice(data);
            Message::binary(message)
        }
    }
}

/// The next channel message; `None` when the connection is over. Pings are answered on the way.
pub(crate) async fn next<R>(stream: &mut R, coding: Coding) -> Option<Incoming>
where
    R: futures_util::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    loop {
        match stream.next().await? {
            Ok(Message::Close(_)) | Err(_) => return None,
            Ok(message) => {
                if let Some(incoming) = decode(coding, message) {
                    return Some(incoming);
                }
            }
        }
    }
}

/// Ends the connection in order.
pub(crate) async fn close<W>(sink: &mut W)
where
    W: futures_util::Sink<Message, Error = tokio_tungstenite::tungstenite::Error> + Unpin,
{
    // Clients take an end without a status for an accident.
    let normally = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    // The other side may have gone first.
    let _ = sink.send(Message::Close(Some(normally))).await;
    let _ = sink.close().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_survive_each_coding() {
        for coding in [Coding::Binary, Coding::BinaryWithClose, Coding::Base64] {
            let message = encode(coding, 1, b"hello \xff");
            let expected = Incoming::Data(1, Bytes::from_static(b"hello \xff"));
            assert_eq!(decode(coding, message), Some(expected), "{coding:?}");
        }
    }

    #[test]
    fn only_version_five_closes_channels() {
        let message = || Message::binary(vec![255, 0]);
        assert_eq!(decode(Coding::BinaryWithClose, message()), Some(Incoming::Closed(0)));
        assert_eq!(
            decode(Coding::Binary, message()),
            Some(Incoming::Data(255, Bytes::from_static(&[0])))
        );
        assert_eq!(decode(Coding::Binary, Message::binary(Vec::new())), None);
        assert_eq!(decode(Coding::Base64, Message::text("x")), None);
        assert_eq!(
            decode(Coding::BinaryWithClose, Message::text("\0typed")),
            Some(Incoming::Data(0, Bytes::from_static(b"typed")))
        );
    }
}
