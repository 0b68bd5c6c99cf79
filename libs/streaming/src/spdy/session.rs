//! A session: many streams over one connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::frame::{Frame, FrameDecoder, FrameEncoder};
use super::{FrameError, Headers};

/// Streams at once in a session; more are refused.
const MAX_STREAMS: usize = 1000;
/// Pieces of data waiting to be read from a stream before the session is held back.
const INPUT: usize = 16;
/// Frames waiting to be written.
const OUTPUT: usize = 64;
const REFUSED: u32 = 3;
const CANCEL: u32 = 5;

/// Which side of the connection this is: it decides the numbers of streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Odd numbers.
    Client,
    /// Even numbers.
    Server,
}

/// What is known of a stream while it lives.
struct Open {
    input: Option<mpsc::Sender<Bytes>>,
    /// Whether we have sent our last byte.
    written: bool,
}

struct Shared {
    streams: Mutex<HashMap<u32, Open>>,
    output: mpsc::Sender<Frame>,
    next: AtomicU32,
    closed: CancellationToken,
}

/// A handle on a session. When the last handle and stream are dropped, the connection is closed.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
    /// Dropped with the last handle and stream.
    _alive: Arc<CancelOnDrop>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("streams", &self.shared.streams.lock().len())
            .finish()
    }
}

struct CancelOnDrop(CancellationToken);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Streams that the other side opens.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<Stream>);

impl Incoming {
    /// The next stream; `None` when the session is over.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.0.recv().await
    }
}

/// A stream: bytes in both directions.
#[derive(Debug)]
pub struct Stream {
    /// The headers that it was opened with.
    pub headers: Headers,
    /// What comes in.
    pub reader: Reader,
    /// What goes out.
    pub writer: Writer,
}

/// The incoming half of a stream.
#[derive(Debug)]
pub struct Reader {
    input: mpsc::Receiver<Bytes>,
    _session: Session,
}

impl Reader {
    /// The next bytes; `None` when the other side has sent its last, or the session is over.
    pub async fn read(&mut self) -> Option<Bytes> {
        self.input.recv().await
    }
}

/// The outgoing half of a stream. Dropping it without [`Writer::finish`] resets the stream.
#[derive(Debug)]
pub struct Writer {
    id: u32,
    finished: bool,
    session: Session,
}

/// The session is over.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("stream session closed")]
pub struct Closed;

impl Writer {
    /// Sends bytes; waits while the connection is held back.
    ///
    /// # Errors
    /// When the session is over.
    pub async fn write(&self, data: Bytes) -> Result<(), Closed> {
        self.session
            .send(Frame::Data {
                id: self.id,
                fin: false,
                data,
            })
            .await
    }

    /// Tells the other side that nothing more comes.
    ///
    /// # Errors
    /// When the session is over.
    pub async fn finish(mut self) -> Result<(), Closed> {
        self.finished = true;
        let outcome = self
            .session
            .send(Frame::Data {
                id: self.id,
                fin: true,
                data: Bytes::new(),
            })
            .await;
        self.session.shared.done_writing(self.id);
        outcome
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            // A full queue means a connection in trouble; the other side learns of the end with it.
            let _ = self.session.shared.output.try_send(Frame::Reset {
                id: self.id,
                status: CANCEL,
            });
            self.session.shared.streams.lock().remove(&self.id);
        }
    }
}

