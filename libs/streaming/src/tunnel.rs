//! A byte stream inside WebSocket messages: how newer clients carry SPDY through proxies (KEP-4006).

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Bytes in each direction on their way.
const BUFFER: usize = 64 << 10;

/// See the module.
#[derive(Debug)]
pub struct Tunnel;

impl Tunnel {
    /// The byte stream inside a WebSocket; it ends when either side does.
    pub fn start<S>(socket: WebSocketStream<S>) -> DuplexStream
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (near, far) = tokio::io::duplex(BUFFER);
        let (mut sink, mut stream) = socket.split();
        let (mut read, mut write) = tokio::io::split(far);
        tokio::spawn(async move {
            let incoming = async {
                while let Some(Ok(message)) = stream.next().await {
                    match message {
                        Message::Binary(data) if write.write_all(&data).await.is_ok() => {}
                        Message::Binary(_) | Message::Close(_) => return,
                        _ => {}
                    }
                }
            };
            let outgoing = async {
                let mut buffer = vec![0; 32 << 10];
                loop {
                    match read.read(&mut buffer).await {
                        Ok(0) | Err(_) => return,
                        Ok(count) => {
                            if sink.send(Message::binary(buffer[..count].to_vec())).await.is_err() {
                                return;
                            }
                        }
                    }
                }
            };
            tokio::select! {
                () = incoming => {}
                () = outgoing => {}
            }
            crate::websocket::close(&mut sink).await;
        });
        near
    }
}
