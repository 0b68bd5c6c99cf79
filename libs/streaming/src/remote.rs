//! Remote commands (`exec`, `attach`): standard streams, terminal sizes and a final status, over SPDY or WebSocket.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::spdy::{FrameError, Headers, Reader, Role, Session, Stream, Writer};
use crate::upgrade::Transport;
use crate::websocket::{self, Coding, Incoming};

/// Protocols over SPDY, the best first.
pub const SPDY_PROTOCOLS: &[&str] = &["v4.channel.k8s.io"];
/// Protocols over WebSocket, the best first.
pub const WEBSOCKET_PROTOCOLS: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "base64.channel.k8s.io",
    "channel.k8s.io",
];

/// Time for a client to open its streams.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Messages on their way in each direction.
const QUEUE: usize = 16;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// Which streams the command has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; never with a terminal.
    pub stderr: bool,
    /// A terminal: sizes may come.
    pub tty: bool,
}

/// A terminal's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// To the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Standard input.
    Stdin(Bytes),
    /// Standard input ends.
    StdinClosed,
    /// The terminal's size changed.
    Resize(Size),
}

/// From the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
    /// How it ended: a metav1.Status in JSON. Nothing follows.
    Status(Bytes),
}

/// One side of a remote command: `I` comes in, `O` goes out. Dropping both ends the connection.
#[derive(Debug)]
pub struct Command<I, O> {
    /// What comes in; ends with the connection.
    pub incoming: mpsc::Receiver<I>,
    /// What goes out.
    pub outgoing: mpsc::Sender<O>,
}

/// The serving side.
pub type Served = Command<Input, Output>;
/// The calling side.
pub type Called = Command<Output, Input>;

/// Why the streams could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// SPDY failed.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The connection ended too early.
    #[error("connection ended before the streams were open")]
    Closed,
    /// The client did not open its streams in time.
    #[error("timed out waiting for client to create streams")]
    Timeout,
}

/// Serves a remote command on an upgraded connection.
///
/// # Errors
/// When the client does not open the streams that `options` names.
pub async fn serve<C>(connection: C, transport: Transport, protocol: &str, options: Options) -> Result<Served, Error>
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match transport {
        Transport::Spdy => serve_spdy(connection, options).await,
        Transport::WebSocket => Ok(serve_websocket(connection, Coding::of(protocol), options).await),
    }
}

#[derive(Default)]
struct Streams {
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    error: Option<Stream>,
    resize: Option<Stream>,
}

impl Streams {
    fn put(&mut self, stream: Stream) {
        let kind = stream.headers.get("streamtype").map(String::as_str);
        let slot = match kind {
            Some("stdin") => &mut self.stdin,
            Some("stdout") => &mut self.stdout,
            Some("stderr") => &mut self.stderr,
            Some("error") => &mut self.error,
            Some("resize") => &mut self.resize,
            // Dropping it refuses it.
            _ => return,
        };
        *slot = Some(stream);
    }

    fn complete(&self, options: Options) -> bool {
        self.error.is_some()
            && (self.stdin.is_some() || !options.stdin)
            && (self.stdout.is_some() || !options.stdout)
            && (self.stderr.is_some() || !options.stderr || options.tty)
            && (self.resize.is_some() || !options.tty)
    }
}