impl Session {
    /// Speaks SPDY over a connection.
    ///
    /// # Errors
    /// When the header compressor cannot be set up.
    pub fn start<C>(connection: C, role: Role) -> Result<(Self, Incoming), FrameError>
    where
        C: AsyncRead + AsyncWrite + Send + 'static,
    {
        let encoder = FrameEncoder::new()?;
        let (output, outgoing) = mpsc::channel(OUTPUT);
        let (accepted, incoming) = mpsc::channel(INPUT);
        let closed = CancellationToken::new();
        let shared = Arc::new(Shared {
            streams: Mutex::default(),
            output,
            next: AtomicU32::new(if role == Role::Client { 1 } else { 2 }),
            closed: closed.clone(),
        });
        let alive = CancellationToken::new();
        let session = Self {
            shared: shared.clone(),
            _alive: Arc::new(CancelOnDrop(alive.clone())),
        };
        let (read_half, write_half) = tokio::io::split(connection);
        let weak = (Arc::downgrade(&session._alive), shared.clone());
        tokio::spawn(async move {
            let reading = read(read_half, weak.1, weak.0, accepted, role);
            tokio::select! {
                outcome = reading => if let Err(error) = outcome {
                    tracing::debug!(%error, "SPDY session ended");
                },
                () = alive.cancelled() => {}
            }
            shared.streams.lock().clear();
            shared.closed.cancel();
        });
        tokio::spawn(write(write_half, outgoing, encoder, closed));
        Ok((session, Incoming(incoming)))
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// When the session is over.
    pub async fn open(&self, headers: Headers) -> Result<Stream, Closed> {
        let id = self.shared.next.fetch_add(2, Ordering::Relaxed);
        let stream = self.register(id, headers.clone());
        self.send(Frame::SynStream {
            id,
            headers,
            fin: false,
        })
        .await?;
        Ok(stream)
    }

    /// Completes when the session is over.
    pub async fn closed(&self) {
        self.shared.closed.cancelled().await;
    }

    fn register(&self, id: u32, headers: Headers) -> Stream {
        let (sender, input) = mpsc::channel(INPUT);
        self.shared.streams.lock().insert(
            id,
            Open {
                input: Some(sender),
                written: false,
            },
        );
        Stream {
            headers,
            reader: Reader {
                input,
                _session: self.clone(),
            },
            writer: Writer {
                id,
                finished: false,
                session: self.clone(),
            },
        }
    }

    async fn send(&self, frame: Frame) -> Result<(), Closed> {
        tokio::select! {
            outcome = self.shared.output.send(frame) => outcome.map_err(|_| Closed),
            () = self.shared.closed.cancelled() => Err(Closed),
        }
    }
}

impl Shared {
    fn done_writing(&self, id: u32) {
        let mut streams = self.streams.lock();
        if let Some(open) = streams.get_mut(&id) {
            open.written = true;
            if open.input.is_none() {
                streams.remove(&id);
            }
        }
    }

    /// The other side has sent its last byte.
    fn done_reading(&self, id: u32) {
        let mut streams = self.streams.lock();
        if let Some(open) = streams.get_mut(&id) {
            open.input = None;
            if open.written {
                streams.remove(&id);
            }
        }
    }

