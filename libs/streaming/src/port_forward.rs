//! Port forwarding: many connections to ports of a pod, over SPDY, SPDY inside WebSocket, or WebSocket channels.

use std::collections::HashMap;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::Tunnel;
use crate::spdy::{FrameError, Headers, Role, Session, Stream};
use crate::upgrade::Transport;
use crate::websocket::{self, Coding, Incoming};

/// Protocols over SPDY.
pub const SPDY_PROTOCOLS: &[&str] = &["portforward.k8s.io"];
/// SPDY inside WebSocket messages.
const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";
/// Protocols over WebSocket, the best first.
pub const WEBSOCKET_PROTOCOLS: &[&str] = &[
    TUNNELLED,
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "portforward.k8s.io",
];

/// Streams whose partner has not come yet.
const MAX_HALF_OPEN: usize = 256;
const QUEUE: usize = 16;

/// From the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Bytes of the connection.
    Data(Bytes),
    /// Why the connection could not be made or broke.
    Error(String),
}

/// One connection to a port of the pod.
#[derive(Debug)]
pub struct Connection {
    /// The port.
    pub port: u16,
    /// From the client; ends when it has sent its last byte.
    pub incoming: mpsc::Receiver<Bytes>,
    /// To the client; dropping it closes the connection.
    pub outgoing: mpsc::Sender<Output>,
}

/// Serves port forwarding on an upgraded connection. `ports` are those of the request's query, which only WebSocket channels need.
///
/// # Errors
/// When SPDY cannot be set up.
pub async fn serve<C>(
    connection: C,
    transport: Transport,
    protocol: &str,
    ports: &[u16],
) -> Result<mpsc::Receiver<Connection>, FrameError>
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match (transport, protocol) {
        (Transport::Spdy, _) => serve_spdy(connection),
        (Transport::WebSocket, TUNNELLED) => serve_spdy(Tunnel::start(websocket::server(connection).await)),
        (Transport::WebSocket, name) => Ok(serve_channels(connection, Coding::of(name), ports).await),
    }
}

fn serve_spdy<C>(connection: C) -> Result<mpsc::Receiver<Connection>, FrameError>
where
    C: AsyncRead + AsyncWrite + Send + 'static,
{
    let (session, mut accepted) = Session::start(connection, Role::Server)?;
    let (connections, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut halves: HashMap<String, Stream> = HashMap::new();
        while let Some(stream) = accepted.accept().await {
            let request = stream.headers.get("requestid").cloned().unwrap_or_default();
            match halves.remove(&request) {
                None if halves.len() < MAX_HALF_OPEN => {
                    halves.insert(request, stream);
                }
                // Dropping a stream resets it.
                None => {}
                Some(other) => {
                    if let Some(connection) = pair(stream, other)
                        && connections.send(connection).await.is_err()
                    {
                        break;
                    }
                }
            }
        }
        drop(session);
    });
    Ok(receiver)
}