async fn serve_spdy<C>(connection: C, options: Options) -> Result<Served, Error>
where
    C: AsyncRead + AsyncWrite + Send + 'static,
{
    let (session, mut accepted) = Session::start(connection, Role::Server)?;
    let mut streams = Streams::default();
    let open = async {
        while !streams.complete(options) {
            streams.put(accepted.accept().await.ok_or(Error::Closed)?);
        }
        Ok::<(), Error>(())
    };
    tokio::time::timeout(OPEN_TIMEOUT, open)
        .await
        .map_err(|_| Error::Timeout)??;
    let (input, incoming) = mpsc::channel(QUEUE);
    let (outgoing, output) = mpsc::channel(QUEUE);
    // Nothing is ever sent to the client here. An end of these says that the command is over: clients then close standard input.
    let mut silent = Vec::new();
    if let Some(stream) = streams.stdin {
        tokio::spawn(read_stdin(stream.reader, input.clone()));
        silent.push(stream.writer);
    }
    if let Some(stream) = streams.resize {
        tokio::spawn(read_sizes(stream.reader, input.clone()));
        silent.push(stream.writer);
    }
    let writers = (
        streams.stdout.map(|s| s.writer),
        streams.stderr.map(|s| s.writer),
        streams.error.map(|s| s.writer),
    );
    tokio::spawn(async move {
        // `input` lives as long as the connection, so that the receiver learns of its end.
        tokio::select! {
            () = write_outputs(output, writers.0, writers.1, writers.2) => {
                for writer in silent {
                    let _ = writer.finish().await;
                }
                // The client closes when it has read the status; a client that does not is not waited for.
                let _ = tokio::time::timeout(Duration::from_secs(5), session.closed()).await;
            }
            () = session.closed() => {}
        }
        drop(input);
    });
    Ok(Command { incoming, outgoing })
}

async fn read_stdin(mut reader: Reader, input: mpsc::Sender<Input>) {
    while let Some(data) = reader.read().await {
        if input.send(Input::Stdin(data)).await.is_err() {
            return;
        }
    }
    let _ = input.send(Input::StdinClosed).await;
}

async fn read_sizes(mut reader: Reader, input: mpsc::Sender<Input>) {
    while let Some(data) = reader.read().await {
        // kubectl writes one JSON object at a time; a burst may hold several.
        for size in serde_json::Deserializer::from_slice(&data)
            .into_iter::<Size>()
            .map_while(Result::ok)
        {
            if input.send(Input::Resize(size)).await.is_err() {
                return;
            }
        }
    }
}

async fn write_outputs(
    mut output: mpsc::Receiver<Output>,
    stdout: Option<Writer>,
    stderr: Option<Writer>,
    error: Option<Writer>,
) {
    let mut status = None;
    while let Some(next) = output.recv().await {
        let written = match (next, &stdout, &stderr) {
            (Output::Stdout(data), Some(writer), _) | (Output::Stderr(data), _, Some(writer)) => {
                writer.write(data).await
            }
            (Output::Status(data), ..) => {
                status = Some(data);
                break;
            }
            _ => Ok(()),
        };
        if written.is_err() {
            return;
        }
    }
    // The status comes last: clients stop reading at it.
    for writer in [stdout, stderr].into_iter().flatten() {
        let _ = writer.finish().await;
    }
    if let (Some(writer), Some(status)) = (error, status) {
        let _ = writer.write(status).await;
        let _ = writer.finish().await;
    }
}

async fn serve_websocket<C>(connection: C, coding: Coding, options: Options) -> Served
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    use futures_util::{SinkExt, StreamExt};
    let (mut sink, mut stream) = websocket::server(connection).await.split();
    let (input, incoming) = mpsc::channel(QUEUE);
    let (outgoing, mut output) = mpsc::channel(QUEUE);
    let reading = async move {
        while let Some(message) = websocket::next(&mut stream, coding).await {
            let next = match message {
                Incoming::Data(STDIN, data) if options.stdin && !data.is_empty() => Input::Stdin(data),
                Incoming::Closed(STDIN) if options.stdin => Input::StdinClosed,
                Incoming::Data(RESIZE, data) => match serde_json::from_slice(&data) {
                    Ok(size) => Input::Resize(size),
                    Err(_) => continue,
                },
                _ => continue,
            };
            if input.send(next).await.is_err() {
                // The command is over; what the client still sends has no reader.
                std::future::pending::<()>().await;
            }
        }
    };
    let writing = async move {
        // Tells the client that the connection stands, as upstream does.
        let first = if options.stdout {
            STDOUT
        } else if options.stderr {
            STDERR
        } else {
            ERROR
        };
        let mut outcome = sink.send(websocket::encode(coding, first, b"")).await;
        while let (Ok(()), Some(next)) = (&outcome, output.recv().await) {
            let (channel, data, last) = match &next {
                Output::Stdout(data) => (STDOUT, data, false),
                Output::Stderr(data) => (STDERR, data, false),
                Output::Status(data) => (ERROR, data, true),
            };
            outcome = sink.send(websocket::encode(coding, channel, data)).await;
            if last {
                break;
            }
        }
        websocket::close(&mut sink).await;
    };
    tokio::spawn(async move {
        tokio::select! {
            () = reading => {}
            () = writing => {}
        }
    });
    Command { incoming, outgoing }
}