    fn input(&self, id: u32) -> Option<mpsc::Sender<Bytes>> {
        self.streams.lock().get(&id).and_then(|open| open.input.clone())
    }
}

async fn read(
    mut connection: impl AsyncRead + Unpin,
    shared: Arc<Shared>,
    alive: std::sync::Weak<CancelOnDrop>,
    accepted: mpsc::Sender<Stream>,
    role: Role,
) -> std::io::Result<()> {
    let (mut decoder, mut buffer) = (FrameDecoder::new(), BytesMut::with_capacity(16 << 10));
    let ours = if role == Role::Client { 1 } else { 0 };
    loop {
        while let Some(frame) = decoder.decode(&mut buffer).map_err(std::io::Error::other)? {
            match frame {
                Frame::SynStream { id, headers, fin } => {
                    let Some(alive) = alive.upgrade() else { return Ok(()) };
                    let room = shared.streams.lock().len() < MAX_STREAMS && id % 2 != ours;
                    if !room {
                        let _ = shared.output.send(Frame::Reset { id, status: REFUSED }).await;
                        continue;
                    }
                    let stream = Session {
                        shared: shared.clone(),
                        _alive: alive,
                    }
                    .register(id, headers);
                    if fin {
                        shared.done_reading(id);
                    }
                    let reply = Frame::SynReply {
                        id,
                        headers: Headers::new(),
                        fin: false,
                    };
                    if shared.output.send(reply).await.is_err() || accepted.send(stream).await.is_err() {
                        return Ok(());
                    }
                }
                Frame::SynReply { id, fin, .. } => {
                    if fin {
                        shared.done_reading(id);
                    }
                }
                Frame::Reset { id, .. } => {
                    shared.streams.lock().remove(&id);
                }
                Frame::Data { id, fin, data } => {
                    if let Some(input) = (!data.is_empty()).then(|| shared.input(id)).flatten() {
                        // A reader that went away no longer wants it.
                        let _ = input.send(data).await;
                    }
                    if fin {
                        shared.done_reading(id);
                    }
                }
                Frame::Ping(id) => {
                    // Ours come back to us; the other side's are sent back.
                    if id % 2 != ours {
                        let _ = shared.output.send(Frame::Ping(id)).await;
                    }
                }
                Frame::GoAway | Frame::Other(_) => {}
            }
        }
        if connection.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

async fn write(
    mut connection: impl AsyncWrite + Unpin,
    mut outgoing: mpsc::Receiver<Frame>,
    mut encoder: FrameEncoder,
    closed: CancellationToken,
) {
    let mut buffer = BytesMut::with_capacity(16 << 10);
    let mut frames = Vec::with_capacity(OUTPUT);
    loop {
        let count = tokio::select! {
            // What was handed to us before the end is still written.
            biased;
            count = outgoing.recv_many(&mut frames, OUTPUT) => count,
            () = closed.cancelled() => 0,
        };
        if count == 0 {
            break;
        }
        for frame in frames.drain(..) {
            if let Err(error) = encoder.encode(&frame, &mut buffer) {
                tracing::warn!(%error, "SPDY frame not written");
                closed.cancel();
            }
        }
        let written = async {
            connection.write_all_buf(&mut buffer).await?;
            connection.flush().await
        };
        if written.await.is_err() {
            break;
        }
    }
    closed.cancel();
    // The other side may be gone already.
    let _ = connection.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Session, Session, Incoming) {
        let (a, b) = tokio::io::duplex(8 << 10);
        let (client, _) = Session::start(a, Role::Client).unwrap();
        let (server, incoming) = Session::start(b, Role::Server).unwrap();
        (client, server, incoming)
    }

    fn named(name: &str) -> Headers {
        Headers::from([("streamtype".to_owned(), name.to_owned())])
    }

    async fn read_all(reader: &mut Reader) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(data) = reader.read().await {
            all.extend_from_slice(&data);
        }
        all
    }

    #[tokio::test]
    async fn streams_carry_bytes_both_ways_and_close_by_halves() {
        let (client, server, mut incoming) = pair();
        let mut ours = client.open(named("data")).await.unwrap();
        let mut theirs = incoming.accept().await.unwrap();
        assert_eq!(theirs.headers, named("data"));
        let sent = Bytes::from(vec![7; 200_000]);
        let writer = ours.writer;
        let copy = sent.clone();
        let sending = tokio::spawn(async move {
            writer.write(copy).await.unwrap();
            writer.finish().await.unwrap();
        });
        assert_eq!(read_all(&mut theirs.reader).await, sent);
        sending.await.unwrap();
        theirs
            .writer
            .write(Bytes::from_static(b"answer after half-close"))
            .await
            .unwrap();
        theirs.writer.finish().await.unwrap();
        assert_eq!(read_all(&mut ours.reader).await, b"answer after half-close");
        assert!(client.shared.streams.lock().is_empty() && server.shared.streams.lock().is_empty());
    }

    #[tokio::test]
    async fn dropping_everything_on_one_side_ends_the_other() {
        let (client, _server, mut incoming) = pair();
        let ours = client.open(named("data")).await.unwrap();
        let mut theirs = incoming.accept().await.unwrap();
        drop((client, ours));
        assert_eq!(theirs.reader.read().await, None);
        assert!(incoming.accept().await.is_none());
    }

    #[tokio::test]
    async fn a_dropped_writer_resets_its_stream_only() {
        let (client, _server, mut incoming) = pair();
        let mut first = client.open(named("first")).await.unwrap();
        let mut second = client.open(named("second")).await.unwrap();
        drop(incoming.accept().await.unwrap());
        let theirs = incoming.accept().await.unwrap();
        assert_eq!(first.reader.read().await, None);
        theirs.writer.write(Bytes::from_static(b"still here")).await.unwrap();
        assert_eq!(second.reader.read().await.as_deref(), Some(&b"still here"[..]));
    }
}