/// A data and an error stream make a connection.
fn pair(a: Stream, b: Stream) -> Option<Connection> {
    let is_data = |stream: &Stream| stream.headers.get("streamtype").is_some_and(|kind| kind == "data");
    let (data, error) = match (is_data(&a), is_data(&b)) {
        (true, false) => (a, b),
        (false, true) => (b, a),
        _ => return None,
    };
    let port = data.headers.get("port")?.parse().ok()?;
    let (input, incoming) = mpsc::channel(QUEUE);
    let (outgoing, mut output) = mpsc::channel(QUEUE);
    let mut reader = data.reader;
    tokio::spawn(async move {
        while let Some(bytes) = reader.read().await {
            if input.send(bytes).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some(next) = output.recv().await {
            let written = match next {
                Output::Data(bytes) => data.writer.write(bytes).await,
                Output::Error(text) => error.writer.write(text.into()).await,
            };
            if written.is_err() {
                return;
            }
        }
        let _ = data.writer.finish().await;
        let _ = error.writer.finish().await;
    });
    Some(Connection {
        port,
        incoming,
        outgoing,
    })
}

/// Channel 2i carries the data of the i-th port and 2i+1 its errors; each begins with the port as a little-endian 16-bit number.
async fn serve_channels<C>(connection: C, coding: Coding, ports: &[u16]) -> mpsc::Receiver<Connection>
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    use futures_util::{SinkExt, StreamExt};
    let (mut sink, mut stream) = websocket::server(connection).await.split();
    let (connections, receiver) = mpsc::channel(ports.len().max(1));
    let (messages, mut outgoing) = mpsc::channel(QUEUE);
    let mut inputs = Vec::new();
    for (index, port) in ports.iter().enumerate().take(usize::from(u8::MAX) / 2) {
        let channel = index as u8 * 2;
        let (input, incoming) = mpsc::channel(QUEUE);
        let (sender, mut output) = mpsc::channel(QUEUE);
        inputs.push(input);
        let messages: mpsc::Sender<(u8, Bytes)> = messages.clone();
        let port = *port;
        tokio::spawn(async move {
            for channel in [channel, channel + 1] {
                let _ = messages
                    .send((channel, Bytes::copy_from_slice(&port.to_le_bytes())))
                    .await;
            }
            while let Some(next) = output.recv().await {
                let message = match next {
                    Output::Data(bytes) => (channel, bytes),
                    Output::Error(text) => (channel + 1, text.into()),
                };
                if messages.send(message).await.is_err() {
                    return;
                }
            }
        });
        // The channel has room for all ports.
        let _ = connections.try_send(Connection {
            port,
            incoming,
            outgoing: sender,
        });
    }
    drop(messages);
    tokio::spawn(async move {
        let reading = async {
            while let Some(message) = websocket::next(&mut stream, coding).await {
                if let Incoming::Data(channel, data) = message
                    && channel % 2 == 0
                    && let Some(input) = inputs.get(usize::from(channel / 2))
                    && data.has_remaining()
                {
                    // A connection that is over no longer wants it.
                    let _ = input.send(data).await;
                }
            }
        };
        let writing = async {
            while let Some((channel, data)) = outgoing.recv().await {
                if sink.send(websocket::encode(coding, channel, &data)).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = reading => {}
            () = writing => {}
        }
        websocket::close(&mut sink).await;
        drop(connections);
    });
    receiver
}

/// Opens one connection to a port through a container runtime's streaming server, on a connection that was upgraded to SPDY.
///
/// # Errors
/// When the streams cannot be opened.
pub async fn call<C>(connection: C, port: u16) -> Result<Connected, crate::remote::Error>
where
    C: AsyncRead + AsyncWrite + Send + 'static,
{
    let (session, _accepted) = Session::start(connection, Role::Client)?;
    let headers = |kind: &str| {
        Headers::from([
            ("streamtype".to_owned(), kind.to_owned()),
            ("port".to_owned(), port.to_string()),
            ("requestid".to_owned(), "0".to_owned()),
        ])
    };
    let closed = |_| crate::remote::Error::Closed;
    let error = session.open(headers("error")).await.map_err(closed)?;
    let data = session.open(headers("data")).await.map_err(closed)?;
    // Only the server writes errors.
    error.writer.finish().await.map_err(closed)?;
    Ok(Connected {
        data,
        error: error.reader,
    })
}

/// A connection through a container runtime.
#[derive(Debug)]
pub struct Connected {
    /// Bytes in both directions.
    pub data: Stream,
    /// A message, if the connection could not be made or broke; ends with the connection.
    pub error: crate::spdy::Reader,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_over_spdy() {
        let (near, far) = tokio::io::duplex(4096);
        let mut connections = serve(far, Transport::Spdy, "portforward.k8s.io", &[]).await.unwrap();
        let mut connected = call(near, 8080).await.unwrap();
        let mut connection = connections.recv().await.unwrap();
        assert_eq!(connection.port, 8080);
        connected.data.writer.write(Bytes::from_static(b"GET /")).await.unwrap();
        assert_eq!(connection.incoming.recv().await.as_deref(), Some(&b"GET /"[..]));
        connection
            .outgoing
            .send(Output::Data(Bytes::from_static(b"200")))
            .await
            .unwrap();
        connection.outgoing.send(Output::Error("reset".into())).await.unwrap();
        drop(connection.outgoing);
        assert_eq!(connected.data.reader.read().await.as_deref(), Some(&b"200"[..]));
        assert_eq!(connected.data.reader.read().await, None);
        assert_eq!(connected.error.read().await.as_deref(), Some(&b"reset"[..]));
        connected.data.writer.finish().await.unwrap();
        assert_eq!(connection.incoming.recv().await, None);
    }

    #[tokio::test]
    async fn connections_over_websocket_channels() {
        use futures_util::{SinkExt, StreamExt};
        use tokio_tungstenite::WebSocketStream;
        use tokio_tungstenite::tungstenite::{Message, protocol};
        let (near, far) = tokio::io::duplex(4096);
        let mut connections = serve(far, Transport::WebSocket, "v4.channel.k8s.io", &[80])
            .await
            .unwrap();
        let mut client = WebSocketStream::from_raw_socket(near, protocol::Role::Client, None).await;
        let mut connection = connections.recv().await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(vec![0, 80, 0]));
        assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(vec![1, 80, 0]));
        client.send(Message::binary(&b"\x00GET /"[..])).await.unwrap();
        assert_eq!(connection.incoming.recv().await.as_deref(), Some(&b"GET /"[..]));
        connection
            .outgoing
            .send(Output::Data(Bytes::from_static(b"200")))
            .await
            .unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(&b"\x00200"[..]));
    }
}