/// Calls a container runtime's streaming server on a connection that was upgraded to SPDY.
///
/// # Errors
/// When the streams cannot be opened.
pub async fn call<C>(connection: C, options: Options) -> Result<Called, Error>
where
    C: AsyncRead + AsyncWrite + Send + 'static,
{
    let (session, _accepted) = Session::start(connection, Role::Client)?;
    let open = async |kind: &str| {
        let headers = Headers::from([("streamtype".to_owned(), kind.to_owned())]);
        session.open(headers).await.map_err(|_| Error::Closed)
    };
    // The error stream comes first: the server waits for it.
    let error = open("error").await?;
    error.writer.finish().await.map_err(|_| Error::Closed)?;
    let stdin = if options.stdin {
        Some(open("stdin").await?.writer)
    } else {
        None
    };
    // We send nothing on the streams that only the command writes to.
    let listen = async |kind: &str| {
        let stream = open(kind).await?;
        stream.writer.finish().await.map_err(|_| Error::Closed)?;
        Ok::<_, Error>(stream.reader)
    };
    let stdout = match options.stdout {
        true => Some(listen("stdout").await?),
        false => None,
    };
    let stderr = match options.stderr && !options.tty {
        true => Some(listen("stderr").await?),
        false => None,
    };
    let resize = if options.tty {
        Some(open("resize").await?.writer)
    } else {
        None
    };
    let (output, incoming) = mpsc::channel(QUEUE);
    let (outgoing, input) = mpsc::channel(QUEUE);
    tokio::spawn(write_inputs(input, stdin, resize));
    tokio::spawn(async move {
        let stdout = forward(stdout, output.clone(), Output::Stdout);
        let stderr = forward(stderr, output.clone(), Output::Stderr);
        let status = async {
            let mut reader = error.reader;
            let mut status = Vec::new();
            while let Some(data) = reader.read().await {
                status.extend_from_slice(&data);
            }
            status
        };
        tokio::select! {
            ((), (), status) = async { tokio::join!(stdout, stderr, status) } => if !status.is_empty() {
                let _ = output.send(Output::Status(status.into())).await;
            },
            // Nobody wants the rest.
            () = output.closed() => {}
        }
        drop(session);
    });
    Ok(Command { incoming, outgoing })
}

async fn forward(reader: Option<Reader>, output: mpsc::Sender<Output>, wrap: fn(Bytes) -> Output) {
    let Some(mut reader) = reader else { return };
    while let Some(data) = reader.read().await {
        if output.send(wrap(data)).await.is_err() {
            return;
        }
    }
}

async fn write_inputs(mut input: mpsc::Receiver<Input>, mut stdin: Option<Writer>, resize: Option<Writer>) {
    while let Some(next) = input.recv().await {
        let written = match next {
            Input::Stdin(data) => match &stdin {
                Some(writer) => writer.write(data).await,
                None => Ok(()),
            },
            Input::StdinClosed => match stdin.take() {
                Some(writer) => writer.finish().await,
                None => Ok(()),
            },
            Input::Resize(size) => match (&resize, serde_json::to_vec(&size)) {
                (Some(writer), Ok(text)) => writer.write(text.into()).await,
                _ => Ok(()),
            },
        };
        if written.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Options = Options {
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    };

    #[tokio::test]
    async fn a_command_over_spdy_from_end_to_end() {
        let (near, far) = tokio::io::duplex(4096);
        let (served, called) = tokio::join!(serve(far, Transport::Spdy, "v4.channel.k8s.io", ALL), call(near, ALL));
        let (mut served, mut called) = (served.unwrap(), called.unwrap());
        called
            .outgoing
            .send(Input::Stdin(Bytes::from_static(b"question")))
            .await
            .unwrap();
        called.outgoing.send(Input::StdinClosed).await.unwrap();
        assert_eq!(
            served.incoming.recv().await,
            Some(Input::Stdin(Bytes::from_static(b"question")))
        );
        assert_eq!(served.incoming.recv().await, Some(Input::StdinClosed));
        let outputs = [
            Output::Stdout(Bytes::from_static(b"answer")),
            Output::Stderr(Bytes::from_static(b"noise")),
            Output::Status(Bytes::from_static(b"{\"status\":\"Success\"}")),
        ];
        for output in outputs.clone() {
            served.outgoing.send(output).await.unwrap();
        }
        let mut received = Vec::new();
        while let Some(output) = called.incoming.recv().await {
            received.push(output);
        }
        assert_eq!(received.last(), outputs.last(), "the status comes last");
        assert!(outputs.iter().all(|output| received.contains(output)), "{received:?}");
    }

    #[tokio::test]
    async fn a_terminal_gets_sizes() {
        let options = Options {
            stdin: true,
            stdout: true,
            stderr: false,
            tty: true,
        };
        let (near, far) = tokio::io::duplex(4096);
        let (served, called) = tokio::join!(
            serve(far, Transport::Spdy, "v4.channel.k8s.io", options),
            call(near, options)
        );
        let (mut served, called) = (served.unwrap(), called.unwrap());
        let size = Size { width: 80, height: 24 };
        called.outgoing.send(Input::Resize(size)).await.unwrap();
        assert_eq!(served.incoming.recv().await, Some(Input::Resize(size)));
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_the_command() {
        let (near, far) = tokio::io::duplex(4096);
        let (served, called) = tokio::join!(serve(far, Transport::Spdy, "v4.channel.k8s.io", ALL), call(near, ALL));
        drop(called);
        let mut served = served.unwrap();
        while let Some(input) = served.incoming.recv().await {
            assert_eq!(input, Input::StdinClosed);
        }
    }

    #[tokio::test]
    async fn a_command_over_websocket() {
        use futures_util::{SinkExt, StreamExt};
        use tokio_tungstenite::WebSocketStream;
        use tokio_tungstenite::tungstenite::{Message, protocol};
        let (near, far) = tokio::io::duplex(4096);
        let mut served = serve(far, Transport::WebSocket, "v5.channel.k8s.io", ALL)
            .await
            .unwrap();
        let mut client = WebSocketStream::from_raw_socket(near, protocol::Role::Client, None).await;
        assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(vec![STDOUT]));
        client.send(Message::binary(&b"\x00question"[..])).await.unwrap();
        client.send(Message::binary(&b"\xff\x00"[..])).await.unwrap();
        assert_eq!(
            served.incoming.recv().await,
            Some(Input::Stdin(Bytes::from_static(b"question")))
        );
        assert_eq!(served.incoming.recv().await, Some(Input::StdinClosed));
        served
            .outgoing
            .send(Output::Stdout(Bytes::from_static(b"answer")))
            .await
            .unwrap();
        served
            .outgoing
            .send(Output::Status(Bytes::from_static(b"{}")))
            .await
            .unwrap();
        assert_eq!(
            client.next().await.unwrap().unwrap(),
            Message::binary(&b"\x01answer"[..])
        );
        assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(&b"\x03{}"[..]));
        let Message::Close(Some(frame)) = client.next().await.unwrap().unwrap() else {
            panic!("a close with a code")
        };
        assert_eq!(frame.code, protocol::frame::coding::CloseCode::Normal);
    }
}
